//! One cell, in its own process, because other cells would distort its memory figures.
//!
//! ```text
//! load -> read-modify-writes -> full checkpoint -> K x (barrier, touch the next dirty keys) -> last checkpoint
//!      -> restore -> rescale
//! ```
//!
//! Each epoch's keys are touched right after the previous barrier, while that barrier's checkpoint is in flight. The
//! dirty set at each barrier is therefore exact, and each checkpoint shares the machine with a writer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

#[cfg(feature = "rocksdb")]
use alluvium::RocksDbBackend;
use alluvium::backend::StateBackend;
use alluvium::manifest::Manifest;
use alluvium::{
    Barrier, Error, Job, JobBuilder, JobSettings, KeyGroupSet, LogBackend, OperatorId, OperatorSpec, OverlayBackend,
    Partitioner, RestoreMode, Result, Runtime as _, Store, TokioRuntime,
};
use alluvium::{MemoryBudget, RequestCounts};
use tokio::runtime::Runtime;

use super::args::{CellSpec, name};
use super::lane::{Lane, Passage, Readback, read_back};
use super::limits::{compress_in_vain, operations, sorted_records};
use super::machine::resident_bytes;
use super::memory::Memory;
use super::pace::{Pace, percentiles};
use super::report::{CellReport, Paced, Requests, Rescale, Restore, Rss, micros, millis, rounded};
use super::workload::{Records, Routing, Share, Workload};
use crate::backend::{BackendKind, Strategy};
#[cfg(feature = "rocksdb")]
use crate::backend::{Databases, RocksDbArgs};
use crate::{clock, given_up};

/// Measures the steps above for `spec`, in a new job in the store at `url`.
pub(super) fn measure(spec: &CellSpec, url: &str, runtime: &Runtime) -> Result<CellReport> {
    let store = open(url, runtime)?;
    match spec.backend {
        BackendKind::Log => Cell { spec, store, runtime, make: log() }.measure(),
        BackendKind::Overlay => Cell { spec, store, runtime, make: overlay() }.measure(),
        #[cfg(feature = "rocksdb")]
        BackendKind::RocksDb => Cell { spec, store, runtime, make: rocksdb()? }.measure(),
    }
}

/// Measures the paced phase of `spec`, in a new job in the store at `url`.
pub(super) fn measure_paced(spec: &CellSpec, url: &str, runtime: &Runtime) -> Result<Paced> {
    let store = open(url, runtime)?;
    match spec.backend {
        BackendKind::Log => Cell { spec, store, runtime, make: log() }.measure_paced(),
        BackendKind::Overlay => Cell { spec, store, runtime, make: overlay() }.measure_paced(),
        #[cfg(feature = "rocksdb")]
        BackendKind::RocksDb => Cell { spec, store, runtime, make: rocksdb()? }.measure_paced(),
    }
}

/// Makes a backend that owns no groups.
type Make<B> = Box<dyn Fn(Partitioner, MemoryBudget) -> Result<B> + Sync>;

fn log() -> Make<LogBackend> {
    Box::new(|partitioner, budget| Ok(LogBackend::new(KeyGroupSet::empty(), partitioner, budget)))
}

fn overlay() -> Make<OverlayBackend> {
    Box::new(|_, budget| Ok(OverlayBackend::new(KeyGroupSet::empty(), budget)))
}

#[cfg(feature = "rocksdb")]
fn rocksdb() -> Result<Make<RocksDbBackend>> {
    let databases = Databases::open(&RocksDbArgs::default())?;
    Ok(Box::new(move |_, budget| databases.backend(budget)))
}

fn open(url: &str, runtime: &Runtime) -> Result<Store> {
    let tokio = TokioRuntime::new(runtime.handle().clone());
    Store::open(url, &format!("bench-{:032x}", tokio.random()).parse()?, tokio)
}

pub(super) struct Cell<'a, B> {
    pub(super) spec: &'a CellSpec,
    store: Store,
    runtime: &'a Runtime,
    make: Make<B>,
}

/// Figures of writes and checkpoints.
struct Written {
    load: f64,
    update: f64,
    /// Rate of updates in batches of several keys.
    batched: f64,
    /// Rate of updates while another thread compresses.
    beside_zstd: f64,
    longest: Duration,
    rss: Rss,
    full_bytes: u64,
    checkpoints: Vec<Checkpoint>,
    requests: RequestCounts,
    dirty_bytes: u64,
    dirty_zstd1_bytes: u64,
    /// Amount added to each record.
    added: Vec<u32>,
}

/// Figures of one checkpoint.
struct Checkpoint {
    /// From trigger to commit.
    duration: Duration,
    bytes: u64,
    passages: Vec<Passage>,
}

/// Figures of one restore.
struct Restored {
    claim: Duration,
    loaded: Duration,
    first_read: Duration,
    all_read: Duration,
    records: u64,
    bytes_read: u64,
    segment_bytes: u64,
}

impl<B: StateBackend> Cell<'_, B> {
    fn measure(self) -> Result<CellReport> {
        let from = self.spec.parallelism;
        let written = self.write()?;
        let restored = self.restore(from, &written.added, RestoreMode::Eager)?;
        // It loads groups on the task's thread alone.
        let lazy = (self.spec.backend != BackendKind::Overlay)
            .then(|| self.restore(from, &written.added, RestoreMode::Lazy))
            .transpose()?;
        let rescaled = self.restore(from + 1, &written.added, RestoreMode::Eager)?;
        let restore = Restore {
            ms: millis(restored.all_read),
            load_ms: millis(restored.loaded),
            read_back_ms: millis(restored.all_read.saturating_sub(restored.loaded)),
            claim_ms: millis(restored.claim),
            threads: from,
            first_read_ms: millis(restored.first_read),
            records: restored.records,
            bytes_read: restored.bytes_read,
            lazy_first_read_ms: lazy.as_ref().map(|lazy| millis(lazy.first_read)),
            lazy_ms: lazy.as_ref().map(|lazy| millis(lazy.all_read)),
        };
        let rescale = Rescale {
            from,
            to: from + 1,
            ms: millis(rescaled.all_read),
            load_ms: millis(rescaled.loaded),
            bytes_read: rescaled.bytes_read,
            ideal_bytes: rescaled.segment_bytes,
        };
        report(self.spec, &written, restore, rescale)
    }

    fn routing(&self) -> Routing {
        Routing { partitioner: Partitioner::Range { seed: self.spec.seed }, max_parallelism: self.spec.max_parallelism }
    }

    fn open(&self, parallelism: u32, restore: RestoreMode) -> Result<Job> {
        let settings = JobSettings::default().with(|it| {
            it.strategy = match self.spec.strategy {
                Strategy::Full => alluvium::Strategy::Full,
                Strategy::Incremental => alluvium::Strategy::Incremental,
            };
            it.partitioner = Some(self.routing().partitioner);
            it.max_parallelism = self.spec.max_parallelism;
            it.restore = restore;
        });
        let operator = OperatorSpec::new(OperatorId(1), "bench", parallelism);
        self.runtime.block_on(JobBuilder::new(self.store.clone()).settings(settings).operator(operator).open())
    }

    fn shares(&self, parallelism: u32) -> Vec<Share> {
        Share::all(Records::new(self.spec), self.spec.keys, self.routing(), parallelism)
    }

    /// Opens the job. Returns it with its memory accounting and its lanes, still empty.
    pub(super) fn start(&self) -> Result<(Job, Memory, Vec<Lane<B>>)> {
        let mut job = self.open(self.spec.parallelism, RestoreMode::Eager)?;
        let memory = Memory::new(job.budget().clone());
        let workloads = self.shares(self.spec.parallelism).into_iter().zip(0..);
        let workloads: Vec<_> = workloads.map(|(share, at)| Workload::new(share, self.spec, at)).collect();
        let mut lanes = Vec::new();
        for (seat, workload) in job.take_seats().into_iter().zip(workloads) {
            let backend = (self.make)(job.partitioner(), job.budget().clone())?;
            let task = self.runtime.block_on(seat.restore(|_, _, _| backend))?;
            lanes.push(Lane::new(task, self.routing(), workload, memory.clone())?);
        }
        Ok((job, memory, lanes))
    }

    fn write(&self) -> Result<Written> {
        let (job, _, mut lanes) = self.start()?;
        let block = sorted_records(Records::new(self.spec), self.spec.keys);
        let empty = resident_bytes();
        let load = on_threads(&mut lanes, Lane::load)?;
        let loaded = resident_bytes();
        let share = operations(self.spec.keys).div_ceil(lanes.len().max(1));
        let update = on_threads(&mut lanes, |lane| lane.update(share))?;
        let batched = on_threads(&mut lanes, |lane| lane.update_batched(share))?;
        let beside = beside_zstd(&mut lanes, share, &block)?;

        let before = self.store.requests();
        self.checkpoint(&job, &mut lanes)?;
        let start = self.store.requests();
        let mut checkpoints = Vec::new();
        for _ in 0..self.spec.checkpoints {
            checkpoints.push(self.checkpoint(&job, &mut lanes)?);
        }
        let requests = difference(&self.store.requests(), &start);
        // The restores read back the keys touched during the last checkpoint, so they need one more.
        let barrier = self.trigger(&job)?;
        lanes.iter_mut().try_for_each(|lane| lane.barrier(barrier))?;
        self.wait(&job, barrier)?;
        lanes.iter_mut().try_for_each(Lane::settle)?;
        let rss = Rss { loaded: self.per_key(empty, loaded), steady: self.per_key(empty, resident_bytes()) };
        let passages = checkpoints.iter().flat_map(|checkpoint| &checkpoint.passages);
        let touched = passages.map(|passage| passage.first.longest.max(passage.during.longest));
        Ok(Written {
            load: together(&load),
            update: together(&update),
            batched: together(&batched),
            beside_zstd: together(&beside),
            longest: touched.chain(update.iter().map(|pace| pace.longest)).max().unwrap_or_default(),
            rss,
            full_bytes: start.put_bytes - before.put_bytes,
            requests,
            checkpoints,
            dirty_bytes: lanes.iter().map(|lane| lane.workload.dirty_bytes()).sum(),
            dirty_zstd1_bytes: dirty_zstd1_bytes(&lanes)?,
            added: added(&lanes, self.spec.keys),
        })
    }

    /// Takes a checkpoint while every lane touches the next epoch's keys.
    fn checkpoint(&self, job: &Job, lanes: &mut [Lane<B>]) -> Result<Checkpoint> {
        on_threads(lanes, |lane| {
            lane.workload.next_epoch();
            Ok(())
        })?;
        let committed = AtomicBool::new(false);
        let before = self.store.requests();
        let started = clock::now();
        let barrier = self.trigger(job)?;
        let (duration, passages) = thread::scope(|scope| {
            let committed = &committed;
            let threads: Vec<_> =
                lanes.iter_mut().map(|lane| scope.spawn(move || lane.run_epoch(barrier, committed))).collect();
            let ended = self.wait(job, barrier);
            let duration = clock::now().duration_since(started);
            committed.store(true, Ordering::Relaxed);
            let passages: Result<_> =
                threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect();
            ended.and(passages).map(|passages| (duration, passages))
        })?;
        Ok(Checkpoint { duration, bytes: self.store.requests().put_bytes - before.put_bytes, passages })
    }

    pub(super) fn trigger(&self, job: &Job) -> Result<Barrier> {
        self.runtime.block_on(job.trigger_when_possible())
    }

    pub(super) fn wait(&self, job: &Job, barrier: Barrier) -> Result<()> {
        if self.runtime.block_on(job.wait(barrier))?.is_some() {
            return Ok(());
        }
        Err(given_up("a checkpoint was given up", job).with("epoch", barrier))
    }

    fn per_key(&self, before: Option<u64>, after: Option<u64>) -> Option<f64> {
        Some(rounded(after?.saturating_sub(before?) as f64 / f64::from(self.spec.keys)))
    }

    /// Restores the newest checkpoint at `parallelism` and reads back every key.
    fn restore(&self, parallelism: u32, added: &[u32], mode: RestoreMode) -> Result<Restored> {
        let shares = self.shares(parallelism);
        let started = clock::now();
        let mut job = self.open(parallelism, mode)?;
        let claim = clock::now().duration_since(started);
        let seats = job.take_seats();
        let before = self.store.requests();
        let mut work: Vec<_> = seats.into_iter().zip(shares).map(Some).collect();
        let readbacks = on_threads(&mut work, |work| {
            let (seat, mut share) = work.take().ok_or_else(|| Error::usage("work was taken twice"))?;
            let restore = || {
                let backend = (self.make)(job.partitioner(), job.budget().clone())?;
                Ok(self.runtime.block_on(seat.restore(|_, _, _| backend))?)
            };
            read_back(restore, self.routing(), &mut share, added)
        })?;
        let bytes_read = self.store.requests().get_bytes - before.get_bytes;
        let last = |of: fn(&Readback) -> Duration| readbacks.iter().map(of).max().unwrap_or_default();
        let records = readbacks.iter().map(|readback| readback.rows).sum();
        if records != u64::from(self.spec.keys) {
            return Err(Error::corrupt("restored rows differ in number").with("found", records));
        }
        Ok(Restored {
            claim,
            loaded: claim + last(|readback| readback.loaded),
            first_read: claim + last(|readback| readback.first_read),
            all_read: claim + last(|readback| readback.all_read),
            records,
            bytes_read,
            segment_bytes: job.restored().map_or(Ok(0), |stored| segment_bytes(&stored.manifest))?,
        })
    }
}

/// Runs `work` on each of `items`, each on its own thread.
pub(super) fn on_threads<T: Send, R: Send>(
    items: &mut [T],
    work: impl Fn(&mut T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = items.iter_mut().map(|item| scope.spawn(move || work(item))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
    })
}

pub(super) fn panicked<R>(_payload: Box<dyn std::any::Any + Send>) -> Result<R> {
    Err(Error::stopped("a subtask panicked"))
}

/// Returns the combined rate of subtasks that ran concurrently.
pub(super) fn together(paces: &[Pace]) -> f64 {
    paces.iter().filter_map(Pace::per_second).sum()
}

/// Runs updates while another thread compresses `block` in a loop.
fn beside_zstd<B: StateBackend>(lanes: &mut [Lane<B>], share: usize, block: &[u8]) -> Result<Vec<Pace>> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                compress_in_vain(block)?;
            }
            Ok(())
        });
        let paces = on_threads(lanes, |lane| lane.update(share));
        over.store(true, Ordering::Relaxed);
        other.join().unwrap_or_else(panicked).and(paces)
    })
}

fn difference(after: &RequestCounts, before: &RequestCounts) -> RequestCounts {
    RequestCounts {
        put: after.put - before.put,
        get: after.get - before.get,
        delete: after.delete - before.delete,
        list: after.list - before.list,
        put_bytes: after.put_bytes - before.put_bytes,
        get_bytes: after.get_bytes - before.get_bytes,
        data_bytes: after.data_bytes - before.data_bytes,
    }
}

/// Returns the total size of the distinct segments in the checkpoint.
fn segment_bytes(manifest: &Manifest) -> Result<u64> {
    let mut bytes = 0;
    for operator in &manifest.operators {
        let segments = operator.inline_subtasks()?.into_iter().flat_map(|subtask| &subtask.segments);
        bytes += segments.map(|segment| segment.length).sum::<u64>();
    }
    Ok(bytes)
}

/// Returns the size of the last epoch's dirty records, sorted, as one zstd frame of level 1.
fn dirty_zstd1_bytes<B>(lanes: &[Lane<B>]) -> Result<u64> {
    lanes.iter().try_fold(0, |sum, lane| Ok(sum + lane.workload.dirty_zstd1_bytes()?))
}

/// Returns the amount added to each record.
fn added<B>(lanes: &[Lane<B>], keys: u32) -> Vec<u32> {
    let mut added = vec![0; keys as usize];
    for (index, count) in lanes.iter().flat_map(|lane| lane.workload.history()) {
        added.get_mut(index as usize).into_iter().for_each(|slot| *slot = count);
    }
    added
}

fn report(spec: &CellSpec, written: &Written, restore: Restore, rescale: Rescale) -> Result<CellReport> {
    let Written { checkpoints, requests, .. } = written;
    let passages = || checkpoints.iter().flat_map(|checkpoint| &checkpoint.passages);
    // Subtasks run concurrently, so their rates over all checkpoints add up.
    let rate = |of: fn(&Passage) -> &Pace| {
        let mut all = Pace::default();
        passages().for_each(|passage| all.merge(of(passage)));
        all.per_second().map(|rate| rounded(rate * f64::from(spec.parallelism)))
    };
    let each = |count: u64| rounded(count as f64 / checkpoints.len().max(1) as f64);
    Ok(CellReport {
        backend: name(&spec.backend),
        strategy: name(&spec.strategy),
        keys: spec.keys,
        key_bytes: spec.key_bytes,
        value_bytes: spec.value_bytes,
        distribution: spec.distribution.to_string(),
        dirty: spec.dirty.get(),
        parallelism: spec.parallelism,
        max_parallelism: spec.max_parallelism,
        checkpoints: spec.checkpoints,
        load_ops_s: written.load,
        rmw_ops_s: written.update,
        rmw_batch_ops_s: written.batched,
        rmw_ops_s_beside_zstd: written.beside_zstd,
        rmw_ops_s_during_checkpoint: rate(|passage| &passage.during),
        first_10k_ops_s_after_seal: rate(|passage| &passage.first),
        first_touch_ops_s: rate(|passage| &passage.first_touch),
        max_op_us: micros(written.longest),
        pause_us: percentiles(passages().map(|passage| passage.pause), Duration::from_micros(1))?,
        checkpoint_ms: percentiles(checkpoints.iter().map(|c| c.duration), Duration::from_millis(1))?,
        dirty_bytes: written.dirty_bytes,
        dirty_zstd1_bytes: written.dirty_zstd1_bytes,
        checkpoint_bytes: requests.put_bytes / u64::from(spec.checkpoints.max(1)),
        checkpoint_bytes_max: checkpoints.iter().map(|checkpoint| checkpoint.bytes).max().unwrap_or_default(),
        full_bytes: written.full_bytes,
        objects_put: each(requests.put),
        requests: Requests {
            put: each(requests.put),
            get: each(requests.get),
            list: each(requests.list),
            delete: each(requests.delete),
        },
        rss_bytes_per_key: written.rss,
        pinned_bytes_per_key: {
            let most = passages().map(|passage| passage.pinned_bytes).max().unwrap_or_default();
            rounded(most as f64 / f64::from(spec.keys))
        },
        restore,
        rescale,
        paced: None,
    })
}
