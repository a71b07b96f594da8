//! Writes a block: collects rows as columns and joins the columns into one payload.

use std::cmp::Ordering;

use super::format::{BlockHeader, Compression, ROW_BYTES, Run, column};
use super::index::BlockEntry;
use crate::codec::bytes::{put_length, put_length_delimited, put_u8, put_u16, put_u32, put_varint, shared_prefix};
use crate::error::{Error, Result};
use crate::id::Hash;
use crate::key_group::KeyGroup;
use crate::row::span::{RowSpan, RowSpans};
use crate::row::{RowKey, shape};

/// The rows of the block being written, as columns.
#[derive(Debug, Default)]
pub(super) struct BlockWriter {
    rows: usize,
    counted_bytes: usize,
    first: KeyGroup,
    /// The run of the last row, with its rows so far.
    run: Option<(Run, u64)>,
    /// The shape of the last row.
    shape: u8,
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

    /// Appends one of `rows`, of a group not below that of the row before; the caller has checked the rest. Returns false,
    /// and changes nothing, if it is out of order.
    pub(super) fn push(&mut self, group: KeyGroup, row: &RowSpan, rows: &RowSpans<'_>) -> bool {
        let (Some([key, namespace, sub]), Some(payload)) = (row.parts(rows.parts), row.payload(rows.payloads)) else {
            return false;
        };
        let run = Run { group, table: row.table };
        // The last string of a column may be of a row far before, where the row has no such part.
        let compare = |bit: u8, column: &PrefixColumn, part: &[u8]| match row.shape & bit {
            0 => Compared { order: Ordering::Equal, shared: 0 },
            _ => column.compare(part),
        };
        let by_key = compare(shape::HAS_KEY, &self.keys, key);
        let by_namespace = compare(shape::HAS_NAMESPACE, &self.namespaces, namespace);
        let by_sub = compare(shape::HAS_SUB, &self.subs, sub);
        let in_order = match self.run {
            Some((before, _)) if before == run => {
                // If both rows have a part, the last string of its column is that of the row before.
                let presence = |bit: u8| (self.shape & bit).cmp(&(row.shape & bit));
                let order = presence(shape::HAS_KEY).then(by_key.order);
                let order = order.then(presence(shape::HAS_NAMESPACE)).then(by_namespace.order);
                let order = order.then(presence(shape::HAS_SUB)).then(by_sub.order);
                order.is_lt() || (order.is_eq() && row.op() == shape::MERGE)
            }
            before => before.is_none_or(|(before, _)| before < run),
        };
        if !in_order {
            return false;
        }
        self.count(run);
        self.shape = row.shape;
        self.ops.push(row.shape);
        if row.shape & shape::HAS_KEY != 0 {
            self.keys.push(key, by_key.shared);
        }
        if row.shape & shape::HAS_NAMESPACE != 0 {
            self.namespaces.push(namespace, by_namespace.shared);
        }
        if row.shape & shape::HAS_SUB != 0 {
            self.subs.push(sub, by_sub.shared);
        }
        if matches!(row.op(), shape::PUT | shape::MERGE) {
            put_length(&mut self.value_lengths, payload.len());
            self.values.extend_from_slice(payload);
        }
        if row.columns > 0 {
            let columns = rows.columns_of(row);
            self.stamp.push(self.rows, columns.stamp.map(i64::to_le_bytes));
            self.schema.push(self.rows, columns.schema.map(u32::to_le_bytes));
            self.routing.push(self.rows, columns.routing.map(u64::to_le_bytes));
        }
        self.counted_bytes += key.len() + namespace.len() + sub.len() + payload.len() + ROW_BYTES;
        self.rows += 1;
        true
    }

    /// Returns the place of the last row.
    pub(super) fn last(&self) -> RowKey<'_> {
        let has = |bit: u8| self.shape & bit != 0;
        RowKey {
            table: self.run.map(|(run, _)| run.table).unwrap_or_default(),
            key: has(shape::HAS_KEY).then_some(&self.keys.last),
            namespace: has(shape::HAS_NAMESPACE).then_some(&self.namespaces.last),
            sub: has(shape::HAS_SUB).then_some(&self.subs.last),
        }
    }

    /// Counts a row of `next`.
    fn count(&mut self, next: Run) {
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

/// How the last string of a column compares with the next one, and the length of the prefix that they share.
struct Compared {
    order: Ordering,
    shared: usize,
}

impl PrefixColumn {
    #[inline]
    fn compare(&self, part: &[u8]) -> Compared {
        if let (Some(last), Some(next)) = (self.last.first_chunk(), part.first_chunk()) {
            let (last, next) = (u64::from_be_bytes(*last), u64::from_be_bytes(*next));
            if last != next {
                return Compared { order: last.cmp(&next), shared: (last ^ next).leading_zeros() as usize / 8 };
            }
        }
        self.compare_any(part)
    }

    fn compare_any(&self, part: &[u8]) -> Compared {
        let shared = shared_prefix(&self.last, part);
        let rest = |bytes: &[u8]| bytes.get(shared).copied();
        Compared { order: rest(&self.last).cmp(&rest(part)), shared }
    }

    #[inline]
    fn push(&mut self, part: &[u8], shared: usize) {
        if !self.any && part.is_empty() {
            self.empty += 1;
        } else {
            self.push_next(part, shared);
        }
    }

    fn push_next(&mut self, part: &[u8], shared: usize) {
        if !self.any {
            self.any = true;
            // An empty string: two zero lengths.
            self.bytes.resize(2 * self.empty, 0);
        }
        put_length(&mut self.bytes, shared);
        put_length_delimited(&mut self.bytes, part.get(shared..).unwrap_or_default());
        // Whole, not from `shared` on: the next row's comparison would wait for a store that it half overlaps.
        self.last.clear();
        self.last.extend_from_slice(part);
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
