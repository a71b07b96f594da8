//! Placing the state of a few subtasks whose manifests become slices.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::*;
use crate::backend::{LogBackend, RowRef, StateBackend as _, Write};
use crate::checkpoint::acknowledgement::StateSummary;
use crate::checkpoint::restore::read_entries;
use crate::checkpoint::uses::GroupUses;
use crate::id::{OperatorId, Part, Subtask, TableId};
use crate::key_group::{KeyGroupSet, Partitioner, subtask_range};
use crate::manifest::{Opaque, OpaqueContent, OpaqueRole, SubtaskEntry};
use crate::memory::MemoryBudget;
use crate::row::Cut;
use crate::runtime::Runtime;
use crate::time::Timestamp;
use crate::tokio_runtime::TokioRuntime;

const MAX: u16 = 16;
const SUBTASKS: u32 = 4;
const PARTITIONER: Partitioner = Partitioner::Range { seed: 1 };

/// Subtasks with a log backend each, and the pipeline that places their state in a store in memory.
struct Process {
    pipeline: Arc<Pipeline>,
    backends: Vec<LogBackend>,
}

impl Process {
    fn new(inline_bytes: usize, pack_bytes: u64) -> Self {
        let store = Store::open("memory:///", &"job".parse().unwrap(), TokioRuntime::current()).unwrap();
        let budget = MemoryBudget::new(u64::MAX);
        let owned = |index| KeyGroupSet::from(subtask_range(MAX, SUBTASKS, index));
        let chain = |index| {
            let chain = SegmentChain::new(owned(index), Vec::new(), budget.clone());
            ((OperatorId(1), Subtask(index)), Arc::new(Mutex::new(chain)))
        };
        let backend = |index| LogBackend::new(owned(index), PARTITIONER, budget.clone());
        let backends = (0..SUBTASKS).map(backend).collect();
        let pipeline = Pipeline {
            runtime: Arc::clone(store.runtime()),
            store,
            settings: PipelineSettings { pack_bytes, ..PipelineSettings::default() },
            attempt: Attempt(1),
            max_parallelism: MAX,
            chains: (0..SUBTASKS).map(chain).collect(),
            inline_bytes,
            catalog: Mutex::default(),
            rewritten: Mutex::default(),
        };
        Self { pipeline: Arc::new(pipeline), backends }
    }

    /// Writes rows, distributed over all subtasks.
    fn write(&mut self, rows: std::ops::Range<u64>) {
        for n in rows {
            let bytes = n.to_be_bytes();
            let key = PARTITIONER.locate(&bytes, 0, MAX);
            let owner = crate::key_group::owner(MAX, SUBTASKS, key.group) as usize;
            let row = RowRef { table: TableId(1), key: &key, namespace: &[], sub: &[] };
            self.backends[owner].write(row, Write::Put(&bytes)).unwrap();
        }
    }

    /// Seals all subtasks for `epoch` and places them, each with an opaque of `opaque_bytes`.
    async fn place(&mut self, epoch: u64, opaque_bytes: usize) -> Result<Placed> {
        let epoch = Epoch(epoch);
        let cut = Cut { epoch, part: Part(0), event_time: Timestamp::MIN, processing_time: Timestamp::MIN };
        let mut arrivals = BTreeMap::new();
        for ((&participant, chain), backend) in self.pipeline.chains.iter().zip(&mut self.backends) {
            lock(chain).push(backend.seal(cut, &KeyGroupSet::empty()).unwrap());
            let owned = subtask_range(MAX, SUBTASKS, participant.1.0).into();
            let summary = StateSummary { tables: [].into(), heat: Vec::new(), statistics: [].into() };
            let opaques = vec![Opaque::new(OpaqueRole::Source, "offsets", vec![7; opaque_bytes])];
            let watermark = Timestamp::from_millis(3);
            arrivals.insert(
                participant,
                Arrival {
                    owned,
                    watermark,
                    times: Vec::new(),
                    uses: GroupUses::default(),
                    opaques,
                    awaits: 0,
                    in_flight: None,
                    published: None,
                    summary,
                },
            );
        }
        Arc::clone(&self.pipeline).place(epoch, arrivals, None).await
    }

    fn requests(&self) -> (u64, u64) {
        let requests = self.pipeline.store.requests();
        (requests.put, requests.get)
    }
}

fn entries(placed: &Placed) -> Vec<SubtaskEntry> {
    placed.acknowledgements.iter().map(|acknowledgement| acknowledgement.entry.clone()).collect()
}

fn ids(objects: &[ObjectRef]) -> Vec<ObjectId> {
    objects.iter().map(|object| object.id).collect()
}

#[tokio::test]
async fn subtask_manifests_in_slices_cost_no_upload_of_their_own() {
    let (mut inline, mut sliced) = (Process::new(usize::MAX, 1 << 20), Process::new(0, 1 << 20));
    for epoch in 1..=3 {
        let mut read = Vec::new();
        for process in [&mut inline, &mut sliced] {
            process.write(epoch * 100..epoch * 100 + 50);
            let (puts, gets) = process.requests();
            let placed = process.place(epoch, 30_000).await.unwrap();
            assert_eq!(process.requests(), (puts + 1, gets), "segments, large opaques and manifests in one pack");
            assert_eq!((placed.objects.len(), placed.kept.len() as u64), (1, epoch - 1));
            let subtasks = read_entries(&process.pipeline.store, entries(&placed), MAX).await.unwrap();
            let shape = |segment: &crate::segment::SegmentRef| (segment.id, segment.groups.clone(), segment.length);
            read.push((subtasks.iter().flat_map(|it| it.segments.iter().map(shape)).collect::<Vec<_>>(), placed.bytes));
            for subtask in &subtasks {
                assert_eq!(subtask.opaques[0].content, OpaqueContent::Inline(vec![7; 30_000].into()));
            }
            process.pipeline.commit(Epoch(epoch));
        }
        assert_eq!(read[0], read[1]);
        assert_eq!(read[0].1, read[0].0.iter().map(|(_, _, length)| length).sum::<u64>());
    }
}

#[tokio::test]
async fn neighbouring_slices_are_read_in_one_request() {
    let mut process = Process::new(0, 1 << 20);
    process.write(0..100);
    let placed = process.place(1, 30_000).await.unwrap();
    let (_, gets) = process.requests();
    let subtasks = read_entries(&process.pipeline.store, entries(&placed), MAX).await.unwrap();
    assert_eq!(process.requests().1, gets + 2, "one for the manifests, one for the opaques");
    assert_eq!(subtasks.iter().map(|subtask| subtask.subtask.0).collect::<Vec<_>>(), [0, 1, 2, 3]);
    let summaries: Vec<_> = entries(&placed).iter().map(SubtaskEntry::summary).collect();
    let bytes: u64 = summaries.iter().map(|summary| summary.bytes).sum();
    assert_eq!((bytes, summaries[0].event_time), (placed.bytes, Timestamp::from_millis(3)));

    // In any order, and only some.
    let some: Vec<_> = [3, 0, 1].map(|at: usize| entries(&placed)[at].clone()).into();
    let read = read_entries(&process.pipeline.store, some.clone(), MAX).await.unwrap();
    assert_eq!(read, [3, 0, 1].map(|at: usize| subtasks[at].clone()));
    let mut swapped = some;
    if let [SubtaskEntry::Slice(a), SubtaskEntry::Slice(b), ..] = &mut swapped[..] {
        std::mem::swap(&mut a.summary, &mut b.summary);
    }
    let error = read_entries(&process.pipeline.store, swapped, MAX).await.unwrap_err();
    assert!(error.message().contains("differs from its summary"), "{error}");
}

#[tokio::test]
async fn slices_get_packs_of_their_own_only_where_no_other_has_room() {
    let mut process = Process::new(0, 1 << 20);
    let (puts, _) = process.requests();
    let placed = process.place(1, 100).await.unwrap();
    assert_eq!((placed.objects.len(), process.requests().0), (1, puts + 1), "no state: a pack of slices alone");
    let mut process = Process::new(0, 1);
    process.write(0..100);
    let placed = process.place(1, 100).await.unwrap();
    assert_eq!(placed.objects.len(), 8, "a pack for each segment and for each slice");
    read_entries(&process.pipeline.store, entries(&placed), MAX).await.unwrap();
}

#[tokio::test]
async fn objects_are_new_until_a_committed_checkpoint_lists_them() {
    let mut process = Process::new(0, 1 << 20);
    process.write(0..100);
    let first = process.place(1, 100).await.unwrap();
    assert!(first.kept.is_empty() && first.new_base_bytes == 0);
    // Epoch 1 is aborted: its segments stay in the chains, its slices are garbage.
    process.pipeline.merge_pending(Epoch(1));
    let second = process.place(2, 100).await.unwrap();
    assert!(second.kept.is_empty() && second.objects.len() == 2 && second.objects.contains(&first.objects[0]));
    let segments = |subtasks: Vec<crate::manifest::SubtaskManifest>| subtasks.into_iter().map(|it| it.segments);
    let store = &process.pipeline.store.clone();
    let of_first = segments(read_entries(store, entries(&first), MAX).await.unwrap());
    let of_second = segments(read_entries(store, entries(&second), MAX).await.unwrap());
    assert!(of_first.eq(of_second), "the state of the aborted epoch is in the next one");

    // Epoch 3 is placed before epoch 2 is committed.
    process.write(0..10);
    let third = process.place(3, 100).await.unwrap();
    let with_state = first.objects[0].id;
    assert!(ids(&third.objects).contains(&with_state) && third.objects.len() == 2 && third.kept.is_empty());
    process.pipeline.commit(Epoch(2));
    process.pipeline.commit(Epoch(3));
    let fourth = process.place(4, 100).await.unwrap();
    assert_eq!(fourth.objects.len(), 1, "the slices");
    let mut kept: Vec<_> = ids(&third.objects);
    kept.sort_unstable();
    assert_eq!(fourth.kept.iter().map(|kept| kept.id).collect::<Vec<_>>(), kept);
    assert!(fourth.kept.iter().all(|kept| kept.live_bytes > 0), "{:?}", fourth.kept);
    process.pipeline.commit(Epoch(4));
    assert!(process.pipeline.catalog().is_empty());
}

/// A runtime whose clock advances by 5 ms whenever it is asked, and whose blocking threads do not sleep.
#[derive(Debug)]
struct Ticking {
    inner: SharedRuntime,
    ticks: AtomicU64,
    slept_ms: AtomicU64,
}

impl Runtime for Ticking {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        self.inner.spawn(future);
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.inner.sleep(duration)
    }

    fn sleep_blocking(&self, duration: Duration) {
        self.slept_ms.fetch_add(u64::try_from(duration.as_millis()).unwrap(), Ordering::Relaxed);
    }

    fn now(&self) -> Timestamp {
        self.inner.now()
    }

    fn monotonic(&self) -> Timestamp {
        let ticks = self.ticks.fetch_add(1, Ordering::Relaxed);
        Timestamp::from_millis(0).after(Duration::from_millis(5 * ticks))
    }

    fn random(&self) -> u128 {
        self.inner.random()
    }
}

#[tokio::test]
async fn encoders_pause_for_the_share_of_the_time_that_is_not_theirs() {
    for (share, pauses_per_work) in [(100, 0), (50, 1), (20, 4)] {
        let mut process = Process::new(usize::MAX, 1 << 20);
        let inner: SharedRuntime = Arc::new(TokioRuntime::current());
        let runtime = Arc::new(Ticking { inner, ticks: AtomicU64::new(0), slept_ms: AtomicU64::new(0) });
        let pipeline = Arc::get_mut(&mut process.pipeline).unwrap();
        pipeline.runtime = Arc::<Ticking>::clone(&runtime);
        pipeline.settings = PipelineSettings { encoders: 1, encoder_share: share, ..pipeline.settings };
        process.write(0..1000);
        let placed = process.place(1, 10).await.unwrap();
        assert_eq!(placed.acknowledgements.len(), SUBTASKS as usize);
        let (ticks, slept) = (runtime.ticks.load(Ordering::Relaxed), runtime.slept_ms.load(Ordering::Relaxed));
        // The clock is asked when a segment begins; then, before each group but its first, at the end of a slice of one
        // group and at the start of the next.
        let (segments, slices) = (u64::from(SUBTASKS), u64::from(MAX) - u64::from(SUBTASKS));
        assert_eq!(slept, 5 * slices * pauses_per_work);
        assert_eq!(ticks, segments + if share == 100 { 0 } else { 2 * slices });
    }
}
