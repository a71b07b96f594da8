//! A file of gzip members, one behind the other, as `cat a.gz b.gz` gives it.
//!
//! What follows the last member may be zeros alone: tapes and block devices pad with them, and other readers of gzip
//! skip them. Anything else would be lost in silence, and is an error.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};

use flate2::bufread::GzDecoder;

/// The content of all members.
#[derive(Debug)]
pub(super) struct Members<R> {
    /// The present member; none behind the last.
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

/// Returns whether a member follows; if not, all that is left is padding.
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
            Some(_) => return Err(io::Error::new(ErrorKind::InvalidData, "garbage behind the last gzip member")),
        }
        rest.consume(zeros);
    }
}
