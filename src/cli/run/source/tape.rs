//! An input's bytes, with what it takes to find the same place in the same input again.
//!
//! Invariants:
//! - a check covers bytes that were consumed, all of them and none after: parsers get at what is ahead only through
//!   [`Tape::fill`], and tell with [`Tape::consume`] what they took;
//! - memory is bounded: consumed bytes are kept only as far as a check needs them.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

use alluvium::{Error, Result};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

/// How much before the position the check of a file covers.
const TAIL_BYTES: usize = 64 * 1024;

/// How much is read at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// Proof that the input before a position is what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Check {
    /// The last bytes before it, for files, in which one can seek.
    Tail {
        /// How many.
        bytes: usize,
        /// Their XXH3-128, in hexadecimal.
        xxh3: String,
    },
    /// Everything before it, for what must be read from the start anyway.
    Whole {
        /// XXH3-128 of it, in hexadecimal.
        xxh3: String,
    },
    /// Nothing: generated input cannot change.
    Nothing,
}

/// Where bytes come from.
pub(super) enum Stream {
    /// A plain file.
    File(File),
    /// What can be read once, in order.
    Once(Box<dyn Read + Send>),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(buffer),
            Self::Once(stream) => stream.read(buffer),
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File(_) => "File",
            Self::Once(_) => "Once",
        })
    }
}

/// A stream of bytes and a position in it.
pub(super) struct Tape {
    stream: Stream,
    /// A part of the stream: consumed bytes, then those ahead.
    kept: Vec<u8>,
    /// Where in the stream `kept` starts.
    start: u64,
    /// How many bytes of `kept` are consumed.
    consumed: usize,
    /// For [`Stream::Once`]: the hash of everything before `kept`.
    before: Xxh3Default,
    /// Whether the stream has ended; a terminal must not be asked twice.
    ended: bool,
}

impl fmt::Debug for Tape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tape").field("stream", &self.stream).field("position", &self.position()).finish_non_exhaustive()
    }
}

impl Tape {
    /// Returns the tape at the start of `stream`.
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, kept: Vec::new(), start: 0, consumed: 0, before: Xxh3Default::new(), ended: false }
    }

    /// Returns how many bytes are consumed.
    pub(super) fn position(&self) -> u64 {
        self.start + self.consumed as u64
    }

    /// Returns what is ahead, after reading some if there was nothing; empty at the end.
    pub(super) fn fill(&mut self) -> io::Result<&[u8]> {
        if self.consumed == self.kept.len() {
            self.forget();
            self.read_more()?;
        }
        Ok(self.ahead())
    }

    /// Returns what is ahead, after reading until it holds `lines` whole lines, a chunk, or the rest.
    pub(super) fn look_ahead(&mut self, lines: usize) -> io::Result<&[u8]> {
        let enough =
            |ahead: &[u8]| ahead.len() >= CHUNK_BYTES || ahead.iter().filter(|b| **b == b'\n').count() >= lines;
        while !enough(self.ahead()) && self.read_more()? {}
        Ok(self.ahead())
    }

    /// Consumes bytes that [`Tape::fill`] returned.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.consumed = self.kept.len().min(self.consumed + bytes);
    }

    /// Returns the check of what is consumed.
    pub(super) fn check(&self) -> Check {
        let consumed = self.kept.get(..self.consumed).unwrap_or_default();
        match self.stream {
            Stream::File(_) => {
                let tail = tail_of(consumed);
                Check::Tail { bytes: tail.len(), xxh3: format!("{:032x}", xxh3_128(tail)) }
            }
            Stream::Once(_) => {
                let mut whole = self.before.clone();
                whole.update(consumed);
                Check::Whole { xxh3: format!("{:032x}", whole.digest128()) }
            }
        }
    }

    /// Goes on to `position` and compares what stands before it.
    ///
    /// # Errors
    /// `Input` if that is not what `check` was made of, or cannot be read.
    pub(super) fn resume(&mut self, position: u64, check: &Check) -> Result<()> {
        let read = match (&mut self.stream, check) {
            (Stream::File(file), Check::Tail { bytes, .. }) if *bytes <= TAIL_BYTES && *bytes as u64 <= position => {
                self.kept = vec![0; *bytes];
                (self.start, self.consumed, self.ended) = (position - *bytes as u64, *bytes, false);
                file.seek(SeekFrom::Start(self.start)).and_then(|_| file.read_exact(&mut self.kept))
            }
            (Stream::Once(_), Check::Whole { .. }) => self.skip_to(position),
            _ => Err(ErrorKind::InvalidData.into()),
        };
        let changed = || Error::input("input changed since the checkpoint").with("offset", position);
        match read {
            Ok(()) if self.position() == position && self.check() == *check => Ok(()),
            Ok(()) => Err(changed()),
            Err(source) if matches!(source.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData) => Err(changed()),
            Err(source) => Err(Error::input("cannot read input").with_source(source)),
        }
    }

    /// Consumes everything up to `position`, or to the end.
    fn skip_to(&mut self, position: u64) -> io::Result<()> {
        while self.position() < position {
            let ahead = self.fill()?.len();
            if ahead == 0 {
                break;
            }
            let missing = usize::try_from(position - self.position()).unwrap_or(usize::MAX);
            self.consume(ahead.min(missing));
        }
        Ok(())
    }

    fn ahead(&self) -> &[u8] {
        self.kept.get(self.consumed..).unwrap_or_default()
    }

    /// Drops consumed bytes that no check needs.
    fn forget(&mut self) {
        let consumed = self.kept.get(..self.consumed).unwrap_or_default();
        let spare = match self.stream {
            Stream::File(_) => consumed.len() - tail_of(consumed).len(),
            Stream::Once(_) => {
                self.before.update(consumed);
                consumed.len()
            }
        };
        self.kept.drain(..spare);
        self.start += spare as u64;
        self.consumed -= spare;
    }

    /// Reads a chunk behind what is kept and returns whether there was one.
    fn read_more(&mut self) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let length = self.kept.len();
        self.kept.resize(length + CHUNK_BYTES, 0);
        let read = loop {
            match self.stream.read(self.kept.get_mut(length..).unwrap_or_default()) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.kept.truncate(length + read.as_ref().copied().unwrap_or(0));
        self.ended = read? == 0;
        Ok(!self.ended)
    }
}

fn tail_of(consumed: &[u8]) -> &[u8] {
    consumed.get(consumed.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use super::*;

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|i| u8::try_from(i * i % 251).unwrap()).collect()
    }

    fn file(content: &[u8]) -> Tape {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        Tape::new(Stream::File(file))
    }

    fn once(content: &[u8]) -> Tape {
        Tape::new(Stream::Once(Box::new(Cursor::new(content.to_vec()))))
    }

    fn rest(mut tape: Tape) -> Vec<u8> {
        let mut rest = Vec::new();
        loop {
            let ahead = tape.fill().unwrap();
            if ahead.is_empty() {
                return rest;
            }
            rest.extend_from_slice(ahead);
            let read = ahead.len();
            tape.consume(read);
            assert!(tape.kept.len() <= TAIL_BYTES + CHUNK_BYTES, "memory is bounded");
        }
    }

    #[test]
    fn resuming_gives_the_rest_and_checks_what_was_before() {
        let length = 3 * CHUNK_BYTES + 17;
        let content = content(length);
        for open in [file, once] {
            assert_eq!(rest(open(&content)), content);
            for position in [0, 1, TAIL_BYTES, TAIL_BYTES + 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 5, length] {
                let mut tape = open(&content);
                tape.skip_to(position as u64).unwrap();
                let check = tape.check();
                let mut resumed = open(&content);
                resumed.resume(position as u64, &check).unwrap();
                assert_eq!(resumed.check(), check);
                assert!(rest(resumed) == content[position..], "{position}");
                // A check is of one position only, and of that content only.
                assert!(position == 0 || open(&content).resume(position as u64 - 1, &check).is_err());
                assert!(position == 0 || open(&content[..position - 1]).resume(position as u64, &check).is_err());
                let mut other = content.clone();
                if let Some(byte) = position.checked_sub(1).and_then(|last| other.get_mut(last)) {
                    *byte ^= 1;
                    assert!(open(&other).resume(position as u64, &check).is_err());
                }
            }
        }
    }

    #[test]
    fn a_whole_check_sees_the_first_byte() {
        let mut content = content(2 * CHUNK_BYTES);
        let mut tape = once(&content);
        tape.skip_to(content.len() as u64).unwrap();
        content[0] ^= 1;
        let error = once(&content).resume(content.len() as u64, &tape.check()).unwrap_err();
        assert_eq!(error.kind(), alluvium::ErrorKind::Input);
    }

    #[test]
    fn checks_of_another_kind_are_refused() {
        let content = content(100);
        let whole = once(&content).check();
        let huge = Check::Tail { bytes: usize::MAX, xxh3: String::new() };
        for check in [whole, Check::Nothing, huge] {
            assert!(file(&content).resume(0, &check).is_err());
        }
        assert!(once(&content).resume(0, &file(&content).check()).is_err());
    }

    #[test]
    fn looking_ahead_consumes_nothing() {
        let lines = b"a\nb\nc\n";
        let mut tape = Tape::new(Stream::Once(Box::new(
            lines.chunks(1).fold(Box::new(io::empty()) as Box<dyn Read + Send>, |all, chunk| {
                Box::new(all.chain(Cursor::new(chunk.to_vec())))
            }),
        )));
        assert_eq!(tape.look_ahead(2).unwrap(), b"a\nb\n");
        assert_eq!(tape.look_ahead(9).unwrap(), lines);
        assert_eq!((tape.position(), rest(tape)), (0, lines.to_vec()));
    }
}
