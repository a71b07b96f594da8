//! When a key group gets a new base, so that chains stay short and no checkpoint is a spike.

use std::cmp::Reverse;

use crate::canary::{self, Canary};
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

/// A group gets a new base when its deltas have this many times the bytes of its base, before compression. Deltas that
/// compress well are cheap to store, and a restore decodes all of them: so decoding stays within a few times the live bytes.
const RAW_BYTES_FACTOR: u64 = 8;

/// A segment of a chain, as far as this decision needs it.
#[derive(Debug, Clone, Copy)]
pub struct Link<'a> {
    /// The groups for which it is needed.
    pub groups: &'a KeyGroupSet,
    /// Its bytes per group, on average; 0 while it is not encoded.
    pub bytes_per_group: u64,
    /// The same before compression.
    pub raw_bytes_per_group: u64,
}

/// The chain of one group.
#[derive(Debug, Clone, Copy)]
struct Chained {
    base_bytes: u64,
    base_raw_bytes: u64,
    deltas: usize,
    delta_bytes: u64,
    delta_raw_bytes: u64,
}

impl Chained {
    fn on(base: &Link<'_>) -> Self {
        let (base_bytes, base_raw_bytes) = (base.bytes_per_group, base.raw_bytes_per_group);
        Self { base_bytes, base_raw_bytes, deltas: 0, delta_bytes: 0, delta_raw_bytes: 0 }
    }

    fn add(&mut self, delta: &Link<'_>) {
        self.deltas += 1;
        self.delta_bytes = self.delta_bytes.saturating_add(delta.bytes_per_group);
        self.delta_raw_bytes = self.delta_raw_bytes.saturating_add(delta.raw_bytes_per_group);
    }

    fn is_due(&self, early: usize) -> bool {
        let decodes_to_more = self.delta_raw_bytes / RAW_BYTES_FACTOR > self.base_raw_bytes;
        let decodes_to_more = decodes_to_more && !canary::on(Canary::BoundStoredOnly);
        let outweighed = self.delta_bytes > self.base_bytes || decodes_to_more;
        // One delta is never worth a base: it would be written again at once when everything is dirty.
        self.deltas + 1 >= early || (self.deltas > 1 && outweighed)
    }
}

/// Returns the groups of `owned` that should get a new base now, given their chain, oldest first.
///
/// A group is due when the bytes of its deltas exceed those of its oldest segment, or 8 times those before compression, or
/// when its chain would reach `max_segments` before its turn comes: turns start `spread` checkpoints early, since only one
/// group in `spread` has its turn at a time. The worst come first. What is left of the quota goes to the groups that hold
/// the oldest segments, if there are more than `max_segments` in all: changes that wander over the groups would else
/// leave a trail of small segments.
///
/// # Cost
/// A step per group of each segment.
#[must_use]
pub fn bases_due(chain: &[Link<'_>], owned: &KeyGroupSet, policy: ChainPolicy) -> KeyGroupSet {
    let quota = owned.len().div_ceil(policy.spread.max(1));
    let early = policy.max_segments.saturating_sub(policy.spread).max(1);
    let mut chains: Vec<Option<Chained>> = vec![None; owned.ranges().last().map_or(0, |last| usize::from(last.end))];
    for link in chain {
        for group in link.groups.intersection(owned).iter() {
            match chains.get_mut(usize::from(group.0)) {
                Some(Some(chained)) => chained.add(link),
                Some(slot) => *slot = Some(Chained::on(link)),
                None => {}
            }
        }
    }
    let mut due: Vec<(Reverse<(usize, u64)>, KeyGroup)> = Vec::new();
    for group in owned.iter() {
        let Some(Some(chained)) = chains.get(usize::from(group.0)) else { continue };
        if chained.is_due(early) {
            due.push((Reverse((chained.deltas, chained.delta_bytes)), group));
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

    fn link(groups: &KeyGroupSet, bytes: u64) -> Link<'_> {
        Link { groups, bytes_per_group: bytes, raw_bytes_per_group: bytes }
    }

    #[test]
    fn deltas_that_compress_well_are_bounded_by_what_they_decode_to() {
        let owned: KeyGroupSet = KeyGroupRange::new(0, 1).into();
        let base = Link { groups: &owned, bytes_per_group: 1_000_000, raw_bytes_per_group: 20_000_000 };
        let delta = Link { bytes_per_group: 10, ..base };
        let due = |deltas: usize| {
            let chain: Vec<_> = std::iter::once(base).chain(vec![delta; deltas]).collect();
            !bases_due(&chain, &owned, ChainPolicy::default()).is_empty()
        };
        assert!(!due(8) && due(9));
    }

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
            let links: Vec<_> = layers.iter().map(|(groups, bytes)| link(groups, *bytes)).collect();
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
            let links: Vec<_> = chain.iter().map(|(groups, _)| link(groups, 1)).collect();
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
        let chain = vec![link(&foreign, 1); 100];
        assert!(bases_due(&chain, &owned, ChainPolicy::default()).is_empty());
    }

    #[test]
    fn untouched_and_young_groups_are_left_alone() {
        let owned: KeyGroupSet = KeyGroupRange::new(0, 8).into();
        assert!(bases_due(&[], &owned, ChainPolicy::default()).is_empty());
        let link = link(&owned, 5);
        assert!(bases_due(&[link, link], &owned, ChainPolicy::default()).is_empty());
        assert_eq!(bases_due(&[link, link, link], &owned, ChainPolicy::default()).len(), 1);
    }
}
