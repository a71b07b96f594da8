//! Layers: what was written between two seals.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::ops::Bound;
use std::sync::Arc;

use crate::error::{Result, broken};
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::memory::{Charge, MemoryBudget};
use crate::row::{Columns, Op, Row, RowBatch, RowKey, RowSource};

use super::budget_spent;
use super::place::{covering, group_of, known_place, read_clear};

/// What a map entry costs beside its bytes, roughly.
pub(super) const ROW_OVERHEAD_BYTES: u64 = 80;

/// Layers charge the budget in steps of this size, so that few operations touch its shared counter.
pub(super) const CHARGE_STEP_BYTES: u64 = 4096;

/// What a layer says of a row.
pub(super) trait LayerSlot: Clone + Debug + Send + Sync {
    /// Returns what it takes in memory, roughly, beside its place and the map's entry.
    fn held_bytes(&self) -> u64;

    /// Appends the rows of a segment that it stands for, if it is at `key`.
    fn push_to(&self, key: RowKey<'_>, batch: &mut RowBatch) -> Result<()>;
}

/// Clears and rows, the rows newer than the clears.
#[derive(Debug)]
pub(super) struct Layer<S> {
    pub(super) rows: BTreeMap<Box<[u8]>, S>,
    /// Places of clears: rows of older layers that they cover are gone.
    pub(super) clears: BTreeSet<Box<[u8]>>,
    /// How many entries each group has; no zeros.
    entries_by_group: BTreeMap<KeyGroup, u64>,
    held: Held,
}

/// What a layer's entries take, charged to a budget.
#[derive(Debug)]
struct Held {
    bytes: u64,
    budget: MemoryBudget,
    charge: Charge,
}

impl Held {
    fn new(budget: &MemoryBudget) -> Self {
        Self { bytes: 0, charge: budget.charge(0), budget: budget.clone() }
    }

    /// Holds `bytes` in all, unless `limit` is given and has no room for them.
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

    fn give_back(&mut self, bytes: u64) {
        self.bytes -= bytes;
        self.charge.resize(self.bytes.next_multiple_of(CHARGE_STEP_BYTES));
    }
}

impl<S: LayerSlot> Clone for Layer<S> {
    fn clone(&self) -> Self {
        let budget = self.held.budget.clone();
        Self {
            rows: self.rows.clone(),
            clears: self.clears.clone(),
            entries_by_group: self.entries_by_group.clone(),
            held: Held { bytes: self.held.bytes, charge: budget.charge(self.held.charge.bytes()), budget },
        }
    }
}

fn entry_bytes(place: &[u8], slot: &impl LayerSlot) -> u64 {
    ROW_OVERHEAD_BYTES + place.len() as u64 + slot.held_bytes()
}

impl<S: LayerSlot> Layer<S> {
    pub(super) fn new(budget: &MemoryBudget) -> Self {
        Self {
            rows: BTreeMap::new(),
            clears: BTreeSet::new(),
            entries_by_group: BTreeMap::new(),
            held: Held::new(budget),
        }
    }

    /// Returns how many rows of a segment it stands for, counting those of one place once.
    pub(super) fn len(&self) -> usize {
        self.rows.len() + self.clears.len()
    }

    /// Returns what its entries take, roughly.
    pub(super) fn bytes(&self) -> u64 {
        self.held.bytes
    }

    /// Returns what it charges its budget with.
    pub(super) fn charged_bytes(&self) -> u64 {
        self.held.charge.bytes()
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
    ) -> impl Iterator<Item = (&'a [u8], &'a S)> + use<'a, 's, S> {
        let from = (Bound::Included(start), Bound::Unbounded);
        let rows = self.rows.range::<[u8], _>(from).map(|(place, slot)| (place.as_ref(), slot));
        rows.take_while(move |(place, _)| place.starts_with(start))
    }

    /// Sets a slot, unless `limit` is given and has no room for it.
    pub(super) fn insert(&mut self, place: &[u8], slot: S, limit: Option<&MemoryBudget>) -> Result<()> {
        let new = entry_bytes(place, &slot);
        if let Some(there) = self.rows.get_mut(place) {
            self.held.afford(self.held.bytes - entry_bytes(place, there) + new, limit)?;
            *there = slot;
            return Ok(());
        }
        self.held.afford(self.held.bytes + new, limit)?;
        self.rows.insert(place.into(), slot);
        *self.entries_by_group.entry(group_of(place)).or_default() += 1;
        Ok(())
    }

    /// Adds a clear, unless `limit` is given and has no room for it.
    pub(super) fn insert_clear(&mut self, place: &[u8], limit: Option<&MemoryBudget>) -> Result<()> {
        if self.clears.contains(place) {
            return Ok(());
        }
        self.held.afford(self.held.bytes + ROW_OVERHEAD_BYTES + place.len() as u64, limit)?;
        self.clears.insert(place.into());
        *self.entries_by_group.entry(group_of(place)).or_default() += 1;
        Ok(())
    }

    pub(super) fn remove(&mut self, place: &[u8]) {
        if let Some(old) = self.rows.remove(place) {
            self.forget(group_of(place), entry_bytes(place, &old));
        }
    }

    fn forget(&mut self, group: KeyGroup, bytes: u64) {
        self.held.give_back(bytes);
        match self.entries_by_group.get_mut(&group) {
            Some(1) => drop(self.entries_by_group.remove(&group)),
            Some(entries @ 2..) => *entries -= 1,
            Some(0) | None => broken("an entry that goes was counted"),
        }
    }

    /// Appends the rows of a segment that its entries for `group` stand for.
    pub(super) fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        let start = group.0.to_be_bytes();
        let clears = self.clears.range::<[u8], _>((Bound::Included(start.as_slice()), Bound::Unbounded));
        let of_group = clears.take_while(|place| place.starts_with(&start));
        for (_, key) in of_group.map(|place| read_clear(place)) {
            batch.push(&Row { key, op: Op::Clear, columns: Columns::default() })?;
        }
        for (place, slot) in self.starting_with(&start) {
            slot.push_to(known_place(place).1, batch)?;
        }
        Ok(())
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
pub(super) struct Layers<S> {
    pub(super) groups: KeyGroupSet,
    pub(super) layers: Vec<Arc<Layer<S>>>,
}

impl<S: LayerSlot> RowSource for Layers<S> {
    fn groups(&self) -> &KeyGroupSet {
        &self.groups
    }

    fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        let layers = self.layers.iter().filter(|_| self.groups.contains(group));
        layers.into_iter().try_for_each(|layer| layer.append_group(group, batch))
    }

    fn held_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.charged_bytes()).sum()
    }
}
