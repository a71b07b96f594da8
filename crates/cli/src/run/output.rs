//! Results as CSV: header, sorted rows, minimal quoting, `\n`.

use std::fs;
use std::io::Write;
use std::path::Path;

use alluvium::{Error, Result};
use csv::{QuoteStyle, StringRecord, Terminator, WriterBuilder};
use serde_json::{Map, Value};

use super::program::Program;
use crate::files::{StagedFile, Writer, check_not_special, folder_of, io_error};

/// The results of one key and window.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OutputRow {
    /// All cells: key columns, window start, aggregates.
    pub(crate) cells: StringRecord,
    /// The window's start, also a cell in `cells`.
    pub(crate) window: Option<i64>,
}

/// The columns of an output.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    header: StringRecord,
    key_columns: usize,
}

impl Output {
    /// Returns the columns of a program's output.
    pub(crate) fn new(program: &Program) -> Self {
        Self { header: program.output_columns().collect::<Vec<_>>().into(), key_columns: program.key.len() }
    }

    /// Returns the output with these columns, the first of which are the key.
    #[cfg(test)]
    pub(crate) fn of(columns: &[&str], key_columns: usize) -> Self {
        Self { header: columns.to_vec().into(), key_columns }
    }

    /// Sorts the rows by their key cells' UTF-8 bytes, then by window.
    pub(crate) fn sort(&self, rows: &mut [OutputRow]) {
        let keys = self.key_columns;
        rows.sort_unstable_by(|a, b| {
            let by_key = a.cells.iter().take(keys).cmp(b.cells.iter().take(keys));
            by_key.then(a.window.cmp(&b.window))
        });
    }

    /// Returns the number of distinct keys in sorted rows.
    pub(crate) fn count_keys(&self, rows: &[OutputRow]) -> u64 {
        let keys = self.key_columns;
        rows.chunk_by(|a, b| a.cells.iter().take(keys).eq(b.cells.iter().take(keys))).map(|_| 1).sum()
    }

    /// Writes the header and the rows, in the given order.
    ///
    /// # Errors
    /// `Unavailable` if `to` fails.
    pub(crate) fn write(&self, rows: &[OutputRow], to: impl Write) -> Result<()> {
        Self::write_records(std::iter::once(&self.header).chain(rows.iter().map(|row| &row.cells)), to)
    }

    /// Writes the cells of one row, without the header.
    ///
    /// # Errors
    /// `Unavailable` if `to` fails.
    pub(crate) fn write_row(cells: &StringRecord, to: impl Write) -> Result<()> {
        Self::write_records(std::iter::once(cells), to)
    }

    /// Writes one row as a JSON object: a string for each column, null for an empty cell beside the key.
    ///
    /// # Errors
    /// `Unavailable` if `to` fails.
    pub(crate) fn write_json(&self, row: &OutputRow, to: impl Write) -> Result<()> {
        self.write_cells(row, self.header.len(), to)
    }

    /// Writes the key and window of a row as a JSON object: a string for each key column, and the window's start.
    ///
    /// # Errors
    /// `Unavailable` if `to` fails.
    #[cfg(feature = "kafka")]
    pub(crate) fn write_json_key(&self, row: &OutputRow, to: impl Write) -> Result<()> {
        self.write_cells(row, self.key_columns + usize::from(row.window.is_some()), to)
    }

    /// Writes the first `columns` cells of a row as a JSON object.
    fn write_cells(&self, row: &OutputRow, columns: usize, to: impl Write) -> Result<()> {
        let cell = |(at, (name, cell)): (usize, (&'_ str, &'_ str))| {
            let empty = cell.is_empty() && at >= self.key_columns;
            (name.to_owned(), if empty { Value::Null } else { Value::from(cell) })
        };
        let object: Map<_, _> = self.header.iter().zip(&row.cells).take(columns).enumerate().map(cell).collect();
        serde_json::to_writer(to, &object)
            .map_err(|source| Error::unavailable("cannot write results").with_source(source))
    }

    fn write_records<'a>(mut records: impl Iterator<Item = &'a StringRecord>, to: impl Write) -> Result<()> {
        let mut writer =
            WriterBuilder::new().quote_style(QuoteStyle::Necessary).terminator(Terminator::Any(b'\n')).from_writer(to);
        let written = records.try_for_each(|record| writer.write_record(record));
        let flushed = written.and_then(|()| writer.flush().map_err(csv::Error::from));
        flushed.map_err(|source| Error::unavailable("cannot write results").with_source(source))
    }

    /// Writes sorted rows for the file `target` under a temporary name; the caller publishes the file.
    ///
    /// # Errors
    /// `NotFound`, `Denied` or `Unavailable`.
    pub(crate) fn stage(&self, rows: &[OutputRow], target: &Path, writer: Writer) -> Result<StagedFile> {
        StagedFile::write(target, writer, |file| self.write(rows, file))
    }
}

/// Refuses, before the job starts, a target that a rename could not create.
///
/// # Errors
/// `Config` if the target is a folder or a special file; `NotFound` or `Denied` if its folder cannot be read.
pub(crate) fn check_target(target: &Path) -> Result<()> {
    if target.file_name().is_none() || target.is_dir() {
        return Err(Error::config("--output is a folder").with("file", target.display()));
    }
    check_not_special(target)?;
    let folder = folder_of(target);
    let metadata =
        fs::metadata(folder).map_err(|source| io_error("cannot read the folder of --output", folder, source))?;
    if !metadata.is_dir() {
        return Err(Error::config("the parent of --output is a file").with("file", target.display()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use alluvium::{Attempt, ErrorKind, JobId};

    use super::*;

    const WRITER: Writer = Writer { job: JobId([9; 16]), attempt: Attempt(7) };

    fn output() -> Output {
        Output::of(&["a", "b", "window_start", "count"], 2)
    }

    fn row(a: &str, b: &str, window: i64) -> OutputRow {
        OutputRow { cells: StringRecord::from(vec![a, b, &window.to_string(), "1"]), window: Some(window) }
    }

    #[test]
    fn rows_sort_by_bytes_of_each_cell_then_window() {
        let output = output();
        let expected = [
            row("", "z", 0),
            row("B", "a", 0),
            row("a", "", 0),
            row("a", "b", -10),
            row("a", "b", 9),
            row("a", "b", 10),
            row("a,", "a", 0),
            row("ab", "", 0),
            row("é", "", 0),
            row("𝄞", "", 0),
        ];
        let mut rows = expected.clone().map(Some);
        rows.reverse();
        rows.swap(2, 7);
        let mut rows: Vec<_> = rows.into_iter().flatten().collect();
        output.sort(&mut rows);
        assert_eq!(rows, expected);
        assert_eq!(output.count_keys(&rows), 8);
    }

    #[test]
    fn only_cells_that_need_quotes_are_quoted() {
        let cells = ["plain", "", " space ", "#x", "'", "\\", "a,b", "say \"x\"", "a\nb", "a\rb", "é;\t|"];
        let output = Output::of(&["a"; 11], 1);
        let mut bytes = Vec::new();
        output.write(&[OutputRow { cells: StringRecord::from(cells.to_vec()), window: None }], &mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (_, line) = text.split_once('\n').unwrap();
        assert_eq!(line, "plain,, space ,#x,',\\,\"a,b\",\"say \"\"x\"\"\",\"a\nb\",\"a\rb\",é;\t|\n");
    }

    #[test]
    fn a_json_row_has_null_for_an_empty_aggregate_alone() {
        let output = Output::of(&["k", "window_start", "min_x"], 1);
        let cells = StringRecord::from(vec!["", "1970-01-01T00:00:00Z", ""]);
        let mut bytes = Vec::new();
        output.write_json(&OutputRow { cells, window: Some(0) }, &mut bytes).unwrap();
        assert_eq!(bytes, br#"{"k":"","min_x":null,"window_start":"1970-01-01T00:00:00Z"}"#);
    }

    #[test]
    fn a_staged_file_gets_its_final_name_at_publish() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out.csv");
        let names = || fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        fs::write(&target, "old").unwrap();
        drop(output().stage(&[], &target, WRITER).unwrap());
        assert_eq!((names().len(), fs::read_to_string(&target).unwrap()), (1, "old".to_owned()));

        let staged = output().stage(&[], &target, WRITER).unwrap();
        assert!(names().contains(&WRITER.staged_name("out.csv").into()));
        assert_eq!(fs::read_to_string(&target).unwrap(), "old");
        staged.publish().unwrap();
        assert_eq!((names().len(), fs::read_to_string(&target).unwrap()), (1, "a,b,window_start,count\n".to_owned()));
    }

    #[test]
    fn g02_a_leftover_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let victim = folder.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, folder.path().join(WRITER.staged_name("out.csv"))).unwrap();
        output().stage(&[], &folder.path().join("out.csv"), WRITER).unwrap().publish().unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert!(folder.path().join("out.csv").is_file());
    }

    #[test]
    fn impossible_targets_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let kind = |path: &Path| check_target(path).unwrap_err().kind();
        assert_eq!(kind(folder.path()), ErrorKind::Config);
        assert_eq!(kind(&folder.path().join("none/out.csv")), ErrorKind::NotFound);
        assert_eq!(kind(&file.join("out.csv")), ErrorKind::Config);
        assert_eq!(kind(Path::new("/dev/null")), ErrorKind::Config);
        check_target(&file).unwrap();
        check_target(Path::new("out.csv")).unwrap();
    }
}
