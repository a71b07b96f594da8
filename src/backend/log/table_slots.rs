//! Small numbers for tables: table ids are hashes, and a record spends one byte on a small number.
//!
//! Inside the backend a slot stands for its table, in records and rules alike; the id appears in sealed parts and in
//! errors.

use std::sync::Arc;

use super::super::RowRef;
use crate::error::broken;
use crate::id::TableId;
use crate::row::{GroupTimes, Life};

/// Table ids by slot. Slots are permanent. A clone is cheap, and does not see tables added later.
#[derive(Debug, Clone)]
pub(super) struct TableSlots {
    ids: Arc<Vec<TableId>>,
    /// The table that was asked for last, and its slot: the next operation is likely on the same table. At first no id.
    last: u64,
    last_slot: TableId,
}

impl Default for TableSlots {
    fn default() -> Self {
        Self { ids: Arc::default(), last: u64::MAX, last_slot: TableId(0) }
    }
}

impl TableSlots {
    /// Returns a table's slot, a new one if it has none.
    #[inline(always)]
    pub(super) fn slot_of(&mut self, table: TableId) -> TableId {
        if u64::from(table.0) == self.last { self.last_slot } else { self.look_up(table) }
    }

    /// Returns the number of tables.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    #[inline(never)]
    fn look_up(&mut self, table: TableId) -> TableId {
        let slot = match self.ids.iter().position(|id| *id == table) {
            Some(slot) => slot_at(slot),
            None => self.add(table),
        };
        (self.last, self.last_slot) = (u64::from(table.0), slot);
        slot
    }

    #[cold]
    fn add(&mut self, table: TableId) -> TableId {
        let slot = slot_at(self.ids.len());
        Arc::make_mut(&mut self.ids).push(table);
        slot
    }

    /// Returns `row` with its table's slot in place of the id.
    #[inline]
    pub(super) fn with_slot<'a>(&mut self, row: &RowRef<'a>) -> RowRef<'a> {
        RowRef { table: self.slot_of(row.table), ..*row }
    }

    /// Returns the id of the table with this slot.
    #[inline]
    pub(super) fn table(&self, slot: TableId) -> TableId {
        match self.ids.get(slot.0 as usize) {
            Some(table) => *table,
            None => broken("a slot has a table"),
        }
    }
}

#[inline]
fn slot_at(at: usize) -> TableId {
    match u32::try_from(at) {
        Ok(slot) => TableId(slot),
        Err(_) => broken("there are fewer tables than ids"),
    }
}

/// Renumbers the tables in these records.
pub(super) fn renumber(times: &mut [GroupTimes], mut number: impl FnMut(TableId) -> TableId) {
    for record in times {
        for life in &mut record.lives {
            *life = Life { table: number(life.table), ..*life };
        }
        record.lives.sort_by_key(|life| life.table);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_permanent_whatever_was_asked_for_before() {
        let mut slots = TableSlots::default();
        let ids = [TableId(u32::MAX), TableId(0), TableId(7)];
        for _ in 0..2 {
            for (slot, id) in (0..).zip(ids) {
                assert_eq!([slots.slot_of(id), slots.slot_of(id)], [TableId(slot); 2]);
                assert_eq!(slots.table(TableId(slot)), id);
            }
        }
    }
}
