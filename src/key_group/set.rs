//! Ranges and sets of key groups.

use std::fmt;

use super::KeyGroup;
use crate::error::{Error, Result};

/// Key groups `start..end`, half-open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct KeyGroupRange {
    /// The first key group.
    pub start: u16,
    /// One past the last key group.
    pub end: u16,
}

impl KeyGroupRange {
    /// Returns `start..end`; empty if `end <= start`.
    #[must_use]
    pub const fn new(start: u16, end: u16) -> Self {
        Self { start, end }
    }

    /// Returns the number of groups.
    #[must_use]
    pub const fn len(self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }

    /// Returns whether there are no groups.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.end <= self.start
    }

    /// Returns whether `group` is included.
    #[must_use]
    pub const fn contains(self, group: KeyGroup) -> bool {
        self.start <= group.0 && group.0 < self.end
    }

    /// Returns the intersection; empty if the ranges are disjoint.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self { start: self.start.max(other.start), end: self.end.min(other.end) }
    }
}

impl fmt::Display for KeyGroupRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

/// A set of key groups: sorted, non-empty ranges with gaps between them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct KeyGroupSet {
    ranges: Vec<KeyGroupRange>,
}

impl KeyGroupSet {
    /// Returns the empty set.
    #[must_use]
    pub const fn empty() -> Self {
        Self { ranges: Vec::new() }
    }

    /// Returns all groups of a job: `0..max_parallelism`.
    #[must_use]
    pub fn all(max_parallelism: u16) -> Self {
        KeyGroupRange::new(0, max_parallelism).into()
    }

    /// Returns the union of `ranges`, in any order.
    #[must_use]
    pub fn from_ranges(ranges: impl IntoIterator<Item = KeyGroupRange>) -> Self {
        let mut sorted: Vec<_> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        // Stable sorting exploits runs already in order, and most inputs are a few such runs.
        sorted.sort();
        let mut merged: Vec<KeyGroupRange> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        Self { ranges: merged }
    }

    /// Returns the set with these [`KeyGroupSet::ranges`], of a job with `max_parallelism` groups.
    ///
    /// # Errors
    /// `Corrupt` if the ranges are not sorted, non-empty, separated by gaps and within the job's groups.
    pub fn from_stored(ranges: Vec<KeyGroupRange>, max_parallelism: u16) -> Result<Self> {
        let set = Self::from_ranges(ranges.iter().copied());
        if set.ranges != ranges || set.ranges.last().is_some_and(|last| last.end > max_parallelism) {
            let error = Error::corrupt("ranges of key groups are not sorted, apart and within the job's");
            return Err(error.with("ranges", ranges.len()).with("max_parallelism", max_parallelism));
        }
        Ok(set)
    }

    /// Returns the ranges, sorted and separated by gaps.
    #[must_use]
    pub fn ranges(&self) -> &[KeyGroupRange] {
        &self.ranges
    }

    /// Returns the number of groups.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.iter().map(|range| range.len()).sum()
    }

    /// Returns whether there are no groups.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Returns whether `group` is included.
    #[must_use]
    pub fn contains(&self, group: KeyGroup) -> bool {
        let after = self.ranges.partition_point(|range| range.start <= group.0);
        after.checked_sub(1).and_then(|i| self.ranges.get(i)).is_some_and(|range| range.contains(group))
    }

    /// Returns the lowest group.
    #[must_use]
    pub fn first(&self) -> Option<KeyGroup> {
        self.ranges.first().map(|range| KeyGroup(range.start))
    }

    /// Returns the groups, ascending.
    pub fn iter(&self) -> impl Iterator<Item = KeyGroup> + '_ {
        self.ranges.iter().flat_map(|range| (range.start..range.end).map(KeyGroup))
    }

    /// Divides the set into runs, in order. The sizes in a run add up to at most `most`, unless a run is one group. The empty
    /// set has no runs.
    #[must_use]
    pub fn divide(&self, most: u64, size: impl Fn(KeyGroup) -> u64) -> Vec<Self> {
        let (mut runs, mut run, mut total) = (Vec::new(), Vec::new(), 0u64);
        for group in self.iter() {
            let next = size(group);
            if !run.is_empty() && total.saturating_add(next) > most {
                runs.push(run.drain(..).collect());
                total = 0;
            }
            run.push(group);
            total = total.saturating_add(next);
        }
        if !run.is_empty() {
            runs.push(run.into_iter().collect());
        }
        runs
    }

    /// Returns the intersection. Costs a step per range.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let (mut ours, mut theirs) = (self.not_before(other), other.not_before(self));
        let mut ranges = Vec::new();
        while let (Some((a, after_a)), Some((b, after_b))) = (ours.split_first(), theirs.split_first()) {
            let both = a.intersection(*b);
            ranges.extend((!both.is_empty()).then_some(both));
            // The range that ends first overlaps no further ranges.
            if a.end <= b.end { ours = after_a } else { theirs = after_b }
        }
        Self { ranges }
    }

    /// Returns the union. Costs a step per range.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::from_ranges(self.ranges.iter().chain(&other.ranges).copied())
    }

    /// Returns the groups of `self` not in `other`. Costs a step per range.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut cuts = other.not_before(self);
        let mut ranges = Vec::with_capacity(self.ranges.len());
        for range in &self.ranges {
            let mut rest = *range;
            while let Some((cut, after)) = cuts.split_first().filter(|(cut, _)| cut.start < range.end) {
                let before = KeyGroupRange::new(rest.start, cut.start);
                ranges.extend((!before.is_empty()).then_some(before));
                rest.start = rest.start.max(cut.end);
                if cut.end > range.end {
                    // This cut may also overlap the next range.
                    break;
                }
                cuts = after;
            }
            ranges.extend((!rest.is_empty()).then_some(rest));
        }
        Self { ranges }
    }

    /// Returns the ranges that end after the start of `other`.
    fn not_before(&self, other: &Self) -> &[KeyGroupRange] {
        let start = other.first().map_or(u16::MAX, |group| group.0);
        self.ranges.get(self.ranges.partition_point(|range| range.end <= start)..).unwrap_or_default()
    }
}

impl From<KeyGroupRange> for KeyGroupSet {
    fn from(range: KeyGroupRange) -> Self {
        Self::from_ranges([range])
    }
}

impl FromIterator<KeyGroup> for KeyGroupSet {
    fn from_iter<I: IntoIterator<Item = KeyGroup>>(groups: I) -> Self {
        Self::from_ranges(groups.into_iter().map(|g| KeyGroupRange::new(g.0, g.0.saturating_add(1))))
    }
}

impl fmt::Display for KeyGroupSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (i, range) in self.ranges.iter().enumerate() {
            write!(f, "{}{range}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(ranges: &[(u16, u16)]) -> KeyGroupSet {
        KeyGroupSet::from_ranges(ranges.iter().map(|&(a, b)| KeyGroupRange::new(a, b)))
    }

    #[test]
    fn set_operations_return_merged_ranges() {
        let a = set(&[(0, 4), (4, 8), (10, 12)]);
        assert_eq!(a.to_string(), "0..8,10..12");
        assert_eq!(a.difference(&set(&[(2, 3), (7, 11)])).to_string(), "0..2,3..7,11..12");
        assert_eq!(a.intersection(&set(&[(7, 11)])).to_string(), "7..8,10..11");
        assert_eq!(a.union(&set(&[(8, 10)])).to_string(), "0..12");
        assert_eq!((a.len(), a.contains(KeyGroup(9)), a.contains(KeyGroup(11))), (10, false, true));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn set_operations_match_those_of_btree_sets(
            a in prop::collection::btree_set(0u16..24, 0..24),
            b in prop::collection::btree_set(0u16..24, 0..24),
        ) {
            let set = |groups: &BTreeSet<u16>| groups.iter().copied().map(KeyGroup).collect::<KeyGroupSet>();
            let (of_a, of_b) = (set(&a), set(&b));
            // Equal sets have equal ranges, so this also checks that ranges are sorted, non-empty and separated.
            prop_assert_eq!(of_a.intersection(&of_b), set(&a.intersection(&b).copied().collect()));
            prop_assert_eq!(of_a.union(&of_b), set(&a.union(&b).copied().collect()));
            prop_assert_eq!(of_a.difference(&of_b), set(&a.difference(&b).copied().collect()));
            prop_assert_eq!(of_a.len(), a.len());
            prop_assert!((0..24).all(|group| of_a.contains(KeyGroup(group)) == a.contains(&group)));
        }
    }
}
