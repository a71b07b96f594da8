//! Values decoded by their types. Bytes may be hostile: no read passes their end, and none panics.

use std::borrow::Cow;

use super::{Number, Order, Part, Shape, Type, Value};
use crate::codec::bytes;
use crate::codec::escape::take_escaped;
use crate::error::{Error, Result};

/// Decodes a value of type `ty` from all of `bytes`.
///
/// # Errors
/// `Corrupt` if `bytes` encode no such value, or one and more.
///
/// # Cost
/// Memory in proportion to `bytes` and `ty`.
pub fn decode_any<'a>(ty: &'a Type, bytes: &'a [u8]) -> Result<Value<'a>> {
    decode_value(ty, bytes).ok_or_else(|| Error::corrupt("stored bytes do not match their schema").with("schema", ty))
}

fn decode_value<'a>(ty: &'a Type, bytes: &'a [u8]) -> Option<Value<'a>> {
    let mut reader = Reader { rest: bytes };
    let value = match ty {
        Type::Unit => Value::Unit,
        Type::Bytes | Type::Opaque(_) => return Some(Value::Bytes(bytes.into())),
        Type::Utf8 => return std::str::from_utf8(bytes).ok().map(|text| Value::Utf8(text.into())),
        Type::Ordered(order) => return ordered(order, bytes, Cow::Borrowed),
        Type::List(part) => return list(part, bytes),
        Type::Tuple(parts) => return tuple(parts, bytes),
        Type::Option(part) => match reader.flag()? {
            true => return Some(Value::Option(Some(Box::new(decode_value(&part.ty, reader.rest)?)))),
            false => Value::Option(None),
        },
        Type::Bool => Value::Bool(reader.flag()?),
        Type::Fixed(number) => reader.fixed(*number)?,
        Type::Postcard(shape) => reader.shape(shape)?,
    };
    reader.rest.is_empty().then_some(value)
}

fn list<'a>(part: &'a Part<Type>, bytes: &'a [u8]) -> Option<Value<'a>> {
    let mut reader = bytes::Reader::new(bytes);
    let count = reader.count(1).ok()?;
    let mut item = |_| decode_value(&part.ty, reader.length_delimited(usize::MAX).ok()?);
    let items = (0..count).map(&mut item).collect::<Option<_>>()?;
    reader.finish().ok()?;
    Some(Value::List(items))
}

fn tuple<'a>(parts: &'a [Part<Type>], bytes: &'a [u8]) -> Option<Value<'a>> {
    let (last, heads) = parts.split_last()?;
    let mut reader = bytes::Reader::new(bytes);
    let mut items = Vec::with_capacity(parts.len());
    for head in heads {
        items.push(decode_value(&head.ty, reader.length_delimited(usize::MAX).ok()?)?);
    }
    items.push(decode_value(&last.ty, reader.rest())?);
    Some(Value::Tuple(items))
}

/// Decodes a value that sorts by its bytes. `keep` borrows bytes for the value, or copies those that had to be unescaped.
fn ordered<'a, 'b>(order: &Order, bytes: &'b [u8], keep: fn(&'b [u8]) -> Cow<'a, [u8]>) -> Option<Value<'a>> {
    Some(match order {
        Order::Unit => bytes.is_empty().then_some(Value::Unit)?,
        Order::Bool => match bytes {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            _ => return None,
        },
        Order::Bytes | Order::Opaque(_) => Value::Bytes(keep(bytes)),
        Order::Utf8 => Value::Utf8(match keep(bytes) {
            Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok()?.into(),
            Cow::Owned(bytes) => String::from_utf8(bytes).ok()?.into(),
        }),
        Order::Number(number) => ordered_number(bytes, *number)?,
        Order::Option(part) => match bytes.split_first()? {
            (0, []) => Value::Option(None),
            (1, some) => Value::Option(Some(Box::new(ordered(&part.ty, some, keep)?))),
            _ => return None,
        },
        Order::Tuple(parts) => {
            let (last, heads) = parts.split_last()?;
            let mut rest = bytes;
            let mut items = Vec::with_capacity(parts.len());
            for Part { ty, .. } in heads {
                items.push(match ty.width() {
                    Some(width) => {
                        let (head, left) = rest.split_at_checked(width)?;
                        rest = left;
                        ordered(ty, head, keep)?
                    }
                    None => match take_escaped(&mut rest)? {
                        Cow::Borrowed(head) => ordered(ty, head, keep)?,
                        Cow::Owned(head) => ordered(ty, &head, |bytes| bytes.to_vec().into())?,
                    },
                });
            }
            items.push(ordered(&last.ty, rest, keep)?);
            Value::Tuple(items)
        }
    })
}

fn ordered_number<'a>(bytes: &[u8], number: Number) -> Option<Value<'a>> {
    if bytes.len() != usize::from(number.width()) {
        return None;
    }
    let mut bytes = bytes.to_vec();
    bytes.reverse();
    let highest = bytes.last_mut()?;
    match number {
        Number::Unsigned(_) => {}
        Number::Signed(_) => *highest ^= 0x80,
        Number::F32 | Number::F64 if *highest & 0x80 != 0 => *highest ^= 0x80,
        Number::F32 | Number::F64 => bytes.iter_mut().for_each(|byte| *byte = !*byte),
    }
    decode_number(&bytes, number)
}

/// Takes values off the front of `rest`.
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
            Shape::Bytes => Value::Bytes(self.counted_bytes()?.into()),
            Shape::Utf8 => Value::Utf8(std::str::from_utf8(self.counted_bytes()?).ok()?.into()),
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
        decode_number(self.take(usize::from(number.width()))?, number)
    }

    /// Takes a varint of a number type of `width` bytes; `None` if it does not fit that type.
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

    /// Takes a count of items of at least one byte each.
    fn count(&mut self) -> Option<usize> {
        let count = usize::try_from(self.varint(8)?).ok()?;
        (count <= self.rest.len()).then_some(count)
    }

    fn counted_bytes(&mut self) -> Option<&'a [u8]> {
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

/// Decodes a number from little-endian bytes of its full width.
fn decode_number<'a>(bytes: &[u8], number: Number) -> Option<Value<'a>> {
    // Sign-extends to 16 bytes.
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
