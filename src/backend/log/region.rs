//! Regions: the memory of a group's log, and the order that they were written in.
//!
//! ```text
//! frozen: oldest region, ..., newest region      shared with sealed parts, or clean: filled with survivors
//! clears, tail: region, ...                      what was written since the last seal
//! ```
//!
//! Invariants:
//! - only tail records change, and each row has at most one whole value in the tail that is not dead;
//! - the clears of a tail stand before all its rows: what they cover is older, and dead if it lay in that tail;
//! - going through the frozen regions in order and then the tail, a row's newest record comes last, and the pieces of its
//!   value before it in their order;
//! - a run's tally is the sum of its regions' tallies, and counts exactly the records that the index points at;
//! - memory is charged where it is held: a region that a sealed part still shares stays charged;
//! - an address is of a record in a region of its group. What breaks that stops the work.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::error::{Error, Result, broken};
use crate::memory::MemoryBudget;
use crate::time::Timestamp;

use super::arena::{Arena, BLOCK_BYTES, LINE_BYTES, prefetch};
use super::chunk::{Chunk, Tally, no_record, offset};
use super::index::{Address, REGIONS_MAX};
use super::join::Joining;
use super::record::{Draft, Record, Shape, extend, kill, rewrite};

/// The largest size of a region of several records: what one step of cleaning copies at most.
pub(super) const REGION_BYTES: usize = BLOCK_BYTES;

/// The first size of the first region of a run: an idle group costs little.
pub(super) const LEAST_REGION_BYTES: usize = 256;

/// Regions that are left for cleaning where a group has all that it can have.
const CLEANING_REGIONS: usize = 1024;

/// How many times what a processor fetches at once is asked for of a record ahead of time.
const LINES_AHEAD: usize = 3;

/// Records longer than this get a region of their own, so that little of the others is wasted.
pub(super) const LARGE_RECORD_BYTES: usize = REGION_BYTES / 4;

/// What a region costs beside its bytes: its slot, the shared chunk and the counters of the `Arc`.
pub(super) const REGION_OVERHEAD_BYTES: u64 = (size_of::<Slot>() + size_of::<Chunk>() + 2 * size_of::<usize>()) as u64;

#[derive(Debug)]
enum Memory {
    Tail(Chunk),
    Clears(Chunk),
    /// Survivors of cleaning; nobody shares it yet.
    Clean(Chunk),
    Frozen(Arc<Chunk>),
}

/// A region of a group's log.
#[derive(Debug)]
pub(super) struct Region {
    memory: Memory,
    /// Records ever written to it.
    records: u64,
    pub(super) tally: Tally,
    /// Whether it ever had a piece of a value with newer pieces elsewhere.
    pub(super) has_links: bool,
}

/// What stands under a region's number.
#[derive(Debug)]
enum Slot {
    /// The number is free.
    Free,
    /// The region was taken out, and its survivors are on their way.
    Out,
    In(Region),
}

impl Region {
    pub(super) fn chunk(&self) -> &Chunk {
        match &self.memory {
            Memory::Tail(chunk) | Memory::Clears(chunk) | Memory::Clean(chunk) => chunk,
            Memory::Frozen(chunk) => chunk,
        }
    }

    /// Returns the chunk, to be written: of a region that is not frozen.
    fn chunk_mut(&mut self) -> &mut Chunk {
        match &mut self.memory {
            Memory::Tail(chunk) | Memory::Clears(chunk) | Memory::Clean(chunk) => chunk,
            Memory::Frozen(_) => broken("a frozen region never changes"),
        }
    }

    pub(super) fn half(&self) -> Half {
        match self.memory {
            Memory::Tail(_) => Half::Tail,
            Memory::Clears(_) => Half::Clears,
            Memory::Clean(_) | Memory::Frozen(_) => Half::Frozen,
        }
    }

    /// Returns whether a sealed part keeps its memory alive.
    pub(super) fn is_pinned(&self) -> bool {
        matches!(&self.memory, Memory::Frozen(chunk) if Arc::strong_count(chunk) > 1)
    }

    /// Returns whether it is to be joined with others once there are many like it.
    pub(super) fn is_small(&self) -> bool {
        self.chunk().bytes.capacity() < LARGE_RECORD_BYTES
    }

    /// Returns whether the index points at every record in it.
    pub(super) fn is_all_kept(&self) -> bool {
        self.tally.records() == self.records
    }

    /// Returns it as one that never changes again, and its chunk.
    fn into_frozen(self) -> (Self, Arc<Chunk>) {
        let chunk = match self.memory {
            Memory::Tail(chunk) | Memory::Clears(chunk) | Memory::Clean(chunk) => Arc::new(chunk),
            Memory::Frozen(chunk) => chunk,
        };
        (Self { memory: Memory::Frozen(Arc::clone(&chunk)), ..self }, chunk)
    }
}

/// The parts of a group's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    Tail,
    /// The clears of the tail, which come before all its rows.
    Clears,
    Frozen,
}

/// The regions of one half, with their sums.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// The regions, oldest first.
    pub(super) order: VecDeque<u32>,
    /// The region that the next record goes to. In the frozen half this is a clean one.
    pub(super) open: Option<u32>,
    /// Bytes of memory that they hold.
    pub(super) held_bytes: u64,
    pub(super) tally: Tally,
    /// How many of them are small.
    pub(super) small: u64,
    /// Bytes of regions that the cleaner may go through by now.
    pub(super) credit: u64,
    /// Bytes of regions that may be looked through for what has expired by now.
    pub(super) expiry_credit: u64,
    /// Bytes of records that the half had when it was frozen last: as many are to be expected again.
    expected_bytes: u64,
}

impl Run {
    /// Counts a region that comes in.
    fn enter(&mut self, region: &Region) {
        self.held_bytes += region.chunk().held_bytes();
        self.tally.add(&region.tally);
        self.small += u64::from(region.is_small());
    }

    /// Counts a region that goes.
    fn leave(&mut self, region: &Region) {
        self.held_bytes -= region.chunk().held_bytes();
        self.tally.sub(&region.tally);
        self.small -= u64::from(region.is_small());
    }
}

/// Where the next record fits.
enum Fit {
    Here(u32),
    /// After growing the region to this capacity.
    Grown(u32, usize),
    /// In a new region of this capacity, which may stay open for more.
    New(usize, bool),
}

/// All regions of a group.
#[derive(Debug)]
pub(super) struct Regions {
    slots: Vec<Slot>,
    /// Numbers of free slots.
    free: Vec<u32>,
    tail: Run,
    clears: Run,
    frozen: Run,
    /// The slot that is looked at next for what has expired.
    expiry_next: u32,
    pub(super) joining: Joining,
    arena: Arena,
}

impl Regions {
    pub(super) fn new(arena: &Arena) -> Self {
        let [tail, clears, frozen] = Default::default();
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            tail,
            clears,
            frozen,
            expiry_next: 0,
            joining: Joining::default(),
            arena: arena.clone(),
        }
    }

    pub(super) fn budget(&self) -> &MemoryBudget {
        self.arena.budget()
    }

    pub(super) fn run(&self, half: Half) -> &Run {
        match half {
            Half::Tail => &self.tail,
            Half::Clears => &self.clears,
            Half::Frozen => &self.frozen,
        }
    }

    pub(super) fn run_mut(&mut self, half: Half) -> &mut Run {
        match half {
            Half::Tail => &mut self.tail,
            Half::Clears => &mut self.clears,
            Half::Frozen => &mut self.frozen,
        }
    }

    /// Returns a region that is in the log.
    #[inline]
    pub(super) fn region(&self, id: u32) -> &Region {
        match self.slots.get(id as usize) {
            Some(Slot::In(region)) => region,
            _ => no_region(),
        }
    }

    #[inline]
    fn region_mut(&mut self, id: u32) -> &mut Region {
        match self.slots.get_mut(id as usize) {
            Some(Slot::In(region)) => region,
            _ => no_region(),
        }
    }

    /// Returns the frozen region that has this number, if one has.
    pub(super) fn frozen_at(&self, id: u32) -> Option<&Region> {
        match self.slots.get(id as usize) {
            Some(Slot::In(region)) => Some(region).filter(|region| region.half() == Half::Frozen),
            Some(Slot::Free) => None,
            Some(Slot::Out) | None => no_region(),
        }
    }

    /// Puts something under a number, and returns the region that stood there.
    fn put(&mut self, id: u32, new: Slot) -> Option<Region> {
        let Some(slot) = self.slots.get_mut(id as usize) else { no_region() };
        match std::mem::replace(slot, new) {
            Slot::In(region) => Some(region),
            Slot::Free | Slot::Out => None,
        }
    }

    /// Takes a region out of the log.
    fn take(&mut self, id: u32) -> Region {
        self.put(id, Slot::Out).unwrap_or_else(|| no_region())
    }

    #[inline]
    pub(super) fn record(&self, address: Address) -> Record<'_> {
        self.region(address.region()).chunk().record(address.offset())
    }

    /// Asks for the bytes of a record, as far as records usually go.
    #[inline]
    pub(super) fn prefetch(&self, address: Address) {
        let bytes = self.region(address.region()).chunk().bytes_at(address.offset());
        bytes.iter().step_by(LINE_BYTES).take(LINES_AHEAD).for_each(prefetch);
    }

    /// Returns the value of the record of this shape, `None` if it is a tombstone.
    #[inline]
    pub(super) fn value(&self, address: Address, shape: &Shape) -> Option<&[u8]> {
        shape.value(self.region(address.region()).chunk().bytes_at(address.offset()))
    }

    /// Returns the value of a tail record of this shape, to be changed, if its mark is that of bytes of a table without
    /// rules.
    #[inline]
    pub(super) fn plain_tail_value(&mut self, address: Address, shape: &Shape) -> Option<&mut [u8]> {
        if shape.is_plain() { shape.value_mut(self.tail_bytes(address)?) } else { None }
    }

    /// Returns which half a record lies in.
    #[inline]
    pub(super) fn half(&self, address: Address) -> Half {
        self.region(address.region()).half()
    }

    /// Refuses to go on where no more regions can be told apart, but for those that cleaning takes for a while.
    pub(super) fn check_not_full(&self) -> Result<()> {
        if self.slots.len() < REGIONS_MAX - CLEANING_REGIONS || !self.free.is_empty() {
            return Ok(());
        }
        Err(Error::limit("key group is too large for this backend: raise max_parallelism")
            .with("regions", self.slots.len()))
    }

    /// Returns how many bytes more it would hold after appending a record of `len` bytes.
    pub(super) fn growth_bytes(&self, half: Half, len: usize) -> u64 {
        match self.fit(half, len) {
            Fit::Here(_) => 0,
            Fit::New(capacity, _) => REGION_OVERHEAD_BYTES + self.arena.growth_bytes(capacity),
            Fit::Grown(id, capacity) => {
                let held = self.region(id).chunk().bytes.capacity();
                self.arena.growth_bytes(capacity).saturating_sub(held as u64)
            }
        }
    }

    fn fit(&self, half: Half, len: usize) -> Fit {
        if len > LARGE_RECORD_BYTES {
            return Fit::New(len, false);
        }
        let run = self.run(half);
        if let Some(id) = run.open {
            let bytes = &self.region(id).chunk().bytes;
            let (needed, capacity) = (bytes.len() + len, bytes.capacity());
            if needed <= capacity {
                return Fit::Here(id);
            }
            if needed <= REGION_BYTES {
                let wanted = needed.max((2 * capacity).min(REGION_BYTES));
                return Fit::Grown(id, self.affordable(wanted - capacity, needed - capacity) + capacity);
            }
        }
        // In proportion to what is there, or was: few regions, little waste.
        let proportionate = (run.held_bytes / 4).max(run.expected_bytes.saturating_sub(run.held_bytes));
        let proportionate = usize::try_from(proportionate).unwrap_or(REGION_BYTES);
        let wanted = proportionate.clamp(LEAST_REGION_BYTES, REGION_BYTES).max(len);
        Fit::New(self.affordable(wanted, LEAST_REGION_BYTES.max(len)), true)
    }

    /// Returns the bytes that are wanted, or where the budget is nearly spent those that will do.
    fn affordable(&self, wanted: usize, enough: usize) -> usize {
        if self.budget().has_room(REGION_OVERHEAD_BYTES + wanted as u64) { wanted } else { enough }
    }

    /// Opens a region of `capacity` bytes at the end of the order, for one record or for those to come.
    pub(super) fn open(&mut self, half: Half, capacity: usize, stays_open: bool) -> u32 {
        let id = self.add(half, capacity);
        let run = self.run_mut(half);
        run.order.push_back(id);
        if stays_open {
            run.open = Some(id);
        }
        id
    }

    /// Makes a region that has no place in the order yet.
    fn add(&mut self, half: Half, capacity: usize) -> u32 {
        let chunk = Chunk::new(capacity, &self.arena);
        let memory = match half {
            Half::Tail => Memory::Tail(chunk),
            Half::Clears => Memory::Clears(chunk),
            Half::Frozen => Memory::Clean(chunk),
        };
        let region = Region { memory, records: 0, tally: Tally::default(), has_links: false };
        self.run_mut(half).enter(&region);
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::Free);
            u32::try_from(self.slots.len() - 1).unwrap_or_else(|_| no_region())
        });
        if self.put(id, Slot::In(region)).is_some() {
            broken("a free number is that of no region");
        }
        id
    }

    /// Makes a frozen region for `bytes` of records, which has no place in the order until [`Regions::end_joined`].
    pub(super) fn begin_joined(&mut self, bytes: usize) -> u32 {
        self.add(Half::Frozen, bytes)
    }

    /// Appends a record, of which these are all bytes, to a region that was made for it.
    pub(super) fn append_joined(&mut self, id: u32, shape: &Shape, bytes: &[u8]) -> Address {
        self.append_in(Half::Frozen, id, bytes.len(), shape.is_tombstone(), |to| to.copy_from_slice(bytes))
    }

    /// Puts the new region, if there is one, in the place of `count` frozen ones.
    pub(super) fn end_joined(&mut self, at: usize, count: usize, new: Option<u32>) {
        let old: Vec<_> = self.frozen.order.drain(at..at + count).collect();
        for id in old {
            let region = self.take(id);
            self.frozen.leave(&region);
            self.release(id);
        }
        new.into_iter().for_each(|id| self.frozen.order.insert(at, id));
    }

    /// Appends a record, whatever the budget says, and returns its address.
    pub(super) fn append(&mut self, half: Half, draft: &Draft<'_>) -> Address {
        self.append_with(half, draft.len(), draft.value.is_none(), |to| draft.write(to))
    }

    /// Appends a copy of a record without spare bytes, of which these are all, as [`Regions::append`].
    pub(super) fn append_copy(&mut self, half: Half, shape: &Shape, bytes: &[u8]) -> Address {
        debug_assert!(shape.is_compact() && bytes.len() == shape.len, "all of a record without spare bytes");
        self.append_with(half, bytes.len(), shape.is_tombstone(), |to| to.copy_from_slice(bytes))
    }

    #[inline]
    fn append_with(&mut self, half: Half, len: usize, tombstone: bool, write: impl FnOnce(&mut [u8])) -> Address {
        let id = match self.fit(half, len) {
            Fit::Here(id) => id,
            Fit::New(capacity, stays_open) => self.open(half, capacity, stays_open),
            Fit::Grown(id, capacity) => {
                self.grow(half, id, capacity);
                id
            }
        };
        self.append_in(half, id, len, tombstone, write)
    }

    #[inline(never)]
    fn grow(&mut self, half: Half, id: u32, capacity: usize) {
        let arena = self.arena.clone();
        let region = self.region_mut(id);
        let (held_bytes, small) = (region.chunk().held_bytes(), region.is_small());
        region.chunk_mut().grow(capacity, &arena);
        let more = region.chunk().held_bytes() - held_bytes;
        let grown_up = small && !region.is_small();
        let run = self.run_mut(half);
        run.held_bytes += more;
        run.small -= u64::from(grown_up);
    }

    /// Appends a record of `len` bytes to a region that has room for it.
    #[inline]
    fn append_in(
        &mut self,
        half: Half,
        id: u32,
        len: usize,
        tombstone: bool,
        write: impl FnOnce(&mut [u8]),
    ) -> Address {
        let tally = Tally::of(tombstone, len);
        let region = self.region_mut(id);
        let chunk = region.chunk_mut();
        let address = Address::new(id, offset(chunk.bytes.len()));
        write(chunk.bytes.append(len));
        region.records += 1;
        region.tally.add(&tally);
        self.run_mut(half).tally.add(&tally);
        address
    }

    /// Appends a record to the frozen half, one of those that a group is loaded with.
    ///
    /// * `left`: bytes of this record and of those to come.
    ///
    /// # Errors
    /// As [`Regions::check_not_full`].
    #[inline]
    pub(super) fn load(&mut self, draft: &Draft<'_>, left: &mut usize) -> Result<Address> {
        let len = draft.len();
        let in_open = if !draft.mark.is_chained() { self.append_to_open(draft, len) } else { None };
        let address = match in_open {
            Some(address) => address,
            None => self.load_elsewhere(draft, *left)?,
        };
        *left -= len;
        Ok(address)
    }

    /// Appends a record to the clean region that is open, if it fits there: [`Regions::append`] where nothing is to be
    /// looked for.
    #[inline]
    fn append_to_open(&mut self, draft: &Draft<'_>, len: usize) -> Option<Address> {
        let id = self.frozen.open?;
        let bytes = &self.region(id).chunk().bytes;
        if bytes.len() + len > bytes.capacity() || len > LARGE_RECORD_BYTES {
            return None;
        }
        Some(self.append_in(Half::Frozen, id, len, draft.value.is_none(), |to| draft.write(to)))
    }

    fn load_elsewhere(&mut self, draft: &Draft<'_>, left: usize) -> Result<Address> {
        self.check_not_full()?;
        if draft.mark.is_chained() {
            self.go_to_end(Half::Frozen);
        }
        if draft.len() <= LARGE_RECORD_BYTES && !matches!(self.fit(Half::Frozen, draft.len()), Fit::Here(_)) {
            self.open(Half::Frozen, left.clamp(LEAST_REGION_BYTES, REGION_BYTES), true);
        }
        Ok(self.append(Half::Frozen, draft))
    }

    /// Gives a tail record another value of at most its capacity; `None` makes it a tombstone.
    pub(super) fn rewrite(&mut self, address: Address, shape: &Shape, value: Option<&[u8]>, stamp: Option<Timestamp>) {
        match self.tail_bytes(address) {
            Some(bytes) => rewrite(bytes, shape, value, stamp),
            None => no_tail_record(),
        }
        let (old, new) = (shape.is_tombstone(), value.is_none());
        if old != new {
            self.count_again(address, &Tally::of(old, shape.len), &Tally::of(new, shape.len));
        }
    }

    /// Puts `more` behind the value of a tail record that has room for it.
    pub(super) fn extend(&mut self, address: Address, shape: &Shape, more: &[u8]) {
        match self.tail_bytes(address) {
            Some(bytes) => extend(bytes, shape, more),
            None => no_tail_record(),
        }
    }

    /// Notes that the index no longer points at a record, because of a newer one or, in the tail, a removal.
    pub(super) fn supersede(&mut self, address: Address, shape: &Shape) {
        if let Some(bytes) = self.tail_bytes(address) {
            kill(bytes);
        }
        self.count_again(address, &Tally::of(shape.is_tombstone(), shape.len), &Tally::default());
    }

    /// Returns the bytes from a record on, to be changed, `None` if it does not lie in the tail.
    #[inline]
    fn tail_bytes(&mut self, address: Address) -> Option<&mut [u8]> {
        let chunk = match self.slots.get_mut(address.region() as usize) {
            Some(Slot::In(Region { memory: Memory::Tail(chunk), .. })) => chunk,
            Some(Slot::In(_) | Slot::Out) => return None,
            Some(Slot::Free) | None => no_region(),
        };
        match chunk.bytes.get_mut(address.offset() as usize..) {
            Some(bytes) => Some(bytes),
            None => no_record(),
        }
    }

    /// Counts a record anew. One whose region was taken out is not counted anywhere.
    fn count_again(&mut self, address: Address, old: &Tally, new: &Tally) {
        let region = match self.slots.get_mut(address.region() as usize) {
            Some(Slot::In(region)) => region,
            Some(Slot::Out) => return,
            Some(Slot::Free) | None => no_region(),
        };
        region.tally.sub(old);
        region.tally.add(new);
        let half = region.half();
        let run = self.run_mut(half);
        run.tally.sub(old);
        run.tally.add(new);
    }

    /// Freezes the tail and hands each of its regions to `visit`. Regions without a use are dropped.
    pub(super) fn freeze(&mut self, mut visit: impl FnMut(Arc<Chunk>)) {
        let expected_bytes = self.tail.tally.bytes();
        for half in [Half::Clears, Half::Tail] {
            while let Some(id) = self.run_mut(half).order.pop_front() {
                let Some(slot) = self.slots.get_mut(id as usize) else { no_region() };
                let Slot::In(region) = std::mem::replace(slot, Slot::Free) else { no_region() };
                if region.tally.records() == 0 {
                    self.free.push(id);
                    continue;
                }
                self.frozen.order.push_back(id);
                self.frozen.enter(&region);
                let (region, chunk) = region.into_frozen();
                *slot = Slot::In(region);
                visit(chunk);
            }
            let run = self.run_mut(half);
            *run = Run { order: std::mem::take(&mut run.order), ..Run::default() };
        }
        self.tail.expected_bytes = expected_bytes;
    }

    /// Asks for what [`Regions::freeze`] goes through first.
    pub(super) fn prefetch_tail(&self) {
        let open = self.tail.open.and_then(|id| self.slots.get(id as usize));
        open.into_iter().for_each(prefetch);
        self.tail.order.front().into_iter().for_each(prefetch);
        self.frozen.order.back().into_iter().for_each(prefetch);
    }

    /// Hands all frozen regions to `visit`, oldest first. None of them is written any more.
    pub(super) fn share(&mut self, mut visit: impl FnMut(Arc<Chunk>)) {
        self.frozen.open = None;
        let order = std::mem::take(&mut self.frozen.order);
        for &id in &order {
            let region = self.take(id);
            self.put_back(id, region, &mut visit);
        }
        self.frozen.order = order;
    }

    /// Returns a region to its slot, frozen, and hands its chunk to `visit`.
    fn put_back(&mut self, id: u32, region: Region, visit: &mut impl FnMut(Arc<Chunk>)) {
        let (region, chunk) = region.into_frozen();
        visit(chunk);
        self.put(id, Slot::In(region));
    }

    /// Takes the oldest region out of its half. Its id stays taken until [`Regions::release`].
    pub(super) fn take_oldest(&mut self, half: Half) -> Option<(u32, Region)> {
        let id = self.run_mut(half).order.pop_front()?;
        self.close(half, id);
        let region = self.take(id);
        self.run_mut(half).leave(&region);
        Some((id, region))
    }

    /// Returns how many ids were ever given out, and how many are free.
    #[cfg(test)]
    pub(super) fn ids(&self) -> (usize, usize) {
        (self.slots.len(), self.free.len())
    }

    /// Returns how many slots there are, free ones too.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Returns the slot whose turn it is to be looked at for what has expired: all take turns.
    pub(super) fn next_to_expire(&mut self) -> u32 {
        let next = self.expiry_next;
        self.expiry_next = if (next as usize) + 1 < self.slots.len() { next + 1 } else { 0 };
        next
    }

    /// Gives a slot its turn again.
    pub(super) fn retry_expiry(&mut self, slot: u32) {
        self.expiry_next = slot;
    }

    /// Notes that a record is of an older piece of a value.
    pub(super) fn note_link(&mut self, address: Address) {
        self.region_mut(address.region()).has_links = true;
    }

    /// Lets nothing more be written to a region.
    pub(super) fn close(&mut self, half: Half, id: u32) {
        let run = self.run_mut(half);
        run.open = run.open.filter(|open| *open != id);
    }

    /// Lets the next record go to the end of the order: survivors of cleaning, and what follows a large record, may go to a
    /// region before it. Whoever appends a piece of a value behind others calls this first.
    pub(super) fn go_to_end(&mut self, half: Half) {
        let run = self.run(half);
        if run.open.is_some() && run.open != run.order.back().copied() {
            // A small one that may grow: each large record may be followed by one.
            self.open(half, LEAST_REGION_BYTES, true);
        }
    }

    /// Makes the id of a region that is gone free again.
    pub(super) fn release(&mut self, id: u32) {
        if self.put(id, Slot::Free).is_some() {
            broken("a number is given back after its region went");
        }
        self.free.push(id);
    }
}

#[cold]
fn no_tail_record() -> ! {
    broken("a record that changes lies in the tail")
}

#[cold]
fn no_region() -> ! {
    broken("an address is of a region of its group")
}
