//! Upper bounds of row lengths by table. An operand is merged without reading its row, and still refused if the row
//! would become too long.
//!
//! For rows in RocksDB, the bound assumes that the longest row received the most operands. Nothing is read as long as
//! no row of a table can be near the limit.

use std::collections::BTreeMap;

use crate::id::TableId;

/// Bounds of payload bytes by table.
#[derive(Debug, Default)]
pub(super) struct LongestRows {
    /// Of rows below the active layer.
    below: BTreeMap<TableId, u64>,
    /// Of rows in the active layer, their payload below included.
    active: BTreeMap<TableId, u64>,
}

impl LongestRows {
    /// Returns the bound for rows of `table` below the active layer.
    pub(super) fn below(&self, table: TableId) -> u64 {
        self.below.get(&table).copied().unwrap_or(0)
    }

    /// Raises the bound for rows of the active layer to at least `bytes`.
    pub(super) fn note(&mut self, table: TableId, bytes: u64) {
        let longest = self.active.entry(table).or_default();
        *longest = bytes.max(*longest);
    }

    /// Moves the active layer's bounds below it, after a seal.
    pub(super) fn seal(&mut self) {
        let active = std::mem::take(&mut self.active);
        self.raise_below(&active);
    }

    /// Raises the bounds below the active layer to those of loaded rows.
    pub(super) fn add_loaded(&mut self, loaded: &Self) {
        self.raise_below(&loaded.active);
    }

    fn raise_below(&mut self, bounds: &BTreeMap<TableId, u64>) {
        for (table, bytes) in bounds {
            let longest = self.below.entry(*table).or_default();
            *longest = (*bytes).max(*longest);
        }
    }
}
