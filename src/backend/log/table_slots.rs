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
#[derive(Debug, Clone, Default)]
pub(super) struct TableSlots(Arc<Vec<TableId>>);

impl TableSlots {
    /// Returns a table's slot, a new one if it has none.
    #[inline]
    pub(super) fn slot_of(&mut self, table: TableId) -> TableId {
        match self.0.iter().position(|id| *id == table) {
            Some(slot) => slot_at(slot),
            None => self.add(table),
        }
    }

    #[cold]
    fn add(&mut self, table: TableId) -> TableId {
        let slot = slot_at(self.0.len());
        Arc::make_mut(&mut self.0).push(table);
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
        match self.0.get(slot.0 as usize) {
            Some(table) => *table,
            None => broken("a slot has a table"),
        }
    }
}

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
