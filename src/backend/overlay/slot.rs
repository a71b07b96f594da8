//! What a layer of the overlay says of a row.

use crate::error::{Result, broken};
use crate::row::{Columns, Op, OwnedPiece, Row, RowBatch, RowKey};

use super::super::layer::{self, LayerSlot, ROW_OVERHEAD_BYTES};

/// A layer of the overlay.
pub(super) type Layer = layer::Layer<Slot>;

/// What a layer says of a row.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    /// Whether older layers do not matter any more.
    pub(super) whole: bool,
    /// A value and operands after it; operands only if it is not whole; nothing if the row is gone.
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

/// Adds to `older`, which has nothing below it, the entries of a newer layer.
pub(super) fn absorb(older: &mut Layer, newer: Layer) {
    if !newer.clears.is_empty() {
        let gone: Vec<_> = older.rows.keys().filter(|place| newer.covers(place)).cloned().collect();
        gone.iter().for_each(|place| older.remove(place));
    }
    for (place, mut slot) in newer.rows {
        if slot.whole && slot.pieces.is_empty() {
            older.remove(&place);
            continue;
        }
        if let Some(below) = older.rows.get(&place).filter(|_| !slot.whole) {
            slot.pieces.splice(..0, below.pieces.iter().cloned());
        }
        if older.insert(&place, Slot { whole: true, ..slot }, None).is_err() {
            broken("nothing is refused without a limit");
        }
    }
}
