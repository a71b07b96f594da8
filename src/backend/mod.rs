//! State of one subtask: synchronous, one owner, no locks.
//!
//! A backend's life is a loop of writes and seals. A seal freezes what was written since the seal before, in time
//! independent of the state's size, and hands it out once; the backend never hands it out again, whatever
//! becomes of it. Aborts therefore cost the backend nothing: the holder of a [`Sealed`] carries it into the next
//! manifest.

mod any;
#[cfg(feature = "conformance")]
pub mod conformance;
mod cuts;
mod heat;
mod layer;
mod log;
mod overlay;
mod place;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod state;

use std::fmt::Debug;
use std::ops::Bound;

use crate::error::{Error, Result};
use crate::id::{Epoch, TableId};
use crate::key_group::{CurrentKey, KeyGroup, KeyGroupSet};
use crate::memory::MemoryBudget;
use crate::row::{Cut, GroupTimes, Op, Piece, Row, RowKey, RowSource, Sealed, TableRules, check_value_length};
use crate::time::Timestamp;

pub use any::AnyBackend;
pub use log::LogBackend;
pub use overlay::OverlayBackend;
#[cfg(feature = "rocksdb")]
pub use rocksdb::{RocksDb, RocksDbBackend, RocksDbSettings};
pub use state::{
    Aggregate, AggregatingState, CheckpointTimes, Fired, InNamespace, Keyed, KeyedState, ListState, MapState,
    OrderedMapState, ReducingState, TableOptions, Tables, TimeDomain, TimerTable, Timers, TtlConfig, TtlTime,
    TtlUpdate, ValueState,
};
pub(crate) use state::{TableEntry, Types};

/// A row of data's place, with its key located once per record.
#[derive(Debug, Clone, Copy)]
pub struct RowRef<'a> {
    /// The table.
    pub table: TableId,
    /// The record's key.
    pub key: &'a CurrentKey<'a>,
    /// The encoded namespace; empty if the table has none.
    pub namespace: &'a [u8],
    /// The encoded sub-key; empty if the table has none.
    pub sub: &'a [u8],
}

/// What an update does to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Leave it as it is.
    Keep,
    /// Put what was written into the scratch buffer.
    Put,
    /// Remove it.
    Delete,
}

/// What a write does to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Write<'a> {
    /// Put this value.
    Put(&'a [u8]),
    /// Remove it.
    Delete,
    /// Merge this operand into its value, without reading it where the table's operator allows.
    Merge(&'a [u8]),
}

/// Which rows of a table a clear removes.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// All of a key.
    Key(&'a CurrentKey<'a>),
    /// All of a key's namespace.
    KeyNamespace(&'a CurrentKey<'a>, &'a [u8]),
    /// All of a namespace, in one group.
    Namespace(KeyGroup, &'a [u8]),
}

impl<'a> Scope<'a> {
    /// Returns the group that it lies in.
    #[must_use]
    pub fn group(&self) -> KeyGroup {
        match self {
            Self::Key(key) | Self::KeyNamespace(key, _) => key.group,
            Self::Namespace(group, _) => *group,
        }
    }

    /// Returns the place of its clear in `table`.
    #[must_use]
    pub fn place(&self, table: TableId) -> RowKey<'a> {
        let (key, namespace) = match *self {
            Self::Key(key) => (Some(key.bytes), None),
            Self::KeyNamespace(key, namespace) => (Some(key.bytes), Some(namespace)),
            Self::Namespace(_, namespace) => (None, Some(namespace)),
        };
        RowKey { table, key, namespace, sub: None }
    }
}

/// A live row of data, as a scan visits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its group.
    pub group: KeyGroup,
    /// Its encoded key.
    pub key: &'a [u8],
    /// Its encoded namespace.
    pub namespace: &'a [u8],
    /// Its encoded sub-key.
    pub sub: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
    /// The hash that the engine handed in for its key.
    pub routing: Option<u64>,
}

/// Bounds of sub-keys, as encoded bytes.
pub type SubRange<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// All sub-keys.
pub const ALL_SUBS: SubRange<'static> = (Bound::Unbounded, Bound::Unbounded);

/// What became of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A committed manifest covers this epoch and all before it.
    Commit,
    /// It was given up. Nothing is undone: what it sealed belongs to the next manifest.
    Abort,
}

/// What a backend holds, in rows and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BackendStats {
    /// Live rows.
    pub rows: u64,
    /// Bytes of live rows: keys, namespaces, sub-keys, values.
    pub live_bytes: u64,
    /// Bytes of memory held for rows and index, dead rows included.
    pub memory_bytes: u64,
    /// Distinct rows that changed since the last seal; not those that came and went.
    pub dirty_rows: u64,
    /// Bytes written since the last seal that a seal would freeze.
    pub dirty_bytes: u64,
}

/// The state of one subtask.
///
/// Values are at most [`MAX_VALUE_BYTES`](crate::row::MAX_VALUE_BYTES); a key, namespace or sub-key at most 65,535 bytes.
///
/// What the rows of a table mean stands in its [`TableRules`]: a value that has expired is no value, one of an older
/// version is read in its present form. A table without rules holds bytes.
pub trait StateBackend: Debug + Send {
    /// Returns the key groups it owns.
    fn groups(&self) -> &KeyGroupSet;

    /// Sets what the rows of `table` mean. To be called before they are used, best before they are loaded.
    fn define(&mut self, table: TableId, rules: TableRules);

    /// Moves the times on by which rows expire; times that go back are ignored. Seals move them on too.
    fn advance(&mut self, event_time: Timestamp, processing_time: Timestamp);

    /// Lets groups continue from how far time had come in their checkpoint: from now on the rows of a group expire by the
    /// later of its record and the times of [`StateBackend::advance`], and within its record's bounds. To be called before
    /// the groups are loaded; a later call adds to it.
    ///
    /// * `times`: sorted by groups, which do not overlap.
    fn resume(&mut self, times: &[GroupTimes]);

    /// Returns how far time has come for the groups it owns: the furthest times that their rows have expired by. What a
    /// checkpoint stores for [`StateBackend::resume`].
    fn times(&self) -> Vec<GroupTimes>;

    /// Calls `f` with the row's value, `None` if it has none. Where reading renews a row's life, it is a write.
    ///
    /// # Errors
    /// `Usage` if the key's group is not owned; `Limit` where reading renews; what the table's rules return.
    fn read<R>(&mut self, row: RowRef<'_>, f: impl FnOnce(Option<&[u8]>) -> R) -> Result<R>;

    /// Calls `f` with the row's value and an empty scratch buffer, then does what it says. A panic in `f` changes
    /// nothing.
    ///
    /// # Errors
    /// `Usage` if the key's group is not owned; `Limit` if the value is too long or the memory budget is spent:
    /// the row is then unchanged.
    fn update<R>(&mut self, row: RowRef<'_>, f: impl FnOnce(Option<&[u8]>, &mut Vec<u8>) -> (Change, R)) -> Result<R>;

    /// Writes the row without reading it.
    ///
    /// # Errors
    /// As [`StateBackend::update`]: `Limit` also for an operand with which the value would be too long; `Usage` for an operand if the table has no merge operator.
    fn write(&mut self, row: RowRef<'_>, write: Write<'_>) -> Result<()>;

    /// Removes all rows in `scope`: one row in the next delta, however many they were.
    ///
    /// # Errors
    /// As [`StateBackend::update`].
    ///
    /// # Cost
    /// In memory, a step per row removed for a key's namespace; else a step per row of the group.
    fn clear(&mut self, table: TableId, scope: Scope<'_>) -> Result<()>;

    /// Visits the live rows of one key and namespace whose sub-keys lie in `range`, until `visit` returns false; in the
    /// order of their sub-keys if the table's rules say `ordered`.
    ///
    /// # Errors
    /// `Usage` if the key's group is not owned; what the table's rules return.
    ///
    /// # Cost
    /// That of the rows visited, whatever other keys have. Where the table is not ordered, rows out of range count.
    fn scan_key(
        &mut self,
        table: TableId,
        key: &CurrentKey<'_>,
        namespace: &[u8],
        range: SubRange<'_>,
        visit: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<()>;

    /// Hints that these rows are about to be used.
    fn prefetch(&mut self, rows: &[RowRef<'_>]);

    /// Visits the live rows of `table` in `groups` whose key starts with `prefix`, group by group, in no particular
    /// order within a group, until `visit` returns false.
    ///
    /// # Errors
    /// `Usage` if a group is not owned; what the table's rules return.
    fn scan(
        &mut self,
        table: TableId,
        groups: &KeyGroupSet,
        prefix: &[u8],
        visit: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<()>;

    /// Freezes what was written since the last seal, as a `Delta`; for `bases` everything, as a `Base`.
    ///
    /// # Errors
    /// `Usage` if the cut does not follow the last one (epochs rise; parts rise within an epoch) or a group of
    /// `bases` is not owned.
    ///
    /// # Cost
    /// Independent of the state's size: proportional to the groups touched, plus the frozen regions of `bases`.
    fn seal(&mut self, cut: Cut, bases: &KeyGroupSet) -> Result<Sealed>;

    /// Tells what became of an epoch. `Commit` covers every epoch up to it.
    ///
    /// # Errors
    /// `Usage` if the epoch was never sealed.
    fn settle(&mut self, epoch: Epoch, outcome: Outcome) -> Result<()>;

    /// Adds the state of `groups` from restored rows; they are not part of the next delta.
    ///
    /// # Errors
    /// `Usage` if a group is owned already; `Corrupt` or `Version` from the rows, which leaves the backend without
    /// these groups.
    fn load(&mut self, rows: &dyn RowSource, groups: &KeyGroupSet) -> Result<()>;

    /// Adds more rows of `groups`, which were loaded last: of places above all that were loaded of them. A group that is
    /// too large to be loaded at once comes so. They are not part of the next delta.
    ///
    /// # Errors
    /// As [`StateBackend::load`], but that these groups are owned, and keep the rows that they had. `Limit`, as by default,
    /// if the backend cannot: the job's `restore_bytes` must then have room for its largest group twice.
    fn load_more(&mut self, _rows: &dyn RowSource, groups: &KeyGroupSet) -> Result<()> {
        Err(Error::limit("key group is too large to be loaded at once: raise restore_bytes").with("groups", groups))
    }

    /// Gives up `groups` and their state.
    ///
    /// # Errors
    /// `Usage` if a group is not owned.
    fn drop_groups(&mut self, groups: &KeyGroupSet) -> Result<()>;

    /// Returns what it holds.
    fn stats(&self) -> BackendStats;
}

/// Refuses groups that are not owned.
fn check_owned(owned: &KeyGroupSet, groups: &KeyGroupSet) -> Result<()> {
    let strange = groups.difference(owned);
    if strange.is_empty() {
        return Ok(());
    }
    Err(Error::usage("key groups are not owned").with("groups", strange).with("owned", owned))
}

/// Refuses a group that is not owned.
fn check_owns(owned: &KeyGroupSet, group: KeyGroup) -> Result<()> {
    if owned.contains(group) { Ok(()) } else { Err(not_owned(owned, group)) }
}

#[cold]
fn not_owned(owned: &KeyGroupSet, group: KeyGroup) -> Error {
    Error::usage("key group is not owned").with("group", group).with("owned", owned)
}

/// Refuses groups that are owned already.
fn check_new(owned: &KeyGroupSet, groups: &KeyGroupSet) -> Result<()> {
    let known = groups.intersection(owned);
    if known.is_empty() {
        return Ok(());
    }
    Err(Error::usage("key groups are owned already").with("groups", known))
}

/// Refuses a row whose parts are too long.
fn check_lengths(row: &RowRef<'_>) -> Result<()> {
    check_parts(&[row.key.bytes, row.namespace, row.sub])
}

/// Refuses a scope whose parts are too long.
fn check_scope(scope: &Scope<'_>) -> Result<()> {
    let RowKey { key, namespace, .. } = scope.place(TableId(0));
    check_parts(&[key.unwrap_or_default(), namespace.unwrap_or_default()])
}

/// Refuses parts of a row's place that are too long.
#[inline]
fn check_parts(parts: &[&[u8]]) -> Result<()> {
    match parts.iter().map(|part| part.len()).max() {
        Some(length) if length > usize::from(u16::MAX) => {
            Err(Error::limit("key, namespace or sub-key is longer than 65535 bytes").with("length", length))
        }
        _ => Ok(()),
    }
}

/// Refuses a value that is too long.
fn check_value(value: &[u8]) -> Result<()> {
    check_value_length(value.len())
}

/// Returns the piece of a folded row of stored state, and whether it is an operand.
#[inline]
fn check_loadable<'a>(row: &Row<'a>) -> Result<(Piece<'a>, bool)> {
    let parts = [row.key.key, row.key.namespace, row.key.sub];
    if parts.into_iter().flatten().any(|part| part.len() > usize::from(u16::MAX)) {
        return Err(Error::corrupt("key, namespace or sub-key is longer than 65535 bytes").with("table", row.key.table));
    }
    match row.op {
        Op::Put(_) => Ok((row.piece(), false)),
        Op::Merge(_) => Ok((row.piece(), true)),
        Op::Delete | Op::Clear => Err(Error::corrupt("rows of a base are not folded").with("table", row.key.table)),
    }
}

/// Returns the error of an operand for a table that cannot merge.
fn no_operator(table: TableId) -> Error {
    Error::usage("table has no merge operator").with("table", table)
}

/// Returns the error of a write that the budget has no room for.
fn budget_spent(budget: &MemoryBudget) -> Error {
    Error::limit("memory budget is spent")
        .with("held_bytes", budget.held_bytes())
        .with("limit_bytes", budget.limit_bytes())
}
