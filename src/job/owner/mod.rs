//! The owner: coordinates the epochs of an attempt, commits them, collects garbage.
//!
//! Invariants: the coordinator alone decides how an epoch ends; a commit in doubt is settled before the next one; a
//! fenced attempt does nothing more.

mod draft;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::FutureExt as _;
use tracing::Instrument as _;

use super::OperatorSpec;
use super::progress::{Aborted, Unfinished};
use super::shared::{Shared, Steps};
use crate::checkpoint::acknowledgement::Placed;
use crate::checkpoint::commit::{CommitOutcome, Committer};
use crate::checkpoint::operators::Carried;
use crate::checkpoint::sweep::Collector;
use crate::control::coordinator::{Command, Event, Participant};
use crate::control::interval::{CheckpointSample, Observation};
use crate::control::retention::Garbage;
use crate::error::{Applied, Error, ErrorKind, Result, broken};
use crate::id::{Attempt, Epoch, ManifestId, ObjectId, OperatorId};
use crate::key_group::KeyGroup;
use crate::metrics;
use crate::place::Store;
use crate::runtime::SharedRuntime;
use crate::time::Timestamp;

/// The result of the owner's asynchronous work.
pub(super) enum Step {
    /// A commit's outcome is known, or the committer gave up on it.
    Decided(Epoch, Decision),
    /// A collection ended.
    Collected(Box<Collector>),
    /// An epoch may have passed its deadline.
    Deadline(Timestamp),
}

/// How a commit ended.
pub(super) struct Decision {
    committer: Box<Committer>,
    outcome: Result<CommitOutcome>,
}

/// The owner of one attempt.
pub(super) struct Owner {
    pub(super) steps: Steps<Step>,
    shared: Arc<Shared>,
    runtime: SharedRuntime,
    store: Store,
    attempt: Attempt,
    max_parallelism: u16,
    operators: Vec<OperatorSpec>,
    /// Stored operators that each checkpoint lists again.
    carried: Vec<Carried>,
    /// `None` while a commit is under way.
    committer: Option<Box<Committer>>,
    /// `None` while a collection is under way.
    collector: Option<Box<Collector>>,
    garbage: Vec<Garbage>,
    epochs: BTreeMap<Epoch, InFlight>,
    /// The deadline of the pending timer.
    timer: Option<Timestamp>,
    /// Objects that the last checkpoint lists.
    listed: BTreeSet<ObjectId>,
    /// The sizes of the checkpoint being committed.
    sample: CheckpointSample,
    /// Requests to the store before the last checkpoint; `None` before the first.
    requests: Option<u64>,
    /// Rows of each key group, as last reported.
    rows: BTreeMap<(OperatorId, KeyGroup), u64>,
}

/// The owner's record of an epoch in flight.
struct InFlight {
    started: Timestamp,
    stage: Stage,
    /// Why the epoch will be aborted.
    reason: Option<Error>,
}

/// How far an epoch has come here.
enum Stage {
    /// The worker has not placed it.
    Open,
    Placed(Placed),
    Committing,
}

impl InFlight {
    fn new(started: Timestamp) -> Self {
        Self { started, stage: Stage::Open, reason: None }
    }
}

impl Owner {
    /// * `carried`: stored operators that each checkpoint lists again.
    pub(super) fn new(
        shared: Arc<Shared>,
        store: &Store,
        (attempt, max_parallelism): (Attempt, u16),
        (operators, carried): (Vec<OperatorSpec>, Vec<Carried>),
        committer: Committer,
    ) -> Self {
        Self {
            steps: Steps::new(),
            shared,
            runtime: Arc::clone(store.runtime()),
            store: store.clone(),
            attempt,
            max_parallelism,
            operators,
            carried,
            committer: Some(Box::new(committer)),
            collector: Some(Box::new(Collector::new(store))),
            garbage: Vec::new(),
            epochs: BTreeMap::new(),
            timer: None,
            listed: BTreeSet::new(),
            sample: CheckpointSample::default(),
            requests: None,
            rows: BTreeMap::new(),
        }
    }

    pub(super) fn begin(&mut self) {
        self.publish_doubt();
        self.sweep_orphans();
    }

    /// Publishes the errors of a commit in doubt in the job's progress.
    fn publish_doubt(&mut self) {
        let shared = Arc::downgrade(&self.shared);
        let Some(committer) = &mut self.committer else { broken("an owner starts without its committer") };
        committer.on_doubt(Arc::new(move |error| {
            if let Some(shared) = shared.upgrade() {
                shared.update(|progress| progress.unsettled = Some(error.clone()));
            }
        }));
    }

    /// Records that an epoch was triggered.
    ///
    /// * `open`: whether it is still in flight.
    pub(super) fn triggered(&mut self, now: Timestamp, epoch: Epoch, open: bool) {
        // Requests of claim and restore count for no checkpoint.
        if self.requests.is_none() {
            self.requests = Some(self.store_requests());
        }
        if open {
            self.epochs.insert(epoch, InFlight::new(now));
        }
    }

    /// Handles one step. Returns a checkpoint that was committed, to be announced once the worker has settled its
    /// epoch.
    ///
    /// # Errors
    /// Fatal to the job: the commit stays in doubt, or another attempt owns the job.
    pub(super) fn handle(&mut self, now: Timestamp, step: Step) -> Result<Option<(Epoch, ManifestId)>> {
        match step {
            Step::Decided(epoch, decision) => {
                let committed = self.decided(now, epoch, decision)?;
                return Ok(committed.map(|id| (epoch, id)));
            }
            Step::Collected(collector) => {
                let left = collector.uncollected();
                self.shared.update(|progress| progress.uncollected = left);
                self.collector = Some(collector);
            }
            Step::Deadline(deadline) => {
                self.timer.take_if(|armed| *armed == deadline);
                self.shared.coordinator().handle_timeout(now);
            }
        }
        Ok(None)
    }

    /// Records that all of this process's state for an epoch is placed.
    pub(super) fn placed(&mut self, now: Timestamp, epoch: Epoch, placed: Placed) {
        if let Err(error) = draft::check_tables(&placed.acknowledgements) {
            return self.decline(now, epoch, error);
        }
        // If the epoch was aborted meanwhile, it is not in `epochs`, and the coordinator ignores the acknowledgements.
        for acknowledgement in &placed.acknowledgements {
            self.shared.coordinator().handle(now, Event::Acknowledged(epoch, acknowledgement.participant));
        }
        if let Some(epoch) = self.epochs.get_mut(&epoch) {
            epoch.stage = Stage::Placed(placed);
        }
    }

    /// Aborts an epoch, unless its manifest is being created.
    pub(super) fn decline(&mut self, now: Timestamp, epoch: Epoch, reason: Error) {
        let committing = self.shared.coordinator().is_committing(epoch);
        let Some(flight) = self.epochs.get_mut(&epoch).filter(|_| !committing) else { return };
        if flight.reason.is_none() {
            flight.reason = Some(reason.clone());
            self.shared.update(|progress| progress.last_decline = Some(reason));
        }
        self.shared.coordinator().handle(now, Event::Declined(epoch));
    }

    /// Returns the coordinator's next command.
    pub(super) fn poll(&self) -> Option<Command> {
        self.shared.coordinator().poll()
    }

    /// Starts creating the manifest of an epoch.
    pub(super) fn commit(&mut self, epoch: Epoch) {
        let stage = self.epochs.get_mut(&epoch).map(|flight| std::mem::replace(&mut flight.stage, Stage::Committing));
        let Some(Stage::Placed(placed)) = stage else { broken("commit of an epoch that is not placed") };
        let Some(mut committer) = self.committer.take() else { broken("two commits at a time") };
        let draft = self.draft(epoch, placed);
        let span = tracing::info_span!("commit", %epoch);
        let commit = async move {
            let outcome = match draft {
                Ok(draft) => committer.commit(draft).await,
                Err(error) => Err(error),
            };
            Step::Decided(epoch, Decision { committer, outcome })
        };
        self.steps.push(commit.instrument(span).boxed());
    }

    /// Takes the committer back once the outcome of its commit is known. Returns the checkpoint, if the epoch is
    /// committed.
    fn decided(&mut self, now: Timestamp, epoch: Epoch, decision: Decision) -> Result<Option<ManifestId>> {
        let Decision { mut committer, outcome } = decision;
        if outcome.is_ok() {
            self.garbage.push(committer.take_garbage());
        }
        self.committer = Some(committer);
        match outcome {
            Ok(CommitOutcome::Committed(committed)) => {
                self.shared.update(|progress| progress.unsettled = None);
                self.shared.coordinator().handle(now, Event::Committed(epoch));
                Ok(Some(committed.id))
            }
            Ok(CommitOutcome::Fenced { by }) => {
                self.shared.update(|progress| progress.unsettled = None);
                Err(Error::fenced("a newer attempt owns the job").with("attempt", by))
            }
            // The store refused, or the draft broke a rule: the manifest does not exist and will not.
            Err(error) if is_not_committed(&error) => {
                if let Some(flight) = self.epochs.get_mut(&epoch) {
                    flight.reason = Some(error.clone());
                }
                self.shared.update(|progress| {
                    progress.unsettled = None;
                    progress.last_decline = Some(error);
                });
                self.shared.coordinator().handle(now, Event::NotCommitted(epoch));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Announces a checkpoint.
    pub(super) fn announce(&mut self, now: Timestamp, epoch: Epoch, id: ManifestId) {
        let started = self.epochs.remove(&epoch).map_or(now, |flight| flight.started);
        let duration = now.since(started);
        self.observe_completed(now, duration);
        metrics::checkpoint_completed(id.seq, duration);
        tracing::info!(%epoch, id = %id.seq, ?duration, "checkpoint committed");
        self.shared.epoch_ended(epoch, Some(id));
        self.shared.update(|progress| {
            progress.committed = Some((epoch, id));
            progress.completed = progress.completed.saturating_add(1);
        });
    }

    /// Returns the number of requests that the job has made.
    fn store_requests(&self) -> u64 {
        let requests = self.store.requests();
        requests.put + requests.get + requests.list + requests.delete
    }

    /// Reports the checkpoint's duration and requests to the controller of the interval.
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 requests and rows")]
    fn observe_completed(&mut self, now: Timestamp, duration: Duration) {
        let all = self.store_requests();
        let requests = all.saturating_sub(self.requests.replace(all).unwrap_or(all)) as f64;
        let sample = CheckpointSample { duration: duration.as_secs_f64(), requests, ..self.sample };
        self.shared.observe(now, Observation::Completed(sample));
    }

    /// Records, logs and announces that an epoch was aborted.
    ///
    /// * `unfinished`: its progress at the worker, unless all was placed.
    pub(super) fn aborted(&mut self, now: Timestamp, epoch: Epoch, unfinished: Option<Unfinished>) {
        self.shared.observe(now, Observation::Aborted);
        metrics::checkpoint_failed();
        let InFlight { started, stage, reason } = self.epochs.remove(&epoch).unwrap_or_else(|| InFlight::new(now));
        let Unfinished { stage, missing } =
            unfinished.unwrap_or_else(|| Unfinished { stage: stage.name(), missing: Vec::new() });
        let reason = reason.unwrap_or_else(|| Error::unavailable("checkpoint was not complete in time"));
        let aborted = Aborted { epoch, reason, age: now.since(started), missing };
        let subtasks = Subtasks(&aborted.missing);
        tracing::warn!(%epoch, reason = aborted.reason.chain(), age = ?aborted.age, stage,
            missing = %subtasks, "checkpoint given up");
        self.shared.epoch_ended(epoch, None);
        self.shared.update(|progress| {
            progress.aborted = progress.aborted.saturating_add(1);
            progress.last_aborted = Some(aborted);
        });
    }

    /// Starts whatever can start now.
    pub(super) fn advance(&mut self) {
        self.collect();
        self.arm_timer();
    }

    /// Deletes objects that the last commits made unreachable, one collection at a time.
    fn collect(&mut self) {
        if self.garbage.is_empty() {
            return;
        }
        let Some(mut collector) = self.collector.take() else { return };
        std::mem::take(&mut self.garbage).into_iter().for_each(|garbage| collector.add(garbage));
        let collect = async move {
            // Failures are logged; the collector keeps their keys for the next run.
            let _swept = collector.run().await;
            Step::Collected(collector)
        };
        self.steps.push(collect.boxed());
    }

    /// Deletes, once, objects that earlier attempts uploaded without committing. Runs in place of the collector, since
    /// two deleters would try the same objects.
    fn sweep_orphans(&mut self) {
        let attempt = self.attempt;
        if attempt <= Attempt(1) {
            return;
        }
        let Some(collector) = self.collector.take() else { return };
        let span = tracing::info_span!("sweep", %attempt);
        let sweep = async move {
            collector.sweep_orphans(attempt).await;
            Step::Collected(collector)
        };
        self.steps.push(sweep.instrument(span).boxed());
    }

    fn arm_timer(&mut self) {
        let Some(deadline) = self.shared.coordinator().deadline() else { return };
        // A later epoch may have an earlier deadline: the controller chooses each timeout.
        if self.timer.is_some_and(|armed| armed <= deadline) {
            return;
        }
        self.timer = Some(deadline);
        let sleep = self.runtime.sleep(deadline.since(self.runtime.monotonic()));
        self.steps.push(sleep.map(move |()| Step::Deadline(deadline)).boxed());
    }

    pub(super) fn fail(&self, error: Error) {
        match error.kind() {
            ErrorKind::Fenced => tracing::warn!(error = error.chain(), "fenced"),
            _ => tracing::error!(error = error.chain(), "job failed"),
        }
        self.shared.fail(error);
    }
}

impl Stage {
    const fn name(&self) -> &'static str {
        match self {
            Self::Open => "encoding and uploading",
            Self::Placed(_) => "waiting for an earlier commit",
            Self::Committing => "committing",
        }
    }
}

/// Returns whether a failed commit provably left no manifest, so that the job can continue.
fn is_not_committed(error: &Error) -> bool {
    let ends = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Fenced | ErrorKind::Stopped);
    error.applied() == Applied::No && !ends
}

/// Prints subtasks for a log line.
struct Subtasks<'a>(&'a [Participant]);

impl fmt::Display for Subtasks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        for (operator, subtask) in self.0.iter().take(SHOWN) {
            write!(f, "{operator}/{subtask} ")?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "and {more} more"),
        }
    }
}
