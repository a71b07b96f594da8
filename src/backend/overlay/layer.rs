//! Layers: what was written between two seals.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::error::Result;
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::memory::{Charge, MemoryBudget};
use crate::segment::{Columns, Op, OwnedPiece, Row, RowBatch, RowSource};

use super::super::budget_spent;
use super::place::{covering, group_of, read_clear, read_place};

/// What a map entry costs beside its bytes, roughly.
const ROW_OVERHEAD_BYTES: u64 = 80;

/// Layers charge the budget in steps of this size, so that few operations touch its shared counter.
pub(super) const CHARGE_STEP_BYTES: u64 = 4096;

/// Clears and rows, the rows newer than the clears.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) rows: BTreeMap<Box<[u8]>, Slot>,
    /// Places of clears: rows of older layers that they cover are gone.
    pub(super) clears: BTreeSet<Box<[u8]>>,
    /// How many entries each group has; no zeros.
    entries_by_group: BTreeMap<KeyGroup, u64>,
    /// What its entries take, roughly.
    pub(super) bytes: u64,
    budget: MemoryBudget,
    pub(super) charge: Charge,
}

/// What a layer says of a row.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    /// Whether older layers do not matter any more.
    pub(super) whole: bool,
    /// A value and operands after it; operands only if it is not whole; nothing if the row is gone.
    pub(super) pieces: Vec<OwnedPiece>,
    pub(super) routing: Option<u64>,
}

impl Slot {
    /// Returns the rows of a segment that it stands for.
    fn ops(&self) -> impl Iterator<Item = (Op<'_>, Columns)> {
        let gone = (self.whole && self.pieces.is_empty())
            .then(|| (Op::Delete, Columns { routing: self.routing, ..Columns::default() }));
        let put = |at: usize| self.whole && at == 0;
        let pieces = self.pieces.iter().enumerate().map(move |(at, piece)| {
            let piece = piece.borrow();
            let op = if put(at) { Op::Put(piece.bytes) } else { Op::Merge(piece.bytes) };
            (op, Columns::of(&piece, self.routing))
        });
        gone.into_iter().chain(pieces)
    }

    fn bytes(&self, place: &[u8]) -> u64 {
        let pieces = self.pieces.iter().map(|piece| piece.bytes.len() as u64 + ROW_OVERHEAD_BYTES / 2);
        ROW_OVERHEAD_BYTES + place.len() as u64 + pieces.sum::<u64>()
    }
}

impl Clone for Layer {
    fn clone(&self) -> Self {
        Self {
            rows: self.rows.clone(),
            clears: self.clears.clone(),
            entries_by_group: self.entries_by_group.clone(),
            bytes: self.bytes,
            budget: self.budget.clone(),
            charge: self.budget.charge(self.charge.bytes()),
        }
    }
}

impl Layer {
    pub(super) fn new(budget: &MemoryBudget) -> Self {
        Self {
            rows: BTreeMap::new(),
            clears: BTreeSet::new(),
            entries_by_group: BTreeMap::new(),
            bytes: 0,
            charge: budget.charge(0),
            budget: budget.clone(),
        }
    }

    /// Returns how many rows of a segment it stands for, counting those of one place once.
    pub(super) fn len(&self) -> usize {
        self.rows.len() + self.clears.len()
    }

    /// Returns the groups that it has entries for.
    pub(super) fn groups(&self) -> KeyGroupSet {
        self.entries_by_group.keys().copied().collect()
    }

    /// Returns how many entries each group has that has any.
    pub(super) fn entries_by_group(&self) -> impl Iterator<Item = (KeyGroup, u64)> {
        self.entries_by_group.iter().map(|(group, entries)| (*group, *entries))
    }

    /// Returns whether a clear of it covers the row at `place`.
    pub(super) fn covers(&self, place: &[u8]) -> bool {
        !self.clears.is_empty() && covering(place).any(|clear| self.clears.contains(clear.as_slice()))
    }

    pub(super) fn starting_with<'a, 's>(
        &'a self,
        start: &'s [u8],
    ) -> impl Iterator<Item = (&'a [u8], &'a Slot)> + use<'a, 's> {
        let from = (Bound::Included(start), Bound::Unbounded);
        let rows = self.rows.range::<[u8], _>(from).map(|(place, slot)| (place.as_ref(), slot));
        rows.take_while(move |(place, _)| place.starts_with(start))
    }

    /// Sets a slot, unless `limit` is given and has no room for it.
    pub(super) fn insert(&mut self, place: &[u8], slot: Slot, limit: Option<&MemoryBudget>) -> Result<()> {
        let old = self.rows.get(place).map_or(0, |old| old.bytes(place));
        self.afford(self.bytes - old + slot.bytes(place), limit)?;
        if self.rows.insert(place.into(), slot).is_none() {
            *self.entries_by_group.entry(group_of(place)).or_default() += 1;
        }
        Ok(())
    }

    /// Adds a clear, unless `limit` is given and has no room for it.
    pub(super) fn insert_clear(&mut self, place: &[u8], limit: Option<&MemoryBudget>) -> Result<()> {
        if self.clears.contains(place) {
            return Ok(());
        }
        self.afford(self.bytes + ROW_OVERHEAD_BYTES + place.len() as u64, limit)?;
        self.clears.insert(place.into());
        *self.entries_by_group.entry(group_of(place)).or_default() += 1;
        Ok(())
    }

    fn afford(&mut self, bytes: u64, limit: Option<&MemoryBudget>) -> Result<()> {
        if bytes > self.charge.bytes() {
            let wanted = bytes.next_multiple_of(CHARGE_STEP_BYTES);
            if let Some(limit) = limit.filter(|limit| !limit.has_room(wanted - self.charge.bytes())) {
                return Err(budget_spent(limit));
            }
            self.charge.resize(wanted);
        }
        self.bytes = bytes;
        Ok(())
    }

    pub(super) fn remove(&mut self, place: &[u8]) {
        if let Some(old) = self.rows.remove(place) {
            self.forget(group_of(place), old.bytes(place));
        }
    }

    fn forget(&mut self, group: KeyGroup, bytes: u64) {
        self.bytes -= bytes;
        self.charge.resize(self.bytes.next_multiple_of(CHARGE_STEP_BYTES));
        if let Some(entries) = self.entries_by_group.get_mut(&group) {
            *entries -= 1;
            if *entries == 0 {
                self.entries_by_group.remove(&group);
            }
        }
    }

    /// Takes over the entries of a newer layer; there is none older than this one.
    pub(super) fn absorb(&mut self, newer: Self) {
        if !newer.clears.is_empty() {
            let gone: Vec<_> = self.rows.keys().filter(|place| newer.covers(place)).cloned().collect();
            gone.iter().for_each(|place| self.remove(place));
        }
        for (place, mut slot) in newer.rows {
            if slot.whole && slot.pieces.is_empty() {
                self.remove(&place);
                continue;
            }
            if let Some(older) = self.rows.get(&place).filter(|_| !slot.whole) {
                slot.pieces.splice(..0, older.pieces.iter().cloned());
            }
            // Without a limit it cannot fail.
            let _inserted = self.insert(&place, Slot { whole: true, ..slot }, None);
        }
    }

    pub(super) fn drop_groups(&mut self, groups: &KeyGroupSet) {
        let gone: Vec<_> = self.rows.keys().filter(|place| groups.contains(group_of(place))).cloned().collect();
        gone.iter().for_each(|place| self.remove(place));
        let gone: Vec<_> = self.clears.iter().filter(|place| groups.contains(group_of(place))).cloned().collect();
        for place in gone {
            self.clears.remove(&place);
            self.forget(group_of(&place), ROW_OVERHEAD_BYTES + place.len() as u64);
        }
    }
}

/// What a sealed part shares with the backend: layers, oldest first.
#[derive(Debug)]
pub(super) struct Layers {
    pub(super) groups: KeyGroupSet,
    pub(super) layers: Vec<Arc<Layer>>,
}

impl RowSource for Layers {
    fn groups(&self) -> &KeyGroupSet {
        &self.groups
    }

    fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        let start = group.0.to_be_bytes();
        for layer in self.layers.iter().filter(|_| self.groups.contains(group)) {
            let clears = layer.clears.iter().filter(|place| place.starts_with(&start));
            for (_, key) in clears.filter_map(|place| read_clear(place)) {
                batch.push(&Row { key, op: Op::Clear, columns: Columns::default() })?;
            }
            for (place, slot) in layer.starting_with(&start) {
                let Some((_, key)) = read_place(place) else { continue };
                slot.ops().try_for_each(|(op, columns)| batch.push(&Row { key, op, columns }))?;
            }
        }
        Ok(())
    }

    fn held_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.charge.bytes()).sum()
    }
}
