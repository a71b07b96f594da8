//! The job's background: gathers what tasks sealed, places it, commits it, collects what nobody needs.
//!
//! One loop, one closed list of things that can happen. Invariants: epochs are placed one at a time and in order,
//! so that a link is merged only into epochs that follow those it was aborted with; a fenced attempt does nothing
//! more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{AbortHandle, BoxFuture, FutureExt as _, abortable};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tracing::Instrument as _;

use super::OperatorSpec;
use super::draft::agreed;
use super::shared::{Aborted, Latch, Mail, Shared, Wake};
use crate::backend::Outcome;
use crate::checkpoint::commit::{CommitOutcome, Committer};
use crate::checkpoint::operators::Carried;
use crate::checkpoint::pipeline::{Acknowledgement, Arrival, Pipeline, lock};
use crate::checkpoint::prepared::PreparedOutput;
use crate::checkpoint::sweep::Collector;
use crate::control::chain::ChainPolicy;
use crate::control::coordinator::{Command, Event, Participant};
use crate::control::interval::{CheckpointSample, Observation};
use crate::control::retention::Garbage;
use crate::error::{Applied, Error, ErrorKind, Result, broken};
use crate::id::{Attempt, Epoch, ObjectId, OperatorId};
use crate::key_group::KeyGroup;
use crate::metrics;
use crate::runtime::SharedRuntime;
use crate::time::Timestamp;

/// How long the driver waits until it looks for what tasks sealed: this part of the time that they have taken already,
/// within these bounds.
const LOOK_PART: u32 = 4;
const LOOK_LEAST: Duration = Duration::from_millis(1);
const LOOK_MOST: Duration = Duration::from_millis(100);

/// Everything that can happen next.
pub(super) enum Step {
    /// The background was woken; `None` if the job's owner is gone.
    Woken(Option<Wake>, UnboundedReceiver<Wake>),
    /// It is time to look for what tasks sealed.
    Look,
    Placed(Epoch, Option<Result<Vec<Acknowledgement>>>),
    Decided(Epoch, Box<Committer>, Result<CommitOutcome>),
    Collected(Box<Collector>),
    /// An epoch may have passed its deadline.
    Timer(Timestamp),
}

/// An epoch between its trigger and its end.
pub(super) struct Flight {
    started: Timestamp,
    /// The newest epoch whose commit had been announced when this one was triggered.
    announced: Option<Epoch>,
    pub(super) stage: Stage,
    /// Why it is to be given up.
    reason: Option<Error>,
}

impl Flight {
    fn new(started: Timestamp) -> Self {
        Self { started, announced: None, stage: Stage::Gathering(BTreeMap::new()), reason: None }
    }
}

/// How far an epoch has come.
pub(super) enum Stage {
    Gathering(BTreeMap<Participant, Arrival>),
    Placing(AbortHandle),
    Placed(Vec<Acknowledgement>),
    Committing,
}

/// The background of one attempt.
pub(super) struct Driver {
    pub(super) shared: Arc<Shared>,
    pub(super) runtime: SharedRuntime,
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) operators: Vec<OperatorSpec>,
    /// Stored operators that each checkpoint lists again.
    pub(super) carried: Vec<Carried>,
    pub(super) prepared: PreparedOutput,
    /// When groups get new bases; `None` if all do, always.
    pub(super) policy: Option<ChainPolicy>,
    pub(super) committer: Option<Box<Committer>>,
    pub(super) collector: Option<Box<Collector>>,
    pub(super) settlements: Vec<UnboundedSender<(Epoch, Outcome)>>,
    pub(super) steps: FuturesUnordered<BoxFuture<'static, Step>>,
    pub(super) state: State,
}

/// What the driver keeps between steps.
#[derive(Default)]
pub(super) struct State {
    pub(super) flights: BTreeMap<Epoch, Flight>,
    /// Subtasks that end no further epoch.
    gone: BTreeSet<Participant>,
    /// The newest epoch that was triggered.
    newest: Epoch,
    looking: bool,
    /// The deadline that a timer waits for.
    timer_armed: Option<Timestamp>,
    garbage: Vec<Garbage>,
    pub(super) listed: BTreeSet<ObjectId>,
    /// Of the epoch that is being committed: what its checkpoint wrote.
    pub(super) sample: CheckpointSample,
    /// Requests to the store before the last checkpoint.
    requests: u64,
    /// Rows of each key group, as last told.
    pub(super) rows: BTreeMap<(OperatorId, KeyGroup), u64>,
}

impl Driver {
    /// Runs until the job is dropped or fails.
    pub(super) async fn run(mut self, receiver: UnboundedReceiver<Wake>, _latch: Latch) {
        self.watch_settling();
        self.listen(receiver);
        self.sweep_orphans();
        while let Some(step) = self.steps.next().await {
            match self.take(step) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.fail(error),
            }
            self.advance();
        }
    }

    fn step(&self, future: impl Future<Output = Step> + Send + 'static) {
        self.steps.push(future.boxed());
    }

    fn listen(&self, mut receiver: UnboundedReceiver<Wake>) {
        self.step(async move {
            let wake = receiver.recv().await;
            Step::Woken(wake, receiver)
        });
    }

    /// Handles one step; false when the job's owner is gone.
    fn take(&mut self, step: Step) -> Result<bool> {
        let now = self.runtime.monotonic();
        match step {
            Step::Woken(None, _) => return Ok(false),
            Step::Woken(Some(Wake::Mail), receiver) => self.listen(receiver),
            Step::Woken(Some(Wake::Triggered { epoch, announced }), receiver) => {
                self.listen(receiver);
                if self.state.newest == Epoch::default() {
                    // Neither the claim nor the restore is a checkpoint's.
                    self.state.requests = self.requests();
                }
                self.state.newest = epoch;
                // One that took too long may have ended before its news came here.
                if self.shared.coordinator().is_in_flight(epoch) {
                    self.state.flights.insert(epoch, Flight { announced, ..Flight::new(now) });
                }
            }
            Step::Look => self.state.looking = false,
            Step::Placed(epoch, outcome) => {
                self.placed(now, epoch, outcome.map(|placed| placed.and_then(agreed)));
                metrics::sealed_bytes(self.pipeline.sealed_bytes());
            }
            Step::Decided(epoch, committer, outcome) => self.settled(now, epoch, committer, outcome)?,
            Step::Collected(collector) => {
                let left = collector.uncollected();
                self.shared.update(|progress| progress.uncollected = left);
                self.collector = Some(collector);
            }
            Step::Timer(deadline) => {
                self.state.timer_armed.take_if(|armed| *armed == deadline);
                self.shared.coordinator().handle_timeout(now);
            }
        }
        Ok(true)
    }

    /// Fetches what subtasks left.
    fn gather(&mut self) {
        // A task may be quicker than the news that its epoch was triggered.
        let newest = self.state.newest;
        let mail: Vec<_> = self.shared.mail().extract_if(.., |mail| mail.is_known(newest)).collect();
        for mail in mail {
            match mail {
                Mail::Arrived(epoch, participant, arrival) => self.arrived(epoch, participant, arrival),
                Mail::Declined(epoch, reason) => self.decline(epoch, reason),
                Mail::Gone(participant) => drop(self.state.gone.insert(participant)),
            }
        }
        self.decline_for_the_gone();
    }

    fn arrived(&mut self, epoch: Epoch, participant: Participant, mut arrival: Arrival) {
        self.prepared.take(epoch, participant, &mut arrival.opaques);
        // Epochs rise: a subtask that has passed over an epoch will not end it.
        let waits = |flight: &Flight| matches!(&flight.stage, Stage::Gathering(arrivals) if !arrivals.contains_key(&participant));
        let subsumed: Vec<_> =
            self.state.flights.range(..epoch).filter(|(_, flight)| waits(flight)).map(|(&e, _)| e).collect();
        for older in subsumed {
            self.decline(older, of_subtask(Error::unavailable("a later barrier subsumed the epoch"), participant));
        }
        // An arrival for an epoch that was given up brings nothing else: its state is in the chain.
        if let Some(Flight { stage: Stage::Gathering(arrivals), .. }) = self.state.flights.get_mut(&epoch) {
            arrivals.insert(participant, arrival);
        }
    }

    /// Declines each epoch that waits for a subtask which has gone.
    fn decline_for_the_gone(&mut self) {
        let waits_in_vain = |flight: &Flight| match &flight.stage {
            Stage::Gathering(arrivals) => self.state.gone.iter().find(|gone| !arrivals.contains_key(gone)).copied(),
            _ => None,
        };
        let flights = self.state.flights.iter();
        let vain: Vec<_> = flights.filter_map(|(&epoch, flight)| Some((epoch, waits_in_vain(flight)?))).collect();
        for (epoch, gone) in vain {
            self.decline(epoch, of_subtask(Error::unavailable("subtask has gone"), gone));
        }
    }

    /// Gives up an epoch that somebody cannot end, unless its manifest is being created.
    fn decline(&mut self, epoch: Epoch, reason: Error) {
        let flight = self.state.flights.get_mut(&epoch).filter(|flight| !matches!(flight.stage, Stage::Committing));
        let Some(flight) = flight else { return };
        if flight.reason.is_none() {
            flight.reason = Some(reason.clone());
            self.shared.update(|progress| progress.last_decline = Some(reason));
        }
        self.shared.coordinator().handle(self.runtime.monotonic(), Event::Declined(epoch));
    }

    /// Looks again soon while tasks are expected to seal; the longer it takes them, the later.
    fn look_again(&mut self) {
        let all = self.pipeline.chains.len();
        let waits = |flight: &&Flight| matches!(&flight.stage, Stage::Gathering(arrivals) if arrivals.len() < all);
        let Some(oldest) = self.state.flights.values().find(waits).filter(|_| !self.state.looking) else { return };
        let pause = (self.runtime.monotonic().since(oldest.started) / LOOK_PART).clamp(LOOK_LEAST, LOOK_MOST);
        self.state.looking = true;
        let sleep = self.runtime.sleep(pause);
        self.step(async move {
            sleep.await;
            Step::Look
        });
    }

    fn placed(&mut self, now: Timestamp, epoch: Epoch, outcome: Option<Result<Vec<Acknowledgement>>>) {
        match outcome {
            // Given up meanwhile.
            None => {}
            Some(Ok(acknowledgements)) => {
                for acknowledgement in &acknowledgements {
                    self.shared.coordinator().handle(now, Event::Acknowledged(epoch, acknowledgement.participant));
                }
                if let Some(flight) = self.state.flights.get_mut(&epoch) {
                    flight.stage = Stage::Placed(acknowledgements);
                }
            }
            Some(Err(error)) => self.decline(epoch, error),
        }
    }

    /// Takes the committer back once the outcome of its commit is known.
    ///
    /// # Errors
    /// What ends the job: the commit is in doubt, or another attempt owns the job.
    fn settled(
        &mut self,
        now: Timestamp,
        epoch: Epoch,
        mut committer: Box<Committer>,
        outcome: Result<CommitOutcome>,
    ) -> Result<()> {
        if outcome.is_ok() {
            self.state.garbage.push(committer.take_garbage());
        }
        self.committer = Some(committer);
        match outcome {
            Ok(outcome) => {
                self.shared.update(|progress| progress.unsettled = None);
                self.decided(now, epoch, outcome)
            }
            // The store refused, or the draft broke a rule: the manifest does not exist and will not.
            Err(error) if is_not_committed(&error) => {
                if let Some(flight) = self.state.flights.get_mut(&epoch) {
                    flight.reason = Some(error.clone());
                }
                self.shared.update(|progress| {
                    progress.unsettled = None;
                    progress.last_decline = Some(error);
                });
                self.shared.coordinator().handle(now, Event::NotCommitted(epoch));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Shows in the job's progress while a commit cannot be settled.
    fn watch_settling(&mut self) {
        let shared = Arc::downgrade(&self.shared);
        let Some(committer) = &mut self.committer else { broken("a driver starts without its committer") };
        committer.on_doubt(Arc::new(move |error| {
            if let Some(shared) = shared.upgrade() {
                shared.update(|progress| progress.unsettled = Some(error.clone()));
            }
        }));
    }

    fn decided(&mut self, now: Timestamp, epoch: Epoch, outcome: CommitOutcome) -> Result<()> {
        let committed = match outcome {
            CommitOutcome::Committed(committed) => committed,
            CommitOutcome::Fenced { by } => {
                return Err(Error::fenced("a newer attempt owns the job").with("attempt", by));
            }
        };
        self.shared.coordinator().handle(now, Event::Committed(epoch));
        let started = self.state.flights.remove(&epoch).map_or(now, |flight| flight.started);
        for chain in self.pipeline.chains.values() {
            lock(chain).commit(epoch);
        }
        self.prune_catalog();
        self.settle(epoch, Outcome::Commit);
        let duration = now.since(started);
        self.tell(now, duration);
        metrics::checkpoint_completed(committed.id.seq, duration);
        tracing::info!(%epoch, id = %committed.id.seq, ?duration, "checkpoint committed");
        let id = committed.id;
        self.shared.ended(epoch, Some(id));
        self.shared.update(|progress| {
            progress.committed = Some((epoch, id));
            progress.completed = progress.completed.saturating_add(1);
        });
        Ok(())
    }

    /// Returns how many requests the job has made.
    fn requests(&self) -> u64 {
        let requests = self.pipeline.store.requests();
        requests.put + requests.get + requests.list + requests.delete
    }

    /// Tells the controller of the interval what the checkpoint took.
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 requests and rows")]
    fn tell(&mut self, now: Timestamp, duration: Duration) {
        let all = self.requests();
        let requests = all.saturating_sub(std::mem::replace(&mut self.state.requests, all)) as f64;
        let sample = CheckpointSample { duration: duration.as_secs_f64(), requests, ..self.state.sample };
        self.shared.observe(now, Observation::Completed(sample));
    }

    /// Starts whatever can start now.
    fn advance(&mut self) {
        self.gather();
        loop {
            let command = self.shared.coordinator().poll();
            match command {
                Some(Command::Commit(epoch)) => self.commit(epoch),
                Some(Command::Abort(epoch)) => self.abort(epoch),
                None => break,
            }
        }
        self.place_oldest();
        self.look_again();
        self.collect();
        self.arm_timer();
        metrics::in_progress(self.shared.coordinator().in_flight());
    }

    /// Starts placing the oldest epoch that is not placed, once everybody has arrived.
    fn place_oldest(&mut self) {
        let policy = self.chain_policy();
        let to_place = self.state.flights.iter_mut().find(|(_, flight)| !flight.stage.is_placed());
        let Some((&epoch, flight)) = to_place else { return };
        let Stage::Gathering(arrivals) = &mut flight.stage else { return };
        if arrivals.len() < self.pipeline.chains.len() {
            return;
        }
        let mut arrivals = std::mem::take(arrivals);
        if let Some(announced) = flight.announced {
            self.prepared.settle(announced);
        }
        for (&participant, arrival) in &mut arrivals {
            arrival.opaques.extend(self.prepared.list(epoch, participant));
        }
        metrics::sealed_bytes(self.pipeline.sealed_bytes());
        let pipeline = Arc::clone(&self.pipeline);
        let span = tracing::info_span!("place", %epoch);
        let (place, handle) = abortable(async move { pipeline.place(epoch, arrivals, policy).await }.instrument(span));
        flight.stage = Stage::Placing(handle);
        self.step(async move { Step::Placed(epoch, place.await.ok()) });
    }

    /// Returns the bounds of chains that hold for now.
    fn chain_policy(&self) -> Option<ChainPolicy> {
        let decided = |policy| self.shared.adaptive.as_ref().map_or(policy, |adaptive| adaptive.chain_policy(policy));
        self.policy.map(decided)
    }

    fn abort(&mut self, epoch: Epoch) {
        let now = self.runtime.monotonic();
        let flight = self.state.flights.remove(&epoch).unwrap_or_else(|| Flight::new(now));
        if let Stage::Placing(handle) = &flight.stage {
            handle.abort();
        }
        self.merge_waiting(epoch);
        self.settle(epoch, Outcome::Abort);
        self.shared.observe(now, Observation::Aborted);
        metrics::checkpoint_failed();
        let aborted = self.given_up(epoch, flight, now);
        self.shared.ended(epoch, None);
        self.shared.update(|progress| {
            progress.aborted = progress.aborted.saturating_add(1);
            progress.last_aborted = Some(aborted);
        });
    }

    /// Makes one copy of each row that waits of epochs up to `aborted`, none of which is still to be placed: without, every
    /// epoch that is given up would leave a delta in memory.
    fn merge_waiting(&self, aborted: Epoch) {
        let to_place = self.state.flights.iter().find(|(_, flight)| !flight.stage.is_placed());
        let until = to_place.map_or(aborted, |(oldest, _)| aborted.min(Epoch(oldest.0.saturating_sub(1))));
        let pipeline = Arc::clone(&self.pipeline);
        self.runtime.spawn_blocking(Box::new(move || pipeline.merge_waiting(until)));
    }

    /// Says why an epoch was given up, in the log and as data.
    fn given_up(&self, epoch: Epoch, flight: Flight, now: Timestamp) -> Aborted {
        let Flight { started, stage, reason, .. } = flight;
        let reason = reason.unwrap_or_else(|| Error::unavailable("checkpoint was not complete in time"));
        let missing: Vec<_> = match &stage {
            Stage::Gathering(arrivals) => {
                self.pipeline.chains.keys().filter(|subtask| !arrivals.contains_key(subtask)).copied().collect()
            }
            _ => Vec::new(),
        };
        let aborted = Aborted { epoch, reason, age: now.since(started), missing };
        let subtasks = Subtasks(&aborted.missing);
        tracing::warn!(%epoch, reason = aborted.reason.chain(), age = ?aborted.age, stage = stage.name(),
            missing = %subtasks, "checkpoint given up");
        aborted
    }

    fn settle(&self, epoch: Epoch, outcome: Outcome) {
        for settlement in &self.settlements {
            // A task that is gone has no state to settle.
            let _gone = settlement.send((epoch, outcome));
        }
    }

    fn commit(&mut self, epoch: Epoch) {
        let Some(flight) = self.state.flights.get_mut(&epoch) else {
            broken("a commit starts of an epoch not in flight")
        };
        let Stage::Placed(acknowledgements) = std::mem::replace(&mut flight.stage, Stage::Committing) else {
            broken("a commit starts of an epoch that is not placed");
        };
        let Some(mut committer) = self.committer.take() else { broken("two commits at a time") };
        let draft = self.draft(epoch, acknowledgements);
        let span = tracing::info_span!("commit", %epoch);
        self.step(
            async move {
                let outcome = match draft {
                    Ok(draft) => committer.commit(draft).await,
                    Err(error) => Err(error),
                };
                Step::Decided(epoch, committer, outcome)
            }
            .instrument(span),
        );
    }

    /// Deletes what the last commits made unreachable, one collection at a time.
    fn collect(&mut self) {
        if self.state.garbage.is_empty() {
            return;
        }
        let Some(mut collector) = self.collector.take() else { return };
        std::mem::take(&mut self.state.garbage).into_iter().for_each(|garbage| collector.add(garbage));
        self.step(async move {
            // What failed was logged and stays with the collector for the next time.
            let _swept = collector.run().await;
            Step::Collected(collector)
        });
    }

    /// Deletes, once, what earlier attempts were uploading when they ended. In the collector's place: two deleters would
    /// only get in each other's way.
    fn sweep_orphans(&mut self) {
        let attempt = self.pipeline.attempt;
        // Nobody came before the first.
        if attempt <= Attempt(1) {
            return;
        }
        let Some(collector) = self.collector.take() else { return };
        let span = tracing::info_span!("sweep", %attempt);
        let sweep = async move {
            collector.sweep_orphans(attempt).await;
            Step::Collected(collector)
        };
        self.step(sweep.instrument(span));
    }

    fn arm_timer(&mut self) {
        let Some(deadline) = self.shared.coordinator().deadline() else { return };
        // Deadlines may fall: the patience for an epoch is the controller's.
        if self.state.timer_armed.is_some_and(|armed| armed <= deadline) {
            return;
        }
        self.state.timer_armed = Some(deadline);
        let sleep = self.runtime.sleep(deadline.since(self.runtime.monotonic()));
        self.step(async move {
            sleep.await;
            Step::Timer(deadline)
        });
    }

    fn fail(&self, error: Error) {
        match error.kind() {
            ErrorKind::Fenced => tracing::warn!(error = error.chain(), "fenced"),
            _ => tracing::error!(error = error.chain(), "job failed"),
        }
        self.shared.fail(error);
    }
}

impl Mail {
    /// Returns whether it concerns no epoch after `newest`.
    fn is_known(&self, newest: Epoch) -> bool {
        match self {
            Self::Arrived(epoch, ..) | Self::Declined(epoch, _) => *epoch <= newest,
            Self::Gone(_) => true,
        }
    }
}

impl Stage {
    /// Returns whether all that it covers is in the store.
    const fn is_placed(&self) -> bool {
        matches!(self, Self::Placed(_) | Self::Committing)
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Gathering(_) => "waiting for subtasks",
            Self::Placing(_) => "encoding and uploading",
            Self::Placed(_) => "waiting for an earlier commit",
            Self::Committing => "committing",
        }
    }
}

/// Whether a failed commit is known to have left no manifest, so that the job can continue.
fn is_not_committed(error: &Error) -> bool {
    let ends = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Fenced | ErrorKind::Stopped);
    error.applied() == Applied::No && !ends
}

fn of_subtask(error: Error, (operator, subtask): Participant) -> Error {
    error.with("operator", operator).with("subtask", subtask)
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
