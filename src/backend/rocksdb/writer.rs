//! The thread that brings frozen layers into RocksDB, one after the other, each at once.
//!
//! It is the only one that writes. What it cannot write now it tries again with the next layer: layers stay readable
//! and shippable meanwhile.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rocksdb::{WriteBatch, WriteOptions};

use super::db::{Db, View, of_rocksdb};
use super::gauges;
use super::slot::Layer;
use super::span::Span;
use crate::backend::place::{read_clear, read_place};
use crate::error::{Error, Result};
use crate::row::{Rules, Statistic};

/// A clear of more rows than this is one range in RocksDB: ranges slow reads down, each by a little.
pub(super) const MOST_DELETES: usize = 64;

/// A layer to be written.
#[derive(Debug)]
pub(super) struct Write {
    /// The number of layers up to this one.
    pub(super) number: u64,
    pub(super) layer: Arc<Layer>,
    /// The rules at its seal.
    pub(super) rules: Rules,
}

/// What the thread is asked for.
#[derive(Debug)]
enum Request {
    Write(Write),
    /// To try again what could not be written.
    Retry,
}

/// The owner's end of the thread.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Option<Sender<Request>>,
    progress: Arc<Progress>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Progress {
    /// Layers written.
    written: AtomicU64,
    /// Whether nobody will read what is written from now on.
    stopped: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    view: Option<Arc<View>>,
    /// Why the last try failed, if it did.
    failed: Option<Error>,
    /// Whether the thread has ended: it writes nothing any more.
    ended: bool,
    /// As of the last layer.
    statistics: Arc<[Statistic]>,
}

impl Progress {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// `Limit` if there can be no more threads.
    pub(super) fn start(db: &Arc<Db>) -> Result<Self> {
        Self::start_with(db, write_layer)
    }

    /// Starts the thread, which writes a layer by `write`.
    pub(super) fn start_with(
        db: &Arc<Db>,
        write: impl FnMut(&Db, &Layer) -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let (sender, queue) = channel();
        let progress = Arc::new(Progress::default());
        let (db, shared) = (Arc::clone(db), Arc::clone(&progress));
        let thread = std::thread::Builder::new().name("alluvium-rocksdb".into());
        let thread = thread.spawn(move || run(&db, &queue, &shared, write));
        let thread = thread.map_err(|source| Error::limit("cannot start a thread").with_source(source))?;
        Ok(Self { queue: Some(sender), progress, thread: Some(thread) })
    }

    /// Queues a layer.
    pub(super) fn send(&self, write: Write) {
        self.request(Request::Write(write));
    }

    /// Returns what RocksDB said of itself after the last layer that was written.
    pub(super) fn statistics(&self) -> Arc<[Statistic]> {
        Arc::clone(&self.progress.state().statistics)
    }

    /// Lets nothing more be written than what is being written now.
    pub(super) fn stop(&self) {
        self.progress.stopped.store(true, Ordering::Release);
    }

    fn request(&self, request: Request) {
        // A thread that has ended wakes those that wait for it.
        let _sent = self.queue.as_ref().map(|queue| queue.send(request));
    }

    /// Returns the newest view, if it has more than `layers` in it.
    pub(super) fn view_after(&self, layers: u64) -> Option<Arc<View>> {
        if self.progress.written.load(Ordering::Acquire) <= layers {
            return None;
        }
        self.progress.state().view.clone()
    }

    /// Waits until `layers` are written, or could not be once more, and returns a view that has them.
    ///
    /// # Errors
    /// Why they cannot be written.
    pub(super) fn wait(&self, layers: u64) -> Result<Option<Arc<View>>> {
        let mut state = self.progress.state();
        if state.failed.take().is_some() {
            self.request(Request::Retry);
        }
        loop {
            if self.progress.written.load(Ordering::Acquire) >= layers {
                return Ok(state.view.clone());
            }
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            if state.ended {
                return Err(Error::stopped("the thread that writes to RocksDB has ended"));
            }
            state = self.progress.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
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

/// Says that the thread has ended, however it did.
struct End<'a>(&'a Progress);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.state().ended = true;
        self.0.changed.notify_all();
    }
}

fn run(db: &Arc<Db>, queue: &Receiver<Request>, progress: &Progress, mut write: impl FnMut(&Db, &Layer) -> Result<()>) {
    let (_end, mut waiting) = (End(progress), VecDeque::new());
    while let Ok(request) = queue.recv() {
        match request {
            Request::Write(write) => waiting.push_back(write),
            Request::Retry => {}
        }
        while let Some(Write { number, layer, rules }) = waiting.front() {
            if progress.stopped.load(Ordering::Acquire) {
                return;
            }
            let written = write(db, layer);
            let mut state = progress.state();
            match written {
                Ok(()) => {
                    state.view = Some(View::new(db, *number, rules.clone()));
                    state.failed = None;
                    progress.written.store(*number, Ordering::Release);
                    waiting.pop_front();
                }
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "cannot write to RocksDB, will try again at the next seal");
                    state.failed = Some(error);
                    progress.changed.notify_all();
                    break;
                }
            }
            progress.changed.notify_all();
        }
        let statistics = gauges::publish(db);
        progress.state().statistics = statistics;
    }
}

/// Writes a layer in one batch.
pub(super) fn write_layer(db: &Db, layer: &Layer) -> Result<()> {
    let mut batch = WriteBatch::default();
    layer.clears.iter().try_for_each(|clear| write_clear(db, clear, &mut batch))?;
    for (place, slot) in &layer.rows {
        if slot.is_gone() {
            batch.delete(place);
        } else if slot.whole {
            batch.put(place, &slot.cell);
        } else {
            batch.merge(place, &slot.cell);
        }
    }
    write(db, batch)
}

/// Writes a batch, at once. What is not written yet when the process ends stands in checkpoints.
///
/// # Errors
/// `Limit` if the disk is full; `Unavailable`.
pub(super) fn write(db: &Db, batch: WriteBatch) -> Result<()> {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options.set_memtable_insert_hint_per_batch(true);
    db.inner().write_opt(batch, &options).map_err(|error| of_rocksdb("cannot write rows", error))
}

/// Deletes what a clear covers.
fn write_clear(db: &Db, clear: &[u8], batch: &mut WriteBatch) -> Result<()> {
    let (group, cleared) = read_clear(clear);
    let span = Span::of_clear(group, &cleared);
    let mut read = rocksdb::ReadOptions::default();
    read.set_iterate_lower_bound(span.from.clone());
    span.to.iter().for_each(|to| read.set_iterate_upper_bound(to.clone()));
    let mut rows = db.inner().raw_iterator_opt(read);
    rows.seek_to_first();
    let mut deletes = 0;
    while let Some(place) = rows.key() {
        let (_, row) = read_place(place)?;
        if cleared.key.is_some() || row.namespace == cleared.namespace {
            batch.delete(place);
            deletes += 1;
        }
        if deletes > MOST_DELETES
            && cleared.key.is_some()
            && let Some(to) = &span.to
        {
            batch.delete_range(&span.from, to);
            break;
        }
        rows.next();
    }
    rows.status().map_err(|error| of_rocksdb("cannot read rows", error))
}
