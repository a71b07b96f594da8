//! A row's slot in a layer of the overlay.

use crate::error::{Result, broken};
use crate::row::{Columns, Op, OwnedPiece, Row, RowBatch, RowKey};

use super::super::layer::{self, LayerSlot, ROW_OVERHEAD_BYTES};

/// A layer of the overlay.
pub(super) type Layer = layer::Layer<Slot>;

/// A row's entry in a layer.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    /// Whether the slot hides older layers.
    pub(super) whole: bool,
    /// A value followed by operands; operands only, if not whole; empty for a tombstone.
    pub(super) pieces: Vec<OwnedPiece>,
    pub(super) routing: Option<u64>,
}

impl LayerSlot for Slot {
    fn held_bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.bytes.len() as u64 + ROW_OVERHEAD_BYTES / 2).sum()
    }

    fn push_to(&self, key: RowKey<'_>, batch: &mut RowBatch) -> Result<()> {
        if self.whole && self.pieces.is_empty() {
            let columns = Columns { routing: self.routing, ..Columns::default() };
            return batch.push(&Row { key, op: Op::Delete, columns });
        }
        for (at, piece) in self.pieces.iter().enumerate() {
            let piece = piece.borrow();
            let op = if self.whole && at == 0 { Op::Put(piece.bytes) } else { Op::Merge(piece.bytes) };
            batch.push(&Row { key, op, columns: Columns::of(&piece, self.routing) })?;
        }
        Ok(())
    }
}

/// Folds a newer layer into `older`, the lowest layer.
pub(super) fn absorb(older: &mut Layer, newer: Layer) {
    if !newer.clears.is_empty() {
        let cleared: Vec<_> = older.rows.keys().filter(|row_key| newer.covers(row_key)).cloned().collect();
        cleared.iter().for_each(|row_key| older.remove(row_key));
    }
    for (row_key, mut slot) in newer.rows {
        if slot.whole && slot.pieces.is_empty() {
            older.remove(&row_key);
            continue;
        }
        if let Some(below) = older.rows.get(&row_key).filter(|_| !slot.whole) {
            slot.pieces.splice(..0, below.pieces.iter().cloned());
        }
        if older.insert(&row_key, Slot { whole: true, ..slot }, None).is_err() {
            broken("an insert without a limit succeeds");
        }
    }
}
