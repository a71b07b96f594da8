//! The first places of blocks, an optional section of a segment's index: a reader of one key finds the block or two that
//! may have its rows, and leaves the rest of the key group.

use super::index::BlockEntry;
use crate::codec::bytes::{Reader, put_length, put_length_delimited, put_u8, shared_prefix};
use crate::error::{Error, Result};
use crate::id::TableId;
use crate::key_group::KeyGroup;
use crate::row::span::RowSpan;
use crate::row::{MAX_SORTABLE_BYTES, RowKey, shape, sortable, sortable_prefix};

/// Flag: the segment has clears without a key, which any key's reader needs.
const KEYLESS: u8 = 1;

/// A place for each block that begins within the group in which the block before ends: as sortable bytes, the shortest above
/// the last row before and not above the first row of the block. If both are of one place, as merges may be, that place.
///
/// Kept as stored, each as its difference from the one before: a hostile index has places of gigabytes otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FirstPlaces {
    content: Vec<u8>,
}

/// Collects the section while rows are written.
#[derive(Debug, Default)]
pub(super) struct PlaceNotes {
    places: Vec<u8>,
    keyless: bool,
    /// The last place.
    last: Vec<u8>,
    /// The row before, and scratch memory.
    before: Vec<u8>,
    first: Vec<u8>,
}

impl PlaceNotes {
    /// Notes a row.
    #[inline]
    pub(super) fn note(&mut self, row: &RowSpan) {
        self.keyless |= row.shape & shape::HAS_KEY == 0;
    }

    /// Notes that a block begins with the place `first`, within the group in which the block before ends with `before`.
    pub(super) fn begin_block(&mut self, before: &RowKey<'_>, first: &RowKey<'_>) {
        sortable(before, &mut self.before);
        sortable(first, &mut self.first);
        self.first.truncate(shared_prefix(&self.before, &self.first) + 1);
        let kept = shared_prefix(&self.last, &self.first);
        put_length(&mut self.places, kept);
        put_length_delimited(&mut self.places, self.first.get(kept..).unwrap_or_default());
        std::mem::swap(&mut self.last, &mut self.first);
    }

    /// Returns the section; `None` if no block begins within a group.
    pub(super) fn finish(self) -> Option<FirstPlaces> {
        if self.places.is_empty() {
            return None;
        }
        let mut content = Vec::with_capacity(1 + self.places.len());
        put_u8(&mut content, if self.keyless { KEYLESS } else { 0 });
        content.extend_from_slice(&self.places);
        Some(FirstPlaces { content })
    }
}

impl FirstPlaces {
    pub(super) fn content(&self) -> &[u8] {
        &self.content
    }

    /// Returns the section with this content, of a segment with these blocks.
    ///
    /// # Errors
    /// `Corrupt` if places are missing, too many or out of order; `Version` for an unknown flag.
    pub(super) fn decode(content: &[u8], blocks: &[BlockEntry]) -> Result<Self> {
        let mut places = Places::new(content)?;
        blocks.iter().try_for_each(|block| places.next(block).map(drop))?;
        places.reader.finish()?;
        Ok(Self { content: content.to_vec() })
    }

    /// Returns those of `blocks`, all of the segment, that may have rows of this key, or clears that cover them.
    ///
    /// # Errors
    /// None, for a section that was decoded.
    ///
    /// # Cost
    /// A step per block of the segment.
    pub(super) fn blocks_of_key<'a>(
        &self,
        blocks: &'a [BlockEntry],
        (group, table, key): (KeyGroup, TableId, &[u8]),
    ) -> Result<Vec<&'a BlockEntry>> {
        let mut places = Places::new(&self.content)?;
        let mut wanted = vec![sortable_prefix(table, Some(key))];
        if places.keyless {
            wanted.push(sortable_prefix(table, None));
        }
        let mut found: Vec<(&BlockEntry, Vec<&[u8]>)> = Vec::new();
        for block in blocks {
            let place = places.next(block)?;
            if block.last < group || block.first > group {
                continue;
            }
            // No place if the block begins the group: it begins before all wanted places.
            let place = place.filter(|_| block.first == group);
            if let (Some(place), Some((_, before))) = (place, found.last_mut()) {
                // All rows of the block before are below the place, or at it.
                before.retain(|wanted| place > *wanted);
            }
            let begins_before = |wanted: &&[u8]| place.is_none_or(|place| place < *wanted || place.starts_with(wanted));
            found.push((block, wanted.iter().map(Vec::as_slice).filter(begins_before).collect()));
        }
        Ok(found.into_iter().filter(|(_, wanted)| !wanted.is_empty()).map(|(block, _)| block).collect())
    }
}

/// Reads the places of blocks, in order.
#[derive(Debug)]
pub(super) struct Places<'a> {
    keyless: bool,
    reader: Reader<'a>,
    /// The group in which the block before ends.
    group: Option<KeyGroup>,
    /// The last place, and its group.
    place: Vec<u8>,
    of: Option<KeyGroup>,
}

impl<'a> Places<'a> {
    pub(super) fn new(content: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::new(content);
        let keyless = match reader.u8()? {
            0 => false,
            KEYLESS => true,
            _ => return Err(Error::version("first places have a flag that this build lacks")),
        };
        Ok(Self { keyless, reader, group: None, place: Vec::new(), of: None })
    }

    /// Returns whether the segment has clears without a key.
    pub(super) const fn keyless(&self) -> bool {
        self.keyless
    }

    /// Returns the first place of the next block, if the block begins within a group.
    pub(super) fn next(&mut self, block: &BlockEntry) -> Result<Option<&[u8]>> {
        if self.group.replace(block.last) != Some(block.first) {
            return Ok(None);
        }
        let kept = self.reader.varint_up_to(self.place.len())?;
        let added = self.reader.length_delimited(MAX_SORTABLE_BYTES - kept)?;
        let replaced = self.place.get(kept..).unwrap_or_default();
        let in_order = self.of.replace(block.first) != Some(block.first) || replaced <= added;
        if !in_order || kept + added.len() == 0 {
            return Err(self.reader.corrupt("first places of blocks are out of order"));
        }
        self.place.truncate(kept);
        self.place.extend_from_slice(added);
        Ok(Some(&self.place))
    }
}
