//! An object store whose operations belong to the world: dropping a client, or its future, cancels none of its sent
//! calls.
//!
//! For each call the seed decides when, how often and whether it takes effect and, independently, the answer to its
//! caller, if any. Reads are strong: they see every earlier effect. Listings may lag.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::oneshot;

use super::history::{Did, Told, i11_is_linearizable};
use super::reply::{Reply, Shown, into_result, refusal, wrong_reply};
use super::{Answer, Call, Counts, Fate, Faults, Node, Operation, Sim};

/// What is stored, by key.
pub type Objects = BTreeMap<String, Stored>;

#[derive(Debug, Clone)]
pub struct Stored {
    pub bytes: Bytes,
    created: u64,
}

/// A stale read misses an object until this many others were created after it.
const STALE_CREATIONS: u64 = 3;

/// Observes every effect at the instant it happens.
pub trait Watcher: Send {
    fn created(&mut self, key: &str, objects: &Objects);
    fn deleted(&mut self, key: &str, objects: &Objects);
}

/// The store itself, shared by all nodes.
pub struct StoreWorld {
    sim: Sim,
    objects: Objects,
    /// Deleted objects, with the time of deletion.
    deleted: Vec<(u64, String, Stored)>,
    creations: u64,
    calls: u64,
    faults: Faults,
    injected: Counts,
    watcher: Option<Box<dyn Watcher>>,
    /// Recorded calls, by key.
    history: BTreeMap<String, Vec<Told>>,
    /// Substring of the keys whose calls are recorded.
    remembered: Option<&'static str>,
    happened: u64,
}

/// The store as one node sees it.
#[derive(Clone)]
pub struct SimStore {
    sim: Sim,
    node: Node,
    world: Arc<Mutex<StoreWorld>>,
}

/// A call's effect.
#[derive(Debug, Clone)]
enum Effect {
    Put(Bytes),
    Get(Option<GetRange>, bool),
    Delete,
    List,
}

impl Effect {
    fn operation(&self) -> Operation {
        match self {
            Self::Put(_) => Operation::Put,
            Self::Get(..) => Operation::Get,
            Self::Delete => Operation::Delete,
            Self::List => Operation::List,
        }
    }
}

impl StoreWorld {
    pub fn new(sim: &Sim, faults: Faults) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            sim: sim.clone(),
            objects: Objects::new(),
            deleted: Vec::new(),
            creations: 0,
            calls: 0,
            faults,
            injected: Counts::new(),
            watcher: None,
            history: BTreeMap::new(),
            remembered: None,
            happened: 0,
        }))
    }

    pub fn watch(&mut self, watcher: impl Watcher + 'static) {
        self.watcher = Some(Box::new(watcher));
    }

    /// Records all calls on keys that contain `part`.
    pub fn remember(&mut self, part: &'static str) {
        self.remembered = Some(part);
    }

    /// Returns the recorded keys whose calls are not linearizable.
    pub fn disordered(&self) -> Vec<&str> {
        let disordered = self.history.iter().filter(|(_, calls)| !i11_is_linearizable(calls));
        disordered.map(|(key, _)| key.as_str()).collect()
    }

    /// Records the start of a call on a recorded key; returns its index.
    fn begin(&mut self, key: &str, effect: &Effect) -> Option<usize> {
        self.remembered.filter(|part| key.contains(part))?;
        let did = match effect {
            Effect::Put(bytes) => Did::Put(bytes.clone()),
            Effect::Delete => Did::Delete,
            Effect::Get(_, false) => Did::Read(None),
            Effect::Get(_, true) | Effect::List => return None,
        };
        self.happened += 1;
        let calls = self.history.entry(key.to_owned()).or_default();
        calls.push(Told { did, began: self.happened, done: None });
        Some(calls.len() - 1)
    }

    /// Records the answer to a recorded call, if it is true.
    fn end(&mut self, key: &str, call: usize, reply: &Reply) {
        self.happened += 1;
        let Some(told) = self.history.get_mut(key).and_then(|calls| calls.get_mut(call)) else { return };
        let done = match (&mut told.did, reply) {
            (Did::Put(_), Reply::Done) | (Did::Delete, Reply::Done | Reply::Missing) => true,
            (Did::Read(_), Reply::Missing) => true,
            (Did::Read(seen), Reply::Read { bytes, range, .. }) => {
                let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).expect("it is in memory"));
                *seen = Some((start..end, bytes.clone()));
                true
            }
            _ => false,
        };
        told.done = done.then_some(self.happened);
    }

    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// Returns the number of calls so far.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Gives direct access to the stored objects, for corruption such as bit rot.
    pub fn objects_mut(&mut self) -> &mut Objects {
        &mut self.objects
    }

    /// Returns how often each fault occurred.
    pub fn injected(&self) -> &Counts {
        &self.injected
    }

    fn fate(&mut self, operation: Operation, key: &str) -> Fate {
        let call = Call { number: self.calls, operation, key };
        self.calls += 1;
        let (name, fate) = match &mut self.faults {
            Faults::Drawn(profile) => self.sim.draw(|rng| profile.fate(operation, rng)),
            Faults::Scripted(script) => script(&call).map_or_else(|| ("ok", Fate::ok(2)), |fate| ("scripted", fate)),
        };
        *self.injected.entry(name).or_default() += 1;
        fate
    }

    fn apply(&mut self, key: &str, effect: &Effect) -> Reply {
        match effect {
            Effect::Put(_) if self.objects.contains_key(key) => Reply::Exists,
            Effect::Put(bytes) => {
                self.creations += 1;
                self.objects.insert(key.to_owned(), Stored { bytes: bytes.clone(), created: self.creations });
                if let Some(watcher) = &mut self.watcher {
                    watcher.created(key, &self.objects);
                }
                Reply::Done
            }
            Effect::Get(range, head) => self.read(key, range.as_ref(), *head),
            Effect::Delete => {
                let Some(stored) = self.objects.remove(key) else { return Reply::Missing };
                self.deleted.push((self.sim.now_ms(), key.to_owned(), stored));
                if let Some(watcher) = &mut self.watcher {
                    watcher.deleted(key, &self.objects);
                }
                Reply::Done
            }
            Effect::List => self.list(key),
        }
    }

    fn read(&self, key: &str, range: Option<&GetRange>, head: bool) -> Reply {
        self.objects.get(key).map_or(Reply::Missing, |stored| read(stored, range, head))
    }

    /// Answers a read from an earlier state: new objects are missing, deleted ones are present.
    fn read_stale(&mut self, key: &str, effect: &Effect) -> Reply {
        let Effect::Get(range, head) = effect else { return self.apply(key, effect) };
        let old = match self.objects.get(key) {
            Some(stored) => Some(stored).filter(|stored| stored.created + STALE_CREATIONS <= self.creations),
            None => self.deleted.iter().rev().find(|(_, grave, _)| grave == key).map(|(_, _, stored)| stored),
        };
        old.map_or(Reply::Missing, |stored| read(stored, range.as_ref(), *head))
    }

    /// Distorts a read's reply as `answer` says.
    fn misread(&self, key: &str, reply: Reply, answer: Answer) -> Reply {
        let Reply::Read { bytes, range, size, .. } = reply else { return reply };
        let read = |bytes: Bytes, range, reset| Reply::Read { bytes, range, size, reset };
        match answer {
            Answer::Cut => read(bytes.slice(..bytes.len().saturating_sub(1)), range, false),
            Answer::Reset => read(bytes.slice(..bytes.len() / 2), range, true),
            Answer::Whole if !bytes.is_empty() => self.read(key, None, false),
            Answer::Misdirected if !bytes.is_empty() => {
                let whole = &self.objects[key].bytes;
                let at = usize::try_from(range.end).expect("it lies in the object") % whole.len();
                let turned = [&whole[at..], &whole[..at]].concat();
                read(turned.into_iter().cycle().take(bytes.len()).collect(), range, false)
            }
            _ => read(bytes, range, false),
        }
    }

    fn list(&mut self, prefix: &str) -> Reply {
        let below = |key: &str| prefix.is_empty() || key.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
        let mut shown: Vec<(String, u64, u64)> = self
            .objects
            .iter()
            .filter(|(key, _)| below(key))
            .map(|(key, stored)| (key.clone(), stored.bytes.len() as u64, stored.created))
            .collect();
        let mut broken = false;
        if let Faults::Drawn(profile) = &self.faults {
            let sim = self.sim.clone();
            let missed = sim.draw(|rng| rng.within(0, profile.list_misses_max));
            let since = self.sim.now_ms().saturating_sub(sim.draw(|rng| rng.within(0, profile.list_ghosts_max_ms)));
            broken = sim.draw(|rng| rng.permille(profile.list_breaks));
            shown.sort_unstable_by_key(|(_, _, created)| *created);
            shown.truncate(shown.len().saturating_sub(usize::try_from(missed).expect("a small number")));
            let ghosts = self.deleted.iter().filter(|(deleted, key, _)| *deleted > since && below(key));
            shown.extend(ghosts.map(|(_, key, stored)| (key.clone(), stored.bytes.len() as u64, stored.created)));
        }
        shown.sort_unstable();
        shown.dedup_by(|a, b| a.0 == b.0);
        if broken {
            shown.truncate(shown.len() / 2);
        }
        Reply::Listed(shown.into_iter().map(|(key, bytes, _)| (key, bytes)).collect(), broken)
    }
}

impl SimStore {
    pub fn new(sim: &Sim, node: Node, world: &Arc<Mutex<StoreWorld>>) -> Self {
        Self { sim: sim.clone(), node, world: Arc::clone(world) }
    }

    fn world(&self) -> MutexGuard<'_, StoreWorld> {
        self.world.lock().unwrap()
    }

    /// Sends a call into the world and waits for its answer.
    async fn call(&self, key: String, effect: Effect) -> Result<Reply> {
        let operation = effect.operation();
        let fate = self.world().fate(operation, &key);
        let remembered = self.world().begin(&key, &effect);
        self.sim.trace(format_args!("n{} {operation:?} {key} {fate:?}", self.node));
        let (sender, receiver) = oneshot::channel();
        let sender = Arc::new(Mutex::new(Some(sender)));
        let refusal = fate.answer.and_then(|(after_ms, answer)| Some((after_ms, refusal(answer)?)));
        let answer = fate.answer.filter(|_| refusal.is_none());
        if let Some((after_ms, reply)) = refusal {
            let sender = Arc::clone(&sender);
            self.sim.after(after_ms, move |_| send(&sender, reply));
        }
        let (node, life) = (self.node, self.sim.crashes(self.node));
        for (at, effect_ms) in fate.effects_ms.into_iter().enumerate() {
            let (world, key, effect, sender) =
                (Arc::clone(&self.world), key.clone(), effect.clone(), Arc::clone(&sender));
            let answer = answer.filter(|_| at == 0);
            self.sim.after(effect_ms, move |sim| {
                let reply = match answer {
                    Some((_, Answer::Stale)) => world.lock().unwrap().read_stale(&key, &effect),
                    _ => world.lock().unwrap().apply(&key, &effect),
                };
                if operation == Operation::Put && sim.crashes(node) > life {
                    sim.hit(match reply {
                        Reply::Done => "create landed after its writer's death",
                        _ => "create came too late, after its writer's death",
                    });
                }
                sim.trace(format_args!("  {:?} {key} -> {}", effect.operation(), Shown(&reply)));
                if let Some((after_ms, answer)) = answer {
                    let reply = if answer == Answer::Truth {
                        reply
                    } else {
                        world.lock().unwrap().misread(&key, reply, answer)
                    };
                    let remembered = remembered.filter(|_| answer == Answer::Truth);
                    sim.after(after_ms, move |_| {
                        if let Some(call) = remembered {
                            world.lock().unwrap().end(&key, call, &reply);
                        }
                        send(&sender, reply);
                    });
                }
            });
        }
        drop(sender);
        match receiver.await {
            Ok(reply) => into_result(key, reply),
            // The fate has no answer.
            Err(_) => std::future::pending().await,
        }
    }
}

/// Reads a stored object or a range of it.
fn read(stored: &Stored, range: Option<&GetRange>, head: bool) -> Reply {
    let size = stored.bytes.len() as u64;
    let range = match range {
        None => 0..size,
        Some(GetRange::Bounded(range)) if range.start < size => range.start..range.end.min(size),
        Some(_) => return Reply::BadRange,
    };
    let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).expect("it lies in the object"));
    let bytes = if head { Bytes::new() } else { stored.bytes.slice(start..end) };
    Reply::Read { bytes, range, size, reset: false }
}

type Sender = Arc<Mutex<Option<oneshot::Sender<Reply>>>>;

fn send(sender: &Sender, reply: Reply) {
    if let Some(sender) = sender.lock().unwrap().take() {
        // The receiver may be dropped.
        drop(sender.send(reply));
    }
}

pub(crate) fn meta(key: &str, size: u64) -> Result<ObjectMeta> {
    let location = Path::parse(key)?;
    Ok(ObjectMeta { location, last_modified: std::time::UNIX_EPOCH.into(), size, e_tag: None, version: None })
}

impl fmt::Display for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimStore(n{})", self.node)
    }
}

impl fmt::Debug for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[async_trait::async_trait]
impl ObjectStore for SimStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let bytes: Bytes = payload.into();
        assert_eq!(options.mode, PutMode::Create, "{location}: nothing may be overwritten");
        self.call(location.to_string(), Effect::Put(bytes)).await?;
        Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(object_store::Error::NotSupported { source: "multipart".into() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let reply = self.call(location.to_string(), Effect::Get(options.range, options.head)).await?;
        let Reply::Read { bytes, range, size, reset } = reply else { return Err(wrong_reply()) };
        let broken =
            reset.then(|| Err(object_store::Error::Generic { store: "sim", source: "connection reset".into() }));
        let body = stream::iter([Ok(bytes)].into_iter().chain(broken));
        let payload = GetResultPayload::Stream(body.boxed());
        let meta = meta(location.as_ref(), size)?;
        Ok(GetResult { payload, meta, range, attributes: Default::default(), extensions: Default::default() })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .and_then(move |location| {
                let store = store.clone();
                async move {
                    store.call(location.to_string(), Effect::Delete).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = self.clone();
        let prefix = prefix.map(ToString::to_string).unwrap_or_default();
        let pages = async move {
            let Reply::Listed(keys, broken) = store.call(prefix, Effect::List).await? else {
                return Err(wrong_reply());
            };
            let metas = keys.into_iter().map(|(key, size)| meta(&key, size));
            let end = broken.then(|| Err(object_store::Error::Generic { store: "sim", source: "500".into() }));
            Ok(stream::iter(metas.chain(end).collect::<Vec<_>>()))
        };
        stream::once(pages).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let objects: Vec<ObjectMeta> = self.list(prefix).try_collect().await?;
        let depth = prefix.map_or(0, Path::parts_count);
        let mut folders: Vec<Path> = objects
            .iter()
            .filter(|object| object.location.parts_count() > depth + 1)
            .map(|object| object.location.parts().take(depth + 1).collect())
            .collect();
        folders.dedup();
        let objects = objects.into_iter().filter(|object| object.location.parts_count() == depth + 1).collect();
        Ok(ListResult { common_prefixes: folders, objects, extensions: Default::default() })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(object_store::Error::NotSupported { source: "copy".into() })
    }
}
