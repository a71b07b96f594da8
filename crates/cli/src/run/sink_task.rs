//! The thread of the two-phase sink: stages at barriers, publishes after commits.
//!
//! It is an operator of the job, downstream of all subtasks, and its prepared parts travel in the manifest. The job lists
//! a part again whose epoch was given up, as it does the state that it was taken from.

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;

use alluvium::Timestamp;
use alluvium::backend::StateBackend;
use alluvium::{Barrier, Epoch};
use alluvium::{Error, Result};
use alluvium::{Opaque, OpaqueRole};
use alluvium::{Progress, Task};
use tokio::sync::watch;

use super::output::OutputRow;
use super::sink::{FileSink, Prepared};

/// Name of the opaque that lists prepared parts.
const OPAQUE: &str = "parts";

/// What flows to the sink.
#[derive(Debug)]
pub(crate) enum ToSink {
    /// What a subtask's windows came to, at its barrier.
    Rows(Barrier, Vec<OutputRow>),
    /// A manifest that covers this epoch exists.
    Committed(Epoch),
    /// Nothing more comes.
    End,
}

/// The sink at work.
#[derive(Debug)]
pub(crate) struct SinkWorker<B> {
    pub(crate) task: Task<B>,
    pub(crate) sink: FileSink,
    pub(crate) subtasks: u32,
    gathering: BTreeMap<Epoch, (u32, Vec<OutputRow>)>,
    prepared: Vec<(Epoch, Prepared)>,
}

impl<B: StateBackend> SinkWorker<B> {
    /// Returns a sink that hears from `subtasks` subtasks.
    pub(crate) fn new(task: Task<B>, sink: FileSink, subtasks: u32) -> Self {
        Self { task, sink, subtasks, gathering: BTreeMap::new(), prepared: Vec::new() }
    }

    /// Works until the end.
    ///
    /// # Errors
    /// From the folder; `Stopped` if everybody else is gone.
    pub(crate) fn run(mut self, queue: &Receiver<ToSink>) -> Result<()> {
        loop {
            match queue.recv() {
                Ok(ToSink::Rows(barrier, rows)) => self.gather(barrier, rows)?,
                Ok(ToSink::Committed(epoch)) => self.publish(epoch)?,
                Ok(ToSink::End) => return Ok(()),
                Err(_) => return Err(Error::stopped("the subtasks are gone")),
            }
        }
    }

    fn gather(&mut self, barrier: Barrier, mut rows: Vec<OutputRow>) -> Result<()> {
        let (arrived, gathered) = self.gathering.entry(barrier.epoch).or_default();
        *arrived += 1;
        gathered.append(&mut rows);
        if *arrived < self.subtasks {
            return Ok(());
        }
        let (_, rows) = self.gathering.remove(&barrier.epoch).unwrap_or_default();
        // What is committed by now is listed no longer.
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
        let (covered, open) = std::mem::take(&mut self.prepared).into_iter().partition(|(of, _)| *of <= epoch);
        self.prepared = open;
        let covered: Vec<(Epoch, Prepared)> = covered;
        covered.iter().try_for_each(|(_, part)| self.sink.publish(part))
    }
}

/// Returns the parts that a restored checkpoint lists.
///
/// # Errors
/// `Corrupt` if the list is not one.
pub(crate) fn listed(opaques: &[Opaque]) -> Result<Vec<Prepared>> {
    let of_sink = opaques.iter().filter(|o| o.role == OpaqueRole::SinkPrepared && o.name == OPAQUE);
    let mut parts = Vec::new();
    for item in of_sink.map(Opaque::items) {
        for bytes in item? {
            let some: Vec<Prepared> = serde_json::from_slice(&bytes)
                .map_err(|source| Error::corrupt("stored list of parts is damaged").with_source(source))?;
            parts.extend(some);
        }
    }
    Ok(parts)
}

/// Tells the sink of commits until either is gone.
pub(crate) async fn announce(mut progress: watch::Receiver<Progress>, sink: std::sync::mpsc::Sender<ToSink>) {
    loop {
        let committed = progress.borrow_and_update().committed;
        let sent = committed.is_none_or(|(epoch, _)| sink.send(ToSink::Committed(epoch)).is_ok());
        if !sent || progress.changed().await.is_err() {
            return;
        }
    }
}
