//! State that an attempt's owner shares with the job's handle.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};

use crate::canary::{self, Canary};
use crate::control::coordinator::Coordinator;
use crate::control::interval::Observation;
use crate::error::{Error, Result};
use crate::id::{Attempt, Barrier, Epoch, ManifestId, SessionId};
use crate::job::interval::Adaptive;
use crate::job::progress::{Outcomes, Progress};
use crate::job::wire::ToOwner;
use crate::time::Timestamp;

/// Asynchronous work in progress, each future with its result.
pub(in crate::job) type Steps<S> = FuturesUnordered<BoxFuture<'static, S>>;

/// An event for an attempt's owner.
#[derive(Debug)]
pub(in crate::job) enum Event {
    /// A checkpoint was triggered.
    Triggered(Epoch),
    /// The engine refuses an epoch.
    Declined(Epoch, Error),
    /// A worker sent a message of this attempt.
    Message(SessionId, ToOwner),
    /// A worker's link is broken.
    Lost(SessionId),
}

/// The shared state of one attempt.
#[derive(Debug)]
pub(in crate::job) struct Shared {
    attempt: Attempt,
    coordinator: Mutex<Coordinator>,
    outcomes: Mutex<Outcomes>,
    progress: watch::Sender<Progress>,
    pub(in crate::job) adaptive: Option<Adaptive>,
}

impl Shared {
    pub(in crate::job) fn new(attempt: Attempt, coordinator: Coordinator, adaptive: Option<Adaptive>) -> Self {
        let (progress, _) = watch::channel(Progress::default());
        Self { attempt, coordinator: Mutex::new(coordinator), outcomes: Mutex::default(), progress, adaptive }
    }

    pub(in crate::job) fn coordinator(&self) -> MutexGuard<'_, Coordinator> {
        self.coordinator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outcomes(&self) -> MutexGuard<'_, Outcomes> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that an epoch begins. Call it under the coordinator's lock, before the owner hears of it.
    pub(in crate::job) fn epoch_began(&self, epoch: Epoch) {
        self.outcomes().begin(epoch);
    }

    /// Records the outcome of an epoch; `None` if it was aborted. Call it before updating the progress that announces
    /// it.
    pub(in crate::job) fn epoch_ended(&self, epoch: Epoch, outcome: Option<ManifestId>) {
        self.outcomes().end(epoch, outcome);
    }

    /// Returns the outcome of an epoch, once it has ended.
    pub(in crate::job) fn outcome(&self, epoch: Epoch) -> Option<Option<ManifestId>> {
        let progress = self.progress.borrow();
        let given_up = progress.last_aborted.as_ref().map(|aborted| aborted.epoch);
        if canary::on(Canary::EarlyOutcome) && given_up >= Some(epoch) {
            return Some(None);
        }
        self.outcomes().get(epoch, progress.committed)
    }

    pub(in crate::job) fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(in crate::job) fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    pub(in crate::job) fn update(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(change);
    }

    /// Ends the job, unless it has ended already.
    pub(in crate::job) fn fail(&self, error: Error) {
        self.progress.send_if_modified(|progress| {
            let first = progress.failed.is_none();
            progress.failed.get_or_insert(error);
            first
        });
    }

    /// Reports an observation to the controller of the interval, if there is one.
    pub(in crate::job) fn observe(&self, now: Timestamp, observation: Observation) {
        self.adaptive.iter().for_each(|adaptive| adaptive.observe(now, observation));
    }

    /// Returns the job's error, if it has failed.
    pub(in crate::job) fn check(&self) -> Result<()> {
        match &self.progress.borrow().failed {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// Refuses a barrier that this attempt never triggered.
    pub(in crate::job) fn check_triggered(&self, barrier: Barrier) -> Result<()> {
        if barrier.attempt != self.attempt {
            return Err(other_attempt(barrier, self.attempt));
        }
        if self.coordinator().has_triggered(barrier.epoch) {
            return Ok(());
        }
        Err(never_triggered(barrier.epoch))
    }
}

/// Returns why a barrier of another attempt is refused.
pub(in crate::job) fn other_attempt(barrier: Barrier, expected: Attempt) -> Error {
    let error = Error::usage("barrier belongs to another attempt").with("epoch", barrier.epoch);
    error.with("attempt", barrier.attempt).with("expected", expected)
}

pub(in crate::job) fn never_triggered(epoch: Epoch) -> Error {
    Error::usage("epoch was never triggered").with("epoch", epoch)
}

/// A handle on the owner of an attempt. The attempt ends when the last one is dropped.
#[derive(Debug, Clone)]
pub(in crate::job) struct OwnerHandle {
    pub(in crate::job) shared: Arc<Shared>,
    /// Bounded by the coordinator, which lets `max_in_flight` epochs be triggered.
    events: mpsc::UnboundedSender<Event>,
}

impl OwnerHandle {
    pub(in crate::job) fn new(shared: Arc<Shared>, events: mpsc::UnboundedSender<Event>) -> Self {
        Self { shared, events }
    }

    /// Posts an event to the owner.
    pub(in crate::job) fn post(&self, event: Event) -> Result<()> {
        self.shared.check()?;
        self.events.send(event).map_err(|_| stopped())
    }
}

pub(in crate::job) fn stopped() -> Error {
    Error::stopped("the job's background has stopped")
}
