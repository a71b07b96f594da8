//! Regions: pieces of memory that hold records, and the sections of a group's log that they form.
//!
//! ```text
//! disk: oldest region, ..., newest region        cold: on disk, or filled with what goes there
//! frozen: oldest region, ..., newest region      shared with sealed parts, or clean: filled with survivors of cleaning
//! clears, tail: region, ...                      the writes since the last seal
//! ```
//!
//! Invariants:
//! - only tail records change, and each row has at most one live whole value in the tail;
//! - the clears of a tail precede all its rows: the rows they cover are older, and dead if they lay in that tail;
//! - in the order of the regions on disk, the frozen ones, then the tail, a row's newest record comes last, and the older
//!   pieces of its value precede it in their order;
//! - a run's tally is the sum of its regions' tallies, and counts exactly the records that the index and the chains
//!   point at;
//! - memory is charged where it is held: a region that a sealed part still shares stays charged;
//! - an address is that of a record in a region of its group. A violation panics.

use std::collections::VecDeque;
use std::sync::Arc;

use super::arena::{BLOCK_BYTES, Entry, RegionTable, Residence};
use super::chunk::Tally;

/// The most bytes of a region of several records, and so the most that one step of cleaning copies.
pub(super) const REGION_BYTES: usize = BLOCK_BYTES;

/// The initial size of a run's first region: small, so that an idle group costs little.
pub(super) const REGION_BYTES_MIN: usize = 256;

/// Longer records get a region of their own, so that they waste little of a shared one.
pub(super) const LARGE_RECORD_BYTES: usize = REGION_BYTES / 4;

/// What a region costs beyond its bytes.
pub(super) const REGION_OVERHEAD_BYTES: u64 = RegionTable::<Notes>::OVERHEAD_BYTES;

/// A region of a group's log.
pub(super) type Region = Entry<Notes>;

/// What a group notes about a region. Many regions lie on disk, so their notes are short: counts of less than 4 GiB.
#[derive(Debug)]
pub(super) struct Notes {
    pub(super) section: Section,
    /// Whether it ever held an older piece of a value, to which a chain points.
    pub(super) has_older_pieces: bool,
    /// Number of records ever written to it.
    records: u32,
    tally: Tally<u32>,
}

impl Notes {
    pub(super) fn new(section: Section) -> Self {
        Self { section, has_older_pieces: false, records: 0, tally: Tally::default() }
    }

    /// Returns the counts of the records that the index or a chain points at.
    pub(super) fn tally(&self) -> Tally {
        self.tally.widened()
    }

    /// Counts a record that was added.
    #[inline]
    pub(super) fn add(&mut self, record: &Tally) {
        self.records += 1;
        self.recount(&Tally::default(), record);
    }

    /// Counts `new` in place of `old`.
    #[inline]
    pub(super) fn recount(&mut self, old: &Tally, new: &Tally) {
        self.tally.replace(old, new);
    }
}

impl Region {
    pub(super) fn section(&self) -> Section {
        self.notes.section
    }

    /// Returns whether a sealed part shares its memory, so that removing the region would free nothing.
    pub(super) fn is_pinned(&self) -> bool {
        matches!(self.residence(), Residence::Frozen(frozen) if Arc::strong_count(frozen) > 1)
    }

    /// Returns whether it is a candidate for joining.
    pub(super) fn is_small(&self) -> bool {
        self.capacity() < LARGE_RECORD_BYTES
    }

    /// Returns the bytes that it holds, in memory and on disk.
    pub(super) fn held_bytes(&self) -> u64 {
        let held = self.held();
        held.memory + held.disk
    }

    /// Returns whether its records lie on disk.
    pub(super) fn is_on_disk(&self) -> bool {
        matches!(self.residence(), Residence::OnDisk(..))
    }

    /// Returns whether the index or a chain points at every record in it.
    pub(super) fn is_all_referenced(&self) -> bool {
        self.notes.tally().records() == u64::from(self.notes.records)
    }
}

/// The sections of a group's log. Their order in time is disk, frozen, clears, tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    /// The rows written since the last seal: the next delta.
    Tail,
    /// The clears written since the last seal, which precede all rows of the tail.
    Clears,
    /// All sealed regions in memory, and those that the cleaner fills with their survivors.
    Frozen,
    /// The regions on disk, and those that are filled to go there.
    Disk,
}

/// The regions of one section, with their sums.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// The regions, oldest first.
    pub(super) order: VecDeque<u32>,
    /// The region that takes the next record; in the frozen section, a clean one.
    pub(super) open: Option<u32>,
    /// Bytes of memory held by the regions.
    pub(super) held_bytes: u64,
    /// Bytes of disk held by the regions.
    pub(super) disk_bytes: u64,
    pub(super) tally: Tally,
    /// Number of small regions.
    pub(super) small: u64,
    /// Bytes of regions that the cleaner has been paid to go through.
    pub(super) credit: u64,
    /// Bytes of regions that the search for expired records has been paid to go through.
    pub(super) expiry_credit: u64,
    /// Bytes of records in the section at its last freeze: the next part is expected to be as large.
    pub(super) expected_bytes: u64,
}

impl Run {
    /// Adds a region to the sums.
    pub(super) fn enter(&mut self, region: &Region) {
        let held = region.held();
        self.held_bytes += held.memory;
        self.disk_bytes += held.disk;
        self.tally.add(&region.notes.tally());
        self.small += u64::from(region.is_small());
    }

    /// Subtracts a region from the sums.
    pub(super) fn leave(&mut self, region: &Region) {
        let held = region.held();
        self.held_bytes -= held.memory;
        self.disk_bytes -= held.disk;
        self.tally.sub(&region.notes.tally());
        self.small -= u64::from(region.is_small());
    }
}
