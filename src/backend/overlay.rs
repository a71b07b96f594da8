//! The reference backend: ordered maps over ordered maps, simple enough to be the oracle of the model tests.
//!
//! ```text
//! base <- sealed layer <- ... <- sealed layer <- active layer
//! ```
//!
//! Invariants:
//! - only the active layer is written; a row's value is that of the newest layer that has an entry for it;
//! - the base has no tombstones, and every tombstone hides a value in an older layer;
//! - a layer in a [`Sealed`] never changes: folding it into the base copies what is still shared.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::id::{Epoch, TableId};
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::memory::{Charge, MemoryBudget};
use crate::segment::{Columns, Cut, Fold, Op, Row, RowBatch, RowKey, RowSource, Sealed, SealedPart, SegmentKind};

use super::cuts::Cuts;
use super::{BackendStats, Change, Entry, Outcome, RowRef, StateBackend, Write, check_lengths, check_loadable};

/// What a map entry costs beside its bytes, roughly.
const ROW_OVERHEAD_BYTES: u64 = 80;

/// Layers charge the budget in steps of this size, so that few operations touch its shared counter.
const CHARGE_STEP_BYTES: u64 = 4096;

/// The state of one subtask in ordered maps.
#[derive(Debug)]
pub struct OverlayBackend {
    groups: KeyGroupSet,
    budget: MemoryBudget,
    cuts: Cuts,
    base: Arc<Layer>,
    sealed: Vec<(Epoch, Arc<Layer>)>,
    active: Layer,
    rows: u64,
    live_bytes: u64,
    /// Reused for the place of the row at hand.
    place: Vec<u8>,
    /// Reused for new values.
    scratch: Vec<u8>,
}

impl OverlayBackend {
    /// Returns a backend that owns `groups`, without rows, and charges `budget` for what it holds.
    #[must_use]
    pub fn new(groups: KeyGroupSet, budget: MemoryBudget) -> Self {
        Self {
            groups,
            cuts: Cuts::default(),
            base: Arc::new(Layer::new(&budget)),
            sealed: Vec::new(),
            active: Layer::new(&budget),
            budget,
            rows: 0,
            live_bytes: 0,
            place: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Refuses a row that this backend cannot hold, else makes its place current.
    fn locate(&mut self, row: &RowRef<'_>) -> Result<()> {
        if !self.groups.contains(row.key.group) {
            return Err(Error::usage("key group is not owned").with("group", row.key.group));
        }
        check_lengths(row)?;
        write_place(row.key.group, &RowKey::data(row.table, row.key.bytes, row.namespace, row.sub), &mut self.place);
        Ok(())
    }

    /// Returns the layers, newest first, without the active one.
    fn frozen(&self) -> impl DoubleEndedIterator<Item = &Arc<Layer>> {
        self.sealed.iter().rev().map(|(_, layer)| layer).chain([&self.base])
    }

    /// Returns the value at `place` that lies under the active layer.
    fn frozen_value(&self, place: &[u8]) -> Option<&[u8]> {
        self.frozen().find_map(|layer| layer.rows.get(place)).and_then(Slot::value)
    }

    /// Returns the value at the current place.
    fn current(&self) -> Option<&[u8]> {
        match self.active.rows.get(self.place.as_slice()) {
            Some(slot) => slot.value(),
            None => self.frozen_value(&self.place),
        }
    }

    /// Sets the value at the current place.
    fn set(&mut self, routing: Option<u64>, value: Option<&[u8]>) -> Result<()> {
        let old = self.current().map(<[u8]>::len);
        if value.is_none() && old.is_none() {
            return Ok(());
        }
        let hides = self.frozen_value(&self.place).is_some();
        if value.is_some() || hides {
            let slot = Slot { value: value.map(Box::from), routing };
            self.active.insert(&self.place, slot, Some(&self.budget))?;
        } else {
            self.active.remove(&self.place);
        }
        let place = row_bytes(&self.place);
        if let Some(length) = old {
            self.rows -= 1;
            self.live_bytes -= place + length as u64;
        }
        if let Some(value) = value {
            self.rows += 1;
            self.live_bytes += place + value.len() as u64;
        }
        Ok(())
    }

    /// Returns the live rows of `group` (of one table if given), by place.
    fn visible(&self, group: KeyGroup, table: Option<TableId>) -> BTreeMap<&[u8], &[u8]> {
        let mut start = group.0.to_be_bytes().to_vec();
        start.extend(table.iter().flat_map(|table| table.0.to_be_bytes()));
        let mut merged = BTreeMap::new();
        for layer in self.frozen().rev().map(Arc::as_ref).chain([&self.active]) {
            merged.extend(layer.starting_with(&start).map(|(place, slot)| (place, slot.value())));
        }
        merged.into_iter().filter_map(|(place, value)| Some((place, value?))).collect()
    }

    fn recount(&mut self) {
        let (mut rows, mut bytes) = (0, 0);
        for group in self.groups.iter() {
            for (place, value) in self.visible(group, None) {
                rows += 1;
                bytes += row_bytes(place) + value.len() as u64;
            }
        }
        (self.rows, self.live_bytes) = (rows, bytes);
    }
}

impl StateBackend for OverlayBackend {
    fn groups(&self) -> &KeyGroupSet {
        &self.groups
    }

    fn read<R>(&mut self, row: RowRef<'_>, f: impl FnOnce(Option<&[u8]>) -> R) -> Result<R> {
        self.locate(&row)?;
        Ok(f(self.current()))
    }

    fn update<R>(&mut self, row: RowRef<'_>, f: impl FnOnce(Option<&[u8]>, &mut Vec<u8>) -> (Change, R)) -> Result<R> {
        self.locate(&row)?;
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let (change, result) = f(self.current(), &mut scratch);
        let set = match change {
            Change::Keep => Ok(()),
            Change::Put => super::check_value(&scratch).and_then(|()| self.set(row.key.routing, Some(&scratch))),
            Change::Delete => self.set(row.key.routing, None),
        };
        self.scratch = scratch;
        set.map(|()| result)
    }

    fn write(&mut self, row: RowRef<'_>, write: Write<'_>) -> Result<()> {
        self.locate(&row)?;
        match write {
            Write::Put(value) => {
                super::check_value(value)?;
                self.set(row.key.routing, Some(value))
            }
            Write::Delete => self.set(row.key.routing, None),
        }
    }

    fn prefetch(&mut self, _rows: &[RowRef<'_>]) {}

    fn scan(
        &mut self,
        table: TableId,
        groups: &KeyGroupSet,
        prefix: &[u8],
        mut visit: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<()> {
        super::check_owned(&self.groups, groups)?;
        for group in groups.iter() {
            for (place, value) in self.visible(group, Some(table)) {
                let Some((_, key)) = read_place(place) else { continue };
                let (Some(key), Some(namespace), Some(sub)) = (key.key, key.namespace, key.sub) else { continue };
                if key.starts_with(prefix) && !visit(Entry { group, key, namespace, sub, value }) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn seal(&mut self, cut: Cut, bases: &KeyGroupSet) -> Result<Sealed> {
        self.cuts.check(&cut)?;
        super::check_owned(&self.groups, bases)?;
        self.cuts.note(&cut);
        let layer = Arc::new(std::mem::replace(&mut self.active, Layer::new(&self.budget)));
        let dirty_rows = layer.rows.len() as u64;
        let dirty = layer.groups().difference(bases);
        if dirty_rows > 0 {
            self.sealed.push((cut.epoch, Arc::clone(&layer)));
        }
        let mut parts = Vec::new();
        if !bases.is_empty() {
            let layers = self.frozen().rev().map(Arc::clone).collect();
            parts.push(part(SegmentKind::Base, bases.clone(), layers));
        }
        if !dirty.is_empty() {
            parts.push(part(SegmentKind::Delta, dirty, vec![layer]));
        }
        Ok(Sealed { cut, parts, dirty_rows })
    }

    fn settle(&mut self, epoch: Epoch, outcome: Outcome) -> Result<()> {
        self.cuts.settle(epoch, outcome)?;
        if outcome == Outcome::Commit {
            let covered = self.sealed.partition_point(|(sealed, _)| *sealed <= epoch);
            for (_, layer) in self.sealed.drain(..covered) {
                Arc::make_mut(&mut self.base).absorb(Arc::unwrap_or_clone(layer));
            }
        }
        Ok(())
    }

    fn load(&mut self, rows: &dyn RowSource, groups: &KeyGroupSet) -> Result<()> {
        super::check_new(&self.groups, groups)?;
        let mut loaded = Layer::new(&self.budget);
        let mut batch = RowBatch::new();
        let mut place = Vec::new();
        for group in groups.iter() {
            batch.clear();
            rows.append_group(group, &mut batch)?;
            batch.fold(Fold::Base);
            for row in batch.iter() {
                let value = check_loadable(&row)?;
                write_place(group, &row.key, &mut place);
                let slot = Slot { value: Some(value.into()), routing: row.columns.routing };
                loaded.insert(&place, slot, Some(&self.budget))?;
            }
        }
        Arc::make_mut(&mut self.base).absorb(loaded);
        self.groups = self.groups.union(groups);
        self.recount();
        Ok(())
    }

    fn drop_groups(&mut self, groups: &KeyGroupSet) -> Result<()> {
        super::check_owned(&self.groups, groups)?;
        self.groups = self.groups.difference(groups);
        for layer in self.sealed.iter_mut().map(|(_, layer)| layer).chain([&mut self.base]) {
            Arc::make_mut(layer).drop_groups(groups);
        }
        self.active.drop_groups(groups);
        self.recount();
        Ok(())
    }

    fn stats(&self) -> BackendStats {
        let frozen: u64 = self.frozen().map(|layer| layer.charge.bytes()).sum();
        BackendStats {
            rows: self.rows,
            live_bytes: self.live_bytes,
            memory_bytes: frozen + self.active.charge.bytes(),
            dirty_rows: self.active.rows.len() as u64,
            dirty_bytes: self.active.bytes,
        }
    }
}

fn part(kind: SegmentKind, groups: KeyGroupSet, layers: Vec<Arc<Layer>>) -> SealedPart {
    SealedPart { kind, groups: groups.clone(), rows: Arc::new(Layers { groups, layers }) }
}

/// The rows of a layer. A slot without a value hides older ones.
#[derive(Debug)]
struct Layer {
    rows: BTreeMap<Box<[u8]>, Slot>,
    /// How many rows each group has; no zeros.
    rows_by_group: BTreeMap<KeyGroup, u64>,
    /// What its rows take, roughly.
    bytes: u64,
    budget: MemoryBudget,
    charge: Charge,
}

#[derive(Debug, Clone)]
struct Slot {
    value: Option<Box<[u8]>>,
    routing: Option<u64>,
}

impl Slot {
    fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }

    fn op(&self) -> Op<'_> {
        self.value().map_or(Op::Delete, Op::Put)
    }
}

impl Clone for Layer {
    fn clone(&self) -> Self {
        Self {
            rows: self.rows.clone(),
            rows_by_group: self.rows_by_group.clone(),
            bytes: self.bytes,
            budget: self.budget.clone(),
            charge: self.budget.charge(self.charge.bytes()),
        }
    }
}

impl Layer {
    fn new(budget: &MemoryBudget) -> Self {
        Self {
            rows: BTreeMap::new(),
            rows_by_group: BTreeMap::new(),
            bytes: 0,
            charge: budget.charge(0),
            budget: budget.clone(),
        }
    }

    /// Returns the groups that it has rows for.
    fn groups(&self) -> KeyGroupSet {
        self.rows_by_group.keys().copied().collect()
    }

    fn starting_with<'a, 's>(&'a self, start: &'s [u8]) -> impl Iterator<Item = (&'a [u8], &'a Slot)> + use<'a, 's> {
        let from = (Bound::Included(start), Bound::Unbounded);
        let rows = self.rows.range::<[u8], _>(from).map(|(place, slot)| (place.as_ref(), slot));
        rows.take_while(move |(place, _)| place.starts_with(start))
    }

    /// Sets a slot, unless `limit` is given and has no room for it.
    fn insert(&mut self, place: &[u8], slot: Slot, limit: Option<&MemoryBudget>) -> Result<()> {
        let more = slot_bytes(place, &slot);
        let bytes = self.bytes - self.rows.get(place).map_or(0, |old| slot_bytes(place, old)) + more;
        if bytes > self.charge.bytes() {
            let wanted = bytes.next_multiple_of(CHARGE_STEP_BYTES);
            if let Some(limit) = limit.filter(|limit| !limit.has_room(wanted - self.charge.bytes())) {
                return Err(super::budget_spent(limit));
            }
            self.charge.resize(wanted);
        }
        self.bytes = bytes;
        match self.rows.get_mut(place) {
            Some(old) => *old = slot,
            None => {
                self.rows.insert(place.into(), slot);
                *self.rows_by_group.entry(group_of(place)).or_default() += 1;
            }
        }
        Ok(())
    }

    fn remove(&mut self, place: &[u8]) {
        let Some(old) = self.rows.remove(place) else { return };
        self.bytes -= slot_bytes(place, &old);
        self.charge.resize(self.bytes.next_multiple_of(CHARGE_STEP_BYTES));
        let group = group_of(place);
        if let Some(rows) = self.rows_by_group.get_mut(&group) {
            *rows -= 1;
            if *rows == 0 {
                self.rows_by_group.remove(&group);
            }
        }
    }

    /// Takes over the rows of a newer layer; there is none older than this one.
    fn absorb(&mut self, newer: Self) {
        for (place, slot) in newer.rows {
            if slot.value.is_none() {
                self.remove(&place);
            } else {
                // Without a limit it cannot fail.
                let _inserted = self.insert(&place, slot, None);
            }
        }
    }

    fn drop_groups(&mut self, groups: &KeyGroupSet) {
        let gone: Vec<_> = self.rows.keys().filter(|place| groups.contains(group_of(place))).cloned().collect();
        gone.iter().for_each(|place| self.remove(place));
    }
}

/// What a sealed part shares with the backend: layers, oldest first.
#[derive(Debug)]
struct Layers {
    groups: KeyGroupSet,
    layers: Vec<Arc<Layer>>,
}

impl RowSource for Layers {
    fn groups(&self) -> &KeyGroupSet {
        &self.groups
    }

    fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        let start = group.0.to_be_bytes();
        let owned = self.layers.iter().filter(|_| self.groups.contains(group));
        for (place, slot) in owned.flat_map(|layer| layer.starting_with(&start)) {
            let Some((_, key)) = read_place(place) else { continue };
            let columns = Columns { routing: slot.routing, ..Columns::default() };
            batch.push(&Row { key, op: slot.op(), columns })?;
        }
        Ok(())
    }

    fn held_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.charge.bytes()).sum()
    }
}

/// Bytes of a place beside the row's own: group, table, two lengths.
const PLACE_OVERHEAD_BYTES: usize = 2 + 4 + 2 + 2;

/// Replaces `place` by the row's place as one byte string, ordered by group and table first.
fn write_place(group: KeyGroup, key: &RowKey<'_>, place: &mut Vec<u8>) {
    place.clear();
    place.extend(group.0.to_be_bytes());
    place.extend(key.table.0.to_be_bytes());
    for part in [key.key, key.namespace].map(Option::unwrap_or_default) {
        place.extend(u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
        place.extend(part);
    }
    place.extend(key.sub.unwrap_or_default());
}

/// Undoes [`write_place`].
fn read_place(place: &[u8]) -> Option<(KeyGroup, RowKey<'_>)> {
    fn part(rest: &[u8]) -> Option<(&[u8], &[u8])> {
        let (length, rest) = rest.split_first_chunk()?;
        rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
    }
    let (group, rest) = place.split_first_chunk()?;
    let (table, rest) = rest.split_first_chunk()?;
    let (key, rest) = part(rest)?;
    let (namespace, sub) = part(rest)?;
    let key = RowKey::data(TableId(u32::from_be_bytes(*table)), key, namespace, sub);
    Some((KeyGroup(u16::from_be_bytes(*group)), key))
}

fn group_of(place: &[u8]) -> KeyGroup {
    KeyGroup(place.first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes)))
}

/// Bytes of a place that are the row's own: key, namespace and sub-key.
fn row_bytes(place: &[u8]) -> u64 {
    place.len().saturating_sub(PLACE_OVERHEAD_BYTES) as u64
}

fn slot_bytes(place: &[u8], slot: &Slot) -> u64 {
    ROW_OVERHEAD_BYTES + place.len() as u64 + slot.value().map_or(0, |value| value.len() as u64)
}

#[cfg(test)]
mod tests {
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
