//! Small numbers for tables: their ids are hashes, and records have a byte for the table where that will do.
//!
//! Inside the backend a table goes by its slot, in records and rules alike; its id stands in what is sealed and in errors
//! that callers see.

use std::sync::Arc;

use super::super::RowRef;
use crate::error::broken;
use crate::id::TableId;
use crate::row::{GroupTimes, Life};

/// The ids of tables, by slot. Slots are for life. A copy is cheap, and knows the tables there were.
#[derive(Debug, Clone, Default)]
pub(super) struct Slots(Arc<Vec<TableId>>);

impl Slots {
    /// Returns the slot of a table, a new one if it has none.
    #[inline]
    pub(super) fn of(&mut self, table: TableId) -> TableId {
        match self.0.iter().position(|id| *id == table) {
            Some(slot) => slot_of(slot),
            None => self.add(table),
        }
    }

    #[cold]
    fn add(&mut self, table: TableId) -> TableId {
        let slot = slot_of(self.0.len());
        Arc::make_mut(&mut self.0).push(table);
        slot
    }

    /// Returns `row` with the slot of its table in the table's place.
    #[inline]
    pub(super) fn put<'a>(&mut self, row: &RowRef<'a>) -> RowRef<'a> {
        RowRef { table: self.of(row.table), ..*row }
    }

    /// Returns the table that has this slot.
    #[inline]
    pub(super) fn table(&self, slot: TableId) -> TableId {
        match self.0.get(slot.0 as usize) {
            Some(table) => *table,
            None => broken("a table without a slot"),
        }
    }
}

fn slot_of(at: usize) -> TableId {
    match u32::try_from(at) {
        Ok(slot) => TableId(slot),
        Err(_) => broken("more tables than there are ids"),
    }
}

/// Gives the tables that these records name other numbers.
pub(super) fn renumber(times: &mut [GroupTimes], mut number: impl FnMut(TableId) -> TableId) {
    for record in times {
        for life in &mut record.lives {
            *life = Life { table: number(life.table), ..*life };
        }
        record.lives.sort_by_key(|life| life.table);
    }
}
