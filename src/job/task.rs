//! One subtask: a seat to be restored, then a task that processes records and seals at barriers.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use super::operator_state::OperatorState;
use super::{Link, Strategy};
use crate::backend::{KeyedState, Outcome, StateBackend, TableEntry, Tables};
use crate::checkpoint::claim;
use crate::checkpoint::pipeline::{Arrival, SharedChain, lock};
use crate::checkpoint::restore::SegmentReader;
use crate::error::{Error, Result};
use crate::id::{Attempt, Epoch, OperatorId, Part, Subtask};
use crate::key_group::{KeyGroupSet, Partitioner};
use crate::manifest::Opaque;
use crate::manifest::rescale::Share;
use crate::memory::MemoryBudget;
use crate::metrics;
use crate::runtime::{Runtime, SharedRuntime};
use crate::segment::{Cut, RowSource};
use crate::store::Store;
use crate::time::Timestamp;

/// A subtask's place in the job, before its state is there. It can be sent to the thread that will process it.
#[derive(Debug)]
pub struct Seat {
    pub(super) operator: OperatorId,
    pub(super) attempt: Attempt,
    pub(super) share: Share,
    /// The opaques that carry operator state; `share` has the others.
    pub(super) operator_state: Vec<Opaque>,
    pub(super) tables: Tables,
    pub(super) partitioner: Partitioner,
    pub(super) max_parallelism: u16,
    pub(super) store: Store,
    pub(super) runtime: SharedRuntime,
    pub(super) link: Link,
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
        self.operator
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
    /// `Config` if another subtask of the operator declared a table differently; `Corrupt` naming the object, or from the rows or the operator state; `Fenced` if an object is gone because a newer
    /// attempt went on; `Version`; `Unavailable`; `Limit` if the rows do not fit the memory budget.
    ///
    /// # Cost
    /// Beside the state about [`JobSettings::restore_bytes`] of memory. Per segment a request for its index and one per
    /// part that it has rows of.
    ///
    /// [`JobSettings::restore_bytes`]: super::JobSettings::restore_bytes
    pub async fn restore<B: StateBackend>(
        self,
        make: impl FnOnce(KeyGroupSet, Partitioner, MemoryBudget) -> B,
    ) -> Result<Task<B>> {
        let (store, attempt) = (self.store.clone(), self.attempt);
        match self.restore_parts(make).await {
            Ok(task) => Ok(task),
            Err(error) => Err(claim::why_unreadable(&store, attempt, error).await),
        }
    }

    async fn restore_parts<B: StateBackend>(
        self,
        make: impl FnOnce(KeyGroupSet, Partitioner, MemoryBudget) -> B,
    ) -> Result<Task<B>> {
        let reader = Arc::new(SegmentReader::open(&self.store, &self.share.segments).await?);
        let mut parts = reader.parts(&self.share.groups, self.restore_bytes / 2).into_iter();
        let runtime = Arc::clone(&self.runtime);
        let fetch = |part: Option<KeyGroupSet>| part.map(|part| fetch(&*runtime, Arc::clone(&reader), part));
        let mut next = fetch(parts.next());
        let (merged_otherwise, watermark) = (self.tables.merged_otherwise(), self.share.watermark);
        let mut task = self.start(make)?;
        while let Some(part) = next {
            let (groups, rows) = part.await?;
            next = fetch(parts.next());
            task.state.backend_mut().load(&*rows, &groups)?;
        }
        if merged_otherwise {
            lock(&task.chain).rebase();
            task.state.begin_lives();
            task.begin(watermark);
        }
        task.link.restored(task.runtime.now());
        Ok(task)
    }

    /// Returns the task with none of its groups loaded.
    fn start<B: StateBackend>(self, make: impl FnOnce(KeyGroupSet, Partitioner, MemoryBudget) -> B) -> Result<Task<B>> {
        let operator_state = OperatorState::restore(self.share.subtask, &self.operator_state)?;
        let tables = Standing::of(&self.tables);
        self.link.shared.schemas.agree(self.operator, self.share.subtask, &tables.entries)?;
        let backend = make(KeyGroupSet::empty(), self.partitioner, self.budget.clone());
        let loads_as_before = self.tables.merged_otherwise();
        let make_state = if loads_as_before { KeyedState::loading } else { KeyedState::new };
        let state = make_state(backend, self.partitioner, self.max_parallelism, self.tables).with_budget(self.budget);
        let watermark = self.share.watermark;
        let mut task = Task {
            operator: self.operator,
            subtask: self.share.subtask,
            owned: self.share.groups,
            state,
            operator_state,
            runtime: self.runtime,
            link: self.link,
            chain: self.chain,
            settled: self.settled,
            sealed: None,
            strategy: self.strategy,
            tables,
        };
        if !loads_as_before {
            task.begin(watermark);
        }
        Ok(task)
    }
}

/// Begins to read the rows of `part`.
fn fetch(
    runtime: &dyn Runtime,
    reader: Arc<SegmentReader>,
    part: KeyGroupSet,
) -> impl Future<Output = Result<(KeyGroupSet, Arc<dyn RowSource>)>> + use<> {
    let (sender, receiver) = oneshot::channel();
    runtime.spawn(Box::pin(async move {
        let rows = reader.fetch(&part).await;
        // The receiver is gone if the restore was given up.
        let _given_up = sender.send(rows.map(|rows| (part, rows)));
    }));
    async { receiver.await.map_err(|_| Error::stopped("reading was dropped"))? }
}

/// A running subtask: the single owner of its backend.
#[derive(Debug)]
pub struct Task<B> {
    operator: OperatorId,
    subtask: Subtask,
    owned: KeyGroupSet,
    state: KeyedState<B>,
    operator_state: OperatorState,
    runtime: SharedRuntime,
    link: Link,
    chain: SharedChain,
    settled: UnboundedReceiver<(Epoch, Outcome)>,
    sealed: Option<Epoch>,
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
    /// Moves times on to now. In each group the later of this and its record counts: nothing revives what had expired for its
    /// old owner.
    fn begin(&mut self, watermark: Timestamp) {
        self.state.advance(watermark, self.runtime.now());
    }

    /// Returns the subtask.
    #[must_use]
    pub fn subtask(&self) -> Subtask {
        self.subtask
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

    /// Ends `epoch` here: freezes its state and lets the background take it from there. `opaques` travel in the
    /// same checkpoint, as operator state does: source positions, in-flight data, prepared sinks.
    ///
    /// # Errors
    /// What the job failed with (`Fenced`, say), if it has; `Config` if a table was declared meanwhile that another subtask
    /// of the operator declared differently; `Usage` if the epoch does not follow the last, or an opaque of role `Operator`
    /// has a name that starts with `operator-state:`.
    ///
    /// # Cost
    /// Independent of the keyed state's size (see [`StateBackend::seal`]); a copy of the operator states that changed.
    pub fn barrier(&mut self, epoch: Epoch, watermark: Timestamp, opaques: Vec<Opaque>) -> Result<()> {
        self.link.shared.check()?;
        self.settle()?;
        self.agree_on_tables()?;
        let opaques = self.operator_state.add_to(opaques)?;
        let cut = Cut { epoch, part: Part(0), event_time: watermark, processing_time: self.runtime.now() };
        let bases = match self.strategy {
            Strategy::Full => self.owned.clone(),
            Strategy::Incremental => lock(&self.chain).take_due(),
        };
        let mut sealed = self.state.backend_mut().seal(cut, &bases)?;
        metrics::dirty_rows(sealed.dirty_rows);
        let (heat, statistics) = (std::mem::take(&mut sealed.heat), std::mem::take(&mut sealed.statistics));
        lock(&self.chain).push(sealed);
        self.sealed = Some(epoch);
        let tables = Arc::clone(&self.tables.entries);
        let times = self.state.backend().times();
        let arrival = Arrival { owned: self.owned.clone(), watermark, times, opaques, tables, heat, statistics };
        self.link.arrive(epoch, (self.operator, self.subtask), arrival)
    }

    /// Takes note of tables that were declared since the last barrier.
    fn agree_on_tables(&mut self) -> Result<()> {
        let tables = self.state.tables();
        if tables.changes() == self.tables.changes {
            return Ok(());
        }
        let new = Standing::of(tables);
        self.link.shared.schemas.agree(self.operator, self.subtask, &new.entries)?;
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
            if self.sealed >= Some(epoch) {
                self.state.backend_mut().settle(epoch, outcome)?;
            }
        }
        Ok(())
    }
}
