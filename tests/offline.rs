//! The offline tools on checkpoints of a real job.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use alluvium::backend::SegmentKind;
use alluvium::internals::rescale::OperatorPlan;
use alluvium::internals::store::Key;
use alluvium::manifest::{Hash, ManifestKind, SubtaskEntry};
use alluvium::offline::{self, ChangeKind, DamageKind, Depth, RestoreOptions, VerifyLevel};
use alluvium::schema::Value;
use alluvium::{
    ErrorKind, JobSettings, KeyGroupRange, KeyGroupSet, ManifestLog, Opaque, OpaqueContent, OpaqueRole, Redistribution,
    RestoreFrom, Result, Seq, Store, StoredManifest,
};
use alluvium_testkit::{Counting, Gate};
use bytes::Bytes;

type State = BTreeMap<Vec<u8>, u64>;

/// Ignores progress.
fn silent(_done: u64, _total: u64) {}

/// Runs a job with five checkpoints, of which three are live; returns the job and the state of each checkpoint.
async fn history(gate: &Arc<Gate>) -> Result<(Counting, BTreeMap<Seq, State>)> {
    let mut job = Counting::fresh(&gate.objects(), 3).await;
    let mut states = BTreeMap::new();
    for round in 0..5u32 {
        job.add(round * 100..round * 100 + 300)?;
        let id = job.checkpoint().await?.unwrap();
        states.insert(id.seq, job.expected.clone());
    }
    Ok((job, states))
}

async fn open(store: &Store, id: Option<Seq>) -> Result<StoredManifest> {
    offline::open(store, &mut ManifestLog::load(store).await?, id).await
}

/// Returns the rows of the table `count` in `groups`, in export order.
async fn export(store: &Store, id: Option<Seq>, groups: &KeyGroupSet) -> Result<Vec<(Vec<u8>, u64)>> {
    let checkpoint = open(store, id).await?;
    let mut rows = Vec::new();
    let count = offline::export(store, &checkpoint.manifest, "count", groups, |entry| {
        let (Value::Bytes(key), Value::Unsigned(count)) = (&entry.place.key, &entry.value) else {
            panic!("decoded with other types: {entry:?}");
        };
        rows.push((key.to_vec(), u64::try_from(*count).unwrap()));
        Ok(())
    })
    .await?;
    assert_eq!(count, rows.len() as u64);
    Ok(rows)
}

async fn state(store: &Store, id: Option<Seq>) -> Result<State> {
    Ok(export(store, id, &KeyGroupSet::all(128)).await?.into_iter().collect())
}

async fn verify(store: &Store) -> Result<offline::Report> {
    offline::verify(store, &ManifestLog::load(store).await?, VerifyLevel::Full, &silent).await
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_live_checkpoints() -> Result<()> {
    let gate = Gate::new();
    let (job, states) = history(&gate).await?;
    let store = alluvium_testkit::store(&gate.objects());
    // The claim of another attempt is not a checkpoint.
    job.reopen(&gate.objects(), 2).await;
    let listed = offline::list(&store, &ManifestLog::load(&store).await?).await?;
    assert!(listed.damaged.is_empty());
    let live: Vec<_> = states.keys().copied().skip(2).collect();
    assert_eq!(listed.checkpoints.iter().map(|checkpoint| checkpoint.id).collect::<Vec<_>>(), live);
    let packs = gate.dump().await.into_iter().filter(|(key, _)| key.contains("/data/"));
    let stored: u64 = packs.map(|(_, bytes)| bytes.len() as u64).sum();
    for checkpoint in &listed.checkpoints {
        assert_eq!((checkpoint.kind, checkpoint.parallelism), (ManifestKind::Checkpoint, 3));
        assert_eq!((checkpoint.max_parallelism, checkpoint.attempt.0), (128, 1));
        assert!(checkpoint.records >= states[&checkpoint.id].len() as u64);
        assert!(checkpoint.new_bytes > 0 && checkpoint.total_bytes < stored);
    }
    let last = listed.checkpoints.last().unwrap();
    assert!(last.new_bytes < last.total_bytes, "an incremental checkpoint uploads a part");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_each_live_checkpoint_in_a_fixed_order() -> Result<()> {
    let gate = Gate::new();
    let (mut job, states) = history(&gate).await?;
    let store = alluvium_testkit::store(&gate.objects());
    for (&id, expected) in states.iter().skip(2) {
        assert_eq!(state(&store, Some(id)).await?, *expected);
    }
    let all = export(&store, None, &KeyGroupSet::all(128)).await?;
    let mut parts = Vec::new();
    for range in [(0, 17), (17, 18), (18, 128)] {
        parts.extend(export(&store, None, &KeyGroupRange::new(range.0, range.1).into()).await?);
    }
    assert_eq!(parts, all, "the export is in group order");
    job = job.reopen(&gate.objects(), 7).await;
    job.checkpoint().await?;
    assert_eq!(export(&store, None, &KeyGroupSet::all(128)).await?, all, "the order is independent of parallelism");
    let gone = open(&store, states.keys().next().copied()).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    assert!(gone.message().contains("restorable"), "{gone}");
    let newest = open(&store, None).await?;
    let unknown = offline::find_table(&newest.manifest, "nope").unwrap_err();
    assert!(unknown.message().contains("count.count"), "{unknown}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_unknown_types_are_bytes() -> Result<()> {
    let gate = Gate::new();
    let (_job, states) = history(&gate).await?;
    let store = alluvium_testkit::store(&gate.objects());
    let mut manifest = open(&store, None).await?.manifest;
    manifest.operators[0].tables[0].value.name = "bincode:Secret".into();
    let mut bytes = 0;
    let groups = KeyGroupSet::all(128);
    let rows = offline::export(&store, &manifest, "count.count", &groups, |entry| {
        let Value::Bytes(value) = entry.value else { panic!("{entry:?}") };
        bytes += value.len();
        Ok(())
    })
    .await?;
    assert_eq!(rows, states.values().next_back().unwrap().len() as u64);
    assert_eq!(bytes as u64, rows * 8);
    Ok(())
}

/// Compares two checkpoints, and checks the changes and counts against their states.
async fn diff(store: &Store, (from, old): (Seq, &State), (to, new): (Seq, &State)) -> Result<offline::Diff> {
    let mut expected = BTreeMap::new();
    for key in old.keys().chain(new.keys()) {
        let kind = match (old.get(key), new.get(key)) {
            (None, Some(_)) => ChangeKind::Added,
            (Some(_), None) => ChangeKind::Removed,
            (a, b) if a != b => ChangeKind::Changed,
            _ => continue,
        };
        expected.insert(key.clone(), kind);
    }
    let (from, to) = (open(store, Some(from)).await?, open(store, Some(to)).await?);
    let mut found = BTreeMap::new();
    let diff = offline::diff(store, &from.manifest, &to.manifest, |change| {
        let Value::Bytes(key) = change.place.key else { panic!("{change:?}") };
        assert!(found.insert(key.to_vec(), change.kind).is_none());
        Ok(())
    })
    .await?;
    assert_eq!(found, expected);
    let count = |kind| expected.values().filter(|found| **found == kind).count() as u64;
    let [table] = diff.tables.as_slice() else { panic!("{diff:?}") };
    assert_eq!((table.operator.as_str(), table.table.as_str()), ("count", "count"));
    let counts = (table.added, table.removed, table.changed);
    assert_eq!(counts, (count(ChangeKind::Added), count(ChangeKind::Removed), count(ChangeKind::Changed)));
    assert_eq!(diff.is_empty(), expected.is_empty());
    Ok(diff)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diff_is_that_of_the_states() -> Result<()> {
    let gate = Gate::new();
    let (job, mut states) = history(&gate).await?;
    let store = alluvium_testkit::store(&gate.objects());
    let mut job = job.reopen(&gate.objects(), 5).await;
    job.add(1000..1001)?;
    let id = job.checkpoint().await?.unwrap();
    states.insert(id.seq, job.expected.clone());
    let live: Vec<_> = states.iter().skip(3).map(|(&id, state)| (id, state)).collect();
    for from in &live {
        for to in &live {
            diff(&store, *from, *to).await?;
        }
    }
    let one_key = diff(&store, live[1], live[2]).await?;
    assert_eq!(one_key.compared_groups + one_key.same_groups, 128);
    // One changed group, and those with a new base: at most an eighth of all, and a few more.
    assert!((1..=17 + 5).contains(&one_key.compared_groups), "{one_key:?}");
    let same = diff(&store, live[2], live[2]).await?;
    assert_eq!(same.compared_groups, 0);
    Ok(())
}

fn opaque(name: &str, redistribution: Redistribution, content: Vec<u8>, item_offsets: Vec<u64>) -> Opaque {
    let content = OpaqueContent::Inline(Bytes::from(content));
    Opaque { role: OpaqueRole::Source, name: name.into(), redistribution, channel: None, item_offsets, content }
}

/// Takes a checkpoint with four opaques per subtask: a position, two lists, and one too large for a manifest.
async fn checkpoint_with_opaques(job: &mut Counting) -> Result<()> {
    let epoch = job.barrier_with(|at| {
        let at = u8::try_from(at).unwrap();
        vec![
            opaque("position", Redistribution::None, vec![at], vec![]),
            opaque("list", Redistribution::Split, vec![at, at + 10, at + 20], vec![0, 1, 2]),
            opaque("union", Redistribution::Union, vec![at], vec![]),
            opaque("large", Redistribution::Broadcast, vec![7; 50_000], vec![]),
        ]
    })?;
    job.job.wait(epoch).await?.unwrap();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn inspects_tables_groups_segments_and_opaques() -> Result<()> {
    let gate = Gate::new();
    let (mut job, _) = history(&gate).await?;
    checkpoint_with_opaques(&mut job).await?;
    let store = alluvium_testkit::store(&gate.objects());
    let checkpoint = open(&store, None).await?;
    let inspection = offline::inspect(&store, &checkpoint.manifest, None, Depth::Rows).await?;
    let [operator] = inspection.operators.as_slice() else { panic!("one operator") };
    let [table] = operator.tables.as_slice() else { panic!("one table") };
    let rows = job.expected.len() as u64;
    assert_eq!((table.total().records, table.total().bytes), (rows, rows * 12));
    assert_eq!((table.groups.len(), operator.chains.len()), (128, 128));
    let longest = operator.chains.iter().max().copied().unwrap();
    assert!((2..=5).contains(&longest), "{longest} segments for a group after five increments");
    assert_eq!(inspection.opaques.len(), 12);
    assert!(inspection.opaques.iter().all(|(.., opaque)| matches!(opaque.content, OpaqueContent::Inline(_))));
    assert!(inspection.objects.iter().all(|object| object.used_bytes <= object.bytes));
    assert!(inspection.restore.exact);
    let fast = offline::inspect(&store, &checkpoint.manifest, None, Depth::Manifest).await?;
    assert!(!fast.restore.exact && fast.restore.bytes >= inspection.restore.bytes / 2);
    assert!(fast.operators[0].tables[0].groups.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_plan_equals_the_reads_of_a_rescale() -> Result<()> {
    let gate = Gate::new();
    let mut job = Counting::fresh(&gate.objects(), 4).await;
    job.add(0..60_000)?;
    job.checkpoint().await?;
    job.add(0..500)?;
    job.checkpoint().await?;
    let store = alluvium_testkit::store(&gate.objects());
    let checkpoint = open(&store, None).await?;
    for parallelism in [1, 4, 5] {
        let plan = offline::read_plan(&store, &checkpoint.manifest, parallelism).await?;
        let before = store.requests().get_bytes;
        for share in OperatorPlan::new(&checkpoint.manifest, alluvium_testkit::COUNT, parallelism)?.shares {
            alluvium::internals::checkpoint::restore::fetch(&store, &share.segments).await?;
        }
        assert_eq!(plan.bytes, store.requests().get_bytes - before, "parallelism {parallelism}");
        assert_eq!(plan.subtasks.len(), parallelism as usize);
        assert!(plan.bytes * 10 <= plan.ideal_bytes * 11, "{} of {}", plan.bytes, plan.ideal_bytes);
    }
    let error = offline::read_plan(&store, &checkpoint.manifest, 129).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_savepoint_is_self_contained_and_restorable() -> Result<()> {
    let (gate, other) = (Gate::new(), Gate::new());
    let (mut job, states) = history(&gate).await?;
    checkpoint_with_opaques(&mut job).await?;
    let (store, target) = (alluvium_testkit::store(&gate.objects()), alluvium_testkit::store(&other.objects()));
    let mut chain = ManifestLog::load(&store).await?;
    let (&id, expected) = states.iter().next_back().unwrap();
    let checkpoint = offline::find(&store, &mut chain, Some(id)).await?;
    let before = gate.dump().await;
    let copy = offline::savepoint(&store, &checkpoint, &target, &silent).await?;
    assert_eq!(gate.dump().await, before, "a copy does not change its source");
    assert_eq!(copy.seq, Seq(1));
    let report = verify(&target).await?;
    assert_eq!((report.damaged.len(), report.restorable), (0, vec![Seq(1)]));
    let listed = offline::list(&target, &ManifestLog::load(&target).await?).await?.checkpoints;
    assert_eq!((listed.len(), listed[0].kind), (1, ManifestKind::Savepoint));
    assert_eq!(state(&target, None).await?, *expected);
    let refused = offline::savepoint(&store, &checkpoint, &target, &silent).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config);

    let settings = JobSettings::default();
    let from = RestoreFrom::Newest;
    let mut moved = Counting::open(&other.objects(), 2, settings, from, expected.clone()).await?;
    assert!(moved.job.attempt() > checkpoint.manifest.attempt);
    for round in 0..6 {
        moved.add(round..round + 50)?;
        moved.checkpoint().await?.unwrap();
    }
    moved.reopen(&other.objects(), 3).await;
    assert_eq!(state(&target, Some(Seq(1))).await?, *expected, "savepoints are never collected");
    assert!(verify(&target).await?.damaged.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn copying_damaged_state_fails_and_leaves_no_checkpoint() -> Result<()> {
    let (gate, other) = (Gate::new(), Gate::new());
    history(&gate).await?;
    let (store, target) = (alluvium_testkit::store(&gate.objects()), alluvium_testkit::store(&other.objects()));
    let checkpoint = open(&store, None).await?;
    let key = format!("job/data/{}", checkpoint.manifest.objects.last().unwrap().id);
    let mut bytes = gate.dump().await.remove(&key).unwrap().to_vec();
    bytes[100] ^= 1;
    gate.damage(&key, Some(bytes.into())).await;
    let error = offline::savepoint(&store, &checkpoint, &target, &silent).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.chain().contains(key.trim_start_matches("job/")), "{}", error.chain());
    assert_eq!(ManifestLog::load(&target).await?.end(), Seq(0));
    let again = offline::savepoint(&store, &checkpoint, &target, &silent).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Config, "the remains of a failed copy are not overwritten");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_to_another_store_keeps_the_state_at_any_parallelism() -> Result<()> {
    let gate = Gate::new();
    let (mut job, _) = history(&gate).await?;
    checkpoint_with_opaques(&mut job).await?;
    let store = alluvium_testkit::store(&gate.objects());
    let checkpoint = open(&store, None).await?;
    for parallelism in [None, Some(1), Some(8), Some(128)] {
        let other = Gate::new();
        let target = alluvium_testkit::store(&other.objects());
        let options = RestoreOptions::default().with(|it| {
            it.parallelism = parallelism;
            it.groups = None;
        });
        offline::restore(&store, &checkpoint.manifest, &target, &options, &silent).await?;
        assert!(verify(&target).await?.damaged.is_empty());
        assert_eq!(state(&target, None).await?, job.expected);
        let restored = open(&target, None).await?.manifest;
        assert_eq!(restored.operators[0].parallelism, parallelism.unwrap_or(3));
        assert_eq!((restored.kind, restored.epoch), (ManifestKind::Checkpoint, checkpoint.manifest.epoch));
        let (mut items, mut union) = (Vec::<u8>::new(), Vec::<u8>::new());
        for subtask in restored.operators[0].inline_subtasks()? {
            let of = |name: &str| subtask.opaques.iter().filter(|o| o.name == name).collect::<Vec<_>>();
            of("list").iter().for_each(|list| items.extend(list.items().unwrap().concat()));
            of("union").iter().for_each(|list| union.extend(list.items().unwrap().concat()));
            assert_eq!(of("large")[0].items()?.concat(), vec![7; 50_000]);
        }
        items.sort_unstable();
        assert_eq!(items, [0, 1, 2, 10, 11, 12, 20, 21, 22]);
        assert_eq!(union, [0, 1, 2], "each item is stored once, or the next restore would multiply it");
        let from = RestoreFrom::Newest;
        Counting::open(&other.objects(), 2, JobSettings::default(), from, job.expected.clone()).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_restore_has_only_the_chosen_groups() -> Result<()> {
    let (gate, other) = (Gate::new(), Gate::new());
    let (job, _) = history(&gate).await?;
    let (store, target) = (alluvium_testkit::store(&gate.objects()), alluvium_testkit::store(&other.objects()));
    let groups: KeyGroupSet = KeyGroupRange::new(10, 30).into();
    let expected = export(&store, None, &groups).await?;
    let checkpoint = open(&store, None).await?;
    let options = RestoreOptions::default().with(|it| {
        it.parallelism = Some(2);
        it.groups = Some(groups);
    });
    offline::restore(&store, &checkpoint.manifest, &target, &options, &silent).await?;
    let found = export(&target, None, &KeyGroupSet::all(128)).await?;
    assert_eq!(found, expected);
    assert!(found.len() < job.expected.len());
    let (settings, expected) = (JobSettings::default(), expected.into_iter().collect());
    let mut part = Counting::open(&other.objects(), 1, settings, RestoreFrom::Newest, expected).await?;
    part.add(0..500)?;
    part.checkpoint().await?.unwrap();
    part.reopen(&other.objects(), 3).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_deletes_only_orphans_and_fences_the_job() -> Result<()> {
    let gate = Gate::new();
    let (mut job, states) = history(&gate).await?;
    let store = alluvium_testkit::store(&gate.objects());
    let orphan = format!("job/data/1-{}", "ab".repeat(16));
    gate.damage(&orphan, Some(Bytes::from_static(b"what a dead upload left"))).await;
    let before = gate.dump().await;
    let chain = ManifestLog::load(&store).await?;
    let plan = offline::preview(&store, offline::policy(&chain, None)).await?;
    assert_eq!(plan.deletable.len(), 1, "{plan:?}");
    assert_eq!(gate.dump().await, before, "a preview changes nothing");

    let (attempt, _, swept) = offline::sweep(&store, &chain, None).await?.unwrap();
    assert_eq!((swept.deleted.len(), swept.failed.len(), attempt.0), (1, 0, 2));
    let mut left = before.clone();
    left.remove(&orphan);
    let after = gate.dump().await;
    assert!(left.keys().all(|key| after.contains_key(key)));
    assert!(!after.contains_key(&orphan));
    job.add(0..10)?;
    let fenced = match job.barrier() {
        Ok(epoch) => job.job.wait(epoch).await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(fenced.kind(), ErrorKind::Fenced);
    for (&id, expected) in states.iter().skip(2) {
        assert_eq!(state(&store, Some(id)).await?, *expected);
    }
    let chain = ManifestLog::load(&store).await?;
    offline::sweep(&store, &chain, Some(1)).await?;
    let (&newest, expected) = states.iter().next_back().unwrap();
    assert_eq!(ManifestLog::load(&store).await?.restorable().iter().map(|m| m.id.seq).collect::<Vec<_>>(), [newest]);
    Counting::open(&gate.objects(), 2, JobSettings::default(), RestoreFrom::Newest, expected.clone()).await?;
    assert!(verify(&store).await?.damaged.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_stops_before_the_claim_if_a_manifest_is_damaged() -> Result<()> {
    let gate = Gate::new();
    let (mut job, states) = history(&gate).await?;
    let store = alluvium_testkit::store(&gate.objects());
    let seq = states.keys().nth(3).unwrap();
    gate.damage(&format!("job/manifest/{:020}", seq.0), Some(Bytes::from_static(b"not a manifest"))).await;
    let before = gate.dump().await;
    let chain = ManifestLog::load(&store).await?;
    let error = offline::sweep(&store, &chain, Some(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(gate.dump().await, before);
    job.add(0..10)?;
    assert!(job.checkpoint().await?.is_some(), "the job is not fenced");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_verify_level_finds_its_kinds_of_damage() -> Result<()> {
    let gate = Gate::new();
    let (_job, states) = history(&gate).await?;
    let store = alluvium_testkit::store(&gate.objects());
    let newest = *states.keys().next_back().unwrap();
    let segment =
        open(&store, None).await?.manifest.operators[0].inline_subtasks()?[0].segments.last().unwrap().clone();
    let key = format!("job/data/{}", segment.object);
    let bytes = gate.dump().await.remove(&key).unwrap();
    let chain = ManifestLog::load(&store).await?;
    let found = async |level| {
        let report = offline::verify(&store, &chain, level, &silent).await?;
        let kinds: Vec<_> = report.damaged.iter().map(|damage| damage.kind).collect();
        let affected = report.damaged.iter().all(|damage| damage.checkpoints.contains(&newest));
        assert_eq!(report.restorable.contains(&newest), kinds.is_empty() || !affected, "{report:?}");
        Ok::<_, alluvium::Error>(kinds)
    };
    let sampled = VerifyLevel::Sampled { seed: 1 };
    for level in [VerifyLevel::Manifest, sampled, VerifyLevel::Full] {
        assert_eq!(found(level).await?, []);
    }
    gate.damage(&key, None).await;
    for level in [VerifyLevel::Manifest, sampled, VerifyLevel::Full] {
        assert_eq!(found(level).await?, [DamageKind::Missing]);
    }
    gate.damage(&key, Some(bytes.slice(..bytes.len() - 1))).await;
    for level in [VerifyLevel::Manifest, sampled] {
        assert_eq!(found(level).await?, [DamageKind::Length]);
    }
    let at = usize::try_from(segment.offset).unwrap() + 20;
    let mut flipped = bytes.to_vec();
    flipped[at] ^= 4;
    gate.damage(&key, Some(flipped.into())).await;
    assert_eq!(found(VerifyLevel::Manifest).await?, []);
    for level in [sampled, VerifyLevel::Full] {
        assert_eq!(found(level).await?, [DamageKind::Block], "small segments have one block");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_calls_no_checkpoint_restorable_that_a_restore_refuses() -> Result<()> {
    let gate = Gate::new();
    let (job, states) = history(&gate).await?;
    drop(job);
    let newest = *states.last_key_value().unwrap().0;
    let store = alluvium_testkit::store(&gate.objects());
    let StoredManifest { id, mut manifest, .. } = open(&store, None).await?;
    let objects = gate.dump().await;
    for entry in manifest.operators.iter_mut().flat_map(|operator| &mut operator.subtasks) {
        let SubtaskEntry::Inline(subtask) = entry else { panic!("inline") };
        for segment in &mut subtask.segments {
            // An intact segment, but in another engine's format.
            let object = &objects[&format!("job/{}", Key::Data(segment.object))];
            let [start, length] = [segment.offset, segment.length].map(|at| usize::try_from(at).unwrap());
            segment.kind = SegmentKind::Foreign;
            (segment.index_offset, segment.index_length) = (segment.length, 0);
            segment.index_hash = Hash::of(&object[start..start + length]);
        }
    }
    gate.damage(&format!("job/{}", Key::Manifest(id.seq)), Some(manifest.encode(id.put_id)?)).await;
    let report = verify(&store).await?;
    assert!(!report.restorable.contains(&newest) && !report.restorable.is_empty(), "{report:?}");
    assert!(report.damaged.iter().all(|damage| damage.checkpoints == [newest].into()), "{report:?}");
    let opened = Counting::open_on(store, 1, JobSettings::default(), RestoreFrom::Newest).await;
    assert_eq!(opened.err().map(|error| error.kind()), Some(ErrorKind::Version));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn f06_an_unreadable_newest_manifest_hides_no_other_checkpoint() -> Result<()> {
    let gate = Gate::new();
    let (_job, states) = history(&gate).await?;
    let store = alluvium_testkit::store(&gate.objects());
    let live: Vec<_> = states.iter().skip(2).collect();
    let newest = *live[2].0;
    gate.damage(&format!("job/manifest/{:020}", newest.0), Some(Bytes::new())).await;
    let report = verify(&store).await?;
    let damage: Vec<_> = report.damaged.iter().map(|damage| (damage.kind, damage.checkpoints.len())).collect();
    assert_eq!(damage, [(DamageKind::Manifest, 1)]);
    assert!(report.restorable.contains(live[0].0) && report.restorable.contains(live[1].0));
    assert!(!report.restorable.contains(&newest));
    let error = open(&store, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "never silently an older checkpoint");
    assert_eq!(state(&store, Some(*live[1].0)).await?, *live[1].1, "the older checkpoint can be chosen explicitly");
    let listed = offline::list(&store, &ManifestLog::load(&store).await?).await?;
    assert_eq!(listed.damaged.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [newest]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_ends_at_its_total() -> Result<()> {
    let gate = Gate::new();
    history(&gate).await?;
    let store = alluvium_testkit::store(&gate.objects());
    let seen = Mutex::new(Vec::new());
    let watch = |done: u64, total: u64| seen.lock().unwrap().push((done, total));
    offline::verify(&store, &ManifestLog::load(&store).await?, VerifyLevel::Full, &watch).await?;
    let seen = seen.into_inner().unwrap();
    assert!(seen.is_sorted() && seen.len() > 2);
    assert!(seen.last().is_some_and(|(done, total)| done == total && *total > 0), "{seen:?}");
    Ok(())
}
