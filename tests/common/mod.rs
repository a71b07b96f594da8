//! A small counting job over any store, and a store whose door can be shut.
#![allow(clippy::allow_attributes, reason = "an expectation would fail in the test binaries that it does not apply to")]
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(unreachable_pub, reason = "shared by including it")]

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alluvium::backend::{LogBackend, ValueState};
use alluvium::checkpoint::manifest_log::RestoreFrom;
use alluvium::codec::typed::Fixed;
use alluvium::id::{Epoch, ManifestId, OperatorId};
use alluvium::job::{Job, JobBuilder, JobSettings, OperatorSpec, Task};
use alluvium::key_group::owner;
use alluvium::manifest::Opaque;
use alluvium::place::Store;
use alluvium::runtime::SharedRuntime;
use alluvium::store::StoreSettings;
use alluvium::time::Timestamp;
use alluvium::tokio_runtime::TokioRuntime;
use alluvium::{Error, Result};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult,
};

/// The operator of the counting job.
pub const COUNT: OperatorId = OperatorId(1);

/// A count per key, and what it should be.
pub struct Counting {
    pub job: Job,
    pub tasks: Vec<Task<LogBackend>>,
    pub counts: Vec<ValueState<u64, Fixed>>,
    pub expected: BTreeMap<Vec<u8>, u64>,
    max_parallelism: u16,
}

/// Returns the runtime of the test.
pub fn runtime() -> SharedRuntime {
    Arc::new(TokioRuntime::current())
}

/// Returns the place of job `job` in `objects`.
pub fn store(objects: &Arc<dyn ObjectStore>) -> Store {
    let settings = StoreSettings {
        tries_max: 2,
        backoff_first: Duration::from_millis(1),
        backoff_max: Duration::from_millis(2),
        ..StoreSettings::default()
    };
    store_on(objects, runtime(), settings)
}

/// As [`store`], on another runtime and with other settings.
pub fn store_on(objects: &Arc<dyn ObjectStore>, runtime: SharedRuntime, settings: StoreSettings) -> Store {
    Store::new(Arc::clone(objects), &Path::default(), &"job".parse().unwrap(), runtime, settings)
}

impl Counting {
    /// Opens the job at `parallelism`; its state must be `expected`.
    pub async fn open(
        objects: &Arc<dyn ObjectStore>,
        parallelism: u32,
        settings: JobSettings,
        from: RestoreFrom,
        expected: BTreeMap<Vec<u8>, u64>,
    ) -> Result<Self> {
        let counting = Self::open_on(store(objects), parallelism, settings, from).await?;
        assert!(counting.expected == expected, "restored state differs");
        Ok(counting)
    }

    /// Opens the job in `store`, with whatever state it has.
    pub async fn open_on(store: Store, parallelism: u32, settings: JobSettings, from: RestoreFrom) -> Result<Self> {
        let max_parallelism = settings.max_parallelism;
        let operator = OperatorSpec::new(COUNT, "count", parallelism);
        let builder = JobBuilder::new(store).settings(settings).operator(operator);
        let mut job = builder.restore_from(from).open().await?;
        let (mut tasks, mut counts) = (Vec::new(), Vec::new());
        for seat in job.take_seats() {
            let mut task = seat.restore(LogBackend::new).await?;
            counts.push(task.state().value("count", Fixed)?);
            tasks.push(task);
        }
        let mut counting = Self { job, tasks, counts, expected: BTreeMap::new(), max_parallelism };
        counting.expected = counting.content()?;
        Ok(counting)
    }

    /// Opens a job without state.
    pub async fn fresh(objects: &Arc<dyn ObjectStore>, parallelism: u32) -> Self {
        Self::open(objects, parallelism, JobSettings::default(), RestoreFrom::Newest, BTreeMap::new()).await.unwrap()
    }

    /// Opens the job again, from the newest checkpoint, expecting the state that this one has.
    pub async fn reopen(&self, objects: &Arc<dyn ObjectStore>, parallelism: u32) -> Self {
        let settings = JobSettings { max_parallelism: self.max_parallelism, ..JobSettings::default() };
        Self::open(objects, parallelism, settings, RestoreFrom::Newest, self.expected.clone()).await.unwrap()
    }

    /// Adds 1 to the count of each of `keys`.
    pub fn add(&mut self, keys: Range<u32>) -> Result<()> {
        for key in keys {
            self.add_key(&key.to_be_bytes())?;
        }
        Ok(())
    }

    /// Adds 1 to the count of `key`.
    pub fn add_key(&mut self, key: &[u8]) -> Result<()> {
        let parallelism = u32::try_from(self.tasks.len()).unwrap();
        let partitioner = self.job.partitioner();
        let group = partitioner.locate(key, 0, self.max_parallelism).group;
        let at = owner(self.max_parallelism, parallelism, group) as usize;
        let state = self.tasks[at].state();
        state.set_key(key)?;
        self.counts[at].update(state, |count| *count = Some(count.unwrap_or(0) + 1))?;
        *self.expected.entry(key.to_vec()).or_default() += 1;
        Ok(())
    }

    /// Triggers an epoch and gives its barrier to every task.
    pub fn barrier(&mut self) -> Result<Epoch> {
        self.barrier_with(|_| Vec::new())
    }

    /// As [`Counting::barrier`], with opaques per subtask.
    pub fn barrier_with(&mut self, opaques: impl Fn(usize) -> Vec<Opaque>) -> Result<Epoch> {
        let barrier = self.job.trigger()?.ok_or_else(|| Error::limit("too many checkpoints in flight"))?;
        for (at, task) in self.tasks.iter_mut().enumerate() {
            task.barrier(barrier, Timestamp::MIN, opaques(at))?;
        }
        Ok(barrier.epoch)
    }

    /// Takes a checkpoint and waits for its end; `None` if it was aborted.
    pub async fn checkpoint(&mut self) -> Result<Option<ManifestId>> {
        let epoch = self.barrier()?;
        self.job.wait(epoch).await
    }

    /// Returns all counts.
    pub fn content(&mut self) -> Result<BTreeMap<Vec<u8>, u64>> {
        let mut content = BTreeMap::new();
        for (task, counts) in self.tasks.iter_mut().zip(&self.counts) {
            let groups = task.groups().clone();
            counts.scan(task.state(), &groups, |key, _, count| {
                assert!(content.insert(key.to_vec(), count).is_none(), "a key in two subtasks");
                true
            })?;
        }
        Ok(content)
    }
}

/// Whether a [`Gate`] lets calls through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Door {
    Open = 0,
    /// Calls fail at once.
    Shut = 1,
    /// Calls are never answered.
    Silent = 2,
    /// Writes fail, reads work.
    ReadOnly = 3,
    /// Creates overwrite what is there.
    Overwriting = 4,
    /// Creates are not supported.
    NoCreate = 5,
}

/// What happens before the next read of data.
struct Meanwhile(BoxFuture<'static, ()>);

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meanwhile")
    }
}

/// A store in memory behind a door, which keeps a list of calls.
#[derive(Debug)]
pub struct Gate {
    inner: InMemory,
    door: AtomicU8,
    calls: Mutex<Vec<String>>,
    meanwhile: Mutex<Option<Meanwhile>>,
}

impl Gate {
    pub fn new() -> Arc<Self> {
        let inner = InMemory::new();
        Arc::new(Self { inner, door: AtomicU8::new(0), calls: Mutex::default(), meanwhile: Mutex::default() })
    }

    pub fn objects(self: &Arc<Self>) -> Arc<dyn ObjectStore> {
        Arc::<Self>::clone(self)
    }

    pub fn set(&self, door: Door) {
        self.door.store(door as u8, Ordering::Relaxed);
    }

    /// Lets `meanwhile` happen before the next read of a data object.
    pub fn before_next_read(&self, meanwhile: impl Future<Output = ()> + Send + 'static) {
        *self.meanwhile.lock().unwrap() = Some(Meanwhile(Box::pin(meanwhile)));
    }

    /// Returns the calls since the last look, each as its verb and key.
    pub fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }

    /// Returns every object with its content.
    pub async fn dump(&self) -> BTreeMap<String, Bytes> {
        use futures_util::TryStreamExt as _;
        use object_store::ObjectStoreExt as _;
        let found: Vec<_> = self.inner.list(None).try_collect().await.unwrap();
        let mut dump = BTreeMap::new();
        for meta in found {
            // The job's collector may be at work.
            if let Ok(found) = self.inner.get(&meta.location).await {
                dump.insert(meta.location.to_string(), found.bytes().await.unwrap());
            }
        }
        dump
    }

    /// Replaces an object, or removes it, behind the protocol's back.
    pub async fn damage(&self, key: &str, bytes: Option<Bytes>) {
        use object_store::ObjectStoreExt as _;
        match bytes {
            Some(bytes) => drop(self.inner.put(&Path::from(key), bytes.into()).await.unwrap()),
            None => self.inner.delete(&Path::from(key)).await.unwrap(),
        }
    }

    fn door(&self) -> Door {
        match self.door.load(Ordering::Relaxed) {
            1 => Door::Shut,
            2 => Door::Silent,
            3 => Door::ReadOnly,
            4 => Door::Overwriting,
            5 => Door::NoCreate,
            _ => Door::Open,
        }
    }

    async fn pass(&self, verb: &str, key: &Path, write: bool) -> object_store::Result<()> {
        if verb == "get" && key.as_ref().contains("/data/") {
            let meanwhile = self.meanwhile.lock().unwrap().take();
            if let Some(Meanwhile(meanwhile)) = meanwhile {
                meanwhile.await;
            }
        }
        self.calls.lock().unwrap().push(format!("{verb} {key}"));
        match self.door() {
            Door::Silent => std::future::pending().await,
            Door::Shut => Err(object_store::Error::Generic { store: "gate", source: "the door is shut".into() }),
            Door::ReadOnly if write => Err(object_store::Error::PermissionDenied {
                path: key.to_string(),
                source: "the store is read-only".into(),
            }),
            Door::NoCreate if verb == "put" => Err(object_store::Error::NotImplemented {
                operation: "create if absent".into(),
                implementer: "gate".into(),
            }),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("gate")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Gate {
    async fn put_opts(&self, key: &Path, payload: PutPayload, mut opts: PutOptions) -> object_store::Result<PutResult> {
        assert_eq!(opts.mode, object_store::PutMode::Create, "nothing may be overwritten");
        self.pass("put", key, true).await?;
        if self.door() == Door::Overwriting {
            opts.mode = object_store::PutMode::Overwrite;
        }
        self.inner.put_opts(key, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        panic!("no multipart upload is ever made");
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.pass("get", key, false).await?;
        self.inner.get_opts(key, options).await
    }

    fn delete_stream(
        &self,
        keys: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        use futures_util::StreamExt as _;
        let shut = matches!(self.door(), Door::Shut | Door::Silent | Door::ReadOnly);
        self.calls.lock().unwrap().push("delete".into());
        if shut {
            let refused = |_| Err(object_store::Error::Generic { store: "gate", source: "the door is shut".into() });
            return keys.map(refused).boxed();
        }
        self.inner.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.calls.lock().unwrap().push(format!("list {}", prefix.cloned().unwrap_or_default()));
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.pass("list", &prefix.cloned().unwrap_or_default(), false).await?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> object_store::Result<()> {
        panic!("nothing is ever copied in a store");
    }
}
