//! Interrupted, partial and damaged restores (F).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alluvium::offline::{self, RestoreOptions};
use alluvium::prelude::TableOptions;
use alluvium::{
    ErrorKind, Fixed, Job, JobBuilder, JobSettings, KeyGroupSet, LogBackend, ManifestLog, OperatorSpec, RestoreFrom,
    Result, RetentionPolicy, Store, Task, Timestamp, TtlConfig, ValueState,
};

use crate::committed::Committed;
use crate::sim::{Rig, small};
use alluvium_testkit::{self, COUNT, Counting, Gate};

type State = BTreeMap<Vec<u8>, u64>;

#[tokio::test]
async fn f02_key_groups_that_were_never_written_are_empty() -> Result<()> {
    let gate = Gate::new();
    let mut job = Counting::fresh(&gate.objects(), 3).await;
    job.checkpoint().await?.unwrap();
    for parallelism in [1, 128, 7] {
        job = job.reopen(&gate.objects(), parallelism).await;
        assert_eq!(job.expected, State::new());
    }
    job.add(0..1)?;
    job.checkpoint().await?.unwrap();
    for parallelism in [128, 1, 5] {
        job = job.reopen(&gate.objects(), parallelism).await;
        assert_eq!(job.expected.len(), 1);
    }
    Ok(())
}

#[test]
fn f04_a_restore_that_is_killed_has_changed_nothing_and_can_be_repeated() {
    for k in 1.. {
        let rig = Rig::new();
        let mut job = rig.open(0, 2, small()).unwrap();
        let expected = rig.on(0, async move {
            for round in 0..2 {
                job.add(round * 20..round * 30 + 40).unwrap();
                job.checkpoint().await.unwrap().unwrap();
            }
            job.expected
        });
        rig.sim.crash(0);
        let store = rig.store(3);
        let committed = rig.on(3, async move { Committed::of(&store).await.unwrap() });
        let before: BTreeSet<_> = rig.keys("").into_iter().collect();
        let store = rig.store(1);
        rig.sim.crash_at_await(1, k);
        let opened = rig.sim.block_on(1, 3_600_000, Counting::open_on(store, 3, small(), RestoreFrom::Newest));
        rig.sim.crash(1);
        let after: BTreeSet<_> = rig.keys("").into_iter().collect();
        assert!(after.is_superset(&before), "await {k}");
        let store = rig.store(3);
        rig.on(3, async move { committed.check(&store, &format!("await {k}")).await });
        assert_eq!(rig.open(2, 5, small()).unwrap().expected, expected, "await {k}");
        if opened.is_some_and(|opened| opened.unwrap().expected == expected) {
            assert!(k > 10, "{k} awaits");
            break;
        }
    }
}

#[test]
fn f05_a_restore_while_the_owner_collects_is_of_one_checkpoint() {
    for delay_ms in (0..120).map(|step| step * 7) {
        let rig = Rig::new();
        let retention = RetentionPolicy::default().with(|it| it.checkpoints = 1);
        let settings = || small().with(|it| it.retention = retention);
        let mut job = rig.open(0, 2, settings()).unwrap();
        let states = Arc::new(Mutex::new(vec![State::new()]));
        let noted = Arc::clone(&states);
        rig.sim.spawn(
            0,
            Box::pin(async move {
                for round in 0.. {
                    job.add(round..round + 40).unwrap();
                    let Ok(epoch) = job.barrier() else { return };
                    noted.lock().unwrap().push(job.expected.clone());
                    if job.job.wait(epoch).await.is_err() {
                        return;
                    }
                }
            }),
        );
        rig.pass(Duration::from_millis(100 + delay_ms));
        let restored = rig.open(1, 3, settings()).unwrap().expected;
        let states = states.lock().unwrap();
        assert!(states.len() > 2 && states.contains(&restored), "after {delay_ms} ms: a state that never was");
    }
}

#[tokio::test]
async fn f07_a_missing_object_is_named_with_its_groups_and_the_rest_is_restored() -> Result<()> {
    let gate = Gate::new();
    let mut job = Counting::fresh(&gate.objects(), 2).await;
    job.add(0..400)?;
    job.checkpoint().await?.unwrap();
    let before: BTreeSet<_> = gate.dump().await.into_keys().collect();
    job.add(0..3)?;
    let newest = job.checkpoint().await?.unwrap();
    let lost = gate.dump().await.into_keys().find(|key| key.contains("/data/") && !before.contains(key)).unwrap();
    gate.damage(&lost, None).await;

    let store = alluvium_testkit::store(&gate.objects());
    let error = Counting::open_on(store.clone(), 2, JobSettings::default(), RestoreFrom::Newest).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let checkpoint = offline::open(&store, &mut ManifestLog::load(&store).await?, Some(newest.seq)).await?;
    let subtasks = checkpoint.manifest.operators[0].inline_subtasks()?;
    let segments = subtasks.iter().flat_map(|subtask| &subtask.segments);
    let touched: Vec<_> = segments.filter(|segment| lost.contains(&segment.object.to_string())).collect();
    let named = |segment: &&alluvium::manifest::SegmentRef| {
        let text = error.chain();
        text.contains(&segment.object.to_string()) && text.contains(&format!("groups=`{}`", segment.groups))
    };
    assert!(touched.iter().any(named), "{}", error.chain());

    // Only on request: the groups that the missing object does not touch.
    let groups = KeyGroupSet::from_ranges(touched.iter().flat_map(|segment| segment.groups.ranges().iter().copied()));
    let whole = KeyGroupSet::all(128).difference(&groups);
    assert!(whole.len() >= 100, "{whole}");
    let other = Gate::new();
    let target = alluvium_testkit::store(&other.objects());
    let options = RestoreOptions::default().with(|it| {
        it.parallelism = None;
        it.groups = Some(whole.clone());
    });
    offline::restore(&store, &checkpoint.manifest, &target, &options, &|_, _| {}).await?;
    let group = |key: &[u8]| job.job.partitioner().locate(key, 0, 128).group;
    let expected: State =
        job.expected.iter().filter(|(key, _)| whole.contains(group(key))).map(|(k, v)| (k.clone(), *v)).collect();
    Counting::open(&other.objects(), 1, JobSettings::default(), RestoreFrom::Newest, expected).await?;
    Ok(())
}

/// A job of one subtask with a value whose time to live is ten seconds.
async fn short_lived(store: Store) -> Result<(Job, Task<LogBackend>, ValueState<u64, Fixed>)> {
    let operator = OperatorSpec::new(COUNT, "count", 1);
    let mut job = JobBuilder::new(store).settings(small()).operator(operator).open().await?;
    let mut seat = job.take_seats().remove(0);
    let ttl = TtlConfig::new(Duration::from_secs(10));
    let value = seat.tables().value(TableOptions::new("value").ttl(ttl), Fixed)?;
    let task = seat.restore(LogBackend::new).await?;
    Ok((job, task, value))
}

#[test]
pub(crate) fn f12_a_clock_that_went_back_over_a_restart_revives_nothing() {
    let rig = Rig::new();
    let store = rig.store(0);
    rig.on(0, async move {
        let runtime = store.runtime().clone();
        let (job, mut task, value) = short_lived(store).await.unwrap();
        task.state().set_key(b"key").unwrap();
        value.put(task.state(), &7).unwrap();
        for _ in 0..2 {
            let epoch = job.trigger().unwrap().unwrap();
            task.barrier(epoch, Timestamp::MIN, Vec::new()).unwrap();
            job.wait(epoch).await.unwrap().unwrap();
            runtime.sleep(Duration::from_secs(60)).await;
            task.state().advance(Timestamp::MIN, runtime.now());
        }
        task.state().set_key(b"key").unwrap();
        assert_eq!(value.read(task.state()).unwrap(), None);
    });
    rig.sim.skew_clock(1, -3_600_000);
    let store = rig.store(1);
    rig.on(1, async move {
        let (_job, mut task, value) = short_lived(store).await.unwrap();
        task.state().set_key(b"key").unwrap();
        assert_eq!(value.read(task.state()).unwrap(), None, "the clock has gone back by an hour");
    });
}
