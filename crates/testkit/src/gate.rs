//! An in-memory store with a door that controls access.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult,
};
use tokio::sync::watch;

/// Whether a [`Gate`] lets calls through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Door {
    Open = 0,
    /// Calls fail at once.
    Shut = 1,
    /// Calls never return.
    Silent = 2,
    /// Writes fail, reads work.
    ReadOnly = 3,
    /// Creates overwrite existing objects.
    Overwriting = 4,
    /// Creates are not supported.
    NoCreate = 5,
    /// Reads of data objects fail.
    NoData = 6,
}

/// A future to run before the next read of data.
struct Meanwhile(BoxFuture<'static, ()>);

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meanwhile")
    }
}

/// An in-memory store behind a door, with a log of calls.
#[derive(Debug)]
pub struct Gate {
    inner: InMemory,
    door: AtomicU8,
    calls: Mutex<Vec<String>>,
    meanwhile: Mutex<Option<Meanwhile>>,
    /// How many more reads of data objects are let through; the others wait.
    reads: watch::Sender<usize>,
}

impl Gate {
    pub fn new() -> Arc<Self> {
        let (inner, reads) = (InMemory::new(), watch::Sender::new(usize::MAX));
        let (calls, meanwhile) = (Mutex::default(), Mutex::default());
        Arc::new(Self { inner, door: AtomicU8::new(0), calls, meanwhile, reads })
    }

    /// Lets this many reads of data objects through. Further ones wait until the next call.
    pub fn let_reads_pass(&self, reads: usize) {
        self.reads.send_replace(reads);
    }

    async fn wait_for_read(&self) {
        let mut reads = self.reads.subscribe();
        while !self.reads.send_if_modified(|left| left.checked_sub(1).map(|less| *left = less).is_some()) {
            // The sender lives as long as the gate.
            let _sent = reads.changed().await;
        }
    }

    pub fn objects(self: &Arc<Self>) -> Arc<dyn ObjectStore> {
        Arc::<Self>::clone(self)
    }

    pub fn set(&self, door: Door) {
        self.door.store(door as u8, Ordering::Relaxed);
    }

    /// Runs `meanwhile` before the next read of a data object.
    pub fn before_next_read(&self, meanwhile: impl Future<Output = ()> + Send + 'static) {
        *self.meanwhile.lock().unwrap() = Some(Meanwhile(Box::pin(meanwhile)));
    }

    /// Returns and clears the logged calls, each as verb and key.
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
            // The job's collector may delete objects concurrently.
            if let Ok(found) = self.inner.get(&meta.location).await {
                dump.insert(meta.location.to_string(), found.bytes().await.unwrap());
            }
        }
        dump
    }

    /// Replaces or removes an object, bypassing the protocol.
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
            6 => Door::NoData,
            _ => Door::Open,
        }
    }

    async fn pass(&self, verb: &str, key: &Path, write: bool) -> object_store::Result<()> {
        if verb == "get" && key.as_ref().contains("/data/") {
            self.wait_for_read().await;
            let meanwhile = self.meanwhile.lock().unwrap().take();
            if let Some(Meanwhile(meanwhile)) = meanwhile {
                meanwhile.await;
            }
        }
        self.calls.lock().unwrap().push(format!("{verb} {key}"));
        match self.door() {
            Door::Silent => std::future::pending().await,
            Door::Shut => Err(object_store::Error::Generic { store: "gate", source: "the door is shut".into() }),
            Door::NoData if verb == "get" && key.as_ref().contains("/data/") => {
                Err(object_store::Error::Generic { store: "gate", source: "data is out of reach".into() })
            }
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
