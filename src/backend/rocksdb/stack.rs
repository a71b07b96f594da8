//! Where a row may stand: the layer that is being written, layers that are on their way into RocksDB, a view of RocksDB.
//!
//! ```text
//! active -> frozen, newest first -> view
//! ```
//!
//! Invariant: a layer is either frozen here or in the view, never both: operands would count twice.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use rocksdb::DBPinnableSlice;

use super::cell::{Cell, pieces_of};
use super::db::{View, of_rocksdb};
use super::slot::{Layer, Slot};
use super::span::Span;
use crate::backend::no_operator;
use crate::error::Result;
use crate::id::TableId;
use crate::row::{OwnedPiece, Rules};
use crate::time::Timestamp;

/// A layer on its way into RocksDB: the number of layers up to it, and itself.
pub(super) type Frozen = (u64, Arc<Layer>);

/// All that a backend has of its rows.
#[derive(Debug)]
pub(super) struct Stack {
    pub(super) active: Layer,
    /// Oldest first.
    pub(super) frozen: VecDeque<Frozen>,
    pub(super) view: Arc<View>,
}

/// What stands at a place.
pub(super) enum Found<'a> {
    /// No row.
    Nothing,
    /// The row's cell, in a layer.
    Cell(&'a [u8]),
    /// The row's cell, in RocksDB.
    Stored(DBPinnableSlice<'a>),
    /// The row's pieces, gathered from several, oldest first.
    Pieces(Vec<OwnedPiece>),
}

impl Found<'_> {
    /// Returns its cell, if it is one.
    fn cell(&self) -> Option<&[u8]> {
        match self {
            Self::Nothing | Self::Pieces(_) => None,
            Self::Cell(cell) => Some(cell),
            Self::Stored(cell) => Some(cell),
        }
    }

    /// Returns its bytes, if they are one piece of the first version and without a stamp.
    ///
    /// # Errors
    /// `Corrupt` if the cell is damaged.
    fn plain(&self) -> Result<Option<&[u8]>> {
        self.cell().map_or(Ok(None), |cell| Ok(Cell::read(cell)?.plain()))
    }

    /// Returns its pieces, oldest first.
    ///
    /// # Errors
    /// `Corrupt` if the cell is damaged.
    pub(super) fn pieces(&self) -> Result<Vec<OwnedPiece>> {
        match self {
            Self::Pieces(pieces) => Ok(pieces.clone()),
            found => pieces_of(found.cell()),
        }
    }

    /// Returns what the row's pieces read as, `None` if it has no value.
    ///
    /// * `buffer`: for a value that stands nowhere as it is.
    ///
    /// # Errors
    /// `Corrupt` if the cell is damaged; what the table's rules return.
    pub(super) fn value<'a>(
        &'a self,
        rules: &Rules,
        table: TableId,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Option<&'a [u8]>> {
        if matches!(self, Self::Nothing) {
            return Ok(None);
        }
        if let Some(bytes) = self.plain()?.filter(|_| rules.plain(table)) {
            return Ok(Some(bytes));
        }
        buffer.clear();
        let pieces = self.pieces()?;
        if let Some(of_table) = rules.table(table) {
            let pieces = pieces.iter().map(OwnedPiece::borrow);
            return Ok(of_table.resolve(pieces, rules.now(of_table), buffer)?.then_some(buffer));
        }
        match pieces.as_slice() {
            [] => Ok(None),
            [piece] => {
                buffer.extend_from_slice(&piece.bytes);
                Ok(Some(buffer))
            }
            _ => Err(no_operator(table)),
        }
    }

    /// Returns the stamp of its newest piece.
    ///
    /// # Errors
    /// `Corrupt` if the cell is damaged.
    pub(super) fn stamp(&self) -> Result<Option<Timestamp>> {
        Ok(self.pieces()?.last().and_then(|piece| piece.stamp))
    }

    /// Returns the routing hash that it carries.
    pub(super) fn routing(&self) -> Option<u64> {
        Cell::read(self.cell()?).ok()?.routing
    }

    /// Returns the bytes of its pieces; `None` if there is no row.
    pub(super) fn payload_bytes(&self) -> Option<u64> {
        match self {
            Self::Nothing => None,
            Self::Pieces(pieces) => Some(pieces.iter().map(|piece| piece.bytes.len() as u64).sum()),
            Self::Cell(cell) => Some(Cell::read(cell).map_or(0, |cell| cell.payload_bytes())),
            Self::Stored(cell) => Some(Cell::read(cell).map_or(0, |cell| cell.payload_bytes())),
        }
    }
}

impl Stack {
    /// Returns the layers, newest first.
    fn layers(&self) -> impl Iterator<Item = &Layer> {
        [&self.active].into_iter().chain(self.frozen.iter().rev().map(|(_, layer)| layer.as_ref()))
    }

    /// Returns the layers that a sealed part needs beside the view, oldest first.
    pub(super) fn frozen_layers(&self) -> Vec<Arc<Layer>> {
        self.frozen.iter().map(|(_, layer)| Arc::clone(layer)).collect()
    }

    /// Takes over a newer view; what is in it leaves the layers.
    pub(super) fn rebase(&mut self, view: Arc<View>) {
        while self.frozen.front().is_some_and(|(number, _)| *number <= view.layers) {
            self.frozen.pop_front();
        }
        self.view = view;
    }

    /// Returns what stands at `place`.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable` from RocksDB.
    pub(super) fn find(&self, place: &[u8]) -> Result<Found<'_>> {
        let mut operands: Vec<&[u8]> = Vec::new();
        for layer in self.layers() {
            match layer.rows.get(place) {
                Some(slot) if slot.is_gone() => return gathered(Found::Nothing, &operands),
                Some(slot) if slot.whole => return gathered(Found::Cell(&slot.cell), &operands),
                Some(slot) => operands.push(&slot.cell),
                None => {}
            }
            if layer.covers(place) {
                return gathered(Found::Nothing, &operands);
            }
        }
        gathered(self.view.get(place)?.filter(|cell| !is_empty(cell)).map_or(Found::Nothing, Found::Stored), &operands)
    }

    /// Returns the bytes of the row's pieces as far as they are known without reading from disk, `None` if there is no
    /// row (see [`View::peek`]), for a place that the active layer says nothing of.
    pub(super) fn peek(&self, place: &[u8]) -> Option<Option<u64>> {
        if self.active.covers(place) {
            return None;
        }
        for (_, layer) in self.frozen.iter().rev() {
            if let Some(slot) = layer.rows.get(place) {
                return slot.payload_bytes().map(Some);
            }
            if layer.covers(place) {
                return None;
            }
        }
        self.view.peek(place)
    }

    /// Visits what stands in `span`, by place, until `visit` returns false; then it returns false too.
    ///
    /// * `keep`: whether the blocks that are read are likely to be read again.
    ///
    /// # Errors
    /// What `visit` returns; `Corrupt` or `Unavailable` from RocksDB.
    pub(super) fn each(
        &self,
        span: &Span,
        keep: bool,
        mut visit: impl FnMut(&[u8], Found<'_>) -> Result<bool>,
    ) -> Result<bool> {
        let layered: BTreeSet<&[u8]> = self.layers().flat_map(|layer| places(layer, span)).collect();
        let cleared = self.layers().any(|layer| !layer.clears.is_empty());
        let mut layered = layered.into_iter().peekable();
        let mut stored = self.view.iterate(span, keep);
        while let Some(place) = stored.key() {
            while let Some(before) = layered.next_if(|next| *next < place) {
                if !self.visit_layered(before, &mut visit)? {
                    return Ok(false);
                }
            }
            if layered.next_if_eq(&place).is_some() {
                if !self.visit_layered(place, &mut visit)? {
                    return Ok(false);
                }
            } else if let Some(cell) = stored.value().filter(|cell| !is_empty(cell))
                && !(cleared && self.layers().any(|layer| layer.covers(place)))
                && !visit(place, Found::Cell(cell))?
            {
                return Ok(false);
            }
            stored.next();
        }
        stored.status().map_err(|error| of_rocksdb("cannot read rows", error))?;
        for place in layered {
            if !self.visit_layered(place, &mut visit)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn visit_layered(&self, place: &[u8], visit: &mut impl FnMut(&[u8], Found<'_>) -> Result<bool>) -> Result<bool> {
        match self.find(place)? {
            Found::Nothing => Ok(true),
            found => visit(place, found),
        }
    }
}

fn places<'a>(layer: &'a Layer, span: &Span) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    layer.rows.range::<[u8], _>(span.bounds()).map(|(place, _)| place.as_ref())
}

/// Returns whether a cell says nothing: its last pieces have expired.
fn is_empty(cell: &[u8]) -> bool {
    Cell::read(cell).is_ok_and(|cell| cell.is_empty())
}

/// Returns what `operands`, newest first, make of what lies below them.
fn gathered<'a>(below: Found<'a>, operands: &[&'a [u8]]) -> Result<Found<'a>> {
    match operands {
        [] => Ok(below),
        [only] if matches!(below, Found::Nothing) => Ok(Found::Cell(only)),
        _ => {
            let mut pieces = below.pieces()?;
            pieces.extend(pieces_of(operands.iter().rev().copied())?);
            Ok(Found::Pieces(pieces))
        }
    }
}

/// Returns the slot of a row that is gone.
pub(super) fn gone(routing: Option<u64>, below: Option<u64>) -> Result<Slot> {
    let mut cell = Vec::new();
    super::cell::put_all(&mut cell, routing, &[])?;
    Ok(Slot { whole: true, cell, below, below_was_read: false })
}
