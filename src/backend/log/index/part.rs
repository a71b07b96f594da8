//! Parts: open-addressing hash tables, each with the rows of one range of tags.

use crate::error::broken;

use super::super::arena::{Arena, Storage, Words, prefetch};
use super::cut::Density;
use super::{ADDRESS_BITS, Address};

/// A slot: empty, removed, or a tag and an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot(u64);

impl Slot {
    pub(super) const EMPTY: Self = Self(0);
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
    words: Words<'a>,
    /// The position to look at next, before wrapping.
    at: usize,
    tag: u32,
}

impl<'a> Search<'a> {
    pub(super) fn new(words: Words<'a>, tag: u32) -> Self {
        Self { words, at: tag as usize, tag }
    }

    /// Prefetches the slot that comes next.
    #[inline(always)]
    pub(in crate::backend::log) fn prefetch(&self) {
        prefetch(self.words.get(self.at));
    }

    /// Returns the position and the address of the next slot with the tag; `None` once no further slot can have it.
    #[inline(always)]
    fn next_hit(&mut self) -> Option<(usize, Address)> {
        // Ends: a part has an empty slot, and one without slots looks like an empty slot.
        loop {
            let (at, slot) = (self.at, Slot(*self.words.get(self.at)));
            self.at += 1;
            if slot.tag() == self.tag {
                return Some((self.words.wrapped(at), slot.address()));
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

/// Returns the words of `slots` empty slots: a power of two, or none.
pub(super) fn empty_slots(slots: usize, arena: &Arena) -> Storage<u64> {
    let Some(mut block) = arena.take(slots * size_of::<Slot>()) else {
        return Storage::on_heap(slots);
    };
    block.fill(Slot::EMPTY.0);
    block
}

/// Returns the slots among `words` that are of rows.
pub(super) fn taken_slots(words: &[u64]) -> impl Iterator<Item = Slot> {
    words.iter().copied().map(Slot).filter(|slot| slot.is_taken())
}

/// Points the slot at a position at another record.
pub(super) fn repoint(words: &mut [u64], at: usize, address: Address) {
    match words.get_mut(at).filter(|word| Slot(**word).is_taken()) {
        Some(word) => *word = Slot::new(Slot(*word).tag(), address).0,
        None => broken("a changed entry exists"),
    }
}

/// Counts of the slots of a part. The slots themselves lie in the directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) slots: usize,
    pub(super) taken: usize,
    removed: usize,
    /// The most slots taken or removed. The others stay empty, so that searches are short.
    most: usize,
}

impl Part {
    pub(super) fn new(slots: usize, density: &Density) -> Self {
        Self { slots, taken: 0, removed: 0, most: density.most_of(slots) }
    }

    /// Returns whether one more row needs a resize.
    pub(super) fn is_full(&self) -> bool {
        self.taken + self.removed >= self.most
    }

    /// Adds a slot to the part's words, at its position. There must be room.
    pub(super) fn put(&mut self, words: &mut [u64], slot: Slot) {
        let mask = words.len().wrapping_sub(1);
        let mut positions = (0..words.len()).map(|step| (slot.tag() as usize).wrapping_add(step) & mask);
        let free = positions.find(|at| words.get(*at).is_some_and(|word| !Slot(*word).is_taken()));
        let Some(word) = free.and_then(|at| words.get_mut(at)) else {
            broken("a part has an empty slot for an insertion")
        };
        self.removed -= usize::from(Slot(*word) == Slot::REMOVED);
        self.taken += 1;
        *word = slot.0;
    }

    /// Removes the slot at a position of the part's words.
    pub(super) fn remove(&mut self, words: &mut [u64], at: usize) {
        let next = at.wrapping_add(1) & words.len().wrapping_sub(1);
        // No probe sequence passes a slot that is followed by an empty one.
        let ends = words.get(next).is_some_and(|next| Slot(*next) == Slot::EMPTY);
        let Some(word) = words.get_mut(at).filter(|word| Slot(**word).is_taken()) else {
            broken("a removed entry exists")
        };
        *word = if ends { Slot::EMPTY.0 } else { Slot::REMOVED.0 };
        self.removed += usize::from(!ends);
        self.taken -= 1;
    }

    /// Returns the number of slots for one more row: unchanged if enough slots are of removed rows.
    pub(super) fn slots_for_one_more(&self) -> usize {
        if (self.taken + 1) * 2 <= self.slots { self.slots } else { (self.slots * 2).max(4) }
    }
}
