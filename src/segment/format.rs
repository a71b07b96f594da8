//! The layout of a segment: numbers, limits and headers. `docs/format.md` explains it.

use crate::codec::bytes::{Reader, put_checksum, put_u8, put_u16, put_u32};
use crate::error::{Error, Result};
use crate::id::TableId;
use crate::key_group::KeyGroup;
use crate::row::{MAX_PART_BYTES, MAX_VALUE_BYTES};

pub(super) const MAGIC: [u8; 4] = *b"ALSG";
pub(super) const VERSION: u16 = 1;
pub(super) const HEADER_BYTES: usize = 16;
pub(super) const BLOCK_HEADER_BYTES: usize = 16;
pub(super) const CHECKSUM_BYTES: usize = 4;

/// Bytes counted for a row beside its data. Bounds the rows of a block.
pub(super) const ROW_BYTES: usize = 16;
/// A block ends once its counted bytes reach this.
pub(super) const BLOCK_BYTES: usize = 64 << 10;
/// From this many counted bytes, a block ends at the next key group, so that readers of neighbouring groups fetch
/// little twice.
pub(super) const BLOCK_BYTES_AT_GROUP: usize = 8 << 10;

/// Maximum number of rows in a block.
pub(super) const MAX_BLOCK_ROWS: usize = BLOCK_BYTES / ROW_BYTES;
/// Maximum bytes of a block's keys, namespaces and sub-keys with their prefixes restored.
pub(super) const MAX_BLOCK_PARTS_BYTES: usize = BLOCK_BYTES + 3 * MAX_PART_BYTES;
/// Maximum bytes of a block's payload before compression; bounds every decompression.
pub(super) const MAX_BLOCK_RAW_BYTES: usize = MAX_VALUE_BYTES + (1 << 20);

const _: () = {
    // Beside its data a row takes at most 11 bytes for a run, 1 for the op, 3 * 6 for prefix lengths, 4 for the value
    // length and 23 for optional columns; the directory takes less than 128.
    let others = MAX_BLOCK_PARTS_BYTES + MAX_BLOCK_ROWS * (11 + 1 + 18 + 4 + 23) + 128;
    assert!(MAX_VALUE_BYTES + others <= MAX_BLOCK_RAW_BYTES);
    assert!(MAX_BLOCK_RAW_BYTES <= u32::MAX as usize);
    assert!(HEADER_BYTES == 4 + 2 + 2 + 4 + 4);
    assert!(BLOCK_HEADER_BYTES == 1 + 1 + 2 + 3 * 4);
};

/// Column numbers of a block.
pub(super) mod column {
    pub(in super::super) const RUNS: u8 = 1;
    pub(in super::super) const OPS: u8 = 2;
    pub(in super::super) const KEYS: u8 = 3;
    pub(in super::super) const NAMESPACES: u8 = 4;
    pub(in super::super) const SUBS: u8 = 5;
    pub(in super::super) const VALUE_LENGTHS: u8 = 6;
    pub(in super::super) const VALUES: u8 = 7;
    pub(in super::super) const STAMP: u8 = 16;
    pub(in super::super) const SCHEMA: u8 = 17;
    pub(in super::super) const ROUTING: u8 = 18;

    /// All columns of this version.
    pub(in super::super) const ALL: [u8; 10] =
        [RUNS, OPS, KEYS, NAMESPACES, SUBS, VALUE_LENGTHS, VALUES, STAMP, SCHEMA, ROUTING];

    /// Flag: a reader without support for the column must refuse the block.
    pub(in super::super) const REQUIRED: u8 = 1;
}

/// Section numbers of an index.
pub(super) mod section {
    /// The earliest timers.
    pub(in super::super) const EARLIEST: u8 = 1;
    /// The first places of blocks.
    pub(in super::super) const PLACES: u8 = 2;

    /// Flag: a reader without support for the section must refuse the segment.
    pub(in super::super) const REQUIRED: u8 = 1;
}

/// How a block's payload is stored. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// Uncompressed.
    #[cfg_attr(
        not(any(test, feature = "internals")),
        expect(dead_code, reason = "written by tests, read by every build")
    )]
    None,
    /// As one zstd frame, if that is smaller.
    Zstd {
        /// Compression level.
        level: i32,
    },
}

/// Consecutive rows of one group and table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Run {
    pub(super) group: KeyGroup,
    pub(super) table: TableId,
}

/// Appends the segment header.
pub(super) fn put_header(out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    put_u16(out, VERSION);
    put_u16(out, 0);
    put_u32(out, 0);
    put_checksum(out, start);
}

/// Verifies the segment header.
pub(super) fn check_header(header: &[u8]) -> Result<()> {
    let mut reader = Reader::new(header);
    if reader.array()? != MAGIC {
        return Err(Error::corrupt("segment does not start with the magic bytes"));
    }
    let (version, required, reserved) = (reader.u16()?, reader.u16()?, reader.u32()?);
    reader.checksum("segment header")?;
    check_version(version, required)?;
    if reserved != 0 {
        return Err(Error::corrupt("reserved bytes of the segment header are not zero"));
    }
    reader.finish()
}

/// Refuses a version or features that this build cannot read.
pub(super) fn check_version(version: u16, required: u16) -> Result<()> {
    match (version, required) {
        (VERSION, 0) => Ok(()),
        (0, _) => Err(Error::corrupt("segment version is zero")),
        (VERSION, flags) => {
            Err(Error::version("segment needs features that this build lacks").with("flags", format!("{flags:#x}")))
        }
        (found, _) => {
            let error = Error::version("segment was written by a newer version");
            Err(error.with("found", found).with("supported", VERSION))
        }
    }
}

/// The block header. The stored payload and a checksum of both follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockHeader {
    pub(super) codec: u8,
    pub(super) stored_bytes: u32,
    pub(super) raw_bytes: u32,
    pub(super) rows: u32,
}

impl BlockHeader {
    pub(super) const CODEC_NONE: u8 = 0;
    pub(super) const CODEC_ZSTD: u8 = 1;

    /// Appends the block.
    pub(super) fn put(self, payload: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        put_u8(out, self.codec);
        // No cipher.
        put_u8(out, 0);
        put_u16(out, 0);
        put_u32(out, self.stored_bytes);
        put_u32(out, self.raw_bytes);
        put_u32(out, self.rows);
        out.extend_from_slice(payload);
        put_checksum(out, start);
    }

    /// Returns the header and the stored payload of a block with no bytes after it. The caller has compared the block with its
    /// hash: the checksum is left to [`BlockHeader::check`].
    pub(super) fn decode(block: &[u8]) -> Result<(Self, &[u8])> {
        let mut reader = Reader::new(block);
        let (codec, cipher, reserved) = (reader.u8()?, reader.u8()?, reader.u16()?);
        let header = Self { codec, stored_bytes: reader.u32()?, raw_bytes: reader.u32()?, rows: reader.u32()? };
        let payload = reader.bytes(header.stored_bytes as usize)?;
        reader.bytes(CHECKSUM_BYTES)?;
        reader.finish()?;
        if reserved != 0 {
            return Err(Error::corrupt("reserved bytes of the block header are not zero"));
        }
        if cipher != 0 {
            return Err(Error::version("block is under a cipher that this build lacks").with("cipher", cipher));
        }
        Ok((header, payload))
    }

    /// Compares a block's checksum with its bytes.
    pub(super) fn check(block: &[u8]) -> Result<()> {
        let mut reader = Reader::new(block);
        reader.bytes(block.len().saturating_sub(CHECKSUM_BYTES))?;
        reader.checksum("block")
    }
}
