//! The short way to a row of a plain table: its record is found by comparing bytes in place, and changed there.
//!
//! A table is plain if its values are their stored bytes. Nothing wide crosses a call, keys are not copied, and only an
//! update copies its value: a wide read of bytes that were just written in pieces waits until the write reaches the cache,
//! and that waits for the cache miss of the operation before. Fewer instructions matter as well: the processor overlaps the
//! cache misses of as many operations as it can look ahead. So rows without namespace and sub-key have code of their own.
//!
//! Only the first slot with the row's tag is looked at. Whatever is not found there takes the general way of
//! [`super::row_access`], which knows every kind of row. That way lies behind calls, so that its code and its arguments
//! cost the short way nothing.

use crate::error::{Result, broken};
use crate::id::TableId;
use crate::key_group::CurrentKey;

use super::super::heat::Heat;
use super::super::{Change, RowRef, Stored, Write, or_keep};
use super::LogBackend;
use super::fetch::Fetched;
use super::group::{Found, Group};
use super::index::{Address, Bucket};
use super::record::{Compared, Head, Place, RowHead, Shape};
use super::region::Section;
use super::row_access::Located;
use super::short_row::{PlainRow, ScopedRow, ShortRow, is_scoped, plain_slot};

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
pub(super) enum Lookup<'a> {
    Found(&'a [u8]),
    Absent,
    /// The general way must look.
    Unknown,
}

/// A value that can change in place.
pub(super) struct TailValue<'a> {
    value: &'a mut [u8],
    heat: &'a mut Heat,
}

impl TailValue<'_> {
    /// Lets `f` change the value. Returns a change that cannot be made in place; a put takes the value from `scratch`.
    #[inline(always)]
    pub(super) fn change<R>(
        self,
        scratch: &mut Vec<u8>,
        f: impl FnOnce(Stored<'_>, &mut Vec<u8>) -> (Option<Change>, R),
    ) -> (Option<Change>, R) {
        self.heat.read();
        scratch.clear();
        let (change, result) = f(Stored::InPlace(&mut *self.value), scratch);
        match change {
            Some(Change::Keep) => return (None, result),
            None => {}
            Some(Change::Put) if scratch.len() == self.value.len() => self.value.copy_from_slice(scratch),
            Some(change) => return (Some(change), result),
        }
        self.heat.write();
        (None, result)
    }
}

/// A row with its key by value, for calls that are not inlined: no pointer to the caller's key leaves the short way, so
/// that the compiler keeps it in registers.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowByValue<'a> {
    table: TableId,
    key: CurrentKey<'a>,
    namespace: &'a [u8],
    sub: &'a [u8],
}

impl<'a> RowByValue<'a> {
    #[inline(always)]
    pub(super) fn of(row: &RowRef<'a>) -> Self {
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

    /// Returns the row if it has a namespace or a sub-key and its table is plain.
    #[inline(always)]
    fn scoped_row<'a>(&mut self, row: &RowRef<'a>) -> Option<ScopedRow<'a>> {
        ScopedRow::new(plain_slot(row.table, &mut self.table_slots, self.ruled)?, row)
    }

    /// Returns the row's group if it was ever written.
    #[inline(always)]
    pub(super) fn short_group(&mut self, row: &impl ShortRow) -> Option<&mut Group> {
        self.groups.get_mut(usize::from(row.group().0))?.as_deref_mut()
    }

    /// As [`StateBackend::read`](super::super::StateBackend::read).
    #[inline(always)]
    pub(super) fn read_plain<R>(&mut self, row: &RowRef<'_>, f: impl FnOnce(Option<&[u8]>) -> R) -> Result<R> {
        if is_scoped(row) {
            let short = self.scoped_row(row);
            return self.read_short(short, row, f);
        }
        let short = self.plain_row(row);
        self.read_short(short, row, f)
    }

    #[inline(always)]
    fn read_short<R>(
        &mut self,
        short: Option<impl ShortRow>,
        row: &RowRef<'_>,
        f: impl FnOnce(Option<&[u8]>) -> R,
    ) -> Result<R> {
        if let Some(short) = short
            && let Some(group) = self.short_group(&short)
        {
            let value = match group.short_value(&short) {
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
        if is_scoped(row) {
            let short = self.scoped_row(row);
            return self.update_short(short, row, f);
        }
        let short = self.plain_row(row);
        self.update_short(short, row, f)
    }

    #[inline(always)]
    fn update_short<R>(
        &mut self,
        short: Option<impl ShortRow>,
        row: &RowRef<'_>,
        f: impl FnOnce(Stored<'_>, &mut Vec<u8>) -> (Option<Change>, R),
    ) -> Result<R> {
        if let Some(short) = short
            && let Some(Some(group)) = self.groups.get_mut(usize::from(short.group().0))
            && let Some(tail) = group.tail_value(&short)
        {
            return match tail.change(&mut self.scratch, f) {
                (None, result) => Ok(result),
                (Some(change), result) => self.apply_rest(RowByValue::of(row), change).map(|()| result),
            };
        }
        self.update_rest(RowByValue::of(row), |value, new| or_keep(f(value.into(), new)))
    }

    /// Applies a change to a plain row that has a record; a put takes the value from the scratch buffer.
    #[inline(never)]
    pub(super) fn apply_rest(&mut self, row: RowByValue<'_>, change: Change) -> Result<()> {
        let located = self.locate(&row.row())?;
        self.apply(&located, change)
    }

    #[inline(never)]
    fn update_rest<R>(
        &mut self,
        row: RowByValue<'_>,
        f: impl FnOnce(Option<&[u8]>, &mut Vec<u8>) -> (Change, R),
    ) -> Result<R> {
        let row = row.row();
        if let Some(plain) = self.plain_row(&row)
            && let Some(record) = self.short_group(&plain).and_then(|group| group.find_plain(&plain))
        {
            return self.update_at(&plain.located(&row, record), |value, _, scratch| f(value, scratch));
        }
        self.update_row(&row, f)
    }

    /// As [`StateBackend::edit`](super::super::StateBackend::edit).
    #[inline(always)]
    pub(super) fn edit_plain<R>(&mut self, row: &RowRef<'_>, f: impl FnOnce(&mut [u8]) -> R) -> Result<Option<R>> {
        if is_scoped(row) {
            let short = self.scoped_row(row);
            return self.edit_short(short, row, f);
        }
        let short = self.plain_row(row);
        self.edit_short(short, row, f)
    }

    #[inline(always)]
    fn edit_short<R>(
        &mut self,
        short: Option<impl ShortRow>,
        row: &RowRef<'_>,
        f: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<Option<R>> {
        if let Some(short) = short
            && let Some(group) = self.short_group(&short)
            && let Some(TailValue { value, heat }) = group.tail_value(&short)
        {
            heat.read();
            heat.write();
            return Ok(Some(f(value)));
        }
        self.edit_rest(RowByValue::of(row), f)
    }

    #[inline(never)]
    fn edit_rest<R>(&mut self, row: RowByValue<'_>, f: impl FnOnce(&mut [u8]) -> R) -> Result<Option<R>> {
        let row = row.row();
        if let Some(plain) = self.plain_row(&row)
            && let Some((address, shape)) = self.thaw(&plain)?
        {
            let (group, rules) = self.group_mut(plain.group);
            group.heat.read();
            let Some(value) = group.regions.plain_tail_value(address, &shape) else { not_in_tail() };
            let result = f(value);
            // The copy, and as many bytes of garbage.
            group.maintain(2 * shape.len, rules);
            self.relieve();
            return Ok(Some(result));
        }
        self.edit_row(&row, f)
    }

    /// Copies a plain row's frozen record to the tail, where its value can be edited: one copy, in place of one out of the
    /// log and one back. Returns where the copy lies and its shape; `None` if the general way must edit the row.
    fn thaw(&mut self, row: &PlainRow<'_>) -> Result<Option<(Address, Shape)>> {
        let frozen = |group: &Group| group.find_plain(row).filter(|record| group.can_thaw(record));
        if self.group(row.group).and_then(frozen).is_none() {
            return Ok(None);
        }
        let mut thawed = None;
        self.change_in_memory(row.group, |group, _, _| {
            // Looked for again: an attempt before may have moved it.
            let record = frozen(group);
            thawed = record.map(|record| group.thaw(&record)).transpose()?;
            Ok(())
        })?;
        Ok(thawed)
    }

    /// As [`StateBackend::write`](super::super::StateBackend::write).
    #[inline(always)]
    pub(super) fn write_plain(&mut self, row: &RowRef<'_>, write: Write<'_>) -> Result<()> {
        if is_scoped(row) {
            let short = self.scoped_row(row);
            return self.write_short(short, row, write);
        }
        let short = self.plain_row(row);
        self.write_short(short, row, write)
    }

    #[inline(always)]
    fn write_short(&mut self, short: Option<impl ShortRow>, row: &RowRef<'_>, write: Write<'_>) -> Result<()> {
        if let Write::Put(new) = write
            && let Some(short) = short
            && let Some(group) = self.short_group(&short)
            && let Some(TailValue { value, heat }) = group.tail_value(&short)
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

impl PlainRow<'_> {
    /// Returns the row as the general way knows it.
    fn located<'a>(&self, row: &RowRef<'a>, record: PlainRecord) -> Located<'a> {
        let place = Place::of_row(&RowRef { table: self.slot, ..*row });
        let found = Found { bucket: record.bucket, address: record.address, shape: record.head.shape(record.value_at) };
        Located { id: self.group, hash: self.hash, place, found: Some(found), fetched: Fetched::default() }
    }
}

impl Group {
    /// Returns a row's value if the first slot with its tag is the row's: no other has the tag, nearly always.
    #[inline(always)]
    fn short_value(&self, row: &impl ShortRow) -> Lookup<'_> {
        match self.index.search(row.hash()).first_hit() {
            Some(address) => self.short_value_at(address, row),
            None => Lookup::Absent,
        }
    }

    /// As [`Group::short_value`], if this is the address of the row's record.
    #[inline(always)]
    pub(super) fn short_value_at(&self, address: Address, row: &impl ShortRow) -> Lookup<'_> {
        let Some(bytes) = self.regions.bytes_in_memory(address) else { return Lookup::Unknown };
        match row.value_in(bytes).and_then(|range| bytes.get(range)) {
            Some(value) => Lookup::Found(value),
            None => Lookup::Unknown,
        }
    }

    /// As [`Group::short_value`], if the value can change in place.
    #[inline(always)]
    fn tail_value(&mut self, row: &impl ShortRow) -> Option<TailValue<'_>> {
        let address = self.index.search(row.hash()).first_hit()?;
        self.tail_value_at(address, row)
    }

    /// As [`Group::tail_value`], if this is the address of the row's record.
    #[inline(always)]
    pub(super) fn tail_value_at(&mut self, address: Address, row: &impl ShortRow) -> Option<TailValue<'_>> {
        let bytes = self.regions.tail_bytes(address)?;
        let range = row.value_in(bytes)?;
        Some(TailValue { value: bytes.get_mut(range)?, heat: &mut self.heat })
    }

    /// Returns whether a plain row's record has a value, and all its bytes can be copied to the tail.
    fn can_thaw(&self, record: &PlainRecord) -> bool {
        let shape = record.head.shape(record.value_at);
        shape.is_compact() && !shape.is_tombstone() && self.regions.section(record.address) == Section::Frozen
    }

    /// Copies a record for which [`Group::can_thaw`] holds to the tail; returns where the copy lies and its shape.
    fn thaw(&mut self, record: &PlainRecord) -> Result<(Address, Shape)> {
        let shape = record.head.shape(record.value_at);
        self.check_budget(0, shape.len)?;
        let address = self.regions.copy_to_tail(record.address, &shape);
        self.regions.supersede(record.address, &shape);
        self.index.point(record.bucket, address);
        Ok((address, shape))
    }

    /// Returns whether the group has a record of a plain row; `None` if a record on the way must be parsed or fetched to
    /// know.
    #[inline]
    pub(super) fn has_plain(&self, hash: u32, head: RowHead, key: &[u8]) -> Option<bool> {
        for (_, address) in self.index.hits(hash) {
            let bytes = self.regions.bytes_in_memory(address)?;
            if Head::of(bytes)?.compare(bytes, head, key)?.same {
                return Some(true);
            }
        }
        Some(false)
    }

    /// Returns a plain row's newest record, which may be a tombstone; `None` if there is none, or if a record on the way
    /// must be parsed or fetched to know.
    fn find_plain(&self, row: &PlainRow<'_>) -> Option<PlainRecord> {
        for (bucket, address) in self.index.hits(row.hash) {
            let bytes = self.regions.bytes_in_memory(address)?;
            let head = Head::of(bytes)?;
            let Compared { same, value_at } = head.compare(bytes, row.head, row.key)?;
            if same {
                return Some(PlainRecord { bucket, address, head, value_at });
            }
        }
        None
    }
}

#[cold]
fn not_in_tail() -> ! {
    broken("a record that was copied to the tail lies there")
}
