//! The short way to a plain row: its record is found by comparing bytes in place, and changed there.
//!
//! A row is plain if it has neither namespace nor sub-key and its table's values are their stored bytes. Nothing wide
//! crosses a call, keys are not copied, and only an update copies its value: a wide read of bytes that were just written in
//! pieces waits until the write reaches the cache, and that waits for the cache miss of the operation before. Fewer
//! instructions matter as well: the processor overlaps the cache misses of as many operations as it can look ahead.
//!
//! Only the first slot with the row's tag is looked at. Whatever is not found there takes the general way of
//! [`super::row_access`], which knows every kind of row. That way lies behind calls, so that its code and its arguments
//! cost the short way nothing.

use crate::error::{Result, broken};
use crate::id::TableId;
use crate::key_group::{CurrentKey, KeyGroup};

use super::super::heat::Heat;
use super::super::{Change, RowRef, Stored, Write, or_keep};
use super::LogBackend;
use super::group::{Found, Group};
use super::index::{Address, Bucket, plain_hash, row_hash};
use super::record::{Compared, Head, Place, RowHead};
use super::row_access::Located;
use super::table_slots::TableSlots;

/// Rows prefetched at once: enough to keep the memory bus busy, few enough to be still cached when they are used.
pub(super) const PREFETCHED_ROWS: usize = 32;

/// A plain row to look for.
#[derive(Debug, Clone, Copy)]
struct PlainRow<'a> {
    group: KeyGroup,
    hash: u32,
    slot: TableId,
    head: RowHead,
    key: &'a [u8],
}

/// A plain row's newest record.
#[derive(Debug, Clone, Copy)]
struct PlainRecord {
    bucket: Bucket,
    address: Address,
    head: Head,
    /// Where the value begins in the record.
    value_at: usize,
}

/// The result of looking for a plain row's value the short way.
enum Lookup<'a> {
    Found(&'a [u8]),
    Absent,
    /// The general way must look.
    Unknown,
}

/// A value that can change in place, and its record.
struct TailValue<'a> {
    value: &'a mut [u8],
    heat: &'a mut Heat,
    record: PlainRecord,
}

/// A row with its key by value, for calls that are not inlined: no pointer to the caller's key leaves the short way, so
/// that the compiler keeps it in registers.
#[derive(Debug, Clone, Copy)]
struct RowByValue<'a> {
    table: TableId,
    key: CurrentKey<'a>,
    namespace: &'a [u8],
    sub: &'a [u8],
}

impl<'a> RowByValue<'a> {
    #[inline(always)]
    fn of(row: &RowRef<'a>) -> Self {
        Self { table: row.table, key: *row.key, namespace: row.namespace, sub: row.sub }
    }

    fn row(&self) -> RowRef<'_> {
        RowRef { table: self.table, key: &self.key, namespace: self.namespace, sub: self.sub }
    }
}

impl LogBackend {
    /// Returns the row if it is plain.
    #[inline(always)]
    fn plain_row<'a>(&mut self, row: &RowRef<'a>) -> Option<PlainRow<'a>> {
        PlainRow::of(row, &mut self.table_slots, self.ruled)
    }

    /// Prefetches index slots first, then records: an address is known only once its slot is cached. What the first pass
    /// computes is kept for the second one.
    pub(super) fn prefetch_rows(&mut self, rows: &[RowRef<'_>]) {
        let Self { table_slots, ruled, groups, .. } = self;
        let mut searches = [None; PREFETCHED_ROWS];
        for rows in rows.chunks(PREFETCHED_ROWS) {
            for (row, search) in rows.iter().zip(&mut searches) {
                let hash = match PlainRow::of(row, table_slots, *ruled) {
                    Some(plain) => plain.hash,
                    None => row_hash(row.key.hash, &Place::of_row(&table_slots.with_slot(row))),
                };
                let group = groups.get(usize::from(row.key.group.0)).and_then(Option::as_deref);
                *search = group.map(|group| (&group.regions, group.index.probe(hash).1));
                search.iter().for_each(|(_, probe)| probe.prefetch());
            }
            for (_, search) in rows.iter().zip(&mut searches) {
                if let Some((regions, probe)) = search
                    && let Some((_, address)) = probe.next_hit()
                {
                    regions.prefetch(address);
                }
            }
        }
    }

    /// Returns the group of a plain row if it was ever written.
    #[inline(always)]
    fn plain_group(&mut self, row: &PlainRow<'_>) -> Option<&mut Group> {
        self.groups.get_mut(usize::from(row.group.0))?.as_deref_mut()
    }

    /// As [`StateBackend::read`](super::super::StateBackend::read).
    #[inline(always)]
    pub(super) fn read_plain<R>(&mut self, row: &RowRef<'_>, f: impl FnOnce(Option<&[u8]>) -> R) -> Result<R> {
        if let Some(plain) = self.plain_row(row)
            && let Some(group) = self.plain_group(&plain)
        {
            let value = match group.plain_value(&plain) {
                Lookup::Found(value) => Some(value),
                Lookup::Absent => None,
                Lookup::Unknown => return self.read_rest(RowByValue::of(row), f),
            };
            let result = f(value);
            group.heat.read();
            return Ok(result);
        }
        self.read_rest(RowByValue::of(row), f)
    }

    #[inline(never)]
    fn read_rest<R>(&mut self, row: RowByValue<'_>, f: impl FnOnce(Option<&[u8]>) -> R) -> Result<R> {
        self.read_row(&row.row(), f)
    }

    /// As [`StateBackend::update_in_place`](super::super::StateBackend::update_in_place).
    #[inline(always)]
    pub(super) fn update_plain<R>(
        &mut self,
        row: &RowRef<'_>,
        f: impl FnOnce(Stored<'_>, &mut Vec<u8>) -> (Option<Change>, R),
    ) -> Result<R> {
        if let Some(plain) = self.plain_row(row)
            && let Some(Some(group)) = self.groups.get_mut(usize::from(plain.group.0))
            && let Some(TailValue { value, heat, record }) = group.tail_value(&plain)
        {
            heat.read();
            self.scratch.clear();
            let (change, result) = f(Stored::InPlace(&mut *value), &mut self.scratch);
            let Some(change) = change else {
                heat.write();
                return Ok(result);
            };
            if matches!(change, Change::Put) && self.scratch.len() == value.len() {
                value.copy_from_slice(&self.scratch);
                heat.write();
                return Ok(result);
            }
            return self.apply_to(RowByValue::of(row), record, change).map(|()| result);
        }
        self.update_rest(RowByValue::of(row), |value, new| or_keep(f(value.into(), new)))
    }

    /// Applies a change to a plain row with this record; a put takes the value from the scratch buffer.
    #[inline(never)]
    fn apply_to(&mut self, row: RowByValue<'_>, record: PlainRecord, change: Change) -> Result<()> {
        match self.plain_row(&row.row()) {
            Some(plain) => self.apply(&plain.located(&row.row(), record), change),
            None => broken("a row stays plain during its update"),
        }
    }

    #[inline(never)]
    fn update_rest<R>(
        &mut self,
        row: RowByValue<'_>,
        f: impl FnOnce(Option<&[u8]>, &mut Vec<u8>) -> (Change, R),
    ) -> Result<R> {
        let row = row.row();
        if let Some(plain) = self.plain_row(&row)
            && let Some(record) = self.plain_group(&plain).and_then(|group| group.find_plain(&plain))
        {
            return self.update_at(&plain.located(&row, record), |value, _, scratch| f(value, scratch));
        }
        self.update_row(&row, f)
    }

    /// As [`StateBackend::edit`](super::super::StateBackend::edit).
    #[inline(always)]
    pub(super) fn edit_plain<R>(&mut self, row: &RowRef<'_>, f: impl FnOnce(&mut [u8]) -> R) -> Result<Option<R>> {
        if let Some(plain) = self.plain_row(row)
            && let Some(group) = self.plain_group(&plain)
            && let Some(TailValue { value, heat, .. }) = group.tail_value(&plain)
        {
            heat.read();
            heat.write();
            return Ok(Some(f(value)));
        }
        self.edit_rest(RowByValue::of(row), f)
    }

    #[inline(never)]
    fn edit_rest<R>(&mut self, row: RowByValue<'_>, f: impl FnOnce(&mut [u8]) -> R) -> Result<Option<R>> {
        self.edit_row(&row.row(), f)
    }

    /// As [`StateBackend::write`](super::super::StateBackend::write).
    #[inline(always)]
    pub(super) fn write_plain(&mut self, row: &RowRef<'_>, write: Write<'_>) -> Result<()> {
        if let Write::Put(new) = write
            && let Some(plain) = self.plain_row(row)
            && let Some(group) = self.plain_group(&plain)
            && let Some(TailValue { value, heat, .. }) = group.tail_value(&plain)
            && value.len() == new.len()
        {
            value.copy_from_slice(new);
            heat.write();
            return Ok(());
        }
        self.write_rest(RowByValue::of(row), write)
    }

    #[inline(never)]
    fn write_rest(&mut self, row: RowByValue<'_>, write: Write<'_>) -> Result<()> {
        self.write_row(&row.row(), write)
    }
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

impl<'r> PlainRow<'r> {
    /// Returns the row if it is plain.
    #[inline(always)]
    fn of(row: &RowRef<'r>, table_slots: &mut TableSlots, ruled: RuledSlots) -> Option<Self> {
        let slot = table_slots.slot_of(row.table);
        let head = RowHead::new(slot.0, row.key.bytes.len(), row.key.routing.is_some())?;
        if !row.namespace.is_empty() || !row.sub.is_empty() || ruled.contains(slot) {
            return None;
        }
        let hash = plain_hash(row.key.hash, slot.0);
        Some(Self { group: row.key.group, hash, slot, head, key: row.key.bytes })
    }

    /// Returns the row as the general way knows it.
    fn located<'a>(&self, row: &RowRef<'a>, record: PlainRecord) -> Located<'a> {
        let place = Place::of_row(&RowRef { table: self.slot, ..*row });
        let found = Found { bucket: record.bucket, address: record.address, shape: record.head.shape(record.value_at) };
        Located { id: self.group, hash: self.hash, place, found: Some(found) }
    }
}

impl Group {
    /// Returns a plain row's value if the first slot with its tag is the row's: no other has the tag, nearly always.
    #[inline(always)]
    fn plain_value(&self, row: &PlainRow<'_>) -> Lookup<'_> {
        let (_, mut probe) = self.index.probe(row.hash);
        let Some((_, address)) = probe.next_hit() else { return Lookup::Absent };
        let bytes = self.regions.bytes_at(address);
        let range = Head::of(bytes).and_then(|head| head.value_of(bytes, row.head, row.key));
        match range.and_then(|range| bytes.get(range)) {
            Some(value) => Lookup::Found(value),
            None => Lookup::Unknown,
        }
    }

    /// As [`Group::plain_value`], if the value can change in place.
    #[inline(always)]
    fn tail_value(&mut self, row: &PlainRow<'_>) -> Option<TailValue<'_>> {
        let (part, mut probe) = self.index.probe(row.hash);
        let (at, address) = probe.next_hit()?;
        let bytes = self.regions.tail_bytes_or_none(address)?;
        let head = Head::of(bytes)?;
        let range = head.value_of(bytes, row.head, row.key)?;
        let record = PlainRecord { bucket: Bucket { part, at }, address, head, value_at: range.start };
        Some(TailValue { value: bytes.get_mut(range)?, heat: &mut self.heat, record })
    }

    /// Returns whether the group has a record of a plain row; `None` if a record on the way must be parsed to know.
    #[inline]
    pub(super) fn has_plain(&self, hash: u32, head: RowHead, key: &[u8]) -> Option<bool> {
        let (_, mut probe) = self.index.probe(hash);
        while let Some((_, address)) = probe.next_hit() {
            let bytes = self.regions.bytes_at(address);
            if Head::of(bytes)?.compare(bytes, head, key)?.same {
                return Some(true);
            }
        }
        Some(false)
    }

    /// Returns a plain row's newest record, which may be a tombstone; `None` if there is none, or if a record on the way
    /// must be parsed to know.
    fn find_plain(&self, row: &PlainRow<'_>) -> Option<PlainRecord> {
        let (part, mut probe) = self.index.probe(row.hash);
        while let Some((at, address)) = probe.next_hit() {
            let bytes = self.regions.bytes_at(address);
            let head = Head::of(bytes)?;
            let Compared { same, value_at } = head.compare(bytes, row.head, row.key)?;
            if same {
                return Some(PlainRecord { bucket: Bucket { part, at }, address, head, value_at });
            }
        }
        None
    }
}
