//! State in RocksDB: far larger than memory, in the order of its keys.
//!
//! ```text
//! writes --> active layer --seal--> frozen layer --+--> Delta of the next checkpoint
//! reads <--  active, frozen, view of RocksDB       +--> RocksDB, by a thread of its own; a view of it is the next Base
//! ```
//!
//! What was written since the last seal is held in a layer in memory and is, at the seal, the delta: no flush, no files
//! to compare, and what compaction rewrites is nobody's business. RocksDB gets a layer after it was sealed, in one batch.
//!
//! Invariants:
//! - a layer is in RocksDB as a whole or not at all; reads see it either in front of a view or in it;
//! - only the thread of [`writer`] writes rows while layers wait; loads and dropped groups wait for it;
//! - a sealed part owns a view or layers that nobody changes.

mod base;
mod cell;
mod counts;
mod db;
mod gauges;
mod lengths;
mod load;
mod rows;
mod settings;
mod slot;
mod span;
mod stack;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::VecDeque;
use std::sync::Arc;

use rocksdb::{WriteBatch, properties};

use self::base::Base;
use self::cell::{pieces_of, put_all, put_one};
use self::counts::Counts;
use self::db::{Db, View};
use self::lengths::Lengths;
use self::slot::{Layer, Slot};
use self::span::Span;
use self::stack::{Stack, gone};
use self::writer::{Write as LayerWrite, Writer};
use super::cuts::Cuts;
use super::layer::Layers;
use super::place::{clear_place, group_of, parts, read_place, row_bytes, write_place};
use super::{
    BackendStats, Change, Entry, Outcome, RowRef, Scope, StateBackend, SubRange, Write, check_lengths, check_new,
    check_owned, check_owns, check_scope, check_value, no_operator,
};
use crate::error::Result;
use crate::id::{Epoch, TableId};
use crate::key_group::{CurrentKey, KeyGroupSet};
use crate::memory::MemoryBudget;
use crate::row::{
    Below, Cut, GroupTimes, MAX_VALUE_BYTES, OwnedPiece, Piece, RowKey, RowSource, Rules, Sealed, SealedPart,
    SegmentKind, TableRules,
};
use crate::time::Timestamp;

pub use settings::{RocksDb, RocksDbSettings};

/// With this many layers on their way into RocksDB a seal waits for it.
const MOST_FROZEN: usize = 8;

/// The state of one subtask in a RocksDB database of its own. [`RocksDb`] makes it.
#[derive(Debug)]
pub struct RocksDbBackend {
    groups: KeyGroupSet,
    budget: MemoryBudget,
    cuts: Cuts,
    rules: Rules,
    stack: Stack,
    /// Layers sealed so far.
    layers: u64,
    counts: Counts,
    lengths: Lengths,
    /// Reused for the place of the row at hand.
    place: Vec<u8>,
    /// Reused for values that are made of several pieces.
    value: Vec<u8>,
    /// Reused for new values.
    scratch: Vec<u8>,
    writer: Writer,
    /// Closed when all else that has it is gone.
    db: Arc<Db>,
}

/// What is known of the row at a place that the active layer says nothing of.
#[derive(Debug, Clone, Copy)]
enum Known {
    /// Nothing yet.
    No,
    /// Its bytes, `None` if there is none.
    Yes(Option<u64>),
}

impl RocksDbBackend {
    fn new(db: Arc<Db>, groups: KeyGroupSet, budget: MemoryBudget) -> Result<Self> {
        let view = View::new(&db, 0, Rules::none());
        Ok(Self {
            groups,
            cuts: Cuts::default(),
            rules: Rules::none(),
            stack: Stack { active: Layer::new(&budget), frozen: VecDeque::new(), view },
            layers: 0,
            counts: Counts::default(),
            lengths: Lengths::default(),
            place: Vec::new(),
            value: Vec::new(),
            scratch: Vec::new(),
            writer: Writer::start(&db)?,
            budget,
            db,
        })
    }

    /// Returns a number that RocksDB knows of the database by this name, such as `rocksdb.live-sst-files-size`; `None` if
    /// it knows none.
    ///
    /// # Errors
    /// `Unavailable` if it cannot tell.
    pub fn property(&self, name: &str) -> Result<Option<u64>> {
        self.db.inner().property_int_value(name).map_err(|error| db::of_rocksdb("cannot read a property", error))
    }

    /// Refuses a row that this backend cannot hold, else makes its place current.
    fn locate(&mut self, row: &RowRef<'_>) -> Result<()> {
        check_owns(&self.groups, row.key.group)?;
        check_lengths(row)?;
        write_place(row.key.group, &RowKey::data(row.table, row.key.bytes, row.namespace, row.sub), &mut self.place);
        self.rebase();
        Ok(())
    }

    /// Returns the rules of the group of the current place.
    fn rules_here(&self) -> &Rules {
        self.rules.of(group_of(&self.place))
    }

    /// Takes over a newer view of RocksDB, if there is one.
    fn rebase(&mut self) {
        if self.stack.frozen.is_empty() {
            return;
        }
        if let Some(view) = self.writer.view_after(self.stack.view.layers) {
            self.stack.rebase(view);
        }
    }

    /// Adds rows of `groups`, all or none.
    fn add_rows(&mut self, rows: &dyn RowSource, groups: &KeyGroupSet) -> Result<()> {
        self.drain()?;
        let loaded = load::load(&self.db, rows, groups, &self.rules, &mut self.lengths)?;
        self.lengths.seal();
        self.stack.view = View::new(&self.db, self.layers, self.rules.clone());
        for (group, loaded) in loaded {
            self.counts.add(group, loaded.rows, loaded.live_bytes, loaded.payload_bytes);
        }
        Ok(())
    }

    /// Waits until RocksDB has all layers.
    fn drain(&mut self) -> Result<()> {
        if let Some(view) = self.writer.wait(self.layers)?
            && view.layers > self.stack.view.layers
        {
            self.stack.rebase(view);
        }
        Ok(())
    }

    /// Gives the row at the current place a value, or none.
    fn set(&mut self, table: TableId, routing: Option<u64>, value: Option<&[u8]>, known: Known) -> Result<()> {
        value.map_or(Ok(()), check_value)?;
        let (old, below) = match self.stack.active.rows.get(self.place.as_slice()) {
            Some(slot) => (slot.payload_bytes(), slot.below),
            None => {
                let below = self.below(known);
                (below, below)
            }
        };
        if value.is_none() && below.is_none() {
            self.stack.active.remove(&self.place);
        } else {
            let slot = match value {
                Some(bytes) => {
                    let (version, stamp) = self.rules_here().mark(table);
                    let mut cell = Vec::with_capacity(bytes.len() + 1);
                    put_one(&mut cell, routing, &Piece { bytes, version, stamp })?;
                    Slot { whole: true, cell, below, below_was_read: false }
                }
                None => gone(routing, below)?,
            };
            self.stack.active.insert(&self.place, slot, Some(&self.budget))?;
        }
        self.note(old, value.map(|value| value.len() as u64));
        self.lengths.note(table, value.map_or(0, |value| value.len() as u64));
        Ok(())
    }

    /// Merges an operand into the row at the current place, without reading what is in RocksDB of it, unless the row might
    /// become too long.
    fn merge(&mut self, table: TableId, routing: Option<u64>, operand: &[u8]) -> Result<()> {
        check_value(operand)?;
        let here = self.rules.of(group_of(&self.place));
        let rules = here.table(table).filter(|rules| rules.merge.is_some()).ok_or_else(|| no_operator(table))?;
        let (version, stamp) = here.mark(table);
        let operand = OwnedPiece { bytes: operand.to_vec(), version, stamp };
        let there = self.stack.active.rows.get(self.place.as_slice());
        let own = there.map_or(0, Slot::own_bytes);
        let (longest, read) = self.below_at_most(table, rules, there, &operand)?;
        let (old, slot) = match there {
            Some(slot) => {
                let mut pieces = pieces_of([slot.cell.as_slice()])?;
                let longest = longest + own + operand.bytes.len() as u64;
                pieces.push(operand);
                self.lengths.note(table, longest);
                let below = if slot.whole { Below::Nothing } else { Below::Unknown };
                let pieces = rules.combine(pieces, below, here.now(rules), false)?;
                let mut cell = Vec::new();
                put_all(&mut cell, routing, &pieces)?;
                let below = read.map_or(slot.below, |read| read.map(|bytes| bytes - own));
                let below_was_read = slot.below_was_read || read.is_some();
                (slot.payload_bytes(), Slot { whole: slot.whole, cell, below, below_was_read })
            }
            None => {
                self.lengths.note(table, longest + operand.bytes.len() as u64);
                let below = self.below(read.map_or(Known::No, Known::Yes));
                let mut cell = Vec::new();
                put_all(&mut cell, routing, &[operand])?;
                (below, Slot { whole: below.is_none(), cell, below, below_was_read: read.is_some() })
            }
        };
        let new = slot.payload_bytes();
        self.stack.active.insert(&self.place, slot, Some(&self.budget))?;
        self.note(old, new);
        Ok(())
    }

    /// Returns the bytes that the row at the current place has at most below the active layer; and all of its bytes, if
    /// that had to be read, `None` if there are none. What is merged is taken to be no longer than its parts: where it is,
    /// it stays in pieces.
    ///
    /// # Errors
    /// `Limit` if the row is too long with `operand`; what reading returns.
    fn below_at_most(
        &self,
        table: TableId,
        rules: &TableRules,
        there: Option<&Slot>,
        operand: &OwnedPiece,
    ) -> Result<(u64, Option<Option<u64>>)> {
        let longest = match there {
            Some(slot) if slot.whole => 0,
            Some(slot) if slot.below_was_read => slot.below.unwrap_or(0),
            _ => self.lengths.below(table),
        };
        let own = there.map_or(0, Slot::own_bytes);
        if longest + own + operand.bytes.len() as u64 <= MAX_VALUE_BYTES as u64 {
            return Ok((longest, None));
        }
        let found = self.stack.find(&self.place)?;
        let pieces = found.pieces()?;
        rules.check_length(pieces.iter().chain([operand]).map(OwnedPiece::borrow), self.rules_here().now(rules))?;
        let read = found.payload_bytes();
        Ok((read.unwrap_or(0) - own, Some(read)))
    }

    /// Returns the bytes of the row below the active layer, `None` if there is none: as far as they are known without
    /// reading from disk.
    fn below(&self, known: Known) -> Option<u64> {
        match known {
            Known::Yes(bytes) => bytes,
            Known::No => {
                let bytes = self.stack.peek(&self.place)?;
                Some(bytes.unwrap_or_else(|| self.counts.mean_payload_bytes(group_of(&self.place))))
            }
        }
    }

    /// Counts a write of the row at the current place.
    fn note(&mut self, old: Option<u64>, new: Option<u64>) {
        self.counts.note(group_of(&self.place), row_bytes(&self.place), old, new);
    }

    /// Returns what there is in `span` that a clear covers.
    fn covered(&self, span: &Span, covers: impl Fn(&[u8]) -> Result<bool>) -> Result<Covered> {
        let mut covered = Covered::default();
        let active = &self.stack.active.rows;
        self.stack.each(span, true, |place, found| {
            if covers(place)? {
                let payload_bytes = found.payload_bytes().unwrap_or(0);
                covered.rows += 1;
                covered.payload_bytes += payload_bytes;
                covered.live_bytes += row_bytes(place) + payload_bytes;
                covered.below |= !active.contains_key(place);
            }
            Ok(true)
        })?;
        for (place, slot) in active.range::<[u8], _>(span.bounds()) {
            if covers(place)? {
                covered.written.push(place.clone());
                // Rows that were deleted since the last seal are hidden by what goes now.
                covered.below |= slot.below.is_some();
            }
        }
        Ok(covered)
    }

    /// Visits the rows of `table` in `span` that pass `filter`; false if `visit` has enough.
    fn visit(
        &self,
        table: TableId,
        span: &Span,
        keep: bool,
        filter: impl Fn(&RowKey<'_>) -> bool,
        visit: &mut impl FnMut(Entry<'_>) -> bool,
    ) -> Result<bool> {
        let mut buffer = Vec::new();
        self.stack.each(span, keep, |place, found| {
            let (group, row) = read_place(place)?;
            if !filter(&row) {
                return Ok(true);
            }
            let [key, namespace, sub] = parts(&row);
            let routing = found.routing();
            let Some(value) = found.value(self.rules.of(group), table, &mut buffer)? else { return Ok(true) };
            Ok(visit(Entry { group, key, namespace, sub, value, routing }))
        })
    }
}

/// What a clear covers.
#[derive(Debug, Default)]
struct Covered {
    rows: u64,
    live_bytes: u64,
    payload_bytes: u64,
    /// Places that the active layer has.
    written: Vec<Box<[u8]>>,
    /// Whether anything lies below the active layer.
    below: bool,
}

impl StateBackend for RocksDbBackend {
    fn groups(&self) -> &KeyGroupSet {
        &self.groups
    }

    fn define(&mut self, table: TableId, rules: TableRules) {
        self.rules.define(table, rules);
        self.db.meaning.set(&self.rules);
    }

    fn advance(&mut self, event_time: Timestamp, processing_time: Timestamp) {
        self.rules.advance(event_time, processing_time);
    }

    fn resume(&mut self, times: &[GroupTimes]) {
        self.rules.resume(times);
        self.db.meaning.set(&self.rules);
    }

    fn times(&self) -> Vec<GroupTimes> {
        self.rules.times(&self.groups)
    }

    fn read<R>(&mut self, row: RowRef<'_>, f: impl FnOnce(Option<&[u8]>) -> R) -> Result<R> {
        self.locate(&row)?;
        self.counts.read(row.key.group);
        let found = self.stack.find(&self.place)?;
        let renews = self.rules.table(row.table).and_then(|rules| rules.ttl).is_some_and(|ttl| ttl.on_read);
        let (known, rules) = (Known::Yes(found.payload_bytes()), self.rules.of(row.key.group));
        let Some(value) = found.value(rules, row.table, &mut self.value)? else { return Ok(f(None)) };
        // One that is too long to be written anew is read as it is.
        if !renews || check_value(value).is_err() || found.stamp()? == rules.mark(row.table).1 {
            return Ok(f(Some(value)));
        }
        let value = value.to_vec();
        drop(found);
        self.set(row.table, row.key.routing, Some(&value), known)?;
        Ok(f(Some(&value)))
    }

    fn update<R>(&mut self, row: RowRef<'_>, f: impl FnOnce(Option<&[u8]>, &mut Vec<u8>) -> (Change, R)) -> Result<R> {
        self.locate(&row)?;
        self.counts.read(row.key.group);
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let found = self.stack.find(&self.place)?;
        let known = Known::Yes(found.payload_bytes());
        let (change, result) = f(found.value(self.rules.of(row.key.group), row.table, &mut self.value)?, &mut scratch);
        drop(found);
        let set = match change {
            Change::Keep => Ok(()),
            Change::Put => self.set(row.table, row.key.routing, Some(&scratch), known),
            Change::Delete => self.set(row.table, row.key.routing, None, known),
        };
        self.scratch = scratch;
        set.map(|()| result)
    }

    fn write(&mut self, row: RowRef<'_>, write: Write<'_>) -> Result<()> {
        self.locate(&row)?;
        match write {
            Write::Put(value) => self.set(row.table, row.key.routing, Some(value), Known::No),
            Write::Delete => {
                // A tombstone for a row that never was would be shipped and kept: that is worth a look.
                let known = Known::Yes(self.stack.find(&self.place)?.payload_bytes());
                self.set(row.table, row.key.routing, None, known)
            }
            Write::Merge(operand) => self.merge(row.table, row.key.routing, operand),
        }
    }

    fn clear(&mut self, table: TableId, scope: Scope<'_>) -> Result<()> {
        let group = scope.group();
        check_owns(&self.groups, group)?;
        check_scope(&scope)?;
        self.rebase();
        let key = scope.place(table);
        let span = Span::of_clear(group, &key);
        let covers = |place: &[u8]| {
            let (_, row) = read_place(place)?;
            Ok(key.key.is_some() || row.namespace == key.namespace)
        };
        let covered = self.covered(&span, covers)?;
        if covered.below {
            self.stack.active.insert_clear(&clear_place(group, &key), Some(&self.budget))?;
        }
        self.counts.remove(group, covered.rows, covered.live_bytes, covered.payload_bytes);
        covered.written.iter().for_each(|place| self.stack.active.remove(place));
        Ok(())
    }

    fn scan_key(
        &mut self,
        table: TableId,
        key: &CurrentKey<'_>,
        namespace: &[u8],
        range: SubRange<'_>,
        mut visit: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<()> {
        check_owns(&self.groups, key.group)?;
        check_lengths(&RowRef { table, key, namespace, sub: &[] })?;
        self.rebase();
        let span = Span::of_subs(key.group, table, [key.bytes, namespace], range);
        self.visit(table, &span, true, |_| true, &mut visit).map(|_| ())
    }

    fn prefetch(&mut self, _rows: &[RowRef<'_>]) {}

    fn scan(
        &mut self,
        table: TableId,
        groups: &KeyGroupSet,
        prefix: &[u8],
        mut visit: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<()> {
        check_owned(&self.groups, groups)?;
        self.rebase();
        let wanted = |row: &RowKey<'_>| row.key.is_some_and(|key| key.starts_with(prefix));
        for group in groups.iter() {
            if !self.visit(table, &Span::of_table(group, table), false, wanted, &mut visit)? {
                break;
            }
        }
        Ok(())
    }

    fn seal(&mut self, cut: Cut, bases: &KeyGroupSet) -> Result<Sealed> {
        self.cuts.check(&cut)?;
        check_owned(&self.groups, bases)?;
        self.rebase();
        if self.stack.frozen.len() >= MOST_FROZEN {
            self.drain()?;
        }
        self.cuts.note(&cut);
        self.rules.advance(cut.event_time, cut.processing_time);
        let layer = Arc::new(std::mem::replace(&mut self.stack.active, Layer::new(&self.budget)));
        self.lengths.seal();
        let dirty_rows = layer.len() as u64;
        let dirty = layer.groups().difference(bases);
        let heat = self.counts.seal(layer.entries_by_group());
        if dirty_rows > 0 {
            self.layers += 1;
            self.stack.frozen.push_back((self.layers, Arc::clone(&layer)));
            self.writer.send(LayerWrite { number: self.layers, layer: Arc::clone(&layer), rules: self.rules.clone() });
        }
        let part = |kind, groups, rows| SealedPart { kind, groups, rows, rules: self.rules.clone() };
        let mut parts = Vec::new();
        if !bases.is_empty() {
            let (view, layers) = (Arc::clone(&self.stack.view), self.stack.frozen_layers());
            let base = Base { groups: bases.clone(), view, layers };
            parts.push(part(SegmentKind::Base, bases.clone(), Arc::new(base)));
        }
        if !dirty.is_empty() {
            let delta = Layers { groups: dirty.clone(), layers: vec![layer] };
            parts.push(part(SegmentKind::Delta, dirty, Arc::new(delta)));
        }
        Ok(Sealed { cut, parts, dirty_rows, heat, statistics: self.writer.statistics() })
    }

    fn settle(&mut self, epoch: Epoch, outcome: Outcome) -> Result<()> {
        self.cuts.settle(epoch, outcome)
    }

    fn load(&mut self, rows: &dyn RowSource, groups: &KeyGroupSet) -> Result<()> {
        check_new(&self.groups, groups)?;
        self.add_rows(rows, groups)?;
        self.groups = self.groups.union(groups);
        Ok(())
    }

    fn load_more(&mut self, rows: &dyn RowSource, groups: &KeyGroupSet) -> Result<()> {
        check_owned(&self.groups, groups)?;
        self.add_rows(rows, groups)
    }

    fn drop_groups(&mut self, groups: &KeyGroupSet) -> Result<()> {
        check_owned(&self.groups, groups)?;
        self.drain()?;
        let mut batch = WriteBatch::default();
        for range in groups.ranges() {
            let [from, to] = [range.start, range.end].map(u16::to_be_bytes);
            batch.delete_range(from, to);
        }
        writer::write(&self.db, batch)?;
        self.stack.view = View::new(&self.db, self.layers, self.rules.clone());
        self.stack.active.drop_groups(groups);
        self.counts.drop_groups(groups);
        self.groups = self.groups.difference(groups);
        self.rules.forget(groups);
        self.db.meaning.set(&self.rules);
        Ok(())
    }

    fn stats(&self) -> BackendStats {
        let frozen: u64 = self.stack.frozen.iter().map(|(_, layer)| layer.charged_bytes()).sum();
        let memtables = self.db.inner().property_int_value(properties::CUR_SIZE_ALL_MEM_TABLES);
        BackendStats {
            rows: self.counts.rows,
            live_bytes: self.counts.live_bytes,
            memory_bytes: frozen + self.stack.active.charged_bytes() + memtables.ok().flatten().unwrap_or(0),
            dirty_rows: self.stack.active.len() as u64,
            dirty_bytes: self.stack.active.bytes(),
        }
    }
}
