//! Blocks of 64 KiB, cut from slabs that lie in huge pages, and reused. Where many groups share little memory, regions lie in
//! smaller blocks of one size: the heap would be left with holes of many sizes.
//!
//! Fresh memory is expensive: the system zeroes a page at its first touch, and with small pages nearly every row of a
//! large state misses the TLB. So the arena keeps returned blocks for the next use, in proportion to the blocks in use;
//! it gives the memory of further ones back to the system and keeps their addresses. When few blocks are kept, another
//! thread touches some ahead.
//!
//! Safety: this module has the crate's only `unsafe` code. It is sound because:
//! - a slab is a private anonymous mapping that only this module knows. It lives as long as `Shared`, which every block
//!   keeps alive;
//! - the address of a block is at any time either in `FreeBlocks` or in one `Storage`, and neither can be cloned. A
//!   slab's own handle serves for its range and for advice, never to touch bytes. So a `Storage`, or the
//!   table or directory that owns it, is the only way to its bytes, and a borrow of the owner is one of the bytes;
//! - a `Storage` on the heap owns the slice that it took from a box;
//! - a `RegionTable` and a `Directory` keep the addresses of storages that they own, and let no other code replace them: an
//!   address and its storage change together; they lend bytes as long as they are borrowed themselves;
//! - sealed parts share frozen regions and read them under a lock. Only their table can free their memory, by moving them to
//!   the disk. That needs a unique borrow of the table, so no reference to the bytes exists, and it clears the address first;
//! - the system zeroes a mapping, and all bit patterns of bytes and words are valid: so bytes are always initialised.
#![expect(unsafe_code, reason = "see above; `cargo bench --bench backend_ops` measures its gain")]

mod chunk;
mod directory;
mod frozen;
mod storage;
mod table;

use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use memmap2::MmapMut;

use crate::error::broken;
use crate::memory::{Charge, MemoryBudget};

use super::warmer::Warmer;

pub(super) use self::chunk::Chunk;
pub(super) use self::directory::{Directory, Words};
pub(super) use self::frozen::{Frozen, RegionBytes};
pub(super) use self::storage::{Plain, Storage};
pub(super) use self::table::{Entry, RegionTable, Residence, no_region};

pub(super) const BLOCK_BYTES: usize = 64 * 1024;

/// Before state goes to the disk, a group has room for so many regions, unless they would be smaller than
/// `SMALL_REGION_BYTES`.
const REGIONS_BEFORE_DISK: u64 = 16;
const SMALL_REGION_BYTES: usize = 16 * 1024;

/// Before state goes to the disk, this much must be allowed for huge pages: they round up what each arena takes.
const HUGE_PAGES_BYTES: u64 = 256 << 20;

/// Bytes of the smallest page that a system zeroes at once.
const PAGE_BYTES: usize = 4096;

/// Bytes of a slab: as many as all slabs before it, within these limits.
const SLAB_BYTES_MIN: usize = 4 << 20;
const SLAB_BYTES_MAX: usize = 64 << 20;

/// Blocks kept for the next use: a share of those in use (1 of `KEPT_DIVISOR`), plus `KEPT_MIN`. With a disk below, memory is
/// short and the share is smaller.
const KEPT_DIVISOR: usize = 8;
const KEPT_DIVISOR_WITH_DISK: usize = 32;
const KEPT_MIN: usize = 4;

/// Blocks run short when fewer than this are kept, and fewer than one of `SHORT_DIVISOR` in use.
const SHORT_BLOCKS: usize = 8;
const SHORT_DIVISOR: usize = 64;

/// Blocks that the warmer touches at once: half a huge page.
const WARM_BLOCKS: usize = 16;

/// The address of a block that is not in use.
struct BlockAddress(NonNull<u8>);

// SAFETY: no thread uses the memory at an address in `FreeBlocks`.
unsafe impl Send for BlockAddress {}

/// Blocks of one size that are not in use.
struct FreeBlocks {
    block_bytes: usize,
    /// Whether slabs may lie in huge pages.
    huge_pages: bool,
    kept_divisor: usize,
    slabs: Vec<MmapMut>,
    slabs_bytes: usize,
    /// Blocks without memory: never used, or given back to the system.
    unbacked: Vec<BlockAddress>,
    /// Returned blocks, in order of their return: the last is the likeliest to be in a cache.
    kept: Vec<BlockAddress>,
    /// Number of blocks in use.
    in_use: usize,
    /// Charge for kept blocks.
    charge: Charge,
}

impl FreeBlocks {
    /// Takes a block that has no memory yet.
    fn take_unbacked(&mut self) -> Option<BlockAddress> {
        if self.unbacked.is_empty() && !self.grow() {
            return None;
        }
        self.unbacked.pop()
    }

    /// Returns the most blocks to keep.
    fn kept_max(&self) -> usize {
        self.in_use / self.kept_divisor + KEPT_MIN
    }

    /// Returns whether few blocks are kept, and a batch of warmed ones would all be kept.
    fn runs_short(&self) -> bool {
        let few = SHORT_BLOCKS.min(self.in_use / SHORT_DIVISOR);
        self.kept.len() < few && self.kept.len() + WARM_BLOCKS <= self.kept_max()
    }

    /// Maps another slab; returns false if the system refuses.
    fn grow(&mut self) -> bool {
        let bytes = self.slabs_bytes.clamp(SLAB_BYTES_MIN, SLAB_BYTES_MAX);
        let Ok(mut slab) = MmapMut::map_anon(bytes) else { return false };
        // Huge pages are a speed-up only: without them all stays correct.
        let advice = if self.huge_pages { memmap2::Advice::HugePage } else { memmap2::Advice::NoHugePage };
        #[cfg(target_os = "linux")]
        drop(slab.advise(advice));
        self.unbacked.extend(
            slab.chunks_exact_mut(self.block_bytes).rev().map(|block| BlockAddress(NonNull::from(block).cast())),
        );
        self.slabs_bytes += bytes;
        self.slabs.push(slab);
        true
    }

    /// Gives back the memory of all kept blocks but `keep`.
    fn release(&mut self, keep: usize) {
        while self.kept.len() > keep {
            let Some(address) = self.kept.pop() else { break };
            self.discard_pages(&address);
            self.unbacked.push(address);
        }
        self.charge.resize((self.kept.len() * self.block_bytes) as u64);
    }

    /// Gives a block's memory back to the system.
    fn discard_pages(&self, address: &BlockAddress) {
        let at = address.0.as_ptr().cast_const();
        let slab = self.slabs.iter().find(|slab| slab.as_ptr_range().contains(&at));
        let slab = slab.unwrap_or_else(|| broken("a block lies in one of its arena's slabs"));
        let offset = at.addr() - slab.as_ptr().addr();
        #[cfg(unix)]
        // SAFETY: the block is not in use, so no reference to its bytes exists. Afterwards they are zeros or unchanged.
        drop(unsafe { slab.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, self.block_bytes) });
        #[cfg(not(unix))]
        let _memory_stays = offset;
    }
}

struct Shared {
    free: Mutex<FreeBlocks>,
    block_bytes: usize,
    /// Started when blocks first run short.
    warmer: OnceLock<Warmer>,
}

impl Shared {
    fn new(block_bytes: usize, budget: &MemoryBudget) -> Arc<Self> {
        let (slabs, unbacked, kept) = (Vec::new(), Vec::new(), Vec::new());
        let huge_pages = budget.bytes_before_disk() >= HUGE_PAGES_BYTES;
        let free = FreeBlocks {
            block_bytes,
            huge_pages,
            kept_divisor: if budget.disk().is_some() { KEPT_DIVISOR_WITH_DISK } else { KEPT_DIVISOR },
            slabs,
            slabs_bytes: 0,
            unbacked,
            kept,
            in_use: 0,
            charge: budget.charge(0),
        };
        Arc::new(Self { free: Mutex::new(free), block_bytes, warmer: OnceLock::new() })
    }

    fn free(&self) -> MutexGuard<'_, FreeBlocks> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the block at an address that was just removed from the free blocks.
    fn block<T: Plain>(self: &Arc<Self>, address: BlockAddress) -> Storage<T> {
        Storage::of_block(address, self.block_bytes, Arc::clone(self))
    }

    /// Takes back a block that is no longer in use.
    fn give_back(&self, address: BlockAddress) {
        let mut free = self.free();
        free.kept.push(address);
        free.in_use -= 1;
        let keep = free.kept_max();
        free.release(keep);
    }

    /// Touches blocks without memory if kept ones run short, so that the next use need not wait while the system zeroes
    /// their pages.
    fn warm(self: &Arc<Self>) {
        let mut free = self.free();
        if !free.runs_short() {
            return;
        }
        let unbacked: Vec<Storage<u8>> =
            (0..WARM_BLOCKS).map_while(|_| free.take_unbacked()).map(|address| self.block(address)).collect();
        free.in_use += unbacked.len();
        drop(free);
        for mut block in unbacked {
            block.iter_mut().step_by(PAGE_BYTES).for_each(|byte| *byte = 0);
        }
    }

    /// Has the warmer thread call [`Shared::warm`].
    fn wake_warmer(self: &Arc<Self>) {
        let warmer = self.warmer.get_or_init(|| {
            let shared = Arc::downgrade(self);
            Warmer::start(move || shared.upgrade().into_iter().for_each(|shared| shared.warm()))
        });
        warmer.wake();
    }
}

/// A source of blocks. Clones share it.
#[derive(Clone)]
pub(super) struct Arena {
    shared: Arc<Shared>,
    /// Blocks for regions, where they are smaller.
    small: Arc<OnceLock<Arc<Shared>>>,
    budget: MemoryBudget,
    /// Whether it hands out blocks; if not, everything is allocated on the heap.
    has_blocks: bool,
}

impl Arena {
    /// Returns an arena that charges `budget` for kept blocks. Blocks in use are charged by their users.
    pub(super) fn new(budget: &MemoryBudget) -> Self {
        Self {
            shared: Shared::new(BLOCK_BYTES, budget),
            small: Arc::default(),
            budget: budget.clone(),
            has_blocks: true,
        }
    }

    /// Returns an arena without blocks: all memory comes from the global allocator.
    pub(super) fn without_blocks(budget: &MemoryBudget) -> Self {
        Self { has_blocks: false, ..Self::new(budget) }
    }

    /// Makes regions small enough for `groups` groups that may have to share little memory: each fills one for its tail and
    /// one for the disk. Only the first call decides.
    pub(super) fn serve_groups(&self, groups: usize) {
        let share = self.budget.bytes_before_disk() / (REGIONS_BEFORE_DISK * groups.max(1) as u64);
        let share = usize::try_from(share).unwrap_or(BLOCK_BYTES).clamp(SMALL_REGION_BYTES, BLOCK_BYTES);
        if share < BLOCK_BYTES && groups > 0 {
            self.small.get_or_init(|| Shared::new(1 << share.ilog2(), &self.budget));
        }
    }

    fn sources(&self) -> impl Iterator<Item = &Arc<Shared>> {
        [&self.shared].into_iter().chain(self.small.get())
    }

    /// Returns the source of blocks of a size.
    fn source_of(&self, bytes: usize) -> Option<&Arc<Shared>> {
        if !self.has_blocks {
            return None;
        }
        self.sources().find(|source| source.block_bytes == bytes)
    }

    /// Returns the most bytes of a region of several records.
    #[inline]
    pub(super) fn region_bytes(&self) -> usize {
        self.small.get().map_or(BLOCK_BYTES, |small| small.block_bytes)
    }

    /// Returns the budget for everything allocated from the arena.
    pub(super) fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    /// Returns the bytes of kept blocks.
    pub(super) fn free_bytes(&self) -> u64 {
        self.sources().map(|source| source.free().charge.bytes()).sum()
    }

    /// Returns a block of arbitrary content; `None` if the system has no memory or the arena no blocks of this size.
    pub(super) fn take<T: Plain>(&self, bytes: usize) -> Option<Storage<T>> {
        let source = self.source_of(bytes)?;
        let mut free = source.free();
        let address = match free.kept.pop() {
            Some(address) => address,
            None => free.take_unbacked()?,
        };
        free.in_use += 1;
        let kept = free.kept.len();
        free.release(kept);
        let short = free.runs_short();
        drop(free);
        if short && self.budget.has_room((2 * WARM_BLOCKS * BLOCK_BYTES) as u64) {
            source.wake_warmer();
        }
        Some(source.block(address))
    }

    /// Gives back the memory of all kept blocks.
    pub(super) fn release(&self) {
        self.sources().for_each(|source| source.free().release(0));
    }

    /// Returns how many more bytes an allocation of `capacity` bytes holds: none if a kept block serves it.
    pub(super) fn growth_bytes(&self, capacity: usize) -> u64 {
        let is_kept = |source: &Arc<Shared>| source.free().charge.bytes() > 0;
        if self.source_of(capacity).is_some_and(is_kept) { 0 } else { capacity as u64 }
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let free = self.shared.free();
        let (kept, in_use) = (free.kept.len(), free.in_use);
        f.debug_struct("Arena").field("bytes", &free.slabs_bytes).field("kept", &kept).field("in_use", &in_use).finish()
    }
}

/// Bytes of a cache line.
pub(super) const LINE_BYTES: usize = 64;

/// Prefetches the cache lines of the first `length` bytes, at most three.
#[inline(always)]
pub(super) fn prefetch_lines(bytes: &[u8], length: usize) {
    let last = length.saturating_sub(1);
    #[cfg(target_arch = "x86_64")]
    for offset in [0, LINE_BYTES.min(last), (2 * LINE_BYTES).min(last)] {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch never faults, whatever its address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().cast::<i8>().wrapping_add(offset)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _no_hint = (bytes, last);
}

/// Prefetches `data` into the cache: a hint, which neither waits nor reads.
#[inline]
pub(super) fn prefetch<T>(data: &T) {
    #[cfg(target_arch = "x86_64")]
    for offset in (0..size_of::<T>()).step_by(LINE_BYTES) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch never faults, whatever its address; this one lies within `data`.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(data).cast::<i8>().wrapping_add(offset)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _no_hint = data;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_do_not_overlap_and_are_reused() {
        // Room for kept blocks, but not for warming.
        let budget = MemoryBudget::new((WARM_BLOCKS * BLOCK_BYTES) as u64);
        let arena = Arena::new(&budget);
        let blocks = SLAB_BYTES_MIN / BLOCK_BYTES * 5 / 2;
        let mut taken: Vec<_> = (0..blocks).map(|_| arena.take::<u64>(BLOCK_BYTES).unwrap()).collect();
        for (n, block) in taken.iter_mut().enumerate() {
            assert!(block.iter().all(|word| *word == 0), "zeros at first");
            block.fill(n as u64 + 1);
        }
        for (n, block) in taken.iter().enumerate() {
            assert!(block.len() == BLOCK_BYTES / 8 && block.iter().all(|word| *word == n as u64 + 1));
        }
        assert_eq!((budget.held_bytes(), arena.growth_bytes(BLOCK_BYTES)), (0, BLOCK_BYTES as u64));
        let other = arena.clone();
        std::thread::spawn(move || drop((taken, other))).join().unwrap();
        assert_eq!((budget.held_bytes(), arena.growth_bytes(BLOCK_BYTES)), ((KEPT_MIN * BLOCK_BYTES) as u64, 0));
        let reused: Vec<_> = (0..blocks).map(|_| arena.take::<u8>(BLOCK_BYTES).unwrap()).collect();
        let kept = reused.iter().filter(|block| block.len() == BLOCK_BYTES && block[..8] != [0; 8]).count();
        assert_eq!((kept, budget.held_bytes()), (KEPT_MIN, 0), "the memory of other blocks was given back");
        drop(reused);
        arena.release();
        assert_eq!((arena.free_bytes(), budget.held_bytes()), (0, 0));
        let mut reused = arena.take::<u64>(BLOCK_BYTES).unwrap();
        reused[7] = 7;
        drop(arena);
        assert_eq!(reused[7], 7, "a block keeps its slab");
        drop(reused);
        assert_eq!(budget.held_bytes(), 0);
    }

    #[test]
    fn short_blocks_are_warmed() {
        let enough = (WARM_BLOCKS - KEPT_MIN) * KEPT_DIVISOR;
        // One byte too little for warming, so no thread starts.
        let budget = MemoryBudget::new((2 * WARM_BLOCKS * BLOCK_BYTES - 1) as u64);
        let arena = Arena::new(&budget);
        let mut taken: Vec<_> = (1..enough).map(|_| arena.take::<u8>(BLOCK_BYTES).unwrap()).collect();
        arena.shared.warm();
        assert_eq!(arena.free_bytes(), 0, "a small state needs no warming");
        taken.push(arena.take(BLOCK_BYTES).unwrap());
        for _ in 0..2 {
            arena.shared.warm();
            assert_eq!(arena.free_bytes(), (WARM_BLOCKS * BLOCK_BYTES) as u64, "one batch is enough");
        }
        assert_eq!(budget.held_bytes(), arena.free_bytes());
        taken.push(arena.take(BLOCK_BYTES).unwrap());
        assert_eq!(arena.free_bytes(), ((WARM_BLOCKS - 1) * BLOCK_BYTES) as u64, "warmed blocks are used first");
        assert!(arena.shared.warmer.get().is_none());

        let arena = Arena::new(&MemoryBudget::new(u64::MAX));
        taken.extend((1..enough).map(|_| arena.take::<u8>(BLOCK_BYTES).unwrap()));
        assert!(arena.shared.warmer.get().is_none(), "a small state needs no thread");
        taken.push(arena.take(BLOCK_BYTES).unwrap());
        assert!(arena.shared.warmer.get().is_some());
    }
}
