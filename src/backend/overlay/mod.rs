//! The reference backend: layers of ordered maps, simple enough to be the oracle of the model tests.
//!
//! ```text
//! base <- sealed layer <- ... <- sealed layer <- active layer
//! ```
//!
//! Invariants:
//! - only the active layer is written; a row's value comes from the newest slots down to the first whole one;
//! - the base has no tombstones or clears; in other layers each of them hides a row of an older layer;
//! - a layer in a [`Sealed`] never changes: folding it into the base copies shared data.

mod row;
mod slot;

use std::collections::BTreeMap;
use std::ops::RangeBounds;
use std::sync::Arc;

use crate::error::Result;
use crate::id::{Epoch, TableId};
use crate::key_group::{CurrentKey, KeyGroup, KeyGroupSet};
use crate::memory::MemoryBudget;
use crate::row::{
    Cut, Fold, FoldedGroup, GroupHeat, GroupTimes, OwnedPiece, RowBatch, RowKey, RowSource, Rules, Sealed, SealedPart,
    SegmentKind, TableRules,
};
use crate::time::Timestamp;

use self::slot::{Layer, Slot, absorb};
use super::checks::{
    CutOrder, check_loadable, check_owned, check_owned_group, check_row, check_scope, check_unowned, check_value,
};
use super::heat::Heat;
use super::layer::Layers;
use super::row_key::{decode_trusted, encode_clear, encode_row_key, parts, row_bytes};
use super::{BackendStats, Change, Entry, Outcome, RowRef, Scope, StateBackend, SubRange, Write};

/// The state of one subtask in ordered maps.
#[derive(Debug)]
pub struct OverlayBackend {
    groups: KeyGroupSet,
    budget: MemoryBudget,
    cuts: CutOrder,
    rules: Rules,
    base: Arc<Layer>,
    sealed: Vec<(Epoch, Arc<Layer>)>,
    active: Layer,
    rows: u64,
    live_bytes: u64,
    heat: BTreeMap<KeyGroup, Heat>,
    /// Number of seals.
    seals: u32,
    /// Buffer for the current row's encoded key.
    row_key: Vec<u8>,
    /// Buffer for the current row's value.
    value: Vec<u8>,
    /// Buffer for new values.
    scratch: Vec<u8>,
}

impl OverlayBackend {
    /// Returns a backend without rows that owns `groups` and charges `budget` for its memory.
    #[must_use]
    pub fn new(groups: KeyGroupSet, budget: MemoryBudget) -> Self {
        Self {
            groups,
            cuts: CutOrder::default(),
            rules: Rules::none(),
            base: Arc::new(Layer::new(&budget)),
            sealed: Vec::new(),
            active: Layer::new(&budget),
            budget,
            rows: 0,
            live_bytes: 0,
            heat: BTreeMap::new(),
            seals: 0,
            row_key: Vec::new(),
            value: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Adds restored rows of `groups` to the base, all or none.
    fn load_rows(&mut self, rows: &dyn RowSource, groups: &KeyGroupSet) -> Result<()> {
        let mut loaded = Layer::new(&self.budget);
        let mut batch = RowBatch::new();
        let mut row_key = Vec::new();
        for group in groups.iter() {
            let mut folded = FoldedGroup::new(rows, group, Fold::Base, &self.rules);
            while folded.next_batch(&mut batch)? {
                for row in batch.iter() {
                    let (piece, operand) = check_loadable(&row)?;
                    encode_row_key(group, &row.key, &mut row_key);
                    let older = loaded.rows.get(row_key.as_slice()).filter(|_| operand);
                    let mut pieces = older.map(|slot| slot.pieces.clone()).unwrap_or_default();
                    pieces.push(OwnedPiece::of(&piece));
                    let slot = Slot { whole: true, pieces, routing: row.columns.routing };
                    loaded.insert(&row_key, slot, Some(&self.budget))?;
                }
            }
        }
        absorb(Arc::make_mut(&mut self.base), loaded);
        Ok(())
    }

    /// Checks the row's address and makes the row current.
    fn locate(&mut self, row: &RowRef<'_>) -> Result<()> {
        check_owned_group(&self.groups, row.key.group)?;
        check_row(row)?;
        encode_row_key(
            row.key.group,
            &RowKey::data(row.table, row.key.bytes, row.namespace, row.sub),
            &mut self.row_key,
        );
        Ok(())
    }

    /// Returns the sealed layers and the base, newest first.
    fn frozen(&self) -> impl DoubleEndedIterator<Item = &Arc<Layer>> {
        self.sealed.iter().rev().map(|(_, layer)| layer).chain([&self.base])
    }

    /// Returns the pieces and routing hashes of rows whose row keys start with `start`, by row key, expired pieces
    /// included.
    fn visible(&self, start: &[u8]) -> BTreeMap<Vec<u8>, (Vec<OwnedPiece>, Option<u64>)> {
        let mut found = BTreeMap::new();
        for layer in self.frozen().rev().map(Arc::as_ref).chain([&self.active]) {
            let row_keys = layer.starting_with(start);
            found.extend(row_keys.map(|(row_key, slot)| (row_key.to_vec(), (Vec::new(), slot.routing))));
        }
        for (row_key, (pieces, _)) in &mut found {
            *pieces = self.pieces(row_key);
        }
        found.retain(|_, (pieces, _)| !pieces.is_empty());
        found
    }

    /// Visits the live rows of `table` whose row keys start with `start` and that pass `filter`; returns false if
    /// `visit` stopped the scan.
    fn visit(
        &self,
        table: TableId,
        start: &[u8],
        filter: impl Fn(&RowKey<'_>) -> bool,
        visit: &mut impl FnMut(Entry<'_>) -> bool,
    ) -> Result<bool> {
        let mut value = Vec::new();
        for (row_key, (pieces, routing)) in self.visible(start) {
            let (group, row) = decode_trusted(&row_key);
            value.clear();
            if !filter(&row) || !Self::resolve(self.rules.of(group), table, pieces, &mut value)? {
                continue;
            }
            let [key, namespace, sub] = parts(&row);
            if !visit(Entry { group, key, namespace, sub, value: &value, routing }) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the heat of a group, and decays its usage counters.
    fn heat_of(&mut self, group: KeyGroup, dirty_rows: u64) -> GroupHeat {
        let (reads, writes) = self.heat.entry(group).or_default().at_seal(self.seals);
        let visible = self.visible(&group.0.to_be_bytes());
        let bytes = |(row_key, (pieces, _)): (&Vec<u8>, &(Vec<OwnedPiece>, _))| {
            row_bytes(row_key) + pieces.iter().map(|piece| piece.bytes.len() as u64).sum::<u64>()
        };
        let live_bytes = visible.iter().map(bytes).sum();
        GroupHeat { group, rows: visible.len() as u64, live_bytes, dirty_rows, reads, writes }
    }

    /// Counts live rows and bytes anew.
    fn recount(&mut self) {
        (self.rows, self.live_bytes) = (0, 0);
        for group in self.groups.clone().iter() {
            for (row_key, (pieces, _)) in self.visible(&group.0.to_be_bytes()) {
                self.count(&row_key, &pieces, true);
            }
        }
    }
}

/// Returns the prefix of the row keys of `table` in `group`.
fn table_prefix(group: KeyGroup, table: TableId) -> Vec<u8> {
    [group.0.to_be_bytes().as_slice(), &table.0.to_be_bytes()].concat()
}

impl StateBackend for OverlayBackend {
    fn groups(&self) -> &KeyGroupSet {
        &self.groups
    }

    fn define(&mut self, table: TableId, rules: TableRules) {
        self.rules.define(table, rules);
    }

    fn advance(&mut self, event_time: Timestamp, processing_time: Timestamp) {
        self.rules.advance(event_time, processing_time);
    }

    fn resume(&mut self, times: &[GroupTimes]) {
        self.rules.resume(times);
    }

    fn times(&self) -> Vec<GroupTimes> {
        self.rules.times(&self.groups)
    }

    fn read<R>(&mut self, row: RowRef<'_>, f: impl FnOnce(Option<&[u8]>) -> R) -> Result<R> {
        self.locate(&row)?;
        let found = self.read_current(row.table)?;
        let renews = self.rules.table(row.table).and_then(|rules| rules.ttl).is_some_and(|ttl| ttl.on_read);
        let stamp = self.pieces(&self.row_key).last().and_then(|piece| piece.stamp);
        // A value too long to be written again is returned without renewal.
        if found && renews && check_value(&self.value).is_ok() && stamp != self.current_rules().mark(row.table).1 {
            let value = std::mem::take(&mut self.value);
            self.set(row.table, row.key.routing, Some(&value))?;
            self.value = value;
        }
        Ok(f(found.then_some(&self.value)))
    }

    fn update<R>(&mut self, row: RowRef<'_>, f: impl FnOnce(Option<&[u8]>, &mut Vec<u8>) -> (Change, R)) -> Result<R> {
        self.locate(&row)?;
        let found = self.read_current(row.table)?;
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let (change, result) = f(found.then_some(&self.value), &mut scratch);
        let set = match change {
            Change::Keep => Ok(()),
            Change::Put => self.set(row.table, row.key.routing, Some(&scratch)),
            Change::Delete => self.set(row.table, row.key.routing, None),
        };
        self.scratch = scratch;
        set.map(|()| result)
    }

    fn write(&mut self, row: RowRef<'_>, write: Write<'_>) -> Result<()> {
        self.locate(&row)?;
        match write {
            Write::Put(value) => self.set(row.table, row.key.routing, Some(value)),
            Write::Delete => self.set(row.table, row.key.routing, None),
            Write::Merge(operand) => self.merge(row.table, row.key.routing, operand),
        }
    }

    fn clear(&mut self, table: TableId, scope: Scope<'_>) -> Result<()> {
        let group = scope.group();
        check_owned_group(&self.groups, group)?;
        check_scope(&scope)?;
        let key = scope.place(table);
        let covered = |row: &RowKey<'_>| {
            key.key.is_none_or(|key| row.key == Some(key)) && key.namespace.is_none_or(|n| row.namespace == Some(n))
        };
        let start = table_prefix(group, table);
        let mut rows = self.visible(&start);
        rows.retain(|row_key, _| covered(&decode_trusted(row_key).1));
        let written = self.active.starting_with(&start).map(|(row_key, _)| row_key.to_vec());
        let written: Vec<_> = written.filter(|row_key| covered(&decode_trusted(row_key).1)).collect();
        // `written` includes tombstones, which are removed below: without a clear, the rows that they hide would
        // return.
        if rows.keys().chain(&written).any(|row_key| !self.pieces_below(row_key).is_empty()) {
            self.active.insert_clear(&encode_clear(group, &key), Some(&self.budget))?;
        }
        for (row_key, (pieces, _)) in rows {
            self.count(&row_key, &pieces, false);
        }
        written.iter().for_each(|row_key| self.active.remove(row_key));
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
        let mut start = Vec::new();
        encode_row_key(key.group, &RowKey::data(table, key.bytes, namespace, &[]), &mut start);
        let within = |row: &RowKey<'_>| RangeBounds::<[u8]>::contains(&range, row.sub.unwrap_or_default());
        self.visit(table, &start, within, &mut visit).map(|_| ())
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
        let wanted = |row: &RowKey<'_>| row.key.is_some_and(|key| key.starts_with(prefix));
        for group in groups.iter() {
            if !self.visit(table, &table_prefix(group, table), wanted, &mut visit)? {
                break;
            }
        }
        Ok(())
    }

    fn seal(&mut self, cut: Cut, bases: &KeyGroupSet) -> Result<Sealed> {
        self.cuts.check(&cut)?;
        check_owned(&self.groups, bases)?;
        self.cuts.note(&cut);
        self.rules.advance(cut.event_time, cut.processing_time);
        let layer = Arc::new(std::mem::replace(&mut self.active, Layer::new(&self.budget)));
        let dirty_rows = layer.len() as u64;
        self.seals = self.seals.saturating_add(1);
        let dirty = layer.groups().difference(bases);
        if dirty_rows > 0 {
            self.sealed.push((cut.epoch, Arc::clone(&layer)));
        }
        let heat = layer.entries_by_group().map(|(group, dirty)| self.heat_of(group, dirty)).collect();
        let part = |kind, groups: KeyGroupSet, layers| SealedPart {
            kind,
            groups: groups.clone(),
            rows: Arc::new(Layers { groups, layers }),
            rules: self.rules.clone(),
        };
        let mut parts = Vec::new();
        if !bases.is_empty() {
            let layers = self.frozen().rev().map(Arc::clone).collect();
            parts.push(part(SegmentKind::Base, bases.clone(), layers));
        }
        if !dirty.is_empty() {
            parts.push(part(SegmentKind::Delta, dirty, vec![layer]));
        }
        Ok(Sealed { cut, parts, dirty_rows, heat, statistics: Arc::default() })
    }

    fn settle(&mut self, epoch: Epoch, outcome: Outcome) -> Result<()> {
        self.cuts.settle(epoch, outcome)?;
        if outcome == Outcome::Commit {
            let covered = self.sealed.partition_point(|(sealed, _)| *sealed <= epoch);
            for (_, layer) in self.sealed.drain(..covered) {
                absorb(Arc::make_mut(&mut self.base), Arc::unwrap_or_clone(layer));
            }
        }
        Ok(())
    }

    fn load(&mut self, rows: &dyn RowSource, groups: &KeyGroupSet) -> Result<()> {
        check_unowned(&self.groups, groups)?;
        self.load_rows(rows, groups)?;
        self.groups = self.groups.union(groups);
        self.recount();
        Ok(())
    }

    fn load_more(&mut self, rows: &dyn RowSource, groups: &KeyGroupSet) -> Result<()> {
        check_owned(&self.groups, groups)?;
        self.load_rows(rows, groups)?;
        self.recount();
        Ok(())
    }

    fn drop_groups(&mut self, groups: &KeyGroupSet) -> Result<()> {
        check_owned(&self.groups, groups)?;
        self.groups = self.groups.difference(groups);
        self.rules.forget(groups);
        for layer in self.sealed.iter_mut().map(|(_, layer)| layer).chain([&mut self.base]) {
            Arc::make_mut(layer).drop_groups(groups);
        }
        self.active.drop_groups(groups);
        self.recount();
        Ok(())
    }

    fn stats(&self) -> BackendStats {
        let frozen: u64 = self.frozen().map(|layer| layer.charged_bytes()).sum();
        BackendStats {
            rows: self.rows,
            live_bytes: self.live_bytes,
            memory_bytes: frozen + self.active.charged_bytes(),
            dirty_rows: self.active.len() as u64,
            dirty_bytes: self.active.bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::layer::CHARGE_STEP_BYTES;
    use super::*;
    use crate::id::Part;
    use crate::key_group::Partitioner;
    use crate::time::Timestamp;

    const T: TableId = TableId(1);
    const P: Partitioner = Partitioner::Range { seed: 5 };

    fn put(backend: &mut OverlayBackend, key: &str, value: Option<&[u8]>) -> Result<()> {
        let key = P.locate(key.as_bytes(), 0, 4);
        let row = RowRef { table: T, key: &key, namespace: b"", sub: b"" };
        backend.write(row, value.map_or(Write::Delete, Write::Put))
    }

    fn seal(backend: &mut OverlayBackend, epoch: u64, bases: &KeyGroupSet) -> Vec<(SegmentKind, usize)> {
        let at = Timestamp::default();
        let cut = Cut { epoch: Epoch(epoch), part: Part(0), event_time: at, processing_time: at };
        let sealed = backend.seal(cut, bases).unwrap();
        let mut batch = RowBatch::new();
        let mut count = |part: &SealedPart| {
            batch.clear();
            part.groups.iter().for_each(|group| part.rows.append_group(group, &mut batch).unwrap());
            (part.kind, batch.len())
        };
        sealed.parts.iter().map(&mut count).collect()
    }

    #[test]
    fn a_delete_leaves_a_tombstone_only_over_an_older_row() {
        let none = KeyGroupSet::empty();
        let mut backend = OverlayBackend::new(KeyGroupSet::all(4), MemoryBudget::new(u64::MAX));
        put(&mut backend, "a", Some(b"1")).unwrap();
        put(&mut backend, "b", Some(b"1")).unwrap();
        put(&mut backend, "b", None).unwrap();
        assert_eq!(seal(&mut backend, 1, &none), [(SegmentKind::Delta, 1)]);
        put(&mut backend, "a", None).unwrap();
        put(&mut backend, "a", None).unwrap();
        assert_eq!((backend.stats().rows, backend.stats().dirty_rows), (0, 1));
        assert_eq!(seal(&mut backend, 2, &KeyGroupSet::all(4)), [(SegmentKind::Base, 2)]);
        backend.settle(Epoch(2), Outcome::Commit).unwrap();
        assert!(backend.base.rows.is_empty() && backend.sealed.is_empty());
        assert_eq!(seal(&mut backend, 3, &none), []);
    }

    #[test]
    fn a_spent_budget_refuses_a_write_and_keeps_the_old_value() {
        let budget = MemoryBudget::new(2 * CHARGE_STEP_BYTES);
        let mut backend = OverlayBackend::new(KeyGroupSet::all(4), budget.clone());
        put(&mut backend, "a", Some(b"1")).unwrap();
        let error = put(&mut backend, "a", Some(&[0; 9000])).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Limit);
        let key = P.locate(b"a", 0, 4);
        let row = RowRef { table: T, key: &key, namespace: b"", sub: b"" };
        assert_eq!(backend.read(row, |value| value.map(<[u8]>::to_vec)).unwrap().as_deref(), Some(b"1".as_slice()));
        drop(backend);
        assert_eq!(budget.held_bytes(), 0);
    }
}
