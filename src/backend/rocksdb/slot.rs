//! A row's slot in a layer over RocksDB.

use super::cell::{Cell, put_all};
use crate::backend::layer::{self, LayerSlot};
use crate::error::{Result, broken};
use crate::row::{Columns, Op, Row, RowBatch, RowKey};

/// The writes between two seals, over RocksDB.
pub(super) type Layer = layer::Layer<Slot>;

/// A row's entry in a layer.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    /// Whether the slot hides the layers below and RocksDB.
    pub(super) whole: bool,
    /// A value followed by operands; operands only, if not whole; empty for a tombstone.
    pub(super) cell: Vec<u8>,
    /// Bytes of the row below when the slot was created, an estimate if RocksDB was not read; `None` if there was no
    /// row.
    pub(super) below_bytes: Option<u64>,
    /// Whether `below_bytes` was read, not estimated.
    pub(super) below_is_exact: bool,
}

impl Slot {
    /// Returns the slot of a deleted row.
    pub(super) fn tombstone(routing: Option<u64>, below_bytes: Option<u64>) -> Result<Self> {
        let mut cell = Vec::new();
        put_all(&mut cell, routing, &[])?;
        Ok(Self { whole: true, cell, below_bytes, below_is_exact: false })
    }

    /// Returns the bytes of the row's value and operands, those below included; `None` for a tombstone.
    pub(super) fn payload_bytes(&self) -> Option<u64> {
        let own = self.own_bytes();
        if self.whole { (!self.is_tombstone()).then_some(own) } else { Some(self.below_bytes.unwrap_or(0) + own) }
    }

    /// Returns the bytes of the slot's own value and operands.
    pub(super) fn own_bytes(&self) -> u64 {
        self.cell().payload_bytes()
    }

    /// Returns whether the slot deletes the row.
    pub(super) fn is_tombstone(&self) -> bool {
        self.whole && self.cell().is_empty()
    }

    fn cell(&self) -> Cell<'_> {
        Cell::read(&self.cell).unwrap_or_else(|_| broken("a cell in memory decodes"))
    }
}

impl LayerSlot for Slot {
    fn held_bytes(&self) -> u64 {
        self.cell.len() as u64
    }

    fn push_to(&self, key: RowKey<'_>, batch: &mut RowBatch) -> Result<()> {
        if self.is_tombstone() {
            let routing = self.cell().routing;
            return batch.push(&Row { key, op: Op::Delete, columns: Columns { routing, ..Columns::default() } });
        }
        push_cell(&self.cell, key, self.whole, batch)
    }
}

/// Appends the segment rows of a cell.
///
/// * `whole`: whether the first piece is a value; all others are operands.
///
/// # Errors
/// `Corrupt` if the cell is damaged; errors of the batch.
pub(super) fn push_cell(cell: &[u8], key: RowKey<'_>, whole: bool, batch: &mut RowBatch) -> Result<()> {
    let cell = Cell::read(cell)?;
    let mut first = whole;
    cell.visit_pieces(|piece| {
        let op = if std::mem::take(&mut first) { Op::Put(piece.bytes) } else { Op::Merge(piece.bytes) };
        batch.push(&Row { key, op, columns: Columns::of(&piece, cell.routing) })
    })
}
