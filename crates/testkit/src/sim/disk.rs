//! A disk that loses unsynced data, and a file store on it that follows the steps of `file://`: write a new file, sync
//! it, link it under its name, sync the folder. Before a read of a name whose create did not succeed, the store changes
//! the folder and syncs it again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::Shared;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::oneshot;

use super::store::meta;
use super::{Node, Rng, Sim};

/// A disk writes this much atomically, unless power fails.
const BLOCK_BYTES: usize = 4096;

/// A disk writes this much atomically even if power fails.
const SECTOR_BYTES: usize = 512;

/// Sync failures, per 1000 syncs.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiskFaults {
    pub file_sync: u64,
    pub name_sync: u64,
}

struct File {
    /// The contents visible to programs.
    visible: Bytes,
    /// The contents on the disk.
    durable: Vec<u8>,
    /// A sync failed: the system marks the pages clean and never writes them again.
    lost: bool,
}

#[derive(Default)]
struct State {
    files: Vec<File>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Folders with unsynced changes. After a failed sync the changes count as written.
    dirty: BTreeSet<String>,
    /// The file system's journal failed: all further writes fail.
    journal_failed: bool,
    faults: DiskFaults,
}

/// The disk. Clones share it.
#[derive(Clone)]
pub struct Disk {
    sim: Sim,
    state: Arc<Mutex<State>>,
}

fn folder(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn failed(text: &str) -> Error {
    Error::Generic { store: "disk", source: text.to_owned().into() }
}

impl Disk {
    pub fn new(sim: &Sim) -> Self {
        Self { sim: sim.clone(), state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn set_faults(&self, faults: DiskFaults) {
        self.state().faults = faults;
    }

    fn write_new(&self, bytes: Bytes) -> Result<usize> {
        let mut state = self.state();
        if state.journal_failed {
            return Err(failed("read-only file system"));
        }
        state.files.push(File { visible: bytes, durable: Vec::new(), lost: false });
        Ok(state.files.len() - 1)
    }

    fn sync_file(&self, file: usize) -> Result<()> {
        let fails = self.sim.draw(|rng| rng.permille(self.state().faults.file_sync));
        let mut state = self.state();
        let journal_failed = state.journal_failed;
        let file = &mut state.files[file];
        if fails || journal_failed {
            self.sim.hit("sync of a file failed");
            file.lost = true;
            return Err(failed("input/output error"));
        }
        if !file.lost {
            file.durable = file.visible.to_vec();
        }
        Ok(())
    }

    fn link(&self, file: usize, name: &str) -> Result<()> {
        let mut state = self.state();
        if state.journal_failed {
            return Err(failed("read-only file system"));
        }
        if state.names.contains_key(name) {
            return Err(Error::AlreadyExists { path: name.to_owned(), source: "file exists".into() });
        }
        state.names.insert(name.to_owned(), file);
        state.dirty.insert(folder(name).to_owned());
        Ok(())
    }

    /// Changes the folder of `name`, so that a sync has something to write.
    fn touch(&self, name: &str) -> Result<()> {
        let mut state = self.state();
        if state.journal_failed {
            return Err(failed("read-only file system"));
        }
        state.dirty.insert(folder(name).to_owned());
        Ok(())
    }

    /// Syncs the folder of `name`. After a failure, some file systems become read-only; others drop the changes.
    fn sync_name(&self, name: &str) -> Result<()> {
        let (fails, breaks) = self.sim.draw(|rng| (rng.permille(self.state().faults.name_sync), rng.permille(300)));
        let mut state = self.state();
        let State { names, durable_names, dirty, journal_failed, .. } = &mut *state;
        let dirty = dirty.remove(folder(name));
        *journal_failed |= fails && breaks;
        if fails || *journal_failed {
            self.sim.hit("sync of a folder failed");
            return Err(failed("input/output error"));
        }
        if dirty {
            let here = |known: &str| folder(known) == folder(name);
            durable_names.retain(|known, _| !here(known));
            durable_names
                .extend(names.iter().filter(|(known, _)| here(known)).map(|(known, file)| (known.clone(), *file)));
        }
        Ok(())
    }

    /// Loses power: any subset of the unsynced data survives, in any order.
    pub fn lose_power(&self) {
        self.sim.hit("power lost");
        let mut rng = self.sim.draw(Rng::fork);
        let mut state = self.state();
        let State { files, names, durable_names, dirty, journal_failed, .. } = &mut *state;
        dirty.clear();
        let visible = std::mem::take(names);
        for (name, file) in &visible {
            if !durable_names.contains_key(name) && rng.permille(300) {
                self.sim.hit("name survived that was not synced");
                durable_names.insert(name.clone(), *file);
            } else if !durable_names.contains_key(name) {
                self.sim.hit("name lost that was not synced");
            }
        }
        durable_names.retain(|name, _| visible.contains_key(name) || rng.permille(500));
        for file in files.iter_mut().filter(|file| file.durable != file.visible) {
            self.sim.hit("file torn");
            file.durable = torn(&file.visible, &mut rng);
            file.visible = file.durable.clone().into();
        }
        names.clone_from(durable_names);
        *journal_failed = false;
    }
}

/// Returns the remains of an unsynced file: possibly its length, and some of its blocks.
fn torn(bytes: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut left = vec![0; if rng.permille(500) { bytes.len() } else { rng.index(bytes.len() + 1) }];
    for (to, from) in left.chunks_mut(BLOCK_BYTES).zip(bytes.chunks(BLOCK_BYTES)) {
        let whole = to.len().min(from.len());
        let written = [0, whole, whole.min(SECTOR_BYTES * rng.index(9))][rng.index(3)];
        to[..written].copy_from_slice(&from[..written]);
    }
    left
}

/// Resolves when a create has ended.
type Ended = Shared<oneshot::Receiver<()>>;

/// A file store on a disk, as one process sees it.
#[derive(Clone)]
pub struct DiskStore {
    sim: Sim,
    node: Node,
    disk: Disk,
    /// Names that may exist without being durable, each with the end of its create; `None` if the store is not guarded.
    doubtful: Option<Arc<Mutex<BTreeMap<String, Ended>>>>,
}

impl DiskStore {
    /// Returns the store. With `guarded` it behaves like `file://`, otherwise like the underlying library alone.
    pub fn new(sim: &Sim, node: Node, disk: &Disk, guarded: bool) -> Self {
        Self { sim: sim.clone(), node, disk: disk.clone(), doubtful: guarded.then(Arc::default) }
    }

    /// Notes that a name is doubtful because of a create with this end, before which no other may run. Returns whether it
    /// was not doubtful.
    async fn mark_doubtful(&self, name: &str, ended: Ended) -> bool {
        let Some(doubtful) = &self.doubtful else { return false };
        loop {
            let running = {
                let mut doubtful = doubtful.lock().unwrap();
                match doubtful.get(name) {
                    Some(running) if running.peek().is_none() => running.clone(),
                    known => {
                        let is_new = known.is_none();
                        doubtful.insert(name.to_owned(), ended);
                        return is_new;
                    }
                }
            };
            // A crash drops it.
            let _ended = running.await;
        }
    }

    fn mark_durable(&self, name: &str) {
        self.doubtful.iter().for_each(|doubtful| {
            doubtful.lock().unwrap().remove(name);
        });
    }

    /// Makes durable a name that an earlier create may have left.
    async fn ensure_durable(&self, name: &str) -> Result<()> {
        let ended = self.doubtful.as_ref().and_then(|doubtful| doubtful.lock().unwrap().get(name).cloned());
        if let Some(ended) = ended {
            // A crash drops it.
            let _ended = ended.await;
            self.disk.touch(name)?;
            self.step().await;
            self.disk.sync_name(name)?;
            self.sim.hit("name in doubt synced before it was read");
            self.mark_durable(name);
        }
        Ok(())
    }

    async fn step(&self) {
        let ms = self.sim.draw(|rng| rng.within(0, 20));
        self.sim.runtime(self.node).sleep(Duration::from_millis(ms)).await;
    }

    async fn create(self, name: String, bytes: Bytes) -> Result<()> {
        self.step().await;
        let file = self.disk.write_new(bytes)?;
        self.step().await;
        self.disk.sync_file(file)?;
        self.step().await;
        self.disk.link(file, &name)?;
        self.step().await;
        self.disk.sync_name(&name)
    }

    fn find(&self, name: &str) -> Option<Bytes> {
        let state = self.disk.state();
        state.names.get(name).map(|file| state.files[*file].visible.clone())
    }
}

impl fmt::Display for DiskStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DiskStore(n{})", self.node)
    }
}

impl fmt::Debug for DiskStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[async_trait::async_trait]
impl ObjectStore for DiskStore {
    /// Completes even if the caller is dropped, as a blocking thread does.
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        assert_eq!(options.mode, PutMode::Create, "{location}: nothing may be overwritten");
        let ((sender, receiver), (ends, ended)) = (oneshot::channel(), oneshot::channel());
        let undoubted = self.mark_doubtful(location.as_ref(), ended.shared()).await;
        let create = self.clone().create(location.to_string(), payload.into());
        // The receivers may be dropped.
        let create = async move {
            drop(sender.send(create.await));
            let _waited_for = ends.send(());
        };
        self.sim.spawn(self.node, Box::pin(create));
        let created = receiver.await.unwrap_or_else(|_| Err(failed("killed")));
        if created.is_ok() || undoubted && matches!(created, Err(Error::AlreadyExists { .. })) {
            self.mark_durable(location.as_ref());
        }
        created?;
        Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotSupported { source: "multipart".into() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.ensure_durable(location.as_ref()).await?;
        self.step().await;
        let missing = || Error::NotFound { path: location.to_string(), source: "no such file".into() };
        let bytes = self.find(location.as_ref()).ok_or_else(missing)?;
        let size = bytes.len() as u64;
        let range = match options.range {
            None => 0..size,
            Some(GetRange::Bounded(range)) if range.start < size => range.start..range.end.min(size),
            Some(_) => return Err(failed("invalid range")),
        };
        let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).expect("it lies in the file"));
        let body = if options.head { Bytes::new() } else { bytes.slice(start..end) };
        let payload = GetResultPayload::Stream(stream::iter([Ok(body)]).boxed());
        let meta = meta(location.as_ref(), size)?;
        Ok(GetResult { payload, meta, range, attributes: Default::default(), extensions: Default::default() })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .and_then(move |location| {
                let store = store.clone();
                async move {
                    store.step().await;
                    store.disk.state().names.remove(location.as_ref());
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let start = prefix.map(|prefix| format!("{prefix}/")).unwrap_or_default();
        let state = self.disk.state();
        let below = state.names.iter().filter(|(name, _)| name.starts_with(&start));
        let found: Vec<_> = below.map(|(name, file)| meta(name, state.files[*file].visible.len() as u64)).collect();
        stream::iter(found).boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(Error::NotSupported { source: "listing of folders".into() })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(Error::NotSupported { source: "copy".into() })
    }
}
