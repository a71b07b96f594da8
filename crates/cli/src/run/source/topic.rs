//! A topic of Kafka as input: each record is a JSON object.

use std::task::{Context, Poll};

use alluvium::source::{Advance, Position, Source, SplitId, SplitReader, StartAt};
use alluvium::{Error, Result};
use alluvium_kafka::{KafkaReader, KafkaSource};
use async_trait::async_trait;

use super::jsonl::JsonCells;
use super::splits::{RecordReader, hash_of_record};
use super::{MAX_RECORD_BYTES, Malformed, TOO_LONG};

/// A topic whose records are JSON objects.
#[derive(Debug)]
pub(super) struct TopicSource {
    pub(super) topic: KafkaSource,
    /// The columns to read.
    pub(super) wanted: Vec<String>,
}

#[async_trait]
impl Source for TopicSource {
    type Reader = TopicReader;

    async fn splits(&self) -> Result<Vec<SplitId>> {
        self.topic.splits().await
    }

    async fn open(&self, split: &SplitId, from: StartAt<'_>) -> Result<TopicReader> {
        let records = self.topic.open(split, from).await?;
        let (columns, cells) = (self.wanted.len(), JsonCells::new(&self.wanted));
        Ok(TopicReader { split: split.clone(), records, columns, cells, malformed: None })
    }

    fn is_bounded(&self) -> bool {
        self.topic.is_bounded()
    }
}

/// A reader of one partition. A malformed record is a record, too.
#[derive(Debug)]
pub(super) struct TopicReader {
    split: SplitId,
    records: KafkaReader,
    columns: usize,
    cells: JsonCells,
    malformed: Option<Malformed>,
}

impl TopicReader {
    fn parse(&mut self) -> Result<(), Malformed> {
        self.cells.clear();
        let malformed = |reason| Malformed { column: None, reason };
        let value = self.records.current().and_then(|record| record.value.as_ref());
        match value.ok_or_else(|| malformed("no value"))? {
            value if value.len() > MAX_RECORD_BYTES => Err(malformed(TOO_LONG)),
            value => self.cells.parse(value),
        }
    }
}

impl RecordReader for TopicReader {
    fn cell(&self, wanted: usize) -> Option<&[u8]> {
        self.cells.get(wanted)
    }

    fn malformed(&self) -> Option<Malformed> {
        self.malformed
    }

    fn locate(&self, error: Error) -> Error {
        let error = error.with("topic", self.split.name()).with("partition", self.split.number());
        error.with("offset", self.records.offset().unwrap_or_default())
    }
}

impl SplitReader for TopicReader {
    fn advance(&mut self) -> Result<Advance> {
        let found = self.records.advance()?;
        if found == Advance::Record {
            self.malformed = self.parse().err();
        }
        Ok(found)
    }

    fn position(&self) -> Result<Position> {
        self.records.position()
    }

    fn hash(&self) -> Option<u128> {
        Some(hash_of_record(self, self.columns))
    }

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.records.poll_ready(context)
    }
}
