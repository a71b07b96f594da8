//! Records: a row and its value as bytes in a region.
//!
//! ```text
//! flags u8 | value length, value capacity (1, 2 or 4 bytes each) | table varint | key length varint
//!          | [namespace length, sub-key length varints] | [routing u64] | key | namespace | sub-key | value, spare
//! ```
//!
//! Invariants:
//! - a record's own length never changes: a value that outgrows its capacity gets a new record;
//! - records never leave memory, so their layout is not part of any format.

use crate::id::TableId;
use crate::segment::{Columns, Op, Row, RowKey};

use super::super::RowRef;

/// Nothing refers to it any more: it was replaced or removed within its own tail.
const DEAD: u8 = 1;
/// Its row has no value; an older record may say otherwise.
const TOMBSTONE: u8 = 1 << 1;
/// Its group had an older record of the row when it was written.
const OLDER: u8 = 1 << 2;
/// It has a routing hash.
const ROUTED: u8 = 1 << 3;
/// It has a namespace or a sub-key.
const SCOPED: u8 = 1 << 4;
/// Two bits: the width of the value's length and capacity is 1, 2 or 4 bytes.
const WIDTH_SHIFT: u32 = 5;

/// A row of data's place and routing hash.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) table: TableId,
    pub(super) key: &'a [u8],
    pub(super) namespace: &'a [u8],
    pub(super) sub: &'a [u8],
    pub(super) routing: Option<u64>,
}

impl<'a> Place<'a> {
    pub(super) fn of(row: &RowRef<'a>) -> Self {
        let RowRef { table, key, namespace, sub } = *row;
        Self { table, key: key.bytes, namespace, sub, routing: key.routing }
    }

    /// Returns the place of a stored row of data.
    pub(super) fn of_stored(row: &Row<'a>) -> Self {
        let RowKey { table, key, namespace, sub } = row.key;
        Self {
            table,
            key: key.unwrap_or_default(),
            namespace: namespace.unwrap_or_default(),
            sub: sub.unwrap_or_default(),
            routing: row.columns.routing,
        }
    }

    /// Returns the bytes of its parts.
    pub(super) fn bytes(&self) -> usize {
        self.key.len() + self.namespace.len() + self.sub.len()
    }

    pub(super) fn same_row(&self, other: &Place<'_>) -> bool {
        self.table == other.table && self.key == other.key && self.namespace == other.namespace && self.sub == other.sub
    }
}

/// A record to be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draft<'a> {
    pub(super) place: Place<'a>,
    /// `None` makes a tombstone.
    pub(super) value: Option<&'a [u8]>,
    /// How long the value may become, at least its length.
    pub(super) capacity: usize,
    /// Whether the group has an older record of the row.
    pub(super) older: bool,
}

impl<'a> Draft<'a> {
    /// Returns the draft of a row's first record, without spare bytes.
    pub(super) fn exact(place: Place<'a>, value: &'a [u8]) -> Self {
        Self { place, value: Some(value), capacity: value.len(), older: false }
    }

    fn width_code(&self) -> u8 {
        match self.capacity {
            0..=0xff => 0,
            0x100..=0xffff => 1,
            _ => 2,
        }
    }

    fn scoped(&self) -> bool {
        !self.place.namespace.is_empty() || !self.place.sub.is_empty()
    }

    /// Returns the length of the record.
    pub(super) fn len(&self) -> usize {
        let varint = |number: usize| usize::BITS.saturating_sub(number.leading_zeros()).div_ceil(7).max(1) as usize;
        let Place { table, key, namespace, sub, routing } = self.place;
        let scope = if self.scoped() { varint(namespace.len()) + varint(sub.len()) } else { 0 };
        let lengths = varint(table.0 as usize) + varint(key.len()) + scope;
        let routing = routing.map_or(0, |_| size_of::<u64>());
        1 + 2 * (1 << self.width_code()) + lengths + routing + self.place.bytes() + self.capacity
    }

    /// Appends the record.
    pub(super) fn append_to(&self, out: &mut Vec<u8>) {
        let Place { table, key, namespace, sub, routing } = self.place;
        let value = self.value.unwrap_or_default();
        let bit = |set: bool, flag: u8| if set { flag } else { 0 };
        let flags = bit(self.value.is_none(), TOMBSTONE)
            | bit(self.older, OLDER)
            | bit(routing.is_some(), ROUTED)
            | bit(self.scoped(), SCOPED);
        out.push(flags | self.width_code() << WIDTH_SHIFT);
        push_sized(out, value.len(), self.width_code());
        push_sized(out, self.capacity, self.width_code());
        push_varint(out, table.0);
        push_varint(out, short(key.len()));
        if self.scoped() {
            push_varint(out, short(namespace.len()));
            push_varint(out, short(sub.len()));
        }
        if let Some(routing) = routing {
            out.extend_from_slice(&routing.to_le_bytes());
        }
        for part in [key, namespace, sub, value] {
            out.extend_from_slice(part);
        }
        out.resize(out.len() + self.capacity.saturating_sub(value.len()), 0);
    }
}

/// A record, parsed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    flags: u8,
    pub(super) place: Place<'a>,
    /// The value, without the spare bytes behind it; empty for a tombstone.
    value: &'a [u8],
    pub(super) capacity: usize,
    /// The length of the whole record.
    pub(super) len: usize,
}

impl<'a> Record<'a> {
    /// Returns the record at the front of `bytes`.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (&flags, rest) = bytes.split_first()?;
        let (length, rest) = take_sized(rest, width_of(flags))?;
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
        let place = Place { table: TableId(table), key, namespace, sub, routing };
        let len = bytes.len() - rest.len();
        Some(Self { flags, place, value: value.get(..length as usize)?, capacity: capacity as usize, len })
    }

    pub(super) fn is_dead(&self) -> bool {
        self.flags & DEAD != 0
    }

    pub(super) fn is_tombstone(&self) -> bool {
        self.flags & TOMBSTONE != 0
    }

    /// Returns whether its group had an older record of the row.
    pub(super) fn has_older(&self) -> bool {
        self.flags & OLDER != 0
    }

    /// Returns the row's value, `None` if this is a tombstone.
    pub(super) fn value(&self) -> Option<&'a [u8]> {
        (!self.is_tombstone()).then_some(self.value)
    }

    /// Returns the bytes of the row that it gives a value: key, namespace, sub-key and value.
    pub(super) fn row_bytes(&self) -> u64 {
        (self.place.bytes() + self.value.len()) as u64
    }

    /// Returns the draft of a copy without spare bytes.
    pub(super) fn copy(&self) -> Draft<'a> {
        Draft { place: self.place, value: self.value(), capacity: self.value.len(), older: self.has_older() }
    }

    /// Returns it as a row of a segment.
    pub(super) fn row(&self) -> Row<'a> {
        let Place { table, key, namespace, sub, routing } = self.place;
        Row {
            key: RowKey::data(table, key, namespace, sub),
            op: self.value().map_or(Op::Delete, Op::Put),
            columns: Columns { routing, ..Columns::default() },
        }
    }
}

/// Marks the record at the front of `bytes` as dead.
pub(super) fn kill(bytes: &mut [u8]) {
    if let Some(flags) = bytes.first_mut() {
        *flags |= DEAD;
    }
}

/// Gives the record of `len` bytes at the front of `bytes` another value of at most its `capacity`; `None` makes it a
/// tombstone.
pub(super) fn rewrite(bytes: &mut [u8], len: usize, capacity: usize, value: Option<&[u8]>) {
    let Some((flags, rest)) = bytes.split_first_mut() else { return };
    *flags = if value.is_none() { *flags | TOMBSTONE } else { *flags & !TOMBSTONE };
    let value = value.unwrap_or_default();
    let width = width_of(*flags);
    // Lengths are little-endian: the low bytes are the ones that a narrow field has.
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes();
    rest.iter_mut().zip(length).take(width).for_each(|(to, from)| *to = from);
    let start = len - 1 - capacity;
    if let Some(to) = rest.get_mut(start..start + value.len()) {
        to.copy_from_slice(value);
    }
}

fn width_of(flags: u8) -> usize {
    1 << ((flags >> WIDTH_SHIFT) & 3)
}

/// Returns a length that was checked to be at most 65,535.
fn short(length: usize) -> u32 {
    u32::from(u16::try_from(length).unwrap_or(u16::MAX))
}

fn push_sized(out: &mut Vec<u8>, number: usize, width_code: u8) {
    let bytes = u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
    out.extend(bytes.into_iter().take(1 << width_code));
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

fn push_varint(out: &mut Vec<u8>, mut number: u32) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            return out.push(low & 0x7f);
        }
        out.push(low | 0x80);
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;

    fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![Just(vec![]), proptest::collection::vec(any::<u8>(), 0..most)]
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(3), failure_persistence: None, ..Default::default() })]

        #[test]
        fn records_parse_as_they_were_drafted(
            (table, key, namespace, sub) in (any::<u32>(), bytes(300), bytes(40), bytes(40)),
            (routing, older) in (any::<Option<u64>>(), any::<bool>()),
            (value, spare) in (proptest::option::of(bytes(70_000)), 0usize..300),
        ) {
            let place = Place { table: TableId(table), key: &key, namespace: &namespace, sub: &sub, routing };
            let capacity = value.as_ref().map_or(0, Vec::len) + spare;
            let draft = Draft { place, value: value.as_deref(), capacity, older };
            let mut out = vec![];
            draft.append_to(&mut out);
            prop_assert_eq!(out.len(), draft.len());
            out.push(99);
            let record = Record::parse(&out).unwrap();
            prop_assert!(record.place.same_row(&place) && record.place.routing == routing);
            prop_assert_eq!((record.value(), record.capacity, record.len), (value.as_deref(), capacity, draft.len()));
            prop_assert_eq!((record.has_older(), record.is_dead()), (older, false));

            let (len, other) = (record.len, vec![7; spare]);
            rewrite(&mut out, len, capacity, Some(&other));
            prop_assert_eq!(Record::parse(&out).unwrap().value(), Some(other.as_slice()));
            rewrite(&mut out, len, capacity, None);
            kill(&mut out);
            let record = Record::parse(&out).unwrap();
            prop_assert!(record.place.same_row(&place) && record.value().is_none() && record.is_dead());
            prop_assert_eq!((record.len, record.has_older(), out.last()), (len, older, Some(&99)));
        }
    }

    #[test]
    fn rows_that_differ_in_one_part_are_not_the_same() {
        let place = Place { table: TableId(3), key: b"k", namespace: b"n", sub: b"s", routing: None };
        assert!(place.same_row(&Place { routing: Some(1), ..place }));
        for other in [
            Place { table: TableId(4), ..place },
            Place { key: b"", ..place },
            Place { namespace: b"", ..place },
            Place { sub: b"", ..place },
        ] {
            assert!(!place.same_row(&other) && !other.same_row(&place));
        }
    }

    #[test]
    fn a_small_row_costs_five_bytes_of_header() {
        let place = Place { table: TableId(3), key: &[1; 16], namespace: &[], sub: &[], routing: None };
        let draft = Draft { place, value: Some(&[2; 100]), capacity: 100, older: true };
        assert_eq!(draft.len(), 5 + 16 + 100);
    }
}
