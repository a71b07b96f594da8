//! The single reader: numbers records, routes them by key group, and puts each barrier into all queues at the same
//! record boundary.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use alluvium::backend::StateBackend;
use alluvium::interval::Observation;
use alluvium::{Barrier, Error, ErrorKind, Job, ManifestId, Result, Task, Timestamp, owner};
use futures_util::future::{Either, select};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::interval::LoadMeter;
use super::rate::RateArg;
use super::record::RecordBatch;
use super::source::{Next, Source};
use super::subtask::{EpochEnd, ToSubtask};
use alluvium_bench::{clock, given_up};

/// Records per batch.
const BATCH_RECORDS: usize = 1024;

/// Bytes at which a batch is sent.
const BATCH_BYTES: usize = 256 * 1024;

/// Records between two polls of the clock.
const POLL_RECORDS: u64 = 256;

/// Longest wait for a record until a checkpoint may be due.
const MOMENT: Duration = Duration::from_millis(50);

/// Time between two looks for new parts of the input, and how long one may take.
const DISCOVER_EACH: Duration = Duration::from_secs(30);
const DISCOVER_WITHIN: Duration = Duration::from_secs(5);

/// Tries of the final checkpoint.
const FINAL_TRIES: usize = 3;

/// The reader thread's state.
#[derive(Debug)]
pub(crate) struct Reader<'a, B> {
    pub(crate) job: &'a Job,
    pub(crate) source: Source,
    pub(crate) task: Task<B>,
    pub(crate) queues: Vec<SyncSender<ToSubtask>>,
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) limit: Option<u64>,
    pub(crate) pace: Option<Pace>,
    /// Present if the interval is adaptive.
    pub(crate) meter: Option<LoadMeter>,
    pub(crate) stop: &'a AtomicBool,
    /// Records read, counted from the start of the input; for the progress display.
    pub(crate) records: &'a AtomicU64,
    /// Notified when a subtask or the sink ends; before the reader ends, only a failure ends them.
    pub(crate) downstream_ended: &'a Notify,
    pub(crate) handle: Handle,
    pub(crate) started: Instant,
    /// When parts of the input were last looked for.
    pub(crate) discovered: Instant,
}

/// The reason why reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// End of the input: every window is closed.
    Input,
    /// `--limit`: windows stay open.
    Limit,
    /// A signal.
    Stopped,
}

impl<B: StateBackend> Reader<'_, B> {
    /// Reads to the end, with checkpoints, and takes the final checkpoint.
    ///
    /// # Errors
    /// From the source, the subtasks or the job.
    pub(crate) fn run(&mut self) -> Result<End> {
        let end = self.read()?;
        self.final_checkpoint(end)?;
        for queue in &self.queues {
            send(queue, ToSubtask::End)?;
        }
        Ok(end)
    }

    fn read(&mut self) -> Result<End> {
        let (partitioner, max) = (self.job.partitioner(), self.job.max_parallelism());
        let parallelism = u32::try_from(self.queues.len()).unwrap_or(u32::MAX);
        let mut since_poll = 0;
        loop {
            if self.limit.is_some_and(|limit| self.source.records() >= limit) {
                return Ok(End::Limit);
            }
            since_poll += 1;
            if since_poll >= POLL_RECORDS || self.pace.is_some() {
                since_poll = 0;
                if self.poll()? {
                    return Ok(End::Stopped);
                }
            }
            let record = match self.source.next()? {
                Next::Record(record) => record,
                Next::Skipped => continue,
                Next::Wait => match self.wait()? {
                    true => return Ok(End::Stopped),
                    false => continue,
                },
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

    /// Waits for the pace and starts a due checkpoint. Returns true if the reader must stop.
    fn poll(&mut self) -> Result<bool> {
        while let Some(delay) = self.pace.as_mut().and_then(Pace::release) {
            self.flush()?;
            let before = clock::now();
            clock::sleep(delay);
            // Measured, because sleeps overrun.
            self.meter.iter_mut().for_each(|meter| meter.add_idle(before.elapsed()));
            if self.checkpoint_if_due()? {
                return Ok(true);
            }
        }
        self.checkpoint_if_due()
    }

    /// Waits until the input may have a record, for a moment at most, and starts a due checkpoint. Returns true if the reader must
    /// stop.
    fn wait(&mut self) -> Result<bool> {
        self.flush()?;
        let before = clock::now();
        let ready = async { timeout(MOMENT, self.source.ready()).await.or(Ok(())) };
        block_on(&self.handle, self.downstream_ended, ready)?;
        self.meter.iter_mut().for_each(|meter| meter.add_idle(before.elapsed()));
        self.pace.iter_mut().for_each(Pace::forgo);
        self.checkpoint_if_due()
    }

    /// Looks for parts of the input that have appeared. If the brokers are away, it is done later.
    fn discover_if_due(&mut self) -> Result<()> {
        if self.source.is_bounded() || self.discovered.elapsed() < DISCOVER_EACH {
            return Ok(());
        }
        self.discovered = clock::now();
        let found = async { Ok(timeout(DISCOVER_WITHIN, self.source.discover()).await) };
        match block_on(&self.handle, self.downstream_ended, found)? {
            Ok(Ok(0)) => {}
            Ok(Ok(new)) => tracing::info!(new, "the input has new partitions"),
            // A broker may not know of a partition yet that another has named; readers notice a topic that is gone.
            Ok(Err(error)) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::NotFound) => {
                tracing::warn!(error = error.chain(), "cannot look for new partitions of the input");
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => tracing::warn!(waited = ?DISCOVER_WITHIN, "cannot look for new partitions of the input"),
        }
        Ok(())
    }

    /// Reports progress and load, and starts a due checkpoint. Returns true if the reader must stop.
    fn checkpoint_if_due(&mut self) -> Result<bool> {
        self.records.store(self.source.records(), Ordering::Relaxed);
        self.discover_if_due()?;
        self.source.tick(Timestamp::from_millis(0).after(self.started.elapsed()));
        if let Some(meter) = &mut self.meter {
            meter.sample(self.job, self.source.records());
        }
        if self.job.is_due()
            && let Some(barrier) = self.job.trigger()?
        {
            self.end_epoch(barrier, self.watermark())?;
        }
        Ok(self.stop.load(Ordering::Relaxed))
    }

    /// Returns the watermark; before the first event time, one that closes no window.
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
        let positions = self.source.state()?.to_opaques()?;
        self.task.barrier(barrier, Timestamp::from_millis(watermark), positions)?;
        self.queues.iter().try_for_each(|queue| send(queue, ToSubtask::Barrier(EpochEnd { barrier, watermark })))
    }

    /// Takes the checkpoint that covers all records read; retries an aborted one.
    fn final_checkpoint(&mut self, end: End) -> Result<ManifestId> {
        let watermark = if end == End::Input {
            self.source.close_windows();
            i64::MAX
        } else {
            self.watermark()
        };
        self.job.observe(Observation::Ending);
        for _ in 0..FINAL_TRIES {
            let barrier = block_on(&self.handle, self.downstream_ended, self.job.trigger_when_possible())?;
            self.end_epoch(barrier, watermark)?;
            if let Some(id) = block_on(&self.handle, self.downstream_ended, self.job.wait(barrier))? {
                return Ok(id);
            }
        }
        Err(given_up("the final checkpoint was aborted", self.job))
    }
}

/// Waits for `work`, which may need all subtasks: if one ends, fails at once, not at the checkpoint's timeout.
fn block_on<R>(handle: &Handle, downstream_ended: &Notify, work: impl Future<Output = Result<R>>) -> Result<R> {
    let (work, ended) = (pin!(work), pin!(downstream_ended.notified()));
    match handle.block_on(select(work, ended)) {
        Either::Left((outcome, _)) => outcome,
        Either::Right(_) => Err(Error::stopped("a subtask has ended")),
    }
}

/// Sends to a subtask. `Stopped` if it has failed: its thread returns the cause.
fn send(queue: &SyncSender<ToSubtask>, message: ToSubtask) -> Result<()> {
    queue.send(message).map_err(|_| Error::stopped("a subtask has ended"))
}

/// Spreads records evenly over time, in steps of a millisecond.
#[derive(Debug)]
pub(crate) struct Pace {
    start: Instant,
    rate: RateArg,
    released: u64,
}

impl Pace {
    /// Returns a pace that starts now.
    pub(crate) fn new(rate: RateArg) -> Self {
        Self { start: clock::now(), rate, released: 0 }
    }

    /// Gives up the records that were released or could have been, as there were none: they are not made up for later.
    fn forgo(&mut self) {
        self.released = self.rate.allowed(self.start.elapsed()).try_into().unwrap_or(u64::MAX);
    }

    /// Releases the next record and returns `None`, or returns the delay until its release.
    fn release(&mut self) -> Option<Duration> {
        let elapsed = self.start.elapsed();
        let ahead = u128::from(self.released).saturating_sub(self.rate.allowed(elapsed));
        // The first record is released at once.
        if ahead == 0 {
            self.released += 1;
            return None;
        }
        let delay_ms = ahead * 1000 / u128::from(self.rate.at(elapsed));
        Some(Duration::from_millis(u64::try_from(delay_ms).unwrap_or(u64::MAX).clamp(1, 50)))
    }
}
