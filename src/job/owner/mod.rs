//! The owner's part of an attempt: coordinates epochs, commits them, collects garbage.
//!
//! ```text
//! workers --messages--> OwnedAttempt --commands--> commit, or settle the epoch with the workers
//! ```
//!
//! Invariants: the coordinator alone decides how an epoch ends; a commit in doubt is settled before the next one; a
//! fenced attempt does nothing more; nothing held here grows with the state.

mod collecting;
mod draft;
mod ending;
mod intake;
mod loads;
mod plan;
mod sessions;
mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use futures_util::future::FutureExt as _;
use futures_util::stream::StreamExt as _;
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::Instrument as _;

use super::OperatorSpec;
use super::wire::{Acknowledge, ToOwner, ToWorker};
use crate::canary::{self, Canary};
use crate::checkpoint::commit::{CommitOutcome, Committer};
use crate::checkpoint::operators::Carried;
use crate::checkpoint::sweep::Collector;
use crate::control::chain::ChainPolicy;
use crate::control::coordinator::{Command, Event as Change, Participant};
use crate::control::interval::{CheckpointSample, Observation};
use crate::control::retention::Garbage;
use crate::error::{Error, Result, broken};
use crate::id::{Attempt, Epoch, JobId, ObjectId, OperatorId, SessionId};
use crate::key_group::KeyGroup;
use crate::manifest::ObjectRef;
use crate::metrics;
use crate::place::Store;
use crate::runtime::SharedRuntime;
use crate::time::Timestamp;

use intake::Intake;
use loads::Loads;
use sessions::accepts_stale;

pub(super) use plan::Plan;
pub(super) use sessions::Sessions;
pub use sessions::{Refused, WorkerInfo};
pub(super) use shared::{Event, OwnerHandle, Shared, Steps, other_attempt, stopped};

/// The result of the owner's asynchronous work.
enum Step {
    /// A commit's outcome is known, or the committer gave up on it.
    Decided(Epoch, Decision),
    /// A collection ended.
    Collected(Box<Collector>),
    /// An epoch may have passed its deadline.
    Deadline(Timestamp),
}

/// How a commit ended.
struct Decision {
    committer: Box<Committer>,
    outcome: Result<CommitOutcome>,
    /// What the manifest lists.
    listed: BTreeMap<ObjectId, ObjectRef>,
}

/// The owner's part of one attempt.
pub(super) struct OwnedAttempt {
    steps: Steps<Step>,
    events: UnboundedReceiver<Event>,
    sessions: Arc<Sessions>,
    shared: Arc<Shared>,
    runtime: SharedRuntime,
    store: Store,
    job: JobId,
    attempt: Attempt,
    max_parallelism: u16,
    operators: Vec<OperatorSpec>,
    /// When groups get new bases; `None` if each checkpoint writes all groups.
    chain: Option<ChainPolicy>,
    /// Stored operators that each checkpoint lists again.
    carried: Vec<Carried>,
    intake: Intake,
    loads: Loads,
    /// Subtasks whose seat or task was dropped, each with the last epoch whose barrier it passed.
    dropped: BTreeMap<Participant, Option<Epoch>>,
    /// `None` while a commit is under way.
    committer: Option<Box<Committer>>,
    /// `None` while a collection is under way.
    collector: Option<Box<Collector>>,
    garbage: Vec<Garbage>,
    epochs: BTreeMap<Epoch, InFlight>,
    /// The deadline of the pending timer.
    timer: Option<Timestamp>,
    /// Objects to free once the checkpoint being committed is.
    rewrite: Vec<ObjectId>,
    /// The sizes of the checkpoint being committed.
    sample: CheckpointSample,
    /// Requests to the store before the last checkpoint; `None` before the first.
    requests: Option<u64>,
    /// Requests that workers elsewhere made for the checkpoint being committed.
    workers_requests: u64,
    /// Rows of each key group, as last reported.
    rows: BTreeMap<(OperatorId, KeyGroup), u64>,
    /// Whether the outcome of the attempt has been told.
    ended: bool,
}

/// An attempt's parameters, before its loop runs.
pub(super) struct Parts {
    pub(super) events: UnboundedReceiver<Event>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) shared: Arc<Shared>,
    pub(super) store: Store,
    pub(super) job: JobId,
    pub(super) attempt: Attempt,
    pub(super) max_parallelism: u16,
    pub(super) operators: Vec<OperatorSpec>,
    pub(super) chain: Option<ChainPolicy>,
    pub(super) carried: Vec<Carried>,
    pub(super) seats: BTreeMap<Participant, (SessionId, u32)>,
    /// What the restored checkpoint lists.
    pub(super) listed: BTreeMap<ObjectId, ObjectRef>,
    pub(super) committer: Committer,
}

/// An epoch from its trigger until its end.
struct InFlight {
    started: Timestamp,
    /// Subtasks that have passed the barrier.
    arrived: BTreeSet<Participant>,
    /// The workers that have acknowledged the epoch.
    acknowledged: BTreeSet<SessionId>,
    /// What they placed, until the commit begins.
    placed: BTreeMap<SessionId, Acknowledge>,
    committing: bool,
    /// Why the epoch will be aborted.
    reason: Option<Error>,
}

impl InFlight {
    fn new(started: Timestamp) -> Self {
        let (arrived, acknowledged, placed) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        Self { started, arrived, acknowledged, placed, committing: false, reason: None }
    }
}

impl OwnedAttempt {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { events, sessions, shared, store, job, attempt, max_parallelism, operators, .. } = parts;
        let intake = Intake::new(attempt, max_parallelism, parts.seats, parts.listed);
        let loads = Loads::new(intake.worker_count());
        Self {
            steps: Steps::new(),
            events,
            sessions,
            shared,
            runtime: Arc::clone(store.runtime()),
            collector: Some(Box::new(Collector::new(&store))),
            store,
            job,
            attempt,
            max_parallelism,
            operators,
            chain: parts.chain,
            carried: parts.carried,
            intake,
            loads,
            dropped: BTreeMap::new(),
            committer: Some(Box::new(parts.committer)),
            garbage: Vec::new(),
            epochs: BTreeMap::new(),
            timer: None,
            rewrite: Vec::new(),
            sample: CheckpointSample::default(),
            requests: None,
            workers_requests: 0,
            rows: BTreeMap::new(),
            ended: false,
        }
    }

    /// Runs until the last handle is dropped, or the attempt fails.
    pub(super) async fn run(mut self) {
        self.publish_doubt();
        self.sweep_orphans();
        loop {
            let ended = match self.next().await {
                Some(step) => self.handle(step),
                None => return self.end(Error::stopped("the job was dropped by its owner")),
            };
            match ended {
                Ok(()) => self.advance(),
                Err(error) => return self.fail(error),
            }
        }
    }

    /// Returns the next result or event; `None` once every handle is dropped.
    async fn next(&mut self) -> Option<Result<Step, Event>> {
        poll_fn(|context| {
            if let Poll::Ready(Some(step)) = self.steps.poll_next_unpin(context) {
                return Poll::Ready(Some(Ok(step)));
            }
            self.events.poll_recv(context).map(|event| event.map(Err))
        })
        .await
    }

    /// # Errors
    /// Fatal to the attempt.
    fn handle(&mut self, step: Result<Step, Event>) -> Result<()> {
        let now = self.runtime.monotonic();
        match step {
            Ok(Step::Decided(epoch, decision)) => return self.decided(now, epoch, decision),
            Ok(Step::Collected(collector)) => self.collected(collector),
            Ok(Step::Deadline(deadline)) => {
                self.timer.take_if(|armed| *armed == deadline);
                self.shared.coordinator().handle_timeout(now);
            }
            Err(Event::Triggered(epoch)) => self.triggered(now, epoch),
            Err(Event::Declined(epoch, reason)) => self.decline(now, epoch, reason),
            Err(Event::Message(session, message)) => return self.message(now, session, message),
            Err(Event::Lost(session)) => return self.lost(now, session),
        }
        Ok(())
    }

    /// Records that an epoch was triggered.
    fn triggered(&mut self, now: Timestamp, epoch: Epoch) {
        // Requests of claim and restore count for no checkpoint.
        if self.requests.is_none() {
            self.requests = Some(self.store_requests());
        }
        // An epoch may have timed out before this event was read.
        if self.shared.coordinator().is_in_flight(epoch) {
            self.epochs.insert(epoch, InFlight::new(now));
            self.decline_for_dropped_subtasks(now);
        }
    }

    fn message(&mut self, now: Timestamp, session: SessionId, message: ToOwner) -> Result<()> {
        if !self.intake.has_seats(session) && !accepts_stale() {
            self.sessions.refuse(Error::usage("worker has no seat in this attempt").with("session", session));
            return Ok(());
        }
        match message {
            ToOwner::Hello(_) => self.sessions.refuse(Error::usage("worker greeted twice")),
            ToOwner::Restored(subtask) => {
                if self.is_own(session, subtask) {
                    self.shared.adaptive.iter().for_each(|adaptive| adaptive.restored(now, subtask));
                }
            }
            ToOwner::Arrived(epoch, subtasks) => self.arrived(session, epoch, subtasks),
            ToOwner::Acknowledge(acknowledge) => self.acknowledged(now, session, *acknowledge),
            ToOwner::Decline(epoch, reason) => self.decline(now, epoch, reason),
            ToOwner::Dropped(subtask, last) => self.subtask_dropped(now, session, subtask, last),
            ToOwner::Observed(observation) => self.observed(now, session, observation),
            ToOwner::Refused(error) => return Err(self.seats_refused(session, error)),
        }
        Ok(())
    }

    fn arrived(&mut self, session: SessionId, epoch: Epoch, subtasks: Vec<Participant>) {
        let own: Vec<_> = subtasks.into_iter().filter(|subtask| self.is_own(session, *subtask)).collect();
        self.epochs.get_mut(&epoch).into_iter().for_each(|flight| flight.arrived.extend(&own));
    }

    /// Returns whether a subtask is the worker's. Counts the message if not.
    fn is_own(&self, session: SessionId, (operator, subtask): Participant) -> bool {
        let own = self.intake.is_seat_of(session, (operator, subtask));
        if !own {
            let error = Error::usage("worker reports on a seat that it was not given").with("session", session);
            self.sessions.refuse(error.with("operator", operator).with("subtask", subtask));
        }
        own
    }

    /// Records that a worker has placed its state for an epoch.
    fn acknowledged(&mut self, now: Timestamp, session: SessionId, acknowledge: Acknowledge) {
        let epoch = acknowledge.epoch;
        if !self.shared.coordinator().has_triggered(epoch) && !accepts_stale() {
            return self.sessions.refuse(shared::never_triggered(epoch).with("session", session));
        }
        // A barrier subsumes those before it: the worker will not acknowledge an older epoch any more.
        let skipped: Vec<_> = self.waiting_for(session).filter(|older| *older < epoch).collect();
        for older in skipped {
            self.decline(now, older, Error::unavailable("a later barrier subsumed the epoch").with("session", session));
        }
        // An epoch that was given up meanwhile needs nothing: its state is in the worker's chains.
        let Some(flight) = self.epochs.get_mut(&epoch) else { return };
        if flight.acknowledged.contains(&session) {
            self.sessions.refuse(Error::usage("worker acknowledged an epoch twice").with("epoch", epoch));
            if !canary::on(Canary::AcknowledgeTwice) {
                return;
            }
        }
        if let Err(error) = self.intake.check(session, &acknowledge) {
            self.sessions.refuse(error.clone());
            return self.decline(now, epoch, error);
        }
        let placed: Vec<_> = acknowledge.placed.acknowledgements.iter().map(|one| one.participant).collect();
        flight.arrived.extend(&placed);
        flight.acknowledged.insert(session);
        flight.placed.insert(session, acknowledge);
        if flight.placed.len() == self.intake.worker_count()
            && let Err(error) = draft::check_tables(&flight.placed)
        {
            return self.decline(now, epoch, error);
        }
        let mut coordinator = self.shared.coordinator();
        placed.into_iter().for_each(|subtask| coordinator.handle(now, Change::Acknowledged(epoch, subtask)));
    }

    /// Returns the epochs that wait for a worker's state.
    fn waiting_for(&self, session: SessionId) -> impl Iterator<Item = Epoch> + '_ {
        self.epochs.iter().filter(move |(_, flight)| !flight.acknowledged.contains(&session)).map(|(epoch, _)| *epoch)
    }

    fn subtask_dropped(&mut self, now: Timestamp, session: SessionId, subtask: Participant, last: Option<Epoch>) {
        if self.is_own(session, subtask) {
            self.dropped.insert(subtask, last);
            self.decline_for_dropped_subtasks(now);
        }
    }

    /// Declines each epoch that waits for a dropped subtask.
    fn decline_for_dropped_subtasks(&mut self, now: Timestamp) {
        let missing = |epoch: Epoch| self.dropped.iter().find(|(_, last)| **last < Some(epoch)).map(|(it, _)| *it);
        let declined: Vec<_> = self.epochs.keys().filter_map(|&epoch| Some((epoch, missing(epoch)?))).collect();
        for (epoch, (operator, subtask)) in declined {
            let error = Error::unavailable("subtask was dropped").with("operator", operator).with("subtask", subtask);
            self.decline(now, epoch, error);
        }
    }

    fn observed(&mut self, now: Timestamp, session: SessionId, observation: Observation) {
        let observation = match observation {
            Observation::Load(sample) => self.loads.add(session, sample).map(Observation::Load),
            other => Some(other),
        };
        observation.into_iter().for_each(|observation| self.shared.observe(now, observation));
    }

    /// Aborts an epoch, unless its manifest is being created.
    fn decline(&mut self, now: Timestamp, epoch: Epoch, reason: Error) {
        let planted = canary::on(Canary::DeclineCommitting);
        let committing = self.shared.coordinator().is_committing(epoch) && !planted;
        let Some(flight) = self.epochs.get_mut(&epoch).filter(|_| !committing) else { return };
        if flight.reason.is_none() {
            flight.reason = Some(reason.clone());
            self.shared.update(|progress| progress.last_decline = Some(reason));
        }
        // The coordinator protects a commit under way, too.
        let change = if planted { Change::NotCommitted(epoch) } else { Change::Declined(epoch) };
        self.shared.coordinator().handle(now, change);
    }

    /// Starts whatever can start now.
    fn advance(&mut self) {
        loop {
            let command = self.shared.coordinator().poll();
            match command {
                Some(Command::Commit(epoch)) => self.commit(epoch),
                Some(Command::Abort(epoch)) => self.aborted(epoch),
                None => break,
            }
        }
        self.collect();
        self.arm_timer();
        metrics::in_progress(self.shared.coordinator().in_flight());
    }

    fn commit(&mut self, epoch: Epoch) {
        let Some(flight) = self.epochs.get_mut(&epoch) else { broken("commit of an epoch that is not in flight") };
        flight.committing = true;
        let placed = std::mem::take(&mut flight.placed);
        let Some(mut committer) = self.committer.take() else { broken("two commits at a time") };
        let draft = self.draft(epoch, placed);
        let span = tracing::info_span!("commit", %epoch);
        let commit = async move {
            let (outcome, listed) = match draft {
                Ok(draft) => {
                    let listed = draft.objects.iter().map(|object| (object.id, object.clone())).collect();
                    (committer.commit(draft).await, listed)
                }
                Err(error) => (Err(error), BTreeMap::new()),
            };
            Step::Decided(epoch, Decision { committer, outcome, listed })
        };
        self.steps.push(commit.instrument(span).boxed());
    }

    /// Sends a message to every worker of the attempt.
    fn broadcast(&self, message: &ToWorker) {
        for session in self.intake.workers() {
            // A worker that is gone is reported as lost.
            let _gone = self.sessions.send((self.job, self.attempt), session, message.clone());
        }
    }
}
