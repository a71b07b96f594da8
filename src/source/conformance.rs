//! The laws of a [`Source`], as a suite that any implementation can run.
//!
//! Each check panics with the law that does not hold.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;

use async_trait::async_trait;

use super::{Advance, Position, Source, SourceReader, SourceSettings, SplitId, SplitReader, StartAt, next_record};
use crate::error::{Error, ErrorKind, Result};
use crate::id::Subtask;
use crate::manifest::Opaque;

/// A source under test, with its input. All records of the input differ.
#[async_trait]
pub trait Harness: Send + Sync {
    /// The source.
    type Source: Source;

    /// Returns a source over the input: from nothing, it starts at the beginning. At least one split has three records, and no split
    /// has more than a few hundred.
    async fn source(&self) -> Self::Source;

    /// Returns the current record of a reader.
    fn record(&self, reader: &<Self::Source as Source>::Reader) -> Vec<u8>;

    /// Adds records to the input, in old splits or new ones, without moving those it has. Returns false if that is impossible.
    ///
    /// # Errors
    /// From the input.
    async fn grow(&self) -> Result<bool>;

    /// Takes away or changes the last record of a split. Returns false if that is impossible.
    ///
    /// # Errors
    /// From the input.
    async fn shrink(&self, split: &SplitId) -> Result<bool>;
}

/// Runs the whole suite.
///
/// # Panics
/// If a law does not hold.
pub async fn run<H: Harness>(harness: &H) {
    let suite = Suite { harness };
    let before = suite.read_all().await;
    assert!(before.values().any(|records| records.len() >= 3), "the input has enough records: {before:?}");
    suite.splits_are_distinct_and_known().await;
    suite.splits_repeat_their_records(&before).await;
    suite.readers_are_independent(&before).await;
    suite.every_position_resumes(&before).await;
    suite.damaged_positions_are_refused().await;
    suite.rescales_read_each_record_once(&before).await;
    suite.growth_adds_records_after_the_old_ones(&before).await;
    suite.positions_beyond_the_end_are_refused().await;
}

struct Suite<'a, H> {
    harness: &'a H,
}

/// The records of each split.
type Records = BTreeMap<SplitId, Vec<Vec<u8>>>;

impl<H: Harness> Suite<'_, H> {
    async fn open(&self, split: &SplitId, from: StartAt<'_>) -> <H::Source as Source>::Reader {
        self.harness.source().await.open(split, from).await.expect("a split opens")
    }

    /// Reads to the next record; `None` where there is none.
    async fn next(&self, reader: &mut <H::Source as Source>::Reader) -> Option<Vec<u8>> {
        next_record(reader).await.expect("a split is readable").then(|| self.harness.record(reader))
    }

    async fn rest(&self, reader: &mut <H::Source as Source>::Reader) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        while let Some(record) = self.next(reader).await {
            records.push(record);
        }
        records
    }

    async fn read_all(&self) -> Records {
        let mut all = Records::new();
        for split in self.splits().await {
            let mut reader = self.open(&split, StartAt::Configured).await;
            all.insert(split, self.rest(&mut reader).await);
        }
        all
    }

    async fn splits(&self) -> Vec<SplitId> {
        self.harness.source().await.splits().await.expect("splits are known")
    }

    async fn splits_are_distinct_and_known(&self) {
        let splits = self.splits().await;
        let distinct: BTreeSet<_> = splits.iter().collect();
        assert_eq!(distinct.len(), splits.len(), "splits are distinct");
        let unknown = SplitId::new("no split has this name", u32::MAX).expect("a short name");
        for from in [StartAt::Configured, StartAt::Beginning] {
            let error = self.harness.source().await.open(&unknown, from).await;
            let error = error.expect_err("an unknown split does not open");
            assert_eq!(error.kind(), ErrorKind::NotFound, "an unknown split is not found: {}", error.chain());
        }
    }

    async fn splits_repeat_their_records(&self, records: &Records) {
        for (split, expected) in records {
            let mut reader = self.open(split, StartAt::Beginning).await;
            assert_eq!(self.rest(&mut reader).await, *expected, "a split has the same records each time");
            assert_eq!(self.next(&mut reader).await, None, "a split stays at its end");
        }
        let all: Vec<_> = records.values().flatten().collect();
        let distinct: BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len(), "each record is in one split, once");
    }

    async fn readers_are_independent(&self, records: &Records) {
        for (split, expected) in records {
            let source = self.harness.source().await;
            let mut ahead = source.open(split, StartAt::Beginning).await.expect("a split opens");
            let mut behind = source.open(split, StartAt::Beginning).await.expect("a split opens twice");
            let half = expected.len() / 2;
            for record in expected.iter().take(half) {
                assert_eq!(self.next(&mut ahead).await.as_ref(), Some(record), "a reader reads in order");
            }
            for record in expected {
                assert_eq!(self.next(&mut behind).await.as_ref(), Some(record), "another reader moves none of its own");
            }
            drop(behind);
            assert_eq!(self.rest(&mut ahead).await, expected.get(half..).unwrap_or_default(), "nor does it end one");
        }
    }

    async fn every_position_resumes(&self, records: &Records) {
        for (split, expected) in records {
            let mut reader = self.open(split, StartAt::Beginning).await;
            for at in 0..=expected.len() {
                let position = position(&reader);
                assert_eq!(position, self::position(&reader), "asking for a position does not move it");
                let mut resumed = self.open(split, StartAt::Position(&position)).await;
                let again = self::position(&resumed);
                let rest = expected.get(at..).unwrap_or_default();
                assert_eq!(self.rest(&mut resumed).await, rest, "a position resumes after {at} records");
                let mut resumed = self.open(split, StartAt::Position(&again)).await;
                assert_eq!(
                    self.rest(&mut resumed).await,
                    rest,
                    "so does the position of a reader that was opened there"
                );
                self.next(&mut reader).await;
            }
        }
    }

    async fn damaged_positions_are_refused(&self) {
        for split in self.splits().await {
            let mut reader = self.open(&split, StartAt::Beginning).await;
            self.next(&mut reader).await;
            let whole = position(&reader);
            let mut damaged: Vec<Vec<u8>> = (0..whole.bytes().len()).map(|end| whole.bytes()[..end].to_vec()).collect();
            damaged.push([whole.bytes(), &[0]].concat());
            damaged.push(vec![0xff; whole.bytes().len()]);
            for bytes in damaged {
                let position = Position::new(bytes.clone()).expect("a short position");
                let opened = self.harness.source().await.open(&split, StartAt::Position(&position)).await;
                let error = opened.err().unwrap_or_else(|| panic!("a damaged position is refused: {bytes:?}"));
                assert_eq!(error.kind(), ErrorKind::Corrupt, "a damaged position is corrupt: {}", error.chain());
            }
        }
    }

    /// Reads with checkpoints at several parallelisms, one after the other; what is read after a checkpoint is lost.
    async fn rescales_read_each_record_once(&self, records: &Records) {
        let total: usize = records.values().map(Vec::len).sum();
        let mut opaques = Vec::new();
        let mut read = Vec::new();
        for parallelism in [1, 3, 2, 2, 4, 1] {
            let is_last = parallelism == 1 && !opaques.is_empty();
            let mut next = Vec::new();
            for subtask in 0..parallelism {
                let mut reader = self.reader((Subtask(subtask), parallelism), &opaques).await.expect("a reader opens");
                let share = if is_last { total + 1 } else { total / 8 + 1 };
                self.read_some(&mut reader, share, &mut read).await;
                next.push(reader.opaque().expect("positions are known"));
                // Lost with the attempt.
                self.read_some(&mut reader, 2, &mut Vec::new()).await;
            }
            opaques = next;
        }
        let mut expected: Vec<_> = records.values().flatten().cloned().collect();
        expected.sort_unstable();
        read.sort_unstable();
        assert_eq!(read, expected, "over rescales, each record is read once");
    }

    async fn reader(&self, place: (Subtask, u32), opaques: &[Opaque]) -> Result<SourceReader<H::Source>> {
        let settings = SourceSettings::default();
        SourceReader::open("input", self.harness.source().await, settings, place, opaques).await
    }

    async fn read_some(&self, reader: &mut SourceReader<H::Source>, mut most: usize, into: &mut Vec<Vec<u8>>) {
        while most > 0 {
            match reader.advance().expect("splits are readable") {
                Advance::Record => {
                    let (_, split) = reader.current().expect("the record's split");
                    into.push(self.harness.record(split));
                    most -= 1;
                }
                Advance::Pending => reader.ready().await,
                Advance::CaughtUp | Advance::End => return,
            }
        }
    }

    async fn growth_adds_records_after_the_old_ones(&self, before: &Records) {
        let mut ends = BTreeMap::new();
        for split in before.keys() {
            let mut reader = self.open(split, StartAt::Beginning).await;
            self.rest(&mut reader).await;
            ends.insert(split.clone(), position(&reader));
        }
        let mut reader = self.reader((Subtask(0), 1), &[]).await.expect("a reader opens");
        self.read_some(&mut reader, usize::MAX, &mut Vec::new()).await;
        let end = reader.opaque().expect("positions are known");
        if !self.harness.grow().await.expect("the input grows") {
            return;
        }
        let mut added = Vec::new();
        for (split, records) in self.read_all().await {
            let old = before.get(&split).map_or(&[][..], Vec::as_slice);
            assert!(records.starts_with(old), "growth keeps the old records: {split}");
            let new = records.get(old.len()..).unwrap_or_default();
            added.extend_from_slice(new);
            if let Some(end) = ends.get(&split) {
                let mut reader = self.open(&split, StartAt::Position(end)).await;
                assert_eq!(
                    self.rest(&mut reader).await,
                    new,
                    "the end's position resumes with what was added: {split}"
                );
            }
        }
        assert!(!added.is_empty(), "the input has grown");
        let mut reader = self.reader((Subtask(0), 1), &[end]).await.expect("a reader opens at the end of the input");
        let mut read = Vec::new();
        self.read_some(&mut reader, usize::MAX, &mut read).await;
        read.sort_unstable();
        added.sort_unstable();
        assert_eq!(read, added, "a restored job reads what was added, new splits from their beginning");
    }

    async fn positions_beyond_the_end_are_refused(&self) {
        let records = self.read_all().await;
        let (split, _) = records.iter().max_by_key(|(_, records)| records.len()).expect("a split");
        let mut reader = self.open(split, StartAt::Beginning).await;
        self.rest(&mut reader).await;
        let position = position(&reader);
        drop(reader);
        if !self.harness.shrink(split).await.expect("the input shrinks") {
            return;
        }
        let error = match self.harness.source().await.open(split, StartAt::Position(&position)).await {
            Err(error) => error,
            Ok(mut reader) => first_error(&mut reader).await.expect("a position after lost records is refused"),
        };
        assert_eq!(error.kind(), ErrorKind::Input, "lost records are an error of the input: {}", error.chain());
    }
}

/// Reads until an error, or the end.
async fn first_error(reader: &mut impl SplitReader) -> Option<Error> {
    loop {
        match reader.advance() {
            Ok(Advance::Record) => {}
            Ok(Advance::Pending) => poll_fn(|context| reader.poll_ready(context)).await,
            Ok(Advance::CaughtUp | Advance::End) => return None,
            Err(error) => return Some(error),
        }
    }
}

fn position(reader: &impl SplitReader) -> Position {
    reader.position().expect("a position is known")
}
