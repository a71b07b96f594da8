//! Writes a block: collects rows as columns and joins the columns into one payload.

use super::format::{BlockHeader, Compression, ROW_BYTES, Run, column};
use super::index::BlockEntry;
use crate::codec::bytes::{put_length, put_length_delimited, put_u8, put_u16, put_u32, put_varint};
use crate::error::{Error, Result};
use crate::id::Hash;
use crate::key_group::KeyGroup;
use crate::row::{Op, Row, shape};

/// The rows of the block being written, as columns.
#[derive(Debug, Default)]
pub(super) struct BlockWriter {
    rows: usize,
    counted_bytes: usize,
    first: KeyGroup,
    run: Option<(Run, u64)>,
    runs: Vec<u8>,
    ops: Vec<u8>,
    keys: PrefixColumn,
    namespaces: PrefixColumn,
    subs: PrefixColumn,
    value_lengths: Vec<u8>,
    values: Vec<u8>,
    stamp: SparseColumn,
    schema: SparseColumn,
    routing: SparseColumn,
    /// Scratch memory for the joined columns.
    payload: Vec<u8>,
}

impl BlockWriter {
    /// Returns the counted bytes of the rows: their data and [`ROW_BYTES`] each.
    pub(super) fn counted_bytes(&self) -> usize {
        self.counted_bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Appends a row; the caller has checked it.
    pub(super) fn push(&mut self, group: KeyGroup, row: &Row<'_>) {
        self.push_run(Run { group, table: row.key.table });
        let (op, has_value) = match row.op {
            Op::Put(_) => (shape::PUT, true),
            Op::Delete => (shape::DELETE, false),
            Op::Merge(_) => (shape::MERGE, true),
            Op::Clear => (shape::CLEAR, false),
        };
        let parts = [
            (row.key.key, shape::HAS_KEY, &mut self.keys),
            (row.key.namespace, shape::HAS_NAMESPACE, &mut self.namespaces),
            (row.key.sub, shape::HAS_SUB, &mut self.subs),
        ];
        let mut byte = op;
        for (part, bit, column) in parts {
            let Some(part) = part else { continue };
            byte |= bit;
            column.push(part);
            self.counted_bytes += part.len();
        }
        self.ops.push(byte);
        let payload = row.op.payload();
        if has_value {
            put_length(&mut self.value_lengths, payload.len());
            self.values.extend_from_slice(payload);
        }
        self.stamp.push(self.rows, row.columns.stamp.map(i64::to_le_bytes));
        self.schema.push(self.rows, row.columns.schema.map(u32::to_le_bytes));
        self.routing.push(self.rows, row.columns.routing.map(u64::to_le_bytes));
        self.counted_bytes += payload.len() + ROW_BYTES;
        self.rows += 1;
    }

    fn push_run(&mut self, next: Run) {
        match &mut self.run {
            Some((run, count)) if *run == next => *count += 1,
            _ => {
                self.end_run();
                if self.rows == 0 {
                    self.first = next.group;
                }
                self.run = Some((next, 1));
            }
        }
    }

    fn end_run(&mut self) {
        let Some((run, count)) = self.run else { return };
        put_u16(&mut self.runs, run.group.0);
        put_u32(&mut self.runs, run.table.0);
        put_varint(&mut self.runs, count);
    }

    /// Appends the block to the segment and begins the next one.
    pub(super) fn finish(&mut self, compressor: &mut Compressor, segment: &mut Vec<u8>) -> Result<BlockEntry> {
        self.end_run();
        let (first, last) = (self.first, self.run.map_or(self.first, |(run, _)| run.group));
        let rows = length(self.rows)?;
        self.join_columns();
        self.clear();
        let raw_bytes = length(self.payload.len())?;
        let (codec, payload) = compressor.compress(&self.payload)?;
        let header = BlockHeader { codec, stored_bytes: length(payload.len())?, raw_bytes, rows };
        let offset = segment.len();
        header.put(payload, segment);
        let block = segment.get(offset..).unwrap_or_default();
        Ok(BlockEntry {
            offset: offset as u64,
            length: length(block.len())?,
            raw_bytes: header.raw_bytes,
            rows,
            first,
            last,
            hash: Hash::of(block),
        })
    }

    /// Joins the column directory and the columns into the payload. Empty columns are omitted.
    fn join_columns(&mut self) {
        let columns: [(u8, &[u8]); _] = [
            (column::RUNS, &self.runs),
            (column::OPS, &self.ops),
            (column::KEYS, self.keys.bytes()),
            (column::NAMESPACES, self.namespaces.bytes()),
            (column::SUBS, self.subs.bytes()),
            (column::VALUE_LENGTHS, &self.value_lengths),
            (column::VALUES, &self.values),
            (column::STAMP, self.stamp.end(self.rows)),
            (column::SCHEMA, self.schema.end(self.rows)),
            (column::ROUTING, self.routing.end(self.rows)),
        ];
        let present = || columns.iter().filter(|(_, bytes)| !bytes.is_empty());
        let total: usize = present().map(|(_, bytes)| bytes.len()).sum();
        let out = &mut self.payload;
        out.clear();
        out.reserve(total + 64);
        put_length(out, present().count());
        for (id, bytes) in present() {
            put_u8(out, *id);
            put_u8(out, column::REQUIRED);
            put_length(out, bytes.len());
        }
        present().for_each(|(_, bytes)| out.extend_from_slice(bytes));
    }

    /// Removes all rows and keeps the memory.
    fn clear(&mut self) {
        (self.rows, self.counted_bytes, self.run) = (0, 0, None);
        for column in [&mut self.runs, &mut self.ops, &mut self.value_lengths, &mut self.values] {
            column.clear();
        }
        for column in [&mut self.keys, &mut self.namespaces, &mut self.subs] {
            column.clear();
        }
        for column in [&mut self.stamp, &mut self.schema, &mut self.routing] {
            column.clear();
        }
    }
}

/// Byte strings, each stored as its difference from the previous one: the length of the shared prefix, then the rest.
#[derive(Debug, Default)]
struct PrefixColumn {
    bytes: Vec<u8>,
    last: Vec<u8>,
    any: bool,
    /// Number of empty strings before the first non-empty one. Most namespaces and sub-keys are empty.
    empty: usize,
}

impl PrefixColumn {
    #[inline]
    fn push(&mut self, part: &[u8]) {
        if !self.any && part.is_empty() {
            self.empty += 1;
        } else {
            self.push_next(part);
        }
    }

    fn push_next(&mut self, part: &[u8]) {
        if !self.any {
            self.any = true;
            // An empty string: two zero lengths.
            self.bytes.resize(2 * self.empty, 0);
        }
        let shared = part.iter().zip(&self.last).take_while(|(new, old)| new == old).count();
        let added = part.get(shared..).unwrap_or_default();
        put_length(&mut self.bytes, shared);
        put_length_delimited(&mut self.bytes, added);
        self.last.truncate(shared);
        self.last.extend_from_slice(added);
    }

    /// Returns the column; empty if all its strings are.
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.last.clear();
        (self.any, self.empty) = (false, 0);
    }
}

/// Numbers of few rows: a presence bit per row, then the numbers.
#[derive(Debug, Default)]
struct SparseColumn {
    present: Vec<u8>,
    values: Vec<u8>,
}

impl SparseColumn {
    #[inline]
    fn push<const N: usize>(&mut self, row: usize, value: Option<[u8; N]>) {
        let Some(value) = value else { return };
        self.present.resize(row / 8 + 1, 0);
        if let Some(byte) = self.present.last_mut() {
            *byte |= 1 << (row % 8);
        }
        self.values.extend_from_slice(&value);
    }

    /// Ends and returns the column; empty if no row has a number.
    fn end(&mut self, rows: usize) -> &[u8] {
        if !self.values.is_empty() {
            self.present.resize(rows.div_ceil(8), 0);
            self.present.append(&mut self.values);
        }
        &self.present
    }

    fn clear(&mut self) {
        self.present.clear();
        self.values.clear();
    }
}

/// Compresses payloads where that makes them smaller.
pub(super) struct Compressor {
    zstd: Option<zstd::bulk::Compressor<'static>>,
    compressed: Vec<u8>,
    /// Payloads to store without trying, since the last ones gained too little.
    untried: u32,
    /// As `untried`, after the next one that gains too little.
    next_untried: u32,
}

/// The most payloads stored without trying: after 1, 2, 3, ... in a row that gain too little, none, 1, 3, then 7.
const UNTRIED_MAX: u32 = 7;

/// The least gain for which a payload is stored compressed, as a fraction of its length: 1 in this many bytes.
const GAIN: usize = 20;

impl Compressor {
    pub(super) fn new(codec: Compression) -> Result<Self> {
        let zstd = match codec {
            Compression::None => None,
            Compression::Zstd { level } => Some(zstd::bulk::Compressor::new(level).map_err(failed)?),
        };
        Ok(Self { zstd, compressed: Vec::new(), untried: 0, next_untried: 0 })
    }

    /// Returns the codec's number and the stored payload.
    fn compress<'a>(&'a mut self, raw: &'a [u8]) -> Result<(u8, &'a [u8])> {
        let Some(zstd) = self.zstd.as_mut().filter(|_| self.untried == 0) else {
            self.untried = self.untried.saturating_sub(1);
            return Ok((BlockHeader::CODEC_NONE, raw));
        };
        self.compressed.clear();
        self.compressed.reserve(zstd::zstd_safe::compress_bound(raw.len()));
        zstd.compress_to_buffer(raw, &mut self.compressed).map_err(failed)?;
        if self.compressed.len() < raw.len() - raw.len() / GAIN {
            self.next_untried = 0;
            Ok((BlockHeader::CODEC_ZSTD, &self.compressed))
        } else {
            self.untried = self.next_untried;
            self.next_untried = (2 * self.next_untried + 1).min(UNTRIED_MAX);
            Ok((BlockHeader::CODEC_NONE, raw))
        }
    }
}

fn failed(source: std::io::Error) -> Error {
    Error::limit("zstd could not compress a block").with_source(source)
}

fn length(bytes: usize) -> Result<u32> {
    u32::try_from(bytes).map_err(|_| Error::limit("block exceeds 4 GiB").with("bytes", bytes))
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;

    #[test]
    fn payloads_that_do_not_shrink_are_stored_and_after_several_not_tried() {
        let noise: Vec<_> = (0..500u64).flat_map(|number| xxh3_64(&number.to_le_bytes()).to_le_bytes()).collect();
        let text = vec![b'x'; noise.len()];
        let mut compressor = Compressor::new(Compression::Zstd { level: 1 }).unwrap();
        let mut codecs = |payload: &[u8], times: usize| -> Vec<_> {
            (0..times).map(|_| compressor.compress(payload).unwrap().0).collect()
        };
        let (stored, shrunk) = (BlockHeader::CODEC_NONE, BlockHeader::CODEC_ZSTD);
        for _ in 0..3 {
            assert_eq!(
                (codecs(&noise, 1), codecs(&text, 1)),
                (vec![stored], vec![shrunk]),
                "one that fails stops nothing"
            );
        }
        // Tried are the first, the second, and after 1, 3 and 7 more the fourth, eighth and sixteenth.
        assert_eq!(codecs(&noise, 16), [stored; 16]);
        assert_eq!(codecs(&text, 9), [[stored; 7].as_slice(), &[shrunk; 2]].concat());
    }
}
