//! A subtask's chain of segments, from the last commit to what is still in memory.
//!
//! Invariants: a link leaves the chain only when a committed manifest no longer needs it; what an aborted epoch
//! sealed stays and is part of the next manifest; links that wait are merged, so that however long the store is
//! down one copy of each dirty row is carried; what is sealed becomes segments of bounded size, each of other groups.

use std::collections::VecDeque;
use std::sync::Arc;

use super::waiting::{EncodedRows, restricted};
use crate::canary::{self, Canary};
use crate::control::chain::{ChainPolicy, Link as LinkView, bases_due};
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
        Self { owned, links, due: KeyGroupSet::empty(), budget, segment_bytes: u64::MAX, merging: false }
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

    /// Returns the groups that are to get a new base at this seal, once.
    pub fn take_due(&mut self) -> KeyGroupSet {
        std::mem::take(&mut self.due)
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
        if let Some(merged) = self.merged(epoch) {
            self.replace_waiting(epoch, merged);
        }
        self.divide_bases(epoch);
        self.links.iter().filter(|link| link.waits(epoch)).map(Link::unplaced).collect()
    }

    /// Begins to merge and encode what waits of epochs up to `epoch`, of which none can be committed any more by itself: of
    /// each row one copy is carried then, compressed. The work is for [`Merging::encode`], without the chain; this is quick.
    /// `None` if there is nothing to gain, or it is under way.
    pub fn begin_merge(&mut self, epoch: Epoch) -> Option<Merging> {
        let waiting = || self.links.iter().filter(|link| link.waits(epoch));
        if self.merging || !waiting().any(|link| matches!(link.stage, Stage::Sealed(_))) {
            return None;
        }
        let was = waiting().map(|link| (link.first, link.rows())).collect();
        let links = self.merged(epoch).unwrap_or_else(|| waiting().cloned().collect());
        self.merging = true;
        Some(Merging { epoch, was, links, budget: self.budget.clone(), segment_bytes: self.segment_bytes })
    }

    /// Takes what was merged in the place of what it was made of, unless that has gone further meanwhile.
    pub fn end_merge(&mut self, merged: Option<Merging>) {
        self.merging = false;
        let Some(Merging { epoch, was, links, .. }) = merged else { return };
        let now: Vec<_> = self.links.iter().filter(|link| link.waits(epoch)).collect();
        let same = |link: &&Link, (first, rows): &(_, Arc<dyn RowSource>)| {
            link.first == *first && Arc::ptr_eq(&link.rows(), rows)
        };
        if now.len() == was.len() && now.iter().zip(&was).all(|(link, was)| same(link, was)) {
            self.replace_waiting(epoch, links);
        }
    }

    /// Keeps the bytes of a link that was encoded, or of those of its groups that they speak for, in place of their rows,
    /// until they are placed. Returns the first of its other groups.
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
mod tests {
    use super::*;
    use crate::backend::{LogBackend, RowRef, StateBackend as _, Write};
    use crate::id::{Attempt, OperatorId, SegmentId, Subtask, TableId};
    use crate::key_group::Partitioner;
    use crate::segment::{Cut, EncodeOptions, encode};
    use crate::time::Timestamp;

    #[test]
    fn what_waits_is_rows_then_bytes_then_nothing() {
        let (partitioner, owned) = (Partitioner::Range { seed: 1 }, KeyGroupSet::all(4));
        let budget = MemoryBudget::new(u64::MAX);
        let mut backend = LogBackend::new(owned.clone(), partitioner, budget.clone());
        let key = partitioner.locate(b"key", 0, 4);
        backend.write(RowRef { table: TableId(1), key: &key, namespace: &[], sub: &[] }, Write::Put(b"value")).unwrap();
        let cut = Cut { epoch: Epoch(1), part: Part(0), event_time: Timestamp::MIN, processing_time: Timestamp::MIN };
        let sealed = backend.seal(cut, &KeyGroupSet::empty()).unwrap();
        let held_bytes: u64 = sealed.parts.iter().map(|part| part.rows.held_bytes()).sum();
        let mut chain = SegmentChain::new(owned, Vec::new(), budget);
        chain.push(sealed);
        let waiting = |chain: &SegmentChain| {
            let (bytes, rows) = chain.waiting();
            (bytes, rows.iter().map(|rows| rows.held_bytes()).sum::<u64>())
        };
        assert!(held_bytes > 0 && waiting(&chain) == (0, held_bytes));

        let unplaced = chain.unplaced(Epoch(1)).remove(0);
        let Content::Rows(part) = &unplaced.content else { panic!("{unplaced:?}") };
        let encoded = encode(part, EncodeOptions::default()).unwrap();
        chain.encoded(&unplaced, encoded.clone());
        assert_eq!(waiting(&chain), (encoded.bytes.len() as u64, 0));

        let (attempt, operator, subtask) = (Attempt(1), OperatorId(1), Subtask(0));
        let id = SegmentId { attempt, operator, subtask, epoch: Epoch(1), part: Part(0) };
        let object = ObjectId { attempt, random: [0; 16] };
        chain.placed(&unplaced, encoded.at(id, Epoch(1), object, 0));
        assert_eq!(waiting(&chain), (0, 0));
    }

    /// A chain with a base of epoch 1, and another one sealed at epoch 2; and the bytes of the first.
    fn chain_of_bases(segment_bytes: u64) -> (SegmentChain, u64) {
        let (partitioner, owned) = (Partitioner::Range { seed: 1 }, KeyGroupSet::all(16));
        let budget = MemoryBudget::new(u64::MAX);
        let mut backend = LogBackend::new(owned.clone(), partitioner, budget.clone());
        for n in 0..1600u64 {
            let bytes = n.to_be_bytes();
            let key = partitioner.locate(&bytes, 0, 16);
            let row = RowRef { table: TableId(1), key: &key, namespace: &[], sub: &[] };
            backend.write(row, Write::Put(&(n * n).to_le_bytes())).unwrap();
        }
        let mut chain = SegmentChain::new(owned.clone(), Vec::new(), budget).with_segment_bytes(segment_bytes);
        let mut cut =
            Cut { epoch: Epoch(1), part: Part(0), event_time: Timestamp::MIN, processing_time: Timestamp::MIN };
        chain.push(backend.seal(cut, &owned).unwrap());
        let unplaced = chain.unplaced(Epoch(1));
        assert_eq!(unplaced.len(), 1, "what a base takes is not known yet");
        let length = place(&mut chain, &unplaced[0]);
        chain.commit(Epoch(1));
        cut.epoch = Epoch(2);
        chain.push(backend.seal(cut, &owned).unwrap());
        (chain, length)
    }

    /// Encodes and places a link, and returns its bytes.
    fn place(chain: &mut SegmentChain, unplaced: &Unplaced) -> u64 {
        let Content::Rows(part) = &unplaced.content else { panic!("{unplaced:?}") };
        let encoded = encode(part, EncodeOptions::default()).unwrap();
        let (attempt, operator, subtask) = (Attempt(1), OperatorId(1), Subtask(0));
        let id = SegmentId { attempt, operator, subtask, epoch: unplaced.epoch, part: Part(0) };
        chain.encoded(unplaced, encoded.clone());
        chain.placed(unplaced, encoded.at(id, unplaced.first_epoch, ObjectId { attempt, random: [0; 16] }, 0));
        encoded.bytes.len() as u64
    }

    #[test]
    fn a_large_base_becomes_segments_that_are_placed_one_by_one() {
        let (mut small, length) = chain_of_bases(u64::MAX);
        assert_eq!(small.unplaced(Epoch(2)).len(), 1);
        let (mut chain, _) = chain_of_bases(length / 3);
        let unplaced = chain.unplaced(Epoch(2));
        assert_eq!(unplaced.len(), 4);
        let (_, rows) = chain.waiting();
        assert_eq!(rows.len(), 1, "what they share is counted once");
        assert!(place(&mut chain, &unplaced[1]) < length / 2);
        assert_eq!(chain.segments(Epoch(2)), None, "three wait");
        assert_eq!(chain.unplaced(Epoch(2)).len(), 3);
        for left in [0, 2, 3] {
            place(&mut chain, &unplaced[left]);
        }
        let segments = chain.segments(Epoch(2)).unwrap();
        let groups = KeyGroupSet::from_ranges(segments.iter().flat_map(|s| s.groups.ranges().iter().copied()));
        assert_eq!((segments.len(), groups), (4, KeyGroupSet::all(16)));
        chain.commit(Epoch(2));
        assert_eq!(chain.objects().len(), 4);
        chain.plan_bases(ChainPolicy { max_segments: 3, spread: 1 });
        assert!(chain.take_due().is_empty(), "it is one base, not a chain of four");
    }

    /// A chain whose task has sealed the same rows again and again, each time for an epoch that was given up.
    struct Stuck {
        chain: SegmentChain,
        backend: LogBackend,
        budget: MemoryBudget,
        epoch: u64,
    }

    impl Stuck {
        fn new() -> Self {
            let (partitioner, owned) = (Partitioner::Range { seed: 1 }, KeyGroupSet::all(16));
            let budget = MemoryBudget::new(u64::MAX);
            let backend = LogBackend::new(owned.clone(), partitioner, budget.clone());
            let chain = SegmentChain::new(owned, Vec::new(), budget.clone()).with_segment_bytes(4000);
            Self { chain, backend, budget, epoch: 0 }
        }

        fn seal(&mut self, bases: &KeyGroupSet) {
            self.epoch += 1;
            for n in 0..1600u64 {
                let bytes = n.to_be_bytes();
                let key = Partitioner::Range { seed: 1 }.locate(&bytes, 0, 16);
                let row = RowRef { table: TableId(1), key: &key, namespace: &[], sub: &[] };
                self.backend.write(row, Write::Put(&self.epoch.to_le_bytes())).unwrap();
            }
            let at = Timestamp::MIN;
            let cut = Cut { epoch: Epoch(self.epoch), part: Part(0), event_time: at, processing_time: at };
            self.chain.push(self.backend.seal(cut, bases).unwrap());
        }

        fn merge(&mut self) {
            let merging = self.chain.begin_merge(Epoch(self.epoch)).unwrap();
            assert!(self.chain.begin_merge(Epoch(self.epoch)).is_none(), "one at a time");
            self.chain.end_merge(Some(merging.encode().unwrap()));
        }

        /// Places all and returns the rows that there are, once for each segment.
        fn place_all(&mut self) -> Vec<(SegmentKind, u64)> {
            let epoch = Epoch(self.epoch);
            let mut placed = Vec::new();
            for unplaced in self.chain.unplaced(epoch) {
                let Content::Bytes(encoded) = &unplaced.content else { panic!("{unplaced:?}") };
                placed.push((encoded.kind, encoded.records));
                let (attempt, operator, subtask) = (Attempt(1), OperatorId(1), Subtask(0));
                let id = SegmentId { attempt, operator, subtask, epoch, part: Part(0) };
                let object = ObjectId { attempt, random: [0; 16] };
                self.chain.placed(&unplaced, encoded.at(id, unplaced.first_epoch, object, 0));
            }
            assert!(self.chain.segments(epoch).is_some());
            placed
        }
    }

    #[test]
    fn what_waits_is_merged_at_each_abort() {
        let mut stuck = Stuck::new();
        let mut held = Vec::new();
        for _ in 0..10 {
            stuck.seal(&KeyGroupSet::empty());
            stuck.merge();
            held.push(stuck.budget.held_bytes());
            let (bytes, rows) = stuck.chain.waiting();
            assert!(bytes > 0 && rows.is_empty(), "compressed, all of it");
        }
        assert!(held[9] <= held[4] + held[4] / 10, "{held:?}");
        assert!(stuck.chain.begin_merge(Epoch(10)).is_none(), "nothing to gain");
        let placed = stuck.place_all();
        assert!(placed.len() > 1 && placed.iter().all(|(kind, _)| *kind == SegmentKind::Delta), "{placed:?}");
        assert_eq!(placed.iter().map(|(_, records)| records).sum::<u64>(), 1600, "one copy of each");
    }

    #[test]
    fn bases_that_wait_are_merged_with_what_follows() {
        let mut stuck = Stuck::new();
        let low: KeyGroupSet = crate::key_group::KeyGroupRange::new(0, 8).into();
        stuck.seal(&KeyGroupSet::empty());
        stuck.seal(&low);
        stuck.merge();
        stuck.seal(&KeyGroupSet::empty());
        stuck.merge();
        let placed = stuck.place_all();
        assert_eq!(placed.iter().map(|(_, records)| records).sum::<u64>(), 1600, "{placed:?}");
        assert!([SegmentKind::Base, SegmentKind::Delta].iter().all(|kind| placed.iter().any(|(k, _)| k == kind)));
    }

    #[test]
    fn what_was_merged_is_of_no_use_once_its_links_have_gone_on() {
        let mut stuck = Stuck::new();
        stuck.seal(&KeyGroupSet::empty());
        stuck.seal(&KeyGroupSet::empty());
        let merging = stuck.chain.begin_merge(Epoch(2)).unwrap();
        stuck.seal(&KeyGroupSet::empty());
        let unplaced = stuck.chain.unplaced(Epoch(3));
        stuck.chain.end_merge(Some(merging.encode().unwrap()));
        assert_eq!(unplaced.len(), 1);
        place(&mut stuck.chain, &unplaced[0]);
        assert!(stuck.chain.segments(Epoch(3)).is_some_and(|segments| segments.len() == 1));
        // A link of a later epoch stays as it was.
        stuck.seal(&KeyGroupSet::empty());
        stuck.seal(&KeyGroupSet::empty());
        let merging = stuck.chain.begin_merge(Epoch(4)).unwrap();
        stuck.chain.end_merge(Some(merging.encode().unwrap()));
        let epochs: Vec<_> = stuck.chain.links.iter().map(|link| link.epoch.0).collect();
        assert!(epochs.is_sorted() && epochs.ends_with(&[4, 5]), "{epochs:?}");
    }

    #[test]
    fn lengths_that_a_damaged_manifest_tells_do_not_overflow() {
        let (mut chain, length) = chain_of_bases(u64::MAX);
        chain.segment_bytes = length / 3;
        for unplaced in chain.unplaced(Epoch(2)) {
            place(&mut chain, &unplaced);
        }
        let mut segments = chain.segments(Epoch(2)).unwrap();
        assert_eq!(segments.len(), 4);
        segments.iter_mut().for_each(|segment| segment.length = u64::MAX);
        let chain = SegmentChain::new(KeyGroupSet::all(16), segments, MemoryBudget::new(u64::MAX));
        let mut chain = chain.with_segment_bytes(1);
        chain.plan_bases(ChainPolicy::default());
        assert!(chain.unplaced(Epoch(2)).is_empty());
    }

    #[test]
    fn what_waits_of_a_divided_base_is_merged_with_what_comes() {
        let (mut chain, length) = chain_of_bases(u64::MAX);
        chain.segment_bytes = length / 3;
        let unplaced = chain.unplaced(Epoch(2));
        place(&mut chain, &unplaced[3]);
        let rows = match &unplaced[0].content {
            Content::Rows(part) => part.clone(),
            Content::Bytes(_) => panic!(),
        };
        let delta = SealedPart { kind: SegmentKind::Delta, groups: KeyGroupSet::all(16), ..rows };
        let cut = Cut { epoch: Epoch(3), part: Part(0), event_time: Timestamp::MIN, processing_time: Timestamp::MIN };
        chain.push(Sealed { cut, parts: vec![delta], dirty_rows: 0, heat: Vec::new(), statistics: Arc::default() });
        let unplaced = chain.unplaced(Epoch(3));
        let kinds: Vec<_> = unplaced
            .iter()
            .map(|unplaced| {
                let Content::Rows(part) = &unplaced.content else { panic!() };
                part.kind
            })
            .collect();
        assert!(kinds.iter().filter(|kind| **kind == SegmentKind::Base).count() >= 3, "{kinds:?}");
        unplaced.iter().for_each(|unplaced| {
            place(&mut chain, unplaced);
        });
        let segments = chain.segments(Epoch(3)).unwrap();
        let bases = segments.iter().filter(|segment| segment.kind == SegmentKind::Base);
        let bases: usize = bases.map(|segment| segment.groups.len()).sum();
        assert_eq!(bases, 16, "each group has one base");
    }
}
