//! Memory in blocks of 64 KiB, cut from slabs that lie in huge pages, and used again and again.
//!
//! Fresh memory is what costs: a page is zeroed when it is touched first, and a table of small pages is missed at nearly
//! every row of a large state. So blocks that come back are kept for the next, as far as that is in proportion; the memory
//! of others goes back to the system, and their addresses stay. Where few are kept, another thread touches some ahead.
//!
//! Safety: this module has the crate's only `unsafe` code, and this is why it is sound.
//! - A slab is a private mapping of memory that nothing else knows. It lives as long as `Shared`, which each block keeps
//!   alive.
//! - The address of a block is at any time either in `Free` or in one `Block`, which is no copy: so a `Block` is the only
//!   way to its bytes, and borrows of them are borrows of it.
//! - Bytes are initialised from the start, by the system, and every value of a byte is one.
#![expect(unsafe_code, reason = "see above; `cargo bench --bench backend_ops` shows what it is worth")]

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use memmap2::MmapMut;

use crate::error::broken;
use crate::memory::{Charge, MemoryBudget};

use super::warmer::Warmer;

/// Bytes of a block.
pub(super) const BLOCK_BYTES: usize = 64 * 1024;

/// Bytes of the smallest page that a system clears at once.
const PAGE_BYTES: usize = 4096;

/// The least and the most bytes of a slab: as many as there are, within these.
const SLAB_BYTES_MIN: usize = 4 << 20;
const SLAB_BYTES_MAX: usize = 64 << 20;

/// How many blocks are kept for the next use: this part of those in use, and so many besides.
const KEPT_PART: usize = 8;
const KEPT_LEAST: usize = 4;

/// Fewer blocks than this that are kept are few, and so is less than this part of those in use.
const FEW: usize = 8;
const FEW_PART: usize = 64;

/// How many blocks are made ready at once: half a huge page.
const AHEAD: usize = 16;

/// The address of a block that nobody uses.
struct Address(NonNull<u8>);

// SAFETY: an address in `Free` is that of memory that no thread uses.
unsafe impl Send for Address {}

/// Blocks that nobody uses.
struct Free {
    slabs: Vec<MmapMut>,
    slabs_bytes: usize,
    /// Blocks without memory: never used, or given back to the system.
    bare: Vec<Address>,
    /// Blocks that came back, the last one last: the likeliest to be in a cache.
    kept: Vec<Address>,
    /// Blocks in use.
    taken: usize,
    /// For those that are kept.
    charge: Charge,
}

impl Free {
    /// Takes the address of a block that has no memory yet.
    fn take_bare(&mut self) -> Option<Address> {
        if self.bare.is_empty() && !self.grow() {
            return None;
        }
        self.bare.pop()
    }

    /// Returns how many blocks are kept at most.
    fn most_kept(&self) -> usize {
        self.taken / KEPT_PART + KEPT_LEAST
    }

    /// Returns whether so few are kept that others should be made ready, which will all be kept.
    fn runs_short(&self) -> bool {
        let few = FEW.min(self.taken / FEW_PART);
        self.kept.len() < few && self.kept.len() + AHEAD <= self.most_kept()
    }

    /// Maps another slab; false if the system has none.
    fn grow(&mut self) -> bool {
        let bytes = self.slabs_bytes.clamp(SLAB_BYTES_MIN, SLAB_BYTES_MAX);
        let Ok(mut slab) = MmapMut::map_anon(bytes) else { return false };
        // It is as good without, only slower.
        #[cfg(target_os = "linux")]
        drop(slab.advise(memmap2::Advice::HugePage));
        self.bare.extend(slab.chunks_exact_mut(BLOCK_BYTES).rev().map(|block| Address(NonNull::from(block).cast())));
        self.slabs_bytes += bytes;
        self.slabs.push(slab);
        true
    }

    /// Gives back the memory of all but `most` of the blocks that are kept.
    fn release(&mut self, most: usize) {
        while self.kept.len() > most {
            let Some(address) = self.kept.pop() else { break };
            self.forget(&address);
            self.bare.push(address);
        }
        self.charge.resize((self.kept.len() * BLOCK_BYTES) as u64);
    }

    /// Tells the system that a block's memory is not needed.
    fn forget(&self, address: &Address) {
        let at = address.0.as_ptr().cast_const();
        let slab = self.slabs.iter().find(|slab| slab.as_ptr_range().contains(&at));
        let slab = slab.unwrap_or_else(|| broken("a block lies in one of its arena's slabs"));
        let offset = at.addr() - slab.as_ptr().addr();
        #[cfg(unix)]
        // SAFETY: nobody uses the block's bytes. Afterwards they are zeros or what they were.
        drop(unsafe { slab.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, BLOCK_BYTES) });
        #[cfg(not(unix))]
        let _memory_stays = offset;
    }
}

struct Shared {
    free: Mutex<Free>,
    /// Started when blocks run short for the first time.
    warmer: OnceLock<Warmer>,
}

impl Shared {
    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the block at an address that nobody else has.
    fn block(self: &Arc<Self>, address: Address) -> Block {
        Block { bytes: address.0, shared: Arc::clone(self) }
    }

    /// Touches blocks without memory if others run short, so that whoever takes them next need not wait for the system to
    /// clear their pages.
    fn warm(self: &Arc<Self>) {
        let mut free = self.free();
        if !free.runs_short() {
            return;
        }
        let bare: Vec<_> = (0..AHEAD).map_while(|_| free.take_bare()).map(|address| self.block(address)).collect();
        free.taken += bare.len();
        drop(free);
        for mut block in bare {
            block.words_mut().iter_mut().step_by(PAGE_BYTES / size_of::<u64>()).for_each(|word| *word = 0);
        }
    }

    /// Has another thread do that.
    fn warm_elsewhere(self: &Arc<Self>) {
        let warmer = self.warmer.get_or_init(|| {
            let shared = Arc::downgrade(self);
            Warmer::start(move || shared.upgrade().into_iter().for_each(|shared| shared.warm()))
        });
        warmer.wake();
    }
}

/// Where blocks come from. Clones share it.
#[derive(Clone)]
pub(super) struct Arena {
    shared: Arc<Shared>,
    budget: MemoryBudget,
    /// Whether it has blocks at all; without, all that would lie in them is on the heap.
    has_blocks: bool,
}

impl Arena {
    /// Returns an arena that charges `budget` for blocks that wait to be used again. Others are their users' to charge.
    pub(super) fn new(budget: &MemoryBudget) -> Self {
        let (slabs, bare, kept) = (Vec::new(), Vec::new(), Vec::new());
        let free = Free { slabs, slabs_bytes: 0, bare, kept, taken: 0, charge: budget.charge(0) };
        let shared = Shared { free: Mutex::new(free), warmer: OnceLock::new() };
        Self { shared: Arc::new(shared), budget: budget.clone(), has_blocks: true }
    }

    /// Returns one without blocks: the safe twin of the others.
    pub(super) fn without_blocks(budget: &MemoryBudget) -> Self {
        Self { has_blocks: false, ..Self::new(budget) }
    }

    /// Returns the budget that what is made of its memory is charged to.
    pub(super) fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    /// Returns the bytes of blocks that wait to be used again.
    pub(super) fn free_bytes(&self) -> u64 {
        self.shared.free().charge.bytes()
    }

    /// Returns a block with any content; `None` if the system has no memory, or the arena no blocks.
    pub(super) fn take(&self) -> Option<Block> {
        if !self.has_blocks {
            return None;
        }
        let mut free = self.shared.free();
        let address = match free.kept.pop() {
            Some(address) => address,
            None => free.take_bare()?,
        };
        free.taken += 1;
        let kept = free.kept.len();
        free.release(kept);
        let short = free.runs_short();
        drop(free);
        if short && self.budget.has_room((2 * AHEAD * BLOCK_BYTES) as u64) {
            self.shared.warm_elsewhere();
        }
        Some(self.shared.block(address))
    }

    /// Gives back the memory of all blocks that wait to be used again.
    pub(super) fn release(&self) {
        self.shared.free().release(0);
    }

    /// Returns the bytes that `capacity` more add to what is held: none for a block, if one waits to be used again.
    pub(super) fn growth_bytes(&self, capacity: usize) -> u64 {
        if capacity == BLOCK_BYTES && self.free_bytes() > 0 { 0 } else { capacity as u64 }
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let free = self.shared.free();
        let (kept, taken) = (free.kept.len(), free.taken);
        f.debug_struct("Arena").field("bytes", &free.slabs_bytes).field("kept", &kept).field("taken", &taken).finish()
    }
}

/// A block of memory, which goes back to its arena when it is dropped.
pub(super) struct Block {
    bytes: NonNull<u8>,
    shared: Arc<Shared>,
}

// SAFETY: a block owns its bytes, which are plain data; the list that it goes back to has a lock.
unsafe impl Send for Block {}
// SAFETY: what is shared of a block is its bytes, to be read.
unsafe impl Sync for Block {}

impl Block {
    /// Returns it as words, of which it is a whole number.
    pub(super) fn words(&self) -> &[u64] {
        let words = self.bytes.cast::<u64>();
        debug_assert!(words.is_aligned(), "blocks begin at multiples of their length from a page");
        // SAFETY: the words are exactly the block's bytes, aligned, initialised, and borrowed as the block is.
        unsafe { slice::from_raw_parts(words.as_ptr(), BLOCK_BYTES / size_of::<u64>()) }
    }

    /// As [`Block::words`], to be written.
    pub(super) fn words_mut(&mut self) -> &mut [u64] {
        let words = self.bytes.cast::<u64>();
        debug_assert!(words.is_aligned(), "blocks begin at multiples of their length from a page");
        // SAFETY: as in `words`; the borrow is unique as that of the block is.
        unsafe { slice::from_raw_parts_mut(words.as_ptr(), BLOCK_BYTES / size_of::<u64>()) }
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: a block has so many bytes, initialised, and borrowed as the block is.
        unsafe { slice::from_raw_parts(self.bytes.as_ptr(), BLOCK_BYTES) }
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the borrow is unique as that of the block is.
        unsafe { slice::from_raw_parts_mut(self.bytes.as_ptr(), BLOCK_BYTES) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut free = self.shared.free();
        free.kept.push(Address(self.bytes));
        free.taken -= 1;
        let most = free.most_kept();
        free.release(most);
    }
}

/// Bytes that are appended to: a block's if there are so many, else on the heap.
pub(super) enum Buffer {
    Heap(Vec<u8>),
    Block { block: Block, len: usize },
}

impl Buffer {
    pub(super) fn with_capacity(capacity: usize, arena: &Arena) -> Self {
        match if capacity == BLOCK_BYTES { arena.take() } else { None } {
            Some(block) => Self::Block { block, len: 0 },
            None => Self::Heap(Vec::with_capacity(capacity)),
        }
    }

    pub(super) fn capacity(&self) -> usize {
        match self {
            Self::Heap(bytes) => bytes.capacity(),
            Self::Block { .. } => BLOCK_BYTES,
        }
    }

    /// Makes room for `capacity` bytes in all.
    pub(super) fn grow(&mut self, capacity: usize, arena: &Arena) {
        let mut grown = Self::with_capacity(capacity, arena);
        grown.append(self.len()).copy_from_slice(self);
        *self = grown;
    }

    /// Returns `len` bytes more, of any content, to be written. There must be room.
    pub(super) fn append(&mut self, len: usize) -> &mut [u8] {
        let appended = match self {
            Self::Heap(bytes) => {
                let start = bytes.len();
                bytes.resize(start + len, 0);
                bytes.get_mut(start..)
            }
            Self::Block { block, len: end } => {
                let start = *end;
                *end += len;
                block.get_mut(start..*end)
            }
        };
        match appended {
            Some(bytes) => bytes,
            None => beyond(),
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Block { block, len } => match block.get(..*len) {
                Some(bytes) => bytes,
                None => beyond(),
            },
        }
    }
}

impl DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Block { block, len } => match block.get_mut(..*len) {
                Some(bytes) => bytes,
                None => beyond(),
            },
        }
    }
}

#[cold]
fn beyond() -> ! {
    broken("a block has room for what is appended to it")
}

/// Bytes that a processor fetches at once.
pub(super) const LINE_BYTES: usize = 64;

/// Asks the processor to bring `data` near, soon and without waiting. It reads nothing.
#[inline]
pub(super) fn prefetch<T>(data: &T) {
    #[cfg(target_arch = "x86_64")]
    for offset in (0..size_of::<T>()).step_by(LINE_BYTES) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint about an address, which lies within `data` besides.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(data).cast::<i8>().wrapping_add(offset)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _no_hint = data;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_apart_and_come_back() {
        // With room for what is kept, and for nothing ahead.
        let budget = MemoryBudget::new((AHEAD * BLOCK_BYTES) as u64);
        let arena = Arena::new(&budget);
        let blocks = SLAB_BYTES_MIN / BLOCK_BYTES * 5 / 2;
        let mut taken: Vec<_> = (0..blocks).map(|_| arena.take().unwrap()).collect();
        for (n, block) in taken.iter_mut().enumerate() {
            assert!(block.iter().all(|byte| *byte == 0), "zeros at first");
            block.words_mut().fill(n as u64 + 1);
        }
        for (n, block) in taken.iter().enumerate() {
            assert!(block.words().iter().all(|word| *word == n as u64 + 1));
            assert!(block.chunks_exact(8).all(|bytes| bytes == (n as u64 + 1).to_le_bytes()));
        }
        assert_eq!((budget.held_bytes(), arena.growth_bytes(BLOCK_BYTES)), (0, BLOCK_BYTES as u64));
        let other = arena.clone();
        std::thread::spawn(move || drop((taken, other))).join().unwrap();
        assert_eq!((budget.held_bytes(), arena.growth_bytes(BLOCK_BYTES)), ((KEPT_LEAST * BLOCK_BYTES) as u64, 0));
        let again: Vec<_> = (0..blocks).map(|_| arena.take().unwrap()).collect();
        let kept = again.iter().filter(|block| block.words()[0] != 0).count();
        assert_eq!((kept, budget.held_bytes()), (KEPT_LEAST, 0), "others have no memory of what they were");
        drop(again);
        arena.release();
        assert_eq!((arena.free_bytes(), budget.held_bytes()), (0, 0));
        let mut again = arena.take().unwrap();
        again.words_mut()[7] = 7;
        drop(arena);
        assert_eq!(again.words()[7], 7, "a block keeps its slab");
        drop(again);
        assert_eq!(budget.held_bytes(), 0);
    }

    #[test]
    fn blocks_that_run_short_are_made_ready() {
        let enough = (AHEAD - KEPT_LEAST) * KEPT_PART;
        // There is no room for more, so no thread starts.
        let budget = MemoryBudget::new((2 * AHEAD * BLOCK_BYTES - 1) as u64);
        let arena = Arena::new(&budget);
        let mut taken: Vec<_> = (1..enough).map(|_| arena.take().unwrap()).collect();
        arena.shared.warm();
        assert_eq!(arena.free_bytes(), 0, "a small state needs none");
        taken.push(arena.take().unwrap());
        for _ in 0..2 {
            arena.shared.warm();
            assert_eq!(arena.free_bytes(), (AHEAD * BLOCK_BYTES) as u64, "once is enough");
        }
        assert_eq!(budget.held_bytes(), arena.free_bytes());
        taken.push(arena.take().unwrap());
        assert_eq!(arena.free_bytes(), ((AHEAD - 1) * BLOCK_BYTES) as u64, "those that are ready go first");
        assert!(arena.shared.warmer.get().is_none());

        let arena = Arena::new(&MemoryBudget::new(u64::MAX));
        taken.extend((1..enough).map(|_| arena.take().unwrap()));
        assert!(arena.shared.warmer.get().is_none(), "a small state needs no thread");
        taken.push(arena.take().unwrap());
        assert!(arena.shared.warmer.get().is_some());
    }
}
