//! Columns that aggregates read: their kinds, and parsing of cells.

use serde::{Deserialize, Serialize};

use super::aggregate::{Aggregate, Function};

/// The kind of a column, set by its first non-null cell in input order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// `-?[0-9]+` that fits in an `i128`.
    Integer,
    /// A finite `f64` in Rust's syntax.
    Decimal,
    /// Any text.
    Text,
}

/// A cell's parsed value; text has none beyond the text itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value {
    /// An empty cell or `NA`.
    Null,
    /// A cell of an integer column.
    Integer(i128),
    /// A cell of a decimal column.
    Decimal(f64),
    /// A cell of a text column, or of a column whose kind does not matter.
    Text,
}

/// The requirement of aggregates on a column's cells, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Demand {
    /// Unchanged text: `last`, `distinct`.
    Any,
    /// Cells of one kind, and so in an order: `min`, `max`.
    Ordered,
    /// Numbers: `sum`, `mean`.
    Numeric,
}

impl Demand {
    /// Parses a cell of a column of this `kind`. If `kind` is `None`, the value's kind becomes the column's.
    ///
    /// # Errors
    /// The defect of the cell.
    pub(crate) fn parse(self, kind: Option<Kind>, text: &str) -> Result<Value, &'static str> {
        if text.is_empty() || text == "NA" {
            return Ok(Value::Null);
        }
        if self == Self::Any {
            return Ok(Value::Text);
        }
        match kind {
            Some(Kind::Text) => return Ok(Value::Text),
            Some(Kind::Decimal) => {}
            Some(Kind::Integer) if !is_integer(text) => {
                return Err("not an integer, unlike the column's earlier cells");
            }
            Some(Kind::Integer) | None if is_integer(text) => {
                return text.parse().map(Value::Integer).map_err(|_| "integer does not fit in 128 bits");
            }
            Some(Kind::Integer) | None => {}
        }
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::Decimal(number)),
            Ok(_) => Err("number is not finite"),
            Err(_) if kind.is_none() && self == Self::Ordered => Ok(Value::Text),
            Err(_) => Err("not a number"),
        }
    }
}

impl Value {
    /// Returns the kind that the value sets for its column.
    pub(crate) fn kind(self) -> Option<Kind> {
        match self {
            Self::Null => None,
            Self::Integer(_) => Some(Kind::Integer),
            Self::Decimal(_) => Some(Kind::Decimal),
            Self::Text => Some(Kind::Text),
        }
    }
}

fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// A column that at least one aggregate reads; a record has one cell per column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    /// The column's name.
    pub(crate) name: String,
    /// The strongest demand of any aggregate.
    pub(crate) demand: Demand,
    /// Whether cells become sub-keys, which are limited in length.
    pub(crate) distinct: bool,
}

impl Column {
    /// Returns the columns that `aggregates` read, without duplicates, in the order of first use.
    pub(crate) fn of(aggregates: &[Aggregate]) -> Vec<Self> {
        let mut columns: Vec<Self> = Vec::new();
        for (function, name) in aggregates.iter().filter_map(Aggregate::over) {
            let demand = match function {
                Function::Sum | Function::Mean => Demand::Numeric,
                Function::Min | Function::Max => Demand::Ordered,
                Function::Last | Function::Distinct => Demand::Any,
            };
            let distinct = function == Function::Distinct;
            match columns.iter_mut().find(|column| column.name == name) {
                Some(column) => {
                    column.demand = column.demand.max(demand);
                    column.distinct |= distinct;
                }
                None => columns.push(Self { name: name.to_owned(), demand, distinct }),
            }
        }
        columns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses cells in order; the first non-null cell sets the kind.
    fn read(demand: Demand, cells: &[&str]) -> Vec<Result<Value, &'static str>> {
        let mut kind = None;
        let mut next = |cell: &&str| {
            let value = demand.parse(kind, cell)?;
            kind = kind.or_else(|| value.kind());
            Ok(value)
        };
        cells.iter().map(&mut next).collect()
    }

    #[test]
    fn the_first_cell_that_is_not_null_sets_the_kind() {
        use Value::{Decimal, Integer, Null, Text};
        assert_eq!(
            read(Demand::Ordered, &["", "NA", "-7", "007", "1.5", "x", "NA", "+1"]),
            [
                Ok(Null),
                Ok(Null),
                Ok(Integer(-7)),
                Ok(Integer(7)),
                Err("not an integer, unlike the column's earlier cells"),
                Err("not an integer, unlike the column's earlier cells"),
                Ok(Null),
                Err("not an integer, unlike the column's earlier cells"),
            ]
        );
        assert_eq!(
            read(Demand::Ordered, &["2.50", "3", "-1e3", "inf", "NaN", "x", "1e999"]),
            [
                Ok(Decimal(2.5)),
                Ok(Decimal(3.0)),
                Ok(Decimal(-1000.0)),
                Err("number is not finite"),
                Err("number is not finite"),
                Err("not a number"),
                Err("number is not finite"),
            ]
        );
        assert_eq!(read(Demand::Ordered, &["a", "1", "inf"]), [Ok(Text); 3]);
        assert_eq!(read(Demand::Any, &["1", "1.5", "x", "NA"]), [Ok(Text), Ok(Text), Ok(Text), Ok(Null)]);
    }

    #[test]
    fn malformed_cells_set_no_kind() {
        let cells = ["a", "inf", "170141183460469231731687303715884105728", "170141183460469231731687303715884105727"];
        assert_eq!(
            read(Demand::Numeric, &cells),
            [
                Err("not a number"),
                Err("number is not finite"),
                Err("integer does not fit in 128 bits"),
                Ok(Value::Integer(i128::MAX)),
            ]
        );
    }

    #[test]
    fn a_column_must_meet_all_demands() {
        let parse = |text: &str| text.parse::<Aggregate>().unwrap();
        let columns = Column::of(&["count", "last:b", "min:a", "sum:a", "distinct:b"].map(parse));
        let column = |name: &str, demand, distinct| Column { name: name.into(), demand, distinct };
        assert_eq!(columns, [column("b", Demand::Any, true), column("a", Demand::Numeric, false)]);
    }
}
