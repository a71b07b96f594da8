//! Schema names parsed as types. Tools decode values by these types alone, without the user's code.
//!
//! `docs/format.md` has the grammar of names and the bytes of each type. The name of a composed type holds the version of
//! a part if it is not 1. A part whose name this crate does not know becomes `opaque:` and that name, escaped.
//!
//! Invariants:
//! - a parsed type prints as the name it was parsed from, and that name parses to the same type;
//! - a decoded value takes memory in proportion to its bytes and its type: each element of a list has at least one byte.

mod decode;
mod encode;
mod parse;
mod print;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

pub use decode::decode_any;
pub use encode::encode_any;

/// Levels that type expressions may nest.
const MAX_DEPTH: usize = 32;

/// A type's name and version, as checkpoints store them.
///
/// ```
/// use alluvium::Schema;
/// use alluvium::schema::{Type, decode_any};
/// use alluvium::{Codec, Fixed, Utf8};
/// # fn main() -> alluvium::Result<()> {
/// let codec = (Utf8, Fixed);
/// let schema = Codec::<(String, u16)>::schema(&codec);
/// assert_eq!(schema, Schema::new("tuple<utf8,u16le>"));
/// let parsed = Type::parse(&schema.name).unwrap();
/// assert_eq!(decode_any(&parsed, b"\x02ab\x01\0")?.to_string(), "(ab,1)");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Schema {
    /// The name; for this crate's codecs a type expression, by which tools decode values.
    pub name: String,
    /// The version.
    pub version: u32,
}

impl Schema {
    /// Returns the schema of type `name`, version 1.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), version: 1 }
    }

    /// Returns the schema for a part that a table does not have: `unit`, in no bytes.
    #[must_use]
    pub fn unit() -> Self {
        Self::new("unit")
    }

    /// Returns version 1 of `form<part,...>`.
    pub(super) fn composed(form: &str, parts: &[Self]) -> Self {
        Self::compose(form, parts, |name| Type::parse(name).map(|_| name))
    }

    /// Returns version 1 of `ordered:form<part,...>`, whose parts lose their own `ordered:`.
    pub(super) fn ordered(form: &str, parts: &[Self]) -> Self {
        Self::compose(&format!("ordered:{form}"), parts, |name| match Type::parse(name) {
            Some(Type::Ordered(_)) => name.strip_prefix("ordered:"),
            _ => None,
        })
    }

    /// * `known`: returns the spelling of a part's name within the whole; `None` if the name is not known.
    fn compose(form: &str, parts: &[Self], known: impl Fn(&str) -> Option<&str>) -> Self {
        let mut name = format!("{form}<");
        for (i, part) in parts.iter().enumerate() {
            if i > 0 {
                name.push(',');
            }
            match known(&part.name) {
                Some(part) => name.push_str(part),
                None => name.extend(["opaque:", &escaped(&part.name)]),
            }
            if part.version != 1 {
                name.extend(["@", &part.version.to_string()]);
            }
        }
        name.push('>');
        Self::new(name)
    }
}

/// Escapes a name of any text, so that it can stand within other names.
fn escaped(name: &str) -> String {
    let mut escaped = String::new();
    for byte in name.bytes() {
        if parse::is_plain(char::from(byte)) {
            escaped.push(char::from(byte));
        } else {
            escaped.push('%');
            escaped.extend([byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).unwrap_or('0')));
        }
    }
    escaped
}

/// A type by which values are decoded: an encoding and, for composed encodings, its parts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Type {
    /// No bytes.
    Unit,
    /// One byte, 0 or 1.
    Bool,
    /// Plain bytes.
    Bytes,
    /// Plain UTF-8 text.
    Utf8,
    /// A number in little-endian bytes of its full width.
    Fixed(Number),
    /// A byte, 0 or 1, and the value if 1.
    Option(Box<Part<Self>>),
    /// A count, and each value after its length.
    List(Box<Part<Self>>),
    /// Values in order, all but the last after their lengths.
    Tuple(Vec<Part<Self>>),
    /// Bytes that sort as the values do.
    Ordered(Order),
    /// A value in `postcard`'s format.
    Postcard(Shape),
    /// Bytes in a format of this name, unknown to this crate.
    Opaque(String),
}

/// A type whose bytes sort as its values do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Order {
    /// No bytes.
    Unit,
    /// One byte, 0 or 1.
    Bool,
    /// Plain bytes.
    Bytes,
    /// Plain UTF-8 text.
    Utf8,
    /// A number in big-endian bytes of its full width. Flipped are the sign bit of signed integers and positive floats,
    /// and all bits of negative floats.
    Number(Number),
    /// A byte, 0 or 1, and the value if 1.
    Option(Box<Part<Self>>),
    /// Values in order; those without a fixed width, except the last, are escaped and terminated.
    Tuple(Vec<Part<Self>>),
    /// Bytes in a format of this name, unknown to this crate.
    Opaque(String),
}

/// A part of a composed type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Part<T> {
    /// The part's type.
    pub ty: T,
    /// The part's version.
    pub version: u32,
}

/// A type of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Number {
    /// Unsigned, of this many bytes.
    Unsigned(u8),
    /// Two's complement, of this many bytes.
    Signed(u8),
    /// IEEE 754 single.
    F32,
    /// IEEE 754 double.
    F64,
}

/// The shape of a value in `postcard`'s format.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Shape {
    /// No bytes.
    Unit,
    /// One byte, 0 or 1.
    Bool,
    /// A number; integers wider than a byte are varints, zigzag if signed.
    Number(Number),
    /// A length and bytes.
    Bytes,
    /// A length and UTF-8 text.
    Utf8,
    /// A byte, 0 or 1, and the value if 1.
    Option(Box<Self>),
    /// A count and values. Elements of no bytes are not supported.
    List(Box<Self>),
    /// Values in order.
    Tuple(Vec<Self>),
    /// Named values in order.
    Struct(Vec<(String, Self)>),
    /// The index of a variant, from 0, and the variant's value.
    Enum(Vec<(String, Self)>),
}

/// A decoded value. It borrows bytes that are stored plain, and borrows names from the type. Its printed form is for
/// people, and cannot be parsed back.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// The unit value.
    Unit,
    /// A truth value.
    Bool(bool),
    /// An unsigned number.
    Unsigned(u128),
    /// A signed number.
    Signed(i128),
    /// A single-precision float.
    F32(f32),
    /// A double-precision float.
    F64(f64),
    /// Bytes.
    Bytes(Cow<'a, [u8]>),
    /// Text.
    Utf8(Cow<'a, str>),
    /// An optional value.
    Option(Option<Box<Self>>),
    /// Values of one type.
    List(Vec<Self>),
    /// Values of several types.
    Tuple(Vec<Self>),
    /// Named values. An enum's value is a struct with one field, named after the variant.
    Struct(Vec<(&'a str, Self)>),
}

impl Order {
    /// Returns the width of every value in bytes; `None` if widths differ.
    fn width(&self) -> Option<usize> {
        match self {
            Self::Unit => Some(0),
            Self::Bool => Some(1),
            Self::Number(number) => Some(number.width().into()),
            Self::Tuple(parts) => parts.iter().map(|part| part.ty.width()).sum(),
            Self::Bytes | Self::Utf8 | Self::Option(_) | Self::Opaque(_) => None,
        }
    }
}

impl Number {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "u8" => Self::Unsigned(1),
            "u16" => Self::Unsigned(2),
            "u32" => Self::Unsigned(4),
            "u64" => Self::Unsigned(8),
            "u128" => Self::Unsigned(16),
            "i8" => Self::Signed(1),
            "i16" => Self::Signed(2),
            "i32" => Self::Signed(4),
            "i64" => Self::Signed(8),
            "i128" => Self::Signed(16),
            "f32" => Self::F32,
            "f64" => Self::F64,
            _ => return None,
        })
    }

    const fn width(self) -> u8 {
        match self {
            Self::Unsigned(width) | Self::Signed(width) => width,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}
