//! The index of a segment: the key groups, position and hash of each block.

use std::ops::Range;

use super::SegmentRef;
use super::earliest::{self, EarliestTimer};
use super::format::{
    BLOCK_HEADER_BYTES, CHECKSUM_BYTES, HEADER_BYTES, MAX_BLOCK_RAW_BYTES, MAX_BLOCK_ROWS, VERSION, check_header,
    check_version, section,
};
use super::places::{FirstPlaces, Places};
use crate::codec::bytes::{Reader, put_length, put_length_delimited, put_u8, put_u16, put_u32};
use crate::codec::trailer::find_index;
use crate::error::{Error, Result};
use crate::id::{Hash, TableId};
use crate::key_group::{KeyGroup, KeyGroupRange, KeyGroupSet, MAX_KEY_GROUPS};
use crate::row::SegmentKind;
use crate::time::Timestamp;

const RANGE_BYTES: usize = 4;
const ENTRY_BYTES: usize = 3 * 4 + 2 * 2 + 16;
/// The shortest section.
const SECTION_BYTES: usize = 3;

/// An index entry: one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockEntry {
    /// Start, from the segment's start.
    pub offset: u64,
    /// Stored length.
    pub length: u32,
    /// Length of the payload before compression.
    pub raw_bytes: u32,
    /// Number of rows.
    pub rows: u32,
    /// The group of the first row.
    pub first: KeyGroup,
    /// The group of the last row.
    pub last: KeyGroup,
    /// Hash of the stored bytes.
    pub hash: Hash,
}

impl BlockEntry {
    fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.length))
    }
}

/// The index of a segment. Readers read it first and fetch only the blocks they need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentIndex {
    kind: SegmentKind,
    groups: KeyGroupSet,
    blocks: Vec<BlockEntry>,
    sections: Sections,
}

/// The optional sections.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Sections {
    /// Ordered by table and group.
    pub(super) earliest: Option<Vec<EarliestTimer>>,
    pub(super) places: Option<FirstPlaces>,
}

impl SegmentIndex {
    pub(super) const fn new(
        kind: SegmentKind,
        groups: KeyGroupSet,
        blocks: Vec<BlockEntry>,
        sections: Sections,
    ) -> Self {
        Self { kind, groups, blocks, sections }
    }

    /// Returns `Base` or `Delta`.
    #[must_use]
    pub const fn kind(&self) -> SegmentKind {
        self.kind
    }

    /// Returns the groups covered by the segment.
    #[must_use]
    pub const fn groups(&self) -> &KeyGroupSet {
        &self.groups
    }

    /// Returns the blocks, in the order of their bytes and of their groups.
    #[must_use]
    pub fn blocks(&self) -> &[BlockEntry] {
        &self.blocks
    }

    /// Returns the earliest timer put into each table of timers and key group, ordered by table and group. Empty too if
    /// the segment [does not tell](SegmentIndex::tells_timers).
    #[must_use]
    pub fn earliest(&self) -> &[EarliestTimer] {
        self.sections.earliest.as_deref().unwrap_or_default()
    }

    /// Returns whether the segment tells its earliest timers. It does if its writer knew of a table of timers; segments
    /// older than the section do not.
    #[cfg(any(test, feature = "internals"))]
    #[must_use]
    pub fn tells_timers(&self) -> bool {
        self.sections.earliest.is_some()
    }

    /// Returns a lower bound of the timers that the segment puts into `table`, a table of timers, in `group`: the earliest,
    /// or [`Timestamp::MIN`] if the segment does not tell. `None` if it puts none.
    #[must_use]
    pub fn earliest_of(&self, table: TableId, group: KeyGroup) -> Option<Timestamp> {
        if !self.groups.contains(group) {
            return None;
        }
        let Some(timers) = &self.sections.earliest else { return Some(Timestamp::MIN) };
        let at = timers.binary_search_by_key(&(table, group), |timer| (timer.table, timer.group)).ok()?;
        timers.get(at).map(|timer| timer.at)
    }

    /// Returns the number of rows in the segment.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.blocks.iter().map(|block| u64::from(block.rows)).sum()
    }

    /// Returns the bytes of the rows before compression.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.blocks.iter().map(|block| u64::from(block.raw_bytes)).sum()
    }

    /// Returns the end of the blocks, which is the start of the index.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.blocks.last().map_or(HEADER_BYTES as u64, BlockEntry::end)
    }

    /// Returns the blocks that may have rows of `groups`, in order. Costs a search per range of groups.
    pub(crate) fn blocks_of<'a>(&'a self, groups: &'a KeyGroupSet) -> impl Iterator<Item = &'a BlockEntry> {
        let mut left = self.blocks.as_slice();
        let of_range = move |range: &KeyGroupRange| {
            let from = left.partition_point(|block| block.last.0 < range.start);
            let (_, rest) = left.split_at(from);
            let (found, rest) = rest.split_at(rest.partition_point(|block| block.first.0 < range.end));
            // A block that two ranges meet was found for the first.
            left = rest;
            found
        };
        groups.ranges().iter().flat_map(of_range)
    }

    #[cfg(test)]
    pub(super) const fn sections(&self) -> &Sections {
        &self.sections
    }

    /// Returns a reader of the blocks' first places, if the segment has them.
    pub(super) fn first_places(&self) -> Option<Places<'_>> {
        self.sections.places.as_ref().and_then(|places| Places::new(places.content()).ok())
    }

    /// Returns the blocks that may have rows of `key` in `table`, or clears that cover them: the one or few that the first
    /// places name, or all of the group in a segment without them.
    ///
    /// # Errors
    /// None, for an index that was decoded.
    ///
    /// # Cost
    /// A step per block of the segment.
    pub fn blocks_of_key(&self, group: KeyGroup, table: TableId, key: &[u8]) -> Result<Vec<&BlockEntry>> {
        match &self.sections.places {
            Some(places) => places.blocks_of_key(&self.blocks, (group, table, key)),
            None => Ok(self.blocks.iter().filter(|block| block.first <= group && group <= block.last).collect()),
        }
    }

    /// Returns the byte ranges, from the segment's start, with all rows of `groups`. Adjacent blocks make one range.
    #[must_use]
    pub fn blocks_for(&self, groups: &KeyGroupSet) -> Vec<Range<u64>> {
        touching(self.blocks_of(groups), u64::MAX)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_u16(out, VERSION);
        put_u16(out, 0);
        put_u8(out, self.kind as u8);
        put_length(out, self.groups.ranges().len());
        for range in self.groups.ranges() {
            put_u16(out, range.start);
            put_u16(out, range.end);
        }
        put_length(out, self.blocks.len());
        for block in &self.blocks {
            put_u32(out, block.length);
            put_u32(out, block.raw_bytes);
            put_u32(out, block.rows);
            put_u16(out, block.first.0);
            put_u16(out, block.last.0);
            out.extend_from_slice(&block.hash.0);
        }
        self.sections.encode(out);
    }

    /// Returns the index in these bytes, whose hash a [`SegmentRef`] has.
    ///
    /// # Errors
    /// `Corrupt` if the hash differs or the bytes break a rule of the format; `Version` if they are newer than this build.
    pub fn decode(index: &[u8], expected: &Hash) -> Result<Self> {
        let found = Hash::of(index);
        if found != *expected {
            return Err(Error::corrupt("index has another hash").with("expected", expected).with("found", found));
        }
        Self::parse(index)
    }

    /// Finds the index of a whole segment by its trailer, for readers without a manifest.
    ///
    /// # Errors
    /// As [`SegmentIndex::decode`]; also `Corrupt` if the segment is truncated or has extra bytes.
    pub fn find(segment: &[u8], expected: Option<&Hash>) -> Result<Self> {
        let Some((header, _)) = segment.split_at_checked(HEADER_BYTES) else {
            return Err(Error::corrupt("segment is shorter than its header").with("found", segment.len()));
        };
        check_header(header)?;
        let (offset, stored) = find_index(segment)?;
        let index = match expected {
            Some(expected) => Self::decode(stored, expected)?,
            None => Self::parse(stored)?,
        };
        if index.offset() != offset {
            return Err(Error::corrupt("index does not start where its blocks end")
                .with("expected", index.offset())
                .with("found", offset));
        }
        Ok(index)
    }

    fn parse(index: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(index);
        check_version(reader.u16()?, reader.u16()?)?;
        let kind = SegmentKind::from_stored(u32::from(reader.u8()?))?;
        if kind == SegmentKind::Foreign {
            return Err(Error::corrupt("foreign segment has an index"));
        }
        let ranges = reader.count(RANGE_BYTES)?;
        let ranges: Result<Vec<_>> =
            (0..ranges).map(|_| Ok(KeyGroupRange::new(reader.u16()?, reader.u16()?))).collect();
        let groups = KeyGroupSet::from_stored(ranges?, MAX_KEY_GROUPS)?;
        let count = reader.count(ENTRY_BYTES)?;
        let mut blocks: Vec<BlockEntry> = Vec::with_capacity(count);
        for _ in 0..count {
            let block = Self::parse_block(&mut reader, &groups, blocks.last())?;
            blocks.push(block);
        }
        let sections = Sections::decode(&mut reader, &groups, &blocks)?;
        reader.finish()?;
        Ok(Self { kind, groups, blocks, sections })
    }

    fn parse_block(reader: &mut Reader<'_>, groups: &KeyGroupSet, before: Option<&BlockEntry>) -> Result<BlockEntry> {
        let block = BlockEntry {
            offset: before.map_or(HEADER_BYTES as u64, BlockEntry::end),
            length: reader.u32()?,
            raw_bytes: reader.u32()?,
            rows: reader.u32()?,
            first: KeyGroup(reader.u16()?),
            last: KeyGroup(reader.u16()?),
            hash: Hash(reader.array()?),
        };
        let refuse = |message| Err(reader.corrupt(message));
        if (block.length as usize) < BLOCK_HEADER_BYTES + CHECKSUM_BYTES {
            return refuse("block is shorter than its header");
        }
        if block.raw_bytes as usize > MAX_BLOCK_RAW_BYTES || !(1..=MAX_BLOCK_ROWS).contains(&(block.rows as usize)) {
            return refuse("block exceeds the limits of the format");
        }
        let after = before.map_or(KeyGroup(0), |before| before.last);
        if !(after <= block.first && block.first <= block.last) {
            return refuse("groups of the blocks are out of order");
        }
        if !(groups.contains(block.first) && groups.contains(block.last)) {
            return refuse("block has a group that the segment does not cover");
        }
        Ok(block)
    }

    /// Compares a manifest's reference with the segment.
    ///
    /// # Errors
    /// `Corrupt` if they differ.
    pub fn check_ref(&self, reference: &SegmentRef) -> Result<()> {
        let missing = reference.groups.difference(&self.groups);
        if !missing.is_empty() {
            return Err(Error::corrupt("segment does not have all groups of its reference")
                .with("segment", reference.id)
                .with("groups", missing));
        }
        let expected = (reference.kind, reference.index_offset, reference.records, reference.raw_bytes);
        let found = (self.kind, self.offset(), self.records(), self.raw_bytes());
        if expected != found {
            return Err(Error::corrupt("segment differs from its description")
                .with("segment", reference.id)
                .with("expected", format!("{expected:?}"))
                .with("found", format!("{found:?}")));
        }
        Ok(())
    }
}

impl Sections {
    fn encode(&self, out: &mut Vec<u8>) {
        let mut sections = Vec::new();
        if let Some(timers) = &self.earliest {
            let mut content = Vec::new();
            earliest::encode(timers, &mut content);
            sections.push((section::EARLIEST, content));
        }
        if let Some(places) = &self.places {
            sections.push((section::PLACES, places.content().to_vec()));
        }
        put_length(out, sections.len());
        for (id, content) in sections {
            put_u8(out, id);
            put_u8(out, 0);
            put_length_delimited(out, &content);
        }
    }

    /// Reads the sections of a segment with `blocks` that covers `groups`; skips those that later versions add.
    fn decode(reader: &mut Reader<'_>, groups: &KeyGroupSet, blocks: &[BlockEntry]) -> Result<Self> {
        let (mut sections, mut before) = (Self::default(), None);
        for _ in 0..reader.count(SECTION_BYTES)? {
            let (id, flags) = (reader.u8()?, reader.u8()?);
            let content = reader.length_delimited(reader.remaining())?;
            if before.replace(id) >= Some(id) {
                return Err(reader.corrupt("sections are out of order").with("section", id));
            }
            match id {
                _ if flags > section::REQUIRED => return Err(unknown(id)),
                section::EARLIEST => sections.earliest = Some(earliest::decode(content, groups)?),
                section::PLACES => sections.places = Some(FirstPlaces::decode(content, blocks)?),
                _ if flags == section::REQUIRED => return Err(unknown(id)),
                _ => {}
            }
        }
        Ok(sections)
    }
}

fn unknown(section: u8) -> Error {
    Error::version("index needs a section that this build lacks").with("section", section)
}

/// Returns the byte ranges of `blocks`, which are in order. Adjacent blocks make one range of at most `most` bytes, or of
/// one block.
pub(crate) fn touching<'a>(blocks: impl IntoIterator<Item = &'a BlockEntry>, most: u64) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for block in blocks {
        match ranges.last_mut() {
            Some(last) if last.end == block.offset && block.end().saturating_sub(last.start) <= most => {
                last.end = block.end();
            }
            _ => ranges.push(block.offset..block.end()),
        }
    }
    ranges
}
