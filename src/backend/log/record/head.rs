//! Heads: the first bytes of a record as one word, by which a lookup tells a row's record from others without parsing it.
//!
//! ```text
//! one-byte lengths:  flags | value length | capacity | table | key length | ...
//! the same, scoped:  flags | value length | capacity | table | key length | namespace length | sub-key length | ...
//! two-byte lengths:  flags | value length (2) | capacity (2) | table | key length | ...
//! ```

use std::ops::Range;

use super::{DEAD, OLDER, Place, ROUTED, Record, SCOPED, SCOPED_HEADER_BYTES, Shape, TOMBSTONE, WIDTH_SHIFT, flag_if};

/// Bytes of a routing hash.
const ROUTING_BYTES: usize = size_of::<u64>();

/// The flags of records that have a plain head: no metadata, no scope, lengths of one or two bytes.
const PLAIN_FLAGS: u8 = DEAD | TOMBSTONE | OLDER | ROUTED | TWO_BYTES;

/// Lengths take two bytes.
const TWO_BYTES: u8 = 1 << WIDTH_SHIFT;

/// The first bit of a head's fields, behind lengths of one or two bytes.
const NARROW_FIELDS_AT: u32 = 24;
const WIDE_FIELDS_AT: u32 = 40;

/// The bits that tell a row's head from others, but for its lengths: all flags but one, and the fields.
const NARROW_BITS: u64 = !OLDER as u64 | 0xffff << NARROW_FIELDS_AT;
const WIDE_BITS: u64 = !OLDER as u64 | 0xffff << WIDE_FIELDS_AT;

/// The same of a scoped row with lengths of one byte.
const SCOPED_BITS: u64 = !OLDER as u64 | 0xffff_ffff << NARROW_FIELDS_AT;

/// What the heads of a scoped row's records have in common, if their lengths take one byte and they have no routing hash:
/// its table's slot, and the lengths of its key, namespace and sub-key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend::log) struct ScopedHead(u64);

impl ScopedHead {
    /// Returns `None` if a length takes more than a byte in a record, or the slot has more than 6 bits.
    #[inline]
    pub(in crate::backend::log) fn new(slot: u32, [key, namespace, sub]: [usize; 3]) -> Option<Self> {
        let fields = u64::from(slot) | (key as u64) << 8 | (namespace as u64) << 16 | (sub as u64) << 24;
        let is_short = slot < u64::BITS && (key | namespace | sub) < 0x80;
        is_short.then_some(Self(fields << NARROW_FIELDS_AT | u64::from(SCOPED)))
    }
}

/// What the heads of a row's records have in common: its table's slot, its key's length, and whether it has a routing
/// hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend::log) struct RowHead {
    /// Slot and length, each in a byte.
    fields: u64,
    routed: bool,
}

impl RowHead {
    /// Returns `None` if the key's length takes more than a byte in a record, or the slot has more than 6 bits.
    #[inline]
    pub(in crate::backend::log) fn new(slot: u32, key_len: usize, routed: bool) -> Option<Self> {
        (slot < u64::BITS && key_len < 0x80).then(|| Self { fields: u64::from(slot) | (key_len as u64) << 8, routed })
    }

    /// Returns the head of a record with these flags and the fields at this bit, without lengths.
    #[inline(always)]
    fn word(self, fields_at: u32, flags: u8) -> u64 {
        self.fields << fields_at | u64::from(flags | flag_if(self.routed, ROUTED))
    }
}

/// The first 8 bytes of a record.
#[derive(Debug, Clone, Copy)]
pub(in crate::backend::log) struct Head(u64);

impl Head {
    /// Returns the head of the record at the front of `bytes`, `None` if there are fewer than 8.
    #[inline]
    pub(in crate::backend::log) fn of(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk().map(|head| Self(u64::from_le_bytes(*head)))
    }

    #[inline]
    fn flags(self) -> u8 {
        let [flags, ..] = self.0.to_le_bytes();
        flags
    }

    /// Returns where the value lies in the record at the front of `bytes`, which has this head, if it is the row's and
    /// has a value. `None` says nothing: [`Head::compare`] knows more kinds of records.
    ///
    /// Narrow and wide heads are compared by code of their own, so that the processor can follow its guess and fetch the
    /// key before the head has arrived.
    #[inline(always)]
    pub(in crate::backend::log) fn value_of(self, bytes: &[u8], row: RowHead, key: &[u8]) -> Option<Range<usize>> {
        let routing = if row.routed { ROUTING_BYTES } else { 0 };
        let (key_at, length) = if self.0 & NARROW_BITS == row.word(NARROW_FIELDS_AT, 0) {
            (5 + routing, (self.0 >> 8) as usize & 0xff)
        } else if self.0 & WIDE_BITS == row.word(WIDE_FIELDS_AT, TWO_BYTES) {
            (7 + routing, (self.0 >> 8) as usize & 0xffff)
        } else {
            return None;
        };
        let value_at = key_at + key.len();
        same_key(bytes.get(key_at..value_at)?, key).then_some(value_at..value_at + length)
    }

    /// As [`Head::value_of`], for a scoped row.
    #[inline(always)]
    pub(in crate::backend::log) fn scoped_value_of(
        self,
        bytes: &[u8],
        row: ScopedHead,
        parts: [&[u8]; 3],
    ) -> Option<Range<usize>> {
        if self.0 & SCOPED_BITS != row.0 {
            return None;
        }
        let value_at = scoped_value_at(bytes, parts)?;
        Some(value_at..value_at + ((self.0 >> 8) as usize & 0xff))
    }

    /// Returns the shape of the record at the front of `bytes`, which has this head, if it is the scoped row's, with a
    /// value or without. `None` says nothing.
    #[inline(always)]
    fn scoped_shape(self, bytes: &[u8], row: ScopedHead, parts: [&[u8]; 3]) -> Option<Shape> {
        if self.0 & SCOPED_BITS & !u64::from(TOMBSTONE) != row.0 {
            return None;
        }
        Some(self.shape(scoped_value_at(bytes, parts)?))
    }

    /// Compares the record at the front of `bytes`, which has this head, with a row, whether or not both are routed. `None` if
    /// the record must be parsed.
    ///
    /// Where the key begins depends on the head. Each case is compared by code of its own, so that the processor can
    /// follow its guess and fetch the key before the head has arrived.
    #[inline(always)]
    pub(in crate::backend::log) fn compare(self, bytes: &[u8], row: RowHead, key: &[u8]) -> Option<Compared> {
        if self.flags() & !PLAIN_FLAGS != 0 {
            return None;
        }
        let layout = self.flags() & (TWO_BYTES | ROUTED);
        Some(if layout == 0 {
            self.compare_at::<5>(bytes, row, key)
        } else if layout == TWO_BYTES {
            self.compare_at::<7>(bytes, row, key)
        } else if layout == ROUTED {
            self.compare_at::<{ 5 + ROUTING_BYTES }>(bytes, row, key)
        } else {
            self.compare_at::<{ 7 + ROUTING_BYTES }>(bytes, row, key)
        })
    }

    #[inline(always)]
    fn compare_at<const KEY_AT: usize>(self, bytes: &[u8], row: RowHead, key: &[u8]) -> Compared {
        let value_at = KEY_AT + key.len();
        let wide = KEY_AT == 7 || KEY_AT == 7 + ROUTING_BYTES;
        let found = (self.0 >> if wide { 40 } else { 24 }) & 0xffff;
        let same = found == row.fields && bytes.get(KEY_AT..value_at).is_some_and(|found| same_key(found, key));
        Compared { same, value_at }
    }

    /// Returns the value's length and capacity.
    #[inline]
    fn lengths(self) -> (usize, usize) {
        let length = |shift: u32| ((self.0 >> shift) & 0xffff) as usize;
        match self.flags() & TWO_BYTES {
            0 => (length(8) & 0xff, length(16) & 0xff),
            _ => (length(8), length(24)),
        }
    }

    /// Returns the shape of a record whose value begins at `value_at`.
    #[inline]
    pub(in crate::backend::log) fn shape(self, value_at: usize) -> Shape {
        let (value_len, capacity) = self.lengths();
        Shape { flags: self.flags(), value_len, capacity, len: value_at + capacity }
    }
}

impl Shape {
    /// Returns the shape of the record at the front of `bytes` if it is of the row or clear at `place`. Parses the record
    /// only if its head is not short: see [`Head`].
    #[inline]
    pub(in crate::backend::log) fn of_row(bytes: &[u8], place: &Place<'_>) -> Option<Self> {
        Self::of_short_row(bytes, place).or_else(|| Self::of_any_row(bytes, place))
    }

    #[inline(never)]
    fn of_any_row(bytes: &[u8], place: &Place<'_>) -> Option<Self> {
        let record = Record::parse(bytes)?;
        record.place.same_row(place).then_some(record.shape)
    }

    #[inline(always)]
    fn of_short_row(bytes: &[u8], place: &Place<'_>) -> Option<Self> {
        let Place { table, key, namespace, sub, routing, clear } = *place;
        let head = Head::of(bytes).filter(|_| clear == 0)?;
        if namespace.is_empty() && sub.is_empty() {
            let row = RowHead::new(table.0, key.len(), routing.is_some())?;
            let Compared { same, value_at } = head.compare(bytes, row, key)?;
            return same.then(|| head.shape(value_at));
        }
        let parts = [key, namespace, sub];
        let row = ScopedHead::new(table.0, parts.map(<[u8]>::len)).filter(|_| routing.is_none())?;
        head.scoped_shape(bytes, row, parts)
    }
}

/// Returns where the value begins in the record at the front of `bytes`, which has the head of a scoped row, if its key,
/// namespace and sub-key are these.
#[inline(always)]
fn scoped_value_at(bytes: &[u8], [key, namespace, sub]: [&[u8]; 3]) -> Option<usize> {
    let (found_key, rest) = bytes.get(SCOPED_HEADER_BYTES..)?.split_at_checked(key.len())?;
    let (found_namespace, rest) = rest.split_at_checked(namespace.len())?;
    let (found_sub, _) = rest.split_at_checked(sub.len())?;
    let same = same_key(found_key, key) && same_key(found_namespace, namespace) && same_key(found_sub, sub);
    same.then_some(SCOPED_HEADER_BYTES + key.len() + namespace.len() + sub.len())
}

/// The result of comparing a record with a row.
#[derive(Debug, Clone, Copy)]
pub(in crate::backend::log) struct Compared {
    pub(in crate::backend::log) same: bool,
    /// Where the value begins, if it is the row's record.
    pub(in crate::backend::log) value_at: usize,
}

/// Returns whether two keys of the same length are equal. Short ones are compared as two words that may overlap, instead
/// of by a call.
#[inline(always)]
fn same_key(a: &[u8], b: &[u8]) -> bool {
    if a.len() <= 16
        && let (Some(a_first), Some(b_first)) = (a.first_chunk::<8>(), b.first_chunk::<8>())
        && let (Some(a_last), Some(b_last)) = (a.last_chunk::<8>(), b.last_chunk::<8>())
    {
        let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
        return (word(a_first) ^ word(b_first)) | (word(a_last) ^ word(b_last)) == 0;
    }
    b.is_empty() || a == b
}
