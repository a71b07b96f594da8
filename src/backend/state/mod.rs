//! Typed state over a backend: the current key, the tables, and a handle for each kind of state.
//!
//! | kind | holds, per key and namespace | handle | declared by |
//! |---|---|---|---|
//! | value | one value | [`ValueState`] | [`KeyedState::value`] |
//! | list | values in the order they were added | [`ListState`] | [`KeyedState::list`] |
//! | map | values by sub-key | [`MapState`], [`OrderedMapState`] | [`KeyedState::map`], [`KeyedState::ordered_map`] |
//! | reducing | the reduction of all values added | [`ReducingState`] | [`KeyedState::reducing`] |
//! | aggregating | an accumulator of all values added | [`AggregatingState`] | [`KeyedState::aggregating`] |
//! | timers | times at which to call the operator back | [`Timers`] | [`KeyedState::timers`] |
//!
//! Handles hold no rows. Their methods take a [`KeyedState`] and act on its current key, or take
//! [`KeyedState::in_namespace`] and act on the current key in that namespace.
//!
//! Invariants:
//! - a record's key is hashed once, however many tables the record touches;
//! - a table's id never changes, and a new table's id depends on its name alone; ids of restored tables are kept, even
//!   if the tables are not declared again;
//! - a user's codec or function that fails or panics changes nothing.

mod access;
mod aggregating;
mod batch;
mod compatibility;
mod evolve;
mod list;
mod map;
mod options;
mod ordered_map;
mod reducing;
mod tables;
#[cfg(test)]
mod tests;
mod timers;
mod times;
mod ttl;
mod value;

use crate::error::{Error, Result};
use crate::id::TableId;
use crate::key_group::{CurrentKey, KeyGroup, Partitioner};
use crate::manifest::TableSchema;
use crate::memory::MemoryBudget;
use crate::row::TableRules;
use crate::time::Timestamp;

use super::{LazyBackend, Scope, StateBackend};
use access::Buffer;

pub use access::{InNamespace, Keyed};
pub use aggregating::{Aggregate, AggregatingState};
pub(crate) use compatibility::Types;
pub use list::ListState;
pub use map::MapState;
pub use options::TableOptions;
pub use ordered_map::OrderedMapState;
pub use reducing::ReducingState;
pub use tables::TableEntry;
pub use tables::Tables;
pub use timers::{Fired, TimeDomain, TimerTable, Timers};
pub use times::CheckpointTimes;
pub use ttl::{TtlConfig, TtlTime, TtlUpdate};
pub use value::ValueState;

/// The keyed state of one subtask: a backend, the current key, and the declared tables.
///
/// One thread owns it at a time; it has no locks.
///
/// # Differences from Flink's kinds of the same names
/// - every kind has namespaces, chosen by the user; Flink reserves namespaces for windows;
/// - checkpoints store the names of types and functions, and declaring a stored table with other names fails before any
///   row is loaded;
/// - no value is null: [`Optional`](crate::Optional) encodes a missing value;
/// - adding no elements leaves a list unchanged, and an empty list has no row, as in Flink; reading one returns an empty
///   `Vec`, not null;
/// - handles borrow the state during a visit, so changes to visited entries go through [`MapState::retain`];
/// - rows expire in processing or event time, and a TTL can be added to stored state, changed and removed;
/// - visiting a map renews no entry, reading one entry by its sub-key does; Flink renews every entry that an iterator
///   passes;
/// - expired rows are never returned, and are removed without a setting: by reads, by backends, and when segments are
///   encoded.
#[derive(Debug)]
pub struct KeyedState<B> {
    backend: LazyBackend<B>,
    partitioner: Partitioner,
    max_parallelism: u16,
    key: Key,
    tables: Tables,
    budget: MemoryBudget,
    buffer: Buffer,
}

/// The current key: its bytes, and the location computed from them.
#[derive(Debug, Default)]
struct Key {
    bytes: Vec<u8>,
    hash: u64,
    group: KeyGroup,
    routing: Option<u64>,
    set: bool,
}

impl<B: StateBackend> KeyedState<B> {
    /// Returns the state over `backend`, and gives the backend the rules of the declared `tables`. Load rows afterwards.
    ///
    /// * `partitioner`, `max_parallelism`: those of the job, which its manifests store.
    #[must_use]
    pub fn new(backend: B, partitioner: Partitioner, max_parallelism: u16, tables: Tables) -> Self {
        let (key, buffer) = (Key::default(), Buffer::default());
        let budget = MemoryBudget::new(u64::MAX);
        let backend = LazyBackend::new(backend);
        let mut state = Self { backend, partitioner, max_parallelism, key, tables, budget, buffer };
        state.define();
        state
    }

    /// As [`KeyedState::new`], but rows load under the rules of their checkpoint. Call
    /// [`KeyedState::apply_declared_rules`] after the load.
    pub(crate) fn under_stored_rules(
        backend: B,
        partitioner: Partitioner,
        max_parallelism: u16,
        tables: Tables,
    ) -> Self {
        let mut backend = LazyBackend::new(backend);
        let (rules, times) = tables.stored_rules();
        rules.into_iter().for_each(|(table, rules)| backend.define(table, rules));
        backend.resume(times);
        let (key, buffer) = (Key::default(), Buffer::default());
        let budget = MemoryBudget::new(u64::MAX);
        Self { backend, partitioner, max_parallelism, key, tables, budget, buffer }
    }

    /// Puts loaded rows under the rules that their tables were declared with.
    pub(crate) fn apply_declared_rules(&mut self) {
        self.define();
    }

    /// Charges `budget` for the memory that handles hold beside rows: the queues of timers loaded from now on. Without
    /// this call nothing is charged.
    #[must_use]
    pub fn with_budget(mut self, budget: MemoryBudget) -> Self {
        self.budget = budget;
        self
    }

    /// Makes `key` the current key.
    ///
    /// # Errors
    /// `Usage` if the partitioner needs a routing hash: see [`KeyedState::set_key_routed`].
    ///
    /// # Cost
    /// One hash and one copy of the key.
    #[inline]
    pub fn set_key(&mut self, key: &[u8]) -> Result<()> {
        self.check_unrouted()?;
        self.set_key_routed(key, 0);
        Ok(())
    }

    /// Makes `key` the current key; `routing` is the hash by which the engine routed the record: see
    /// [`Partitioner::locate`].
    #[inline]
    pub fn set_key_routed(&mut self, key: &[u8], routing: u64) {
        let CurrentKey { hash, group, routing, .. } = self.locate_routed(key, routing);
        self.key.bytes.clear();
        self.key.bytes.extend_from_slice(key);
        (self.key.hash, self.key.group, self.key.routing, self.key.set) = (hash, group, routing, true);
    }

    /// Returns `key` with its location, for methods that take many keys. The current key stays.
    ///
    /// # Errors
    /// As [`KeyedState::set_key`].
    #[inline]
    pub fn locate<'k>(&self, key: &'k [u8]) -> Result<CurrentKey<'k>> {
        self.check_unrouted()?;
        Ok(self.locate_routed(key, 0))
    }

    /// Returns `key` with its location, as [`KeyedState::locate`]; `routing` is the hash by which the engine routed the
    /// record.
    #[inline]
    #[must_use]
    pub fn locate_routed<'k>(&self, key: &'k [u8], routing: u64) -> CurrentKey<'k> {
        self.partitioner.locate(key, routing, self.max_parallelism)
    }

    /// Returns this state in a namespace (a window, say); `namespace` holds the encoded bytes, at most 65,535. Handles to
    /// tables with namespaces act in that namespace.
    pub fn in_namespace<'a>(&'a mut self, namespace: &'a [u8]) -> InNamespace<'a, B> {
        InNamespace { state: self, namespace }
    }

    /// Advances the times by which rows expire. Earlier times are ignored.
    pub fn advance(&mut self, event_time: Timestamp, processing_time: Timestamp) {
        self.backend.advance(event_time, processing_time);
    }

    /// Removes all rows of the current key in `table`, in all namespaces.
    ///
    /// # Errors
    /// As [`StateBackend::clear`]; `Usage` if no key is set.
    ///
    /// # Cost
    /// That of [`StateBackend::clear`] for a key; one row in the next delta.
    pub fn clear_key(&mut self, table: TableId) -> Result<()> {
        let key = self.key.located()?;
        self.backend.clear(table, Scope::Key(&key))
    }

    /// Removes all rows of all keys in `table` and `namespace`.
    ///
    /// # Errors
    /// As [`StateBackend::clear`]; groups before the failing one are cleared.
    ///
    /// # Cost
    /// That of [`StateBackend::clear`] per owned group; one row in the next delta per group that has such rows.
    pub fn clear_namespace(&mut self, table: TableId, namespace: &[u8]) -> Result<()> {
        let groups = self.backend.groups().clone();
        groups.iter().try_for_each(|group| self.backend.clear(table, Scope::Namespace(group, namespace)))
    }

    /// Returns the declared and restored tables.
    #[must_use]
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Returns the backend. Groups may be absent from the [one that it wraps](LazyBackend::resident).
    #[must_use]
    pub fn backend(&self) -> &LazyBackend<B> {
        &self.backend
    }

    /// Returns the backend, to seal, settle and load.
    pub fn backend_mut(&mut self) -> &mut LazyBackend<B> {
        &mut self.backend
    }

    /// Declares a table of any kind: see [`Tables::declare`].
    ///
    /// # Errors
    /// As [`Tables::declare`].
    pub fn declare(&mut self, wanted: TableSchema) -> Result<TableId> {
        self.with_tables(|tables| tables.declare(wanted))
    }

    /// Declares a table of any kind with rules for its rows: see [`Tables::declare_with`].
    ///
    /// # Errors
    /// As [`Tables::declare_with`].
    pub fn declare_with(&mut self, wanted: TableSchema, rules: TableRules) -> Result<TableId> {
        self.with_tables(|tables| tables.declare_with(wanted, rules))
    }

    /// Renames a restored table: see [`Tables::rename`].
    ///
    /// # Errors
    /// As [`Tables::rename`].
    pub fn rename(&mut self, old: &str, new: &str) -> Result<()> {
        self.with_tables(|tables| tables.rename(old, new))
    }

    /// Calls `declare`, then gives the backend the rules of newly declared tables.
    fn with_tables<R>(&mut self, declare: impl FnOnce(&mut Tables) -> Result<R>) -> Result<R> {
        let declared = declare(&mut self.tables)?;
        self.define();
        Ok(declared)
    }

    fn define(&mut self) {
        for (table, rules) in self.tables.take_new_rules() {
            self.backend.define(table, rules);
        }
        self.tables.take_changed_times().into_iter().for_each(|times| self.backend.resume(times));
    }

    #[inline]
    fn check_unrouted(&self) -> Result<()> {
        if matches!(self.partitioner, Partitioner::Range { .. }) {
            return Ok(());
        }
        Err(Error::usage("partitioner needs a routing hash").with("partitioner", self.partitioner.name()))
    }
}

impl Key {
    /// # Errors
    /// `Usage` if no key is set.
    #[inline]
    fn located(&self) -> Result<CurrentKey<'_>> {
        let Self { bytes, hash, group, routing, set } = self;
        if *set {
            return Ok(CurrentKey { bytes, hash: *hash, group: *group, routing: *routing });
        }
        Err(Error::usage("no key is set"))
    }
}
