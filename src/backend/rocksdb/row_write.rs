//! Writes of one row to the active layer.

use super::RocksDbBackend;
use super::cell::{pieces_of, put_all, put_one};
use super::slot::Slot;
use crate::backend::checks::{check_value, no_merge_operator};
use crate::backend::row_key::{group_of, row_bytes};
use crate::error::Result;
use crate::id::TableId;
use crate::row::{Below, MAX_VALUE_BYTES, OwnedPiece, Piece, Rules, TableRules};

/// What a write knows of its row below the active layer, if the active layer has no slot for the row.
#[derive(Debug, Clone, Copy)]
pub(super) enum Prior {
    /// The row was not read.
    Unread,
    /// The row was read: its payload bytes, `None` if it is absent.
    Read(Option<u64>),
}

impl RocksDbBackend {
    /// Puts `value` into the current row; `None` deletes the row.
    pub(super) fn set(
        &mut self,
        table: TableId,
        routing: Option<u64>,
        value: Option<&[u8]>,
        prior: Prior,
    ) -> Result<()> {
        value.map_or(Ok(()), check_value)?;
        let (old, below) = match self.stack.active.rows.get(self.row_key.as_slice()) {
            Some(slot) => (slot.payload_bytes(), slot.below_bytes),
            None => {
                let below = self.prior_bytes(prior);
                (below, below)
            }
        };
        if value.is_none() && below.is_none() {
            self.stack.active.remove(&self.row_key);
        } else {
            let slot = match value {
                Some(bytes) => {
                    let (version, stamp) = self.current_rules().mark(table);
                    let mut cell = Vec::with_capacity(bytes.len() + 1);
                    put_one(&mut cell, routing, &Piece { bytes, version, stamp })?;
                    Slot { whole: true, cell, below_bytes: below, below_is_exact: false }
                }
                None => Slot::tombstone(routing, below)?,
            };
            self.stack.active.insert(&self.row_key, slot, Some(&self.budget))?;
        }
        self.count_write(old, value.map(|value| value.len() as u64));
        self.longest.note(table, value.map_or(0, |value| value.len() as u64));
        Ok(())
    }

    /// Merges an operand into the current row. Reads the row from RocksDB only if it might become too long.
    pub(super) fn merge(&mut self, table: TableId, routing: Option<u64>, operand: &[u8]) -> Result<()> {
        check_value(operand)?;
        let group_rules = self.rules.of(group_of(&self.row_key));
        let with_operator = group_rules.table(table).filter(|rules| rules.merge.is_some());
        let rules = with_operator.ok_or_else(|| no_merge_operator(table))?;
        let (version, stamp) = group_rules.mark(table);
        let operand = OwnedPiece { bytes: operand.to_vec(), version, stamp };
        let active = self.stack.active.rows.get(self.row_key.as_slice());
        let own = active.map_or(0, Slot::own_bytes);
        let (longest, read) = self.bound_below(table, rules, active, &operand)?;
        let (old, slot) = match active {
            Some(slot) => {
                let mut pieces = pieces_of([slot.cell.as_slice()])?;
                let longest = longest + own + operand.bytes.len() as u64;
                pieces.push(operand);
                self.longest.note(table, longest);
                let below = if slot.whole { Below::Nothing } else { Below::Unknown };
                let pieces = rules.combine(pieces, below, group_rules.now(rules), false)?;
                let mut cell = Vec::new();
                put_all(&mut cell, routing, &pieces)?;
                let below_bytes = read.map_or(slot.below_bytes, |read| read.map(|bytes| bytes - own));
                let below_is_exact = slot.below_is_exact || read.is_some();
                (slot.payload_bytes(), Slot { whole: slot.whole, cell, below_bytes, below_is_exact })
            }
            None => {
                self.longest.note(table, longest + operand.bytes.len() as u64);
                let below_bytes = self.prior_bytes(read.map_or(Prior::Unread, Prior::Read));
                let mut cell = Vec::new();
                put_all(&mut cell, routing, &[operand])?;
                let slot = Slot { whole: below_bytes.is_none(), cell, below_bytes, below_is_exact: read.is_some() };
                (below_bytes, slot)
            }
        };
        let new = slot.payload_bytes();
        self.stack.active.insert(&self.row_key, slot, Some(&self.budget))?;
        self.count_write(old, new);
        Ok(())
    }

    /// Returns an upper bound of the current row's bytes below the active layer. If that needed a read, also returns
    /// the row's total bytes, `None` if the row is absent. Assumes that a merged value is no longer than its pieces:
    /// otherwise the pieces are kept apart.
    ///
    /// * `active`: the row's slot in the active layer.
    ///
    /// # Errors
    /// `Limit` if the row is too long with `operand`; errors of the read.
    fn bound_below(
        &self,
        table: TableId,
        rules: &TableRules,
        active: Option<&Slot>,
        operand: &OwnedPiece,
    ) -> Result<(u64, Option<Option<u64>>)> {
        let longest = match active {
            Some(slot) if slot.whole => 0,
            Some(slot) if slot.below_is_exact => slot.below_bytes.unwrap_or(0),
            _ => self.longest.below(table),
        };
        let own = active.map_or(0, Slot::own_bytes);
        if longest + own + operand.bytes.len() as u64 <= MAX_VALUE_BYTES as u64 {
            return Ok((longest, None));
        }
        let found = self.stack.find(&self.row_key)?;
        let pieces = found.pieces()?;
        rules.check_length(pieces.iter().chain([operand]).map(OwnedPiece::borrow), self.current_rules().now(rules))?;
        let read = found.payload_bytes();
        Ok((read.unwrap_or(0) - own, Some(read)))
    }

    /// Returns the current row's bytes below the active layer, `None` if absent. Without a read this is an estimate.
    fn prior_bytes(&self, prior: Prior) -> Option<u64> {
        match prior {
            Prior::Read(bytes) => bytes,
            Prior::Unread => {
                let bytes = self.stack.peek(&self.row_key)?;
                Some(bytes.unwrap_or_else(|| self.counts.mean_payload_bytes(group_of(&self.row_key))))
            }
        }
    }

    /// Returns the rules of the current row's group.
    fn current_rules(&self) -> &Rules {
        self.rules.of(group_of(&self.row_key))
    }

    /// Counts a write of the current row.
    fn count_write(&mut self, old: Option<u64>, new: Option<u64>) {
        self.counts.note_write(group_of(&self.row_key), row_bytes(&self.row_key), old, new);
    }
}
