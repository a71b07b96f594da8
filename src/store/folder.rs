//! A local folder as an object store. An object that can be read back is durable.
//!
//! The library syncs a file before renaming it, and its folder afterwards. If the last sync fails, or the caller stops
//! waiting for it, the name exists but may be lost at a power failure. Finding the name is therefore no proof.
//!
//! Invariants: an object whose create did not succeed is not read before its name is durable; a failed sync is not
//! retried over the same changes and then trusted; a foreign entry never hides objects.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::fault::behind;
use super::walk;

/// Errors of `link` on file systems without hard links: EPERM (VFAT), ENOSYS and EOPNOTSUPP (FUSE).
const NO_HARD_LINKS: [i32; 3] = [1, 38, 95];

/// An object store in a local folder.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    files: LocalFileSystem,
    /// Names that may exist without being durable.
    doubtful: Mutex<BTreeSet<Path>>,
}

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

    fn doubtful(&self) -> MutexGuard<'_, BTreeSet<Path>> {
        self.doubtful.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes durable a name that a failed create may have left. Blocks, which is acceptable because it is rare.
    fn settle(&self, location: &Path) -> Result<()> {
        if !self.doubtful().contains(location) {
            return Ok(());
        }
        let failed = |source: io::Error| Error::Generic { store: "folder", source: source.into() };
        let file = self.files.path_to_filesystem(location)?;
        // The create may also have made parent folders without syncing them.
        for folder in file.ancestors().skip(1).take(location.parts_count()) {
            change_and_sync(folder).map_err(failed)?;
        }
        self.doubtful().remove(location);
        Ok(())
    }
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
        // Insert before the put: a caller that times out never sees its result.
        let is_new = self.doubtful().insert(location.clone());
        let put = self.files.put_opts(location, payload, options).await;
        if put.is_ok() || is_new && matches!(put, Err(Error::AlreadyExists { .. })) {
            self.doubtful().remove(location);
        }
        put.map_err(without_hard_links)
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(not_implemented("an upload in parts"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.settle(location)?;
        let got = self.files.get_opts(location, options).await;
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

fn not_implemented(operation: &str) -> Error {
    Error::NotImplemented { operation: operation.to_owned(), implementer: "folder".to_owned() }
}
