//! One row of the overlay: its pieces over all layers, and writes to the active layer.

use std::sync::Arc;

use super::OverlayBackend;
use super::slot::{Layer, Slot};
use crate::backend::checks::{check_value, no_merge_operator};
use crate::backend::row_key::{group_of, row_bytes};
use crate::error::Result;
use crate::id::TableId;
use crate::row::{Below, OwnedPiece, Rules, check_value_length};

impl OverlayBackend {
    /// Returns the pieces of a row, oldest first.
    ///
    /// * `layers`: newest first.
    fn gather<'a>(layers: impl Iterator<Item = &'a Layer>, row_key: &[u8]) -> Vec<OwnedPiece> {
        let mut newest_first = Vec::new();
        for layer in layers {
            if let Some(slot) = layer.rows.get(row_key) {
                newest_first.extend(slot.pieces.iter().rev().cloned());
                if slot.whole {
                    break;
                }
            }
            if layer.covers(row_key) {
                break;
            }
        }
        newest_first.reverse();
        newest_first
    }

    /// Returns the pieces of a row below the active layer, unless a clear in the active layer hides them.
    pub(super) fn pieces_below(&self, row_key: &[u8]) -> Vec<OwnedPiece> {
        if self.active.covers(row_key) { Vec::new() } else { Self::gather(self.frozen().map(Arc::as_ref), row_key) }
    }

    /// Returns all pieces of a row.
    pub(super) fn pieces(&self, row_key: &[u8]) -> Vec<OwnedPiece> {
        Self::gather([&self.active].into_iter().chain(self.frozen().map(Arc::as_ref)), row_key)
    }

    /// Returns the rules of the current row's group.
    pub(super) fn current_rules(&self) -> &Rules {
        self.rules.of(group_of(&self.row_key))
    }

    /// Writes the value that `pieces` make to `out`; returns false if they make none.
    ///
    /// * `rules`: those of the row's group.
    /// * `out`: empty.
    pub(super) fn resolve(rules: &Rules, table: TableId, pieces: Vec<OwnedPiece>, out: &mut Vec<u8>) -> Result<bool> {
        if let Some(table_rules) = rules.table(table) {
            return table_rules.resolve(pieces.iter().map(OwnedPiece::borrow), rules.now(table_rules), out);
        }
        match pieces.as_slice() {
            [] => Ok(false),
            [piece] => {
                out.extend_from_slice(&piece.bytes);
                Ok(true)
            }
            _ => Err(no_merge_operator(table)),
        }
    }

    /// Reads the current row's value into `self.value`; returns false if the row is absent.
    pub(super) fn read_current(&mut self, table: TableId) -> Result<bool> {
        self.heat.entry(group_of(&self.row_key)).or_default().read();
        let mut value = std::mem::take(&mut self.value);
        value.clear();
        let found = Self::resolve(self.current_rules(), table, self.pieces(&self.row_key), &mut value);
        self.value = value;
        found
    }

    /// Puts `value` into the current row; `None` deletes the row.
    pub(super) fn set(&mut self, table: TableId, routing: Option<u64>, value: Option<&[u8]>) -> Result<()> {
        value.map_or(Ok(()), check_value)?;
        let (version, stamp) = self.current_rules().mark(table);
        let pieces = value.map(|bytes| OwnedPiece { bytes: bytes.to_vec(), version, stamp });
        self.put_slot(Slot { whole: true, pieces: pieces.into_iter().collect(), routing })
    }

    /// Merges an operand into the current row.
    pub(super) fn merge(&mut self, table: TableId, routing: Option<u64>, operand: &[u8]) -> Result<()> {
        check_value(operand)?;
        let group_rules = self.current_rules();
        let with_operator = group_rules.table(table).filter(|rules| rules.merge.is_some());
        let rules = with_operator.ok_or_else(|| no_merge_operator(table))?;
        let (version, stamp) = group_rules.mark(table);
        let operand = OwnedPiece { bytes: operand.to_vec(), version, stamp };
        let older = self.pieces(&self.row_key);
        let all = || older.iter().chain([&operand]).map(OwnedPiece::borrow);
        // A merged value is rarely longer than its pieces together: merge only if their sum exceeds the limit.
        if check_value_length(all().map(|piece| piece.bytes.len()).sum()).is_err() {
            rules.check_length(all(), group_rules.now(rules))?;
        }
        let old = self.active.rows.get(self.row_key.as_slice());
        let whole = old.map_or_else(|| self.pieces_below(&self.row_key).is_empty(), |slot| slot.whole);
        let mut pieces = old.map(|slot| slot.pieces.clone()).unwrap_or_default();
        pieces.push(operand);
        let below = if whole { Below::Nothing } else { Below::Unknown };
        let pieces = rules.combine(pieces, below, group_rules.now(rules), false)?;
        self.put_slot(Slot { whole, pieces, routing })
    }

    /// Puts the current row's slot into the active layer.
    fn put_slot(&mut self, slot: Slot) -> Result<()> {
        let row_key = std::mem::take(&mut self.row_key);
        self.heat.entry(group_of(&row_key)).or_default().write();
        let old = self.pieces(&row_key);
        let put = if slot.pieces.is_empty() && (!slot.whole || self.pieces_below(&row_key).is_empty()) {
            self.active.remove(&row_key);
            Ok(())
        } else {
            self.active.insert(&row_key, slot, Some(&self.budget))
        };
        if put.is_ok() {
            self.count(&row_key, &old, false);
            self.count(&row_key, &self.pieces(&row_key), true);
        }
        self.row_key = row_key;
        put
    }

    /// Adds a row to the counts of live rows and bytes, or subtracts it; a row without pieces is absent.
    pub(super) fn count(&mut self, row_key: &[u8], pieces: &[OwnedPiece], add: bool) {
        if pieces.is_empty() {
            return;
        }
        let bytes = row_bytes(row_key) + pieces.iter().map(|piece| piece.bytes.len() as u64).sum::<u64>();
        if add {
            self.rows += 1;
            self.live_bytes += bytes;
        } else {
            self.rows -= 1;
            self.live_bytes -= bytes;
        }
    }
}
