//! The reference backend: ordered maps over ordered maps, simple enough to be the oracle of the model tests.
//!
//! ```text
//! base <- sealed layer <- ... <- sealed layer <- active layer
//! ```
//!
//! Invariants:
//! - only the active layer is written; a row is what the newest layers say of it, back to one that says the whole;
//! - the base has no tombstones and no clears, and every one elsewhere hides something in an older layer;
//! - a layer in a [`Sealed`] never changes: folding it into the base copies what is still shared.

mod slot;

use std::collections::BTreeMap;
use std::ops::RangeBounds;
use std::sync::Arc;

use crate::error::Result;
use crate::id::{Epoch, TableId};
use crate::key_group::{CurrentKey, KeyGroup, KeyGroupSet};
use crate::memory::MemoryBudget;
use crate::row::{
    Below, Cut, Fold, FoldedGroup, GroupHeat, GroupTimes, OwnedPiece, RowBatch, RowKey, RowSource, Rules, Sealed,
    SealedPart, SegmentKind, TableRules, check_value_length,
};
use crate::time::Timestamp;

use self::slot::{Layer, Slot, absorb};
use super::cuts::Cuts;
use super::heat::Heat;
use super::layer::Layers;
use super::place::{clear_place, group_of, known_place, parts, row_bytes, write_place};
use super::{
    BackendStats, Change, Entry, Outcome, RowRef, Scope, StateBackend, SubRange, Write, check_lengths, check_loadable,
    check_new, check_owned, check_owns, check_scope, check_value, no_operator,
};

/// The state of one subtask in ordered maps.
#[derive(Debug)]
pub struct OverlayBackend {
    groups: KeyGroupSet,
    budget: MemoryBudget,
    cuts: Cuts,
    rules: Rules,
    base: Arc<Layer>,
    sealed: Vec<(Epoch, Arc<Layer>)>,
    active: Layer,
    rows: u64,
    live_bytes: u64,
    heat: BTreeMap<KeyGroup, Heat>,
    /// Seals so far.
    seals: u32,
    /// Reused for the place of the row at hand.
    place: Vec<u8>,
    /// Reused for its value.
    value: Vec<u8>,
    /// Reused for new values.
    scratch: Vec<u8>,
}

impl OverlayBackend {
    /// Adds rows of `groups`, all or none.
    fn absorb_rows(&mut self, rows: &dyn RowSource, groups: &KeyGroupSet) -> Result<()> {
        let mut loaded = Layer::new(&self.budget);
        let mut batch = RowBatch::new();
        let mut place = Vec::new();
        for group in groups.iter() {
            let mut folded = FoldedGroup::new(rows, group, Fold::Base, &self.rules);
            while folded.next_batch(&mut batch)? {
                for row in batch.iter() {
                    let (piece, operand) = check_loadable(&row)?;
                    write_place(group, &row.key, &mut place);
                    let older = loaded.rows.get(place.as_slice()).filter(|_| operand);
                    let mut pieces = older.map(|slot| slot.pieces.clone()).unwrap_or_default();
                    pieces.push(OwnedPiece::of(&piece));
                    let slot = Slot { whole: true, pieces, routing: row.columns.routing };
                    loaded.insert(&place, slot, Some(&self.budget))?;
                }
            }
        }
        absorb(Arc::make_mut(&mut self.base), loaded);
        Ok(())
    }

    /// Returns a backend that owns `groups`, without rows, and charges `budget` for what it holds.
    #[must_use]
    pub fn new(groups: KeyGroupSet, budget: MemoryBudget) -> Self {
        Self {
            groups,
            cuts: Cuts::default(),
            rules: Rules::none(),
            base: Arc::new(Layer::new(&budget)),
            sealed: Vec::new(),
            active: Layer::new(&budget),
            budget,
            rows: 0,
            live_bytes: 0,
            heat: BTreeMap::new(),
            seals: 0,
            place: Vec::new(),
            value: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Refuses a row that this backend cannot hold, else makes its place current.
    fn locate(&mut self, row: &RowRef<'_>) -> Result<()> {
        check_owns(&self.groups, row.key.group)?;
        check_lengths(row)?;
        write_place(row.key.group, &RowKey::data(row.table, row.key.bytes, row.namespace, row.sub), &mut self.place);
        Ok(())
    }

    /// Returns the layers, newest first, without the active one.
    fn frozen(&self) -> impl DoubleEndedIterator<Item = &Arc<Layer>> {
        self.sealed.iter().rev().map(|(_, layer)| layer).chain([&self.base])
    }

    /// Returns the pieces at `place` in `layers`, which come newest first; the result is oldest first.
    fn gather<'a>(layers: impl Iterator<Item = &'a Layer>, place: &[u8]) -> Vec<OwnedPiece> {
        let mut newest_first = Vec::new();
        for layer in layers {
            if let Some(slot) = layer.rows.get(place) {
                newest_first.extend(slot.pieces.iter().rev().cloned());
                if slot.whole {
                    break;
                }
            }
            if layer.covers(place) {
                break;
            }
        }
        newest_first.reverse();
        newest_first
    }

    /// Returns the pieces at `place` that lie under the active layer, as far as it lets them through.
    fn below(&self, place: &[u8]) -> Vec<OwnedPiece> {
        if self.active.covers(place) { Vec::new() } else { Self::gather(self.frozen().map(Arc::as_ref), place) }
    }

    /// Returns all pieces at `place`.
    fn pieces(&self, place: &[u8]) -> Vec<OwnedPiece> {
        Self::gather([&self.active].into_iter().chain(self.frozen().map(Arc::as_ref)), place)
    }

    /// Returns the rules of the group of the current place.
    fn rules_here(&self) -> &Rules {
        self.rules.of(group_of(&self.place))
    }

    /// Writes what pieces of `table` read as to `out`, which is empty; false if there is no value.
    ///
    /// * `rules`: those of the row's group.
    fn resolve(rules: &Rules, table: TableId, pieces: Vec<OwnedPiece>, out: &mut Vec<u8>) -> Result<bool> {
        if let Some(of_table) = rules.table(table) {
            return of_table.resolve(pieces.iter().map(OwnedPiece::borrow), rules.now(of_table), out);
        }
        match pieces.as_slice() {
            [] => Ok(false),
            [piece] => {
                out.extend_from_slice(&piece.bytes);
                Ok(true)
            }
            _ => Err(no_operator(table)),
        }
    }

    /// Reads the value at the current place into `self.value`; false if there is none.
    fn current(&mut self, table: TableId) -> Result<bool> {
        self.heat.entry(group_of(&self.place)).or_default().read();
        let mut value = std::mem::take(&mut self.value);
        value.clear();
        let found = Self::resolve(self.rules_here(), table, self.pieces(&self.place), &mut value);
        self.value = value;
        found
    }

    /// Gives the row at the current place a value, or none.
    fn set(&mut self, table: TableId, routing: Option<u64>, value: Option<&[u8]>) -> Result<()> {
        value.map_or(Ok(()), check_value)?;
        let (version, stamp) = self.rules_here().mark(table);
        let pieces = value.map(|bytes| OwnedPiece { bytes: bytes.to_vec(), version, stamp });
        self.place_slot(Slot { whole: true, pieces: pieces.into_iter().collect(), routing })
    }

    /// Merges an operand into the row at the current place.
    fn merge(&mut self, table: TableId, routing: Option<u64>, operand: &[u8]) -> Result<()> {
        check_value(operand)?;
        let here = self.rules_here();
        let rules = here.table(table).filter(|rules| rules.merge.is_some()).ok_or_else(|| no_operator(table))?;
        let (version, stamp) = here.mark(table);
        let operand = OwnedPiece { bytes: operand.to_vec(), version, stamp };
        let all = self.pieces(&self.place);
        let all = || all.iter().chain([&operand]).map(OwnedPiece::borrow);
        // Merged values are not longer than what they are made of, as a rule.
        if check_value_length(all().map(|piece| piece.bytes.len()).sum()).is_err() {
            rules.check_length(all(), here.now(rules))?;
        }
        let old = self.active.rows.get(self.place.as_slice());
        let whole = old.map_or_else(|| self.below(&self.place).is_empty(), |slot| slot.whole);
        let mut pieces = old.map(|slot| slot.pieces.clone()).unwrap_or_default();
        pieces.push(operand);
        let below = if whole { Below::Nothing } else { Below::Unknown };
        let pieces = rules.combine(pieces, below, here.now(rules), false)?;
        self.place_slot(Slot { whole, pieces, routing })
    }

    /// Puts a slot at the current place of the active layer.
    fn place_slot(&mut self, slot: Slot) -> Result<()> {
        let place = std::mem::take(&mut self.place);
        self.heat.entry(group_of(&place)).or_default().write();
        let old = self.pieces(&place);
        let placed = if slot.pieces.is_empty() && (!slot.whole || self.below(&place).is_empty()) {
            self.active.remove(&place);
            Ok(())
        } else {
            self.active.insert(&place, slot, Some(&self.budget))
        };
        if placed.is_ok() {
            self.count(&place, &old, false);
            self.count(&place, &self.pieces(&place), true);
        }
        self.place = place;
        placed
    }

    fn count(&mut self, place: &[u8], pieces: &[OwnedPiece], there: bool) {
        if pieces.is_empty() {
            return;
        }
        let bytes = row_bytes(place) + pieces.iter().map(|piece| piece.bytes.len() as u64).sum::<u64>();
        if there {
            self.rows += 1;
            self.live_bytes += bytes;
        } else {
            self.rows -= 1;
            self.live_bytes -= bytes;
        }
    }

    /// Returns the rows whose places start with `start` and their pieces, expired ones too, by place.
    fn visible(&self, start: &[u8]) -> BTreeMap<Vec<u8>, (Vec<OwnedPiece>, Option<u64>)> {
        let mut found = BTreeMap::new();
        for layer in self.frozen().rev().map(Arc::as_ref).chain([&self.active]) {
            let places = layer.starting_with(start);
            found.extend(places.map(|(place, slot)| (place.to_vec(), (Vec::new(), slot.routing))));
        }
        for (place, (pieces, _)) in &mut found {
            *pieces = self.pieces(place);
        }
        found.retain(|_, (pieces, _)| !pieces.is_empty());
        found
    }

    /// Visits the rows of `table` whose places start with `start` and pass `filter`; false if `visit` has enough.
    fn visit(
        &self,
        table: TableId,
        start: &[u8],
        filter: impl Fn(&RowKey<'_>) -> bool,
        visit: &mut impl FnMut(Entry<'_>) -> bool,
    ) -> Result<bool> {
        let mut value = Vec::new();
        for (place, (pieces, routing)) in self.visible(start) {
            let (group, row) = known_place(&place);
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

    fn heat_of(&mut self, group: KeyGroup, dirty_rows: u64) -> GroupHeat {
        let (reads, writes) = self.heat.entry(group).or_default().at_seal(self.seals);
        let visible = self.visible(&group.0.to_be_bytes());
        let bytes = |(place, (pieces, _)): (&Vec<u8>, &(Vec<OwnedPiece>, _))| {
            row_bytes(place) + pieces.iter().map(|piece| piece.bytes.len() as u64).sum::<u64>()
        };
        let live_bytes = visible.iter().map(bytes).sum();
        GroupHeat { group, rows: visible.len() as u64, live_bytes, dirty_rows, reads, writes }
    }

    fn recount(&mut self) {
        (self.rows, self.live_bytes) = (0, 0);
        for group in self.groups.clone().iter() {
            for (place, (pieces, _)) in self.visible(&group.0.to_be_bytes()) {
                self.count(&place, &pieces, true);
            }
        }
    }
}

/// Returns what all places of `table` in `group` start with.
fn table_start(group: KeyGroup, table: TableId) -> Vec<u8> {
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
        let found = self.current(row.table)?;
        let renews = self.rules.table(row.table).and_then(|rules| rules.ttl).is_some_and(|ttl| ttl.on_read);
        let stamp = self.pieces(&self.place).last().and_then(|piece| piece.stamp);
        // One that is too long to be written anew is read as it is.
        if found && renews && check_value(&self.value).is_ok() && stamp != self.rules_here().mark(row.table).1 {
            let value = std::mem::take(&mut self.value);
            self.set(row.table, row.key.routing, Some(&value))?;
            self.value = value;
        }
        Ok(f(found.then_some(&self.value)))
    }

    fn update<R>(&mut self, row: RowRef<'_>, f: impl FnOnce(Option<&[u8]>, &mut Vec<u8>) -> (Change, R)) -> Result<R> {
        self.locate(&row)?;
        let found = self.current(row.table)?;
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
        check_owns(&self.groups, group)?;
        check_scope(&scope)?;
        let key = scope.place(table);
        let covered = |row: &RowKey<'_>| {
            key.key.is_none_or(|key| row.key == Some(key)) && key.namespace.is_none_or(|n| row.namespace == Some(n))
        };
        let mut rows = self.visible(&table_start(group, table));
        rows.retain(|place, _| covered(&known_place(place).1));
        let start = table_start(group, table);
        let written = self.active.starting_with(&start).map(|(place, _)| place.to_vec());
        let written: Vec<_> = written.filter(|place| covered(&known_place(place).1)).collect();
        // Rows that were deleted since the last seal are hidden by what goes now.
        if rows.keys().chain(&written).any(|place| !self.below(place).is_empty()) {
            self.active.insert_clear(&clear_place(group, &key), Some(&self.budget))?;
        }
        for (place, (pieces, _)) in rows {
            self.count(&place, &pieces, false);
        }
        written.iter().for_each(|place| self.active.remove(place));
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
        let mut start = Vec::new();
        write_place(key.group, &RowKey::data(table, key.bytes, namespace, &[]), &mut start);
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
            if !self.visit(table, &table_start(group, table), wanted, &mut visit)? {
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
        check_new(&self.groups, groups)?;
        self.absorb_rows(rows, groups)?;
        self.groups = self.groups.union(groups);
        self.recount();
        Ok(())
    }

    fn load_more(&mut self, rows: &dyn RowSource, groups: &KeyGroupSet) -> Result<()> {
        check_owned(&self.groups, groups)?;
        self.absorb_rows(rows, groups)?;
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
    fn a_delete_leaves_a_tombstone_only_where_something_lies_below() {
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
    fn a_spent_budget_refuses_writes_and_changes_nothing() {
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
