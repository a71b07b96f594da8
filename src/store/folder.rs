//! A folder as an object store: what is read back from it is durable.
//!
//! The library syncs a file before it gives it its name, and its folder afterwards. If that last sync fails, or nobody
//! hears of it, the name stands and may be gone after a power loss. So it is not enough to find it there.
//!
//! Invariants: an object whose create did not succeed is not read before its name is durable; a sync that failed is not
//! repeated over the same changes and then trusted; an entry that is no object never hides those that are.

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

use super::retry::behind;
use super::walk;

/// What `link` answers where the file system has no hard links: EPERM (VFAT), ENOSYS and EOPNOTSUPP (FUSE).
const NO_HARD_LINKS: [i32; 3] = [1, 38, 95];

/// The objects in a folder.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    files: LocalFileSystem,
    /// Names that perhaps stand without being durable.
    doubtful: Mutex<BTreeSet<Path>>,
}

impl Folder {
    /// Returns the objects in the folder `root`, which exists. `sync`: creates are durable.
    pub(super) fn open(root: &FilePath, sync: bool) -> Result<Arc<Self>> {
        let files = LocalFileSystem::new_with_prefix(root)?.with_fsync(sync);
        Ok(Arc::new(Self { root: root.to_owned(), files, doubtful: Mutex::default() }))
    }

    /// Returns where the objects below `prefix` lie.
    fn below(&self, prefix: &Path) -> PathBuf {
        prefix.parts().fold(self.root.clone(), |folder, part| folder.join(part.as_ref()))
    }

    fn doubtful(&self) -> MutexGuard<'_, BTreeSet<Path>> {
        self.doubtful.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a name durable that a create may have left. Rare enough to be done where it is called.
    fn settle(&self, location: &Path) -> Result<()> {
        if !self.doubtful().contains(location) {
            return Ok(());
        }
        let failed = |source: io::Error| Error::Generic { store: "folder", source: source.into() };
        let file = self.files.path_to_filesystem(location)?;
        // Folders may have been made on the way, and not been synced either.
        for folder in file.ancestors().skip(1).take(location.parts_count()) {
            sync_anew(folder).map_err(failed)?;
        }
        self.doubtful().remove(location);
        Ok(())
    }
}

/// Syncs a folder after changing it: after a sync that failed the system may hold what was to be written for clean.
fn sync_anew(folder: &FilePath) -> io::Result<()> {
    // The library hides names of this form, and uses no 0.
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
        // Before it begins: if its caller loses patience, nobody hears how it ended.
        let undoubted = self.doubtful().insert(location.clone());
        let put = self.files.put_opts(location, payload, options).await;
        if put.is_ok() || undoubted && matches!(put, Err(Error::AlreadyExists { .. })) {
            self.doubtful().remove(location);
        }
        put.map_err(lacks_links)
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(unused("an upload in parts"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.settle(location)?;
        let got = self.files.get_opts(location, options).await;
        // The library calls a folder under the object's name "not found", but nothing can be created there.
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
        Err(unused("a copy"))
    }
}

/// Tells a file system without hard links, which a create needs to be atomic, from one that refuses access or is
/// disturbed.
fn lacks_links(error: Error) -> Error {
    // Before it links, the library has written the file, so EPERM is not about rights in the folder.
    let of_the_link = matches!(&error, Error::Generic { .. }) && error.to_string().contains("Unable to rename file");
    let number = behind(&error, |source: &io::Error| source.raw_os_error()).flatten();
    match number {
        Some(number) if of_the_link && NO_HARD_LINKS.contains(&number) => {
            let source = format!("the file system has no hard links: {error}").into();
            Error::NotSupported { source }
        }
        _ => error,
    }
}

fn unused(operation: &str) -> Error {
    Error::NotImplemented { operation: operation.to_owned(), implementer: "folder".to_owned() }
}
