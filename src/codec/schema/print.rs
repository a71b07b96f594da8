//! Types printed as schema names, and decoded values printed for people.

use std::fmt::{self, Write as _};

use super::{Number, Order, Part, Shape, Type, Value};

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
                print_items(f, ('<', '>'), parts, |f, part| part.fmt(f))
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
                print_items(f, ('<', '>'), parts, |f, part| part.fmt(f))
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
                print_items(f, ('<', '>'), items, |f, item| item.fmt(f))
            }
            Self::Struct(fields) | Self::Enum(fields) => {
                f.write_str(if matches!(self, Self::Struct(_)) { "struct" } else { "enum" })?;
                print_items(f, ('<', '>'), fields, |f, (name, shape)| write!(f, "{name}:{shape}"))
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
            Self::List(items) => print_items(f, ('[', ']'), items, |f, item| item.fmt(f)),
            Self::Tuple(items) => print_items(f, ('(', ')'), items, |f, item| item.fmt(f)),
            Self::Struct(fields) => print_items(f, ('{', '}'), fields, |f, (name, value)| write!(f, "{name}:{value}")),
        }
    }
}

/// Prints items with commas between them, in brackets.
fn print_items<T>(
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
