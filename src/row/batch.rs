//! Row batches: the rows of one key group, in one buffer.

use super::fold::{Fold, Rank};
use super::key::RowKey;
use super::op::{Columns, Row};
use super::rules::Rules;
use super::run::{Run, Spill};
use super::shape;
use super::span::{RowSpan, RowSpans};
use crate::error::{Error, Result};
use crate::id::TableId;

/// Rows of one key group, oldest first; in the order of their places after [`RowBatch::fold`].
///
/// Owns its bytes. Reuse one batch from group to group.
#[derive(Debug, Default)]
pub struct RowBatch {
    /// Parts and payloads.
    pub(super) bytes: Vec<u8>,
    pub(super) spans: Vec<RowSpan>,
    /// The optional columns of rows that have any.
    columns: Vec<Columns>,
    pub(super) order: Vec<u32>,
    /// Scratch memory for sorting.
    pub(super) ranks: Vec<Rank>,
    pub(super) spare_ranks: Vec<Rank>,
    /// Runs of earlier rows; `None` if the batch keeps all rows.
    spilled: Option<Spilled>,
}

/// Rows moved out of a batch into sorted runs.
#[derive(Debug)]
struct Spilled {
    /// The batch spills its rows once they take this many bytes.
    limit_bytes: usize,
    spill: Spill,
    /// Oldest first.
    runs: Vec<Run>,
}

impl RowBatch {
    /// Returns an empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Removes all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.spans.clear();
        self.columns.clear();
        self.order.clear();
        self.spilled = None;
    }

    fn clear_rows(&mut self) {
        let spilled = self.spilled.take();
        self.clear();
        self.spilled = spilled;
    }

    /// Spills rows into runs at `limit_bytes`, until the batch is cleared.
    pub(super) fn spill_at(&mut self, limit_bytes: usize, spill: Spill) {
        self.spilled = Some(Spilled { limit_bytes, spill, runs: Vec::new() });
    }

    /// Takes the spilled runs, all older than the rows in the batch.
    pub(super) fn take_spilled(&mut self) -> Vec<Run> {
        self.spilled.take().map(|spilled| spilled.runs).unwrap_or_default()
    }

    /// Spills the rows if they take too many bytes.
    #[inline]
    fn make_room(&mut self) -> Result<()> {
        let bytes = self.bytes.len() + size_of::<RowSpan>() * self.spans.len();
        if self.spilled.as_ref().is_some_and(|spilled| bytes >= spilled.limit_bytes) { self.spill() } else { Ok(()) }
    }

    #[cold]
    fn spill(&mut self) -> Result<()> {
        let Some(Spilled { spill, .. }) = self.spilled else { return Ok(()) };
        let run = self.make_run(spill)?;
        if let Some(spilled) = &mut self.spilled {
            spilled.runs.push(run);
        }
        self.clear_rows();
        Ok(())
    }

    /// Folds the rows as a delta and returns them as a run.
    ///
    /// # Errors
    /// `Limit` if a row is too large for a segment.
    pub(super) fn make_run(&mut self, spill: Spill) -> Result<Run> {
        self.fold(Fold::Delta, &Rules::none())?;
        spill(self)
    }

    /// Returns the number of rows; after a fold, of the rows left.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Returns the bytes of memory taken.
    pub(crate) fn held_bytes(&self) -> u64 {
        (self.bytes.capacity() + self.spans.capacity() * size_of::<RowSpan>()) as u64
    }

    /// Returns whether the batch has no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Appends a row, newer than all rows so far.
    ///
    /// # Errors
    /// `Usage` if the place does not fit the operation; `Limit` if the rows exceed 4 GiB.
    pub fn push(&mut self, row: &Row<'_>) -> Result<()> {
        if !row.key.fits(&row.op) {
            return Err(Error::usage("row has parts that its operation cannot have"));
        }
        self.make_room()?;
        let length = |part: Option<&[u8]>| number(part.map_or(0, <[u8]>::len));
        let payload = row.op.payload();
        let mut span = RowSpan {
            table: row.key.table,
            shape: shape::of(row),
            parts: number(self.bytes.len())?,
            key_length: length(row.key.key)?,
            namespace_length: length(row.key.namespace)?,
            sub_length: length(row.key.sub)?,
            payload_length: length(Some(payload))?,
            columns: self.put_columns(row.columns)?,
            payload: 0,
        };
        for part in [row.key.key, row.key.namespace, row.key.sub].into_iter().flatten() {
            self.bytes.extend_from_slice(part);
        }
        span.payload = number(self.bytes.len())?;
        self.bytes.extend_from_slice(payload);
        number(self.bytes.len())?;
        self.order.push(number(self.spans.len())?);
        self.spans.push(span);
        Ok(())
    }

    /// Appends a put without namespace, sub-key and optional columns, newer than all rows so far.
    ///
    /// * `bytes`: the key, of `key_length` bytes, then the value.
    ///
    /// # Errors
    /// `Limit` as [`RowBatch::push`].
    #[inline]
    pub(crate) fn push_put(&mut self, table: TableId, bytes: &[u8], key_length: usize) -> Result<()> {
        self.make_room()?;
        let parts = number(self.bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        // What ends below 4 GiB begins there.
        let (end, key_length) = (number(self.bytes.len())?, number(key_length)?);
        let payload = parts + key_length;
        let shape = shape::PUT | shape::HAS_KEY | shape::HAS_NAMESPACE | shape::HAS_SUB;
        let payload_length = end - payload;
        self.order.push(number(self.spans.len())?);
        self.spans.push(RowSpan { table, shape, parts, key_length, payload, payload_length, ..RowSpan::default() });
        Ok(())
    }

    /// Appends rows, newer than all rows so far.
    ///
    /// # Errors
    /// `Limit` as [`RowBatch::push`].
    pub(crate) fn append(&mut self, rows: &RowSpans<'_>) -> Result<()> {
        let (Some(first), Some((parts, payloads))) = (rows.spans.first(), rows.bytes()) else { return Ok(()) };
        self.make_room()?;
        let parts_start = number(self.bytes.len())?;
        self.bytes.extend_from_slice(parts);
        let payloads_start = number(self.bytes.len())?;
        self.bytes.extend_from_slice(payloads);
        number(self.bytes.len())?;
        let (start, end) = (number(self.spans.len())?, number(self.spans.len() + rows.spans.len())?);
        self.order.extend(start..end);
        self.spans.extend(rows.spans.iter().map(|span| RowSpan {
            parts: span.parts - first.parts + parts_start,
            payload: span.payload - first.payload + payloads_start,
            ..*span
        }));
        if !rows.columns.is_empty() {
            for span in self.spans.iter_mut().skip(start as usize).filter(|span| span.columns > 0) {
                self.columns.extend(rows.columns.get(span.columns as usize - 1));
                span.columns = number(self.columns.len())?;
            }
        }
        Ok(())
    }

    pub(super) fn put_columns(&mut self, columns: Columns) -> Result<u32> {
        if columns == Columns::default() {
            return Ok(0);
        }
        self.columns.push(columns);
        number(self.columns.len())
    }

    /// Returns all rows that were appended, in that order.
    pub(crate) fn spans(&self) -> RowSpans<'_> {
        RowSpans { spans: &self.spans, parts: &self.bytes, payloads: &self.bytes, columns: &self.columns }
    }

    /// Returns the current order, as indexes of spans.
    pub(crate) fn order(&self) -> &[u32] {
        &self.order
    }

    /// Returns the rows in their current order.
    pub fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        self.order.iter().filter_map(|&at| self.row(at))
    }

    /// Returns the rows in their current order, from index `start`.
    pub(crate) fn iter_from(&self, start: usize) -> impl Iterator<Item = Row<'_>> {
        self.order.iter().skip(start).filter_map(|&at| self.row(at))
    }

    /// Removes the rows before `place` from a folded batch.
    pub(super) fn skip_below(&mut self, place: &RowKey<'_>) {
        let below = self.order.partition_point(|&at| self.place(at).is_some_and(|found| found < *place));
        self.order.drain(..below);
    }

    #[inline]
    pub(super) fn row(&self, at: u32) -> Option<Row<'_>> {
        self.spans.get(at as usize)?.row(&self.bytes, &self.bytes, &self.columns)
    }

    pub(super) fn place(&self, at: u32) -> Option<RowKey<'_>> {
        self.spans.get(at as usize)?.place(&self.bytes)
    }

    /// Replaces the table ids of the rows.
    pub(crate) fn renumber(&mut self, mut number: impl FnMut(TableId) -> TableId) {
        let mut last: Option<(TableId, TableId)> = None;
        for span in &mut self.spans {
            let (_, new) =
                last.filter(|(old, _)| *old == span.table).unwrap_or_else(|| (span.table, number(span.table)));
            last = Some((span.table, new));
            span.table = new;
        }
    }
}

#[inline]
pub(super) fn number(number: usize) -> Result<u32> {
    u32::try_from(number).map_err(|_| Error::limit("rows of one key group exceed 4 GiB: raise max_parallelism"))
}
