//! An open database in its own folder, and snapshots of it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use rocksdb::{DB, DBPinnableSlice, DBRawIterator, ErrorKind as Kind, Options, ReadOptions, Snapshot};

use super::cell::Cell;
use super::span::Span;
use crate::error::{Error, Result, broken};
use crate::row::Rules;

/// The column family of all rows.
pub(super) const COLUMN_FAMILY: &str = "default";

/// A database. Dropping it deletes its folder: durable state is in checkpoints.
pub(super) struct Db {
    inner: DB,
    /// After `inner`: the folder can be deleted only once the database is closed.
    folder: Folder,
    /// Also has the statistics, which RocksDB exposes through its options.
    pub(super) options: Arc<Options>,
    pub(super) shared_rules: Arc<SharedRules>,
    pub(super) loads: Arc<LoadFolder>,
}

/// Where sorted files are written that are to be ingested. It needs no open database.
pub(super) struct LoadFolder {
    path: PathBuf,
    options: Arc<Options>,
    /// Distinguishes the files of databases that used one folder, one after the other.
    id: u64,
    files: AtomicU64,
}

impl LoadFolder {
    fn new(database: &Path, options: &Arc<Options>) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        Self { path: loads_in(database), options: Arc::clone(options), id, files: AtomicU64::new(0) }
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    /// Returns the path of a new file.
    pub(super) fn new_file(&self) -> PathBuf {
        self.file(self.files.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns the path of a file by its number, from 0.
    pub(super) fn file(&self, number: u64) -> PathBuf {
        self.path.join(format!("{}-{number}.sst", self.id))
    }
}

/// Returns the folder of the files to ingest. RocksDB does not know it.
fn loads_in(database: &Path) -> PathBuf {
    database.join("loads")
}

/// Deletes a database that nobody uses, with the files that it has not ingested.
fn destroy(options: &Options, folder: &Path) -> Result<(), rocksdb::Error> {
    DB::destroy(options, folder)?;
    // RocksDB deletes its own files alone, and the folder if nothing else is there.
    drop(std::fs::remove_dir_all(loads_in(folder)));
    drop(std::fs::remove_dir(folder));
    Ok(())
}

/// A folder that is deleted on drop.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = destroy(&Options::default(), &self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "cannot remove a database");
        }
    }
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Db").field(&self.folder.0).finish()
    }
}

impl Db {
    /// Opens an empty database in `folder`, and first deletes a database that no process uses any more.
    ///
    /// # Errors
    /// `Config` if the folder is in use; `Denied`, `Limit` or `Unavailable` from the disk.
    pub(super) fn create(folder: &Path, options: Options, shared_rules: Arc<SharedRules>) -> Result<Self> {
        let at = |error: Error| error.with("folder", folder.display());
        let created = std::fs::create_dir_all(folder);
        created.map_err(|error| at(disk_error("cannot make the state folder", error)))?;
        destroy(&options, folder).map_err(|error| at(rocksdb_error("cannot empty the state folder", error)))?;
        // `destroy` deletes the folder too.
        let created = std::fs::create_dir_all(loads_in(folder));
        created.map_err(|error| at(disk_error("cannot make the state folder", error)))?;
        let inner = DB::open_cf_with_opts(&options, folder, [(COLUMN_FAMILY, options.clone())])
            .map_err(|error| at(rocksdb_error("cannot open the state folder", error)))?;
        let options = Arc::new(options);
        let loads = Arc::new(LoadFolder::new(folder, &options));
        Ok(Self { inner, folder: Folder(folder.to_owned()), options, shared_rules, loads })
    }

    pub(super) fn inner(&self) -> &DB {
        &self.inner
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder.0
    }
}

/// The rules of rows, shared with RocksDB's callbacks, which run outside the owner's calls.
#[derive(Debug, Default)]
pub(super) struct SharedRules {
    rules: RwLock<Rules>,
    /// The rules of live views. Not the views themselves: a callback that upgraded one could become its last owner and
    /// close the database on a thread of RocksDB.
    views: Mutex<Vec<Weak<Rules>>>,
}

impl SharedRules {
    pub(super) fn set(&self, rules: &Rules) {
        self.rules.write().unwrap_or_else(PoisonError::into_inner).clone_from(rules);
    }

    /// Returns the rules at the time of the oldest live view. No reader sees a row that had expired by then.
    pub(super) fn at_horizon(&self) -> Rules {
        let views: Vec<_> = {
            let views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
            views.iter().filter_map(Weak::upgrade).collect()
        };
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        rules.at_earliest(views.iter().map(Arc::as_ref))
    }

    fn register_view(&self, rules: &Arc<Rules>) {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        views.retain(|rules| rules.strong_count() > 0);
        views.push(Arc::downgrade(rules));
    }
}

self_cell::self_cell!(
    struct Pinned {
        owner: Arc<Db>,
        #[covariant]
        dependent: Snapshot,
    }
);

/// A snapshot of the database.
pub(super) struct View {
    read: ReadOptions,
    pinned: Pinned,
    /// Number of layers written before the snapshot.
    pub(super) layers: u64,
    /// The rules at the seal of the last of these layers: the horizon of compaction while the view lives.
    _rules: Arc<Rules>,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("layers", &self.layers).finish_non_exhaustive()
    }
}

impl View {
    /// Takes a snapshot of the database, which contains `layers` layers. The caller must prevent concurrent writes.
    pub(super) fn new(db: &Arc<Db>, layers: u64, rules: Rules) -> Arc<Self> {
        let pinned = Pinned::new(Arc::clone(db), |db| db.inner.snapshot());
        let mut read = ReadOptions::default();
        read.set_snapshot(pinned.borrow_dependent());
        let rules = Arc::new(rules);
        db.shared_rules.register_view(&rules);
        Arc::new(Self { read, pinned, layers, _rules: rules })
    }

    fn db(&self) -> &DB {
        &self.pinned.borrow_owner().inner
    }

    /// Returns the cell of a row.
    ///
    /// # Errors
    /// `Corrupt` if files are damaged or missing; `Unavailable` from the disk.
    pub(super) fn get(&self, row_key: &[u8]) -> Result<Option<DBPinnableSlice<'_>>> {
        self.db().get_pinned_opt(row_key, &self.read).map_err(|error| rocksdb_error("cannot read a row", error))
    }

    /// Looks up a row without reading from disk. Returns `None` if the row is absent, else the bytes of its pieces, if
    /// known. An absent row sometimes passes for a present one (Bloom filters).
    pub(super) fn peek(&self, row_key: &[u8]) -> Option<Option<u64>> {
        let Some(family) = self.db().cf_handle(COLUMN_FAMILY) else { broken("the database has its column family") };
        let (maybe, cell) = self.db().key_may_exist_cf_opt_value(family, row_key, &self.read);
        maybe.then(|| cell.and_then(|cell| Some(Cell::read(cell.as_ref()).ok()?.payload_bytes())))
    }

    /// Returns an iterator at the start of `span`.
    ///
    /// * `fill_cache`: whether the blocks are likely to be read again.
    pub(super) fn iterate(&self, span: &Span, fill_cache: bool) -> DBRawIterator<'_> {
        let mut read = ReadOptions::default();
        read.set_iterate_lower_bound(span.from.clone());
        if let Some(to) = &span.to {
            read.set_iterate_upper_bound(to.clone());
        }
        read.fill_cache(fill_cache);
        read.set_auto_readahead_size(!fill_cache);
        let mut rows = self.pinned.borrow_dependent().raw_iterator_opt(read);
        rows.seek_to_first();
        rows
    }
}

/// Converts an error of RocksDB.
pub(super) fn rocksdb_error(message: &str, error: rocksdb::Error) -> Error {
    let text = error.to_string();
    let has = |part: &str| text.contains(part);
    let new = match error.kind() {
        Kind::Corruption => Error::corrupt(message),
        Kind::IOError if has("lock hold by current process") || has("Resource temporarily unavailable") => {
            Error::config(format!("{message}: somebody else uses it"))
        }
        Kind::IOError if has("No space left") || has("Disk quota") => {
            Error::limit(format!("{message}: the disk is full"))
        }
        Kind::IOError if has("Permission denied") => Error::denied(message),
        Kind::IOError if has("No such file") => Error::corrupt(format!("{message}: a file is gone")),
        Kind::InvalidArgument | Kind::NotSupported => Error::config(message),
        Kind::ShutdownInProgress => Error::stopped(message),
        _ => Error::unavailable(message),
    };
    new.with_source(error)
}

/// Converts an error of the file system.
pub(super) fn disk_error(message: &str, error: std::io::Error) -> Error {
    let new = match error.kind() {
        std::io::ErrorKind::PermissionDenied => Error::denied(message),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Error::limit(message),
        _ => Error::unavailable(message),
    };
    new.with_source(error)
}
