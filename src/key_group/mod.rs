//! Key groups: the unit of partitioning, and the mapping of keys and subtasks to key groups.
//!
//! Every number here is stored or decides which rows a subtask owns: all are part of the format.

mod partitioner;
mod set;

use std::fmt;

use crate::error::{Error, Result};

pub use partitioner::{CurrentKey, Partitioner, java_hash};
pub use set::{KeyGroupRange, KeyGroupSet};

/// The maximum number of key groups of a job (Flink's bound).
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

/// Returns the key groups owned by subtask `index` of `parallelism`.
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

/// Returns the owner of `group` among `parallelism` subtasks.
#[must_use]
pub fn owner(max_parallelism: u16, parallelism: u32, group: KeyGroup) -> u32 {
    let owner = u64::from(group.0) * u64::from(parallelism) / u64::from(max_parallelism.max(1));
    u32::try_from(owner).unwrap_or(u32::MAX)
}

/// Checks that `1 <= parallelism <= max_parallelism <= 32768`.
///
/// # Errors
/// `Config`, with both numbers.
pub(crate) fn check_parallelism(parallelism: u32, max_parallelism: u16) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_match_flinks_and_contain_the_groups_of_their_owner() {
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
    fn parallelism_is_checked_against_its_bounds() {
        assert!(check_parallelism(1, 1).is_ok() && check_parallelism(128, 128).is_ok());
        for (p, max) in [(0, 128), (129, 128), (1, 0), (1, 32769)] {
            assert!(check_parallelism(p, max).is_err());
        }
    }
}
