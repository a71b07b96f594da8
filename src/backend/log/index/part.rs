//! Parts: open-addressing hash tables, each with the rows of one range of tags.

use crate::error::broken;

use super::super::arena::{Arena, Storage, prefetch};
use super::{ADDRESS_BITS, Address, DEPTH_MAX, PART_SLOTS};

/// A slot: empty, removed, or a tag and an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot(u64);

impl Slot {
    const EMPTY: Self = Self(0);
    /// The row is gone, but searches for other rows must probe past its slot. No address is 1: regions count from 1.
    const REMOVED: Self = Self(1);

    pub(super) fn new(tag: u32, address: Address) -> Self {
        Self(u64::from(tag) << ADDRESS_BITS | address.0)
    }

    #[inline]
    pub(super) fn is_taken(self) -> bool {
        self.0 > Self::REMOVED.0
    }

    #[inline]
    pub(super) fn tag(self) -> u32 {
        (self.0 >> ADDRESS_BITS) as u32
    }

    #[inline]
    pub(super) fn address(self) -> Address {
        Address(self.0 & ((1 << ADDRESS_BITS) - 1))
    }
}

/// A search for a tag: its own slot first, then those that follow, up to an empty one.
#[derive(Debug, Clone, Copy)]
pub(in crate::backend::log) struct Search<'a> {
    words: &'a [u64],
    /// The next position, without the part's mask.
    at: usize,
    tag: u32,
}

impl<'a> Search<'a> {
    /// Prefetches the slot that comes next.
    #[inline(always)]
    pub(in crate::backend::log) fn prefetch(&self) {
        self.words.get(self.at & self.words.len().wrapping_sub(1)).into_iter().for_each(prefetch);
    }

    /// Returns the position and the address of the next slot with the tag; `None` once no further slot can have it.
    #[inline(always)]
    fn next_hit(&mut self) -> Option<(usize, Address)> {
        let mask = self.words.len().wrapping_sub(1);
        // Ends: a part has an empty slot, or no slots.
        loop {
            let at = self.at & mask;
            let slot = Slot(*self.words.get(at)?);
            self.at = at + 1;
            if slot.tag() == self.tag {
                return Some((at, slot.address()));
            }
            if slot == Slot::EMPTY {
                return None;
            }
        }
    }

    /// Returns the address of the first slot with the tag: no other has it, nearly always.
    #[inline(always)]
    pub(in crate::backend::log) fn first_hit(mut self) -> Option<Address> {
        self.next_hit().map(|(_, address)| address)
    }

    /// Returns the positions and addresses of all slots with the tag.
    #[inline(always)]
    pub(in crate::backend::log) fn hits(mut self) -> impl Iterator<Item = (usize, Address)> + use<'a> {
        std::iter::from_fn(move || self.next_hit())
    }
}

/// The slots of a part: a power of two, or none.
#[derive(Debug)]
pub(super) struct PartSlots(Storage<u64>);

impl PartSlots {
    /// Returns `slots` empty slots.
    pub(super) fn new(slots: usize, arena: &Arena) -> Self {
        let Some(mut block) = (if slots == PART_SLOTS { arena.take() } else { None }) else {
            return Self(Storage::on_heap(slots));
        };
        block.fill(Slot::EMPTY.0);
        Self(block)
    }

    #[inline]
    pub(super) fn words(&self) -> &[u64] {
        &self.0
    }

    #[inline]
    pub(super) fn words_mut(&mut self) -> &mut [u64] {
        &mut self.0
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.words().len()
    }

    #[inline]
    pub(super) fn get(&self, at: usize) -> Slot {
        match self.words().get(at) {
            Some(word) => Slot(*word),
            None => no_slot(),
        }
    }

    pub(super) fn set(&mut self, at: usize, slot: Slot) {
        match self.words_mut().get_mut(at) {
            Some(word) => *word = slot.0,
            None => no_slot(),
        }
    }
}

#[cold]
fn no_slot() -> ! {
    broken("a part has the slots of its probe sequences")
}

/// The rows whose tags share their top `depth` bits.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) slots: PartSlots,
    pub(super) taken: usize,
    removed: usize,
    pub(super) depth: u32,
}

impl Part {
    pub(super) fn new(slots: usize, depth: u32, arena: &Arena) -> Self {
        Self { slots: PartSlots::new(slots, arena), taken: 0, removed: 0, depth }
    }

    /// Returns whether one more row needs a resize. A quarter of the slots stays empty, so that searches are short.
    pub(super) fn is_full(&self) -> bool {
        (self.taken + self.removed + 1) * 4 > self.slots.len() * 3
    }

    /// Returns the probe sequence of a tag.
    #[inline]
    pub(super) fn positions(&self, tag: u32) -> impl Iterator<Item = usize> + use<> {
        let mask = self.slots.len().wrapping_sub(1);
        (0..self.slots.len()).map(move |step| (tag as usize).wrapping_add(step) & mask)
    }

    /// Returns a search for this tag.
    #[inline(always)]
    pub(super) fn search(&self, tag: u32) -> Search<'_> {
        Search { words: self.slots.words(), at: tag as usize, tag }
    }

    /// Adds a slot at its position. There must be room.
    pub(super) fn put(&mut self, slot: Slot) {
        let mut positions = self.positions(slot.tag()).map(|at| (at, self.slots.get(at)));
        let Some((at, before)) = positions.find(|(_, slot)| !slot.is_taken()) else {
            broken("a part has an empty slot for an insertion")
        };
        self.removed -= usize::from(before == Slot::REMOVED);
        self.taken += 1;
        self.slots.set(at, slot);
    }

    pub(super) fn remove(&mut self, at: usize) {
        if !self.slots.get(at).is_taken() {
            broken("a removed entry exists");
        }
        let next = at.wrapping_add(1) & self.slots.len().wrapping_sub(1);
        // No probe sequence passes a slot that is followed by an empty one.
        let ends = self.slots.get(next) == Slot::EMPTY;
        self.slots.set(at, if ends { Slot::EMPTY } else { Slot::REMOVED });
        self.removed += usize::from(!ends);
        self.taken -= 1;
    }

    pub(super) fn taken(&self) -> impl Iterator<Item = Slot> {
        self.slots.words().iter().copied().map(Slot).filter(|slot| slot.is_taken())
    }

    /// Moves all rows to `slots` new slots, which drops the removed ones.
    pub(super) fn resize(&mut self, slots: usize, arena: &Arena) {
        let old = std::mem::replace(self, Self::new(slots, self.depth, arena));
        old.taken().for_each(|slot| self.put(slot));
    }

    /// Returns the number of slots for one more row: unchanged if enough slots are of removed rows.
    pub(super) fn slots_for_one_more(&self) -> usize {
        if (self.taken + 1) * 2 <= self.slots.len() { self.slots.len() } else { (self.slots.len() * 2).max(4) }
    }

    /// Returns whether the part must split instead of growing.
    pub(super) fn is_largest(&self) -> bool {
        self.slots_for_one_more() > PART_SLOTS && self.depth < DEPTH_MAX
    }
}
