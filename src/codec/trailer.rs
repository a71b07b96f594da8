//! An index at the end of bytes, and the trailer behind it by which it is found.

use super::bytes::{Reader, put_checksum, put_u32, put_u64};
use crate::error::{Error, Result};

/// Length of a trailer.
pub const TRAILER_BYTES: usize = 16;

const CHECKSUM_BYTES: usize = 4;

/// Appends the trailer of the index that `out` holds from `start` on and that begins `offset` bytes after the
/// start of the whole. Returns the index's length.
///
/// # Errors
/// `Limit` if the index exceeds 4 GiB.
pub fn put_trailer(out: &mut Vec<u8>, start: usize, offset: u64) -> Result<u32> {
    let length = out.len().saturating_sub(start);
    let length = u32::try_from(length).map_err(|_| Error::limit("index exceeds 4 GiB").with("bytes", length))?;
    put_u64(out, offset);
    put_u32(out, length);
    put_checksum(out, start);
    Ok(length)
}

/// Returns where the index starts, and the index, of bytes that a trailer ends.
///
/// # Errors
/// `Corrupt` if the trailer or the index is damaged, or the index does not lie right before its trailer.
pub fn find_index(whole: &[u8]) -> Result<(u64, &[u8])> {
    let trailer_start = whole.len().saturating_sub(TRAILER_BYTES);
    let mut trailer = Reader::new(whole.get(trailer_start..).unwrap_or_default());
    let (offset, length) = (trailer.u64()?, trailer.u32()?);
    let start = usize::try_from(offset).ok().filter(|start| start.checked_add(length as usize) == Some(trailer_start));
    let Some(start) = start else {
        let error = Error::corrupt("trailer puts the index elsewhere than before itself");
        return Err(error.with("offset", offset).with("length", length).with("whole_bytes", whole.len()));
    };
    let mut reader = Reader::new(whole.get(start..).unwrap_or_default());
    let index = reader.bytes(length as usize)?;
    reader.bytes(TRAILER_BYTES - CHECKSUM_BYTES)?;
    reader.checksum("index")?;
    reader.finish()?;
    Ok((offset, index))
}
