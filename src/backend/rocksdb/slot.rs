//! What a layer over RocksDB says of a row.

use super::cell::Cell;
use crate::backend::layer::{self, LayerSlot};
use crate::error::{Result, broken};
use crate::row::{Columns, Op, Row, RowBatch, RowKey};

/// What was written between two seals, in front of RocksDB.
pub(super) type Layer = layer::Layer<Slot>;

/// What a layer says of a row.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    /// Whether what lies below does not matter any more.
    pub(super) whole: bool,
    /// A value and operands after it; operands only if it is not whole; nothing if the row is gone.
    pub(super) cell: Vec<u8>,
    /// Bytes of what lay below when the layer was first told of the row, as far as that was known without reading it;
    /// `None` if nothing did.
    pub(super) below: Option<u64>,
    /// Whether that was read, so that it is no estimate.
    pub(super) below_was_read: bool,
}

impl Slot {
    /// Returns the bytes of the row's value and operands, `None` if it is gone.
    pub(super) fn payload_bytes(&self) -> Option<u64> {
        let own = self.own_bytes();
        if self.whole { (!self.is_gone()).then_some(own) } else { Some(self.below.unwrap_or(0) + own) }
    }

    /// Returns the bytes of the value and operands that stand in it.
    pub(super) fn own_bytes(&self) -> u64 {
        self.cell().payload_bytes()
    }

    /// Returns whether it says that there is no such row.
    pub(super) fn is_gone(&self) -> bool {
        self.whole && self.cell().is_empty()
    }

    fn cell(&self) -> Cell<'_> {
        Cell::read(&self.cell).unwrap_or_else(|_| broken("a cell in memory is as it was written"))
    }
}

impl LayerSlot for Slot {
    fn held_bytes(&self) -> u64 {
        self.cell.len() as u64
    }

    fn push_to(&self, key: RowKey<'_>, batch: &mut RowBatch) -> Result<()> {
        if self.is_gone() {
            let routing = self.cell().routing;
            return batch.push(&Row { key, op: Op::Delete, columns: Columns { routing, ..Columns::default() } });
        }
        push_cell(&self.cell, key, self.whole, batch)
    }
}

/// Appends the rows of a segment that a cell stands for: a value first, if it is `whole`.
///
/// # Errors
/// `Corrupt` if it is damaged; what the batch returns.
pub(super) fn push_cell(cell: &[u8], key: RowKey<'_>, whole: bool, batch: &mut RowBatch) -> Result<()> {
    let cell = Cell::read(cell)?;
    let mut first = whole;
    cell.pieces(|piece| {
        let op = if std::mem::take(&mut first) { Op::Put(piece.bytes) } else { Op::Merge(piece.bytes) };
        batch.push(&Row { key, op, columns: Columns::of(&piece, cell.routing) })
    })
}
