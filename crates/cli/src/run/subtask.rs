//! The thread of one subtask: records to the operator, barriers to the backend.

use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use alluvium::backend::StateBackend;
use alluvium::interval::Observation;
use alluvium::{Barrier, Error, Job, Result, Task, Timestamp};
use hdrhistogram::Histogram;

use super::operator::Operator;
use super::output::OutputRow;
use super::record::RecordBatch;
use super::sink_task::ToSink;
use super::target::SubtaskOutput;
use super::tiers::Tiers;
use alluvium_bench::clock;

/// How long a subtask waits for a message before it looks at its memory.
const IDLE: Duration = Duration::from_millis(10);

/// A message to a subtask.
#[derive(Debug)]
pub(crate) enum ToSubtask {
    /// Records of the subtask's keys.
    Records(RecordBatch),
    /// The end of an epoch.
    Barrier(EpochEnd),
    /// The end of the input.
    End,
}

/// The end of an epoch, at the same record boundary in every queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EpochEnd {
    /// The epoch's barrier.
    pub(crate) barrier: Barrier,
    /// The watermark at the barrier; `i64::MAX` at the end of the input, which closes all windows.
    pub(crate) watermark: i64,
}

/// The result of a subtask.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The results of all the subtask's keys and windows.
    pub(crate) rows: Vec<OutputRow>,
    /// The subtask's pauses in microseconds.
    pub(crate) pauses: Histogram<u64>,
    pub(crate) emitter: Emitter,
}

/// Where the rows of closed windows go.
#[derive(Debug)]
pub(crate) enum Emitter {
    /// Nowhere: no window closes.
    None,
    /// To the file sink, which all subtasks share.
    Files(Sender<ToSink>),
    /// To another system.
    Remote(SubtaskOutput),
}

impl Emitter {
    fn emit(&mut self, barrier: Barrier, rows: Vec<OutputRow>) -> Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Files(sink) => {
                sink.send(ToSink::Rows(barrier, rows)).map_err(|_| Error::stopped("the sink has ended"))
            }
            Self::Remote(output) => output.emit(rows),
        }
    }
}

/// When the first record of the process was processed.
#[derive(Debug)]
pub(crate) struct FirstRecord {
    started: Instant,
    after: OnceLock<Duration>,
}

impl FirstRecord {
    /// * `started`: when the process started.
    pub(crate) fn since(started: Instant) -> Self {
        Self { started, after: OnceLock::new() }
    }

    /// Notes that a record was processed.
    fn note(&self) {
        let _first = self.after.get_or_init(|| clock::now().duration_since(self.started));
    }

    pub(crate) fn get(&self) -> Option<Duration> {
        self.after.get().copied()
    }
}

/// A subtask thread's state.
#[derive(Debug)]
pub(crate) struct Worker<'a, B> {
    pub(crate) job: &'a Job,
    pub(crate) task: Task<B>,
    pub(crate) operator: Operator,
    pub(crate) emitter: Emitter,
    pub(crate) tiers: &'a Tiers,
    pub(crate) first_record: &'a FirstRecord,
}

impl<B: StateBackend> Worker<'_, B> {
    /// Processes messages until the end of the input.
    ///
    /// # Errors
    /// From the operator or the backend; `Stopped` if the reader has ended.
    pub(crate) fn run(mut self, queue: &Receiver<ToSubtask>) -> Result<Finished> {
        let mut pauses = Histogram::new(3).map_err(|source| Error::usage("no histogram").with_source(source))?;
        loop {
            match queue.recv_timeout(IDLE) {
                Ok(ToSubtask::Records(batch)) => {
                    let first_record = self.first_record;
                    self.operator.apply_batch(self.task.state().backend_mut(), &batch, || first_record.note())?;
                    metrics::counter!("numRecordsIn").increment(batch.len() as u64);
                }
                Ok(ToSubtask::Barrier(end)) => {
                    let start = clock::now();
                    self.end_epoch(end)?;
                    let pause = start.elapsed();
                    pauses.saturating_record(u64::try_from(pause.as_micros()).unwrap_or(u64::MAX));
                    metrics::histogram!("alluvium_pause_seconds").record(pause.as_secs_f64());
                    self.job.observe(Observation::Paused(pause.as_secs_f64()));
                }
                Ok(ToSubtask::End) => break,
                // Others may be waiting for memory that this one holds.
                Err(RecvTimeoutError::Timeout) => self.task.state().advance(Timestamp::MIN, Timestamp::MIN),
                Err(RecvTimeoutError::Disconnected) => return Err(Error::stopped("the reader has ended")),
            }
            self.tiers.sample();
        }
        let backend = self.task.state().backend_mut();
        self.tiers.count(backend);
        let rows = self.operator.results(backend)?;
        self.tiers.sample();
        Ok(Finished { rows, pauses, emitter: self.emitter })
    }

    fn end_epoch(&mut self, EpochEnd { barrier, watermark }: EpochEnd) -> Result<()> {
        if !matches!(self.emitter, Emitter::None) {
            let rows = self.operator.close(self.task.state().backend_mut(), watermark)?;
            self.emitter.emit(barrier, rows)?;
        }
        self.task.barrier(barrier, Timestamp::from_millis(watermark), Vec::new())
    }
}
