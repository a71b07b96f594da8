//! The source: numbers the records of the input, and makes all decisions that depend on their order.
//!
//! Invariants:
//! - a malformed record changes nothing but a count: it sets no kind and moves no watermark;
//! - a new source over the same input, resumed from the state after n records, yields the records after n;
//! - resumed over a grown input, it yields what one read of the whole input would have, or refuses the input. For a topic, this holds of
//!   each partition's records, but not of which ones are late.

mod csv;
mod gzip;
mod input;
mod jsonl;
mod nexmark;
mod splits;
mod state;
mod tape;
#[cfg(feature = "kafka")]
mod topic;

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::io;

use alluvium::source::{Advance, Recounted, Source as _, SourceReader, SourceSettings, StoredSplit};
use alluvium::{Error, Result, Subtask, Timestamp};
use serde::{Deserialize, Serialize};

use super::columns::{Column, Kind};
use super::program::{Emit, Format, OnBadRecord, Program};
use super::record::{Draft, Record};
use super::window::{Window, parse_time};
use csv::CsvRows;
use jsonl::JsonlRows;
use nexmark::NexmarkRows;
use splits::{AnySource, RecordReader};

pub(crate) use input::Input;
pub(crate) use state::{SPLITS, SourceState};
pub(crate) use tape::Check;

/// The largest record, without its line end.
const MAX_RECORD_BYTES: usize = 16 << 20;

/// The largest encoded key or sub-key: see [`alluvium::backend::StateBackend`].
const MAX_KEY_BYTES: usize = u16::MAX as usize;

/// A place in the input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Uncompressed bytes before the position; bids, if the input is generated.
    pub(crate) offset: u64,
    /// The line of the position, from 1.
    pub(crate) line: u64,
    /// Proof of the input before the position.
    pub(crate) check: Check,
    /// Whether the input ended here without a line end. Only a line end may then follow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) unterminated: bool,
    /// The offset at which the input must end. A quote was open there: more input could close it and change the
    /// records read since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ends_at: Option<u64>,
}

impl Position {
    /// Returns a position between two lines.
    fn new(offset: u64, line: u64, check: Check) -> Self {
        Self { offset, line, check, unterminated: false, ends_at: None }
    }

    /// Encodes the position, as JSON.
    ///
    /// # Errors
    /// `Usage` if serialization fails, which no position causes.
    fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|source| Error::usage("position has no JSON form").with_source(source))
    }

    /// Decodes a position.
    ///
    /// # Errors
    /// `Corrupt` if the bytes do not decode, or no input has such a position.
    fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let damaged = || Error::corrupt("stored position of the input is damaged");
        let position: Self = serde_json::from_slice(bytes).map_err(|source| damaged().with_source(source))?;
        position.is_possible().then_some(position).ok_or_else(damaged)
    }

    /// Returns whether an input can have it: each line has at least one byte.
    fn is_possible(&self) -> bool {
        self.line <= self.offset.saturating_add(1) && self.ends_at.is_none_or(|end| end >= self.offset)
    }
}

/// The outcome of reading a record.
#[derive(Debug)]
pub(crate) enum Next<'a> {
    /// A record to aggregate.
    Record(Record<'a>),
    /// A malformed or late record, counted and skipped.
    Skipped,
    /// None is at hand; more may come.
    Wait,
    /// The end of the input.
    End,
}

/// A reader of one format's records.
trait Rows: Debug + Send {
    /// Reads the next record.
    fn next(&mut self) -> Result<Step>;
    /// Returns a cell of the record just read, by the index of the wanted column; `None` if the record has none.
    fn cell(&self, wanted: usize) -> Option<&[u8]>;
    /// Returns the first line of the record just read; of a malformed one, the line of the defect.
    fn line(&self) -> u64;
    /// Returns the position after the record just read.
    fn position(&self) -> Position;
    /// Moves to a position.
    fn resume(&mut self, position: &Position) -> Result<()>;
}

/// The outcome of reading a row.
enum Step {
    Row,
    Malformed(Malformed),
    End,
}

/// The defect of a record.
#[derive(Debug, Clone, Copy)]
struct Malformed {
    /// Index of the wanted column, if the defect is in one.
    column: Option<usize>,
    reason: &'static str,
}

/// The reader of a job's input.
#[derive(Debug)]
pub(crate) struct Source {
    splits: SourceReader<AnySource>,
    is_bounded: bool,
    wanted: Wanted,
    window: Option<Window>,
    /// Whether the end of the input closes all windows.
    end_closes: bool,
    on_bad_record: OnBadRecord,
    draft: Draft,
    kinds: Vec<Option<Kind>>,
    records: u64,
    bad_records: u64,
    late_records: u64,
    watermark: Option<i64>,
    latest: Option<i64>,
    closed: Option<i64>,
}

/// The columns that a program reads, by use.
#[derive(Debug)]
struct Wanted {
    names: Vec<String>,
    /// Indices into `names`.
    key: Vec<usize>,
    time: Option<usize>,
    cells: Vec<(usize, Column)>,
}

impl Wanted {
    fn of(program: &Program) -> Self {
        let mut names: Vec<String> = Vec::new();
        let mut index = |name: &String| match names.iter().position(|known| known == name) {
            Some(index) => index,
            None => {
                names.push(name.clone());
                names.len() - 1
            }
        };
        let key = program.key.iter().map(&mut index).collect();
        let time = program.window.as_ref().map(|window| index(&window.time));
        let columns = Column::of(&program.agg);
        let cells = columns.into_iter().map(|column| (index(&column.name), column)).collect();
        Self { names, key, time, cells }
    }

    /// Parses the current record into the draft and returns its event time.
    fn parse(
        &self,
        reader: &dyn RecordReader,
        window: Option<&Window>,
        kinds: &[Option<Kind>],
        draft: &mut Draft,
    ) -> Result<Option<i64>, Malformed> {
        let malformed = |column: usize, reason| Malformed { column: Some(column), reason };
        let text = |column: usize| {
            let cell = reader.cell(column).unwrap_or_default();
            std::str::from_utf8(cell).map_err(|_| malformed(column, "not valid UTF-8"))
        };
        draft.clear();
        if let Some(malformed) = reader.malformed() {
            return Err(malformed);
        }
        for column in &self.key {
            if reader.cell(*column).is_none() {
                return Err(malformed(*column, "no key"));
            }
            let length = draft.push_key(text(*column)?).map_err(|_| malformed(*column, "key has no encoding"))?;
            if length > MAX_KEY_BYTES {
                return Err(malformed(*column, "key is longer than 65535 bytes"));
            }
        }
        let mut time = None;
        if let (Some(window), Some(column)) = (window, self.time) {
            let parsed = parse_time(text(column)?).and_then(|time| Some((time, window.start(time)?)));
            let (parsed, start) = parsed.ok_or_else(|| malformed(column, "not a time"))?;
            draft.set_window(start);
            time = Some(parsed);
        }
        for ((index, column), kind) in self.cells.iter().zip(kinds) {
            let text = text(*index)?;
            let value = column.demand.parse(*kind, text).map_err(|reason| malformed(*index, reason))?;
            if column.distinct && text.len() > MAX_KEY_BYTES {
                return Err(malformed(*index, "distinct cell is longer than 65535 bytes"));
            }
            draft.push_cell(value, text);
        }
        Ok(time)
    }
}

impl Source {
    /// Opens the input at its start, or at the position of `restored`.
    ///
    /// # Errors
    /// `Config` for an unknown column; `Input` if the input is empty, cannot be read, or has changed;
    /// `NotFound` or `Denied`.
    pub(crate) async fn open(
        input: &Input,
        program: &Program,
        settings: SourceSettings,
        restored: Option<SourceState>,
    ) -> Result<Self> {
        let wanted = Wanted::of(program);
        let (start, opaques) = match &restored {
            Some(state) => (state.position.clone(), state.splits.as_slice()),
            None => (None, &[][..]),
        };
        let source = AnySource::new(input, program.format, &wanted.names, start)?;
        let is_bounded = source.is_bounded();
        let mut source = Self {
            splits: SourceReader::open(SPLITS, source, settings, (Subtask(0), 1), opaques).await?,
            is_bounded,
            kinds: vec![None; wanted.cells.len()],
            wanted,
            window: program.window.clone(),
            end_closes: program.emit == Emit::OnClose,
            on_bad_record: program.on_bad_record,
            draft: Draft::default(),
            records: 0,
            bad_records: 0,
            late_records: 0,
            watermark: None,
            latest: None,
            closed: None,
        };
        restored.iter().for_each(|state| source.resume(state));
        Ok(source)
    }

    /// As [`open`](Self::open), with default settings, for inputs that are opened at once: files, generators.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn open_now(input: &Input, program: &Program, restored: Option<SourceState>) -> Result<Self> {
        let source = Self::open(input, program, SourceSettings::default(), restored);
        futures_util::FutureExt::now_or_never(source)
            .unwrap_or_else(|| Err(Error::usage("input makes its opener wait")))
    }

    fn resume(&mut self, state: &SourceState) {
        (self.records, self.bad_records, self.late_records) = (state.records, state.bad_records, state.late_records);
        (self.watermark, self.latest, self.closed) = (state.watermark, state.latest.or(state.watermark), state.closed);
        let kind = |(_, column): &(usize, Column)| state.kinds.get(&column.name).copied();
        self.kinds = self.wanted.cells.iter().map(kind).collect();
    }

    /// Reads the next record.
    ///
    /// # Errors
    /// `Input` if the record is malformed, unless such records are skipped, or if the input cannot be read.
    pub(crate) fn next(&mut self) -> Result<Next<'_>> {
        let reader = match (self.splits.advance()?, self.splits.current()) {
            (Advance::Record, Some((_, reader))) => &**reader,
            (Advance::End, _) => return Ok(Next::End),
            _ => return Ok(Next::Wait),
        };
        self.records += 1;
        let parsed = self.wanted.parse(reader, self.window.as_ref(), &self.kinds, &mut self.draft);
        let time = match parsed {
            Ok(time) => time,
            Err(malformed) if self.on_bad_record == OnBadRecord::Fail => return Err(self.error(reader, malformed)),
            Err(_) => {
                self.bad_records += 1;
                return Ok(Next::Skipped);
            }
        };
        for (kind, value) in self.kinds.iter_mut().zip(self.draft.values()) {
            *kind = kind.or_else(|| value.kind());
        }
        let record = self.draft.record();
        if let (Some(window), Some(start), Some(watermark)) = (&self.window, record.window, self.watermark)
            && (window.closed(start, watermark) || self.closed.is_some_and(|last| start <= last))
        {
            self.late_records += 1;
            return Ok(Next::Skipped);
        }
        if let Some(time) = time {
            self.latest = self.latest.max(Some(time));
            self.splits.set_time(Timestamp::from_millis(time));
            self.watermark = self.watermark.max(watermark_of(&mut self.splits));
        }
        Ok(Next::Record(record))
    }

    /// Completes once there may be a record, after [`Next::Wait`].
    pub(crate) async fn ready(&mut self) {
        self.splits.ready().await;
    }

    /// Moves the watermark past what has become idle.
    ///
    /// * `now`: by a clock that never goes back.
    pub(crate) fn tick(&mut self, now: Timestamp) {
        self.splits.tick(now);
        self.watermark = self.watermark.max(watermark_of(&mut self.splits));
    }

    /// Returns whether the input has an end, and so all its parts when it is opened.
    pub(crate) fn is_bounded(&self) -> bool {
        self.is_bounded
    }

    /// Opens parts that have appeared, and returns how many they are.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) async fn discover(&mut self) -> Result<usize> {
        self.splits.discover().await
    }

    fn error(&self, reader: &dyn RecordReader, malformed: Malformed) -> Error {
        let error = reader.locate(Error::input(format!("malformed record: {}", malformed.reason)));
        match malformed.column.and_then(|column| Some((column, self.wanted.names.get(column)?))) {
            None => error,
            Some((column, name)) => {
                let cell = String::from_utf8_lossy(reader.cell(column).unwrap_or_default());
                let shown: String = cell.chars().take(60).flat_map(char::escape_debug).collect();
                error.with("column", name).with("cell", shown)
            }
        }
    }

    /// Returns the state after the record just read, for a checkpoint.
    ///
    /// # Errors
    /// From reading what proves a position.
    pub(crate) fn state(&mut self) -> Result<SourceState> {
        let splits = vec![self.splits.opaque()?];
        let kinds = self.wanted.cells.iter().zip(&self.kinds);
        Ok(SourceState {
            records: self.records,
            bad_records: self.bad_records,
            late_records: self.late_records,
            kinds: kinds.filter_map(|((_, column), kind)| Some((column.name.clone(), (*kind)?))).collect(),
            watermark: self.watermark,
            latest: self.latest.filter(|_| self.latest != self.watermark),
            closed: self.closed,
            position: None,
            splits,
        })
    }

    /// Records that the end of the input closes all windows. If the input grows later, records of these windows are
    /// late, because their results are published.
    pub(crate) fn close_windows(&mut self) {
        if let (Some(window), Some(latest), true) = (&self.window, self.latest, self.end_closes) {
            self.closed = self.closed.max(window.start(latest));
        }
    }

    /// Returns the number of records read, from the start of the input.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    /// Returns the number of malformed records.
    #[cfg(test)]
    pub(crate) fn bad_records(&self) -> u64 {
        self.bad_records
    }

    /// Returns the number of late records.
    #[cfg(test)]
    pub(crate) fn late_records(&self) -> u64 {
        self.late_records
    }

    /// Returns the watermark: the maximum event time of all records read, but for what `--max-ahead` holds back.
    pub(crate) fn watermark(&self) -> Option<i64> {
        self.watermark
    }
}

/// Reads a split of the input again, and compares it with what checkpoints say of it.
///
/// # Errors
/// `Config` if the program has another input; others as [`alluvium::source::recount`].
pub(crate) async fn recount(
    input: &Input,
    program: &Program,
    stored: &[StoredSplit],
    since_first: bool,
) -> Result<Vec<Recounted>> {
    if input.identity() != program.input {
        let error = Error::config("--input differs from the stored program").with("stored", &program.input);
        return Err(error.with("given", input.identity()));
    }
    let source = AnySource::new(input, program.format, &Wanted::of(program).names, None)?;
    alluvium::source::recount(&source, stored, since_first).await
}

fn open_rows(input: &Input, format: Option<Format>, wanted: &[String]) -> Result<Box<dyn Rows>> {
    let path = match input {
        Input::Nexmark { events, seed } => return Ok(Box::new(NexmarkRows::open(*events, *seed, wanted)?)),
        Input::Path(path) => Some(path.as_path()),
        Input::Stdin => None,
        Input::Topic(_) => return Err(Error::usage("a topic is not read as rows")),
    };
    let mut tape = input::open(path)?;
    tape.skip_byte_order_mark()?;
    Ok(match format.unwrap_or_else(|| input.format()) {
        Format::Csv => Box::new(CsvRows::open(tape, wanted)?),
        Format::Jsonl => Box::new(JsonlRows::open(tape, wanted)?),
    })
}

/// Returns the watermark in milliseconds; `None` before the first event time.
fn watermark_of(splits: &mut SourceReader<AnySource>) -> Option<i64> {
    Some(splits.watermark()).filter(|watermark| *watermark > Timestamp::MIN).map(Timestamp::as_millis)
}

/// Adds the input's name to an error.
fn with_input_name(error: Error, name: &str) -> Error {
    if error.message().contains(" file=`") { error } else { error.with("file", name) }
}

fn unknown_column(name: &str, available: &[String]) -> Error {
    Error::config("unknown column").with("column", name).with("available", available.join(","))
}

fn cannot_read(source: io::Error) -> Error {
    Error::input("cannot read input").with_source(source)
}

/// Returns the error for an input that differs from the checkpoint's.
fn changed(offset: u64) -> Error {
    Error::input("input changed since the checkpoint").with("offset", offset)
}

/// Returns the error for an input whose last record, read without a line end, has grown.
fn grown(offset: u64) -> Error {
    let why = "input changed since the checkpoint: its last record had no line end and has grown";
    Error::input(why).with("offset", offset)
}

/// The defect of a record of more than [`MAX_RECORD_BYTES`].
const TOO_LONG: &str = "longer than 16 MiB";
