//! Rows: an operation at a place, with optional columns.

use std::cmp::Ordering;

use super::key::RowKey;
use super::piece::{FIRST_VERSION, Piece};
use crate::time::Timestamp;

/// The operation of a row on its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op<'a> {
    /// Sets the value.
    Put(&'a [u8]),
    /// Removes the value.
    Delete,
    /// Merges this operand into the value, by the table's merge operator.
    Merge(&'a [u8]),
    /// Removes all older rows with the named parts, but no row of its own segment.
    Clear,
}

impl<'a> Op<'a> {
    /// Returns the value or the operand; empty for other operations.
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        match self {
            Op::Put(bytes) | Op::Merge(bytes) => bytes,
            Op::Delete | Op::Clear => &[],
        }
    }

    /// Returns whether the operation has an effect where no older rows lie below.
    #[must_use]
    pub const fn belongs_in_base(&self) -> bool {
        matches!(self, Op::Put(_) | Op::Merge(_))
    }
}

/// The optional columns of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Columns {
    /// Time of the last write, or of the last read if reads renew; the row's life starts here. Milliseconds since the
    /// Unix epoch, in the time domain of the table's expiry.
    pub stamp: Option<i64>,
    /// Version of the value's schema, if not 1.
    pub schema: Option<u32>,
    /// The engine's hash of the key.
    pub routing: Option<u64>,
}

impl Columns {
    /// Returns the columns of a row with this piece.
    #[must_use]
    pub fn of(piece: &Piece<'_>, routing: Option<u64>) -> Self {
        let schema = (piece.version != FIRST_VERSION).then_some(piece.version);
        Self { stamp: piece.stamp.map(Timestamp::as_millis), schema, routing }
    }
}

/// A row of a key group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Row<'a> {
    /// Its place.
    pub key: RowKey<'a>,
    /// Its operation.
    pub op: Op<'a>,
    /// Its optional columns.
    pub columns: Columns,
}

impl<'a> Row<'a> {
    /// Returns the value or the operand.
    #[must_use]
    pub fn piece(&self) -> Piece<'a> {
        Piece {
            bytes: self.op.payload(),
            version: self.columns.schema.unwrap_or(FIRST_VERSION),
            stamp: self.columns.stamp.map(Timestamp::from_millis),
        }
    }

    /// Returns whether this row may follow a row at `place` in a folded key group: places ascend, and only a merge
    /// may repeat the place.
    #[must_use]
    pub fn may_follow(&self, place: &RowKey<'_>) -> bool {
        match place.cmp(&self.key) {
            Ordering::Less => true,
            Ordering::Equal => matches!(self.op, Op::Merge(_)),
            Ordering::Greater => false,
        }
    }
}
