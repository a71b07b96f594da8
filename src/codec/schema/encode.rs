//! Values encoded by their types: the inverse of decoding, for keys that a user writes.

use super::{Number, Order, Part, Shape, Type, Value};
use crate::codec::bytes::{put_length, put_length_delimited};
use crate::codec::escape::escape_from;
use crate::error::{Error, Result};

/// Encodes a value of type `ty`, as this crate's codecs encode it.
///
/// # Errors
/// `Usage` if the value is not of type `ty`: of another kind, or a number that the type cannot hold.
pub fn encode_any(ty: &Type, value: &Value<'_>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    put(ty, value, &mut out).ok_or_else(|| Error::usage("value is not of the type").with("type", ty))?;
    Ok(out)
}

fn put(ty: &Type, value: &Value<'_>, out: &mut Vec<u8>) -> Option<()> {
    match (ty, value) {
        (Type::Unit, Value::Unit) => {}
        (Type::Bool, Value::Bool(value)) => out.push((*value).into()),
        (Type::Bytes | Type::Opaque(_), Value::Bytes(bytes)) => out.extend_from_slice(bytes),
        (Type::Utf8, Value::Utf8(text)) => out.extend_from_slice(text.as_bytes()),
        (Type::Fixed(number), value) => out.extend_from_slice(&fixed(*number, value)?),
        (Type::Option(part), Value::Option(value)) => {
            out.push(value.is_some().into());
            value.as_ref().map_or(Some(()), |value| put(&part.ty, value, out))?;
        }
        (Type::List(part), Value::List(items)) => {
            put_length(out, items.len());
            items.iter().try_for_each(|item| put_delimited(&part.ty, item, out))?;
        }
        (Type::Tuple(parts), Value::Tuple(items)) if parts.len() == items.len() => {
            let ((last, heads), (last_item, items)) = (parts.split_last()?, items.split_last()?);
            heads.iter().zip(items).try_for_each(|(part, item)| put_delimited(&part.ty, item, out))?;
            put(&last.ty, last_item, out)?;
        }
        (Type::Ordered(order), value) => put_ordered(order, value, out)?,
        (Type::Postcard(shape), value) => put_shape(shape, value, out)?,
        _ => return None,
    }
    Some(())
}

fn put_delimited(ty: &Type, value: &Value<'_>, out: &mut Vec<u8>) -> Option<()> {
    let mut part = Vec::new();
    put(ty, value, &mut part)?;
    put_length_delimited(out, &part);
    Some(())
}

fn put_ordered(order: &Order, value: &Value<'_>, out: &mut Vec<u8>) -> Option<()> {
    match (order, value) {
        (Order::Unit, Value::Unit) => {}
        (Order::Bool, Value::Bool(value)) => out.push((*value).into()),
        (Order::Bytes | Order::Opaque(_), Value::Bytes(bytes)) => out.extend_from_slice(bytes),
        (Order::Utf8, Value::Utf8(text)) => out.extend_from_slice(text.as_bytes()),
        (Order::Number(number), value) => {
            let mut bytes = fixed(*number, value)?;
            bytes.reverse();
            let highest = bytes.first_mut()?;
            match number {
                Number::Unsigned(_) => {}
                Number::F32 | Number::F64 if *highest & 0x80 != 0 => bytes.iter_mut().for_each(|byte| *byte = !*byte),
                Number::Signed(_) | Number::F32 | Number::F64 => *highest ^= 0x80,
            }
            out.extend_from_slice(&bytes);
        }
        (Order::Option(part), Value::Option(value)) => {
            out.push(value.is_some().into());
            value.as_ref().map_or(Some(()), |value| put_ordered(&part.ty, value, out))?;
        }
        (Order::Tuple(parts), Value::Tuple(items)) if parts.len() == items.len() => {
            let last = parts.len().checked_sub(1)?;
            for (at, (Part { ty, .. }, item)) in parts.iter().zip(items).enumerate() {
                let start = out.len();
                put_ordered(ty, item, out)?;
                if at < last && ty.width().is_none() {
                    escape_from(out, start);
                }
            }
        }
        _ => return None,
    }
    Some(())
}

fn put_shape(shape: &Shape, value: &Value<'_>, out: &mut Vec<u8>) -> Option<()> {
    match (shape, value) {
        (Shape::Unit, Value::Unit) => {}
        (Shape::Bool, Value::Bool(value)) => out.push((*value).into()),
        (Shape::Number(number @ Number::Unsigned(2..)), Value::Unsigned(value)) => {
            fixed(*number, &Value::Unsigned(*value))?;
            put_wide(out, *value);
        }
        (Shape::Number(number @ Number::Signed(2..)), Value::Signed(value)) => {
            fixed(*number, &Value::Signed(*value))?;
            put_wide(out, ((value << 1) ^ (value >> 127)).cast_unsigned());
        }
        (Shape::Number(number), value) => out.extend_from_slice(&fixed(*number, value)?),
        (Shape::Bytes, Value::Bytes(bytes)) => put_length_delimited(out, bytes),
        (Shape::Utf8, Value::Utf8(text)) => put_length_delimited(out, text.as_bytes()),
        (Shape::Option(inner), Value::Option(value)) => {
            out.push(value.is_some().into());
            value.as_ref().map_or(Some(()), |value| put_shape(inner, value, out))?;
        }
        (Shape::List(inner), Value::List(items)) => {
            put_length(out, items.len());
            items.iter().try_for_each(|item| put_shape(inner, item, out))?;
        }
        (Shape::Tuple(shapes), Value::Tuple(items)) if shapes.len() == items.len() => {
            shapes.iter().zip(items).try_for_each(|(shape, item)| put_shape(shape, item, out))?;
        }
        (Shape::Struct(fields), Value::Struct(values)) if fields.len() == values.len() => {
            let mut field = |((name, shape), (found, value)): (&(String, Shape), &(&str, Value<'_>))| {
                if name == found { put_shape(shape, value, out) } else { None }
            };
            fields.iter().zip(values).try_for_each(&mut field)?;
        }
        (Shape::Enum(variants), Value::Struct(values)) => {
            let [(name, value)] = values.as_slice() else { return None };
            let at = variants.iter().position(|(variant, _)| variant == name)?;
            put_length(out, at);
            put_shape(&variants.get(at)?.1, value, out)?;
        }
        _ => return None,
    }
    Some(())
}

/// Returns a number in little-endian bytes of its full width; `None` if the type cannot hold it.
fn fixed(number: Number, value: &Value<'_>) -> Option<Vec<u8>> {
    let width = usize::from(number.width());
    let cut = |wide: [u8; 16]| wide.get(..width).map(<[u8]>::to_vec);
    let unused = 128u32.checked_sub(8 * u32::from(number.width()))?;
    match (number, value) {
        (Number::Unsigned(_), Value::Unsigned(value)) => {
            cut(value.to_le_bytes()).filter(|_| value << unused >> unused == *value)
        }
        (Number::Signed(_), Value::Signed(value)) => {
            cut(value.to_le_bytes()).filter(|_| value << unused >> unused == *value)
        }
        (Number::F32, Value::F32(value)) => Some(value.to_le_bytes().to_vec()),
        (Number::F64, Value::F64(value)) => Some(value.to_le_bytes().to_vec()),
        _ => None,
    }
}

/// Appends a number of up to 128 bits in LEB128.
fn put_wide(out: &mut Vec<u8>, mut value: u128) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            return out.push(low & 0x7f);
        }
        out.push(low | 0x80);
    }
}
