//! Blocks of bytes on the local disk, each followed by its checksum.
//!
//! ```text
//! 512 bytes | crc32 | 512 bytes | crc32 | ... | the rest | crc32        crc32: 4 bytes, little-endian
//! ```
//!
//! The checksum begins with the block's number, which memory keeps: so old bytes at the right place are found as well as damaged
//! ones, and bytes of one block in the place of another.

use std::ops::Range;

/// Bytes with one checksum, and so the least that is read.
const BLOCK_BYTES: usize = 512;

const SUM_BYTES: usize = size_of::<u32>();

const STORED_BYTES: usize = BLOCK_BYTES + SUM_BYTES;

/// Returns the bytes that `len` bytes take with their checksums.
pub(super) fn stored_bytes(len: usize) -> usize {
    len + count(len) * SUM_BYTES
}

/// Returns the number of blocks of `len` bytes.
pub(super) fn count(len: usize) -> usize {
    len.div_ceil(BLOCK_BYTES)
}

/// Returns `bytes` in blocks, the first of which has the number `first`.
pub(super) fn stored(bytes: &[u8], first: u32) -> Vec<u8> {
    let mut stored = Vec::with_capacity(stored_bytes(bytes.len()));
    for (number, block) in numbers(first).zip(bytes.chunks(BLOCK_BYTES)) {
        stored.extend_from_slice(block);
        stored.extend_from_slice(&sum(number, block).to_le_bytes());
    }
    stored
}

/// Returns the blocks that have the bytes in `range`.
pub(super) fn around(range: &Range<usize>) -> Range<usize> {
    range.start / BLOCK_BYTES..count(range.end)
}

/// Returns how many bytes precede a block.
pub(super) fn bytes_before(block: usize) -> usize {
    block * BLOCK_BYTES
}

/// Returns where blocks lie among the stored ones of `len` bytes.
pub(super) fn place(blocks: &Range<usize>, len: usize) -> Range<usize> {
    let all = stored_bytes(len);
    (blocks.start * STORED_BYTES).min(all)..(blocks.end * STORED_BYTES).min(all)
}

/// Takes the checksums out of stored blocks, the first of which has the number `first`, and leaves the bytes from `skipped` on.
/// Returns false if a block is not the one that was stored.
pub(super) fn verify(stored: &mut Vec<u8>, first: u32, skipped: usize) -> bool {
    let (mut read, mut kept, mut skipped) = (0, 0, skipped);
    for number in numbers(first) {
        let Some(block) = stored.get(read..) else { return false };
        let Some((bytes, [a, b, c, d])) =
            block.get(..block.len().min(STORED_BYTES)).and_then(<[u8]>::split_last_chunk::<SUM_BYTES>)
        else {
            break;
        };
        if sum(number, bytes).to_le_bytes() != [*a, *b, *c, *d] {
            return false;
        }
        let end = read + bytes.len();
        let wanted = read + skipped.min(bytes.len())..end;
        (read, skipped) = (end + SUM_BYTES, 0);
        let len = wanted.len();
        stored.copy_within(wanted, kept);
        kept += len;
    }
    let is_whole = read == stored.len();
    stored.truncate(kept);
    is_whole
}

fn numbers(first: u32) -> impl Iterator<Item = u32> {
    (0..).map(move |at| first.wrapping_add(at))
}

fn sum(number: u32, block: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(number);
    hasher.update(block);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_range_comes_back() {
        for len in [0, 1, 511, 512, 513, 1024, 5000] {
            let bytes: Vec<u8> = (0..=250).cycle().take(len).collect();
            let stored = stored(&bytes, u32::MAX - 1);
            assert_eq!(stored.len(), stored_bytes(len));
            for start in (0..=len).step_by(100) {
                for end in (start..=len).step_by(127) {
                    let blocks = around(&(start..end));
                    let mut read = stored[place(&blocks, len)].to_vec();
                    let first = (u32::MAX - 1).wrapping_add(u32::try_from(blocks.start).unwrap());
                    assert!(verify(&mut read, first, start - bytes_before(blocks.start)));
                    assert_eq!(read[..end - start], bytes[start..end], "{start}..{end} of {len}");
                }
            }
        }
    }

    #[test]
    fn other_bytes_are_found() {
        let bytes = [7; 1500];
        let whole = stored(&bytes, 5);
        let is_good = |mut stored: Vec<u8>, first| verify(&mut stored, first, 0);
        assert!(is_good(whole.clone(), 5));
        assert!(!is_good(whole.clone(), 6), "of another time");
        assert!(!is_good(whole[..700].to_vec(), 5) && !is_good(whole[..2].to_vec(), 5), "cut");
        let mut swapped = whole.clone();
        swapped.copy_within(STORED_BYTES..2 * STORED_BYTES, 0);
        assert!(!is_good(swapped, 5), "equal bytes of another place have another checksum");
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(!is_good(damaged, 5), "{at}");
        }
    }
}
