//! The five ways in which output is published twice or not at all, although each part looks right: a sink as it is often written
//! fails, the crate's does not. [exactly-once.md](../docs/exactly-once.md) has what each is about.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alluvium::sink::{Sink, SinkSettings};
use alluvium::source::{Advance, SourceReader, SourceSettings};
use alluvium::{
    Barrier, Epoch, Error, Job, JobBuilder, LogBackend, OperatorId, OperatorSpec, Result, Seat, Subtask, Task,
    Timestamp,
};
use alluvium_testkit::Fate;
use alluvium_testkit::sink::{Flaw, MemoryTarget};
use alluvium_testkit::source::MemoryTopic;
use alluvium_testkit::{Gate, store};
use async_trait::async_trait;
use object_store::ObjectStore;

/// What a subtask does with the records that leave the job.
#[async_trait]
trait Output: Send {
    fn emit(&mut self, record: u64) -> Result<()>;

    /// Called before a barrier of the subtask.
    fn seal(&mut self) {}

    /// Called after the commit of an epoch.
    async fn publish(&mut self, epoch: Epoch) -> Result<()>;
}

/// The crate's sink.
struct Ours(Sink);

#[async_trait]
impl Output for Ours {
    fn emit(&mut self, record: u64) -> Result<()> {
        self.0.emit(record.to_string().as_bytes())
    }

    async fn publish(&mut self, epoch: Epoch) -> Result<()> {
        self.0.published(epoch).await
    }
}

/// Another system, written to without transactions and markers.
#[derive(Debug, Default)]
struct System {
    rows: Vec<u64>,
    /// A row for each key.
    table: BTreeMap<(u32, u64), u64>,
    /// Files that nobody reads yet.
    staged: BTreeMap<String, Vec<u64>>,
}

/// Ways of output that are wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    /// Publishes each record at once.
    AtOnce,
    /// Publishes after the commit what it has kept in memory.
    FromMemory,
    /// Replaces the row of a key: the subtask, and the number of the record since its start.
    Upsert,
    /// Writes a file at the barrier, and publishes it after the commit. Its name is the subtask's.
    SharedStaging,
}

struct WrongOutput {
    way: Wrong,
    system: Arc<Mutex<System>>,
    subtask: u32,
    records: Vec<u64>,
    emitted: u64,
}

#[async_trait]
impl Output for WrongOutput {
    fn emit(&mut self, record: u64) -> Result<()> {
        let mut system = self.system.lock().unwrap();
        match self.way {
            Wrong::AtOnce => system.rows.push(record),
            Wrong::Upsert => {
                system.table.insert((self.subtask, self.emitted), record);
            }
            Wrong::FromMemory | Wrong::SharedStaging => self.records.push(record),
        }
        self.emitted += 1;
        Ok(())
    }

    fn seal(&mut self) {
        if self.way == Wrong::SharedStaging {
            let file = format!("staging/part-{}", self.subtask);
            self.system.lock().unwrap().staged.insert(file, std::mem::take(&mut self.records));
        }
    }

    async fn publish(&mut self, _: Epoch) -> Result<()> {
        let mut system = self.system.lock().unwrap();
        let file = format!("staging/part-{}", self.subtask);
        let staged = system.staged.remove(&file).unwrap_or_default();
        system.rows.extend(staged);
        system.rows.append(&mut self.records);
        Ok(())
    }
}

/// The surroundings of a job that copies a topic.
struct Place {
    objects: Arc<dyn ObjectStore>,
    topic: MemoryTopic,
    target: MemoryTarget,
    system: Arc<Mutex<System>>,
    wrong: Option<Wrong>,
}

impl Place {
    /// Returns a topic of three partitions with the records 0, 1, 2, ... below `records`.
    fn new(records: u64, wrong: Option<Wrong>) -> Self {
        let topic = MemoryTopic::new(3);
        (0..records).for_each(|number| topic.append(usize::try_from(number % 3).unwrap(), 0, number));
        Self { objects: Gate::new().objects(), topic, target: MemoryTarget::new(), system: Arc::default(), wrong }
    }

    fn with_flaw(self, flaw: Option<Flaw>) -> Self {
        Self { target: flaw.map_or_else(MemoryTarget::new, MemoryTarget::with_flaw), ..self }
    }

    async fn start(&self, parallelism: u32) -> Copying {
        let operator = OperatorSpec::new(OperatorId(1), "copy", parallelism);
        let mut job = JobBuilder::new(store(&self.objects)).operator(operator).open().await.unwrap();
        let mut subtasks = Vec::new();
        for mut seat in job.take_seats() {
            let output = self.output(&mut seat);
            let input = seat.open_source("in", self.topic.clone(), SourceSettings::default()).await.unwrap();
            let task = seat.restore(LogBackend::new).await.map_err(Error::from).unwrap();
            subtasks.push(CopyingSubtask { input, task, output });
        }
        Copying { job, subtasks }
    }

    fn output(&self, seat: &mut Seat) -> Box<dyn Output> {
        let Some(way) = self.wrong else {
            let sink = seat.add_sink("out", Arc::new(self.target.clone()), SinkSettings::default());
            return Box::new(Ours(sink.unwrap()));
        };
        let Subtask(subtask) = seat.subtask();
        Box::new(WrongOutput { way, system: Arc::clone(&self.system), subtask, records: Vec::new(), emitted: 0 })
    }

    /// Returns the records that readers see, sorted.
    fn seen(&self) -> Vec<u64> {
        let system = self.system.lock().unwrap();
        let records = self.target.records();
        let ours = records.iter().map(|record| std::str::from_utf8(record).unwrap().parse().unwrap());
        let mut seen: Vec<u64> =
            ours.chain(system.rows.iter().copied()).chain(system.table.values().copied()).collect();
        seen.sort_unstable();
        seen
    }
}

struct CopyingSubtask {
    input: SourceReader<MemoryTopic>,
    task: Task<LogBackend>,
    output: Box<dyn Output>,
}

struct Copying {
    job: Job,
    subtasks: Vec<CopyingSubtask>,
}

impl Copying {
    /// Lets each subtask copy up to `most` records.
    fn copy(&mut self, most: u64) {
        for CopyingSubtask { input, output, .. } in &mut self.subtasks {
            for _ in 0..most {
                if input.advance().unwrap() != Advance::Record {
                    break;
                }
                output.emit(input.current().unwrap().1.entry().number).unwrap();
            }
        }
    }

    fn barrier(&mut self) -> Barrier {
        let barrier = self.job.trigger().unwrap().expect("no other checkpoint is in flight");
        for CopyingSubtask { input, output, task } in &mut self.subtasks {
            output.seal();
            task.barrier(barrier, Timestamp::MIN, vec![input.opaque().unwrap()]).unwrap();
        }
        barrier
    }

    async fn checkpoint(&mut self) -> Epoch {
        let barrier = self.barrier();
        assert!(self.job.wait(barrier).await.unwrap().is_some(), "the checkpoint is committed");
        barrier.epoch
    }

    async fn publish(&mut self, epoch: Epoch) {
        for subtask in &mut self.subtasks {
            subtask.output.publish(epoch).await.unwrap();
        }
    }

    /// Copies the rest, and publishes it.
    async fn finish(mut self) {
        self.copy(u64::MAX);
        let epoch = self.checkpoint().await;
        self.publish(epoch).await;
    }
}

fn each_once(records: u64) -> Vec<u64> {
    (0..records).collect()
}

/// Crashes before a commit, and between a commit and its publication.
async fn crash_around_a_commit(wrong: Option<Wrong>) -> Vec<u64> {
    let place = Place::new(30, wrong);
    let mut job = place.start(1).await;
    job.copy(10);
    let epoch = job.checkpoint().await;
    job.publish(epoch).await;
    job.copy(5);
    drop(job); // five records are not committed
    let mut job = place.start(1).await;
    place.target.fates().meet([Fate::Wait]);
    job.copy(10);
    job.checkpoint().await;
    drop(job); // ten records are committed, and not published
    place.start(1).await.finish().await;
    place.seen()
}

#[tokio::test]
async fn category_1_checkpoint_and_sink_apart() {
    let twice = crash_around_a_commit(Some(Wrong::AtOnce)).await;
    assert_eq!(twice.len(), 35, "published before the commit: again after a crash");
    let lost = crash_around_a_commit(Some(Wrong::FromMemory)).await;
    assert_eq!(lost.len(), 20, "published from memory after the commit: never after a crash");
    assert_eq!(crash_around_a_commit(None).await, each_once(30));
}

/// Moves partitions to other subtasks while the old ones are stopped in a publication, and lets these continue.
async fn rebalance_under_a_publication(flaw: Option<Flaw>) -> Vec<u64> {
    let place = Place::new(60, None).with_flaw(flaw);
    let mut stopped = place.start(2).await;
    place.target.fates().meet([Fate::Wait; 2]);
    stopped.copy(10);
    let epoch = stopped.checkpoint().await;
    let job = place.start(3).await;
    place.target.fates().resume();
    for subtask in &mut stopped.subtasks {
        let outcome = subtask.output.publish(epoch).await;
        assert_eq!(outcome.is_ok(), flaw.is_some(), "a target with a fence refuses them: {outcome:?}");
    }
    job.finish().await;
    place.seen()
}

#[tokio::test]
async fn category_2_duplication_by_rebalancing() {
    let twice = rebalance_under_a_publication(Some(Flaw::AcceptOlder)).await;
    assert!(twice.len() > 60, "a target without a fence has what the old owner published, too");
    assert_eq!(rebalance_under_a_publication(None).await, each_once(60));
}

/// Replays records in another subtask than the first time.
async fn replay_elsewhere(wrong: Option<Wrong>) -> Vec<u64> {
    let place = Place::new(60, wrong);
    let mut job = place.start(2).await;
    job.copy(5);
    let epoch = job.checkpoint().await;
    job.publish(epoch).await;
    job.copy(10);
    drop(job);
    place.start(3).await.finish().await;
    place.seen()
}

#[tokio::test]
async fn category_3_idempotency_with_unstable_keys() {
    let overwritten = replay_elsewhere(Some(Wrong::Upsert)).await;
    assert_ne!(overwritten, each_once(60), "a replay gives other keys to the same records");
    assert_eq!(replay_elsewhere(None).await, each_once(60));
}

/// Lets an attempt that was replaced go through one more barrier.
async fn two_attempts_at_a_barrier(wrong: Option<Wrong>) -> Vec<u64> {
    let place = Place::new(60, wrong);
    let mut older = place.start(1).await;
    older.copy(10);
    let epoch = older.checkpoint().await;
    older.publish(epoch).await;
    let mut newer = place.start(1).await;
    newer.copy(20);
    let barrier = newer.barrier();
    older.copy(5);
    let stale = older.barrier();
    assert!(older.job.wait(stale).await.is_err(), "a replaced attempt commits nothing");
    assert!(newer.job.wait(barrier).await.unwrap().is_some());
    newer.publish(barrier.epoch).await;
    newer.finish().await;
    place.seen()
}

#[tokio::test]
async fn category_4_staging_shared_by_two_writers() {
    let mixed = two_attempts_at_a_barrier(Some(Wrong::SharedStaging)).await;
    assert_ne!(mixed, each_once(60), "the newer attempt publishes what the older one has staged");
    assert_eq!(two_attempts_at_a_barrier(None).await, each_once(60));
}

/// How an engine knows the time before which no more records are expected.
enum Watermark {
    /// By the clock of the machine.
    MachineClock {
        offset_ms: i64,
    },
    Source(SourceSettings),
}

/// Reads 1,001 records, one per second, of which the 12th has a clock a year ahead; returns how many come after their window of ten
/// seconds is closed.
async fn late_records(watermark: Watermark) -> usize {
    let topic = MemoryTopic::new(1);
    for second in 0..1001 {
        let skew = if second == 11 { 365 * 86_400_000 } else { 0 };
        topic.append(0, second * 1000 + skew, second.unsigned_abs());
    }
    let settings = match &watermark {
        Watermark::Source(settings) => *settings,
        Watermark::MachineClock { .. } => SourceSettings::default(),
    };
    let mut input = SourceReader::open("in", topic, settings, (Subtask(0), 1), &[]).await.unwrap();
    let mut late = 0;
    let mut second = 0;
    while input.advance().unwrap() == Advance::Record {
        let time = input.current().unwrap().1.entry().time;
        let closed_until = match watermark {
            Watermark::MachineClock { offset_ms } => second * 1000 + offset_ms,
            Watermark::Source(_) => input.watermark().as_millis(),
        };
        late += usize::from(time.as_millis() / 10_000 * 10_000 + 10_000 <= closed_until);
        input.set_time(time);
        second += 1;
    }
    late
}

#[tokio::test]
async fn category_5_clock_skew_and_watermark_drift() {
    let minute = Duration::from_secs(60);
    let in_time = Watermark::MachineClock { offset_ms: 0 };
    assert_eq!(late_records(in_time).await, 0);
    let replayed = Watermark::MachineClock { offset_ms: 3_600_000 };
    assert_eq!(
        late_records(replayed).await,
        1000,
        "replayed an hour later, all but one are late by the machine's clock"
    );
    let unbounded = SourceSettings::default().with(|it| it.delay = minute);
    assert_eq!(late_records(Watermark::Source(unbounded)).await, 989, "one bad clock makes all that follow late");
    let bounded = unbounded.with(|it| it.max_ahead = Some(minute));
    assert_eq!(late_records(Watermark::Source(bounded)).await, 0);
}
