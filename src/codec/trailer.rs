//! A trailer of fixed length, by which readers find the index before it.

use super::bytes::{Reader, put_checksum, put_u32, put_u64};
use crate::error::{Error, Result};

/// Length of a trailer in bytes.
pub const TRAILER_BYTES: usize = 16;

const CHECKSUM_BYTES: usize = 4;

/// Appends a trailer, and returns the length of its index in bytes.
///
/// * `start`: where the index begins in `out`; the index is all bytes from there on.
/// * `offset`: where the index begins in the whole object, in bytes.
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

/// Returns the index of `whole`, which ends in a trailer, and the index's offset.
///
/// # Errors
/// `Corrupt` if the trailer or the index is damaged, or the index does not end where the trailer begins.
pub fn find_index(whole: &[u8]) -> Result<(u64, &[u8])> {
    let trailer_start = whole.len().saturating_sub(TRAILER_BYTES);
    let mut trailer = Reader::new(whole.get(trailer_start..).unwrap_or_default());
    let (offset, length) = (trailer.u64()?, trailer.u32()?);
    let start = usize::try_from(offset).ok().filter(|start| start.checked_add(length as usize) == Some(trailer_start));
    let Some(start) = start else {
        let error = Error::corrupt("index does not end where its trailer begins");
        return Err(error.with("offset", offset).with("length", length).with("whole_bytes", whole.len()));
    };
    let mut reader = Reader::new(whole.get(start..).unwrap_or_default());
    let index = reader.bytes(length as usize)?;
    reader.bytes(TRAILER_BYTES - CHECKSUM_BYTES)?;
    reader.checksum("index")?;
    reader.finish()?;
    Ok((offset, index))
}
