//! A file of concatenated gzip members, as from `cat a.gz b.gz`.
//!
//! Only zeros may follow the last member: tapes and block devices pad with zeros, and other gzip readers skip them.
//! Anything else is an error, because ignoring it would lose data silently.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};

use flate2::bufread::GzDecoder;

/// The concatenated content of all members.
#[derive(Debug)]
pub(super) struct Members<R> {
    /// The current member; `None` after the last.
    member: Option<GzDecoder<BufReader<R>>>,
}

impl<R: Read> Members<R> {
    /// Returns the content of the members in `file`.
    pub(super) fn new(file: R) -> Self {
        Self { member: Some(GzDecoder::new(BufReader::new(file))) }
    }
}

impl<R: Read> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let read = member.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let more = another_follows(member.get_mut())?;
            let rest = self.member.take().map(GzDecoder::into_inner);
            self.member = rest.filter(|_| more).map(GzDecoder::new);
        }
        Ok(0)
    }
}

/// Returns whether a member follows. If none does, consumes the padding.
fn another_follows(rest: &mut impl BufRead) -> io::Result<bool> {
    let mut padded = false;
    loop {
        let ahead = match rest.fill_buf() {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            ahead => ahead?,
        };
        let zeros = ahead.iter().take_while(|byte| **byte == 0).count();
        match ahead.get(zeros) {
            None if ahead.is_empty() => return Ok(false),
            None => padded = true,
            Some(0x1f) if zeros == 0 && !padded => return Ok(true),
            Some(_) => return Err(io::Error::new(ErrorKind::InvalidData, "garbage after the last gzip member")),
        }
        rest.consume(zeros);
    }
}
