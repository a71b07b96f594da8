//! The writer thread: writes frozen layers to RocksDB in the order of their seals, each in one batch.
//!
//! A failed write is retried with the next layer. Until then its layer stays readable, and its rows stay part of
//! checkpoints.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rocksdb::{WriteBatch, WriteOptions};

use super::db::{Db, View, rocksdb_error};
use super::gauges;
use super::slot::Layer;
use super::span::Span;
use crate::backend::row_key::{decode_clear, decode_row_key};
use crate::error::{Error, Result};
use crate::row::{Rules, Statistic};

/// A clear of a key that deletes more rows than this becomes one range tombstone. Other clears become point deletes,
/// because each range tombstone slows reads down a little.
pub(super) const MAX_POINT_DELETES: usize = 64;

/// A layer to be written.
#[derive(Debug)]
pub(super) struct LayerWrite {
    /// The layer's number, counted from 1.
    pub(super) number: u64,
    pub(super) layer: Arc<Layer>,
    /// The rules at the layer's seal.
    pub(super) rules: Rules,
}

/// A request to the thread.
#[derive(Debug)]
enum Request {
    Write(LayerWrite),
    /// Retry the layers that could not be written.
    Retry,
}

/// The backend's handle of the thread.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Option<Sender<Request>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// State shared by the backend and the thread.
#[derive(Debug, Default)]
struct Shared {
    /// Number of the last layer written.
    written: AtomicU64,
    /// Whether the backend is being dropped: later writes would have no reader.
    stopped: AtomicBool,
    state: Mutex<State>,
    /// Notified when `state` changes.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    view: Option<Arc<View>>,
    /// The error of the last write, if it failed.
    failed: Option<Error>,
    /// Whether the thread has ended.
    ended: bool,
    /// RocksDB's statistics after the last layer.
    statistics: Arc<[Statistic]>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// `Limit` if the system refuses another thread.
    pub(super) fn start(db: &Arc<Db>) -> Result<Self> {
        Self::start_with(db, write_layer)
    }

    /// Starts the thread with a function that writes a layer.
    pub(super) fn start_with(
        db: &Arc<Db>,
        write: impl FnMut(&Db, &Layer) -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let (sender, queue) = channel();
        let shared = Arc::new(Shared::default());
        let (db, thread_shared) = (Arc::clone(db), Arc::clone(&shared));
        let thread = std::thread::Builder::new().name("alluvium-rocksdb".into());
        let thread = thread.spawn(move || run(&db, &queue, &thread_shared, write));
        let thread = thread.map_err(|source| Error::limit("cannot start a thread").with_source(source))?;
        Ok(Self { queue: Some(sender), shared, thread: Some(thread) })
    }

    /// Queues a layer.
    pub(super) fn send(&self, write: LayerWrite) {
        self.request(Request::Write(write));
    }

    /// Returns RocksDB's statistics after the last layer written.
    pub(super) fn statistics(&self) -> Arc<[Statistic]> {
        Arc::clone(&self.shared.state().statistics)
    }

    /// Stops the thread after its current write; queued layers are discarded.
    pub(super) fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Release);
    }

    fn request(&self, request: Request) {
        // Sending fails once the thread has ended; `wait` reports that.
        let _sent = self.queue.as_ref().map(|queue| queue.send(request));
    }

    /// Returns the newest view, if it contains more than `layers` layers.
    pub(super) fn view_after(&self, layers: u64) -> Option<Arc<View>> {
        if self.shared.written.load(Ordering::Acquire) <= layers {
            return None;
        }
        self.shared.state().view.clone()
    }

    /// Waits until `layers` layers are written and returns a view that contains them; retries a failed write once.
    ///
    /// # Errors
    /// The error of the retried write; `Stopped` if the thread has ended.
    pub(super) fn wait(&self, layers: u64) -> Result<Option<Arc<View>>> {
        let mut state = self.shared.state();
        if state.failed.take().is_some() {
            self.request(Request::Retry);
        }
        loop {
            if self.shared.written.load(Ordering::Acquire) >= layers {
                return Ok(state.view.clone());
            }
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            if state.ended {
                return Err(Error::stopped("the thread that writes to RocksDB has ended"));
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop();
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes to RocksDB panicked");
        }
    }
}

/// Marks the thread as ended on drop, also if it panics.
struct EndGuard<'a>(&'a Shared);

impl Drop for EndGuard<'_> {
    fn drop(&mut self) {
        self.0.state().ended = true;
        self.0.changed.notify_all();
    }
}

fn run(db: &Arc<Db>, queue: &Receiver<Request>, shared: &Shared, mut write: impl FnMut(&Db, &Layer) -> Result<()>) {
    let (_end, mut waiting) = (EndGuard(shared), VecDeque::new());
    while let Ok(request) = queue.recv() {
        match request {
            Request::Write(write) => waiting.push_back(write),
            Request::Retry => {}
        }
        while let Some(LayerWrite { number, layer, rules }) = waiting.front() {
            if shared.stopped.load(Ordering::Acquire) {
                return;
            }
            let written = write(db, layer);
            let mut state = shared.state();
            match written {
                Ok(()) => {
                    state.view = Some(View::new(db, *number, rules.clone()));
                    state.failed = None;
                    shared.written.store(*number, Ordering::Release);
                    waiting.pop_front();
                }
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "cannot write to RocksDB, will try again at the next seal");
                    state.failed = Some(error);
                    shared.changed.notify_all();
                    break;
                }
            }
            shared.changed.notify_all();
        }
        let statistics = gauges::publish(db);
        shared.state().statistics = statistics;
    }
}

/// Writes a layer in one batch.
pub(super) fn write_layer(db: &Db, layer: &Layer) -> Result<()> {
    let mut batch = WriteBatch::default();
    layer.clears.iter().try_for_each(|clear| write_clear(db, clear, &mut batch))?;
    for (row_key, slot) in &layer.rows {
        if slot.is_tombstone() {
            batch.delete(row_key);
        } else if slot.whole {
            batch.put(row_key, &slot.cell);
        } else {
            batch.merge(row_key, &slot.cell);
        }
    }
    write(db, batch)
}

/// Writes a batch atomically, without a write-ahead log: after a crash, state is restored from checkpoints.
///
/// # Errors
/// `Limit` if the disk is full; `Unavailable`.
pub(super) fn write(db: &Db, batch: WriteBatch) -> Result<()> {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options.set_memtable_insert_hint_per_batch(true);
    db.inner().write_opt(batch, &options).map_err(|error| rocksdb_error("cannot write rows", error))
}

/// Adds the deletion of the rows that a clear covers to `batch`.
fn write_clear(db: &Db, clear: &[u8], batch: &mut WriteBatch) -> Result<()> {
    let (group, cleared) = decode_clear(clear);
    let span = Span::of_clear(group, &cleared);
    let mut read = rocksdb::ReadOptions::default();
    read.set_iterate_lower_bound(span.from.clone());
    span.to.iter().for_each(|to| read.set_iterate_upper_bound(to.clone()));
    let mut rows = db.inner().raw_iterator_opt(read);
    rows.seek_to_first();
    let mut deletes = 0;
    while let Some(row_key) = rows.key() {
        let (_, row) = decode_row_key(row_key)?;
        if cleared.key.is_some() || row.namespace == cleared.namespace {
            batch.delete(row_key);
            deletes += 1;
        }
        if deletes > MAX_POINT_DELETES
            && cleared.key.is_some()
            && let Some(to) = &span.to
        {
            batch.delete_range(&span.from, to);
            break;
        }
        rows.next();
    }
    rows.status().map_err(|error| rocksdb_error("cannot read rows", error))
}
