//! An ordered set of sub-keys: a list of sorted runs.
//!
//! Invariants: runs are not empty, each ascends, and each ends below the next. A key of up to 22 bytes takes 24 bytes,
//! at most a quarter more for growth, and its share of a run's 24.

use std::fmt;
use std::ops::Bound;

use super::super::SubRange;
use super::small_bytes::SmallBytes;
use crate::error::broken;

/// The most keys in a run.
const RUN_KEYS: usize = 64;

/// Distinct sub-keys in bytewise order.
#[derive(Clone, Default)]
pub(super) struct SubKeySet {
    runs: Vec<Vec<SmallBytes>>,
    held_bytes: usize,
}

impl fmt::Debug for SubKeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SubKeySet({} in {} runs)", self.runs.iter().map(Vec::len).sum::<usize>(), self.runs.len())
    }
}

impl SubKeySet {
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Returns the bytes of memory held.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes + self.runs.capacity() * size_of::<Vec<SmallBytes>>()
    }

    /// Returns the run of `sub`, and its position there or where it would be inserted.
    fn find(&self, sub: &[u8]) -> (usize, Result<usize, usize>) {
        let after = self.runs.partition_point(|run| run.first().is_some_and(|first| first.bytes() <= sub));
        let at = after.saturating_sub(1);
        let Some(run) = self.runs.get(at) else { return (0, Err(0)) };
        (at, run.binary_search_by(|key| key.bytes().cmp(sub)))
    }

    /// Adds a sub-key, which must be new.
    pub(super) fn insert(&mut self, sub: &[u8]) {
        let (mut at, Err(mut within)) = self.find(sub) else { broken("an added sub-key is new") };
        if self.runs.is_empty() {
            self.runs.push(Vec::new());
        }
        if self.runs.get(at).is_some_and(|run| run.len() >= RUN_KEYS) {
            // Ascending insertions, such as times, start a new run and leave the full one full.
            let split = if at + 1 == self.runs.len() && within == RUN_KEYS { RUN_KEYS } else { RUN_KEYS / 2 };
            let Some(run) = self.runs.get_mut(at) else { no_run() };
            let before = run.capacity();
            let upper = run.split_off(split);
            run.shrink_to_fit();
            self.held_bytes = self.held_bytes + size(run.capacity()) + size(upper.capacity()) - size(before);
            self.runs.insert(at + 1, upper);
            if within > split || split == RUN_KEYS {
                (at, within) = (at + 1, within - split);
            }
        }
        let Some(run) = self.runs.get_mut(at) else { no_run() };
        let before = run.capacity();
        if run.len() == before {
            run.reserve_exact((before / 4).clamp(1, RUN_KEYS - before.min(RUN_KEYS - 1)));
        }
        let key = SmallBytes::new(sub);
        self.held_bytes += key.heap_bytes() + size(run.capacity()) - size(before);
        run.insert(within, key);
    }

    /// Removes a sub-key, which must exist.
    pub(super) fn remove(&mut self, sub: &[u8]) {
        let (at, Ok(within)) = self.find(sub) else { broken("a removed sub-key exists") };
        let Some(run) = self.runs.get_mut(at) else { no_run() };
        self.held_bytes -= run.remove(within).heap_bytes();
        if run.is_empty() {
            self.held_bytes -= size(run.capacity());
            self.runs.remove(at);
        }
    }

    /// Returns the sub-keys in `range`, ascending.
    pub(super) fn range<'a>(&'a self, range: SubRange<'a>) -> impl Iterator<Item = &'a [u8]> {
        let (at, within) = match range.0 {
            Bound::Unbounded => (0, 0),
            Bound::Included(first) => match self.find(first) {
                (at, Ok(within) | Err(within)) => (at, within),
            },
            Bound::Excluded(before) => match self.find(before) {
                (at, Ok(within)) => (at, within + 1),
                (at, Err(within)) => (at, within),
            },
        };
        let head = self.runs.get(at).and_then(|run| run.get(within..)).unwrap_or_default();
        let rest = self.runs.iter().skip(at + 1).flatten();
        let end = range.1;
        head.iter().chain(rest).map(SmallBytes::bytes).take_while(move |sub| match end {
            Bound::Unbounded => true,
            Bound::Included(last) => *sub <= last,
            Bound::Excluded(after) => *sub < after,
        })
    }
}

#[cold]
fn no_run() -> ! {
    broken("a found run exists")
}

fn size(capacity: usize) -> usize {
    capacity * size_of::<SmallBytes>()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ops::RangeBounds;

    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(4), failure_persistence: None, ..Default::default() })]

        #[test]
        fn a_sub_key_set_matches_an_ordered_set(
            steps in proptest::collection::vec((any::<bool>(), 0u16..700, prop_oneof![8 => Just(0), 1 => Just(40)]), 0..1500),
            bounds in (0u16..700, 0u16..700, any::<[bool; 2]>()),
        ) {
            let bytes = |key: u16, long: usize| [key.to_be_bytes().to_vec(), vec![7; long]].concat();
            let (mut subs, mut model) = (SubKeySet::default(), BTreeSet::new());
            for (insert, key, long) in steps {
                let key = bytes(key, long);
                if insert && model.insert(key.clone()) {
                    subs.insert(&key);
                } else if !insert && model.remove(&key) {
                    subs.remove(&key);
                }
            }
            let [first, last] = [bounds.0, bounds.1].map(|key| bytes(key, 0));
            fn bound(key: &[u8], included: bool) -> Bound<&[u8]> {
                if included { Bound::Included(key) } else { Bound::Excluded(key) }
            }
            let range: SubRange<'_> =
                (bound(first.as_slice(), bounds.2[0]), bound(last.as_slice(), bounds.2[1]));
            let within = |key: &&Vec<u8>| RangeBounds::<[u8]>::contains(&range, key.as_slice());
            prop_assert!(subs.range(range).eq(model.iter().filter(within)));
            let all = (Bound::Unbounded, Bound::Unbounded);
            prop_assert!(subs.range(all).eq(model.iter()));
            let held: usize = subs.runs.iter().map(|run| size(run.capacity()) + run.iter().map(SmallBytes::heap_bytes).sum::<usize>()).sum();
            prop_assert_eq!(held, subs.held_bytes);
        }
    }

    #[test]
    #[should_panic(expected = "an added sub-key is new")]
    fn adding_a_sub_key_twice_panics() {
        let mut subs = SubKeySet::default();
        subs.insert(b"a");
        subs.insert(b"a");
    }

    #[test]
    fn a_sub_key_takes_at_most_48_bytes() {
        let orders: [fn(u64) -> u64; 3] = [|n| n, |n| u64::MAX - n, |n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)];
        for order in orders {
            let mut subs = SubKeySet::default();
            for number in 0..20_000 {
                subs.insert(&order(number).to_be_bytes());
            }
            assert!(subs.held_bytes() <= 48 * 20_000, "{}", subs.held_bytes());
        }
    }
}
