//! The whole job over a store in memory: incremental checkpoints, aborts, restore, rescale, retention, limits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use alluvium::internals::store::Key;
use alluvium::interval::{Bound, FailurePrior, Goals, IntervalSettings};
use alluvium::manifest::{Manifest, ObjectId};
use alluvium::offline::{self, VerifyLevel};
use alluvium::{
    AdaptiveInterval, Attempt, Barrier, CheckpointPolicy, Epoch, ErrorKind, JobSettings, ManifestLog, Opaque,
    OpaqueContent, OpaqueRole, PipelineSettings, Redistribution, RestoreFrom, RestoreMode, Result, Seq, Strategy,
    Timestamp,
};
use alluvium_testkit::{Counting, Door, Gate};
use bytes::Bytes;

/// Returns all manifests in the store, by seq.
async fn manifests(gate: &Gate) -> BTreeMap<Seq, Manifest> {
    let dump = gate.dump().await;
    let found =
        dump.into_iter().filter_map(|(key, bytes)| Some((key.strip_prefix("job/manifest/")?.to_owned(), bytes)));
    found
        .map(|(seq, bytes)| {
            let seq = Seq(seq.parse().unwrap());
            (seq, Manifest::decode(&bytes, seq).unwrap().0)
        })
        .collect()
}

fn settings(strategy: Strategy) -> JobSettings {
    JobSettings::default().with(|it| it.strategy = strategy)
}

#[tokio::test(flavor = "multi_thread")]
async fn restores_exactly_at_any_parallelism() -> Result<()> {
    for strategy in [Strategy::Full, Strategy::Incremental] {
        let gate = Gate::new();
        let objects = gate.objects();
        let mut job = Counting::open(&objects, 3, settings(strategy), RestoreFrom::Newest, BTreeMap::new()).await?;
        for (round, parallelism) in [1, 5, 2, 128, 7, 1].into_iter().enumerate() {
            let from = u32::try_from(round).unwrap() * 300;
            job.add(from..from + 700)?;
            assert!(job.checkpoint().await?.is_some());
            job.add(from..from + 20)?;
            assert!(job.checkpoint().await?.is_some());
            job = job.reopen(&objects, parallelism).await;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_reads_in_parts_of_at_most_restore_bytes() -> Result<()> {
    let gate = Gate::new();
    let mut job = Counting::fresh(&gate.objects(), 1).await;
    job.add(0..200_000)?;
    job.checkpoint().await?;
    job.add(0..100_000)?;
    job.checkpoint().await?;
    let mut reads = Vec::new();
    for restore_bytes in [1, 400_000, JobSettings::default().restore_bytes] {
        gate.take_calls();
        let settings = JobSettings::default().with(|it| {
            it.restore_bytes = restore_bytes;
            it.restore = RestoreMode::Eager;
        });
        Counting::open(&gate.objects(), 1, settings, RestoreFrom::Newest, job.expected.clone()).await?;
        let is_data_read = |call: &String| call.starts_with("get") && call.contains("/data/");
        reads.push(gate.take_calls().iter().filter(|call| is_data_read(call)).count());
    }
    // Two reads for each of two segments: its index, and all its blocks together.
    assert_eq!(reads[2], 4);
    assert!(reads[0] > reads[1] && reads[1] > reads[2], "{reads:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn f17_a_group_larger_than_a_restore_may_hold_is_merged_as_it_is_read() -> Result<()> {
    let gate = Gate::new();
    let settings = JobSettings::default().with(|it| it.max_parallelism = 2);
    let mut job = Counting::open(&gate.objects(), 1, settings.clone(), RestoreFrom::Newest, BTreeMap::new()).await?;
    for round in 0..4 {
        job.add(round * 5_000..40_000 - round * 5_000)?;
        job.checkpoint().await?;
    }
    let mut reads = Vec::new();
    for restore_bytes in [1, 150_000, JobSettings::default().restore_bytes] {
        gate.take_calls();
        let settings = settings.clone().with(|it| {
            it.restore_bytes = restore_bytes;
            it.restore = RestoreMode::Eager;
        });
        Counting::open(&gate.objects(), 1, settings, RestoreFrom::Newest, job.expected.clone()).await?;
        let is_data_read = |call: &String| call.starts_with("get") && call.contains("/data/");
        reads.push(gate.take_calls().iter().filter(|call| is_data_read(call)).count());
    }
    // The three limits read block by block, a few blocks at a time, and all adjacent blocks at once.
    assert!(reads[0] > 2 * reads[1] && reads[1] > reads[2], "{reads:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_has_at_least_one_segment() -> Result<()> {
    let gate = Gate::new();
    let objects = gate.objects();
    let pipeline = PipelineSettings::default().with(|it| it.pack_bytes = 1);
    let settings = JobSettings::default().with(|it| it.pipeline = pipeline);
    let mut job = Counting::open(&objects, 4, settings, RestoreFrom::Newest, BTreeMap::new()).await?;
    job.add(0..100)?;
    assert!(job.checkpoint().await?.is_some());
    let packs = gate.dump().await.into_keys().filter(|key| key.starts_with("job/data/")).count();
    assert_eq!(packs, 4, "one for each subtask");
    job.reopen(&objects, 2).await;
    Ok(())
}

/// Returns the lengths of the data objects.
async fn data_lengths(gate: &Gate) -> Vec<usize> {
    let dump = gate.dump().await.into_iter();
    dump.filter(|(key, _)| key.starts_with("job/data/")).map(|(_, bytes)| bytes.len()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn d22_whatever_is_uploaded_is_divided() -> Result<()> {
    let gate = Gate::new();
    let objects = gate.objects();
    // The limits for segments and packs may be exceeded by one group and by the pack's own bytes.
    let pipeline = PipelineSettings::default().with(|it| {
        it.segment_bytes = 20_000;
        it.pack_bytes = 30_000;
    });
    let settings = JobSettings::default().with(|it| it.pipeline = pipeline);
    let mut job = Counting::open(&objects, 2, settings.clone(), RestoreFrom::Newest, BTreeMap::new()).await?;
    for round in 1..=12 {
        job.add(0..40_000)?;
        assert!(job.checkpoint().await?.is_some(), "round {round}");
    }
    let lengths = data_lengths(&gate).await;
    let longest = lengths.iter().max().unwrap();
    assert!(lengths.len() > 20 && *longest <= 32_000, "{} objects, the longest has {longest} bytes", lengths.len());
    let job = Counting::open(&objects, 3, settings, RestoreFrom::Newest, job.expected.clone()).await?;
    job.reopen(&objects, 1).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn opaques_are_packed_within_pack_bytes_and_fetched_concurrently() -> Result<()> {
    let gate = Gate::new();
    let objects = gate.objects();
    let pipeline = PipelineSettings::default().with(|it| it.pack_bytes = 250_000);
    let settings = JobSettings::default().with(|it| it.pipeline = pipeline);
    let mut job = Counting::open(&objects, 6, settings, RestoreFrom::Newest, BTreeMap::new()).await?;
    let large = |name: &str, bytes| opaque(name, Redistribution::None, vec![7u8; bytes], vec![]);
    let epoch =
        job.barrier_with(|at| vec![large("a", 100_000), large("b", if at == 2 { 400_000 } else { 100_000 })])?;
    assert!(job.job.wait(epoch).await?.is_some());
    let mut lengths = data_lengths(&gate).await;
    lengths.sort_unstable();
    assert!(lengths.len() == 7 && lengths[5] <= 250_000 && lengths[6] > 400_000, "{lengths:?}");
    // No read is answered, so one for each pack must be in flight at once.
    let manifest = manifests(&gate).await.into_values().last().unwrap();
    gate.set(Door::Silent);
    gate.take_calls();
    let store = alluvium_testkit::store(&objects);
    let mut resolving = std::pin::pin!(alluvium::internals::checkpoint::restore::resolve(&store, manifest));
    assert!(futures_util::poll!(&mut resolving).is_pending());
    let calls = gate.take_calls();
    assert_eq!(calls.iter().filter(|call| call.starts_with("get job/data/")).count(), 7, "{calls:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn b21_one_subtask_that_never_comes_leaves_no_trail_in_the_others() -> Result<()> {
    let gate = Gate::new();
    let checkpoints = CheckpointPolicy::default().with(|it| it.timeout = Duration::from_millis(20));
    let settings = JobSettings::default().with(|it| it.checkpoints = checkpoints);
    let mut job = Counting::open(&gate.objects(), 2, settings, RestoreFrom::Newest, BTreeMap::new()).await?;
    job.add(0..20_000)?;
    while job.checkpoint().await?.is_none() {}
    let alone = job.job.budget().held_bytes();
    let mut epochs = 0;
    while epochs < 12 {
        job.add(0..20_000)?;
        let epoch = job.job.trigger_when_possible().await?;
        job.tasks[0].barrier(epoch, Timestamp::MIN, vec![])?;
        assert_eq!(job.job.wait(epoch).await?, None);
        epochs += 1;
    }
    // The sealed rows of one epoch take more than 200 KB; background merging keeps those of all epochs below that.
    let mut polls = 0;
    while job.job.budget().held_bytes() > alone * 2 && polls < 200_000 {
        tokio::task::yield_now().await;
        polls += 1;
    }
    let held = job.job.budget().held_bytes();
    assert!(held <= alone * 2, "{held} bytes after {epochs} epochs, {alone} before");
    while job.checkpoint().await?.is_none() {}
    job.reopen(&gate.objects(), 3).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn uncommitted_changes_are_not_restored() -> Result<()> {
    let gate = Gate::new();
    let mut job = Counting::fresh(&gate.objects(), 2).await;
    job.add(0..100)?;
    job.checkpoint().await?;
    let committed = job.expected.clone();
    job.add(50..200)?;
    job.expected = committed;
    job.reopen(&gate.objects(), 4).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_steady_checkpoint_costs_two_puts_and_a_get() -> Result<()> {
    let gate = Gate::new();
    let mut job = Counting::fresh(&gate.objects(), 8).await;
    job.add(0..1000)?;
    job.checkpoint().await?;
    for round in 0..2 {
        gate.take_calls();
        job.add(0..100)?;
        job.checkpoint().await?;
        let calls = gate.take_calls();
        let count = |verb: &str| calls.iter().filter(|call| call.starts_with(verb)).count();
        assert_eq!((count("put"), count("get"), count("list")), (2, 1, 0), "round {round}: {calls:#?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_an_aborted_epoch_are_in_the_next_manifest() -> Result<()> {
    let gate = Gate::new();
    let mut job = Counting::fresh(&gate.objects(), 2).await;
    job.add(0..100)?;
    job.checkpoint().await?;
    for round in 1..=4 {
        gate.set(Door::Shut);
        job.add(round * 10..round * 30)?;
        assert_eq!(job.checkpoint().await?, None);
        gate.set(Door::Open);
        if round % 2 == 0 {
            // Without new changes, the next checkpoint must still contain the aborted ones.
            assert!(job.checkpoint().await?.is_some());
            job = job.reopen(&gate.objects(), 1 + round).await;
        }
    }
    assert_eq!(job.job.progress().aborted, 0, "a new attempt counts from 0");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn d14_a_store_that_is_down_costs_one_copy_then_the_limit_and_is_survived() -> Result<()> {
    let gate = Gate::new();
    let limited = JobSettings::default().with(|it| it.memory_bytes = 24 << 20);
    let mut job = Counting::open(&gate.objects(), 2, limited, RestoreFrom::Newest, BTreeMap::new()).await?;
    job.add(0..20_000)?;
    job.checkpoint().await?;
    let live = job.job.budget().held_bytes();
    gate.set(Door::Shut);
    let mut held = 0;
    for _ in 0..100 {
        job.add(0..20_000)?;
        assert_eq!(job.checkpoint().await?, None);
        held = held.max(job.job.budget().held_bytes());
    }
    // Live rows, the epoch just sealed, and one encoded copy of each dirty row.
    assert!(held <= 3 * live, "{held} bytes held, {live} live");
    let mut key = 20_000;
    let limit = loop {
        match job.add(key..key + 1) {
            Ok(()) => key += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(limit.kind(), ErrorKind::Limit);
    gate.set(Door::Open);
    assert!(job.checkpoint().await?.is_some());
    job.reopen(&gate.objects(), 3).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn chains_stay_bounded_and_dropped_state_is_collected() -> Result<()> {
    let gate = Gate::new();
    let mut job = Counting::fresh(&gate.objects(), 2).await;
    job.add(0..2000)?;
    for round in 0..120u32 {
        job.add(round..round + 5)?;
        assert!(job.checkpoint().await?.is_some());
        let manifests = manifests(&gate).await;
        let newest = manifests.values().next_back().unwrap();
        for subtask in newest.operators.iter().flat_map(|o| o.inline_subtasks().unwrap()) {
            for group in subtask.groups.iter() {
                let chain = subtask.segments.iter().filter(|segment| segment.groups.contains(group)).count();
                assert!(chain <= 32, "chain of {chain} segments in round {round}");
            }
        }
    }
    let manifests = manifests(&gate).await;
    // The newest, the retained, and the void ones kept because listings may lag.
    assert!(manifests.len() <= 72, "{:?}", manifests.keys());
    // Readers may still need what the last two commits dropped, and the last deletions may be under way.
    let objects = |manifest: &Manifest| manifest.objects.iter().map(|object| object.id).collect::<Vec<_>>();
    let reachable: BTreeSet<_> = manifests.values().rev().take(3 + 2).flat_map(objects).collect();
    assert!(reachable.len() <= 2 * 32 + 5, "two chains and five checkpoints refer to {} objects", reachable.len());
    let kept: BTreeSet<_> = reachable.into_iter().map(|id| format!("job/{}", Key::Data(id))).collect();
    let collected = async {
        while gate.dump().await.into_keys().any(|key| key.contains("/data/") && !kept.contains(&key)) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), collected).await.expect("dropped state is deleted");
    job.reopen(&gate.objects(), 5).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_of_an_ended_attempt_are_swept_by_the_next() -> Result<()> {
    let gate = Gate::new();
    let mut first = Counting::fresh(&gate.objects(), 2).await;
    first.add(0..100)?;
    first.checkpoint().await?;
    let live = gate.dump().await;
    let orphan = |attempt| format!("job/{}", Key::Data(ObjectId { attempt: Attempt(attempt), random: [7; 16] }));
    // Orphans of the ended attempt, and of a future one.
    for attempt in [1, 3] {
        gate.damage(&orphan(attempt), Some(Bytes::from_static(b"half a pack"))).await;
    }
    let _second = first.reopen(&gate.objects(), 2).await;
    while gate.dump().await.contains_key(&orphan(1)) {
        tokio::task::yield_now().await;
    }
    let dump = gate.dump().await;
    assert!(dump.contains_key(&orphan(3)), "objects of attempts that have not ended stay");
    assert!(live.keys().all(|key| dump.contains_key(key)), "live objects stay");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_records_the_heat_of_groups() -> Result<()> {
    let gate = Gate::new();
    let mut job = Counting::fresh(&gate.objects(), 3).await;
    job.add(0..1000)?;
    job.checkpoint().await?;
    for _ in 0..5 {
        job.add(7..8)?;
    }
    job.checkpoint().await?;
    let manifests = manifests(&gate).await;
    let [.., all, one] = manifests.values().collect::<Vec<_>>()[..] else { panic!("two checkpoints") };
    let all = all.heat(alluvium_testkit::COUNT)?;
    assert_eq!(all.iter().map(|heat| heat.dirty_rows).sum::<u64>(), 1000);
    assert_eq!(all.iter().map(|heat| heat.rows).sum::<u64>(), 1000);
    assert!(all.iter().all(|heat| heat.writes == heat.dirty_rows && heat.live_bytes == 12 * heat.rows));
    let group = job.job.partitioner().locate(&7u32.to_be_bytes(), 0, 128).group;
    let before = all.iter().find(|heat| heat.group == group).unwrap();
    let [now] = one.heat(alluvium_testkit::COUNT)?[..] else { panic!("heat of one group") };
    assert_eq!((now.group, now.dirty_rows, now.rows), (group, 1, before.rows));
    // A barrier decays counts by an eighth.
    assert!(now.writes >= 5 && now.writes <= 5 + before.writes && now.reads >= 5, "{now:?} after {before:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn any_retained_checkpoint_can_be_restored() -> Result<()> {
    let gate = Gate::new();
    let mut job = Counting::fresh(&gate.objects(), 2).await;
    let mut states = Vec::new();
    for round in 0..5 {
        job.add(round * 10..round * 10 + 40)?;
        let id = job.checkpoint().await?.unwrap();
        states.push((id.seq, job.expected.clone()));
    }
    for (seq, expected) in states[2..].iter().rev() {
        let from = RestoreFrom::Checkpoint(*seq);
        Counting::open(&gate.objects(), 3, JobSettings::default(), from, expected.clone()).await?;
    }
    let from = RestoreFrom::Checkpoint(states[0].0);
    let gone = Counting::open(&gate.objects(), 3, JobSettings::default(), from, BTreeMap::new()).await;
    assert_eq!(gone.err().map(|error| error.kind()), Some(ErrorKind::NotFound));
    let fresh = Counting::open(&gate.objects(), 3, JobSettings::default(), RestoreFrom::Fresh, BTreeMap::new()).await;
    assert!(fresh.is_ok());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_attempt_fences_the_older() -> Result<()> {
    let gate = Gate::new();
    let mut old = Counting::fresh(&gate.objects(), 2).await;
    old.add(0..100)?;
    old.checkpoint().await?;
    let mut new = old.reopen(&gate.objects(), 3).await;
    old.add(100..200)?;
    let before = gate.dump().await;
    let fenced = match old.barrier() {
        Ok(epoch) => old.job.wait(epoch).await.expect_err("the older attempt must not commit"),
        Err(error) => error,
    };
    assert_eq!(fenced.kind(), ErrorKind::Fenced);
    assert_eq!(old.job.trigger().expect_err("a job stays fenced").kind(), ErrorKind::Fenced);
    for task in &mut old.tasks {
        let barrier = Barrier { attempt: Attempt(1), epoch: Epoch(u64::MAX) };
        let refused = task.barrier(barrier, Timestamp::MIN, Vec::new()).expect_err("tasks of a fenced job are fenced");
        assert_eq!(refused.kind(), ErrorKind::Fenced);
    }
    // The state in memory stays readable and writable.
    old.add(300..310)?;
    assert_eq!(old.content()?, old.expected);
    let after = gate.dump().await;
    assert!(before.keys().all(|key| after.contains_key(key)), "a fenced attempt deletes nothing");
    new.add(0..50)?;
    assert!(new.checkpoint().await?.is_some());
    new.reopen(&gate.objects(), 1).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn b10_a_checkpoint_that_takes_too_long_is_aborted() -> Result<()> {
    let gate = Gate::new();
    let checkpoints = CheckpointPolicy::default().with(|it| it.timeout = Duration::from_millis(50));
    let settings = JobSettings::default().with(|it| it.checkpoints = checkpoints);
    let mut job = Counting::open(&gate.objects(), 2, settings, RestoreFrom::Newest, BTreeMap::new()).await?;
    gate.set(Door::Silent);
    job.add(0..100)?;
    assert_eq!(job.checkpoint().await?, None);
    job.add(50..150)?;
    assert_eq!(job.checkpoint().await?, None);
    gate.set(Door::Open);
    while job.checkpoint().await?.is_none() {}
    job.reopen(&gate.objects(), 2).await;
    Ok(())
}

fn opaque(name: &str, redistribution: Redistribution, bytes: Vec<u8>, item_offsets: Vec<u64>) -> Opaque {
    let content = OpaqueContent::Inline(Bytes::from(bytes));
    Opaque { role: OpaqueRole::Operator, name: name.into(), redistribution, channel: None, item_offsets, content }
}

#[tokio::test(flavor = "multi_thread")]
async fn opaques_are_restored_by_their_redistribution() -> Result<()> {
    let gate = Gate::new();
    let mut job = Counting::fresh(&gate.objects(), 2).await;
    job.add(0..100)?;
    let large = vec![7u8; 100_000];
    let epoch = job.barrier_with(|at| {
        let at = u8::try_from(at).unwrap();
        vec![
            opaque("position", Redistribution::None, vec![at], vec![]),
            opaque("large", Redistribution::Broadcast, large.clone(), vec![]),
            opaque("list", Redistribution::Split, vec![at, 10 + at, 20 + at], vec![0, 1, 2]),
        ]
    })?;
    job.job.wait(epoch).await?;
    drop(job);
    let store = alluvium_testkit::store(&gate.objects());
    let operator = alluvium::OperatorSpec::new(alluvium_testkit::COUNT, "count", 3);
    let mut job = alluvium::JobBuilder::new(store).operator(operator).open().await?;
    let seats = job.take_seats();
    let bytes = |name: &str, at: usize| {
        let found = seats[at].opaques().iter().filter(|opaque| opaque.name == name);
        found.flat_map(|opaque| opaque.items().unwrap().concat()).collect::<Vec<u8>>()
    };
    assert_eq!((bytes("position", 0), bytes("position", 1), bytes("position", 2)), (vec![0], vec![1], vec![]));
    for at in 0..3 {
        assert_eq!(bytes("large", at), large);
    }
    let mut items: Vec<u8> = (0..3).flat_map(|at| bytes("list", at)).collect();
    items.sort_unstable();
    assert_eq!(items, [0, 1, 10, 11, 20, 21]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn subtask_manifests_too_large_for_the_manifest_are_in_the_last_pack() -> Result<()> {
    let gate = Gate::new();
    let settings = JobSettings::default().with(|it| it.max_parallelism = 1024);
    let mut job = Counting::open(&gate.objects(), 1000, settings, RestoreFrom::Newest, BTreeMap::new()).await?;
    let opaque =
        |at: usize| vec![Opaque::new(OpaqueRole::Source, "offsets", vec![u8::try_from(at % 251).unwrap(); 19 << 10])];
    for round in 0..2 {
        job.add(round..round + 2000)?;
        let epoch = job.barrier_with(opaque)?;
        assert!(job.job.wait(epoch).await?.is_some(), "{:?}", job.job.progress().last_decline);
        let calls = gate.take_calls();
        let puts: Vec<_> = calls.iter().filter(|call| call.starts_with("put job/data/")).collect();
        assert_eq!(puts.len(), 1, "{puts:?}");
        // An aborted epoch leaves its state to the next one, slices and all.
        gate.set(Door::ReadOnly);
        job.add(round + 10..round + 20)?;
        let epoch = job.barrier_with(opaque)?;
        assert_eq!(job.job.wait(epoch).await?, None);
        gate.set(Door::Open);
        gate.take_calls();
    }
    let epoch = job.barrier_with(opaque)?;
    assert!(job.job.wait(epoch).await?.is_some());
    let manifest = manifests(&gate).await.into_values().next_back().unwrap();
    assert_eq!(manifest.slices().count(), 1000);
    let store = alluvium_testkit::store(&gate.objects());
    let report = offline::verify(&store, &ManifestLog::load(&store).await?, VerifyLevel::Full, &|_, _| {}).await?;
    assert!(report.damaged.is_empty() && report.restorable.len() == 3, "{report:?}");
    let mut next = job.reopen(&gate.objects(), 3).await;
    // The next manifest is small, and so has its subtask manifests inline again.
    next.add(0..10)?;
    assert!(next.checkpoint().await?.is_some());
    assert_eq!(manifests(&gate).await.into_values().next_back().unwrap().slices().count(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rescale_reads_little_more_than_the_state_once() -> Result<()> {
    let gate = Gate::new();
    let mut job = Counting::fresh(&gate.objects(), 4).await;
    job.add(0..400_000)?;
    job.checkpoint().await?;
    job.add(0..4_000)?;
    let id = job.checkpoint().await?.unwrap();
    let newest = manifests(&gate).await.remove(&id.seq).unwrap();
    let slices: u64 = newest
        .operators
        .iter()
        .flat_map(|operator| operator.inline_subtasks().unwrap())
        .flat_map(|subtask| subtask.segments.iter().map(|segment| segment.length))
        .sum();
    let rescaled = job.reopen(&gate.objects(), 5).await;
    let read = rescaled.job.store().requests().get_bytes;
    assert!(read * 10 <= slices * 11, "read {read} bytes of {slices}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_a_restore_do_not_count_as_a_checkpoints() -> Result<()> {
    let gate = Gate::new();
    let mut job = Counting::fresh(&gate.objects(), 4).await;
    for round in 0..10 {
        job.add(round..round + 100)?;
        job.checkpoint().await?;
    }
    // The goal allows one request per 10 s; the failure prior wants the shortest interval.
    let goals = Goals::default().with(|it| it.requests_per_hour = Some(360.0));
    let failures = FailurePrior { job_mtbf: 1.0, ..FailurePrior::default() };
    let adaptive = AdaptiveInterval::default().with(|it| {
        it.goals = goals;
        it.settings = IntervalSettings::default().with(|it| it.failures = failures);
    });
    let settings = JobSettings::default().with(|it| it.adaptive = Some(adaptive));
    let mut job = Counting::open(&gate.objects(), 4, settings, RestoreFrom::Newest, job.expected.clone()).await?;
    job.add(0..10)?;
    job.checkpoint().await?;
    let reason = job.job.decision().unwrap().reason;
    assert!(matches!(reason.binds, Bound::Requests(_)) && (20.0..60.0).contains(&reason.target_s), "{reason}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_change_uploads_little() -> Result<()> {
    let gate = Gate::new();
    let mut job = Counting::fresh(&gate.objects(), 4).await;
    let value = |key: u32| {
        let text = format!("{:0>50}", key.wrapping_mul(2_654_435_761));
        blake3::hash(&key.to_le_bytes()).as_bytes().repeat(2)[..50].iter().copied().chain(text.into_bytes()).collect()
    };
    let states: Vec<_> =
        job.tasks.iter_mut().map(|task| task.state().value::<Vec<u8>, _>("payload", alluvium::Raw).unwrap()).collect();
    let put = |job: &mut Counting, keys: std::ops::Range<u32>| -> Result<()> {
        for key in keys {
            let bytes = key.to_be_bytes();
            let group = job.job.partitioner().locate(&bytes, 0, 128).group;
            let at = alluvium::owner(128, 4, group) as usize;
            let state = job.tasks[at].state();
            state.set_key(&bytes)?;
            states[at].put(state, &value(key))?;
        }
        Ok(())
    };
    let uploaded = |job: &Counting| job.job.store().requests().put_bytes;
    put(&mut job, 0..100_000)?;
    let start = uploaded(&job);
    job.checkpoint().await?;
    let full = uploaded(&job) - start;
    put(&mut job, 0..1_000)?;
    job.checkpoint().await?;
    let delta = uploaded(&job) - start - full;
    assert!(full > 4_000_000, "the first checkpoint uploaded {full} bytes, less than the state");
    assert!(delta * 1000 <= full * 15, "a change of 1 % uploaded {delta} bytes of {full}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_job_ends_its_background_task() -> Result<()> {
    let gate = Gate::new();
    let mut job = Counting::fresh(&gate.objects(), 2).await;
    job.add(0..10)?;
    job.checkpoint().await?;
    let mut watch = job.job.watch();
    drop(job);
    while watch.changed().await.is_ok() {}
    Ok(())
}
