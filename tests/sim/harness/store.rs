//! An object store whose operations belong to the world: dropping a client, or its future, cancels nothing that it has
//! sent.
//!
//! Of each call is drawn when, how often and whether at all it takes effect, and, apart from that, what its caller is told,
//! if anything. Reads are strong: they see every effect that came before them. Listings may lag.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::oneshot;

use super::{Node, Rng, Sim};

/// What is stored, by key.
pub(crate) type Objects = BTreeMap<String, Stored>;

#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) bytes: Bytes,
    created: u64,
}

/// Sees every effect at the instant that it happens.
pub(crate) trait Watcher: Send {
    fn created(&mut self, key: &str, objects: &Objects);
    fn deleted(&mut self, key: &str, objects: &Objects);
}

/// Kinds of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Put,
    Get,
    Delete,
    List,
}

/// A call, as faults see it.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    /// Number of the call over all nodes, from 0.
    pub(crate) number: u64,
    pub(crate) operation: Operation,
    pub(crate) key: &'a str,
}

/// What a caller is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// What happened when it first took effect.
    Truth,
    ServerError,
    Throttled,
    Conflict,
    Denied,
    /// The truth, with the last byte of its body missing.
    Cut,
}

/// What becomes of a call.
#[derive(Debug, Clone)]
pub(crate) struct Fate {
    /// When it takes effect, after the call; several times if it is delivered twice.
    pub(crate) effects_ms: Vec<u64>,
    /// What the caller is told, and when, after the call or, if it is the truth, after the effect.
    pub(crate) answer: Option<(u64, Answer)>,
}

impl Fate {
    pub(crate) fn ok(latency_ms: u64) -> Self {
        Self { effects_ms: vec![latency_ms / 2], answer: Some((latency_ms - latency_ms / 2, Answer::Truth)) }
    }

    /// It takes no effect, and the caller is told so, more or less.
    pub(crate) fn not_applied(latency_ms: u64, answer: Answer) -> Self {
        Self { effects_ms: Vec::new(), answer: Some((latency_ms, answer)) }
    }

    /// It takes effect, and the caller is told otherwise.
    pub(crate) fn applied_but(latency_ms: u64, answer: Answer) -> Self {
        Self { effects_ms: vec![latency_ms / 2], answer: Some((latency_ms, answer)) }
    }

    /// The caller is told nothing, whether it takes effect at once, later or never.
    pub(crate) fn silent(effect_ms: Option<u64>) -> Self {
        Self { effects_ms: effect_ms.into_iter().collect(), answer: None }
    }
}

/// How often what goes wrong, in calls out of 1000.
#[derive(Debug, Clone, Default)]
pub(crate) struct Profile {
    pub(crate) latency_max_ms: u64,
    /// How late a late effect may come.
    pub(crate) late_max_ms: u64,
    pub(crate) fails_before: u64,
    pub(crate) throttled: u64,
    pub(crate) denied: u64,
    pub(crate) applied_but_failed: u64,
    pub(crate) applied_but_silent: u64,
    pub(crate) silent: u64,
    pub(crate) lands_late: u64,
    pub(crate) delivered_twice: u64,
    pub(crate) conflict: u64,
    pub(crate) applied_then_conflict: u64,
    pub(crate) cut: u64,
    /// How many of the newest objects a listing may miss.
    pub(crate) list_misses_max: u64,
    /// For how long a listing may show what was deleted.
    pub(crate) list_ghosts_max_ms: u64,
    pub(crate) list_breaks: u64,
}

impl Profile {
    /// A store without faults.
    pub(crate) fn healthy() -> Self {
        Self { latency_max_ms: 20, ..Self::default() }
    }

    /// Draws a profile; each kind of fault is off in half of all.
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let worst = [0, 20, 60, 150][rng.index(4)];
        let mut rate = |most: u64| if rng.permille(500) { 0 } else { rng.within(0, most.min(worst)) };
        let mut profile = Self {
            fails_before: rate(150),
            throttled: rate(100),
            denied: rate(10),
            applied_but_failed: rate(150),
            applied_but_silent: rate(100),
            silent: rate(50),
            lands_late: rate(100),
            delivered_twice: rate(100),
            conflict: rate(100),
            applied_then_conflict: rate(100),
            cut: rate(60),
            list_breaks: rate(100),
            ..Self::default()
        };
        profile.latency_max_ms = [5, 50, 500][rng.index(3)];
        profile.late_max_ms = [1_000, 20_000, 300_000][rng.index(3)];
        profile.list_misses_max = [0, 0, 1, 3][rng.index(4)];
        profile.list_ghosts_max_ms = [0, 0, 2_000, 100_000][rng.index(4)];
        profile
    }

    fn fate(&self, operation: Operation, rng: &mut Rng) -> (&'static str, Fate) {
        let latency = rng.within(1, self.latency_max_ms.max(1));
        let late = rng.within(0, self.late_max_ms);
        let writes = matches!(operation, Operation::Put | Operation::Delete);
        let creates = operation == Operation::Put;
        let chances: [(&'static str, u64, bool, Fate); 11] = [
            ("fails before", self.fails_before, true, Fate::not_applied(latency, Answer::ServerError)),
            ("throttled", self.throttled, true, Fate::not_applied(latency, Answer::Throttled)),
            ("denied", self.denied, true, Fate::not_applied(latency, Answer::Denied)),
            ("applied but failed", self.applied_but_failed, true, Fate::applied_but(latency, Answer::ServerError)),
            ("applied but silent", self.applied_but_silent, true, Fate::silent(Some(latency))),
            ("silent", self.silent, true, Fate::silent(None)),
            (
                "lands late",
                self.lands_late,
                writes,
                Fate { effects_ms: vec![late], answer: rng.permille(500).then_some((latency, Answer::ServerError)) },
            ),
            (
                "delivered twice",
                self.delivered_twice,
                writes,
                Fate { effects_ms: vec![latency, late], answer: Some((1, Answer::Truth)) },
            ),
            ("conflict", self.conflict, creates, Fate::not_applied(latency, Answer::Conflict)),
            (
                "applied then conflict",
                self.applied_then_conflict,
                creates,
                Fate::applied_but(latency, Answer::Conflict),
            ),
            (
                "cut",
                self.cut,
                operation == Operation::Get,
                Fate { effects_ms: vec![latency], answer: Some((1, Answer::Cut)) },
            ),
        ];
        let mut drawn = rng.within(0, 999);
        for (name, chance, applicable, fate) in chances {
            if !applicable {
                continue;
            }
            if drawn < chance {
                return (name, fate);
            }
            drawn -= chance;
        }
        ("ok", Fate::ok(latency))
    }
}

type Script = Box<dyn FnMut(&Call<'_>) -> Option<Fate> + Send>;

/// What goes wrong.
pub(crate) enum Faults {
    /// As the profile has it, at random.
    Drawn(Profile),
    /// As the script says; what it says nothing of goes well.
    Scripted(Script),
}

impl Faults {
    pub(crate) fn none() -> Self {
        Self::Drawn(Profile::healthy())
    }

    /// Calls `first..first + count` have the fate that `fate` makes; all others go well.
    pub(crate) fn nth(first: u64, count: u64, fate: impl Fn() -> Fate + Send + 'static) -> Self {
        Self::Scripted(Box::new(move |call| (first..first.saturating_add(count)).contains(&call.number).then(&fate)))
    }
}

/// The store itself, as all nodes share it.
pub(crate) struct StoreWorld {
    sim: Sim,
    objects: Objects,
    /// What was deleted, and when.
    graves: Vec<(u64, String, Stored)>,
    creations: u64,
    calls: u64,
    faults: Faults,
    injected: BTreeMap<&'static str, u64>,
    watcher: Option<Box<dyn Watcher>>,
}

/// The store as one node sees it.
#[derive(Clone)]
pub(crate) struct SimStore {
    sim: Sim,
    node: Node,
    world: Arc<Mutex<StoreWorld>>,
}

/// What a call does.
#[derive(Debug, Clone)]
enum Effect {
    Put(Bytes, bool),
    Get(Option<object_store::GetRange>, bool),
    Delete,
    List,
}

impl Effect {
    fn operation(&self) -> Operation {
        match self {
            Self::Put(..) => Operation::Put,
            Self::Get(..) => Operation::Get,
            Self::Delete => Operation::Delete,
            Self::List => Operation::List,
        }
    }
}

/// What came of a call.
#[derive(Debug, Clone)]
enum Reply {
    Done,
    Read {
        bytes: Bytes,
        range: Range<u64>,
        size: u64,
    },
    /// Keys with lengths; broken off at the end if so.
    Listed(Vec<(String, u64)>, bool),
    Exists,
    Missing,
    BadRange,
    ServerError,
    Throttled,
    Denied,
}

impl StoreWorld {
    pub(crate) fn new(sim: &Sim, faults: Faults) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            sim: sim.clone(),
            objects: Objects::new(),
            graves: Vec::new(),
            creations: 0,
            calls: 0,
            faults,
            injected: BTreeMap::new(),
            watcher: None,
        }))
    }

    pub(crate) fn watch(&mut self, watcher: impl Watcher + 'static) {
        self.watcher = Some(Box::new(watcher));
    }

    pub(crate) fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// Returns the calls made so far.
    pub(crate) fn calls(&self) -> u64 {
        self.calls
    }

    pub(crate) fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Changes what is stored behind everybody's back, as bit rot does.
    pub(crate) fn objects_mut(&mut self) -> &mut Objects {
        &mut self.objects
    }

    /// Returns how often each fault happened.
    pub(crate) fn injected(&self) -> &BTreeMap<&'static str, u64> {
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
            Effect::Put(_, true) if self.objects.contains_key(key) => Reply::Exists,
            Effect::Put(bytes, _) => {
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
                self.graves.push((self.sim.now_ms(), key.to_owned(), stored));
                if let Some(watcher) = &mut self.watcher {
                    watcher.deleted(key, &self.objects);
                }
                Reply::Done
            }
            Effect::List => self.list(key),
        }
    }

    fn read(&self, key: &str, range: Option<&object_store::GetRange>, head: bool) -> Reply {
        let Some(stored) = self.objects.get(key) else { return Reply::Missing };
        let size = stored.bytes.len() as u64;
        let range = match range {
            None => 0..size,
            Some(object_store::GetRange::Bounded(range)) if range.start < size => range.start..range.end.min(size),
            Some(_) => return Reply::BadRange,
        };
        let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).expect("it lies in the object"));
        let bytes = if head { Bytes::new() } else { stored.bytes.slice(start..end) };
        Reply::Read { bytes, range, size }
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
            let ghosts = self.graves.iter().filter(|(deleted, key, _)| *deleted > since && below(key));
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
    pub(crate) fn new(sim: &Sim, node: Node, world: &Arc<Mutex<StoreWorld>>) -> Self {
        Self { sim: sim.clone(), node, world: Arc::clone(world) }
    }

    fn world(&self) -> MutexGuard<'_, StoreWorld> {
        self.world.lock().unwrap()
    }

    /// Sends a call into the world and waits for what its caller is told.
    async fn call(&self, key: String, effect: Effect) -> Result<Reply> {
        let operation = effect.operation();
        let fate = self.world().fate(operation, &key);
        self.sim.trace(format_args!("n{} {operation:?} {key} {fate:?}", self.node));
        let (sender, receiver) = oneshot::channel();
        let sender = Arc::new(Mutex::new(Some(sender)));
        let told = match fate.answer {
            Some((after_ms, answer @ (Answer::Truth | Answer::Cut))) => Some((after_ms, answer)),
            Some((after_ms, answer)) => {
                let reply = match answer {
                    Answer::Throttled => Reply::Throttled,
                    Answer::Conflict => Reply::Exists,
                    Answer::Denied => Reply::Denied,
                    Answer::ServerError | Answer::Truth | Answer::Cut => Reply::ServerError,
                };
                let sender = Arc::clone(&sender);
                self.sim.after(after_ms, move |_| send(&sender, reply));
                None
            }
            None => None,
        };
        for (at, effect_ms) in fate.effects_ms.into_iter().enumerate() {
            let (world, key, effect, sender) =
                (Arc::clone(&self.world), key.clone(), effect.clone(), Arc::clone(&sender));
            let told = told.filter(|_| at == 0);
            self.sim.after(effect_ms, move |sim| {
                let reply = world.lock().unwrap().apply(&key, &effect);
                sim.trace(format_args!("  {:?} {key} -> {}", effect.operation(), Shown(&reply)));
                if let Some((after_ms, answer)) = told {
                    let reply = if answer == Answer::Cut { cut(reply) } else { reply };
                    sim.after(after_ms, move |_| send(&sender, reply));
                }
            });
        }
        drop(sender);
        match receiver.await {
            Ok(reply) => settle(key, reply),
            // Nobody will ever tell.
            Err(_) => std::future::pending().await,
        }
    }
}

type Sender = Arc<Mutex<Option<oneshot::Sender<Reply>>>>;

fn send(sender: &Sender, reply: Reply) {
    if let Some(sender) = sender.lock().unwrap().take() {
        // The caller may be gone.
        drop(sender.send(reply));
    }
}

fn cut(reply: Reply) -> Reply {
    match reply {
        Reply::Read { bytes, range, size } => {
            Reply::Read { bytes: bytes.slice(..bytes.len().saturating_sub(1)), range, size }
        }
        other => other,
    }
}

fn settle(path: String, reply: Reply) -> Result<Reply> {
    let source = |text: &str| text.to_owned().into();
    let generic = |text: &str| object_store::Error::Generic { store: "sim", source: source(text) };
    match reply {
        Reply::Exists => Err(object_store::Error::AlreadyExists { path, source: source("409") }),
        Reply::Missing => Err(object_store::Error::NotFound { path, source: source("404") }),
        Reply::Denied => Err(object_store::Error::PermissionDenied { path, source: source("403") }),
        Reply::BadRange => Err(generic("416")),
        Reply::ServerError => Err(generic("500")),
        Reply::Throttled => Err(generic("503 slow down")),
        done => Ok(done),
    }
}

fn wrong_reply() -> object_store::Error {
    object_store::Error::Generic { store: "sim", source: "reply to another call".into() }
}

fn meta(key: &str, size: u64) -> Result<ObjectMeta> {
    let location = Path::parse(key)?;
    Ok(ObjectMeta { location, last_modified: std::time::UNIX_EPOCH.into(), size, e_tag: None, version: None })
}

/// A reply without its bytes.
struct Shown<'a>(&'a Reply);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Reply::Read { range, .. } => write!(f, "{range:?}"),
            Reply::Listed(keys, broken) => write!(f, "{} keys, broken off: {broken}", keys.len()),
            other => write!(f, "{other:?}"),
        }
    }
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
        let create = options.mode == PutMode::Create;
        self.call(location.to_string(), Effect::Put(bytes, create)).await?;
        Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(object_store::Error::NotSupported { source: "multipart".into() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let reply = self.call(location.to_string(), Effect::Get(options.range, options.head)).await?;
        let Reply::Read { bytes, range, size } = reply else { return Err(wrong_reply()) };
        let payload = GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed());
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
