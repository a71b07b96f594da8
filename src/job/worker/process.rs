//! A worker as engines see it: this process's part of a job, over many attempts and links.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::background::{Event, Process, WorkersEnd};
use super::prepare::Bench;
use super::seat::Seat;
use super::shared::{Anchor, AttemptHandle};
use crate::control::interval::Observation;
use crate::error::{Error, Result};
use crate::id::{Attempt, Barrier, Epoch, JobId, ManifestId, SessionId};
use crate::job::WRITER;
use crate::job::link::{Inbox, Outbox, Outlet, link};
use crate::job::settings::{RestoreMode, RestoreSettings};
use crate::job::wire::{Assign, Envelope, Hello, ToOwner, ToWorker, encode};
use crate::key_group::Partitioner;
use crate::manifest::Program;
use crate::memory::MemoryBudget;
use crate::place::Store;
use crate::runtime::SharedRuntime;

/// Settings of a worker: what the owner does not decide.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WorkerSettings {
    /// The host's name, for people. Default: empty.
    pub host: String,
    /// What fails together with the worker: a rack or a zone. Default: empty.
    pub domain: String,
    /// The program that the worker runs. The owner refuses workers whose program is not its own. Default: empty.
    pub program: Bytes,
    /// Bytes of memory for state and pending uploads of all subtasks in this process. Beyond it, writes return `Limit`.
    /// Default `u64::MAX`: unlimited.
    pub memory_bytes: u64,
    /// As [`JobSettings::budget`](crate::JobSettings::budget). Default `None`.
    pub budget: Option<MemoryBudget>,
    /// As [`JobSettings::restore_bytes`](crate::JobSettings::restore_bytes). Default 32 MiB.
    pub restore_bytes: u64,
    /// As [`JobSettings::restore`](crate::JobSettings::restore). Default `Auto`.
    pub restore: RestoreMode,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            host: String::new(),
            domain: String::new(),
            program: Bytes::new(),
            memory_bytes: u64::MAX,
            budget: None,
            restore_bytes: 32 << 20,
            restore: RestoreMode::default(),
        }
    }
}

/// A worker: one process of a job that runs on several. It holds the state of the subtasks whose seats an [`Owner`] gives
/// it, and uploads it.
///
/// Order of calls:
/// 1. [`connect`](Self::connect), and carry messages between the link and the owner, in order, until either side breaks
///    it. To reconnect, to this owner or another, call it again.
/// 2. Await [`assigned`](Self::assigned), again and again: each call returns the seats of the next attempt. The tasks of
///    the attempt before return `Stopped` by then: drop them.
/// 3. Restore the seats and process records. At a barrier from the owner's engine, call
///    [`Task::barrier`](super::Task::barrier).
///
/// Its background runs on the store's runtime until the worker, its links, seats and tasks are dropped.
///
/// [`Owner`]: crate::Owner
pub struct Worker {
    process: Process,
    assignments: UnboundedReceiver<Result<Assignment>>,
    budget: MemoryBudget,
    hello: Hello,
    runtime: SharedRuntime,
}

/// A worker's seats in one attempt.
#[derive(Debug)]
#[non_exhaustive]
pub struct Assignment {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: Attempt,
    /// The checkpoint that the attempt continues; `None` if it starts empty.
    pub restored: Option<ManifestId>,
    /// The attempt's first epoch.
    pub first_epoch: Epoch,
    /// How keys map to key groups.
    pub partitioner: Partitioner,
    /// Number of key groups.
    pub max_parallelism: u16,
    /// The engine's bytes, as passed to [`Owner::open`](crate::Owner::open).
    pub payload: Bytes,
    /// The seats, ordered by operator as declared, then by index. Restore every one, or drop it.
    pub seats: Vec<Seat>,
    handle: AttemptHandle,
}

impl Assignment {
    pub(super) fn new(job: JobId, assign: &Assign, handle: AttemptHandle, seats: Vec<Seat>) -> Self {
        Self {
            job,
            attempt: handle.shared.attempt(),
            restored: assign.restored,
            first_epoch: assign.first_epoch,
            partitioner: assign.partitioner,
            max_parallelism: assign.max_parallelism,
            payload: assign.payload.clone(),
            seats,
            handle,
        }
    }

    /// Announces a barrier that is on its way to this worker's tasks. Optional: saves the first task that it reaches a
    /// wake-up of the worker, and lets tasks refuse epochs that were never announced.
    ///
    /// # Errors
    /// `Usage` if the barrier is another attempt's; `Stopped` if the worker's background has stopped.
    pub fn expect(&self, barrier: Barrier) -> Result<()> {
        if barrier.attempt != self.attempt {
            let error = Error::usage("barrier belongs to another attempt").with("attempt", barrier.attempt);
            return Err(error.with("expected", self.attempt));
        }
        self.handle.expect(barrier.epoch)
    }

    pub(in crate::job) fn handle(&self) -> &AttemptHandle {
        &self.handle
    }
}

impl Worker {
    /// Returns a worker that is not connected.
    #[must_use]
    pub fn new(store: Store, settings: WorkerSettings) -> Self {
        let WorkerSettings { host, domain, program, memory_bytes, budget, restore_bytes, restore } = settings;
        let budget = budget.unwrap_or_else(|| MemoryBudget::new(memory_bytes));
        let hello = Hello { host, domain, writer: WRITER.to_owned(), program: Program::new(program).hash };
        let runtime = Arc::clone(store.runtime());
        let restore = RestoreSettings { mode: restore, bytes: restore_bytes };
        let bench = Bench { store, budget: budget.clone(), restore, shares_store: false };
        let (process, assignments) = Process::spawn(bench, None);
        Self { process, assignments, budget, hello, runtime }
    }

    /// Starts a session: returns the ends of a link to an owner. A session before it ends, and its attempt with it.
    #[must_use]
    pub fn connect(&self) -> (Inbox, Outbox) {
        let session = SessionId(self.runtime.random().to_le_bytes());
        let (sender, messages) = mpsc::unbounded_channel();
        let outlet: Outlet<Envelope<ToOwner>> = Arc::new(move |message| sender.send(encode(&message)).is_ok());
        let hello = ToOwner::Hello(self.hello.clone());
        outlet(Envelope { job: JobId::default(), attempt: Attempt(0), session, body: hello });
        self.process.connect(session, outlet);
        link(Arc::new(WorkersEnd { process: self.process.clone(), session }), messages)
    }

    /// Waits for the seats of the next attempt. Cancel-safe.
    ///
    /// # Errors
    /// The worker stays usable after each.
    /// * `Config`: the owner runs another program, or its store is not this worker's. The owner ends the link.
    /// * `Fenced`: a newer attempt took over meanwhile; another assignment may follow.
    /// * `Corrupt`, `Version`, `Denied`, `Unavailable`: from the store. The owner ends the attempt.
    pub async fn assigned(&mut self) -> Result<Assignment> {
        match self.assignments.recv().await {
            Some(assignment) => assignment,
            None => Err(Error::stopped("the worker's background ended: it panicked, or its runtime dropped it")),
        }
    }

    /// Reports an observation to the owner's controller of the interval: load, ideally once a second, pauses, and that
    /// the input is caught up. Does nothing while there is no attempt.
    ///
    /// # Errors
    /// `Usage` for any other observation: report it to the [`Job`](crate::Job) at the owner.
    pub fn observe(&self, observation: Observation) -> Result<()> {
        match observation {
            Observation::Load(_) | Observation::Paused(_) | Observation::CaughtUp => {
                let _ended = self.process.events.send(Event::Observed(observation));
                Ok(())
            }
            _ => Err(Error::usage("only the owner can observe this")),
        }
    }

    /// Returns the budget to which state and pending uploads are charged.
    #[must_use]
    pub fn budget(&self) -> &MemoryBudget {
        &self.budget
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("hello", &self.hello).finish_non_exhaustive()
    }
}

/// A worker in the owner's process, joined in memory.
pub(in crate::job) struct Local {
    process: Process,
    assignments: UnboundedReceiver<Result<Assignment>>,
    session: SessionId,
}

impl Local {
    /// * `anchor`: kept alive by the worker's seats and tasks.
    pub(in crate::job) fn new(store: &Store, budget: MemoryBudget, restore: RestoreSettings, anchor: Anchor) -> Self {
        let bench = Bench { store: store.clone(), budget, restore, shares_store: true };
        let session = SessionId(store.runtime().random().to_le_bytes());
        let (process, assignments) = Process::spawn(bench, Some(anchor));
        Self { process, assignments, session }
    }

    pub(in crate::job) fn session(&self) -> SessionId {
        self.session
    }

    /// Connects to an owner.
    ///
    /// * `to_owner`: takes the worker's messages.
    /// * `broken`: called when the worker's loop has ended.
    ///
    /// Returns where the owner's messages go.
    pub(in crate::job) fn connect(
        &self,
        to_owner: impl Fn(Envelope<ToOwner>) + Send + Sync + 'static,
        broken: impl Fn() + Send + Sync + 'static,
    ) -> Outlet<Envelope<ToWorker>> {
        let broken = OnDrop(Box::new(broken));
        let outlet: Outlet<Envelope<ToOwner>> = Arc::new(move |message| {
            let _held = &broken;
            to_owner(message);
            true
        });
        self.process.connect(self.session, outlet);
        self.process.outlet()
    }

    /// Waits for the seats.
    pub(in crate::job) async fn assigned(mut self) -> Result<Assignment> {
        match self.assignments.recv().await {
            Some(assignment) => assignment,
            None => Err(Error::stopped("the worker's background ended: it panicked, or its runtime dropped it")),
        }
    }
}

/// Calls a function when dropped.
struct OnDrop(Box<dyn Fn() + Send + Sync>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        (self.0)();
    }
}
