//! A subtask's chain of segments, from the last commit to what is still in memory.
//!
//! Invariants: a link leaves the chain only when a committed manifest no longer needs it; what an aborted epoch
//! sealed stays and is part of the next manifest; links that wait are merged, so that however long the store is
//! down one copy of each dirty row is carried; what is sealed of a large base becomes several segments of bounded size,
//! each of other groups.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::canary::{self, Canary};
use crate::control::chain::{ChainPolicy, Link as LinkView, bases_due};
use crate::error::Result;
use crate::id::{Epoch, ObjectId, Part};
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::memory::{Charge, MemoryBudget};
use crate::segment::{
    Encoded, RowBatch, RowSource, Rules, Sealed, SealedPart, SegmentKind, SegmentRef, SegmentRows, Stack, sum,
};

/// The chain of one subtask.
#[derive(Debug)]
pub struct SegmentChain {
    owned: KeyGroupSet,
    links: VecDeque<Link>,
    /// The groups that get a new base at the next seal.
    due: KeyGroupSet,
    budget: MemoryBudget,
    /// About how long a segment of a base may get.
    segment_bytes: u64,
}

/// A run of state on its way into a manifest, or in one already.
#[derive(Debug)]
struct Link {
    first_epoch: Epoch,
    epoch: Epoch,
    part: Part,
    kind: SegmentKind,
    /// The first group that it was made for: what tells the segments of a base apart.
    first: Option<KeyGroup>,
    groups: KeyGroupSet,
    stage: Stage,
    /// What its rows mean; nothing once it is placed.
    rules: Rules,
}

#[derive(Debug)]
enum Stage {
    Sealed(Arc<dyn RowSource>),
    Encoded(Encoded, #[expect(dead_code, reason = "held for its drop")] Charge),
    Placed(SegmentRef),
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
    first: Option<KeyGroup>,
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
        Self { owned, links, due: KeyGroupSet::empty(), budget, segment_bytes: u64::MAX }
    }

    /// Makes the segments of a base about `bytes` long; of one group at least.
    #[must_use]
    pub fn with_segment_bytes(self, bytes: u64) -> Self {
        Self { segment_bytes: bytes, ..self }
    }

    /// Decides which groups get a new base at the next seal: ahead of it, so that no barrier waits for that.
    pub fn plan_bases(&mut self, policy: ChainPolicy) {
        let needed = self.needed(Epoch(u64::MAX));
        // The segments of one base count as one.
        let links: Vec<_> = self.links.iter().zip(&needed).collect();
        let seals = links.chunk_by(|(a, _), (b, _)| a.is_sealed_with(b));
        let seals: Vec<_> = seals.map(seal_of).collect();
        let views: Vec<_> =
            seals.iter().map(|&(ref groups, bytes_per_group)| LinkView { groups, bytes_per_group }).collect();
        self.due = bases_due(&views, &self.owned, policy);
    }

    /// Lets all groups get a new base at the next seal: what is stored of them is not to be read by other rules.
    pub fn rebase(&mut self) {
        self.due = self.owned.clone();
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

    /// Returns what has to be placed so that a manifest can cover `epoch`: at most one `Base`, in segments of other groups
    /// each, and one `Delta`.
    ///
    /// # Errors
    /// `Corrupt` if bytes encoded earlier cannot be read back.
    pub fn unplaced(&mut self, epoch: Epoch) -> Result<Vec<Unplaced>> {
        self.merge_waiting(epoch)?;
        self.divide_bases(epoch);
        Ok(self.links.iter().filter(|link| link.waits(epoch)).map(Link::unplaced).collect())
    }

    /// Keeps the bytes of a link that was encoded, in place of its rows, until it is placed.
    pub fn encoded(&mut self, of: &Unplaced, encoded: Encoded) {
        let charge = self.budget.charge(encoded.bytes.len() as u64);
        if let Some(link) = self.find(of, encoded.kind) {
            link.stage = Stage::Encoded(encoded, charge);
        }
    }

    /// Takes note of where a link was placed.
    pub fn placed(&mut self, of: &Unplaced, segment: SegmentRef) {
        if let Some(link) = self.find(of, segment.kind) {
            link.stage = Stage::Placed(segment);
        }
    }

    /// Drops a link that turned out to have no rows and to supersede none.
    pub fn vanished(&mut self, of: &Unplaced, kind: SegmentKind) {
        self.links.retain(|link| !link.is(of, kind));
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
                Stage::Encoded(encoded, _) => bytes += encoded.bytes.len() as u64,
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

    fn find(&mut self, of: &Unplaced, kind: SegmentKind) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.is(of, kind))
    }

    /// Divides bases that are not encoded yet, by what their groups take in the segments there are: a segment is in
    /// memory as a whole until it is uploaded.
    fn divide_bases(&mut self, epoch: Epoch) {
        if sum(self.links.iter().map(Link::bytes)) <= self.segment_bytes {
            return;
        }
        let size = |group| sum(self.links.iter().filter(|link| link.groups.contains(group)).map(Link::bytes_per_group));
        let runs = |link: &Link| match link.kind {
            SegmentKind::Base if link.waits(epoch) => link.groups.divide(self.segment_bytes, size),
            _ => Vec::new(),
        };
        let runs: Vec<_> = self.links.iter().map(runs).collect();
        let links = std::mem::take(&mut self.links).into_iter().zip(runs);
        self.links = links.flat_map(|(link, runs)| link.divided(runs)).collect();
    }

    /// Merges the links up to `epoch` that are not placed into at most one `Base` and one `Delta`.
    fn merge_waiting(&mut self, epoch: Epoch) -> Result<()> {
        let waiting = self.links.iter().filter(|link| link.waits(epoch)).count();
        let newest = self.links.iter().rev().find(|link| link.waits(epoch)).map(|link| (link.epoch, link.part));
        let same_seal = self.links.iter().filter(|link| link.waits(epoch)).all(|l| Some((l.epoch, l.part)) == newest);
        let Some((last_epoch, part)) = newest else { return Ok(()) };
        if waiting < 2 || same_seal {
            return Ok(());
        }
        let needed = self.needed(epoch);
        let mut first_epoch = last_epoch;
        let (mut bases, mut sources, mut rules) = (KeyGroupSet::empty(), Vec::new(), Rules::none());
        for (link, groups) in self.links.iter().zip(needed).filter(|(link, _)| link.waits(epoch)) {
            first_epoch = first_epoch.min(link.first_epoch);
            if link.kind == SegmentKind::Base {
                bases = bases.union(&link.groups);
            }
            if !canary::on(Canary::ForgetAborted) || link.epoch == last_epoch {
                sources.push((groups, link.rows()?));
            }
            rules = link.rules.clone();
        }
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
        // Placed links of these epochs, if any, are older than all that waits; newer ones come after.
        self.links.retain(|link| !link.waits(epoch));
        let at = self.links.partition_point(|link| link.epoch <= epoch);
        for link in links.into_iter().rev().filter(|link| !link.groups.is_empty()) {
            self.links.insert(at, link);
        }
        Ok(())
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

    fn rows(&self) -> Result<Arc<dyn RowSource>> {
        Ok(match &self.stage {
            Stage::Sealed(rows) => Arc::clone(rows),
            Stage::Encoded(encoded, _) => Arc::new(SegmentRows::open(encoded.bytes.clone(), &encoded.index_hash)?),
            Stage::Placed(_) => Arc::new(Stack::default()),
        })
    }

    fn unplaced(&self) -> Unplaced {
        let content = match &self.stage {
            Stage::Encoded(encoded, _) => Content::Bytes(encoded.clone()),
            Stage::Sealed(rows) => Content::Rows(SealedPart {
                kind: self.kind,
                groups: self.groups.clone(),
                rows: Arc::clone(rows),
                rules: self.rules.clone(),
            }),
            Stage::Placed(_) => Content::Rows(SealedPart {
                kind: self.kind,
                groups: KeyGroupSet::empty(),
                rows: Arc::new(Stack::default()),
                rules: Rules::none(),
            }),
        };
        Unplaced { first_epoch: self.first_epoch, epoch: self.epoch, part: self.part, first: self.first, content }
    }

    /// Returns how long its segment is; 0 while it has none.
    fn bytes(&self) -> u64 {
        match &self.stage {
            Stage::Sealed(_) => 0,
            Stage::Encoded(encoded, _) => encoded.bytes.len() as u64,
            Stage::Placed(segment) => segment.length,
        }
    }

    fn bytes_per_group(&self) -> u64 {
        self.bytes() / (self.groups.len().max(1) as u64)
    }
}

/// Returns the groups that the links of a seal are needed for, and the bytes of each group.
fn seal_of(seal: &[(&Link, &KeyGroupSet)]) -> (KeyGroupSet, u64) {
    let needed = KeyGroupSet::from_ranges(seal.iter().flat_map(|(_, needed)| needed.ranges().iter().copied()));
    let bytes = sum(seal.iter().map(|(link, _)| link.bytes()));
    let groups: usize = seal.iter().map(|(link, _)| link.groups.len()).sum();
    (needed, bytes / (groups.max(1) as u64))
}

/// Returns `sources` as one, each narrowed to its groups and to `groups`.
fn restricted(sources: &[(KeyGroupSet, Arc<dyn RowSource>)], groups: &KeyGroupSet) -> Arc<dyn RowSource> {
    let narrow = |(of, rows): &(KeyGroupSet, Arc<dyn RowSource>)| -> Arc<dyn RowSource> {
        Arc::new(Narrowed { groups: of.intersection(groups), rows: Arc::clone(rows) })
    };
    Arc::new(Stack::new(sources.iter().map(narrow).collect()))
}

/// A source that speaks for fewer groups than it has.
#[derive(Debug)]
pub(crate) struct Narrowed {
    pub(crate) groups: KeyGroupSet,
    pub(crate) rows: Arc<dyn RowSource>,
}

impl RowSource for Narrowed {
    fn groups(&self) -> &KeyGroupSet {
        &self.groups
    }

    fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        if self.groups.contains(group) { self.rows.append_group(group, batch) } else { Ok(()) }
    }

    fn held_bytes(&self) -> u64 {
        self.rows.held_bytes()
    }
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

        let unplaced = chain.unplaced(Epoch(1)).unwrap().remove(0);
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
        let unplaced = chain.unplaced(Epoch(1)).unwrap();
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
        assert_eq!(small.unplaced(Epoch(2)).unwrap().len(), 1);
        let (mut chain, _) = chain_of_bases(length / 3);
        let unplaced = chain.unplaced(Epoch(2)).unwrap();
        assert_eq!(unplaced.len(), 4);
        let (_, rows) = chain.waiting();
        assert_eq!(rows.len(), 1, "what they share is counted once");
        assert!(place(&mut chain, &unplaced[1]) < length / 2);
        assert_eq!(chain.segments(Epoch(2)), None, "three wait");
        assert_eq!(chain.unplaced(Epoch(2)).unwrap().len(), 3);
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

    #[test]
    fn lengths_that_a_damaged_manifest_tells_do_not_overflow() {
        let (mut chain, length) = chain_of_bases(u64::MAX);
        chain.segment_bytes = length / 3;
        for unplaced in chain.unplaced(Epoch(2)).unwrap() {
            place(&mut chain, &unplaced);
        }
        let mut segments = chain.segments(Epoch(2)).unwrap();
        assert_eq!(segments.len(), 4);
        segments.iter_mut().for_each(|segment| segment.length = u64::MAX);
        let chain = SegmentChain::new(KeyGroupSet::all(16), segments, MemoryBudget::new(u64::MAX));
        let mut chain = chain.with_segment_bytes(1);
        chain.plan_bases(ChainPolicy::default());
        assert!(chain.unplaced(Epoch(2)).unwrap().is_empty());
    }

    #[test]
    fn what_waits_of_a_divided_base_is_merged_with_what_comes() {
        let (mut chain, length) = chain_of_bases(u64::MAX);
        chain.segment_bytes = length / 3;
        let unplaced = chain.unplaced(Epoch(2)).unwrap();
        place(&mut chain, &unplaced[3]);
        let rows = match &unplaced[0].content {
            Content::Rows(part) => part.clone(),
            Content::Bytes(_) => panic!(),
        };
        let delta = SealedPart { kind: SegmentKind::Delta, groups: KeyGroupSet::all(16), ..rows };
        let cut = Cut { epoch: Epoch(3), part: Part(0), event_time: Timestamp::MIN, processing_time: Timestamp::MIN };
        chain.push(Sealed { cut, parts: vec![delta], dirty_rows: 0, heat: Vec::new(), statistics: Arc::default() });
        let unplaced = chain.unplaced(Epoch(3)).unwrap();
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
