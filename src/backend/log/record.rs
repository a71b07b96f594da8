//! Records: a row and its value as bytes in a region.
//!
//! ```text
//! flags u8 | [more u8 | stamp i64 | version u32 | ordinal u32]
//!          | value length, value capacity (1, 2 or 4 bytes each) | table varint | key length varint
//!          | [namespace length, sub-key length varints] | [routing u64] | key | namespace | sub-key | value, spare
//! ```
//!
//! `more` and what follows it stand only in records that expire, have a version other than the first, are operands, have
//! older pieces elsewhere or are clears.
//!
//! Invariants:
//! - a record's own length never changes: a value that outgrows its capacity gets a new record;
//! - records never leave memory, so their layout is not part of any format.

use std::ops::Range;

use crate::error::broken;
use crate::id::TableId;
use crate::row::{Columns, FIRST_VERSION, Op, Piece, Row, RowKey};
use crate::time::Timestamp;

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
/// `more` follows.
const MORE: u8 = 1 << 7;

/// In `more`: it is an operand.
const OPERAND: u8 = 1;
/// It has a stamp; without, the field is not used.
const STAMPED: u8 = 1 << 1;
/// It is a clear, of a scope that names a key, a namespace, or both.
const CLEAR: u8 = 1 << 2;
const CLEAR_KEY: u8 = 1 << 3;
const CLEAR_NAMESPACE: u8 = 1 << 4;

/// Where the stamp stands in a record that has one.
const STAMP_AT: usize = 2;

/// Bytes of a header in which every field has its shortest form.
const SHORT_HEADER_BYTES: usize = 5;

/// Bytes of `more` and what belongs to it.
const MORE_BYTES: usize = 1 + 8 + 4 + 4;

/// The place and routing hash of a row of data, or the scope of a clear.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) table: TableId,
    pub(super) key: &'a [u8],
    pub(super) namespace: &'a [u8],
    pub(super) sub: &'a [u8],
    pub(super) routing: Option<u64>,
    /// `CLEAR` and the parts that it names; 0 for a row of data.
    clear: u8,
}

impl<'a> Place<'a> {
    pub(super) fn of(row: &RowRef<'a>) -> Self {
        let RowRef { table, key, namespace, sub } = *row;
        Self { table, key: key.bytes, namespace, sub, routing: key.routing, clear: 0 }
    }

    /// Returns the place of a row without sub-key and routing hash.
    pub(super) fn without_sub(table: u32, key: &'a [u8], namespace: &'a [u8]) -> Self {
        Self { table: TableId(table), key, namespace, sub: &[], routing: None, clear: 0 }
    }

    /// Returns the place of another row of the same key and namespace.
    pub(super) fn with_sub(self, sub: &'a [u8]) -> Self {
        Self { sub, ..self }
    }

    /// Returns the place of a clear.
    pub(super) fn of_clear(scope: &RowKey<'a>) -> Self {
        let clear = CLEAR | bit(scope.key.is_some(), CLEAR_KEY) | bit(scope.namespace.is_some(), CLEAR_NAMESPACE);
        let (key, namespace) = (scope.key.unwrap_or_default(), scope.namespace.unwrap_or_default());
        Self { table: scope.table, key, namespace, sub: &[], routing: None, clear }
    }

    /// Returns whether the rows differ in nothing but their sub-keys.
    pub(super) fn same_family(&self, other: &Place<'_>) -> bool {
        self.same_row(&Place { sub: self.sub, ..*other })
    }

    /// Returns whether it is the scope of a clear that names both.
    pub(super) fn names_key_and_namespace(&self) -> bool {
        self.clear & CLEAR_KEY != 0 && self.clear & CLEAR_NAMESPACE != 0
    }

    /// Returns whether it is the scope of a clear.
    pub(super) fn is_clear(&self) -> bool {
        self.clear != 0
    }

    /// Returns whether the clear of this scope covers the row of data at `row`.
    pub(super) fn covers(&self, row: &Place<'_>) -> bool {
        let named = |bit: u8| self.clear & bit != 0;
        !row.is_clear()
            && self.table == row.table
            && (!named(CLEAR_KEY) || self.key == row.key)
            && (!named(CLEAR_NAMESPACE) || self.namespace == row.namespace)
    }

    fn row_key(&self) -> RowKey<'a> {
        let Self { table, key, namespace, sub, .. } = *self;
        if !self.is_clear() {
            return RowKey::data(table, key, namespace, sub);
        }
        let named = |part, bit: u8| (self.clear & bit != 0).then_some(part);
        RowKey { table, key: named(key, CLEAR_KEY), namespace: named(namespace, CLEAR_NAMESPACE), sub: None }
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
            clear: 0,
        }
    }

    /// Returns the bytes of its parts.
    pub(super) fn bytes(&self) -> usize {
        self.key.len() + self.namespace.len() + self.sub.len()
    }

    pub(super) fn same_row(&self, other: &Place<'_>) -> bool {
        // Most rows have no namespace and no sub-key: no call to compare nothing.
        let same = |a: &[u8], b: &[u8]| a.len() == b.len() && (a.is_empty() || a == b);
        self.table == other.table
            && self.key == other.key
            && same(self.namespace, other.namespace)
            && same(self.sub, other.sub)
            && self.clear == other.clear
    }
}

/// What a record's value is, beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) version: u32,
    pub(super) stamp: Option<Timestamp>,
    /// Whether it is an operand, else the whole value.
    pub(super) operand: bool,
    /// Higher than that of every piece of the row's value that stands before it, in a record of its own: see
    /// [`super::chains`]. 0 if there is none.
    pub(super) ordinal: u32,
}

impl Mark {
    /// The mark of bytes of a table without rules.
    pub(super) const PLAIN: Self = Self { version: FIRST_VERSION, stamp: None, operand: false, ordinal: 0 };

    /// Returns the mark of a whole value.
    pub(super) fn whole(version: u32, stamp: Option<Timestamp>) -> Self {
        Self { version, stamp, ..Self::PLAIN }
    }

    /// Returns whether older pieces of the row's value may stand in records of their own.
    #[inline]
    pub(super) fn is_chained(&self) -> bool {
        self.ordinal > 0
    }

    /// Returns whether a value with the mark `other` can be written in the place of one with this.
    pub(super) fn makes_way_for(&self, other: &Self) -> bool {
        let form = |mark: &Self| (mark.version, mark.stamp.is_some(), mark.operand, mark.ordinal);
        form(self) == form(other)
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
    pub(super) mark: Mark,
}

impl<'a> Draft<'a> {
    /// Returns the draft of a row's first record, without spare bytes.
    pub(super) fn exact(place: Place<'a>, value: &'a [u8], mark: Mark) -> Self {
        Self { place, value: Some(value), capacity: value.len(), older: false, mark }
    }

    /// Returns the draft of a tombstone or a clear.
    pub(super) fn gone(place: Place<'a>, older: bool) -> Self {
        Self { place, value: None, capacity: 0, older, mark: Mark::PLAIN }
    }

    fn has_more(&self) -> bool {
        self.mark != Mark::PLAIN || self.place.is_clear()
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

    /// Returns the header without its flags if every field has its shortest form: most do.
    #[inline]
    fn short_header(&self) -> Option<[u8; SHORT_HEADER_BYTES - 1]> {
        let Place { table, key, routing, .. } = self.place;
        if self.has_more() || self.scoped() || routing.is_some() || table.0 >= 0x80 || key.len() >= 0x80 {
            return None;
        }
        let byte = |number: usize| u8::try_from(number).ok();
        let [table, ..] = table.0.to_le_bytes();
        Some([byte(self.value.map_or(0, <[u8]>::len))?, byte(self.capacity)?, table, byte(key.len())?])
    }

    /// Returns the length of the record.
    #[inline]
    pub(super) fn len(&self) -> usize {
        match self.short_header() {
            Some(_) => SHORT_HEADER_BYTES + self.place.key.len() + self.capacity,
            None => self.any_len(),
        }
    }

    #[inline(never)]
    fn any_len(&self) -> usize {
        let varint = |number: usize| (usize::BITS - (number | 1).leading_zeros()).div_ceil(7) as usize;
        let Place { table, key, namespace, sub, routing, .. } = self.place;
        let scope = if self.scoped() { varint(namespace.len()) + varint(sub.len()) } else { 0 };
        let lengths = varint(table.0 as usize) + varint(key.len()) + scope;
        let routing = routing.map_or(0, |_| size_of::<u64>());
        let more = if self.has_more() { MORE_BYTES } else { 0 };
        1 + more + 2 * (1 << self.width_code()) + lengths + routing + self.place.bytes() + self.capacity
    }

    /// Returns the bytes of the record, for those who change what its parts lie in.
    pub(super) fn detached(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len()];
        self.write(&mut bytes);
        bytes
    }

    /// Writes the record into memory of its length.
    #[inline]
    pub(super) fn write(&self, to: &mut [u8]) {
        let mut out = Writer(to);
        match self.short_header() {
            Some([value_len, capacity, table, key_len]) => {
                let flags = bit(self.value.is_none(), TOMBSTONE) | bit(self.older, OLDER);
                out.put(&[flags, value_len, capacity, table, key_len]);
                out.put(self.place.key);
            }
            None => self.write_any_header(&mut out),
        }
        out.put(self.value.unwrap_or_default());
        out.0.fill(0);
    }

    #[inline(never)]
    fn write_any_header(&self, out: &mut Writer<'_>) {
        let Place { table, key, namespace, sub, routing, clear } = self.place;
        let flags = bit(self.value.is_none(), TOMBSTONE)
            | bit(self.older, OLDER)
            | bit(routing.is_some(), ROUTED)
            | bit(self.scoped(), SCOPED)
            | bit(self.has_more(), MORE);
        out.put(&[flags | self.width_code() << WIDTH_SHIFT]);
        if self.has_more() {
            let Mark { version, stamp, operand, ordinal } = self.mark;
            out.put(&[clear | bit(operand, OPERAND) | bit(stamp.is_some(), STAMPED)]);
            out.put(&stamp.unwrap_or_default().as_millis().to_le_bytes());
            out.put(&version.to_le_bytes());
            out.put(&ordinal.to_le_bytes());
        }
        out.put_sized(self.value.map_or(0, <[u8]>::len), self.width_code());
        out.put_sized(self.capacity, self.width_code());
        out.put_varint(table.0);
        out.put_varint(short(key.len()));
        if self.scoped() {
            out.put_varint(short(namespace.len()));
            out.put_varint(short(sub.len()));
        }
        if let Some(routing) = routing {
            out.put(&routing.to_le_bytes());
        }
        for part in [key, namespace, sub] {
            out.put(part);
        }
    }
}

fn bit(set: bool, flag: u8) -> u8 {
    if set { flag } else { 0 }
}

/// Memory that is written from its front.
struct Writer<'a>(&'a mut [u8]);

impl Writer<'_> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        let Some((to, rest)) = std::mem::take(&mut self.0).split_at_mut_checked(bytes.len()) else { no_record() };
        to.copy_from_slice(bytes);
        self.0 = rest;
    }

    fn put_sized(&mut self, number: usize, width_code: u8) {
        match length_bytes(number).split_at_checked(1 << width_code) {
            Some((bytes, [])) => self.put(bytes),
            Some((bytes, rest)) if rest.iter().all(|byte| *byte == 0) => self.put(bytes),
            _ => broken("a length fits its field"),
        }
    }

    fn put_varint(&mut self, mut number: u32) {
        loop {
            let [low, ..] = number.to_le_bytes();
            number >>= 7;
            if number == 0 {
                return self.put(&[low & 0x7f]);
            }
            self.put(&[low | 0x80]);
        }
    }
}

/// What a record's header says beside its place and mark: enough to read and rewrite its value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    flags: u8,
    value_len: usize,
    /// How long the value may become.
    pub(super) capacity: usize,
    /// The length of the whole record.
    pub(super) len: usize,
}

impl Shape {
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

    /// Returns whether its mark is that of bytes of a table without rules, and its row is not a clear.
    pub(super) fn is_plain(&self) -> bool {
        self.flags & MORE == 0
    }

    /// Returns whether it has no bytes to spare.
    pub(super) fn is_compact(&self) -> bool {
        self.value_len == self.capacity
    }

    /// Returns the length of the row's value, `None` if this is a tombstone.
    pub(super) fn value_len(&self) -> Option<usize> {
        (!self.is_tombstone()).then_some(self.value_len)
    }

    /// Returns the row's value out of the record at the front of `bytes`, `None` if it is a tombstone.
    #[inline]
    pub(super) fn value<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        match bytes.get(self.value_range()?) {
            Some(value) => Some(value),
            None => no_record(),
        }
    }

    /// As [`Shape::value`], to be changed.
    #[inline]
    pub(super) fn value_mut<'a>(&self, bytes: &'a mut [u8]) -> Option<&'a mut [u8]> {
        match bytes.get_mut(self.value_range()?) {
            Some(value) => Some(value),
            None => no_record(),
        }
    }

    fn value_range(&self) -> Option<Range<usize>> {
        let start = self.len - self.capacity;
        Some(start..start + self.value_len()?)
    }
}

/// A record, parsed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    pub(super) shape: Shape,
    pub(super) place: Place<'a>,
    /// The value, without the spare bytes behind it; empty for a tombstone.
    value: &'a [u8],
    pub(super) mark: Mark,
}

impl<'a> Record<'a> {
    /// Returns the record at the front of `bytes`.
    #[inline]
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        Self::parse_short(bytes).or_else(|| Self::parse_long(bytes))
    }

    #[inline(never)]
    fn parse_long(bytes: &'a [u8]) -> Option<Self> {
        Self::parse_scoped(bytes).or_else(|| Self::parse_any(bytes))
    }

    /// Returns the record at the front of `bytes` if its header is the shortest: most are.
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
        Some(Self { shape, place, value, mark: Mark::PLAIN })
    }

    /// Returns the record at the front of `bytes` if it has a namespace or a sub-key, and its header is the shortest then.
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
        Some(Self { shape, place, value, mark: Mark::PLAIN })
    }

    #[inline]
    fn parse_any(bytes: &'a [u8]) -> Option<Self> {
        let (&flags, rest) = bytes.split_first()?;
        let (mark, clear, rest) = if flags & MORE == 0 { (Mark::PLAIN, 0, rest) } else { take_more(rest)? };
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
        Some(Self { shape, place, value, mark })
    }

    /// Returns the row's value, `None` if this is a tombstone.
    pub(super) fn value(&self) -> Option<&'a [u8]> {
        (!self.shape.is_tombstone()).then_some(self.value)
    }

    /// Returns its value as a piece of the row's, `None` if this is a tombstone.
    pub(super) fn piece(&self) -> Option<Piece<'a>> {
        let Mark { version, stamp, .. } = self.mark;
        self.value().map(|bytes| Piece { bytes, version, stamp })
    }

    /// Returns the draft of a copy without spare bytes.
    pub(super) fn copy(&self) -> Draft<'a> {
        let (place, mark) = (self.place, self.mark);
        Draft { place, value: self.value(), capacity: self.value.len(), older: self.shape.has_older(), mark }
    }

    /// Returns the bytes of a copy, for those who change what it lies in.
    pub(super) fn detached(&self) -> Vec<u8> {
        self.copy().detached()
    }

    /// Returns it as a row of a segment.
    pub(super) fn row(&self) -> Row<'a> {
        let Place { routing, .. } = self.place;
        let key = self.place.row_key();
        let (op, columns) = match self.piece() {
            Some(piece) if self.mark.operand => (Op::Merge(piece.bytes), Columns::of(&piece, routing)),
            Some(piece) => (Op::Put(piece.bytes), Columns::of(&piece, routing)),
            None if self.place.is_clear() => (Op::Clear, Columns::default()),
            None => (Op::Delete, Columns { routing, ..Columns::default() }),
        };
        Row { key, op, columns }
    }
}

/// Marks the record at the front of `bytes` as dead.
pub(super) fn kill(bytes: &mut [u8]) {
    *flags_mut(bytes) |= DEAD;
}

/// Gives the record at the front of `bytes` another value of at most its capacity; `None` makes it a tombstone. A record
/// that has a stamp gets this one.
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

/// Puts `more` behind the value of the record at the front of `bytes`.
pub(super) fn extend(bytes: &mut [u8], shape: &Shape, more: &[u8]) {
    set_length(bytes, shape, shape.value_len + more.len());
    part_mut(bytes, shape.len - shape.capacity + shape.value_len, more.len()).copy_from_slice(more);
}

/// Sets the length of the value. Lengths are little-endian: the low bytes are the ones that a narrow field has.
fn set_length(bytes: &mut [u8], shape: &Shape, length: usize) {
    if length > shape.capacity {
        broken("a value that is written over another fits its record");
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
    broken("a record lies whole where it is written")
}

/// Returns a length of a value that was checked to be one.
fn length_bytes(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or_else(|_| broken("a value is shorter than 4 GiB")).to_le_bytes()
}

fn take_more(bytes: &[u8]) -> Option<(Mark, u8, &[u8])> {
    let (&more, rest) = bytes.split_first()?;
    let (stamp, rest) = rest.split_first_chunk()?;
    let (version, rest) = rest.split_first_chunk()?;
    let (ordinal, rest) = rest.split_first_chunk()?;
    let mark = Mark {
        version: u32::from_le_bytes(*version),
        stamp: (more & STAMPED != 0).then(|| Timestamp::from_millis(i64::from_le_bytes(*stamp))),
        operand: more & OPERAND != 0,
        ordinal: u32::from_le_bytes(*ordinal),
    };
    Some((mark, more & (CLEAR | CLEAR_KEY | CLEAR_NAMESPACE), rest))
}

fn width_of(flags: u8) -> usize {
    1 << ((flags >> WIDTH_SHIFT) & 3)
}

/// Returns a length that was checked to be at most 65,535.
fn short(length: usize) -> u32 {
    u32::from(u16::try_from(length).unwrap_or_else(|_| broken("keys are checked to be shorter than 64 KiB")))
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

#[cfg(test)]
mod tests;
