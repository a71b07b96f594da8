//! Opening a job. Every check comes before the claim, which stops a running attempt.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::opening::{Opening, Owner, Seating};
use super::owner::OwnerHandle;
use super::spec::JobSpec;
use super::worker::{Anchor, Local};
use super::{Job, JobSettings, OperatorSpec};
use crate::checkpoint::claim::{self, Peeked};
use crate::checkpoint::manifest_log::{ManifestLog, RestoreFrom, StoredManifest};
use crate::checkpoint::operators::Undeclared;
use crate::checkpoint::reading::{Reader, under};
use crate::checkpoint::restore;
use crate::error::Result;
use crate::id::OperatorId;
use crate::manifest::Program;
use crate::place::Store;

/// Collects a job's settings and operators, and opens the job.
///
/// Set [`settings`](Self::settings), add each [`operator`](Self::operator), then [`open`](Self::open). All other
/// settings are optional. [`check`](Self::check) and [`peek`](Self::peek) find mistakes without stopping a running
/// attempt.
#[derive(Debug)]
pub struct JobBuilder {
    spec: JobSpec,
}

impl JobBuilder {
    /// Returns a builder for the job in `store`, with default settings and no operators.
    #[must_use]
    pub fn new(store: Store) -> Self {
        let (settings, program, from) = (JobSettings::default(), Program::default(), RestoreFrom::Newest);
        let (operators, undeclared) = (Vec::new(), BTreeMap::new());
        Self { spec: JobSpec { store, settings, operators, undeclared, program, from } }
    }

    /// Replaces all settings.
    #[must_use]
    pub fn settings(mut self, settings: JobSettings) -> Self {
        self.spec.settings = settings;
        self
    }

    /// Declares an operator. Ids and names must be unique; [`JobBuilder::check`] reports duplicates.
    #[must_use]
    pub fn operator(mut self, operator: OperatorSpec) -> Self {
        self.spec.operators.push(operator);
        self
    }

    /// Drops the stored state of an operator that the job no longer declares. Without this call or
    /// [`JobBuilder::carry_operator`], opening such a job fails.
    #[must_use]
    pub fn drop_operator(mut self, operator: OperatorId) -> Self {
        self.spec.undeclared.insert(operator, Undeclared::Drop);
        self
    }

    /// Keeps the stored state of an operator that the job does not declare: each checkpoint lists the state, unchanged,
    /// until a later attempt declares the operator.
    #[must_use]
    pub fn carry_operator(mut self, operator: OperatorId) -> Self {
        self.spec.undeclared.insert(operator, Undeclared::Carry);
        self
    }

    /// Sets a description of the job's computation, in the embedder's own format. Every manifest stores it; at most 8
    /// MiB.
    #[must_use]
    pub fn program(mut self, bytes: impl Into<bytes::Bytes>) -> Self {
        self.spec.program = Program::new(bytes);
        self
    }

    /// Sets which checkpoint to restore. Default: the newest.
    #[must_use]
    pub fn restore_from(mut self, from: RestoreFrom) -> Self {
        self.spec.from = from;
        self
    }

    /// Returns the newest manifest and the checkpoint that [`JobBuilder::open`] would restore; `None` if the job has no
    /// manifest. Claims and writes nothing, so a running attempt continues.
    ///
    /// # Errors
    /// `NotFound` if the chosen checkpoint is not live; `Corrupt`, `Version`, `Denied` or `Unavailable` from the store.
    pub async fn peek(&self) -> Result<Option<Peeked>> {
        claim::peek(&self.spec.store, self.spec.from).await
    }

    /// Returns the checkpoint that [`JobBuilder::open`] would restore, with all subtask manifests and opaques inline;
    /// `None` if it would start empty. Claims and writes nothing. If the newest checkpoint is dropped during the read,
    /// moves on to a newer one.
    ///
    /// # Errors
    /// `NotFound` if the chosen checkpoint is not live, or was dropped meanwhile; `Corrupt`, `Version`, `Denied` or
    /// `Unavailable` from the store.
    pub async fn peek_restored(&self) -> Result<Option<StoredManifest>> {
        let mut chain = ManifestLog::load(&self.spec.store).await?;
        if chain.resolve(&self.spec.store, self.spec.from).await?.is_none() {
            return Ok(None);
        }
        Reader::new(&self.spec.store, &mut chain, self.spec.from).resolved().await.map(Some)
    }

    /// Returns the checkpoint with all subtask manifests and opaques inline.
    ///
    /// # Errors
    /// `NotFound` if the checkpoint was dropped meanwhile; `Corrupt`, `Denied` or `Unavailable` from the store.
    pub async fn resolve(&self, stored: StoredManifest) -> Result<StoredManifest> {
        let manifest =
            under(&self.spec.store, stored.id.seq, restore::resolve(&self.spec.store, stored.manifest)).await?;
        Ok(StoredManifest { manifest, ..stored })
    }

    /// Checks settings and operators, without the store.
    ///
    /// # Errors
    /// `Config` if there is no operator, two share an id or a name, a name or the program is too long, an operator is
    /// both declared and dropped or carried, or a parallelism, goal or setting is out of range.
    pub fn check(&self) -> Result<()> {
        self.spec.check()
    }

    /// Claims the job and reads the checkpoint to restore. The claim fences every earlier attempt: a running one can no
    /// longer commit, and fails with `Fenced`.
    ///
    /// Next, take the [seats](Job::take_seats) and restore each. The job's background runs on the store's runtime from
    /// now on, until the job, its seats and its tasks are dropped.
    ///
    /// # Errors
    /// * `Config`: [`JobBuilder::check`] fails; the settings contradict those fixed for the job's life; a stored
    ///   operator with state is not declared, dropped or carried, or has another name; the store lacks
    ///   create-if-absent.
    /// * `NotFound`: the chosen checkpoint is not live.
    /// * `Fenced`: a newer attempt claimed the job meanwhile.
    /// * `Corrupt`, `Version`, `Denied`, `Unavailable`: from the store.
    ///
    /// `Config` and `NotFound` are found before the claim, so that a running attempt continues, unless the stored
    /// checkpoints change during the call.
    pub async fn open(self) -> Result<Job> {
        self.check()?;
        self.spec.store.probe().await?;
        let from = self.spec.from;
        let (mut claimed, carried) = self.spec.claim(from).await?;
        if let Some(stored) = claimed.restore.take() {
            let resolved = self.resolve(stored).await;
            claimed.restore = match resolved {
                Ok(resolved) => Some(resolved),
                Err(error) => return Err(claim::why_unreadable(&self.spec.store, claimed.attempt, error).await),
            };
        }
        let budget = self.spec.settings.memory_budget();
        let (store, restore) = (self.spec.store.clone(), self.spec.settings.restore_settings());
        let keep = Arc::new(Keep { owner: Owner::new(self.spec), handle: OnceLock::new() });
        let owner = &keep.owner;
        let worker = Local::new(&store, budget.clone(), restore, Arc::clone(&keep) as Anchor);
        join(owner, &worker);
        let mut seating = Seating::new();
        for (operator, subtask) in owner.spec().participants() {
            seating.give(operator, subtask, worker.session());
        }
        let job = owner.start(Opening { claimed, carried, payload: bytes::Bytes::new(), from }, &seating)?;
        let _first = keep.handle.set(job.owner.clone());
        let mut assignment = worker.assigned().await?;
        Ok(Job {
            seats: std::mem::take(&mut assignment.seats),
            local: Some(assignment.handle().clone()),
            budget,
            ..job
        })
    }

    /// Returns the owner of a job that runs in several processes. Nothing is claimed before [`Owner::open`].
    ///
    /// # Errors
    /// `Config` if [`JobBuilder::check`] fails.
    pub fn owner(self) -> Result<Owner> {
        self.check()?;
        Ok(Owner::new(self.spec))
    }
}

/// The owner of a job in one process, kept while the job or one of its tasks is.
struct Keep {
    owner: Owner,
    handle: OnceLock<OwnerHandle>,
}

/// Joins an owner and a worker in memory.
fn join(owner: &Owner, worker: &Local) {
    let sessions = Arc::downgrade(owner.sessions());
    let (to_owner, of_broken, session) = (sessions.clone(), sessions, worker.session());
    let deliver = move |message| {
        if let Some(sessions) = to_owner.upgrade() {
            sessions.deliver(message);
        }
    };
    let to_worker = worker.connect(deliver, move || of_broken.upgrade().iter().for_each(|it| it.lost(session)));
    owner.sessions().join(session, to_worker);
}
