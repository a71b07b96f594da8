//! The native backend: a log per key group.
//!
//! ```text
//! group = index: row -> address of its newest record
//!         families: key and namespace -> the rows with sub-keys, for maps
//!         frozen regions, oldest first   shared with what was sealed, never written again
//!         tail                           what was written since the last seal: it *is* the next delta
//! ```
//!
//! A write to a row whose newest record lies in the tail is done in place; any other appends a record to the tail, so
//! that the first touch copies. Sealing turns tails into frozen regions and starts new ones; it copies nothing.
//!
//! Invariants:
//! - the tail has at most one record per row that is not dead, so it is a delta without any diffing;
//! - a frozen region never changes, and lives as long as the group or a sealed part needs it;
//! - an operation on the hot path allocates nothing and touches no atomic, but where a region or an index grows;
//! - groups share nothing: one can be loaded, dropped, sealed or cleaned alone.

mod arena;
mod chains;
mod chunk;
mod clean;
mod families;
mod group;
mod index;
mod join;
mod pieces;
mod record;
mod region;
mod scan;
mod slots;
mod subs;
#[cfg(test)]
mod tests;
mod warmer;

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result, broken};
use crate::id::{Epoch, TableId};
use crate::key_group::{CurrentKey, KeyGroup, KeyGroupSet, Partitioner};
use crate::memory::{Charge, MemoryBudget};
use crate::row::{
    Cut, Fold, FoldedGroup, GroupTimes, MergeOperator, Row, RowBatch, RowKey, RowSource, Rules, Sealed, SealedPart,
    SegmentKind, TableRules,
};
use crate::time::Timestamp;

use self::arena::{Arena, prefetch};
use self::chunk::Chunk;
use self::group::{Found, Group, by_key};
use self::index::row_hash;
use self::record::Place;
use self::region::Half;
use self::scan::Live;
use self::slots::{Slots, renumber};
use super::cuts::Cuts;
use super::heat::Heat;
use super::{BackendStats, Change, Entry, Outcome, RowRef, Scope, StateBackend, SubRange, Write};
use super::{check_lengths, check_new, check_owned, check_owns, check_scope, check_value, no_operator, not_owned};

/// Rows that are on their way at once: enough to keep the memory busy, few enough to be there still when they are used.
const PREFETCHED_ROWS: usize = 32;

/// Groups that are on their way at once where all dirty ones are gone through.
const GROUPS_AHEAD: usize = 4;

/// The state of one subtask, as a log per key group.
///
/// Memory beside the rows themselves: 5 bytes of header for a small row (key below 128 bytes, value below 256, no
/// namespace), and an index entry of 8 bytes in a table that is at least 3/8 full. Garbage is bounded: each group
/// holds at most 4 times the bytes of its records (live rows, and tombstones until the segments that they hide are
/// cleaned) plus 272 KiB, and usually a quarter more than them; small groups hold much less than that constant.
pub struct LogBackend {
    owned: KeyGroupSet,
    partitioner: Partitioner,
    arena: Arena,
    cuts: Cuts,
    /// By slot: see [`Slots`].
    rules: Rules,
    slots: Slots,
    /// By group number; a group without rows so far takes no more than its place here.
    groups: Vec<Option<Box<Group>>>,
    /// Groups that were written since the last seal, each once.
    dirty: Vec<KeyGroup>,
    /// Seals so far.
    seals: u32,
    /// Where the cleaner last stopped that writes call when the budget is spent.
    reclaim_next: usize,
    /// Reused for new values.
    scratch: Vec<u8>,
    /// Reused for values that are not stored as they read.
    value: Vec<u8>,
    /// For `groups` itself.
    charge: Charge,
}

impl fmt::Debug for LogBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (groups, stats) = (&self.owned, self.stats());
        f.debug_struct("LogBackend").field("groups", groups).field("stats", &stats).finish_non_exhaustive()
    }
}

impl LogBackend {
    /// Returns a backend that owns `groups`, without rows, and charges `budget` for what it holds.
    ///
    /// * `partitioner`: the one that locates the keys of all its rows: restored rows come without hashes. A new row
    ///   whose key another one located is refused.
    #[must_use]
    pub fn new(groups: KeyGroupSet, partitioner: Partitioner, budget: MemoryBudget) -> Self {
        Self::with_arena(&groups, partitioner, Arena::new(&budget))
    }

    /// As [`LogBackend::new`], with all memory from the global allocator: where that is to see every byte, or nothing may
    /// be mapped. Slower once the state is larger than the caches.
    #[must_use]
    pub fn on_heap(groups: KeyGroupSet, partitioner: Partitioner, budget: MemoryBudget) -> Self {
        Self::with_arena(&groups, partitioner, Arena::without_blocks(&budget))
    }

    fn with_arena(groups: &KeyGroupSet, partitioner: Partitioner, arena: Arena) -> Self {
        let charge = arena.budget().charge(0);
        let mut backend = Self {
            owned: KeyGroupSet::empty(),
            partitioner,
            arena,
            cuts: Cuts::default(),
            rules: Rules::none(),
            slots: Slots::default(),
            groups: Vec::new(),
            dirty: Vec::new(),
            seals: 0,
            reclaim_next: 0,
            scratch: Vec::new(),
            value: Vec::new(),
            charge,
        };
        backend.own(groups);
        backend
    }

    fn own(&mut self, groups: &KeyGroupSet) {
        self.owned = self.owned.union(groups);
        let end = self.owned.ranges().last().map_or(0, |range| usize::from(range.end));
        if self.groups.len() < end {
            self.groups.reserve_exact(end - self.groups.len());
            self.groups.resize_with(end, || None);
        }
        self.charge.resize((self.groups.capacity() * size_of::<Option<Box<Group>>>()) as u64);
    }

    /// Returns the group if it has been written ever.
    fn group(&self, group: KeyGroup) -> Option<&Group> {
        self.groups.get(usize::from(group.0))?.as_deref()
    }

    /// Returns a group that is owned, and its rules.
    fn group_mut(&mut self, group: KeyGroup) -> (&mut Group, &Rules) {
        let slot = slot(&mut self.groups, group);
        let group_mut = slot.get_or_insert_with(|| Box::new(Group::new(self.partitioner, &self.arena)));
        (group_mut, self.rules.of(group))
    }

    /// Returns the row's group, hash and place, and its entry if it has one.
    fn locate<'a>(&mut self, row: &RowRef<'a>) -> Result<Located<'a>> {
        let (place, id) = (Place::of(&self.slots.put(row)), row.key.group);
        check_lengths(row)?;
        let hash = row_hash(row.key.hash, &place);
        match self.group(id) {
            Some(group) => Ok(Located { id, hash, place, found: group.find(hash, &place) }),
            None if self.owned.contains(id) => Ok(Located { id, hash, place, found: None }),
            None => Err(not_owned(&self.owned, id)),
        }
    }

    /// Returns the row's value where another of its length can be written over it and nothing else changes: it was written
    /// since the last seal, and is stored as it reads.
    #[inline]
    fn in_place(&mut self, located: &Located<'_>) -> Option<(&mut Heat, &mut [u8], &Rules)> {
        let found = located.found.filter(|_| self.rules.plain(located.place.table))?;
        let group = self.groups.get_mut(usize::from(located.id.0))?.as_deref_mut()?;
        let value = group.regions.plain_tail_value(found.address, &found.shape)?;
        Some((&mut group.heat, value, self.rules.of(located.id)))
    }

    /// Calls `f` with the row's value, and its group's rules.
    fn with_value<R>(&mut self, located: &Located<'_>, f: impl FnOnce(Option<&[u8]>, &Rules) -> R) -> Result<R> {
        if let Some(Some(group)) = self.groups.get_mut(usize::from(located.id.0)) {
            group.heat.read();
        }
        let (mut buffer, rules) = (std::mem::take(&mut self.value), self.rules.of(located.id));
        let value = match (self.group(located.id), located.found) {
            (Some(group), Some(found)) => group.value(located.hash, located.place.table, &found, rules, &mut buffer),
            (_, None) => Ok(None),
            (None, Some(_)) => broken("a row that was found is in a group"),
        };
        let result = value.map(|value| f(value, rules));
        let result = result.map_err(|error| error.with("table", self.slots.table(located.place.table)));
        self.value = buffer;
        result
    }

    /// Begins the row's life anew, if reading does that in its table and it has a value. Returns whether that moved it.
    fn renew(&mut self, located: &Located<'_>) -> Result<bool> {
        let table = located.place.table;
        let on_read = self.rules.table(table).and_then(|rules| rules.ttl).is_some_and(|ttl| ttl.on_read);
        let Some(found) = located.found.filter(|_| on_read) else { return Ok(false) };
        let stamp = self.group(located.id).and_then(|group| group.stamp(found.address));
        if stamp == self.rules.of(located.id).mark(table).1 {
            return Ok(false);
        }
        self.update_at(located, |value, _, same| {
            // One that is too long to be written anew is read as it is.
            let Some(value) = value.filter(|value| check_value(value).is_ok()) else { return (Change::Keep, false) };
            same.extend_from_slice(value);
            (Change::Put, true)
        })
    }

    /// As [`StateBackend::update`]; `f` also gets the rules.
    #[inline]
    fn update_at<R>(
        &mut self,
        located: &Located<'_>,
        f: impl FnOnce(Option<&[u8]>, &Rules, &mut Vec<u8>) -> (Change, R),
    ) -> Result<R> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let (change, result) = match self.in_place(located) {
            Some((heat, value, rules)) => {
                heat.read();
                let (change, result) = f(Some(value), rules, &mut scratch);
                if matches!(change, Change::Put) && scratch.len() == value.len() {
                    value.copy_from_slice(&scratch);
                    heat.write();
                    self.scratch = scratch;
                    return Ok(result);
                }
                (change, result)
            }
            None => self.with_value(located, |value, rules| f(value, rules, &mut scratch))?,
        };
        let set = match change {
            Change::Keep => Ok(()),
            Change::Put => self.set(located, Some(&scratch)),
            Change::Delete => self.set(located, None),
        };
        self.scratch = scratch;
        set.map(|()| result)
    }

    /// Merges an operand into the row's value, which is read unless it grows.
    fn merge(&mut self, located: &Located<'_>, operand: &[u8]) -> Result<()> {
        check_value(operand)?;
        let Located { hash, place, found, .. } = *located;
        let no_operator = || no_operator(self.slots.table(place.table));
        if operator(&self.rules, place.table).ok_or_else(no_operator)?.grows() {
            return self.change(located.id, |group, rules, again| {
                let found = if again { group.find(hash, &place) } else { found };
                group.add_piece(hash, &place, found, operand, rules)
            });
        }
        self.update_at(located, |value, rules, merged| {
            let Some(value) = value else {
                merged.extend_from_slice(operand);
                return (Change::Put, Ok(()));
            };
            let merge = operator(rules, place.table).ok_or_else(|| Error::usage("table has no merge operator"));
            let result = merge.and_then(|it| it.merge(value, operand, merged));
            (if result.is_ok() { Change::Put } else { Change::Keep }, result)
        })?
    }

    /// Gives the row a value, or none.
    fn set(&mut self, located: &Located<'_>, value: Option<&[u8]>) -> Result<()> {
        value.map_or(Ok(()), check_value)?;
        if value.is_none() && located.found.is_none() {
            return Ok(());
        }
        let Located { hash, place, .. } = *located;
        self.change(located.id, |group, rules, again| {
            let found = if again { group.find(hash, &place) } else { located.found };
            group.set(hash, &place, found, value, rules)
        })
    }

    /// Changes a group that is owned, and once again if the budget was spent and cleaning may have made room. It is told
    /// which time it is: cleaning moves records.
    fn change(&mut self, id: KeyGroup, change: impl Fn(&mut Group, &Rules, bool) -> Result<()>) -> Result<()> {
        let (group, rules) = self.group_mut(id);
        if let Err(refused) = change(group, rules, false) {
            if refused.kind() != ErrorKind::Limit {
                return Err(refused);
            }
            self.reclaim();
            self.arena.release();
            let (group, rules) = self.group_mut(id);
            change(group, rules, true)?;
        }
        let (group, _) = self.group_mut(id);
        group.heat.write();
        if !std::mem::replace(&mut group.listed, true) {
            self.dirty.push(id);
        }
        Ok(())
    }
}

impl LogBackend {
    /// Asks for groups that are soon to be sealed, and for the tails of those that were asked for before.
    fn prefetch_for_seal(&self, dirty: &[KeyGroup], at: usize) {
        let ahead = |by: usize| self.group(*dirty.get(at + by)?);
        ahead(2 * GROUPS_AHEAD).into_iter().for_each(prefetch);
        ahead(GROUPS_AHEAD).into_iter().for_each(|group| group.regions.prefetch_tail());
    }

    /// Adds rows to a group.
    ///
    /// * `by_id`: the rules by table id, as the rows come.
    fn load_group(
        &mut self,
        rows: &dyn RowSource,
        id: KeyGroup,
        by_id: &Rules,
        group: &mut Option<Box<Group>>,
        batch: &mut RowBatch,
    ) -> Result<()> {
        let mut folded = FoldedGroup::new(rows, id, Fold::Base, by_id);
        while folded.next_batch(batch)? {
            batch.renumber(|table| self.slots.of(table));
            let new = || Box::new(Group::new(self.partitioner, &self.arena));
            group.get_or_insert_with(new).load(batch, self.rules.of(id), &self.arena)?;
        }
        Ok(())
    }

    fn part(&self, kind: SegmentKind, groups: KeyGroupSet, chunks: Vec<(KeyGroup, Arc<Chunk>)>) -> SealedPart {
        let rules = self.rules.renumbered(|slot| self.slots.table(slot));
        SealedPart {
            kind,
            groups: groups.clone(),
            rows: Arc::new(Chunks { groups, chunks, slots: self.slots.clone() }),
            rules,
        }
    }
}

/// Returns the place of a group that is owned.
fn slot(groups: &mut [Option<Box<Group>>], group: KeyGroup) -> &mut Option<Box<Group>> {
    match groups.get_mut(usize::from(group.0)) {
        Some(slot) => slot,
        None => broken("a group that is owned has a place"),
    }
}

/// Returns the operator of a table that merges.
fn operator(rules: &Rules, slot: TableId) -> Option<&dyn MergeOperator> {
    rules.table(slot)?.merge.as_deref()
}

/// A row of a group that is owned.
struct Located<'a> {
    id: KeyGroup,
    hash: u32,
    place: Place<'a>,
    found: Option<Found>,
}

impl StateBackend for LogBackend {
    fn groups(&self) -> &KeyGroupSet {
        &self.owned
    }

    fn define(&mut self, table: TableId, rules: TableRules) {
        let table = self.slots.of(table);
        let order = rules.ordered && !self.rules.table(table).is_some_and(|known| known.ordered);
        let before = by_key(&self.rules, table);
        self.rules.define(table, rules);
        let now = by_key(&self.rules, table);
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
        renumber(&mut times, |table| self.slots.of(table));
        self.rules.resume(&times);
    }

    fn times(&self) -> Vec<GroupTimes> {
        let mut times = self.rules.times(&self.owned);
        renumber(&mut times, |slot| self.slots.table(slot));
        times
    }

    fn read<R>(&mut self, row: RowRef<'_>, f: impl FnOnce(Option<&[u8]>) -> R) -> Result<R> {
        let mut located = self.locate(&row)?;
        if self.rules.expire() && self.renew(&located)? {
            located = self.locate(&row)?;
        }
        self.with_value(&located, |value, _| f(value))
    }

    fn update<R>(&mut self, row: RowRef<'_>, f: impl FnOnce(Option<&[u8]>, &mut Vec<u8>) -> (Change, R)) -> Result<R> {
        let located = self.locate(&row)?;
        self.update_at(&located, |value, _, scratch| f(value, scratch))
    }

    fn write(&mut self, row: RowRef<'_>, write: Write<'_>) -> Result<()> {
        let located = self.locate(&row)?;
        match write {
            Write::Put(value) => match self.in_place(&located) {
                Some((heat, old, _)) if old.len() == value.len() => {
                    old.copy_from_slice(value);
                    heat.write();
                    Ok(())
                }
                _ => self.set(&located, Some(value)),
            },
            Write::Delete => self.set(&located, None),
            Write::Merge(operand) => self.merge(&located, operand),
        }
    }

    fn clear(&mut self, table: TableId, scope: Scope<'_>) -> Result<()> {
        let id = scope.group();
        check_owns(&self.owned, id)?;
        check_scope(&scope)?;
        if self.group(id).is_none() {
            return Ok(());
        }
        let scope = scope.place(self.slots.of(table));
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
        let row = RowRef { table: self.slots.of(table), key, namespace, sub: &[] };
        check_lengths(&row)?;
        let place = Place::of(&row);
        match self.group(key.group) {
            Some(group) => {
                let rules = self.rules.of(key.group);
                let live = Live { group: key.group, rules, buffer: Vec::new(), visit: &mut visit };
                group.scan_key(key.hash, &place, range, live)
            }
            None => check_owns(&self.owned, key.group),
        }
    }

    /// Asks for index slots first, and for records once slots are there.
    fn prefetch(&mut self, rows: &[RowRef<'_>]) {
        let mut hashes = [0; PREFETCHED_ROWS];
        for rows in rows.chunks(PREFETCHED_ROWS) {
            for (row, hash) in rows.iter().zip(&mut hashes) {
                *hash = row_hash(row.key.hash, &Place::of(&self.slots.put(row)));
                if let Some(group) = self.group(row.key.group) {
                    group.index.prefetch(*hash);
                }
            }
            for (row, hash) in rows.iter().zip(hashes) {
                let group = self.group(row.key.group);
                if let Some((group, address)) = group.and_then(|group| Some((group, group.index.first(hash)?))) {
                    group.regions.prefetch(address);
                }
            }
        }
    }

    fn scan(
        &mut self,
        table: TableId,
        groups: &KeyGroupSet,
        prefix: &[u8],
        mut visit: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<()> {
        check_owned(&self.owned, groups)?;
        let table = self.slots.of(table);
        for id in groups.iter() {
            let Some(group) = self.group(id) else { continue };
            let live = Live { group: id, rules: self.rules.of(id), buffer: Vec::new(), visit: &mut visit };
            if !group.scan(table, prefix, live)? {
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
            let Some(group) = slot(&mut self.groups, id) else { broken("a dirty group was written") };
            let keep = !bases.contains(id);
            let rows = group.freeze(|chunk| delta.extend(keep.then_some((id, chunk))));
            dirty_rows += rows;
            heat.push(group.heat(id, rows, self.seals));
        }
        self.dirty = dirty;
        self.dirty.clear();
        let mut base = Vec::new();
        for id in bases.iter() {
            let Some(group) = slot(&mut self.groups, id) else { continue };
            group.regions.share(|chunk| base.push((id, chunk)));
        }
        let mut parts = Vec::new();
        if !bases.is_empty() {
            parts.push(self.part(SegmentKind::Base, bases.clone(), base));
        }
        if !delta.is_empty() {
            parts.push(self.part(SegmentKind::Delta, delta.iter().map(|(id, _)| *id).collect(), delta));
        }
        Ok(Sealed { cut, parts, dirty_rows, heat, statistics: Arc::default() })
    }

    fn settle(&mut self, epoch: Epoch, outcome: Outcome) -> Result<()> {
        self.cuts.settle(epoch, outcome)
    }

    fn load(&mut self, rows: &dyn RowSource, groups: &KeyGroupSet) -> Result<()> {
        check_new(&self.owned, groups)?;
        let by_id = self.rules.renumbered(|slot| self.slots.table(slot));
        let (mut loaded, mut batch) = (Vec::new(), RowBatch::new());
        for id in groups.iter() {
            let mut group = None;
            self.load_group(rows, id, &by_id, &mut group, &mut batch)?;
            loaded.extend(group.map(|group| (id, group)));
        }
        self.own(groups);
        for (id, group) in loaded {
            *slot(&mut self.groups, id) = Some(group);
        }
        Ok(())
    }

    fn load_more(&mut self, rows: &dyn RowSource, groups: &KeyGroupSet) -> Result<()> {
        check_owned(&self.owned, groups)?;
        let by_id = self.rules.renumbered(|slot| self.slots.table(slot));
        let mut batch = RowBatch::new();
        for id in groups.iter() {
            let mut group = slot(&mut self.groups, id).take();
            let loaded = self.load_group(rows, id, &by_id, &mut group, &mut batch);
            *slot(&mut self.groups, id) = group;
            loaded?;
        }
        Ok(())
    }

    fn drop_groups(&mut self, groups: &KeyGroupSet) -> Result<()> {
        check_owned(&self.owned, groups)?;
        self.owned = self.owned.difference(groups);
        self.rules.forget(groups);
        self.dirty.retain(|id| !groups.contains(*id));
        groups.iter().for_each(|id| *slot(&mut self.groups, id) = None);
        Ok(())
    }

    /// # Cost
    /// One step per group that was ever written.
    fn stats(&self) -> BackendStats {
        let memory_bytes = self.charge.bytes() + self.arena.free_bytes();
        let mut stats = BackendStats { memory_bytes, ..BackendStats::default() };
        for group in self.groups.iter().flatten() {
            let mut tail = group.regions.run(Half::Tail).tally;
            tail.add(&group.regions.run(Half::Clears).tally);
            stats.rows += group.rows;
            stats.live_bytes += group.live_bytes;
            stats.memory_bytes += group.held_bytes();
            stats.dirty_rows += tail.records();
            stats.dirty_bytes += tail.bytes();
        }
        stats
    }
}

/// What a sealed part shares with the backend: the regions of some groups.
#[derive(Debug)]
struct Chunks {
    groups: KeyGroupSet,
    slots: Slots,
    /// By group, then oldest first.
    chunks: Vec<(KeyGroup, Arc<Chunk>)>,
}

impl RowSource for Chunks {
    fn groups(&self) -> &KeyGroupSet {
        &self.groups
    }

    fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        let start = self.chunks.partition_point(|(id, _)| *id < group);
        let of_group = self.chunks.iter().skip(start).take_while(|(id, _)| *id == group);
        for (_, record) in of_group.flat_map(|(_, chunk)| chunk.records()) {
            if !record.shape.is_dead() {
                let row = record.row();
                let key = RowKey { table: self.slots.table(row.key.table), ..row.key };
                batch.push(&Row { key, ..row })?;
            }
        }
        Ok(())
    }

    fn held_bytes(&self) -> u64 {
        self.chunks.iter().map(|(_, chunk)| chunk.held_bytes()).sum()
    }
}
