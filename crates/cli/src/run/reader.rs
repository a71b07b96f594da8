//! The one reader: numbers records, routes them by key group, and puts each barrier into all queues at one record
//! boundary.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use alluvium::Timestamp;
use alluvium::backend::StateBackend;
use alluvium::interval::Observation;
use alluvium::owner;
use alluvium::{Barrier, ManifestId};
use alluvium::{Error, Result};
use alluvium::{Job, Task};
use alluvium::{Opaque, OpaqueRole};
use futures_util::future::{Either, select};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::interval::LoadMeter;
use super::rate::RateArg;
use super::record::RecordBatch;
use super::source::{Next, Source};
use super::subtask::{EpochEnd, ToSubtask};
use alluvium_bench::{clock, given_up};

/// Name of the opaque with the source's position.
pub(crate) const OPAQUE: &str = "input";

/// Records after which a batch is sent on.
const BATCH_RECORDS: usize = 1024;

/// Bytes after which a batch is sent on.
const BATCH_BYTES: usize = 256 * 1024;

/// Records between two looks at the clock.
const LOOK_RECORDS: u64 = 256;

/// How often a final checkpoint is tried.
const FINAL_TRIES: usize = 3;

/// The reader at work.
#[derive(Debug)]
pub(crate) struct Reader<'a, B> {
    pub(crate) job: &'a Job,
    pub(crate) source: Source,
    pub(crate) task: Task<B>,
    pub(crate) queues: Vec<SyncSender<ToSubtask>>,
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) limit: Option<u64>,
    pub(crate) pace: Option<Pace>,
    /// If the interval is adaptive.
    pub(crate) meter: Option<LoadMeter>,
    pub(crate) stop: &'a AtomicBool,
    /// Records of the input that have been read, for those who watch.
    pub(crate) records: &'a AtomicU64,
    /// Rung when a subtask or the sink ends, which none does before the reader unless it fails.
    pub(crate) gone: &'a Notify,
    pub(crate) handle: Handle,
}

/// How the reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// At the end of the input: every window is closed.
    Input,
    /// At `--limit`: windows stay open.
    Limit,
    /// By a signal.
    Stopped,
}

impl<B: StateBackend> Reader<'_, B> {
    /// Reads to the end, with checkpoints, and takes the last one.
    ///
    /// # Errors
    /// From the source, the subtasks or the job.
    pub(crate) fn run(&mut self) -> Result<End> {
        let end = self.read()?;
        self.last_checkpoint(end)?;
        for queue in &self.queues {
            send(queue, ToSubtask::End)?;
        }
        Ok(end)
    }

    fn read(&mut self) -> Result<End> {
        let (partitioner, max) = (self.job.partitioner(), self.job.max_parallelism());
        let parallelism = u32::try_from(self.queues.len()).unwrap_or(u32::MAX);
        let mut unlooked = 0;
        loop {
            if self.limit.is_some_and(|limit| self.source.records() >= limit) {
                return Ok(End::Limit);
            }
            unlooked += 1;
            if unlooked >= LOOK_RECORDS || self.pace.is_some() {
                unlooked = 0;
                if self.look()? {
                    return Ok(End::Stopped);
                }
            }
            let record = match self.source.next()? {
                Next::Record(record) => record,
                Next::Skipped => continue,
                Next::End => return Ok(End::Input),
            };
            let key = partitioner.locate(record.key, 0, max);
            let to = owner(max, parallelism, key.group) as usize;
            if let (Some(batch), Some(queue)) = (self.batches.get_mut(to), self.queues.get(to)) {
                batch.push(record, &key);
                if batch.len() >= BATCH_RECORDS || batch.bytes() >= BATCH_BYTES {
                    send(queue, ToSubtask::Records(std::mem::take(batch)))?;
                }
            }
        }
    }

    /// Looks at the clock: waits for the pace, starts a checkpoint when one is due. True if it is time to stop.
    fn look(&mut self) -> Result<bool> {
        while let Some(wait) = self.pace.as_mut().and_then(Pace::wait) {
            self.flush()?;
            let before = clock::now();
            clock::sleep(wait);
            // Sleeps are longer than asked for.
            self.meter.iter_mut().for_each(|meter| meter.waited(before.elapsed()));
            if self.attend()? {
                return Ok(true);
            }
        }
        self.attend()
    }

    fn attend(&mut self) -> Result<bool> {
        self.records.store(self.source.records(), Ordering::Relaxed);
        if let Some(meter) = &mut self.meter {
            meter.tell(self.job, self.source.records());
        }
        if self.job.is_due()
            && let Some(barrier) = self.job.trigger()?
        {
            self.end_epoch(barrier, self.watermark())?;
        }
        Ok(self.stop.load(Ordering::Relaxed))
    }

    /// Returns the watermark: no window is closed before the first event time is known.
    fn watermark(&self) -> i64 {
        self.source.watermark().unwrap_or(i64::MIN)
    }

    fn flush(&mut self) -> Result<()> {
        for (batch, queue) in self.batches.iter_mut().zip(&self.queues) {
            if batch.len() > 0 {
                send(queue, ToSubtask::Records(std::mem::take(batch)))?;
            }
        }
        Ok(())
    }

    fn end_epoch(&mut self, barrier: Barrier, watermark: i64) -> Result<()> {
        self.flush()?;
        let position = Opaque::new(OpaqueRole::Source, OPAQUE, self.source.state().to_bytes()?);
        self.task.barrier(barrier, Timestamp::from_millis(watermark), vec![position])?;
        self.queues.iter().try_for_each(|queue| send(queue, ToSubtask::Barrier(EpochEnd { barrier, watermark })))
    }

    /// Takes the checkpoint that holds everything. One that is given up is tried again.
    fn last_checkpoint(&mut self, end: End) -> Result<ManifestId> {
        let watermark = if end == End::Input {
            self.source.close_windows();
            i64::MAX
        } else {
            self.watermark()
        };
        self.job.observe(Observation::Ending);
        for _ in 0..FINAL_TRIES {
            let barrier = self.wait(self.job.trigger_when_possible())?;
            self.end_epoch(barrier, watermark)?;
            if let Some(id) = self.wait(self.job.wait(barrier))? {
                return Ok(id);
            }
        }
        Err(given_up("the last checkpoint was given up", self.job))
    }

    /// Waits for `work`, which may need the subtasks: without one of them it would come to nothing only when the
    /// checkpoint takes too long.
    fn wait<R>(&self, work: impl Future<Output = Result<R>>) -> Result<R> {
        let (work, gone) = (pin!(work), pin!(self.gone.notified()));
        match self.handle.block_on(select(work, gone)) {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) => Err(Error::stopped("a subtask is gone")),
        }
    }
}

/// Sends to a subtask; one that is gone failed, and its thread says why.
fn send(queue: &SyncSender<ToSubtask>, message: ToSubtask) -> Result<()> {
    queue.send(message).map_err(|_| Error::stopped("a subtask is gone"))
}

/// Spreads records evenly over time, in steps of a millisecond.
#[derive(Debug)]
pub(crate) struct Pace {
    start: Instant,
    rate: RateArg,
    passed: u64,
}

impl Pace {
    /// Returns a pace of this rate from now on.
    pub(crate) fn new(rate: RateArg) -> Self {
        Self { start: clock::now(), rate, passed: 0 }
    }

    /// Returns how long the next record has to wait; `None`, and it counts as passed, if it may go.
    fn wait(&mut self) -> Option<Duration> {
        let elapsed = self.start.elapsed();
        let ahead = u128::from(self.passed).saturating_sub(self.rate.passed(elapsed));
        // The first record of all need not wait.
        if ahead == 0 {
            self.passed += 1;
            return None;
        }
        let wait_ms = ahead * 1000 / u128::from(self.rate.at(elapsed));
        Some(Duration::from_millis(u64::try_from(wait_ms).unwrap_or(u64::MAX).clamp(1, 50)))
    }
}
