//! Space in a file: which parts of it are free.
//!
//! Invariants:
//! - free parts neither overlap nor touch each other, and none touches the end of the used space;
//! - both maps have the same parts.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::broken;

/// Parts begin and end at multiples of this.
pub(super) const UNIT_BYTES: u64 = 512;

/// The free parts of a file that may grow to a limit.
#[derive(Debug)]
pub(super) struct Space {
    /// Where each free part begins, and its length.
    free: BTreeMap<u64, u64>,
    /// The same by length, then position.
    by_length: BTreeSet<(u64, u64)>,
    /// Everything from here on is free.
    end: u64,
    limit: u64,
    taken: u64,
}

impl Space {
    pub(super) fn new(limit: u64) -> Self {
        Self { free: BTreeMap::new(), by_length: BTreeSet::new(), end: 0, limit, taken: 0 }
    }

    /// Returns the bytes that are not free.
    #[cfg(test)]
    pub(super) fn taken_bytes(&self) -> u64 {
        self.taken
    }

    /// Returns where the used space ends: the file need not be longer.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Takes the smallest free part of at least `length` bytes, else space at the end; `None` beyond the limit.
    pub(super) fn take(&mut self, length: u64) -> Option<u64> {
        let length = rounded(length);
        let smallest = self.by_length.range((length, 0)..).next().copied();
        let at = match smallest {
            Some((of_part, at)) => {
                self.remove(at, of_part);
                if of_part > length {
                    self.insert(at + length, of_part - length);
                }
                at
            }
            None => {
                let end = self.end.checked_add(length).filter(|end| *end <= self.limit)?;
                std::mem::replace(&mut self.end, end)
            }
        };
        self.taken += length;
        Some(at)
    }

    /// Gives `length` bytes back that were taken from `at` on.
    pub(super) fn give_back(&mut self, at: u64, length: u64) {
        let mut length = rounded(length);
        self.taken = self.taken.checked_sub(length).unwrap_or_else(|| not_taken());
        let mut at = at;
        if self.free.range(at..).next().is_some_and(|(behind, _)| *behind < at + length) {
            not_taken();
        }
        if let Some((&before, &of_part)) = self.free.range(..at).next_back() {
            if before + of_part > at {
                not_taken();
            }
            if before + of_part == at {
                self.remove(before, of_part);
                (at, length) = (before, of_part + length);
            }
        }
        if let Some(&of_part) = self.free.get(&(at + length)) {
            self.remove(at + length, of_part);
            length += of_part;
        }
        if at + length == self.end { self.end = at } else { self.insert(at, length) }
    }

    fn insert(&mut self, at: u64, length: u64) {
        self.free.insert(at, length);
        self.by_length.insert((length, at));
    }

    fn remove(&mut self, at: u64, length: u64) {
        if self.free.remove(&at).is_none() || !self.by_length.remove(&(length, at)) {
            broken("a free part is in both maps");
        }
    }
}

/// Returns the space that `length` bytes take. Nothing takes a unit, too: parts of no length could not be told apart.
pub(super) fn rounded(length: u64) -> u64 {
    length.max(1).next_multiple_of(UNIT_BYTES)
}

#[cold]
fn not_taken() -> ! {
    broken("only space that was taken is given back")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_never_overlap_and_all_space_comes_back() {
        let (mut space, mut taken) = (Space::new(1 << 20), Vec::<(u64, u64)>::new());
        let mut random = 1u64;
        for step in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let length = 1 + (random >> 33) % 9_000;
            if random >> 60 < if step / 500 % 2 == 0 { 11 } else { 4 } {
                if let Some(at) = space.take(length) {
                    let end = at + rounded(length);
                    assert!(end <= 1 << 20 && taken.iter().all(|(from, of)| end <= *from || from + rounded(*of) <= at));
                    taken.push((at, length));
                } else {
                    assert!(space.taken_bytes() + rounded(length) > 1 << 19, "refused far below the limit");
                }
            } else if !taken.is_empty() {
                let (at, length) = taken.swap_remove((random >> 20) as usize % taken.len());
                space.give_back(at, length);
            }
            let sum: u64 = taken.iter().map(|(_, length)| rounded(*length)).sum();
            assert_eq!(space.taken_bytes(), sum);
            assert_eq!(space.free.len(), space.by_length.len());
        }
        taken.into_iter().for_each(|(at, length)| space.give_back(at, length));
        assert_eq!((space.taken_bytes(), space.end(), space.free.len()), (0, 0, 0));
    }

    #[test]
    fn an_empty_part_takes_space_of_its_own() {
        let mut space = Space::new(1 << 20);
        let taken = [512, 0, 512, 512].map(|length| (space.take(length).unwrap(), length));
        [0, 2, 1, 3].into_iter().for_each(|at: usize| space.give_back(taken[at].0, taken[at].1));
        assert_eq!((space.taken_bytes(), space.end()), (0, 0));
    }

    #[test]
    #[should_panic(expected = "only space that was taken")]
    fn giving_space_back_twice_panics() {
        let mut space = Space::new(1 << 20);
        let (first, _second, third) = (space.take(1), space.take(1), space.take(1));
        space.give_back(first.unwrap(), 1);
        space.give_back(first.unwrap(), 1);
        let _unreached = third;
    }
}
