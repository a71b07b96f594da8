//! Aggregates, as `--agg` names them.

use std::fmt;
use std::str::FromStr;

use alluvium::{Error, Result};
use serde::{Deserialize, Serialize};

/// One aggregate per key: `count`, or a function over a column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) enum Aggregate {
    /// The number of records.
    Count,
    /// A function over the non-null cells of a column.
    Over(Function, String),
}

/// A function over the non-null cells of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    /// The sum: exact for integers, in input order for decimals.
    Sum,
    /// The first of the smallest cells.
    Min,
    /// The first of the largest cells.
    Max,
    /// The sum divided by the number of cells.
    Mean,
    /// The last cell.
    Last,
    /// The number of distinct cells.
    Distinct,
}

impl Function {
    const ALL: [(&'static str, Self); 6] = [
        ("sum", Self::Sum),
        ("min", Self::Min),
        ("max", Self::Max),
        ("mean", Self::Mean),
        ("last", Self::Last),
        ("distinct", Self::Distinct),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, function)| *function == self).map_or("", |(name, _)| name)
    }
}

impl Aggregate {
    /// Returns the function and its column; `None` for `count`.
    pub(crate) fn over(&self) -> Option<(Function, &str)> {
        match self {
            Self::Count => None,
            Self::Over(function, column) => Some((*function, column)),
        }
    }

    /// Returns the name of its output column: `count`, `min_value`.
    pub(crate) fn output_name(&self) -> String {
        self.to_string().replacen(':', "_", 1)
    }
}

impl fmt::Display for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count => f.write_str("count"),
            Self::Over(function, column) => write!(f, "{}:{column}", function.name()),
        }
    }
}

impl FromStr for Aggregate {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let find = |wanted: &str| Function::ALL.into_iter().find(|(name, _)| *name == wanted);
        let over = text.split_once(':').filter(|(_, column)| !column.is_empty());
        match over.and_then(|(name, column)| Some((find(name)?.1, column))) {
            Some((function, column)) => Ok(Self::Over(function, column.to_owned())),
            None if text == "count" => Ok(Self::Count),
            None => Err(Error::usage(
                "an aggregate is count, sum:COL, min:COL, max:COL, mean:COL, last:COL or distinct:COL",
            )),
        }
    }
}

impl From<Aggregate> for String {
    fn from(aggregate: Aggregate) -> Self {
        aggregate.to_string()
    }
}

impl TryFrom<String> for Aggregate {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aggregates_print_as_they_parse() {
        for (text, name) in [("count", "count"), ("min:value", "min_value"), ("last:a:b", "last_a:b")] {
            let aggregate: Aggregate = text.parse().unwrap();
            assert_eq!((aggregate.to_string().as_str(), aggregate.output_name().as_str()), (text, name));
        }
        for bad in ["", "count:", "count:x", "sum", "sum:", "median:x", "SUM:x"] {
            assert!(bad.parse::<Aggregate>().is_err(), "{bad}");
        }
    }
}
