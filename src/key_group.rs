//! Key groups: the unit of partitioning, and how keys and subtasks map to them.
//!
//! Every number here reaches disk or decides which rows a subtask owns: all of it is part of the format.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::{Error, Result};

/// The largest number of key groups a job can have (Flink's bound).
pub const MAX_KEY_GROUPS: u16 = 1 << 15;

/// The default number of key groups of a job (Flink's default).
pub const DEFAULT_MAX_PARALLELISM: u16 = 128;

/// A key group, counted from 0; a job has `max_parallelism` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct KeyGroup(pub u16);

impl fmt::Display for KeyGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

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

    /// Returns how many groups it has.
    #[must_use]
    pub const fn len(self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }

    /// Returns whether it has no group.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.end <= self.start
    }

    /// Returns whether `group` is in it.
    #[must_use]
    pub const fn contains(self, group: KeyGroup) -> bool {
        self.start <= group.0 && group.0 < self.end
    }

    /// Returns what is in both; empty if they do not meet.
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

/// A set of key groups: sorted, disjoint, non-empty ranges that do not touch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct KeyGroupSet {
    ranges: Vec<KeyGroupRange>,
}

impl KeyGroupSet {
    /// Returns the set without groups.
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
        // Stable: it finds runs that are in order already, and most sets are made of a few.
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

    /// Returns the set whose [`KeyGroupSet::ranges`] these are, of a job with `max_parallelism` groups.
    ///
    /// # Errors
    /// `Corrupt` if they are not sorted, disjoint, non-empty, apart from each other and within the job's groups.
    pub fn from_stored(ranges: Vec<KeyGroupRange>, max_parallelism: u16) -> Result<Self> {
        let set = Self::from_ranges(ranges.iter().copied());
        if set.ranges != ranges || set.ranges.last().is_some_and(|last| last.end > max_parallelism) {
            let error = Error::corrupt("ranges of key groups are not sorted, apart and within the job's");
            return Err(error.with("ranges", ranges.len()).with("max_parallelism", max_parallelism));
        }
        Ok(set)
    }

    /// Returns the ranges, sorted and disjoint.
    #[must_use]
    pub fn ranges(&self) -> &[KeyGroupRange] {
        &self.ranges
    }

    /// Returns how many groups it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.iter().map(|range| range.len()).sum()
    }

    /// Returns whether it has no group.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Returns whether `group` is in it.
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

    /// Divides the set into runs, in order, each as long as its groups' sizes stay within `most` together, and of one
    /// group at least. The empty set has no runs.
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

    /// Returns what is in both. Costs a step per range.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let (mut ours, mut theirs) = (self.not_before(other), other.not_before(self));
        let mut ranges = Vec::new();
        while let (Some((a, after_a)), Some((b, after_b))) = (ours.split_first(), theirs.split_first()) {
            let both = a.intersection(*b);
            ranges.extend((!both.is_empty()).then_some(both));
            // The one that ends first meets nothing more.
            if a.end <= b.end { ours = after_a } else { theirs = after_b }
        }
        Self { ranges }
    }

    /// Returns what is in either. Costs a step per range.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::from_ranges(self.ranges.iter().chain(&other.ranges).copied())
    }

    /// Returns what is in `self` and not in `other`. Costs a step per range.
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
                    // It may cut the next one too.
                    break;
                }
                cuts = after;
            }
            ranges.extend((!rest.is_empty()).then_some(rest));
        }
        Self { ranges }
    }

    /// Returns the ranges from the first that ends after `other` starts.
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

/// Returns the key groups that subtask `index` of `parallelism` owns.
///
/// Group `g` belongs to subtask `g * parallelism / max_parallelism`.
///
/// # Source
/// Flink, `KeyGroupRangeAssignment`; check: (128 groups, 3 subtasks) gives 0..43, 43..86, 86..128.
#[must_use]
pub fn subtask_range(max_parallelism: u16, parallelism: u32, index: u32) -> KeyGroupRange {
    let max = u64::from(max_parallelism);
    let bound = |i: u64| u16::try_from((i * max).div_ceil(u64::from(parallelism.max(1)))).unwrap_or(max_parallelism);
    KeyGroupRange::new(bound(u64::from(index)), bound(u64::from(index) + 1).min(max_parallelism))
}

/// Returns the subtask, of `parallelism`, that owns `group`.
#[must_use]
pub fn owner(max_parallelism: u16, parallelism: u32, group: KeyGroup) -> u32 {
    let owner = u64::from(group.0) * u64::from(parallelism) / u64::from(max_parallelism.max(1));
    u32::try_from(owner).unwrap_or(u32::MAX)
}

/// Refuses a parallelism that cannot run: `1 <= parallelism <= max_parallelism <= 32768`.
///
/// # Errors
/// `Config`, with both numbers.
pub fn check_parallelism(parallelism: u32, max_parallelism: u16) -> Result<()> {
    if max_parallelism == 0 || max_parallelism > MAX_KEY_GROUPS {
        return Err(Error::config("max parallelism out of range 1..=32768").with("max_parallelism", max_parallelism));
    }
    if parallelism == 0 || parallelism > u32::from(max_parallelism) {
        return Err(Error::config("parallelism out of range 1..=max_parallelism")
            .with("parallelism", parallelism)
            .with("max_parallelism", max_parallelism));
    }
    Ok(())
}

/// How keys map to key groups; stored in the manifest and fixed for the job's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Partitioner {
    /// XXH3-64 of the key's bytes under a seed drawn once per job, so that nobody can choose keys that collide.
    Range {
        /// The job's seed.
        seed: u64,
    },
    /// Flink's: murmur of the key's Java hash code, modulo the number of groups.
    Flink,
    /// The engine hands in its own 64-bit hash, which is stored with each row.
    External,
}

impl Partitioner {
    /// Returns the name under which manifests store it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Range { .. } => "range",
            Self::Flink => "flink",
            Self::External => "external",
        }
    }

    /// Returns its version and seed, as manifests store them.
    #[must_use]
    pub const fn version_and_seed(self) -> (u32, u64) {
        match self {
            Self::Range { seed } => (1, seed),
            Self::Flink | Self::External => (1, 0),
        }
    }

    /// Returns the partitioner that a manifest names.
    ///
    /// # Errors
    /// `Version` if this build does not know it.
    pub fn from_parts(name: &str, version: u32, seed: u64) -> Result<Self> {
        match (name, version) {
            ("range", 1) => Ok(Self::Range { seed }),
            ("flink", 1) => Ok(Self::Flink),
            ("external", 1) => Ok(Self::External),
            _ => Err(Error::version("unknown partitioner").with("name", name).with("version", version)),
        }
    }

    /// Returns the index hash of a key, the `hash` that [`Partitioner::locate`] gives it.
    #[must_use]
    pub fn index_hash(self, bytes: &[u8]) -> u64 {
        xxh3_64_with_seed(bytes, self.version_and_seed().1)
    }

    /// Returns the key with its hash and group, computed once per record.
    ///
    /// `routing` is what the engine hands in: its own hash for `External`, the Java hash code for `Flink`
    /// (`java_hash` has the common ones); `Range` ignores it.
    #[must_use]
    pub fn locate(self, bytes: &[u8], routing: u64, max_parallelism: u16) -> CurrentKey<'_> {
        let hash = self.index_hash(bytes);
        match self {
            Self::Range { .. } => CurrentKey { bytes, hash, group: scale(hash, max_parallelism), routing: None },
            Self::Flink => {
                // The low half is Java's 32-bit hash code, whatever its sign.
                let [a, b, c, d, ..] = routing.to_le_bytes();
                let group = flink_murmur(i32::from_le_bytes([a, b, c, d])) % u32::from(max_parallelism.max(1));
                let group = KeyGroup(u16::try_from(group).unwrap_or(0));
                CurrentKey { bytes, hash, group, routing: Some(routing) }
            }
            Self::External => {
                let group = scale(routing, max_parallelism);
                CurrentKey { bytes, hash, group, routing: Some(routing) }
            }
        }
    }
}

/// A record's key, located: what every table of an operator needs of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CurrentKey<'a> {
    /// The encoded key.
    pub bytes: &'a [u8],
    /// Index hash; its low 32 bits are independent of the group.
    pub hash: u64,
    /// The group it belongs to.
    pub group: KeyGroup,
    /// The hash or hash code that the engine handed in, stored with the row.
    pub routing: Option<u64>,
}

/// Maps the high half of a hash onto `0..max`; a multiple of `max` splits each group into contiguous ones.
fn scale(hash: u64, max: u16) -> KeyGroup {
    KeyGroup(u16::try_from(((hash >> 32) * u64::from(max)) >> 32).unwrap_or(0))
}

/// Flink's murmur of a Java hash code; never negative.
fn flink_murmur(code: i32) -> u32 {
    let mut h = code.cast_unsigned().wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    h = h.rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    h ^= 4;
    h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
    h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
    h ^= h >> 16;
    // Java: abs(), except that MIN has none and becomes 0.
    match h.cast_signed() {
        i32::MIN => 0,
        signed => signed.unsigned_abs(),
    }
}

/// Java's hash codes of common key types, as `routing` for [`Partitioner::Flink`].
pub mod java_hash {
    /// Returns `Integer.hashCode`.
    #[must_use]
    pub fn int(value: i32) -> u64 {
        u64::from(value.cast_unsigned())
    }

    /// Returns `Long.hashCode`.
    #[must_use]
    pub fn long(value: i64) -> u64 {
        let bits = value.cast_unsigned();
        (bits ^ (bits >> 32)) & 0xffff_ffff
    }

    /// Returns `String.hashCode`: a polynomial over UTF-16 units.
    #[must_use]
    pub fn string(value: &str) -> u64 {
        u64::from(value.encode_utf16().fold(0u32, |h, unit| h.wrapping_mul(31).wrapping_add(u32::from(unit))))
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
    fn flink_groups_match_published_vectors() {
        let group = |routing, max| Partitioner::Flink.locate(b"", routing, max).group.0;
        for (routing, in_128, in_4096) in [
            (java_hash::int(0), 94, 2526),
            (java_hash::long(-1), 94, 2526),
            (java_hash::int(1), 86, 4054),
            (java_hash::int(42), 29, 3613),
            (java_hash::int(-1), 80, 2896),
            (java_hash::int(i32::MAX), 62, 3262),
            (java_hash::long(1_234_567_890_123), 92, 3420),
            (java_hash::string("a"), 81, 3025),
            (java_hash::string("ü"), 41, 2217),
            (java_hash::string("user-1"), 121, 1657),
            (java_hash::string("hello"), 35, 2723),
            (java_hash::string("key-1000"), 93, 1501),
        ] {
            assert_eq!((group(routing, 128), group(routing, 4096)), (in_128, in_4096));
        }
    }

    #[test]
    fn ranges_match_flinks_and_owners_agree() {
        let bounds = |p| (0..p).map(|i| subtask_range(128, p, i)).map(|r| (r.start, r.end)).collect::<Vec<_>>();
        assert_eq!(bounds(3), [(0, 43), (43, 86), (86, 128)]);
        assert_eq!(bounds(10)[4..6], [(52, 64), (64, 77)]);
        for (max, p) in [(1, 1), (128, 7), (128, 128), (32768, 32768), (32768, 5)] {
            for g in (0..max).map(KeyGroup) {
                assert!(subtask_range(max, p, owner(max, p, g)).contains(g));
            }
        }
    }

    #[test]
    fn set_algebra() {
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
        fn sets_are_what_sets_of_groups_are(
            a in prop::collection::btree_set(0u16..24, 0..24),
            b in prop::collection::btree_set(0u16..24, 0..24),
        ) {
            let set = |groups: &BTreeSet<u16>| groups.iter().copied().map(KeyGroup).collect::<KeyGroupSet>();
            let (of_a, of_b) = (set(&a), set(&b));
            // Equal sets have equal ranges, so these are sorted, apart and not empty too.
            prop_assert_eq!(of_a.intersection(&of_b), set(&a.intersection(&b).copied().collect()));
            prop_assert_eq!(of_a.union(&of_b), set(&a.union(&b).copied().collect()));
            prop_assert_eq!(of_a.difference(&of_b), set(&a.difference(&b).copied().collect()));
            prop_assert_eq!(of_a.len(), a.len());
            prop_assert!((0..24).all(|group| of_a.contains(KeyGroup(group)) == a.contains(&group)));
        }
    }

    #[test]
    fn splitting_every_group_keeps_groups_contiguous() {
        for key in 0..1000u32 {
            let bytes = key.to_le_bytes();
            let of = |max| Partitioner::Range { seed: 9 }.locate(&bytes, 0, max).group.0;
            assert_eq!(of(128), of(1024) / 8);
        }
    }

    #[test]
    fn parallelism_bounds() {
        assert!(check_parallelism(1, 1).is_ok() && check_parallelism(128, 128).is_ok());
        for (p, max) in [(0, 128), (129, 128), (1, 0), (1, 32769)] {
            assert!(check_parallelism(p, max).is_err());
        }
    }
}
