//! Records to statements: each record is a row as a JSON object.
//!
//! A statement inserts consecutive records with the same fields, so that a row is what an INSERT with these columns makes of it,
//! whatever other records it comes with.

use std::fmt;
use std::ops::Range;

use alluvium::{Error, Result};
use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer as _, IgnoredAny, MapAccess, Visitor};

use crate::table::Table;

/// The largest record. The server holds a statement's JSON in one piece, of less than 1 GiB.
const RECORD_BYTES_MAX: usize = 256 << 20;

/// Records of one statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Positions of their fields in the table, ascending.
    pub(crate) fields: Vec<usize>,
    pub(crate) records: Range<usize>,
}

/// Why records cannot be planned.
#[derive(Debug)]
pub(crate) enum Unplanned {
    /// A field is no column of the table as it was when it was read.
    UnknownField(Error),
    Refused(Error),
}

impl From<Unplanned> for Error {
    fn from(unplanned: Unplanned) -> Self {
        match unplanned {
            Unplanned::UnknownField(error) | Unplanned::Refused(error) => error,
        }
    }
}

/// Returns the statements for `records`, in their order.
///
/// * `bytes_max`: about the most bytes of a statement's records, unless one record is larger.
///
/// # Errors
/// `Input` or `Limit`, naming the first record that is no row of the table.
pub(crate) fn plan(table: &Table, records: &[Bytes], bytes_max: usize) -> Result<Vec<Batch>, Unplanned> {
    let mut batches: Vec<Batch> = Vec::new();
    let mut bytes = 0;
    for (at, record) in records.iter().enumerate() {
        let fields = fields(table, record).map_err(|unplanned| match unplanned {
            Unplanned::UnknownField(error) => Unplanned::UnknownField(error.with("record", at)),
            Unplanned::Refused(error) => Unplanned::Refused(error.with("record", at)),
        })?;
        bytes += record.len();
        match batches.last_mut() {
            Some(batch) if batch.fields == fields && bytes <= bytes_max => batch.records.end = at + 1,
            _ => {
                batches.push(Batch { fields, records: at..at + 1 });
                bytes = record.len();
            }
        }
    }
    Ok(batches)
}

/// Returns the positions of a record's fields in the table, ascending.
fn fields(table: &Table, record: &Bytes) -> Result<Vec<usize>, Unplanned> {
    let refused = |error: Error| Err(Unplanned::Refused(error));
    if record.len() > RECORD_BYTES_MAX {
        return refused(Error::limit("record is too large").with("bytes", record.len()).with("max", RECORD_BYTES_MAX));
    }
    // The parser skips values without looking at their encoding.
    if std::str::from_utf8(record).is_err() {
        return refused(Error::input("record is not UTF-8"));
    }
    let mut parser = serde_json::Deserializer::from_slice(record);
    let parsed = parser.deserialize_map(Fields { table }).and_then(|fields| parser.end().map(|()| fields));
    let found = match parsed {
        Ok(found) => found,
        Err(error) => {
            // The parser's own text could repeat a value.
            let error = Error::input("record is not one JSON object").with("at", error.column());
            return refused(error);
        }
    };
    let mut positions = Vec::with_capacity(found.len());
    for (field, is_null) in found {
        let position = match field {
            Field::Known(position) => position,
            Field::Unknown(name) => {
                let error = Error::input("record has a field that the table has not");
                return Err(Unplanned::UnknownField(error.with("field", name.escape_debug())));
            }
        };
        let column = table.columns.get(position);
        if let Some(column) = column.filter(|column| column.is_generated) {
            return refused(
                Error::input("record has a field that the server makes itself").with("field", &column.name),
            );
        }
        if let Some(column) = column.filter(|_| is_null && table.key.contains(&position)) {
            return refused(Error::input("record has null in its key").with("field", &column.name));
        }
        positions.push(position);
    }
    positions.sort_unstable();
    check_complete(table, &positions).map_err(Unplanned::Refused)?;
    Ok(positions)
}

/// Checks that a record has each field once, and its key.
fn check_complete(table: &Table, positions: &[usize]) -> Result<()> {
    let name = |at: usize| table.columns.get(at).map_or("", |column| &column.name);
    if let Some([twice, _]) = positions.array_windows().find(|[one, next]| one == next) {
        return Err(Error::input("record has a field twice").with("field", name(*twice)));
    }
    if let Some(absent) = table.key.iter().find(|column| !positions.contains(column)) {
        return Err(Error::input("record lacks a field of its key").with("field", name(*absent)));
    }
    if positions.is_empty() {
        return Err(Error::input("record has no field"));
    }
    Ok(())
}

/// Returns the statement that inserts rows with `fields`: its parameter is a JSON array of them.
///
/// Of rows with the same key, the last stays. They are inserted in the order of their keys, so that two writers do not wait for
/// each other.
pub(crate) fn sql(table: &Table, fields: &[usize]) -> String {
    let columns: Vec<_> = table.at(fields).map(|column| column.quoted.as_str()).collect();
    let aliases: Vec<_> = (0..fields.len()).map(|at| format!("c{at}")).collect();
    let source = format!("{} WITH ORDINALITY AS r({}, place)", rows(table, fields), aliases.join(", "));
    let into = format!("INSERT INTO {} ({})", table.quoted, columns.join(", "));
    let listed = aliases.join(", ");
    if table.key.is_empty() {
        return format!("{into} SELECT {listed} FROM {source} ORDER BY place");
    }
    let in_key = |at: &usize| table.key.contains(at);
    let key_aliases: Vec<_> =
        fields.iter().zip(&aliases).filter(|(at, _)| in_key(at)).map(|(_, alias)| alias.as_str()).collect();
    let key_aliases = key_aliases.join(", ");
    let key: Vec<_> = table.at(&table.key).map(|column| column.quoted.as_str()).collect();
    let others: Vec<_> = fields.iter().copied().filter(|at| !in_key(at)).collect();
    let set: Vec<_> = table.at(&others).map(|it| format!("{} = excluded.{}", it.quoted, it.quoted)).collect();
    let action = if set.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", set.join(", ")) };
    format!(
        "{into} SELECT DISTINCT ON ({key_aliases}) {listed} FROM {source} ORDER BY {key_aliases}, place DESC \
         ON CONFLICT ({}) DO {action}",
        key.join(", ")
    )
}

/// Returns the source of rows: the JSON array in the parameter, converted to the columns' types.
pub(crate) fn rows(table: &Table, fields: &[usize]) -> String {
    let typed: Vec<_> = table.at(fields).map(|column| format!("{} {}", column.quoted, column.sql_type)).collect();
    format!("ROWS FROM (json_to_recordset($1::text::json) AS ({}))", typed.join(", "))
}

/// Returns the JSON array of `records`, which are valid objects.
pub(crate) fn array(records: &[Bytes]) -> String {
    let mut text = String::with_capacity(records.iter().map(|record| record.len() + 1).sum::<usize>() + 1);
    text.push('[');
    for (at, record) in records.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        text.push_str(&String::from_utf8_lossy(record));
    }
    text.push(']');
    text
}

/// A field of a record: the position of its column, or its name if there is none.
enum Field {
    Known(usize),
    Unknown(String),
}

/// Reads the fields of a record, and whether their values are null, without keeping the values.
struct Fields<'a> {
    table: &'a Table,
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Vec<(Field, bool)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = Vec::new();
        while let Some(field) = map.next_key_seed(Name { table: self.table })? {
            let value: Option<IgnoredAny> = map.next_value()?;
            found.push((field, value.is_none()));
        }
        Ok(found)
    }
}

struct Name<'a> {
    table: &'a Table,
}

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Field;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Field, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Field, E> {
        Ok(self.table.position(name).map_or_else(|| Field::Unknown(name.to_owned()), Field::Known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alluvium::ErrorKind;

    fn table() -> Table {
        Table::for_tests(&[("k", "text"), ("n", "integer"), ("odd \"name", "bit(3)"), ("made", "integer")], &["k"])
    }

    fn planned(records: &[&str], bytes_max: usize) -> Result<Vec<Batch>> {
        let records: Vec<_> = records.iter().map(|record| Bytes::copy_from_slice(record.as_bytes())).collect();
        plan(&table(), &records, bytes_max).map_err(Error::from)
    }

    #[test]
    fn consecutive_records_with_the_same_fields_share_a_statement() {
        let one = r#"{"k":"a","n":1}"#;
        let batches = planned(&[one, r#"{"n":2,"k":"b"}"#, r#"{"k":"c"}"#, one, one], 1000).unwrap();
        let expected = [(vec![0, 1], 0..2), (vec![0], 2..3), (vec![0, 1], 3..5)];
        assert!(batches.into_iter().map(|batch| (batch.fields, batch.records)).eq(expected));
        let cut = planned(&[one; 5], 2 * one.len()).unwrap();
        assert!(cut.iter().map(|batch| batch.records.clone()).eq([0..2, 2..4, 4..5]));
        assert_eq!(planned(&[one; 2], 1).unwrap().len(), 2, "a record larger than the bound goes alone");
    }

    #[test]
    fn a_record_that_is_no_row_is_named_without_its_values() {
        let cases = [
            (r#"{"k":"secret","x":1}"#, "field=`x`"),
            (r#"{"k":"secret","k":"secret"}"#, "twice field=`k`"),
            (r#"{"n":71077345}"#, "lacks a field of its key field=`k`"),
            (r#"{"k":null,"n":1}"#, "null in its key field=`k`"),
            (r#"{"k":"secret","made":1}"#, "makes itself field=`made`"),
            (r#"{"k":"secret"},{"k":"secret"}"#, "not one JSON object"),
            (r#"["secret"]"#, "not one JSON object"),
            (r#""secret""#, "not one JSON object"),
            (r#"{"k":secret}"#, "not one JSON object"),
            (r#"{"k":"secret""#, "not one JSON object"),
            ("", "not one JSON object"),
        ];
        for (record, expected) in cases {
            let error = planned(&[r#"{"k":"a"}"#, record], 1000).unwrap_err();
            let text = error.chain();
            assert_eq!(error.kind(), ErrorKind::Input, "{text}");
            assert!(text.contains(expected) && text.contains("record=`1`"), "{record}: {text}");
            assert!(!text.contains("secret") && !text.contains("71077345"), "{text}");
        }
        let invalid = Bytes::from_static(b"{\"k\":\"\xff\"}");
        assert!(Error::from(plan(&table(), &[invalid], 9).unwrap_err()).chain().contains("UTF-8"));
    }

    #[test]
    fn statements_name_the_fields_alone() {
        let table = table();
        assert_eq!(
            sql(&table, &[0, 2]),
            "INSERT INTO s.t (\"k\", \"odd \"\"name\") SELECT DISTINCT ON (c0) c0, c1 FROM ROWS FROM \
             (json_to_recordset($1::text::json) AS (\"k\" text, \"odd \"\"name\" bit(3))) WITH ORDINALITY AS r(c0, c1, place) \
             ORDER BY c0, place DESC ON CONFLICT (\"k\") DO UPDATE SET \"odd \"\"name\" = excluded.\"odd \"\"name\""
        );
        assert!(sql(&table, &[0]).ends_with("ON CONFLICT (\"k\") DO NOTHING"));
        let plain = Table::for_tests(&[("k", "text")], &[]);
        assert!(sql(&plain, &[0]).ends_with("WITH ORDINALITY AS r(c0, place) ORDER BY place"));
    }

    #[test]
    fn records_join_to_an_array() {
        let records = [Bytes::from_static(b"{}"), Bytes::from_static(b" {\"a\":[1]}")];
        assert_eq!(array(&records), "[{}, {\"a\":[1]}]");
    }
}
