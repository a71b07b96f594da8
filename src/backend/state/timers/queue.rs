//! A queue of timers, sorted by due time.
//!
//! ```text
//! front: the first timers, sorted    leaf | leaf | leaf ...    each a range of later timers, unsorted
//! ```
//!
//! An insert appends to a leaf; a leaf is sorted once, when it becomes the front. That saves most of the cost of a tree
//! with sorted nodes or of a heap, and unlike a heap, the queue can find a timer to remove.
//!
//! Invariants:
//! - all timers of the front come before all timers of the leaves; a leaf's timers are at or after its key, and before
//!   the next leaf's key;
//! - the front is empty only if the queue is empty;
//! - no leaf is empty or full; a leaf left small by a removal merges with a neighbour that is not large, so leaves are
//!   at least an eighth full on average, whatever is removed.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use super::timer::Timer;
use crate::error::broken;
use crate::time::Timestamp;

/// Timers in a full leaf: 12 KiB. Chosen by measurement.
const LEAF_TIMERS: usize = 256;

/// A leaf with fewer timers after a removal is small.
const SMALL_LEAF: usize = LEAF_TIMERS / 4;

/// The most timers that two merged leaves may have together.
const MERGED_LEAF: usize = LEAF_TIMERS * 3 / 4;

/// A sorted queue of distinct timers.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// In descending order, so that the first timer pops off the end.
    front: Vec<Timer>,
    /// By lower bound.
    leaves: BTreeMap<Timer, Vec<Timer>>,
    len: usize,
    /// Heap bytes of long timers.
    boxed_bytes: u64,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn first(&self) -> Option<&Timer> {
        self.front.last()
    }

    /// Returns some of the first timers, in order.
    pub(super) fn first_few(&self) -> impl Iterator<Item = &Timer> {
        self.front.iter().rev()
    }

    /// Returns the timers due at `to`, in no particular order.
    pub(super) fn due(&self, to: Timestamp) -> impl Iterator<Item = &Timer> {
        let reached = self.leaves.iter().take_while(move |(start, _)| start.at <= to);
        let leaves = reached.flat_map(|(_, leaf)| leaf);
        self.front.iter().chain(leaves).filter(move |timer| timer.at <= to)
    }

    /// Returns an upper bound of the queue's memory in bytes.
    pub(super) fn held_bytes(&self) -> u64 {
        let leaf = size_of::<(Timer, Vec<Timer>)>() + LEAF_TIMERS * size_of::<Timer>();
        (self.leaves.len() * leaf + self.front.capacity() * size_of::<Timer>()) as u64 + self.boxed_bytes
    }

    /// Adds a timer, which must not be in the queue.
    pub(super) fn insert(&mut self, timer: Timer) {
        self.len += 1;
        self.boxed_bytes += timer.boxed_bytes();
        let Some((start, leaf)) = self.leaves.range_mut(..=&timer).next_back() else { return self.insert_front(timer) };
        leaf.push(timer);
        if leaf.len() == LEAF_TIMERS {
            let start = start.clone();
            self.split(&start);
        }
    }

    fn insert_front(&mut self, timer: Timer) {
        let at = self.front.partition_point(|other| *other > timer);
        self.front.insert(at, timer);
        if self.front.len() == LEAF_TIMERS {
            let upper = self.front.drain(..LEAF_TIMERS / 2);
            let mut leaf = Vec::with_capacity(LEAF_TIMERS);
            leaf.extend(upper.rev());
            self.add_leaf(leaf);
        }
    }

    /// Splits a full leaf in half. If timers arrive in order, the last leaf keeps all but one timer instead.
    fn split(&mut self, start: &Timer) {
        let last = self.leaves.last_key_value().is_some_and(|(key, _)| key == start);
        let Some(leaf) = self.leaves.get_mut(start) else { missing_leaf() };
        let ascending = last && leaf.iter().max() == leaf.last();
        let middle = if ascending { LEAF_TIMERS - 1 } else { LEAF_TIMERS / 2 };
        leaf.select_nth_unstable(middle);
        let mut upper = Vec::with_capacity(LEAF_TIMERS);
        upper.extend(leaf.drain(middle..));
        self.add_leaf(upper);
    }

    /// Adds a leaf; its first timer must be its least.
    fn add_leaf(&mut self, leaf: Vec<Timer>) {
        let Some(start) = leaf.first().cloned() else { missing_leaf() };
        if self.leaves.insert(start, leaf).is_some() {
            broken("a new leaf overlaps no other");
        }
    }

    /// Removes the first timer.
    pub(super) fn pop(&mut self) -> Option<Timer> {
        let timer = self.front.pop()?;
        self.after_removal(&timer);
        Some(timer)
    }

    /// Removes a timer, if the queue has it.
    pub(super) fn remove(&mut self, timer: &Timer) {
        let removed = match self.leaves.range_mut(..=timer).next_back() {
            None => {
                let found = self.front.binary_search_by(|other| timer.cmp(other));
                found.ok().map(|at| self.front.remove(at))
            }
            Some((start, leaf)) => {
                let found = leaf.iter().position(|other| other == timer);
                let removed = found.map(|at| leaf.swap_remove(at));
                if leaf.len() < SMALL_LEAF {
                    let start = start.clone();
                    self.merge(&start);
                }
                removed
            }
        };
        if let Some(removed) = removed {
            self.after_removal(&removed);
        }
    }

    /// Merges a small leaf with a neighbour, if they fit [`MERGED_LEAF`] together; drops an empty leaf.
    fn merge(&mut self, start: &Timer) {
        let Some(small) = self.leaves.get(start).map(Vec::len) else { missing_leaf() };
        let fits = |(_, other): &(&Timer, &Vec<Timer>)| small + other.len() <= MERGED_LEAF;
        let before = self.leaves.range((Unbounded, Excluded(start))).next_back().filter(fits);
        let after = self.leaves.range((Excluded(start), Unbounded)).next().filter(fits);
        let (lower, upper) = match (before, after) {
            _ if small == 0 => return drop(self.leaves.remove(start)),
            (Some((before, _)), _) => (before.clone(), start.clone()),
            (None, Some((after, _))) => (start.clone(), after.clone()),
            (None, None) => return,
        };
        let Some(mut upper) = self.leaves.remove(&upper) else { missing_leaf() };
        let Some(lower) = self.leaves.get_mut(&lower) else { missing_leaf() };
        lower.append(&mut upper);
    }

    /// Returns all timers, in no particular order.
    pub(super) fn into_timers(self) -> impl Iterator<Item = Timer> {
        self.front.into_iter().chain(self.leaves.into_values().flatten())
    }

    /// Updates the counts, and refills an empty front from the first leaf.
    fn after_removal(&mut self, timer: &Timer) {
        self.len -= 1;
        self.boxed_bytes -= timer.boxed_bytes();
        if self.front.is_empty()
            && let Some((_, mut leaf)) = self.leaves.pop_first()
        {
            leaf.sort_unstable_by(|a, b| b.cmp(a));
            self.front = leaf;
        }
    }
}

#[cold]
fn missing_leaf() -> ! {
    broken("a leaf that was found exists and is not empty")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::timer::Parts;
    use super::*;
    use crate::key_group::KeyGroup;
    use crate::time::Timestamp;

    fn timer(at: u64, key: u64) -> Timer {
        let group = KeyGroup(u16::try_from(key % 7).unwrap());
        let parts = Parts { group, key: &key.to_be_bytes(), namespace: &[], routing: None };
        Timer::new(Timestamp::from_millis(at.cast_signed()), parts)
    }

    fn mixed(number: u64) -> u64 {
        let mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ (mixed >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }

    fn check(queue: &Queue) {
        let mut before = queue.front.first();
        assert!(queue.front.is_sorted_by(|a, b| a > b) && queue.front.len() < LEAF_TIMERS);
        for (start, leaf) in &queue.leaves {
            assert!(before < Some(start) && leaf.iter().all(|timer| timer >= start));
            assert!(!leaf.is_empty() && leaf.len() < LEAF_TIMERS && leaf.capacity() <= LEAF_TIMERS);
            before = leaf.iter().max();
        }
        let all = queue.front.len() + queue.leaves.values().map(Vec::len).sum::<usize>();
        assert_eq!(all, queue.len());
        assert_eq!(queue.front.is_empty(), all == 0);
    }

    #[test]
    fn the_queue_is_a_sorted_set_under_any_inserts_and_removals() {
        let orders: [fn(u64) -> u64; 5] =
            [|n| n, |n| (1 << 20) | ((u64::MAX >> 44) - n), |n| mixed(n) >> 40, |_| 5, |n| n % 3];
        for order in orders {
            let (mut queue, mut model) = (Queue::default(), BTreeSet::new());
            for n in 0..4000u64 {
                let new = timer(order(n), n);
                queue.insert(new.clone());
                model.insert(new);
                match mixed(n) % 7 {
                    0 => assert_eq!(queue.pop(), model.pop_first()),
                    1 | 2 => {
                        let gone = mixed(n) / 7 % (n + 1);
                        let gone = timer(order(gone), gone);
                        queue.remove(&gone);
                        model.remove(&gone);
                    }
                    _ => {}
                }
                assert_eq!((queue.first(), queue.len()), (model.first(), model.len()));
                if n % 64 == 0 {
                    check(&queue);
                }
            }
            while let Some(expected) = model.pop_first() {
                assert_eq!(queue.pop(), Some(expected));
            }
            check(&queue);
        }
    }

    #[test]
    fn memory_shrinks_with_the_timers_left() {
        let mut queue = Queue::default();
        (0..100_000).for_each(|n| queue.insert(timer(n, n)));
        assert!(queue.held_bytes() < 55 * 100_000, "{} bytes when timers come in order", queue.held_bytes());
        let kept = |n: u64| mixed(n).is_multiple_of(50);
        (0..100_000).filter(|n| !kept(*n)).for_each(|n| queue.remove(&timer(n, n)));
        check(&queue);
        let bound = queue.len() as u64 * 8 * 64;
        assert!(queue.held_bytes() < bound, "{} bytes for {} timers", queue.held_bytes(), queue.len());
        (0..100_000).for_each(|n| queue.remove(&timer(n, n)));
        assert_eq!((queue.len(), queue.boxed_bytes, queue.leaves.len()), (0, 0, 0));
        assert!(queue.held_bytes() <= 13 * 1024);
    }
}
