//! State in RocksDB: larger than memory, ordered by row key.
//!
//! ```text
//! writes --> active layer --seal--> frozen layer --+--> Delta of the next checkpoint
//! reads <--  active, frozen, view of RocksDB       +--> RocksDB, by the writer thread; a view of it is the next Base
//! ```
//!
//! The writes since the last seal are a layer in memory, and the seal makes that layer the delta. So a checkpoint needs
//! no flush and no comparison of files, and does not depend on compaction. RocksDB receives a layer after its seal, in
//! one batch.
//!
//! Invariants:
//! - a layer is in RocksDB as a whole or not at all; reads see it either over the view or in the view;
//! - only the thread of [`writer`] writes while layers are queued; loads and `drop_groups` drain the queue first;
//! - a sealed part owns an immutable view or immutable layers.

mod base;
mod callbacks;
mod cell;
mod counts;
mod db;
mod gauges;
mod load;
mod loader;
mod longest;
mod row_write;
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
use self::counts::Counts;
use self::db::{Db, View};
use self::load::SortedFiles;
use self::loader::DetachedLoader;
use self::longest::LongestRows;
use self::row_write::Prior;
use self::slot::Layer;
use self::span::Span;
use self::stack::Stack;
use self::writer::{LayerWrite, Writer};
use super::checks::{CutOrder, check_owned, check_owned_group, check_row, check_scope, check_unowned, check_value};
use super::layer::Layers;
use super::row_key::{decode_row_key, encode_clear, encode_row_key, parts, row_bytes};
use super::{
    BackendStats, Change, Entry, GroupLoader, Loaded as LoadedGroups, Outcome, RowRef, Scope, StateBackend, SubRange,
    Write,
};
use crate::error::Result;
use crate::id::{Epoch, TableId};
use crate::key_group::{CurrentKey, KeyGroupSet};
use crate::memory::MemoryBudget;
use crate::row::{Cut, GroupTimes, RowKey, RowSource, Rules, Sealed, SealedPart, SegmentKind, TableRules};
use crate::time::Timestamp;

pub use settings::{RocksDb, RocksDbSettings};

/// With this many frozen layers, a seal waits until RocksDB has them all.
const MAX_FROZEN_LAYERS: usize = 8;

/// The state of one subtask in its own RocksDB database. Created by [`RocksDb::backend`].
#[derive(Debug)]
pub struct RocksDbBackend {
    groups: KeyGroupSet,
    budget: MemoryBudget,
    cuts: CutOrder,
    rules: Rules,
    stack: Stack,
    /// Number of the last layer sealed.
    layers: u64,
    counts: Counts,
    longest: LongestRows,
    /// Buffer for the current row's encoded key.
    row_key: Vec<u8>,
    /// Buffer for values made of several pieces.
    value: Vec<u8>,
    /// Buffer for new values.
    scratch: Vec<u8>,
    writer: Writer,
    /// Closed with its last owner: views in sealed parts keep it open.
    db: Arc<Db>,
}

impl RocksDbBackend {
    fn new(db: Arc<Db>, groups: KeyGroupSet, budget: MemoryBudget) -> Result<Self> {
        let view = View::new(&db, 0, Rules::none());
        Ok(Self {
            groups,
            cuts: CutOrder::default(),
            rules: Rules::none(),
            stack: Stack { active: Layer::new(&budget), frozen: VecDeque::new(), view },
            layers: 0,
            counts: Counts::default(),
            longest: LongestRows::default(),
            row_key: Vec::new(),
            value: Vec::new(),
            scratch: Vec::new(),
            writer: Writer::start(&db)?,
            budget,
            db,
        })
    }

    /// Returns an integer property of the database, such as `rocksdb.live-sst-files-size`; `None` if RocksDB has no
    /// property of this name.
    ///
    /// # Errors
    /// `Unavailable` if RocksDB cannot read the property.
    pub fn property(&self, name: &str) -> Result<Option<u64>> {
        self.db.inner().property_int_value(name).map_err(|error| db::rocksdb_error("cannot read a property", error))
    }

    /// Checks the row's address, makes the row current and adopts the newest view.
    fn locate(&mut self, row: &RowRef<'_>) -> Result<()> {
        check_owned_group(&self.groups, row.key.group)?;
        check_row(row)?;
        encode_row_key(
            row.key.group,
            &RowKey::data(row.table, row.key.bytes, row.namespace, row.sub),
            &mut self.row_key,
        );
        self.adopt_newest_view();
        Ok(())
    }

    /// Adopts a newer view of RocksDB, if there is one.
    fn adopt_newest_view(&mut self) {
        if self.stack.frozen.is_empty() {
            return;
        }
        if let Some(view) = self.writer.view_after(self.stack.view.layers) {
            self.stack.adopt(view);
        }
    }

    /// Adds restored rows of `groups`, all or none.
    fn load_rows(&mut self, rows: &dyn RowSource, groups: &KeyGroupSet) -> Result<()> {
        let files = SortedFiles::write(&self.db.loads, rows, groups, &self.rules)?;
        self.take_over(&files)
    }

    /// Adds the rows in `files`, all or none.
    fn take_over(&mut self, files: &SortedFiles) -> Result<()> {
        self.drain()?;
        files.ingest(&self.db)?;
        self.longest.add_loaded(&files.longest);
        self.stack.view = View::new(&self.db, self.layers, self.rules.clone());
        for (group, loaded) in &files.loaded {
            self.counts.add(*group, loaded.rows, loaded.live_bytes, loaded.payload_bytes);
        }
        Ok(())
    }

    /// Waits until RocksDB has all sealed layers.
    fn drain(&mut self) -> Result<()> {
        if let Some(view) = self.writer.wait(self.layers)?
            && view.layers > self.stack.view.layers
        {
            self.stack.adopt(view);
        }
        Ok(())
    }

    /// Counts the rows in `span` that a clear covers.
    fn covered(&self, span: &Span, covers: impl Fn(&[u8]) -> Result<bool>) -> Result<Covered> {
        let mut covered = Covered::default();
        let active = &self.stack.active.rows;
        self.stack.scan(span, true, |row_key, found| {
            if covers(row_key)? {
                let payload_bytes = found.payload_bytes().unwrap_or(0);
                covered.rows += 1;
                covered.payload_bytes += payload_bytes;
                covered.live_bytes += row_bytes(row_key) + payload_bytes;
                covered.below |= !active.contains_key(row_key);
            }
            Ok(true)
        })?;
        for (row_key, slot) in active.range::<[u8], _>(span.bounds()) {
            if covers(row_key)? {
                covered.written.push(row_key.clone());
                // The clear removes this slot, perhaps a tombstone: without the clear, the row that it hides would
                // return.
                covered.below |= slot.below_bytes.is_some();
            }
        }
        Ok(covered)
    }

    /// Visits the live rows of `table` in `span` that pass `filter`; returns false if `visit` stopped the scan.
    ///
    /// * `fill_cache`: whether the blocks are likely to be read again.
    fn visit(
        &self,
        table: TableId,
        span: &Span,
        fill_cache: bool,
        filter: impl Fn(&RowKey<'_>) -> bool,
        visit: &mut impl FnMut(Entry<'_>) -> bool,
    ) -> Result<bool> {
        let mut buffer = Vec::new();
        self.stack.scan(span, fill_cache, |row_key, found| {
            let (group, row) = decode_row_key(row_key)?;
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

/// The rows that a clear covers.
#[derive(Debug, Default)]
struct Covered {
    rows: u64,
    live_bytes: u64,
    payload_bytes: u64,
    /// Row keys of covered slots in the active layer.
    written: Vec<Box<[u8]>>,
    /// Whether a covered row exists below the active layer.
    below: bool,
}

impl StateBackend for RocksDbBackend {
    fn groups(&self) -> &KeyGroupSet {
        &self.groups
    }

    fn define(&mut self, table: TableId, rules: TableRules) {
        self.rules.define(table, rules);
        self.db.shared_rules.set(&self.rules);
    }

    fn advance(&mut self, event_time: Timestamp, processing_time: Timestamp) {
        self.rules.advance(event_time, processing_time);
    }

    fn resume(&mut self, times: &[GroupTimes]) {
        self.rules.resume(times);
        self.db.shared_rules.set(&self.rules);
    }

    fn times(&self) -> Vec<GroupTimes> {
        self.rules.times(&self.groups)
    }

    fn read<R>(&mut self, row: RowRef<'_>, f: impl FnOnce(Option<&[u8]>) -> R) -> Result<R> {
        self.locate(&row)?;
        self.counts.read(row.key.group);
        let found = self.stack.find(&self.row_key)?;
        let renews = self.rules.table(row.table).and_then(|rules| rules.ttl).is_some_and(|ttl| ttl.on_read);
        let (prior, rules) = (Prior::Read(found.payload_bytes()), self.rules.of(row.key.group));
        let Some(value) = found.value(rules, row.table, &mut self.value)? else { return Ok(f(None)) };
        // A value too long to be written again is returned without renewal.
        if !renews || check_value(value).is_err() || found.stamp()? == rules.mark(row.table).1 {
            return Ok(f(Some(value)));
        }
        let value = value.to_vec();
        drop(found);
        self.set(row.table, row.key.routing, Some(&value), prior)?;
        Ok(f(Some(&value)))
    }

    fn update<R>(&mut self, row: RowRef<'_>, f: impl FnOnce(Option<&[u8]>, &mut Vec<u8>) -> (Change, R)) -> Result<R> {
        self.locate(&row)?;
        self.counts.read(row.key.group);
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let found = self.stack.find(&self.row_key)?;
        let prior = Prior::Read(found.payload_bytes());
        let (change, result) = f(found.value(self.rules.of(row.key.group), row.table, &mut self.value)?, &mut scratch);
        drop(found);
        let set = match change {
            Change::Keep => Ok(()),
            Change::Put => self.set(row.table, row.key.routing, Some(&scratch), prior),
            Change::Delete => self.set(row.table, row.key.routing, None, prior),
        };
        self.scratch = scratch;
        set.map(|()| result)
    }

    fn write(&mut self, row: RowRef<'_>, write: Write<'_>) -> Result<()> {
        self.locate(&row)?;
        match write {
            Write::Put(value) => self.set(row.table, row.key.routing, Some(value), Prior::Unread),
            Write::Delete => {
                // Without this read, a delete of an absent row would ship and store a tombstone.
                let prior = Prior::Read(self.stack.find(&self.row_key)?.payload_bytes());
                self.set(row.table, row.key.routing, None, prior)
            }
            Write::Merge(operand) => self.merge(row.table, row.key.routing, operand),
        }
    }

    fn clear(&mut self, table: TableId, scope: Scope<'_>) -> Result<()> {
        let group = scope.group();
        check_owned_group(&self.groups, group)?;
        check_scope(&scope)?;
        self.adopt_newest_view();
        let key = scope.place(table);
        let span = Span::of_clear(group, &key);
        let covers = |row_key: &[u8]| {
            let (_, row) = decode_row_key(row_key)?;
            Ok(key.key.is_some() || row.namespace == key.namespace)
        };
        let covered = self.covered(&span, covers)?;
        if covered.below {
            self.stack.active.insert_clear(&encode_clear(group, &key), Some(&self.budget))?;
        }
        self.counts.remove(group, covered.rows, covered.live_bytes, covered.payload_bytes);
        covered.written.iter().for_each(|row_key| self.stack.active.remove(row_key));
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
        check_owned_group(&self.groups, key.group)?;
        check_row(&RowRef { table, key, namespace, sub: &[] })?;
        self.adopt_newest_view();
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
        self.adopt_newest_view();
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
        self.adopt_newest_view();
        if self.stack.frozen.len() >= MAX_FROZEN_LAYERS {
            self.drain()?;
        }
        self.cuts.note(&cut);
        self.rules.advance(cut.event_time, cut.processing_time);
        let layer = Arc::new(std::mem::replace(&mut self.stack.active, Layer::new(&self.budget)));
        self.longest.seal();
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
        check_unowned(&self.groups, groups)?;
        self.load_rows(rows, groups)?;
        self.groups = self.groups.union(groups);
        Ok(())
    }

    fn load_more(&mut self, rows: &dyn RowSource, groups: &KeyGroupSet) -> Result<()> {
        check_owned(&self.groups, groups)?;
        self.load_rows(rows, groups)
    }

    fn group_loader(&mut self, _tables: &[TableId]) -> Option<Arc<dyn GroupLoader>> {
        Some(Arc::new(DetachedLoader::new(&self.db.loads, &self.rules)))
    }

    /// Has files ingested, which takes some syncs of the disk, once RocksDB has all sealed layers.
    fn adopt(&mut self, loaded: LoadedGroups, groups: &KeyGroupSet) -> Result<()> {
        check_unowned(&self.groups, groups)?;
        self.take_over(&*loader::files_of(loaded)?)?;
        self.groups = self.groups.union(groups);
        Ok(())
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
        self.db.shared_rules.set(&self.rules);
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
