use super::*;
use crate::backend::{LogBackend, RowRef, StateBackend as _, Write};
use crate::error::Result;
use crate::id::{Attempt, OperatorId, Part, SegmentId, Subtask, TableId};
use crate::key_group::Partitioner;
use crate::row::{Cut, RowBatch, Rules};
use crate::segment::{EncodeOptions, encode};
use crate::time::Timestamp;

#[test]
fn a_pending_link_holds_rows_then_bytes_then_nothing() {
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
    let held = |chain: &SegmentChain| {
        let (bytes, rows) = chain.held();
        (bytes, rows.iter().map(|rows| rows.held_bytes()).sum::<u64>())
    };
    assert!(held_bytes > 0 && held(&chain) == (0, held_bytes));

    let link = chain.pending(Epoch(1)).remove(0);
    let Content::Rows(part) = &link.content else { panic!("{link:?}") };
    let encoded = encode(part, EncodeOptions::default()).unwrap();
    let bytes = chain.encoded(link.id, encoded.clone());
    assert_eq!(held(&chain), (encoded.bytes.len() as u64, 0));

    let (attempt, operator, subtask) = (Attempt(1), OperatorId(1), Subtask(0));
    let id = SegmentId { attempt, operator, subtask, epoch: Epoch(1), part: Part(0) };
    let object = ObjectId { attempt, random: [0; 16] };
    chain.placed(bytes, encoded.at(id, Epoch(1), object, 0));
    assert_eq!(held(&chain), (0, 0));
}

/// Returns a chain with a base of epoch 1 and another sealed at epoch 2, and the bytes of the first.
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
    let mut cut = Cut { epoch: Epoch(1), part: Part(0), event_time: Timestamp::MIN, processing_time: Timestamp::MIN };
    chain.push(backend.seal(cut, &owned).unwrap());
    let pending = chain.pending(Epoch(1));
    assert_eq!(pending.len(), 1, "what a base takes is not known yet");
    let length = place(&mut chain, &pending[0]);
    chain.commit(Epoch(1));
    cut.epoch = Epoch(2);
    chain.push(backend.seal(cut, &owned).unwrap());
    (chain, length)
}

/// Encodes and places a link. Returns its bytes.
fn place(chain: &mut SegmentChain, link: &PendingLink) -> u64 {
    let Content::Rows(part) = &link.content else { panic!("{link:?}") };
    let encoded = encode(part, EncodeOptions::default()).unwrap();
    let (attempt, operator, subtask) = (Attempt(1), OperatorId(1), Subtask(0));
    let id = SegmentId { attempt, operator, subtask, epoch: link.seals.epoch, part: Part(0) };
    let bytes = chain.encoded(link.id, encoded.clone());
    chain.placed(bytes, encoded.at(id, link.seals.first_epoch, ObjectId { attempt, random: [0; 16] }, 0));
    encoded.bytes.len() as u64
}

#[test]
fn a_large_base_becomes_segments_that_are_placed_one_by_one() {
    let (mut small, length) = chain_of_bases(u64::MAX);
    assert_eq!(small.pending(Epoch(2)).len(), 1);
    let (mut chain, _) = chain_of_bases(length / 3);
    let pending = chain.pending(Epoch(2));
    assert_eq!(pending.len(), 4);
    let (_, rows) = chain.held();
    assert_eq!(rows.len(), 1, "what they share is counted once");
    assert!(place(&mut chain, &pending[1]) < length / 2);
    assert_eq!(chain.segments(Epoch(2)), None, "three wait");
    assert_eq!(chain.pending(Epoch(2)).len(), 3);
    for left in [0, 2, 3] {
        place(&mut chain, &pending[left]);
    }
    let segments = chain.segments(Epoch(2)).unwrap();
    let groups = KeyGroupSet::from_ranges(segments.iter().flat_map(|s| s.groups.ranges().iter().copied()));
    assert_eq!((segments.len(), groups), (4, KeyGroupSet::all(16)));
    chain.commit(Epoch(2));
    assert_eq!(chain.objects().len(), 4);
    chain.plan_bases(ChainPolicy { max_segments: 3, spread: 1 });
    assert!(chain.take_due().is_empty(), "it is one base, not a chain of four");
}

/// A chain whose task seals the same rows again and again, each time for an epoch that is aborted.
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
        self.chain.end_merge(Some(merging.encode(EncodeOptions::default()).unwrap()));
    }

    /// Places all links and returns the rows of each segment.
    fn place_all(&mut self) -> Vec<(SegmentKind, u64)> {
        let epoch = Epoch(self.epoch);
        let mut placed = Vec::new();
        for pending in self.chain.pending(epoch) {
            let Content::Bytes(encoded) = &pending.content else { panic!("{pending:?}") };
            placed.push((encoded.kind, encoded.records));
            let (attempt, operator, subtask) = (Attempt(1), OperatorId(1), Subtask(0));
            let id = SegmentId { attempt, operator, subtask, epoch, part: Part(0) };
            let object = ObjectId { attempt, random: [0; 16] };
            self.chain.placed(pending.id, encoded.at(id, pending.seals.first_epoch, object, 0));
        }
        assert!(self.chain.segments(epoch).is_some());
        placed
    }
}

#[test]
fn pending_links_are_merged_at_each_abort() {
    let mut stuck = Stuck::new();
    let mut held = Vec::new();
    for _ in 0..10 {
        stuck.seal(&KeyGroupSet::empty());
        stuck.merge();
        held.push(stuck.budget.held_bytes());
        let (bytes, rows) = stuck.chain.held();
        assert!(bytes > 0 && rows.is_empty(), "compressed, all of it");
    }
    assert!(held[9] <= held[4] + held[4] / 10, "{held:?}");
    assert!(stuck.chain.begin_merge(Epoch(10)).is_none(), "nothing to gain");
    let placed = stuck.place_all();
    assert!(placed.len() > 1 && placed.iter().all(|(kind, _)| *kind == SegmentKind::Delta), "{placed:?}");
    assert_eq!(placed.iter().map(|(_, records)| records).sum::<u64>(), 1600, "one copy of each");
}

#[test]
fn pending_bases_are_merged_with_later_deltas() {
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
fn a_merge_is_discarded_once_its_links_have_changed() {
    let mut stuck = Stuck::new();
    stuck.seal(&KeyGroupSet::empty());
    stuck.seal(&KeyGroupSet::empty());
    let merging = stuck.chain.begin_merge(Epoch(2)).unwrap();
    stuck.seal(&KeyGroupSet::empty());
    let pending = stuck.chain.pending(Epoch(3));
    stuck.chain.end_merge(Some(merging.encode(EncodeOptions::default()).unwrap()));
    assert_eq!(pending.len(), 1);
    place(&mut stuck.chain, &pending[0]);
    assert!(stuck.chain.segments(Epoch(3)).is_some_and(|segments| segments.len() == 1));
    // A link of a later epoch stays as it was.
    stuck.seal(&KeyGroupSet::empty());
    stuck.seal(&KeyGroupSet::empty());
    let merging = stuck.chain.begin_merge(Epoch(4)).unwrap();
    stuck.chain.end_merge(Some(merging.encode(EncodeOptions::default()).unwrap()));
    let epochs: Vec<_> = stuck.chain.links.iter().map(|link| link.seals.epoch.0).collect();
    assert!(epochs.is_sorted() && epochs.ends_with(&[4, 5]), "{epochs:?}");
}

#[test]
fn lengths_of_a_damaged_manifest_do_not_overflow() {
    let (mut chain, length) = chain_of_bases(u64::MAX);
    chain.segment_bytes = length / 3;
    for pending in chain.pending(Epoch(2)) {
        place(&mut chain, &pending);
    }
    let mut segments = chain.segments(Epoch(2)).unwrap();
    assert_eq!(segments.len(), 4);
    segments.iter_mut().for_each(|segment| segment.length = u64::MAX);
    let chain = SegmentChain::new(KeyGroupSet::all(16), segments, MemoryBudget::new(u64::MAX));
    let mut chain = chain.with_segment_bytes(1);
    chain.plan_bases(ChainPolicy::default());
    assert!(chain.pending(Epoch(2)).is_empty());
}

#[test]
fn the_pending_part_of_a_divided_base_is_merged_with_a_later_delta() {
    let (mut chain, length) = chain_of_bases(u64::MAX);
    chain.segment_bytes = length / 3;
    let pending = chain.pending(Epoch(2));
    place(&mut chain, &pending[3]);
    let rows = match &pending[0].content {
        Content::Rows(part) => part.clone(),
        Content::Bytes(_) => panic!(),
    };
    let delta = SealedPart { kind: SegmentKind::Delta, groups: KeyGroupSet::all(16), ..rows };
    let cut = Cut { epoch: Epoch(3), part: Part(0), event_time: Timestamp::MIN, processing_time: Timestamp::MIN };
    chain.push(Sealed { cut, parts: vec![delta], dirty_rows: 0, heat: Vec::new(), statistics: Arc::default() });
    let pending = chain.pending(Epoch(3));
    let kinds: Vec<_> = pending
        .iter()
        .map(|pending| {
            let Content::Rows(part) = &pending.content else { panic!() };
            part.kind
        })
        .collect();
    assert!(kinds.iter().filter(|kind| **kind == SegmentKind::Base).count() >= 3, "{kinds:?}");
    pending.iter().for_each(|pending| {
        place(&mut chain, pending);
    });
    let segments = chain.segments(Epoch(3)).unwrap();
    let bases = segments.iter().filter(|segment| segment.kind == SegmentKind::Base);
    let bases: usize = bases.map(|segment| segment.groups.len()).sum();
    assert_eq!(bases, 16, "each group has one base");
}

/// Rows that nobody reads: 4 MiB in each group.
#[derive(Debug)]
struct Large(KeyGroupSet);

impl RowSource for Large {
    fn groups(&self) -> &KeyGroupSet {
        &self.0
    }

    fn append_group(&self, _group: KeyGroup, _batch: &mut RowBatch) -> Result<()> {
        Ok(())
    }

    fn held_bytes(&self) -> u64 {
        64 << 20
    }

    fn group_bytes(&self, _group: KeyGroup) -> u64 {
        4 << 20
    }
}

#[test]
fn a_large_delta_is_divided_among_the_encoders_and_into_segments() {
    let groups = KeyGroupSet::all(16);
    let links = |encoders, segment_bytes| {
        let chain = SegmentChain::new(groups.clone(), Vec::new(), MemoryBudget::new(u64::MAX));
        let mut chain = chain.with_segment_bytes(segment_bytes).with_encoders(encoders);
        let rows: Arc<dyn RowSource> = Arc::new(Large(groups.clone()));
        let delta = SealedPart { kind: SegmentKind::Delta, groups: groups.clone(), rows, rules: Rules::none() };
        let cut = Cut { epoch: Epoch(1), part: Part(0), event_time: Timestamp::MIN, processing_time: Timestamp::MIN };
        chain.push(Sealed { cut, parts: vec![delta], dirty_rows: 0, heat: Vec::new(), statistics: Arc::default() });
        let groups = |link: PendingLink| match link.content {
            Content::Rows(part) => part.groups.len(),
            Content::Bytes(_) => panic!(),
        };
        chain.pending(Epoch(1)).into_iter().map(groups).collect::<Vec<_>>()
    };
    assert_eq!(links(1, u64::MAX), [16]);
    assert_eq!(links(2, u64::MAX), [8, 8]);
    assert_eq!(links(2, 16 << 20), [4, 4, 4, 4]);
    assert_eq!(links(100, 1), [2; 8], "an encoder of its own is worth 8 MiB");
}
