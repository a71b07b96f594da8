//! CSV, parsed straight from a [`Tape`], so that the position after a record is exact.
//!
//! A quote that is not closed within the largest record, or by the end of the input, is stray. Its record is malformed
//! and ends with the line on which the quote opened: a stray quote costs one record, and bounded memory.

use alluvium::{Error, Result};
use csv_core::{ReadRecordResult, Reader};

use super::tape::Tape;
use super::{MAX_RECORD_BYTES, Malformed, Position, Rows, Step, TOO_LONG, changed, grown};

const OPEN_QUOTE: &str = "a quote is never closed";

/// Records of a CSV input; the first line names the columns.
#[derive(Debug)]
pub(super) struct CsvRows {
    tape: Tape,
    parser: Reader,
    /// The cells of the current record, concatenated, and the end of each.
    text: Vec<u8>,
    ends: Vec<usize>,
    cells: usize,
    /// First line of the current record, from 1; of a malformed record, the line of the defect.
    line: u64,
    columns: usize,
    /// The index of each wanted column.
    wanted: Vec<usize>,
    /// As in [`Position`].
    unterminated: bool,
    ends_at: Option<u64>,
}

/// The outcome of reading a record.
enum Read {
    Record,
    Broken(&'static str),
    End,
}

impl CsvRows {
    /// Reads the header.
    ///
    /// # Errors
    /// `Input` if the header is missing or malformed; `Config` if a wanted column is missing or ambiguous.
    pub(super) fn open(tape: Tape, wanted: &[String]) -> Result<Self> {
        let mut rows = Self {
            tape,
            parser: parser_at(1),
            text: vec![0; 1024],
            ends: vec![0; 64],
            cells: 0,
            line: 1,
            columns: 0,
            wanted: Vec::new(),
            unterminated: false,
            ends_at: None,
        };
        match rows.read_record()? {
            Read::Record => {}
            Read::Broken(reason) => {
                return Err(Error::input(format!("malformed header: {reason}")).with("line", rows.line));
            }
            Read::End => return Err(Error::input("input is empty: its first line must name the columns")),
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

    /// Parses the next record.
    fn read_record(&mut self) -> Result<Read> {
        self.skip_line_ends()?;
        self.line = self.parser.line();
        self.tape.hold();
        let read = self.parse_record();
        self.tape.release();
        read
    }

    fn parse_record(&mut self) -> Result<Read> {
        let (mut written, mut ended) = (0, 0);
        self.cells = 0;
        loop {
            // One more byte, for the line end.
            let room = (MAX_RECORD_BYTES + 1).saturating_sub(self.tape.held().len());
            if room == 0 {
                return self.skip_broken(TOO_LONG);
            }
            let input = self.tape.fill().map_err(super::cannot_read)?;
            let input = input.get(..room).unwrap_or(input);
            let at_end = input.is_empty();
            let text = self.text.get_mut(written..).unwrap_or_default();
            let ends = self.ends.get_mut(ended..).unwrap_or_default();
            let (result, read, wrote, more_ends) = self.parser.read_record(input, text, ends);
            self.tape.consume(read);
            written += wrote;
            ended += more_ends;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => self.text.resize(self.text.len() * 2, 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::Record if at_end && open_quote(self.tape.held()).is_some() => {
                    self.check_end(true)?;
                    self.ends_at = Some(self.tape.position());
                    return self.skip_broken(OPEN_QUOTE);
                }
                ReadRecordResult::Record => {
                    (self.cells, self.unterminated) = (ended, at_end);
                    return Ok(Read::Record);
                }
                ReadRecordResult::End => return Ok(Read::End),
            }
        }
    }

    /// Skips the current record up to the end of the line with the defect: the line of an open quote, else the current
    /// line.
    fn skip_broken(&mut self, reason: &'static str) -> Result<Read> {
        let held = self.tape.held();
        let quote = open_quote(held);
        let line_of = |at: usize| {
            let before = held.get(..at).unwrap_or_default();
            self.line + before.iter().filter(|byte| **byte == b'\n').count() as u64
        };
        let (from, line) = quote.map_or((held.len(), self.line), |quote| (quote, line_of(quote)));
        let end = held.iter().skip(from).position(|byte| is_line_end(*byte)).map(|length| from + length);
        let resume_line = line_of(end.unwrap_or(held.len()));
        match end {
            Some(end) => self.tape.rewind(end),
            None => {
                self.tape.release();
                self.tape.skip_line(is_line_end).map_err(super::cannot_read)?;
            }
        }
        self.unterminated = self.tape.at_end().map_err(super::cannot_read)?;
        self.parser = parser_at(resume_line);
        self.line = line;
        Ok(Read::Broken(reason))
    }

    /// Consumes the previous line's end and empty lines, so that the parser's line is the record's first.
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
        // `ends` is reused: stale ends of longer records follow the record's own.
        let ends = self.ends.get(..self.cells).unwrap_or_default();
        let end = |index: usize| ends.get(index).copied().unwrap_or(0);
        let start = index.checked_sub(1).map_or(0, end);
        self.text.get(start..end(index)).unwrap_or_default()
    }

    /// Refuses an input that does not end at `ends_at`.
    fn check_end(&self, at_end: bool) -> Result<()> {
        let position = self.tape.position();
        match self.ends_at {
            Some(end) if position > end || at_end && position != end => Err(changed(end)),
            _ => Ok(()),
        }
    }
}

/// Returns a parser at `line`. Feeds a line end first: a parser at its first byte would skip a byte order mark.
fn parser_at(line: u64) -> Reader {
    let mut parser = Reader::new();
    parser.read_record(b"\n", &mut [0], &mut [0]);
    parser.set_line(line);
    parser
}

fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

/// Returns the offset of a quote that is still open at the end of `record`, the start of a record. Repeats the parser's
/// rules for quotes, because the parser does not expose its state.
fn open_quote(record: &[u8]) -> Option<usize> {
    enum State {
        CellStart,
        Cell,
        Quoted(usize),
        QuoteInQuoted(usize),
    }
    let state = record.iter().enumerate().fold(State::CellStart, |state, (at, byte)| match (state, byte) {
        (State::CellStart, b'"') => State::Quoted(at),
        (State::QuoteInQuoted(start), b'"') => State::Quoted(start),
        (State::Quoted(start), b'"') => State::QuoteInQuoted(start),
        (State::Quoted(start), _) => State::Quoted(start),
        (_, b',') => State::CellStart,
        _ => State::Cell,
    });
    match state {
        State::Quoted(start) => Some(start),
        _ => None,
    }
}

impl Rows for CsvRows {
    fn next(&mut self) -> Result<Step> {
        let read = self.read_record()?;
        self.check_end(matches!(read, Read::End))?;
        match read {
            Read::End => return Ok(Step::End),
            Read::Broken(reason) => return Ok(Step::Malformed(Malformed { column: None, reason })),
            Read::Record if self.cells == self.columns => return Ok(Step::Row),
            Read::Record => {}
        }
        let first_missing = self.wanted.iter().position(|index| *index >= self.cells);
        Ok(Step::Malformed(Malformed { column: first_missing, reason: "more or fewer cells than columns" }))
    }

    fn cell(&self, wanted: usize) -> Option<&[u8]> {
        self.wanted.get(wanted).map(|index| self.field(*index))
    }

    fn line(&self) -> u64 {
        self.line
    }

    fn position(&self) -> Position {
        let place = Position::new(self.tape.position(), self.parser.line(), self.tape.check());
        Position { unterminated: self.unterminated, ends_at: self.ends_at, ..place }
    }

    fn resume(&mut self, position: &Position) -> Result<()> {
        self.tape.resume(position.offset, &position.check)?;
        self.parser = parser_at(position.line);
        self.ends_at = position.ends_at;
        let next = self.tape.fill().map_err(super::cannot_read)?.first().copied();
        if position.unterminated && next.is_some_and(|byte| !is_line_end(byte)) {
            return Err(grown(position.offset));
        }
        self.unterminated = position.unterminated && next.is_none();
        Ok(())
    }
}
