//! The shape of a row: its operation and the parts of its place in one byte, the same in memory and in segments.
//!
//! Bits 0 and 1 are the operation, bits 2 to 4 the parts that are present. The numbers are part of the format.

use super::op::{Op, Row};

pub(crate) const PUT: u8 = 0;
pub(crate) const DELETE: u8 = 1;
pub(crate) const MERGE: u8 = 2;
pub(crate) const CLEAR: u8 = 3;
pub(crate) const OP_MASK: u8 = 3;
pub(crate) const HAS_KEY: u8 = 4;
pub(crate) const HAS_NAMESPACE: u8 = 8;
pub(crate) const HAS_SUB: u8 = 16;
pub(crate) const MASK: u8 = 31;

/// Returns the shape of a row.
pub(crate) const fn of(row: &Row<'_>) -> u8 {
    let op = match row.op {
        Op::Put(_) => PUT,
        Op::Delete => DELETE,
        Op::Merge(_) => MERGE,
        Op::Clear => CLEAR,
    };
    let key = if row.key.key.is_some() { HAS_KEY } else { 0 };
    let namespace = if row.key.namespace.is_some() { HAS_NAMESPACE } else { 0 };
    let sub = if row.key.sub.is_some() { HAS_SUB } else { 0 };
    op | key | namespace | sub
}

/// Returns whether the parts fit the operation, as [`RowKey::fits`](super::RowKey::fits) does.
pub(crate) const fn fits(row_shape: u8) -> bool {
    const KEY_AND_NAMESPACE: u8 = HAS_KEY | HAS_NAMESPACE;
    let parts = row_shape & !OP_MASK;
    match row_shape & OP_MASK {
        CLEAR => matches!(parts, HAS_KEY | HAS_NAMESPACE | KEY_AND_NAMESPACE),
        _ => parts == KEY_AND_NAMESPACE | HAS_SUB,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TableId;
    use crate::row::{Columns, RowKey};

    #[test]
    fn shapes_fit_as_row_keys_do() {
        for (op, number) in [(Op::Put(b"v"), PUT), (Op::Delete, DELETE), (Op::Clear, CLEAR)] {
            for parts in 0..8 {
                let part = |bit: u8| (parts & bit != 0).then_some(&b"part"[..]);
                let key = RowKey { table: TableId(1), key: part(1), namespace: part(2), sub: part(4) };
                let row = Row { key, op, columns: Columns::default() };
                assert_eq!(of(&row), number | parts << 2);
                assert_eq!(fits(of(&row)), key.fits(&op), "{row:?}");
            }
        }
    }
}
