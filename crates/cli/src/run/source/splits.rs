//! The input as splits: a file, standard input and a generator are one each, a topic has its partitions.

use std::fmt::Debug;

use alluvium::source::{Advance, Position as SplitPosition, Source, SplitId, SplitReader, StartAt, hash_of};
use alluvium::{Error, Result};
use async_trait::async_trait;

#[cfg(feature = "kafka")]
use super::topic::TopicSource;
use super::{Format, Input, Malformed, Position, Rows, Step, open_rows, with_input_name};

/// Any input.
#[derive(Debug)]
pub(super) enum AnySource {
    Whole(InputSource),
    #[cfg(feature = "kafka")]
    Topic(TopicSource),
}

impl AnySource {
    /// Returns the source of an input. Makes no request.
    ///
    /// * `wanted`: the columns to read.
    /// * `start`: as in [`InputSource`].
    ///
    /// # Errors
    /// As [`Input::check`].
    pub(super) fn new(
        input: &Input,
        format: Option<Format>,
        wanted: &[String],
        start: Option<Position>,
    ) -> Result<Self> {
        let wanted = wanted.to_vec();
        Ok(match input {
            #[cfg(feature = "kafka")]
            Input::Topic(place) => Self::Topic(TopicSource { topic: crate::run::kafka::source(place)?, wanted }),
            _ => Self::Whole(InputSource { input: input.clone(), format, wanted, start }),
        })
    }
}

/// Reads the records of a split.
pub(super) trait RecordReader: SplitReader {
    /// Returns a cell of the current record, by the index of the wanted column; `None` if the record has none.
    fn cell(&self, wanted: usize) -> Option<&[u8]>;

    /// Returns the defect of the current record, if it is malformed.
    fn malformed(&self) -> Option<Malformed>;

    /// Adds the place of the current record to an error.
    fn locate(&self, error: Error) -> Error;
}

#[async_trait]
impl Source for AnySource {
    type Reader = Box<dyn RecordReader>;

    async fn splits(&self) -> Result<Vec<SplitId>> {
        match self {
            Self::Whole(source) => source.splits().await,
            #[cfg(feature = "kafka")]
            Self::Topic(source) => source.splits().await,
        }
    }

    async fn open(&self, split: &SplitId, from: StartAt<'_>) -> Result<Self::Reader> {
        Ok(match self {
            Self::Whole(source) => Box::new(source.open(split, from).await?),
            #[cfg(feature = "kafka")]
            Self::Topic(source) => Box::new(source.open(split, from).await?),
        })
    }

    fn is_bounded(&self) -> bool {
        match self {
            Self::Whole(source) => source.is_bounded(),
            #[cfg(feature = "kafka")]
            Self::Topic(source) => source.is_bounded(),
        }
    }
}

/// Returns a hash of the cells that the job reads; all malformed records have the same.
pub(super) fn hash_of_record(reader: &impl RecordReader, columns: usize) -> u128 {
    let columns = if reader.malformed().is_some() { 0 } else { columns };
    hash_of((0..columns).map(|column| reader.cell(column)))
}

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
        Ok(RowReader { rows, columns: self.wanted.len(), name, malformed: None })
    }
}

/// A reader of rows. A malformed row is a record, too.
#[derive(Debug)]
pub(super) struct RowReader {
    rows: Box<dyn Rows>,
    columns: usize,
    /// The input's name in messages.
    name: String,
    malformed: Option<Malformed>,
}

impl RecordReader for RowReader {
    fn cell(&self, wanted: usize) -> Option<&[u8]> {
        self.rows.cell(wanted)
    }

    fn malformed(&self) -> Option<Malformed> {
        self.malformed
    }

    fn locate(&self, error: Error) -> Error {
        error.with("file", &self.name).with("line", self.rows.line())
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

    fn hash(&self) -> Option<u128> {
        Some(hash_of_record(self, self.columns))
    }

    /// Costs a hash of up to 64 KiB, or of the consumed bytes still buffered.
    fn position(&self) -> Result<SplitPosition> {
        SplitPosition::new(self.rows.position().to_bytes()?)
    }
}
