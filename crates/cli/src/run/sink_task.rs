//! The thread of the sink that writes parts to a folder: gathers the rows of an epoch, which then are one part.
//!
//! The sink is an operator of the job, downstream of all subtasks. Staging and publishing are the library's.

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;

use alluvium::backend::StateBackend;
use alluvium::sink::Sink;
use alluvium::{Barrier, Epoch, Error, Result, Task, Timestamp};

use super::output::OutputRow;
use super::target::SubtaskOutput;

/// A message to the sink.
#[derive(Debug)]
pub(crate) enum ToSink {
    /// The results of a subtask's closed windows, at its barrier.
    Rows(Barrier, Vec<OutputRow>),
    /// The last message.
    End,
}

/// The sink thread's state.
#[derive(Debug)]
pub(crate) struct SinkWorker<B> {
    pub(crate) task: Task<B>,
    pub(crate) output: SubtaskOutput,
    pub(crate) subtasks: u32,
}

impl<B: StateBackend> SinkWorker<B> {
    /// Processes messages until the end. Returns the sink, which may still have output to publish.
    ///
    /// # Errors
    /// From the folder; `Stopped` if all senders have ended.
    pub(crate) fn run(mut self, queue: &Receiver<ToSink>) -> Result<Sink> {
        // Per open epoch: the subtasks that have arrived, and their rows.
        let mut arriving: BTreeMap<Epoch, (u32, Vec<OutputRow>)> = BTreeMap::new();
        loop {
            match queue.recv() {
                Ok(ToSink::Rows(barrier, mut rows)) => {
                    let (arrived, collected) = arriving.entry(barrier.epoch).or_default();
                    *arrived += 1;
                    collected.append(&mut rows);
                    if *arrived == self.subtasks {
                        let (_, rows) = arriving.remove(&barrier.epoch).unwrap_or_default();
                        self.end_epoch(barrier, rows)?;
                    }
                }
                Ok(ToSink::End) => return Ok(self.output.sink),
                Err(_) => return Err(Error::stopped("the subtasks have ended")),
            }
        }
    }

    fn end_epoch(&mut self, barrier: Barrier, rows: Vec<OutputRow>) -> Result<()> {
        self.output.emit(rows)?;
        self.task.barrier(barrier, Timestamp::MIN, Vec::new())
    }
}
