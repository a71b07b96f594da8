//! Output exactly once, staged: sinks of a job over a target in memory, and over a folder.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use alluvium::sink::conformance::{StagedHarness, run_staged};
use alluvium::sink::{Divergence, FolderTarget, SinkSettings, StagedTarget};
use alluvium::{Epoch, ErrorKind, JobId, OpaqueRole, RestoreFrom, Result, Seat, Seq, TokioRuntime};
use alluvium_testkit::copying::{Copying, numbers as numbers_of, open_at_last, panics};
use alluvium_testkit::sim::Rng;
use alluvium_testkit::sink::MemoryTarget;
use alluvium_testkit::staged::{MemoryStaging, StagedFlaw};
use alluvium_testkit::{Fate, Gate};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt as _;
use object_store::ObjectStore;

#[derive(Clone)]
struct Place {
    objects: Arc<dyn ObjectStore>,
    target: MemoryStaging,
    settings: SinkSettings,
}

impl Place {
    fn new() -> Self {
        Self { objects: Gate::new().objects(), target: MemoryStaging::new(), settings: SinkSettings::default() }
    }

    async fn open(&self, parallelism: u32) -> Result<Copying> {
        self.open_from(parallelism, RestoreFrom::Newest).await
    }

    async fn open_from(&self, parallelism: u32, from: RestoreFrom) -> Result<Copying> {
        let register = |seat: &mut Seat| seat.add_staged_sink("out", Arc::new(self.target.clone()), self.settings);
        Copying::open(&self.objects, parallelism, from, register).await
    }

    async fn open_at_last(&self, parallelism: u32) -> Copying {
        open_at_last(async || self.open(parallelism).await).await
    }

    fn sorted(&self) -> Vec<u64> {
        let mut numbers = numbers_of(&self.target.records());
        numbers.sort_unstable();
        numbers
    }
}

fn numbers(below: u64) -> Vec<u64> {
    (0..below).collect()
}

#[tokio::test]
async fn output_is_staged_with_its_epoch_and_follows_its_commit() -> Result<()> {
    let place = Place::new();
    let mut job = place.open(2).await?;
    job.emit(10)?;
    assert_eq!(place.target.staged(), 0);
    let epoch = job.publish().await?;
    assert_eq!(place.sorted(), numbers(10));
    job.emit(5)?;
    job.give_up().await?;
    assert_eq!(place.sorted().len(), 10, "nothing of an epoch that was given up is published");
    job.emit(5)?;
    let second = job.publish().await?;
    assert_eq!((place.sorted(), place.target.staged()), (numbers(20), 0));
    let progress = job.sinks[0].watch().borrow().clone();
    assert_eq!((progress.published, progress.records), (Some(second), 10));
    assert!(second > epoch);
    Ok(())
}

#[tokio::test]
async fn a_checkpoint_has_the_parts_and_not_the_records() -> Result<()> {
    let place = Place::new();
    let mut job = place.open(1).await?;
    job.emit(5000)?;
    let epoch = job.barrier()?;
    let stored = job.job.wait(epoch).await?.unwrap();
    let newer = place.open(1).await?;
    assert_eq!(newer.job.restored().unwrap().id.seq, stored.seq);
    let operators = &newer.job.restored().unwrap().manifest.operators;
    let subtasks = operators[0].inline_subtasks()?;
    let prepared = subtasks[0].opaques.iter().filter(|opaque| opaque.role == OpaqueRole::SinkPrepared);
    let bytes: usize = prepared.map(|opaque| opaque.items().unwrap().concat().len()).sum();
    assert!((1..100).contains(&bytes), "{bytes} bytes for 5000 records");
    Ok(())
}

#[tokio::test]
async fn a_barrier_does_not_wait_for_staging_and_its_epoch_does() -> Result<()> {
    let place = Place::new();
    let mut job = place.open(2).await?;
    place.target.fates().meet([Fate::Wait]);
    job.emit(4)?;
    let epoch = job.barrier()?;
    job.emit(4)?;
    let mut ended = Box::pin(job.job.wait(epoch));
    for _ in 0..50 {
        tokio::task::yield_now().await;
        assert!((&mut ended).now_or_never().is_none(), "an epoch is committed with its output alone");
    }
    place.target.fates().resume();
    assert!(ended.await?.is_some());
    job.publish().await?;
    assert_eq!(place.sorted(), numbers(8));
    Ok(())
}

/// Without this, what an epoch that was given up is still staging is lost: the next one may have no output of its own.
#[tokio::test]
async fn an_epoch_waits_for_what_earlier_ones_are_still_staging() -> Result<()> {
    let place = Place::new();
    let mut job = place.open(2).await?;
    place.target.fates().meet([Fate::Wait]);
    job.emit(1)?;
    job.give_up().await?;
    let epoch = job.barrier()?;
    let mut ended = Box::pin(job.job.wait(epoch));
    for _ in 0..50 {
        tokio::task::yield_now().await;
        assert!((&mut ended).now_or_never().is_none());
    }
    place.target.fates().resume();
    assert!(ended.await?.is_some());
    drop(job);
    place.open(1).await?;
    assert_eq!(place.sorted(), numbers(1));
    Ok(())
}

#[tokio::test]
async fn a_restart_publishes_what_was_committed_and_not_published() -> Result<()> {
    let place = Place::new();
    let mut job = place.open(3).await?;
    job.emit(9)?;
    job.publish().await?;
    job.emit(9)?;
    // Three parts are staged, and none is published.
    let staged = [Fate::Succeed; 3];
    place.target.fates().meet(staged.into_iter().chain([Fate::Wait; 3]));
    job.checkpoint().await?;
    job.emit(9)?; // Lost: no checkpoint has it.
    drop(job);
    // Subtasks 1 and 2 are gone: subtask 0 takes their slots over.
    let mut job = place.open(1).await?;
    assert_eq!((place.sorted(), job.next), (numbers(18), 18));
    place.target.fates().resume();
    job.emit(2)?;
    job.publish().await?;
    assert_eq!(place.sorted(), numbers(20), "the stopped attempt publishes nothing twice when it continues");
    Ok(())
}

#[tokio::test]
async fn lost_answers_change_nothing() -> Result<()> {
    use Fate::{Fail, LoseAnswer};
    let place = Place::new();
    let mut job = place.open(1).await?;
    for fates in [&[LoseAnswer][..], &[Fail, Fail, LoseAnswer, Fail, LoseAnswer], &[Fail]] {
        place.target.fates().meet(fates.iter().copied());
        job.emit(4)?;
        job.publish().await?;
    }
    assert_eq!(place.sorted(), numbers(12));
    Ok(())
}

#[tokio::test]
async fn a_refusal_declines_the_epoch_and_ends_the_job() -> Result<()> {
    let place = Place::new();
    let mut job = place.open(1).await?;
    place.target.fates().meet([Fate::Refuse]);
    job.emit(4)?;
    let epoch = job.barrier()?;
    assert_eq!(job.job.wait(epoch).await?, None, "the epoch is given up");
    assert_eq!(job.barrier().unwrap_err().kind(), ErrorKind::Input, "the next barrier says why");
    assert_eq!(job.published(epoch).await.unwrap_err().kind(), ErrorKind::Input);
    drop(job);
    let mut job = place.open(1).await?;
    assert_eq!(job.next, 0, "the records are read again");
    job.emit(4)?;
    job.publish().await?;
    assert_eq!(place.sorted(), numbers(4));
    Ok(())
}

#[tokio::test]
async fn what_waits_in_memory_is_bounded_and_what_is_staged_is_not() -> Result<()> {
    let mut place = Place::new();
    place.settings = SinkSettings::default().with(|it| it.max_unpublished_bytes = 200);
    let mut job = place.open(1).await?;
    place.target.fates().meet([Fate::Wait]);
    job.emit(20)?;
    let epoch = job.barrier()?;
    let full = job.emit(100).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Limit, "{full}");
    place.target.fates().resume();
    job.sinks[0].room().await?;
    assert!(job.job.wait(epoch).await?.is_some());
    for _ in 0..20 {
        job.emit(10)?;
        job.checkpoint().await?;
    }
    job.publish().await?;
    assert_eq!(place.sorted(), numbers(job.next));
    Ok(())
}

#[tokio::test]
async fn a_target_that_is_away_for_longer_than_the_sinks_patience_ends_it() -> Result<()> {
    let mut place = Place::new();
    place.settings = SinkSettings::default().with(|it| it.patience = Some(Duration::ZERO));
    let mut job = place.open(1).await?;
    place.target.fates().meet([Fate::Fail]);
    job.emit(4)?;
    let epoch = job.barrier()?;
    assert_eq!(job.job.wait(epoch).await?, None, "the epoch is given up");
    assert_eq!(job.barrier().unwrap_err().kind(), ErrorKind::Unavailable);
    Ok(())
}

/// Returns the id of the first of two published checkpoints, of 4 and of 8 numbers.
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
async fn d17_a_start_that_goes_back_is_refused_under_later_output() -> Result<()> {
    let mut place = Place::new();
    let first = two_published(&place).await?;
    for from in [RestoreFrom::Checkpoint(first), RestoreFrom::Fresh] {
        let refused = place.open_from(2, from).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Config, "{refused}");
    }
    place.settings.divergence = Divergence::Continue;
    let mut job = place.open_from(2, RestoreFrom::Checkpoint(first)).await?;
    job.emit(4)?;
    job.publish().await?;
    drop(job);
    let twice = [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 7, 7];
    assert_eq!(place.sorted(), twice, "published again, as the setting says; nothing is skipped");
    place.settings.divergence = Divergence::Refuse;
    place.open(2).await?;
    Ok(())
}

/// What is staged outlives a start from an older checkpoint: the user may go back to the newest.
#[tokio::test]
async fn a_start_from_an_older_checkpoint_does_not_cost_the_newest_its_output() -> Result<()> {
    let mut place = Place::new();
    let mut job = place.open(1).await?;
    job.emit(1)?;
    let epoch = job.barrier()?;
    let older = job.job.wait(epoch).await?.unwrap().seq;
    job.published(epoch).await?;
    place.target.fates().meet([Fate::Succeed, Fate::Wait]);
    job.emit(1)?;
    let epoch = job.barrier()?;
    let newest = job.job.wait(epoch).await?.unwrap().seq;
    drop(job);
    drop(place.open_from(1, RestoreFrom::Checkpoint(older)).await?);
    assert_eq!(place.sorted(), [0]);
    // The slot is another history's meanwhile.
    let refused = place.open_from(1, RestoreFrom::Checkpoint(newest)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config);
    place.settings.divergence = Divergence::Continue;
    place.open_from(1, RestoreFrom::Checkpoint(newest)).await?;
    assert_eq!(place.sorted(), [0, 1], "parts are there once even so");
    Ok(())
}

#[tokio::test]
async fn a_sink_does_not_change_its_kind_over_output_that_waits() -> Result<()> {
    let place = Place::new();
    let mut job = place.open(1).await?;
    job.emit(1)?;
    place.target.fates().meet([Fate::Succeed, Fate::Wait]);
    job.checkpoint().await?;
    let target = MemoryTarget::new();
    let register = |seat: &mut Seat| seat.add_sink("out", Arc::new(target.clone()), SinkSettings::default());
    let refused = Copying::open(&place.objects, 1, RestoreFrom::Newest, register).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config);
    place.open(1).await?;
    assert_eq!(place.sorted(), [0]);
    Ok(())
}

/// Emits, commits, gives up, crashes and rescales at random, under a target that fails at random. What was dropped keeps running: it
/// is a zombie.
async fn history(seed: u64, flaw: Option<StagedFlaw>) {
    let mut rng = Rng::new(seed);
    let target = flaw.map_or_else(MemoryStaging::new, MemoryStaging::with_flaw);
    let place = Place { target, ..Place::new() };
    let mut job = place.open_at_last(2).await;
    let mut open = None;
    for _ in 0..40 {
        let what = rng.below(9);
        if let Some(epoch) = open.take_if(|_| (3..7).contains(&what)) {
            job.job.wait(epoch).await.unwrap();
        }
        match what {
            0..3 => job.emit(rng.below(6)).unwrap(),
            3 => drop(job.checkpoint().await.unwrap()),
            4 if job.tasks.len() > 1 => job.give_up().await.unwrap(),
            5 => drop(job.publish().await.unwrap()),
            6 => open = Some(job.barrier().unwrap()),
            7 => {
                let fates = [Fate::Fail, Fate::LoseAnswer, Fate::Succeed];
                place.target.fates().meet([fates[usize::try_from(rng.below(3)).unwrap()]]);
            }
            _ => {
                let parallelism = 1 + u32::try_from(rng.below(4)).unwrap();
                drop(job);
                open = None;
                job = place.open_at_last(parallelism).await;
            }
        }
    }
    if let Some(epoch) = open {
        job.job.wait(epoch).await.unwrap();
    }
    job.publish().await.unwrap();
    assert_eq!(place.sorted(), numbers(job.next), "seed {seed}");
}

#[tokio::test]
async fn every_record_is_published_once_whatever_happens() {
    for seed in 0..60 {
        history(seed, None).await;
    }
}

#[tokio::test]
async fn the_target_in_memory_keeps_the_laws() {
    run_staged(&MemoryStaging::new()).await;
}

#[tokio::test]
async fn the_suite_finds_each_flaw() {
    let flaws = [
        StagedFlaw::SeenEarly,
        StagedFlaw::KeepStaged,
        StagedFlaw::ForgetListed,
        StagedFlaw::PublishAgain,
        StagedFlaw::SharedNames,
        StagedFlaw::AcceptOlder,
        StagedFlaw::OutOfOrder,
    ];
    for flaw in flaws {
        assert!(panics(run_staged(&MemoryStaging::with_flaw(flaw))).await, "the suite accepts {flaw:?}");
    }
}

/// Folders as targets, one for each job, read as their users read them.
struct Folders(tempfile::TempDir);

impl Folders {
    fn folder(&self, job: JobId) -> PathBuf {
        self.0.path().join(job.to_string())
    }
}

#[async_trait]
impl StagedHarness for Folders {
    fn target(&self, job: JobId) -> Arc<dyn StagedTarget> {
        Arc::new(FolderTarget::new(self.folder(job), TokioRuntime::current()).with_form("number\n", ".csv"))
    }

    fn record(&self, number: u64) -> Bytes {
        format!("{number}\n").into()
    }

    async fn read(&self, job: JobId) -> Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(self.folder(job)).into_iter().flatten() {
            let entry = entry.unwrap();
            if entry.file_name().to_str().unwrap().starts_with("part-") {
                let text = fs::read_to_string(entry.path()).unwrap();
                let rows = text.strip_prefix("number\n").unwrap();
                numbers.extend(rows.lines().map(|row| row.parse::<u64>().unwrap()));
            }
        }
        Ok(numbers)
    }

    fn random(&self) -> u128 {
        9
    }
}

#[tokio::test]
async fn a_folder_keeps_the_laws() {
    run_staged(&Folders(tempfile::tempdir().unwrap())).await;
}

/// A job with a folder as its output.
struct Written {
    objects: Arc<dyn ObjectStore>,
    folder: tempfile::TempDir,
}

impl Written {
    fn new() -> Self {
        Self { objects: Gate::new().objects(), folder: tempfile::tempdir().unwrap() }
    }

    async fn open(&self, parallelism: u32) -> Result<Copying> {
        let target = FolderTarget::new(self.folder.path(), TokioRuntime::current()).described("a test");
        let register = |seat: &mut Seat| seat.add_staged_sink("out", Arc::new(target.clone()), SinkSettings::default());
        Copying::open(&self.objects, parallelism, RestoreFrom::Newest, register).await
    }

    /// Returns the names in the folder that begin with `prefix`, sorted.
    fn names(&self, prefix: &str) -> Vec<String> {
        let names = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.retain(|name| name.starts_with(prefix));
        names.sort_unstable();
        names
    }
}

#[tokio::test]
async fn d11_a_folder_keeps_what_is_listed_and_what_is_not_its_own() -> Result<()> {
    let written = Written::new();
    let mut job = written.open(2).await?;
    job.emit(4)?;
    let epoch = job.publish().await?;
    assert_eq!(epoch, Epoch(1));
    assert_eq!(written.names("part-"), ["part-1-1", "part-1-1-1"]);
    let staged = |rest: &str| format!(".staged-{}-{rest}", job.job.id());
    let id = job.job.id();
    let records = [staged("1-_owner.json-0"), staged(&format!("1-_slot-{id}-0-1"))];
    let dead = [staged("1-part-9-1"), staged("1-part-9-1-1")].into_iter().chain(records).collect::<Vec<_>>();
    let foreign = [
        staged("1-part-03-1"),
        staged("9-part-9-9"),
        format!(".staged-{}-1-part-3-1", JobId([8; 16])),
        ".staged-part-3-1".to_owned(),
        "notes.txt".to_owned(),
    ];
    dead.iter().chain(&foreign).for_each(|name| fs::write(written.folder.path().join(name), "").unwrap());
    // Kept by the attempt that first does not list them, and removed by the next.
    let kept = [staged("2-part-9-1"), staged("2-part-9-1-1")];
    drop(job);
    for (attempt, kept) in [(2, &kept[..]), (3, &[])] {
        drop(written.open(2).await?);
        assert_eq!(written.names("part-"), ["part-1-1", "part-1-1-1"]);
        let hidden = foreign.iter().filter(|name| name.starts_with('.'));
        let mut expected: Vec<_> = hidden.chain(kept).cloned().collect();
        expected.sort_unstable();
        assert_eq!(written.names("."), expected);
        let slots = [0, 1].map(|slot| format!("_slot-{id}-{slot}-{attempt}"));
        assert_eq!(written.names("_"), ["_owner.json".to_owned()].into_iter().chain(slots).collect::<Vec<_>>());
    }
    Ok(())
}

#[tokio::test]
async fn a_damaged_or_missing_part_is_not_published() -> Result<()> {
    let written = Written::new();
    let mut job = written.open(1).await?;
    job.emit(4)?;
    job.publish().await?;
    let id = job.job.id();
    drop(job);
    let (part, staged) = (written.folder.path().join("part-1-1"), format!(".staged-{id}-1-part-1-1"));
    fs::remove_file(&part).unwrap();
    assert_eq!(written.open(1).await.unwrap_err().kind(), ErrorKind::NotFound);
    fs::write(written.folder.path().join(staged), "other").unwrap();
    assert_eq!(written.open(1).await.unwrap_err().kind(), ErrorKind::Corrupt);
    let [staged] = &written.names(".staged")[..] else { panic!("the part is staged") };
    fs::remove_file(written.folder.path().join(staged)).unwrap();
    // A link could point anywhere.
    std::os::unix::fs::symlink(written.folder.path(), written.folder.path().join(staged)).unwrap();
    assert_eq!(written.open(1).await.unwrap_err().kind(), ErrorKind::Corrupt);
    Ok(())
}

#[tokio::test]
async fn a_folder_that_is_a_file_or_another_jobs_is_refused() -> Result<()> {
    let written = Written::new();
    drop(written.open(1).await?);
    let other = Written { objects: Gate::new().objects(), folder: written.folder };
    let refused = other.open(1).await.unwrap_err();
    assert!(refused.kind() == ErrorKind::Config && refused.message().contains("job=`a test`"), "{refused}");
    let file = other.folder.path().join("notes.txt");
    fs::write(&file, "").unwrap();
    let target = FolderTarget::new(&file, TokioRuntime::current());
    assert_eq!(target.check().await.unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(target.check_owner(None).unwrap_err().kind(), ErrorKind::Config);
    Ok(())
}
