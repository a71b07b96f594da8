//! Decoded rows as CSV or JSON lines.

use std::io::Write;

use alluvium::offline::{RowTypes, TableRow};
use alluvium::schema::Type;
use alluvium::{Error, Result};

use super::value::{cells, columns, json as value_json};

/// A format of rows.
#[derive(Debug, Clone, Copy)]
pub(super) enum Format {
    Csv,
    Jsonl,
}

/// Writes rows in the chosen format.
pub(super) enum RowWriter<W: Write> {
    /// As CSV.
    Csv { types: RowTypes, csv: Box<csv::Writer<W>>, cells: Vec<String> },
    /// As JSON lines.
    Jsonl { types: RowTypes, out: W },
}

/// Returns the parts of a row with their names and types.
fn typed<T>(types: &RowTypes, [key, namespace, sub, value]: [T; 4]) -> [(&'static str, &Type, T); 4] {
    [
        ("key", &types.key, key),
        ("namespace", &types.namespace, namespace),
        ("sub", &types.sub, sub),
        ("value", &types.value, value),
    ]
}

impl<W: Write> RowWriter<W> {
    /// Returns a writer of rows with these types, after the headings if there are any.
    pub(super) fn new(format: Format, types: RowTypes, out: W) -> Result<Self> {
        match format {
            Format::Jsonl => Ok(Self::Jsonl { types, out }),
            Format::Csv => {
                let mut csv = csv::Writer::from_writer(out);
                let headings = typed(&types, [(); 4]).into_iter().flat_map(|(name, ty, ())| columns(name, ty));
                csv.write_record(headings.collect::<Vec<_>>()).map_err(unwritten)?;
                Ok(Self::Csv { types, csv: Box::new(csv), cells: Vec::new() })
            }
        }
    }

    /// Writes a row.
    pub(super) fn write(&mut self, entry: &TableRow<'_>) -> Result<()> {
        let values = [&entry.place.key, &entry.place.namespace, &entry.place.sub, &entry.value];
        match self {
            Self::Csv { types, csv, cells: record } => {
                record.clear();
                typed(types, values).into_iter().try_for_each(|(_, ty, value)| cells(ty, value, record))?;
                csv.write_record(&*record).map_err(unwritten)
            }
            Self::Jsonl { types, out } => {
                let mut line = String::new();
                for (name, ty, value) in typed(types, values) {
                    if *ty != Type::Unit {
                        let comma = if line.is_empty() { '{' } else { ',' };
                        line.push_str(&format!("{comma}\"{name}\":{}", value_json(value)?));
                    }
                }
                line.push_str(if line.is_empty() { "{}\n" } else { "}\n" });
                out.write_all(line.as_bytes()).map_err(unwritten)
            }
        }
    }

    /// Flushes what was written.
    pub(super) fn finish(self) -> Result<()> {
        match self {
            Self::Csv { mut csv, .. } => csv.flush().map_err(unwritten),
            Self::Jsonl { mut out, .. } => out.flush().map_err(unwritten),
        }
    }
}

fn unwritten(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::unavailable("cannot write rows").with_source(source)
}
