//! Corrects checksums and lengths as a hostile writer would, so that fuzzing reaches the code behind them.
//!
//! Bytes too malformed to correct are returned unchanged.

use alluvium::internals::codec::bytes::{Reader, put_checksum};
use alluvium::internals::codec::trailer::TRAILER_BYTES;
use alluvium::internals::envelope::ENVELOPE_HEADER_BYTES;
use alluvium::manifest::Hash;

const CHECKSUM_BYTES: usize = 4;
const MAC_BYTES: usize = 32;
const SEGMENT_HEADER_BYTES: usize = 16;
const SUBTASK_FRAME_BYTES: usize = 16;
const MESSAGE_FRAME_BYTES: usize = 16;

/// Returns an object whose envelope matches its body.
#[must_use]
pub fn envelope(object: &[u8]) -> Vec<u8> {
    let mut object = object.to_vec();
    let signed = object.get(12).is_some_and(|flags| flags & 1 == 1);
    let tail = CHECKSUM_BYTES + if signed { MAC_BYTES } else { 0 };
    if let Some(body) = object.len().checked_sub(ENVELOPE_HEADER_BYTES + tail) {
        object[36..44].copy_from_slice(&(body as u64).to_le_bytes());
        check(&mut object, 0, 44);
        let end = object.len() - tail;
        check(&mut object, 0, end);
    }
    object
}

/// Returns a pack whose directory and envelope match.
#[must_use]
pub fn pack(object: &[u8]) -> Vec<u8> {
    let mut object = object.to_vec();
    if let Some(end) = object.len().checked_sub(CHECKSUM_BYTES) {
        trailer(&mut object[..end]);
    }
    envelope(&object)
}

/// Returns a framed subtask manifest whose frame matches.
#[must_use]
pub fn subtask(framed: &[u8]) -> Vec<u8> {
    let mut framed = framed.to_vec();
    if let Some(body) = framed.len().checked_sub(SUBTASK_FRAME_BYTES) {
        let length = u32::try_from(body).unwrap_or(u32::MAX);
        framed[8..12].copy_from_slice(&length.to_le_bytes());
        let end = framed.len() - CHECKSUM_BYTES;
        check(&mut framed, 0, end);
    }
    framed
}

/// Returns a message between an owner and a worker whose frame matches.
#[must_use]
pub fn message(framed: &[u8]) -> Vec<u8> {
    let mut framed = framed.to_vec();
    if let Some(body) = framed.len().checked_sub(MESSAGE_FRAME_BYTES) {
        framed[..8].copy_from_slice(b"ALMS\x01\0\0\0");
        framed[8..12].copy_from_slice(&u32::try_from(body).unwrap_or(u32::MAX).to_le_bytes());
        let end = framed.len() - CHECKSUM_BYTES;
        check(&mut framed, 0, end);
    }
    framed
}

/// Returns a segment whose header, blocks, index and trailer match.
#[must_use]
pub fn segment(segment: &[u8]) -> Vec<u8> {
    let mut segment = segment.to_vec();
    if segment.len() < SEGMENT_HEADER_BYTES + TRAILER_BYTES {
        return segment;
    }
    check(&mut segment, 0, SEGMENT_HEADER_BYTES - CHECKSUM_BYTES);
    if let Some(index) = trailer(&mut segment) {
        blocks(&mut segment, index);
        trailer(&mut segment);
    }
    segment
}

/// Corrects the checksums and hashes of all blocks that can be read from the index at `index`.
fn blocks(segment: &mut [u8], index: usize) -> Option<()> {
    let bytes = segment.get(index..)?.to_vec();
    let mut reader = Reader::new(&bytes);
    reader.bytes(5).ok()?;
    let ranges = reader.count(4).ok()?;
    reader.bytes(4 * ranges).ok()?;
    let count = reader.count(32).ok()?;
    let mut start = SEGMENT_HEADER_BYTES;
    for _ in 0..count {
        let hash = index + reader.offset() + 16;
        let end = start.checked_add(reader.u32().ok()? as usize)?;
        reader.bytes(28).ok()?;
        let block = segment.get_mut(start..end)?;
        let checked = block.len().checked_sub(CHECKSUM_BYTES)?;
        check(block, 0, checked);
        let found = Hash::of(block);
        segment[hash..hash + 16].copy_from_slice(&found.0);
        start = end;
    }
    Some(())
}

/// Corrects the trailer at the end of `whole` and returns the index's offset.
fn trailer(whole: &mut [u8]) -> Option<usize> {
    let at = whole.len().checked_sub(TRAILER_BYTES)?;
    let length = Reader::new(&whole[at + 8..]).u32().ok()?;
    let start = at.checked_sub(length as usize)?;
    whole[at..at + 8].copy_from_slice(&(start as u64).to_le_bytes());
    let end = whole.len() - CHECKSUM_BYTES;
    check(whole, start, end);
    Some(start)
}

/// Writes the checksum of `from..to` after it.
fn check(bytes: &mut [u8], from: usize, to: usize) {
    let mut checked = bytes[from..to].to_vec();
    put_checksum(&mut checked, 0);
    bytes[to..to + CHECKSUM_BYTES].copy_from_slice(&checked[to - from..]);
}
