//! Batches of keys: each row is looked for once, and prefetched ahead of its use.
//!
//! ```text
//! for 32 keys:  their slots are prefetched, then read; the records they point at are prefetched; then rows are used
//! ```
//!
//! An address holds until an update takes the general way, which may move records and reuse their memory: the rows behind
//! that one are looked for again. Reads of plain tables move nothing, unless there is a disk that a row may come back from.

use crate::error::Result;
use crate::id::TableId;
use crate::key_group::{CurrentKey, KeyGroup};
use crate::memory::DiskTier;

use super::super::{Change, RowRef, Stored};
use super::LogBackend;
use super::group::Group;
use super::index::{Address, plain_hash, row_hash};
use super::plain::{Lookup, RowByValue};
use super::record::Place;
use super::short_row::{PlainRow, plain_slot};

/// Rows prefetched at once: enough to keep the memory bus busy, few enough to be still cached when they are used.
pub(super) const PREFETCHED_ROWS: usize = 32;

impl LogBackend {
    /// As [`StateBackend::prefetch`](super::super::StateBackend::prefetch).
    pub(super) fn prefetch_rows(&mut self, rows: &[RowRef<'_>]) {
        for rows in rows.chunks(PREFETCHED_ROWS) {
            let Self { table_slots, groups, .. } = self;
            let mut hash = |row: &RowRef<'_>| row_hash(row.key.hash, &Place::of_row(&table_slots.with_slot(row)));
            find_ahead(groups, rows.iter().map(|row| (row.key.group, hash(row))));
        }
    }

    /// As [`StateBackend::prefetch_keys`](super::super::StateBackend::prefetch_keys).
    pub(super) fn announce_keys(&self, keys: &[CurrentKey<'_>]) {
        if !self.arena.budget().disk().is_some_and(DiskTier::reads_a_device) {
            return;
        }
        for key in keys {
            let Some(group) = self.group(key.group) else { continue };
            let hashes = (0..).take(self.table_slots.len()).map(|slot| plain_hash(key.hash, slot));
            group.prefetch(hashes);
        }
    }

    /// As [`StateBackend::read_many`](super::super::StateBackend::read_many).
    pub(super) fn read_keys(
        &mut self,
        table: TableId,
        namespace: &[u8],
        keys: &[CurrentKey<'_>],
        mut f: impl FnMut(usize, Option<&[u8]>) -> Result<()>,
    ) -> Result<()> {
        let slot = plain_slot(table, &mut self.table_slots, self.ruled).filter(|_| namespace.is_empty());
        let may_move = self.arena.budget().disk().is_some();
        let mut indices = 0..;
        for keys in keys.chunks(PREFETCHED_ROWS) {
            // The table's slot; `None` once an address may no longer hold.
            let (ahead, mut held) = (self.find_keys(table, namespace, keys), slot);
            for ((key, address), at) in keys.iter().zip(&ahead).zip(&mut indices) {
                if let (Some(slot), Some(address)) = (held, *address)
                    && let Some(row) = PlainRow::new(slot, key)
                    && let Some(group) = self.short_group(&row)
                    && let Lookup::Found(value) = group.short_value_at(address, &row)
                {
                    let result = f(at, Some(value));
                    group.heat.read();
                    result?;
                    continue;
                }
                let row = RowRef { table, key, namespace, sub: &[] };
                self.read_plain(&row, |value| f(at, value))??;
                held = held.filter(|_| !may_move);
            }
        }
        Ok(())
    }

    /// As [`StateBackend::update_many`](super::super::StateBackend::update_many).
    pub(super) fn update_keys(
        &mut self,
        table: TableId,
        namespace: &[u8],
        keys: &[CurrentKey<'_>],
        mut f: impl FnMut(usize, Stored<'_>, &mut Vec<u8>) -> (Option<Change>, Result<()>),
    ) -> Result<()> {
        let slot = plain_slot(table, &mut self.table_slots, self.ruled).filter(|_| namespace.is_empty());
        let mut indices = 0..;
        for keys in keys.chunks(PREFETCHED_ROWS) {
            // The table's slot; `None` once an address may no longer hold.
            let (ahead, mut held) = (self.find_keys(table, namespace, keys), slot);
            for ((key, address), at) in keys.iter().zip(&ahead).zip(&mut indices) {
                let row = RowRef { table, key, namespace, sub: &[] };
                if let (Some(slot), Some(address)) = (held, *address)
                    && let Some(plain) = PlainRow::new(slot, key)
                    && let Some(Some(group)) = self.groups.get_mut(usize::from(key.group.0))
                    && let Some(tail) = group.tail_value_at(address, &plain)
                {
                    let (change, result) = tail.change(&mut self.scratch, |stored, new| f(at, stored, new));
                    if let Some(change) = change {
                        self.apply_rest(RowByValue::of(&row), change)?;
                        held = None;
                    }
                    result?;
                    continue;
                }
                self.update_plain(&row, |stored, new| f(at, stored, new))??;
                held = None;
            }
        }
        Ok(())
    }

    /// Prefetches the rows of these keys; returns addresses of what may be their records.
    #[inline(always)]
    fn find_keys(
        &mut self,
        table: TableId,
        namespace: &[u8],
        keys: &[CurrentKey<'_>],
    ) -> [Option<Address>; PREFETCHED_ROWS] {
        let slot = self.table_slots.slot_of(table);
        let groups = keys.iter().map(|key| key.group);
        if namespace.is_empty() {
            return find_ahead(&self.groups, groups.zip(keys.iter().map(|key| plain_hash(key.hash, slot.0))));
        }
        let row = |key| RowRef { table: slot, key, namespace, sub: &[] };
        let hashes = keys.iter().map(|key| row_hash(key.hash, &Place::of_row(&row(key))));
        find_ahead(&self.groups, groups.zip(hashes))
    }
}

/// Prefetches rows: slots first, then records, as an address is known only once its slot is cached. Returns for each row
/// an address with its tag, if there is one.
#[inline(always)]
fn find_ahead(
    groups: &[Option<Box<Group>>],
    rows: impl Iterator<Item = (KeyGroup, u32)>,
) -> [Option<Address>; PREFETCHED_ROWS] {
    let (mut searches, mut addresses) = ([None; PREFETCHED_ROWS], [None; PREFETCHED_ROWS]);
    // An average over the tables of one group: good enough for a hint.
    let mut length = None;
    for ((group, hash), search) in rows.zip(&mut searches) {
        let Some(group) = groups.get(usize::from(group.0)).and_then(Option::as_deref) else { continue };
        length = length.or_else(|| Some(group.record_bytes()));
        let (_, search) = search.insert((&group.regions, group.index.search(hash)));
        search.prefetch();
    }
    let length = length.unwrap_or_default();
    for (search, address) in searches.iter().zip(&mut addresses) {
        if let Some((regions, search)) = search
            && let Some(hit) = search.first_hit()
        {
            regions.prefetch(hit, length);
            *address = Some(hit);
        }
    }
    addresses
}
