//! A seat: a subtask before its state is restored.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;

use super::shared::{Mail, Presence};
use super::sinks::{Ready, SeatSinks, Target};
use super::task::{AgreedTables, Task};
use crate::backend::{KeyedState, Outcome, StateBackend, Tables};
use crate::checkpoint::claim;
use crate::checkpoint::lazy::{LazyParts, LazyRestore};
use crate::checkpoint::load::Parts;
use crate::checkpoint::load_order::loads_of;
use crate::checkpoint::pipeline::{SharedChain, lock};
use crate::checkpoint::restore::SegmentReader;
use crate::checkpoint::restore_progress::RestoreProgress;
use crate::checkpoint::restore_tracker::{RestoreObserver, RestoreTracker};
use crate::checkpoint::uses::GroupUses;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Epoch, OperatorId, Subtask};
use crate::job::Strategy;
use crate::job::operator_state::OperatorState;
use crate::job::settings::{RestoreMode, RestoreSettings};
use crate::key_group::{KeyGroupSet, Partitioner};
use crate::manifest::Opaque;
use crate::manifest::rescale::Share;
use crate::memory::MemoryBudget;
use crate::place::Store;
use crate::runtime::SharedRuntime;
use crate::sink::{Sink, SinkSettings, SinkTarget, StagedTarget};
use crate::source::{Source, SourceReader, SourceSettings};
use crate::time::Timestamp;

/// A subtask before its state is restored. Send it to the thread that will process the subtask's records.
///
/// Declare its [`tables`](Self::tables), then [`restore`](Self::restore) it into a [`Task`]. Dropping it declines every
/// epoch that waits for it.
#[derive(Debug)]
pub struct Seat {
    pub(super) presence: Presence,
    pub(super) share: Share,
    /// The opaques that carry operator state; `share` has the others.
    pub(super) operator_state: Vec<Opaque>,
    pub(super) tables: Tables,
    pub(super) partitioner: Partitioner,
    pub(super) parallelism: u32,
    pub(super) max_parallelism: u16,
    pub(super) store: Store,
    pub(super) runtime: SharedRuntime,
    pub(super) chain: SharedChain,
    pub(super) settled: UnboundedReceiver<(Epoch, Outcome)>,
    pub(super) strategy: Strategy,
    pub(super) budget: MemoryBudget,
    pub(super) restore: RestoreSettings,
    pub(super) observer: Option<RestoreObserver>,
    pub(super) sinks: SeatSinks,
}

impl Seat {
    /// Returns its operator.
    #[must_use]
    pub fn operator(&self) -> OperatorId {
        self.presence.participant.0
    }

    /// Returns its index within the operator.
    #[must_use]
    pub fn subtask(&self) -> Subtask {
        self.share.subtask
    }

    /// Returns the number of subtasks of its operator.
    #[must_use]
    pub fn parallelism(&self) -> u32 {
        self.parallelism
    }

    /// Returns the key groups that it will own.
    #[must_use]
    pub fn groups(&self) -> &KeyGroupSet {
        &self.share.groups
    }

    /// Returns the restored watermark.
    #[must_use]
    pub fn watermark(&self) -> Timestamp {
        self.share.watermark
    }

    /// Returns its restored opaques: source positions, in-flight data, prepared output. Operator state is not among
    /// them; the task has it.
    #[must_use]
    pub fn opaques(&self) -> &[Opaque] {
        &self.share.opaques
    }

    /// Returns how keys map to key groups.
    #[must_use]
    pub fn partitioner(&self) -> Partitioner {
        self.partitioner
    }

    /// Returns its tables. Declare them before the restore, so that an incompatible one is refused early and rows are
    /// loaded under their declared rules. Subtasks of an operator may declare different tables, in any order, but must
    /// agree on each shared name.
    pub fn tables(&mut self) -> &mut Tables {
        &mut self.tables
    }

    /// Registers a sink, and returns where to hand in its output. [`restore`](Self::restore) takes over its slots: it fences older
    /// attempts, and publishes what the restored checkpoint has and the target has not. From then on output is published after the
    /// commit of its epoch, in the background: nothing has to be done at a barrier.
    ///
    /// A sink keeps its name and its operator over restarts, or its output waits for ever: a checkpoint with unpublished output of a
    /// sink that is not registered is refused. Its number of slots is the operator's parallelism, which may change.
    ///
    /// * `name`: 1 to 128 ASCII letters, digits, `_` or `-`; unique in the operator.
    ///
    /// # Errors
    /// `Config` if the name is malformed; `Usage` if the seat has a sink of this name; `Corrupt` or `Version` if what the checkpoint
    /// has of the sink cannot be read.
    pub fn add_sink(&mut self, name: &str, target: Arc<dyn SinkTarget>, settings: SinkSettings) -> Result<Sink> {
        self.add(name, Target::Transactional(target), settings)
    }

    /// As [`add_sink`](Self::add_sink), for large output: records are staged in the target after the barrier, and checkpoints list
    /// where. An epoch is open until its output is staged. A sink does not change from one kind to the other while a checkpoint has
    /// unpublished output of it.
    ///
    /// # Errors
    /// As [`add_sink`](Self::add_sink).
    pub fn add_staged_sink(
        &mut self,
        name: &str,
        target: Arc<dyn StagedTarget>,
        settings: SinkSettings,
    ) -> Result<Sink> {
        self.add(name, Target::Staged(target), settings)
    }

    fn add(&mut self, name: &str, target: Target, settings: SinkSettings) -> Result<Sink> {
        if let Some(with) = self.store.lost_with().filter(|_| self.share.subtask == Subtask(0) && !target.is_local()) {
            tracing::warn!(
                sink = name,
                "output leaves this machine, but the checkpoints are lost with {with}: a job without them cannot know what it published"
            );
        }
        self.sinks.add(name, self.share.subtask, target, settings)
    }

    /// Opens the splits of `source` that this subtask owns, where the restored checkpoint has them. At each barrier, hand in
    /// [`SourceReader::opaque`].
    ///
    /// * `name`: names the positions in a checkpoint; unique in the operator, and the same over restarts.
    ///
    /// # Errors
    /// As [`SourceReader::open`].
    pub async fn open_source<S: Source>(
        &self,
        name: &str,
        source: S,
        settings: SourceSettings,
    ) -> Result<SourceReader<S>> {
        let place = (self.share.subtask, self.parallelism);
        SourceReader::open(name, source, settings, place, &self.share.opaques).await
    }

    /// Calls `observer` as the progress of [`restore`](Self::restore) changes. Replaces an earlier observer.
    ///
    /// The calls of a restore come one at a time, in order:
    /// 1. once its size is known, with nothing loaded;
    /// 2. after each part of about 2 MiB of stored rows (eager: half of [`JobSettings::restore_bytes`]), and after each group
    ///    that somebody waits for; changes during a call are reported together after it;
    /// 3. once at its end, however it ends: [`RestoreProgress::has_ended`] is true then, and only then. If there is nothing
    ///    to restore, this is the only call.
    ///
    /// An eager restore calls on the thread that restores. A lazy one calls on threads of the runtime, except for its first
    /// call, and for a last one that is due because the task, or its last absent groups, were dropped. A call should return
    /// soon: the thread loads no groups meanwhile. An observer that panics is not called again.
    ///
    /// A job has many seats: keep the last progress of each, and add them up.
    ///
    /// ```
    /// # use alluvium::{RestoreProgress, Seat};
    /// # use std::sync::{Arc, Mutex};
    /// fn show(seats: &mut [Seat]) {
    ///     let newest = Arc::new(Mutex::new(vec![RestoreProgress::default(); seats.len()]));
    ///     for (at, seat) in seats.iter_mut().enumerate() {
    ///         let newest = Arc::clone(&newest);
    ///         seat.on_restore_progress(move |progress| {
    ///             let mut newest = newest.lock().unwrap();
    ///             newest[at] = progress;
    ///             let all: RestoreProgress = newest.iter().copied().sum();
    ///             println!("{} of {} key groups are loaded", all.loaded_groups, all.groups);
    ///         });
    ///     }
    /// }
    /// ```
    ///
    /// [`JobSettings::restore_bytes`]: crate::job::JobSettings::restore_bytes
    pub fn on_restore_progress(&mut self, observer: impl Fn(RestoreProgress) + Send + Sync + 'static) {
        self.observer = Some(RestoreObserver::new(observer));
    }

    /// Restores the subtask's state into the empty backend that `make` returns.
    ///
    /// *Lazily*: returns once the indexes of the segments are read, with all key groups absent. A group is loaded when it is
    /// touched, and in the background in the order of their recorded use, off the task's thread. A touch waits for that
    /// group alone; [`Task::ready`] waits without a thread. Checkpoints list the segments of absent groups again.
    ///
    /// *Eagerly*: reads, verifies and loads all rows, part by part: the next part is read while one is loaded. Loading is
    /// CPU-bound: await it on the thread that will process the records.
    ///
    /// [`JobSettings::restore`] says which.
    ///
    /// # Errors
    /// The error returns the seat, which can be restored again: at once, later, or with another backend.
    /// * `Config`: another subtask of the operator declared a table differently; the target of a sink has other output than the
    ///   restored checkpoint knows, or the checkpoint has output of a sink that is not registered.
    /// * `NotFound`, `Denied`: from the target of a sink.
    /// * `Corrupt`: an object, the rows or the operator state are damaged; names the object. Lazily restored, damage of a
    ///   group's rows is an error of each access to that group.
    /// * `Fenced`: an object is gone because a newer attempt took over, or that attempt has fenced a sink.
    /// * `Limit`: the rows exceed the memory budget.
    /// * `Version`, `Unavailable`: from the store.
    ///
    /// # Cost
    /// About [`JobSettings::restore_bytes`] of memory beside the state. Per segment, one request for the index and at
    /// least one per part that has rows of it.
    ///
    /// [`JobSettings::restore`]: crate::job::JobSettings::restore
    /// [`JobSettings::restore_bytes`]: crate::job::JobSettings::restore_bytes
    pub async fn restore<B: StateBackend>(
        self,
        make: impl FnOnce(KeyGroupSet, Partitioner, MemoryBudget) -> B,
    ) -> Result<Task<B>, RestoreError> {
        let (runtime, observer) = (Arc::clone(&self.runtime), self.observer.clone());
        let tracker = Arc::new(RestoreTracker::start(self.presence.participant, runtime, observer));
        match self.load(make, &tracker).await {
            Ok(loaded) => Ok(self.into_task(loaded, tracker)),
            Err(error) => {
                let error = claim::why_unreadable(&self.store, self.presence.attempt.shared.attempt(), error).await;
                tracker.fail(error.kind());
                tracker.report();
                Err(RestoreError(Box::new((self, error))))
            }
        }
    }

    /// Loads state into a new backend. The seat keeps everything that a retry needs.
    async fn load<B: StateBackend>(
        &self,
        make: impl FnOnce(KeyGroupSet, Partitioner, MemoryBudget) -> B,
        tracker: &Arc<RestoreTracker>,
    ) -> Result<Loaded<B>> {
        let reader = Arc::new(SegmentReader::open(&self.store, &self.share.segments).await?);
        lock(&self.chain).measure(&reader.live_bytes());
        let operator_state = OperatorState::restore(self.share.subtask, &self.operator_state)?;
        let sinks = self.sinks.take_over(&self.presence, &self.runtime).await?;
        let tables = AgreedTables::new(&self.tables);
        let (operator, subtask) = self.presence.participant;
        self.presence.attempt.shared.schemas.agree(operator, subtask, &tables.entries)?;
        let under_stored_rules = self.tables.must_load_under_stored_rules();
        let mut state = self.empty_state(make, under_stored_rules);
        if !under_stored_rules {
            self.begin(&mut state);
        }
        // Rows under their stored rules must not be loaded again from where they lie.
        let is_lazy = !under_stored_rules && self.is_lazy(&mut state);
        let waits = is_lazy && !self.share.segments.is_empty();
        if !waits {
            self.load_all(&mut state, Arc::clone(&reader), tracker).await?;
        }
        if under_stored_rules {
            lock(&self.chain).rebase();
            state.apply_declared_rules();
            self.begin(&mut state);
        }
        let absent = if waits { self.share.groups.clone() } else { KeyGroupSet::empty() };
        let lazy = is_lazy.then(|| self.start_lazy(&mut state, reader, &absent, tracker)).transpose()?;
        Ok(Loaded { state, operator_state, tables, lazy, sinks })
    }

    /// Loads all groups.
    async fn load_all<B: StateBackend>(
        &self,
        state: &mut KeyedState<B>,
        reader: Arc<SegmentReader>,
        tracker: &RestoreTracker,
    ) -> Result<()> {
        let has_rows = !self.share.segments.is_empty();
        let groups = if has_rows { self.share.groups.clone() } else { KeyGroupSet::empty() };
        tracker.begin(loads_of(&groups, reader.sizes(), &self.uses()));
        let (runtime, bytes) = (Arc::clone(&self.runtime), self.restore.bytes / 2);
        Parts::read(runtime, reader, &self.share.groups, bytes).load_into(state.backend_mut(), tracker).await
    }

    /// Returns whether groups may be absent.
    fn is_lazy<B: StateBackend>(&self, state: &mut KeyedState<B>) -> bool {
        match self.restore.mode {
            RestoreMode::Eager => false,
            RestoreMode::Lazy => true,
            RestoreMode::Auto => self.runtime.can_block() && state.backend_mut().group_loader(&[]).is_some(),
        }
    }

    /// Makes `absent` groups known to the state, and begins to load them.
    fn start_lazy<B: StateBackend>(
        &self,
        state: &mut KeyedState<B>,
        reader: Arc<SegmentReader>,
        absent: &KeyGroupSet,
        tracker: &Arc<RestoreTracker>,
    ) -> Result<Arc<LazyRestore>> {
        let tables: Vec<_> = self.tables.schemas().iter().map(|table| table.id).collect();
        let lazy = Arc::new(LazyRestore::start(LazyParts {
            store: self.store.clone(),
            attempt: self.presence.attempt.shared.attempt(),
            chain: Arc::clone(&self.chain),
            reader,
            loader: state.backend_mut().group_loader(&tables),
            groups: absent.clone(),
            uses: self.uses(),
            budget: self.budget.clone(),
            part_bytes: self.restore.bytes / 2,
            tracker: Arc::clone(tracker),
        }));
        state.backend_mut().set_source(Arc::<LazyRestore>::clone(&lazy));
        state.backend_mut().add_absent(absent, self.tables.group_times())?;
        lock(&self.chain).set_absent(absent.clone());
        Ok(lazy)
    }

    /// Returns how much the groups were used, as recorded.
    fn uses(&self) -> GroupUses {
        GroupUses::restored(&self.share.groups, &self.share.heat)
    }

    /// Returns the state with none of its groups loaded.
    fn empty_state<B: StateBackend>(
        &self,
        make: impl FnOnce(KeyGroupSet, Partitioner, MemoryBudget) -> B,
        under_stored_rules: bool,
    ) -> KeyedState<B> {
        let backend = make(KeyGroupSet::empty(), self.partitioner, self.budget.clone());
        let make_state = if under_stored_rules { KeyedState::under_stored_rules } else { KeyedState::new };
        let state = make_state(backend, self.partitioner, self.max_parallelism, self.tables.clone());
        state.with_budget(self.budget.clone())
    }

    /// Advances the state's times to the watermark and to now. A group keeps a later recorded time, so that no row that
    /// had expired for the group's former owner comes back.
    fn begin<B: StateBackend>(&self, state: &mut KeyedState<B>) {
        state.advance(self.share.watermark, self.runtime.now());
    }

    fn into_task<B>(
        self,
        Loaded { state, operator_state, tables, lazy, sinks }: Loaded<B>,
        tracker: Arc<RestoreTracker>,
    ) -> Task<B> {
        // An attempt that has ended counts no restores.
        let _ended = self.presence.attempt.post(Mail::Restored(self.presence.participant));
        let uses = self.uses();
        let sinks = self.sinks.into_task(sinks, &self.runtime);
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
            uses,
            tracker,
            lazy,
            sinks,
        }
    }
}

/// Restored state, from which the seat makes its task.
struct Loaded<B> {
    state: KeyedState<B>,
    operator_state: OperatorState,
    tables: AgreedTables,
    /// `None` if no group may be absent.
    lazy: Option<Arc<LazyRestore>>,
    sinks: Vec<Ready>,
}

/// A failed restore: the error, and the seat, which can be restored again.
pub struct RestoreError(Box<(Seat, Error)>);

impl RestoreError {
    /// Returns the error's kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.1.kind()
    }

    /// Returns the error.
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
