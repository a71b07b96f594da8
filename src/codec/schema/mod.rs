//! Schema names as types, and values decoded by them alone, so that offline tools need no user code.
//!
//! `docs/format.md` has the grammar of names and the bytes of each. A part of a version other than 1 carries it in the
//! name of the whole, and a part whose name is not of this crate becomes `opaque:` and that name, escaped.
//!
//! Invariants:
//! - every name that parses is printed as it was; every type that was parsed and printed parses back to itself;
//! - a value takes memory in proportion to its bytes and its type: each element of a list has at least one byte.

mod decode;
mod parse;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::fmt::Write as _;

pub use decode::decode_any;

/// How deep type expressions may nest.
const MAX_DEPTH: usize = 32;

/// A type's name and version.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Schema {
    /// Its name; for the crate's own codecs a type expression that tools can decode by.
    pub name: String,
    /// Its version.
    pub version: u32,
}

impl Schema {
    /// Returns version 1 of the type `name`.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), version: 1 }
    }

    /// Returns the type of what a table does not have.
    #[must_use]
    pub fn unit() -> Self {
        Self::new("unit")
    }

    /// Returns version 1 of `form<part,...>`.
    pub(super) fn composed(form: &str, parts: &[Self]) -> Self {
        Self::of_parts(form, parts, |name| Type::parse(name).map(|_| name))
    }

    /// Returns version 1 of `ordered:form<part,...>`, whose parts lose their own `ordered:`.
    pub(super) fn ordered(form: &str, parts: &[Self]) -> Self {
        Self::of_parts(&format!("ordered:{form}"), parts, |name| match Type::parse(name) {
            Some(Type::Ordered(_)) => name.strip_prefix("ordered:"),
            _ => None,
        })
    }

    fn of_parts(form: &str, parts: &[Self], known: impl Fn(&str) -> Option<&str>) -> Self {
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

/// Returns a name that other names can hold, whatever is in it.
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

/// A type that values can be decoded by: a form of encoding and, for some forms, what it is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Type {
    /// No bytes at all.
    Unit,
    /// One byte, 0 or 1.
    Bool,
    /// Bytes as they are.
    Bytes,
    /// UTF-8 text as it is.
    Utf8,
    /// A number in little-endian bytes of its full width.
    Fixed(Number),
    /// A byte, 0 or 1, and the value if 1.
    Option(Box<Part<Self>>),
    /// A count, and each value behind its length.
    List(Box<Part<Self>>),
    /// Values one after the other, all but the last behind their lengths.
    Tuple(Vec<Part<Self>>),
    /// Bytes that sort as the values do.
    Ordered(Order),
    /// A shape in `postcard`'s format.
    Postcard(Shape),
    /// Bytes in a format of this name, which this crate does not know.
    Opaque(String),
}

/// A type that sorts by its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Order {
    /// No bytes at all.
    Unit,
    /// One byte, 0 or 1.
    Bool,
    /// Bytes as they are.
    Bytes,
    /// UTF-8 text as it is.
    Utf8,
    /// A number in big-endian bytes of its full width: the sign bit of a signed one flipped; of a float, the sign bit
    /// of a positive one and all bits of a negative one.
    Number(Number),
    /// A byte, 0 or 1, and the value if 1.
    Option(Box<Part<Self>>),
    /// Values one after the other; those that have no fixed width, but for the last, escaped and terminated.
    Tuple(Vec<Part<Self>>),
    /// Bytes in a format of this name, which this crate does not know.
    Opaque(String),
}

/// A type within another, of some version.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Part<T> {
    /// The type.
    pub ty: T,
    /// Its version.
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
    /// Nothing.
    Unit,
    /// One byte, 0 or 1.
    Bool,
    /// A number; integers beyond a byte as varints, signed ones in zigzag.
    Number(Number),
    /// Length and bytes.
    Bytes,
    /// Length and UTF-8 text.
    Utf8,
    /// A byte, 0 or 1, and the value if 1.
    Option(Box<Self>),
    /// A count and values. Elements that take no bytes are not supported.
    List(Box<Self>),
    /// Values one after the other.
    Tuple(Vec<Self>),
    /// Named values one after the other.
    Struct(Vec<(String, Self)>),
    /// The number of a variant, from 0, and its value.
    Enum(Vec<(String, Self)>),
}

/// A decoded value that borrows its bytes where they are stored as they are, and its names from the type. It prints
/// readably, not reversibly.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// Nothing.
    Unit,
    /// A truth value.
    Bool(bool),
    /// An unsigned number.
    Unsigned(u128),
    /// A signed number.
    Signed(i128),
    /// A single.
    F32(f32),
    /// A double.
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
    /// Named values. A variant of an enum is a struct with one field.
    Struct(Vec<(&'a str, Self)>),
}

impl Order {
    /// Returns how many bytes every value has, if all have as many.
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

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit => f.write_str("unit"),
            Self::Bytes => f.write_str("bytes"),
            Self::Utf8 => f.write_str("utf8"),
            Self::Fixed(number) if number.width() == 1 => number.fmt(f),
            Self::Bool => f.write_str("bool"),
            Self::Fixed(number) => write!(f, "{number}le"),
            Self::Option(part) => write!(f, "option<{part}>"),
            Self::List(part) => write!(f, "list<{part}>"),
            Self::Tuple(parts) => {
                f.write_str("tuple")?;
                joined(f, ('<', '>'), parts, |f, part| part.fmt(f))
            }
            Self::Ordered(order) => write!(f, "ordered:{order}"),
            Self::Postcard(shape) => write!(f, "postcard:{shape}"),
            Self::Opaque(name) => write!(f, "opaque:{name}"),
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit => f.write_str("unit"),
            Self::Bool => f.write_str("bool"),
            Self::Bytes => f.write_str("bytes"),
            Self::Utf8 => f.write_str("utf8"),
            Self::Number(number) => number.fmt(f),
            Self::Option(part) => write!(f, "option<{part}>"),
            Self::Tuple(parts) => {
                f.write_str("tuple")?;
                joined(f, ('<', '>'), parts, |f, part| part.fmt(f))
            }
            Self::Opaque(name) => write!(f, "opaque:{name}"),
        }
    }
}

impl<T: fmt::Display> fmt::Display for Part<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            1 => self.ty.fmt(f),
            version => write!(f, "{}@{version}", self.ty),
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

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self {
            Self::Unsigned(_) => 'u',
            Self::Signed(_) => 'i',
            Self::F32 | Self::F64 => 'f',
        };
        write!(f, "{letter}{}", u32::from(self.width()) * 8)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit => f.write_str("unit"),
            Self::Bool => f.write_str("bool"),
            Self::Number(number) => number.fmt(f),
            Self::Bytes => f.write_str("bytes"),
            Self::Utf8 => f.write_str("utf8"),
            Self::Option(inner) => write!(f, "option<{inner}>"),
            Self::List(inner) => write!(f, "list<{inner}>"),
            Self::Tuple(items) => {
                f.write_str("tuple")?;
                joined(f, ('<', '>'), items, |f, item| item.fmt(f))
            }
            Self::Struct(fields) | Self::Enum(fields) => {
                f.write_str(if matches!(self, Self::Struct(_)) { "struct" } else { "enum" })?;
                joined(f, ('<', '>'), fields, |f, (name, shape)| write!(f, "{name}:{shape}"))
            }
        }
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit => Ok(()),
            Self::Bool(value) => value.fmt(f),
            Self::Unsigned(value) => value.fmt(f),
            Self::Signed(value) => value.fmt(f),
            Self::F32(value) => value.fmt(f),
            Self::F64(value) => value.fmt(f),
            Self::Utf8(text) => f.write_str(text),
            Self::Bytes(bytes) => {
                f.write_str("0x")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::Option(None) => f.write_str("null"),
            Self::Option(Some(value)) => value.fmt(f),
            Self::List(items) => joined(f, ('[', ']'), items, |f, item| item.fmt(f)),
            Self::Tuple(items) => joined(f, ('(', ')'), items, |f, item| item.fmt(f)),
            Self::Struct(fields) => joined(f, ('{', '}'), fields, |f, (name, value)| write!(f, "{name}:{value}")),
        }
    }
}

fn joined<T>(
    f: &mut fmt::Formatter<'_>,
    (open, close): (char, char),
    items: &[T],
    mut print: impl FnMut(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    f.write_char(open)?;
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            f.write_char(',')?;
        }
        print(f, item)?;
    }
    f.write_char(close)
}
