//! Row keys: the place of a row in its key group.

use super::op::Op;
use crate::id::TableId;

/// The place of a row in its key group.
///
/// Places are ordered by table, then bytewise by key, namespace and sub-key; an absent part sorts before every present
/// one. A data row has all parts. An [`Op::Clear`] lacks some and applies to all rows with the parts it has:
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
    /// The encoded namespace, such as a window; empty if the table has none.
    pub namespace: Option<&'a [u8]>,
    /// The encoded sub-key, such as a map's key; empty if the table has none.
    pub sub: Option<&'a [u8]>,
}

impl<'a> RowKey<'a> {
    /// Returns the place of a data row.
    #[must_use]
    pub const fn data(table: TableId, key: &'a [u8], namespace: &'a [u8], sub: &'a [u8]) -> Self {
        Self { table, key: Some(key), namespace: Some(namespace), sub: Some(sub) }
    }

    /// Returns whether a row with `op` may have this place.
    #[must_use]
    pub const fn fits(&self, op: &Op<'_>) -> bool {
        matches!(
            (op, self.key, self.namespace, self.sub),
            (Op::Clear, Some(_), _, None) | (Op::Clear, None, Some(_), None) | (_, Some(_), Some(_), Some(_))
        ) && !matches!((op, self.sub), (Op::Clear, Some(_)))
    }
}

/// A place that owns its bytes. Reused from row to row.
#[derive(Debug, Clone, Default)]
pub(crate) struct RowKeyBuf {
    table: TableId,
    /// The length of each part: key, namespace and sub-key.
    lengths: [Option<usize>; 3],
    /// The parts, one after the other.
    bytes: Vec<u8>,
}

impl RowKeyBuf {
    pub(crate) fn get(&self) -> RowKey<'_> {
        let mut rest = &self.bytes[..];
        let [key, namespace, sub] = self.lengths.map(|length| {
            let (part, after) = rest.split_at_checked(length?)?;
            rest = after;
            Some(part)
        });
        RowKey { table: self.table, key, namespace, sub }
    }

    pub(crate) fn set(&mut self, place: &RowKey<'_>) {
        let parts = [place.key, place.namespace, place.sub];
        self.table = place.table;
        self.lengths = parts.map(|part| part.map(<[u8]>::len));
        self.bytes.clear();
        parts.into_iter().flatten().for_each(|part| self.bytes.extend_from_slice(part));
    }
}
