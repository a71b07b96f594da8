//! Rows: what each does to its place, and the columns that few have.

use std::cmp::Ordering;

use super::key::RowKey;
use super::piece::{FIRST_VERSION, Piece};
use crate::time::Timestamp;

/// What a row does to its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op<'a> {
    /// Its value is this.
    Put(&'a [u8]),
    /// It has no value.
    Delete,
    /// Its value is the value before, merged with this operand by the table's merge operator.
    Merge(&'a [u8]),
    /// No row that has the named parts exists: it undoes all older rows, none of its own segment.
    Clear,
}

impl<'a> Op<'a> {
    /// Returns the operation's bytes: a value, an operand, or nothing.
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        match self {
            Op::Put(bytes) | Op::Merge(bytes) => bytes,
            Op::Delete | Op::Clear => &[],
        }
    }

    /// Returns whether it says something where no older rows lie below.
    #[must_use]
    pub const fn belongs_in_base(&self) -> bool {
        matches!(self, Op::Put(_) | Op::Merge(_))
    }
}

/// Optional columns of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Columns {
    /// When it was last written, or read where reading renews it: what its life is counted from. In milliseconds since
    /// the Unix epoch, in the time that its table expires by.
    pub stamp: Option<i64>,
    /// Version of the schema that its value was written with, if not 1.
    pub schema: Option<u32>,
    /// The hash that the engine handed in for its key.
    pub routing: Option<u64>,
}

impl Columns {
    /// Returns the columns of a row that has this piece.
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
    /// What it does there.
    pub op: Op<'a>,
    /// Its optional columns.
    pub columns: Columns,
}

impl<'a> Row<'a> {
    /// Returns its value or operand.
    #[must_use]
    pub fn piece(&self) -> Piece<'a> {
        Piece {
            bytes: self.op.payload(),
            version: self.columns.schema.unwrap_or(FIRST_VERSION),
            stamp: self.columns.stamp.map(Timestamp::from_millis),
        }
    }

    /// Returns whether it may come after a row of `place` in a folded key group: places ascend, and only merges
    /// follow others of their own place.
    #[must_use]
    pub fn may_follow(&self, place: &RowKey<'_>) -> bool {
        match place.cmp(&self.key) {
            Ordering::Less => true,
            Ordering::Equal => matches!(self.op, Op::Merge(_)),
            Ordering::Greater => false,
        }
    }
}
