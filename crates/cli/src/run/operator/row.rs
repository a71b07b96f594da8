//! The row of a key and window: one accumulator per aggregate, encoded with `postcard`.

use std::cmp::Ordering;

use alluvium::{Error, Result};
use csv::StringRecord;
use serde::de::Deserialize;
use serde::{Deserialize as FromBytes, Serialize};

use crate::run::aggregate::{Aggregate, Function};
use crate::run::columns::{Column, Value};
use crate::run::record::{Cell, Record};

/// The fields of a row, in the order of the aggregates.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    fields: Vec<Field>,
    /// The row of a key without records.
    empty: Vec<u8>,
}

/// An accumulator of the row.
#[derive(Debug, Clone)]
struct Field {
    name: String,
    /// The function and the index of its column; `None` for `count`.
    over: Option<(Function, usize)>,
}

/// The sum of a column's cells, of the column's kind.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, FromBytes)]
enum Sum {
    Integer(i128),
    Decimal(f64),
}

/// The accumulator of a mean.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, FromBytes)]
struct Mean {
    cells: u64,
    sum: Option<Sum>,
}

const SUM: &str = "option<enum<integer:i128,decimal:f64>>";

impl Layout {
    /// Returns the layout for `aggregates` over `columns`.
    pub(super) fn new(aggregates: &[Aggregate], columns: &[Column]) -> Result<Self> {
        let mut fields = Vec::with_capacity(aggregates.len());
        let mut empty = Vec::new();
        for aggregate in aggregates {
            let over = match aggregate.over() {
                None => None,
                Some((function, name)) => {
                    let column = columns.iter().position(|column| column.name == name);
                    Some((function, column.ok_or_else(|| Error::usage("aggregate without its column"))?))
                }
            };
            match over {
                None | Some((Function::Distinct, _)) => put(&0u64, &mut empty)?,
                Some((Function::Mean, _)) => put(&Mean { cells: 0, sum: None }, &mut empty)?,
                Some(_) => put(&None::<u64>, &mut empty)?,
            }
            fields.push(Field { name: aggregate.output_name(), over });
        }
        Ok(Self { fields, empty })
    }

    /// Returns the shape of the row as a type expression.
    pub(super) fn expression(&self) -> String {
        let shape = |field: &Field| match field.over {
            None | Some((Function::Distinct, _)) => "u64".to_owned(),
            Some((Function::Sum, _)) => SUM.to_owned(),
            Some((Function::Mean, _)) => format!("struct<cells:u64,sum:{SUM}>"),
            Some((Function::Min | Function::Max | Function::Last, _)) => "option<utf8>".to_owned(),
        };
        struct_expression(self.fields.iter().map(|field| (field.name.as_str(), shape(field))))
    }

    /// Returns the columns of the distinct aggregates.
    pub(super) fn distinct(&self) -> impl Iterator<Item = usize> + '_ {
        self.fields.iter().filter_map(|field| match field.over {
            Some((Function::Distinct, column)) => Some(column),
            _ => None,
        })
    }

    /// Appends to `out` the row `old` with `record` added.
    ///
    /// * `old`: `None` for a key without records.
    /// * `new_cells`: for each distinct aggregate, whether the record's cell is new.
    ///
    /// # Errors
    /// `Input` if a sum overflows; `Corrupt` if `old` does not have this layout.
    pub(super) fn fold(
        &self,
        old: Option<&[u8]>,
        record: Record<'_>,
        new_cells: &[bool],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let mut old = Reader { rest: old.unwrap_or(&self.empty) };
        let mut new_cells = new_cells.iter();
        for field in &self.fields {
            let Some((function, column)) = field.over else {
                put(&(old.take::<u64>()?.saturating_add(1)), out)?;
                continue;
            };
            let cell = record.cell(column);
            let overflow = |error: Error| error.with("aggregate", &field.name);
            match function {
                Function::Sum => put(&add(old.take()?, cell.value).map_err(overflow)?, out)?,
                Function::Mean => put(&old.take::<Mean>()?.add(cell.value).map_err(overflow)?, out)?,
                Function::Min => put(&winner(old.take()?, cell, Ordering::Less)?, out)?,
                Function::Max => put(&winner(old.take()?, cell, Ordering::Greater)?, out)?,
                Function::Last => {
                    let last: Option<&str> = old.take()?;
                    put(&if cell.is_null() { last } else { Some(cell.text) }, out)?;
                }
                Function::Distinct => {
                    let is_new = new_cells.next().copied().unwrap_or(false);
                    put(&(old.take::<u64>()?.saturating_add(u64::from(is_new))), out)?;
                }
            }
        }
        old.end()
    }

    /// Appends the aggregates' results to `cells`, as text.
    ///
    /// # Errors
    /// `Corrupt` if `row` does not have this layout.
    pub(super) fn finish(&self, row: &[u8], cells: &mut StringRecord) -> Result<()> {
        let mut row = Reader { rest: row };
        for field in &self.fields {
            match field.over {
                None | Some((Function::Distinct, _)) => cells.push_field(&row.take::<u64>()?.to_string()),
                Some((Function::Sum, _)) => {
                    cells.push_field(&row.take::<Option<Sum>>()?.map_or_else(String::new, Sum::text))
                }
                Some((Function::Mean, _)) => cells.push_field(&row.take::<Mean>()?.text()),
                Some((Function::Min | Function::Max | Function::Last, _)) => {
                    cells.push_field(row.take::<Option<&str>>()?.unwrap_or_default());
                }
            }
        }
        row.end()
    }
}

/// Returns the type expression of a struct. Other characters than ASCII letters and digits become `_`; an empty or
/// repeated name gets its position appended.
pub(super) fn struct_expression<'a>(fields: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut names: Vec<String> = Vec::new();
    let mut shapes = Vec::new();
    for (position, (name, shape)) in fields.into_iter().enumerate() {
        let mut name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        if name.is_empty() || names.contains(&name) {
            name.push_str(&format!("_{position}"));
        }
        shapes.push(format!("{name}:{shape}"));
        names.push(name);
    }
    format!("struct<{}>", shapes.join(","))
}

/// Adds a cell to a sum. Decimal sums start from 0, and so are never `-0`.
fn add(sum: Option<Sum>, cell: Value) -> Result<Option<Sum>> {
    let overflow = || Error::input("sum overflows");
    match (cell, sum) {
        (Value::Integer(number), None) => Ok(Some(Sum::Integer(number))),
        (Value::Integer(number), Some(Sum::Integer(sum))) => {
            sum.checked_add(number).map(|sum| Some(Sum::Integer(sum))).ok_or_else(overflow)
        }
        (Value::Decimal(number), None | Some(Sum::Decimal(_))) => {
            let before = if let Some(Sum::Decimal(sum)) = sum { sum } else { 0.0 };
            let sum = before + number;
            if sum.is_finite() { Ok(Some(Sum::Decimal(sum))) } else { Err(overflow()) }
        }
        (Value::Null, sum) => Ok(sum),
        _ => Err(Error::corrupt("stored sum is not of its column's kind")),
    }
}

impl Sum {
    fn text(self) -> String {
        match self {
            Self::Integer(sum) => sum.to_string(),
            Self::Decimal(sum) => sum.to_string(),
        }
    }
}

impl Mean {
    fn add(self, cell: Value) -> Result<Self> {
        let cells = self.cells.saturating_add(u64::from(cell != Value::Null));
        Ok(Self { cells, sum: add(self.sum, cell)? })
    }

    #[expect(clippy::cast_precision_loss, reason = "a mean is the nearest f64 to sum / cells as f64")]
    fn text(self) -> String {
        let cells = self.cells as f64;
        match self.sum {
            None => String::new(),
            Some(Sum::Integer(sum)) => (sum as f64 / cells).to_string(),
            Some(Sum::Decimal(sum)) => (sum / cells).to_string(),
        }
    }
}

/// Returns the winning cell's text: `cell` if it compares to `best` as `wanted`, else `best`.
fn winner<'a>(best: Option<&'a str>, cell: Cell<'a>, wanted: Ordering) -> Result<Option<&'a str>> {
    let damaged = || Error::corrupt("stored cell is not of its column's kind");
    let Some(text) = best else { return Ok((!cell.is_null()).then_some(cell.text)) };
    let order = match cell.value {
        Value::Null => return Ok(best),
        Value::Integer(number) => number.cmp(&text.parse().map_err(|_| damaged())?),
        Value::Decimal(number) => number.partial_cmp(&text.parse().map_err(|_| damaged())?).ok_or_else(damaged)?,
        Value::Text => cell.text.cmp(text),
    };
    Ok(Some(if order == wanted { cell.text } else { text }))
}

fn put<T: Serialize>(value: &T, out: &mut Vec<u8>) -> Result<()> {
    postcard::to_io(value, out).map(drop).map_err(|source| Error::usage("value has no encoding").with_source(source))
}

/// Takes values off the front of a row.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take<T: Deserialize<'a>>(&mut self) -> Result<T> {
        let (value, rest) = postcard::take_from_bytes(self.rest).map_err(|source| damaged().with_source(source))?;
        self.rest = rest;
        Ok(value)
    }

    fn end(self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(damaged()) }
    }
}

fn damaged() -> Error {
    Error::corrupt("stored row does not hold the job's aggregates")
}
