//! The worker: gathers the seals of this process's tasks for an epoch, places them, and reports to the owner.
//!
//! Invariant: epochs are placed one at a time and in order, so that the pending links of an aborted epoch are merged
//! only into later epochs.

mod seat;
mod task;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{AbortHandle, FutureExt as _, abortable};
use tokio::sync::mpsc::UnboundedSender;
use tracing::Instrument as _;

use super::progress::Unfinished;
use super::shared::{Mail, Shared, Steps};
use crate::backend::Outcome;
use crate::checkpoint::acknowledgement::{Arrival, Placed};
use crate::checkpoint::pipeline::Pipeline;
use crate::checkpoint::prepared_output::PreparedOutput;
use crate::control::chain::ChainPolicy;
use crate::control::coordinator::Participant;
use crate::error::{Error, Result};
use crate::id::Epoch;
use crate::metrics;
use crate::runtime::SharedRuntime;
use crate::time::Timestamp;

pub use seat::{RestoreError, Seat};
pub use task::Task;

/// The pause before the next poll for mail: this fraction of the time since the trigger, within these bounds.
const POLL_FRACTION: u32 = 4;
const POLL_MIN: Duration = Duration::from_millis(1);
const POLL_MAX: Duration = Duration::from_millis(100);

/// The result of the worker's asynchronous work.
pub(super) enum Step {
    /// It is time to poll for mail.
    Poll,
    /// Placing ended; `None` if the epoch was aborted meanwhile.
    Placed(Epoch, Option<Result<Placed>>),
}

/// A report to the owner.
pub(super) enum Report {
    /// All of this process's state for the epoch is placed.
    Placed(Epoch, Placed),
    /// The epoch cannot be completed here.
    Declined(Epoch, Error),
}

/// The worker of one attempt in this process.
pub(super) struct Worker {
    pub(super) steps: Steps<Step>,
    shared: Arc<Shared>,
    runtime: SharedRuntime,
    pipeline: Arc<Pipeline>,
    prepared: PreparedOutput,
    /// When groups get new bases; `None` if each checkpoint writes all groups.
    policy: Option<ChainPolicy>,
    /// One per task.
    settlements: Vec<UnboundedSender<(Epoch, Outcome)>>,
    epochs: BTreeMap<Epoch, InProgress>,
    /// Subtasks whose seat or task was dropped.
    dropped: BTreeSet<Participant>,
    /// The newest triggered epoch.
    newest: Epoch,
    polling: bool,
    reports: Vec<Report>,
}

/// An epoch from its trigger until it is settled.
struct InProgress {
    started: Timestamp,
    /// The newest epoch whose commit had been announced when this one was triggered.
    announced: Option<Epoch>,
    stage: Stage,
}

/// How far an epoch has come in this process.
enum Stage {
    Gathering(BTreeMap<Participant, Arrival>),
    Placing(AbortHandle),
    Placed,
}

impl Worker {
    pub(super) fn new(
        shared: Arc<Shared>,
        pipeline: Pipeline,
        prepared: PreparedOutput,
        policy: Option<ChainPolicy>,
        settlements: Vec<UnboundedSender<(Epoch, Outcome)>>,
    ) -> Self {
        Self {
            steps: Steps::new(),
            shared,
            runtime: Arc::clone(&pipeline.runtime),
            pipeline: Arc::new(pipeline),
            prepared,
            policy,
            settlements,
            epochs: BTreeMap::new(),
            dropped: BTreeSet::new(),
            newest: Epoch::default(),
            polling: false,
            reports: Vec::new(),
        }
    }

    /// Records that an epoch was triggered.
    ///
    /// * `announced`: the newest epoch whose commit had been announced before; `None` if the triggered epoch has ended.
    pub(super) fn triggered(&mut self, now: Timestamp, epoch: Epoch, announced: Option<Option<Epoch>>) {
        self.newest = epoch;
        if let Some(announced) = announced {
            let stage = Stage::Gathering(BTreeMap::new());
            self.epochs.insert(epoch, InProgress { started: now, announced, stage });
        }
    }

    pub(super) fn handle(&mut self, step: Step) {
        match step {
            Step::Poll => self.polling = false,
            Step::Placed(epoch, outcome) => {
                match outcome {
                    None => {}
                    Some(Ok(placed)) => {
                        self.epochs.entry(epoch).and_modify(|epoch| epoch.stage = Stage::Placed);
                        self.reports.push(Report::Placed(epoch, placed));
                    }
                    Some(Err(error)) => self.decline(epoch, error),
                }
                metrics::sealed_bytes(self.pipeline.held_bytes());
            }
        }
    }

    /// Reads the mail of the tasks. Returns the reports to the owner.
    pub(super) fn gather(&mut self) -> Vec<Report> {
        // A task's mail may overtake the wake-up of its epoch's trigger. It stays in the mailbox until then.
        let newest = self.newest;
        let mail: Vec<_> = self.shared.mail().extract_if(.., |mail| mail.is_known(newest)).collect();
        for mail in mail {
            match mail {
                Mail::Arrived(epoch, participant, arrival) => self.arrived(epoch, participant, arrival),
                Mail::Declined(epoch, reason) => self.decline(epoch, reason),
                Mail::Dropped(participant) => drop(self.dropped.insert(participant)),
            }
        }
        self.decline_for_dropped_subtasks();
        std::mem::take(&mut self.reports)
    }

    fn arrived(&mut self, epoch: Epoch, participant: Participant, mut arrival: Arrival) {
        self.prepared.take(epoch, participant, &mut arrival.opaques);
        // Epochs ascend: a subtask that skipped an epoch will not arrive for it.
        let skipped = self.epochs.range(..epoch).filter(|(_, older)| older.stage.waits_for(participant));
        let skipped: Vec<_> = skipped.map(|(&older, _)| older).collect();
        for older in skipped {
            self.decline(older, with_subtask(Error::unavailable("a later barrier subsumed the epoch"), participant));
        }
        // Nothing is left to do for an aborted epoch: the sealed state is in the chain.
        if let Some(InProgress { stage: Stage::Gathering(arrivals), .. }) = self.epochs.get_mut(&epoch) {
            arrivals.insert(participant, arrival);
        }
    }

    /// Declines each epoch that waits for a dropped subtask.
    fn decline_for_dropped_subtasks(&mut self) {
        let missing = |stage: &Stage| self.dropped.iter().find(|subtask| stage.waits_for(**subtask)).copied();
        let epochs = self.epochs.iter().filter_map(|(&epoch, of)| Some((epoch, missing(&of.stage)?)));
        let declined: Vec<_> = epochs.collect();
        for (epoch, subtask) in declined {
            self.decline(epoch, with_subtask(Error::unavailable("subtask was dropped"), subtask));
        }
    }

    fn decline(&mut self, epoch: Epoch, reason: Error) {
        self.reports.push(Report::Declined(epoch, reason));
    }

    /// Starts whatever can start now.
    pub(super) fn advance(&mut self) {
        self.place_oldest();
        self.poll_again();
    }

    /// Starts placing the oldest epoch that is not placed, once every subtask has arrived.
    fn place_oldest(&mut self) {
        let policy = self.chain_policy();
        let oldest = self.epochs.iter_mut().find(|(_, epoch)| !matches!(epoch.stage, Stage::Placed));
        let Some((&epoch, InProgress { announced, stage, .. })) = oldest else { return };
        let Stage::Gathering(arrivals) = stage else { return };
        if arrivals.len() < self.pipeline.chains.len() {
            return;
        }
        let mut arrivals = std::mem::take(arrivals);
        if let Some(announced) = *announced {
            self.prepared.settle(announced);
        }
        for (&participant, arrival) in &mut arrivals {
            arrival.opaques.extend(self.prepared.list(epoch, participant));
        }
        metrics::sealed_bytes(self.pipeline.held_bytes());
        let pipeline = Arc::clone(&self.pipeline);
        let span = tracing::info_span!("place", %epoch);
        let (place, handle) = abortable(async move { pipeline.place(epoch, arrivals, policy).await }.instrument(span));
        *stage = Stage::Placing(handle);
        self.steps.push(async move { Step::Placed(epoch, place.await.ok()) }.boxed());
    }

    /// Returns the current bounds of chains.
    fn chain_policy(&self) -> Option<ChainPolicy> {
        let decided = |policy| self.shared.adaptive.as_ref().map_or(policy, |adaptive| adaptive.chain_policy(policy));
        self.policy.map(decided)
    }

    /// Schedules the next poll while tasks are expected to seal. The pause grows with the time since the trigger.
    fn poll_again(&mut self) {
        let all = self.pipeline.chains.len();
        let gathers = |epoch: &&InProgress| matches!(&epoch.stage, Stage::Gathering(arrivals) if arrivals.len() < all);
        let Some(oldest) = self.epochs.values().find(gathers).filter(|_| !self.polling) else { return };
        let pause = (self.runtime.monotonic().since(oldest.started) / POLL_FRACTION).clamp(POLL_MIN, POLL_MAX);
        self.polling = true;
        let sleep = self.runtime.sleep(pause);
        self.steps.push(sleep.map(|()| Step::Poll).boxed());
    }

    /// Records the outcome of an epoch in the chains and passes it to the tasks. Returns the progress of an epoch that
    /// was not placed.
    pub(super) fn settle(&mut self, epoch: Epoch, outcome: Outcome) -> Option<Unfinished> {
        let ended = self.epochs.remove(&epoch);
        if let Some(InProgress { stage: Stage::Placing(handle), .. }) = &ended {
            handle.abort();
        }
        match outcome {
            Outcome::Commit => self.pipeline.commit(epoch),
            Outcome::Abort => self.merge_pending(epoch),
        }
        for settlement in &self.settlements {
            // A dropped task has no state to settle.
            let _gone = settlement.send((epoch, outcome));
        }
        // An epoch that timed out before its wake was read is unknown here: no subtask has arrived.
        let stage = ended.map_or_else(|| Stage::Gathering(BTreeMap::new()), |ended| ended.stage);
        stage.unfinished(&self.pipeline)
    }

    /// Merges the pending links of epochs up to `aborted`, but not of epochs still to be placed. Without this, every
    /// aborted epoch would leave a delta in memory.
    fn merge_pending(&self, aborted: Epoch) {
        let to_place = self.epochs.iter().find(|(_, epoch)| !matches!(epoch.stage, Stage::Placed));
        let until = to_place.map_or(aborted, |(oldest, _)| aborted.min(Epoch(oldest.0.saturating_sub(1))));
        let pipeline = Arc::clone(&self.pipeline);
        self.runtime.spawn_blocking(Box::new(move || pipeline.merge_pending(until)));
    }
}

impl Stage {
    /// Returns whether the epoch waits for `participant` to arrive.
    fn waits_for(&self, participant: Participant) -> bool {
        matches!(self, Self::Gathering(arrivals) if !arrivals.contains_key(&participant))
    }

    fn unfinished(&self, pipeline: &Pipeline) -> Option<Unfinished> {
        match self {
            Self::Gathering(_) => {
                let missing = pipeline.chains.keys().filter(|subtask| self.waits_for(**subtask)).copied().collect();
                Some(Unfinished { stage: "waiting for subtasks", missing })
            }
            Self::Placing(_) => Some(Unfinished { stage: "encoding and uploading", missing: Vec::new() }),
            Self::Placed => None,
        }
    }
}

fn with_subtask(error: Error, (operator, subtask): Participant) -> Error {
    error.with("operator", operator).with("subtask", subtask)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::checkpoint::pipeline::PipelineSettings;
    use crate::checkpoint::segment_chain::SegmentChain;
    use crate::control::coordinator::{CheckpointPolicy, Coordinator};
    use crate::id::{Attempt, OperatorId, Subtask};
    use crate::key_group::KeyGroupSet;
    use crate::memory::MemoryBudget;
    use crate::place::Store;
    use crate::tokio_runtime::TokioRuntime;

    const PARTICIPANT: Participant = (OperatorId(1), Subtask(0));

    fn worker() -> Worker {
        let store = Store::open("memory:///", &"job".parse().unwrap(), TokioRuntime::current()).unwrap();
        let runtime = Arc::clone(store.runtime());
        let policy = CheckpointPolicy::default();
        let coordinator = Coordinator::new(policy, [PARTICIPANT], Epoch(1), runtime.monotonic());
        let budget = MemoryBudget::new(u64::MAX);
        let chain = SegmentChain::new(KeyGroupSet::all(1), Vec::new(), budget.clone());
        let pipeline = Pipeline {
            store,
            runtime,
            settings: PipelineSettings::default(),
            attempt: Attempt(1),
            max_parallelism: 1,
            chains: [(PARTICIPANT, Arc::new(Mutex::new(chain)))].into(),
            catalog: Mutex::default(),
        };
        let shared = Arc::new(Shared::new(Attempt(1), coordinator, None));
        Worker::new(shared, pipeline, PreparedOutput::new(budget), None, Vec::new())
    }

    #[tokio::test]
    async fn an_epoch_aborted_before_its_wake_was_read_misses_every_subtask() {
        let mut worker = worker();
        let unfinished = worker.settle(Epoch(1), Outcome::Abort).unwrap();
        assert_eq!((unfinished.stage, unfinished.missing), ("waiting for subtasks", vec![PARTICIPANT]));
        worker.triggered(Timestamp::from_millis(0), Epoch(2), Some(None));
        worker.handle(Step::Placed(Epoch(2), Some(Ok(Placed { acknowledgements: Vec::new(), objects: Vec::new() }))));
        assert!(worker.settle(Epoch(2), Outcome::Abort).is_none(), "nothing is missing once all is placed");
    }
}
