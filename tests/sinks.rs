//! Output exactly once: sinks of a job over a target in memory.

use std::sync::Arc;
use std::time::Duration;

use alluvium::internals::canary::{Canary, plant};
use alluvium::sink::conformance::{self, Harness};
use alluvium::sink::{Divergence, ObjectStoreTarget, SinkSettings, SinkTarget};
use alluvium::{ErrorKind, JobBuilder, LogBackend, OperatorSpec, RestoreFrom, Result, Seat, Seq};
use alluvium_testkit::copying::{COPY, Copying, numbers, open_at_last, panics};
use alluvium_testkit::sim::Rng;
use alluvium_testkit::sink::{Flaw, MemoryTarget};
use alluvium_testkit::{Fate, Gate, store};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};

#[derive(Clone)]
struct Place {
    objects: Arc<dyn ObjectStore>,
    target: MemoryTarget,
    settings: SinkSettings,
}

impl Place {
    fn new() -> Self {
        Self { objects: Gate::new().objects(), target: MemoryTarget::new(), settings: SinkSettings::default() }
    }

    async fn open(&self, parallelism: u32) -> Result<Copying> {
        self.open_from(parallelism, RestoreFrom::Newest).await
    }

    async fn open_from(&self, parallelism: u32, from: RestoreFrom) -> Result<Copying> {
        let register = |seat: &mut Seat| seat.add_sink("out", Arc::new(self.target.clone()), self.settings);
        Copying::open(&self.objects, parallelism, from, register).await
    }

    async fn open_at_last(&self, parallelism: u32) -> Copying {
        open_at_last(async || self.open(parallelism).await).await
    }

    fn numbers(&self) -> Vec<u64> {
        numbers(&self.target.records())
    }

    fn sorted(&self) -> Vec<u64> {
        let mut numbers = self.numbers();
        numbers.sort_unstable();
        numbers
    }
}

#[tokio::test]
async fn output_follows_its_commit() -> Result<()> {
    let place = Place::new();
    let mut job = place.open(2).await?;
    job.emit(10)?;
    assert!(place.numbers().is_empty(), "nothing is published before a commit");
    let first = job.publish().await?;
    assert_eq!(place.sorted(), (0..10).collect::<Vec<_>>());
    job.emit(5)?;
    job.give_up().await?;
    assert_eq!(place.sorted().len(), 10, "nothing of an epoch that was given up is published");
    job.emit(5)?;
    let second = job.publish().await?;
    assert_eq!(place.sorted(), (0..20).collect::<Vec<_>>());
    let progress = job.sinks[0].watch().borrow().clone();
    assert_eq!((progress.published, progress.records), (Some(second), 10));
    assert!(second > first.next());
    Ok(())
}

#[tokio::test]
async fn a_restart_publishes_what_was_committed_and_not_published() -> Result<()> {
    let place = Place::new();
    let mut job = place.open(3).await?;
    job.emit(9)?;
    job.publish().await?;
    place.target.fates().meet([Fate::Wait; 3]);
    job.emit(9)?;
    job.checkpoint().await?;
    job.emit(9)?; // Lost: no checkpoint has it.
    drop(job);
    // Subtasks 1 and 2 are gone: subtask 0 takes their slots over.
    let mut job = place.open(1).await?;
    assert_eq!((place.sorted(), job.next), ((0..18).collect(), 18));
    place.target.fates().resume();
    job.emit(2)?;
    job.publish().await?;
    assert_eq!(place.sorted(), (0..20).collect::<Vec<_>>(), "the stopped attempt publishes nothing when it continues");
    Ok(())
}

#[tokio::test]
async fn a_stopped_attempt_publishes_nothing_after_its_successor() -> Result<()> {
    let place = Place::new();
    let mut older = place.open(1).await?;
    place.target.fates().meet([Fate::Wait]);
    older.emit(3)?;
    let epoch = older.checkpoint().await?;
    let mut newer = place.open(1).await?;
    newer.emit(3)?;
    newer.publish().await?;
    place.target.fates().resume();
    assert_eq!(older.published(epoch).await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(place.numbers(), (0..6).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test]
async fn an_unknown_outcome_is_settled_by_the_target() -> Result<()> {
    let place = Place::new();
    let mut job = place.open(1).await?;
    for fates in [&[Fate::LoseAnswer][..], &[Fate::Fail, Fate::Fail, Fate::LoseAnswer], &[Fate::Fail]] {
        place.target.fates().meet(fates.iter().copied());
        job.emit(4)?;
        job.publish().await?;
    }
    assert_eq!(place.numbers(), (0..12).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test]
async fn a_refusal_ends_the_job_and_loses_nothing() -> Result<()> {
    let place = Place::new();
    let mut job = place.open(1).await?;
    place.target.fates().meet([Fate::Refuse]);
    job.emit(4)?;
    let epoch = job.checkpoint().await?;
    assert_eq!(job.published(epoch).await.unwrap_err().kind(), ErrorKind::Input);
    assert_eq!(job.barrier().unwrap_err().kind(), ErrorKind::Input, "the next barrier says why");
    drop(job);
    place.open(1).await?;
    assert_eq!(place.numbers(), [0, 1, 2, 3]);
    Ok(())
}

#[tokio::test]
async fn unpublished_output_is_bounded() -> Result<()> {
    let mut place = Place::new();
    place.settings = SinkSettings::default().with(|it| it.max_unpublished_bytes = 100);
    let mut job = place.open(1).await?;
    job.emit(10)?;
    place.target.fates().meet([Fate::Wait]);
    job.checkpoint().await?;
    let full = job.emit(100).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Limit, "{full}");
    let taken = job.next;
    assert!(taken < 25);
    place.target.fates().resume();
    job.checkpoint().await?;
    job.sinks[0].room().await?;
    job.emit(5)?;
    job.publish().await?;
    assert_eq!(place.numbers(), (0..taken + 5).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test]
async fn a_target_that_is_away_for_longer_than_the_sinks_patience_ends_it() -> Result<()> {
    let mut place = Place::new();
    place.settings = SinkSettings::default().with(|it| it.patience = Some(Duration::ZERO));
    let mut job = place.open(1).await?;
    place.target.fates().meet([Fate::Fail]);
    job.emit(4)?;
    let epoch = job.checkpoint().await?;
    assert_eq!(job.published(epoch).await.unwrap_err().kind(), ErrorKind::Unavailable);
    place.open(1).await?;
    assert_eq!(place.numbers(), [0, 1, 2, 3], "what is committed is published by the next attempt");
    Ok(())
}

/// Returns a place with two published checkpoints, and the id of the first.
async fn two_published(place: &Place) -> Result<Seq> {
    let mut job = place.open(2).await?;
    job.emit(4)?;
    let first = job.barrier()?;
    let id = job.job.wait(first).await?.unwrap().seq;
    job.published(first).await?;
    job.emit(4)?;
    job.publish().await?;
    Ok(id)
}

#[tokio::test]
async fn a_start_from_an_older_checkpoint_or_from_nothing_is_refused_under_later_output() -> Result<()> {
    for fresh in [false, true] {
        let mut place = Place::new();
        let older = two_published(&place).await?;
        let from = if fresh { RestoreFrom::Fresh } else { RestoreFrom::Checkpoint(older) };
        let refused = place.open_from(2, from).await.err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::Config, "{refused}");
        assert_eq!(place.sorted(), (0..8).collect::<Vec<_>>());
        // The claim stands, so the next start is from the same point, and refused too.
        assert_eq!(place.open(2).await.err().unwrap().kind(), ErrorKind::Config);

        place.settings.divergence = Divergence::Continue;
        let mut job = place.open(2).await?;
        let start = if fresh { 0 } else { 4 };
        assert_eq!(job.next, start);
        job.emit(2)?;
        job.publish().await?;
        place.settings.divergence = Divergence::Refuse;
        drop(job);
        let mut job = place.open(3).await?;
        job.emit(1)?;
        job.publish().await?;
        let mut expected: Vec<_> = (0..8).chain(start..start + 3).collect();
        expected.sort_unstable();
        assert_eq!(place.sorted(), expected, "what is published again is published once more, and nothing is skipped");
    }
    Ok(())
}

#[tokio::test]
async fn an_older_checkpoint_with_nothing_published_after_it_is_another_lineage() -> Result<()> {
    let place = Place::new();
    let mut job = place.open(1).await?;
    job.emit(4)?;
    let first = job.publish().await?;
    let older = job.job.watch().borrow().committed.map(|(_, id)| id.seq).unwrap();
    place.target.fates().meet([Fate::Wait]);
    job.emit(4)?;
    job.checkpoint().await?;
    let newest = job.job.watch().borrow().committed.map(|(_, id)| id.seq).unwrap();
    drop(job);
    let mut job = place.open_from(1, RestoreFrom::Checkpoint(older)).await?;
    assert_eq!(job.next, 4);
    job.emit(1)?;
    assert_eq!(job.publish().await?, first.next(), "epochs repeat");
    drop(job);
    // The abandoned branch has the same epochs, and other output.
    let refused = place.open_from(1, RestoreFrom::Checkpoint(newest)).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Config, "{refused}");
    place.target.fates().resume();
    tokio::task::yield_now().await;
    assert_eq!(place.numbers(), (0..5).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test]
async fn a_target_that_lost_its_marker_is_refused() -> Result<()> {
    let mut place = Place::new();
    two_published(&place).await?;
    // The newest checkpoint knows the marker of the one before.
    place.target.lose_markers();
    assert_eq!(place.open(2).await.err().unwrap().kind(), ErrorKind::Config);
    place.settings.divergence = Divergence::Continue;
    let mut job = place.open(2).await?;
    job.emit(2)?;
    job.publish().await?;
    let numbers = place.sorted();
    assert!((0..10).all(|number| numbers.contains(&number)), "nothing is skipped: {numbers:?}");
    Ok(())
}

#[tokio::test]
async fn output_of_a_sink_that_is_not_registered_is_not_forgotten() -> Result<()> {
    let place = Place::new();
    let mut job = place.open(1).await?;
    place.target.fates().meet([Fate::Wait]);
    job.emit(1)?;
    job.checkpoint().await?;
    let operator = OperatorSpec::new(COPY, "copy", 1);
    let mut opened = JobBuilder::new(store(&place.objects)).operator(operator).open().await?;
    let mut seat = opened.take_seats().remove(0);
    seat.add_sink("other", Arc::new(place.target.clone()), SinkSettings::default())?;
    let again = seat.add_sink("other", Arc::new(place.target.clone()), SinkSettings::default());
    assert_eq!(again.unwrap_err().kind(), ErrorKind::Usage);
    let refused = seat.restore(LogBackend::new).await.err().unwrap();
    assert!(refused.kind() == ErrorKind::Config && refused.error().message().contains("sink=`out`"), "{refused}");
    let mut seat = refused.into_seat();
    seat.add_sink("out", Arc::new(place.target.clone()), SinkSettings::default())?;
    seat.restore(LogBackend::new).await?;
    assert_eq!(place.numbers(), [0]);
    Ok(())
}

/// Emits, commits, gives up, crashes and rescales at random, under a target that fails at random. What was dropped keeps running: it
/// is a zombie.
async fn history(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let mut rng = Rng::new(seed);
        let place = Place::new();
        let mut job = place.open_at_last(2).await;
        for _ in 0..40 {
            match rng.below(8) {
                0..3 => job.emit(rng.below(6)).unwrap(),
                3 => drop(job.checkpoint().await.unwrap()),
                4 if job.tasks.len() > 1 => job.give_up().await.unwrap(),
                5 => drop(job.publish().await.unwrap()),
                6 => {
                    let fate = [Fate::Fail, Fate::LoseAnswer, Fate::Succeed][usize::try_from(rng.below(3)).unwrap()];
                    place.target.fates().meet([fate]);
                }
                _ => {
                    let parallelism = 1 + u32::try_from(rng.below(4)).unwrap();
                    drop(job);
                    job = place.open_at_last(parallelism).await;
                }
            }
        }
        job.publish().await.unwrap();
        assert_eq!(place.sorted(), (0..job.next).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[tokio::test]
async fn every_record_is_published_once_whatever_happens() {
    history(0..60).await;
}

#[tokio::test]
async fn a_planted_bug_of_sinks_is_found() {
    for canary in [Canary::TrustPublication, Canary::PublishAborted] {
        plant(Some(canary));
        let found = panics(history(0..60)).await;
        plant(None);
        assert!(found, "{canary:?} is not found");
    }
}

#[tokio::test]
async fn the_target_in_memory_keeps_the_laws() {
    conformance::run(&MemoryTarget::new()).await;
}

#[tokio::test]
async fn the_suite_finds_each_flaw() {
    let flaws = [
        Flaw::MarkerApart,
        Flaw::ForgetMarker,
        Flaw::AcceptOlder,
        Flaw::IgnoreToken,
        Flaw::OutOfOrder,
        Flaw::Uncommitted,
    ];
    for flaw in flaws {
        let target = MemoryTarget::with_flaw(flaw);
        assert!(panics(conformance::run(&target)).await, "the suite accepts {flaw:?}");
    }
}

/// An object store as a target, read as its users read it: object by object, in the order of their names.
struct Bucket(Arc<InMemory>);

#[async_trait]
impl Harness for Bucket {
    fn target(&self) -> Arc<dyn SinkTarget> {
        Arc::new(
            ObjectStoreTarget::new(Arc::<InMemory>::clone(&self.0), Path::from("out")).with_form("number\n", ".csv"),
        )
    }

    fn record(&self, number: u64) -> Bytes {
        format!("{number}\n").into()
    }

    async fn read(&self) -> Result<Vec<u64>> {
        let mut objects: Vec<_> = self.0.list(None).try_collect().await.unwrap();
        objects.sort_by_key(|object| object.location.clone());
        let mut numbers = Vec::new();
        for object in objects.iter().filter(|object| object.size > 0) {
            let content = self.0.get(&object.location).await.unwrap().bytes().await.unwrap();
            let rows = std::str::from_utf8(&content).unwrap().strip_prefix("number\n").unwrap();
            numbers.extend(rows.lines().map(|row| row.parse::<u64>().unwrap()));
        }
        Ok(numbers)
    }

    fn random(&self) -> u128 {
        9
    }
}

#[tokio::test]
async fn an_object_store_keeps_the_laws() {
    conformance::run(&Bucket(Arc::new(InMemory::new()))).await;
}
