//! Bytes, text, numbers and truth values in plain encodings.

use super::{Codec, OrderedCodec, mismatch};
use crate::codec::schema::Schema;
use crate::error::Result;

/// Plain bytes; schema `bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Raw;

impl Codec<Vec<u8>> for Raw {
    fn schema(&self) -> Schema {
        Schema::new("bytes")
    }

    fn encode(&self, value: &Vec<u8>, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(value);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        Ok(bytes.to_vec())
    }
}

impl OrderedCodec<Vec<u8>> for Raw {}

/// Text as plain UTF-8; schema `utf8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Utf8;

impl Codec<String> for Utf8 {
    fn schema(&self) -> Schema {
        Schema::new("utf8")
    }

    fn encode(&self, value: &String, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(value.as_bytes());
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<String> {
        let text = std::str::from_utf8(bytes).map_err(|source| mismatch("utf8").with_source(source))?;
        Ok(text.to_owned())
    }
}

impl OrderedCodec<String> for Utf8 {}

/// The unit value, in no bytes; schema `unit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unit;

impl Codec<()> for Unit {
    fn schema(&self) -> Schema {
        Schema::unit()
    }

    fn encode(&self, (): &(), _out: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() { Ok(()) } else { Err(mismatch("unit")) }
    }
}

impl OrderedCodec<()> for Unit {}

/// Numbers in little-endian bytes of their full width; schemas `u8`, `i8`, `u16le`, ..., `i128le`, `f32le`, `f64le`.
/// Truth values as a byte, 0 or 1; schema `bool`.
///
/// Floats keep all bits: `-0.0` and `0.0` have different bytes, and so do NaNs with different bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fixed;

/// Declares the fixed-width codec of number types.
macro_rules! fixed {
    ($($number:ty => $name:literal),+ $(,)?) => {
        $(impl Codec<$number> for Fixed {
            fn schema(&self) -> Schema {
                Schema::new($name)
            }

            #[inline]
            fn encode(&self, value: &$number, out: &mut Vec<u8>) -> Result<()> {
                out.extend_from_slice(&value.to_le_bytes());
                Ok(())
            }

            #[inline]
            fn encode_over(&self, value: &$number, bytes: &mut [u8]) -> bool {
                bytes.try_into().map(|to: &mut [u8; size_of::<$number>()]| *to = value.to_le_bytes()).is_ok()
            }

            #[inline]
            fn decode(&self, bytes: &[u8]) -> Result<$number> {
                bytes.try_into().map(<$number>::from_le_bytes).map_err(|_| mismatch($name))
            }
        })+
    };
}

fixed! {
    u8 => "u8", u16 => "u16le", u32 => "u32le", u64 => "u64le", u128 => "u128le",
    i8 => "i8", i16 => "i16le", i32 => "i32le", i64 => "i64le", i128 => "i128le",
    f32 => "f32le", f64 => "f64le",
}

impl Codec<bool> for Fixed {
    fn schema(&self) -> Schema {
        Schema::new("bool")
    }

    fn encode(&self, value: &bool, out: &mut Vec<u8>) -> Result<()> {
        out.push((*value).into());
        Ok(())
    }

    fn encode_over(&self, value: &bool, bytes: &mut [u8]) -> bool {
        bytes.try_into().map(|to: &mut [u8; 1]| *to = [(*value).into()]).is_ok()
    }

    fn decode(&self, bytes: &[u8]) -> Result<bool> {
        match bytes {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(mismatch("bool")),
        }
    }
}
