//! Drafts: records before they are written, and their encoding.

use crate::error::broken;

use super::{
    MORE, MORE_BYTES, OLDER, OPERAND, Place, ROUTED, SCOPED, SCOPED_HEADER_BYTES, SHORT_HEADER_BYTES, STAMPED,
    TOMBSTONE, ValueMeta, WIDTH_SHIFT, flag_if, length_bytes, no_record,
};

/// A record to be written.
#[derive(Debug, Clone, Copy)]
pub(in crate::backend::log) struct Draft<'a> {
    pub(in crate::backend::log) place: Place<'a>,
    /// `None` makes a tombstone or a clear.
    pub(in crate::backend::log) value: Option<&'a [u8]>,
    /// The most bytes that the value can grow to: at least its length.
    pub(in crate::backend::log) capacity: usize,
    /// Whether the group has an older record of the row.
    pub(in crate::backend::log) older: bool,
    pub(in crate::backend::log) meta: ValueMeta,
}

impl<'a> Draft<'a> {
    /// Returns the draft of a row's first record, without spare bytes.
    pub(in crate::backend::log) fn exact(place: Place<'a>, value: &'a [u8], meta: ValueMeta) -> Self {
        Self { place, value: Some(value), capacity: value.len(), older: false, meta }
    }

    /// Returns the draft of a tombstone or a clear.
    pub(in crate::backend::log) fn without_value(place: Place<'a>, older: bool) -> Self {
        Self { place, value: None, capacity: 0, older, meta: ValueMeta::PLAIN }
    }

    fn has_more(&self) -> bool {
        self.meta != ValueMeta::PLAIN || self.place.is_clear()
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

    /// Returns the header if every field has its shortest form, the common case: all of it if the row has a scope, else
    /// [`SHORT_HEADER_BYTES`].
    #[inline]
    fn short_header(&self) -> Option<[u8; SCOPED_HEADER_BYTES]> {
        let Place { table, key, namespace, sub, routing, .. } = self.place;
        let lengths = [table.0 as usize, key.len(), namespace.len(), sub.len()];
        if self.has_more() || routing.is_some() || lengths.iter().any(|length| *length >= 0x80) {
            return None;
        }
        let byte = |number: usize| u8::try_from(number).ok();
        let [table, key, namespace, sub] = lengths.map(low_byte);
        let flags = flag_if(self.value.is_none(), TOMBSTONE) | flag_if(self.older, OLDER);
        let flags = flags | flag_if(self.scoped(), SCOPED);
        Some([flags, byte(self.value.map_or(0, <[u8]>::len))?, byte(self.capacity)?, table, key, namespace, sub])
    }

    /// Returns the record's length.
    #[inline]
    pub(in crate::backend::log) fn len(&self) -> usize {
        let header = if self.scoped() { SCOPED_HEADER_BYTES } else { SHORT_HEADER_BYTES };
        match self.short_header() {
            Some(_) => header + self.place.bytes() + self.capacity,
            None => self.full_len(),
        }
    }

    #[inline(never)]
    fn full_len(&self) -> usize {
        let varint = |number: usize| (usize::BITS - (number | 1).leading_zeros()).div_ceil(7) as usize;
        let Place { table, key, namespace, sub, routing, .. } = self.place;
        let scope = if self.scoped() { varint(namespace.len()) + varint(sub.len()) } else { 0 };
        let lengths = varint(table.0 as usize) + varint(key.len()) + scope;
        let routing = routing.map_or(0, |_| size_of::<u64>());
        let more = if self.has_more() { MORE_BYTES } else { 0 };
        1 + more + 2 * (1 << self.width_code()) + lengths + routing + self.place.bytes() + self.capacity
    }

    /// Returns the record's bytes: for callers that change the memory which its parts borrow.
    pub(in crate::backend::log) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len()];
        self.write(&mut bytes);
        bytes
    }

    /// Writes the record to memory of exactly its length.
    #[inline]
    pub(in crate::backend::log) fn write(&self, to: &mut [u8]) {
        let mut out = Writer(to);
        match self.short_header() {
            Some(header) if self.scoped() => {
                out.put(&header);
                out.put(self.place.key);
                out.put(self.place.namespace);
                out.put(self.place.sub);
            }
            Some([flags, value_len, capacity, table, key_len, ..]) => {
                out.put(&[flags, value_len, capacity, table, key_len]);
                out.put(self.place.key);
            }
            None => self.write_full_header(&mut out),
        }
        out.put(self.value.unwrap_or_default());
        if !out.0.is_empty() {
            out.0.fill(0);
        }
    }

    #[inline(never)]
    fn write_full_header(&self, out: &mut Writer<'_>) {
        let Place { table, key, namespace, sub, routing, clear } = self.place;
        let flags = flag_if(self.value.is_none(), TOMBSTONE)
            | flag_if(self.older, OLDER)
            | flag_if(routing.is_some(), ROUTED)
            | flag_if(self.scoped(), SCOPED)
            | flag_if(self.has_more(), MORE);
        out.put(&[flags | self.width_code() << WIDTH_SHIFT]);
        if self.has_more() {
            let ValueMeta { version, stamp, operand, ordinal } = self.meta;
            out.put(&[clear | flag_if(operand, OPERAND) | flag_if(stamp.is_some(), STAMPED)]);
            out.put(&stamp.unwrap_or_default().as_millis().to_le_bytes());
            out.put(&version.to_le_bytes());
            out.put(&ordinal.to_le_bytes());
        }
        out.put_sized(self.value.map_or(0, <[u8]>::len), self.width_code());
        out.put_sized(self.capacity, self.width_code());
        out.put_varint(table.0);
        out.put_varint(short_length(key.len()));
        if self.scoped() {
            out.put_varint(short_length(namespace.len()));
            out.put_varint(short_length(sub.len()));
        }
        if let Some(routing) = routing {
            out.put(&routing.to_le_bytes());
        }
        for part in [key, namespace, sub] {
            out.put(part);
        }
    }
}

fn low_byte(number: usize) -> u8 {
    let [low, ..] = (number as u64).to_le_bytes();
    low
}

/// Memory that is filled from the front.
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

/// Returns a key's length, which was checked to be at most 65,535.
fn short_length(length: usize) -> u32 {
    u32::from(u16::try_from(length).unwrap_or_else(|_| broken("keys are checked to be shorter than 64 KiB")))
}
