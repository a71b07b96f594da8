//! Row spans: rows as offsets into shared buffers, in decoded blocks and in batches.

use super::key::RowKey;
use super::op::{Columns, Op, Row};
use super::shape;
use crate::id::TableId;

/// A row as offsets into buffers of less than 4 GiB.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RowSpan {
    pub(crate) table: TableId,
    /// Its [`shape`]: the operation and the parts present.
    pub(crate) shape: u8,
    /// Start of the key; namespace and sub-key follow.
    pub(crate) parts: u32,
    pub(crate) key_length: u32,
    pub(crate) namespace_length: u32,
    pub(crate) sub_length: u32,
    /// Start of the value or operand.
    pub(crate) payload: u32,
    pub(crate) payload_length: u32,
    /// Index of its optional columns in the list of columns, counted from 1; 0 without any.
    pub(crate) columns: u32,
}

impl RowSpan {
    pub(crate) const fn op(&self) -> u8 {
        self.shape & shape::OP_MASK
    }

    /// Returns the length of all parts.
    pub(crate) const fn parts_length(&self) -> u32 {
        self.key_length + self.namespace_length + self.sub_length
    }

    /// Returns the key, empty if absent.
    #[inline]
    pub(crate) fn key<'a>(&self, parts: &'a [u8]) -> Option<&'a [u8]> {
        parts.get(self.parts as usize..)?.get(..self.key_length as usize)
    }

    /// Returns key, namespace and sub-key, each empty if absent.
    #[inline]
    pub(crate) fn parts<'a>(&self, parts: &'a [u8]) -> Option<[&'a [u8]; 3]> {
        let rest = parts.get(self.parts as usize..)?;
        let (key, rest) = rest.split_at_checked(self.key_length as usize)?;
        let (namespace, rest) = rest.split_at_checked(self.namespace_length as usize)?;
        Some([key, namespace, rest.get(..self.sub_length as usize)?])
    }

    /// Returns the value or operand, empty if absent.
    #[inline]
    pub(crate) fn payload<'a>(&self, payloads: &'a [u8]) -> Option<&'a [u8]> {
        payloads.get(self.payload as usize..)?.get(..self.payload_length as usize)
    }

    /// Returns the place, given the buffer of parts.
    #[inline]
    pub(crate) fn place<'a>(&self, parts: &'a [u8]) -> Option<RowKey<'a>> {
        let [key, namespace, sub] = self.parts(parts)?;
        let part = |bit: u8, part: &'a [u8]| (self.shape & bit != 0).then_some(part);
        Some(RowKey {
            table: self.table,
            key: part(shape::HAS_KEY, key),
            namespace: part(shape::HAS_NAMESPACE, namespace),
            sub: part(shape::HAS_SUB, sub),
        })
    }

    /// Returns the key and the value of a put without namespace, sub-key and optional columns.
    #[inline]
    pub(crate) fn plain_put<'a>(&self, parts: &'a [u8], payloads: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        if self.op() != shape::PUT || self.namespace_length | self.sub_length | self.columns != 0 {
            return None;
        }
        Some((self.key(parts)?, self.payload(payloads)?))
    }

    /// Returns the row, given the buffers.
    #[inline]
    pub(crate) fn row<'a>(&self, parts: &'a [u8], payloads: &'a [u8], columns: &[Columns]) -> Option<Row<'a>> {
        let payload = self.payload(payloads)?;
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

/// Rows with their buffers. Those of a block are sorted; their parts are contiguous, and so are their payloads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowSpans<'a> {
    pub(crate) spans: &'a [RowSpan],
    pub(crate) parts: &'a [u8],
    pub(crate) payloads: &'a [u8],
    pub(crate) columns: &'a [Columns],
}

impl<'a> RowSpans<'a> {
    pub(crate) fn first(&self) -> Option<Row<'a>> {
        self.row(self.spans.first()?)
    }

    /// Returns one of the rows.
    pub(crate) fn row(&self, span: &RowSpan) -> Option<Row<'a>> {
        span.row(self.parts, self.payloads, self.columns)
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

    /// Returns how many of the rows, which are sorted, come before `place`.
    pub(crate) fn count_below(&self, place: &RowKey<'_>) -> usize {
        self.spans.partition_point(|span| span.place(self.parts).is_some_and(|found| found < *place))
    }

    /// Returns the bytes of all parts and of all payloads.
    pub(crate) fn bytes(&self) -> Option<(&'a [u8], &'a [u8])> {
        let (first, last) = (self.spans.first()?, self.spans.last()?);
        let parts = first.parts as usize..(last.parts + last.parts_length()) as usize;
        let payloads = first.payload as usize..(last.payload + last.payload_length) as usize;
        Some((self.parts.get(parts)?, self.payloads.get(payloads)?))
    }

    /// Returns the rows table by table.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &'a [RowSpan]> {
        self.spans.chunk_by(|a, b| a.table == b.table)
    }

    /// Returns the optional columns of a row.
    pub(crate) fn columns_of(&self, span: &RowSpan) -> Columns {
        let at = span.columns.checked_sub(1).map(|at| at as usize);
        at.and_then(|at| self.columns.get(at)).copied().unwrap_or_default()
    }
}
