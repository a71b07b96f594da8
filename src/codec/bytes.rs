//! Bounds-checked little-endian reading and writing. A varint has one valid encoding, the shortest.
//!
//! Every failed read is [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) and reports its offset.

use crate::error::{Error, Result};

/// Reads bytes that may be hostile: never beyond their end, and without panics.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    all: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Returns a reader at the start of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { all: bytes, rest: bytes }
    }

    /// Returns the number of bytes read.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.all.len() - self.rest.len()
    }

    /// Returns the number of bytes left.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Returns a `Corrupt` error about the bytes at the current offset.
    #[must_use]
    pub fn corrupt(&self, message: &str) -> Error {
        Error::corrupt(message).with("offset", self.offset())
    }

    /// Takes `count` bytes.
    ///
    /// # Errors
    /// `Corrupt` if fewer are left.
    #[inline]
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else { return Err(self.too_short(count)) };
        self.rest = rest;
        Ok(taken)
    }

    /// Takes all remaining bytes.
    pub const fn rest(&mut self) -> &'a [u8] {
        let (left, end) = self.rest.split_at(self.rest.len());
        self.rest = end;
        left
    }

    /// Takes `N` bytes.
    ///
    /// # Errors
    /// `Corrupt` if fewer are left.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let Some((taken, rest)) = self.rest.split_first_chunk() else { return Err(self.too_short(N)) };
        self.rest = rest;
        Ok(*taken)
    }

    #[cold]
    fn too_short(&self, needed: usize) -> Error {
        self.corrupt("bytes end too early").with("needed", needed).with("left", self.remaining())
    }

    /// Takes a number in LEB128.
    ///
    /// # Errors
    /// `Corrupt` if the number is truncated, longer than its shortest form, or exceeds 64 bits.
    #[inline]
    pub fn varint(&mut self) -> Result<u64> {
        match self.rest {
            // Most varints are one byte.
            &[byte @ 0..0x80, ref rest @ ..] => {
                self.rest = rest;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let [byte] = self.array()?;
            let low = u64::from(byte & 0x7f);
            if shift == 63 && low > 1 {
                break;
            }
            value |= low << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && shift > 0 {
                    Err(self.corrupt("varint is longer than needed"))
                } else {
                    Ok(value)
                };
            }
        }
        Err(self.corrupt("varint exceeds 64 bits"))
    }

    /// Takes a signed number, whose sign is the lowest bit of a varint (zigzag).
    ///
    /// # Errors
    /// `Corrupt` as [`Reader::varint`].
    pub fn signed(&mut self) -> Result<i64> {
        let zigzag = self.varint()?;
        Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
    }

    /// Takes a varint of at most `cap`.
    ///
    /// # Errors
    /// `Corrupt` as [`Reader::varint`], or if the number exceeds `cap`.
    #[inline]
    pub fn varint_up_to(&mut self, cap: usize) -> Result<usize> {
        let value = self.varint()?;
        match usize::try_from(value) {
            Ok(value) if value <= cap => Ok(value),
            _ => Err(self.corrupt("number exceeds its limit").with("found", value).with("limit", cap)),
        }
    }

    /// Takes a varint count of the items that follow. The count is safe to allocate for: that many items fit the
    /// remaining bytes.
    ///
    /// * `item_bytes`: the least length of an item; 0 allows only a count of 0.
    ///
    /// # Errors
    /// `Corrupt` as [`Reader::varint`], or if that many items cannot fit.
    pub fn count(&mut self, item_bytes: usize) -> Result<usize> {
        let count = self.varint()?;
        let fitting = self.remaining().checked_div(item_bytes).unwrap_or(0);
        match usize::try_from(count) {
            Ok(count) if count <= fitting => Ok(count),
            _ => Err(self
                .corrupt("more items than the remaining bytes can hold")
                .with("found", count)
                .with("limit", fitting)),
        }
    }

    /// Takes a varint length of at most `cap` bytes, then that many bytes.
    ///
    /// # Errors
    /// `Corrupt` as [`Reader::varint`], or if the length exceeds `cap` or the remaining bytes.
    #[inline]
    pub fn length_delimited(&mut self, cap: usize) -> Result<&'a [u8]> {
        let length = self.varint_up_to(cap)?;
        self.bytes(length)
    }

    /// Takes a crc32 and compares it with that of all bytes before it.
    ///
    /// # Errors
    /// `Corrupt` if the two differ, with an error that names `what` as damaged.
    pub fn checksum(&mut self, what: &str) -> Result<()> {
        let offset = self.offset();
        let found = crc32fast::hash(self.all.split_at_checked(offset).unwrap_or_default().0);
        let expected = self.u32()?;
        if found == expected {
            return Ok(());
        }
        let error = Error::corrupt(format!("{what} does not match its checksum")).with("offset", offset);
        Err(error.with("expected", format!("{expected:08x}")).with("found", format!("{found:08x}")))
    }

    /// Checks that all bytes were read.
    ///
    /// # Errors
    /// `Corrupt` if bytes are left.
    pub fn finish(self) -> Result<()> {
        match self.remaining() {
            0 => Ok(()),
            left => Err(self.corrupt("bytes after the end").with("left", left)),
        }
    }
}

/// Declares the reader and the writer of each fixed-width number.
macro_rules! fixed_width {
    ($($number:ident $put:ident),+ $(,)?) => {
        impl Reader<'_> {
            $(
                #[doc = concat!("Takes a little-endian `", stringify!($number), "`.")]
                ///
                /// # Errors
                /// `Corrupt` if too few bytes are left.
                #[inline]
                pub fn $number(&mut self) -> Result<$number> {
                    self.array().map($number::from_le_bytes)
                }
            )+
        }

        $(
            #[doc = concat!("Appends a little-endian `", stringify!($number), "`.")]
            pub fn $put(out: &mut Vec<u8>, value: $number) {
                out.extend_from_slice(&value.to_le_bytes());
            }
        )+
    };
}

fixed_width! { u8 put_u8, u16 put_u16, u32 put_u32, u64 put_u64, i64 put_i64 }

/// Appends the crc32 of all bytes of `out` from `start` on.
pub fn put_checksum(out: &mut Vec<u8>, start: usize) {
    let checksum = crc32fast::hash(out.get(start..).unwrap_or_default());
    put_u32(out, checksum);
}

/// Appends `value` in LEB128.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            // At most seven bits are left, so the high bit is clear.
            return out.push(low & 0x7f);
        }
        out.push(low | 0x80);
    }
}

/// Appends a signed number as [`Reader::signed`] takes it.
pub fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, (value << 1 ^ value >> 63).cast_unsigned());
}

/// Appends `length` in LEB128.
pub fn put_length(out: &mut Vec<u8>, length: usize) {
    put_varint(out, length as u64);
}

/// Appends the output of `encode`, after its length in LEB128.
///
/// # Errors
/// Those of `encode`; partial output stays in `out`.
pub(crate) fn put_delimited(out: &mut Vec<u8>, encode: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<()> {
    let at = out.len();
    out.push(0);
    encode(out)?;
    let end = out.len();
    let length = end.saturating_sub(at + 1);
    match (u8::try_from(length), out.get_mut(at)) {
        // Most outputs are short: their length fits the byte reserved for it.
        (Ok(short @ ..0x80), Some(reserved)) => *reserved = short,
        _ => {
            put_length(out, length);
            let length_bytes = out.len().saturating_sub(end);
            if let Some(part) = out.get_mut(at + 1..) {
                part.rotate_right(length_bytes);
            }
            out.remove(at);
        }
    }
    Ok(())
}

/// Returns the length of the prefix that `a` and `b` share.
pub(crate) fn shared_prefix(a: &[u8], b: &[u8]) -> usize {
    let words = a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0).take_while(|(a, b)| a == b).count();
    let [a, b] = [a, b].map(|bytes| bytes.get(8 * words..).unwrap_or_default());
    8 * words + a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Appends the length of `bytes` in LEB128, then `bytes`.
pub fn put_length_delimited(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;
    use crate::error::ErrorKind;

    /// Bytes to overwrite, and a length to truncate to.
    #[derive(Debug, Clone)]
    pub(crate) struct Damage {
        bytes: Vec<(Index, u8)>,
        cut: Option<Index>,
    }

    /// Returns damage with values that a hostile writer would try first.
    pub(crate) fn any_damage() -> impl Strategy<Value = Damage> {
        let byte = prop_oneof![any::<u8>(), Just(0), Just(1), Just(0x7f), Just(0xff)];
        let bytes = prop::collection::vec((any::<Index>(), byte), 0..4);
        (bytes, prop::option::weighted(0.2, any::<Index>())).prop_map(|(bytes, cut)| Damage { bytes, cut })
    }

    pub(crate) fn damaged(bytes: &[u8], damage: &Damage) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for (at, byte) in &damage.bytes {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        if let Some(cut) = &damage.cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes
    }

    #[test]
    fn numbers_come_back_and_no_read_passes_the_end() {
        let mut out = Vec::new();
        put_u8(&mut out, 1);
        put_u16(&mut out, 0x0203);
        put_u32(&mut out, 0x0405_0607);
        put_u64(&mut out, u64::MAX - 1);
        put_i64(&mut out, -2);
        put_length_delimited(&mut out, b"abc");
        assert_eq!(out[..3], [1, 3, 2]);
        let mut reader = Reader::new(&out);
        assert_eq!((reader.u8().unwrap(), reader.u16().unwrap(), reader.u32().unwrap()), (1, 0x0203, 0x0405_0607));
        assert_eq!((reader.u64().unwrap(), reader.i64().unwrap()), (u64::MAX - 1, -2));
        assert!(reader.clone().finish().is_err());
        assert!(reader.clone().length_delimited(2).is_err());
        assert_eq!(reader.length_delimited(3).unwrap(), b"abc");
        let error = reader.clone().bytes(1).unwrap_err();
        assert_eq!(error.to_string(), "bytes end too early offset=`27` needed=`1` left=`0`");
        reader.finish().unwrap();
    }

    #[test]
    fn a_varint_has_one_valid_encoding() {
        for value in [0, 1, 127, 128, 300, 16_383, 16_384, u64::from(u32::MAX), u64::MAX >> 1, u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut reader = Reader::new(&out);
            assert_eq!(reader.varint().unwrap(), value);
            reader.finish().unwrap();
            for cut in 0..out.len() {
                assert!(Reader::new(&out[..cut]).varint().is_err());
            }
        }
        let nine = [0xff; 9];
        for bad in [
            &[0x80, 0][..],
            &[0xff, 0x80, 0],
            &[nine.as_slice(), &[2]].concat(),
            &[nine.as_slice(), &[0x81, 0]].concat(),
        ] {
            assert_eq!(Reader::new(bad).varint().unwrap_err().kind(), ErrorKind::Corrupt, "{bad:?}");
        }
    }

    #[test]
    fn a_count_never_exceeds_the_remaining_bytes() {
        let mut out = Vec::new();
        put_varint(&mut out, 3);
        out.extend_from_slice(&[0; 11]);
        assert!(Reader::new(&out).count(4).is_err());
        out.push(0);
        assert_eq!(Reader::new(&out).count(4).unwrap(), 3);
        assert!(Reader::new(&out).count(0).is_err());
    }
}
