//! A subtask's chain of segments, from the last commit to what is still in memory.
//!
//! Invariants: a link leaves the chain only when a committed manifest no longer needs it; what an aborted epoch
//! sealed stays and is part of the next manifest; links that wait are merged, so that however long the store is
//! down one copy of each dirty row is carried; what is sealed becomes segments of bounded size, each of other groups.

use std::collections::VecDeque;
use std::sync::Arc;

use super::waiting::{EncodedRows, restricted};
use crate::canary::{self, Canary};
use crate::control::chain::{ChainPolicy, LinkSize as LinkView, bases_due};
use crate::error::Result;
use crate::id::{Epoch, ObjectId, Part};
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::memory::MemoryBudget;
use crate::segment::{
    EncodeOptions, Encoded, Encoder, RowSource, Rules, Sealed, SealedPart, SegmentKind, SegmentRef, Stack, sum,
};

/// The chain of one subtask.
#[derive(Debug)]
pub struct SegmentChain {
    owned: KeyGroupSet,
    links: VecDeque<Link>,
    /// The groups that get a new base at the next seal.
    due: KeyGroupSet,
    budget: MemoryBudget,
    /// About how long a segment may get.
    segment_bytes: u64,
    /// Whether what waits is being merged elsewhere.
    merging: bool,
    /// The newest epoch that was asked what has to be placed for it.
    handed_out: Epoch,
}

/// A run of state on its way into a manifest, or in one already.
#[derive(Debug, Clone)]
struct Link {
    first_epoch: Epoch,
    epoch: Epoch,
    part: Part,
    kind: SegmentKind,
    /// The first group that it was made for: what tells the segments of one seal apart.
    first: Option<KeyGroup>,
    groups: KeyGroupSet,
    stage: Stage,
    /// What its rows mean; nothing once it is placed.
    rules: Rules,
}

#[derive(Debug, Clone)]
enum Stage {
    Sealed(Arc<dyn RowSource>),
    Encoded(Arc<EncodedRows>),
    Placed(SegmentRef),
}

/// What waits of a chain, on its way to one copy of each row.
#[derive(Debug)]
pub struct Merging {
    epoch: Epoch,
    /// What they were made of: the links' first groups and rows.
    was: Vec<(Option<KeyGroup>, Arc<dyn RowSource>)>,
    links: Vec<Link>,
    budget: MemoryBudget,
    segment_bytes: u64,
}

/// A link that has to be encoded and placed for a checkpoint.
#[derive(Debug, Clone)]
pub struct Unplaced {
    /// The first epoch it covers.
    pub first_epoch: Epoch,
    /// The last epoch it covers.
    pub epoch: Epoch,
    /// The last part it covers, within that epoch.
    pub part: Part,
    /// The first group that it was made for.
    pub(super) first: Option<KeyGroup>,
    /// Its bytes, or the rows that they will be made of.
    pub content: Content,
}

/// What is known of an unplaced link.
#[derive(Debug, Clone)]
pub enum Content {
    /// Rows, not encoded yet.
    Rows(SealedPart),
    /// The segment's bytes, from an earlier try.
    Bytes(Encoded),
}

impl SegmentChain {
    /// Returns the chain of a subtask that owns `owned` and was restored from `segments`.
    #[must_use]
    pub fn new(owned: KeyGroupSet, segments: Vec<SegmentRef>, budget: MemoryBudget) -> Self {
        let links = segments.into_iter().map(Link::placed).collect();
        Self {
            owned,
            links,
            due: KeyGroupSet::empty(),
            budget,
            segment_bytes: u64::MAX,
            merging: false,
            handed_out: Epoch(0),
        }
    }

    /// Makes segments about `bytes` long; of one group at least.
    #[must_use]
    pub fn with_segment_bytes(self, bytes: u64) -> Self {
        Self { segment_bytes: bytes, ..self }
    }

    /// Decides which groups get a new base at the next seal: ahead of it, so that no barrier waits for that.
    pub fn plan_bases(&mut self, policy: ChainPolicy) {
        let needed = self.needed(Epoch(u64::MAX));
        // The segments of one seal count as one.
        let links: Vec<_> = self.links.iter().zip(&needed).collect();
        let seals = links.chunk_by(|(a, _), (b, _)| a.is_sealed_with(b));
        let seals: Vec<_> = seals.map(seal_of).collect();
        let views: Vec<_> = seals
            .iter()
            .map(|&(ref groups, bytes_per_group, raw_bytes_per_group)| LinkView {
                groups,
                bytes_per_group,
                raw_bytes_per_group,
            })
            .collect();
        self.due = bases_due(&views, &self.owned, policy);
    }

    /// Lets all groups get a new base at the next seal: their stored rows must not be read under the new rules.
    pub fn rebase(&mut self) {
        self.due = self.owned.clone();
    }

    /// Returns the groups that are to get a new base at this seal, once.
    pub fn take_due(&mut self) -> KeyGroupSet {
        std::mem::take(&mut self.due)
    }

    /// Lets `groups` get a new base at the next seal: the last one failed.
    pub fn add_due(&mut self, groups: &KeyGroupSet) {
        self.due = self.due.union(groups);
    }

    /// Adds what was sealed.
    pub fn push(&mut self, sealed: Sealed) {
        let Sealed { cut, parts, .. } = sealed;
        self.links.extend(parts.into_iter().map(|SealedPart { kind, groups, rows, rules }| Link {
            first_epoch: cut.epoch,
            epoch: cut.epoch,
            part: cut.part,
            kind,
            first: groups.first(),
            groups,
            stage: Stage::Sealed(rows),
            rules,
        }));
    }

    /// Returns what has to be placed so that a manifest can cover `epoch`: one `Base` and one `Delta` at most, in segments
    /// of other groups each.
    pub fn unplaced(&mut self, epoch: Epoch) -> Vec<Unplaced> {
        self.handed_out = self.handed_out.max(epoch);
        if let Some(merged) = self.merged(epoch) {
            self.replace_waiting(epoch, merged);
        }
        self.divide_bases(epoch);
        self.links.iter().filter(|link| link.waits(epoch)).map(Link::unplaced).collect()
    }

    /// Begins to merge and encode what waits of epochs up to `epoch`, of which none can be committed any more by itself: of
    /// each row one copy is carried then, compressed. The work is for [`Merging::encode`], without the chain; this is quick.
    /// `None` if there is nothing to gain, it is under way, or a later epoch is being placed.
    pub fn begin_merge(&mut self, epoch: Epoch) -> Option<Merging> {
        let waiting = || self.links.iter().filter(|link| link.waits(epoch));
        if self.merging || self.handed_out > epoch || !waiting().any(|link| matches!(link.stage, Stage::Sealed(_))) {
            return None;
        }
        let was = waiting().map(|link| (link.first, link.rows())).collect();
        let links = self.merged(epoch).unwrap_or_else(|| waiting().cloned().collect());
        self.merging = true;
        Some(Merging { epoch, was, links, budget: self.budget.clone(), segment_bytes: self.segment_bytes })
    }

    /// Replaces the merged links, unless they changed meanwhile or are being placed for a later epoch.
    pub fn end_merge(&mut self, merged: Option<Merging>) {
        self.merging = false;
        let Some(Merging { epoch, was, links, .. }) = merged.filter(|merged| self.handed_out <= merged.epoch) else {
            return;
        };
        let now: Vec<_> = self.links.iter().filter(|link| link.waits(epoch)).collect();
        let same = |link: &&Link, (first, rows): &(_, Arc<dyn RowSource>)| {
            link.first == *first && Arc::ptr_eq(&link.rows(), rows)
        };
        if now.len() == was.len() && now.iter().zip(&was).all(|(link, was)| same(link, was)) {
            self.replace_waiting(epoch, links);
        }
    }

    /// Stores a link's encoded bytes, for all of its groups or for those encoded so far, in place of their rows until they
    /// are placed. Returns the first of its other groups.
    pub fn encoded(&mut self, of: &Unplaced, encoded: Encoded) -> Option<KeyGroup> {
        let (kind, groups) = (encoded.kind, encoded.groups.clone());
        let stage = Stage::Encoded(Arc::new(EncodedRows::new(encoded, &self.budget)));
        self.split(of, kind, &groups, Some(stage))
    }

    /// Takes note of where a link was placed.
    pub fn placed(&mut self, of: &Unplaced, segment: SegmentRef) {
        if let Some(link) = self.links.iter_mut().find(|link| link.is(of, segment.kind)) {
            link.stage = Stage::Placed(segment);
        }
    }

    /// Drops `groups` of a link that turned out to have no rows of them and to supersede none. Returns the first of its
    /// other groups.
    pub fn vanished(&mut self, of: &Unplaced, kind: SegmentKind, groups: &KeyGroupSet) -> Option<KeyGroup> {
        self.split(of, kind, groups, None)
    }

    /// Takes `groups` out of a link; they become a link at `stage` in front of it. Returns the first of the others.
    fn split(
        &mut self,
        of: &Unplaced,
        kind: SegmentKind,
        groups: &KeyGroupSet,
        stage: Option<Stage>,
    ) -> Option<KeyGroup> {
        let at = self.links.iter().position(|link| link.is(of, kind))?;
        let link = self.links.remove(at)?;
        let (done, rest) = (link.groups.intersection(groups), link.groups.difference(groups));
        let first = rest.first();
        if first.is_some() {
            self.links.insert(at, Link { first, groups: rest, ..link.clone() });
        }
        if let Some(stage) = stage {
            self.links.insert(at, Link { groups: done, stage, ..link });
        }
        first
    }

    /// Returns the segments that a manifest at `epoch` lists: all placed links up to it, each with the groups it is
    /// needed for. `None` if one is not placed.
    #[must_use]
    pub fn segments(&self, epoch: Epoch) -> Option<Vec<SegmentRef>> {
        let needed = self.needed(epoch);
        let covered = self.links.iter().zip(needed).filter(|(link, groups)| link.epoch <= epoch && !groups.is_empty());
        covered
            .map(|(link, groups)| match &link.stage {
                Stage::Placed(segment) => Some(SegmentRef { groups, ..segment.clone() }),
                _ => None,
            })
            .collect()
    }

    /// Returns the bytes of segments that wait to be placed, and the rows of links that are not encoded yet, which know
    /// what they hold: a step per region, so not under the chain's lock.
    #[must_use]
    pub fn waiting(&self) -> (u64, Vec<Arc<dyn RowSource>>) {
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

    /// Returns the objects that its placed links lie in.
    #[must_use]
    pub fn objects(&self) -> Vec<ObjectId> {
        let object = |link: &Link| match &link.stage {
            Stage::Placed(segment) => Some(segment.object),
            _ => None,
        };
        self.links.iter().filter_map(object).collect()
    }

    /// Forgets what the manifest committed at `epoch` no longer lists.
    pub fn commit(&mut self, epoch: Epoch) {
        let needed = self.needed(epoch);
        for (link, groups) in self.links.iter_mut().zip(needed) {
            if link.epoch <= epoch {
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
                if link.kind == SegmentKind::Base && link.epoch <= epoch {
                    based = based.union(&link.groups);
                }
                groups
            })
            .collect();
        needed.reverse();
        needed
    }

    /// Divides bases that are not encoded yet, by what their groups take in the segments there are, so that several can be
    /// encoded at a time. A little less than a segment each: what is encoded is cut again where it gets too long.
    fn divide_bases(&mut self, epoch: Epoch) {
        let most = self.segment_bytes - self.segment_bytes / 8;
        let is_base = |link: &Link| link.kind == SegmentKind::Base && link.waits(epoch);
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
        let links = std::mem::take(&mut self.links).into_iter().zip(runs);
        self.links = links.flat_map(|(link, runs)| link.divided(runs)).collect();
    }

    /// Returns what the links up to `epoch` that are not placed are together: at most one `Base` and one `Delta`. `None`
    /// if they are of one seal.
    fn merged(&self, epoch: Epoch) -> Option<Vec<Link>> {
        let newest = self.links.iter().rev().find(|link| link.waits(epoch))?;
        let (last_epoch, part, rules) = (newest.epoch, newest.part, newest.rules.clone());
        let waiting = || self.links.iter().filter(|link| link.waits(epoch));
        if waiting().all(|link| (link.epoch, link.part) == (last_epoch, part)) {
            return None;
        }
        let first_epoch = waiting().map(|link| link.first_epoch).min().unwrap_or(last_epoch);
        let (mut bases, mut sources) = (Vec::new(), Vec::new());
        for (link, groups) in self.links.iter().zip(self.needed(epoch)).filter(|(link, _)| link.waits(epoch)) {
            if link.kind == SegmentKind::Base {
                bases.extend_from_slice(link.groups.ranges());
            }
            if !canary::on(Canary::ForgetAborted) || link.epoch == last_epoch {
                sources.push((groups, link.rows()));
            }
        }
        let bases = KeyGroupSet::from_ranges(bases);
        let touched = KeyGroupSet::from_ranges(sources.iter().flat_map(|(groups, _)| groups.ranges().iter().copied()));
        let merged = |kind, groups: KeyGroupSet| Link {
            first_epoch,
            epoch: last_epoch,
            part,
            kind,
            first: groups.first(),
            stage: Stage::Sealed(restricted(&sources, &groups)),
            groups,
            rules: rules.clone(),
        };
        let deltas = touched.difference(&bases);
        let links = [merged(SegmentKind::Base, bases), merged(SegmentKind::Delta, deltas)];
        Some(links.into_iter().filter(|link| !link.groups.is_empty()).collect())
    }

    /// Puts `links` in the place of those up to `epoch` that are not placed. Placed ones of these epochs, if any, are older
    /// than all that waits; newer ones come after.
    fn replace_waiting(&mut self, epoch: Epoch, links: Vec<Link>) {
        self.links.retain(|link| !link.waits(epoch));
        let at = self.links.partition_point(|link| link.epoch <= epoch);
        for link in links.into_iter().rev() {
            self.links.insert(at, link);
        }
    }
}

impl Merging {
    /// Encodes what is not encoded.
    ///
    /// # Errors
    /// As [`Encoder::next_segment`].
    ///
    /// # Cost
    /// That of encoding what waits, and memory for the result.
    pub fn encode(mut self) -> Result<Self> {
        let mut links = Vec::new();
        for link in std::mem::take(&mut self.links) {
            if !matches!(link.stage, Stage::Sealed(_)) {
                links.push(link);
                continue;
            }
            let mut encoder = Encoder::new(link.part(), EncodeOptions::default(), self.segment_bytes);
            while let Some(encoded) = encoder.next_segment()? {
                if encoded.records > 0 || link.kind == SegmentKind::Base {
                    links.push(link.in_bytes(encoded, &self.budget));
                }
            }
        }
        Ok(Self { links, ..self })
    }
}

impl Link {
    fn placed(segment: SegmentRef) -> Self {
        Self {
            first_epoch: segment.first_epoch,
            epoch: segment.id.epoch,
            part: segment.id.part,
            kind: segment.kind,
            first: segment.groups.first(),
            groups: segment.groups.clone(),
            stage: Stage::Placed(segment),
            rules: Rules::none(),
        }
    }

    /// Returns a link for each of `runs`, which are its groups, if there are several and it is not encoded yet.
    fn divided(self, runs: Vec<KeyGroupSet>) -> Vec<Self> {
        let Stage::Sealed(rows) = &self.stage else { return vec![self] };
        if runs.len() < 2 {
            return vec![self];
        }
        let of = |groups: KeyGroupSet| Self {
            first: groups.first(),
            groups,
            stage: Stage::Sealed(Arc::clone(rows)),
            rules: self.rules.clone(),
            ..self
        };
        runs.into_iter().map(of).collect()
    }

    fn is(&self, of: &Unplaced, kind: SegmentKind) -> bool {
        (self.epoch, self.part, self.kind, self.first) == (of.epoch, of.part, kind, of.first)
    }

    /// Returns whether it is of the same seal and kind.
    fn is_sealed_with(&self, other: &Self) -> bool {
        (self.epoch, self.part, self.kind) == (other.epoch, other.part, other.kind)
    }

    fn waits(&self, epoch: Epoch) -> bool {
        self.epoch <= epoch && !matches!(self.stage, Stage::Placed(_))
    }

    /// Returns its rows; none once it is placed.
    fn rows(&self) -> Arc<dyn RowSource> {
        match &self.stage {
            Stage::Sealed(rows) => Arc::clone(rows),
            Stage::Encoded(encoded) => Arc::<EncodedRows>::clone(encoded),
            Stage::Placed(_) => Arc::new(Stack::default()),
        }
    }

    fn part(&self) -> SealedPart {
        SealedPart { kind: self.kind, groups: self.groups.clone(), rows: self.rows(), rules: self.rules.clone() }
    }

    /// Returns a link for the groups that `encoded`, which was made of it, speaks for.
    fn in_bytes(&self, encoded: Encoded, budget: &MemoryBudget) -> Self {
        let groups = encoded.groups.clone();
        let stage = Stage::Encoded(Arc::new(EncodedRows::new(encoded, budget)));
        Self { first: groups.first(), groups, stage, rules: self.rules.clone(), ..*self }
    }

    fn unplaced(&self) -> Unplaced {
        let content = match &self.stage {
            Stage::Encoded(encoded) => Content::Bytes(encoded.encoded().clone()),
            Stage::Sealed(_) | Stage::Placed(_) => Content::Rows(self.part()),
        };
        Unplaced { first_epoch: self.first_epoch, epoch: self.epoch, part: self.part, first: self.first, content }
    }

    /// Returns how long its segment is; 0 while it has none.
    fn bytes(&self) -> u64 {
        match &self.stage {
            Stage::Sealed(_) => 0,
            Stage::Encoded(encoded) => encoded.held_bytes(),
            Stage::Placed(segment) => segment.length,
        }
    }

    /// Returns how long its rows are before compression; 0 while it has no segment.
    fn raw_bytes(&self) -> u64 {
        match &self.stage {
            Stage::Sealed(_) => 0,
            Stage::Encoded(encoded) => encoded.encoded().raw_bytes,
            Stage::Placed(segment) => segment.raw_bytes,
        }
    }

    fn bytes_per_group(&self) -> u64 {
        self.bytes() / (self.groups.len().max(1) as u64)
    }
}

/// Returns the groups that the links of a seal are needed for, and the bytes of each group, stored and before compression.
fn seal_of(seal: &[(&Link, &KeyGroupSet)]) -> (KeyGroupSet, u64, u64) {
    let needed = KeyGroupSet::from_ranges(seal.iter().flat_map(|(_, needed)| needed.ranges().iter().copied()));
    let bytes = sum(seal.iter().map(|(link, _)| link.bytes()));
    let raw_bytes = sum(seal.iter().map(|(link, _)| link.raw_bytes()));
    let groups = seal.iter().map(|(link, _)| link.groups.len()).sum::<usize>().max(1) as u64;
    (needed, bytes / groups, raw_bytes / groups)
}

#[cfg(test)]
mod tests;
