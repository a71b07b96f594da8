//! A frame around bytes that are not an object of their own: magic, version, required flags, length, body, checksum.

use bytes::Bytes;

use super::bytes::{Reader, put_checksum, put_u16, put_u32};
use crate::error::{Error, Result, broken};

/// Bytes of a frame beside its body.
const FRAME_BYTES: usize = 16;

/// A kind of framed bytes.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u16,
    /// Its name in errors.
    pub(crate) what: &'static str,
}

impl Frame {
    /// Returns `body` in its frame.
    pub(crate) fn wrap(&self, body: &[u8]) -> Bytes {
        // The callers' limits are far below this.
        let Ok(length) = u32::try_from(body.len()) else { broken("a framed body of 4 GiB") };
        let mut out = Vec::with_capacity(body.len() + FRAME_BYTES);
        out.extend_from_slice(&self.magic);
        put_u16(&mut out, self.version);
        // No required flags.
        put_u16(&mut out, 0);
        put_u32(&mut out, length);
        out.extend_from_slice(body);
        put_checksum(&mut out, 0);
        out.into()
    }

    /// Returns the body of framed bytes. The checksum is verified first, so that damage is never taken for another
    /// version.
    ///
    /// # Errors
    /// `Corrupt` if they are cut, damaged or of another kind; `Version` if a newer version wrote them.
    pub(crate) fn unwrap<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8]> {
        let mut reader = Reader::new(bytes);
        if reader.array()? != self.magic {
            return Err(Error::corrupt(format!("{} does not start with the magic bytes", self.what)));
        }
        let (version, required, length) = (reader.u16()?, reader.u16()?, reader.u32()?);
        let body = reader.bytes(length as usize)?;
        reader.checksum(self.what)?;
        reader.finish()?;
        if version == self.version && required == 0 {
            return Ok(body);
        }
        let error = Error::version(format!("{} was written by a newer version", self.what)).with("found", version);
        Err(error.with("supported", self.version).with("flags", format!("{required:#x}")))
    }
}
