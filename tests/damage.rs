//! Every byte of a small job's objects flipped, every object cut at every length: `verify` finds the damage, and a
//! restore either fails with the object's name or is exact. Never silently an older checkpoint, never a panic.

use std::collections::BTreeMap;
use std::sync::Arc;

use alluvium::backend::{Fold, Op, RowBatch, Rules};
use alluvium::internals::checkpoint::restore;
use alluvium::internals::rescale::OperatorPlan;
use alluvium::manifest::INLINE_OPAQUE_BYTES;
use alluvium::offline::{self, VerifyLevel};
use alluvium::{
    Error, ErrorKind, JobSettings, ManifestLog, Opaque, OpaqueContent, OpaqueRole, Redistribution, RestoreFrom, Result,
    RetentionPolicy, Seq, Store,
};
use alluvium_testkit::{COUNT, Counting, Gate};
use bytes::Bytes;

type State = BTreeMap<Vec<u8>, u64>;

/// One in this many cases also restores every checkpoint by its number.
const NUMBERS_EVERY: usize = 3;

/// One in this many cases also restarts a real job.
const RESTART_EVERY: usize = 29;

/// A small job: its stored objects, the states of its live checkpoints, and the keys of all but void objects.
struct Scene {
    objects: BTreeMap<String, Bytes>,
    states: BTreeMap<Seq, State>,
    newest: Seq,
    needed: Vec<String>,
}

fn settings() -> JobSettings {
    let retention = RetentionPolicy::default().with(|it| it.checkpoints = 2);
    JobSettings::default().with(|it| {
        it.max_parallelism = 8;
        it.retention = retention;
    })
}

/// Runs a job of two attempts with incremental checkpoints and an opaque of this length, which is in a pack if large.
async fn scene(opaque_bytes: usize) -> Result<Scene> {
    let gate = Gate::new();
    let first = RestoreFrom::Newest;
    let mut job = Counting::open(&gate.objects(), 2, settings(), first, State::new()).await?;
    let mut states = BTreeMap::new();
    for round in 0..3u32 {
        if round == 1 {
            job = Counting::open(&gate.objects(), 3, settings(), RestoreFrom::Newest, job.expected.clone()).await?;
        }
        job.add(round * 7..round * 7 + 20)?;
        let epoch = job.barrier_with(|at| opaques(at, opaque_bytes))?;
        let id = job.job.wait(epoch).await?.unwrap();
        states.insert(id.seq, job.expected.clone());
    }
    let chain = ManifestLog::load(&alluvium_testkit::store(&gate.objects())).await?;
    let live: Vec<Seq> = chain.restorable().iter().map(|manifest| manifest.id.seq).collect();
    states.retain(|seq, _| live.contains(seq));
    assert_eq!(states.len(), 2);
    let objects = gate.dump().await;
    let void: Vec<String> = chain
        .stored()
        .keys()
        .filter(|seq| !live.contains(seq))
        .map(|seq| format!("job/manifest/{:020}", seq.0))
        .collect();
    let needed: Vec<String> = objects.keys().filter(|key| !void.contains(key)).cloned().collect();
    for class in ["attempt", "manifest", "data"] {
        let count = needed.iter().filter(|key| key.contains(class)).count();
        assert!(count >= 2, "{count} objects of class {class}");
    }
    Ok(Scene { newest: chain.end(), objects, states, needed })
}

fn opaques(at: usize, bytes: usize) -> Vec<Opaque> {
    let position = Opaque {
        role: OpaqueRole::Source,
        name: "position".into(),
        redistribution: Redistribution::None,
        channel: None,
        item_offsets: Vec::new(),
        content: OpaqueContent::Inline(Bytes::from(vec![7; bytes])),
    };
    if at == 0 { vec![position] } else { Vec::new() }
}

impl Scene {
    /// Returns a store with the scene's objects, one of them replaced.
    async fn with(&self, key: &str, bytes: Bytes) -> Arc<Gate> {
        let gate = Gate::new();
        for (other, whole) in &self.objects {
            let bytes = if other == key { bytes.clone() } else { whole.clone() };
            gate.damage(other, Some(bytes)).await;
        }
        gate
    }

    /// Checks `verify` and restores on a store with the damaged object `key`; `case` chooses the number of restores.
    async fn check(&self, gate: &Arc<Gate>, key: &str, what: &str, case: usize) {
        let store = alluvium_testkit::store(&gate.objects());
        let name = key.trim_start_matches("job/");
        let chain = ManifestLog::load(&store).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        let report = offline::verify(&store, &chain, VerifyLevel::Full, &|_, _| {}).await;
        let report = report.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert!(!report.damaged.is_empty(), "{what}: not detected");
        assert!(report.damaged.iter().all(|damage| damage.object == name), "{what}: {:?}", report.damaged);
        let check = |seq: Seq, found: Result<State>| {
            let whole = report.restorable.contains(&seq);
            assert!(!whole || found.is_ok(), "{what}: checkpoint {seq} is called restorable: {found:?}");
            match found {
                Ok(found) => assert_eq!(found, self.states[&seq], "{what}: checkpoint {seq}"),
                Err(error) => assert_named(&error, name, what),
            }
        };
        check(self.newest, restored(&store, RestoreFrom::Newest).await);
        if case.is_multiple_of(NUMBERS_EVERY) {
            for &seq in self.states.keys() {
                check(seq, restored(&store, RestoreFrom::Checkpoint(seq)).await);
            }
        }
        if case.is_multiple_of(RESTART_EVERY) {
            let expected = self.states[&self.newest].clone();
            if let Err(error) = Counting::open(&gate.objects(), 2, settings(), RestoreFrom::Newest, expected).await {
                assert_named(&error, name, what);
            }
        }
    }
}

fn assert_named(error: &Error, name: &str, what: &str) {
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error:?}");
    let name = name.trim_start_matches("data/");
    assert!(error.chain().contains(name), "{what}: {} does not name {name}", error.chain());
}

/// Restores a checkpoint at another parallelism, as a job does; returns its state.
async fn restored(store: &Store, from: RestoreFrom) -> Result<State> {
    let stored = ManifestLog::load(store).await?.resolve(store, from).await?.expect("the job has checkpoints");
    let manifest = restore::resolve(store, stored.manifest).await?;
    let mut state = State::new();
    let mut batch = RowBatch::new();
    for share in OperatorPlan::new(&manifest, COUNT, 2)?.shares {
        let rows = restore::fetch(store, &share.segments).await?;
        for group in share.groups.iter() {
            batch.clear();
            rows.append_group(group, &mut batch)?;
            batch.fold(Fold::Base, &Rules::none()).unwrap();
            state.extend(batch.iter().map(|row| {
                let Op::Put(value) = row.op else { panic!("counts are puts") };
                (row.key.key.unwrap().to_vec(), u64::from_le_bytes(value.try_into().unwrap()))
            }));
        }
    }
    Ok(state)
}

/// Flips one bit in each `step`th byte of the objects whose key contains `class`.
async fn flip(scene: &Scene, class: &str, step: usize) {
    for key in scene.needed.iter().filter(|key| key.contains(class)) {
        let whole = &scene.objects[key];
        for at in (0..whole.len()).step_by(step) {
            let mut bytes = whole.to_vec();
            bytes[at] ^= 1 << (at % 8);
            let gate = scene.with(key, bytes.into()).await;
            scene.check(&gate, key, &format!("flip of byte {at} of {key}"), at).await;
        }
    }
}

/// Cuts the objects whose key contains `class` at each `step`th length.
async fn cut(scene: &Scene, class: &str, step: usize) {
    for key in scene.needed.iter().filter(|key| key.contains(class)) {
        let whole = &scene.objects[key];
        for length in (0..whole.len()).step_by(step) {
            let gate = scene.with(key, whole.slice(..length)).await;
            let what = format!("{key} cut to {length} bytes");
            scene.check(&gate, key, &what, length).await;
        }
    }
}

#[tokio::test]
async fn a24_every_flip_in_data_is_found() -> Result<()> {
    flip(&scene(3).await?, "/data/", 1).await;
    Ok(())
}

#[tokio::test]
async fn a24_every_flip_in_a_manifest_is_found() -> Result<()> {
    flip(&scene(3).await?, "/manifest/", 1).await;
    Ok(())
}

#[tokio::test]
async fn a24_every_flip_in_a_marker_is_found() -> Result<()> {
    flip(&scene(3).await?, "/attempt/", 1).await;
    Ok(())
}

#[tokio::test]
async fn a24_every_cut_of_data_is_found() -> Result<()> {
    cut(&scene(3).await?, "/data/", 1).await;
    Ok(())
}

#[tokio::test]
async fn a24_every_cut_of_a_manifest_is_found() -> Result<()> {
    cut(&scene(3).await?, "/manifest/", 1).await;
    Ok(())
}

#[tokio::test]
async fn a24_every_cut_of_a_marker_is_found() -> Result<()> {
    cut(&scene(3).await?, "/attempt/", 1).await;
    Ok(())
}

#[tokio::test]
async fn damage_in_a_stored_opaque_is_found() -> Result<()> {
    let scene = scene(INLINE_OPAQUE_BYTES + 1).await?;
    flip(&scene, "/data/", 211).await;
    cut(&scene, "/data/", 211).await;
    Ok(())
}

#[tokio::test]
async fn undamaged_objects_verify_and_restore() -> Result<()> {
    for opaque_bytes in [3, INLINE_OPAQUE_BYTES + 1] {
        let scene = scene(opaque_bytes).await?;
        let gate = scene.with("", Bytes::new()).await;
        let store = alluvium_testkit::store(&gate.objects());
        let report = offline::verify(&store, &ManifestLog::load(&store).await?, VerifyLevel::Full, &|_, _| {}).await?;
        assert_eq!((report.damaged.as_slice(), report.restorable.len()), ([].as_slice(), 2));
        assert_eq!(restored(&store, RestoreFrom::Newest).await?, scene.states[&scene.newest]);
        let bytes: usize = scene.objects.values().map(Bytes::len).sum();
        assert!(bytes < 100_000, "{bytes} bytes are too many to damage each");
    }
    Ok(())
}
