//! Counts and hashes of records, to compare what went through a job with what its sources and targets have.

use xxhash_rust::xxh3::xxh3_128;

/// How many records, and which, in whatever order: their number, and the sum of their hashes modulo 2^128.
///
/// Two sets of records with one sum are the same set, except with a probability of about 2^-128, or if somebody crafts records: the
/// hash (XXH3, 128 bits) is fast, and no defence against an adversary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct RecordSum {
    /// The number of records.
    pub records: u64,
    /// The sum of their hashes, modulo 2^128.
    pub hash: u128,
}

impl RecordSum {
    /// Adds a record.
    pub fn add(&mut self, record: &[u8]) {
        self.add_hash(xxh3_128(record));
    }

    /// Adds a record by its hash.
    pub fn add_hash(&mut self, hash: u128) {
        self.records = self.records.wrapping_add(1);
        self.hash = self.hash.wrapping_add(hash);
    }
}

impl std::ops::Add for RecordSum {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { records: self.records.wrapping_add(other.records), hash: self.hash.wrapping_add(other.hash) }
    }
}

impl std::iter::Sum for RecordSum {
    fn sum<I: Iterator<Item = Self>>(sums: I) -> Self {
        sums.fold(Self::default(), |all, sum| all + sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(records: &[&str]) -> RecordSum {
        let mut sum = RecordSum::default();
        records.iter().for_each(|record| sum.add(record.as_bytes()));
        sum
    }

    #[test]
    fn order_does_not_matter_and_nothing_else_is_lost() {
        assert_eq!(of(&["a", "b", "b"]), of(&["b", "a", "b"]));
        assert_eq!(of(&["a"]) + of(&["b"]), of(&["a", "b"]));
        for other in [&["a", "b"][..], &["a", "a", "b"], &["a", "b", "c"], &["a", "bb"]] {
            assert_ne!(of(&["a", "b", "b"]), of(other), "{other:?}");
        }
    }
}
