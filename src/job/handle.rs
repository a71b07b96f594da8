//! The engine's handle on a job.

use tokio::sync::watch;

use super::interval::Adaptive;
use super::owner::{Event, OwnerHandle, other_attempt, stopped};
use super::progress::Progress;
use super::worker::{AttemptHandle, Seat};
use crate::checkpoint::claim;
use crate::checkpoint::manifest_log::StoredManifest;
use crate::checkpoint::savepoints::Savepoints;
use crate::control::interval::{Decision, Goals, Observation};
use crate::error::{Error, Result};
use crate::id::{Attempt, Awaited, Barrier, JobId, ManifestId, Seq};
use crate::key_group::{Partitioner, owner};
use crate::memory::MemoryBudget;
use crate::place::Store;

/// One attempt of a job, opened by [`JobBuilder::open`](super::JobBuilder::open) in one process, or by
/// [`Owner::open`](super::Owner::open) for workers in several, which then have the seats.
///
/// Order of calls:
/// 1. [`take_seats`](Self::take_seats), and [`Seat::restore`] each on the thread that will process its records.
/// 2. Whenever [`is_due`](Self::is_due), [`trigger`](Self::trigger) and send the barrier through the stream to every
///    task, which calls [`Task::barrier`](super::Task::barrier).
/// 3. [`wait`](Self::wait) for the epoch, or [`watch`](Self::watch) the progress, and publish what is committed.
///
/// The attempt ends with its first fatal error, such as `Fenced`, which later calls then return. To end it on purpose,
/// drop the job, its seats and its tasks.
#[derive(Debug)]
pub struct Job {
    pub(super) id: JobId,
    pub(super) attempt: Attempt,
    pub(super) partitioner: Partitioner,
    pub(super) max_parallelism: u16,
    pub(super) store: Store,
    pub(super) owner: OwnerHandle,
    /// The worker of a job in one process.
    pub(super) local: Option<AttemptHandle>,
    pub(super) seats: Vec<Seat>,
    pub(super) restored: Option<StoredManifest>,
    pub(super) savepoints: Savepoints,
    pub(super) budget: MemoryBudget,
}

impl Job {
    /// Returns the job's identity, shared by all of its attempts and unique to the job.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Returns the number of this attempt.
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// Returns how keys map to key groups.
    #[must_use]
    pub fn partitioner(&self) -> Partitioner {
        self.partitioner
    }

    /// Returns the job's number of key groups.
    #[must_use]
    pub fn max_parallelism(&self) -> u16 {
        self.max_parallelism
    }

    /// Returns the checkpoint that this attempt restores; `None` if it starts empty. In one process all its subtask
    /// manifests and opaques are inline.
    #[must_use]
    pub fn restored(&self) -> Option<&StoredManifest> {
        self.restored.as_ref()
    }

    /// Returns the job's store, which counts its requests.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the budget to which state and pending uploads are charged.
    #[must_use]
    pub fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    /// Takes the seats, one per subtask, ordered by operator as declared, then by index. A second call returns none.
    ///
    /// Restore every seat: an epoch cannot complete while a subtask is missing. Dropping a seat or its task declines
    /// every epoch that waits for it.
    pub fn take_seats(&mut self) -> Vec<Seat> {
        std::mem::take(&mut self.seats)
    }

    /// Returns whether the interval has passed, so that a checkpoint should be triggered. Cheap: takes one lock.
    #[must_use]
    pub fn is_due(&self) -> bool {
        let now = self.store.runtime().monotonic();
        match &self.owner.shared.adaptive {
            Some(adaptive) => adaptive.is_due(now),
            None => self.owner.shared.coordinator().is_due(now),
        }
    }

    /// Reports an observation to the controller of an adaptive interval. Report the load, ideally once a second, and
    /// [`Observation::Ending`] before ending the job on purpose: without it, the next open counts a failure. The job
    /// itself reports what it sees of tasks and checkpoints. Does nothing if the interval is fixed.
    pub fn observe(&self, observation: Observation) {
        self.owner.shared.observe(self.store.runtime().monotonic(), observation);
    }

    /// Returns the current interval and the reason for it, if the interval is adaptive.
    #[must_use]
    pub fn decision(&self) -> Option<Decision> {
        self.owner.shared.adaptive.as_ref().map(Adaptive::decision)
    }

    /// Changes the goals of an adaptive interval.
    ///
    /// # Errors
    /// `Config` if a goal is out of range or goals contradict each other; the old goals stay. `Usage` if the interval
    /// is fixed.
    pub fn set_goals(&self, goals: Goals) -> Result<()> {
        let now = self.store.runtime().monotonic();
        match &self.owner.shared.adaptive {
            Some(adaptive) => adaptive.set_goals(now, goals),
            None => Err(Error::usage("the job's interval is fixed")),
        }
    }

    /// Triggers a checkpoint, which ends the current epoch, whether one is due or not. The engine sends the returned barrier to every task. `None` while
    /// [`CheckpointPolicy::max_in_flight`] epochs are in flight.
    ///
    /// Returns at once. The epoch ends once every task has passed the barrier and the state is committed, or is aborted
    /// after [`CheckpointPolicy::timeout`], which an adaptive interval may multiply after repeated aborts.
    ///
    /// # Errors
    /// The job's error, if it has failed.
    ///
    /// [`CheckpointPolicy::max_in_flight`]: crate::control::coordinator::CheckpointPolicy::max_in_flight
    /// [`CheckpointPolicy::timeout`]: crate::control::coordinator::CheckpointPolicy::timeout
    pub fn trigger(&self) -> Result<Option<Barrier>> {
        self.owner.shared.check()?;
        let now = self.store.runtime().monotonic();
        let timeouts = self.owner.shared.adaptive.as_ref().map_or(1, Adaptive::timeout_factor);
        let mut coordinator = self.owner.shared.coordinator();
        let Some(epoch) = coordinator.trigger_with_timeouts(now, timeouts) else { return Ok(None) };
        // Under the lock, so that owner and worker learn of epochs in order.
        self.owner.shared.epoch_began(epoch);
        self.owner.post(Event::Triggered(epoch))?;
        self.local.iter().try_for_each(|worker| worker.expect(epoch))?;
        self.owner.shared.observe(now, Observation::Triggered);
        Ok(Some(Barrier { attempt: self.attempt, epoch }))
    }

    /// Aborts an epoch, for example because its barrier cannot reach every task. State sealed for the epoch joins the
    /// next checkpoint. Does nothing if the epoch has ended, or its manifest is being created.
    ///
    /// * `reason`: text or an error; becomes the source of [`Progress::last_decline`].
    ///
    /// # Errors
    /// The job's error, if it has failed; `Usage` if this attempt never triggered the epoch.
    pub fn decline(&self, barrier: Barrier, reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Result<()> {
        self.owner.shared.check()?;
        self.owner.shared.check_triggered(barrier)?;
        let error = Error::unavailable("the job declined the epoch").with_source(reason);
        self.owner.post(Event::Declined(barrier.epoch, error))
    }

    /// Returns a watch on the job's progress.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.owner.shared.watch()
    }

    /// Returns the job's progress so far.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.owner.shared.progress()
    }

    /// As [`Job::trigger`], but waits while too many epochs are in flight.
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

    /// Requests that a savepoint be dropped: the next checkpoint does not list it, and the objects that only it reached
    /// are deleted a few commits later. Its manifest may be damaged or gone. Idempotent.
    ///
    /// # Errors
    /// `NotFound` if `id` is not a live savepoint, naming the live ones; the job's error, if it has failed.
    pub fn drop_savepoint(&self, id: Seq) -> Result<()> {
        self.owner.shared.check()?;
        self.savepoints.drop_savepoint(id)
    }

    /// Checks that no newer attempt owns the job, with one read of the store. Call it before an effect that no
    /// checkpoint guards.
    ///
    /// # Errors
    /// `Fenced` if a newer attempt has begun; `Denied` or `Unavailable` from the store.
    pub async fn check_owner(&self) -> Result<()> {
        claim::check_owner(&self.store, self.attempt).await
    }

    /// Returns the index of the subtask, among `parallelism`, that owns the key group of `key`.
    #[must_use]
    pub fn subtask_of(&self, key: &[u8], parallelism: u32) -> usize {
        let group = self.partitioner.locate(key, 0, self.max_parallelism).group;
        owner(self.max_parallelism, parallelism, group) as usize
    }

    /// Waits until an epoch has ended. Returns its checkpoint, or `None` if it was aborted; its sealed state then joins
    /// the next checkpoint.
    ///
    /// * `epoch`: a barrier of this attempt, or an epoch. Every epoch up to that of the restored checkpoint counts as
    ///   covered by it, even if it was aborted then. The outcomes of the last 1,024 ended epochs are kept; an older epoch
    ///   counts as committed if a later commit covers it.
    ///
    /// # Errors
    /// The job's error, if it fails before the outcome is known; the checkpoint may be in the store all the same.
    /// `Usage` if this attempt never triggered the epoch, or the barrier is another attempt's.
    pub async fn wait(&self, epoch: impl Into<Awaited>) -> Result<Option<ManifestId>> {
        let Awaited { attempt, epoch } = epoch.into();
        if let Some(attempt) = attempt.filter(|attempt| *attempt != self.attempt) {
            return Err(other_attempt(Barrier { attempt, epoch }, self.attempt));
        }
        if let Some(restored) = self.restored.as_ref().filter(|restored| restored.manifest.epoch >= epoch) {
            return Ok(Some(restored.id));
        }
        self.owner.shared.check_triggered(Barrier { attempt: self.attempt, epoch })?;
        let mut watch = self.watch();
        loop {
            watch.mark_unchanged();
            if let Some(outcome) = self.owner.shared.outcome(epoch) {
                return Ok(outcome);
            }
            self.owner.shared.check()?;
            if watch.changed().await.is_err() {
                return Err(stopped());
            }
        }
    }
}
