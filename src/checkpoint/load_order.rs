//! The order in which a lazy restore loads key groups.

use std::collections::BTreeMap;

use super::uses::GroupUses;
use crate::key_group::{KeyGroup, KeyGroupSet};

/// Bytes that a group counts for beside its own, when groups are put in order.
const GROUP_BYTES: u64 = 4096;

/// Groups whose uses per byte differ by less than this factor come in the order of their numbers: neighbours share blocks, and
/// are read in one request. The sum that the order keeps small grows by no more than this factor.
const STEP: f64 = 1.15;

/// What loading a key group costs, and what it is worth.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct GroupLoad {
    /// Stored bytes.
    pub(crate) bytes: u64,
    /// Recorded uses.
    pub(crate) uses: f64,
}

/// The loads of some key groups.
pub(crate) type GroupLoads = BTreeMap<KeyGroup, GroupLoad>;

/// Returns the loads of `groups`.
///
/// * `sizes`: their stored bytes.
pub(crate) fn loads_of(groups: &KeyGroupSet, sizes: &BTreeMap<KeyGroup, u64>, uses: &GroupUses) -> GroupLoads {
    let bytes = |group| sizes.get(&group).copied().unwrap_or(0);
    groups.iter().map(|group| (group, GroupLoad { bytes: bytes(group), uses: uses.of(group) })).collect()
}

/// Returns the groups by uses per byte, the highest first. Loaded in this order, the least traffic waits, summed over time
/// (W. E. Smith, "Various optimizers for single-stage production", 1956).
pub(crate) fn by_smiths_rule(loads: &GroupLoads) -> Vec<KeyGroup> {
    #[expect(clippy::cast_precision_loss, reason = "an order needs no more")]
    let step = |load: &GroupLoad| {
        let priority = load.uses / load.bytes.saturating_add(GROUP_BYTES) as f64;
        (priority.ln() / STEP.ln()).floor()
    };
    let mut order: Vec<_> = loads.iter().map(|(group, load)| (step(load), *group)).collect();
    order.sort_by(|(a, group), (b, other)| b.total_cmp(a).then(group.cmp(other)));
    order.into_iter().map(|(_, group)| group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: u64 = 1 << 30;

    fn order(loads: impl IntoIterator<Item = (u64, f64)>) -> Vec<u16> {
        let loads = (0..).map(KeyGroup).zip(loads.into_iter().map(|(bytes, uses)| GroupLoad { bytes, uses }));
        by_smiths_rule(&loads.collect()).into_iter().map(|group| group.0).collect()
    }

    /// The example of the source: the least sum of weight times completion, by brute force, is 107.
    #[test]
    fn groups_come_by_uses_per_byte() {
        let (weights, sizes) = ([5.0, 1.0, 8.0, 2.0, 4.0], [2, 1, 4, 4, 1]);
        assert_eq!(order(sizes.map(|size| size * UNIT).into_iter().zip(weights)), [4, 0, 2, 1, 3]);
    }

    #[test]
    fn groups_that_are_nearly_alike_come_by_number() {
        assert_eq!(order([2, 1, 1].map(|size| (size * UNIT, 0.0))), [0, 1, 2]);
        assert_eq!(order([(UNIT, 1.0), (UNIT, 1.01), (UNIT, 4.0), (UNIT, 1.005)]), [2, 0, 1, 3]);
    }
}
