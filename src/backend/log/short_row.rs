//! Rows of plain tables, as the short way looks for them: a hash, and the bytes by which a record is known as theirs.

use std::ops::Range;

use crate::id::TableId;
use crate::key_group::{CurrentKey, KeyGroup};

use super::super::RowRef;
use super::index::{plain_hash, scoped_hash};
use super::record::{Head, RowHead, ScopedHead};
use super::table_slots::TableSlots;

/// A row of a plain table to look for.
pub(super) trait ShortRow {
    fn group(&self) -> KeyGroup;

    fn hash(&self) -> u32;

    /// Returns where the value lies in the record at the front of `bytes`, if it is the row's and has a value. `None` says
    /// nothing.
    fn value_in(&self, bytes: &[u8]) -> Option<Range<usize>>;
}

/// A row without namespace and sub-key.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlainRow<'a> {
    pub(super) group: KeyGroup,
    pub(super) hash: u32,
    pub(super) slot: TableId,
    pub(super) head: RowHead,
    pub(super) key: &'a [u8],
}

impl ShortRow for PlainRow<'_> {
    #[inline(always)]
    fn group(&self) -> KeyGroup {
        self.group
    }

    #[inline(always)]
    fn hash(&self) -> u32 {
        self.hash
    }

    #[inline(always)]
    fn value_in(&self, bytes: &[u8]) -> Option<Range<usize>> {
        Head::of(bytes)?.value_of(bytes, self.head, self.key)
    }
}

impl<'r> PlainRow<'r> {
    /// Returns the row if it is plain.
    #[inline(always)]
    pub(super) fn of(row: &RowRef<'r>, table_slots: &mut TableSlots, ruled: RuledSlots) -> Option<Self> {
        Self::new(plain_slot(row.table, table_slots, ruled).filter(|_| !is_scoped(row))?, row.key)
    }

    /// Returns a key's row in the table with this [`plain_slot`] if it is plain.
    #[inline(always)]
    pub(super) fn new(slot: TableId, key: &CurrentKey<'r>) -> Option<Self> {
        let head = RowHead::new(slot.0, key.bytes.len(), key.routing.is_some())?;
        Some(Self { group: key.group, hash: plain_hash(key.hash, slot.0), slot, head, key: key.bytes })
    }
}

/// A row with a namespace or a sub-key, such as an entry of a map.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScopedRow<'a> {
    group: KeyGroup,
    hash: u32,
    head: ScopedHead,
    parts: [&'a [u8]; 3],
}

impl<'a> ScopedRow<'a> {
    /// Returns the row of the table with this [`plain_slot`] if its records have short heads.
    #[inline(always)]
    pub(super) fn new(slot: TableId, row: &RowRef<'a>) -> Option<Self> {
        let parts = [row.key.bytes, row.namespace, row.sub];
        let head = ScopedHead::new(slot.0, parts.map(<[u8]>::len)).filter(|_| row.key.routing.is_none())?;
        Some(Self {
            group: row.key.group,
            hash: scoped_hash(row.key.hash, slot.0, row.namespace, row.sub),
            head,
            parts,
        })
    }
}

impl ShortRow for ScopedRow<'_> {
    #[inline(always)]
    fn group(&self) -> KeyGroup {
        self.group
    }

    #[inline(always)]
    fn hash(&self) -> u32 {
        self.hash
    }

    #[inline(always)]
    fn value_in(&self, bytes: &[u8]) -> Option<Range<usize>> {
        Head::of(bytes)?.scoped_value_of(bytes, self.head, self.parts)
    }
}

/// Returns a table's slot if the table is plain, or if the slot has more bits than a head has for it.
#[inline(always)]
pub(super) fn plain_slot(table: TableId, table_slots: &mut TableSlots, ruled: RuledSlots) -> Option<TableId> {
    let slot = table_slots.slot_of(table);
    (!ruled.contains(slot)).then_some(slot)
}

#[inline(always)]
pub(super) fn is_scoped(row: &RowRef<'_>) -> bool {
    !row.namespace.is_empty() || !row.sub.is_empty()
}

/// The slots of tables with rules by which a value may differ from its stored bytes: a bit for each slot that a
/// [`RowHead`] can have.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RuledSlots(u64);

impl RuledSlots {
    pub(super) fn set(&mut self, slot: TableId, ruled: bool) {
        if let Some(bit) = 1u64.checked_shl(slot.0) {
            self.0 = if ruled { self.0 | bit } else { self.0 & !bit };
        }
    }

    #[inline]
    fn contains(self, slot: TableId) -> bool {
        self.0.wrapping_shr(slot.0) & 1 != 0
    }
}
