//! Opening attempts: an owner as engines see it. It claims the job for one attempt after the other, for whatever workers
//! are connected.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::future::FutureExt as _;
use tokio::sync::{mpsc, watch};

use super::interval::Adaptive;
use super::link::{Inbox, Outbox};
use super::owner::{OwnedAttempt, OwnerHandle, Parts, Plan, Refused, Sessions, Shared, WorkerInfo};
use super::spec::JobSpec;
use super::wire::ToWorker;
use super::{Job, JobSettings};
use crate::checkpoint::claim::Claimed;
use crate::checkpoint::manifest_log::{RestoreFrom, StoredManifest};
use crate::checkpoint::operators::Carried;
use crate::checkpoint::savepoints::Savepoints;
use crate::control::coordinator::{Coordinator, Participant};
use crate::error::{Error, Result};
use crate::id::{Attempt, Epoch, JobId, OperatorId, SessionId, Subtask};
use crate::key_group::{Partitioner, check_parallelism};
use crate::memory::MemoryBudget;

/// Which worker each subtask of a job goes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seating(BTreeMap<Participant, SessionId>);

impl Seating {
    /// Returns a seating without any seats.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a seat to a worker, or moves it there.
    pub fn give(&mut self, operator: OperatorId, subtask: Subtask, worker: SessionId) {
        self.0.insert((operator, subtask), worker);
    }

    /// Returns the worker of a seat.
    #[must_use]
    pub fn worker(&self, operator: OperatorId, subtask: Subtask) -> Option<SessionId> {
        self.0.get(&(operator, subtask)).copied()
    }
}

/// The owner of a job that runs in several processes: it claims the job, hands out seats, coordinates, commits and
/// collects. It reads and holds no state.
///
/// Order of calls:
/// 1. [`JobBuilder::owner`](super::JobBuilder::owner), then [`connect`](Self::connect) for each worker that the engine's transport accepts. Carry
///    messages between the link and the worker, in order, until either side breaks the link.
/// 2. Once the [workers](Self::watch_workers) wanted are connected, [`open`](Self::open) an attempt. Its [`Job`]
///    triggers checkpoints; the engine sends the barriers to the workers itself.
/// 3. When a worker is lost, the attempt ends with `Stopped`, as [`Job::watch`] shows. Open the next with the workers that
///    remain: they keep their processes and links, and get new seats. To let a worker join, do the same.
///
/// When the owner is lost, the tasks of all workers return `Stopped`; another process opens the job, and the workers
/// connect to it.
#[derive(Debug)]
pub struct Owner {
    spec: JobSpec,
    sessions: Arc<Sessions>,
    /// Whether this owner has claimed the job: later attempts continue from the newest checkpoint.
    claimed: AtomicBool,
}

impl Owner {
    pub(super) fn new(spec: JobSpec) -> Self {
        let sessions = Sessions::new(spec.program.hash);
        Self { spec, sessions, claimed: AtomicBool::new(false) }
    }

    pub(super) fn spec(&self) -> &JobSpec {
        &self.spec
    }

    pub(super) fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// Returns the ends of a link to a worker. The worker is listed once its greeting has been received.
    #[must_use]
    pub fn connect(&self) -> (Inbox, Outbox) {
        self.sessions.connect()
    }

    /// Returns a watch on the connected workers, ordered by session.
    #[must_use]
    pub fn watch_workers(&self) -> watch::Receiver<Vec<WorkerInfo>> {
        self.sessions.watch()
    }

    /// Returns the messages that were not accepted: damaged, of an ended attempt or session, or answering for what the
    /// worker was not given.
    #[must_use]
    pub fn refused(&self) -> Refused {
        self.sessions.refused()
    }

    /// Changes an operator's number of subtasks, from the next attempt on.
    ///
    /// # Errors
    /// `Config` if it is out of range; `Usage` if the job has no such operator.
    pub fn set_parallelism(&mut self, operator: OperatorId, parallelism: u32) -> Result<()> {
        check_parallelism(parallelism, self.spec.settings.max_parallelism)?;
        let declared = self.spec.operators.iter_mut().find(|declared| declared.id == operator);
        let declared =
            declared.ok_or_else(|| Error::usage("the job has no such operator").with("operator", operator))?;
        declared.parallelism = parallelism;
        Ok(())
    }

    /// Returns a seating that gives each of `workers` an equal share of the seats of every operator, neighbours together.
    #[must_use]
    pub fn seat_evenly(&self, workers: &[WorkerInfo]) -> Seating {
        let mut seating = Seating::new();
        for operator in &self.spec.operators {
            for index in 0..operator.parallelism {
                let at = u64::from(index) * workers.len() as u64 / u64::from(operator.parallelism.max(1));
                let worker = usize::try_from(at).ok().and_then(|at| workers.get(at));
                worker.into_iter().for_each(|worker| seating.give(operator.id, Subtask(index), worker.session));
            }
        }
        seating
    }

    /// Claims the job for a new attempt and hands out its seats. The claim fences every earlier attempt, this owner's own
    /// among them: its workers' tasks return `Stopped`, also those of workers without a seat in the new one. Only the
    /// first attempt restores the checkpoint chosen by [`JobBuilder::restore_from`](super::JobBuilder::restore_from); later ones continue from the newest.
    ///
    /// * `payload`: bytes for every worker's [`Assignment`](crate::Assignment), such as the workers' addresses; at most
    ///   1 MiB.
    ///
    /// # Errors
    /// As [`JobBuilder::open`](super::JobBuilder::open). Also `Stopped` if a worker has left: open again with those that
    /// remain; `Usage` if the seating leaves a seat out or has one that the job lacks; `Limit` if the payload is too long.
    pub async fn open(&self, seating: &Seating, payload: impl Into<Bytes>) -> Result<Job> {
        const PAYLOAD_BYTES_MAX: usize = 1 << 20;
        let payload = payload.into();
        if payload.len() > PAYLOAD_BYTES_MAX {
            let error = Error::limit("payload is too long").with("bytes", payload.len());
            return Err(error.with("limit", PAYLOAD_BYTES_MAX));
        }
        self.check(seating)?;
        let from = self.from();
        if from.is_first {
            self.spec.store.probe().await?;
        }
        let (claimed, carried) = self.spec.claim(from.checkpoint).await?;
        self.start(Opening { claimed, carried, payload, from: from.checkpoint }, seating)
    }

    /// Returns which checkpoint the next attempt continues. The one that was chosen at first is restored once.
    fn from(&self) -> From {
        let is_first = !self.claimed.load(Ordering::Acquire);
        From { is_first, checkpoint: if is_first { self.spec.from } else { RestoreFrom::Newest } }
    }

    fn check(&self, seating: &Seating) -> Result<()> {
        let expected = self.spec.participants();
        let missing = expected.iter().find(|subtask| !seating.0.contains_key(subtask));
        let extra = seating.0.keys().find(|subtask| !expected.contains(subtask));
        let wrong = |what, (operator, subtask): &Participant| {
            Err(Error::usage(what).with("operator", operator).with("subtask", subtask))
        };
        if let Some(missing) = missing {
            return wrong("a subtask has no worker", missing);
        }
        if let Some(extra) = extra {
            return wrong("a seat is of no subtask of the job", extra);
        }
        let workers = self.sessions.watch();
        let connected: BTreeSet<_> = workers.borrow().iter().map(|worker| worker.session).collect();
        let absent = seating.0.values().find(|session| !connected.contains(session));
        match absent {
            Some(session) => Err(Error::stopped("worker is not connected").with("session", session)),
            None => Ok(()),
        }
    }

    /// Starts an attempt that has claimed the job.
    pub(super) fn start(&self, opening: Opening, seating: &Seating) -> Result<Job> {
        let Opening { claimed, carried, payload, from } = opening;
        self.claimed.store(true, Ordering::Release);
        let Claimed { job, attempt, restore: restored, partitioner, max_parallelism, lineage, committer } = claimed;
        let JobSpec { store, settings, operators, .. } = &self.spec;
        let first_epoch = restored.as_ref().map_or(Epoch(1), |restored| restored.manifest.epoch.next());
        let plan = Plan {
            settings,
            operators,
            restored: restored.as_ref(),
            first_epoch,
            lineage,
            partitioner,
            max_parallelism,
            payload,
        };
        let assignments = plan.assignments(&seating.0)?;
        let shared = Arc::new(self.shared((attempt, first_epoch), max_parallelism, (from, restored.as_ref()))?);
        let (events, receiver) = mpsc::unbounded_channel();
        self.sessions.begin(job, attempt, &events);
        let savepoints = committer.savepoints();
        let parallelism: BTreeMap<_, _> =
            operators.iter().map(|operator| (operator.id, operator.parallelism)).collect();
        let with_parallelism =
            |(&seat, &session): (&Participant, &SessionId)| Some((seat, (session, *parallelism.get(&seat.0)?)));
        let seats = seating.0.iter().filter_map(with_parallelism).collect();
        let listed = restored.iter().flat_map(|restored| &restored.manifest.objects);
        let owned = OwnedAttempt::new(Parts {
            events: receiver,
            sessions: Arc::clone(&self.sessions),
            shared: Arc::clone(&shared),
            store: store.clone(),
            job,
            attempt,
            max_parallelism,
            operators: operators.clone(),
            chain: settings.chain_policy(),
            carried,
            seats,
            listed: listed.map(|object| (object.id, object.clone())).collect(),
            committer,
        });
        let error = Error::stopped("the worker has no seat in the new attempt").with("attempt", attempt);
        self.sessions.stop_others((job, attempt), |session| assignments.contains_key(&session), &error);
        for (session, assign) in assignments {
            if !self.sessions.send((job, attempt), session, ToWorker::Assign(Box::new(assign))) {
                return Err(Error::stopped("a worker was lost").with("session", session));
            }
        }
        store.runtime().spawn(owned.run().boxed());
        let owner = OwnerHandle::new(shared, events);
        Ok(self.job((job, attempt), (partitioner, max_parallelism), owner, (restored, savepoints)))
    }

    /// Returns the state that the attempt's owner shares with the job's handle.
    fn shared(
        &self,
        (attempt, first_epoch): (Attempt, Epoch),
        max_parallelism: u16,
        (from, restored): (RestoreFrom, Option<&StoredManifest>),
    ) -> Result<Shared> {
        let JobSpec { store, settings, .. } = &self.spec;
        let JobSettings { checkpoints, .. } = settings;
        let now = store.runtime().monotonic();
        let participants = self.spec.participants();
        let coordinator = Coordinator::new(*checkpoints, participants.iter().copied(), first_epoch, now);
        let adaptive = Adaptive::from_settings(settings, max_parallelism, (from, restored), participants, now)?;
        Ok(Shared::new(attempt, coordinator, adaptive))
    }

    fn job(
        &self,
        (id, attempt): (JobId, Attempt),
        (partitioner, max_parallelism): (Partitioner, u16),
        owner: OwnerHandle,
        (restored, savepoints): (Option<StoredManifest>, Savepoints),
    ) -> Job {
        Job {
            id,
            attempt,
            partitioner,
            max_parallelism,
            store: self.spec.store.clone(),
            owner,
            local: None,
            seats: Vec::new(),
            restored,
            savepoints,
            budget: MemoryBudget::new(u64::MAX),
        }
    }
}

/// A claimed job, about to start.
pub(super) struct Opening {
    pub(super) claimed: Claimed,
    pub(super) carried: Vec<Carried>,
    pub(super) payload: Bytes,
    /// Which checkpoint was asked for.
    pub(super) from: RestoreFrom,
}

/// Where an attempt begins.
struct From {
    is_first: bool,
    checkpoint: RestoreFrom,
}
