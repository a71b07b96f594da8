//! A topic in memory, with planted flaws.

use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use alluvium::source::conformance::Harness;
use alluvium::source::{Advance, Position, Source, SplitId, SplitReader, StartAt};
use alluvium::{Error, Result, Timestamp};
use async_trait::async_trait;

/// A planted flaw of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// A position is that of the current record.
    PositionBefore,
    /// A position is that of the record that was fetched last.
    PositionAhead,
    /// Readers of a partition share a cursor.
    SharedCursor,
    /// A position after lost records starts at what is there.
    ResetToEnd,
    /// A damaged position starts at the beginning.
    ResetToStart,
    /// A new partition starts at its end.
    NewAtEnd,
    /// A restored reader takes what is there now for the end.
    NoGrowth,
    /// Any split opens.
    AnySplit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub time: Timestamp,
    pub number: u64,
}

#[derive(Debug, Default)]
struct Partition {
    entries: Vec<Entry>,
    /// Used with a flaw.
    cursor: usize,
}

#[derive(Debug, Default)]
struct State {
    partitions: Vec<Partition>,
    /// Whether it has an end.
    is_closed: bool,
    /// Whether it answers.
    is_away: bool,
    wakers: Vec<Waker>,
}

/// A topic in memory. Its clones share the content.
#[derive(Debug, Clone, Default)]
pub struct MemoryTopic {
    state: Arc<Mutex<State>>,
    flaw: Option<Flaw>,
    /// Whether a job that starts from nothing starts at the end.
    starts_at_end: bool,
}

impl MemoryTopic {
    pub fn new(partitions: usize) -> Self {
        let topic = Self::default();
        (0..partitions).for_each(|_| topic.add_partition());
        topic
    }

    pub fn with_flaw(mut self, flaw: Flaw) -> Self {
        self.flaw = Some(flaw);
        self
    }

    /// Lets jobs that start from nothing start at the end.
    pub fn starting_at_end(mut self) -> Self {
        self.starts_at_end = true;
        self
    }

    pub fn add_partition(&self) {
        self.state().partitions.push(Partition::default());
    }

    pub fn partitions(&self) -> usize {
        self.state().partitions.len()
    }

    pub fn append(&self, partition: usize, time: i64, number: u64) {
        let entry = Entry { time: Timestamp::from_millis(time), number };
        let mut state = self.state();
        state.partitions[partition].entries.push(entry);
        state.wakers.drain(..).for_each(Waker::wake);
    }

    /// Takes away the last record of a partition.
    pub fn lose_last(&self, partition: usize) {
        self.state().partitions[partition].entries.pop();
    }

    /// Says that no more records come.
    pub fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        state.wakers.drain(..).for_each(Waker::wake);
    }

    /// Says whether the topic answers.
    pub fn set_away(&self, is_away: bool) {
        self.state().is_away = is_away;
    }

    pub fn records(&self) -> Vec<u64> {
        self.state()
            .partitions
            .iter()
            .flat_map(|partition| partition.entries.iter().map(|entry| entry.number))
            .collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    fn start(&self, partition: usize, from: StartAt<'_>) -> Result<usize> {
        let end = self.state().partitions[partition].entries.len();
        let position = match from {
            StartAt::Position(position) => position,
            StartAt::Configured if self.starts_at_end => return Ok(end),
            StartAt::Beginning if self.has(Flaw::NewAtEnd) && partition > 1 => return Ok(end),
            _ => return Ok(0),
        };
        match position.bytes().try_into().map(u32::from_le_bytes) {
            Ok(at) if at as usize <= end => Ok(at as usize),
            Ok(at) if at < 1 << 20 && self.has(Flaw::ResetToEnd) => Ok(end),
            Ok(at) if at < 1 << 20 => Err(Error::input("records before the position are gone").with("position", at)),
            _ if self.has(Flaw::ResetToStart) => Ok(0),
            _ => Err(Error::corrupt("position is damaged")),
        }
    }
}

#[async_trait]
impl Source for MemoryTopic {
    type Reader = PartitionReader;

    async fn splits(&self) -> Result<Vec<SplitId>> {
        (0..self.partitions()).map(|number| SplitId::new("topic", u32::try_from(number).unwrap())).collect()
    }

    async fn open(&self, split: &SplitId, from: StartAt<'_>) -> Result<PartitionReader> {
        let known = self.splits().await?.contains(split);
        if !known && !self.has(Flaw::AnySplit) {
            return Err(Error::not_found("no such partition"));
        }
        let partition = if known { split.number() as usize } else { 0 };
        let at = self.start(partition, from)?;
        let is_restored = matches!(from, StartAt::Position(_));
        let end = (self.has(Flaw::NoGrowth) && is_restored).then_some(at);
        if self.has(Flaw::SharedCursor) {
            self.state().partitions[partition].cursor = at;
        }
        Ok(PartitionReader { topic: self.clone(), partition, at, end, current: None })
    }

    fn is_bounded(&self) -> bool {
        self.state().is_closed
    }
}

#[derive(Debug)]
pub struct PartitionReader {
    topic: MemoryTopic,
    partition: usize,
    at: usize,
    end: Option<usize>,
    current: Option<Entry>,
}

impl PartitionReader {
    /// Returns the current record.
    pub fn entry(&self) -> Entry {
        self.current.expect("a current record")
    }
}

impl SplitReader for PartitionReader {
    fn advance(&mut self) -> Result<Advance> {
        let mut state = self.topic.state();
        let (is_away, is_closed) = (state.is_away, state.is_closed);
        let partition = &mut state.partitions[self.partition];
        if is_away {
            return Ok(Advance::Pending);
        }
        let is_shared = self.topic.has(Flaw::SharedCursor);
        let at = if is_shared { partition.cursor } else { self.at };
        let found = partition.entries.get(at).filter(|_| self.end.is_none());
        let Some(entry) = found else {
            return Ok(if is_closed { Advance::End } else { Advance::CaughtUp });
        };
        self.current = Some(*entry);
        self.at = at + 1;
        partition.cursor = self.at;
        Ok(Advance::Record)
    }

    fn position(&self) -> Result<Position> {
        let at = match self.topic.flaw {
            Some(Flaw::PositionBefore) => self.at.saturating_sub(1),
            Some(Flaw::PositionAhead) => self.topic.state().partitions[self.partition].entries.len().min(self.at + 1),
            _ => self.at,
        };
        Position::new(u32::try_from(at).unwrap().to_le_bytes().to_vec())
    }

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.topic.state();
        if state.is_closed || (!state.is_away && self.at < state.partitions[self.partition].entries.len()) {
            return Poll::Ready(());
        }
        state.wakers.push(context.waker().clone());
        Poll::Pending
    }
}

#[async_trait]
impl Harness for MemoryTopic {
    type Source = Self;

    async fn source(&self) -> Self {
        self.clone()
    }

    fn record(&self, reader: &PartitionReader) -> Vec<u8> {
        reader.entry().number.to_le_bytes().to_vec()
    }

    async fn grow(&self) -> Result<bool> {
        let first = self.records().len() as u64 * 1000;
        self.add_partition();
        for partition in 0..self.partitions() {
            self.append(partition, 0, first + partition as u64);
        }
        Ok(true)
    }

    async fn shrink(&self, split: &SplitId) -> Result<bool> {
        self.lose_last(split.number() as usize);
        Ok(true)
    }
}
