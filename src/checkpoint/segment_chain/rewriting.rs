//! Rewriting what is placed: out of objects that hold little else, and long chains of absent groups into one base.
//!
//! A resident group that changes gets a new base at the next seal, beside other state that changes. A cold one, and an absent
//! one, is read from where it lies and written again among its like, without its task: the copy takes the place of the links
//! that it was made of, and later ones follow it as before. Packs of cold state stay whole for long, so it is not written again
//! and again.

use std::collections::{BTreeMap, BTreeSet};

use super::SegmentChain;
use super::link::{Link, LinkId, Seals, Stage};
use crate::canary::{self, Canary};
use crate::id::{Epoch, ObjectId};
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::memory::MemoryBudget;
use crate::row::{Rules, SegmentKind};
use crate::segment::{SegmentRef, sum};

/// The groups to rewrite, and what is known of the absent ones.
#[derive(Debug, Default)]
pub(super) struct Rewrites {
    /// Groups that keep an object stored which is to be freed.
    wanted: KeyGroupSet,
    /// The groups that changed before the last seal.
    pub(super) changed: KeyGroupSet,
    /// Absent groups whose chains are long.
    pub(super) overlong: KeyGroupSet,
    /// Whether absent groups are being loaded: those wait until they are resident.
    loading: bool,
    /// Groups of rewrites that met damage: they are tried one by one.
    suspect: KeyGroupSet,
    /// Those whose damage is proved: they stay where they are.
    damaged: KeyGroupSet,
    /// Most groups that get a base at a seal, but for those that were given up.
    pub(super) quota: usize,
    /// How often placed links were rewritten, and how often those of absent groups.
    count: u64,
    of_absent: u64,
}

/// The placed links of some groups, being written again as one base.
#[derive(Debug)]
pub struct Rewriting {
    /// The groups.
    pub groups: KeyGroupSet,
    /// The links of these groups.
    links: Vec<LinkId>,
    /// Their segments, oldest first, each for the groups that need it.
    pub segments: Vec<SegmentRef>,
    /// About how many stored bytes these groups have there.
    pub bytes: u64,
    /// What the base will cover.
    pub seals: Seals,
    /// What its bytes are charged to until they are uploaded.
    pub budget: MemoryBudget,
}

impl SegmentChain {
    /// Records the stored bytes of the rows that each restored segment has of its groups.
    ///
    /// * `bytes`: of each restored segment, in order.
    pub fn measure(&mut self, bytes: &[u64]) {
        self.links.iter_mut().zip(bytes).for_each(|(link, bytes)| link.measured = Some(*bytes));
    }

    /// Adds the bytes that will be needed of each object once the groups that are due have their new bases.
    pub fn add_live(&self, live: &mut BTreeMap<ObjectId, u64>) {
        let due = self.next_bases();
        for (link, needed) in self.links.iter().zip(self.needed(Epoch(u64::MAX))) {
            if let Stage::Placed(segment) = &link.stage {
                let (bytes, groups) = (live.entry(segment.object).or_default(), needed.difference(&due).len());
                *bytes = bytes.saturating_add(link.bytes_per_group().saturating_mul(groups as u64));
            }
        }
    }

    /// Has the groups that need one of `objects` rewritten elsewhere, in place of those of earlier calls.
    pub fn free(&mut self, objects: &BTreeSet<ObjectId>) {
        let needed = self.needed(Epoch(u64::MAX));
        let keeps = |link: &Link| matches!(&link.stage, Stage::Placed(segment) if objects.contains(&segment.object));
        let keeping = self.links.iter().zip(&needed).filter(|(link, _)| keeps(link));
        let groups = keeping.flat_map(|(_, groups)| groups.ranges().iter().copied());
        self.rewrites.wanted = KeyGroupSet::from_ranges(groups);
    }

    /// Says whether absent groups are being loaded.
    pub fn set_loading(&mut self, loading: bool) {
        self.rewrites.loading = loading;
    }

    /// Returns the groups that get a base at the next seal. Those that get one for the sake of an object fill the quota that
    /// the others leave; the rest waits.
    pub(super) fn next_bases(&self) -> KeyGroupSet {
        let Rewrites { wanted, changed, quota, .. } = &self.rewrites;
        let freed = wanted.intersection(changed).difference(&self.absent).difference(&self.due);
        let freed: KeyGroupSet = freed.iter().take(quota.saturating_sub(self.due.len())).collect();
        self.due.union(&freed).union(&self.given_up)
    }

    /// Returns the groups that more than one link is needed for.
    pub(super) fn with_several_links(&self, groups: &KeyGroupSet) -> KeyGroupSet {
        let (mut once, mut twice) = (KeyGroupSet::empty(), KeyGroupSet::empty());
        for needed in self.needed(Epoch(u64::MAX)) {
            let needed = needed.intersection(groups);
            (once, twice) = (once.union(&needed), twice.union(&once.intersection(&needed)));
        }
        twice
    }

    /// Records that `groups` got a new base.
    pub(super) fn based(&mut self, groups: &KeyGroupSet) {
        self.rewrites.wanted = self.rewrites.wanted.difference(groups);
        self.given_up = self.given_up.difference(groups);
    }

    /// Returns how often placed links were rewritten: what was read of them before lies elsewhere.
    #[must_use]
    pub fn rewrites(&self) -> u64 {
        self.rewrites.count
    }

    /// As [`SegmentChain::rewrites`], of those that moved absent groups.
    #[must_use]
    pub fn rewrites_of_absent(&self) -> u64 {
        self.rewrites.of_absent
    }

    /// Begins to rewrite cold or absent groups of up to `bytes` stored bytes together. Returns `None` if there is none to be
    /// rewritten.
    #[must_use]
    pub fn begin_rewrite(&self, bytes: u64) -> Option<Rewriting> {
        let Rewrites { wanted, changed, overlong, loading, suspect, damaged, .. } = &self.rewrites;
        let wanted = wanted.difference(&changed.difference(&self.absent)).union(overlong);
        let wanted = if *loading { wanted.difference(&self.absent) } else { wanted };
        let wanted = self.stored(&wanted.difference(damaged));
        let (sound, bytes) = match wanted.difference(suspect) {
            sound if sound.is_empty() => (wanted, 0),
            sound => (sound, bytes),
        };
        let needed = self.needed(Epoch(u64::MAX));
        let mut sizes: BTreeMap<KeyGroup, u64> = sound.iter().map(|group| (group, 0)).collect();
        for (link, needed) in self.links.iter().zip(&needed) {
            let bytes = link.bytes_per_group();
            for group in needed.iter() {
                sizes.entry(group).and_modify(|size| *size = size.saturating_add(bytes));
            }
        }
        let mut total = 0u64;
        let fits = |(at, (_, size)): &(usize, (KeyGroup, u64))| {
            total = total.saturating_add(*size);
            *at == 0 || total <= bytes
        };
        let taken: Vec<_> = sizes.into_iter().enumerate().take_while(fits).map(|(_, sized)| sized).collect();
        let bytes = sum(taken.iter().map(|(_, size)| *size));
        let groups: KeyGroupSet = taken.into_iter().map(|(group, _)| group).collect();
        let of_groups = |(_, needed): &(&Link, &KeyGroupSet)| !needed.intersection(&groups).is_empty();
        let links: Vec<_> = self.links.iter().zip(&needed).filter(of_groups).map(|(link, _)| link).collect();
        let (newest, first_epoch) = (links.last()?.seals, links.iter().map(|link| link.seals.first_epoch).min()?);
        Some(Rewriting {
            links: links.iter().map(|link| link.id).collect(),
            segments: self.stored_segments(&groups),
            bytes,
            seals: Seals { first_epoch, ..newest },
            budget: self.budget.clone(),
            groups,
        })
    }

    /// Records that a rewrite of `groups` met damage.
    pub fn fail_rewrite(&mut self, groups: &KeyGroupSet) {
        let Rewrites { suspect, damaged, .. } = &mut self.rewrites;
        let proved = if groups.len() == 1 { damaged } else { suspect };
        *proved = proved.union(groups);
    }

    /// Returns the groups whose new segments a manifest at `epoch` can list: the others got a base meanwhile.
    #[must_use]
    pub fn rewritable(&self, rewriting: &Rewriting, epoch: Epoch) -> KeyGroupSet {
        let links = self.links.iter().zip(self.needed(epoch));
        let needed = links.filter(|(link, _)| rewriting.links.contains(&link.id)).map(|(_, needed)| needed);
        let needed = needed.fold(KeyGroupSet::empty(), |all, needed| all.union(&needed));
        rewriting.groups.intersection(&needed)
    }

    /// Puts the new segments in place of the old ones, for the groups that are [rewritable](Self::rewritable).
    ///
    /// * `placed`: the segments that have all rows of the groups.
    pub fn end_rewrite(&mut self, rewriting: &Rewriting, epoch: Epoch, placed: Vec<SegmentRef>) {
        let groups = self.rewritable(rewriting, epoch);
        let Rewriting { links, seals, .. } = rewriting;
        let replaced = |id: LinkId| links.contains(&id);
        for link in self.links.iter_mut().filter(|link| replaced(link.id)) {
            link.groups = link.groups.difference(&groups);
        }
        // What was sealed for these groups since is of later epochs.
        let later = |link: &Link| link.seals.epoch > seals.epoch && !canary::on(Canary::RewriteLast);
        let at = self.links.partition_point(|link| !later(link));
        for segment in placed {
            let (id, kind, rules) = (self.ids.draw(), SegmentKind::Base, Rules::none());
            let (groups, stage) = (segment.groups.intersection(&groups), Stage::Placed(segment));
            self.links.insert(at, Link { id, seals: *seals, kind, groups, stage, rules, measured: None });
        }
        self.links.retain(|link| !link.groups.is_empty());
        self.rewrites.wanted = self.rewrites.wanted.difference(&groups);
        self.rewrites.overlong = self.rewrites.overlong.difference(&groups);
        self.rewrites.suspect = self.rewrites.suspect.difference(&groups);
        self.rewrites.count += 1;
        self.rewrites.of_absent += u64::from(!groups.intersection(&self.absent).is_empty());
    }
}
