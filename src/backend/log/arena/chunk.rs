//! Chunks: the memory of a region, in a block if it has a block's size, else on the heap.

use std::fmt;
use std::ops::Deref;

use crate::error::broken;
use crate::memory::Charge;

use super::{Arena, Storage};

/// Appended bytes, and room for more. They are charged to the arena's budget.
pub(in crate::backend::log) struct Chunk {
    pub(super) storage: Storage<u8>,
    len: usize,
    charge: Charge,
}

impl Chunk {
    /// * `overhead`: what the chunk's owner spends on it, in bytes.
    pub(in crate::backend::log) fn new(capacity: usize, overhead: u64, arena: &Arena) -> Self {
        let storage = storage(capacity, arena);
        let charge = arena.budget().charge(overhead + storage.len() as u64);
        Self { storage, len: 0, charge }
    }

    pub(in crate::backend::log) fn capacity(&self) -> usize {
        self.storage.len()
    }

    /// Returns the bytes of memory held.
    pub(in crate::backend::log) fn held_bytes(&self) -> u64 {
        self.charge.bytes()
    }

    /// Changes the capacity to `capacity` bytes, at least the length.
    pub(in crate::backend::log) fn resize(&mut self, capacity: usize, arena: &Arena) {
        let overhead = self.held_bytes() - self.capacity() as u64;
        let mut storage = storage(capacity, arena);
        match storage.get_mut(..self.len) {
            Some(bytes) => bytes.copy_from_slice(self),
            None => no_room(),
        }
        self.storage = storage;
        self.charge.resize(overhead + self.capacity() as u64);
    }

    /// Appends `len` bytes of arbitrary content and returns them for writing. There must be room.
    pub(in crate::backend::log) fn append(&mut self, len: usize) -> &mut [u8] {
        let start = self.len;
        self.len += len;
        match self.storage.get_mut(start..self.len) {
            Some(bytes) => bytes,
            None => no_room(),
        }
    }
}

fn storage(capacity: usize, arena: &Arena) -> Storage<u8> {
    arena.take(capacity).unwrap_or_else(|| Storage::on_heap(capacity))
}

/// The appended bytes.
impl Deref for Chunk {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self.storage.get(..self.len) {
            Some(bytes) => bytes,
            None => no_room(),
        }
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} of {} bytes)", self.len, self.capacity())
    }
}

#[cold]
fn no_room() -> ! {
    broken("a chunk has room for appended bytes")
}
