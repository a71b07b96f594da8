//! Layers: the writes between two seals, in ordered maps.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::ops::Bound;
use std::sync::Arc;

use crate::error::{Result, broken};
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::memory::{Charge, MemoryBudget};
use crate::row::{Columns, Op, Row, RowBatch, RowKey, RowSource};

use super::checks::budget_spent;
use super::row_key::{covering_clears, decode_clear, decode_trusted, group_of};

/// Approximate bytes of a map entry beside its key and value.
pub(super) const ROW_OVERHEAD_BYTES: u64 = 80;

/// Layers charge the budget in steps of this size, so that few operations touch the shared counter.
pub(super) const CHARGE_STEP_BYTES: u64 = 4096;

/// A row's entry in a layer.
pub(super) trait LayerSlot: Clone + Debug + Send + Sync {
    /// Returns the approximate bytes that the slot holds beside its row key and map entry.
    fn held_bytes(&self) -> u64;

    /// Appends the slot's segment rows, with this key.
    fn push_to(&self, key: RowKey<'_>, batch: &mut RowBatch) -> Result<()>;
}

/// Clears and rows; the rows are newer than the clears.
#[derive(Debug)]
pub(super) struct Layer<S> {
    pub(super) rows: BTreeMap<Box<[u8]>, S>,
    /// Keys of clears, which remove the covered rows of older layers.
    pub(super) clears: BTreeSet<Box<[u8]>>,
    /// Entries of each group; no zeros.
    entries_by_group: BTreeMap<KeyGroup, u64>,
    held: Held,
}

/// Bytes held by a layer's entries, charged to a budget.
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

    /// Sets the bytes held to `bytes`.
    ///
    /// # Errors
    /// `Limit` if `limit` is given and has no room for them.
    fn resize(&mut self, bytes: u64, limit: Option<&MemoryBudget>) -> Result<()> {
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

    fn release(&mut self, bytes: u64) {
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

fn entry_bytes(row_key: &[u8], slot: &impl LayerSlot) -> u64 {
    ROW_OVERHEAD_BYTES + row_key.len() as u64 + slot.held_bytes()
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

    /// Returns the number of rows and clears.
    pub(super) fn len(&self) -> usize {
        self.rows.len() + self.clears.len()
    }

    /// Returns the approximate bytes of the entries.
    pub(super) fn bytes(&self) -> u64 {
        self.held.bytes
    }

    /// Returns the bytes charged to the budget.
    pub(super) fn charged_bytes(&self) -> u64 {
        self.held.charge.bytes()
    }

    /// Returns the groups that have entries.
    pub(super) fn groups(&self) -> KeyGroupSet {
        self.entries_by_group.keys().copied().collect()
    }

    /// Returns the number of entries of each group that has any.
    pub(super) fn entries_by_group(&self) -> impl Iterator<Item = (KeyGroup, u64)> {
        self.entries_by_group.iter().map(|(group, entries)| (*group, *entries))
    }

    /// Returns whether a clear in this layer covers the row at `row_key`.
    pub(super) fn covers(&self, row_key: &[u8]) -> bool {
        !self.clears.is_empty() && covering_clears(row_key).any(|clear| self.clears.contains(clear.as_slice()))
    }

    /// Returns the rows whose row keys start with `start`, in order.
    pub(super) fn starting_with<'a, 's>(
        &'a self,
        start: &'s [u8],
    ) -> impl Iterator<Item = (&'a [u8], &'a S)> + use<'a, 's, S> {
        let from = (Bound::Included(start), Bound::Unbounded);
        let rows = self.rows.range::<[u8], _>(from).map(|(row_key, slot)| (row_key.as_ref(), slot));
        rows.take_while(move |(row_key, _)| row_key.starts_with(start))
    }

    /// Sets a row's slot.
    ///
    /// # Errors
    /// `Limit` if `limit` is given and has no room for the slot.
    pub(super) fn insert(&mut self, row_key: &[u8], slot: S, limit: Option<&MemoryBudget>) -> Result<()> {
        let new = entry_bytes(row_key, &slot);
        if let Some(old) = self.rows.get_mut(row_key) {
            self.held.resize(self.held.bytes - entry_bytes(row_key, old) + new, limit)?;
            *old = slot;
            return Ok(());
        }
        self.held.resize(self.held.bytes + new, limit)?;
        self.rows.insert(row_key.into(), slot);
        *self.entries_by_group.entry(group_of(row_key)).or_default() += 1;
        Ok(())
    }

    /// Adds a clear.
    ///
    /// # Errors
    /// `Limit` if `limit` is given and has no room for the clear.
    pub(super) fn insert_clear(&mut self, clear: &[u8], limit: Option<&MemoryBudget>) -> Result<()> {
        if self.clears.contains(clear) {
            return Ok(());
        }
        self.held.resize(self.held.bytes + ROW_OVERHEAD_BYTES + clear.len() as u64, limit)?;
        self.clears.insert(clear.into());
        *self.entries_by_group.entry(group_of(clear)).or_default() += 1;
        Ok(())
    }

    pub(super) fn remove(&mut self, row_key: &[u8]) {
        if let Some(old) = self.rows.remove(row_key) {
            self.uncount(group_of(row_key), entry_bytes(row_key, &old));
        }
    }

    fn uncount(&mut self, group: KeyGroup, bytes: u64) {
        self.held.release(bytes);
        match self.entries_by_group.get_mut(&group) {
            Some(1) => drop(self.entries_by_group.remove(&group)),
            Some(entries @ 2..) => *entries -= 1,
            Some(0) | None => broken("a removed entry was counted"),
        }
    }

    /// Appends the segment rows of the entries of `group`.
    pub(super) fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        let start = group.0.to_be_bytes();
        let clears = self.clears.range::<[u8], _>((Bound::Included(start.as_slice()), Bound::Unbounded));
        let of_group = clears.take_while(|clear| clear.starts_with(&start));
        for (_, key) in of_group.map(|clear| decode_clear(clear)) {
            batch.push(&Row { key, op: Op::Clear, columns: Columns::default() })?;
        }
        for (row_key, slot) in self.starting_with(&start) {
            slot.push_to(decode_trusted(row_key).1, batch)?;
        }
        Ok(())
    }

    pub(super) fn drop_groups(&mut self, groups: &KeyGroupSet) {
        let dropped: Vec<_> = self.rows.keys().filter(|row_key| groups.contains(group_of(row_key))).cloned().collect();
        dropped.iter().for_each(|row_key| self.remove(row_key));
        let dropped: Vec<_> = self.clears.iter().filter(|clear| groups.contains(group_of(clear))).cloned().collect();
        for clear in dropped {
            self.clears.remove(&clear);
            self.uncount(group_of(&clear), ROW_OVERHEAD_BYTES + clear.len() as u64);
        }
    }
}

/// Layers that a sealed part shares with the backend, oldest first.
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
