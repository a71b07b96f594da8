//! The native backend: a log per key group.
//!
//! ```text
//! group = index: row -> address of its newest record
//!         families: key and namespace -> the rows with sub-keys, for maps
//!         frozen regions, oldest first   shared with sealed parts, immutable
//!         tail                           the writes since the last seal: the next delta as it is
//! ```
//!
//! A write to a row whose newest record lies in the tail happens in place. Any other write appends a record to the
//! tail: the first touch after a seal copies the row. A seal turns tails into frozen regions and starts new ones; it
//! copies nothing.
//!
//! Invariants:
//! - the tail has at most one live record per row, so it is a delta without any diffing;
//! - a frozen region never changes, and lives as long as the group or a sealed part needs it;
//! - an operation on the hot path allocates nothing and touches no atomic, except where a region or an index grows;
//! - groups share nothing: each can be loaded, dropped, sealed or cleaned alone.

mod adopt;
mod arena;
mod batch;
mod chains;
mod chunk;
mod clean;
mod families;
mod group;
mod index;
mod join;
mod load;
mod pieces;
mod plain;
mod record;
mod region;
mod regions;
mod row_access;
mod row_hashes;
mod scan;
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
use std::sync::{Arc, Mutex, OnceLock};

use crate::error::{Result, broken};
use crate::id::{Epoch, TableId};
use crate::key_group::{CurrentKey, KeyGroup, KeyGroupSet, Partitioner};
use crate::memory::{Charge, MemoryBudget};
use crate::row::{Cut, GroupHeat, GroupTimes, RowBatch, RowSource, Rules, Sealed, SealedPart, SegmentKind, TableRules};
use crate::time::Timestamp;

use self::arena::Chunk;
use self::arena::{Arena, prefetch};
use self::group::{Group, has_families};
use self::load::{Loader, default_threads};
use self::record::Place;
use self::region::Section;
use self::scan::LiveVisitor;
use self::sealed::SealedChunks;
use self::short_row::RuledSlots;
use self::table_slots::{TableSlots, renumber};
use super::checks::{CutOrder, check_owned, check_owned_group, check_row, check_scope, check_unowned};
use super::{
    BackendStats, Change, Entry, GroupLoader, Loaded, Outcome, RowRef, Scope, StateBackend, Stored, SubRange, Write,
};

/// Groups prefetched ahead in a pass over all dirty groups.
const GROUPS_AHEAD: usize = 4;

/// Groups without writes whose heat a seal reports.
const IDLE_HEAT: usize = 8;

/// The state of one subtask, as a log per key group.
///
/// Memory beyond the rows themselves: 5 bytes of header for a small row (key below 128 bytes, value below 256, no
/// namespace), and an index entry of 8 bytes in a table that is at least 3/8 full. Garbage is bounded: a group holds at
/// most 4 times the bytes of its records (live rows, and tombstones until the cleaner has dropped the records they
/// hide) plus 272 KiB. It usually holds a quarter more than its records; small groups hold much less than the constant.
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
    /// Where [`LogBackend::reclaim`] last stopped.
    reclaim_next: usize,
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
        Self::with_arena(&groups, partitioner, Arena::new(&budget))
    }

    /// As [`LogBackend::new`], with all memory from the global allocator: for allocators that must see every byte, and
    /// for systems that forbid mappings. Slower once the state is larger than the caches.
    #[must_use]
    pub fn on_heap(groups: KeyGroupSet, partitioner: Partitioner, budget: MemoryBudget) -> Self {
        Self::with_arena(&groups, partitioner, Arena::without_blocks(&budget))
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
            reclaim_next: 0,
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

    /// Prefetches groups that are soon to be sealed, and the tails of groups that were prefetched before.
    fn prefetch_for_seal(&self, dirty: &[KeyGroup], at: usize) {
        let ahead = |by: usize| self.group(*dirty.get(at + by)?);
        ahead(2 * GROUPS_AHEAD).into_iter().for_each(prefetch);
        ahead(GROUPS_AHEAD).into_iter().for_each(|group| group.regions.prefetch_tail());
    }

    /// Adds the heat of some groups that were not written, in turn: they may have been read.
    fn add_idle_heat(&mut self, heat: &mut Vec<GroupHeat>) {
        let (seals, dirty) = (self.seals, heat.len());
        for _ in 0..IDLE_HEAT.min(self.groups.len()) {
            self.heat_next = if self.heat_next + 1 < self.groups.len() { self.heat_next + 1 } else { 0 };
            let Some(Some(group)) = self.groups.get_mut(self.heat_next) else { continue };
            let Ok(id) = u16::try_from(self.heat_next).map(KeyGroup) else { continue };
            let written = heat.get(..dirty).unwrap_or_default();
            if written.binary_search_by_key(&id, |of_group| of_group.group).is_err() {
                heat.push(group.heat(id, 0, seals));
            }
        }
        heat.sort_unstable_by_key(|of_group| of_group.group);
    }

    /// Returns what loads `rows`, and the groups.
    fn loader<'a>(&'a mut self, rows: &'a dyn RowSource) -> (Loader<'a>, &'a mut [Option<Box<Group>>]) {
        let by_id = self.rules.renumbered(|slot| self.table_slots.table(slot));
        let (rules, table_slots) = (&self.rules, Mutex::new(&mut self.table_slots));
        let loader = Loader { rows, by_id, rules, table_slots, partitioner: self.partitioner, arena: &self.arena };
        (loader, &mut self.groups)
    }

    fn sealed_part(&self, kind: SegmentKind, groups: KeyGroupSet, chunks: Vec<(KeyGroup, Arc<Chunk>)>) -> SealedPart {
        let rules = self.rules.renumbered(|slot| self.table_slots.table(slot));
        SealedPart {
            kind,
            groups: groups.clone(),
            rows: Arc::new(SealedChunks {
                groups,
                chunks,
                table_slots: self.table_slots.clone(),
                bytes: OnceLock::new(),
            }),
            rules,
        }
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
            if before != now {
                group.group_by_key(table, now, &self.rules);
            } else if order {
                group.order(table);
            }
        }
    }

    fn advance(&mut self, event_time: Timestamp, processing_time: Timestamp) {
        self.rules.advance(event_time, processing_time);
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
        self.cuts.check(&cut)?;
        check_owned(&self.owned, bases)?;
        self.cuts.note(&cut);
        self.rules.advance(cut.event_time, cut.processing_time);
        self.dirty.sort_unstable();
        self.seals = self.seals.saturating_add(1);
        let (mut dirty_rows, mut heat) = (0, Vec::with_capacity(self.dirty.len()));
        let mut delta = Vec::new();
        let dirty = std::mem::take(&mut self.dirty);
        for (at, &id) in dirty.iter().enumerate() {
            self.prefetch_for_seal(&dirty, at);
            let Some(group) = group_cell(&mut self.groups, id) else { broken("a dirty group was written") };
            let keep = !bases.contains(id);
            let rows = group.freeze(|chunk| delta.extend(keep.then_some((id, chunk))));
            dirty_rows += rows;
            heat.push(group.heat(id, rows, self.seals));
        }
        self.dirty = dirty;
        self.dirty.clear();
        self.add_idle_heat(&mut heat);
        let mut base = Vec::new();
        for id in bases.iter() {
            let Some(group) = group_cell(&mut self.groups, id) else { continue };
            group.regions.share(|chunk| base.push((id, chunk)));
        }
        let mut parts = Vec::new();
        if !bases.is_empty() {
            parts.push(self.sealed_part(SegmentKind::Base, bases.clone(), base));
        }
        if !delta.is_empty() {
            parts.push(self.sealed_part(SegmentKind::Delta, delta.iter().map(|(id, _)| *id).collect(), delta));
        }
        Ok(Sealed { cut, parts, dirty_rows, heat, statistics: Arc::default() })
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
            let mut tail = group.regions.run(Section::Tail).tally;
            tail.add(&group.regions.run(Section::Clears).tally);
            stats.rows += group.rows;
            stats.live_bytes += group.live_bytes;
            stats.memory_bytes += group.held_bytes();
            stats.dirty_rows += tail.records();
            stats.dirty_bytes += tail.bytes();
        }
        stats
    }
}
