//! Sorted runs of segments: the rows of one key group, decoded block by block.

use std::collections::VecDeque;

use bytes::Bytes;

use super::block_reader::Block;
use super::index::BlockEntry;
use super::reader::SegmentRows;
use super::writer::{EncodeOptions, SegmentWriter};
use crate::error::{Error, Result};
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::row::span::RowSpans;
use crate::row::{RowBatch, RowKey, RowKeyBuf, Run, SegmentKind, SortedRun, Spare};

/// The rows of one key group in one segment, over bytes verified against its index.
#[derive(Debug)]
pub(crate) struct SegmentRun {
    kind: SegmentKind,
    covered: KeyGroupSet,
    group: KeyGroup,
    /// Blocks not decoded yet.
    blocks: VecDeque<(BlockEntry, Bytes)>,
    /// Number of blocks not added yet.
    missing: usize,
    decoded: VecDeque<Decoded>,
    /// The place of the last decoded row.
    last: Option<RowKeyBuf>,
}

#[derive(Debug)]
struct Decoded {
    block: Box<Block>,
    raw_bytes: usize,
    /// Number of the group's rows already taken.
    taken: usize,
}

impl SegmentRun {
    /// Returns a run of these blocks; the caller [adds](SegmentRun::extend) `missing` more.
    pub(crate) fn new(
        (kind, covered): (SegmentKind, KeyGroupSet),
        group: KeyGroup,
        blocks: VecDeque<(BlockEntry, Bytes)>,
        missing: usize,
    ) -> Self {
        Self { kind, covered, group, blocks, missing, decoded: VecDeque::new(), last: None }
    }

    /// Adds missing blocks, in order.
    pub(crate) fn extend(&mut self, blocks: impl IntoIterator<Item = (BlockEntry, Bytes)>) {
        let before = self.blocks.len();
        self.blocks.extend(blocks);
        self.missing = self.missing.saturating_sub(self.blocks.len() - before);
    }

    /// Returns the stored bytes of the blocks at hand, not decoded yet.
    pub(crate) fn waiting_bytes(&self) -> u64 {
        self.blocks.iter().map(|(entry, _)| u64::from(entry.length)).sum()
    }
}

impl SortedRun for SegmentRun {
    fn is_decoded(&self) -> bool {
        self.blocks.is_empty() && self.missing == 0
    }

    fn decoded_bytes(&self) -> usize {
        self.decoded.iter().map(|decoded| decoded.raw_bytes).sum()
    }

    fn last(&self) -> Option<RowKey<'_>> {
        self.last.as_ref().map(RowKeyBuf::get)
    }

    fn first(&self) -> Option<RowKey<'_>> {
        self.decoded.iter().find_map(|decoded| Some(decoded.rows(self.group).first()?.key))
    }

    fn decode(&mut self, spare: &mut Spare) -> Result<bool> {
        let Some((entry, stored)) = self.blocks.pop_front() else { return Ok(false) };
        let mut block: Box<Block> = spare.take();
        block
            .decode(&stored, &entry, self.kind, &self.covered)
            .map_err(|error| error.with("block_offset", entry.offset))?;
        let decoded = Decoded { block, raw_bytes: entry.raw_bytes as usize, taken: 0 };
        let rows = decoded.rows(self.group);
        if let (Some(last), Some(next)) = (self.last(), rows.first())
            && !next.may_follow(&last)
        {
            return Err(Error::corrupt("blocks are out of order").with("block_offset", entry.offset));
        }
        match rows.last() {
            Some(last) => {
                self.last.get_or_insert_default().set(&last);
                self.decoded.push_back(decoded);
            }
            // The block has rows of neighbouring groups only.
            None => spare.give(decoded.block),
        }
        Ok(true)
    }

    fn take_below(&mut self, bound: Option<&RowKey<'_>>, batch: &mut RowBatch, spare: &mut Spare) -> Result<()> {
        while let Some(decoded) = self.decoded.front_mut() {
            let rows = decoded.rows(self.group);
            let all = rows.spans.len();
            let below = bound.map_or(all, |bound| rows.count_below(bound));
            batch.append(&rows.take(below))?;
            if below < all {
                decoded.taken += below;
                break;
            }
            self.decoded.pop_front().into_iter().for_each(|decoded| spare.give(decoded.block));
        }
        Ok(())
    }
}

impl Decoded {
    /// Returns the rows of `group` not yet taken.
    fn rows(&self, group: KeyGroup) -> RowSpans<'_> {
        self.block.rows_of(group).skip(self.taken)
    }
}

/// Returns the rows of a folded batch as a run, compressed.
pub(super) fn spill(batch: &RowBatch) -> Result<Run> {
    // A batch does not know its group, and a run has one group: any number will do.
    let group = KeyGroup(0);
    let groups = std::iter::once(group).collect();
    let mut writer = SegmentWriter::new(SegmentKind::Delta, groups, EncodeOptions::default())?;
    writer.push_all(group, batch)?;
    let encoded = writer.finish()?;
    Ok(Run::new(SegmentRows::open(encoded.bytes, &encoded.index_hash)?.run(group)))
}
