//! When a key group gets a new base, so that chains stay short and no checkpoint is a spike.

use std::cmp::Reverse;

use crate::key_group::{KeyGroup, KeyGroupSet};

/// Bounds of a key group's chain of segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainPolicy {
    /// A group's chain has at most this many segments. Default 32.
    pub max_segments: usize,
    /// At most one group in this many gets a new base in one checkpoint. Default 8.
    pub spread: usize,
}

impl Default for ChainPolicy {
    fn default() -> Self {
        Self { max_segments: 32, spread: 8 }
    }
}

/// A segment of a chain, as far as this decision needs it.
#[derive(Debug, Clone, Copy)]
pub struct Link<'a> {
    /// The groups for which it is needed.
    pub groups: &'a KeyGroupSet,
    /// Its bytes per group, on average; 0 while it is not encoded.
    pub bytes_per_group: u64,
}

/// Returns the groups of `owned` that should get a new base now, given their chain, oldest first.
///
/// A group is due when the bytes of its deltas exceed those of its oldest segment, or when its chain would
/// reach `max_segments` before its turn comes: turns start `spread` checkpoints early, since only one group
/// in `spread` has its turn at a time. The worst come first. What is left of the quota goes to the groups that hold
/// the oldest segments, if there are more than `max_segments` in all: changes that wander over the groups would else
/// leave a trail of small segments.
#[must_use]
pub fn bases_due(chain: &[Link<'_>], owned: &KeyGroupSet, policy: ChainPolicy) -> KeyGroupSet {
    let quota = owned.len().div_ceil(policy.spread.max(1));
    let early = policy.max_segments.saturating_sub(policy.spread).max(1);
    let mut due: Vec<(Reverse<(usize, u64)>, KeyGroup)> = Vec::new();
    for group in owned.iter() {
        let mut bytes = chain.iter().filter(|link| link.groups.contains(group)).map(|link| link.bytes_per_group);
        let Some(base) = bytes.next() else { continue };
        let (deltas, delta_bytes) = bytes.fold((0, 0u64), |(n, sum), bytes| (n + 1, sum.saturating_add(bytes)));
        // One delta is never worth a base: it would be written again at once when everything is dirty.
        if deltas + 1 >= early || (deltas > 1 && delta_bytes > base) {
            due.push((Reverse((deltas, delta_bytes)), group));
        }
    }
    due.sort_unstable();
    let due: KeyGroupSet = due.into_iter().map(|(_, group)| group).take(quota).collect();
    let excess = chain.len().saturating_sub(early);
    let oldest = chain.iter().take(if chain.len() > policy.max_segments { excess } else { 0 });
    let trail = oldest.flat_map(|link| link.groups.iter());
    let trail = trail.filter(|group| owned.contains(*group) && !due.contains(*group));
    let trail: KeyGroupSet = trail.take(quota.saturating_sub(due.len())).collect();
    due.union(&trail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key_group::KeyGroupRange;

    /// Runs `checkpoints` of equal deltas and returns the longest chain seen and the most bases in one checkpoint.
    fn simulate(checkpoints: usize, base: u64, delta: u64) -> (usize, usize) {
        let owned = KeyGroupSet::all(16);
        let mut chains = vec![vec![base]; 16];
        let (mut longest, mut most) = (0, 0);
        for _ in 0..checkpoints {
            let depth = chains.iter().map(Vec::len).max().unwrap();
            let layers: Vec<(KeyGroupSet, u64)> = (0..depth)
                .flat_map(|level| {
                    let having = (0..16u16).filter(|&g| chains[g as usize].len() > level).map(KeyGroup);
                    having.map(|g| (KeyGroupSet::from_iter([g]), chains[g.0 as usize][level])).collect::<Vec<_>>()
                })
                .collect();
            let links: Vec<_> = layers.iter().map(|(groups, bytes)| Link { groups, bytes_per_group: *bytes }).collect();
            let due = bases_due(&links, &owned, ChainPolicy::default());
            most = most.max(due.len());
            for g in owned.iter() {
                let chain = &mut chains[g.0 as usize];
                if due.contains(g) { *chain = vec![base] } else { chain.push(delta) }
            }
            longest = longest.max(chains.iter().map(Vec::len).max().unwrap());
        }
        (longest, most)
    }

    #[test]
    fn small_deltas_reach_the_segment_bound_and_never_pass_it() {
        let (longest, most) = simulate(200, 1_000_000, 10);
        assert!((24..=32).contains(&longest), "{longest}");
        assert_eq!(most, 2);
    }

    #[test]
    fn large_deltas_are_bounded_by_bytes() {
        let (longest, most) = simulate(200, 1000, 400);
        assert!(longest <= 16, "{longest}");
        assert_eq!(most, 2);
    }

    #[test]
    fn changes_that_wander_leave_no_long_trail() {
        let owned = KeyGroupSet::all(64);
        let mut chain: Vec<(KeyGroupSet, bool)> = vec![(owned.clone(), true)];
        for checkpoint in 0..1000u16 {
            let links: Vec<_> = chain.iter().map(|(groups, _)| Link { groups, bytes_per_group: 1 }).collect();
            let due = bases_due(&links, &owned, ChainPolicy::default());
            assert!(due.len() <= 8);
            for (groups, _) in &mut chain {
                *groups = groups.difference(&due);
            }
            let touched: KeyGroupSet = [KeyGroup(checkpoint * 7 % 64)].into_iter().collect();
            chain.push((due.clone(), true));
            chain.push((touched.difference(&due), false));
            chain.retain(|(groups, _)| !groups.is_empty());
            assert!(chain.len() <= 34, "{} segments at {checkpoint}", chain.len());
        }
    }

    #[test]
    fn a_trail_of_groups_that_are_no_longer_owned_is_left_alone() {
        let owned: KeyGroupSet = KeyGroupRange::new(0, 4).into();
        let foreign: KeyGroupSet = KeyGroupRange::new(4, 8).into();
        let chain = vec![Link { groups: &foreign, bytes_per_group: 1 }; 100];
        assert!(bases_due(&chain, &owned, ChainPolicy::default()).is_empty());
    }

    #[test]
    fn untouched_and_young_groups_are_left_alone() {
        let owned: KeyGroupSet = KeyGroupRange::new(0, 8).into();
        assert!(bases_due(&[], &owned, ChainPolicy::default()).is_empty());
        let link = Link { groups: &owned, bytes_per_group: 5 };
        assert!(bases_due(&[link, link], &owned, ChainPolicy::default()).is_empty());
        assert_eq!(bases_due(&[link, link, link], &owned, ChainPolicy::default()).len(), 1);
    }
}
