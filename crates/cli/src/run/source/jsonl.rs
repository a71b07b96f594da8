//! JSON objects, one per line, parsed straight from a [`Tape`]. Numbers keep their source text.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use alluvium::{Error, Result};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::tape::Tape;
use super::{MAX_RECORD_BYTES, Malformed, Position, Rows, Step, TOO_LONG, grown};

/// Records whose columns are assumed to be all columns of the input.
const RECORDS_WITH_ALL_COLUMNS: usize = 100;

/// Records of a JSONL input. A missing column is null, like a `null` one.
#[derive(Debug)]
pub(super) struct JsonlRows {
    tape: Tape,
    /// The current line without its end.
    bytes: Vec<u8>,
    cells: JsonCells,
    /// The line of the current record, from 1.
    line: u64,
    /// As in [`Position`].
    unterminated: bool,
}

/// The wanted cells of a JSON object.
#[derive(Debug)]
pub(super) struct JsonCells {
    wanted: Vec<String>,
    /// The cells, concatenated, and the range of each.
    text: String,
    cells: Vec<Option<(usize, usize)>>,
}

impl JsonCells {
    pub(super) fn new(wanted: &[String]) -> Self {
        Self { wanted: wanted.to_vec(), text: String::new(), cells: vec![None; wanted.len()] }
    }

    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.cells.fill(None);
    }

    /// Returns a cell of the object that was parsed last.
    pub(super) fn get(&self, wanted: usize) -> Option<&[u8]> {
        let (start, end) = (*self.cells.get(wanted)?)?;
        self.text.get(start..end).map(str::as_bytes)
    }

    /// Extracts the wanted cells from a JSON object.
    pub(super) fn parse(&mut self, object: &[u8]) -> Result<(), Malformed> {
        self.clear();
        let raw = Wanted { names: &self.wanted }.deserialize_line(object);
        let raw = raw.map_err(|_| Malformed { column: None, reason: "not a JSON object" })?;
        for (index, cell) in raw.into_iter().enumerate() {
            let Some(raw) = cell else { continue };
            let malformed = |reason| Malformed { column: Some(index), reason };
            let start = self.text.len();
            match raw.get().as_bytes().first() {
                Some(b'{' | b'[') => return Err(malformed("neither text nor a number")),
                Some(b'"') => {
                    let text: Cow<'_, str> =
                        serde_json::from_str(raw.get()).map_err(|_| malformed("not valid text"))?;
                    self.text.push_str(&text);
                }
                _ if raw.get() == "null" => continue,
                _ => self.text.push_str(raw.get()),
            }
            if let Some(cell) = self.cells.get_mut(index) {
                *cell = Some((start, self.text.len()));
            }
        }
        Ok(())
    }
}

/// The outcome of reading a line.
enum Read {
    Line,
    TooLong,
    End,
}

impl JsonlRows {
    /// Checks that the first records have the wanted columns.
    ///
    /// # Errors
    /// `Input` if the input is empty; `Config` if a wanted column is in none of these records.
    pub(super) fn open(mut tape: Tape, wanted: &[String]) -> Result<Self> {
        let head = tape.look_ahead(RECORDS_WITH_ALL_COLUMNS).map_err(super::cannot_read)?;
        if head.is_empty() {
            return Err(Error::input("input is empty"));
        }
        let objects = head.split(|byte| *byte == b'\n').filter_map(|line| Names.deserialize_line(line).ok());
        let names: BTreeSet<String> = objects.flatten().collect();
        // If all of these records are malformed, the columns are unknown and the check is skipped.
        if let Some(unknown) = wanted.iter().find(|name| !names.is_empty() && !names.contains(*name)) {
            return Err(super::unknown_column(unknown, &names.into_iter().collect::<Vec<_>>()));
        }
        Ok(Self { tape, bytes: Vec::new(), cells: JsonCells::new(wanted), line: 0, unterminated: false })
    }

    /// Reads the next line that is not blank.
    fn read_line(&mut self) -> Result<Read> {
        loop {
            self.bytes.clear();
            let mut length = 0;
            let ended = loop {
                let ahead = self.tape.fill().map_err(super::cannot_read)?;
                let end = ahead.iter().position(|byte| *byte == b'\n');
                let taken = ahead.get(..end.unwrap_or(ahead.len())).unwrap_or_default();
                length += taken.len();
                if length <= MAX_RECORD_BYTES {
                    self.bytes.extend_from_slice(taken);
                }
                let (taken, last) = (taken.len(), ahead.is_empty());
                self.tape.consume(taken + usize::from(end.is_some()));
                if end.is_some() || last {
                    break end.is_some();
                }
            };
            let blank = length <= MAX_RECORD_BYTES && self.bytes.trim_ascii().is_empty();
            if blank && !ended {
                return Ok(Read::End);
            }
            (self.line, self.unterminated) = (self.line + 1, !ended);
            if !blank {
                return Ok(if length > MAX_RECORD_BYTES { Read::TooLong } else { Read::Line });
            }
        }
    }

    /// Resumes after a record that had no line end when it was read; only white space and a line end may follow.
    fn finish_line(&mut self, position: &Position) -> Result<()> {
        self.line = position.line;
        loop {
            let next = self.tape.fill().map_err(super::cannot_read)?.first().copied();
            self.unterminated = next.is_none();
            match next {
                None => return Ok(()),
                Some(byte) if !byte.is_ascii_whitespace() => return Err(grown(position.offset)),
                Some(_) => self.tape.consume(1),
            }
            if next == Some(b'\n') {
                return Ok(());
            }
        }
    }
}

impl Rows for JsonlRows {
    fn next(&mut self) -> Result<Step> {
        self.cells.clear();
        Ok(match self.read_line()? {
            Read::End => Step::End,
            Read::TooLong => Step::Malformed(Malformed { column: None, reason: TOO_LONG }),
            Read::Line => self.cells.parse(&self.bytes).map_or_else(Step::Malformed, |()| Step::Row),
        })
    }

    fn cell(&self, wanted: usize) -> Option<&[u8]> {
        self.cells.get(wanted)
    }

    fn line(&self) -> u64 {
        self.line
    }

    fn position(&self) -> Position {
        // A line without a line end is not complete: the position is still on it.
        let line = self.line + u64::from(!self.unterminated);
        let place = Position::new(self.tape.position(), line, self.tape.check());
        Position { unterminated: self.unterminated, ..place }
    }

    fn resume(&mut self, position: &Position) -> Result<()> {
        self.tape.resume(position.offset, &position.check)?;
        (self.line, self.unterminated) = (position.line.saturating_sub(1), false);
        if position.unterminated {
            self.finish_line(position)?;
        }
        Ok(())
    }
}

/// A visitor of the one object in a line.
trait FromLine<'de>: DeserializeSeed<'de> + Sized {
    /// Parses a line as exactly one object.
    fn deserialize_line(self, line: &'de [u8]) -> serde_json::Result<Self::Value> {
        let mut deserializer = serde_json::Deserializer::from_slice(line);
        let value = self.deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(value)
    }
}

/// Extracts the values of the wanted columns; the last value of a repeated name wins.
struct Wanted<'a> {
    names: &'a [String],
}

impl<'de> FromLine<'de> for Wanted<'_> {}

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Vec<Option<&'de RawValue>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Vec<Option<&'de RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut cells = vec![None; self.names.len()];
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            match self.names.iter().position(|wanted| *wanted == name).and_then(|index| cells.get_mut(index)) {
                Some(cell) => *cell = Some(map.next_value()?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(cells)
    }
}

/// Extracts the names of all columns.
struct Names;

impl FromLine<'_> for Names {}

impl<'de> DeserializeSeed<'de> for Names {
    type Value = Vec<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Names {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut names = Vec::new();
        while let Some((name, IgnoredAny)) = map.next_entry()? {
            names.push(name);
        }
        Ok(names)
    }
}
