//! Records: a row and its value as bytes in a region.
//!
//! ```text
//! flags u8 | [more u8 | stamp i64 | version u32 | ordinal u32]
//!          | value length, value capacity (1, 2 or 4 bytes each) | table varint | key length varint
//!          | [namespace length, sub-key length varints] | [routing u64] | key | namespace | sub-key | value, spare
//! ```
//!
//! `more` and its three fields are present only in records that expire, have a version other than the first, are
//! operands, have older pieces elsewhere, or are clears.
//!
//! Invariants:
//! - a record's length never changes: a value that outgrows its capacity gets a new record;
//! - records never outlive the process, in memory or on its disk tier, so their layout is not part of any format.

mod draft;
mod head;
mod place;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::error::broken;
use crate::id::TableId;
use crate::row::{Columns, FIRST_VERSION, Op, Piece, Row};
use crate::time::Timestamp;

pub(super) use self::draft::Draft;
pub(super) use self::head::{Compared, Head, RowHead, ScopedHead};
pub(super) use self::place::Place;

/// Replaced or removed within its own tail: nothing points at the record.
const DEAD: u8 = 1;
/// The row has no value: the record hides older ones.
const TOMBSTONE: u8 = 1 << 1;
/// The group had an older record of the row when this one was written.
const OLDER: u8 = 1 << 2;
/// Has a routing hash.
const ROUTED: u8 = 1 << 3;
/// Has a namespace or a sub-key.
const SCOPED: u8 = 1 << 4;
/// Two bits: the value's length and capacity take 1, 2 or 4 bytes each.
const WIDTH_SHIFT: u32 = 5;
/// `more` is present.
const MORE: u8 = 1 << 7;

/// In `more`: the value is an operand.
const OPERAND: u8 = 1;
/// Has a stamp; without this bit the field is unused.
const STAMPED: u8 = 1 << 1;
/// A clear, whose scope names a key, a namespace, or both.
const CLEAR: u8 = 1 << 2;
const CLEAR_KEY: u8 = 1 << 3;
const CLEAR_NAMESPACE: u8 = 1 << 4;

/// Offset of the stamp in a record that has one.
const STAMP_AT: usize = 2;

/// Bytes of a header in which every field has its shortest form.
pub(super) const SHORT_HEADER_BYTES: usize = 5;

/// The same with a namespace or a sub-key.
const SCOPED_HEADER_BYTES: usize = 7;

/// Bytes of `more` and its three fields.
const MORE_BYTES: usize = 1 + 8 + 4 + 4;

/// What a record says about its value, beside the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ValueMeta {
    pub(super) version: u32,
    pub(super) stamp: Option<Timestamp>,
    /// Whether the value is an operand, not the whole value.
    pub(super) operand: bool,
    /// Higher than the ordinals of all older pieces of the row's value in records of their own: see [`super::chains`].
    /// 0 if there are none.
    pub(super) ordinal: u32,
}

impl ValueMeta {
    /// The metadata of values in tables without rules.
    pub(super) const PLAIN: Self = Self { version: FIRST_VERSION, stamp: None, operand: false, ordinal: 0 };

    /// Returns the metadata of a whole value.
    pub(super) fn whole(version: u32, stamp: Option<Timestamp>) -> Self {
        Self { version, stamp, ..Self::PLAIN }
    }

    /// Returns whether older pieces of the row's value may lie in records of their own.
    #[inline]
    pub(super) fn is_chained(&self) -> bool {
        self.ordinal > 0
    }

    /// Returns whether a value with metadata `other` can overwrite one with this.
    pub(super) fn can_be_overwritten_by(&self, other: &Self) -> bool {
        let form = |meta: &Self| (meta.version, meta.stamp.is_some(), meta.operand, meta.ordinal);
        form(self) == form(other)
    }
}

fn flag_if(set: bool, flag: u8) -> u8 {
    if set { flag } else { 0 }
}

/// The layout of a record: its flags and lengths, enough to read and rewrite its value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    flags: u8,
    value_len: usize,
    /// The most bytes that the value can grow to.
    pub(super) capacity: usize,
    /// Bytes of the whole record.
    pub(super) len: usize,
}

impl Shape {
    pub(super) fn is_dead(&self) -> bool {
        self.flags & DEAD != 0
    }

    #[inline]
    pub(super) fn is_tombstone(&self) -> bool {
        self.flags & TOMBSTONE != 0
    }

    /// Returns whether the group had an older record of the row when this one was written.
    pub(super) fn has_older(&self) -> bool {
        self.flags & OLDER != 0
    }

    /// Returns whether the metadata is [`ValueMeta::PLAIN`] and the record is no clear.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.flags & MORE == 0
    }

    /// Returns whether the record has no spare bytes.
    pub(super) fn is_compact(&self) -> bool {
        self.value_len == self.capacity
    }

    /// Returns the value's length, `None` for a tombstone.
    #[inline]
    pub(super) fn value_len(&self) -> Option<usize> {
        (!self.is_tombstone()).then_some(self.value_len)
    }

    /// Returns the value of the record at the front of `bytes`, `None` for a tombstone.
    #[inline]
    pub(super) fn value<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        match bytes.get(self.value_range()?) {
            Some(value) => Some(value),
            None => no_record(),
        }
    }

    /// As [`Shape::value`], mutable.
    #[inline]
    pub(super) fn value_mut<'a>(&self, bytes: &'a mut [u8]) -> Option<&'a mut [u8]> {
        match bytes.get_mut(self.value_range()?) {
            Some(value) => Some(value),
            None => no_record(),
        }
    }

    #[inline]
    fn value_range(&self) -> Option<Range<usize>> {
        let start = self.len - self.capacity;
        Some(start..start + self.value_len()?)
    }
}

/// A parsed record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    pub(super) shape: Shape,
    pub(super) place: Place<'a>,
    /// The value without spare bytes; empty for a tombstone.
    value: &'a [u8],
    pub(super) meta: ValueMeta,
}

impl<'a> Record<'a> {
    /// Parses the record at the front of `bytes`.
    #[inline]
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        // With `or_else` the compiler would copy every record that has a scope.
        if let Some(record) = Self::parse_short(bytes) {
            return Some(record);
        }
        if let Some(record) = Self::parse_scoped(bytes) {
            return Some(record);
        }
        Self::parse_full(bytes)
    }

    /// Parses a record with the shortest header: most have it.
    #[inline]
    fn parse_short(bytes: &'a [u8]) -> Option<Self> {
        let (&[flags, value_len, capacity, table, key_len], rest) = bytes.split_first_chunk()?;
        if flags & !(DEAD | TOMBSTONE | OLDER) != 0 || (table | key_len) >= 0x80 {
            return None;
        }
        let (value_len, capacity, key_len) = (usize::from(value_len), usize::from(capacity), usize::from(key_len));
        let (key, rest) = rest.split_at_checked(key_len)?;
        let value = rest.get(..capacity)?.get(..value_len)?;
        let place = Place { key, ..Place::without_sub(u32::from(table), &[], &[]) };
        let shape = Shape { flags, value_len, capacity, len: SHORT_HEADER_BYTES + key_len + capacity };
        Some(Self { shape, place, value, meta: ValueMeta::PLAIN })
    }

    /// Parses a record that has a namespace or a sub-key, and otherwise the shortest header.
    #[inline]
    fn parse_scoped(bytes: &'a [u8]) -> Option<Self> {
        let (&[flags, value_len, capacity, table, key, namespace, sub], rest) = bytes.split_first_chunk()?;
        if flags & !(DEAD | TOMBSTONE | OLDER) != SCOPED || (table | key | namespace | sub) >= 0x80 {
            return None;
        }
        let (key, rest) = rest.split_at_checked(usize::from(key))?;
        let (namespace, rest) = rest.split_at_checked(usize::from(namespace))?;
        let (sub, rest) = rest.split_at_checked(usize::from(sub))?;
        let (value, rest) = rest.split_at_checked(usize::from(capacity))?;
        let value = value.get(..usize::from(value_len))?;
        let place = Place { sub, ..Place::without_sub(u32::from(table), key, namespace) };
        let (capacity, len) = (usize::from(capacity), bytes.len() - rest.len());
        let shape = Shape { flags, value_len: value.len(), capacity, len };
        Some(Self { shape, place, value, meta: ValueMeta::PLAIN })
    }

    #[inline(never)]
    fn parse_full(bytes: &'a [u8]) -> Option<Self> {
        let (&flags, rest) = bytes.split_first()?;
        let (meta, clear, rest) = if flags & MORE == 0 { (ValueMeta::PLAIN, 0, rest) } else { take_more(rest)? };
        let (value_len, rest) = take_sized(rest, width_of(flags))?;
        let (capacity, rest) = take_sized(rest, width_of(flags))?;
        let (table, rest) = take_varint(rest)?;
        let (key, rest) = take_varint(rest)?;
        let (namespace, sub, rest) = if flags & SCOPED == 0 {
            (0, 0, rest)
        } else {
            let (namespace, rest) = take_varint(rest)?;
            let (sub, rest) = take_varint(rest)?;
            (namespace, sub, rest)
        };
        let (routing, rest) = if flags & ROUTED == 0 {
            (None, rest)
        } else {
            let (routing, rest) = rest.split_first_chunk()?;
            (Some(u64::from_le_bytes(*routing)), rest)
        };
        let (key, rest) = rest.split_at_checked(key as usize)?;
        let (namespace, rest) = rest.split_at_checked(namespace as usize)?;
        let (sub, rest) = rest.split_at_checked(sub as usize)?;
        let (value, rest) = rest.split_at_checked(capacity as usize)?;
        let value = value.get(..value_len as usize)?;
        let place = Place { table: TableId(table), key, namespace, sub, routing, clear };
        let len = bytes.len() - rest.len();
        let shape = Shape { flags, value_len: value.len(), capacity: capacity as usize, len };
        Some(Self { shape, place, value, meta })
    }

    /// Returns the value, `None` for a tombstone.
    pub(super) fn value(&self) -> Option<&'a [u8]> {
        (!self.shape.is_tombstone()).then_some(self.value)
    }

    /// Returns the value as a piece of the row's value, `None` for a tombstone.
    pub(super) fn piece(&self) -> Option<Piece<'a>> {
        let ValueMeta { version, stamp, .. } = self.meta;
        self.value().map(|bytes| Piece { bytes, version, stamp })
    }

    /// Returns the draft of a copy without spare bytes.
    pub(super) fn copy(&self) -> Draft<'a> {
        let (place, meta) = (self.place, self.meta);
        Draft { place, value: self.value(), capacity: self.value.len(), older: self.shape.has_older(), meta }
    }

    /// Returns the bytes of a copy: for callers that change the group while they use the record.
    pub(super) fn encode(&self) -> Vec<u8> {
        self.copy().encode()
    }

    /// Returns the record as a row of a segment.
    pub(super) fn row(&self) -> Row<'a> {
        let Place { routing, .. } = self.place;
        let key = self.place.row_key();
        let (op, columns) = match self.piece() {
            Some(piece) if self.meta.operand => (Op::Merge(piece.bytes), Columns::of(&piece, routing)),
            Some(piece) => (Op::Put(piece.bytes), Columns::of(&piece, routing)),
            None if self.place.is_clear() => (Op::Clear, Columns::default()),
            None => (Op::Delete, Columns { routing, ..Columns::default() }),
        };
        Row { key, op, columns }
    }
}

/// A live put with the shortest header: most records are that.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShortPut<'a> {
    pub(super) table: TableId,
    /// The key, then the value.
    pub(super) bytes: &'a [u8],
    pub(super) key_len: usize,
    /// Bytes of the whole record.
    pub(super) len: usize,
}

impl<'a> ShortPut<'a> {
    /// Parses the record at the front of `bytes`. `None` if it is of any other form.
    #[inline]
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (&[flags, value_len, capacity, table, key_len], rest) = bytes.split_first_chunk()?;
        if flags & !OLDER != 0 || (table | key_len) >= 0x80 {
            return None;
        }
        let (key_len, len) = (usize::from(key_len), SHORT_HEADER_BYTES + usize::from(key_len) + usize::from(capacity));
        let bytes = rest.get(..key_len + usize::from(value_len))?;
        Some(Self { table: TableId(u32::from(table)), bytes, key_len, len })
    }
}

/// Marks the record at the front of `bytes` as newer than another one of its row.
pub(super) fn mark_older(bytes: &mut [u8]) {
    *flags_mut(bytes) |= OLDER;
}

/// Marks the record at the front of `bytes` as dead.
pub(super) fn mark_dead(bytes: &mut [u8]) {
    *flags_mut(bytes) |= DEAD;
}

/// Overwrites the value of the record at the front of `bytes` with one of at most its capacity; `None` makes the record
/// a tombstone. `stamp` replaces the record's stamp, which must exist.
pub(super) fn rewrite(bytes: &mut [u8], shape: &Shape, value: Option<&[u8]>, stamp: Option<Timestamp>) {
    let flags = flags_mut(bytes);
    *flags = if value.is_none() { *flags | TOMBSTONE } else { *flags & !TOMBSTONE };
    if let Some(stamp) = stamp {
        part_mut(bytes, STAMP_AT, size_of::<i64>()).copy_from_slice(&stamp.as_millis().to_le_bytes());
    }
    let value = value.unwrap_or_default();
    set_length(bytes, shape, value.len());
    part_mut(bytes, shape.len - shape.capacity, value.len()).copy_from_slice(value);
}

/// Appends `more` to the value of the record at the front of `bytes`.
pub(super) fn extend(bytes: &mut [u8], shape: &Shape, more: &[u8]) {
    set_length(bytes, shape, shape.value_len + more.len());
    part_mut(bytes, shape.len - shape.capacity + shape.value_len, more.len()).copy_from_slice(more);
}

/// Sets the length of the value. Lengths are little-endian: a narrow field takes the low bytes.
fn set_length(bytes: &mut [u8], shape: &Shape, length: usize) {
    if length > shape.capacity {
        broken("an overwriting value fits its record");
    }
    let start = 1 + if shape.flags & MORE == 0 { 0 } else { MORE_BYTES };
    let field = part_mut(bytes, start, width_of(shape.flags));
    field.iter_mut().zip(length_bytes(length)).for_each(|(to, from)| *to = from);
}

fn flags_mut(bytes: &mut [u8]) -> &mut u8 {
    match bytes.first_mut() {
        Some(flags) => flags,
        None => no_record(),
    }
}

fn part_mut(bytes: &mut [u8], start: usize, length: usize) -> &mut [u8] {
    match bytes.get_mut(start..start + length) {
        Some(part) => part,
        None => no_record(),
    }
}

#[cold]
fn no_record() -> ! {
    broken("a record lies within its region")
}

/// Returns the bytes of a value's length, which was checked before.
fn length_bytes(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or_else(|_| broken("a value is shorter than 4 GiB")).to_le_bytes()
}

fn take_more(bytes: &[u8]) -> Option<(ValueMeta, u8, &[u8])> {
    let (&more, rest) = bytes.split_first()?;
    let (stamp, rest) = rest.split_first_chunk()?;
    let (version, rest) = rest.split_first_chunk()?;
    let (ordinal, rest) = rest.split_first_chunk()?;
    let meta = ValueMeta {
        version: u32::from_le_bytes(*version),
        stamp: (more & STAMPED != 0).then(|| Timestamp::from_millis(i64::from_le_bytes(*stamp))),
        operand: more & OPERAND != 0,
        ordinal: u32::from_le_bytes(*ordinal),
    };
    Some((meta, more & (CLEAR | CLEAR_KEY | CLEAR_NAMESPACE), rest))
}

fn width_of(flags: u8) -> usize {
    1 << ((flags >> WIDTH_SHIFT) & 3)
}

fn take_sized(bytes: &[u8], width: usize) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_at_checked(width)?;
    let number = match *number {
        [a] => u32::from(a),
        [a, b] => u32::from(u16::from_le_bytes([a, b])),
        [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
        _ => return None,
    };
    Some((number, rest))
}

fn take_varint(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (mut rest, mut number) = (bytes, 0);
    for shift in (0..u32::BITS).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        number |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((number, rest));
        }
    }
    None
}
