//! Input exactly once: sources over a topic in memory.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use alluvium::source::{Advance, SourceReader, SourceSettings, SplitId, conformance};
use alluvium::{ErrorKind, Opaque, OpaqueRole, Result, Subtask, Timestamp};
use alluvium_testkit::sim::Rng;
use alluvium_testkit::source::{Flaw, MemoryTopic};
use futures_util::FutureExt as _;

type Reader = SourceReader<MemoryTopic>;

async fn open(topic: &MemoryTopic, settings: SourceSettings, opaques: &[Opaque]) -> Result<Reader> {
    SourceReader::open("in", topic.clone(), settings, (Subtask(0), 1), opaques).await
}

/// Reads the next record, and notes its event time.
fn next(reader: &mut Reader) -> Result<Option<u64>> {
    if reader.advance()? != Advance::Record {
        return Ok(None);
    }
    let entry = reader.current().unwrap().1.entry();
    reader.set_time(entry.time);
    Ok(Some(entry.number))
}

fn rest(reader: &mut Reader) -> Vec<u64> {
    std::iter::from_fn(|| next(reader).unwrap()).collect()
}

fn millis(reader: &mut Reader) -> i64 {
    reader.watermark().as_millis()
}

/// A topic whose partitions have `records` each, one millisecond apart.
fn filled(partitions: usize, records: u64) -> MemoryTopic {
    let topic = MemoryTopic::new(partitions);
    for number in 0..records * partitions as u64 {
        topic.append(usize::try_from(number).unwrap() % partitions, i64::try_from(number).unwrap(), number);
    }
    topic
}

#[tokio::test]
async fn the_topic_in_memory_keeps_the_laws() {
    conformance::run(&filled(3, 5)).await;
    let closed = filled(2, 4);
    closed.close();
    conformance::run(&closed).await;
}

#[tokio::test]
async fn the_suite_finds_each_flaw() {
    let flaws = [
        Flaw::PositionBefore,
        Flaw::PositionAhead,
        Flaw::SharedCursor,
        Flaw::ResetToEnd,
        Flaw::ResetToStart,
        Flaw::NewAtEnd,
        Flaw::NoGrowth,
        Flaw::AnySplit,
    ];
    for flaw in flaws {
        let topic = filled(2, 5).with_flaw(flaw);
        let outcome = AssertUnwindSafe(conformance::run(&topic)).catch_unwind().await;
        assert!(outcome.is_err(), "the suite accepts {flaw:?}");
    }
}

#[tokio::test]
async fn an_end_that_is_not_final_holds_the_watermark_back() -> Result<()> {
    let topic = MemoryTopic::new(2);
    for (partition, time) in [(0, 10), (1, 20)] {
        topic.append(partition, time, 0);
    }
    topic.close();
    for (is_final, watermark) in [(true, 20), (false, 10)] {
        let settings = SourceSettings::default().with(|it| it.end_is_final = is_final);
        let mut reader = open(&topic, settings, &[]).await?;
        rest(&mut reader);
        assert_eq!(reader.advance()?, Advance::End);
        assert_eq!((millis(&mut reader), reader.is_idle()), (watermark, is_final));
        let opaque = reader.opaque()?;
        assert_eq!(millis(&mut open(&topic, settings, &[opaque]).await?), watermark, "a later run");
    }
    Ok(())
}

/// A job of several subtasks that copies what it reads; what an attempt has read since its checkpoint is lost with it.
struct Copying {
    topic: MemoryTopic,
    readers: Vec<Reader>,
    checkpoint: Vec<Opaque>,
    committed: Vec<u64>,
    /// The least watermark of the checkpoint.
    watermark: Timestamp,
    read: Vec<u64>,
}

impl Copying {
    async fn start(topic: MemoryTopic) -> Self {
        let (readers, checkpoint, committed, read) = Default::default();
        let mut job = Self { topic, readers, checkpoint, committed, watermark: Timestamp::MIN, read };
        job.restart(2).await;
        job
    }

    async fn restart(&mut self, parallelism: u32) {
        self.readers.clear();
        for subtask in 0..parallelism {
            let place = (Subtask(subtask), parallelism);
            let settings = SourceSettings::default();
            let reader = SourceReader::open("in", self.topic.clone(), settings, place, &self.checkpoint).await.unwrap();
            self.readers.push(reader);
        }
        self.read.clone_from(&self.committed);
        assert!(self.least() >= self.watermark, "the job's watermark goes back at a restart");
    }

    /// Returns the job's watermark.
    fn least(&mut self) -> Timestamp {
        let active = self.readers.iter_mut().filter(|reader| reader.progress().next().is_some());
        active.map(Reader::watermark).min().unwrap_or(Timestamp::MIN)
    }

    fn read(&mut self, most: u64) {
        for reader in &mut self.readers {
            for _ in 0..most {
                let before = reader.watermark();
                let Some(number) = next(reader).unwrap() else { break };
                assert!(reader.watermark() >= before, "a watermark goes back");
                self.read.push(number);
            }
        }
    }

    fn checkpoint(&mut self) {
        self.checkpoint = self.readers.iter_mut().map(|reader| reader.opaque().unwrap()).collect();
        self.committed.clone_from(&self.read);
        self.watermark = self.least();
    }

    async fn discover(&mut self) {
        for reader in &mut self.readers {
            reader.discover().await.unwrap();
        }
    }
}

#[tokio::test]
async fn whatever_happens_each_record_is_read_once() {
    for seed in 0..300 {
        let mut random = Rng::new(seed);
        let mut job = Copying::start(MemoryTopic::new(random.index(4))).await;
        let mut numbers = 0;
        for _ in 0..60 {
            match random.below(7) {
                0 if job.topic.partitions() < 7 => job.topic.add_partition(),
                1 => job.discover().await,
                2 => job.checkpoint(),
                3 => job.restart(u32::try_from(random.within(1, 4)).unwrap()).await,
                4 => job.read(random.below(200)),
                _ if job.topic.partitions() > 0 => {
                    let partition = random.index(job.topic.partitions());
                    for _ in 0..random.below(100) {
                        job.topic.append(partition, i64::try_from(random.below(1000)).unwrap(), numbers);
                        numbers += 1;
                    }
                }
                _ => {}
            }
        }
        job.restart(3).await;
        job.read(u64::MAX);
        let (mut read, mut expected) = (job.read, job.topic.records());
        read.sort_unstable();
        expected.sort_unstable();
        assert_eq!(read, expected, "seed {seed}");
    }
}

#[tokio::test]
async fn a_split_that_appears_is_read_from_its_beginning_wherever_the_job_started() {
    let topic = filled(1, 3).starting_at_end();
    let settings = SourceSettings::default();
    let mut reader = open(&topic, settings, &[]).await.unwrap();
    assert_eq!(rest(&mut reader), [0; 0], "the job starts at the end");
    let opaque = reader.opaque().unwrap();
    topic.add_partition();
    topic.append(1, 0, 7);
    assert_eq!(reader.discover().await.unwrap(), 1);
    assert_eq!(rest(&mut reader), [7]);
    // While no attempt was running, too.
    assert_eq!(rest(&mut open(&topic, settings, &[opaque]).await.unwrap()), [7]);
}

#[tokio::test]
async fn splits_are_read_in_turn() {
    let topic = filled(3, 500);
    let mut reader = open(&topic, SourceSettings::default(), &[]).await.unwrap();
    for _ in 0..300 {
        next(&mut reader).unwrap();
    }
    let read: Vec<_> = reader.progress().map(|split| split.records).collect();
    assert!(read.iter().all(|records| (64..=128).contains(records)), "{read:?}");
}

#[tokio::test]
async fn the_split_that_is_furthest_behind_holds_the_watermark() {
    let topic = MemoryTopic::new(2);
    let mut reader = open(&topic, SourceSettings::default(), &[]).await.unwrap();
    topic.append(0, 500, 1);
    assert_eq!(rest(&mut reader), [1]);
    assert_eq!(reader.watermark(), Timestamp::MIN, "the other split may still have any record");
    topic.append(1, 100, 2);
    rest(&mut reader);
    assert_eq!(millis(&mut reader), 100);
    topic.append(1, 700, 3);
    rest(&mut reader);
    assert_eq!(millis(&mut reader), 500);
    topic.append(0, 50, 4);
    rest(&mut reader);
    assert_eq!(millis(&mut reader), 500, "a late record does not take it back");
}

#[tokio::test]
async fn a_split_at_its_end_does_not_hold_the_watermark() {
    let topic = MemoryTopic::new(2);
    topic.append(0, 500, 1);
    topic.append(1, 100, 2);
    topic.close();
    let mut reader = open(&topic, SourceSettings::default(), &[]).await.unwrap();
    assert_eq!(rest(&mut reader).len(), 2);
    assert_eq!(reader.advance().unwrap(), Advance::End);
    assert!(reader.is_idle());
    assert_eq!(millis(&mut reader), 500);
}

#[tokio::test]
async fn only_a_split_that_is_known_to_have_no_more_becomes_idle() {
    let topic = MemoryTopic::new(2);
    let settings = SourceSettings::default().with(|it| it.idle_after = Some(Duration::from_millis(10)));
    let mut reader = open(&topic, settings, &[]).await.unwrap();
    topic.append(0, 500, 1);
    topic.set_away(true);
    assert_eq!(reader.advance().unwrap(), Advance::Pending);
    reader.tick(Timestamp::from_millis(0));
    reader.tick(Timestamp::from_millis(1000));
    assert!(!reader.is_idle(), "a system that does not answer says nothing about its records");
    topic.set_away(false);
    rest(&mut reader);
    assert_eq!(reader.advance().unwrap(), Advance::CaughtUp);
    reader.tick(Timestamp::from_millis(1000));
    assert_eq!(reader.watermark(), Timestamp::MIN);
    reader.tick(Timestamp::from_millis(1010));
    assert!(reader.is_idle(), "both have had none for 10 ms");
    assert_eq!(millis(&mut reader), 500, "the one that is furthest ahead counts");
    topic.append(1, 400, 2);
    rest(&mut reader);
    assert!(!reader.is_idle());
    assert_eq!(millis(&mut reader), 500);
    let idle: Vec<_> = reader.progress().map(|split| (split.is_idle, split.watermark.as_millis())).collect();
    assert_eq!(idle, [(true, 500), (false, 400)]);

    // After a restart, the split that was idle does not take it back.
    let opaque = reader.opaque().unwrap();
    let mut reader = open(&topic, settings, &[opaque]).await.unwrap();
    assert_eq!(millis(&mut reader), 500);
    let records: Vec<_> = reader.progress().map(|split| split.records).collect();
    assert_eq!(records, [1, 1], "counts continue");
}

#[tokio::test]
async fn one_record_from_the_far_future_makes_no_other_late() {
    let topic = MemoryTopic::new(1);
    let settings = SourceSettings::default().with(|it| it.max_ahead = Some(Duration::from_secs(60)));
    let mut reader = open(&topic, settings, &[]).await.unwrap();
    let far = i64::MAX / 2;
    for (number, time) in [(0, 1000), (1, 2000), (2, far), (3, 3000), (4, 63_000), (5, 70_000)] {
        topic.append(0, time, number);
    }
    let times: Vec<_> = std::iter::from_fn(|| next(&mut reader).unwrap().map(|_| millis(&mut reader))).collect();
    assert_eq!(times, [i64::MIN, 2000, 62_000, 62_000, 63_000, 70_000]);
}

#[tokio::test]
async fn a_source_that_was_renamed_or_lost_a_split_is_refused() {
    let topic = filled(1, 3);
    let settings = SourceSettings::default();
    let opaque = open(&topic, settings, &[]).await.unwrap().opaque().unwrap();
    let renamed =
        |settings| SourceReader::open("new", topic.clone(), settings, (Subtask(0), 1), std::slice::from_ref(&opaque));
    let error = renamed(settings).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.message().contains("source=`new` stored=`in`"), "{error}");
    let mut reader = renamed(settings.with(|it| it.is_new = true)).await.unwrap();
    assert_eq!(rest(&mut reader).len(), 3);
    let error = open(&MemoryTopic::new(0), settings, std::slice::from_ref(&opaque)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.message().contains("split=`topic/0`"), "{error}");
    let error = open(&topic, settings, &[opaque.clone(), opaque]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let foreign = Opaque::new(OpaqueRole::Source, "in", vec![7; 20]);
    assert_eq!(open(&topic, settings, &[foreign]).await.unwrap_err().kind(), ErrorKind::Version);
}

#[tokio::test]
async fn a_reader_that_waits_is_woken_by_any_split() {
    let topic = MemoryTopic::new(2);
    let mut reader = open(&topic, SourceSettings::default(), &[]).await.unwrap();
    for partition in [1, 0] {
        assert_eq!(rest(&mut reader), [0; 0]);
        let mut ready = Box::pin(reader.ready());
        assert!(ready.as_mut().now_or_never().is_none());
        topic.append(partition, 0, 7);
        ready.await;
        assert_eq!(rest(&mut reader), [7]);
    }
}

#[tokio::test]
async fn a_subtask_without_splits_is_idle() {
    let topic = filled(1, 3);
    let owner = SplitId::new("topic", 0).unwrap().owner(2);
    let place = (Subtask(1 - owner.0), 2);
    let mut reader = SourceReader::open("in", topic.clone(), SourceSettings::default(), place, &[]).await.unwrap();
    assert_eq!(reader.advance().unwrap(), Advance::CaughtUp, "partitions may come");
    assert!(reader.is_idle() && reader.current().is_none());
    topic.close();
    assert_eq!(reader.advance().unwrap(), Advance::End);
    let empty: BTreeMap<SplitId, u64> = reader.progress().map(|split| (split.id, split.records)).collect();
    assert!(empty.is_empty());
}
