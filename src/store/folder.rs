//! A local folder as an object store. An object that can be read back is durable.
//!
//! The library syncs a file before renaming it, and its folder afterwards. If the last sync fails, or the caller stops
//! waiting for it, the name exists but may be lost at a power failure. Finding the name is therefore no proof.
//!
//! Invariants: an object whose create did not succeed is not read before its create has ended and its name is durable; a
//! failed sync is not retried over the same changes and then trusted; a foreign entry never hides objects.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::future::{BoxFuture, Shared, ready};
use futures_util::stream::{BoxStream, once};
use futures_util::{FutureExt as _, StreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, Extensions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::oneshot;

use super::fault::behind;
use super::walk;

/// Errors of `link` on file systems without hard links: EPERM (VFAT), ENOSYS and EOPNOTSUPP (FUSE).
const NO_HARD_LINKS: [i32; 3] = [1, 38, 95];

/// An object store in a local folder.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    files: LocalFileSystem,
    /// Names that may exist without being durable, each with the create that made it doubtful.
    doubtful: Mutex<BTreeMap<Path, Create>>,
}

/// A create, which runs to its end also if its caller no longer waits. Resolves then.
type Create = Shared<BoxFuture<'static, ()>>;

impl Folder {
    /// Opens the existing folder `root`.
    ///
    /// * `sync`: whether creates are durable.
    pub(super) fn open(root: &FilePath, sync: bool) -> Result<Arc<Self>> {
        let files = LocalFileSystem::new_with_prefix(root)?.with_fsync(sync);
        Ok(Arc::new(Self { root: root.to_owned(), files, doubtful: Mutex::default() }))
    }

    /// Returns the folder of the objects below `prefix`.
    fn below(&self, prefix: &Path) -> PathBuf {
        prefix.parts().fold(self.root.clone(), |folder, part| folder.join(part.as_ref()))
    }

    /// Returns the range that is all that `options` ask for, if the object has it.
    fn whole_range(&self, location: &Path, options: &GetOptions) -> Option<Range<u64>> {
        let range = range_alone(options)?;
        let file = fs::metadata(self.files.path_to_filesystem(location).ok()?).ok()?;
        // Memory is not allocated by a length that somebody states.
        (file.is_file() && range.start < range.end && range.end <= file.len()).then_some(range)
    }

    /// Reads a range in one piece of blocking work, where the library opens the file in one and reads it in another.
    async fn read(&self, location: &Path, range: Range<u64>) -> Result<GetResult> {
        let bytes = self.files.get_ranges(location, slice::from_ref(&range)).await?.pop().unwrap_or_default();
        let range = range.start..range.start.saturating_add(bytes.len() as u64);
        Ok(GetResult {
            payload: GetResultPayload::Stream(once(ready(Ok(bytes))).boxed()),
            meta: walk::undescribed(location.clone()),
            range,
            attributes: Attributes::default(),
            extensions: Extensions::default(),
        })
    }

    /// Notes that `location` is doubtful because of `create`, before which no other may run. Returns whether it was not
    /// doubtful.
    async fn begin(&self, location: &Path, create: &Create) -> bool {
        loop {
            let running = match self.doubtful().entry(location.clone()) {
                Entry::Vacant(entry) => {
                    // Before it begins: a caller that times out never sees its result.
                    let _inserted = entry.insert(create.clone());
                    return true;
                }
                Entry::Occupied(mut entry) if entry.get().peek().is_some() => {
                    let _ended = entry.insert(create.clone());
                    return false;
                }
                Entry::Occupied(entry) => entry.get().clone(),
            };
            running.await;
        }
    }

    /// Notes that the name which `create` made doubtful is durable.
    fn trust(&self, location: &Path, create: &Create) {
        let mut doubtful = self.doubtful();
        if doubtful.get(location).is_some_and(|newest| newest.ptr_eq(create)) {
            doubtful.remove(location);
        }
    }

    fn doubtful(&self) -> MutexGuard<'_, BTreeMap<Path, Create>> {
        self.doubtful.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes durable a name that a failed create may have left. Blocks, which is acceptable because it is rare.
    async fn settle(&self, location: &Path) -> Result<()> {
        let create = self.doubtful().get(location).cloned();
        let Some(create) = create else { return Ok(()) };
        // Its last sync may yet fail, and the system then drop the change that is to be synced here.
        create.clone().await;
        let file = self.files.path_to_filesystem(location)?;
        // The create may also have made parent folders without syncing them.
        for folder in file.ancestors().skip(1).take(location.parts_count()) {
            change_and_sync(folder).map_err(failed)?;
        }
        self.trust(location, &create);
        Ok(())
    }
}

/// Returns the range that is all that `options` ask for.
fn range_alone(options: &GetOptions) -> Option<Range<u64>> {
    let Some(GetRange::Bounded(range)) = &options.range else { return None };
    let has_condition = options.if_match.is_some()
        || options.if_none_match.is_some()
        || options.if_modified_since.is_some()
        || options.if_unmodified_since.is_some();
    (!has_condition && options.version.is_none() && !options.head).then(|| range.clone())
}

/// Changes a folder, then syncs it. After a failed sync the system may treat the unwritten changes as clean, so that
/// another sync alone would write nothing.
fn change_and_sync(folder: &FilePath) -> io::Result<()> {
    // The library hides names of this form and never uses 0 itself.
    let scratch = folder.join("sync#0");
    match OpenOptions::new().write(true).create_new(true).open(&scratch) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => fs::remove_file(&scratch)?,
    }
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Folder {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (sender, receiver) = oneshot::channel();
        let (files, to) = (self.files.clone(), location.clone());
        let create = async move {
            let put = files.put_opts(&to, payload, options).await;
            // The receiver is gone if the caller no longer waits.
            let _given_up = sender.send(put);
        };
        let create = create.boxed().shared();
        let is_new = self.begin(location, &create).await;
        create.clone().await;
        let put = receiver.await.unwrap_or_else(|_| Err(failed(io::Error::other("the create ended without a result"))));
        if put.is_ok() || is_new && matches!(put, Err(Error::AlreadyExists { .. })) {
            self.trust(location, &create);
        }
        put.map_err(without_hard_links)
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(not_implemented("an upload in parts"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.settle(location).await?;
        let got = match self.whole_range(location, &options) {
            Some(range) => self.read(location, range).await,
            None => self.files.get_opts(location, options).await,
        };
        // The library reports a folder under the object's name as "not found", but no object can be created there.
        if matches!(got, Err(Error::NotFound { .. })) && self.below(location).is_dir() {
            let source = io::Error::from(ErrorKind::IsADirectory).into();
            return Err(Error::Generic { store: "folder", source });
        }
        got
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.files.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.cloned().unwrap_or_default();
        walk::all(&self.below(&prefix), &prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = prefix.cloned().unwrap_or_default();
        walk::direct(&self.below(&prefix), &prefix)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(not_implemented("a copy"))
    }
}

/// Recognises a file system without hard links, which atomic creates need. Other errors pass unchanged.
fn without_hard_links(error: Error) -> Error {
    // The library writes the file before it links, so EPERM from the link is not about permissions of the folder.
    let from_link = matches!(&error, Error::Generic { .. }) && error.to_string().contains("Unable to rename file");
    let number = behind(&error, |source: &io::Error| source.raw_os_error()).flatten();
    match number {
        Some(number) if from_link && NO_HARD_LINKS.contains(&number) => {
            let source = format!("the file system has no hard links: {error}").into();
            Error::NotSupported { source }
        }
        _ => error,
    }
}

fn failed(source: io::Error) -> Error {
    Error::Generic { store: "folder", source: source.into() }
}

fn not_implemented(operation: &str) -> Error {
    Error::NotImplemented { operation: operation.to_owned(), implementer: "folder".to_owned() }
}
