//! Numbered regions, with the addresses of their memory in one dense array.
//!
//! A record is found by its region's number and an offset there. The array takes 16 bytes a region, so that of ten million
//! rows lies in an L2 cache; the regions themselves take ten times that, and a frozen one lies behind a further pointer. A region
//! on disk has no address.

use std::ops::Range;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use crate::error::{Result, broken};
use crate::memory::{DiskTier, MemoryBudget};

use super::frozen::{Frozen, RegionBytes};
use super::{Arena, Chunk, prefetch};

/// Where a region's records lie, and what can be done with them.
#[derive(Debug)]
pub(in crate::backend::log) enum Residence {
    /// Records are added and changed.
    Tail(Chunk),
    /// Records are added.
    Open(Chunk),
    /// Nothing changes any more: sealed parts may share it.
    Frozen(Arc<Frozen>),
    /// The same, on disk; the bytes that it takes in memory and there.
    OnDisk(Arc<Frozen>, Held),
}

/// Bytes held by a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::backend::log) struct Held {
    pub(in crate::backend::log) memory: u64,
    pub(in crate::backend::log) disk: u64,
}

impl Residence {
    /// Panics if the region is frozen.
    #[inline]
    fn chunk_mut(&mut self) -> &mut Chunk {
        match self {
            Self::Tail(chunk) | Self::Open(chunk) => chunk,
            Self::Frozen(_) | Self::OnDisk(..) => broken("a frozen region never changes"),
        }
    }

    fn into_frozen(self) -> Self {
        match self {
            Self::Tail(chunk) | Self::Open(chunk) => Self::Frozen(Arc::new(Frozen::new(chunk))),
            Self::Frozen(_) | Self::OnDisk(..) => self,
        }
    }
}

/// A region: where it lies, and what its group notes about it.
#[derive(Debug)]
pub(in crate::backend::log) struct Entry<N> {
    residence: Residence,
    pub(in crate::backend::log) notes: N,
}

impl<N> Entry<N> {
    pub(in crate::backend::log) fn new(residence: Residence, notes: N) -> Self {
        Self { residence, notes }
    }

    pub(in crate::backend::log) fn residence(&self) -> &Residence {
        &self.residence
    }

    /// Panics if the region is frozen.
    pub(in crate::backend::log) fn chunk_mut(&mut self) -> &mut Chunk {
        self.residence.chunk_mut()
    }

    /// Returns the bytes of its records.
    #[inline]
    pub(in crate::backend::log) fn len(&self) -> usize {
        match &self.residence {
            Residence::Tail(chunk) | Residence::Open(chunk) => chunk.len(),
            Residence::Frozen(frozen) | Residence::OnDisk(frozen, _) => frozen.len(),
        }
    }

    #[inline]
    pub(in crate::backend::log) fn capacity(&self) -> usize {
        match &self.residence {
            Residence::Tail(chunk) | Residence::Open(chunk) => chunk.capacity(),
            Residence::Frozen(frozen) | Residence::OnDisk(frozen, _) => frozen.capacity(),
        }
    }

    /// Returns the bytes left for further records.
    pub(in crate::backend::log) fn spare_bytes(&self) -> u64 {
        (self.capacity() - self.len()) as u64
    }

    #[inline]
    pub(in crate::backend::log) fn held(&self) -> Held {
        let memory = match &self.residence {
            Residence::Tail(chunk) | Residence::Open(chunk) => chunk.held_bytes(),
            Residence::Frozen(frozen) => frozen.memory_bytes(),
            Residence::OnDisk(_, held) => return *held,
        };
        Held { memory, disk: 0 }
    }

    /// Returns all its records if they lie on disk.
    ///
    /// # Errors
    /// As [`Frozen::bytes`].
    pub(in crate::backend::log) fn read(&self) -> Result<Option<Vec<u8>>> {
        match &self.residence {
            Residence::OnDisk(frozen, _) => {
                let mut bytes = Vec::new();
                frozen.read_from(0, usize::MAX, &mut bytes).map(|()| Some(bytes))
            }
            _ => Ok(None),
        }
    }

    /// Returns all its records, from wherever they lie.
    ///
    /// # Errors
    /// As [`Frozen::bytes`].
    pub(in crate::backend::log) fn bytes(&self) -> Result<RegionBytes<'_>> {
        match &self.residence {
            Residence::Tail(chunk) | Residence::Open(chunk) => Ok(RegionBytes::Owned(chunk)),
            Residence::Frozen(frozen) | Residence::OnDisk(frozen, _) => frozen.bytes(),
        }
    }
}

/// What stands under a number.
#[derive(Debug)]
enum Slot<N> {
    Free,
    /// The region was taken out, and its number is reserved.
    Out,
    In(Entry<N>),
}

/// The address of a region's memory.
#[derive(Debug, Clone, Copy)]
struct View {
    start: NonNull<u8>,
    /// Bytes of the memory; 0 without a region.
    len: u32,
    /// The same if the region lies in the tail, else 0.
    tail_len: u32,
}

// SAFETY: only `RegionTable` uses the address, and as it uses the entry under the same number, which is `Send` and `Sync`.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    const NONE: Self = Self { start: NonNull::dangling(), len: 0, tail_len: 0 };

    fn of(residence: &Residence) -> Self {
        let (start, len) = match residence {
            Residence::Tail(chunk) | Residence::Open(chunk) => (chunk.storage.start(), chunk.storage.len()),
            Residence::Frozen(frozen) => frozen.memory(),
            Residence::OnDisk(..) => return Self::NONE,
        };
        let len = u32::try_from(len).unwrap_or_else(|_| broken("a region is shorter than 4 GiB"));
        let tail_len = if matches!(residence, Residence::Tail(_)) { len } else { 0 };
        Self { start, len, tail_len }
    }
}

/// Regions by number.
///
/// Invariant: the view under a number is that of the entry there, and `View::NONE` without an entry or if it lies on disk. An
/// entry is changed by methods of this type alone, which renew its view if its memory moves.
#[derive(Debug)]
pub(in crate::backend::log) struct RegionTable<N> {
    views: Vec<View>,
    slots: Vec<Slot<N>>,
    free: Vec<u32>,
}

impl<N> RegionTable<N> {
    /// What a region costs beyond its bytes: its slot and view, the shared chunk and the counters of the `Arc`.
    pub(in crate::backend::log) const OVERHEAD_BYTES: u64 =
        (size_of::<Slot<N>>() + size_of::<View>() + size_of::<Frozen>() + 2 * size_of::<usize>()) as u64;

    pub(in crate::backend::log) fn new() -> Self {
        Self { views: Vec::new(), slots: Vec::new(), free: Vec::new() }
    }

    /// Returns how many numbers were ever issued.
    pub(in crate::backend::log) fn issued(&self) -> usize {
        self.slots.len()
    }

    /// Returns how many issued numbers are free.
    pub(in crate::backend::log) fn free(&self) -> usize {
        self.free.len()
    }

    /// Adds a region; returns its number.
    pub(in crate::backend::log) fn add(&mut self, entry: Entry<N>) -> u32 {
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::Free);
            self.views.push(View::NONE);
            u32::try_from(self.slots.len() - 1).unwrap_or_else(|_| no_region())
        });
        if !matches!(self.replace(id, Slot::In(entry)), Slot::Free) {
            broken("a free number has no region");
        }
        id
    }

    /// Takes a region out, if it is there. Its number stays reserved until [`RegionTable::release`].
    pub(in crate::backend::log) fn take(&mut self, id: u32) -> Option<Entry<N>> {
        match self.replace(id, Slot::Out) {
            Slot::In(entry) => Some(entry),
            Slot::Free | Slot::Out => None,
        }
    }

    /// Puts a region under the number that it was taken out from.
    pub(in crate::backend::log) fn put_back(&mut self, id: u32, entry: Entry<N>) {
        if !matches!(self.replace(id, Slot::In(entry)), Slot::Out) {
            broken("a region comes back after it was taken out");
        }
    }

    /// Frees the number of a region that was taken out.
    pub(in crate::backend::log) fn release(&mut self, id: u32) {
        if !matches!(self.replace(id, Slot::Free), Slot::Out) {
            broken("a number is freed after its region is taken out");
        }
        self.free.push(id);
    }

    /// Replaces what stands under a number; returns what stood there.
    fn replace(&mut self, id: u32, new: Slot<N>) -> Slot<N> {
        let (Some(view), Some(slot)) = (self.views.get_mut(id as usize), self.slots.get_mut(id as usize)) else {
            no_region()
        };
        *view = match &new {
            Slot::In(entry) => View::of(&entry.residence),
            Slot::Free | Slot::Out => View::NONE,
        };
        std::mem::replace(slot, new)
    }

    /// Returns the region with this number; `None` if it was taken out, or there is none.
    #[inline]
    pub(in crate::backend::log) fn get(&self, id: u32) -> Option<&Entry<N>> {
        match self.slots.get(id as usize) {
            Some(Slot::In(entry)) => Some(entry),
            _ => None,
        }
    }

    /// As [`RegionTable::get`], for its notes.
    #[inline]
    pub(in crate::backend::log) fn notes_mut(&mut self, id: u32) -> Option<&mut N> {
        match self.slots.get_mut(id as usize) {
            Some(Slot::In(entry)) => Some(&mut entry.notes),
            _ => None,
        }
    }

    /// Returns whether a region was taken out, and its number is still reserved.
    pub(in crate::backend::log) fn is_out(&self, id: u32) -> bool {
        matches!(self.slots.get(id as usize), Some(Slot::Out))
    }

    /// Returns the bytes from an offset on to the end of a region's memory; `None` without a region, beyond its end, or if
    /// it lies on disk.
    #[inline(always)]
    pub(in crate::backend::log) fn bytes(&self, id: u32, offset: u32) -> Option<&[u8]> {
        let view = self.views.get(id as usize)?;
        if offset >= view.len {
            return None;
        }
        // SAFETY: the view has bytes, so it is of an entry in memory: that entry's storage has `len` bytes from `start` on,
        // and `offset` lies among them. They are borrowed as long as `self`: sealed parts may share a frozen region, but
        // only `demote` frees its memory.
        Some(unsafe { slice::from_raw_parts(view.start.as_ptr().add(offset as usize), (view.len - offset) as usize) })
    }

    /// As [`RegionTable::bytes`], for changes; `None` also if the region is not the tail's.
    #[inline(always)]
    pub(in crate::backend::log) fn tail_bytes(&mut self, id: u32, offset: u32) -> Option<&mut [u8]> {
        let view = self.views.get(id as usize)?;
        if offset >= view.tail_len {
            return None;
        }
        let (start, len) = (view.start.as_ptr(), (view.tail_len - offset) as usize);
        // SAFETY: as in `bytes`; a tail's entry owns its storage alone, and the borrow of `self` is unique.
        Some(unsafe { slice::from_raw_parts_mut(start.add(offset as usize), len) })
    }

    /// Appends `len` bytes to a region that is not frozen and has room; returns them for writing, and their offset.
    #[inline]
    pub(in crate::backend::log) fn append(&mut self, id: u32, len: usize) -> (&mut [u8], usize) {
        let Some(Slot::In(entry)) = self.slots.get_mut(id as usize) else { no_region() };
        let chunk = entry.residence.chunk_mut();
        let offset = chunk.len();
        (chunk.append(len), offset)
    }

    /// As [`RegionTable::append`], a copy of bytes of another region.
    pub(in crate::backend::log) fn append_copy(
        &mut self,
        id: u32,
        from: u32,
        bytes: Range<usize>,
    ) -> (&mut [u8], usize) {
        let Ok([Slot::In(to), Slot::In(from)]) = self.slots.get_disjoint_mut([id as usize, from as usize]) else {
            no_region()
        };
        let chunk = to.residence.chunk_mut();
        let (offset, copy) = (chunk.len(), chunk.append(bytes.len()));
        match from.bytes().ok().as_deref().and_then(|from| from.get(bytes)) {
            Some(bytes) => copy.copy_from_slice(bytes),
            None => broken("a copied record lies within its region, in memory"),
        }
        (copy, offset)
    }

    /// Changes the capacity of a region that is not frozen.
    pub(in crate::backend::log) fn resize(&mut self, id: u32, capacity: usize, arena: &Arena) {
        let Some(mut entry) = self.take(id) else { no_region() };
        entry.chunk_mut().resize(capacity, arena);
        self.put_back(id, entry);
    }

    /// Freezes a region; returns its records.
    pub(in crate::backend::log) fn freeze(&mut self, id: u32) -> Arc<Frozen> {
        let Some(Entry { residence, notes }) = self.take(id) else { no_region() };
        let residence = residence.into_frozen();
        let (Residence::Frozen(frozen) | Residence::OnDisk(frozen, _)) = &residence else { no_region() };
        let shared = Arc::clone(frozen);
        self.put_back(id, Entry { residence, notes });
        shared
    }

    /// Moves a region in memory to the disk, freezing it. After an error it is frozen and in memory.
    ///
    /// # Errors
    /// As [`DiskTier::write`].
    pub(in crate::backend::log) fn demote(&mut self, id: u32, disk: &DiskTier, budget: &MemoryBudget) -> Result<()> {
        let frozen = self.freeze(id);
        let extent = frozen.write_to(disk, Self::OVERHEAD_BYTES, budget)?;
        let held = Held { memory: extent.held_bytes(), disk: extent.disk_bytes() };
        let Some(Entry { notes, .. }) = self.take(id) else { no_region() };
        // The view is gone: now the memory may go.
        frozen.move_to(extent);
        self.put_back(id, Entry { residence: Residence::OnDisk(frozen, held), notes });
        Ok(())
    }

    /// Reads the bytes of a region on disk from an offset on: at least `len`, if there are as many.
    ///
    /// # Errors
    /// As [`Frozen::bytes`].
    pub(in crate::backend::log) fn read_from(
        &self,
        id: u32,
        offset: u32,
        len: usize,
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        match self.get(id).map(Entry::residence) {
            Some(Residence::OnDisk(frozen, _)) => frozen.read_from(offset as usize, len, bytes),
            _ => no_region(),
        }
    }

    /// Announces a read of `len` bytes of a region from an offset on, if it lies on disk.
    #[cold]
    pub(in crate::backend::log) fn will_read(&self, id: u32, offset: u32, len: usize) {
        if let Some(Residence::OnDisk(frozen, _)) = self.get(id).map(Entry::residence) {
            frozen.will_read(offset as usize, len);
        }
    }

    /// Prefetches a region.
    pub(in crate::backend::log) fn prefetch(&self, id: u32) {
        self.slots.get(id as usize).into_iter().for_each(prefetch);
    }
}

#[cold]
pub(in crate::backend::log) fn no_region() -> ! {
    broken("an address is of a region of its group")
}
