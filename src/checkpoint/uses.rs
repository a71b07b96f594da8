//! How much each key group was used lately, carried from checkpoint to checkpoint: a lazy restore loads groups in the order
//! of their use.

use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::row::{GroupHeat, Warmth};

/// What remains of a count after each seal, as in the backends' own counts.
const KEPT: f64 = 7.0 / 8.0;

/// Recent reads and writes by group number, with those of a group's former owners.
#[derive(Debug, Clone, Default)]
pub(crate) struct GroupUses(Vec<f64>);

impl GroupUses {
    /// Continues from the checkpoint's record.
    pub(crate) fn restored(groups: &KeyGroupSet, warmth: &[Warmth]) -> Self {
        let recorded = warmth.iter().map(|warmth| warmth.weight()).chain(std::iter::repeat(0.0));
        groups.iter().zip(recorded).collect()
    }

    /// Returns how much a group was used.
    pub(crate) fn of(&self, group: KeyGroup) -> f64 {
        self.0.get(usize::from(group.0)).copied().unwrap_or(0.0)
    }

    /// Counts what a seal reports. A backend's count of a group that was just loaded starts at zero: the record counts until
    /// the backend has counted as much.
    ///
    /// # Cost
    /// A step per group.
    pub(crate) fn at_seal(&mut self, heat: &[GroupHeat]) {
        self.0.iter_mut().for_each(|uses| *uses *= KEPT);
        for of_group in heat {
            #[expect(clippy::cast_precision_loss, reason = "stored with a precision of 9 %")]
            let counted = of_group.reads.saturating_add(of_group.writes) as f64;
            let known = self.0.get_mut(usize::from(of_group.group.0));
            known.into_iter().for_each(|uses| *uses = uses.max(counted));
        }
    }

    /// Returns the record of `groups` for a checkpoint.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "never negative, and saturates")]
    pub(crate) fn warmth(&self, groups: &KeyGroupSet) -> Vec<Warmth> {
        groups.iter().map(|group| Warmth::of(self.of(group).round() as u64)).collect()
    }
}

impl FromIterator<(KeyGroup, f64)> for GroupUses {
    fn from_iter<I: IntoIterator<Item = (KeyGroup, f64)>>(uses: I) -> Self {
        let mut by_number = Vec::new();
        for (group, uses) in uses {
            let at = usize::from(group.0);
            by_number.resize(by_number.len().max(at + 1), 0.0);
            by_number.get_mut(at).into_iter().for_each(|slot| *slot = uses);
        }
        Self(by_number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heat(group: u16, reads: u64, writes: u64) -> GroupHeat {
        GroupHeat { group: KeyGroup(group), rows: 1, live_bytes: 1, dirty_rows: 1, reads, writes }
    }

    #[test]
    fn a_record_decays_until_the_backend_has_counted_as_much() {
        let groups = KeyGroupSet::from_iter([KeyGroup(2), KeyGroup(5)]);
        let mut uses = GroupUses::restored(&groups, &[Warmth::of(1024), Warmth::of(64)]);
        uses.at_seal(&[heat(5, 100, 28)]);
        assert_eq!(uses.warmth(&groups), [Warmth::of(896), Warmth::of(128)]);
        uses.at_seal(&[heat(2, 3, 0)]);
        assert_eq!(uses.warmth(&groups), [Warmth::of(784), Warmth::of(112)]);
        let (mut unused, none) = (GroupUses::restored(&groups, &[]), Warmth::default());
        unused.at_seal(&[]);
        assert_eq!(unused.warmth(&groups), [none; 2]);
    }
}
