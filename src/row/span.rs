//! Rows without their bytes: what a decoded block and a batch keep of each.

use super::key::RowKey;
use super::op::{Columns, Op, Row};
use super::shape;
use crate::id::TableId;

/// A row whose parts and payload stand elsewhere, in memory of less than 4 GiB.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RowSpan {
    pub(crate) table: TableId,
    /// Its op, and which parts it has: one of [`shape`].
    pub(crate) shape: u8,
    /// Where its key starts. Namespace and sub-key follow.
    pub(crate) parts: u32,
    pub(crate) key: u32,
    pub(crate) namespace: u32,
    pub(crate) sub: u32,
    /// Where its value or operand starts.
    pub(crate) payload: u32,
    pub(crate) payload_length: u32,
    /// The number of its optional columns in a list of them, counted from 1; 0 if it has none.
    pub(crate) columns: u32,
}

impl RowSpan {
    pub(crate) const fn op(&self) -> u8 {
        self.shape & shape::OP_MASK
    }

    /// Returns the bytes of its parts.
    pub(crate) const fn parts_length(&self) -> u32 {
        self.key + self.namespace + self.sub
    }

    /// Returns its key, empty if it has none.
    #[inline]
    pub(crate) fn key<'a>(&self, parts: &'a [u8]) -> Option<&'a [u8]> {
        parts.get(self.parts as usize..)?.get(..self.key as usize)
    }

    /// Returns its place, given what the parts of all rows stand in.
    #[inline]
    pub(crate) fn place<'a>(&self, parts: &'a [u8]) -> Option<RowKey<'a>> {
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
    pub(crate) fn row<'a>(&self, parts: &'a [u8], payloads: &'a [u8], columns: &[Columns]) -> Option<Row<'a>> {
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
pub(crate) struct RowSpans<'a> {
    pub(crate) spans: &'a [RowSpan],
    pub(crate) parts: &'a [u8],
    pub(crate) payloads: &'a [u8],
    pub(crate) columns: &'a [Columns],
}

impl<'a> RowSpans<'a> {
    pub(crate) fn first(&self) -> Option<Row<'a>> {
        self.spans.first()?.row(self.parts, self.payloads, self.columns)
    }

    /// Returns the place of the last row.
    pub(crate) fn last(&self) -> Option<RowKey<'a>> {
        self.spans.last()?.place(self.parts)
    }

    pub(crate) fn skip(self, rows: usize) -> Self {
        Self { spans: self.spans.get(rows..).unwrap_or_default(), ..self }
    }

    pub(crate) fn take(self, rows: usize) -> Self {
        Self { spans: self.spans.get(..rows).unwrap_or(self.spans), ..self }
    }

    /// Returns how many rows, which are sorted, come before `place`.
    pub(crate) fn count_below(&self, place: &RowKey<'_>) -> usize {
        self.spans.partition_point(|span| span.place(self.parts).is_some_and(|found| found < *place))
    }

    /// Returns the bytes of all parts, and those of all payloads.
    pub(crate) fn bytes(&self) -> Option<(&'a [u8], &'a [u8])> {
        let (first, last) = (self.spans.first()?, self.spans.last()?);
        let parts = first.parts as usize..(last.parts + last.parts_length()) as usize;
        let payloads = first.payload as usize..(last.payload + last.payload_length) as usize;
        Some((self.parts.get(parts)?, self.payloads.get(payloads)?))
    }
}
