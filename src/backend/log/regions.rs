//! All regions of a group: lookup by address, changes of tail records, freezing, and removal.

mod append;

use std::sync::Arc;

use crate::error::{Error, Result, broken};
use crate::memory::MemoryBudget;
use crate::time::Timestamp;

use super::arena::{Arena, Frozen, RegionTable, no_region, prefetch, prefetch_lines};
use super::chunk::{Tally, record_in};
use super::fetch::Fetched;
use super::index::{Address, REGIONS_MAX};
use super::join::JoinProgress;
use super::record::{Record, Shape, extend, mark_dead, rewrite};
use super::region::{Notes, Region, Run, Section};

/// Regions reserved for the cleaner: a group refuses writes once it has only these left.
const RESERVED_REGIONS: usize = 1024;

/// All regions of a group.
#[derive(Debug)]
pub(super) struct Regions {
    table: RegionTable<Notes>,
    tail: Run,
    clears: Run,
    frozen: Run,
    disk: Run,
    /// Regions in memory that are meant for the disk. May have others, which are then skipped.
    outgoing: Vec<u32>,
    /// The slot to search next for expired records.
    expiry_next: u32,
    pub(super) joining: JoinProgress,
    arena: Arena,
}

impl Regions {
    pub(super) fn new(arena: &Arena) -> Self {
        let [tail, clears, frozen, disk] = Default::default();
        Self {
            table: RegionTable::new(),
            tail,
            clears,
            frozen,
            disk,
            outgoing: Vec::new(),
            expiry_next: 0,
            joining: JoinProgress::default(),
            arena: arena.clone(),
        }
    }

    pub(super) fn budget(&self) -> &MemoryBudget {
        self.arena.budget()
    }

    /// Returns the most bytes of a region of several records.
    pub(super) fn region_bytes(&self) -> usize {
        self.arena.region_bytes()
    }

    pub(super) fn run(&self, section: Section) -> &Run {
        match section {
            Section::Tail => &self.tail,
            Section::Clears => &self.clears,
            Section::Frozen => &self.frozen,
            Section::Disk => &self.disk,
        }
    }

    pub(super) fn run_mut(&mut self, section: Section) -> &mut Run {
        match section {
            Section::Tail => &mut self.tail,
            Section::Clears => &mut self.clears,
            Section::Frozen => &mut self.frozen,
            Section::Disk => &mut self.disk,
        }
    }

    /// Returns the region with this number, unless there is none in the log.
    #[inline]
    pub(super) fn get(&self, id: u32) -> Option<&Region> {
        self.table.get(id)
    }

    /// Returns a region that is in the log.
    #[inline]
    pub(super) fn region(&self, id: u32) -> &Region {
        region_in(&self.table, id)
    }

    /// Returns the region with this number if there is one and it was sealed.
    pub(super) fn sealed_at(&self, id: u32) -> Option<&Region> {
        self.table.get(id).filter(|region| matches!(region.section(), Section::Frozen | Section::Disk))
    }

    /// Takes a region out of the log.
    fn take_out(&mut self, id: u32) -> Region {
        self.table.take(id).unwrap_or_else(|| no_region())
    }

    /// Returns a record, from memory or from what was fetched.
    #[inline]
    pub(super) fn record<'a>(&'a self, address: Address, fetched: &'a Fetched) -> Record<'a> {
        record_in(self.bytes(address, fetched))
    }

    /// Returns the bytes from a record on; `None` if they lie on disk.
    #[inline(always)]
    pub(super) fn bytes_in_memory(&self, address: Address) -> Option<&[u8]> {
        self.table.bytes(address.region(), address.offset())
    }

    /// Reads the bytes from a record on, which lies on disk: at least `len`, if its region has as many.
    pub(super) fn read_from(&self, address: Address, len: usize, bytes: &mut Vec<u8>) -> Result<()> {
        self.table.read_from(address.region(), address.offset(), len, bytes)
    }

    /// Prefetches the first `length` bytes of a record: from memory, as far as a few cache lines reach, or from the disk.
    #[inline]
    pub(super) fn prefetch(&self, address: Address, length: usize) {
        match self.bytes_in_memory(address) {
            Some(bytes) => prefetch_lines(bytes, length),
            None => self.table.will_read(address.region(), address.offset(), length),
        }
    }

    /// Returns the mutable value of a tail record with this shape if its metadata is plain.
    #[inline]
    pub(super) fn plain_tail_value(&mut self, address: Address, shape: &Shape) -> Option<&mut [u8]> {
        if shape.is_plain() { shape.value_mut(self.tail_bytes(address)?) } else { None }
    }

    /// Returns the section that a record lies in.
    #[inline]
    pub(super) fn section(&self, address: Address) -> Section {
        self.region(address.region()).section()
    }

    /// Returns `Limit` once region numbers run out, keeping some in reserve for the cleaner.
    pub(super) fn check_not_full(&self) -> Result<()> {
        if self.table.issued() < REGIONS_MAX - RESERVED_REGIONS || self.table.free() > 0 {
            return Ok(());
        }
        Err(Error::limit("key group is too large for this backend: raise max_parallelism")
            .with("regions", self.table.issued()))
    }

    /// Overwrites the value of a tail record with one of at most its capacity; `None` makes the record a tombstone.
    pub(super) fn rewrite(&mut self, address: Address, shape: &Shape, value: Option<&[u8]>, stamp: Option<Timestamp>) {
        match self.tail_bytes(address) {
            Some(bytes) => rewrite(bytes, shape, value, stamp),
            None => no_tail_record(),
        }
        let (old, new) = (shape.is_tombstone(), value.is_none());
        if old != new {
            self.recount(address, &Tally::one(old, shape.len), &Tally::one(new, shape.len));
        }
    }

    /// Appends `more` to the value of a tail record that has room for it.
    pub(super) fn extend(&mut self, address: Address, shape: &Shape, more: &[u8]) {
        match self.tail_bytes(address) {
            Some(bytes) => extend(bytes, shape, more),
            None => no_tail_record(),
        }
    }

    /// Stops counting a record that the index or a chain no longer points at; a tail record also becomes dead.
    pub(super) fn supersede(&mut self, address: Address, shape: &Shape) {
        if let Some(bytes) = self.tail_bytes(address) {
            mark_dead(bytes);
        }
        self.recount(address, &Tally::one(shape.is_tombstone(), shape.len), &Tally::default());
    }

    /// Returns the mutable bytes from a record on, `None` if the record lies outside the tail.
    #[inline(always)]
    pub(super) fn tail_bytes(&mut self, address: Address) -> Option<&mut [u8]> {
        self.table.tail_bytes(address.region(), address.offset())
    }

    /// Replaces a record's share of the tallies. A record whose region was taken out has none.
    fn recount(&mut self, address: Address, old: &Tally, new: &Tally) {
        let id = address.region();
        if self.table.is_out(id) {
            return;
        }
        let Some(notes) = self.table.notes_mut(id) else { no_region() };
        notes.recount(old, new);
        let section = self.region(id).section();
        self.run_mut(section).tally.replace(old, new);
    }

    /// Freezes the tail and its clears, and passes each region to `visit`. Drops a region if nothing
    /// points at any of its records.
    pub(super) fn freeze(&mut self, mut visit: impl FnMut(Arc<Frozen>)) {
        let expected_bytes = self.tail.tally.bytes();
        for section in [Section::Clears, Section::Tail] {
            while let Some(id) = self.run_mut(section).order.pop_front() {
                let Some(region) = self.table.get(id) else { no_region() };
                if region.notes.tally().records() == 0 {
                    self.take_out(id);
                    self.release(id);
                    continue;
                }
                self.frozen.order.push_back(id);
                self.frozen.enter(region);
                visit(self.table.freeze(id));
                self.table.notes_mut(id).into_iter().for_each(|notes| notes.section = Section::Frozen);
            }
            let run = self.run_mut(section);
            *run = Run { order: std::mem::take(&mut run.order), ..Run::default() };
        }
        self.tail.expected_bytes = expected_bytes;
    }

    /// Prefetches what [`Regions::freeze`] touches first.
    pub(super) fn prefetch_tail(&self) {
        self.tail.open.into_iter().for_each(|id| self.table.prefetch(id));
        self.tail.order.front().into_iter().for_each(prefetch);
        self.frozen.order.back().into_iter().for_each(prefetch);
    }

    /// Passes all frozen regions to `visit`, those on disk too, oldest first, and closes the open ones: shared regions never
    /// change.
    pub(super) fn share(&mut self, mut visit: impl FnMut(Arc<Frozen>)) {
        (self.frozen.open, self.disk.open) = (None, None);
        for &id in self.disk.order.iter().chain(&self.frozen.order) {
            visit(self.table.freeze(id));
        }
    }

    /// Takes the oldest region out of its section. Its number stays reserved until [`Regions::release`].
    pub(super) fn take_oldest(&mut self, section: Section) -> Option<(u32, Region)> {
        let id = self.run_mut(section).order.pop_front()?;
        self.close(section, id);
        let region = self.take_out(id);
        self.run_mut(section).leave(&region);
        Some((id, region))
    }

    /// Moves the oldest frozen region to the disk as it is.
    ///
    /// # Errors
    /// As [`DiskTier::write`](crate::memory::DiskTier): then it stays where it is.
    pub(super) fn demote_oldest(&mut self) -> Result<()> {
        let Some(&id) = self.frozen.order.front() else { return Ok(()) };
        self.close(Section::Frozen, id);
        self.frozen.leave(region_in(&self.table, id));
        if let Err(error) = self.move_to_disk(id) {
            self.frozen.enter(region_in(&self.table, id));
            return Err(error);
        }
        self.table.notes_mut(id).into_iter().for_each(|notes| notes.section = Section::Disk);
        self.frozen.order.pop_front();
        self.disk.order.push_back(id);
        self.disk.enter(region_in(&self.table, id));
        Ok(())
    }

    /// Writes to the disk what is meant for it, but for the region that is being filled. What the disk refuses waits in
    /// memory.
    pub(super) fn write_outgoing(&mut self) {
        if self.outgoing.is_empty() {
            return;
        }
        let open = self.disk.open;
        for id in std::mem::take(&mut self.outgoing) {
            let waits = |region: &Region| region.section() == Section::Disk && !region.is_on_disk();
            if !self.table.get(id).is_some_and(waits) {
                continue;
            }
            if open == Some(id) || self.write_one(id).is_err() {
                self.outgoing.push(id);
            }
        }
    }

    fn write_one(&mut self, id: u32) -> Result<()> {
        self.disk.leave(region_in(&self.table, id));
        let written = self.move_to_disk(id);
        self.disk.enter(region_in(&self.table, id));
        written
    }

    fn move_to_disk(&mut self, id: u32) -> Result<()> {
        let Self { table, arena, .. } = self;
        let budget = arena.budget();
        let Some(disk) = budget.disk() else { broken("a region goes to the disk where there is one") };
        table.demote(id, disk, budget)
    }

    /// Returns how many region numbers were ever issued, and how many are free.
    #[cfg(test)]
    pub(super) fn ids(&self) -> (usize, usize) {
        (self.table.issued(), self.table.free())
    }

    /// Returns how many region numbers were ever issued.
    pub(super) fn issued(&self) -> usize {
        self.table.issued()
    }

    /// Returns the slot to search next for expired records, round-robin.
    pub(super) fn next_to_expire(&mut self) -> u32 {
        let next = self.expiry_next;
        self.expiry_next = if (next as usize) + 1 < self.table.issued() { next + 1 } else { 0 };
        next
    }

    /// Makes `slot` the next one to search for expired records.
    pub(super) fn retry_expiry(&mut self, slot: u32) {
        self.expiry_next = slot;
    }

    /// Notes that a chain points at the record.
    pub(super) fn note_older_piece(&mut self, address: Address) {
        match self.table.notes_mut(address.region()) {
            Some(notes) => notes.has_older_pieces = true,
            None => no_region(),
        }
    }

    /// Closes a region to further records.
    pub(super) fn close(&mut self, section: Section, id: u32) {
        let run = self.run_mut(section);
        run.open = run.open.filter(|open| *open != id);
    }

    /// Frees the number of a region that was taken out.
    pub(super) fn release(&mut self, id: u32) {
        self.table.release(id);
    }
}

fn region_in(table: &RegionTable<Notes>, id: u32) -> &Region {
    table.get(id).unwrap_or_else(|| no_region())
}

#[cold]
fn no_tail_record() -> ! {
    broken("a changed record lies in the tail")
}
