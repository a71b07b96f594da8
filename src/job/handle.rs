//! The engine's handle on a job.

use tokio::sync::watch;

use super::interval::Adaptive;
use super::progress::Progress;
use super::shared::{BackgroundHandle, Mail, stopped};
use super::worker::Seat;
use crate::checkpoint::claim;
use crate::checkpoint::manifest_log::StoredManifest;
use crate::checkpoint::savepoints::Savepoints;
use crate::control::interval::{Decision, Goals, Observation};
use crate::error::{Error, Result};
use crate::id::{Attempt, Awaited, Barrier, JobId, ManifestId, Seq};
use crate::key_group::{Partitioner, owner};
use crate::memory::MemoryBudget;
use crate::place::Store;

/// One attempt of a job.
#[derive(Debug)]
pub struct Job {
    pub(super) id: JobId,
    pub(super) attempt: Attempt,
    pub(super) partitioner: Partitioner,
    pub(super) max_parallelism: u16,
    pub(super) store: Store,
    pub(super) background: BackgroundHandle,
    pub(super) seats: Vec<Seat>,
    pub(super) restored: Option<StoredManifest>,
    pub(super) savepoints: Savepoints,
    pub(super) budget: MemoryBudget,
}

impl Job {
    /// Returns the job's identity, which all of its attempts share and no other job has.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Returns the attempt that this is.
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// Returns how keys map to groups.
    #[must_use]
    pub fn partitioner(&self) -> Partitioner {
        self.partitioner
    }

    /// Returns the job's number of key groups.
    #[must_use]
    pub fn max_parallelism(&self) -> u16 {
        self.max_parallelism
    }

    /// Returns the checkpoint that this attempt goes on from.
    #[must_use]
    pub fn restored(&self) -> Option<&StoredManifest> {
        self.restored.as_ref()
    }

    /// Returns the job's store, with its counts of requests.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the memory that state and waiting uploads are charged to.
    #[must_use]
    pub fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    /// Hands out the seats, one per subtask, by operator and index. The second call returns none.
    pub fn take_seats(&mut self) -> Vec<Seat> {
        std::mem::take(&mut self.seats)
    }

    /// Returns whether the interval has passed and a checkpoint should be triggered.
    #[must_use]
    pub fn is_due(&self) -> bool {
        let now = self.store.runtime().monotonic();
        match &self.background.shared.adaptive {
            Some(adaptive) => adaptive.is_due(now),
            None => self.background.shared.coordinator().is_due(now),
        }
    }

    /// Tells the controller of an adaptive interval what only the engine sees: above all the load, best once a second, and that
    /// the job is about to end on purpose ([`Observation::Ending`]): one that does not tell has failed, when it is opened again.
    /// What tasks and checkpoints show it is told by the job itself. Does nothing if the interval is fixed.
    pub fn observe(&self, observation: Observation) {
        self.background.shared.observe(self.store.runtime().monotonic(), observation);
    }

    /// Returns the interval that holds and why, if it is adaptive.
    #[must_use]
    pub fn decision(&self) -> Option<Decision> {
        self.background.shared.adaptive.as_ref().map(Adaptive::decision)
    }

    /// Changes the goals of an adaptive interval.
    ///
    /// # Errors
    /// `Config` if a goal is out of range or they contradict each other, and then the old ones stay; `Usage` if the interval
    /// is fixed.
    pub fn set_goals(&self, goals: Goals) -> Result<()> {
        let now = self.store.runtime().monotonic();
        match &self.background.shared.adaptive {
            Some(adaptive) => adaptive.set_goals(now, goals),
            None => Err(Error::usage("the job's interval is fixed")),
        }
    }

    /// Begins to end an epoch: the engine sends the barrier to every task. `None` while too many are in flight.
    ///
    /// # Errors
    /// The job's error, if it has failed.
    pub fn trigger(&self) -> Result<Option<Barrier>> {
        self.background.shared.check()?;
        let now = self.store.runtime().monotonic();
        let timeouts = self.background.shared.adaptive.as_ref().map_or(1, Adaptive::timeout_factor);
        let mut coordinator = self.background.shared.coordinator();
        let Some(epoch) = coordinator.trigger_with_patience(now, timeouts) else { return Ok(None) };
        // Under the lock, so that the background hears of epochs in order.
        self.background.shared.began(epoch);
        self.background.trigger(epoch)?;
        self.background.shared.observe(now, Observation::Triggered);
        Ok(Some(Barrier { attempt: self.attempt, epoch }))
    }

    /// Gives up an epoch whose barrier cannot reach every task. What was sealed for it belongs to the next checkpoint. Does
    /// nothing if the epoch has ended, or its manifest is being created.
    ///
    /// * `reason`: text, or an error, which [`Progress::last_decline`] then has as its source.
    ///
    /// # Errors
    /// What the job failed with, if it has; `Usage` if this attempt never triggered the epoch.
    pub fn decline(&self, barrier: Barrier, reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Result<()> {
        self.background.shared.check()?;
        self.background.shared.check_triggered(barrier)?;
        let error = Error::unavailable("the job declined the epoch").with_source(reason);
        self.background.post(Mail::Declined(barrier.epoch, error))?;
        // While an epoch is uploaded, the background does not look for mail.
        self.background.wake()
    }

    /// Returns a watch on how far the job has come.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.background.shared.watch()
    }

    /// Returns how far the job has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.background.shared.progress()
    }

    /// As [`Job::trigger`], waiting until an epoch may start.
    ///
    /// # Errors
    /// The job's error, if it fails.
    pub async fn trigger_when_possible(&self) -> Result<Barrier> {
        let mut watch = self.watch();
        loop {
            watch.mark_unchanged();
            if let Some(barrier) = self.trigger()? {
                return Ok(barrier);
            }
            if watch.changed().await.is_err() {
                return Err(stopped());
            }
        }
    }

    /// Asks for a savepoint to be dropped: the next checkpoint does not list it, and what only it reached is deleted a few
    /// commits later. Its manifest may be damaged or gone. Asking again changes nothing.
    ///
    /// # Errors
    /// `NotFound` if it is not a live savepoint, naming those that are; what the job failed with.
    pub fn drop_savepoint(&self, id: Seq) -> Result<()> {
        self.background.shared.check()?;
        self.savepoints.drop_savepoint(id)
    }

    /// Refuses to go on if a newer attempt owns the job. To be asked before an effect that no checkpoint guards.
    ///
    /// # Errors
    /// `Fenced`; `Unavailable` if the store does not answer.
    pub async fn check_owner(&self) -> Result<()> {
        claim::check_owner(&self.store, self.attempt).await
    }

    /// Returns the index of the subtask, of `parallelism`, that owns the group of `key`.
    #[must_use]
    pub fn subtask_of(&self, key: &[u8], parallelism: u32) -> usize {
        let group = self.partitioner.locate(key, 0, self.max_parallelism).group;
        owner(self.max_parallelism, parallelism, group) as usize
    }

    /// Waits until an epoch has ended. Returns its checkpoint, or `None` if it was given up; what it sealed is then part of
    /// the next checkpoint.
    ///
    /// * `epoch`: a barrier, or an epoch of this attempt or before. Of the last 1,024 epochs each has its own outcome; an older one counts as
    ///   committed if a later commit covers it.
    ///
    /// # Errors
    /// What the job failed with before the outcome was known: the store may still show the checkpoint. `Usage` if this
    /// attempt never triggered the epoch, or the barrier is another attempt's.
    pub async fn wait(&self, epoch: impl Into<Awaited>) -> Result<Option<ManifestId>> {
        let Awaited { attempt, epoch } = epoch.into();
        if let Some(attempt) = attempt.filter(|attempt| *attempt != self.attempt) {
            return Err(self.background.shared.other_attempt(Barrier { attempt, epoch }));
        }
        if let Some(restored) = self.restored.as_ref().filter(|restored| restored.manifest.epoch >= epoch) {
            return Ok(Some(restored.id));
        }
        self.background.shared.check_triggered(Barrier { attempt: self.attempt, epoch })?;
        let mut watch = self.watch();
        loop {
            watch.mark_unchanged();
            if let Some(outcome) = self.background.shared.outcome(epoch) {
                return Ok(outcome);
            }
            self.background.shared.check()?;
            if watch.changed().await.is_err() {
                return Err(stopped());
            }
        }
    }
}
