//! What a job's owner, its tasks and its background share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::interval::Adaptive;
use super::schemas::Schemas;
use crate::canary::{self, Canary};
use crate::checkpoint::collect::Uncollected;
use crate::checkpoint::pipeline::Arrival;
use crate::control::coordinator::{Coordinator, Participant};
use crate::control::interval::Observation;
use crate::error::{Error, Result};
use crate::id::{Attempt, Barrier, Epoch, ManifestId};
use crate::time::Timestamp;

/// Outcomes of epochs that are remembered one by one.
const OUTCOMES_KEPT: usize = 1024;

/// How far the job has come, as its owner can watch it.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Progress {
    /// The newest committed epoch of this attempt, and its checkpoint.
    pub committed: Option<(Epoch, ManifestId)>,
    /// Checkpoints committed by this attempt.
    pub completed: u64,
    /// Checkpoints given up by this attempt.
    pub aborted: u64,
    /// The last epoch that was given up.
    pub last_aborted: Option<Aborted>,
    /// Why the last epoch that was declined was: a subtask, an upload or the store refused it.
    pub last_decline: Option<Error>,
    /// Why the commit under way cannot be settled yet: the store does not answer, and it is asked again. `None` once it is
    /// settled.
    pub unsettled: Option<Error>,
    /// What should be deleted and is not: the store refuses, or a live manifest cannot be read.
    pub uncollected: Uncollected,
    /// Why the job has ended.
    pub failed: Option<Error>,
}

/// An epoch that was given up. What it sealed belongs to the next checkpoint.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Aborted {
    /// The epoch.
    pub epoch: Epoch,
    /// Why.
    pub reason: Error,
    /// From its trigger until it was given up.
    pub age: Duration,
    /// The subtasks that had not arrived.
    pub missing: Vec<Participant>,
}

/// What subtasks leave for the background, which looks for it: waking a thread costs more than a seal.
#[derive(Debug)]
pub(super) enum Mail {
    /// A subtask ended an epoch.
    Arrived(Epoch, Participant, Arrival),
    /// A subtask, or the job's owner, cannot end an epoch.
    Declined(Epoch, Error),
    /// A seat or task was dropped: it will end no further epoch.
    Gone(Participant),
}

/// What wakes the background.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wake {
    /// An epoch began to end.
    Triggered {
        epoch: Epoch,
        /// The newest epoch whose commit had been announced by then.
        announced: Option<Epoch>,
    },
    /// There is mail that should not wait.
    Mail,
}

/// State shared by the handles of one attempt and its background.
#[derive(Debug)]
pub(super) struct Shared {
    attempt: Attempt,
    coordinator: Mutex<Coordinator>,
    mail: Mutex<Vec<Mail>>,
    outcomes: Mutex<Outcomes>,
    progress: watch::Sender<Progress>,
    pub(super) adaptive: Option<Adaptive>,
    /// What its tasks have declared.
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

    /// Notes that an epoch begins. To be called under the coordinator's lock, before the background hears of it.
    pub(super) fn began(&self, epoch: Epoch) {
        self.outcomes().open.insert(epoch);
    }

    /// Notes what became of an epoch; `None` if it was given up. To be called before the progress that announces it.
    pub(super) fn ended(&self, epoch: Epoch, outcome: Option<ManifestId>) {
        self.outcomes().end(epoch, outcome);
    }

    /// Returns what became of an epoch, once it has ended.
    pub(super) fn outcome(&self, epoch: Epoch) -> Option<Option<ManifestId>> {
        let progress = self.progress.borrow();
        let given_up = progress.last_aborted.as_ref().map(|aborted| aborted.epoch);
        if canary::on(Canary::EarlyOutcome) && given_up >= Some(epoch) {
            return Some(None);
        }
        self.outcomes().of(epoch, progress.committed)
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

    /// Passes an observation on to the controller of the interval, if there is one.
    pub(super) fn observe(&self, now: Timestamp, observation: Observation) {
        self.adaptive.iter().for_each(|adaptive| adaptive.observe(now, observation));
    }

    /// # Errors
    /// What the job failed with, if it has.
    pub(super) fn check(&self) -> Result<()> {
        match &self.progress.borrow().failed {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// Returns why a barrier of another attempt is refused.
    pub(super) fn other_attempt(&self, barrier: Barrier) -> Error {
        let error = Error::usage("barrier is of another attempt").with("epoch", barrier.epoch);
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

/// What became of the epochs of this attempt.
#[derive(Debug, Default)]
struct Outcomes {
    /// Those that have not ended.
    open: BTreeSet<Epoch>,
    ended: BTreeMap<Epoch, Option<ManifestId>>,
}

impl Outcomes {
    fn end(&mut self, epoch: Epoch, outcome: Option<ManifestId>) {
        self.open.remove(&epoch);
        self.ended.insert(epoch, outcome);
        if self.ended.len() > OUTCOMES_KEPT {
            self.ended.pop_first();
        }
    }

    /// Returns the outcome of `epoch` once it has ended. If that is no longer remembered, the newest commit covers it, if
    /// there is one that follows it.
    fn of(&self, epoch: Epoch, committed: Option<(Epoch, ManifestId)>) -> Option<Option<ManifestId>> {
        if let Some(outcome) = self.ended.get(&epoch) {
            return Some(*outcome);
        }
        let (oldest, _) = self.ended.first_key_value()?;
        let forgotten = epoch < *oldest && !self.open.contains(&epoch);
        forgotten.then(|| committed.filter(|(newest, _)| *newest >= epoch).map(|(_, id)| id))
    }
}

/// What the job's owner and its tasks hold of it: the background ends when the last of these is gone.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) shared: Arc<Shared>,
    /// Epochs that began to end. Bounded by the coordinator: at most `max_in_flight`.
    sender: mpsc::UnboundedSender<Wake>,
}

impl Link {
    pub(super) fn new(shared: Arc<Shared>, sender: mpsc::UnboundedSender<Wake>) -> Self {
        Self { shared, sender }
    }

    pub(super) fn trigger(&self, epoch: Epoch) -> Result<()> {
        self.shared.check()?;
        let announced = self.shared.progress.borrow().committed.map(|(epoch, _)| epoch);
        self.sender.send(Wake::Triggered { epoch, announced }).map_err(|_| stopped())
    }

    /// Has the background look at its mail now.
    pub(super) fn wake(&self) -> Result<()> {
        self.sender.send(Wake::Mail).map_err(|_| stopped())
    }

    /// Notes that a task has its state.
    pub(super) fn restored(&self, now: Timestamp) {
        self.shared.adaptive.iter().for_each(|adaptive| adaptive.restored(now));
    }

    /// Leaves `mail` for the background.
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

/// A subtask's presence in the job. Once it is dropped, epochs that wait for the subtask are declined at once.
#[derive(Debug)]
pub(super) struct Presence {
    pub(super) link: Link,
    pub(super) participant: Participant,
}

impl Drop for Presence {
    fn drop(&mut self) {
        // A job that has ended waits for nobody.
        let _ended = self.link.post(Mail::Gone(self.participant));
    }
}

/// Marks the job as failed if its background ends in any way that did not say so: by a panic, or dropped by its runtime.
#[derive(Debug)]
pub(super) struct Latch(pub(super) Arc<Shared>);

impl Drop for Latch {
    fn drop(&mut self) {
        self.0.fail(Error::stopped("the job's background ended: it panicked, or its runtime dropped it"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{PutId, Seq};

    #[test]
    fn each_epoch_has_an_outcome_of_its_own_even_when_it_is_forgotten() {
        let id = |seq| ManifestId { seq: Seq(seq), put_id: PutId::default() };
        let mut outcomes = Outcomes::default();
        outcomes.open.insert(Epoch(1));
        outcomes.end(Epoch(2), None);
        assert_eq!((outcomes.of(Epoch(1), None), outcomes.of(Epoch(2), None)), (None, Some(None)));
        for epoch in 3..3 + OUTCOMES_KEPT as u64 {
            outcomes.end(Epoch(epoch), Some(id(epoch)));
        }
        let committed = Some((Epoch(900), id(900)));
        assert_eq!(outcomes.of(Epoch(2), committed), Some(Some(id(900))), "covered since");
        assert_eq!(outcomes.of(Epoch(3), committed), Some(Some(id(3))));
        assert_eq!(outcomes.of(Epoch(2), None), Some(None));
        assert_eq!(outcomes.of(Epoch(5000), committed), None, "it has not ended");
    }

    #[test]
    fn an_epoch_in_flight_has_no_outcome_however_many_later_ones_have() {
        let mut outcomes = Outcomes::default();
        outcomes.open.insert(Epoch(1));
        for epoch in 2..10 + OUTCOMES_KEPT as u64 {
            outcomes.end(Epoch(epoch), None);
        }
        assert_eq!(outcomes.of(Epoch(1), None), None);
        outcomes.end(Epoch(1), None);
        assert_eq!(outcomes.of(Epoch(1), None), Some(None));
    }
}
