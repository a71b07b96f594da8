//! One subtask under measurement: a task of the job and its workload.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use alluvium::backend::{Change, LazyBackend, RowRef, StateBackend, Stored, Write};
use alluvium::{Barrier, CurrentKey, Error, Raw, Result, TableId, Task, Timestamp};

use super::memory::Memory;
use super::pace::{Pace, Timing};
use super::workload::{self, BATCH, Routing, Share, Workload};
use crate::clock;

/// Keys per batched read-modify-write.
const KEYS_PER_CALL: usize = 32;

/// Batches after a seal whose rate is reported separately.
const FIRST_BATCHES: usize = 10_000 / BATCH;

/// Batches between two memory readings: a reading costs a step per key group.
const BATCHES_PER_READING: usize = 4;

/// Access to a subtask's backend.
#[derive(Debug)]
struct Rows<B> {
    task: Task<B>,
    table: TableId,
    routing: Routing,
}

impl<B: StateBackend> Rows<B> {
    fn new(mut task: Task<B>, routing: Routing) -> Result<Self> {
        let table = task.state().value("bench", Raw)?.table();
        Ok(Self { task, table, routing })
    }

    fn with_row<R>(&mut self, key: &[u8], f: impl FnOnce(&mut LazyBackend<B>, RowRef<'_>) -> Result<R>) -> Result<R> {
        let key = self.routing.locate(key);
        f(self.task.state().backend_mut(), RowRef { table: self.table, key: &key, namespace: &[], sub: &[] })
    }

    /// Calls `f` with the keys, of which there are at most [`KEYS_PER_CALL`].
    fn with_keys<'a, R>(
        &mut self,
        keys: impl Iterator<Item = &'a [u8]>,
        f: impl FnOnce(&mut LazyBackend<B>, TableId, &[CurrentKey<'a>]) -> Result<R>,
    ) -> Result<R> {
        let (mut located, mut count) = ([self.routing.locate(&[]); KEYS_PER_CALL], 0);
        for (to, key) in located.iter_mut().zip(keys) {
            *to = self.routing.locate(key);
            count += 1;
        }
        f(self.task.state().backend_mut(), self.table, located.get(..count).unwrap_or_default())
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.with_row(key, |backend, row| backend.write(row, Write::Put(value)))
    }

    /// Reads the value, adds 1 to its first 8 bytes, writes it.
    fn increment(&mut self, key: &[u8]) -> Result<()> {
        self.with_row(key, increment)
    }

    /// Increments several keys in one call.
    fn increment_all(&mut self, keys: &[&[u8]]) -> Result<()> {
        self.with_keys(keys.iter().copied(), |backend, table, keys| {
            backend.update_many(table, &[], keys, |_, stored, new| match stored {
                Stored::InPlace(value) => {
                    workload::add(value, 1);
                    (None, Ok(()))
                }
                Stored::Value(value) => {
                    new.extend_from_slice(value);
                    workload::add(new, 1);
                    (Some(Change::Put), Ok(()))
                }
                Stored::Absent => (None, Err(gone())),
            })
        })
    }

    /// Checks in one call that keys have these values.
    fn check_all(&mut self, rows: &[(&[u8], &[u8])]) -> Result<()> {
        let expected = |at: usize| rows.get(at).map(|(_, value)| *value);
        self.with_keys(rows.iter().map(|(key, _)| *key), |backend, table, keys| {
            backend.read_many(
                table,
                &[],
                keys,
                |at, value| {
                    if value == expected(at) { Ok(()) } else { Err(not_as_written()) }
                },
            )
        })
    }
}

fn gone() -> Error {
    Error::corrupt("a key that was loaded is gone")
}

fn not_as_written() -> Error {
    Error::corrupt("a key does not read back as it was written")
}

fn increment<B: StateBackend>(backend: &mut B, row: RowRef<'_>) -> Result<()> {
    let found = backend.edit(row, |value| workload::add(value, 1))?;
    found.ok_or_else(gone)
}

/// A subtask that is loaded, updated and checkpointed.
#[derive(Debug)]
pub(super) struct Lane<B> {
    rows: Rows<B>,
    pub(super) workload: Workload,
    positions: Vec<u32>,
    memory: Memory,
    /// The backend's memory at the last reading.
    backend_bytes: u64,
}

/// One subtask's figures from one barrier to the next.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Passage {
    /// From the last record before the barrier to the end of the first after it.
    pub(super) pause: Duration,
    /// The first operations after the barrier.
    pub(super) first: Pace,
    /// All operations that touched a key for the first time after the barrier.
    pub(super) first_touch: Pace,
    /// Operations while the checkpoint was in flight.
    pub(super) during: Pace,
    /// Maximum bytes pinned meanwhile, by the checkpoints of all subtasks.
    pub(super) pinned_bytes: u64,
}

impl<B: StateBackend> Lane<B> {
    pub(super) fn new(task: Task<B>, routing: Routing, workload: Workload, memory: Memory) -> Result<Self> {
        let (rows, positions) = (Rows::new(task, routing)?, Vec::with_capacity(BATCH));
        Ok(Self { rows, workload, positions, memory, backend_bytes: 0 })
    }

    /// Returns the bytes pinned after batch `number`; 0 for batches without a reading.
    pub(super) fn pinned_bytes(&mut self, number: usize) -> u64 {
        if number.is_multiple_of(BATCHES_PER_READING) { self.read_memory() } else { 0 }
    }

    /// Records the backend's current memory and returns the pinned bytes.
    fn read_memory(&mut self) -> u64 {
        let bytes = self.rows.task.state().backend_mut().stats().memory_bytes;
        self.memory.replace(std::mem::replace(&mut self.backend_bytes, bytes), bytes);
        self.memory.pinned_bytes()
    }

    /// Writes all records.
    pub(super) fn load(&mut self) -> Result<Pace> {
        let (mut pace, share) = (Pace::default(), &mut self.workload.share);
        for at in (0..share.indices.len()).step_by(BATCH) {
            let batch: Vec<_> = share.indices.iter().skip(at).take(BATCH).map(|&index| (index, 0)).collect();
            share.stage(batch);
            pace.time(Timing::Batch, share.rows(), |(key, value)| self.rows.put(key, value))?;
        }
        // Pinned bytes are wrong until every lane has recorded its backend's memory.
        self.read_memory();
        Ok(pace)
    }

    /// Makes at least `operations` read-modify-writes of drawn keys.
    pub(super) fn update(&mut self, operations: usize) -> Result<Pace> {
        let (mut pace, mut positions) = (Pace::default(), std::mem::take(&mut self.positions));
        for number in 0..operations.div_ceil(BATCH).max(2) {
            self.workload.draw(BATCH, &mut positions);
            self.touch(&positions, Timing::of_batch(number), &mut pace)?;
        }
        self.positions = positions;
        Ok(pace)
    }

    /// Makes at least `operations` read-modify-writes of drawn keys, in batches.
    pub(super) fn update_batched(&mut self, operations: usize) -> Result<Pace> {
        let (mut pace, mut positions) = (Pace::default(), std::mem::take(&mut self.positions));
        for _ in 0..operations.div_ceil(BATCH) {
            self.workload.draw(BATCH, &mut positions);
            self.workload.share.stage_keys(positions.iter().copied());
            let keys: Vec<_> = self.workload.share.keys().collect();
            pace.time_all(keys.len(), || {
                keys.chunks(KEYS_PER_CALL).try_for_each(|keys| self.rows.increment_all(keys))
            })?;
            self.workload.touched(&positions);
        }
        self.positions = positions;
        Ok(pace)
    }

    /// Makes a read-modify-write of each of `positions`.
    pub(super) fn touch(&mut self, positions: &[u32], timing: Timing, pace: &mut Pace) -> Result<()> {
        self.workload.share.stage_keys(positions.iter().copied());
        pace.time(timing, self.workload.share.keys(), |key| self.rows.increment(key))?;
        self.workload.touched(positions);
        Ok(())
    }

    /// Takes the barrier, then touches the next epoch's keys: each once, then again until the checkpoint is
    /// `committed`, so that the checkpoint shares the machine with a writer throughout.
    pub(super) fn run_epoch(&mut self, barrier: Barrier, committed: &AtomicBool) -> Result<Passage> {
        // A stream does not idle before a barrier: touch keys that are already dirty.
        let before = std::mem::take(&mut self.workload.last_dirty);
        self.touch(&before, Timing::Batch, &mut Pace::default())?;
        self.workload.last_dirty = before;

        let dirty = std::mem::take(&mut self.workload.dirty);
        let (first, rest) = dirty.split_at(dirty.len().min(1));
        let mut passage = Passage { pause: self.barrier_and_touch(barrier, first)?, ..Passage::default() };
        let under_way = || !committed.load(Ordering::Relaxed);
        for (number, batch) in rest.chunks(BATCH).enumerate() {
            let (mut pace, counts) = (Pace::default(), under_way());
            self.touch(batch, Timing::of_batch(number), &mut pace)?;
            if number < FIRST_BATCHES {
                passage.first.merge(&pace);
            }
            passage.first_touch.merge(&pace);
            if counts {
                passage.during.merge(&pace);
                passage.pinned_bytes = passage.pinned_bytes.max(self.pinned_bytes(number));
            }
        }
        for (number, batch) in dirty.chunks(BATCH).cycle().enumerate().take_while(|_| under_way()) {
            self.touch(batch, Timing::of_batch(number), &mut passage.during)?;
            passage.pinned_bytes = passage.pinned_bytes.max(self.pinned_bytes(number));
        }
        self.workload.dirty = dirty;
        Ok(passage)
    }

    /// Takes the barrier, then touches the key at the first position of `next`.
    pub(super) fn barrier_and_touch(&mut self, barrier: Barrier, next: &[u32]) -> Result<Duration> {
        self.workload.share.stage_keys(next.iter().copied());
        let last_record = clock::now();
        self.rows.task.barrier(barrier, Timestamp::MIN, Vec::new())?;
        self.workload.share.keys().try_for_each(|key| self.rows.increment(key))?;
        let pause = clock::now().duration_since(last_record);
        self.workload.touched(next);
        Ok(pause)
    }

    /// Takes the barrier only.
    pub(super) fn barrier(&mut self, barrier: Barrier) -> Result<()> {
        self.rows.task.barrier(barrier, Timestamp::MIN, Vec::new())
    }

    /// Settles all finished epochs.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.rows.task.settle()
    }
}

/// Time until one subtask's keys could be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Readback {
    /// From the start until all rows were loaded.
    pub(super) loaded: Duration,
    /// From the start to the first value read.
    pub(super) first_read: Duration,
    /// From the start to the last value read.
    pub(super) all_read: Duration,
    /// Rows in the backend.
    pub(super) rows: u64,
}

/// Makes a task with `restore`, then reads every key of `share` and checks its value against `added`. Generating
/// expected values is not timed.
pub(super) fn read_back<B: StateBackend>(
    restore: impl FnOnce() -> Result<Task<B>>,
    routing: Routing,
    share: &mut Share,
    added: &[u32],
) -> Result<Readback> {
    let started: Instant = clock::now();
    let mut rows = Rows::new(restore()?, routing)?;
    let loaded = clock::now().duration_since(started);
    let (mut pace, mut first_read) = (Pace::default(), loaded);
    for at in (0..share.indices.len()).step_by(BATCH) {
        let batch: Vec<_> = share.indices.iter().skip(at).take(BATCH).copied().collect();
        share.stage(batch.into_iter().map(|index| (index, added.get(index as usize).copied().unwrap_or(0))));
        let staged: Vec<_> = share.rows().collect();
        let (first, rest) = staged.split_at(staged.len().min(usize::from(at == 0)));
        pace.time_all(first.len(), || rows.check_all(first))?;
        if at == 0 {
            first_read += pace.elapsed();
        }
        pace.time_all(rest.len(), || rest.chunks(KEYS_PER_CALL).try_for_each(|some| rows.check_all(some)))?;
    }
    let rows = rows.task.state().backend_mut().stats().rows;
    Ok(Readback { loaded, first_read, all_read: loaded + pace.elapsed(), rows })
}
