//! Rows without their bytes: what a decoded block and a batch keep of each.

use super::format::shape;
use super::row::{Columns, Op, Row, RowKey};
use crate::id::TableId;

/// A row whose parts and payload stand elsewhere, in memory of less than 4 GiB.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RowSpan {
    pub(super) table: TableId,
    /// Its op, and which parts it has: one of [`shape`].
    pub(super) shape: u8,
    /// Where its key starts. Namespace and sub-key follow.
    pub(super) parts: u32,
    pub(super) key: u32,
    pub(super) namespace: u32,
    pub(super) sub: u32,
    /// Where its value or operand starts.
    pub(super) payload: u32,
    pub(super) payload_length: u32,
    /// The number of its optional columns in a list of them, counted from 1; 0 if it has none.
    pub(super) columns: u32,
}

impl RowSpan {
    pub(super) const fn op(&self) -> u8 {
        self.shape & shape::OP_MASK
    }

    /// Returns the bytes of its parts.
    pub(super) const fn parts_length(&self) -> u32 {
        self.key + self.namespace + self.sub
    }

    /// Returns its key, empty if it has none.
    #[inline]
    pub(super) fn key<'a>(&self, parts: &'a [u8]) -> Option<&'a [u8]> {
        parts.get(self.parts as usize..)?.get(..self.key as usize)
    }

    /// Returns its place, given what the parts of all rows stand in.
    #[inline]
    pub(super) fn place<'a>(&self, parts: &'a [u8]) -> Option<RowKey<'a>> {
        let rest = parts.get(self.parts as usize..)?;
        let (key, rest) = rest.split_at_checked(self.key as usize)?;
        let (namespace, rest) = rest.split_at_checked(self.namespace as usize)?;
        let sub = rest.get(..self.sub as usize)?;
        let part = |bit: u8, part: &'a [u8]| (self.shape & bit != 0).then_some(part);
        Some(RowKey {
            table: self.table,
            key: part(shape::HAS_KEY, key),
            namespace: part(shape::HAS_NAMESPACE, namespace),
            sub: part(shape::HAS_SUB, sub),
        })
    }

    /// Returns the row.
    #[inline]
    pub(super) fn row<'a>(&self, parts: &'a [u8], payloads: &'a [u8], columns: &[Columns]) -> Option<Row<'a>> {
        let payload = payloads.get(self.payload as usize..)?.get(..self.payload_length as usize)?;
        let op = match self.op() {
            shape::PUT => Op::Put(payload),
            shape::DELETE => Op::Delete,
            shape::MERGE => Op::Merge(payload),
            _ => Op::Clear,
        };
        let columns = match self.columns.checked_sub(1) {
            Some(at) => *columns.get(at as usize)?,
            None => Columns::default(),
        };
        Some(Row { key: self.place(parts)?, op, columns })
    }
}

/// Rows that follow each other, with what their bytes stand in: parts behind parts, payloads behind payloads.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowSpans<'a> {
    pub(super) spans: &'a [RowSpan],
    pub(super) parts: &'a [u8],
    pub(super) payloads: &'a [u8],
    pub(super) columns: &'a [Columns],
}

impl<'a> RowSpans<'a> {
    pub(super) fn first(&self) -> Option<Row<'a>> {
        self.spans.first()?.row(self.parts, self.payloads, self.columns)
    }

    /// Returns the place of the last row.
    pub(super) fn last(&self) -> Option<RowKey<'a>> {
        self.spans.last()?.place(self.parts)
    }

    pub(super) fn skip(self, rows: usize) -> Self {
        Self { spans: self.spans.get(rows..).unwrap_or_default(), ..self }
    }

    pub(super) fn take(self, rows: usize) -> Self {
        Self { spans: self.spans.get(..rows).unwrap_or(self.spans), ..self }
    }

    /// Returns how many rows, which are sorted, come before `place`.
    pub(super) fn count_below(&self, place: &RowKey<'_>) -> usize {
        self.spans.partition_point(|span| span.place(self.parts).is_some_and(|found| found < *place))
    }

    /// Returns the bytes of all parts, and those of all payloads.
    pub(super) fn bytes(&self) -> Option<(&'a [u8], &'a [u8])> {
        let (first, last) = (self.spans.first()?, self.spans.last()?);
        let parts = first.parts as usize..(last.parts + last.parts_length()) as usize;
        let payloads = first.payload as usize..(last.payload + last.payload_length) as usize;
        Some((self.parts.get(parts)?, self.payloads.get(payloads)?))
    }
}

/// Returns the shape of a row.
pub(super) const fn shape_of(row: &Row<'_>) -> u8 {
    let op = match row.op {
        Op::Put(_) => shape::PUT,
        Op::Delete => shape::DELETE,
        Op::Merge(_) => shape::MERGE,
        Op::Clear => shape::CLEAR,
    };
    let key = if row.key.key.is_some() { shape::HAS_KEY } else { 0 };
    let namespace = if row.key.namespace.is_some() { shape::HAS_NAMESPACE } else { 0 };
    let sub = if row.key.sub.is_some() { shape::HAS_SUB } else { 0 };
    op | key | namespace | sub
}

/// Returns whether a row can have these parts with this op, as [`RowKey::fits`] says.
pub(super) const fn fits(row_shape: u8) -> bool {
    const KEY_AND_NAMESPACE: u8 = shape::HAS_KEY | shape::HAS_NAMESPACE;
    let parts = row_shape & !shape::OP_MASK;
    match row_shape & shape::OP_MASK {
        shape::CLEAR => matches!(parts, shape::HAS_KEY | shape::HAS_NAMESPACE | KEY_AND_NAMESPACE),
        _ => parts == KEY_AND_NAMESPACE | shape::HAS_SUB,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_fit_as_rows_do() {
        for (op, number) in [(Op::Put(b"v"), shape::PUT), (Op::Delete, shape::DELETE), (Op::Clear, shape::CLEAR)] {
            for parts in 0..8 {
                let part = |bit: u8| (parts & bit != 0).then_some(&b"part"[..]);
                let key = RowKey { table: TableId(1), key: part(1), namespace: part(2), sub: part(4) };
                let row = Row { key, op, columns: Columns::default() };
                assert_eq!(shape_of(&row), number | parts << 2);
                assert_eq!(fits(shape_of(&row)), key.fits(&op), "{row:?}");
            }
        }
    }
}
