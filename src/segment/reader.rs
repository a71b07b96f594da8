//! Reads parts of segments: the rows of some groups from the bytes of some blocks.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::block_reader::Block;
use super::format::BlockHeader;
use super::index::{BlockEntry, SegmentIndex};
use super::run::SegmentRun;
use super::sum;
use crate::canary::{self, Canary};
use crate::error::{Error, Result};
use crate::id::Hash;
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::row::span::RowSpans;
use crate::row::{RowBatch, RowKeyBuf, RowSource, Run, SegmentKind, SortedBlocks, SortedRows};

/// The rows of a segment for some groups, over bytes verified against the index.
///
/// Blocks are decoded on demand. The last decoded block is kept, so that reading groups in order decodes each block once.
#[derive(Debug)]
pub struct SegmentRows {
    kind: SegmentKind,
    covered: KeyGroupSet,
    groups: KeyGroupSet,
    blocks: Vec<(BlockEntry, Bytes)>,
    decoded: Mutex<Option<Decoded>>,
}

/// A decoded block, or reusable memory for one.
#[derive(Debug, Default)]
struct Decoded {
    /// Index of the block; `None` if there is only memory.
    at: Option<usize>,
    block: Block,
}

impl SegmentRows {
    /// Returns the rows of `groups`, given ranges of the segment's bytes with their offsets:
    /// [`SegmentIndex::blocks_for`], or more.
    ///
    /// # Errors
    /// `Usage` if the segment does not cover all `groups`; `Corrupt` if a block is missing or its hash differs from the
    /// index.
    pub fn new(index: &SegmentIndex, groups: &KeyGroupSet, ranges: Vec<(u64, Bytes)>) -> Result<Self> {
        Self::of_blocks(index, groups, index.blocks_of(groups), ranges)
    }

    /// Returns the rows of `groups` in `blocks`, in order, which may be some of those that have rows of them.
    ///
    /// # Errors
    /// As [`SegmentRows::new`].
    pub(crate) fn of_blocks<'a>(
        index: &SegmentIndex,
        groups: &KeyGroupSet,
        blocks: impl IntoIterator<Item = &'a BlockEntry>,
        mut ranges: Vec<(u64, Bytes)>,
    ) -> Result<Self> {
        let missing = groups.difference(index.groups());
        if !missing.is_empty() {
            return Err(Error::usage("segment does not have these groups").with("groups", missing));
        }
        ranges.sort_by_key(|(offset, _)| *offset);
        Ok(Self {
            kind: index.kind(),
            covered: index.groups().clone(),
            groups: groups.clone(),
            blocks: verified_blocks(blocks, &ranges)?,
            decoded: Mutex::new(None),
        })
    }

    /// Returns all rows of a whole segment whose index has the hash `expected`.
    ///
    /// # Errors
    /// `Corrupt` if the segment is damaged or a different one; `Version` if it is newer than this build.
    pub fn open(segment: Bytes, expected: &Hash) -> Result<Self> {
        let index = SegmentIndex::find(&segment, Some(expected))?;
        Self::new(&index, index.groups(), vec![(0, segment)])
    }

    /// Compares the checksums of all blocks with their bytes. Their hashes matched before: a reader of rows needs no more.
    ///
    /// # Errors
    /// `Corrupt` if a checksum is wrong.
    pub(crate) fn check_sums(&self) -> Result<()> {
        let check = |(entry, stored): &(BlockEntry, Bytes)| {
            BlockHeader::check(stored).map_err(|error| error.with("block_offset", entry.offset))
        };
        self.blocks.iter().try_for_each(check)
    }

    fn check_opened(&self, group: KeyGroup) -> Result<()> {
        if self.groups.contains(group) {
            return Ok(());
        }
        Err(Error::usage("segment was opened without this group").with("group", group))
    }

    /// Returns the rows of `group` as a run.
    pub(crate) fn run(&self, group: KeyGroup) -> SegmentRun {
        let blocks = self.blocks_of(group).map(|(_, block)| block.clone()).collect();
        SegmentRun::new((self.kind, self.covered.clone()), group, blocks, 0)
    }

    /// Returns the blocks that may have rows of `group`, with their indexes.
    fn blocks_of(&self, group: KeyGroup) -> impl Iterator<Item = (usize, &(BlockEntry, Bytes))> {
        let first = self.blocks.partition_point(|(entry, _)| entry.last < group);
        self.blocks.iter().enumerate().skip(first).take_while(move |(_, (entry, _))| entry.first <= group)
    }

    /// Returns the block `at`, decoding it over the previous block if needed.
    fn block<'a>(
        &self,
        at: usize,
        (entry, stored): &(BlockEntry, Bytes),
        decoded: &'a mut Decoded,
    ) -> Result<&'a Block> {
        if decoded.at != Some(at) {
            decoded.at = None;
            let done = decoded.block.decode(stored, entry, self.kind, &self.covered);
            done.map_err(|error| error.with("block_offset", entry.offset))?;
            decoded.at = Some(at);
        }
        Ok(&decoded.block)
    }

    /// Passes the rows of `group` to `visit`, block by block, until it returns false. Returns whether all were visited.
    fn visit_with(
        &self,
        group: KeyGroup,
        decoded: &mut Decoded,
        mut visit: impl FnMut(RowSpans<'_>) -> Result<bool>,
    ) -> Result<bool> {
        let mut before: Option<RowKeyBuf> = None;
        let several = self.blocks_of(group).nth(1).is_some();
        for (at, block) in self.blocks_of(group) {
            let (entry, _) = block;
            let rows = self.block(at, block, decoded)?.rows_of(group);
            let in_order = match (&before, rows.first()) {
                (Some(before), Some(next)) => next.may_follow(&before.get()),
                _ => true,
            };
            if !in_order {
                return Err(Error::corrupt("blocks are out of order").with("block_offset", entry.offset));
            }
            if let Some(last) = rows.last().filter(|_| several) {
                before.get_or_insert_default().set(&last);
            }
            if !rows.spans.is_empty() && !visit(rows)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// As [`SegmentRows::visit_with`], with the block decoded last if no other thread has it.
    fn visit_blocks(&self, group: KeyGroup, visit: impl FnMut(RowSpans<'_>) -> Result<bool>) -> Result<bool> {
        self.check_opened(group)?;
        // The block is taken out, so a concurrent reader decodes its own. A poisoned lock is harmless: the slot is always
        // replaced whole.
        let slot = || self.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        let mut decoded = slot().take().unwrap_or_default();
        let result = self.visit_with(group, &mut decoded, visit);
        *slot() = Some(decoded);
        result
    }
}

impl RowSource for SegmentRows {
    fn groups(&self) -> &KeyGroupSet {
        &self.groups
    }

    fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        self.visit_blocks(group, |rows| batch.append(&rows).map(|()| true)).map(drop)
    }

    fn held_bytes(&self) -> u64 {
        self.blocks.iter().map(|(entry, _)| u64::from(entry.length)).sum()
    }

    fn sorted_bytes(&self, group: KeyGroup) -> Option<u64> {
        Some(sum(self.blocks_of(group).map(|(_, (entry, _))| u64::from(entry.raw_bytes))))
    }

    fn runs(&self, group: KeyGroup) -> Result<Vec<Run>> {
        self.check_opened(group)?;
        Ok(vec![Run::new(self.run(group))])
    }

    fn sorted_rows(&self, group: KeyGroup) -> Result<Option<Vec<SortedRows<'_>>>> {
        self.check_opened(group)?;
        let (mut rows, mut bytes) = (0, 0);
        for (_, (entry, _)) in self.blocks_of(group) {
            // A block of several groups is assumed to have as many rows of each.
            let groups = usize::from(entry.last.0 - entry.first.0) + 1;
            rows += (entry.rows as usize).div_ceil(groups);
            bytes += (entry.raw_bytes as usize).div_ceil(groups);
        }
        Ok(Some(vec![SortedRows { blocks: self, group, rows, bytes }]))
    }
}

impl SortedBlocks for SegmentRows {
    fn visit(&self, group: KeyGroup, visit: &mut dyn FnMut(RowSpans<'_>) -> Result<bool>) -> Result<bool> {
        self.visit_blocks(group, visit)
    }
}

/// Returns blocks with their bytes, given ranges of the segment's bytes with their offsets, ascending.
///
/// # Errors
/// `Corrupt` if a block is missing or its hash differs from the index.
pub(crate) fn verified_blocks<'a>(
    blocks: impl IntoIterator<Item = &'a BlockEntry>,
    ranges: &[(u64, Bytes)],
) -> Result<Vec<(BlockEntry, Bytes)>> {
    blocks.into_iter().map(|entry| Ok((*entry, verified(entry, ranges)?))).collect()
}

/// Returns the bytes of a block from the ranges, if their hash matches the index.
fn verified(entry: &BlockEntry, ranges: &[(u64, Bytes)]) -> Result<Bytes> {
    let at = ranges.partition_point(|(offset, _)| *offset <= entry.offset);
    let stored = at.checked_sub(1).and_then(|at| ranges.get(at)).and_then(|(offset, bytes)| {
        let start = usize::try_from(entry.offset.checked_sub(*offset)?).ok()?;
        let end = start.checked_add(entry.length as usize)?;
        (end <= bytes.len()).then(|| bytes.slice(start..end))
    });
    let Some(stored) = stored else {
        let error = Error::corrupt("block is not among the bytes that were read");
        return Err(error.with("block_offset", entry.offset).with("length", entry.length));
    };
    let found = Hash::of(&stored);
    if found != entry.hash && !canary::on(Canary::SkipHash) {
        let error = Error::corrupt("block has another hash than the index says").with("block_offset", entry.offset);
        return Err(error.with("expected", entry.hash).with("found", found));
    }
    Ok(stored)
}
