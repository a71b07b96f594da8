//! Memory of the arena's users: blocks and heap memory behind one kind of pointer.
//!
//! Finding a row reads one word of a part and one record of a region, so the way from their owners to the memory counts.
//! With a match on the kind of memory at both, and a check of the region's state, an `edit` took 202 instructions in place
//! of 191 (`cargo bench --bench pace`, the drawing of the key included).

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;

use super::{BlockAddress, Shared};

/// Numbers that all bit patterns are valid for, and whose alignment is at most that of a block.
pub(in crate::backend::log) trait Plain: Copy + Default + Send + Sync + 'static {}

impl Plain for u8 {}
impl Plain for u64 {}

/// A fixed number of values in memory of their own: a block, or on the heap.
pub(in crate::backend::log) struct Storage<T: Plain> {
    start: NonNull<T>,
    len: usize,
    /// Where a block returns when dropped; `None` on the heap.
    home: Option<Arc<Shared>>,
}

// SAFETY: a storage owns its values, which are plain data; a lock guards the list that a block returns to.
unsafe impl<T: Plain> Send for Storage<T> {}
// SAFETY: a shared reference to a storage gives only read access to its values.
unsafe impl<T: Plain> Sync for Storage<T> {}

impl<T: Plain> Storage<T> {
    /// Returns the storage in a block that nothing else uses.
    pub(super) fn of_block(address: BlockAddress, bytes: usize, home: Arc<Shared>) -> Self {
        let start = address.0.cast::<T>();
        debug_assert!(start.is_aligned(), "blocks start at page boundaries");
        Self { start, len: bytes / size_of::<T>(), home: Some(home) }
    }

    /// Returns where the values lie, as long as the storage lives, wherever it is moved.
    pub(super) fn start(&self) -> NonNull<T> {
        self.start
    }

    /// Returns `len` zeros on the heap.
    pub(in crate::backend::log) fn on_heap(len: usize) -> Self {
        let values: &mut [T] = Box::leak(vec![T::default(); len].into_boxed_slice());
        Self { start: NonNull::from(values).cast(), len, home: None }
    }
}

impl<T: Plain> Deref for Storage<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `start` points at `len` aligned and initialised values that only this storage and the table or directory
        // that owns it reach: those of a block, or of a slice that `on_heap` leaked. They are borrowed as long as `self`.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for Storage<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; the borrow of `self` is unique, and so is that of its values.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> Drop for Storage<T> {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            return home.give_back(BlockAddress(self.start.cast()));
        }
        let values = ptr::slice_from_raw_parts_mut(self.start.as_ptr(), self.len);
        // SAFETY: without a home, `values` is the slice that `on_heap` leaked from a box, and nothing borrows it.
        drop(unsafe { Box::from_raw(values) });
    }
}

impl<T: Plain> fmt::Debug for Storage<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Storage({})", self.len)
    }
}
