//! Reads a block: decodes a verified payload into rows. Every returned row obeys the rules of the row model.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use zstd::bulk::Decompressor;

use super::format::{BlockHeader, MAX_BLOCK_PARTS_BYTES, MAX_BLOCK_ROWS, Run, column};
use super::index::BlockEntry;
use crate::codec::bytes::Reader;
use crate::error::{Error, Result};
use crate::id::TableId;
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::row::span::{RowSpan, RowSpans};
use crate::row::{Columns, MAX_PART_BYTES, MAX_VALUE_BYTES, SegmentKind, shape};

/// A decoded block. Reused from block to block.
#[derive(Default)]
pub(super) struct Block {
    payload: Payload,
    /// Keys, namespaces and sub-keys with their prefixes restored.
    parts: Vec<u8>,
    rows: Vec<RowSpan>,
    /// The optional columns of rows that have any.
    columns: Vec<Columns>,
    /// Each run with the index of its first row.
    runs: Vec<(Run, usize)>,
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({} rows)", self.rows.len())
    }
}

impl Block {
    /// Decodes the stored bytes of the block `entry`. After an error the block's rows are meaningless.
    pub(super) fn decode(
        &mut self,
        stored: &Bytes,
        entry: &BlockEntry,
        kind: SegmentKind,
        covered: &KeyGroupSet,
    ) -> Result<()> {
        let (header, payload) = BlockHeader::decode(stored)?;
        if (header.raw_bytes, header.rows) != (entry.raw_bytes, entry.rows) {
            return Err(Error::corrupt("block header differs from the index"));
        }
        let raw = self.payload.unpack(&header, stored.slice_ref(payload))?;
        self.parts.clear();
        self.rows.clear();
        self.columns.clear();
        self.runs.clear();
        let mut columns = Decoder::new(raw, header.rows as usize)?;
        for at in 0..header.rows as usize {
            let run = columns.next_run(at, &mut self.runs)?;
            let row = columns.next(at, run, &mut self.parts, &mut self.columns)?;
            if kind == SegmentKind::Base && !matches!(row.op(), shape::PUT | shape::MERGE) {
                return Err(Error::corrupt("base has a delete or a clear").with("row", at));
            }
            self.rows.push(row);
        }
        columns.finish()?;
        self.check_groups(entry, covered)
    }

    fn check_groups(&self, entry: &BlockEntry, covered: &KeyGroupSet) -> Result<()> {
        let bounds = (self.runs.first().map(|(run, _)| run.group), self.runs.last().map(|(run, _)| run.group));
        if bounds != (Some(entry.first), Some(entry.last)) {
            return Err(Error::corrupt("block has other groups than the index says"));
        }
        match self.runs.iter().find(|(run, _)| !covered.contains(run.group)) {
            Some((_, at)) => Err(Error::corrupt("row is of a foreign group").with("row", *at)),
            None => Ok(()),
        }
    }

    /// Returns the rows of `group`, in order.
    pub(super) fn rows_of(&self, group: KeyGroup) -> RowSpans<'_> {
        let start_of = |run: usize| self.runs.get(run).map_or(self.rows.len(), |(_, start)| *start);
        let start = start_of(self.runs.partition_point(|(run, _)| run.group < group));
        let end = start_of(self.runs.partition_point(|(run, _)| run.group <= group));
        RowSpans {
            spans: self.rows.get(start..end).unwrap_or_default(),
            parts: &self.parts,
            payloads: self.payload.bytes(),
            columns: &self.columns,
        }
    }
}

/// The buffer of a block's columns.
#[derive(Default)]
struct Payload {
    /// Bytes stored uncompressed.
    stored: Option<Bytes>,
    /// Bytes stored compressed, decompressed.
    unpacked: Vec<u8>,
    zstd: Option<Decompressor<'static>>,
}

impl Payload {
    fn bytes(&self) -> &[u8] {
        self.stored.as_deref().unwrap_or(&self.unpacked)
    }

    fn unpack(&mut self, header: &BlockHeader, payload: Bytes) -> Result<&[u8]> {
        self.stored = None;
        let raw_bytes = header.raw_bytes as usize;
        match header.codec {
            BlockHeader::CODEC_NONE => self.stored = Some(payload),
            // Refuses an impossible length before reserving memory for it.
            BlockHeader::CODEC_ZSTD if raw_bytes > most_decompressed(payload.len()) => {
                let error = Error::corrupt("block claims to be larger than it can be");
                return Err(error.with("stored_bytes", payload.len()).with("raw_bytes", raw_bytes));
            }
            BlockHeader::CODEC_ZSTD => self.decompress(&payload, raw_bytes)?,
            other => return Err(Error::version("block has a codec that this build lacks").with("codec", other)),
        }
        let found = self.bytes().len();
        if found != raw_bytes {
            let error = Error::corrupt("block has another length than its header says");
            return Err(error.with("expected", raw_bytes).with("found", found));
        }
        Ok(self.bytes())
    }

    fn decompress(&mut self, payload: &[u8], raw_bytes: usize) -> Result<()> {
        self.unpacked.clear();
        self.unpacked.reserve_exact(raw_bytes);
        let zstd = self.zstd.get_or_insert_default();
        let written = zstd.decompress_to_buffer(payload, &mut self.unpacked);
        written.map_err(|source| Error::corrupt("block does not decompress").with_source(source))?;
        Ok(())
    }
}

/// Returns the maximum decompressed length: a zstd block has at most 128 KiB, and at least a header of 3 bytes and one
/// byte more.
const fn most_decompressed(stored_bytes: usize) -> usize {
    (stored_bytes / 4).saturating_mul(128 << 10)
}

/// The columns of a payload by number, each with its start.
struct Directory<'a> {
    columns: Vec<(u8, usize, &'a [u8])>,
}

impl<'a> Directory<'a> {
    fn decode(raw: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::new(raw);
        // Column numbers are unique, and one byte each.
        let count = reader.varint_up_to(1 << u8::BITS)?;
        let mut listed = Vec::with_capacity(count);
        for _ in 0..count {
            let (id, flags) = (reader.u8()?, reader.u8()?);
            let length = reader.varint_up_to(raw.len())?;
            if listed.last().is_some_and(|(before, _)| *before >= id) || length == 0 {
                return Err(reader.corrupt("column is out of order or empty").with("column", id));
            }
            if flags > column::REQUIRED || (flags == column::REQUIRED && !column::ALL.contains(&id)) {
                return Err(Error::version("block needs a column that this build lacks").with("column", id));
            }
            listed.push((id, length));
        }
        let columns = listed.into_iter().map(|(id, length)| Ok((id, reader.offset(), reader.bytes(length)?)));
        let columns = columns.collect::<Result<_>>()?;
        reader.finish()?;
        Ok(Self { columns })
    }

    /// Returns the start and the bytes of a column; an absent column is empty.
    fn column(&self, id: u8) -> (usize, &'a [u8]) {
        self.columns.iter().find(|column| column.0 == id).map_or((0, &[]), |&(_, start, bytes)| (start, bytes))
    }
}

/// Reads the columns of a block in parallel, row by row.
struct Decoder<'a> {
    runs: Reader<'a>,
    run: Option<Run>,
    left_in_run: usize,
    ops: Reader<'a>,
    /// The shape of the previous row.
    shape: u8,
    keys: PrefixColumn<'a>,
    namespaces: PrefixColumn<'a>,
    subs: PrefixColumn<'a>,
    value_lengths: Reader<'a>,
    values: Reader<'a>,
    values_start: usize,
    stamp: SparseColumn<'a>,
    schema: SparseColumn<'a>,
    routing: SparseColumn<'a>,
}

/// The table of a row, and whether the row is the first of its run.
#[derive(Clone, Copy)]
struct InRun {
    table: TableId,
    is_first: bool,
}

impl<'a> Decoder<'a> {
    fn new(raw: &'a [u8], rows: usize) -> Result<Self> {
        let directory = Directory::decode(raw)?;
        let reader = |id| Reader::new(directory.column(id).1);
        let prefix = |id| PrefixColumn::new(directory.column(id).1);
        let sparse = |id| SparseColumn::new(directory.column(id).1, rows);
        Ok(Self {
            runs: reader(column::RUNS),
            run: None,
            left_in_run: 0,
            ops: reader(column::OPS),
            shape: 0,
            keys: prefix(column::KEYS),
            namespaces: prefix(column::NAMESPACES),
            subs: prefix(column::SUBS),
            value_lengths: reader(column::VALUE_LENGTHS),
            values: reader(column::VALUES),
            values_start: directory.column(column::VALUES).0,
            stamp: sparse(column::STAMP)?,
            schema: sparse(column::SCHEMA)?,
            routing: sparse(column::ROUTING)?,
        })
    }

    /// Reads the next row and appends its key, namespace and sub-key to `parts`.
    #[inline]
    fn next(&mut self, at: usize, run: InRun, parts: &mut Vec<u8>, columns: &mut Vec<Columns>) -> Result<RowSpan> {
        let shape = self.ops.u8()?;
        if shape > shape::MASK {
            return Err(Error::version("row has an operation that this build lacks").with("shape", shape));
        }
        if !shape::fits(shape) {
            return Err(Error::corrupt("row has parts that its operation cannot have").with("row", at));
        }
        let start = offset(parts.len());
        let before = std::mem::replace(&mut self.shape, shape);
        // If both rows have a part, the previous string of its column is the previous row's.
        let presence = |bit: u8| (before & bit).cmp(&(shape & bit));
        let (key_length, by_key) = self.keys.next(shape & shape::HAS_KEY != 0, parts)?;
        let (namespace_length, by_namespace) = self.namespaces.next(shape & shape::HAS_NAMESPACE != 0, parts)?;
        let (sub_length, by_sub) = self.subs.next(shape & shape::HAS_SUB != 0, parts)?;
        let order = presence(shape::HAS_KEY).then(by_key);
        let order = order.then(presence(shape::HAS_NAMESPACE)).then(by_namespace);
        let order = order.then(presence(shape::HAS_SUB)).then(by_sub);
        if !run.is_first && (order.is_gt() || (order.is_eq() && shape & shape::OP_MASK != shape::MERGE)) {
            return Err(Error::corrupt("row is out of order").with("row", at));
        }
        let (payload, payload_length) = match shape & shape::OP_MASK {
            shape::PUT | shape::MERGE => self.next_value()?,
            _ => (self.value_offset(), 0),
        };
        let columns = self.next_columns(at, columns)?;
        Ok(RowSpan {
            table: run.table,
            shape,
            parts: start,
            key_length,
            namespace_length,
            sub_length,
            payload,
            payload_length,
            columns,
        })
    }

    /// Returns the run of the next row, with index `at`; adds the run to `runs` at its first row.
    #[inline]
    fn next_run(&mut self, at: usize, runs: &mut Vec<(Run, usize)>) -> Result<InRun> {
        if let (Some(run), 1..) = (self.run, self.left_in_run) {
            self.left_in_run -= 1;
            return Ok(InRun { table: run.table, is_first: false });
        }
        let run = Run { group: KeyGroup(self.runs.u16()?), table: TableId(self.runs.u32()?) };
        let count = self.runs.varint_up_to(MAX_BLOCK_ROWS)?;
        if count == 0 || self.run.is_some_and(|before| before >= run) {
            return Err(self.runs.corrupt("run is empty or out of order"));
        }
        self.run = Some(run);
        self.left_in_run = count - 1;
        runs.push((run, at));
        Ok(InRun { table: run.table, is_first: true })
    }

    fn value_offset(&self) -> u32 {
        offset(self.values_start.saturating_add(self.values.offset()))
    }

    #[inline]
    fn next_value(&mut self) -> Result<(u32, u32)> {
        let length = self.value_lengths.varint_up_to(MAX_VALUE_BYTES)?;
        let start = self.value_offset();
        self.values.bytes(length)?;
        Ok((start, offset(length)))
    }

    /// Reads the optional columns of a row and returns their index, counted from 1; 0 without any.
    #[inline]
    fn next_columns(&mut self, at: usize, columns: &mut Vec<Columns>) -> Result<u32> {
        if [&self.stamp, &self.schema, &self.routing].into_iter().all(SparseColumn::is_absent) {
            return Ok(0);
        }
        let of_row = Columns {
            stamp: self.stamp.next(at)?.map(i64::from_le_bytes),
            schema: self.schema.next(at)?.map(u32::from_le_bytes),
            routing: self.routing.next(at)?.map(u64::from_le_bytes),
        };
        if of_row == Columns::default() {
            return Ok(0);
        }
        columns.push(of_row);
        Ok(offset(columns.len()))
    }

    fn finish(self) -> Result<()> {
        if self.left_in_run > 0 {
            return Err(self.runs.corrupt("last run has more rows than the block"));
        }
        let sparse = [self.stamp.values, self.schema.values, self.routing.values];
        let prefix = [self.keys, self.namespaces, self.subs].map(|column| column.reader);
        let whole = [self.runs, self.ops, self.value_lengths, self.values];
        whole.into_iter().chain(sparse).chain(prefix.into_iter().flatten()).try_for_each(Reader::finish)
    }
}

/// Converts an offset in a block, which is less than 4 GiB.
fn offset(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}

/// Byte strings, each stored as its difference from the previous one: the length of the shared prefix, then the rest.
struct PrefixColumn<'a> {
    /// `None` if the column is absent: all its strings are empty.
    reader: Option<Reader<'a>>,
    /// Range of the previous string.
    last: Range<usize>,
}

impl<'a> PrefixColumn<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { reader: (!bytes.is_empty()).then(|| Reader::new(bytes)), last: 0..0 }
    }

    /// Appends the next string to `parts`, if the row has one. Returns its length and the order of the previous string
    /// relative to it.
    #[inline]
    fn next(&mut self, has: bool, parts: &mut Vec<u8>) -> Result<(u32, Ordering)> {
        match &mut self.reader {
            Some(reader) if has => Self::next_of(reader, &mut self.last, parts),
            _ => Ok((0, Ordering::Equal)),
        }
    }

    fn next_of(reader: &mut Reader<'_>, last: &mut Range<usize>, parts: &mut Vec<u8>) -> Result<(u32, Ordering)> {
        let shared = reader.varint_up_to(last.len())?;
        let added = reader.length_delimited(MAX_PART_BYTES - shared)?;
        let start = parts.len();
        if start + shared + added.len() > MAX_BLOCK_PARTS_BYTES {
            return Err(reader.corrupt("keys of the block exceed their limit").with("limit", MAX_BLOCK_PARTS_BYTES));
        }
        let not_shared = last.start + shared;
        let order = parts.get(not_shared..last.end).unwrap_or_default().cmp(added);
        parts.extend_from_within(last.start..not_shared);
        parts.extend_from_slice(added);
        *last = start..parts.len();
        Ok((offset(parts.len() - start), order))
    }
}

/// Numbers of few rows: a presence bit per row, then the numbers.
struct SparseColumn<'a> {
    present: &'a [u8],
    values: Reader<'a>,
}

impl<'a> SparseColumn<'a> {
    fn new(bytes: &'a [u8], rows: usize) -> Result<Self> {
        let mut values = Reader::new(bytes);
        let present = if bytes.is_empty() { bytes } else { values.bytes(rows.div_ceil(8))? };
        let beyond = present.last().is_some_and(|last| !rows.is_multiple_of(8) && last >> (rows % 8) != 0);
        if beyond {
            return Err(values.corrupt("column has bits for rows beyond the last"));
        }
        Ok(Self { present, values })
    }

    fn is_absent(&self) -> bool {
        self.present.is_empty()
    }

    #[inline]
    fn next<const N: usize>(&mut self, row: usize) -> Result<Option<[u8; N]>> {
        let present = self.present.get(row / 8).is_some_and(|byte| byte >> (row % 8) & 1 == 1);
        present.then(|| self.values.array()).transpose()
    }
}
