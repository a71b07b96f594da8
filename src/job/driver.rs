//! The job's background: gathers what tasks sealed, places it, commits it, collects what nobody needs.
//!
//! One loop, one closed list of things that can happen. Invariants: epochs are placed one at a time and in order,
//! so that a link is merged only into epochs that follow those it was aborted with; a fenced attempt does nothing
//! more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{AbortHandle, BoxFuture, FutureExt as _, abortable};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tracing::Instrument as _;

use super::interval::Adaptive;
use super::{OperatorSpec, Shared, schemas};
use crate::backend::Outcome;
use crate::checkpoint::commit::{CommitOutcome, Committer, Draft};
use crate::checkpoint::pipeline::{Acknowledgement, Arrival, Pipeline, lock};
use crate::checkpoint::sweep::Collector;
use crate::control::chain::ChainPolicy;
use crate::control::coordinator::{Command, Event, Participant};
use crate::control::interval::{CheckpointSample, Observation};
use crate::control::retention::Garbage;
use crate::error::{Error, ErrorKind, Result, broken};
use crate::id::{Attempt, Epoch, ObjectId, OperatorId};
use crate::key_group::KeyGroup;
use crate::manifest::{
    DurabilityLevel, Extension, ManifestKind, ObjectRef, OpaqueContent, OperatorManifest, SubtaskEntry,
    SubtaskManifest, TableSchema,
};
use crate::metrics;
use crate::runtime::SharedRuntime;
use crate::segment::{GroupHeat, SegmentKind, SegmentRef, sum};
use crate::time::Timestamp;

/// How long the driver waits until it looks for what tasks sealed: this part of the time that they have taken already,
/// within these bounds.
const LOOK_PART: u32 = 4;
const LOOK_LEAST: Duration = Duration::from_millis(1);
const LOOK_MOST: Duration = Duration::from_millis(100);

/// Everything that can happen next.
pub(super) enum Step {
    /// An epoch has begun to end; `None` if the job's owner is gone.
    Triggered(Option<Epoch>, UnboundedReceiver<Epoch>),
    /// It is time to look for what tasks sealed.
    Look,
    Placed(Epoch, Option<Result<Vec<Acknowledgement>>>),
    Decided(Epoch, Box<Committer>, Result<CommitOutcome>),
    Collected(Box<Collector>),
    Timer,
}

/// An epoch between its trigger and its end.
struct Flight {
    started: Timestamp,
    stage: Stage,
}

/// How far an epoch has come.
enum Stage {
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
    flights: BTreeMap<Epoch, Flight>,
    /// The newest epoch that was triggered.
    newest: Epoch,
    looking: bool,
    timer_armed: bool,
    garbage: Vec<Garbage>,
    listed: BTreeSet<ObjectId>,
    /// Of the epoch that is being committed: what its checkpoint wrote.
    sample: CheckpointSample,
    /// Requests to the store before the last checkpoint.
    requests: u64,
    /// Rows of each key group, as last told.
    rows: BTreeMap<(OperatorId, KeyGroup), u64>,
}

impl Driver {
    /// Runs until the job is dropped or fails.
    pub(super) async fn run(mut self, receiver: UnboundedReceiver<Epoch>) {
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

    fn listen(&self, mut receiver: UnboundedReceiver<Epoch>) {
        self.step(async move {
            let epoch = receiver.recv().await;
            Step::Triggered(epoch, receiver)
        });
    }

    /// Handles one step; false when the job's owner is gone.
    fn take(&mut self, step: Step) -> Result<bool> {
        let now = self.runtime.now();
        match step {
            Step::Triggered(None, _) => return Ok(false),
            Step::Triggered(Some(epoch), receiver) => {
                self.listen(receiver);
                if self.state.newest == Epoch::default() {
                    // Neither the claim nor the restore is a checkpoint's.
                    self.state.requests = self.requests();
                }
                self.state.newest = epoch;
                self.state.flights.insert(epoch, Flight { started: now, stage: Stage::Gathering(BTreeMap::new()) });
            }
            Step::Look => self.state.looking = false,
            Step::Placed(epoch, outcome) => {
                self.placed(now, epoch, outcome.map(|placed| placed.and_then(agreed)));
                metrics::sealed_bytes(self.pipeline.sealed_bytes());
            }
            Step::Decided(epoch, mut committer, outcome) => {
                let outcome = outcome?;
                self.state.garbage.push(committer.take_garbage());
                self.committer = Some(committer);
                self.decided(now, epoch, outcome)?;
            }
            Step::Collected(collector) => self.collector = Some(collector),
            Step::Timer => {
                self.state.timer_armed = false;
                self.shared.coordinator().handle_timeout(now);
            }
        }
        Ok(true)
    }

    /// Fetches what tasks sealed.
    fn gather(&mut self) {
        // A task may be quicker than the word that its epoch was triggered.
        let newest = self.state.newest;
        let arrived: Vec<_> = self.shared.arrivals().extract_if(.., |(epoch, ..)| *epoch <= newest).collect();
        for (epoch, participant, arrival) in arrived {
            // An arrival for an epoch that was given up brings nothing: its state is in the chain.
            if let Some(Flight { stage: Stage::Gathering(arrivals), .. }) = self.state.flights.get_mut(&epoch) {
                arrivals.insert(participant, arrival);
            }
        }
    }

    /// Looks again soon while tasks are expected to seal; the longer it takes them, the later.
    fn look_again(&mut self) {
        let all = self.pipeline.chains.len();
        let waits = |flight: &&Flight| matches!(&flight.stage, Stage::Gathering(arrivals) if arrivals.len() < all);
        let Some(oldest) = self.state.flights.values().find(waits).filter(|_| !self.state.looking) else { return };
        let pause = (self.runtime.now().since(oldest.started) / LOOK_PART).clamp(LOOK_LEAST, LOOK_MOST);
        self.state.looking = true;
        let sleep = self.runtime.sleep(pause);
        self.step(async move {
            sleep.await;
            Step::Look
        });
    }

    fn placed(&mut self, now: Timestamp, epoch: Epoch, outcome: Option<Result<Vec<Acknowledgement>>>) {
        let mut coordinator = self.shared.coordinator();
        match outcome {
            // Given up meanwhile.
            None => {}
            Some(Ok(acknowledgements)) => {
                for acknowledgement in &acknowledgements {
                    coordinator.handle(now, Event::Acknowledged(epoch, acknowledgement.participant));
                }
                if let Some(flight) = self.state.flights.get_mut(&epoch) {
                    flight.stage = Stage::Placed(acknowledgements);
                }
            }
            Some(Err(error)) => {
                tracing::warn!(%epoch, error = error.chain(), "checkpoint declined");
                self.shared.update(|progress| progress.last_decline = Some(error.chain()));
                coordinator.handle(now, Event::Declined(epoch));
            }
        }
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
        loop {
            let command = self.shared.coordinator().poll();
            match command {
                Some(Command::Commit(epoch)) => self.commit(epoch),
                Some(Command::Abort(epoch)) => self.abort(epoch),
                None => break,
            }
        }
        self.gather();
        self.place_oldest();
        self.look_again();
        self.collect();
        self.arm_timer();
        metrics::in_progress(self.shared.coordinator().in_flight());
    }

    /// Starts placing the oldest epoch that is not placed, once everybody has arrived.
    fn place_oldest(&mut self) {
        let policy = self.chain_policy();
        let placed = |flight: &Flight| matches!(flight.stage, Stage::Placed(_) | Stage::Committing);
        let Some((&epoch, flight)) = self.state.flights.iter_mut().find(|(_, flight)| !placed(flight)) else { return };
        let Stage::Gathering(arrivals) = &mut flight.stage else { return };
        if arrivals.len() < self.pipeline.chains.len() {
            return;
        }
        let arrivals = std::mem::take(arrivals);
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
        if let Some(Flight { stage: Stage::Placing(handle), .. }) = self.state.flights.remove(&epoch) {
            handle.abort();
        }
        self.settle(epoch, Outcome::Abort);
        self.shared.observe(self.runtime.now(), Observation::Aborted);
        metrics::checkpoint_failed();
        self.shared.update(|progress| {
            progress.aborted = progress.aborted.saturating_add(1);
            progress.last_aborted = Some(epoch);
        });
    }

    fn settle(&self, epoch: Epoch, outcome: Outcome) {
        for settlement in &self.settlements {
            // A task that is gone has no state to settle.
            let _gone = settlement.send((epoch, outcome));
        }
    }

    fn commit(&mut self, epoch: Epoch) {
        let Some(flight) = self.state.flights.get_mut(&epoch) else { return };
        let Stage::Placed(acknowledgements) = std::mem::replace(&mut flight.stage, Stage::Committing) else { return };
        let Some(mut committer) = self.committer.take() else { return };
        let draft = self.draft(epoch, acknowledgements);
        let span = tracing::info_span!("commit", %epoch);
        self.step(
            async move {
                let outcome = committer.commit(draft).await;
                Step::Decided(epoch, committer, outcome)
            }
            .instrument(span),
        );
    }

    fn draft(&mut self, epoch: Epoch, acknowledgements: Vec<Acknowledgement>) -> Draft {
        let mut operators: Vec<_> = self.operators.iter().map(OperatorSpec::manifest).collect();
        let Ok(mut tables) = tables_of(&acknowledgements) else { broken("tables that had agreed differ") };
        for operator in &mut operators {
            operator.tables = tables.remove(&operator.id).unwrap_or_default();
        }
        let mut heat: BTreeMap<OperatorId, Vec<GroupHeat>> = BTreeMap::new();
        let mut sums: BTreeMap<OperatorId, BTreeMap<String, u64>> = BTreeMap::new();
        let mut dirty = 0;
        for Acknowledgement { participant, manifest, heat: groups, statistics, .. } in acknowledgements {
            for group in &groups {
                metrics::group_heat(group.dirty_rows, group.reads, group.writes, group.live_bytes);
                dirty += group.dirty_rows;
                self.state.rows.insert((participant.0, group.group), group.rows);
            }
            heat.entry(participant.0).or_default().extend(groups);
            for statistic in statistics.iter() {
                let sum = sums.entry(participant.0).or_default().entry(statistic.name.clone()).or_default();
                *sum = sum.saturating_add(statistic.value);
            }
            if let Some(operator) = operators.iter_mut().find(|operator| operator.id == participant.0) {
                operator.subtasks.push(SubtaskEntry::Inline(manifest));
            }
        }
        let objects = self.referenced(&operators);
        self.measure(&operators, &objects, dirty);
        Draft {
            kind: ManifestKind::Checkpoint,
            epoch,
            objects,
            level: DurabilityLevel::ObjectStore,
            operators,
            extensions: [Extension::heat(heat.into_iter().collect())]
                .into_iter()
                .chain(Extension::statistics(sums))
                .chain(self.shared.adaptive.as_ref().map(Adaptive::extension))
                .collect(),
        }
    }

    /// Notes what this checkpoint added to the store, and what it lists in all.
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 bytes and rows")]
    fn measure(&mut self, operators: &[OperatorManifest], objects: &[ObjectRef], dirty_rows: u64) {
        let listed = &self.state.listed;
        let new = sum(objects.iter().filter(|object| !listed.contains(&object.id)).map(|object| object.bytes));
        let subtasks = operators.iter().flat_map(|operator| operator.inline_subtasks().unwrap_or_default());
        let segments: Vec<_> = subtasks.flat_map(|subtask| &subtask.segments).collect();
        let is_new_base = |s: &&&SegmentRef| s.kind == SegmentKind::Base && !listed.contains(&s.object);
        let full = sum(segments.iter().map(|segment| segment.length));
        let bases = sum(segments.iter().filter(is_new_base).map(|segment| segment.length));
        metrics::checkpoint_sizes(new, full);
        self.state.sample = CheckpointSample {
            delta_bytes: new.saturating_sub(bases) as f64,
            base_bytes: bases as f64,
            rows: dirty_rows as f64,
            ..CheckpointSample::default()
        };
        let rows = self.state.rows.values().sum::<u64>() as f64;
        self.shared.observe(self.runtime.now(), Observation::State { bytes: full as f64, rows });
        self.state.listed = objects.iter().map(|object| object.id).collect();
    }

    fn referenced(&self, operators: &[OperatorManifest]) -> Vec<ObjectRef> {
        let subtasks = operators.iter().flat_map(|operator| operator.inline_subtasks().unwrap_or_default());
        let ids: BTreeSet<_> = subtasks.flat_map(objects_of).collect();
        let catalog = self.pipeline.catalog();
        ids.into_iter().filter_map(|id| catalog.get(&id).cloned()).collect()
    }

    /// Forgets objects in which no chain has a segment any more.
    fn prune_catalog(&self) {
        let placed: BTreeSet<_> = self.pipeline.chains.values().flat_map(|chain| lock(chain).objects()).collect();
        let acknowledged = self.state.flights.values().flat_map(|flight| match &flight.stage {
            Stage::Placed(acknowledgements) => acknowledgements.as_slice(),
            _ => &[],
        });
        let waiting: BTreeSet<_> = acknowledged.flat_map(|ack| objects_of(&ack.manifest)).collect();
        self.pipeline.catalog().retain(|id, _| placed.contains(id) || waiting.contains(id));
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
        let deadline = self.shared.coordinator().deadline();
        if let (false, Some(deadline)) = (self.state.timer_armed, deadline) {
            self.state.timer_armed = true;
            let sleep = self.runtime.sleep(deadline.since(self.runtime.now()));
            self.step(async move {
                sleep.await;
                Step::Timer
            });
        }
    }

    fn fail(&self, error: Error) {
        match error.kind() {
            ErrorKind::Fenced => tracing::warn!(error = error.chain(), "fenced"),
            _ => tracing::error!(error = error.chain(), "job failed"),
        }
        self.shared.update(|progress| progress.failed = Some(Arc::new(error)));
    }
}

/// Returns the objects that a subtask's segments and opaques lie in.
fn objects_of(subtask: &SubtaskManifest) -> Vec<ObjectId> {
    let stored = subtask.opaques.iter().filter_map(|opaque| match &opaque.content {
        OpaqueContent::Stored(segment) => Some(segment.object),
        OpaqueContent::Inline(_) => None,
    });
    subtask.segments.iter().map(|segment| segment.object).chain(stored).collect()
}

/// Returns the tables of each operator.
fn tables_of(acknowledgements: &[Acknowledgement]) -> Result<BTreeMap<OperatorId, Vec<TableSchema>>> {
    schemas::merged(
        acknowledgements.iter().map(|acknowledgement| (acknowledgement.participant, &*acknowledgement.tables)),
    )
}

/// Refuses acknowledgements of subtasks that differ about a table.
fn agreed(acknowledgements: Vec<Acknowledgement>) -> Result<Vec<Acknowledgement>> {
    tables_of(&acknowledgements).map(|_| acknowledgements)
}
