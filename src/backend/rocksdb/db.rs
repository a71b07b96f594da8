//! An open database in a folder of its own, and views of it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use rocksdb::{DB, DBPinnableSlice, DBRawIterator, ErrorKind as Kind, Options, ReadOptions, Snapshot};

use super::cell::Cell;
use super::span::Span;
use crate::error::{Error, Result, broken};
use crate::row::Rules;

/// The column family that all rows lie in.
pub(super) const COLUMN_FAMILY: &str = "default";

/// A database. Its folder goes when it does: what is to last stands in checkpoints.
pub(super) struct Db {
    inner: DB,
    /// Dropped after the database is closed.
    folder: Folder,
    /// Its statistics are read through them.
    pub(super) options: Options,
    pub(super) meaning: Arc<Meaning>,
}

/// A folder that only this process uses.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = DB::destroy(&Options::default(), &self.0) {
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
    /// Opens an empty database in `folder`. What another one left there, which is not in use any more, is removed.
    ///
    /// # Errors
    /// `Config` if the folder is in use; `Denied`, `Limit` or `Unavailable` from the disk.
    pub(super) fn create(folder: &Path, options: Options, meaning: Arc<Meaning>) -> Result<Self> {
        let at = |error: Error| error.with("folder", folder.display());
        let made = std::fs::create_dir_all(folder);
        made.map_err(|error| at(of_disk("cannot make the state folder", error)))?;
        DB::destroy(&options, folder).map_err(|error| at(of_rocksdb("cannot empty the state folder", error)))?;
        // Emptying has removed it.
        let made = std::fs::create_dir_all(folder);
        made.map_err(|error| at(of_disk("cannot make the state folder", error)))?;
        let inner = DB::open_cf_with_opts(&options, folder, [(COLUMN_FAMILY, options.clone())])
            .map_err(|error| at(of_rocksdb("cannot open the state folder", error)))?;
        Ok(Self { inner, folder: Folder(folder.to_owned()), options, meaning })
    }

    pub(super) fn inner(&self) -> &DB {
        &self.inner
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder.0
    }
}

/// What rows mean, for merging and dropping them where no operation of the owner's is under way.
#[derive(Debug, Default)]
pub(super) struct Meaning {
    rules: RwLock<Rules>,
    /// The rules of views that somebody still reads. Not the views: whoever holds one may be the last that does, and a
    /// thread of RocksDB's must not be the one that closes it.
    views: Mutex<Vec<Weak<Rules>>>,
}

impl Meaning {
    pub(super) fn set(&self, rules: &Rules) {
        self.rules.write().unwrap_or_else(PoisonError::into_inner).clone_from(rules);
    }

    /// Returns the rules at the time of the oldest view that somebody still reads: what has expired by then is seen
    /// by nobody.
    pub(super) fn at_horizon(&self) -> Rules {
        let views: Vec<_> = {
            let views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
            views.iter().filter_map(Weak::upgrade).collect()
        };
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        rules.at_earliest(views.iter().map(Arc::as_ref))
    }

    fn note(&self, rules: &Arc<Rules>) {
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

/// The database as it was at an instant.
pub(super) struct View {
    read: ReadOptions,
    pinned: Pinned,
    /// How many layers it has in it.
    pub(super) layers: u64,
    /// The rules at the time of the last of them.
    _rules: Arc<Rules>,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("layers", &self.layers).finish_non_exhaustive()
    }
}

impl View {
    /// Returns the database as it is, which has `layers` in it. Nobody may write to it meanwhile.
    pub(super) fn new(db: &Arc<Db>, layers: u64, rules: Rules) -> Arc<Self> {
        let pinned = Pinned::new(Arc::clone(db), |db| db.inner.snapshot());
        let mut read = ReadOptions::default();
        read.set_snapshot(pinned.borrow_dependent());
        let rules = Arc::new(rules);
        db.meaning.note(&rules);
        Arc::new(Self { read, pinned, layers, _rules: rules })
    }

    fn db(&self) -> &DB {
        &self.pinned.borrow_owner().inner
    }

    /// Returns the cell at `place`.
    ///
    /// # Errors
    /// `Corrupt` if the files are damaged or gone; `Unavailable` from the disk.
    pub(super) fn get(&self, place: &[u8]) -> Result<Option<DBPinnableSlice<'_>>> {
        self.db().get_pinned_opt(place, &self.read).map_err(|error| of_rocksdb("cannot read a row", error))
    }

    /// Returns what is known without reading from disk of the cell at `place`: `None` if there is none, else the bytes of
    /// its pieces, if they are known. Now and then a row that is not there is taken for one that is.
    pub(super) fn peek(&self, place: &[u8]) -> Option<Option<u64>> {
        let Some(family) = self.db().cf_handle(COLUMN_FAMILY) else { broken("the database has its column family") };
        let (maybe, cell) = self.db().key_may_exist_cf_opt_value(family, place, &self.read);
        maybe.then(|| cell.and_then(|cell| Some(Cell::read(cell.as_ref()).ok()?.payload_bytes())))
    }

    /// Returns an iterator at the start of `span`.
    ///
    /// * `keep`: whether the blocks that are read are likely to be read again.
    pub(super) fn iterate(&self, span: &Span, keep: bool) -> DBRawIterator<'_> {
        let mut read = ReadOptions::default();
        read.set_iterate_lower_bound(span.from.clone());
        if let Some(to) = &span.to {
            read.set_iterate_upper_bound(to.clone());
        }
        read.fill_cache(keep);
        read.set_auto_readahead_size(!keep);
        let mut rows = self.pinned.borrow_dependent().raw_iterator_opt(read);
        rows.seek_to_first();
        rows
    }
}

/// Returns what to do about an error of RocksDB's.
pub(super) fn of_rocksdb(message: &str, error: rocksdb::Error) -> Error {
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

/// Returns what to do about an error of the disk's.
pub(super) fn of_disk(message: &str, error: std::io::Error) -> Error {
    let new = match error.kind() {
        std::io::ErrorKind::PermissionDenied => Error::denied(message),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Error::limit(message),
        _ => Error::unavailable(message),
    };
    new.with_source(error)
}
