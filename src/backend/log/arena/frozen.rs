//! Frozen regions, shared with sealed parts: in memory, or on disk since their owner moved them there.
//!
//! The owner reads a region in memory through its table, without a lock; it alone can move it, and forgets its address
//! before. Sealed parts read under the lock, on other threads.

use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use crate::error::{Result, broken};
use crate::memory::{DiskTier, Extent, MemoryBudget};

use super::Chunk;

enum Content {
    Memory(Chunk),
    Disk(Extent),
}

/// The records of a frozen region, which never change.
pub(in crate::backend::log) struct Frozen {
    content: RwLock<Content>,
    len: u32,
    capacity: u32,
    /// Bytes of memory held beyond the capacity while the records lie there.
    overhead: u32,
}

impl Frozen {
    pub(super) fn new(chunk: Chunk) -> Self {
        let overhead = chunk.held_bytes() - chunk.capacity() as u64;
        let (Ok(len), Ok(capacity), Ok(overhead)) =
            (u32::try_from(chunk.len()), u32::try_from(chunk.capacity()), u32::try_from(overhead))
        else {
            broken("a region is shorter than 4 GiB")
        };
        Self { content: RwLock::new(Content::Memory(chunk)), len, capacity, overhead }
    }

    /// Returns the bytes of its records.
    pub(in crate::backend::log) fn len(&self) -> usize {
        self.len as usize
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity as usize
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        u64::from(self.capacity) + u64::from(self.overhead)
    }

    /// Returns the bytes of memory held now.
    pub(in crate::backend::log) fn held_bytes(&self) -> u64 {
        match &*self.content() {
            Content::Memory(chunk) => chunk.held_bytes(),
            Content::Disk(extent) => extent.held_bytes(),
        }
    }

    fn content(&self) -> RwLockReadGuard<'_, Content> {
        self.content.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns where its memory begins, and the bytes of it; valid until [`Frozen::move_to`].
    pub(super) fn memory(&self) -> (NonNull<u8>, usize) {
        match &*self.content() {
            Content::Memory(chunk) => (chunk.storage.start(), chunk.storage.len()),
            Content::Disk(_) => broken("a frozen region of the table lies in memory"),
        }
    }

    /// Writes the records to the disk, and returns the extent.
    pub(super) fn write_to(&self, disk: &DiskTier, overhead: u64, budget: &MemoryBudget) -> Result<Extent> {
        match &*self.content() {
            Content::Memory(chunk) => disk.write(chunk, overhead, budget),
            Content::Disk(_) => broken("a region is written to the disk once"),
        }
    }

    /// Frees the memory, once no sealed part is reading it. Nobody may use the address from [`Frozen::memory`] any more.
    pub(super) fn move_to(&self, extent: Extent) {
        *self.content.write().unwrap_or_else(PoisonError::into_inner) = Content::Disk(extent);
    }

    /// Returns all records, from wherever they lie.
    ///
    /// # Errors
    /// As [`Extent::read`].
    pub(in crate::backend::log) fn bytes(&self) -> Result<RegionBytes<'_>> {
        let content = self.content();
        if let Content::Disk(extent) = &*content {
            let mut bytes = Vec::new();
            extent.read(0..self.len(), &mut bytes)?;
            return Ok(RegionBytes::Read(bytes));
        }
        Ok(RegionBytes::Shared(Locked(content)))
    }

    /// Announces a read of `len` bytes from an offset on, if they lie on disk.
    pub(super) fn will_read(&self, offset: usize, len: usize) {
        if let Content::Disk(extent) = &*self.content() {
            extent.will_read(offset..offset.saturating_add(len).min(self.len()));
        }
    }

    /// Puts the bytes from an offset on into `bytes`, at least `len` of them if there are as many, if they lie on disk.
    pub(super) fn read_from(&self, offset: usize, len: usize, bytes: &mut Vec<u8>) -> Result<()> {
        match &*self.content() {
            Content::Disk(extent) => extent.read(offset..offset.saturating_add(len).min(self.len()), bytes),
            Content::Memory(_) => broken("only regions on disk are read"),
        }
    }
}

impl fmt::Debug for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frozen({} bytes)", self.len)
    }
}

/// The records of a region.
pub(in crate::backend::log) enum RegionBytes<'a> {
    Owned(&'a [u8]),
    Shared(Locked<'a>),
    Read(Vec<u8>),
}

/// A frozen region that stays in memory as long as this lives.
pub(in crate::backend::log) struct Locked<'a>(RwLockReadGuard<'a, Content>);

impl Deref for RegionBytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Read(bytes) => bytes,
            Self::Shared(Locked(content)) => match &**content {
                Content::Memory(chunk) => chunk,
                Content::Disk(_) => broken("a locked region stays where it is"),
            },
        }
    }
}
