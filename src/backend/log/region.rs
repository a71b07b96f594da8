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
//! - memory is charged where it is held: a region that a sealed part still shares stays charged.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::memory::{Charge, MemoryBudget};
use crate::time::Timestamp;

use super::arena::{Arena, BLOCK_BYTES, Buffer, LINE_BYTES, prefetch};
use super::index::{Address, REGIONS_MAX};
use super::record::{Draft, Record, Shape, extend, kill, rewrite};

/// The largest size of a region of several records: what one step of cleaning copies at most.
pub(super) const REGION_BYTES: usize = BLOCK_BYTES;

/// The first size of the first region of a run: an idle group costs little.
pub(super) const LEAST_REGION_BYTES: usize = 256;

/// Regions that are left for cleaning where a group has all that it can have.
const CLEANING_REGIONS: usize = 1024;

/// How many times what a processor fetches at once is asked for of a record ahead of time.
const LINES_AHEAD: usize = 3;

/// How far ahead bytes are asked for that are gone through in order.
const READ_AHEAD_BYTES: usize = 1024;

/// Records longer than this get a region of their own, so that little of the others is wasted.
const LARGE_RECORD_BYTES: usize = REGION_BYTES / 4;

/// What a region costs beside its bytes: its slot, the shared chunk and the counters of the `Arc`.
pub(super) const REGION_OVERHEAD_BYTES: u64 =
    (size_of::<Option<Region>>() + size_of::<Chunk>() + 2 * size_of::<usize>()) as u64;

/// The records of a region.
pub(super) struct Chunk {
    bytes: Buffer,
    charge: Charge,
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} of {} bytes)", self.bytes.len(), self.bytes.capacity())
    }
}

impl Chunk {
    fn new(capacity: usize, arena: &Arena) -> Self {
        let bytes = Buffer::with_capacity(capacity, arena);
        let charge = arena.budget().charge(REGION_OVERHEAD_BYTES + bytes.capacity() as u64);
        Self { bytes, charge }
    }

    fn grow(&mut self, capacity: usize, arena: &Arena) {
        self.bytes.grow(capacity, arena);
        self.charge.resize(REGION_OVERHEAD_BYTES + self.bytes.capacity() as u64);
    }

    /// Returns the bytes of memory that it holds.
    pub(super) fn held_bytes(&self) -> u64 {
        self.charge.bytes()
    }

    /// Returns the bytes of memory that records may still be written to.
    pub(super) fn spare_bytes(&self) -> u64 {
        (self.bytes.capacity() - self.bytes.len()) as u64
    }

    pub(super) fn record(&self, offset: u32) -> Option<Record<'_>> {
        self.bytes.get(offset as usize..).and_then(Record::parse)
    }

    /// Returns the bytes of the record of this shape.
    pub(super) fn bytes_of(&self, offset: u32, shape: &Shape) -> &[u8] {
        self.bytes.get(offset as usize..).and_then(|bytes| bytes.get(..shape.len)).unwrap_or_default()
    }

    /// Returns all records in the order that they were written, dead ones too, with their offsets.
    pub(super) fn records(&self) -> impl Iterator<Item = (u32, Record<'_>)> {
        let mut next = 0;
        let mut ahead = self.bytes.get(READ_AHEAD_BYTES..).unwrap_or_default().iter().step_by(LINE_BYTES);
        std::iter::from_fn(move || {
            let offset = u32::try_from(next).ok()?;
            let record = self.record(offset)?;
            next += record.shape.len;
            ahead.by_ref().take(record.shape.len.div_ceil(LINE_BYTES)).for_each(prefetch);
            Some((offset, record))
        })
    }
}

/// Counts of records that the index points at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tally {
    pub(super) puts: u64,
    pub(super) put_bytes: u64,
    pub(super) tombstones: u64,
    pub(super) tombstone_bytes: u64,
}

impl Tally {
    fn of(tombstone: bool, bytes: usize) -> Self {
        let bytes = bytes as u64;
        match tombstone {
            true => Self { tombstones: 1, tombstone_bytes: bytes, ..Self::default() },
            false => Self { puts: 1, put_bytes: bytes, ..Self::default() },
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.puts += other.puts;
        self.put_bytes += other.put_bytes;
        self.tombstones += other.tombstones;
        self.tombstone_bytes += other.tombstone_bytes;
    }

    fn sub(&mut self, other: &Self) {
        self.puts -= other.puts;
        self.put_bytes -= other.put_bytes;
        self.tombstones -= other.tombstones;
        self.tombstone_bytes -= other.tombstone_bytes;
    }

    /// Returns how many records it counts.
    pub(super) fn records(&self) -> u64 {
        self.puts + self.tombstones
    }

    /// Returns the bytes of the records that it counts.
    pub(super) fn bytes(&self) -> u64 {
        self.put_bytes + self.tombstone_bytes
    }
}

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

impl Region {
    pub(super) fn chunk(&self) -> &Chunk {
        match &self.memory {
            Memory::Tail(chunk) | Memory::Clears(chunk) | Memory::Clean(chunk) => chunk,
            Memory::Frozen(chunk) => chunk,
        }
    }

    /// Returns the chunk as long as it is not shared.
    fn chunk_mut(&mut self) -> Option<&mut Chunk> {
        match &mut self.memory {
            Memory::Tail(chunk) | Memory::Clears(chunk) | Memory::Clean(chunk) => Some(chunk),
            Memory::Frozen(_) => None,
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

    /// Returns whether the index points at every record in it.
    pub(super) fn is_all_kept(&self) -> bool {
        self.tally.records() == self.records
    }

    fn into_frozen(self) -> Self {
        let memory = match self.memory {
            Memory::Tail(chunk) | Memory::Clears(chunk) | Memory::Clean(chunk) => Memory::Frozen(Arc::new(chunk)),
            frozen @ Memory::Frozen(_) => frozen,
        };
        Self { memory, ..self }
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
    /// Bytes of regions that the cleaner may go through by now.
    pub(super) credit: u64,
    /// Bytes of regions that may be looked through for what has expired by now.
    pub(super) expiry_credit: u64,
    /// Bytes of records that the half had when it was frozen last: as many are to be expected again.
    expected_bytes: u64,
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
    slots: Vec<Option<Region>>,
    /// Empty slots.
    free: Vec<u32>,
    tail: Run,
    clears: Run,
    frozen: Run,
    /// The slot that is looked at next for what has expired.
    expiry_next: u32,
    arena: Arena,
}

impl Regions {
    pub(super) fn new(arena: &Arena) -> Self {
        let [tail, clears, frozen] = Default::default();
        Self { slots: Vec::new(), free: Vec::new(), tail, clears, frozen, expiry_next: 0, arena: arena.clone() }
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

    pub(super) fn region(&self, id: u32) -> Option<&Region> {
        self.slots.get(id as usize)?.as_ref()
    }

    fn region_mut(&mut self, id: u32) -> Option<&mut Region> {
        self.slots.get_mut(id as usize)?.as_mut()
    }

    pub(super) fn record(&self, address: Address) -> Option<Record<'_>> {
        self.region(address.region())?.chunk().record(address.offset())
    }

    /// Asks for the bytes of a record, as far as records usually go.
    #[inline]
    pub(super) fn prefetch(&self, address: Address) {
        let bytes =
            self.region(address.region()).and_then(|region| region.chunk().bytes.get(address.offset() as usize..));
        bytes.into_iter().flat_map(|bytes| bytes.iter().step_by(LINE_BYTES).take(LINES_AHEAD)).for_each(prefetch);
    }

    /// Returns the value of the record of this shape, `None` if it is a tombstone.
    pub(super) fn value(&self, address: Address, shape: &Shape) -> Option<&[u8]> {
        shape.value(self.region(address.region())?.chunk().bytes.get(address.offset() as usize..)?)
    }

    /// Returns the value of a tail record of this shape, to be changed, if its mark is that of bytes of a table without
    /// rules.
    #[inline]
    pub(super) fn plain_tail_value(&mut self, address: Address, shape: &Shape) -> Option<&mut [u8]> {
        if shape.is_plain() { shape.value_mut(self.tail_bytes(address)?) } else { None }
    }

    /// Returns which half a record lies in.
    pub(super) fn half(&self, address: Address) -> Half {
        self.region(address.region()).map_or(Half::Frozen, Region::half)
    }

    /// Refuses to go on where no more regions can be told apart, but for those that cleaning takes for a while.
    pub(super) fn check_not_full(&self) -> Result<()> {
        if self.slots.len() < REGIONS_MAX - CLEANING_REGIONS || !self.free.is_empty() {
            return Ok(());
        }
        Err(Error::limit("key group is too large for this backend").with("regions", self.slots.len()))
    }

    /// Returns how many bytes more it would hold after appending a record of `len` bytes.
    pub(super) fn growth_bytes(&self, half: Half, len: usize) -> u64 {
        match self.fit(half, len) {
            Fit::Here(_) => 0,
            Fit::New(capacity, _) => REGION_OVERHEAD_BYTES + self.arena.growth_bytes(capacity),
            Fit::Grown(id, capacity) => {
                let held = self.region(id).map_or(0, |region| region.chunk().bytes.capacity());
                self.arena.growth_bytes(capacity).saturating_sub(held as u64)
            }
        }
    }

    fn fit(&self, half: Half, len: usize) -> Fit {
        if len > LARGE_RECORD_BYTES {
            return Fit::New(len, false);
        }
        let run = self.run(half);
        if let Some((id, region)) = run.open.and_then(|id| Some((id, self.region(id)?))) {
            let bytes = &region.chunk().bytes;
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
        let chunk = Chunk::new(capacity, &self.arena);
        let held_bytes = chunk.held_bytes();
        let memory = match half {
            Half::Tail => Memory::Tail(chunk),
            Half::Clears => Memory::Clears(chunk),
            Half::Frozen => Memory::Clean(chunk),
        };
        let region = Some(Region { memory, records: 0, tally: Tally::default(), has_links: false });
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(slot) = self.slots.get_mut(id as usize) {
            *slot = region;
        }
        let run = self.run_mut(half);
        run.order.push_back(id);
        run.held_bytes += held_bytes;
        if stays_open {
            run.open = Some(id);
        }
        id
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
                let before = self.region(id).map_or(0, |region| region.chunk().held_bytes());
                let arena = self.arena.clone();
                let chunk = self.region_mut(id).and_then(Region::chunk_mut);
                let after = chunk.map_or(before, |chunk| {
                    chunk.grow(capacity, &arena);
                    chunk.held_bytes()
                });
                self.run_mut(half).held_bytes += after - before;
                id
            }
        };
        let tally = Tally::of(tombstone, len);
        let mut offset = 0;
        if let Some(region) = self.region_mut(id) {
            region.records += 1;
            region.tally.add(&tally);
            if let Some(chunk) = region.chunk_mut() {
                offset = u32::try_from(chunk.bytes.len()).unwrap_or(u32::MAX);
                write(chunk.bytes.append(len));
            }
        }
        self.run_mut(half).tally.add(&tally);
        Address::new(id, offset)
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
        let in_open = if draft.mark.ordinal == 0 { self.append_to_open(draft, len) } else { None };
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
        let region = self.slots.get_mut(id as usize)?.as_mut()?;
        let Memory::Clean(chunk) = &mut region.memory else { return None };
        let offset = chunk.bytes.len();
        if offset + len > chunk.bytes.capacity() || len > LARGE_RECORD_BYTES {
            return None;
        }
        draft.write(chunk.bytes.append(len));
        let tally = Tally::of(draft.value.is_none(), len);
        region.records += 1;
        region.tally.add(&tally);
        self.frozen.tally.add(&tally);
        Some(Address::new(id, u32::try_from(offset).ok()?))
    }

    fn load_elsewhere(&mut self, draft: &Draft<'_>, left: usize) -> Result<Address> {
        self.check_not_full()?;
        if draft.mark.ordinal > 0 {
            self.go_to_end(Half::Frozen);
        }
        if draft.len() <= LARGE_RECORD_BYTES && !matches!(self.fit(Half::Frozen, draft.len()), Fit::Here(_)) {
            self.open(Half::Frozen, left.clamp(LEAST_REGION_BYTES, REGION_BYTES), true);
        }
        Ok(self.append(Half::Frozen, draft))
    }

    /// Gives a tail record another value of at most its capacity; `None` makes it a tombstone.
    pub(super) fn rewrite(&mut self, address: Address, shape: &Shape, value: Option<&[u8]>, stamp: Option<Timestamp>) {
        if let Some(bytes) = self.tail_bytes(address) {
            rewrite(bytes, shape, value, stamp);
        }
        let (old, new) = (shape.is_tombstone(), value.is_none());
        if old != new {
            self.count_again(address, &Tally::of(old, shape.len), &Tally::of(new, shape.len));
        }
    }

    /// Puts `more` behind the value of a tail record that has room for it.
    pub(super) fn extend(&mut self, address: Address, shape: &Shape, more: &[u8]) {
        if let Some(bytes) = self.tail_bytes(address) {
            extend(bytes, shape, more);
        }
    }

    /// Notes that the index no longer points at a record, because of a newer one or, in the tail, a removal.
    pub(super) fn supersede(&mut self, address: Address, shape: &Shape) {
        if let Some(bytes) = self.tail_bytes(address) {
            kill(bytes);
        }
        self.count_again(address, &Tally::of(shape.is_tombstone(), shape.len), &Tally::default());
    }

    fn tail_bytes(&mut self, address: Address) -> Option<&mut [u8]> {
        match &mut self.region_mut(address.region())?.memory {
            Memory::Tail(chunk) => chunk.bytes.get_mut(address.offset() as usize..),
            Memory::Clears(_) | Memory::Clean(_) | Memory::Frozen(_) => None,
        }
    }

    /// Counts a record anew. One whose region was taken out is not counted anywhere.
    fn count_again(&mut self, address: Address, old: &Tally, new: &Tally) {
        let Some(region) = self.region_mut(address.region()) else { return };
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
                let Some(region) = self.slots.get_mut(id as usize).and_then(Option::take) else { continue };
                if region.tally.records() == 0 {
                    self.free.push(id);
                    continue;
                }
                let region = region.into_frozen();
                self.frozen.order.push_back(id);
                self.frozen.held_bytes += region.chunk().held_bytes();
                self.frozen.tally.add(&region.tally);
                self.put_back(id, region, &mut visit);
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
        for at in 0..self.frozen.order.len() {
            let Some(&id) = self.frozen.order.get(at) else { continue };
            if let Some(region) = self.slots.get_mut(id as usize).and_then(Option::take) {
                self.put_back(id, region.into_frozen(), &mut visit);
            }
        }
    }

    /// Returns a frozen region to its slot and hands its chunk to `visit`.
    fn put_back(&mut self, id: u32, region: Region, visit: &mut impl FnMut(Arc<Chunk>)) {
        if let Memory::Frozen(chunk) = &region.memory {
            visit(Arc::clone(chunk));
        }
        if let Some(slot) = self.slots.get_mut(id as usize) {
            *slot = Some(region);
        }
    }

    /// Takes the oldest region out of its half. Its id stays taken until [`Regions::release`].
    pub(super) fn take_oldest(&mut self, half: Half) -> Option<(u32, Region)> {
        let run = self.run_mut(half);
        let id = run.order.pop_front()?;
        if run.open == Some(id) {
            run.open = None;
        }
        let region = self.slots.get_mut(id as usize)?.take()?;
        let run = self.run_mut(half);
        run.held_bytes -= region.chunk().held_bytes();
        run.tally.sub(&region.tally);
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

    /// Returns the address as a link, and notes that its region has one.
    pub(super) fn linked(&mut self, address: Address) -> Address {
        if let Some(region) = self.region_mut(address.region()) {
            region.has_links = true;
        }
        address.as_link()
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
        self.free.push(id);
    }
}
