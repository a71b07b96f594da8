//! The row model: what every kind of state is made of.

use std::cmp::Ordering;

use super::rules::{FIRST_VERSION, Piece};
use crate::id::TableId;
use crate::time::Timestamp;

/// A row's place within its key group.
///
/// Ordered by table, key, namespace and sub-key, bytewise, an absent part before every present one. A row of
/// data has all parts. A [`Op::Clear`] lacks some and stands for all rows that have the parts it names:
///
/// | key | namespace | sub | clears |
/// |---|---|---|---|
/// | some | none | none | a key |
/// | some | some | none | a key's namespace |
/// | none | some | none | a namespace in the whole group |
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey<'a> {
    /// The table.
    pub table: TableId,
    /// The encoded key.
    pub key: Option<&'a [u8]>,
    /// The encoded namespace (a window, say); empty if the table has none.
    pub namespace: Option<&'a [u8]>,
    /// The encoded sub-key (of a map, say); empty if the table has none.
    pub sub: Option<&'a [u8]>,
}

impl<'a> RowKey<'a> {
    /// Returns the place of a row of data.
    #[must_use]
    pub const fn data(table: TableId, key: &'a [u8], namespace: &'a [u8], sub: &'a [u8]) -> Self {
        Self { table, key: Some(key), namespace: Some(namespace), sub: Some(sub) }
    }

    /// Returns whether this is a place that `op` may have.
    #[must_use]
    pub const fn fits(&self, op: &Op<'_>) -> bool {
        matches!(
            (op, self.key, self.namespace, self.sub),
            (Op::Clear, Some(_), _, None) | (Op::Clear, None, Some(_), None) | (_, Some(_), Some(_), Some(_))
        ) && !matches!((op, self.sub), (Op::Clear, Some(_)))
    }
}

/// A place that owns its bytes; reused from row to row.
#[derive(Debug, Clone, Default)]
pub(super) struct PlaceBuf {
    table: TableId,
    key: Option<Vec<u8>>,
    namespace: Option<Vec<u8>>,
    sub: Option<Vec<u8>>,
}

impl PlaceBuf {
    pub(super) fn get(&self) -> RowKey<'_> {
        RowKey {
            table: self.table,
            key: self.key.as_deref(),
            namespace: self.namespace.as_deref(),
            sub: self.sub.as_deref(),
        }
    }

    pub(super) fn set(&mut self, place: &RowKey<'_>) {
        self.table = place.table;
        let parts = [(&mut self.key, place.key), (&mut self.namespace, place.namespace), (&mut self.sub, place.sub)];
        for (slot, part) in parts {
            // Reuses the buffer: this runs once per row.
            let mut buffer = slot.take().unwrap_or_default();
            buffer.clear();
            *slot = part.map(|part| {
                buffer.extend_from_slice(part);
                buffer
            });
        }
    }
}

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
