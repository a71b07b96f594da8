//! How long rows are at most, by table: so that an operand is added without reading what it belongs to, and yet refused
//! where the row would become too long.
//!
//! These are upper bounds: of rows in RocksDB that operands were added to blindly, the longest is taken to be the one
//! that got the most. As long as no row of a table can be near the limit, nothing is read.

use std::collections::BTreeMap;

use crate::id::TableId;

#[derive(Debug, Default)]
pub(super) struct Lengths {
    /// Of rows below the active layer.
    below: BTreeMap<TableId, u64>,
    /// Of rows that the active layer has, with what lies below them.
    active: BTreeMap<TableId, u64>,
}

impl Lengths {
    /// Returns what a row of `table` has at most below the active layer.
    pub(super) fn below(&self, table: TableId) -> u64 {
        self.below.get(&table).copied().unwrap_or(0)
    }

    /// Notes what a row of the active layer has at most.
    pub(super) fn note(&mut self, table: TableId, bytes: u64) {
        let longest = self.active.entry(table).or_default();
        *longest = bytes.max(*longest);
    }

    /// Notes that the active layer was sealed, or that its rows were loaded.
    pub(super) fn seal(&mut self) {
        for (table, bytes) in std::mem::take(&mut self.active) {
            let longest = self.below.entry(table).or_default();
            *longest = bytes.max(*longest);
        }
    }
}
