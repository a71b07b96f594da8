//! The levels of a row: the active layer, frozen layers on their way into RocksDB, and a view of RocksDB.
//!
//! ```text
//! active -> frozen, newest first -> view
//! ```
//!
//! Invariant: a layer is either frozen here or in the view, never both; its operands would be merged twice.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use rocksdb::DBPinnableSlice;

use super::cell::{Cell, pieces_of};
use super::db::{View, rocksdb_error};
use super::slot::Layer;
use super::span::Span;
use crate::backend::checks::no_merge_operator;
use crate::error::Result;
use crate::id::TableId;
use crate::row::{OwnedPiece, Rules};
use crate::time::Timestamp;

/// A layer on its way into RocksDB, with its number: layers are numbered from 1 in the order of their seals.
pub(super) type Frozen = (u64, Arc<Layer>);

/// All levels of a backend's rows.
#[derive(Debug)]
pub(super) struct Stack {
    pub(super) active: Layer,
    /// Oldest first.
    pub(super) frozen: VecDeque<Frozen>,
    pub(super) view: Arc<View>,
}

/// A row as found over all levels.
pub(super) enum Found<'a> {
    /// No row.
    Nothing,
    /// The row's cell, in a layer.
    Cell(&'a [u8]),
    /// The row's cell, in RocksDB.
    Stored(DBPinnableSlice<'a>),
    /// The row's pieces from several levels, oldest first.
    Pieces(Vec<OwnedPiece>),
}

impl Found<'_> {
    /// Returns the row's cell, if one level has the whole row.
    fn cell(&self) -> Option<&[u8]> {
        match self {
            Self::Nothing | Self::Pieces(_) => None,
            Self::Cell(cell) => Some(cell),
            Self::Stored(cell) => Some(cell),
        }
    }

    /// Returns the row's bytes, if the row is one plain piece.
    ///
    /// # Errors
    /// `Corrupt` if the cell is damaged.
    fn plain(&self) -> Result<Option<&[u8]>> {
        self.cell().map_or(Ok(None), |cell| Ok(Cell::read(cell)?.plain()))
    }

    /// Returns the row's pieces, oldest first.
    ///
    /// # Errors
    /// `Corrupt` if the cell is damaged.
    pub(super) fn pieces(&self) -> Result<Vec<OwnedPiece>> {
        match self {
            Self::Pieces(pieces) => Ok(pieces.clone()),
            found => pieces_of(found.cell()),
        }
    }

    /// Returns the row's value, `None` if absent or expired.
    ///
    /// * `buffer`: holds a value that has to be merged, upgraded or copied.
    ///
    /// # Errors
    /// `Corrupt` if the cell is damaged; errors of the table's rules.
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
        if let Some(table_rules) = rules.table(table) {
            let pieces = pieces.iter().map(OwnedPiece::borrow);
            return Ok(table_rules.resolve(pieces, rules.now(table_rules), buffer)?.then_some(buffer));
        }
        match pieces.as_slice() {
            [] => Ok(None),
            [piece] => {
                buffer.extend_from_slice(&piece.bytes);
                Ok(Some(buffer))
            }
            _ => Err(no_merge_operator(table)),
        }
    }

    /// Returns the stamp of the newest piece.
    ///
    /// # Errors
    /// `Corrupt` if the cell is damaged.
    pub(super) fn stamp(&self) -> Result<Option<Timestamp>> {
        Ok(self.pieces()?.last().and_then(|piece| piece.stamp))
    }

    /// Returns the routing hash stored with the row.
    pub(super) fn routing(&self) -> Option<u64> {
        Cell::read(self.cell()?).ok()?.routing
    }

    /// Returns the bytes of the row's pieces, `None` if there is no row.
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
    /// Returns the active and frozen layers, newest first.
    fn layers(&self) -> impl Iterator<Item = &Layer> {
        [&self.active].into_iter().chain(self.frozen.iter().rev().map(|(_, layer)| layer.as_ref()))
    }

    /// Returns the frozen layers, oldest first.
    pub(super) fn frozen_layers(&self) -> Vec<Arc<Layer>> {
        self.frozen.iter().map(|(_, layer)| Arc::clone(layer)).collect()
    }

    /// Adopts a newer view and drops the frozen layers that it contains.
    pub(super) fn adopt(&mut self, view: Arc<View>) {
        while self.frozen.front().is_some_and(|(number, _)| *number <= view.layers) {
            self.frozen.pop_front();
        }
        self.view = view;
    }

    /// Returns the row at `row_key`.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable` from RocksDB.
    pub(super) fn find(&self, row_key: &[u8]) -> Result<Found<'_>> {
        let mut operands: Vec<&[u8]> = Vec::new();
        for layer in self.layers() {
            match layer.rows.get(row_key) {
                Some(slot) if slot.is_tombstone() => return with_operands(Found::Nothing, &operands),
                Some(slot) if slot.whole => return with_operands(Found::Cell(&slot.cell), &operands),
                Some(slot) => operands.push(&slot.cell),
                None => {}
            }
            if layer.covers(row_key) {
                return with_operands(Found::Nothing, &operands);
            }
        }
        with_operands(
            self.view.get(row_key)?.filter(|cell| !is_empty(cell)).map_or(Found::Nothing, Found::Stored),
            &operands,
        )
    }

    /// Looks up a row below the active layer without reading from disk. Returns `None` if the row is absent, else the
    /// bytes of its pieces, if known (see [`View::peek`]). The active layer must have no slot for the row.
    pub(super) fn peek(&self, row_key: &[u8]) -> Option<Option<u64>> {
        if self.active.covers(row_key) {
            return None;
        }
        for (_, layer) in self.frozen.iter().rev() {
            if let Some(slot) = layer.rows.get(row_key) {
                return slot.payload_bytes().map(Some);
            }
            if layer.covers(row_key) {
                return None;
            }
        }
        self.view.peek(row_key)
    }

    /// Visits the rows in `span` in the order of row keys, until `visit` returns false; returns false in that case.
    ///
    /// * `fill_cache`: whether the blocks are likely to be read again.
    ///
    /// # Errors
    /// Errors of `visit`; `Corrupt` or `Unavailable` from RocksDB.
    pub(super) fn scan(
        &self,
        span: &Span,
        fill_cache: bool,
        mut visit: impl FnMut(&[u8], Found<'_>) -> Result<bool>,
    ) -> Result<bool> {
        let layered: BTreeSet<&[u8]> = self.layers().flat_map(|layer| row_keys(layer, span)).collect();
        let cleared = self.layers().any(|layer| !layer.clears.is_empty());
        let mut layered = layered.into_iter().peekable();
        let mut stored = self.view.iterate(span, fill_cache);
        while let Some(row_key) = stored.key() {
            while let Some(earlier) = layered.next_if(|next| *next < row_key) {
                if !self.visit_layered(earlier, &mut visit)? {
                    return Ok(false);
                }
            }
            if layered.next_if_eq(&row_key).is_some() {
                if !self.visit_layered(row_key, &mut visit)? {
                    return Ok(false);
                }
            } else if let Some(cell) = stored.value().filter(|cell| !is_empty(cell))
                && !(cleared && self.layers().any(|layer| layer.covers(row_key)))
                && !visit(row_key, Found::Cell(cell))?
            {
                return Ok(false);
            }
            stored.next();
        }
        stored.status().map_err(|error| rocksdb_error("cannot read rows", error))?;
        for row_key in layered {
            if !self.visit_layered(row_key, &mut visit)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Visits a row that has a slot in a layer.
    fn visit_layered(&self, row_key: &[u8], visit: &mut impl FnMut(&[u8], Found<'_>) -> Result<bool>) -> Result<bool> {
        match self.find(row_key)? {
            Found::Nothing => Ok(true),
            found => visit(row_key, found),
        }
    }
}

/// Returns the row keys of a layer in `span`.
fn row_keys<'a>(layer: &'a Layer, span: &Span) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    layer.rows.range::<[u8], _>(span.bounds()).map(|(row_key, _)| row_key.as_ref())
}

/// Returns whether a merge dropped all pieces of a cell as expired.
fn is_empty(cell: &[u8]) -> bool {
    Cell::read(cell).is_ok_and(|cell| cell.is_empty())
}

/// Returns a row with `operands`, newest first, added to its state below.
fn with_operands<'a>(below: Found<'a>, operands: &[&'a [u8]]) -> Result<Found<'a>> {
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
