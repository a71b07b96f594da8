//! Records in regions, given as all their bytes. Tallies: counts of the records in regions.

use std::ops::Range;

use super::arena::{LINE_BYTES, prefetch};
use super::record::{Record, Shape};
use crate::error::broken;

/// Bytes to prefetch ahead of a sequential pass.
const READ_AHEAD_BYTES: usize = 1024;

/// Returns the bytes of a region from a record on.
#[inline]
pub(super) fn bytes_from(region: &[u8], offset: u32) -> &[u8] {
    match region.get(offset as usize..) {
        Some(bytes) => bytes,
        None => no_record(),
    }
}

/// Returns the bytes of a region's record with this shape.
pub(super) fn bytes_of<'a>(region: &'a [u8], offset: u32, shape: &Shape) -> &'a [u8] {
    match bytes_from(region, offset).get(..shape.len) {
        Some(bytes) => bytes,
        None => no_record(),
    }
}

/// Returns all records of a region with their offsets, dead ones included, in the order in which they were written.
pub(super) fn records(region: &[u8]) -> impl Iterator<Item = (u32, Record<'_>)> {
    let mut next = 0;
    std::iter::from_fn(move || {
        if next == region.len() {
            return None;
        }
        let (start, record) = (next, record_in(bytes_from(region, offset(next))));
        next += record.shape.len;
        read_ahead(region, start..next);
        Some((offset(start), record))
    })
}

/// Prefetches the bytes of a region a little behind those that a sequential pass has come to.
#[inline]
pub(super) fn read_ahead(region: &[u8], read: Range<usize>) {
    let end = region.len().min(read.end + READ_AHEAD_BYTES);
    let ahead = region.get(read.start + READ_AHEAD_BYTES..end);
    ahead.into_iter().flat_map(|bytes| bytes.iter().step_by(LINE_BYTES)).for_each(prefetch);
}

/// Returns the record at the front of `bytes`.
#[inline]
pub(super) fn record_in(bytes: &[u8]) -> Record<'_> {
    match Record::parse(bytes) {
        Some(record) => record,
        None => no_record(),
    }
}

/// Converts an offset in a region.
#[inline]
pub(super) fn offset(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or_else(|_| broken("a region is shorter than 4 GiB"))
}

#[cold]
pub(super) fn no_record() -> ! {
    broken("a record lies where its address says")
}

/// Returns `count - gone`; panics if that is negative, as only what was counted can go.
#[inline]
pub(super) fn subtract(count: u64, gone: u64) -> u64 {
    match count.checked_sub(gone) {
        Some(rest) => rest,
        None => broken("removed records were counted"),
    }
}

/// Counts of records that the index and the chains point at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tally<Count = u64> {
    pub(super) puts: Count,
    pub(super) put_bytes: Count,
    pub(super) tombstones: Count,
    pub(super) tombstone_bytes: Count,
}

impl<Count: Copy + Into<u64> + TryFrom<u64>> Tally<Count> {
    /// Counts `new` in place of `old`.
    ///
    /// Each count is read and written as one word, which the checks ensure: a wide read of two counts that were just written
    /// one by one waits until both writes have reached the cache, behind all writes before them that miss it.
    #[inline]
    pub(super) fn replace(&mut self, old: &Tally, new: &Tally) {
        let changed = |count: Count, old: u64, new: u64| {
            let sum = count.into().checked_add(new).unwrap_or_else(|| too_many());
            Count::try_from(subtract(sum, old)).unwrap_or_else(|_| too_many())
        };
        self.puts = changed(self.puts, old.puts, new.puts);
        self.put_bytes = changed(self.put_bytes, old.put_bytes, new.put_bytes);
        self.tombstones = changed(self.tombstones, old.tombstones, new.tombstones);
        self.tombstone_bytes = changed(self.tombstone_bytes, old.tombstone_bytes, new.tombstone_bytes);
    }

    /// Returns the same counts as words.
    pub(super) fn widened(self) -> Tally {
        let Self { puts, put_bytes, tombstones, tombstone_bytes } = self;
        let [puts, put_bytes, tombstones, tombstone_bytes] =
            [puts, put_bytes, tombstones, tombstone_bytes].map(Into::into);
        Tally { puts, put_bytes, tombstones, tombstone_bytes }
    }
}

impl Tally {
    pub(super) fn one(tombstone: bool, bytes: usize) -> Self {
        let bytes = bytes as u64;
        match tombstone {
            true => Self { tombstones: 1, tombstone_bytes: bytes, ..Self::default() },
            false => Self { puts: 1, put_bytes: bytes, ..Self::default() },
        }
    }

    #[inline]
    pub(super) fn add(&mut self, other: &Self) {
        self.replace(&Self::default(), other);
    }

    #[inline]
    pub(super) fn sub(&mut self, other: &Self) {
        self.replace(other, &Self::default());
    }

    /// Returns the number of records.
    pub(super) fn records(&self) -> u64 {
        self.puts + self.tombstones
    }

    /// Returns the bytes of the records.
    pub(super) fn bytes(&self) -> u64 {
        self.put_bytes + self.tombstone_bytes
    }
}

#[cold]
fn too_many() -> ! {
    broken("a count of records fits its word")
}
