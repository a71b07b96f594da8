//! One subtask: a seat to be restored, then a task that processes records and seals at barriers.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;

use super::Strategy;
use super::operator_state::OperatorState;
use super::shared::{Mail, Presence};
use crate::backend::{KeyedState, Outcome, StateBackend, TableEntry, Tables};
use crate::canary::{self, Canary};
use crate::checkpoint::claim;
use crate::checkpoint::load::Parts;
use crate::checkpoint::pipeline::{Arrival, SharedChain, lock};
use crate::checkpoint::restore::SegmentReader;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Attempt, Barrier, Epoch, OperatorId, Part, Subtask};
use crate::key_group::{KeyGroupSet, Partitioner};
use crate::manifest::rescale::Share;
use crate::manifest::{Opaque, check_handed_in};
use crate::memory::MemoryBudget;
use crate::metrics;
use crate::row::Cut;
use crate::runtime::SharedRuntime;
use crate::store::Store;
use crate::time::Timestamp;

/// A subtask's place in the job, before its state is there. It can be sent to the thread that will process it.
#[derive(Debug)]
pub struct Seat {
    pub(super) presence: Presence,
    pub(super) attempt: Attempt,
    pub(super) share: Share,
    /// The opaques that carry operator state; `share` has the others.
    pub(super) operator_state: Vec<Opaque>,
    pub(super) tables: Tables,
    pub(super) partitioner: Partitioner,
    pub(super) max_parallelism: u16,
    pub(super) store: Store,
    pub(super) runtime: SharedRuntime,
    pub(super) chain: SharedChain,
    pub(super) settled: UnboundedReceiver<(Epoch, Outcome)>,
    pub(super) strategy: Strategy,
    pub(super) budget: MemoryBudget,
    pub(super) restore_bytes: u64,
}

impl Seat {
    /// Returns the operator.
    #[must_use]
    pub fn operator(&self) -> OperatorId {
        self.presence.participant.0
    }

    /// Returns the subtask.
    #[must_use]
    pub fn subtask(&self) -> Subtask {
        self.share.subtask
    }

    /// Returns the key groups that it will own.
    #[must_use]
    pub fn groups(&self) -> &KeyGroupSet {
        &self.share.groups
    }

    /// Returns the watermark that it goes on from.
    #[must_use]
    pub fn watermark(&self) -> Timestamp {
        self.share.watermark
    }

    /// Returns its part of what travelled beside keyed state, without operator state, which its task will have.
    #[must_use]
    pub fn opaques(&self) -> &[Opaque] {
        &self.share.opaques
    }

    /// Returns how keys map to groups.
    #[must_use]
    pub fn partitioner(&self) -> Partitioner {
        self.partitioner
    }

    /// Returns its tables, to declare them before anything is loaded: one that cannot go on is refused here, and what
    /// rows mean is known when they are. Subtasks of an operator may declare different tables, in any order; what two of them
    /// declare under one name must be the same.
    pub fn tables(&mut self) -> &mut Tables {
        &mut self.tables
    }

    /// Reads its rows from the store, verified, and loads them into the empty backend that `make` returns, part by part:
    /// the next part is read while one is loaded. Loading is CPU-bound: await it where records will be processed.
    ///
    /// # Errors
    /// The seat comes back with each error and can be restored again: at once, later, or with another backend. `Config` if
    /// another subtask of the operator declared a table differently; `Corrupt` naming the object, or from the rows or the
    /// operator state; `Fenced` if an object is gone because a newer attempt took over; `Version`; `Unavailable`; `Limit` if
    /// the rows do not fit the memory budget.
    ///
    /// # Cost
    /// Beside the state about [`JobSettings::restore_bytes`] of memory. Per segment a request for its index and one per
    /// part that it has rows of.
    ///
    /// [`JobSettings::restore_bytes`]: super::JobSettings::restore_bytes
    pub async fn restore<B: StateBackend>(
        self,
        make: impl FnOnce(KeyGroupSet, Partitioner, MemoryBudget) -> B,
    ) -> Result<Task<B>, RestoreError> {
        match self.load(make).await {
            Ok(loaded) => Ok(self.into_task(loaded)),
            Err(error) => {
                let error = claim::why_unreadable(&self.store, self.attempt, error).await;
                Err(RestoreError(Box::new((self, error))))
            }
        }
    }

    /// Loads state into a new backend. The seat keeps all that another try needs.
    async fn load<B: StateBackend>(
        &self,
        make: impl FnOnce(KeyGroupSet, Partitioner, MemoryBudget) -> B,
    ) -> Result<Loaded<B>> {
        let reader = SegmentReader::open(&self.store, &self.share.segments).await?;
        let runtime = Arc::clone(&self.runtime);
        let mut parts = Parts::read(runtime, reader, &self.share.groups, self.restore_bytes / 2);
        let operator_state = OperatorState::restore(self.share.subtask, &self.operator_state)?;
        let tables = Standing::of(&self.tables);
        let (operator, subtask) = self.presence.participant;
        self.presence.link.shared.schemas.agree(operator, subtask, &tables.entries)?;
        let loads_as_before = self.tables.merged_otherwise();
        let mut state = self.empty_state(make, loads_as_before);
        if !loads_as_before {
            self.begin(&mut state);
        }
        while let Some(part) = parts.next().await? {
            part.load_into(state.backend_mut())?;
        }
        if loads_as_before {
            lock(&self.chain).rebase();
            state.begin_lives();
            self.begin(&mut state);
        }
        Ok(Loaded { state, operator_state, tables })
    }

    /// Returns the state with none of its groups loaded.
    fn empty_state<B: StateBackend>(
        &self,
        make: impl FnOnce(KeyGroupSet, Partitioner, MemoryBudget) -> B,
        loads_as_before: bool,
    ) -> KeyedState<B> {
        let backend = make(KeyGroupSet::empty(), self.partitioner, self.budget.clone());
        let make_state = if loads_as_before { KeyedState::loading } else { KeyedState::new };
        let state = make_state(backend, self.partitioner, self.max_parallelism, self.tables.clone());
        state.with_budget(self.budget.clone())
    }

    /// Moves times on to now. In each group the later of this and its record counts: nothing revives what had expired for
    /// its old owner.
    fn begin<B: StateBackend>(&self, state: &mut KeyedState<B>) {
        state.advance(self.share.watermark, self.runtime.now());
    }

    fn into_task<B>(self, Loaded { state, operator_state, tables }: Loaded<B>) -> Task<B> {
        self.presence.link.restored(self.runtime.monotonic());
        Task {
            presence: self.presence,
            owned: self.share.groups,
            state,
            operator_state,
            runtime: self.runtime,
            chain: self.chain,
            settled: self.settled,
            newest: None,
            sealed: BTreeSet::new(),
            committed: None,
            strategy: self.strategy,
            tables,
        }
    }
}

/// What a task is made of, beside its seat.
struct Loaded<B> {
    state: KeyedState<B>,
    operator_state: OperatorState,
    tables: Standing,
}

/// Why a seat could not be restored, and the seat: it is whole, and can be restored again.
pub struct RestoreError(Box<(Seat, Error)>);

impl RestoreError {
    /// Returns what the caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.1.kind()
    }

    /// Returns what happened.
    #[must_use]
    pub fn error(&self) -> &Error {
        &self.0.1
    }

    /// Returns the seat, to be restored again.
    #[must_use]
    pub fn into_seat(self) -> Seat {
        self.0.0
    }
}

impl From<RestoreError> for Error {
    fn from(failed: RestoreError) -> Self {
        failed.0.1
    }
}

impl fmt::Debug for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.error(), f)
    }
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.error(), f)
    }
}

impl std::error::Error for RestoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error().source()
    }
}

/// A running subtask: the single owner of its backend.
#[derive(Debug)]
pub struct Task<B> {
    presence: Presence,
    owned: KeyGroupSet,
    state: KeyedState<B>,
    operator_state: OperatorState,
    runtime: SharedRuntime,
    chain: SharedChain,
    settled: UnboundedReceiver<(Epoch, Outcome)>,
    /// The newest epoch that was sealed or declined here.
    newest: Option<Epoch>,
    /// Sealed epochs whose outcome is not known here.
    sealed: BTreeSet<Epoch>,
    committed: Option<Epoch>,
    strategy: Strategy,
    tables: Standing,
}

/// The tables as the job knows them.
#[derive(Debug)]
struct Standing {
    changes: usize,
    entries: Arc<[TableEntry]>,
}

impl Standing {
    fn of(tables: &Tables) -> Self {
        Self { changes: tables.changes(), entries: tables.entries() }
    }
}

impl<B: StateBackend> Task<B> {
    /// Returns the subtask.
    #[must_use]
    pub fn subtask(&self) -> Subtask {
        self.presence.participant.1
    }

    /// Returns the key groups that it owns.
    #[must_use]
    pub fn groups(&self) -> &KeyGroupSet {
        &self.owned
    }

    /// Returns its keyed state.
    #[must_use]
    pub fn state(&mut self) -> &mut KeyedState<B> {
        &mut self.state
    }

    /// Returns its operator state.
    #[must_use]
    pub fn operator_state(&mut self) -> &mut OperatorState {
        &mut self.operator_state
    }

    /// Returns keyed and operator state, for code that needs both at a time.
    #[must_use]
    pub fn states(&mut self) -> (&mut KeyedState<B>, &mut OperatorState) {
        (&mut self.state, &mut self.operator_state)
    }

    /// Ends an epoch here: freezes its state and lets the background take it from there. `opaques` travel in the
    /// same checkpoint, as operator state does: source positions, in-flight data, prepared sinks.
    ///
    /// Epochs rise. A task that passes over an epoch never ends it: the barrier subsumes it, and the job gives it up; its
    /// state is part of this epoch. A barrier of an epoch that was given up meanwhile is taken, and its state is part of the
    /// next checkpoint.
    ///
    /// Opaques are of this instant, and those of the newest epoch replace those before. Prepared output
    /// ([`OpaqueRole::SinkPrepared`]) adds up instead: each checkpoint lists it until the commit of one that lists it was
    /// announced before the barrier's trigger. So publish what [`Task::committed`] covers before the call.
    ///
    /// # Errors
    /// What the job failed with (`Fenced`, say), if it has; `Config` if a table was declared meanwhile that another subtask
    /// of the operator declared differently; `Usage` if this attempt never triggered the epoch, if it does not follow the
    /// last, or if an opaque cannot be part of a checkpoint: two of one role and name, a name that is too long, items out of
    /// order, a name that is kept for operator state. The task is then as before: call again, or [`Task::decline`] the
    /// epoch, which waits for this task until it takes too long.
    ///
    /// # Cost
    /// Independent of the keyed state's size (see [`StateBackend::seal`]); a copy of the operator states that changed.
    ///
    /// [`OpaqueRole::SinkPrepared`]: crate::manifest::OpaqueRole::SinkPrepared
    pub fn barrier(&mut self, barrier: Barrier, watermark: Timestamp, opaques: Vec<Opaque>) -> Result<()> {
        self.check_next(barrier)?;
        check_handed_in(&opaques)?;
        self.settle()?;
        self.agree_on_tables()?;
        let epoch = barrier.epoch;
        let opaques = self.operator_state.add_to(opaques)?;
        let cut = Cut { epoch, part: Part(0), event_time: watermark, processing_time: self.runtime.now() };
        let bases = match self.strategy {
            Strategy::Full => self.owned.clone(),
            Strategy::Incremental => lock(&self.chain).take_due(),
        };
        let sealed = self.state.backend_mut().seal(cut, &bases);
        let mut sealed = sealed.inspect_err(|_| lock(&self.chain).add_due(&bases))?;
        metrics::dirty_rows(sealed.dirty_rows);
        let (heat, statistics) = (std::mem::take(&mut sealed.heat), std::mem::take(&mut sealed.statistics));
        lock(&self.chain).push(sealed);
        self.newest = Some(epoch);
        self.sealed.insert(epoch);
        let tables = Arc::clone(&self.tables.entries);
        let times = if canary::on(Canary::ForgetTimes) { Vec::new() } else { self.state.backend().times() };
        let arrival = Arrival { owned: self.owned.clone(), watermark, times, opaques, tables, heat, statistics };
        self.presence.link.post(Mail::Arrived(epoch, self.presence.participant, arrival))
    }

    /// Refuses to end an epoch here, because its barriers could not be aligned, say, or a sink could not prepare: the job
    /// gives it up at once. Nothing is sealed; what was written since the last barrier is part of the next epoch.
    ///
    /// * `reason`: text, or an error, which [`Progress::last_decline`] then has as its source.
    ///
    /// # Errors
    /// As [`Task::barrier`].
    ///
    /// [`Progress::last_decline`]: super::Progress::last_decline
    pub fn decline(
        &mut self,
        barrier: Barrier,
        reason: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Result<()> {
        self.check_next(barrier)?;
        self.newest = Some(barrier.epoch);
        let (operator, subtask) = self.presence.participant;
        let error =
            Error::unavailable("subtask declined the epoch").with("operator", operator).with("subtask", subtask);
        self.presence.link.post(Mail::Declined(barrier.epoch, error.with_source(reason)))
    }

    fn check_next(&self, barrier: Barrier) -> Result<()> {
        self.presence.link.shared.check()?;
        self.presence.link.shared.check_triggered(barrier)?;
        match self.newest {
            Some(newest) if newest >= barrier.epoch => {
                let error = Error::usage("epoch does not follow the last that ended here");
                Err(error.with("epoch", barrier.epoch).with("last", newest))
            }
            _ => Ok(()),
        }
    }

    /// Returns the newest epoch whose commit this task has been told: every epoch up to it can be published.
    /// [`Task::settle`] and [`Task::barrier`] look for news.
    #[must_use]
    pub fn committed(&self) -> Option<Epoch> {
        self.committed
    }

    /// Takes note of tables that were declared since the last barrier.
    fn agree_on_tables(&mut self) -> Result<()> {
        let tables = self.state.tables();
        if tables.changes() == self.tables.changes {
            return Ok(());
        }
        let new = Standing::of(tables);
        let (operator, subtask) = self.presence.participant;
        self.presence.link.shared.schemas.agree(operator, subtask, &new.entries)?;
        self.tables = new;
        Ok(())
    }

    /// Tells the backend what became of earlier epochs. Barriers do so too.
    ///
    /// # Errors
    /// None from the crate's own backends.
    pub fn settle(&mut self) -> Result<()> {
        while let Ok((epoch, outcome)) = self.settled.try_recv() {
            // An epoch can be given up before its barrier came here.
            let sealed = self.sealed.remove(&epoch);
            if outcome == Outcome::Commit {
                self.committed = Some(epoch);
                self.sealed.retain(|other| *other > epoch);
            }
            if sealed {
                self.state.backend_mut().settle(epoch, outcome)?;
            }
        }
        Ok(())
    }
}
