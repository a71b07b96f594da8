//! Lazy restores: a job runs while its key groups are absent, and loses nothing.

#[cfg(feature = "rocksdb")]
mod rocksdb;

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::sync::{Arc, Mutex};

use alluvium::backend::StateBackend as _;
use alluvium::internals::canary::{Canary, plant};
use alluvium::offline::{self, Depth};
use alluvium::prelude::*;
use alluvium::{
    ErrorKind, JobSettings, LogBackend, ManifestLog, RestoreMode, RestoreProgress, Result, Strategy, Tables,
};
use alluvium_testkit::{Door, Gate};
use bytes::Bytes;
use object_store::ObjectStore;
use tokio::sync::watch;

const OPERATOR: OperatorId = OperatorId(3);
const GROUPS: u16 = 16;
const KEYS: u32 = 400;

type Model = BTreeMap<u32, Vec<u8>>;

/// A job of one subtask with one table of values, and what it should hold.
struct World {
    job: Job,
    task: Task<LogBackend>,
    value: ValueState<Vec<u8>, Raw>,
    model: Model,
}

/// Returns a value of half a KiB that does not compress.
fn value(key: u32, version: u32) -> Vec<u8> {
    let mut state = (u64::from(key) << 32) + u64::from(version) + 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(512).collect()
}

fn settings(mode: RestoreMode) -> JobSettings {
    JobSettings::default().with(|it| {
        it.max_parallelism = GROUPS;
        it.restore = mode;
    })
}

async fn open_seat(objects: &Arc<dyn ObjectStore>, mode: RestoreMode) -> Result<(Job, Seat)> {
    open_seat_with(objects, settings(mode)).await
}

async fn open_seat_with(objects: &Arc<dyn ObjectStore>, settings: JobSettings) -> Result<(Job, Seat)> {
    let operator = OperatorSpec::new(OPERATOR, "values", 1).keyed_by(Schema::new("u32le"));
    let builder = JobBuilder::new(alluvium_testkit::store(objects)).settings(settings).operator(operator);
    let mut job = builder.restore_from(RestoreFrom::Newest).open().await?;
    let seat = job.take_seats().remove(0);
    Ok((job, seat))
}

impl World {
    async fn open(objects: &Arc<dyn ObjectStore>, mode: RestoreMode, model: Model) -> Result<Self> {
        let (job, mut seat) = open_seat(objects, mode).await?;
        let value = seat.tables().value("value", Raw)?;
        let task = seat.restore(LogBackend::new).await?;
        Ok(Self { job, task, value, model })
    }

    /// Opens the job of `model`, lets the reads of its segments' indexes pass, and holds all others.
    async fn open_absent(gate: &Arc<Gate>, mode: RestoreMode, model: Model) -> Result<Self> {
        Self::open_absent_with(gate, settings(mode), model).await
    }

    async fn open_absent_with(gate: &Arc<Gate>, settings: JobSettings, model: Model) -> Result<Self> {
        let (job, mut seat) = open_seat_with(&gate.objects(), settings).await?;
        let value = seat.tables().value("value", Raw)?;
        let segments = job.restored().unwrap().manifest.operators[0].subtasks[0].inline().unwrap().segments.len();
        gate.let_reads_pass(segments);
        let task = seat.restore(LogBackend::new).await?;
        Ok(Self { job, task, value, model })
    }

    fn put(&mut self, key: u32, version: u32) -> Result<()> {
        let state = self.task.state();
        state.set_key(&key.to_le_bytes())?;
        self.value.put(state, &value(key, version))?;
        self.model.insert(key, value(key, version));
        Ok(())
    }

    fn clear(&mut self, key: u32) -> Result<()> {
        let table = self.value.table();
        let state = self.task.state();
        state.set_key(&key.to_le_bytes())?;
        state.clear_key(table)?;
        self.model.remove(&key);
        Ok(())
    }

    fn read(&mut self, key: u32) -> Result<Option<Vec<u8>>> {
        let state = self.task.state();
        state.set_key(&key.to_le_bytes())?;
        self.value.read(state)
    }

    async fn checkpoint(&mut self) -> Result<()> {
        let barrier = self.job.trigger_when_possible().await?;
        self.task.barrier(barrier, Timestamp::MIN, Vec::new())?;
        assert!(self.job.wait(barrier).await?.is_some());
        Ok(())
    }

    fn check(&mut self) -> Result<()> {
        for key in 0..KEYS {
            assert_eq!(self.read(key)?, self.model.get(&key).cloned(), "key {key}");
        }
        Ok(())
    }

    fn group(&mut self, key: u32) -> KeyGroup {
        self.task.state().locate(&key.to_le_bytes()).unwrap().group
    }

    fn absent(&mut self) -> KeyGroupSet {
        self.task.state().backend().absent()
    }
}

/// Returns a gate with the job's first checkpoint.
async fn stored() -> Result<(Arc<Gate>, Model)> {
    let gate = Gate::new();
    let mut world = World::open(&gate.objects(), RestoreMode::Eager, Model::new()).await?;
    (0..KEYS).try_for_each(|key| world.put(key, 0))?;
    world.checkpoint().await?;
    Ok((gate, world.model))
}

fn puts_of_data(gate: &Gate) -> usize {
    gate.take_calls().iter().filter(|call| call.starts_with("put") && call.contains("/data/")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_of_absent_groups_uploads_nothing_and_restores_right() -> Result<()> {
    let (gate, model) = stored().await?;
    let mut world = World::open_absent(&gate, RestoreMode::Auto, model).await?;
    assert_eq!(world.absent(), KeyGroupSet::all(GROUPS));
    gate.take_calls();
    world.checkpoint().await?;
    assert_eq!(puts_of_data(&gate), 0);
    assert_eq!(world.absent(), KeyGroupSet::all(GROUPS), "a barrier loads nothing");
    let model = world.model.clone();
    drop(world);
    gate.let_reads_pass(usize::MAX);
    World::open(&gate.objects(), RestoreMode::Eager, model).await?.check()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_checkpoint_lists_the_segments_of_absent_groups_again() -> Result<()> {
    let (gate, model) = stored().await?;
    let full = settings(RestoreMode::Auto).with(|it| it.strategy = Strategy::Full);
    let mut world = World::open_absent_with(&gate, full, model).await?;
    world.checkpoint().await?;
    let model = world.model.clone();
    drop(world);
    gate.let_reads_pass(usize::MAX);
    World::open(&gate.objects(), RestoreMode::Eager, model).await?.check()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_changed_since_is_uploaded_and_ten_killed_restarts_lose_nothing() -> Result<()> {
    let (gate, mut model) = stored().await?;
    for round in 1..=10 {
        let mut world = World::open_absent(&gate, RestoreMode::Auto, model).await?;
        gate.let_reads_pass(usize::MAX);
        (round..round + 3).try_for_each(|key| world.put(key, round))?;
        world.checkpoint().await?;
        // Whatever was loaded by now: the job is killed.
        model = world.model.clone();
    }
    World::open(&gate.objects(), RestoreMode::Auto, model.clone()).await?.check()?;
    World::open(&gate.objects(), RestoreMode::Eager, model).await?.check()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clear_of_an_absent_group_is_logged_without_a_load() -> Result<()> {
    let (gate, model) = stored().await?;
    let mut world = World::open_absent(&gate, RestoreMode::Auto, model).await?;
    (0..5).try_for_each(|key| world.clear(key))?;
    world.checkpoint().await?;
    (5..10).try_for_each(|key| world.clear(key))?;
    assert_eq!(world.absent(), KeyGroupSet::all(GROUPS));
    // Sealed or not, the clears apply once the group is there, and writes come after them.
    gate.let_reads_pass(usize::MAX);
    world.put(3, 1)?;
    world.put(7, 1)?;
    world.check()?;
    world.checkpoint().await?;
    let model = world.model.clone();
    drop(world);
    World::open(&gate.objects(), RestoreMode::Auto, model).await?.check()
}

#[tokio::test(flavor = "multi_thread")]
async fn clears_that_were_committed_while_their_group_was_absent_are_restored() -> Result<()> {
    let (gate, model) = stored().await?;
    let mut world = World::open_absent(&gate, RestoreMode::Auto, model).await?;
    (0..50).try_for_each(|key| world.clear(key))?;
    world.checkpoint().await?;
    let model = world.model.clone();
    drop(world);
    gate.let_reads_pass(usize::MAX);
    World::open(&gate.objects(), RestoreMode::Auto, model).await?.check()
}

#[tokio::test(flavor = "multi_thread")]
async fn more_clears_than_are_kept_load_the_group() -> Result<()> {
    let (gate, model) = stored().await?;
    let mut world = World::open_absent(&gate, RestoreMode::Auto, model).await?;
    gate.let_reads_pass(usize::MAX);
    // Far more clears of one group than it has keys.
    for key in 0..KEYS * 20 {
        world.clear(key)?;
    }
    assert!(world.model.is_empty());
    world.check()
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_waits_for_the_groups_of_its_keys_alone() -> Result<()> {
    let (gate, model) = stored().await?;
    let mut world = World::open_absent(&gate, RestoreMode::Auto, model).await?;
    let key = 17u32.to_le_bytes();
    let located = [world.task.state().locate(&key)?];
    let mut ready = std::pin::pin!(world.task.ready(&located));
    assert!(futures_util::poll!(&mut ready).is_pending());
    gate.let_reads_pass(usize::MAX);
    let guard = ready.await?;
    assert_eq!(guard.groups(), &std::iter::once(located[0].group).collect());
    gate.set(Door::Shut);
    assert!(world.read(17)?.is_some(), "nothing is left to load");
    Ok(())
}

/// On a runtime of one thread nothing could load the group while the thread waits for it.
#[tokio::test]
async fn a_runtime_of_one_thread_restores_eagerly_or_never_waits() -> Result<()> {
    let (gate, model) = stored().await?;
    let mut world = World::open(&gate.objects(), RestoreMode::Auto, model.clone()).await?;
    assert!(world.absent().is_empty() && world.task.restore_progress().is_complete());
    world.check()?;
    drop(world);
    let mut world = World::open_absent(&gate, RestoreMode::Lazy, model).await?;
    assert_eq!(world.read(1).unwrap_err().kind(), ErrorKind::Usage);
    gate.let_reads_pass(usize::MAX);
    let all = KeyGroupSet::all(GROUPS);
    let _guard = world.task.ready_groups(&all).await?;
    world.check()?;
    assert!(world.absent().is_empty() && world.task.restore_progress().is_complete());
    Ok(())
}

/// What an observer was told: all of it, and the newest to wait for.
struct Observed {
    all: Arc<Mutex<Vec<RestoreProgress>>>,
    newest: watch::Receiver<RestoreProgress>,
}

impl Observed {
    fn of(seat: &mut Seat) -> Self {
        let (all, (sender, newest)) = (Arc::default(), watch::channel(RestoreProgress::default()));
        let told: Arc<Mutex<Vec<_>>> = Arc::clone(&all);
        seat.on_restore_progress(move |progress| {
            told.lock().unwrap().push(progress);
            sender.send_replace(progress);
        });
        Self { all, newest }
    }

    /// Waits for the last report and checks the way there.
    async fn end(&mut self) -> RestoreProgress {
        let end = *self.newest.wait_for(|progress| progress.groups > 0 && progress.has_ended()).await.unwrap();
        let all = self.all.lock().unwrap();
        assert_eq!((all[0].groups, all[0].loaded_groups), (usize::from(GROUPS), 0), "the size comes first");
        assert!(all.is_sorted_by_key(|progress| (progress.loaded_groups, progress.loaded_bytes, progress.elapsed)));
        assert_eq!(all.iter().filter(|progress| progress.has_ended()).count(), 1);
        assert_eq!(all.last(), Some(&end));
        end
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_is_told_of_a_restore_until_its_end() -> Result<()> {
    let (gate, _) = stored().await?;
    for mode in [RestoreMode::Lazy, RestoreMode::Eager] {
        let (_job, mut seat) = open_seat(&gate.objects(), mode).await?;
        let mut observed = Observed::of(&mut seat);
        let task = seat.restore(LogBackend::new).await?;
        let end = observed.end().await;
        assert!(end.is_complete() && end.ready_share() == 1.0 && end.failed.is_none(), "{end:?}");
        assert!(end.bytes > u64::from(KEYS) * 512 && end.loaded_bytes == end.bytes, "{end:?}");
        assert!(end.uses > 0.0 && end.loaded_uses > 0.0, "every key was written");
        assert_eq!(task.restore_progress(), end);
        drop(task);
        assert_eq!(observed.end().await, end, "a task that is dropped later reports nothing");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_is_told_why_a_restore_ended_early() -> Result<()> {
    let (gate, _) = stored().await?;
    // The task is dropped before anything could be read.
    let (job, mut seat) = open_seat(&gate.objects(), RestoreMode::Lazy).await?;
    let mut observed = Observed::of(&mut seat);
    let segments = job.restored().unwrap().manifest.operators[0].subtasks[0].inline().unwrap().segments.len();
    gate.let_reads_pass(segments);
    drop(seat.restore(LogBackend::new).await?);
    let end = observed.end().await;
    assert_eq!((end.failed, end.loaded_groups), (Some(ErrorKind::Stopped), 0));
    // The seat's restore fails, and then succeeds.
    gate.let_reads_pass(usize::MAX);
    gate.set(Door::NoData);
    let (_job, mut seat) = open_seat(&gate.objects(), RestoreMode::Eager).await?;
    let observed = Observed::of(&mut seat);
    let failed = seat.restore(LogBackend::new).await.unwrap_err();
    gate.set(Door::Open);
    let _task = failed.into_seat().restore(LogBackend::new).await?;
    let ends: Vec<_> = observed.all.lock().unwrap().iter().filter(|it| it.has_ended()).map(|it| it.failed).collect();
    assert_eq!(ends, [Some(ErrorKind::Unavailable), None]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn inspect_lists_the_groups_as_a_lazy_restore_loads_them() -> Result<()> {
    let (gate, model) = stored().await?;
    let mut world = World::open(&gate.objects(), RestoreMode::Eager, model).await?;
    let hot = world.group(7);
    let key = (0..KEYS).find(|key| world.group(*key) != hot).unwrap();
    let warm = world.group(key);
    (0..4000).try_for_each(|version| world.put(7, version))?;
    (0..1000).try_for_each(|version| world.put(key, version))?;
    world.checkpoint().await?;
    let store = alluvium_testkit::store(&gate.objects());
    let checkpoint = offline::open(&store, &mut ManifestLog::load(&store).await?, None).await?;
    let order = async |depth| {
        let inspection = offline::inspect(&store, &checkpoint.manifest, None, depth).await;
        inspection.map(|inspection| inspection.operators[0].load_order.clone())
    };
    let steps = order(Depth::Rows).await?;
    assert_eq!(steps.iter().map(|step| step.group).collect::<KeyGroupSet>(), KeyGroupSet::all(GROUPS));
    assert_eq!([steps[0].group, steps[1].group], [hot, warm], "{steps:?}");
    assert!(steps[0].warmth > steps[1].warmth && steps[1].warmth > steps[2].warmth, "{steps:?}");
    assert!(steps.iter().map(|step| step.bytes).sum::<u64>() > u64::from(KEYS) * 512);
    assert!(order(Depth::Manifest).await?.is_empty(), "it has no sizes");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_is_asked_again() -> Result<()> {
    let (gate, model) = stored().await?;
    let mut world = World::open_absent(&gate, RestoreMode::Auto, model).await?;
    gate.set(Door::NoData);
    gate.let_reads_pass(usize::MAX);
    for key in 0..3 {
        assert_eq!(world.read(key).unwrap_err().kind(), ErrorKind::Unavailable);
    }
    world.checkpoint().await?;
    gate.set(Door::Open);
    world.check()?;
    assert!(world.task.damaged_groups().is_empty());
    Ok(())
}

/// Damages the only pack in its middle. Returns its name and its content of before.
async fn damage_the_pack(gate: &Gate) -> (String, Bytes) {
    let (path, pack) = gate.dump().await.into_iter().find(|(key, _)| key.contains("/data/")).unwrap();
    let mut damaged = pack.to_vec();
    let at = damaged.len() / 2;
    damaged[at] ^= 1;
    gate.damage(&path, Some(Bytes::from(damaged))).await;
    (path, pack)
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_stops_its_group_alone_by_name() -> Result<()> {
    let (gate, model) = stored().await?;
    let (path, pack) = damage_the_pack(&gate).await;

    let mut world = World::open(&gate.objects(), RestoreMode::Auto, model).await?;
    let (mut whole, mut broken) = (Vec::new(), BTreeMap::<_, usize>::new());
    for key in 0..KEYS {
        let group = world.group(key);
        match world.read(key) {
            Ok(found) => {
                assert_eq!(found.as_ref(), world.model.get(&key));
                whole.push(key);
            }
            Err(error) => {
                assert!(error.kind() == ErrorKind::Corrupt && error.chain().contains(&format!("group=`{group}`")));
                *broken.entry(group).or_default() += 1;
            }
        }
    }
    assert!(broken.len() <= 2 && !broken.is_empty(), "a block has rows of few groups: {broken:?}");
    let reported: Vec<_> = world.task.damaged_groups().into_iter().map(|(group, _)| group).collect();
    let progress = world.task.restore_progress();
    assert!(progress.has_ended() && !progress.is_complete() && progress.damaged_groups == broken.len(), "{progress:?}");
    assert_eq!(reported, broken.into_keys().collect::<Vec<_>>());
    // The job continues, and lists the damaged segments as they are.
    world.put(whole[0], 1)?;
    world.checkpoint().await?;
    let model = world.model.clone();
    drop(world);
    gate.damage(&path, Some(pack)).await;
    World::open(&gate.objects(), RestoreMode::Auto, model).await?.check()
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_groups_that_are_given_up_are_empty_from_the_next_checkpoint_on() -> Result<()> {
    let (gate, model) = stored().await?;
    damage_the_pack(&gate).await;

    let mut world = World::open(&gate.objects(), RestoreMode::Auto, model).await?;
    let lost: Vec<_> = (0..KEYS).filter(|key| world.read(*key).is_err()).collect();
    let groups: KeyGroupSet = world.task.damaged_groups().into_iter().map(|(group, _)| group).collect();
    assert!(!lost.is_empty() && !groups.is_empty());
    let all = KeyGroupSet::all(GROUPS);
    assert_eq!(world.task.give_up_groups(&all).unwrap_err().kind(), ErrorKind::Usage);
    world.task.give_up_groups(&groups)?;
    lost.iter().for_each(|key| drop(world.model.remove(key)));
    world.put(lost[0], 1)?;
    world.check()?;
    assert!(world.task.damaged_groups().is_empty());
    world.checkpoint().await?;
    let model = world.model.clone();
    drop(world);
    // What is stored of them is not read any more.
    World::open(&gate.objects(), RestoreMode::Auto, model.clone()).await?.check()?;
    World::open(&gate.objects(), RestoreMode::Eager, model).await?.check()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_that_is_declared_late_finds_the_entries_of_groups_loaded_before_and_after() -> Result<()> {
    let gate = Gate::new();
    let (job, seat) = open_seat(&gate.objects(), RestoreMode::Eager).await?;
    let mut task = seat.restore(LogBackend::new).await?;
    let state = task.state();
    let map = state.ordered_map("map", Ordered, Raw)?;
    for key in 0..200u32 {
        state.set_key(&key.to_le_bytes())?;
        (0..3).try_for_each(|sub: i64| map.put(state, &sub, &value(key, 0)))?;
    }
    let barrier = job.trigger_when_possible().await?;
    task.barrier(barrier, Timestamp::MIN, Vec::new())?;
    assert!(job.wait(barrier).await?.is_some());
    drop((task, job));

    let (_job, seat) = open_seat(&gate.objects(), RestoreMode::Auto).await?;
    let mut task = seat.restore(LogBackend::new).await?;
    let half: KeyGroupSet = (0..GROUPS / 2).map(KeyGroup).collect();
    task.state().backend_mut().ensure(&half)?;
    let state = task.state();
    let map = state.ordered_map::<i64, Vec<u8>, _, _>("map", Ordered, Raw)?;
    for key in 0..200u32 {
        state.set_key(&key.to_le_bytes())?;
        let subs: Vec<_> = map.entries(state)?.into_iter().map(|(sub, _)| sub).collect();
        assert_eq!(subs, [0, 1, 2], "key {key}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn absent_groups_keep_their_recorded_times() -> Result<()> {
    let (gate, model) = stored().await?;
    let mut world = World::open(&gate.objects(), RestoreMode::Eager, model).await?;
    let barrier = world.job.trigger_when_possible().await?;
    world.task.barrier(barrier, Timestamp::from_millis(700), Vec::new())?;
    assert!(world.job.wait(barrier).await?.is_some());
    let (model, recorded) = (world.model.clone(), world.task.state().backend().times());
    drop(world);
    let mut world = World::open_absent(&gate, RestoreMode::Auto, model).await?;
    let barrier = world.job.trigger_when_possible().await?;
    world.task.barrier(barrier, Timestamp::from_millis(900), Vec::new())?;
    assert_eq!(world.task.state().backend().times(), recorded);
    gate.let_reads_pass(usize::MAX);
    let group = world.group(0);
    world.read(0)?;
    let times = world.task.state().backend().times();
    let of = |group| times.iter().find(|it| it.groups.contains(group)).unwrap().event_time.as_millis();
    assert_eq!(of(group), 900, "a group that is loaded follows the clock");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_that_were_dropped_while_absent_are_not_loaded() -> Result<()> {
    let (gate, model) = stored().await?;
    let mut world = World::open_absent(&gate, RestoreMode::Auto, model).await?;
    let group: KeyGroupSet = std::iter::once(world.group(1)).collect();
    world.task.state().backend_mut().drop_groups(&group)?;
    gate.let_reads_pass(usize::MAX);
    assert_eq!(world.read(1).unwrap_err().kind(), ErrorKind::Usage);
    let others = KeyGroupSet::all(GROUPS).difference(&group);
    world.task.state().backend_mut().ensure(&others)?;
    assert_eq!(world.task.state().backend().resident().groups(), &others);
    Ok(())
}

/// On one thread, so that a bug can be planted in the lanes, too.
#[tokio::test]
async fn an_evicted_group_comes_back_with_what_was_written_since() -> Result<()> {
    let (gate, model) = stored().await?;
    let mut world = World::open(&gate.objects(), RestoreMode::Lazy, model).await?;
    drop(world.task.ready_groups(&KeyGroupSet::all(GROUPS)).await?);
    world.put(3, 1)?;
    world.checkpoint().await?;
    world.task.settle()?;
    let group: KeyGroupSet = std::iter::once(world.group(3)).collect();
    world.task.state().backend_mut().evict(&group)?;
    assert!(world.absent().intersection(&group) == group);
    let _guard = world.task.ready_groups(&group).await?;
    world.check()
}

/// A budget of half the state: the background leaves room for writes, and cold groups make room for others.
#[tokio::test(flavor = "multi_thread")]
async fn state_larger_than_the_memory_budget_is_loaded_evicted_and_loaded_again() -> Result<()> {
    let gate = Gate::new();
    let mut world = World::open(&gate.objects(), RestoreMode::Eager, Model::new()).await?;
    let keys = KEYS * 40;
    (0..keys).try_for_each(|key| world.put(key, 0))?;
    world.checkpoint().await?;
    let (mut model, bytes) = (world.model.clone(), world.task.state().backend().stats().memory_bytes);
    drop(world);

    let limited = settings(RestoreMode::Auto).with(|it| it.memory_bytes = bytes / 2);
    let (job, mut seat) = open_seat_with(&gate.objects(), limited).await?;
    let value = seat.tables().value("value", Raw)?;
    let task = seat.restore(LogBackend::new).await?;
    let mut world = World { job, task, value, model: std::mem::take(&mut model) };
    let mut resident = std::collections::BTreeSet::new();
    for round in 1..4 {
        for key in (0..keys).step_by(7) {
            assert_eq!(world.read(key)?, world.model.get(&key).cloned(), "key {key}");
            // Groups with writes since the last checkpoint stay in memory.
            if key % 100 == 0 && world.group(key).0 < 3 {
                world.put(key, round)?;
            }
        }
        world.checkpoint().await?;
        world.task.settle()?;
        resident.insert(usize::from(GROUPS) - world.absent().len());
    }
    assert!(resident.iter().all(|groups| *groups < usize::from(GROUPS)), "{resident:?}");
    let model = world.model.clone();
    drop(world);
    let mut world = World::open(&gate.objects(), RestoreMode::Eager, model).await?;
    (0..keys).try_for_each(|key| {
        assert_eq!(world.read(key)?, world.model.get(&key).cloned(), "key {key}");
        Ok(())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn due_timers_fire_in_order_whichever_groups_are_absent() -> Result<()> {
    let gate = Gate::new();
    let declare = |tables: &mut Tables| tables.timers("timers", TimeDomain::Event, Schema::unit());
    let (job, mut seat) = open_seat(&gate.objects(), RestoreMode::Eager).await?;
    let timers = declare(seat.tables())?;
    let mut task = seat.restore(LogBackend::new).await?;
    let mut timers = timers.load(task.state())?;
    for key in 0..2000u32 {
        task.state().set_key(&key.to_le_bytes())?;
        timers.register(task.state(), &[], Timestamp::from_millis(i64::from(key * 7919 % 1000)))?;
    }
    let barrier = job.trigger_when_possible().await?;
    task.barrier(barrier, Timestamp::MIN, Vec::new())?;
    assert!(job.wait(barrier).await?.is_some());
    drop((task, job));

    let (_job, mut seat) = open_seat(&gate.objects(), RestoreMode::Auto).await?;
    let timers = declare(seat.tables())?;
    let mut task = seat.restore(LogBackend::new).await?;
    let mut timers = timers.load(task.state())?;
    // A new timer of a group that may still be absent fires with the others, once.
    task.state().set_key(&5u32.to_le_bytes())?;
    assert!(timers.register(task.state(), &[], Timestamp::from_millis(5000))?);
    assert!(!timers.register(task.state(), &[], Timestamp::from_millis(5 * 7919 % 1000))?);
    let mut fired = Vec::new();
    for to in [100, 999, 6000] {
        while let Some(timer) = timers.pop_due(task.state(), Timestamp::from_millis(to))? {
            fired.push(timer.timestamp().as_millis());
        }
        assert!(timers.next().is_none_or(|next| next.as_millis() > to));
    }
    assert!(fired.is_sorted() && fired.len() == 2001, "{}", fired.len());
    assert!(timers.is_empty() && timers.due_groups(Timestamp::MAX).is_empty());
    Ok(())
}

type Test = fn() -> Result<()>;

/// Planted bugs of absent groups, each with a test that finds it. They are planted on the test's own thread, where the
/// backend runs.
const BREAKS: [(Canary, Test); 3] = [
    (Canary::ForgetAbsent, a_full_checkpoint_lists_the_segments_of_absent_groups_again),
    (Canary::SkipClears, a_clear_of_an_absent_group_is_logged_without_a_load),
    (Canary::LoadStale, an_evicted_group_comes_back_with_what_was_written_since),
];

#[test]
fn planted_bugs_of_absent_groups_are_found() {
    for (canary, test) in BREAKS {
        plant(Some(canary));
        let outcome = catch_unwind(test);
        plant(None);
        assert!(!matches!(outcome, Ok(Ok(()))), "{canary:?} was not found");
    }
}
