//! Arguments and results of a backend's operations.

use std::ops::Bound;

use crate::id::TableId;
use crate::key_group::{CurrentKey, KeyGroup};
use crate::row::RowKey;

/// A row's address. Its key is located once per record, not once per row.
#[derive(Debug, Clone, Copy)]
pub struct RowRef<'a> {
    /// The table.
    pub table: TableId,
    /// The record's key.
    pub key: &'a CurrentKey<'a>,
    /// The encoded namespace; empty if the table has none.
    pub namespace: &'a [u8],
    /// The encoded sub-key; empty if the table has none.
    pub sub: &'a [u8],
}

/// What an update does to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Leaves the row unchanged.
    Keep,
    /// Puts the contents of the scratch buffer.
    Put,
    /// Removes the row.
    Delete,
}

/// A row's value, as [`StateBackend::update_in_place`](super::StateBackend::update_in_place) hands it out.
#[derive(Debug, PartialEq, Eq)]
pub enum Stored<'a> {
    /// The row has no value.
    Absent,
    /// The value, which cannot change in place.
    Value(&'a [u8]),
    /// The value where it lies. Its bytes may change, but not their number.
    InPlace(&'a mut [u8]),
}

impl Stored<'_> {
    /// Returns the value's bytes, `None` if there are none.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Absent => None,
            Self::Value(bytes) => Some(bytes),
            Self::InPlace(bytes) => Some(bytes),
        }
    }
}

impl<'a> From<Option<&'a [u8]>> for Stored<'a> {
    fn from(value: Option<&'a [u8]>) -> Self {
        value.map_or(Self::Absent, Self::Value)
    }
}

/// What a write does to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Write<'a> {
    /// Puts this value.
    Put(&'a [u8]),
    /// Removes the row.
    Delete,
    /// Merges this operand into the row's value, without a read where the table's operator allows that.
    Merge(&'a [u8]),
}

/// Which rows of a table a clear removes.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// All rows of a key.
    Key(&'a CurrentKey<'a>),
    /// All rows of a key in one namespace.
    KeyNamespace(&'a CurrentKey<'a>, &'a [u8]),
    /// All rows of a namespace in one group.
    Namespace(KeyGroup, &'a [u8]),
}

impl<'a> Scope<'a> {
    /// Returns the scope's group.
    #[must_use]
    pub fn group(&self) -> KeyGroup {
        match self {
            Self::Key(key) | Self::KeyNamespace(key, _) => key.group,
            Self::Namespace(group, _) => *group,
        }
    }

    /// Returns the row key of the clear that this scope stands for in `table`.
    #[must_use]
    pub fn place(&self, table: TableId) -> RowKey<'a> {
        let (key, namespace) = match *self {
            Self::Key(key) => (Some(key.bytes), None),
            Self::KeyNamespace(key, namespace) => (Some(key.bytes), Some(namespace)),
            Self::Namespace(_, namespace) => (None, Some(namespace)),
        };
        RowKey { table, key, namespace, sub: None }
    }
}

/// A live row of data, as a scan visits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The row's group.
    pub group: KeyGroup,
    /// The encoded key.
    pub key: &'a [u8],
    /// The encoded namespace.
    pub namespace: &'a [u8],
    /// The encoded sub-key.
    pub sub: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// The routing hash that the engine supplied for the key.
    pub routing: Option<u64>,
}

/// Bounds of sub-keys, as encoded bytes.
pub type SubRange<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// All sub-keys.
pub const ALL_SUBS: SubRange<'static> = (Bound::Unbounded, Bound::Unbounded);

/// How an epoch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A committed manifest covers this epoch and all before it.
    Commit,
    /// The epoch was given up. Nothing is undone: its sealed parts belong to the next manifest.
    Abort,
}

/// Rows and bytes that a backend holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BackendStats {
    /// Live rows.
    pub rows: u64,
    /// Bytes of live rows: keys, namespaces, sub-keys, values.
    pub live_bytes: u64,
    /// Bytes of memory held for rows and index, dead rows included.
    pub memory_bytes: u64,
    /// Distinct rows that changed since the last seal, without rows both created and deleted since then.
    pub dirty_rows: u64,
    /// Bytes written since the last seal that a seal would freeze.
    pub dirty_bytes: u64,
}
