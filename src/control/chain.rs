//! When a key group gets a new base. Bases bound the length of chains, and are spread over checkpoints to avoid spikes.

use std::cmp::Reverse;

use crate::canary::{self, Canary};
use crate::key_group::{KeyGroup, KeyGroupSet};

/// Bounds of the segment chain of a key group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChainPolicy {
    /// Most segments of a group's chain. Default 32.
    pub max_segments: usize,
    /// At most one group in this many gets a new base per checkpoint. Default 8.
    pub spread: usize,
}

impl Default for ChainPolicy {
    fn default() -> Self {
        Self { max_segments: 32, spread: 8 }
    }
}

/// A group gets a new base when its deltas reach this many times the bytes of its base, before compression. Deltas that
/// compress well are cheap to store, but a restore decodes all of them; this bounds decoding to a few times the live bytes.
const RAW_BYTES_FACTOR: u64 = 8;

/// The size of a segment in a chain.
#[derive(Debug, Clone, Copy)]
pub struct LinkSize<'a> {
    /// The groups that need the segment.
    pub groups: &'a KeyGroupSet,
    /// Mean bytes per group; 0 until the segment is encoded.
    pub bytes_per_group: u64,
    /// Mean bytes per group before compression.
    pub raw_bytes_per_group: u64,
}

/// The size of one group's chain.
#[derive(Debug, Clone, Copy)]
struct ChainSize {
    base_bytes: u64,
    base_raw_bytes: u64,
    deltas: usize,
    delta_bytes: u64,
    delta_raw_bytes: u64,
}

impl ChainSize {
    fn of_base(base: &LinkSize<'_>) -> Self {
        let (base_bytes, base_raw_bytes) = (base.bytes_per_group, base.raw_bytes_per_group);
        Self { base_bytes, base_raw_bytes, deltas: 0, delta_bytes: 0, delta_raw_bytes: 0 }
    }

    fn add(&mut self, delta: &LinkSize<'_>) {
        self.deltas += 1;
        self.delta_bytes = self.delta_bytes.saturating_add(delta.bytes_per_group);
        self.delta_raw_bytes = self.delta_raw_bytes.saturating_add(delta.raw_bytes_per_group);
    }

    /// Returns whether the group needs a base, with a bound of `early` segments.
    fn is_due(&self, early: usize) -> bool {
        let costly_to_decode = self.delta_raw_bytes / RAW_BYTES_FACTOR > self.base_raw_bytes;
        let costly_to_decode = costly_to_decode && !canary::on(Canary::BoundStoredOnly);
        let outweighed = self.delta_bytes > self.base_bytes || costly_to_decode;
        // A single delta never justifies a base: if every row is dirty each time, every checkpoint would write one.
        self.deltas + 1 >= early || (self.deltas > 1 && outweighed)
    }
}

/// Returns the groups of `owned` that should get a new base now. `chain` is oldest first.
///
/// A group is due when its deltas outweigh its oldest segment, or exceed 8 times its size before compression, or when the
/// chain is within `spread` segments of `max_segments`: only one group in `spread` gets a base per checkpoint, so groups must
/// start early. The longest chains come first. If the subtask has more than `max_segments` segments in all, the rest of the
/// quota goes to the groups of the oldest ones: otherwise changes that wander over the groups leave a trail of small segments.
///
/// # Cost
/// One step per group of each segment.
#[must_use]
pub fn bases_due(chain: &[LinkSize<'_>], owned: &KeyGroupSet, policy: ChainPolicy) -> KeyGroupSet {
    let quota = owned.len().div_ceil(policy.spread.max(1));
    let early = policy.max_segments.saturating_sub(policy.spread).max(1);
    let mut chains: Vec<Option<ChainSize>> = vec![None; owned.ranges().last().map_or(0, |last| usize::from(last.end))];
    for link in chain {
        for group in link.groups.intersection(owned).iter() {
            match chains.get_mut(usize::from(group.0)) {
                Some(Some(size)) => size.add(link),
                Some(slot) => *slot = Some(ChainSize::of_base(link)),
                None => {}
            }
        }
    }
    let mut due: Vec<(Reverse<(usize, u64)>, KeyGroup)> = Vec::new();
    for group in owned.iter() {
        let Some(Some(size)) = chains.get(usize::from(group.0)) else { continue };
        if size.is_due(early) {
            due.push((Reverse((size.deltas, size.delta_bytes)), group));
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

    fn link(groups: &KeyGroupSet, bytes: u64) -> LinkSize<'_> {
        LinkSize { groups, bytes_per_group: bytes, raw_bytes_per_group: bytes }
    }

    #[test]
    fn deltas_that_compress_well_are_bounded_by_their_decoded_size() {
        let owned: KeyGroupSet = KeyGroupRange::new(0, 1).into();
        let base = LinkSize { groups: &owned, bytes_per_group: 1_000_000, raw_bytes_per_group: 20_000_000 };
        let delta = LinkSize { bytes_per_group: 10, ..base };
        let due = |deltas: usize| {
            let chain: Vec<_> = std::iter::once(base).chain(vec![delta; deltas]).collect();
            !bases_due(&chain, &owned, ChainPolicy::default()).is_empty()
        };
        assert!(!due(8) && due(9));
    }

    /// Runs checkpoints with equal deltas; returns the longest chain and the most bases in one checkpoint.
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
    fn small_deltas_reach_but_never_pass_the_segment_bound() {
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
    fn wandering_changes_leave_no_long_trail() {
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
    fn groups_no_longer_owned_get_no_base() {
        let owned: KeyGroupSet = KeyGroupRange::new(0, 4).into();
        let foreign: KeyGroupSet = KeyGroupRange::new(4, 8).into();
        let chain = vec![link(&foreign, 1); 100];
        assert!(bases_due(&chain, &owned, ChainPolicy::default()).is_empty());
    }

    #[test]
    fn untouched_and_young_groups_get_no_base() {
        let owned: KeyGroupSet = KeyGroupRange::new(0, 8).into();
        assert!(bases_due(&[], &owned, ChainPolicy::default()).is_empty());
        let link = link(&owned, 5);
        assert!(bases_due(&[link, link], &owned, ChainPolicy::default()).is_empty());
        assert_eq!(bases_due(&[link, link, link], &owned, ChainPolicy::default()).len(), 1);
    }
}
