//! The input as splits: a file, standard input and a generator are one each.

use alluvium::source::{Advance, Position as SplitPosition, Source, SplitId, SplitReader, StartAt};
use alluvium::{Error, Result};
use async_trait::async_trait;

use super::{Format, Input, Malformed, Position, Rows, Step, open_rows, with_input_name};

/// An input in one piece.
#[derive(Debug)]
pub(super) struct InputSource {
    pub(super) input: Input,
    pub(super) format: Option<Format>,
    /// The columns to read.
    pub(super) wanted: Vec<String>,
    /// Where to start without positions of splits: a checkpoint from before there were splits has it.
    pub(super) start: Option<Position>,
}

impl InputSource {
    fn split(&self) -> Result<SplitId> {
        SplitId::new(self.input.identity(), 0)
    }
}

#[async_trait]
impl Source for InputSource {
    type Reader = RowReader;

    async fn splits(&self) -> Result<Vec<SplitId>> {
        Ok(vec![self.split()?])
    }

    async fn open(&self, split: &SplitId, from: StartAt<'_>) -> Result<RowReader> {
        if *split != self.split()? {
            return Err(Error::not_found("input has no such part"));
        }
        let position = match from {
            StartAt::Position(position) => Some(Position::from_bytes(position.bytes())?),
            StartAt::Configured => self.start.clone(),
            _ => None,
        };
        let name = self.input.name();
        let named = |error| with_input_name(error, &name);
        let mut rows = open_rows(&self.input, self.format, &self.wanted).map_err(named)?;
        position.map_or(Ok(()), |position| rows.resume(&position)).map_err(named)?;
        Ok(RowReader { rows, name, malformed: None })
    }
}

/// A reader of rows. A malformed row is a record, too.
#[derive(Debug)]
pub(super) struct RowReader {
    rows: Box<dyn Rows>,
    /// The input's name in messages.
    name: String,
    malformed: Option<Malformed>,
}

impl RowReader {
    /// Returns the current row, or its defect.
    pub(super) fn row(&self) -> Result<&dyn Rows, Malformed> {
        self.malformed.map_or(Ok(&*self.rows), Err)
    }

    /// Returns the rows, for messages on the current one.
    pub(super) fn rows(&self) -> &dyn Rows {
        &*self.rows
    }
}

impl SplitReader for RowReader {
    fn advance(&mut self) -> Result<Advance> {
        self.malformed = match self.rows.next().map_err(|error| with_input_name(error, &self.name))? {
            Step::End => return Ok(Advance::End),
            Step::Malformed(malformed) => Some(malformed),
            Step::Row => None,
        };
        Ok(Advance::Record)
    }

    /// Costs a hash of up to 64 KiB, or of the consumed bytes still buffered.
    fn position(&self) -> Result<SplitPosition> {
        SplitPosition::new(self.rows.position().to_bytes()?)
    }
}
