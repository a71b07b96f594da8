//! Where a new record goes: into the open region, into that region after it has grown, or into a new one.

use crate::error::Result;

use super::super::super::checks::budget_spent;
use super::super::arena::{Chunk, Residence, no_region};
use super::super::chunk::{Tally, offset};
use super::super::index::Address;
use super::super::record::{Draft, Shape, mark_older};
use super::super::region::{
    LARGE_RECORD_BYTES, Notes, REGION_BYTES, REGION_BYTES_MIN, REGION_OVERHEAD_BYTES, Region, Section,
};
use super::Regions;

/// Where the next record fits.
enum Fit {
    Here(u32),
    /// In this region, grown to this capacity.
    Grown(u32, usize),
    /// In a new region of this capacity; whether it stays open for more records.
    New(usize, bool),
}

impl Regions {
    /// Returns how many more bytes of memory appending a record of `len` bytes would take.
    pub(in crate::backend::log) fn growth_bytes(&self, section: Section, len: usize) -> u64 {
        match self.fit(section, len) {
            Fit::Here(_) => 0,
            Fit::New(capacity, _) => REGION_OVERHEAD_BYTES + self.arena.growth_bytes(capacity),
            Fit::Grown(id, capacity) => {
                let held = self.region(id).capacity();
                self.arena.growth_bytes(capacity).saturating_sub(held as u64)
            }
        }
    }

    fn fit(&self, section: Section, len: usize) -> Fit {
        if len > LARGE_RECORD_BYTES {
            return Fit::New(len, false);
        }
        let run = self.run(section);
        if let Some(id) = run.open {
            let region = self.region(id);
            let (needed, capacity) = (region.len() + len, region.capacity());
            if needed <= capacity {
                return Fit::Here(id);
            }
            let most = self.arena.region_bytes();
            if needed <= most {
                let wanted = needed.max((2 * capacity).min(most));
                return Fit::Grown(id, self.affordable(wanted - capacity, needed - capacity) + capacity);
            }
        }
        // In proportion to the run's bytes, now or at the last seal: few regions, little waste.
        let proportionate = (run.held_bytes / 4).max(run.expected_bytes.saturating_sub(run.held_bytes));
        let proportionate = usize::try_from(proportionate).unwrap_or(REGION_BYTES);
        // Where memory is short, in blocks, which leave no holes behind.
        let least = if self.use_disk() { self.arena.region_bytes() } else { REGION_BYTES_MIN };
        let wanted = proportionate.clamp(least, self.arena.region_bytes()).max(len);
        Fit::New(self.affordable(wanted, REGION_BYTES_MIN.max(len)), true)
    }

    /// Returns `wanted`, or `enough` if the budget has no room for that.
    fn affordable(&self, wanted: usize, enough: usize) -> usize {
        if self.budget().has_room(REGION_OVERHEAD_BYTES + wanted as u64) { wanted } else { enough }
    }

    /// Opens a region of `capacity` bytes at the end of the order. It takes one record, or stays open for more.
    pub(in crate::backend::log) fn open(&mut self, section: Section, capacity: usize, stays_open: bool) -> u32 {
        let id = self.add(section, capacity);
        let run = self.run_mut(section);
        run.order.push_back(id);
        if stays_open {
            run.open = Some(id);
        }
        id
    }

    /// Creates a region outside the order.
    fn add(&mut self, section: Section, capacity: usize) -> u32 {
        let chunk = Chunk::new(capacity, REGION_OVERHEAD_BYTES, &self.arena);
        let residence = if section == Section::Tail { Residence::Tail(chunk) } else { Residence::Open(chunk) };
        let region = Region::new(residence, Notes::new(section));
        self.run_mut(section).enter(&region);
        let id = self.table.add(region);
        if section == Section::Disk {
            self.outgoing.push(id);
        }
        id
    }

    /// Creates a frozen region for `bytes` of records, outside the order until [`Regions::end_joined`].
    pub(in crate::backend::log) fn begin_joined(&mut self, bytes: usize) -> u32 {
        self.add(Section::Frozen, bytes)
    }

    /// Appends a record, given as all its bytes, to a region from [`Regions::begin_joined`].
    pub(in crate::backend::log) fn append_joined(&mut self, id: u32, shape: &Shape, bytes: &[u8]) -> Address {
        self.append_to(Section::Frozen, id, bytes.len(), shape.is_tombstone(), |to| to.copy_from_slice(bytes))
    }

    /// Returns whether a region has room for a record of `len` bytes.
    pub(in crate::backend::log) fn has_room(&self, id: u32, len: usize) -> bool {
        let region = self.region(id);
        region.len() + len <= region.capacity()
    }

    /// Appends a tombstone to a region from [`Regions::begin_joined`] that has room for it.
    pub(in crate::backend::log) fn append_tombstone(&mut self, id: u32, draft: &Draft<'_>) -> Address {
        self.append_to(Section::Frozen, id, draft.len(), true, |to| draft.write(to))
    }

    /// Drops a region from [`Regions::begin_joined`] that nothing points to.
    pub(in crate::backend::log) fn drop_joined(&mut self, id: u32) {
        let region = self.take_out(id);
        self.frozen.leave(&region);
        self.release(id);
    }

    /// Replaces `count` frozen regions by the joined one, or by nothing if none of their records survived.
    pub(in crate::backend::log) fn end_joined(&mut self, at: usize, count: usize, new: Option<u32>) {
        let old: Vec<_> = self.frozen.order.drain(at..at + count).collect();
        old.into_iter().for_each(|id| self.drop_joined(id));
        new.into_iter().for_each(|id| self.frozen.order.insert(at, id));
    }

    /// Appends a record without asking the budget; returns its address.
    pub(in crate::backend::log) fn append(&mut self, section: Section, draft: &Draft<'_>) -> Address {
        self.append_with(section, draft.len(), draft.value.is_none(), |to| draft.write(to))
    }

    /// As [`Regions::append`], for a record without spare bytes, given as all its bytes.
    pub(in crate::backend::log) fn append_copy(&mut self, section: Section, shape: &Shape, bytes: &[u8]) -> Address {
        debug_assert!(shape.is_compact() && bytes.len() == shape.len, "all of a record without spare bytes");
        self.append_with(section, bytes.len(), shape.is_tombstone(), |to| to.copy_from_slice(bytes))
    }

    /// Copies a frozen record without spare bytes to the tail, where it has an older one.
    pub(in crate::backend::log) fn copy_to_tail(&mut self, from: Address, shape: &Shape) -> Address {
        let id = self.region_for(Section::Tail, shape.len);
        let record = from.offset() as usize..from.offset() as usize + shape.len;
        let (copy, at) = self.table.append_copy(id, from.region(), record);
        mark_older(copy);
        self.count_appended(Section::Tail, id, &Tally::one(false, shape.len));
        Address::new(id, offset(at))
    }

    #[inline]
    fn append_with(&mut self, section: Section, len: usize, tombstone: bool, write: impl FnOnce(&mut [u8])) -> Address {
        let id = self.region_for(section, len);
        self.append_to(section, id, len, tombstone, write)
    }

    /// Returns a region that has room for a record of `len` bytes.
    #[inline]
    fn region_for(&mut self, section: Section, len: usize) -> u32 {
        match self.fit(section, len) {
            Fit::Here(id) => id,
            Fit::New(capacity, stays_open) => self.open(section, capacity, stays_open),
            Fit::Grown(id, capacity) => {
                self.grow(section, id, capacity);
                id
            }
        }
    }

    #[inline(never)]
    fn grow(&mut self, section: Section, id: u32, capacity: usize) {
        let before = self.region(id);
        let (held_bytes, small) = (before.held().memory, before.is_small());
        self.table.resize(id, capacity, &self.arena);
        let after = self.region(id);
        let (more, grown_up) = (after.held().memory - held_bytes, small && !after.is_small());
        let run = self.run_mut(section);
        run.held_bytes += more;
        run.small -= u64::from(grown_up);
    }

    /// Appends a record of `len` bytes to a region that has room for it.
    #[inline]
    fn append_to(
        &mut self,
        section: Section,
        id: u32,
        len: usize,
        tombstone: bool,
        write: impl FnOnce(&mut [u8]),
    ) -> Address {
        let (bytes, at) = self.table.append(id, len);
        write(bytes);
        self.count_appended(section, id, &Tally::one(tombstone, len));
        Address::new(id, offset(at))
    }

    /// Counts a record that was appended to a region.
    #[inline]
    fn count_appended(&mut self, section: Section, id: u32, record: &Tally) {
        let Some(notes) = self.table.notes_mut(id) else { no_region() };
        notes.add(record);
        self.run_mut(section).tally.add(record);
    }

    /// Appends a loaded record to the frozen section.
    ///
    /// * `left`: about how many bytes this record and the remaining ones take.
    ///
    /// # Errors
    /// As [`Regions::check_not_full`]; `Limit` if the budget has no room for a region that the record needs.
    #[inline]
    pub(in crate::backend::log) fn load(&mut self, draft: &Draft<'_>, left: &mut usize) -> Result<Address> {
        let len = draft.len();
        let in_open = if !draft.meta.is_chained() { self.append_to_open(draft, len) } else { None };
        let address = match in_open {
            Some(address) => address,
            None => self.load_by_fit(draft, *left)?,
        };
        *left = left.saturating_sub(len);
        Ok(address)
    }

    /// Moves what was loaded to the disk, if memory should be left to others. What was found in memory may lie there then.
    ///
    /// # Errors
    /// As [`Regions::demote_oldest`].
    pub(in crate::backend::log) fn demote_loaded(&mut self) -> Result<()> {
        while self.budget().loads_to_disk() && self.frozen.order.len() > 1 {
            self.demote_oldest()?;
        }
        Ok(())
    }

    /// Appends a record to the open clean region if it fits there: [`Regions::append`] for the common case.
    #[inline]
    fn append_to_open(&mut self, draft: &Draft<'_>, len: usize) -> Option<Address> {
        let id = self.frozen.open?;
        let region = self.region(id);
        if region.len() + len > region.capacity() || len > LARGE_RECORD_BYTES {
            return None;
        }
        Some(self.append_to(Section::Frozen, id, len, draft.value.is_none(), |to| draft.write(to)))
    }

    /// Gives back memory of the open frozen region if records need less than half of it: a load that knew only about how
    /// many bytes would come may have opened it too large.
    pub(in crate::backend::log) fn end_load(&mut self) {
        let Some(id) = self.frozen.open else { return };
        let open = self.region(id);
        let needed = open.len().max(REGION_BYTES_MIN);
        if open.capacity() > 2 * needed {
            let mut region = self.take_out(id);
            self.frozen.leave(&region);
            region.chunk_mut().resize(needed, &self.arena);
            self.frozen.enter(&region);
            self.table.put_back(id, region);
        }
    }

    fn load_by_fit(&mut self, draft: &Draft<'_>, left: usize) -> Result<Address> {
        self.check_not_full()?;
        if draft.meta.is_chained() {
            self.open_at_end(Section::Frozen);
        } else {
            self.demote_loaded()?;
        }
        if !self.budget().has_room(draft.len() as u64) {
            return Err(budget_spent(self.budget()));
        }
        if draft.len() <= LARGE_RECORD_BYTES && !matches!(self.fit(Section::Frozen, draft.len()), Fit::Here(_)) {
            // Past an estimate that was too low, regions grow with the group, so that their number stays low.
            let proportionate = usize::try_from(self.frozen.held_bytes / 4).unwrap_or(REGION_BYTES);
            let wanted = if left < draft.len() { proportionate.max(draft.len()) } else { left };
            self.open(
                Section::Frozen,
                wanted.clamp(REGION_BYTES_MIN, self.arena.region_bytes().max(draft.len())),
                true,
            );
        }
        Ok(self.append(Section::Frozen, draft))
    }

    /// Makes the next record go to the end of the order. Otherwise it may go to an open region before the end: one that
    /// takes survivors of cleaning, or one that a large record's region follows. Required before appending a newer
    /// piece of a value, as pieces must keep their order.
    pub(in crate::backend::log) fn open_at_end(&mut self, section: Section) {
        let run = self.run(section);
        if run.open.is_some() && run.open != run.order.back().copied() {
            // Small, and grown on demand: each large record may be followed by such a region.
            self.open(section, REGION_BYTES_MIN, true);
        }
    }
}
