//! JSON objects, one per line, parsed straight from a [`Tape`]. Numbers keep their source text.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use alluvium::{Error, Result};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::tape::Tape;
use super::{MAX_RECORD_BYTES, Malformed, Position, Rows, Step};

/// How many records tell which columns there are.
const RECORDS_WITH_ALL_COLUMNS: usize = 100;

/// Records of a JSONL input. A column that a record lacks is null.
#[derive(Debug)]
pub(super) struct JsonlRows {
    tape: Tape,
    wanted: Vec<String>,
    /// The present line without its end.
    bytes: Vec<u8>,
    /// The wanted cells of the present record, one behind the other, and where each starts and ends.
    text: String,
    cells: Vec<(usize, usize)>,
    /// The line of the present record and how many were read, from 1.
    line: u64,
}

impl JsonlRows {
    /// Looks at the first records' columns.
    ///
    /// # Errors
    /// `Input` if there is no input; `Config` if none of these records has a wanted column.
    pub(super) fn open(mut tape: Tape, wanted: &[String]) -> Result<Self> {
        let head = tape.look_ahead(RECORDS_WITH_ALL_COLUMNS).map_err(super::cannot_read)?;
        if head.is_empty() {
            return Err(Error::input("input is empty"));
        }
        let objects = head.split(|byte| *byte == b'\n').filter_map(|line| Names.deserialize_line(line).ok());
        let names: BTreeSet<String> = objects.flatten().collect();
        // With nothing but malformed records there is nothing to compare with.
        if let Some(unknown) = wanted.iter().find(|name| !names.is_empty() && !names.contains(*name)) {
            return Err(super::unknown_column(unknown, &names.into_iter().collect::<Vec<_>>()));
        }
        let cells = vec![(0, 0); wanted.len()];
        Ok(Self { tape, wanted: wanted.to_vec(), bytes: Vec::new(), text: String::new(), cells, line: 0 })
    }

    /// Reads the next line that is not blank; returns false at the end.
    fn read_line(&mut self) -> Result<bool> {
        loop {
            self.bytes.clear();
            loop {
                let ahead = self.tape.fill().map_err(super::cannot_read)?;
                let end = ahead.iter().position(|byte| *byte == b'\n');
                let taken = ahead.get(..end.unwrap_or(ahead.len())).unwrap_or_default();
                if self.bytes.len() + taken.len() > MAX_RECORD_BYTES {
                    return Err(super::too_long().with("line", self.line + 1));
                }
                self.bytes.extend_from_slice(taken);
                let (taken, last) = (taken.len(), end.is_none() && ahead.is_empty());
                self.tape.consume(taken + usize::from(end.is_some()));
                if last && self.bytes.is_empty() {
                    return Ok(false);
                }
                if end.is_some() || last {
                    break;
                }
            }
            self.line += 1;
            if !self.bytes.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
    }

    /// Takes the wanted cells out of the present line.
    fn parse(&mut self) -> Result<(), Malformed> {
        self.text.clear();
        self.cells.fill((0, 0));
        let raw = Wanted { names: &self.wanted }.deserialize_line(&self.bytes);
        let raw = raw.map_err(|_| Malformed { column: None, reason: "not a JSON object" })?;
        for (index, cell) in raw.into_iter().enumerate() {
            let Some(raw) = cell else { continue };
            let malformed = |reason| Malformed { column: Some(index), reason };
            let start = self.text.len();
            match raw.get().as_bytes().first() {
                Some(b'{' | b'[') => return Err(malformed("neither text nor a number")),
                Some(b'"') => {
                    let text: Cow<'_, str> =
                        serde_json::from_str(raw.get()).map_err(|_| malformed("not valid text"))?;
                    self.text.push_str(&text);
                }
                _ if raw.get() == "null" => {}
                _ => self.text.push_str(raw.get()),
            }
            if let Some(cell) = self.cells.get_mut(index) {
                *cell = (start, self.text.len());
            }
        }
        Ok(())
    }
}

impl Rows for JsonlRows {
    fn next(&mut self) -> Result<Step> {
        if !self.read_line()? {
            return Ok(Step::End);
        }
        Ok(self.parse().map_or_else(Step::Malformed, |()| Step::Row))
    }

    fn cell(&self, wanted: usize) -> &[u8] {
        self.cells.get(wanted).and_then(|(start, end)| self.text.get(*start..*end)).unwrap_or_default().as_bytes()
    }

    fn line(&self) -> u64 {
        self.line
    }

    fn position(&self) -> Position {
        Position { offset: self.tape.position(), line: self.line + 1, check: self.tape.check() }
    }

    fn resume(&mut self, position: &Position) -> Result<()> {
        self.line = position.line.saturating_sub(1);
        self.tape.resume(position.offset, &position.check)
    }
}

/// What to take out of an object.
trait FromLine<'de>: DeserializeSeed<'de> + Sized {
    /// Reads exactly one object from a line.
    fn deserialize_line(self, line: &'de [u8]) -> serde_json::Result<Self::Value> {
        let mut deserializer = serde_json::Deserializer::from_slice(line);
        let value = self.deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(value)
    }
}

/// Takes the values of some columns; of a name that occurs twice the last.
struct Wanted<'a> {
    names: &'a [String],
}

impl<'de> FromLine<'de> for Wanted<'_> {}

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Vec<Option<&'de RawValue>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Vec<Option<&'de RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut cells = vec![None; self.names.len()];
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            match self.names.iter().position(|wanted| *wanted == name).and_then(|index| cells.get_mut(index)) {
                Some(cell) => *cell = Some(map.next_value()?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(cells)
    }
}

/// Takes the names of all columns.
struct Names;

impl FromLine<'_> for Names {}

impl<'de> DeserializeSeed<'de> for Names {
    type Value = Vec<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Names {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut names = Vec::new();
        while let Some((name, IgnoredAny)) = map.next_entry()? {
            names.push(name);
        }
        Ok(names)
    }
}
