//! State of one subtask: synchronous, one owner, no locks.
//!
//! A backend's life is a loop of writes and seals. A seal freezes the writes since the previous seal, in time
//! independent of the state's size, and hands them out exactly once, whether their epoch commits or aborts. Aborts
//! therefore cost the backend nothing: the holder of a [`Sealed`] carries it into the next manifest.

mod any;
pub mod checks;
#[cfg(feature = "conformance")]
pub mod conformance;
mod heat;
mod layer;
mod lazy;
mod log;
mod operation;
mod overlay;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod row_key;
pub(crate) mod state;

use std::fmt::Debug;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::id::{Epoch, TableId};
use crate::key_group::{CurrentKey, KeyGroupSet};
use crate::time::Timestamp;

pub use crate::id::Part;
pub use crate::row::{
    Append, Columns, Cut, Fold, FoldedGroup, GroupHeat, GroupTimes, Life, MAX_PART_BYTES, MAX_VALUE_BYTES,
    MergeOperator, Op, Piece, Row, RowBatch, RowKey, RowSource, Rules, Run, Sealed, SealedPart, SegmentKind,
    SortedRows, Stack, Statistic, TableRules, Ttl, Upgrade,
};
pub use any::AnyBackend;
pub use lazy::{Arrived, ArrivedContent, GroupLoader, GroupSource, LazyBackend, Loaded};
pub use log::LogBackend;
pub use operation::{ALL_SUBS, BackendStats, Change, Entry, Outcome, RowRef, Scope, Stored, SubRange, Write};
pub use overlay::OverlayBackend;
#[cfg(feature = "rocksdb")]
pub use rocksdb::{RocksDb, RocksDbBackend, RocksDbSettings};
pub use state::{
    Aggregate, AggregatingState, CheckpointTimes, Fired, InNamespace, Keyed, KeyedState, ListState, MapState,
    OrderedMapState, ReducingState, TableOptions, Tables, TimeDomain, TimerTable, Timers, TtlConfig, TtlTime,
    TtlUpdate, ValueState,
};
pub(crate) use state::{TableEntry, Types};

/// The state of one subtask.
///
/// Values are at most [`MAX_VALUE_BYTES`]; a key, namespace or sub-key at most 65,535
/// bytes. [`TableRules`] define what the rows of a table mean: an expired value counts as absent, and a value of an
/// older version is read in its present form. A table without rules holds bytes.
///
/// # Who implements it
/// [`LogBackend`] (in memory, the default), [`OverlayBackend`] (the reference of the model tests), `RocksDbBackend`
/// (local disk, feature `rocksdb`), and [`AnyBackend`], which delegates to one of them. A backend knows nothing of
/// stores, manifests or other subtasks.
///
/// # Who calls it, in which order
/// [`KeyedState`] makes the calls for rows, [`Task`](crate::Task) those for checkpoints, and
/// [`Seat::restore`](crate::Seat::restore) the loads. One thread at a time owns a backend; the parts of a
/// [`Sealed`] are read by other threads, also after the backend is dropped.
///
/// 1. *Start*: [`define`](Self::define) for each table and [`resume`](Self::resume), on a backend that owns no groups.
/// 2. *Load*: [`load`](Self::load), or [`adopt`](Self::adopt) of what a [`group_loader`](Self::group_loader) loaded, once for each set of groups; directly after it, and only for a group too large to
///    be loaded at once, [`load_more`](Self::load_more) until its rows are complete. [`advance`](Self::advance) to the
///    present comes before the first load; if tables changed their merge rules, after the last load and together with a
///    `define` of the new rules.
/// 3. *Records*: [`prefetch`](Self::prefetch), [`read`](Self::read), [`update`](Self::update), [`write`](Self::write),
///    [`clear`](Self::clear), [`scan_key`](Self::scan_key), [`scan`](Self::scan) and [`advance`](Self::advance), in any
///    order. [`define`](Self::define) and [`resume`](Self::resume) recur when a table is declared late.
/// 4. *Barrier*: [`settle`](Self::settle) for each epoch that ended since the last barrier, then [`seal`](Self::seal),
///    then [`times`](Self::times). `settle` may also come between records. Several epochs may be in flight, and an
///    outcome may arrive late, after the commit of a newer epoch. An epoch that was never sealed here is not settled.
/// 5. [`drop_groups`](Self::drop_groups) and [`load`](Self::load) move groups between live backends. Both come between
///    records.
///
/// [`groups`](Self::groups) and [`stats`](Self::stats) may be called at any time. After an error of a row operation the
/// backend stays usable and the row is unchanged.
///
/// # How to wrap it
/// A wrapper must forward every method, [`load_more`](Self::load_more) included: its default refuses groups that the
/// wrapped backend could load. Put `#[deny(clippy::missing_trait_methods)]` on the wrapper's `impl`, as [`AnyBackend`]
/// does, so that a new method with a default fails the lint instead of bypassing the wrapped backend.
///
/// # How to implement it
/// - Refuse bad arguments with [`checks`], before the first side effect.
/// - Hand out each write in exactly one `Delta`, or in a `Base` that replaces that `Delta` for its groups.
///   [`settle`](Self::settle) never brings a write back.
/// - Keep the rows of a [`Sealed`] unchanged after the seal, while the backend moves on or drops their groups.
/// - Pass the conformance suite `backend::conformance::run` (feature `conformance`), which checks these rules.
pub trait StateBackend: Debug + Send {
    /// Returns the owned key groups.
    fn groups(&self) -> &KeyGroupSet;

    /// Sets the meaning of the rows of `table`. Call it before the rows are used, ideally before they are loaded.
    fn define(&mut self, table: TableId, rules: TableRules);

    /// Advances the times by which rows expire; a time that would go back is ignored. Seals advance them too.
    fn advance(&mut self, event_time: Timestamp, processing_time: Timestamp);

    /// Resumes the times of groups from their checkpoint. From now on the rows of a group expire by the later of its
    /// [`GroupTimes`] and the times of [`StateBackend::advance`], within the bounds of its lives. Call it before the groups
    /// are loaded; a later call adds groups.
    ///
    /// * `times`: sorted by groups, which do not overlap.
    fn resume(&mut self, times: &[GroupTimes]);

    /// Returns the times of the owned groups: the furthest times by which their rows have expired. A checkpoint stores
    /// them for [`StateBackend::resume`].
    fn times(&self) -> Vec<GroupTimes>;

    /// Calls `f` with the row's value, `None` if absent. Where reading renews a row's life, a read is a write.
    ///
    /// # Errors
    /// `Usage` if the key's group is not owned; `Limit` where reading renews; errors of the table's rules.
    fn read<R>(&mut self, row: RowRef<'_>, f: impl FnOnce(Option<&[u8]>) -> R) -> Result<R>;

    /// Calls `f` with the row's value and an empty scratch buffer, then applies the returned [`Change`]. A panic in `f`
    /// changes nothing.
    ///
    /// # Errors
    /// `Usage` if the key's group is not owned; `Limit` if the value is too long or the memory budget is spent. The row
    /// is then unchanged.
    fn update<R>(&mut self, row: RowRef<'_>, f: impl FnOnce(Option<&[u8]>, &mut Vec<u8>) -> (Change, R)) -> Result<R>;

    /// As [`StateBackend::update`], but `f` may get the value as [`Stored::InPlace`]. It may then overwrite the bytes and
    /// return `None` for the change, which spares the copy from the scratch buffer. `None` without such a value is
    /// [`Change::Keep`]. A panic in `f` leaves the bytes as they are at that moment.
    ///
    /// # Errors
    /// As [`StateBackend::update`].
    fn update_in_place<R>(
        &mut self,
        row: RowRef<'_>,
        f: impl FnOnce(Stored<'_>, &mut Vec<u8>) -> (Option<Change>, R),
    ) -> Result<R> {
        self.update(row, |value, new| or_keep(f(value.into(), new)))
    }

    /// Lets `f` change the bytes of the row's value where they lie, but not their number; `None` if the row has no
    /// value. A backend that can spares the copies of [`StateBackend::update`]; then a panic in `f` leaves the bytes as they
    /// are at that moment.
    ///
    /// # Errors
    /// As [`StateBackend::update`].
    fn edit<R>(&mut self, row: RowRef<'_>, f: impl FnOnce(&mut [u8]) -> R) -> Result<Option<R>> {
        self.update(row, |value, new| edit_copy(value, new, f))
    }

    /// Writes the row without reading it.
    ///
    /// # Errors
    /// As [`StateBackend::update`]; also `Limit` if an operand makes the value too long, and `Usage` for an operand if
    /// the table has no merge operator.
    fn write(&mut self, row: RowRef<'_>, write: Write<'_>) -> Result<()>;

    /// Removes all rows in `scope`. The next delta has one row for the clear, however many rows it removed.
    ///
    /// # Errors
    /// As [`StateBackend::update`].
    ///
    /// # Cost
    /// In memory, a step per row removed if the scope is a key's namespace; otherwise a step per row of the group.
    fn clear(&mut self, table: TableId, scope: Scope<'_>) -> Result<()>;

    /// Visits the live rows of one key and namespace whose sub-keys lie in `range`, until `visit` returns false. Rows
    /// come in the order of their sub-keys if the table's rules say `ordered`.
    ///
    /// # Errors
    /// `Usage` if the key's group is not owned; errors of the table's rules.
    ///
    /// # Cost
    /// Proportional to the rows visited, independent of other keys. In a table that is not ordered, rows outside the
    /// range count too.
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

    /// Hints that rows of these keys, without namespace and sub-key, are soon used, in whichever table: a backend whose disk
    /// keeps it waiting may have them read meanwhile. The default does nothing.
    fn prefetch_keys(&self, keys: &[CurrentKey<'_>]) {
        let _no_hint = keys;
    }

    /// Reads the rows of `keys`, without sub-keys, in order: calls `f` with the index and the value of each, until `f`
    /// fails. Does what a call of [`StateBackend::read`] per key would do, but a backend may look ahead; the default does
    /// not.
    ///
    /// # Errors
    /// As [`StateBackend::read`] and `f`, at the first key that fails.
    fn read_many(
        &mut self,
        table: TableId,
        namespace: &[u8],
        keys: &[CurrentKey<'_>],
        mut f: impl FnMut(usize, Option<&[u8]>) -> Result<()>,
    ) -> Result<()> {
        for (at, key) in keys.iter().enumerate() {
            self.read(RowRef { table, key, namespace, sub: &[] }, |value| f(at, value))??;
        }
        Ok(())
    }

    /// Updates the rows of `keys`, without sub-keys, in order: calls `f` with the index of each, until `f` fails. Does what
    /// a call of [`StateBackend::update_in_place`] per key would do, but a backend may look ahead; the default does not.
    ///
    /// # Errors
    /// As [`StateBackend::update_in_place`] and `f`, at the first key that fails. The keys before it are updated; if `f`
    /// failed, its key is changed as `f` says.
    fn update_many(
        &mut self,
        table: TableId,
        namespace: &[u8],
        keys: &[CurrentKey<'_>],
        mut f: impl FnMut(usize, Stored<'_>, &mut Vec<u8>) -> (Option<Change>, Result<()>),
    ) -> Result<()> {
        for (at, key) in keys.iter().enumerate() {
            let row = RowRef { table, key, namespace, sub: &[] };
            self.update_in_place(row, |stored, new| f(at, stored, new))??;
        }
        Ok(())
    }

    /// Visits the live rows of `table` in `groups` whose key starts with `prefix`, group by group, in no particular
    /// order within a group, until `visit` returns false.
    ///
    /// # Errors
    /// `Usage` if a group is not owned; errors of the table's rules.
    fn scan(
        &mut self,
        table: TableId,
        groups: &KeyGroupSet,
        prefix: &[u8],
        visit: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<()>;

    /// Freezes the writes since the last seal as a `Delta`; for `bases`, freezes all rows as a `Base`.
    ///
    /// # Errors
    /// `Usage` if the cut does not follow the last one (epochs rise; parts rise within an epoch) or a group of
    /// `bases` is not owned.
    ///
    /// # Cost
    /// Independent of the state's size: proportional to the groups touched, plus the frozen regions of `bases`.
    fn seal(&mut self, cut: Cut, bases: &KeyGroupSet) -> Result<Sealed>;

    /// Reports the outcome of an epoch. `Commit` covers every epoch up to this one.
    ///
    /// # Errors
    /// `Usage` if the epoch was never sealed.
    fn settle(&mut self, epoch: Epoch, outcome: Outcome) -> Result<()>;

    /// Adds the state of `groups` from restored rows. These rows are not part of the next delta.
    ///
    /// # Errors
    /// `Usage` if a group is owned already; `Corrupt` or `Version` from the rows, which leaves the backend without
    /// these groups.
    fn load(&mut self, rows: &dyn RowSource, groups: &KeyGroupSet) -> Result<()>;

    /// Adds more rows of `groups`, which were the last to be loaded. Their row keys sort after all row keys
    /// already loaded for these groups. A group too large to be loaded at once arrives this way. These rows are not part of the next delta.
    ///
    /// # Errors
    /// As [`StateBackend::load`], except that these groups must be owned, and keep the rows loaded before. `Limit`, the
    /// default, from a backend that cannot: the job's `restore_bytes` must then have room for twice its largest group.
    fn load_more(&mut self, _rows: &dyn RowSource, groups: &KeyGroupSet) -> Result<()> {
        Err(Error::limit("key group is too large to be loaded at once: raise restore_bytes").with("groups", groups))
    }

    /// Returns what loads groups of this backend on other threads, by its present rules. `None`, the default, if only its
    /// owner can load them.
    ///
    /// * `tables`: all tables that the rows should be of.
    fn group_loader(&mut self, _tables: &[TableId]) -> Option<Arc<dyn GroupLoader>> {
        None
    }

    /// Adds `groups`, which this backend's [`GroupLoader`] has loaded. Tables may have been defined since then. These rows
    /// are not part of the next delta.
    ///
    /// # Errors
    /// `Usage` if a group is owned already, or another backend's loader loaded them.
    ///
    /// # Cost
    /// Independent of the number of rows, unless the order or the access of a table changed meanwhile.
    fn adopt(&mut self, _loaded: Loaded, groups: &KeyGroupSet) -> Result<()> {
        Err(Error::usage("backend has no loader of its own").with("groups", groups))
    }

    /// Frees memory after a load met `Limit`: moves cold rows to a disk or, if none are left in memory, waits until other owners
    /// of the budget give some back. Returns whether another try may succeed; false, the default, if nothing was freed.
    fn make_room(&mut self) -> bool {
        false
    }

    /// Returns the groups that may have writes since the last seal. Default: all.
    fn dirty_groups(&self) -> KeyGroupSet {
        self.groups().clone()
    }

    /// Drops `groups` and their state.
    ///
    /// # Errors
    /// `Usage` if a group is not owned.
    fn drop_groups(&mut self, groups: &KeyGroupSet) -> Result<()>;

    /// Returns counts of rows and bytes held.
    fn stats(&self) -> BackendStats;
}

/// Returns an update's outcome where nothing can change in place.
fn or_keep<R>((change, result): (Option<Change>, R)) -> (Change, R) {
    (change.unwrap_or(Change::Keep), result)
}

/// Edits a copy of a value, as an update that puts it.
fn edit_copy<R>(value: Option<&[u8]>, new: &mut Vec<u8>, f: impl FnOnce(&mut [u8]) -> R) -> (Change, Option<R>) {
    let Some(value) = value else { return (Change::Keep, None) };
    new.extend_from_slice(value);
    (Change::Put, Some(f(new)))
}
