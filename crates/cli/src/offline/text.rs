//! Human-readable text: aligned tables, sizes, times.

use std::fmt::Write as _;

use alluvium::Timestamp;
use alluvium::offline::Foreign;

/// A text table with aligned columns: text left, figures right.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// Returns a table with these headings.
    pub(crate) fn new(headings: [&str; N]) -> Self {
        Self { rows: vec![headings.map(str::to_owned)] }
    }

    /// Returns whether the table has no rows but its headings.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    /// Returns the table as lines, each indented by `indent`; an empty table returns an empty string.
    pub(crate) fn print(&self, indent: &str) -> String {
        if self.is_empty() {
            return String::new();
        }
        let width = |column: usize| self.cells(column).map(|cell| cell.chars().count()).max().unwrap_or(0);
        // The dash excludes times and ids, which also begin with a digit.
        let figure = |cell: &String| cell.starts_with(|c: char| c.is_ascii_digit()) && !cell.contains('-');
        let figures = |column: usize| self.cells(column).skip(1).all(figure);
        let columns: Vec<_> = (0..N).map(|column| (width(column), figures(column))).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = indent.to_owned();
            for (at, (cell, (width, right))) in row.iter().zip(&columns).enumerate() {
                let gap = if at == 0 { "" } else { "  " };
                // Writing to a string cannot fail.
                let _infallible =
                    if *right { write!(line, "{gap}{cell:>width$}") } else { write!(line, "{gap}{cell:<width$}") };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn cells(&self, column: usize) -> impl Iterator<Item = &String> {
        self.rows.iter().filter_map(move |row| row.get(column))
    }
}

/// Returns a byte count in IEC units.
pub(super) fn size(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().iec().to_string()
}

/// Returns a time in RFC 3339, UTC.
pub(super) fn time(time: Timestamp) -> String {
    let known = jiff::Timestamp::from_millisecond(time.as_millis());
    known.map_or_else(|_| time.to_string(), |known| known.to_string())
}

/// Returns the text that lists foreign entries.
pub(super) fn foreign_text(foreign: &Foreign) -> String {
    if foreign.count == 0 {
        return String::new();
    }
    let more = foreign.count.saturating_sub(foreign.names.len() as u64);
    let more = if more > 0 { format!("and {more} more\n") } else { String::new() };
    let names: String = foreign.names.iter().map(|name| format!("  {}\n", name.escape_debug())).collect();
    format!("{} entries are not this tool's and are left alone:\n{names}{more}", foreign.count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(["name", "rows", "note"]);
        table.row(["a".into(), "1".into(), String::new()]);
        table.row(["long name".into(), "1000".into(), "x".into()]);
        assert_eq!(table.print("  "), "  name       rows  note\n  a             1\n  long name  1000  x\n");
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(time(Timestamp::from_millis(1_500)), "1970-01-01T00:00:01.5Z");
        assert_eq!(time(Timestamp::MIN), format!("{}ms", i64::MIN));
    }
}
