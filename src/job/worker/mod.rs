//! The worker's part of an attempt: gathers the seals of this process's tasks for an epoch, places them, and tells the
//! owner.
//!
//! ```text
//! tasks --mail--> WorkerAttempt --messages--> owner
//! ```
//!
//! Invariant: epochs are placed one at a time and in order, so that the pending links of an aborted epoch are merged
//! only into later epochs. A worker does not know what was triggered: it learns of an epoch when a task passes its
//! barrier, or when the engine announces it.

mod background;
mod in_flight;
mod prepare;
mod process;
mod seat;
mod shared;
mod sinks;
mod task;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{AbortHandle, FutureExt as _, abortable};
use tracing::Instrument as _;

use super::wire::{Acknowledge, Settle, ToOwner};
use crate::backend::Outcome;
use crate::checkpoint::acknowledgement::{Arrival, Placed};
use crate::checkpoint::pipeline::{Pipeline, Rewritten, TablesOf};
use crate::checkpoint::prepared_output::PreparedOutput;
use crate::control::chain::ChainPolicy;
use crate::control::coordinator::Participant;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Epoch;
use crate::manifest::Opaque;
use crate::memory::DiskTier;
use crate::metrics;
use crate::runtime::SharedRuntime;
use crate::time::Timestamp;

use shared::{Mail, Shared, Steps};

pub use in_flight::InFlightData;
pub(super) use process::Local;
pub use process::{Assignment, Worker, WorkerSettings};
pub use seat::{RestoreError, Seat};
pub(super) use shared::{Anchor, AttemptHandle};
pub use task::Task;

/// The pause before the next poll for mail: this fraction of the time since the epoch began here, within these bounds.
const POLL_FRACTION: u32 = 4;
const POLL_MIN: Duration = Duration::from_millis(1);
const POLL_MAX: Duration = Duration::from_millis(100);

/// Most ended epochs that are remembered: late arrivals for them need nothing.
const ENDED_KEPT: usize = 1024;

/// The result of the worker's asynchronous work.
enum Step {
    /// It is time to poll for mail.
    Poll,
    /// Placing ended; `None` if the epoch was aborted meanwhile.
    Placed(Epoch, Option<Result<Placed>>),
    /// Groups were written again.
    Rewritten(Result<Option<Rewritten>>),
}

/// The worker's part of one attempt.
struct WorkerAttempt {
    steps: Steps<Step>,
    shared: Arc<Shared>,
    runtime: SharedRuntime,
    pipeline: Arc<Pipeline>,
    prepared: PreparedOutput,
    /// When groups get new bases; `None` if each checkpoint writes all groups.
    chain: Option<ChainPolicy>,
    epochs: BTreeMap<Epoch, InProgress>,
    ended: BTreeSet<Epoch>,
    /// The last epoch whose barrier each subtask passed.
    last: BTreeMap<Participant, Epoch>,
    /// The tables of each subtask, as of its last barrier.
    tables: TablesOf,
    /// Whether groups are being rewritten.
    rewriting: bool,
    polling: bool,
    messages: Vec<ToOwner>,
    /// Whether the owner counts this process's requests itself.
    shares_store: bool,
    /// The disk that cold state goes to.
    disk: Option<DiskTier>,
}

/// An epoch from its first sign here until it is settled.
struct InProgress {
    started: Timestamp,
    stage: Stage,
}

/// How far an epoch has come in this process.
enum Stage {
    Gathering(BTreeMap<Participant, Arrival>),
    Placing(AbortHandle),
    Placed,
}

impl WorkerAttempt {
    fn new(
        shared: Arc<Shared>,
        pipeline: Pipeline,
        prepared: PreparedOutput,
        chain: Option<ChainPolicy>,
        shares_store: bool,
        disk: Option<DiskTier>,
    ) -> Self {
        Self {
            steps: Steps::new(),
            shared,
            runtime: Arc::clone(&pipeline.runtime),
            pipeline: Arc::new(pipeline),
            prepared,
            chain,
            epochs: BTreeMap::new(),
            ended: BTreeSet::new(),
            last: BTreeMap::new(),
            tables: TablesOf::new(),
            rewriting: false,
            polling: false,
            messages: Vec::new(),
            shares_store,
            disk,
        }
    }

    /// Records that a barrier is on its way.
    fn expect(&mut self, epoch: Epoch) {
        let newest = self.epochs.last_key_value().map(|(newest, _)| *newest);
        if newest < Some(epoch) && !self.ended.contains(&epoch) {
            self.begin(epoch);
        }
    }

    fn begin(&mut self, epoch: Epoch) {
        let started = self.runtime.monotonic();
        self.epochs.insert(epoch, InProgress { started, stage: Stage::Gathering(BTreeMap::new()) });
    }

    fn handle(&mut self, step: Step) {
        match step {
            Step::Poll => self.polling = false,
            Step::Rewritten(rewritten) => self.rewritten(rewritten),
            Step::Placed(epoch, outcome) => {
                match outcome {
                    None => {}
                    Some(Ok(placed)) => {
                        self.epochs.entry(epoch).and_modify(|epoch| epoch.stage = Stage::Placed);
                        // Beside the reads of a rewrite, packs are this process's only requests.
                        let requests = if self.shares_store { 0 } else { placed.uploads };
                        self.messages.push(ToOwner::Acknowledge(Box::new(Acknowledge { epoch, placed, requests })));
                    }
                    Some(Err(error)) => self.decline(epoch, error),
                }
                self.publish_memory();
            }
        }
    }

    /// Reads the mail of the tasks, and starts whatever can start now. Returns the messages to the owner.
    fn advance(&mut self) -> Vec<ToOwner> {
        loop {
            self.gather();
            self.place_oldest();
            if self.poll_again() {
                return std::mem::take(&mut self.messages);
            }
        }
    }

    fn gather(&mut self) {
        let mut arrived: BTreeMap<Epoch, Vec<Participant>> = BTreeMap::new();
        let (mut declined, mut rest) = (Vec::new(), Vec::new());
        let mut messages = std::mem::take(&mut self.messages);
        for mail in self.shared.take_mail() {
            match mail {
                Mail::Restored(participant) => rest.push(ToOwner::Restored(participant)),
                Mail::Arrived(epoch, participant, arrival) => {
                    if arrival.awaits == 0 {
                        arrived.entry(epoch).or_default().push(participant);
                    }
                    self.arrived(epoch, participant, arrival);
                }
                Mail::Late(epoch, participant, opaques) => {
                    if self.late(epoch, participant, opaques) {
                        arrived.entry(epoch).or_default().push(participant);
                    }
                }
                Mail::Declined(epoch, reason) => declined.push((epoch, reason)),
                Mail::Dropped(participant) => {
                    let last = self.last.get(&participant).copied();
                    rest.push(ToOwner::Dropped(participant, last));
                }
            }
        }
        // The owner hears who arrived before it hears which epochs that ends.
        messages.extend(arrived.into_iter().map(|(epoch, subtasks)| ToOwner::Arrived(epoch, subtasks)));
        messages.append(&mut self.messages);
        self.messages = messages;
        declined.into_iter().for_each(|(epoch, reason)| self.decline(epoch, reason));
        self.messages.append(&mut rest);
    }

    fn arrived(&mut self, epoch: Epoch, participant: Participant, mut arrival: Arrival) {
        self.last.insert(participant, epoch);
        self.prepared.take(epoch, participant, &mut arrival.opaques);
        self.tables.insert(participant, Arc::clone(&arrival.summary.tables));
        // Epochs ascend: a subtask that skipped an epoch will not arrive for it.
        let skipped = self.epochs.range(..epoch).filter(|(_, older)| older.stage.waits_for(participant));
        let skipped: Vec<_> = skipped.map(|(&older, _)| older).collect();
        for older in skipped {
            let (operator, subtask) = participant;
            let error = Error::unavailable("a later barrier subsumed the epoch").with("operator", operator);
            self.decline(older, error.with("subtask", subtask));
        }
        // Nothing is left to do for an aborted epoch: the sealed state is in the chain.
        if self.ended.contains(&epoch) {
            return;
        }
        if !self.epochs.contains_key(&epoch) {
            self.begin(epoch);
        }
        if let Some(InProgress { stage: Stage::Gathering(arrivals), .. }) = self.epochs.get_mut(&epoch) {
            arrivals.insert(participant, arrival);
        }
    }

    /// Adds to an arrival what it waits for, unless its epoch has ended. Returns whether the arrival is complete now.
    fn late(&mut self, epoch: Epoch, participant: Participant, mut opaques: Vec<Opaque>) -> bool {
        // Later epochs list what one that was given up has staged.
        self.prepared.take(epoch, participant, &mut opaques);
        let epoch = self.epochs.get_mut(&epoch);
        let Some(InProgress { stage: Stage::Gathering(arrivals), .. }) = epoch else { return false };
        let Some(arrival) = arrivals.get_mut(&participant) else { return false };
        if !opaques.is_empty() {
            arrival.in_flight = Some(self.prepared.charge(&opaques));
            arrival.opaques.extend(opaques);
        }
        arrival.awaits = arrival.awaits.saturating_sub(1);
        arrival.awaits == 0
    }

    fn decline(&mut self, epoch: Epoch, reason: Error) {
        self.messages.push(ToOwner::Decline(epoch, reason));
    }

    /// Starts placing the oldest epoch that is not placed, once every subtask has arrived with all that follows.
    fn place_oldest(&mut self) {
        let all = self.pipeline.chains.len();
        let oldest = self.epochs.iter_mut().find(|(_, epoch)| !matches!(epoch.stage, Stage::Placed));
        let Some((&epoch, InProgress { stage, .. })) = oldest else { return };
        if stage.waits_for_any(all) {
            return;
        }
        let Stage::Gathering(arrivals) = stage else { return };
        let mut arrivals = std::mem::take(arrivals);
        for (&participant, arrival) in &mut arrivals {
            if let Some(published) = arrival.published {
                self.prepared.settle(participant, published);
            }
            arrival.opaques.extend(self.prepared.list(epoch, participant));
        }
        let (pipeline, chain) = (Arc::clone(&self.pipeline), self.chain);
        let span = tracing::info_span!("place", %epoch);
        let (place, handle) = abortable(async move { pipeline.place(epoch, arrivals, chain).await }.instrument(span));
        *stage = Stage::Placing(handle);
        self.steps.push(async move { Step::Placed(epoch, place.await.ok()) }.boxed());
        self.publish_memory();
    }

    /// Publishes what sealed state keeps in memory, and what the disk tier holds and has done.
    fn publish_memory(&self) {
        metrics::sealed_bytes(self.pipeline.held_bytes());
        self.disk.iter().for_each(|disk| metrics::disk_tier(&disk.stats()));
    }

    /// Schedules the next poll while tasks are expected to seal. The pause grows with the time since the epoch began.
    /// Returns false if there is mail to read first.
    fn poll_again(&mut self) -> bool {
        if self.polling {
            return true;
        }
        let all = self.pipeline.chains.len();
        let oldest = self.epochs.values().find(|epoch| epoch.stage.waits_for_any(all));
        self.polling = oldest.is_some();
        if let Some(oldest) = oldest {
            let pause = (self.runtime.monotonic().since(oldest.started) / POLL_FRACTION).clamp(POLL_MIN, POLL_MAX);
            let sleep = self.runtime.sleep(pause);
            self.steps.push(sleep.map(|()| Step::Poll).boxed());
        }
        self.shared.set_polling(self.polling)
    }

    /// Records the outcome of an epoch in the chains. The tasks know it already.
    fn settle(&mut self, Settle { epoch, outcome, chain, rewrite }: Settle) {
        self.chain = chain;
        self.ended.insert(epoch);
        while self.ended.len() > ENDED_KEPT {
            self.ended.pop_first();
        }
        let ended = self.epochs.remove(&epoch);
        if let Some(InProgress { stage: Stage::Placing(handle), .. }) = &ended {
            handle.abort();
        }
        match outcome {
            Outcome::Commit => {
                self.pipeline.commit(epoch);
                self.pipeline.free(&rewrite);
                self.rewrite();
                // A commit covers all earlier epochs.
                self.epochs = self.epochs.split_off(&epoch.next());
            }
            Outcome::Abort => self.merge_pending(epoch),
        }
    }

    /// Writes groups again that keep an object to be freed, or that are absent and have long chains.
    fn rewrite(&mut self) {
        if self.rewriting || self.chain.is_none() || self.pipeline.has_rewritten() {
            return;
        }
        let begun = self.pipeline.begin_rewrites();
        if begun.is_empty() {
            return;
        }
        self.rewriting = true;
        let rewrite = Arc::clone(&self.pipeline).rewrite(begun, self.tables.clone());
        self.steps.push(rewrite.map(Step::Rewritten).instrument(tracing::info_span!("rewrite")).boxed());
    }

    fn rewritten(&mut self, rewritten: Result<Option<Rewritten>>) {
        self.rewriting = false;
        match rewritten {
            Ok(rewritten) => rewritten.into_iter().for_each(|rewritten| self.pipeline.set_rewritten(rewritten)),
            // The runtime shuts down.
            Err(error) if error.kind() == ErrorKind::Stopped => {}
            // They stay where they are, and the next commit tries again.
            Err(error) => tracing::warn!(error = error.chain(), "key groups were not rewritten"),
        }
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

    /// Returns whether it waits for any of the `all` subtasks of this process to arrive, or for what follows.
    fn waits_for_any(&self, all: usize) -> bool {
        let Self::Gathering(arrivals) = self else { return false };
        arrivals.len() < all || arrivals.values().any(|arrival| arrival.awaits > 0)
    }
}
