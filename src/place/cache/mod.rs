//! Local copies of data objects, for restarts on the machine that wrote or read them before.
//!
//! A copy is never durable state, and never trusted: whatever is read from it passes the same hashes of the manifest as
//! bytes from the store (`DataObjects::read_checked`). If the file is missing, short, damaged, of another job or from an
//! older image of the disk, the check fails, the copy is dropped, and the store is read. So nothing here is synced, and a
//! power loss, a failed sync or rot costs a request, never state. Every error of the disk ends in the same way: counted,
//! and the store is read instead.
//!
//! One file per piece: a whole pack, or a range that was fetched. Object names are random and never used twice, so all jobs
//! of a machine may share a folder, and processes may too: files never change, a file that another process removed is
//! read from the store, and a write is a rename. That is why there is no lock: nothing that one process does to the folder can
//! harm another.
//!
//! Invariants: only files whose names a cache gives are read, counted or removed; links are not followed; the room of all
//! files stays within the budget, but for what other processes have added since the last look.

mod disk;
mod pieces;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::id::{ObjectId, PutId};
use crate::metrics;
use crate::runtime::{Runtime, SharedRuntime, run_blocking, timeout};

pub use disk::Disk;
use disk::Folder;
use pieces::{Piece, Pieces};

/// Most bytes that wait to be written. Beyond them, copies are not made: a disk that hangs holds up nothing.
const WAITING_BYTES_MAX: u64 = 256 << 20;

/// The folder is listed again after this share of the budget was written: other processes may share it.
const LISTED_AGAIN: u64 = 8;

/// How long an uploaded pack waits for its copy, which was begun beside the upload and is the faster unless the disk is sick.
const PATIENCE: Duration = Duration::from_secs(1);

const TEMPORARY: &str = ".tmp";

/// A folder of this machine with copies of data objects, within a budget. Clones share it, and so may jobs and processes.
///
/// A restart reads its state from there, after checking it as if it came from the store. Whatever is missing or damaged
/// there is read from the store. See [`Store::with_cache`](super::Store::with_cache).
#[derive(Clone)]
pub struct LocalCache {
    inner: Arc<Inner>,
}

/// What a [`LocalCache`] has done since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CacheCounts {
    /// Bytes read from copies.
    pub read_bytes: u64,
    /// Copies that were written.
    pub written: u64,
    /// Copies that were not made, for lack of room or because too many were waiting.
    pub skipped: u64,
    /// Copies that were short, or that the manifest's hashes refused. They are dropped.
    pub damaged: u64,
    /// Calls that the disk failed.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Counters {
    read_bytes: AtomicU64,
    written: AtomicU64,
    skipped: AtomicU64,
    damaged: AtomicU64,
    failed: AtomicU64,
}

struct Inner {
    disk: Arc<dyn Disk>,
    budget: u64,
    runtime: SharedRuntime,
    pieces: Mutex<Pieces>,
    /// Bytes handed to the runtime to be written.
    waiting: AtomicU64,
    /// Bytes written since the folder was last listed.
    unlisted: AtomicU64,
    /// Whether the last write failed; the first failure of several is logged.
    failing: AtomicBool,
    /// Whether a wait for a copy was given up and none was written since: then nobody waits.
    overdue: AtomicBool,
    counters: Counters,
}

/// The part of a range that copies have.
#[derive(Debug)]
pub(super) struct Found {
    /// Bytes with their offsets in the object, ascending.
    pub(super) parts: Vec<(u64, Bytes)>,
    /// The rest, to be read from the store; may be empty.
    pub(super) gap: Range<u64>,
    pieces: Vec<Piece>,
}

impl Found {
    const fn nothing(range: Range<u64>) -> Self {
        Self { parts: Vec::new(), gap: range, pieces: Vec::new() }
    }
}

impl LocalCache {
    /// Opens the cache in `folder`, which is created if it does not exist, and removes what it holds beyond `budget` bytes.
    /// Files that no cache has written are left alone and not counted.
    ///
    /// # Errors
    /// `Config` if the folder cannot be made, read or written.
    pub fn open(folder: impl Into<PathBuf>, budget: u64, runtime: impl Runtime) -> Result<Self> {
        let folder = folder.into();
        let refused = |source: io::Error| {
            Error::config("cannot use the folder of local copies").with("folder", folder.display()).with_source(source)
        };
        std::fs::create_dir_all(&folder).map_err(refused)?;
        Self::with_disk(Arc::new(Folder(folder.clone())), budget, Arc::new(runtime)).map_err(refused)
    }

    /// Opens the cache on any disk.
    ///
    /// # Errors
    /// Those of the disk, if it cannot be listed or written.
    #[cfg(feature = "internals")]
    pub fn on(disk: Arc<dyn Disk>, budget: u64, runtime: SharedRuntime) -> io::Result<Self> {
        Self::with_disk(disk, budget, runtime)
    }

    fn with_disk(disk: Arc<dyn Disk>, budget: u64, runtime: SharedRuntime) -> io::Result<Self> {
        let inner = Inner {
            disk,
            budget,
            runtime,
            pieces: Mutex::default(),
            waiting: AtomicU64::new(0),
            unlisted: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            overdue: AtomicBool::new(false),
            counters: Counters::default(),
        };
        inner.open()?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Returns what this value and its clones have done.
    #[must_use]
    pub fn counts(&self) -> CacheCounts {
        let counters = &self.inner.counters;
        let [read_bytes, written, skipped, damaged, failed] =
            [&counters.read_bytes, &counters.written, &counters.skipped, &counters.damaged, &counters.failed]
                .map(|counter| counter.load(Ordering::Relaxed));
        CacheCounts { read_bytes, written, skipped, damaged, failed }
    }

    /// Returns the room that the files take, in bytes.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.inner.pieces().room()
    }

    /// Returns the bytes that wait to be written.
    #[must_use]
    pub fn waiting_bytes(&self) -> u64 {
        self.inner.waiting.load(Ordering::Acquire)
    }

    /// Writes a copy of a whole object, in the background.
    pub(super) fn add_object(&self, object: ObjectId, pieces: Vec<Bytes>) -> oneshot::Receiver<()> {
        let length = pieces.iter().map(|piece| piece.len() as u64).sum();
        self.add(Piece::whole(object, length), pieces)
    }

    /// Waits until a copy is written or given up, but not for a disk that is sick: the copy is finished, or not, later.
    pub(super) async fn wait(&self, written: oneshot::Receiver<()>) {
        let inner = &self.inner;
        if !inner.overdue.load(Ordering::Relaxed) && timeout(&*inner.runtime, PATIENCE, written).await.is_none() {
            inner.overdue.store(true, Ordering::Relaxed);
        }
    }

    /// Writes a copy of a part of an object, in the background.
    pub(super) fn add_part(&self, object: ObjectId, start: u64, bytes: Bytes) {
        let range = start..start.saturating_add(bytes.len() as u64);
        // Nobody waits for it.
        drop(self.add(Piece::part(object, &range), vec![bytes]));
    }

    fn add(&self, piece: Piece, pieces: Vec<Bytes>) -> oneshot::Receiver<()> {
        let (done, receiver) = oneshot::channel();
        let within = |waiting: u64| waiting.checked_add(piece.length()).filter(|bytes| *bytes <= WAITING_BYTES_MAX);
        if self.inner.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_err() {
            self.inner.skip();
            return receiver;
        }
        let inner = Arc::clone(&self.inner);
        self.inner.runtime.spawn_blocking(Box::new(move || {
            inner.write(&piece, &pieces);
            inner.overdue.store(false, Ordering::Relaxed);
            inner.waiting.fetch_sub(piece.length(), Ordering::Release);
            // The receiver is gone if nobody waits.
            let _unheard = done.send(());
        }));
        receiver
    }

    /// Returns what copies have of `range` of an object. Its bytes are not verified.
    pub(super) async fn read(&self, object: ObjectId, range: Range<u64>) -> Found {
        if range.is_empty() {
            return Found::nothing(range);
        }
        let (inner, wanted) = (Arc::clone(&self.inner), range.clone());
        let found = run_blocking(&*self.inner.runtime, move || Ok(inner.read(object, wanted))).await;
        found.unwrap_or_else(|_| Found::nothing(range))
    }

    /// Drops the copies from which `found` was read: they are damaged.
    pub(super) async fn refuse(&self, found: Vec<Found>, error: &Error) {
        let pieces: Vec<_> = found.into_iter().flat_map(|found| found.pieces).collect();
        for piece in &pieces {
            tracing::warn!(
                piece = piece.name(),
                error = error.chain(),
                "a local copy is damaged, reading from the store"
            );
        }
        let inner = Arc::clone(&self.inner);
        let dropped = run_blocking(&*self.inner.runtime, move || {
            pieces.iter().for_each(|piece| inner.drop_damaged(piece));
            Ok(())
        });
        // If the runtime is ending, the copies stay and are refused again.
        drop(dropped.await);
    }

    /// Drops all copies of an object, in the background: it is deleted from the store, or was never created.
    pub(super) fn forget(&self, object: ObjectId) {
        let inner = Arc::clone(&self.inner);
        self.inner.runtime.spawn_blocking(Box::new(move || {
            // Another process may have written the whole.
            let whole = inner.disk.length(&Piece::whole(object, 0).name()).ok();
            let whole = whole.map(|length| Piece::whole(object, length));
            let pieces = inner.pieces().of(object);
            whole.iter().chain(&pieces).for_each(|piece| inner.remove(piece));
        }));
    }
}

impl Inner {
    fn pieces(&self) -> MutexGuard<'_, Pieces> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists the folder, removes what crashed runs left, and tries a write.
    fn open(&self) -> io::Result<()> {
        for (name, _) in self.disk.list()?.iter().filter(|(name, _)| is_temporary(name)) {
            // If another process is writing it, its rename fails, and it does without the copy.
            self.remove_file(name);
        }
        self.list()?;
        let [temporary, name] = [self.temporary_name(), self.temporary_name()];
        self.disk.write(&temporary, &name, &[Bytes::from_static(b"probe")])?;
        self.disk.remove(&name)
    }

    /// Lists the folder: learns what other processes have added and removed, and removes what is beyond the budget.
    fn list(&self) -> io::Result<()> {
        let (mut found, mut damaged) = (Vec::new(), Vec::new());
        let removed = {
            // Locked while it lists, or a piece added meanwhile would be taken for one that was removed.
            let mut pieces = self.pieces();
            for (name, length) in self.disk.list()? {
                match Piece::parse(&name, length) {
                    Some(piece) if piece.length() == length => found.push(piece),
                    // Its name says another length.
                    Some(_) => damaged.push(name),
                    None => {}
                }
            }
            pieces.retain(&found.iter().copied().collect());
            found.into_iter().for_each(|piece| pieces.insert_new(piece));
            let removed = pieces.trim_to(self.budget);
            metrics::cache_bytes(pieces.room());
            removed
        };
        self.unlisted.store(0, Ordering::Relaxed);
        for name in damaged {
            self.count(&self.counters.damaged, "damaged");
            self.remove_file(&name);
        }
        removed.iter().for_each(|piece| self.remove_file(&piece.name()));
        Ok(())
    }

    fn write(&self, piece: &Piece, bytes: &[Bytes]) {
        let removed = {
            let mut pieces = self.pieces();
            if pieces.contains(piece) {
                return;
            }
            pieces.reserve(piece, self.budget)
        };
        let Some(removed) = removed else { return self.skip() };
        removed.iter().for_each(|piece| self.remove_file(&piece.name()));
        let written = self.disk.write(&self.temporary_name(), &piece.name(), bytes);
        {
            let mut pieces = self.pieces();
            pieces.release(piece);
            if written.is_ok() {
                pieces.insert(*piece);
            }
            metrics::cache_bytes(pieces.room());
        }
        let failed_before = self.failing.swap(written.is_err(), Ordering::Relaxed);
        match written {
            Ok(()) => self.count(&self.counters.written, "written"),
            Err(error) => {
                if !failed_before {
                    tracing::warn!(%error, "cannot write a local copy, going on without");
                }
                self.count(&self.counters.failed, "failed");
            }
        }
        let unlisted = self.unlisted.fetch_add(piece.length(), Ordering::Relaxed).saturating_add(piece.length());
        if unlisted > self.budget / LISTED_AGAIN {
            self.list().unwrap_or_else(|error| self.fail(&error));
        }
    }

    fn read(&self, object: ObjectId, range: Range<u64>) -> Found {
        let mut cover = self.pieces().cover(object, &range);
        // Another process may have written the whole object.
        if !cover.gap.is_empty()
            && let Ok(length) = self.disk.length(&Piece::whole(object, 0).name())
        {
            let mut pieces = self.pieces();
            pieces.insert(Piece::whole(object, length));
            cover = pieces.cover(object, &range);
        }
        let mut found = Found { parts: Vec::new(), gap: cover.gap, pieces: Vec::new() };
        for (piece, span) in cover.pieces {
            let within = span.start.saturating_sub(piece.start)..span.end.saturating_sub(piece.start);
            match self.disk.read(&piece.name(), within) {
                Ok(bytes) => found.parts.push((span.start, bytes)),
                Err(error) => {
                    self.read_failed(&piece, &error);
                    return Found::nothing(range);
                }
            }
            found.pieces.push(piece);
        }
        let mut pieces = self.pieces();
        found.pieces.iter().for_each(|piece| pieces.touch(piece));
        let bytes = found.parts.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        self.counters.read_bytes.fetch_add(bytes, Ordering::Relaxed);
        metrics::cache_read(bytes);
        found
    }

    fn read_failed(&self, piece: &Piece, error: &io::Error) {
        match error.kind() {
            // Another process removed it.
            io::ErrorKind::NotFound => {
                self.pieces().remove(piece);
            }
            io::ErrorKind::UnexpectedEof => self.drop_damaged(piece),
            // The file may be sound, and readable next time.
            _ => self.fail(error),
        }
    }

    fn drop_damaged(&self, piece: &Piece) {
        self.count(&self.counters.damaged, "damaged");
        self.remove(piece);
    }

    fn remove(&self, piece: &Piece) {
        self.pieces().remove(piece);
        self.remove_file(&piece.name());
    }

    fn remove_file(&self, name: &str) {
        if let Err(error) = self.disk.remove(name)
            && error.kind() != io::ErrorKind::NotFound
        {
            self.fail(&error);
        }
    }

    fn fail(&self, error: &io::Error) {
        tracing::debug!(%error, "the disk of local copies failed");
        self.count(&self.counters.failed, "failed");
    }

    fn skip(&self) {
        self.count(&self.counters.skipped, "skipped");
    }

    fn count(&self, counter: &AtomicU64, event: &'static str) {
        counter.fetch_add(1, Ordering::Relaxed);
        metrics::cache_event(event);
    }

    /// Draws a name that no other process uses.
    fn temporary_name(&self) -> String {
        format!("{}{TEMPORARY}", PutId(self.runtime.random().to_le_bytes()))
    }
}

/// Returns whether a name is one that [`Inner::temporary_name`] gives.
fn is_temporary(name: &str) -> bool {
    let id =
        name.strip_suffix(TEMPORARY).and_then(|id| id.parse::<PutId>().ok().filter(|parsed| parsed.to_string() == id));
    id.is_some()
}

impl fmt::Debug for LocalCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCache")
            .field("disk", &self.inner.disk)
            .field("budget", &self.inner.budget)
            .finish_non_exhaustive()
    }
}
