//! Decoded values as JSON and as CSV cells.

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use alluvium::schema::{Shape, Type, Value};
use alluvium::{Error, Result};

/// A value as JSON: bytes as `0x` and hexadecimal digits; integers of any size as numbers; `NaN` as `null`.
#[derive(Debug)]
pub(super) struct Json<'a>(pub(super) &'a Value<'a>);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Unsigned(value) => serializer.serialize_u128(*value),
            Value::Signed(value) => serializer.serialize_i128(*value),
            Value::F32(value) => serializer.serialize_f32(*value),
            Value::F64(value) => serializer.serialize_f64(*value),
            Value::Utf8(text) => serializer.serialize_str(text),
            Value::Bytes(_) => serializer.collect_str(self.0),
            Value::Option(Some(value)) => Json(value).serialize(serializer),
            Value::List(items) | Value::Tuple(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|item| list.serialize_element(&Json(item)))?;
                list.end()
            }
            Value::Struct(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                fields.iter().try_for_each(|(name, value)| map.serialize_entry(name, &Json(value)))?;
                map.end()
            }
            _ => serializer.serialize_none(),
        }
    }
}

/// Returns the value as JSON text.
pub(super) fn json(value: &Value<'_>) -> Result<String> {
    serde_json::to_string(&Json(value)).map_err(|source| Error::corrupt("value has no JSON").with_source(source))
}

/// Returns the CSV columns of a type: `prefix.field` for each field of a struct; none for a unit.
pub(super) fn columns(prefix: &str, ty: &Type) -> Vec<String> {
    match ty {
        Type::Unit => Vec::new(),
        Type::Postcard(shape) => shape_columns(prefix, shape),
        _ => vec![prefix.to_owned()],
    }
}

fn shape_columns(prefix: &str, shape: &Shape) -> Vec<String> {
    match shape {
        Shape::Unit => Vec::new(),
        Shape::Struct(fields) => {
            fields.iter().flat_map(|(name, shape)| shape_columns(&format!("{prefix}.{name}"), shape)).collect()
        }
        _ => vec![prefix.to_owned()],
    }
}

/// Appends the cells of a value of type `ty`, one per column.
///
/// # Errors
/// `Corrupt` if the value is not of type `ty`.
pub(super) fn cells(ty: &Type, value: &Value<'_>, out: &mut Vec<String>) -> Result<()> {
    match ty {
        Type::Unit => Ok(()),
        Type::Postcard(shape) => shape_cells(shape, value, out),
        _ => cell(value).map(|cell| out.push(cell)),
    }
}

fn shape_cells(shape: &Shape, value: &Value<'_>, out: &mut Vec<String>) -> Result<()> {
    match (shape, value) {
        (Shape::Unit, _) => Ok(()),
        (Shape::Struct(fields), Value::Struct(values)) => {
            fields.iter().zip(values).try_for_each(|((_, shape), (_, value))| shape_cells(shape, value, out))
        }
        _ => cell(value).map(|cell| out.push(cell)),
    }
}

/// Returns a value as one cell: a scalar as text, `null` as an empty cell, else JSON.
fn cell(value: &Value<'_>) -> Result<String> {
    match value {
        Value::Option(None) => Ok(String::new()),
        Value::Option(Some(value)) => cell(value),
        Value::List(_) | Value::Tuple(_) | Value::Struct(_) => json(value),
        scalar => Ok(scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn struct_fields_become_columns() {
        let name = "postcard:struct<a:u64,b:struct<c:option<utf8>,d:unit>,e:list<tuple<i128,bool>>>";
        let ty = Type::parse(name).unwrap();
        assert_eq!(columns("value", &ty), ["value.a", "value.b.c", "value.e"]);
        let list = vec![Value::Tuple(vec![Value::Signed(i128::MIN), Value::Bool(true)])];
        let value = Value::Struct(vec![
            ("a", Value::Unsigned(7)),
            ("b", Value::Struct(vec![("c", Value::Option(None)), ("d", Value::Unit)])),
            ("e", Value::List(list)),
        ]);
        let mut found = Vec::new();
        cells(&ty, &value, &mut found).unwrap();
        assert_eq!(found, ["7".to_owned(), String::new(), format!("[[{},true]]", i128::MIN)]);
        assert_eq!(json(&value).unwrap(), format!(r#"{{"a":7,"b":{{"c":null,"d":null}},"e":[[{},true]]}}"#, i128::MIN));
    }

    #[test]
    fn bytes_are_hexadecimal_and_units_have_no_column() {
        assert_eq!(json(&Value::Bytes([0, 255][..].into())).unwrap(), "\"0x00ff\"");
        assert!(columns("key", &Type::Unit).is_empty());
        assert_eq!(columns("key", &Type::Bytes), ["key"]);
    }
}
