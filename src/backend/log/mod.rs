//! The native backend: a log per key group.
//!
//! ```text
//! group = index: row -> address of its newest record
//!         families: key and namespace -> the rows with sub-keys, for maps
//!         regions on disk, oldest first  cold records, read by position; none unless memory runs short
//!         frozen regions, oldest first   shared with sealed parts, immutable
//!         tail                           the writes since the last seal: the next delta as it is
//! ```
//!
//! A write to a row whose newest record lies in the tail happens in place. Any other write appends a record to the
//! tail: the first touch after a seal copies the row. A seal turns tails into frozen regions and starts new ones; it
//! copies nothing. Before the memory budget is spent, the oldest frozen regions move to its disk tier.
//!
//! Invariants:
//! - the tail has at most one live record per row, so it is a delta without any diffing. If memory ran short, the delta begins
//!   with regions that were frozen early, and the newest record of a row comes last;
//! - a frozen region never changes, and lives as long as the group or a sealed part needs it;
//! - an operation on the hot path allocates nothing and touches no atomic, except where a region or an index grows;
//! - groups share nothing: each can be loaded, dropped, sealed or cleaned alone.

mod adopt;
mod arena;
mod batch;
mod chains;
mod chunk;
mod clean;
mod demote;
mod families;
mod fetch;
mod group;
mod index;
mod join;
mod load;
mod pieces;
mod plain;
mod promote;
mod record;
mod region;
mod regions;
mod row_access;
mod row_hashes;
mod scan;
mod seal;
mod sealed;
mod short_row;
mod small_bytes;
mod sub_keys;
mod table_slots;
#[cfg(test)]
mod tests;
mod warmer;

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use crate::error::{Error, ErrorKind, Result, broken};
use crate::id::{Epoch, TableId};
use crate::key_group::{CurrentKey, KeyGroup, KeyGroupSet, Partitioner};
use crate::memory::{Charge, MemoryBudget};
use crate::row::{Cut, GroupTimes, RowBatch, RowSource, Rules, Sealed, TableRules};
use crate::time::Timestamp;

use self::arena::Arena;
use self::demote::Demotion;
use self::group::{Group, has_families};
use self::load::{Loader, default_threads};
use self::promote::RecentReads;
use self::record::Place;
use self::scan::LiveVisitor;
use self::short_row::RuledSlots;
use self::table_slots::{TableSlots, renumber};
use super::checks::{CutOrder, check_owned, check_owned_group, check_row, check_scope, check_unowned};
use super::{
    BackendStats, Change, Entry, GroupLoader, Loaded, Outcome, RowRef, Scope, StateBackend, Stored, SubRange, Write,
};

/// The state of one subtask, as a log per key group.
///
/// Memory beyond the rows themselves: 5 bytes of header for a small row (key below 128 bytes, value below 256, no
/// namespace), and an index entry of 8 bytes in a table that is at least 3/8 full. Garbage is bounded: a group holds at
/// most 4 times the bytes of its records (live rows, and tombstones until the cleaner has dropped the records they
/// hide) plus 272 KiB. It usually holds a quarter more than its records; small groups hold much less than the constant.
///
/// With a [disk tier](MemoryBudget::with_disk), cold records lie there before the budget is spent. They keep their index
/// entries in memory, and 300 bytes per region of 16 to 64 KiB. An operation on a cold row reads 1 or 2 KiB, and returns
/// `Unavailable` if the disk fails or `Corrupt` if it returns other bytes than were written; the row is then unchanged.
pub struct LogBackend {
    owned: KeyGroupSet,
    partitioner: Partitioner,
    arena: Arena,
    cuts: CutOrder,
    /// By slot: see [`TableSlots`].
    rules: Rules,
    table_slots: TableSlots,
    ruled: RuledSlots,
    /// By group number; a group that was never written takes only its place in this vector.
    groups: Vec<Option<Box<Group>>>,
    /// Groups written since the last seal, each once.
    dirty: Vec<KeyGroup>,
    /// Number of seals.
    seals: u32,
    /// Reads and writes of rows up to the last seal of each group.
    uses: u64,
    /// Where [`LogBackend::reclaim`] last stopped.
    reclaim_next: usize,
    demotion: Demotion,
    recent_reads: RecentReads,
    /// Why the rows of a table could not be ordered by its new rules: the disk did not return them.
    undefined: Option<(ErrorKind, String)>,
    /// Where [`LogBackend::add_idle_heat`] last stopped.
    heat_next: usize,
    /// The most threads of a load.
    load_threads: usize,
    /// Buffer for new values, reused.
    scratch: Vec<u8>,
    /// Buffer for values whose stored bytes differ from what a read returns, reused.
    value: Vec<u8>,
    /// Charge for `groups` itself.
    charge: Charge,
}

impl fmt::Debug for LogBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (groups, stats) = (&self.owned, self.stats());
        f.debug_struct("LogBackend").field("groups", groups).field("stats", &stats).finish_non_exhaustive()
    }
}

impl LogBackend {
    /// Returns a backend that owns `groups`, has no rows, and charges its memory to `budget`.
    ///
    /// * `partitioner`: locates the keys of all rows. Restored rows come without hashes, so a new row whose key was
    ///   located by another partitioner is refused.
    #[must_use]
    pub fn new(groups: KeyGroupSet, partitioner: Partitioner, budget: MemoryBudget) -> Self {
        Self::with_arena(&groups, partitioner, Arena::new(&budget.part()))
    }

    /// As [`LogBackend::new`], with all memory from the global allocator: for allocators that must see every byte, and
    /// for systems that forbid mappings. Slower once the state is larger than the caches.
    #[must_use]
    pub fn on_heap(groups: KeyGroupSet, partitioner: Partitioner, budget: MemoryBudget) -> Self {
        Self::with_arena(&groups, partitioner, Arena::without_blocks(&budget.part()))
    }

    /// Sets how many threads a load of 1 MiB or more may use, the calling one included. Default: as many as the process may
    /// use, at most 4. They end before the load returns.
    #[must_use]
    pub fn with_load_threads(self, threads: NonZeroUsize) -> Self {
        Self { load_threads: threads.get(), ..self }
    }

    fn with_arena(groups: &KeyGroupSet, partitioner: Partitioner, arena: Arena) -> Self {
        let charge = arena.budget().charge(0);
        let mut backend = Self {
            owned: KeyGroupSet::empty(),
            partitioner,
            arena,
            cuts: CutOrder::default(),
            rules: Rules::none(),
            table_slots: TableSlots::default(),
            ruled: RuledSlots::default(),
            groups: Vec::new(),
            dirty: Vec::new(),
            seals: 0,
            uses: 0,
            reclaim_next: 0,
            demotion: Demotion::default(),
            recent_reads: RecentReads::default(),
            undefined: None,
            heat_next: 0,
            load_threads: default_threads(),
            scratch: Vec::new(),
            value: Vec::new(),
            charge,
        };
        backend.add_groups(groups);
        backend
    }

    fn add_groups(&mut self, groups: &KeyGroupSet) {
        self.owned = self.owned.union(groups);
        self.arena.serve_groups(self.owned.len());
        let end = self.owned.ranges().last().map_or(0, |range| usize::from(range.end));
        if self.groups.len() < end {
            self.groups.reserve_exact(end - self.groups.len());
            self.groups.resize_with(end, || None);
        }
        self.charge.resize((self.groups.capacity() * size_of::<Option<Box<Group>>>()) as u64);
    }

    /// Returns the group if it was ever written.
    fn group(&self, group: KeyGroup) -> Option<&Group> {
        self.groups.get(usize::from(group.0))?.as_deref()
    }

    /// Returns an owned group and its rules.
    fn group_mut(&mut self, group: KeyGroup) -> (&mut Group, &Rules) {
        let slot = group_cell(&mut self.groups, group);
        let group_mut = slot.get_or_insert_with(|| Box::new(Group::new(self.partitioner, &self.arena)));
        (group_mut, self.rules.of(group))
    }

    /// Returns the error of an earlier [`StateBackend::define`], which could not return it.
    fn check_defined(&self) -> Result<()> {
        match &self.undefined {
            None => Ok(()),
            Some((kind, why)) => Err(Error::new(*kind, format!("table is not defined for all rows: {why}"))),
        }
    }

    /// Returns what loads `rows`, and the groups.
    fn loader<'a>(&'a mut self, rows: &'a dyn RowSource) -> (Loader<'a>, &'a mut [Option<Box<Group>>]) {
        let by_id = self.rules.renumbered(|slot| self.table_slots.table(slot));
        let (rules, table_slots) = (&self.rules, Mutex::new(&mut self.table_slots));
        let loader = Loader { rows, by_id, rules, table_slots, partitioner: self.partitioner, arena: &self.arena };
        (loader, &mut self.groups)
    }
}

/// Returns an owned group's place in the vector.
fn group_cell(groups: &mut [Option<Box<Group>>], group: KeyGroup) -> &mut Option<Box<Group>> {
    match groups.get_mut(usize::from(group.0)) {
        Some(slot) => slot,
        None => broken("an owned group has a place in the vector"),
    }
}

impl StateBackend for LogBackend {
    fn groups(&self) -> &KeyGroupSet {
        &self.owned
    }

    fn define(&mut self, table: TableId, rules: TableRules) {
        let table = self.table_slots.slot_of(table);
        let order = rules.ordered && !self.rules.table(table).is_some_and(|known| known.ordered);
        let before = has_families(&self.rules, table);
        self.rules.define(table, rules);
        self.ruled.set(table, !self.rules.plain(table));
        let now = has_families(&self.rules, table);
        for group in self.groups.iter_mut().flatten() {
            let defined = if before != now {
                group.group_by_key(table, now, &self.rules)
            } else if order {
                group.order(table)
            } else {
                Ok(())
            };
            self.undefined = self.undefined.take().or_else(|| defined.err().map(|error| (error.kind(), error.chain())));
        }
    }

    fn advance(&mut self, event_time: Timestamp, processing_time: Timestamp) {
        self.rules.advance(event_time, processing_time);
        // A task that writes little gives memory to those that write.
        self.relieve();
    }

    fn resume(&mut self, times: &[GroupTimes]) {
        let mut times = times.to_vec();
        renumber(&mut times, |table| self.table_slots.slot_of(table));
        self.rules.resume(&times);
    }

    fn times(&self) -> Vec<GroupTimes> {
        let mut times = self.rules.times(&self.owned);
        renumber(&mut times, |slot| self.table_slots.table(slot));
        times
    }

    #[inline]
    fn read<R>(&mut self, row: RowRef<'_>, f: impl FnOnce(Option<&[u8]>) -> R) -> Result<R> {
        self.read_plain(&row, f)
    }

    #[inline]
    fn update<R>(&mut self, row: RowRef<'_>, f: impl FnOnce(Option<&[u8]>, &mut Vec<u8>) -> (Change, R)) -> Result<R> {
        self.update_plain(&row, |stored, new| {
            let (change, result) = f(stored.bytes(), new);
            (Some(change), result)
        })
    }

    #[inline]
    fn update_in_place<R>(
        &mut self,
        row: RowRef<'_>,
        f: impl FnOnce(Stored<'_>, &mut Vec<u8>) -> (Option<Change>, R),
    ) -> Result<R> {
        self.update_plain(&row, f)
    }

    #[inline]
    fn edit<R>(&mut self, row: RowRef<'_>, f: impl FnOnce(&mut [u8]) -> R) -> Result<Option<R>> {
        self.edit_plain(&row, f)
    }

    #[inline]
    fn write(&mut self, row: RowRef<'_>, write: Write<'_>) -> Result<()> {
        self.write_plain(&row, write)
    }

    fn clear(&mut self, table: TableId, scope: Scope<'_>) -> Result<()> {
        let id = scope.group();
        check_owned_group(&self.owned, id)?;
        check_scope(&scope)?;
        self.check_defined()?;
        if self.group(id).is_none() {
            return Ok(());
        }
        let scope = scope.place(self.table_slots.slot_of(table));
        self.change(id, |group, rules, _| group.clear(&Place::of_clear(&scope), rules))
    }

    fn scan_key(
        &mut self,
        table: TableId,
        key: &CurrentKey<'_>,
        namespace: &[u8],
        range: SubRange<'_>,
        mut visit: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<()> {
        let row = RowRef { table: self.table_slots.slot_of(table), key, namespace, sub: &[] };
        check_row(&row)?;
        self.check_defined()?;
        let place = Place::of_row(&row);
        match self.group(key.group) {
            Some(group) => {
                let rules = self.rules.of(key.group);
                let visitor = LiveVisitor { group: key.group, rules, buffer: Vec::new(), visit: &mut visit };
                group.scan_key(key.hash, &place, range, visitor)
            }
            None => check_owned_group(&self.owned, key.group),
        }
    }

    fn prefetch(&mut self, rows: &[RowRef<'_>]) {
        self.prefetch_rows(rows);
    }

    fn prefetch_keys(&self, keys: &[CurrentKey<'_>]) {
        self.announce_keys(keys);
    }

    #[inline]
    fn read_many(
        &mut self,
        table: TableId,
        namespace: &[u8],
        keys: &[CurrentKey<'_>],
        f: impl FnMut(usize, Option<&[u8]>) -> Result<()>,
    ) -> Result<()> {
        self.read_keys(table, namespace, keys, f)
    }

    #[inline]
    fn update_many(
        &mut self,
        table: TableId,
        namespace: &[u8],
        keys: &[CurrentKey<'_>],
        f: impl FnMut(usize, Stored<'_>, &mut Vec<u8>) -> (Option<Change>, Result<()>),
    ) -> Result<()> {
        self.update_keys(table, namespace, keys, f)
    }

    fn scan(
        &mut self,
        table: TableId,
        groups: &KeyGroupSet,
        prefix: &[u8],
        mut visit: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<()> {
        check_owned(&self.owned, groups)?;
        let table = self.table_slots.slot_of(table);
        for id in groups.iter() {
            let Some(group) = self.group(id) else { continue };
            let visitor = LiveVisitor { group: id, rules: self.rules.of(id), buffer: Vec::new(), visit: &mut visit };
            if !group.scan(table, prefix, visitor)? {
                break;
            }
        }
        Ok(())
    }

    fn seal(&mut self, cut: Cut, bases: &KeyGroupSet) -> Result<Sealed> {
        self.check_defined()?;
        self.cuts.check(&cut)?;
        check_owned(&self.owned, bases)?;
        self.cuts.note(&cut);
        self.rules.advance(cut.event_time, cut.processing_time);
        Ok(self.seal_dirty(cut, bases))
    }

    fn settle(&mut self, epoch: Epoch, outcome: Outcome) -> Result<()> {
        self.cuts.settle(epoch, outcome)
    }

    fn load(&mut self, rows: &dyn RowSource, groups: &KeyGroupSet) -> Result<()> {
        check_unowned(&self.owned, groups)?;
        let threads = self.load_threads;
        let loaded = self.loader(rows).0.load_all(groups, threads)?;
        self.add_groups(groups);
        for (id, group) in loaded {
            *group_cell(&mut self.groups, id) = Some(group);
        }
        self.relieve();
        Ok(())
    }

    fn load_more(&mut self, rows: &dyn RowSource, groups: &KeyGroupSet) -> Result<()> {
        check_owned(&self.owned, groups)?;
        let (loader, cells) = self.loader(rows);
        let mut batch = RowBatch::new();
        for id in groups.iter() {
            loader.load(id, group_cell(cells, id), &mut batch)?;
        }
        Ok(())
    }

    fn group_loader(&mut self, tables: &[TableId]) -> Option<Arc<dyn GroupLoader>> {
        Some(Arc::new(self.detached_loader(tables)))
    }

    fn adopt(&mut self, loaded: Loaded, groups: &KeyGroupSet) -> Result<()> {
        self.adopt_loaded(loaded, groups)
    }

    fn make_room(&mut self) -> bool {
        self.make_room_now()
    }

    fn dirty_groups(&self) -> KeyGroupSet {
        self.dirty.iter().copied().collect()
    }

    fn drop_groups(&mut self, groups: &KeyGroupSet) -> Result<()> {
        check_owned(&self.owned, groups)?;
        self.owned = self.owned.difference(groups);
        self.rules.forget(groups);
        self.dirty.retain(|id| !groups.contains(*id));
        groups.iter().for_each(|id| *group_cell(&mut self.groups, id) = None);
        Ok(())
    }

    /// # Cost
    /// One step per group that was ever written.
    fn stats(&self) -> BackendStats {
        let memory_bytes = self.charge.bytes() + self.arena.free_bytes();
        let mut stats = BackendStats { memory_bytes, ..BackendStats::default() };
        for group in self.groups.iter().flatten() {
            let tail = group.unsealed();
            if let Some(early) = &group.early {
                stats.dirty_rows += early.rows;
                stats.dirty_bytes += early.bytes;
            }
            stats.rows += group.rows;
            stats.live_bytes += group.live_bytes;
            stats.memory_bytes += group.held_bytes();
            stats.dirty_rows += tail.records();
            stats.dirty_bytes += tail.bytes();
        }
        stats
    }
}
