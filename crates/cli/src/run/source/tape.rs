//! An input's bytes, with positions that a later run can resume from and verify.
//!
//! Invariants:
//! - a check covers exactly the consumed bytes: parsers see bytes ahead only through [`Tape::fill`], and report the
//!   bytes they use with [`Tape::consume`];
//! - memory is bounded: consumed bytes stay in the buffer only while a check needs them or a parser holds them. Parsers
//!   call [`Tape::hold`] at the start of a record, and bound the record's length.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

use alluvium::{Error, Result};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

/// Bytes before the position that a file's check covers.
const TAIL_BYTES: usize = 64 * 1024;

/// Bytes per read.
const CHUNK_BYTES: usize = 256 * 1024;

/// Proof that the input before a position is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Check {
    /// The last bytes before the position, for files, which can seek.
    Tail {
        /// The number of bytes.
        bytes: usize,
        /// XXH3-128 of the bytes, in hexadecimal.
        xxh3: String,
    },
    /// All bytes before the position, for streams, which are read from the start anyway.
    Whole {
        /// XXH3-128 of the bytes, in hexadecimal.
        xxh3: String,
    },
    /// Nothing: generated input cannot change.
    Nothing,
}

/// A source of bytes.
pub(super) enum Stream {
    /// A plain file.
    File(File),
    /// A stream that can be read once, in order.
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
    /// A part of the stream: consumed bytes, then bytes ahead.
    buffer: Vec<u8>,
    /// The offset of `buffer` in the stream.
    start: u64,
    /// The number of consumed bytes in `buffer`.
    consumed: usize,
    /// The offset in the stream from which a parser holds bytes, to be able to rewind.
    held: Option<u64>,
    /// For [`Stream::Once`]: the hash of all bytes before `buffer`.
    prefix_hash: Xxh3Default,
    /// Whether the stream has ended. A terminal is not read again after its end.
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
        Self {
            stream,
            buffer: Vec::new(),
            start: 0,
            consumed: 0,
            held: None,
            prefix_hash: Xxh3Default::new(),
            ended: false,
        }
    }

    /// Returns the number of bytes consumed.
    pub(super) fn position(&self) -> u64 {
        self.start + self.consumed as u64
    }

    /// Returns the bytes ahead, reading a chunk if there are none; empty at the end.
    pub(super) fn fill(&mut self) -> io::Result<&[u8]> {
        if self.consumed == self.buffer.len() {
            self.discard();
            self.read_more()?;
        }
        Ok(self.ahead())
    }

    /// Returns the bytes ahead, reading until they hold `lines` whole lines, a chunk, or the rest.
    pub(super) fn look_ahead(&mut self, lines: usize) -> io::Result<&[u8]> {
        let enough =
            |ahead: &[u8]| ahead.len() >= CHUNK_BYTES || ahead.iter().filter(|b| **b == b'\n').count() >= lines;
        while !enough(self.ahead()) && self.read_more()? {}
        Ok(self.ahead())
    }

    /// Returns whether the stream has ended.
    pub(super) fn at_end(&mut self) -> io::Result<bool> {
        Ok(self.fill()?.is_empty())
    }

    /// Consumes bytes that [`Tape::fill`] returned.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.consumed = self.buffer.len().min(self.consumed + bytes);
    }

    /// Keeps bytes consumed from here on, until [`Tape::release`].
    pub(super) fn hold(&mut self) {
        self.held = Some(self.position());
    }

    /// Returns the bytes consumed since [`Tape::hold`].
    pub(super) fn held(&self) -> &[u8] {
        self.buffer.get(self.held_from()..self.consumed).unwrap_or_default()
    }

    /// Moves back to `bytes` after the position of [`Tape::hold`].
    pub(super) fn rewind(&mut self, bytes: usize) {
        self.consumed = self.consumed.min(self.held_from() + bytes);
    }

    /// Ends [`Tape::hold`].
    pub(super) fn release(&mut self) {
        self.held = None;
    }

    /// Returns the start of the held bytes in `buffer`; if none are held, the end of the consumed bytes.
    fn held_from(&self) -> usize {
        let held = self.held.and_then(|held| usize::try_from(held - self.start).ok());
        held.unwrap_or(self.consumed)
    }

    /// Skips a UTF-8 byte order mark at the start of the input.
    ///
    /// # Errors
    /// `Input` if the input starts with another encoding's mark, or cannot be read.
    pub(super) fn skip_byte_order_mark(&mut self) -> Result<()> {
        while self.ahead().len() < 4 && self.read_more().map_err(super::cannot_read)? {}
        match self.ahead() {
            [0xef, 0xbb, 0xbf, ..] => self.consume(3),
            [0xfe, 0xff, ..] | [0xff, 0xfe, ..] | [0, 0, 0xfe, 0xff, ..] => {
                return Err(Error::input("input is UTF-16 or UTF-32: only UTF-8 can be read"));
            }
            _ => {}
        }
        Ok(())
    }

    /// Consumes the rest of a line, without its end.
    pub(super) fn skip_line(&mut self, is_end: impl Fn(u8) -> bool) -> io::Result<()> {
        loop {
            let ahead = self.fill()?;
            let (end, length) = (ahead.iter().position(|byte| is_end(*byte)), ahead.len());
            self.consume(end.unwrap_or(length));
            if end.is_some() || length == 0 {
                return Ok(());
            }
        }
    }

    /// Returns the check of the consumed bytes.
    pub(super) fn check(&self) -> Check {
        let consumed = self.buffer.get(..self.consumed).unwrap_or_default();
        match self.stream {
            Stream::File(_) => {
                let tail = tail_of(consumed);
                Check::Tail { bytes: tail.len(), xxh3: format!("{:032x}", xxh3_128(tail)) }
            }
            Stream::Once(_) => {
                let mut whole = self.prefix_hash.clone();
                whole.update(consumed);
                Check::Whole { xxh3: format!("{:032x}", whole.digest128()) }
            }
        }
    }

    /// Moves to `position` and verifies the bytes before it.
    ///
    /// # Errors
    /// `Input` if these bytes do not match `check`, or cannot be read.
    pub(super) fn resume(&mut self, position: u64, check: &Check) -> Result<()> {
        let read = match (&mut self.stream, check) {
            (Stream::File(file), Check::Tail { bytes, .. }) if *bytes <= TAIL_BYTES && *bytes as u64 <= position => {
                self.buffer = vec![0; *bytes];
                (self.start, self.consumed, self.ended) = (position - *bytes as u64, *bytes, false);
                file.seek(SeekFrom::Start(self.start)).and_then(|_| file.read_exact(&mut self.buffer))
            }
            (Stream::Once(_), Check::Whole { .. }) => self.skip_to(position),
            _ => Err(ErrorKind::InvalidData.into()),
        };
        let changed = || super::changed(position);
        match read {
            Ok(()) if self.position() == position && self.check() == *check => Ok(()),
            Ok(()) => Err(changed()),
            Err(source) if matches!(source.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData) => Err(changed()),
            Err(source) => Err(super::cannot_read(source)),
        }
    }

    /// Consumes the bytes up to `position`, or to the end. Moves back within the buffer if a parser, as by reading the
    /// header, has consumed more.
    fn skip_to(&mut self, position: u64) -> io::Result<()> {
        if let Some(offset) = position.checked_sub(self.start).and_then(|offset| usize::try_from(offset).ok()) {
            self.consumed = self.consumed.min(offset);
        }
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
        self.buffer.get(self.consumed..).unwrap_or_default()
    }

    /// Discards consumed bytes that are not held and that no check needs, including a check at the start of the held
    /// bytes.
    fn discard(&mut self) {
        let done = self.buffer.get(..self.held_from()).unwrap_or_default();
        let spare = match self.stream {
            Stream::File(_) => done.len() - tail_of(done).len(),
            Stream::Once(_) => {
                self.prefix_hash.update(done);
                done.len()
            }
        };
        self.buffer.drain(..spare);
        self.start += spare as u64;
        self.consumed -= spare;
    }

    /// Appends a chunk to the buffer; returns false at the end of the stream.
    fn read_more(&mut self) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let length = self.buffer.len();
        self.buffer.resize(length + CHUNK_BYTES, 0);
        let read = loop {
            match self.stream.read(self.buffer.get_mut(length..).unwrap_or_default()) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.buffer.truncate(length + read.as_ref().copied().unwrap_or(0));
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
            assert!(tape.buffer.len() <= TAIL_BYTES + CHUNK_BYTES, "memory is bounded");
        }
    }

    #[test]
    fn a_resumed_tape_yields_the_rest_and_verifies_the_bytes_before() {
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
                // A check matches one position and one content only.
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
    fn a_rewind_into_held_bytes_preserves_the_check() {
        let content = content(3 * CHUNK_BYTES + 17);
        for open in [file, once] {
            for (at, back) in [(0, 1), (TAIL_BYTES + 5, 0), (CHUNK_BYTES - 1, 2), (CHUNK_BYTES + 9, CHUNK_BYTES)] {
                let mut plain = open(&content);
                plain.skip_to((at + back) as u64).unwrap();
                let mut tape = open(&content);
                tape.skip_to(at as u64).unwrap();
                tape.hold();
                tape.skip_to(content.len() as u64).unwrap();
                assert!(tape.held() == &content[at..]);
                assert!(tape.fill().unwrap().is_empty());
                tape.rewind(back);
                tape.release();
                assert_eq!((tape.position(), tape.check()), (plain.position(), plain.check()), "{at} {back}");
                assert!(tape.ahead() == &content[at + back..]);
            }
        }
    }

    #[test]
    fn a_whole_check_covers_the_first_byte() {
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
    fn look_ahead_consumes_nothing() {
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
