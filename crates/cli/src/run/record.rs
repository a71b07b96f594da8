//! Parsed records: an encoded key, a window, and one cell per column that aggregates read.

use alluvium::{CurrentKey, Error, Result};

use super::columns::Value;

/// A parsed record, borrowed from a [`RecordBatch`] or a [`Draft`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'a> {
    /// The encoded key: see [`encode_key`].
    pub(crate) key: &'a [u8],
    /// Start of the record's window, if the program has windows.
    pub(crate) window: Option<i64>,
    text: &'a str,
    cells: &'a [CellRange],
}

/// A cell: its value and its unchanged text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cell<'a> {
    pub(crate) value: Value,
    pub(crate) text: &'a str,
}

impl Cell<'_> {
    /// Returns whether the cell is empty or `NA`.
    pub(crate) fn is_null(&self) -> bool {
        self.value == Value::Null
    }
}

/// A cell whose text is a range of its record's text.
#[derive(Debug, Clone, Copy)]
struct CellRange {
    value: Value,
    start: usize,
    end: usize,
}

impl<'a> Record<'a> {
    /// Returns the cell of a column by index; null if the record has none.
    pub(crate) fn cell(&self, column: usize) -> Cell<'a> {
        let cell = self.cells.get(column).and_then(|cell| {
            let text = self.text.get(cell.start..cell.end)?;
            Some(Cell { value: cell.value, text })
        });
        cell.unwrap_or(Cell { value: Value::Null, text: "" })
    }
}

/// Records with located keys, in flat memory.
#[derive(Debug, Default)]
pub(crate) struct RecordBatch {
    keys: Vec<u8>,
    text: String,
    cells: Vec<CellRange>,
    spans: Vec<Span>,
}

/// The ends of a record's parts; each part starts at the end of the previous record's.
#[derive(Debug, Clone, Copy)]
struct Span {
    located: CurrentKey<'static>,
    window: Option<i64>,
    key_end: usize,
    text_end: usize,
    cells_end: usize,
}

impl RecordBatch {
    /// Removes all records, keeping the memory.
    #[cfg(test)]
    pub(crate) fn clear(&mut self) {
        self.keys.clear();
        self.text.clear();
        self.cells.clear();
        self.spans.clear();
    }

    /// Returns the number of records.
    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Returns the bytes of keys and cells.
    pub(crate) fn bytes(&self) -> usize {
        self.keys.len() + self.text.len() + self.cells.len() * size_of::<CellRange>()
    }

    /// Appends a record with its located key.
    pub(crate) fn push(&mut self, record: Record<'_>, key: &CurrentKey<'_>) {
        self.keys.extend_from_slice(record.key);
        self.text.push_str(record.text);
        self.cells.extend_from_slice(record.cells);
        self.spans.push(Span {
            located: CurrentKey { bytes: &[], ..*key },
            window: record.window,
            key_end: self.keys.len(),
            text_end: self.text.len(),
            cells_end: self.cells.len(),
        });
    }

    /// Returns the records in insertion order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (CurrentKey<'_>, Record<'_>)> {
        let (mut key_start, mut text_start, mut cells_start) = (0, 0, 0);
        self.spans.iter().map(move |span| {
            let key = self.keys.get(key_start..span.key_end).unwrap_or_default();
            let text = self.text.get(text_start..span.text_end).unwrap_or_default();
            let cells = self.cells.get(cells_start..span.cells_end).unwrap_or_default();
            (key_start, text_start, cells_start) = (span.key_end, span.text_end, span.cells_end);
            let located = CurrentKey { bytes: key, ..span.located };
            (located, Record { key, window: span.window, text, cells })
        })
    }
}

/// The record that a source is assembling.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    key: Vec<u8>,
    window: Option<i64>,
    text: String,
    cells: Vec<CellRange>,
}

impl Draft {
    /// Starts a new record.
    pub(crate) fn clear(&mut self) {
        self.key.clear();
        self.window = None;
        self.text.clear();
        self.cells.clear();
    }

    /// Appends a cell of the key, and returns the key's length so far in bytes.
    ///
    /// # Errors
    /// `Usage` if encoding fails, which no text causes.
    pub(crate) fn push_key(&mut self, text: &str) -> Result<usize> {
        encode_key(text, &mut self.key)?;
        Ok(self.key.len())
    }

    /// Sets the window.
    pub(crate) fn set_window(&mut self, start: i64) {
        self.window = Some(start);
    }

    /// Appends the cell of the next column.
    pub(crate) fn push_cell(&mut self, value: Value, text: &str) {
        let start = self.text.len();
        self.text.push_str(text);
        self.cells.push(CellRange { value, start, end: self.text.len() });
    }

    /// Returns the values of the cells, by column.
    pub(crate) fn values(&self) -> impl Iterator<Item = Value> + '_ {
        self.cells.iter().map(|cell| cell.value)
    }

    /// Returns the record.
    pub(crate) fn record(&self) -> Record<'_> {
        Record { key: &self.key, window: self.window, text: &self.text, cells: &self.cells }
    }
}

/// Appends a cell to a key, which is a `postcard` tuple of text.
///
/// # Errors
/// `Usage` if encoding fails, which no text causes.
fn encode_key(cell: &str, out: &mut Vec<u8>) -> Result<()> {
    postcard::to_io(cell, out).map(drop).map_err(|source| Error::usage("key has no encoding").with_source(source))
}

/// Returns the cells of a key of `columns` columns.
///
/// # Errors
/// `Corrupt` if the key has more or fewer cells.
pub(crate) fn decode_key(key: &[u8], columns: usize) -> Result<Vec<&str>> {
    let damaged = || Error::corrupt("stored key does not have the job's key columns");
    let mut rest = key;
    let mut cells = Vec::with_capacity(columns);
    for _ in 0..columns {
        let (cell, tail) = postcard::take_from_bytes(rest).map_err(|source| damaged().with_source(source))?;
        cells.push(cell);
        rest = tail;
    }
    if rest.is_empty() { Ok(cells) } else { Err(damaged()) }
}

#[cfg(test)]
mod tests {
    use alluvium::Partitioner;

    use super::*;

    #[test]
    fn a_batch_returns_the_pushed_records() {
        let mut batch = RecordBatch::default();
        let mut draft = Draft::default();
        for round in 0..2 {
            batch.clear();
            for (key, cell) in [(["a", ""], "1"), (["", "é"], ""), (["NA", "x,y"], "3")] {
                draft.clear();
                for part in key {
                    draft.push_key(part).unwrap();
                }
                draft.push_cell(Value::Text, cell);
                draft.push_cell(Value::Integer(round), "n");
                draft.set_window(7);
                let record = draft.record();
                batch.push(record, &Partitioner::Range { seed: 3 }.locate(record.key, 0, 128));
            }
            let keys: Vec<_> = batch.iter().map(|(_, record)| decode_key(record.key, 2).unwrap()).collect();
            assert_eq!(keys, [["a", ""], ["", "é"], ["NA", "x,y"]]);
            let cells: Vec<_> = batch.iter().map(|(_, record)| record.cell(0).text.to_owned()).collect();
            assert_eq!(cells, ["1", "", "3"]);
            for (key, record) in batch.iter() {
                assert_eq!(key, Partitioner::Range { seed: 3 }.locate(record.key, 0, 128));
                assert_eq!(record.cell(1), Cell { value: Value::Integer(round), text: "n" });
                assert_eq!((record.cell(2).value, record.window), (Value::Null, Some(7)));
            }
            assert_eq!(batch.len(), 3);
            assert!(batch.bytes() > 3 * size_of::<CellRange>());
        }
    }

    #[test]
    fn damaged_keys_are_refused() {
        let mut key = Vec::new();
        encode_key("ab", &mut key).unwrap();
        assert_eq!(decode_key(&key, 1).unwrap(), ["ab"]);
        for (bytes, columns) in [(&key[..], 2), (&key[..], 0), (&key[..2], 1), (&[1, 0xff][..], 1), (&[0xff; 12], 1)] {
            assert!(decode_key(bytes, columns).is_err());
        }
    }
}
