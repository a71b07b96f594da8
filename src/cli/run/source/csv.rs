//! CSV, parsed straight from a [`Tape`], so that the position after a record is exact.

use alluvium::{Error, Result};
use csv_core::{ReadRecordResult, Reader};

use super::tape::Tape;
use super::{MAX_RECORD_BYTES, Malformed, Position, Rows, Step};

/// Records of a CSV input; the first line names the columns.
#[derive(Debug)]
pub(super) struct CsvRows {
    tape: Tape,
    parser: Reader,
    /// The cells of the present record, one behind the other, and where each ends.
    text: Vec<u8>,
    ends: Vec<usize>,
    cells: usize,
    /// The line that the present record starts on, from 1.
    line: u64,
    columns: usize,
    /// For each wanted column, its index.
    wanted: Vec<usize>,
}

impl CsvRows {
    /// Reads the names of the columns.
    ///
    /// # Errors
    /// `Input` if there are none; `Config` if a wanted column is not among them.
    pub(super) fn open(tape: Tape, wanted: &[String]) -> Result<Self> {
        let mut rows = Self {
            tape,
            parser: Reader::new(),
            text: vec![0; 1024],
            ends: vec![0; 64],
            cells: 0,
            line: 1,
            columns: 0,
            wanted: Vec::new(),
        };
        if !rows.read_record()? {
            return Err(Error::input("input is empty: its first line must name the columns"));
        }
        rows.columns = rows.cells;
        let names: Vec<_> = (0..rows.columns).map(|i| String::from_utf8_lossy(rows.field(i)).into_owned()).collect();
        for column in wanted {
            let mut found = names.iter().enumerate().filter(|(_, name)| *name == column).map(|(index, _)| index);
            match (found.next(), found.next()) {
                (Some(index), None) => rows.wanted.push(index),
                (None, _) => return Err(super::unknown_column(column, &names)),
                (Some(_), Some(_)) => {
                    return Err(Error::config("two columns have this name").with("column", column));
                }
            }
        }
        Ok(rows)
    }

    /// Parses the next record; returns false at the end.
    fn read_record(&mut self) -> Result<bool> {
        self.skip_line_ends()?;
        self.line = self.parser.line();
        let (mut written, mut ended) = (0, 0);
        loop {
            let input = self.tape.fill().map_err(super::cannot_read)?;
            let text = self.text.get_mut(written..).unwrap_or_default();
            let ends = self.ends.get_mut(ended..).unwrap_or_default();
            let (result, read, wrote, more_ends) = self.parser.read_record(input, text, ends);
            self.tape.consume(read);
            written += wrote;
            ended += more_ends;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if self.text.len() >= MAX_RECORD_BYTES => {
                    return Err(super::too_long().with("line", self.line));
                }
                ReadRecordResult::OutputFull => self.text.resize(self.text.len() * 2, 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::Record => {
                    self.cells = ended;
                    return Ok(true);
                }
                ReadRecordResult::End => return Ok(false),
            }
        }
    }

    /// Takes what is left of the line before, and empty lines, so that a record's line is the one it starts on.
    fn skip_line_ends(&mut self) -> Result<()> {
        loop {
            match self.tape.fill().map_err(super::cannot_read)?.first() {
                Some(b'\n') => self.parser.set_line(self.parser.line() + 1),
                Some(b'\r') => {}
                _ => return Ok(()),
            }
            self.tape.consume(1);
        }
    }

    fn field(&self, index: usize) -> &[u8] {
        // Behind the record's cells stand ends of longer records before it.
        let ends = self.ends.get(..self.cells).unwrap_or_default();
        let end = |index: usize| ends.get(index).copied().unwrap_or(0);
        let start = index.checked_sub(1).map_or(0, end);
        self.text.get(start..end(index)).unwrap_or_default()
    }
}

impl Rows for CsvRows {
    fn next(&mut self) -> Result<Step> {
        if !self.read_record()? {
            return Ok(Step::End);
        }
        if self.cells == self.columns {
            return Ok(Step::Row);
        }
        let first_missing = self.wanted.iter().position(|index| *index >= self.cells);
        Ok(Step::Malformed(Malformed { column: first_missing, reason: "more or fewer cells than columns" }))
    }

    fn cell(&self, wanted: usize) -> &[u8] {
        self.wanted.get(wanted).map_or(&[], |index| self.field(*index))
    }

    fn line(&self) -> u64 {
        self.line
    }

    fn position(&self) -> Position {
        Position { offset: self.tape.position(), line: self.parser.line(), check: self.tape.check() }
    }

    fn resume(&mut self, position: &Position) -> Result<()> {
        self.tape.resume(position.offset, &position.check)?;
        // A new parser, which has seen a line end: a byte order mark is one at the start of the input only.
        self.parser = Reader::new();
        self.parser.read_record(b"\n", &mut [0], &mut [0]);
        self.parser.set_line(position.line);
        Ok(())
    }
}
