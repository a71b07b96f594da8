//! A subtask's chain of segments, from the committed ones to those still in memory.
//!
//! Invariants: a link leaves the chain only when a committed manifest no longer needs it; the seals of an aborted epoch
//! stay and join the next manifest; pending links are merged, so that memory holds one copy of each dirty row however
//! long the store is down; a seal becomes segments of bounded size with disjoint groups.

mod link;
mod pending;
mod rewriting;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::encoded_rows::restricted;
use crate::canary::{self, Canary};
use crate::control::chain::{ChainPolicy, LinkSize, bases_due};
use crate::error::broken;
use crate::id::{Epoch, ObjectId};
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::memory::MemoryBudget;
use crate::row::{RowSource, Sealed, SealedPart, SegmentKind};
use crate::segment::{Encoded, SegmentRef, sum};

use link::{Link, Stage};
use rewriting::Rewrites;

pub use link::{Content, LinkId, PendingLink, Seals};
pub use rewriting::Rewriting;

/// Bytes of rows that are worth an encoder of their own: each segment costs a restore a request for its index.
const ENCODER_BYTES_MIN: u64 = 8 << 20;

/// The chain of one subtask.
#[derive(Debug)]
pub struct SegmentChain {
    owned: KeyGroupSet,
    links: VecDeque<Link>,
    ids: Ids,
    /// The groups that get a new base at the next seal.
    due: KeyGroupSet,
    /// Groups that get a new base at the next seal, whatever is due.
    given_up: KeyGroupSet,
    absent: KeyGroupSet,
    rewrites: Rewrites,
    budget: MemoryBudget,
    /// The target length of a segment.
    segment_bytes: u64,
    /// Segments encoded at a time.
    encoders: u64,
    /// Whether a [`Merging`] is under way.
    merging: bool,
    /// The newest epoch whose pending links were handed out.
    handed_out: Epoch,
}

/// Draws the ids of a chain's links. A merge off the task's thread draws from the same source.
#[derive(Debug, Clone, Default)]
struct Ids(Arc<AtomicU64>);

impl Ids {
    fn draw(&self) -> LinkId {
        LinkId(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

impl SegmentChain {
    /// Returns the chain of a subtask that owns `owned` and was restored from `segments`.
    #[must_use]
    pub fn new(owned: KeyGroupSet, segments: Vec<SegmentRef>, budget: MemoryBudget) -> Self {
        let ids = Ids::default();
        let links = segments.into_iter().map(|segment| Link::placed(ids.draw(), segment)).collect();
        Self {
            owned,
            links,
            ids,
            due: KeyGroupSet::empty(),
            given_up: KeyGroupSet::empty(),
            absent: KeyGroupSet::empty(),
            rewrites: Rewrites::default(),
            budget,
            segment_bytes: u64::MAX,
            encoders: 1,
            merging: false,
            handed_out: Epoch(0),
        }
    }

    /// Sets the target length of a segment, in bytes; one group is never divided.
    #[must_use]
    pub fn with_segment_bytes(self, bytes: u64) -> Self {
        Self { segment_bytes: bytes, ..self }
    }

    /// Sets how many segments are encoded at a time.
    #[must_use]
    pub fn with_encoders(self, encoders: usize) -> Self {
        Self { encoders: encoders.max(1) as u64, ..self }
    }

    /// Returns what its encoded segments are charged to.
    #[must_use]
    pub fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    /// Decides which groups get a new base at the next seal. Called ahead of the seal, so that no barrier waits for it.
    pub fn plan_bases(&mut self, policy: ChainPolicy) {
        let needed = self.needed(Epoch(u64::MAX));
        // The segments of one seal count as one.
        let links: Vec<_> = self.links.iter().zip(&needed).collect();
        let seals = links.chunk_by(|(a, _), (b, _)| a.is_sealed_with(b));
        let seals: Vec<_> = seals.map(seal_of).collect();
        let sizes: Vec<_> = seals
            .iter()
            .map(|&(ref groups, bytes_per_group, raw_bytes_per_group)| LinkSize {
                groups,
                bytes_per_group,
                raw_bytes_per_group,
            })
            .collect();
        let due = bases_due(&sizes, &self.owned.difference(&self.absent), policy);
        // Merging the only segment of a group would shorten nothing.
        let overlong = self.with_several_links(&bases_due(&sizes, &self.absent, policy));
        (self.due, self.rewrites.overlong) = (due, overlong);
        self.rewrites.quota = self.owned.len().div_ceil(policy.spread.max(1));
    }

    /// Gives all groups a new base at the next seal. Otherwise stored rows would be read under the new rules.
    pub fn rebase(&mut self) {
        self.due = self.owned.clone();
    }

    /// Takes the groups that get a new base at the current seal.
    pub fn take_due(&mut self) -> KeyGroupSet {
        let bases = self.next_bases();
        self.due = KeyGroupSet::empty();
        bases
    }

    /// Gives `groups` a new base at the next seal, after a seal that failed.
    pub fn add_due(&mut self, groups: &KeyGroupSet) {
        self.due = self.due.union(groups);
    }

    /// Gives `groups` a new base at the next seal: nothing that is stored of them is needed any more.
    pub fn give_up(&mut self, groups: &KeyGroupSet) {
        self.absent = self.absent.difference(groups);
        self.given_up = self.given_up.union(groups);
    }

    /// Appends the parts of a seal.
    pub fn push(&mut self, sealed: Sealed) {
        let Sealed { cut, parts, .. } = sealed;
        let seals = Seals { first_epoch: cut.epoch, epoch: cut.epoch, part: cut.part };
        self.rewrites.changed = KeyGroupSet::empty();
        for SealedPart { kind, groups, rows, rules } in parts {
            match kind {
                SegmentKind::Base => self.based(&groups),
                _ => self.rewrites.changed = groups.clone(),
            }
            let (id, stage) = (self.ids.draw(), Stage::Sealed(rows));
            self.links.push_back(Link { id, seals, kind, groups, stage, rules, measured: None });
        }
    }

    /// Returns the links to place before a manifest can cover `epoch`: merged to at most one `Base` and one `Delta`,
    /// each divided into links with disjoint groups, which are encoded concurrently.
    pub fn pending(&mut self, epoch: Epoch) -> Vec<PendingLink> {
        self.handed_out = self.handed_out.max(epoch);
        if let Some(merged) = self.merged(epoch) {
            self.replace_pending(epoch, merged);
        }
        self.divide_by_rows(epoch);
        self.divide_by_segments(epoch);
        self.links.iter().filter(|link| link.is_pending(epoch)).map(Link::pending).collect()
    }

    /// Replaces the rows of a link, for all or some of its groups, with their encoded bytes until these are placed.
    /// Returns the link of the bytes; the other groups stay with the link `id`.
    pub fn encoded(&mut self, id: LinkId, encoded: Encoded) -> LinkId {
        let (at, link) = self.take_groups(id, &encoded.groups);
        let bytes = link.encoded_as(self.ids.draw(), encoded, &self.budget);
        let (id, groups) = (bytes.id, link.groups);
        self.links.insert(at, Link { groups, ..bytes });
        id
    }

    /// Drops `groups` from a link that has no rows of them and supersedes none.
    pub fn discard(&mut self, id: LinkId, groups: &KeyGroupSet) {
        self.take_groups(id, groups);
    }

    /// Records where a link was placed.
    pub fn placed(&mut self, id: LinkId, segment: SegmentRef) {
        let at = self.position(id);
        if let Some(link) = self.links.get_mut(at) {
            link.stage = Stage::Placed(segment);
        }
    }

    /// Rewrites `groups` out of a link, which is removed if no groups remain. Returns the link's position, and a link of
    /// the moved groups.
    fn take_groups(&mut self, id: LinkId, groups: &KeyGroupSet) -> (usize, Link) {
        let at = self.position(id);
        let Some(link) = self.links.remove(at) else { broken("a link moved") };
        let (taken, rest) = (link.groups.intersection(groups), link.groups.difference(groups));
        if !rest.is_empty() {
            self.links.insert(at, Link { groups: rest, ..link.clone() });
        }
        (at, Link { groups: taken, ..link })
    }

    /// Returns the position of a link being encoded or placed. The link is there: commits and merges do not remove such
    /// links.
    fn position(&self, id: LinkId) -> usize {
        let position = self.links.iter().position(|link| link.id == id);
        position.unwrap_or_else(|| broken("a link that is being placed left its chain"))
    }

    /// Returns the segments that a manifest at `epoch` lists: the links up to `epoch`, each with the groups that it is
    /// needed for. `None` if one is not placed.
    #[must_use]
    #[cfg(any(test, feature = "internals"))]
    pub fn segments(&self, epoch: Epoch) -> Option<Vec<SegmentRef>> {
        self.segments_with(epoch, &BTreeMap::new())
    }

    /// As [`SegmentChain::segments`], for a chain that does not know yet where some of its links lie. A manifest may list
    /// a segment whose pack is not uploaded: it is committed only afterwards.
    ///
    /// * `packed`: where these links will lie.
    #[must_use]
    pub fn segments_with(&self, epoch: Epoch, packed: &BTreeMap<LinkId, SegmentRef>) -> Option<Vec<SegmentRef>> {
        let needed = self.needed(epoch);
        let covered =
            self.links.iter().zip(needed).filter(|(link, groups)| link.seals.epoch <= epoch && !groups.is_empty());
        covered
            .map(|(link, groups)| {
                let segment = match &link.stage {
                    Stage::Placed(segment) => segment,
                    _ => packed.get(&link.id)?,
                };
                Some(SegmentRef { groups, ..segment.clone() })
            })
            .collect()
    }

    /// Returns the segments of absent `groups`. What of them is not placed are clears, which are repeated once a group is
    /// loaded.
    #[must_use]
    pub fn stored_segments(&self, groups: &KeyGroupSet) -> Vec<SegmentRef> {
        let narrowed = |(link, needed): (&Link, KeyGroupSet)| {
            let (Stage::Placed(segment), groups) = (&link.stage, needed.intersection(groups)) else { return None };
            (!groups.is_empty()).then(|| SegmentRef { groups, ..segment.clone() })
        };
        self.links.iter().zip(self.needed(Epoch(u64::MAX))).filter_map(narrowed).collect()
    }

    /// Returns those of `groups` all of whose state is placed. What is placed of a group that was given up is not its state.
    #[must_use]
    pub fn stored(&self, groups: &KeyGroupSet) -> KeyGroupSet {
        let pending = self.links.iter().filter(|link| !matches!(link.stage, Stage::Placed(_)));
        let pending = KeyGroupSet::from_ranges(pending.flat_map(|link| link.groups.ranges().iter().copied()));
        groups.difference(&pending).difference(&self.given_up)
    }

    /// Sets the groups that are absent from memory: only a resident one gets a new base.
    pub fn set_absent(&mut self, absent: KeyGroupSet) {
        self.absent = absent;
    }

    /// Returns the bytes of encoded links that are not placed, and the rows of links that are not encoded. Summing the
    /// bytes of the rows takes a step per region, so the caller does it without the chain's lock.
    #[must_use]
    pub fn held(&self) -> (u64, Vec<Arc<dyn RowSource>>) {
        let (mut bytes, mut rows) = (0, Vec::new());
        for link in &self.links {
            match &link.stage {
                Stage::Sealed(sealed) if rows.iter().any(|other| Arc::ptr_eq(other, sealed)) => {}
                Stage::Sealed(sealed) => rows.push(Arc::clone(sealed)),
                Stage::Encoded(encoded) => bytes += encoded.held_bytes(),
                Stage::Placed(_) => {}
            }
        }
        (bytes, rows)
    }

    /// Returns the objects that hold its placed links.
    #[must_use]
    pub fn objects(&self) -> Vec<ObjectId> {
        let object = |link: &Link| match &link.stage {
            Stage::Placed(segment) => Some(segment.object),
            _ => None,
        };
        self.links.iter().filter_map(object).collect()
    }

    /// Drops the links that the manifest committed at `epoch` no longer needs.
    pub fn commit(&mut self, epoch: Epoch) {
        let needed = self.needed(epoch);
        for (link, groups) in self.links.iter_mut().zip(needed) {
            if link.seals.epoch <= epoch {
                link.groups = groups;
            }
        }
        self.links.retain(|link| !link.groups.is_empty());
    }

    /// Returns, for each link, the groups that a manifest at `epoch` needs it for: those without a newer base.
    fn needed(&self, epoch: Epoch) -> Vec<KeyGroupSet> {
        let mut based = KeyGroupSet::empty();
        let mut needed: Vec<_> = self
            .links
            .iter()
            .rev()
            .map(|link| {
                let groups = link.groups.difference(&based);
                if link.kind == SegmentKind::Base && link.seals.epoch <= epoch {
                    based = based.union(&link.groups);
                }
                groups
            })
            .collect();
        needed.reverse();
        needed
    }

    /// Divides links that are not encoded yet by the bytes of their rows: among the encoders, and into segments. Leaves
    /// rows of unknown size whole.
    fn divide_by_rows(&mut self, epoch: Epoch) {
        let (segment_bytes, encoders, ids) = (self.segment_bytes, self.encoders, self.ids.clone());
        // The parts of a divided link stay as they are.
        let is_whole = |link: &Link| self.links.iter().filter(|other| other.is_sealed_with(link)).count() == 1;
        let whole: BTreeSet<_> = self.links.iter().filter(|link| is_whole(link)).map(|link| link.id).collect();
        let divide = |link: Link| {
            let Stage::Sealed(rows) = &link.stage else { return vec![link] };
            if !link.is_pending(epoch) || !whole.contains(&link.id) {
                return vec![link];
            }
            let sizes: BTreeMap<_, _> = link.groups.iter().map(|group| (group, rows.group_bytes(group))).collect();
            let share = sum(sizes.values().copied()).div_ceil(encoders).min(segment_bytes).max(ENCODER_BYTES_MIN);
            let runs = link.groups.divide(share, |group| sizes.get(&group).copied().unwrap_or(0));
            divided(link, runs, &ids)
        };
        self.links = std::mem::take(&mut self.links).into_iter().flat_map(divide).collect();
    }

    /// Divides bases that are not encoded yet by the sizes of the existing segments, for backends that do not tell the
    /// bytes of their rows. The target is a little below a segment, since the encoder cuts parts that turn out too long.
    fn divide_by_segments(&mut self, epoch: Epoch) {
        let most = self.segment_bytes - self.segment_bytes / 8;
        let is_base = |link: &Link| link.kind == SegmentKind::Base && link.is_pending(epoch);
        if sum(self.links.iter().map(Link::bytes)) <= most || !self.links.iter().any(is_base) {
            return;
        }
        let end = self.links.iter().filter_map(|link| link.groups.ranges().last()).map(|last| last.end).max();
        let mut sizes = vec![0u64; end.map_or(0, usize::from)];
        for link in &self.links {
            let bytes = link.bytes_per_group();
            for group in link.groups.iter() {
                sizes.get_mut(usize::from(group.0)).into_iter().for_each(|size| *size = size.saturating_add(bytes));
            }
        }
        let size = |group: KeyGroup| sizes.get(usize::from(group.0)).copied().unwrap_or(0);
        let runs = |link: &Link| if is_base(link) { link.groups.divide(most, size) } else { Vec::new() };
        let runs: Vec<_> = self.links.iter().map(runs).collect();
        let ids = self.ids.clone();
        let links = std::mem::take(&mut self.links).into_iter().zip(runs);
        self.links = links.flat_map(|(link, runs)| divided(link, runs, &ids)).collect();
    }

    /// Merges the pending links up to `epoch` to at most one `Base` and one `Delta`. Returns `None` if they come from
    /// one seal.
    fn merged(&self, epoch: Epoch) -> Option<Vec<Link>> {
        let newest = self.links.iter().rev().find(|link| link.is_pending(epoch))?;
        let (last, rules) = (newest.seals, newest.rules.clone());
        let pending = || self.links.iter().filter(|link| link.is_pending(epoch));
        if pending().all(|link| (link.seals.epoch, link.seals.part) == (last.epoch, last.part)) {
            return None;
        }
        let first_epoch = pending().map(|link| link.seals.first_epoch).min().unwrap_or(last.epoch);
        let (mut bases, mut sources) = (Vec::new(), Vec::new());
        for (link, groups) in self.links.iter().zip(self.needed(epoch)).filter(|(link, _)| link.is_pending(epoch)) {
            if link.kind == SegmentKind::Base {
                bases.extend_from_slice(link.groups.ranges());
            }
            if !canary::on(Canary::ForgetAborted) || link.seals.epoch == last.epoch {
                sources.push((groups, link.rows()));
            }
        }
        let bases = KeyGroupSet::from_ranges(bases);
        let touched = KeyGroupSet::from_ranges(sources.iter().flat_map(|(groups, _)| groups.ranges().iter().copied()));
        let merged = |kind, groups: KeyGroupSet| Link {
            id: self.ids.draw(),
            seals: Seals { first_epoch, ..last },
            kind,
            stage: Stage::Sealed(restricted(&sources, &groups)),
            groups,
            rules: rules.clone(),
            measured: None,
        };
        let deltas = touched.difference(&bases);
        let links = [merged(SegmentKind::Base, bases), merged(SegmentKind::Delta, deltas)];
        Some(links.into_iter().filter(|link| !link.groups.is_empty()).collect())
    }

    /// Puts `links` in place of the pending links up to `epoch`. Placed links of these epochs are older than all
    /// pending ones; links of later epochs come after them.
    fn replace_pending(&mut self, epoch: Epoch, links: Vec<Link>) {
        self.links.retain(|link| !link.is_pending(epoch));
        let at = self.links.partition_point(|link| link.seals.epoch <= epoch);
        for link in links.into_iter().rev() {
            self.links.insert(at, link);
        }
    }
}

/// Divides a sealed link into one for each of `runs`, a partition of its groups. Other links stay whole.
fn divided(link: Link, runs: Vec<KeyGroupSet>, ids: &Ids) -> Vec<Link> {
    if runs.len() < 2 || !matches!(link.stage, Stage::Sealed(_)) {
        return vec![link];
    }
    runs.into_iter().map(|groups| Link { id: ids.draw(), groups, ..link.clone() }).collect()
}

/// Returns the groups that the links of a seal are needed for, and the bytes per group, stored and before compression.
fn seal_of(seal: &[(&Link, &KeyGroupSet)]) -> (KeyGroupSet, u64, u64) {
    let needed = KeyGroupSet::from_ranges(seal.iter().flat_map(|(_, needed)| needed.ranges().iter().copied()));
    let bytes = sum(seal.iter().map(|(link, _)| link.bytes()));
    let raw_bytes = sum(seal.iter().map(|(link, _)| link.raw_bytes()));
    let groups = sum(seal.iter().map(|(link, _)| link.covered())).max(1);
    (needed, bytes / groups, raw_bytes / groups)
}

#[cfg(test)]
mod tests;
