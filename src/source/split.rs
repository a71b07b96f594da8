//! What an input must do to be read exactly once.

use std::fmt::{self, Debug};
use std::future::poll_fn;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

use crate::error::{Error, Result};
use crate::id::Subtask;

/// Most bytes of a split's name, and of a position.
const MAX_NAME_BYTES: usize = 1024;
const MAX_POSITION_BYTES: usize = 64 << 10;

/// An input that can be read again from any position: a topic, a folder of files, a generator. The `conformance` suite of the module
/// with the same name checks an implementation.
#[async_trait]
pub trait Source: Debug + Send + Sync + 'static {
    /// Reads one split.
    type Reader: SplitReader;

    /// Returns the splits that exist now, in any order. Later calls may return more.
    ///
    /// # Errors
    /// `NotFound` if the input does not exist, `Denied`, `Config`; `Unavailable` if it does not answer.
    async fn splits(&self) -> Result<Vec<SplitId>>;

    /// Opens a split. The record at `from` must still be there: a source never starts elsewhere in silence.
    ///
    /// # Errors
    /// `NotFound` if the split does not exist; `Input` if its records at the position are gone, or are others than they were;
    /// `Corrupt` if the position is not one of this source; others as [`splits`](Self::splits).
    async fn open(&self, split: &SplitId, from: StartAt<'_>) -> Result<Self::Reader>;

    /// Returns whether the input has an end, so that a subtask without splits is at it. Default: yes.
    fn is_bounded(&self) -> bool {
        true
    }
}

/// Reads the records of one split in order. The current record is the reader's own affair: an engine gets at it through
/// [`SourceReader::current`](super::SourceReader::current).
pub trait SplitReader: Debug + Send + 'static {
    /// Moves to the next record, without waiting for one to arrive.
    ///
    /// # Errors
    /// `Input` if the record cannot be read, or is no longer there; `NotFound` if the split is gone; `Unavailable` or `Denied`. After
    /// an error, the reader is not used any more.
    fn advance(&mut self) -> Result<Advance>;

    /// Returns the position after the current record, or where the reader was opened.
    ///
    /// # Errors
    /// From reading what proves the position.
    fn position(&self) -> Result<Position>;

    /// Returns a hash of the current record, the same whenever it is read: of its content, so that a record that is lost, altered or
    /// there twice can be found later. [`hash_of`](super::hash_of) makes one. Default: none, records are only counted.
    fn hash(&self) -> Option<u128> {
        None
    }

    /// Returns `Ready` once [`advance`](Self::advance) may have something new, and else wakes the context's task when it has. Default:
    /// ready at once, as for files.
    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

impl<R: SplitReader + ?Sized> SplitReader for Box<R> {
    fn advance(&mut self) -> Result<Advance> {
        (**self).advance()
    }

    fn position(&self) -> Result<Position> {
        (**self).position()
    }

    fn hash(&self) -> Option<u128> {
        (**self).hash()
    }

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        (**self).poll_ready(context)
    }
}

/// Moves to the next record, and waits for one that may be on its way; returns false if there is none now.
///
/// # Errors
/// As [`SplitReader::advance`].
pub async fn next_record(reader: &mut impl SplitReader) -> Result<bool> {
    loop {
        match reader.advance()? {
            Advance::Record => return Ok(true),
            Advance::Pending => poll_fn(|context| reader.poll_ready(context)).await,
            Advance::CaughtUp | Advance::End => return Ok(false),
        }
    }
}

/// Returns a hash of a record that consists of `pieces`: its columns, or its key and its value. `None` and an empty piece differ.
///
/// It is XXH3 of 128 bits, of each piece with a seed of 64 bits from the hash before: fast, and no defence against records that somebody
/// crafts.
#[must_use]
pub fn hash_of<'a>(pieces: impl IntoIterator<Item = Option<&'a [u8]>>) -> u128 {
    pieces.into_iter().fold(0, |hash: u128, piece| {
        #[expect(clippy::cast_possible_truncation, reason = "a seed has half of the bits")]
        let seed = (hash ^ (hash >> 64)) as u64;
        match piece {
            Some(piece) => xxh3_128_with_seed(piece, seed),
            None => xxh3_128_with_seed(&[], !seed),
        }
    })
}

/// What moving to the next record has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Advance {
    /// A record.
    Record,
    /// None is at hand; whether there is one is not known, as the system that has it has not answered yet.
    Pending,
    /// There is none now. More may come.
    CaughtUp,
    /// There is none, and in this run there will be none.
    End,
}

/// Where to start in a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartAt<'a> {
    /// Where the source's settings say: the job starts from nothing.
    Configured,
    /// At the first record: the split has appeared since the job started, and none of its records may be missed.
    Beginning,
    /// At the position of a checkpoint.
    Position(&'a Position),
}

/// A place between two records of a split, in the source's own encoding.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Position(Bytes);

impl Position {
    /// Returns the position that `bytes` encodes.
    ///
    /// # Errors
    /// `Limit` if they are more than 64 KiB.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self> {
        let bytes = bytes.into();
        if bytes.len() > MAX_POSITION_BYTES {
            let error = Error::limit("position of a split is too long").with("bytes", bytes.len());
            return Err(error.with("limit", MAX_POSITION_BYTES));
        }
        Ok(Self(bytes))
    }

    /// Returns its encoding.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A part of an input with an order of its own: a partition of a topic, a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SplitId {
    name: String,
    number: u32,
}

impl SplitId {
    /// Returns the split `number` of those called `name`.
    ///
    /// Splits with one name and consecutive numbers are spread evenly over subtasks.
    ///
    /// # Errors
    /// `Limit` if the name has more than 1024 bytes.
    pub fn new(name: impl Into<String>, number: u32) -> Result<Self> {
        let name = name.into();
        if name.len() > MAX_NAME_BYTES {
            let error = Error::limit("name of a split is too long").with("bytes", name.len());
            return Err(error.with("limit", MAX_NAME_BYTES));
        }
        Ok(Self { name, number })
    }

    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its number among those of the same name.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// Returns the subtask that reads it.
    ///
    /// * `parallelism`: the number of subtasks; 0 counts as 1.
    #[must_use]
    pub fn owner(&self, parallelism: u32) -> Subtask {
        let place = xxh3_64(self.name.as_bytes()).wrapping_add(u64::from(self.number)) % u64::from(parallelism.max(1));
        Subtask(u32::try_from(place).unwrap_or_default())
    }
}

impl fmt::Display for SplitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn splits_of_one_name_are_spread_evenly() {
        for parallelism in 1..=7 {
            let mut counts = vec![0; parallelism as usize];
            for number in 0..21 {
                let owner = SplitId::new("clicks", number).unwrap().owner(parallelism);
                counts[owner.0 as usize] += 1;
            }
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(most - least <= 1, "{counts:?}");
        }
    }

    #[test]
    fn owners_stay_as_they_are() {
        // They are part of what a running job relies on: all its processes must agree.
        let owners = ["a", "clicks"].map(|name| SplitId::new(name, 5).unwrap().owner(1000).0);
        assert_eq!(owners, [724, 84]);
    }

    #[test]
    fn records_with_other_pieces_have_other_hashes() {
        let records: [&[Option<&[u8]>]; 8] = [
            &[],
            &[None],
            &[Some(b"")],
            &[Some(b""), None],
            &[None, Some(b"")],
            &[Some(b"ab"), Some(b"c")],
            &[Some(b"a"), Some(b"bc")],
            &[Some(b"bc"), Some(b"a")],
        ];
        let hashes: std::collections::BTreeSet<_> =
            records.iter().map(|pieces| hash_of(pieces.iter().copied())).collect();
        assert_eq!(hashes.len(), records.len());
        // Hashes are part of checkpoints.
        assert_eq!(hash_of([Some(&b"key"[..]), None]), 28_738_886_132_590_228_964_669_940_130_349_908_086);
    }

    #[test]
    fn names_and_positions_are_bounded() {
        assert_eq!(SplitId::new("x".repeat(1025), 0).unwrap_err().kind(), ErrorKind::Limit);
        assert_eq!(Position::new(vec![0; (64 << 10) + 1]).unwrap_err().kind(), ErrorKind::Limit);
        assert_eq!(Position::new(vec![1, 2]).unwrap().bytes(), [1, 2]);
    }
}
