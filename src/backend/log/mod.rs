//! The native backend: a log per key group.
//!
//! ```text
//! group = index: row -> address of its newest record
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

mod clean;
mod group;
mod index;
mod record;
mod region;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::id::{Epoch, TableId};
use crate::key_group::{CurrentKey, KeyGroup, KeyGroupSet, Partitioner};
use crate::memory::{Charge, MemoryBudget};
use crate::segment::{Cut, Fold, RowBatch, RowSource, Rules, Sealed, SealedPart, SegmentKind, TableRules};
use crate::time::Timestamp;

use self::group::{Found, Group};
use self::index::row_hash;
use self::record::Place;
use self::region::{Chunk, Half};
use super::cuts::Cuts;
use super::{BackendStats, Change, Entry, Outcome, RowRef, Scope, StateBackend, SubRange, Write};
use super::{check_lengths, check_new, check_owned, check_value};

/// The state of one subtask, as a log per key group.
///
/// Memory beside the rows themselves: 5 bytes of header for a small row (key below 128 bytes, value below 256, no
/// namespace), and an index entry of 13 bytes in a table that is at least 7/16 full. Garbage is bounded: each group
/// holds at most 4 times the bytes of its records (live rows, and tombstones until the segments that they hide are
/// cleaned) plus 272 KiB, and usually less than twice; small groups hold much less than that constant.
pub struct LogBackend {
    owned: KeyGroupSet,
    partitioner: Partitioner,
    budget: MemoryBudget,
    cuts: Cuts,
    /// By group number; a group without rows so far takes no more than its place here.
    groups: Vec<Option<Box<Group>>>,
    /// Groups that were written since the last seal, each once.
    dirty: Vec<KeyGroup>,
    /// Where the cleaner last stopped that writes call when the budget is spent.
    reclaim_next: usize,
    /// Reused for new values.
    scratch: Vec<u8>,
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
        let charge = budget.charge(0);
        let mut backend = Self {
            owned: KeyGroupSet::empty(),
            partitioner,
            budget,
            cuts: Cuts::default(),
            groups: Vec::new(),
            dirty: Vec::new(),
            reclaim_next: 0,
            scratch: Vec::new(),
            charge,
        };
        backend.own(&groups);
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

    /// Returns a group that is owned.
    fn group_mut(&mut self, group: KeyGroup) -> Option<&mut Group> {
        let slot = self.groups.get_mut(usize::from(group.0))?;
        Some(slot.get_or_insert_with(|| Box::new(Group::new(self.partitioner, &self.budget))))
    }

    /// Returns the row's group, hash and place, and its entry if it has one.
    fn locate<'a>(&self, row: &RowRef<'a>) -> Result<Located<'a>> {
        let (place, id) = (Place::of(row), row.key.group);
        check_lengths(row)?;
        let hash = row_hash(row.key.hash, &place);
        match self.group(id) {
            Some(group) => Ok(Located { id, hash, place, found: group.find(hash, &place) }),
            None if self.owned.contains(id) => Ok(Located { id, hash, place, found: None }),
            None => Err(Error::usage("key group is not owned").with("group", id).with("owned", &self.owned)),
        }
    }

    fn value(&self, located: &Located<'_>) -> Option<&[u8]> {
        self.group(located.id)?.value(located.found?)
    }

    fn set(&mut self, located: &Located<'_>, value: Option<&[u8]>) -> Result<()> {
        value.map_or(Ok(()), check_value)?;
        let Located { id, hash, place, found } = located;
        if value.is_none() && found.is_none() {
            return Ok(());
        }
        let refused = self.group_mut(*id).and_then(|group| group.set(*hash, place, *found, value).err());
        if let Some(refused) = refused {
            self.reclaim();
            // Cleaning moved records.
            let again = self.group_mut(*id).map(|group| group.set(*hash, place, group.find(*hash, place), value));
            again.unwrap_or(Err(refused))?;
        }
        let listed = self.group_mut(*id).map(|group| std::mem::replace(&mut group.listed, true));
        if listed == Some(false) {
            self.dirty.push(*id);
        }
        Ok(())
    }
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

    fn read<R>(&mut self, row: RowRef<'_>, f: impl FnOnce(Option<&[u8]>) -> R) -> Result<R> {
        let located = self.locate(&row)?;
        Ok(f(self.value(&located)))
    }

    fn update<R>(&mut self, row: RowRef<'_>, f: impl FnOnce(Option<&[u8]>, &mut Vec<u8>) -> (Change, R)) -> Result<R> {
        let located = self.locate(&row)?;
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let (change, result) = f(self.value(&located), &mut scratch);
        let set = match change {
            Change::Keep => Ok(()),
            Change::Put => self.set(&located, Some(&scratch)),
            Change::Delete => self.set(&located, None),
        };
        self.scratch = scratch;
        set.map(|()| result)
    }

    fn write(&mut self, row: RowRef<'_>, write: Write<'_>) -> Result<()> {
        let located = self.locate(&row)?;
        match write {
            Write::Put(value) => self.set(&located, Some(value)),
            Write::Delete => self.set(&located, None),
            Write::Merge(_) => Err(super::no_operator(row.table)),
        }
    }

    fn define(&mut self, _table: TableId, _rules: TableRules) {}

    fn advance(&mut self, _event_time: Timestamp, _processing_time: Timestamp) {}

    fn clear(&mut self, table: TableId, _scope: Scope<'_>) -> Result<()> {
        Err(super::no_operator(table))
    }

    fn scan_key(
        &mut self,
        table: TableId,
        _key: &CurrentKey<'_>,
        _namespace: &[u8],
        _range: SubRange<'_>,
        _visit: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<()> {
        Err(super::no_operator(table))
    }

    /// Does nothing: safe code has no prefetch instruction, and reading ahead of time would be no hint.
    fn prefetch(&mut self, _rows: &[RowRef<'_>]) {}

    fn scan(
        &mut self,
        table: TableId,
        groups: &KeyGroupSet,
        prefix: &[u8],
        mut visit: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<()> {
        check_owned(&self.owned, groups)?;
        for id in groups.iter() {
            if self.group(id).is_some_and(|group| !group.scan(id, table, prefix, &mut visit)) {
                break;
            }
        }
        Ok(())
    }

    fn seal(&mut self, cut: Cut, bases: &KeyGroupSet) -> Result<Sealed> {
        self.cuts.check(&cut)?;
        check_owned(&self.owned, bases)?;
        self.cuts.note(&cut);
        self.dirty.sort_unstable();
        let mut dirty_rows = 0;
        let mut delta = Vec::new();
        for id in self.dirty.drain(..) {
            let Some(Some(group)) = self.groups.get_mut(usize::from(id.0)) else { continue };
            let keep = !bases.contains(id);
            dirty_rows += group.freeze(|chunk| delta.extend(keep.then_some((id, chunk))));
        }
        let mut base = Vec::new();
        for id in bases.iter() {
            let Some(Some(group)) = self.groups.get_mut(usize::from(id.0)) else { continue };
            group.regions.share(|chunk| base.push((id, chunk)));
        }
        let mut parts = Vec::new();
        if !bases.is_empty() {
            parts.push(part(SegmentKind::Base, bases.clone(), base));
        }
        if !delta.is_empty() {
            parts.push(part(SegmentKind::Delta, delta.iter().map(|(id, _)| *id).collect(), delta));
        }
        Ok(Sealed { cut, parts, dirty_rows })
    }

    fn settle(&mut self, epoch: Epoch, outcome: Outcome) -> Result<()> {
        self.cuts.settle(epoch, outcome)
    }

    fn load(&mut self, rows: &dyn RowSource, groups: &KeyGroupSet) -> Result<()> {
        check_new(&self.owned, groups)?;
        let mut loaded = Vec::new();
        let mut batch = RowBatch::new();
        for id in groups.iter() {
            batch.clear();
            rows.append_group(id, &mut batch)?;
            batch.fold(Fold::Base, &Rules::none())?;
            if !batch.is_empty() {
                loaded.push((id, Box::new(Group::load(&batch, self.partitioner, &self.budget)?)));
            }
        }
        self.own(groups);
        for (id, group) in loaded {
            if let Some(slot) = self.groups.get_mut(usize::from(id.0)) {
                *slot = Some(group);
            }
        }
        Ok(())
    }

    fn drop_groups(&mut self, groups: &KeyGroupSet) -> Result<()> {
        check_owned(&self.owned, groups)?;
        self.owned = self.owned.difference(groups);
        self.dirty.retain(|id| !groups.contains(*id));
        for id in groups.iter() {
            if let Some(slot) = self.groups.get_mut(usize::from(id.0)) {
                *slot = None;
            }
        }
        Ok(())
    }

    /// # Cost
    /// One step per group that was ever written.
    fn stats(&self) -> BackendStats {
        let mut stats = BackendStats { memory_bytes: self.charge.bytes(), ..BackendStats::default() };
        for group in self.groups.iter().flatten() {
            let tail = group.regions.run(Half::Tail).tally;
            stats.rows += group.rows;
            stats.live_bytes += group.live_bytes;
            stats.memory_bytes += group.held_bytes();
            stats.dirty_rows += tail.records();
            stats.dirty_bytes += tail.bytes();
        }
        stats
    }
}

fn part(kind: SegmentKind, groups: KeyGroupSet, chunks: Vec<(KeyGroup, Arc<Chunk>)>) -> SealedPart {
    SealedPart { kind, groups: groups.clone(), rows: Arc::new(Chunks { groups, chunks }), rules: Rules::none() }
}

/// What a sealed part shares with the backend: the regions of some groups.
#[derive(Debug)]
struct Chunks {
    groups: KeyGroupSet,
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
            if !record.is_dead() {
                batch.push(&record.row())?;
            }
        }
        Ok(())
    }

    fn held_bytes(&self) -> u64 {
        self.chunks.iter().map(|(_, chunk)| chunk.held_bytes()).sum()
    }
}
