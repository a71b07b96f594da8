//! Places: what identifies a row of data, or the scope of a clear.

use crate::id::TableId;
use crate::row::{Row, RowKey};

use super::super::super::RowRef;
use super::{CLEAR, CLEAR_KEY, CLEAR_NAMESPACE, flag_if};

/// The place and routing hash of a row of data, or the scope of a clear.
#[derive(Debug, Clone, Copy)]
pub(in crate::backend::log) struct Place<'a> {
    pub(in crate::backend::log) table: TableId,
    pub(in crate::backend::log) key: &'a [u8],
    pub(in crate::backend::log) namespace: &'a [u8],
    pub(in crate::backend::log) sub: &'a [u8],
    pub(in crate::backend::log) routing: Option<u64>,
    /// `CLEAR` and a bit for each part that the scope names; 0 for a row of data.
    pub(super) clear: u8,
}

impl<'a> Place<'a> {
    pub(in crate::backend::log) fn of_row(row: &RowRef<'a>) -> Self {
        let RowRef { table, key, namespace, sub } = *row;
        Self { table, key: key.bytes, namespace, sub, routing: key.routing, clear: 0 }
    }

    /// Returns the place of a row without sub-key and routing hash.
    pub(in crate::backend::log) fn without_sub(table: u32, key: &'a [u8], namespace: &'a [u8]) -> Self {
        Self { table: TableId(table), key, namespace, sub: &[], routing: None, clear: 0 }
    }

    /// Returns the place of another row of the same key and namespace.
    pub(in crate::backend::log) fn with_sub(self, sub: &'a [u8]) -> Self {
        Self { sub, ..self }
    }

    /// Returns the place of a clear.
    pub(in crate::backend::log) fn of_clear(scope: &RowKey<'a>) -> Self {
        let clear =
            CLEAR | flag_if(scope.key.is_some(), CLEAR_KEY) | flag_if(scope.namespace.is_some(), CLEAR_NAMESPACE);
        let (key, namespace) = (scope.key.unwrap_or_default(), scope.namespace.unwrap_or_default());
        Self { table: scope.table, key, namespace, sub: &[], routing: None, clear }
    }

    /// Returns whether two rows are of the same table, key and namespace.
    pub(in crate::backend::log) fn same_family(&self, other: &Place<'_>) -> bool {
        self.same_row(&Place { sub: self.sub, ..*other })
    }

    /// Returns whether this is a clear of one key and namespace.
    pub(in crate::backend::log) fn names_key_and_namespace(&self) -> bool {
        self.clear & CLEAR_KEY != 0 && self.clear & CLEAR_NAMESPACE != 0
    }

    /// Returns whether this is the scope of a clear.
    pub(in crate::backend::log) fn is_clear(&self) -> bool {
        self.clear != 0
    }

    /// Returns whether a clear of this scope covers the row of data at `row`.
    pub(in crate::backend::log) fn covers(&self, row: &Place<'_>) -> bool {
        let named = |bit: u8| self.clear & bit != 0;
        !row.is_clear()
            && self.table == row.table
            && (!named(CLEAR_KEY) || self.key == row.key)
            && (!named(CLEAR_NAMESPACE) || self.namespace == row.namespace)
    }

    pub(super) fn row_key(&self) -> RowKey<'a> {
        let Self { table, key, namespace, sub, .. } = *self;
        if !self.is_clear() {
            return RowKey::data(table, key, namespace, sub);
        }
        let named = |part, bit: u8| (self.clear & bit != 0).then_some(part);
        RowKey { table, key: named(key, CLEAR_KEY), namespace: named(namespace, CLEAR_NAMESPACE), sub: None }
    }

    /// Returns the place of a stored row of data.
    pub(in crate::backend::log) fn of_stored(row: &Row<'a>) -> Self {
        let RowKey { table, key, namespace, sub } = row.key;
        Self {
            table,
            key: key.unwrap_or_default(),
            namespace: namespace.unwrap_or_default(),
            sub: sub.unwrap_or_default(),
            routing: row.columns.routing,
            clear: 0,
        }
    }

    /// Returns the bytes of key, namespace and sub-key.
    pub(in crate::backend::log) fn bytes(&self) -> usize {
        self.key.len() + self.namespace.len() + self.sub.len()
    }

    pub(in crate::backend::log) fn same_row(&self, other: &Place<'_>) -> bool {
        // Most rows have no namespace and no sub-key: this spares a call of `memcmp`.
        let same = |a: &[u8], b: &[u8]| a.len() == b.len() && (a.is_empty() || a == b);
        self.table == other.table
            && self.key == other.key
            && same(self.namespace, other.namespace)
            && same(self.sub, other.sub)
            && self.clear == other.clear
    }
}
