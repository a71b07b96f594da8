//! What checkpoints say of the ends of a job: how far each split was read, and what each slot of a sink has emitted.

use std::collections::{BTreeMap, VecDeque};

use crate::checkpoint::manifest_log::{ManifestLog, StoredManifest};
use crate::error::{ErrorKind, Result};
use crate::id::{Epoch, OperatorId, Seq};
use crate::manifest::{Opaque, OperatorManifest, RecordSum};
use crate::place::Store;
use crate::sink::{self, Slot};
use crate::source::{self, StoredSplit};

use super::reader;

/// A checkpoint's account of the ends of its job.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EndSums {
    /// The checkpoint's id.
    pub id: Seq,
    /// The last epoch whose records it counts.
    pub epoch: Epoch,
    /// The splits of its sources, each with what was read of it since the job started.
    pub splits: Vec<SplitSum>,
    /// The slots of its sinks, each with what was emitted since the job started.
    pub slots: Vec<SlotSum>,
}

/// What was read of a split.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SplitSum {
    /// The operator that reads it.
    pub operator: OperatorId,
    /// The source's name.
    pub source: String,
    /// The split, its position, and what was read of it.
    pub split: StoredSplit,
}

/// What a slot has emitted.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SlotSum {
    /// The slot.
    pub slot: Slot,
    /// What it has emitted.
    pub sum: RecordSum,
    /// The output that the checkpoint still lists, by epoch: it may be published or not. `None` if it is staged in the target.
    pub listed: BTreeMap<Epoch, Option<RecordSum>>,
}

impl SlotSum {
    /// Returns what a checkpoint says of a slot.
    #[must_use]
    pub fn new(slot: Slot, sum: RecordSum, listed: BTreeMap<Epoch, Option<RecordSum>>) -> Self {
        Self { slot, sum, listed }
    }
}

/// Returns what live checkpoints say of the ends of the job, oldest first: the one that the job would restore, and those that it follows
/// from. Checkpoints of a history that the job has left are not among them.
///
/// * `sources`: the names of sources, as given to [`Seat::open_source`](crate::Seat::open_source).
///
/// # Errors
/// `Corrupt` or `Version` if a checkpoint cannot be read; `Denied` or `Unavailable` from the store.
///
/// # Cost
/// Reads every checkpoint with its opaques, output that waits for its publication included.
pub async fn end_sums(store: &Store, chain: &mut ManifestLog, sources: &[&str]) -> Result<Vec<EndSums>> {
    let mut sums = VecDeque::new();
    let mut next = None;
    loop {
        let checkpoint = match reader(store, chain, next).resolved().await {
            Ok(checkpoint) => checkpoint,
            // Dropped, so that the ones before it are not known.
            Err(error) if error.kind() == ErrorKind::NotFound && next.is_some() => break,
            Err(error) => return Err(error),
        };
        sums.push_front(of_checkpoint(&checkpoint, sources)?);
        match checkpoint.manifest.parent {
            Some(parent) => next = Some(parent.seq),
            None => break,
        }
    }
    Ok(sums.into())
}

fn of_checkpoint(StoredManifest { id, manifest, .. }: &StoredManifest, sources: &[&str]) -> Result<EndSums> {
    let (mut splits, mut slots) = (Vec::new(), Vec::new());
    for operator in &manifest.operators {
        let opaques: Vec<Opaque> = subtask_opaques(operator)?;
        for source in sources {
            let of = |split| SplitSum { operator: operator.id, source: (*source).to_owned(), split };
            splits.extend(source::stored_splits(source, &opaques)?.into_iter().map(of));
        }
        for (sink, found) in sink::stored_sums(&opaques)? {
            let of = |(subtask, (sum, listed))| {
                let slot = Slot { job: manifest.job, operator: operator.id, sink: sink.clone(), subtask };
                SlotSum { slot, sum, listed }
            };
            slots.extend(found.into_iter().map(of));
        }
    }
    Ok(EndSums { id: id.seq, epoch: manifest.epoch, splits, slots })
}

fn subtask_opaques(operator: &OperatorManifest) -> Result<Vec<Opaque>> {
    Ok(operator.inline_subtasks()?.iter().flat_map(|subtask| subtask.opaques.iter().cloned()).collect())
}
