//! Typed state over a backend: the current key, the tables, and handles to each kind of state.
//!
//! | kind | a key (and namespace) has | handle | declared by |
//! |---|---|---|---|
//! | value | a value | [`ValueState`] | [`KeyedState::value`] |
//! | list | values in the order they came | [`ListState`] | [`KeyedState::list`] |
//! | map | values by sub-key | [`MapState`], [`OrderedMapState`] | [`KeyedState::map`], [`KeyedState::ordered_map`] |
//! | reducing | what values were reduced to | [`ReducingState`] | [`KeyedState::reducing`] |
//! | aggregating | an accumulator of values | [`AggregatingState`] | [`KeyedState::aggregating`] |
//! | timers | times to be called back at | [`Timers`] | [`KeyedState::timers`] |
//!
//! Handles belong to no state: their methods take it, and act on its current key; or on that key in a namespace, if
//! they are given [`KeyedState::in_namespace`].
//!
//! Invariants:
//! - a record's key is hashed once, whatever number of tables it touches;
//! - a table's id is for life, and a new one's depends on its name alone: restored ids are kept, also of tables that
//!   are not declared again;
//! - a codec or a function of the user's that fails or panics changes nothing.
//!
//! Where the kinds differ from Flink's of the same names:
//! - namespaces are for every kind and the user's to choose; Flink keeps them for windows;
//! - lists, maps, reduced values and accumulators have names of functions and types in the checkpoint, and a table
//!   declared with others is refused before anything is loaded;
//! - no value is null: an encoding that says so ([`crate::codec::typed::Optional`]) stands for it;
//! - adding nothing to a list leaves it as it was, and a list of no elements is no row, as in Flink; reading it gives an
//!   empty `Vec`, not null;
//! - handles borrow the state while they visit, so what an iteration changes goes through [`MapState::retain`];
//! - rows expire in processing or event time; the life can be set, changed and taken away on stored state;
//! - visiting a map renews no entry's life, reading one by its key does; Flink renews what an iterator passes;
//! - expired rows are never returned, and removed without a setting: at reads, by backends, at encodes.

mod aggregating;
mod batch;
mod evolve;
mod list;
mod map;
mod reducing;
mod tables;
#[cfg(test)]
mod tests;
mod timers;
mod ttl;
mod value;

use crate::error::{Error, Result};
use crate::id::TableId;
use crate::key_group::{CurrentKey, KeyGroup, Partitioner};
use crate::manifest::TableSchema;
use crate::memory::MemoryBudget;
use crate::row::TableRules;
use crate::time::Timestamp;

use super::{RowRef, Scope, StateBackend};

pub use aggregating::{Aggregate, AggregatingState};
pub use list::ListState;
pub use map::{MapState, OrderedMapState};
pub use reducing::ReducingState;
pub use tables::{CheckpointTimes, TableOptions, Tables};
pub(crate) use tables::{TableEntry, Types};
pub use timers::{Fired, TimeDomain, TimerTable, Timers};
pub use ttl::{TtlConfig, TtlTime, TtlUpdate};
pub use value::ValueState;

/// The keyed state of one subtask: a backend, the key at hand, and the tables that were declared.
#[derive(Debug)]
pub struct KeyedState<B> {
    backend: B,
    partitioner: Partitioner,
    max_parallelism: u16,
    key: Key,
    tables: Tables,
    budget: MemoryBudget,
    buffer: Buffer,
}

/// The key at hand: the bytes and what was computed of them.
#[derive(Debug, Default)]
struct Key {
    bytes: Vec<u8>,
    hash: u64,
    group: KeyGroup,
    routing: Option<u64>,
    set: bool,
}

impl<B: StateBackend> KeyedState<B> {
    /// Returns the state over `backend`, which learns what the rows of the declared `tables` mean. Load it afterwards.
    ///
    /// * `partitioner`, `max_parallelism`: the job's, as its manifests store them.
    #[must_use]
    pub fn new(backend: B, partitioner: Partitioner, max_parallelism: u16, tables: Tables) -> Self {
        let (key, buffer) = (Key::default(), Buffer::default());
        let budget = MemoryBudget::new(u64::MAX);
        let mut state = Self { backend, partitioner, max_parallelism, key, tables, budget, buffer };
        state.define();
        state
    }

    /// As [`KeyedState::new`], for rows that are loaded by what had held for them in their checkpoint. Once they are,
    /// [`KeyedState::begin_lives`].
    pub(crate) fn loading(mut backend: B, partitioner: Partitioner, max_parallelism: u16, tables: Tables) -> Self {
        let (rules, times) = tables.rules_before();
        rules.into_iter().for_each(|(table, rules)| backend.define(table, rules));
        backend.resume(times);
        let (key, buffer) = (Key::default(), Buffer::default());
        let budget = MemoryBudget::new(u64::MAX);
        Self { backend, partitioner, max_parallelism, key, tables, budget, buffer }
    }

    /// Lets rows that were loaded live on as their tables were declared.
    pub(crate) fn begin_lives(&mut self) {
        self.define();
    }

    /// Charges `budget` for what handles hold in memory beside rows: the queues of timers that are loaded from now on.
    #[must_use]
    pub fn with_budget(mut self, budget: MemoryBudget) -> Self {
        self.budget = budget;
        self
    }

    /// Makes `key` the current key.
    ///
    /// # Errors
    /// `Usage` if the partitioner needs a routing hash.
    pub fn set_key(&mut self, key: &[u8]) -> Result<()> {
        self.check_unrouted()?;
        self.set_key_routed(key, 0);
        Ok(())
    }

    /// Makes `key` the current key, with what the engine routed it by: see [`Partitioner::locate`].
    pub fn set_key_routed(&mut self, key: &[u8], routing: u64) {
        let CurrentKey { hash, group, routing, .. } = self.locate_routed(key, routing);
        self.key.bytes.clear();
        self.key.bytes.extend_from_slice(key);
        (self.key.hash, self.key.group, self.key.routing, self.key.set) = (hash, group, routing, true);
    }

    /// Returns `key`, located, for the forms that take many keys; the current key stays.
    ///
    /// # Errors
    /// As [`KeyedState::set_key`].
    pub fn locate<'k>(&self, key: &'k [u8]) -> Result<CurrentKey<'k>> {
        self.check_unrouted()?;
        Ok(self.locate_routed(key, 0))
    }

    /// Returns `key`, located with what the engine routed it by.
    #[must_use]
    pub fn locate_routed<'k>(&self, key: &'k [u8], routing: u64) -> CurrentKey<'k> {
        self.partitioner.locate(key, routing, self.max_parallelism)
    }

    /// Returns this state in the namespace (a window, say) that `namespace` encodes: handles to tables with namespaces
    /// act there.
    pub fn in_namespace<'a>(&'a mut self, namespace: &'a [u8]) -> InNamespace<'a, B> {
        InNamespace { state: self, namespace }
    }

    /// Moves the times on by which rows expire. Times that go back are ignored.
    pub fn advance(&mut self, event_time: Timestamp, processing_time: Timestamp) {
        self.backend.advance(event_time, processing_time);
    }

    /// Removes all rows of `table` that the current key has, in all namespaces.
    ///
    /// # Errors
    /// As [`StateBackend::clear`]; `Usage` if no key is set.
    pub fn clear_key(&mut self, table: TableId) -> Result<()> {
        let key = self.key.located()?;
        self.backend.clear(table, Scope::Key(&key))
    }

    /// Removes all rows of `table` in the namespace, of all keys: one row in the next delta per key group that has any.
    ///
    /// # Errors
    /// As [`StateBackend::clear`]; groups before the one that failed are cleared.
    pub fn clear_namespace(&mut self, table: TableId, namespace: &[u8]) -> Result<()> {
        let groups = self.backend.groups().clone();
        groups.iter().try_for_each(|group| self.backend.clear(table, Scope::Namespace(group, namespace)))
    }

    /// Returns the tables, declared and restored.
    #[must_use]
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Returns the backend.
    #[must_use]
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Returns the backend, to seal, settle and load.
    pub fn backend_mut(&mut self) -> &mut B {
        &mut self.backend
    }

    /// Declares a table of any kind: see [`Tables::declare`].
    ///
    /// # Errors
    /// As [`Tables::declare`].
    pub fn declare(&mut self, wanted: TableSchema) -> Result<TableId> {
        self.with_tables(|tables| tables.declare(wanted))
    }

    /// Declares a table of any kind whose rows have a meaning: see [`Tables::declare_with`].
    ///
    /// # Errors
    /// As [`Tables::declare_with`].
    pub fn declare_with(&mut self, wanted: TableSchema, rules: TableRules) -> Result<TableId> {
        self.with_tables(|tables| tables.declare_with(wanted, rules))
    }

    /// Gives a restored table another name: see [`Tables::rename`].
    ///
    /// # Errors
    /// As [`Tables::rename`].
    pub fn rename(&mut self, old: &str, new: &str) -> Result<()> {
        self.with_tables(|tables| tables.rename(old, new))
    }

    /// Declares something and tells the backend.
    fn with_tables<R>(&mut self, declare: impl FnOnce(&mut Tables) -> Result<R>) -> Result<R> {
        let declared = declare(&mut self.tables)?;
        self.define();
        Ok(declared)
    }

    fn define(&mut self) {
        for (table, rules) in self.tables.take_rules() {
            self.backend.define(table, rules);
        }
        self.tables.take_times().into_iter().for_each(|times| self.backend.resume(times));
    }

    fn check_unrouted(&self) -> Result<()> {
        if matches!(self.partitioner, Partitioner::Range { .. }) {
            return Ok(());
        }
        Err(Error::usage("partitioner needs a routing hash").with("partitioner", self.partitioner.name()))
    }
}

impl Key {
    fn located(&self) -> Result<CurrentKey<'_>> {
        let Self { bytes, hash, group, routing, set } = self;
        if *set {
            return Ok(CurrentKey { bytes, hash: *hash, group: *group, routing: *routing });
        }
        Err(Error::usage("no key is set"))
    }
}

/// What handles act on: a [`KeyedState`], or one [in a namespace](KeyedState::in_namespace).
pub trait Keyed: sealed::Sealed {
    /// The state's backend.
    type Backend: StateBackend;

    /// Returns the state and the namespace, empty if there is none.
    #[doc(hidden)]
    fn parts(&mut self) -> (&mut KeyedState<Self::Backend>, &[u8]);
}

/// A state in a namespace: see [`KeyedState::in_namespace`].
#[derive(Debug)]
pub struct InNamespace<'a, B> {
    state: &'a mut KeyedState<B>,
    namespace: &'a [u8],
}

mod sealed {
    pub trait Sealed {}
}

impl<B> sealed::Sealed for KeyedState<B> {}
impl<B> sealed::Sealed for InNamespace<'_, B> {}

impl<B: StateBackend> Keyed for KeyedState<B> {
    type Backend = B;

    fn parts(&mut self) -> (&mut Self, &[u8]) {
        (self, &[])
    }
}

impl<B: StateBackend> Keyed for InNamespace<'_, B> {
    type Backend = B;

    fn parts(&mut self) -> (&mut KeyedState<B>, &[u8]) {
        (self.state, self.namespace)
    }
}

/// Bytes that are encoded anew each time, in memory that is reused.
#[derive(Debug, Default)]
struct Buffer(Vec<u8>);

impl Buffer {
    fn fill(&mut self, encode: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<&[u8]> {
        self.0.clear();
        encode(&mut self.0)?;
        Ok(&self.0)
    }
}

/// What every handle knows of its table.
#[derive(Debug, Clone, Copy)]
struct Table {
    id: TableId,
    namespaced: bool,
}

/// What an operation of a handle works with.
struct Access<'a, B> {
    backend: &'a mut B,
    /// The row without a sub-key.
    row: RowRef<'a>,
    buffer: &'a mut Buffer,
}

impl Table {
    /// Calls `f` with the row of the current key.
    fn with<S: Keyed, R>(self, state: &mut S, f: impl FnOnce(Access<'_, S::Backend>) -> Result<R>) -> Result<R> {
        let (state, namespace) = state.parts();
        self.check(namespace)?;
        let key = state.key.located()?;
        let row = RowRef { table: self.id, key: &key, namespace, sub: &[] };
        f(Access { backend: &mut state.backend, row, buffer: &mut state.buffer })
    }

    fn check(self, namespace: &[u8]) -> Result<()> {
        if self.namespaced || namespace.is_empty() {
            return Ok(());
        }
        Err(Error::usage("table has no namespaces").with("table", self.id))
    }
}
