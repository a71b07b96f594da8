//! A group's rows, collected, sorted and folded: the one merge that encoding, restoring, materializing and
//! comparing are all made of.

use super::fold::{Fold, Rank};
use super::key::RowKey;
use super::op::{Columns, Row};
use super::rules::Rules;
use super::run::{Run, Spill};
use super::shape;
use super::span::{RowSpan, RowSpans};
use crate::error::{Error, Result};
use crate::id::TableId;

/// Rows of one key group in position order, oldest first; after [`RowBatch::fold`] in key order.
///
/// It owns its bytes and is meant to be reused from group to group.
#[derive(Debug, Default)]
pub struct RowBatch {
    /// Parts and payloads.
    pub(super) bytes: Vec<u8>,
    pub(super) spans: Vec<RowSpan>,
    /// Of rows that have any.
    columns: Vec<Columns>,
    pub(super) order: Vec<u32>,
    /// Reused for sorting.
    pub(super) ranks: Vec<Rank>,
    /// Where rows go that are too many; `None` if they are refused.
    overflow: Option<Overflow>,
}

/// Rows that were too many for a batch.
#[derive(Debug)]
struct Overflow {
    /// They are when they take this many bytes.
    at: usize,
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

    /// Forgets all rows, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.spans.clear();
        self.columns.clear();
        self.order.clear();
        self.overflow = None;
    }

    fn clear_rows(&mut self) {
        let overflow = self.overflow.take();
        self.clear();
        self.overflow = overflow;
    }

    /// From now on, until it is cleared, makes runs of rows that take more than `bytes`.
    pub(super) fn overflow_at(&mut self, bytes: usize, spill: Spill) {
        self.overflow = Some(Overflow { at: bytes, spill, runs: Vec::new() });
    }

    /// Returns the runs that were made, all older than the rows that it has.
    pub(super) fn take_overflow(&mut self) -> Vec<Run> {
        self.overflow.take().map(|overflow| overflow.runs).unwrap_or_default()
    }

    /// Makes a run of its rows if they are too many.
    #[inline]
    fn make_room(&mut self) -> Result<()> {
        let bytes = self.bytes.len() + size_of::<RowSpan>() * self.spans.len();
        if self.overflow.as_ref().is_some_and(|overflow| bytes >= overflow.at) { self.overflow() } else { Ok(()) }
    }

    #[cold]
    fn overflow(&mut self) -> Result<()> {
        let Some(Overflow { spill, .. }) = self.overflow else { return Ok(()) };
        let run = self.make_run(spill)?;
        if let Some(overflow) = &mut self.overflow {
            overflow.runs.push(run);
        }
        self.clear_rows();
        Ok(())
    }

    /// Folds its rows as those of a delta and returns them as a run.
    ///
    /// # Errors
    /// `Limit` if one is too large for a segment.
    pub(super) fn make_run(&mut self, spill: Spill) -> Result<Run> {
        self.fold(Fold::Delta, &Rules::none())?;
        spill(self)
    }

    /// Returns how many rows it has (after a fold: how many remain).
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Returns the bytes of memory that it takes.
    pub(crate) fn held_bytes(&self) -> u64 {
        (self.bytes.capacity() + self.spans.capacity() * size_of::<RowSpan>()) as u64
    }

    /// Returns whether it has no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Appends a row, newer than all before it.
    ///
    /// # Errors
    /// `Usage` if the place does not fit the operation; `Limit` if the group's rows exceed 4 GiB.
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
            key: length(row.key.key)?,
            namespace: length(row.key.namespace)?,
            sub: length(row.key.sub)?,
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

    /// Appends rows, newer than all before them.
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

    /// Returns the rows in their present order.
    pub fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        self.order.iter().filter_map(|&at| self.row(at))
    }

    /// Returns the rows in their present order, from number `start`.
    pub(crate) fn iter_from(&self, start: usize) -> impl Iterator<Item = Row<'_>> {
        self.order.iter().skip(start).filter_map(|&at| self.row(at))
    }

    /// Forgets the rows before `place`, once it is folded.
    pub(super) fn skip_below(&mut self, place: &RowKey<'_>) {
        let below = self.order.partition_point(|&at| self.place(at).is_some_and(|found| found < *place));
        self.order.drain(..below);
    }

    pub(crate) fn last(&self) -> Option<Row<'_>> {
        self.row(*self.order.last()?)
    }

    #[inline]
    pub(super) fn row(&self, at: u32) -> Option<Row<'_>> {
        self.spans.get(at as usize)?.row(&self.bytes, &self.bytes, &self.columns)
    }

    pub(super) fn place(&self, at: u32) -> Option<RowKey<'_>> {
        self.spans.get(at as usize)?.place(&self.bytes)
    }

    /// Gives the tables of the rows other numbers.
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
