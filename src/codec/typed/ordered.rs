//! Encodings that sort as their values do, for namespaces, sub-keys and timers.
//!
//! Invariant: bytes compare as values do, alone and within tuples.

use std::borrow::Cow;

use super::{Codec, Fixed, Optional, Raw, Unit, Utf8, mismatch};
use crate::codec::escape::{escape_from, take_escaped};
use crate::codec::schema::Schema;
use crate::error::Result;

/// A codec whose bytes compare as the values do, so that a table can be visited in order and by ranges. Floats compare
/// as by `total_cmp`.
pub trait OrderedCodec<V>: Codec<V> {
    /// The width of every value in bytes, if all have the same. Then the schema must name a type of fixed width, by which
    /// tools decode: `ordered:` and a number, `bool`, `unit` or a tuple of these. Within [`Ordered`] tuples such values
    /// are stored plain; others are escaped and terminated.
    const WIDTH: Option<usize> = None;
}

/// Values as bytes that sort as the values do; schemas `ordered:u8`, `ordered:utf8`, `ordered:tuple<i64,i64>`, ...
///
/// * Integers: big-endian in their full width, the sign bit of signed ones flipped.
/// * Floats: as integers, in IEEE 754's total order: negative NaN, `-inf`, ..., `-0.0`, `0.0`, ..., `inf`, positive NaN.
///   All bits are kept: `-0.0` and `0.0` are distinct values, and so are NaNs with different bits.
/// * `bool`: a byte, 0 or 1. `()`: no bytes. `Vec<u8>` and `String`: plain, in the order of bytes.
/// * `Option`: a byte 0 for `None`, which sorts first, or a byte 1 and the value.
/// * Tuples of 2 to 6: the parts in order. A part before the last without a fixed width is escaped, a zero byte as
///   `00 ff`, and terminated by `00 00`. A window is a tuple of two `i64`.
///
/// Other crates add a type by implementing [`Codec`] and [`OrderedCodec`] of the type for `Ordered`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ordered;

impl Ordered {
    /// Returns the bytes of a signed number: subtracting the minimum flips the sign bit.
    #[inline]
    pub(crate) fn i64_bytes(number: i64) -> [u8; 8] {
        number.wrapping_sub(i64::MIN).to_be_bytes()
    }
}

/// Declares the order-preserving codec of integer types. Subtracting the minimum flips the sign bit.
macro_rules! integers {
    ($($number:ty => $name:literal),+ $(,)?) => {
        $(impl Codec<$number> for Ordered {
            fn schema(&self) -> Schema {
                Schema::new($name)
            }

            #[inline]
            fn encode(&self, value: &$number, out: &mut Vec<u8>) -> Result<()> {
                out.extend_from_slice(&value.wrapping_sub(<$number>::MIN).to_be_bytes());
                Ok(())
            }

            #[inline]
            fn decode(&self, bytes: &[u8]) -> Result<$number> {
                let number = bytes.try_into().map(<$number>::from_be_bytes).map_err(|_| mismatch($name))?;
                Ok(number.wrapping_add(<$number>::MIN))
            }
        }

        impl OrderedCodec<$number> for Ordered {
            const WIDTH: Option<usize> = Some(size_of::<$number>());
        })+
    };
}

integers! {
    u8 => "ordered:u8", u16 => "ordered:u16", u32 => "ordered:u32", u64 => "ordered:u64", u128 => "ordered:u128",
    i8 => "ordered:i8", i16 => "ordered:i16", i32 => "ordered:i32", i64 => "ordered:i64", i128 => "ordered:i128",
}

/// Declares the order-preserving codec of floats. A negative float shrinks as its other bits grow, so all its bits flip.
macro_rules! floats {
    ($($float:ty as $bits:ty => $name:literal),+ $(,)?) => {
        $(impl Codec<$float> for Ordered {
            fn schema(&self) -> Schema {
                Schema::new($name)
            }

            fn encode(&self, value: &$float, out: &mut Vec<u8>) -> Result<()> {
                let bits = value.to_bits();
                let sorted = if value.is_sign_negative() { !bits } else { bits ^ (1 << (<$bits>::BITS - 1)) };
                out.extend_from_slice(&sorted.to_be_bytes());
                Ok(())
            }

            fn decode(&self, bytes: &[u8]) -> Result<$float> {
                let sorted = bytes.try_into().map(<$bits>::from_be_bytes).map_err(|_| mismatch($name))?;
                let positive = sorted ^ (1 << (<$bits>::BITS - 1));
                Ok(<$float>::from_bits(if positive < sorted { positive } else { !sorted }))
            }
        }

        impl OrderedCodec<$float> for Ordered {
            const WIDTH: Option<usize> = Some(size_of::<$float>());
        })+
    };
}

floats! { f32 as u32 => "ordered:f32", f64 as u64 => "ordered:f64" }

/// Declares types whose plain encoding already sorts.
macro_rules! plain {
    ($($value:ty => $name:literal, $codec:expr, $width:expr);+ $(;)?) => {
        $(impl Codec<$value> for Ordered {
            fn schema(&self) -> Schema {
                Schema::new($name)
            }

            fn encode(&self, value: &$value, out: &mut Vec<u8>) -> Result<()> {
                $codec.encode(value, out)
            }

            fn decode(&self, bytes: &[u8]) -> Result<$value> {
                $codec.decode(bytes)
            }
        }

        impl OrderedCodec<$value> for Ordered {
            const WIDTH: Option<usize> = $width;
        })+
    };
}

plain! {
    () => "ordered:unit", Unit, Some(0);
    bool => "ordered:bool", Fixed, Some(1);
    Vec<u8> => "ordered:bytes", Raw, None;
    String => "ordered:utf8", Utf8, None;
}

impl<V> Codec<Option<V>> for Ordered
where
    Self: OrderedCodec<V>,
{
    fn schema(&self) -> Schema {
        Schema::ordered("option", &[Codec::<V>::schema(self)])
    }

    fn encode(&self, value: &Option<V>, out: &mut Vec<u8>) -> Result<()> {
        Optional(*self).encode(value, out)
    }

    fn decode(&self, bytes: &[u8]) -> Result<Option<V>> {
        Optional(*self).decode(bytes)
    }
}

impl<V> OrderedCodec<Option<V>> for Ordered where Self: OrderedCodec<V> {}

/// Declares tuples of ordered values.
macro_rules! tuples {
    ($([$($value:ident $at:tt),+; $last_value:ident $last:tt])+) => {
        $(impl<$($value,)+ $last_value> Codec<($($value,)+ $last_value)> for Ordered
        where
            Self: $(OrderedCodec<$value> +)+ OrderedCodec<$last_value>,
        {
            fn schema(&self) -> Schema {
                let parts = [$(Codec::<$value>::schema(self),)+ Codec::<$last_value>::schema(self)];
                Schema::ordered("tuple", &parts)
            }

            fn encode(&self, value: &($($value,)+ $last_value), out: &mut Vec<u8>) -> Result<()> {
                $(put_part(&value.$at, out)?;)+
                self.encode(&value.$last, out)
            }

            fn decode(&self, bytes: &[u8]) -> Result<($($value,)+ $last_value)> {
                let mut rest = bytes;
                Ok(($(take_part::<$value>(&mut rest)?,)+ self.decode(rest)?))
            }
        }

        impl<$($value,)+ $last_value> OrderedCodec<($($value,)+ $last_value)> for Ordered
        where
            Self: $(OrderedCodec<$value> +)+ OrderedCodec<$last_value>,
        {
            const WIDTH: Option<usize> =
                sum(&[$(<Self as OrderedCodec<$value>>::WIDTH,)+ <Self as OrderedCodec<$last_value>>::WIDTH]);
        })+
    };
}

tuples! {
    [A 0; B 1]
    [A 0, B 1; C 2]
    [A 0, B 1, C 2; D 3]
    [A 0, B 1, C 2, D 3; E 4]
    [A 0, B 1, C 2, D 3, E 4; F 5]
}

/// Returns the total width; `None` if a part has no fixed width.
const fn sum(mut widths: &[Option<usize>]) -> Option<usize> {
    let mut sum = 0;
    while let [first, rest @ ..] = widths {
        match first {
            Some(width) => sum += *width,
            None => return None,
        }
        widths = rest;
    }
    Some(sum)
}

fn put_part<V>(value: &V, out: &mut Vec<u8>) -> Result<()>
where
    Ordered: OrderedCodec<V>,
{
    let start = out.len();
    Ordered.encode(value, out)?;
    if <Ordered as OrderedCodec<V>>::WIDTH.is_none() {
        escape_from(out, start);
    }
    Ok(())
}

fn take_part<V>(rest: &mut &[u8]) -> Result<V>
where
    Ordered: OrderedCodec<V>,
{
    let part = match <Ordered as OrderedCodec<V>>::WIDTH {
        None => take_escaped(rest),
        Some(width) => rest.split_at_checked(width).map(|(part, left)| {
            *rest = left;
            Cow::Borrowed(part)
        }),
    };
    let part = part.ok_or_else(|| mismatch(&Codec::<V>::schema(&Ordered).name))?;
    Ordered.decode(&part)
}
