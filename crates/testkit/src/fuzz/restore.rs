//! A job's folder, damaged in any way: a restore returns exactly the committed state, or an error.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use alluvium::manifest::INLINE_OPAQUE_BYTES;
use alluvium::offline::{self, Depth, RestoreOptions, TableInspection, VerifyLevel};
use alluvium::schema::Value;
use alluvium::{
    Error, ErrorKind, JobSettings, KeyGroupSet, MacKey, MacKeys, ManifestLog, Opaque, OpaqueRole, RestoreFrom, Result,
    RetentionPolicy, Seq, Store, StoredManifest, Utf8,
};
use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;

use super::seal;
use super::world::{self, Objects};
use crate::counting::Counting;

type State = BTreeMap<Vec<u8>, u64>;

/// Damage to the objects; numbers are taken modulo the valid range.
#[derive(Debug, Arbitrary)]
enum Damage {
    Flip {
        object: u8,
        at: u16,
        bits: u8,
    },
    Cut {
        object: u8,
        length: u16,
    },
    Insert {
        object: u8,
        at: u16,
        bytes: Vec<u8>,
    },
    /// Copies bytes of one object over another's.
    Move {
        from: u8,
        to: u8,
        start: u16,
        length: u8,
        at: u16,
    },
    Swap {
        one: u8,
        other: u8,
    },
    /// Copies an object to another's name.
    Copy {
        from: u8,
        to: u8,
    },
    Remove {
        object: u8,
    },
    /// Copies an object to an unused name.
    Add {
        from: u8,
        class: u8,
        number: u8,
    },
    /// Corrects the checksums: the writer is hostile but has no key.
    Seal {
        object: u8,
    },
}

#[derive(Debug, Arbitrary)]
struct Case {
    signed: bool,
    /// Selects the checkpoint to restore and the copying tool.
    from: u8,
    copy: bool,
    parallelism: u8,
    damages: Vec<Damage>,
}

/// A small job: its objects, and the state at each checkpoint.
struct Scene {
    keys: MacKeys,
    objects: Objects,
    states: BTreeMap<Seq, State>,
}

static UNSIGNED: LazyLock<Scene> = LazyLock::new(|| scene(MacKeys::default()));
static SIGNED: LazyLock<Scene> = LazyLock::new(|| scene(MacKeys::signing(MacKey::new([7; 32]))));

fn scene(keys: MacKeys) -> Scene {
    world::run(Scene::new(keys)).expect("a store in memory")
}

fn settings() -> JobSettings {
    let retention = RetentionPolicy::default().with(|it| it.checkpoints = 2);
    JobSettings::default().with(|it| {
        it.max_parallelism = 8;
        it.retention = retention;
    })
}

impl Scene {
    /// Two attempts at two parallelisms; keyed state, operator state, opaques inside and outside manifests.
    async fn new(keys: MacKeys) -> Result<Self> {
        let (memory, store) = world::store(&Objects::new(), 7).await;
        let store = store.with_manifest_keys(keys.clone());
        let mut states = BTreeMap::new();
        for (attempt, parallelism) in [(0u32, 2u32), (1, 3)] {
            let mut job = Counting::open_on(store.clone(), parallelism, settings(), RestoreFrom::Newest).await?;
            for task in &mut job.tasks {
                let list = task.operator_state().list("list", Utf8)?;
                list.add(task.operator_state(), &format!("item of {attempt}"))?;
            }
            for round in 0..2 {
                let first = attempt * 10 + round * 5;
                job.add(first..first + 9)?;
                let long = Opaque::new(OpaqueRole::Source, "long", vec![7; INLINE_OPAQUE_BYTES + 1]);
                let short = Opaque::new(OpaqueRole::Source, "short", vec![7; 3]);
                let epoch = job.barrier_with(|at| if at == 0 { vec![short.clone(), long.clone()] } else { vec![] })?;
                let id = job.job.wait(epoch).await?.ok_or_else(|| Error::stopped("a checkpoint was aborted"))?;
                states.insert(id.seq, job.expected.clone());
            }
        }
        Ok(Self { keys, objects: world::dump(&memory).await, states })
    }
}

/// Returns the key of an attempt's marker.
fn marker(attempt: u8) -> String {
    format!("job/attempt/{attempt:020}")
}

/// Returns the key of an object.
fn key(objects: &Objects, number: u8) -> Option<String> {
    let at = usize::from(number).checked_rem(objects.len())?;
    objects.keys().nth(at).cloned()
}

/// Changes an object's bytes.
fn edit(objects: &mut Objects, number: u8, edit: impl FnOnce(&str, &mut Vec<u8>)) {
    if let Some(key) = key(objects, number) {
        let mut bytes = objects[&key].to_vec();
        edit(&key, &mut bytes);
        objects.insert(key, Bytes::from(bytes));
    }
}

impl Damage {
    fn apply(&self, objects: &mut Objects) {
        let content =
            |objects: &Objects, number| key(objects, number).map(|key| objects[&key].clone()).unwrap_or_default();
        match *self {
            Self::Flip { object, at, bits } => edit(objects, object, |_, bytes| {
                let at = usize::from(at) % bytes.len().max(1);
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= bits);
            }),
            Self::Cut { object, length } => edit(objects, object, |_, bytes| bytes.truncate(length.into())),
            Self::Insert { object, at, bytes: ref more } => edit(objects, object, |_, bytes| {
                let at = usize::from(at) % (bytes.len() + 1);
                drop(bytes.splice(at..at, more.iter().copied()));
            }),
            Self::Move { from, to, start, length, at } => {
                let moved = content(objects, from);
                let moved = moved.iter().skip(start.into()).take(length.into());
                edit(objects, to, |_, bytes| {
                    bytes.iter_mut().skip(at.into()).zip(moved).for_each(|(byte, moved)| *byte = *moved);
                });
            }
            Self::Swap { one, other } => {
                let (a, b) = (content(objects, one), content(objects, other));
                edit(objects, one, |_, bytes| *bytes = b.into());
                edit(objects, other, |_, bytes| *bytes = a.into());
            }
            Self::Copy { from, to } => {
                let copied = content(objects, from);
                edit(objects, to, |_, bytes| *bytes = copied.into());
            }
            Self::Remove { object } => drop(key(objects, object).and_then(|key| objects.remove(&key))),
            Self::Add { from, class, number } => {
                let name = match class % 3 {
                    0 => marker(number),
                    1 => format!("job/manifest/{number:020}"),
                    _ => format!("job/data/{number}-{}", "ab".repeat(16)),
                };
                let bytes = content(objects, from);
                objects.entry(name).or_insert(bytes);
            }
            Self::Seal { object } => edit(objects, object, |key, bytes| {
                let data = key.contains("/data/");
                *bytes = if data { seal::pack(bytes) } else { seal::envelope(bytes) };
            }),
        }
    }
}

/// Any damage: verifies, lists, inspects, exports, compares and copies, then restores by a job.
pub fn restore(data: &[u8]) -> Result<()> {
    let Ok(case) = Case::arbitrary_take_rest(Unstructured::new(data)) else { return Ok(()) };
    let scene: &Scene = if case.signed { &SIGNED } else { &UNSIGNED };
    let mut objects = scene.objects.clone();
    case.damages.iter().for_each(|damage| damage.apply(&mut objects));
    let hostile = case.damages.iter().any(|damage| matches!(damage, Damage::Seal { .. }));
    let hostile = hostile && !case.signed;
    let invariants =
        Invariants { scene, whole: objects == scene.objects, hostile, savepoint: case.copy, objects: &objects };
    let checkpoints = scene.states.keys().copied().map(RestoreFrom::Checkpoint);
    let from = checkpoints.chain([RestoreFrom::Newest]).cycle().nth(case.from.into());
    world::run(async {
        invariants.read().await?;
        invariants.reopen(from.unwrap_or(RestoreFrom::Newest), 1 + u32::from(case.parallelism % 4)).await
    })
}

/// The invariants on the damaged objects.
struct Invariants<'a> {
    scene: &'a Scene,
    /// The objects are undamaged.
    whole: bool,
    /// Checksums are forged and nothing is signed: any state may be restored, but nothing panics.
    hostile: bool,
    /// Copies are savepoints; otherwise restored checkpoints.
    savepoint: bool,
    objects: &'a Objects,
}

impl Invariants<'_> {
    /// Returns a store with the damaged objects.
    async fn store(&self, seed: u64) -> Store {
        world::store(self.objects, seed).await.1.with_manifest_keys(self.scene.keys.clone())
    }

    /// Checks a reader's result for checkpoint `seq`.
    fn check(&self, seq: Seq, found: Result<State>) -> Result<()> {
        match found {
            Ok(_) if self.hostile => Ok(()),
            Ok(state) => {
                assert!(self.scene.states.get(&seq) == Some(&state), "state differs from checkpoint {seq}");
                Ok(())
            }
            Err(error) => self.refused(error),
        }
    }

    fn refused(&self, error: Error) -> Result<()> {
        let kinds = [ErrorKind::Corrupt, ErrorKind::NotFound, ErrorKind::Version, ErrorKind::Limit, ErrorKind::Config];
        let likely = self.hostile || kinds.contains(&error.kind());
        assert!(likely && !self.whole, "{}", error.chain());
        Err(error)
    }

    /// Runs every offline tool.
    async fn read(&self) -> Result<()> {
        let store = self.store(3).await;
        let mut chain = ManifestLog::load(&store).await?;
        let report = offline::verify(&store, &chain, VerifyLevel::Full, &|_, _| {}).await?;
        assert!(!self.whole || (report.damaged.is_empty() && report.restorable.len() == 2), "{report:?}");
        let _listed = offline::list(&store, &chain).await;
        let mut before: Option<StoredManifest> = None;
        for seq in self.scene.states.keys().copied() {
            let found = match offline::open(&store, &mut chain, Some(seq)).await {
                Ok(stored) => {
                    let exported = self.tools(&store, &stored, before.as_ref()).await;
                    before = exported.is_ok().then_some(stored);
                    exported
                }
                Err(error) => Err(error),
            };
            let sound = self.hostile || !report.restorable.contains(&seq) || found.is_ok();
            assert!(sound, "checkpoint {seq} is reported restorable: {found:?}");
            let live = chain.restorable().iter().any(|manifest| manifest.id.seq == seq);
            if live || found.is_ok() {
                let _refused = self.check(seq, found);
            }
        }
        Ok(())
    }

    /// Returns the exported state; every other tool must agree or fail.
    async fn tools(&self, store: &Store, stored: &StoredManifest, before: Option<&StoredManifest>) -> Result<State> {
        let manifest = &stored.manifest;
        let state = exported(store, stored).await?;
        let inspected = offline::inspect(store, manifest, before.map(|before| &before.manifest), Depth::Rows).await;
        let table =
            inspected.ok().and_then(|found| found.operators.first()?.tables.first().map(TableInspection::total));
        assert!(self.hostile || table.is_some_and(|table| table.records == state.len() as u64));
        if let Some(before) = before {
            let compared = offline::diff(store, &before.manifest, manifest, |_| Ok(())).await;
            assert!(self.hostile || compared.is_ok_and(|diff| !diff.is_empty()));
        }
        let _planned = offline::read_plan(store, manifest, 2).await;
        let to = world::store(&Objects::new(), 5).await.1.with_manifest_keys(self.scene.keys.clone());
        let copied = if self.savepoint {
            offline::savepoint(store, stored, &to, &|_, _| {}).await
        } else {
            offline::restore(store, manifest, &to, &RestoreOptions::default(), &|_, _| {}).await
        };
        if let Ok(id) = copied {
            let mut chain = ManifestLog::load(&to).await?;
            let copy = offline::open(&to, &mut chain, Some(id.seq)).await?;
            assert!(self.hostile || exported(&to, &copy).await.is_ok_and(|copied| copied == state));
        }
        Ok(state)
    }

    /// Returns the number of missing attempt markers below an existing one. Only damage makes such gaps.
    fn gaps(&self) -> usize {
        let marked = |attempt: u8| self.objects.contains_key(&marker(attempt));
        (1..u8::MAX).filter(|attempt| !marked(*attempt) && marked(attempt + 1)).count()
    }

    /// Restores a checkpoint as a job does.
    async fn reopen(&self, from: RestoreFrom, parallelism: u32) -> Result<()> {
        let store = self.store(4).await;
        let mut reopened = Counting::open_on(store.clone(), parallelism, settings(), from).await;
        // A marker planted above a gap fences the attempts that fill the gap, but none after.
        for _ in 0..self.gaps() {
            if !reopened.as_ref().is_err_and(|error| error.kind() == ErrorKind::Fenced) {
                break;
            }
            reopened = Counting::open_on(store.clone(), parallelism, settings(), from).await;
        }
        // Retention dropped the first attempt's checkpoints.
        let dropped = matches!(from, RestoreFrom::Checkpoint(seq) if seq.0 < 5);
        match reopened {
            Ok(job) => match job.job.restored().map(|stored| stored.id.seq) {
                Some(seq) => self.check(seq, Ok(job.expected)),
                None => {
                    let manifests = self.objects.keys().filter(|key| key.starts_with("job/manifest/")).max();
                    let first = manifests.is_none_or(|last| last.ends_with("/00000000000000000001"));
                    assert!(self.hostile || (first && job.expected.is_empty()), "started empty");
                    Ok(())
                }
            },
            Err(error) if !(self.whole && dropped) => self.refused(error),
            Err(_) => Ok(()),
        }
    }
}

async fn exported(store: &Store, stored: &StoredManifest) -> Result<State> {
    let mut state = State::new();
    let groups = KeyGroupSet::all(stored.manifest.max_parallelism);
    offline::export(store, &stored.manifest, "count", &groups, |entry| match (entry.place.key, entry.value) {
        (Value::Bytes(key), Value::Unsigned(count)) => {
            state.insert(key.into_owned(), u64::try_from(count).unwrap_or(0));
            Ok(())
        }
        other => Err(Error::corrupt("not a count").with("found", format!("{other:?}"))),
    })
    .await?;
    Ok(state)
}
