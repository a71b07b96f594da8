//! Writes a segment: sorted rows in, blocks and index out. The writer refuses every row that a reader would refuse.

use std::fmt;

use super::Encoded;
use super::block_writer::{BlockWriter, Compressor};
use super::earliest::TimerNotes;
use super::format::{BLOCK_BYTES, BLOCK_BYTES_AT_GROUP, Compression, HEADER_BYTES, put_header};
use super::index::{BlockEntry, Sections, SegmentIndex};
use super::places::PlaceNotes;
use crate::codec::trailer::put_trailer;
use crate::error::{Error, Result};
use crate::id::{Hash, TableId};
use crate::key_group::{KeyGroup, KeyGroupSet, MAX_KEY_GROUPS};
#[cfg(any(test, feature = "internals"))]
use crate::row::Row;
use crate::row::span::{RowSpan, RowSpans};
use crate::row::{MAX_PART_BYTES, MAX_VALUE_BYTES, RowBatch, RowKeyBuf, SegmentKind, shape};

/// Options of the writer. Equal rows give equal bytes under equal options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Compression of blocks.
    pub codec: Compression,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self { codec: Compression::Zstd { level: 1 } }
    }
}

/// Writes one segment, row by row, ordered by group and then by place.
pub struct SegmentWriter {
    kind: SegmentKind,
    groups: KeyGroupSet,
    segment: Vec<u8>,
    block: BlockWriter,
    blocks: Vec<BlockEntry>,
    compressor: Compressor,
    /// The group of the last row.
    group: Option<KeyGroup>,
    /// The place of the last row of the block before.
    before: RowKeyBuf,
    timers: Option<TimerNotes>,
    places: PlaceNotes,
}

impl fmt::Debug for SegmentWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, groups) = (self.kind, &self.groups);
        f.debug_struct("SegmentWriter").field("kind", &kind).field("groups", groups).finish_non_exhaustive()
    }
}

impl SegmentWriter {
    /// Returns a writer of a `Base` or `Delta` segment that covers `groups`.
    ///
    /// # Errors
    /// `Usage` for a `Foreign` segment, which has no rows, and for groups beyond [`MAX_KEY_GROUPS`].
    pub fn new(kind: SegmentKind, groups: KeyGroupSet, options: EncodeOptions) -> Result<Self> {
        if kind == SegmentKind::Foreign {
            return Err(Error::usage("a foreign segment has no rows to write"));
        }
        if groups.ranges().last().is_some_and(|last| last.end > MAX_KEY_GROUPS) {
            return Err(Error::usage("no job has so many key groups").with("groups", groups));
        }
        let mut segment = Vec::new();
        put_header(&mut segment);
        Ok(Self {
            kind,
            groups,
            segment,
            block: BlockWriter::default(),
            blocks: Vec::new(),
            compressor: Compressor::new(options.codec)?,
            group: None,
            before: RowKeyBuf::default(),
            timers: None,
            places: PlaceNotes::default(),
        })
    }

    /// Makes the segment tell the earliest timers of these tables, which are all that have timers; ascending.
    #[must_use]
    pub fn with_timers(self, tables: Vec<TableId>) -> Self {
        Self { timers: Some(TimerNotes::new(tables)), ..self }
    }

    /// Appends a row of `group`.
    ///
    /// # Errors
    /// `Usage` if the row is out of order, of a group not covered, or its op does not fit its place or the segment's kind.
    /// `Limit` if the row is too large. The segment then remains without the row.
    #[cfg(any(test, feature = "internals"))]
    pub fn push(&mut self, group: KeyGroup, row: &Row<'_>) -> Result<()> {
        let mut batch = RowBatch::new();
        batch.push(row)?;
        self.push_all(group, &batch)
    }

    /// Appends the rows of a folded batch.
    ///
    /// # Errors
    /// `Usage` and `Limit` for a row that a reader would refuse; the rows before it remain. The batch has checked that parts
    /// fit their operations.
    pub(super) fn push_all(&mut self, group: KeyGroup, batch: &RowBatch) -> Result<()> {
        let rows = batch.spans();
        let mut ordered = batch.order().iter().filter_map(|at| rows.spans.get(*at as usize));
        ordered.try_for_each(|row| self.add(group, row, &rows))
    }

    /// Appends one of `rows`. Rows stay spans until they are bytes of a block: copies of a whole `Row` would cost more than
    /// all else that is done here.
    #[inline]
    fn add(&mut self, group: KeyGroup, row: &RowSpan, rows: &RowSpans<'_>) -> Result<()> {
        self.check(group, row)?;
        let within = self.group == Some(group);
        if self.block.counted_bytes() >= if within { BLOCK_BYTES } else { BLOCK_BYTES_AT_GROUP } {
            self.end_block()?;
        }
        if self.block.is_empty() && within {
            self.begin_block(row, rows)?;
        }
        if !self.block.push(group, row, rows) {
            return Err(out_of_order(group));
        }
        self.places.note(row);
        if let Some(timers) = &mut self.timers
            && let Some(row) = rows.row(row)
        {
            timers.note(group, &row);
        }
        self.group = Some(group);
        Ok(())
    }

    #[inline]
    fn check(&self, group: KeyGroup, row: &RowSpan) -> Result<()> {
        if self.kind == SegmentKind::Base && !matches!(row.op(), shape::PUT | shape::MERGE) {
            return Err(Error::usage("a base has no deletes and no clears"));
        }
        if self.group != Some(group) && (self.group > Some(group) || !self.groups.contains(group)) {
            return Err(out_of_order(group));
        }
        let longest = row.key_length.max(row.namespace_length).max(row.sub_length) as usize;
        if longest > MAX_PART_BYTES {
            let error = Error::limit("key, namespace or sub-key is too long");
            return Err(error.with("bytes", longest).with("limit", MAX_PART_BYTES));
        }
        let value_bytes = row.payload_length as usize;
        if value_bytes > MAX_VALUE_BYTES {
            return Err(Error::limit("value is too long").with("bytes", value_bytes).with("limit", MAX_VALUE_BYTES));
        }
        Ok(())
    }

    /// Notes where a block begins within a group.
    fn begin_block(&mut self, row: &RowSpan, rows: &RowSpans<'_>) -> Result<()> {
        let before = self.before.get();
        let Some(row) = rows.row(row).filter(|row| row.may_follow(&before)) else {
            return Err(out_of_order(self.group.unwrap_or_default()));
        };
        self.places.begin_block(&before, &row.key);
        Ok(())
    }

    fn end_block(&mut self) -> Result<()> {
        self.before.set(&self.block.last());
        self.blocks.push(self.block.finish(&mut self.compressor, &mut self.segment)?);
        Ok(())
    }

    /// Ends the block if it would end before a row of another group, and returns the bytes of all blocks.
    pub(super) fn end_group(&mut self) -> Result<u64> {
        if self.block.counted_bytes() >= BLOCK_BYTES_AT_GROUP {
            self.end_block()?;
        }
        Ok((self.segment.len() - HEADER_BYTES) as u64)
    }

    /// Returns the segment, covering only `groups`, which include the groups of all its rows.
    pub(super) fn finish_for(self, groups: KeyGroupSet) -> Result<Encoded> {
        Self { groups, ..self }.finish()
    }

    /// Returns the segment.
    ///
    /// # Errors
    /// `Limit` if its index exceeds 4 GiB.
    pub fn finish(mut self) -> Result<Encoded> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        let sections = Sections { earliest: self.timers.map(TimerNotes::finish), places: self.places.finish() };
        let index = SegmentIndex::new(self.kind, self.groups, self.blocks, sections);
        let mut bytes = self.segment;
        let start = bytes.len();
        index.encode(&mut bytes);
        let index_hash = Hash::of(bytes.get(start..).unwrap_or_default());
        let index_length = put_trailer(&mut bytes, start, start as u64)?;
        Ok(Encoded {
            kind: index.kind(),
            groups: index.groups().clone(),
            bytes: bytes.into(),
            index_offset: start as u64,
            index_length,
            index_hash,
            records: index.records(),
            raw_bytes: index.raw_bytes(),
        })
    }
}

#[cold]
fn out_of_order(group: KeyGroup) -> Error {
    Error::usage("row is out of order or of a group that the segment does not cover").with("group", group)
}
