//! The thread of the two-phase sink: stages at barriers, publishes after commits.
//!
//! The sink is an operator of the job, downstream of all subtasks; the manifest lists its prepared parts. A part of an
//! aborted epoch is listed in the next manifest, as is the epoch's state.

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;

use alluvium::backend::StateBackend;
use alluvium::{Barrier, Epoch, Error, Opaque, OpaqueRole, Progress, Result, Task, Timestamp};
use tokio::sync::watch;

use super::output::OutputRow;
use super::sink::{FileSink, Prepared};

/// Name of the opaque that lists prepared parts.
const OPAQUE: &str = "parts";

/// A message to the sink.
#[derive(Debug)]
pub(crate) enum ToSink {
    /// The results of a subtask's closed windows, at its barrier.
    Rows(Barrier, Vec<OutputRow>),
    /// A manifest that covers the epoch exists.
    Committed(Epoch),
    /// The last message.
    End,
}

/// The sink thread's state.
#[derive(Debug)]
pub(crate) struct SinkWorker<B> {
    pub(crate) task: Task<B>,
    pub(crate) sink: FileSink,
    pub(crate) subtasks: u32,
    /// Per open epoch: the subtasks that have arrived, and their rows.
    arriving: BTreeMap<Epoch, (u32, Vec<OutputRow>)>,
    prepared: Vec<(Epoch, Prepared)>,
}

impl<B: StateBackend> SinkWorker<B> {
    /// Returns a sink downstream of `subtasks` subtasks.
    pub(crate) fn new(task: Task<B>, sink: FileSink, subtasks: u32) -> Self {
        Self { task, sink, subtasks, arriving: BTreeMap::new(), prepared: Vec::new() }
    }

    /// Processes messages until the end.
    ///
    /// # Errors
    /// From the folder; `Stopped` if all senders have ended.
    pub(crate) fn run(mut self, queue: &Receiver<ToSink>) -> Result<()> {
        loop {
            match queue.recv() {
                Ok(ToSink::Rows(barrier, rows)) => self.collect(barrier, rows)?,
                Ok(ToSink::Committed(epoch)) => self.publish(epoch)?,
                Ok(ToSink::End) => return Ok(()),
                Err(_) => return Err(Error::stopped("the subtasks have ended")),
            }
        }
    }

    /// Adds a subtask's rows; the last subtask of an epoch stages the part and ends the epoch.
    fn collect(&mut self, barrier: Barrier, mut rows: Vec<OutputRow>) -> Result<()> {
        let (arrived, collected) = self.arriving.entry(barrier.epoch).or_default();
        *arrived += 1;
        collected.append(&mut rows);
        if *arrived < self.subtasks {
            return Ok(());
        }
        let (_, rows) = self.arriving.remove(&barrier.epoch).unwrap_or_default();
        // Settles committed epochs first, so that the next manifest no longer lists their parts.
        self.task.settle()?;
        if let Some(committed) = self.task.committed() {
            self.publish(committed)?;
        }
        let mut opaques = Vec::new();
        if let Some(part) = self.sink.prepare(barrier.epoch, rows)? {
            let listed = serde_json::to_vec(&[&part])
                .map_err(|source| Error::usage("parts have no JSON form").with_source(source))?;
            opaques.push(Opaque::new(OpaqueRole::SinkPrepared, OPAQUE, listed));
            self.prepared.push((barrier.epoch, part));
        }
        self.task.barrier(barrier, Timestamp::MIN, opaques)
    }

    fn publish(&mut self, epoch: Epoch) -> Result<()> {
        let (covered, open) =
            std::mem::take(&mut self.prepared).into_iter().partition(|(prepared, _)| *prepared <= epoch);
        self.prepared = open;
        let covered: Vec<(Epoch, Prepared)> = covered;
        covered.iter().try_for_each(|(_, part)| self.sink.publish(part))
    }
}

/// Returns the parts listed in a restored checkpoint.
///
/// # Errors
/// `Corrupt` if the list does not decode.
pub(crate) fn listed_parts(opaques: &[Opaque]) -> Result<Vec<Prepared>> {
    let lists = opaques.iter().filter(|o| o.role == OpaqueRole::SinkPrepared && o.name == OPAQUE);
    let mut parts = Vec::new();
    for items in lists.map(Opaque::items) {
        for bytes in items? {
            let list: Vec<Prepared> = serde_json::from_slice(&bytes)
                .map_err(|source| Error::corrupt("stored list of parts is damaged").with_source(source))?;
            parts.extend(list);
        }
    }
    Ok(parts)
}

/// Forwards commits to the sink until the job or the sink ends.
pub(crate) async fn forward_commits(mut progress: watch::Receiver<Progress>, sink: std::sync::mpsc::Sender<ToSink>) {
    loop {
        let committed = progress.borrow_and_update().committed;
        let sent = committed.is_none_or(|(epoch, _)| sink.send(ToSink::Committed(epoch)).is_ok());
        if !sent || progress.changed().await.is_err() {
            return;
        }
    }
}
