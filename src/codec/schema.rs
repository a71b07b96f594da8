//! Schema names as types, and values decoded by them alone, so that offline tools need no user code.
//!
//! ```text
//! name    = unit | bytes | utf8 | fixed | "ordered:" integer | "postcard:" expr
//! fixed   = u8 | i8 | u16le | i16le | ... | u128le | i128le | f32le | f64le
//! integer = u8 | i8 | u16 | i16 | ... | u128 | i128
//! expr    = unit | bool | bytes | utf8 | u8 | i8 | ... | u128 | i128 | f32 | f64
//!         | option<expr> | list<expr> | tuple<expr,...> | struct<field:expr,...> | enum<variant:expr,...>
//! ```
//!
//! Invariants:
//! - every name that is printed parses back to the same type;
//! - a value takes memory in proportion to its bytes: each element of a list has at least one byte.

use std::fmt;

use crate::error::{Error, Result};

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
}

/// A type that values can be decoded by: a form of encoding and, for `postcard`, a shape.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Type {
    /// No bytes at all.
    Unit,
    /// Bytes as they are.
    Bytes,
    /// UTF-8 text as it is.
    Utf8,
    /// A number in little-endian bytes of its full width.
    Fixed(Number),
    /// An integer in big-endian bytes of its full width, the sign bit of a signed one flipped, so that the bytes sort
    /// as the numbers do.
    Ordered(Number),
    /// A shape in `postcard`'s format.
    Postcard(Shape),
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

/// A decoded value that borrows its bytes, and its names from the type. It prints readably, not reversibly.
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
    Bytes(&'a [u8]),
    /// Text.
    Utf8(&'a str),
    /// An optional value.
    Option(Option<Box<Self>>),
    /// Values of one type.
    List(Vec<Self>),
    /// Values of several types.
    Tuple(Vec<Self>),
    /// Named values. A variant of an enum is a struct with one field.
    Struct(Vec<(&'a str, Self)>),
}

impl Type {
    /// Returns the type that a schema's name stands for, if it is one of this crate's.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "unit" => Some(Self::Unit),
            "bytes" => Some(Self::Bytes),
            "utf8" => Some(Self::Utf8),
            "u8" | "i8" => Number::parse(name).map(Self::Fixed),
            _ => match name.split_once(':') {
                Some(("postcard", expression)) => {
                    let mut parser = Parser { rest: expression };
                    let shape = parser.shape(MAX_DEPTH)?;
                    parser.rest.is_empty().then_some(Self::Postcard(shape))
                }
                Some(("ordered", number)) => {
                    let number = Number::parse(number)?;
                    number.is_integer().then_some(Self::Ordered(number))
                }
                Some(_) => None,
                None => {
                    let number = Number::parse(name.strip_suffix("le")?)?;
                    (number.width() > 1).then_some(Self::Fixed(number))
                }
            },
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
            Self::Fixed(number) => write!(f, "{number}le"),
            Self::Ordered(number) => write!(f, "ordered:{number}"),
            Self::Postcard(shape) => write!(f, "postcard:{shape}"),
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

    const fn is_integer(self) -> bool {
        matches!(self, Self::Unsigned(_) | Self::Signed(_))
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
    use fmt::Write as _;
    f.write_char(open)?;
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            f.write_char(',')?;
        }
        print(f, item)?;
    }
    f.write_char(close)
}

/// Reads type expressions.
struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn shape(&mut self, depth: usize) -> Option<Shape> {
        let depth = depth.checked_sub(1)?;
        Some(match self.word()? {
            "unit" => Shape::Unit,
            "bool" => Shape::Bool,
            "bytes" => Shape::Bytes,
            "utf8" => Shape::Utf8,
            "option" => Shape::Option(Box::new(self.only(depth)?)),
            "list" => Shape::List(Box::new(self.only(depth)?)),
            "tuple" => Shape::Tuple(self.several(|parser| parser.shape(depth))?),
            "struct" => Shape::Struct(self.several(|parser| parser.field(depth))?),
            "enum" => Shape::Enum(self.several(|parser| parser.field(depth))?),
            number => Shape::Number(Number::parse(number)?),
        })
    }

    /// Takes one shape in angle brackets.
    fn only(&mut self, depth: usize) -> Option<Shape> {
        self.token('<')?;
        let shape = self.shape(depth)?;
        self.token('>')?;
        Some(shape)
    }

    /// Takes items between commas in angle brackets, at least one.
    fn several<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        self.token('<')?;
        let mut items = vec![item(self)?];
        while self.token(',').is_some() {
            items.push(item(self)?);
        }
        self.token('>')?;
        Some(items)
    }

    fn field(&mut self, depth: usize) -> Option<(String, Shape)> {
        let name = self.word()?.to_owned();
        self.token(':')?;
        Some((name, self.shape(depth)?))
    }

    fn word(&mut self) -> Option<&'a str> {
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }

    fn token(&mut self, token: char) -> Option<()> {
        self.rest = self.rest.strip_prefix(token)?;
        Some(())
    }
}

/// Returns the value that exactly `bytes` stand for.
///
/// # Errors
/// `Corrupt` if they stand for none.
pub fn decode_any<'a>(ty: &'a Type, bytes: &'a [u8]) -> Result<Value<'a>> {
    let mut reader = Reader { rest: bytes };
    let value = match ty {
        Type::Unit => Some(Value::Unit),
        Type::Bytes => Some(Value::Bytes(std::mem::take(&mut reader.rest))),
        Type::Utf8 => std::str::from_utf8(std::mem::take(&mut reader.rest)).ok().map(Value::Utf8),
        Type::Fixed(number) => reader.fixed(*number),
        Type::Ordered(number) => reader.ordered(*number),
        Type::Postcard(shape) => reader.shape(shape),
    };
    value
        .filter(|_| reader.rest.is_empty())
        .ok_or_else(|| Error::corrupt("stored bytes do not have their schema").with("schema", ty))
}

/// Takes values off the front of bytes.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn shape(&mut self, shape: &'a Shape) -> Option<Value<'a>> {
        Some(match shape {
            Shape::Unit => Value::Unit,
            Shape::Bool => Value::Bool(self.flag()?),
            Shape::Number(Number::Unsigned(width @ 2..)) => Value::Unsigned(self.varint(*width)?),
            Shape::Number(Number::Signed(width @ 2..)) => {
                let zigzag = self.varint(*width)?;
                Value::Signed((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
            }
            Shape::Number(number) => self.fixed(*number)?,
            Shape::Bytes => Value::Bytes(self.counted()?),
            Shape::Utf8 => Value::Utf8(std::str::from_utf8(self.counted()?).ok()?),
            Shape::Option(inner) => {
                let some = self.flag()?;
                Value::Option(if some { Some(Box::new(self.shape(inner)?)) } else { None })
            }
            Shape::List(inner) => {
                let count = self.count()?;
                Value::List((0..count).map(|_| self.shape(inner)).collect::<Option<_>>()?)
            }
            Shape::Tuple(items) => Value::Tuple(items.iter().map(|item| self.shape(item)).collect::<Option<_>>()?),
            Shape::Struct(fields) => {
                let mut field = |(name, shape): &'a (String, Shape)| Some((name.as_str(), self.shape(shape)?));
                Value::Struct(fields.iter().map(&mut field).collect::<Option<_>>()?)
            }
            Shape::Enum(variants) => {
                let (name, shape) = variants.get(usize::try_from(self.varint(4)?).ok()?)?;
                Value::Struct(vec![(name.as_str(), self.shape(shape)?)])
            }
        })
    }

    fn fixed(&mut self, number: Number) -> Option<Value<'a>> {
        number_of(self.take(usize::from(number.width()))?, number)
    }

    fn ordered(&mut self, number: Number) -> Option<Value<'a>> {
        let mut bytes = self.take(usize::from(number.width()))?.to_vec();
        bytes.reverse();
        if let (Number::Signed(_), Some(highest)) = (number, bytes.last_mut()) {
            *highest ^= 0x80;
        }
        number_of(&bytes, number)
    }

    /// Takes a little-endian base-128 number of a type of `width` bytes.
    fn varint(&mut self, width: u8) -> Option<u128> {
        let bits = u32::from(width) * 8;
        let mut value = 0u128;
        for shift in (0..bits).step_by(7) {
            let byte = *self.take(1)?.first()?;
            let part = u128::from(byte & 0x7f);
            let room = bits - shift;
            if room < 7 && part >> room != 0 {
                return None;
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// Takes a count of items that have at least one byte each.
    fn count(&mut self) -> Option<usize> {
        let count = usize::try_from(self.varint(8)?).ok()?;
        (count <= self.rest.len()).then_some(count)
    }

    fn counted(&mut self) -> Option<&'a [u8]> {
        let count = self.count()?;
        self.take(count)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.take(1)? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }
}

/// Returns the number that these little-endian bytes of its full width stand for.
fn number_of<'a>(bytes: &[u8], number: Number) -> Option<Value<'a>> {
    // Widened to 16 bytes, with the sign's bits above a negative number.
    let fill = |negative: bool| if negative { 0xff } else { 0 };
    let widened = |filler: u8| {
        let mut wide = [filler; 16];
        wide.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        wide
    };
    Some(match number {
        Number::Unsigned(_) => Value::Unsigned(u128::from_le_bytes(widened(0))),
        Number::Signed(_) => {
            let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
            Value::Signed(i128::from_le_bytes(widened(fill(negative))))
        }
        Number::F32 => Value::F32(f32::from_le_bytes(bytes.try_into().ok()?)),
        Number::F64 => Value::F64(f64::from_le_bytes(bytes.try_into().ok()?)),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;
    use serde::Serialize;

    use super::*;

    fn decoded(name: &str, bytes: &[u8]) -> Option<String> {
        let ty = Type::parse(name).unwrap_or_else(|| panic!("{name}"));
        decode_any(&ty, bytes).ok().map(|value| value.to_string())
    }

    #[test]
    fn names_print_as_they_parse() {
        for name in [
            "unit",
            "bytes",
            "utf8",
            "u8",
            "i8",
            "u16le",
            "i128le",
            "f32le",
            "f64le",
            "ordered:u8",
            "ordered:i64",
            "postcard:u8",
            "postcard:tuple<u16,option<list<bytes>>,unit>",
            "postcard:struct<a:bool,b_2:struct<c:f32>>",
            "postcard:enum<int:i128,dec:f64,text:utf8,none:unit>",
        ] {
            assert_eq!(Type::parse(name).unwrap().to_string(), name);
        }
        let deep = format!("postcard:{}u8{}", "list<".repeat(40), ">".repeat(40));
        for name in ["", "u64", "u8le", "u24le", "postcard:", "postcard:u8 ", "postcard:list<>", "postcard:tuple<u8,>"]
        {
            assert_eq!(Type::parse(name), None, "{name}");
        }
        for name in ["ordered:f64", "ordered:", "ordered:i64le"] {
            assert_eq!(Type::parse(name), None, "{name}");
        }
        for name in ["avro:x", "postcard:struct<u8>", "postcard:list<u8", "postcard:list<u8>>", "postcard:é", &deep] {
            assert_eq!(Type::parse(name), None, "{name}");
        }
    }

    #[derive(Serialize)]
    enum Cell {
        Int(i128),
        Text(String),
        Null,
    }

    #[test]
    fn postcard_is_read_as_it_is_written() {
        let check = |expression: &str, bytes: Vec<u8>, expected: &str| {
            let name = format!("postcard:{expression}");
            assert_eq!(decoded(&name, &bytes).as_deref(), Some(expected));
            assert_eq!(decoded(&name, &[&bytes[..], &[0]].concat()), None, "a byte more");
            assert_eq!(decoded(&name, &bytes[..bytes.len() - 1]), None, "a byte less");
        };
        let of = |value: &dyn erased::Value| value.bytes();
        check("u16", of(&u16::MAX), "65535");
        check("u128", of(&u128::MAX), &u128::MAX.to_string());
        check("i8", of(&-1i8), "-1");
        check("i16", of(&i16::MIN), "-32768");
        check("i64", of(&i64::MIN), &i64::MIN.to_string());
        check("i128", of(&i128::MAX), &i128::MAX.to_string());
        check("f64", of(&-0.5f64), "-0.5");
        check("bytes", of(&vec![1u8, 2]), "0x0102");
        check("list<utf8>", of(&vec!["a", "bc"]), "[a,bc]");
        let cells = "enum<int:i128,text:utf8,null:unit>";
        check(cells, of(&Cell::Int(-5)), "{int:-5}");
        check(cells, of(&Cell::Text("x".into())), "{text:x}");
        check(cells, of(&Cell::Null), "{null:}");
    }

    /// Serde's trait is not dyn compatible; this is what the test needs of it.
    mod erased {
        pub(super) trait Value {
            fn bytes(&self) -> Vec<u8>;
        }

        impl<T: serde::Serialize> Value for T {
            fn bytes(&self) -> Vec<u8> {
                postcard::to_stdvec(self).unwrap()
            }
        }
    }

    #[test]
    fn hostile_bytes_are_refused_before_memory_is_taken() {
        assert_eq!(decoded("postcard:list<unit>", &[0xff, 0xff, 0xff, 0xff, 0x0f]), None);
        assert_eq!(decoded("postcard:bytes", &[0xff, 0xff, 0xff, 0xff, 0x0f]), None);
        assert_eq!(decoded("postcard:u16", &[0xff, 0xff, 0x04]), None, "17 bits");
        assert_eq!(decoded("postcard:u16", &[0x80, 0x80, 0x80, 0x00]), None, "too long");
        assert_eq!(decoded("postcard:bool", &[2]), None);
        assert_eq!(decoded("postcard:enum<a:unit>", &[1]), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(3), failure_persistence: None, ..Default::default() })]

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let nested = "postcard:struct<a:list<option<tuple<i16,utf8>>>,b:enum<x:bytes,y:u128>,c:f32>";
            for name in ["unit", "utf8", "i128le", "f32le", "ordered:i16", nested] {
                let ty = Type::parse(name).unwrap();
                let _result = decode_any(&ty, &bytes);
            }
        }
    }
}
