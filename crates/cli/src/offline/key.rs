//! Keys as a user writes them: the text that `export` prints, read by the key's type.

use std::fmt;

use serde::de::{self, Deserialize as _, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use alluvium::schema::{Number, Order, Shape, Type, Value, encode_any};
use alluvium::{Error, Result};

/// Returns the encoded key of type `ty` that `text` names: as a cell of an exported CSV file or, for a key of several
/// columns, a line of such cells. Keys that are no struct and have parts are JSON, as in an exported file; a struct may be.
///
/// # Errors
/// `Usage` if it is none.
pub(super) fn parse(ty: &Type, text: &str) -> Result<Vec<u8>> {
    let refused = |reason: String| {
        Error::usage("--key is not a key of the table").with("key", text).with("type", ty).with("reason", reason)
    };
    let value = match Form::of_type(ty) {
        form @ Form::Struct(_) if text.starts_with('{') => json(&form, text).or_else(|_| cells(&form, text)),
        form @ Form::Struct(_) => cells(&form, text),
        form => cell(&form, text),
    };
    encode_any(ty, &value.map_err(refused)?).map_err(|_| refused("the type cannot hold it".to_owned()))
}

/// What a value is written as, whatever its encoding.
#[derive(Debug)]
enum Form<'a> {
    Unit,
    Bool,
    Number(Number),
    Bytes,
    Utf8,
    Option(Box<Self>),
    List(Box<Self>),
    Tuple(Vec<Self>),
    Struct(Vec<(&'a str, Self)>),
    Enum(Vec<(&'a str, Self)>),
}

impl<'a> Form<'a> {
    fn of_type(ty: &'a Type) -> Self {
        match ty {
            Type::Unit => Self::Unit,
            Type::Bool => Self::Bool,
            Type::Utf8 => Self::Utf8,
            Type::Fixed(number) => Self::Number(*number),
            Type::Option(part) => Self::Option(Box::new(Self::of_type(&part.ty))),
            Type::List(part) => Self::List(Box::new(Self::of_type(&part.ty))),
            Type::Tuple(parts) => Self::Tuple(parts.iter().map(|part| Self::of_type(&part.ty)).collect()),
            Type::Ordered(order) => Self::of_order(order),
            Type::Postcard(shape) => Self::of_shape(shape),
            _ => Self::Bytes,
        }
    }

    fn of_order(order: &Order) -> Self {
        match order {
            Order::Unit => Self::Unit,
            Order::Bool => Self::Bool,
            Order::Utf8 => Self::Utf8,
            Order::Number(number) => Self::Number(*number),
            Order::Option(part) => Self::Option(Box::new(Self::of_order(&part.ty))),
            Order::Tuple(parts) => Self::Tuple(parts.iter().map(|part| Self::of_order(&part.ty)).collect()),
            _ => Self::Bytes,
        }
    }

    fn of_shape(shape: &'a Shape) -> Self {
        let named = |items: &'a [(String, Shape)]| {
            items.iter().map(|(name, shape)| (name.as_str(), Self::of_shape(shape))).collect()
        };
        match shape {
            Shape::Unit => Self::Unit,
            Shape::Bool => Self::Bool,
            Shape::Utf8 => Self::Utf8,
            Shape::Number(number) => Self::Number(*number),
            Shape::Option(inner) => Self::Option(Box::new(Self::of_shape(inner))),
            Shape::List(inner) => Self::List(Box::new(Self::of_shape(inner))),
            Shape::Tuple(items) => Self::Tuple(items.iter().map(Self::of_shape).collect()),
            Shape::Struct(fields) => Self::Struct(named(fields)),
            Shape::Enum(variants) => Self::Enum(named(variants)),
            _ => Self::Bytes,
        }
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Unit => "nothing",
            Self::Bool => "true or false",
            Self::Number(Number::Unsigned(_)) => "a number without a sign",
            Self::Number(Number::Signed(_)) => "a whole number",
            Self::Number(_) => "a number",
            Self::Bytes => "0x and hexadecimal digits",
            Self::Utf8 => "text",
            Self::Option(_) => "a value or nothing",
            Self::List(_) | Self::Tuple(_) => "a JSON array",
            Self::Struct(_) | Self::Enum(_) => "a JSON object",
        }
    }
}

/// The value, or why the text has none.
type Parsed<'a> = Result<Value<'a>, String>;

/// Reads a line of CSV cells as a struct.
fn cells<'a>(form: &Form<'a>, text: &'a str) -> Parsed<'a> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_bytes());
    let mut records = reader.records();
    let record = records.next().unwrap_or_else(|| Ok(csv::StringRecord::from(vec![""])));
    let record = record.map_err(|error| error.to_string())?;
    if records.next().is_some() {
        return Err("it has several lines".to_owned());
    }
    let count = columns(form);
    if record.len() != count {
        return Err(format!("it has {} cells, and a key has {count}", record.len()));
    }
    fields(form, &mut record.iter())
}

/// Returns the number of columns in a CSV file.
fn columns(form: &Form<'_>) -> usize {
    match form {
        Form::Unit => 0,
        Form::Struct(fields) => fields.iter().map(|(_, form)| columns(form)).sum(),
        _ => 1,
    }
}

fn fields<'a, 'c>(form: &Form<'a>, cells: &mut impl Iterator<Item = &'c str>) -> Parsed<'a> {
    match form {
        Form::Unit => Ok(Value::Unit),
        Form::Struct(of) => {
            let mut field = |(name, form): &(&'a str, Form<'a>)| Ok((*name, fields(form, cells)?));
            of.iter().map(&mut field).collect::<Result<_, String>>().map(Value::Struct)
        }
        form => cell(form, cells.next().unwrap_or_default()),
    }
}

/// Reads a cell of an exported CSV file.
fn cell<'a>(form: &Form<'a>, text: &str) -> Parsed<'a> {
    let unlike = || format!("{} is expected", form.name());
    match form {
        Form::Utf8 => Ok(Value::Utf8(text.to_owned().into())),
        Form::Bytes => bytes(text).map(|bytes| Value::Bytes(bytes.into())).ok_or_else(unlike),
        Form::Unit => text.is_empty().then_some(Value::Unit).ok_or_else(unlike),
        Form::Bool => text.parse().map(Value::Bool).map_err(|_| unlike()),
        Form::Number(number) => parse_number(*number, text).ok_or_else(unlike),
        Form::Option(_) if text.is_empty() => Ok(Value::Option(None)),
        Form::Option(inner) => Ok(Value::Option(Some(Box::new(cell(inner, text)?)))),
        Form::List(_) | Form::Tuple(_) | Form::Struct(_) | Form::Enum(_) => json(form, text),
    }
}

fn parse_number(number: Number, text: &str) -> Option<Value<'static>> {
    match number {
        Number::Unsigned(_) => text.parse().ok().map(Value::Unsigned),
        Number::Signed(_) => text.parse().ok().map(Value::Signed),
        Number::F32 => text.parse().ok().map(Value::F32),
        Number::F64 => text.parse().ok().map(Value::F64),
    }
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("0x")?;
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    };
    digits.as_bytes().chunks(2).map(pair).collect()
}

/// Reads a value as it is in an exported file of JSON lines.
fn json<'a>(form: &Form<'a>, text: &str) -> Parsed<'a> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Seed(form).deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
    value.map_err(|error| error.to_string())
}

/// Reads JSON of a form.
struct Seed<'f, 'a>(&'f Form<'a>);

impl<'de, 'a> DeserializeSeed<'de> for Seed<'_, 'a> {
    type Value = Value<'a>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'a>, D::Error> {
        match self.0 {
            Form::Unit => deserializer.deserialize_unit(self),
            Form::Bool => bool::deserialize(deserializer).map(Value::Bool),
            Form::Number(Number::Unsigned(_)) => u128::deserialize(deserializer).map(Value::Unsigned),
            Form::Number(Number::Signed(_)) => i128::deserialize(deserializer).map(Value::Signed),
            Form::Number(Number::F32) => f32::deserialize(deserializer).map(Value::F32),
            Form::Number(Number::F64) => f64::deserialize(deserializer).map(Value::F64),
            Form::Bytes | Form::Utf8 => deserializer.deserialize_str(self),
            Form::Option(_) => deserializer.deserialize_option(self),
            Form::List(_) | Form::Tuple(_) => deserializer.deserialize_seq(self),
            Form::Struct(_) | Form::Enum(_) => deserializer.deserialize_map(self),
        }
    }
}

impl<'de, 'a> Visitor<'de> for Seed<'_, 'a> {
    type Value = Value<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value<'a>, E> {
        Ok(if matches!(self.0, Form::Option(_)) { Value::Option(None) } else { Value::Unit })
    }

    fn visit_none<E: de::Error>(self) -> Result<Value<'a>, E> {
        Ok(Value::Option(None))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'a>, D::Error> {
        let Form::Option(inner) = self.0 else { return Err(de::Error::custom(self.0.name())) };
        Ok(Value::Option(Some(Box::new(Seed(inner).deserialize(deserializer)?))))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value<'a>, E> {
        // The same as in a cell, but for the quotes.
        cell(self.0, text).map_err(de::Error::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value<'a>, A::Error> {
        let mut values = Vec::new();
        match self.0 {
            Form::List(inner) => {
                while let Some(value) = items.next_element_seed(Seed(inner))? {
                    values.push(value);
                }
                Ok(Value::List(values))
            }
            Form::Tuple(forms) => {
                for form in forms {
                    let value = items.next_element_seed(Seed(form))?;
                    values.push(value.ok_or_else(|| de::Error::invalid_length(values.len(), &self))?);
                }
                Ok(Value::Tuple(values))
            }
            _ => Err(de::Error::custom(self.0.name())),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'a>, A::Error> {
        let (Form::Struct(named) | Form::Enum(named)) = self.0 else { return Err(de::Error::custom(self.0.name())) };
        let mut found: Vec<Option<Value<'a>>> = named.iter().map(|_| None).collect();
        while let Some(name) = map.next_key::<String>()? {
            let at = named.iter().position(|(known, _)| *known == name);
            let slot = at.and_then(|at| Some((named.get(at)?, found.get_mut(at)?)));
            let Some(((_, form), slot)) = slot else { return Err(de::Error::custom(format!("no field `{name}`"))) };
            if slot.replace(map.next_value_seed(Seed(form))?).is_some() {
                return Err(de::Error::custom(format!("field `{name}` is there twice")));
            }
        }
        let fields = named.iter().zip(found).map(|((name, _), value)| (*name, value));
        match self.0 {
            Form::Enum(_) => {
                let chosen: Vec<_> = fields.filter_map(|(name, value)| Some((name, value?))).collect();
                if chosen.len() == 1 {
                    Ok(Value::Struct(chosen))
                } else {
                    Err(de::Error::custom("one variant is expected"))
                }
            }
            _ => {
                let present = |(name, value): (&'a str, Option<Value<'a>>)| {
                    value.map(|value| (name, value)).ok_or_else(|| de::Error::custom(format!("no `{name}`")))
                };
                fields.map(present).collect::<Result<_, _>>().map(Value::Struct)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alluvium::schema::decode_any;

    use super::super::value;
    use super::*;

    /// Values of every kind, as the bytes of each type.
    const CASES: &[(&str, &[u8])] = &[
        ("utf8", b"{\"a,b\"}"),
        ("utf8", b""),
        ("bytes", b"\x00\xffa"),
        ("bytes", b""),
        ("opaque:avro:x", b"\x07"),
        ("bool", b"\x01"),
        ("u64le", b"\xff\xff\xff\xff\xff\xff\xff\xff"),
        ("i128le", b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80"),
        ("ordered:i64", b"\x7f\xff\xff\xff\xff\xff\xff\xfb"),
        ("ordered:f64", b"\x3f\xff\xff\xff\xff\xff\xff\xff"),
        ("f32le", b"\x00\x00\x80\x7f"),
        ("f64le", b"\x00\x00\x00\x00\x00\x00\xf8\x3f"),
        ("unit", b""),
        ("option<u8>", b"\x00"),
        ("option<u8>", b"\x01\x07"),
        ("list<utf8>", b"\x02\x01a\x03b,\""),
        ("tuple<utf8,u64le>", b"\x01a\x07\x00\x00\x00\x00\x00\x00\x00"),
        ("ordered:tuple<utf8,bytes,option<u8>>", b"a\x00\xff\x00\x00\x01\x00\x00\x01\x09"),
        ("postcard:struct<user:utf8>", b"\x03a,b"),
        ("postcard:struct<user:utf8>", b"\x00"),
        ("postcard:struct<user:utf8,n:struct<a:u16,none:unit>,t:option<i64>>", b"\x02{\"\x80\x02\x00"),
        ("postcard:tuple<i32,list<bool>>", b"\x03\x02\x01\x00"),
        ("postcard:enum<int:i128,none:unit,text:utf8>", b"\x02\x01a"),
        ("postcard:enum<int:i128,none:unit,text:utf8>", b"\x01"),
        ("postcard:u128", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x03"),
    ];

    /// Returns the cells as a line of an exported file.
    fn line(cells: &[String]) -> String {
        let mut csv = csv::WriterBuilder::new().from_writer(Vec::new());
        csv.write_record(cells).unwrap();
        String::from_utf8(csv.into_inner().unwrap()).unwrap().trim_end_matches('\n').to_owned()
    }

    #[test]
    fn keys_are_read_as_export_prints_them() {
        for (name, bytes) in CASES {
            let ty = Type::parse(name).unwrap();
            let value = decode_any(&ty, bytes).unwrap();
            let mut cells = Vec::new();
            value::cells(&ty, &value, &mut cells).unwrap();
            let is_struct = name.starts_with("postcard:struct");
            let text = if is_struct { line(&cells) } else { cells.concat() };
            assert_eq!(parse(&ty, &text).unwrap(), *bytes, "{name}: {text}");
            if is_struct {
                let text = value::json(&value).unwrap();
                assert_eq!(parse(&ty, &text).unwrap(), *bytes, "{name}: {text}");
            }
        }
    }

    #[test]
    fn what_is_no_key_is_refused_with_a_reason() {
        for (name, text, reason) in [
            ("u64le", "-1", "a number without a sign is expected"),
            ("u8", "256", "the type cannot hold it"),
            ("bool", "yes", "true or false is expected"),
            ("bytes", "00", "0x and hexadecimal digits is expected"),
            ("bytes", "0x0", "0x and hexadecimal digits is expected"),
            ("bytes", "0x+1", "0x and hexadecimal digits is expected"),
            ("unit", "a", "nothing is expected"),
            ("list<u8>", "1,2", "expected a JSON array"),
            ("list<u8>", "[1,\"a\"]", "invalid number"),
            ("tuple<u8,u8>", "[1]", "invalid length 1"),
            ("tuple<u8,u8>", "[1,2,3]", "trailing characters"),
            ("postcard:struct<a:utf8,b:utf8>", "x", "it has 1 cells, and a key has 2"),
            ("postcard:struct<a:utf8,b:u8>", "x,y", "a number without a sign is expected"),
            ("postcard:struct<a:utf8>", "x\ny", "several lines"),
            ("postcard:enum<a:utf8,b:u8>", "{\"c\":1}", "no field `c`"),
            ("postcard:enum<a:utf8,b:u8>", "{}", "one variant is expected"),
            ("postcard:enum<a:utf8,b:u8>", "{\"b\":1,\"b\":1}", "twice"),
        ] {
            let error = parse(&Type::parse(name).unwrap(), text).unwrap_err();
            assert_eq!(error.kind(), alluvium::ErrorKind::Usage);
            assert!(error.chain().contains(reason), "{name} {text}: {}", error.chain());
        }
    }
}
