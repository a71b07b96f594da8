//! State shared by a job's handle, its tasks and its background.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};

use super::interval::Adaptive;
use super::progress::{Outcomes, Progress};
use super::schemas::Schemas;
use crate::canary::{self, Canary};
use crate::checkpoint::acknowledgement::Arrival;
use crate::control::coordinator::{Coordinator, Participant};
use crate::control::interval::Observation;
use crate::error::{Error, Result};
use crate::id::{Attempt, Barrier, Epoch, ManifestId};
use crate::time::Timestamp;

/// Asynchronous work in progress, each future with its result.
pub(super) type Steps<S> = FuturesUnordered<BoxFuture<'static, S>>;

/// A message to the background. The background polls: waking its thread would cost the task more than a seal.
#[derive(Debug)]
pub(super) enum Mail {
    /// A subtask ended an epoch.
    Arrived(Epoch, Participant, Arrival),
    /// A subtask, or the engine, refuses an epoch.
    Declined(Epoch, Error),
    /// A seat or task was dropped. It will not arrive for any epoch.
    Dropped(Participant),
}

/// A wake-up of the background.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wake {
    /// A checkpoint was triggered.
    Triggered {
        epoch: Epoch,
        /// The newest epoch whose commit had been announced before.
        announced: Option<Epoch>,
    },
    /// Mail should be read before the next poll.
    Mail,
}

/// The shared state of one attempt.
#[derive(Debug)]
pub(super) struct Shared {
    attempt: Attempt,
    coordinator: Mutex<Coordinator>,
    mail: Mutex<Vec<Mail>>,
    outcomes: Mutex<Outcomes>,
    progress: watch::Sender<Progress>,
    pub(super) adaptive: Option<Adaptive>,
    /// The tables that the tasks have declared.
    pub(super) schemas: Schemas,
}

impl Shared {
    pub(super) fn new(attempt: Attempt, coordinator: Coordinator, adaptive: Option<Adaptive>) -> Self {
        let (progress, _) = watch::channel(Progress::default());
        let coordinator = Mutex::new(coordinator);
        let (mail, outcomes, schemas) = (Mutex::default(), Mutex::default(), Schemas::default());
        Self { attempt, coordinator, mail, outcomes, progress, adaptive, schemas }
    }

    pub(super) fn coordinator(&self) -> MutexGuard<'_, Coordinator> {
        self.coordinator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn mail(&self) -> MutexGuard<'_, Vec<Mail>> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outcomes(&self) -> MutexGuard<'_, Outcomes> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that an epoch begins. Call it under the coordinator's lock, before the background is woken.
    pub(super) fn epoch_began(&self, epoch: Epoch) {
        self.outcomes().begin(epoch);
    }

    /// Records the outcome of an epoch; `None` if it was aborted. Call it before updating the progress that announces
    /// it.
    pub(super) fn epoch_ended(&self, epoch: Epoch, outcome: Option<ManifestId>) {
        self.outcomes().end(epoch, outcome);
    }

    /// Returns the outcome of an epoch, once it has ended.
    pub(super) fn outcome(&self, epoch: Epoch) -> Option<Option<ManifestId>> {
        let progress = self.progress.borrow();
        let given_up = progress.last_aborted.as_ref().map(|aborted| aborted.epoch);
        if canary::on(Canary::EarlyOutcome) && given_up >= Some(epoch) {
            return Some(None);
        }
        self.outcomes().get(epoch, progress.committed)
    }

    pub(super) fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(change);
    }

    /// Ends the job, unless it has ended already.
    pub(super) fn fail(&self, error: Error) {
        self.progress.send_if_modified(|progress| {
            let first = progress.failed.is_none();
            progress.failed.get_or_insert(error);
            first
        });
    }

    /// Reports an observation to the controller of the interval, if there is one.
    pub(super) fn observe(&self, now: Timestamp, observation: Observation) {
        self.adaptive.iter().for_each(|adaptive| adaptive.observe(now, observation));
    }

    /// Returns the job's error, if it has failed.
    pub(super) fn check(&self) -> Result<()> {
        match &self.progress.borrow().failed {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// Returns why a barrier of another attempt is refused.
    pub(super) fn other_attempt(&self, barrier: Barrier) -> Error {
        let error = Error::usage("barrier belongs to another attempt").with("epoch", barrier.epoch);
        error.with("attempt", barrier.attempt).with("expected", self.attempt)
    }

    /// Refuses a barrier that this attempt never triggered.
    pub(super) fn check_triggered(&self, barrier: Barrier) -> Result<()> {
        if barrier.attempt != self.attempt {
            return Err(self.other_attempt(barrier));
        }
        if self.coordinator().has_triggered(barrier.epoch) || canary::on(Canary::AnyEpoch) {
            return Ok(());
        }
        Err(Error::usage("epoch was never triggered").with("epoch", barrier.epoch))
    }
}

/// A handle on the background, held by the job's handle and by its tasks. The background ends when the last one is
/// dropped.
#[derive(Debug, Clone)]
pub(super) struct BackgroundHandle {
    pub(super) shared: Arc<Shared>,
    /// Bounded by the coordinator, which lets `max_in_flight` epochs be triggered.
    sender: mpsc::UnboundedSender<Wake>,
}

impl BackgroundHandle {
    pub(super) fn new(shared: Arc<Shared>, sender: mpsc::UnboundedSender<Wake>) -> Self {
        Self { shared, sender }
    }

    pub(super) fn trigger(&self, epoch: Epoch) -> Result<()> {
        self.shared.check()?;
        let announced = self.shared.progress.borrow().committed.map(|(epoch, _)| epoch);
        self.sender.send(Wake::Triggered { epoch, announced }).map_err(|_| stopped())
    }

    /// Makes the background read its mail now.
    pub(super) fn wake(&self) -> Result<()> {
        self.sender.send(Wake::Mail).map_err(|_| stopped())
    }

    /// Records that a task is restored.
    pub(super) fn restored(&self, now: Timestamp) {
        self.shared.adaptive.iter().for_each(|adaptive| adaptive.restored(now));
    }

    /// Posts `mail` to the background.
    pub(super) fn post(&self, mail: Mail) -> Result<()> {
        self.shared.check()?;
        if self.sender.is_closed() {
            return Err(stopped());
        }
        self.shared.mail().push(mail);
        Ok(())
    }
}

pub(super) fn stopped() -> Error {
    Error::stopped("the job's background has stopped")
}

/// A subtask's presence in the job. When it is dropped, epochs that wait for the subtask are declined at once.
#[derive(Debug)]
pub(super) struct Presence {
    pub(super) background: BackgroundHandle,
    pub(super) participant: Participant,
}

impl Drop for Presence {
    fn drop(&mut self) {
        // A job that has ended waits for no subtask.
        let _ended = self.background.post(Mail::Dropped(self.participant));
    }
}

impl Mail {
    /// Returns whether the mail's epoch, if any, is not after `newest`.
    pub(super) fn is_known(&self, newest: Epoch) -> bool {
        match self {
            Self::Arrived(epoch, ..) | Self::Declined(epoch, _) => *epoch <= newest,
            Self::Dropped(_) => true,
        }
    }
}
