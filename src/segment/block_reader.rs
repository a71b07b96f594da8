//! Reads a block: a verified payload back into rows. Whatever is handed out obeys every rule of the row model.

use bytes::Bytes;

use super::SegmentKind;
use super::format::{
    BlockHeader, MAX_BLOCK_PARTS_BYTES, MAX_BLOCK_ROWS, MAX_PART_BYTES, MAX_VALUE_BYTES, Run, column, shape,
};
use super::index::BlockEntry;
use super::row::{Columns, Op, Row, RowKey};
use crate::codec::bytes::Reader;
use crate::error::{Error, Result};
use crate::id::TableId;
use crate::key_group::{KeyGroup, KeyGroupSet};

/// A decoded block.
#[derive(Debug)]
pub(super) struct Block {
    raw: Bytes,
    /// Keys, namespaces and sub-keys with their prefixes spelt out.
    parts: Vec<u8>,
    rows: Vec<StoredRow>,
}

/// A row without its bytes.
#[derive(Debug)]
struct StoredRow {
    run: Run,
    shape: u8,
    key: Span,
    namespace: Span,
    sub: Span,
    payload: Span,
    columns: Columns,
}

/// Bytes of the parts or of the payload.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    start: usize,
    length: usize,
}

impl Span {
    fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.start..).and_then(|rest| rest.get(..self.length)).unwrap_or_default()
    }
}

impl Block {
    /// Decodes the stored bytes of the block that `entry` lists.
    pub(super) fn decode(stored: &Bytes, entry: &BlockEntry, kind: SegmentKind, groups: &KeyGroupSet) -> Result<Self> {
        let (header, payload) = BlockHeader::decode(stored)?;
        if (header.raw_bytes, header.rows) != (entry.raw_bytes, entry.rows) {
            return Err(Error::corrupt("block header differs from the index"));
        }
        let raw = decompress(&header, stored.slice_ref(payload))?;
        let mut rows = Vec::with_capacity(header.rows as usize);
        let mut parts = Vec::new();
        let mut columns = Decoder::new(&raw, header.rows as usize)?;
        for row in 0..header.rows as usize {
            rows.push(columns.next(row, &mut parts)?);
        }
        columns.finish()?;
        let block = Self { raw, parts, rows };
        block.check(entry, kind, groups)?;
        Ok(block)
    }

    /// Checks what the columns cannot: order, groups, and what the kind of segment allows.
    fn check(&self, entry: &BlockEntry, kind: SegmentKind, groups: &KeyGroupSet) -> Result<()> {
        let bounds = (self.rows.first().map(|row| row.run.group), self.rows.last().map(|row| row.run.group));
        if bounds != (Some(entry.first), Some(entry.last)) {
            return Err(Error::corrupt("block has other groups than the index says"));
        }
        let mut previous: Option<(KeyGroup, RowKey<'_>)> = None;
        for (at, stored) in self.rows.iter().enumerate() {
            let (group, Some(row)) = (stored.run.group, self.row(stored)) else {
                return Err(Error::corrupt("row has parts that its operation cannot have").with("row", at));
            };
            let in_order = match previous {
                Some((before, place)) if before == group => row.may_follow(&place),
                Some((before, _)) => before < group && groups.contains(group),
                None => groups.contains(group),
            };
            if !in_order {
                return Err(Error::corrupt("row is out of order or of a foreign group").with("row", at));
            }
            if kind == SegmentKind::Base && !row.op.belongs_in_base() {
                return Err(Error::corrupt("base has a delete or a clear").with("row", at));
            }
            previous = Some((group, row.key));
        }
        Ok(())
    }

    /// Returns the row, if its op and its place fit.
    fn row(&self, stored: &StoredRow) -> Option<Row<'_>> {
        let part = |bit: u8, span: Span| (stored.shape & bit != 0).then(|| span.of(&self.parts));
        let key = RowKey {
            table: stored.run.table,
            key: part(shape::HAS_KEY, stored.key),
            namespace: part(shape::HAS_NAMESPACE, stored.namespace),
            sub: part(shape::HAS_SUB, stored.sub),
        };
        let op = match stored.shape & shape::OP_MASK {
            shape::PUT => Op::Put(stored.payload.of(&self.raw)),
            shape::DELETE => Op::Delete,
            shape::MERGE => Op::Merge(stored.payload.of(&self.raw)),
            _ => Op::Clear,
        };
        key.fits(&op).then_some(Row { key, op, columns: stored.columns })
    }

    /// Returns the rows of `group`, in order.
    pub(super) fn rows_of(&self, group: KeyGroup) -> impl DoubleEndedIterator<Item = Row<'_>> {
        let start = self.rows.partition_point(|row| row.run.group < group);
        let end = self.rows.partition_point(|row| row.run.group <= group);
        self.rows.get(start..end).unwrap_or_default().iter().filter_map(|row| self.row(row))
    }
}

/// Most bytes that zstd makes of this many: its blocks hold 128 KiB at most, and take a header of 3 bytes and one more.
const fn most_decompressed(stored_bytes: usize) -> usize {
    (stored_bytes / 4).saturating_mul(128 << 10)
}

fn decompress(header: &BlockHeader, payload: Bytes) -> Result<Bytes> {
    let raw_bytes = header.raw_bytes as usize;
    let raw = match header.codec {
        BlockHeader::CODEC_NONE => payload,
        // A claim that cannot be true is not worth its memory.
        BlockHeader::CODEC_ZSTD if raw_bytes > most_decompressed(payload.len()) => {
            let error = Error::corrupt("block claims to be larger than it can be").with("stored_bytes", payload.len());
            return Err(error.with("raw_bytes", raw_bytes));
        }
        BlockHeader::CODEC_ZSTD => zstd::bulk::decompress(&payload, raw_bytes)
            .map_err(|source| Error::corrupt("block does not decompress").with_source(source))?
            .into(),
        other => return Err(Error::version("block has a codec that this build lacks").with("codec", other)),
    };
    if raw.len() != raw_bytes {
        let error = Error::corrupt("block has another length than its header says");
        return Err(error.with("expected", raw_bytes).with("found", raw.len()));
    }
    Ok(raw)
}

/// The columns of a payload by number, each with where it starts.
struct Directory<'a> {
    columns: Vec<(u8, usize, &'a [u8])>,
}

impl<'a> Directory<'a> {
    fn decode(raw: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::new(raw);
        // Each has a number of its own.
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

    /// Returns a column and where it starts; one that is left out is empty.
    fn column(&self, id: u8) -> (usize, &'a [u8]) {
        self.columns.iter().find(|column| column.0 == id).map_or((0, &[]), |&(_, start, bytes)| (start, bytes))
    }
}

/// The columns of a block, read in step, row by row.
struct Decoder<'a> {
    runs: Reader<'a>,
    run: Option<Run>,
    left_in_run: usize,
    ops: Reader<'a>,
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

    /// Takes the next row; `parts` collects its key, namespace and sub-key.
    fn next(&mut self, row: usize, parts: &mut Vec<u8>) -> Result<StoredRow> {
        let run = self.next_run()?;
        let shape = self.ops.u8()?;
        if shape > shape::MASK {
            return Err(Error::version("row has an operation that this build lacks").with("shape", shape));
        }
        let mut part = |bit: u8, column: &mut PrefixColumn<'a>| {
            if shape & bit == 0 { Ok(Span::default()) } else { column.next(parts) }
        };
        let key = part(shape::HAS_KEY, &mut self.keys)?;
        let namespace = part(shape::HAS_NAMESPACE, &mut self.namespaces)?;
        let sub = part(shape::HAS_SUB, &mut self.subs)?;
        let payload = match shape & shape::OP_MASK {
            shape::PUT | shape::MERGE => self.next_value()?,
            _ => Span::default(),
        };
        let columns = Columns {
            stamp: self.stamp.next(row)?.map(i64::from_le_bytes),
            schema: self.schema.next(row)?.map(u32::from_le_bytes),
            routing: self.routing.next(row)?.map(u64::from_le_bytes),
        };
        Ok(StoredRow { run, shape, key, namespace, sub, payload, columns })
    }

    fn next_run(&mut self) -> Result<Run> {
        if let (Some(run), 1..) = (self.run, self.left_in_run) {
            self.left_in_run -= 1;
            return Ok(run);
        }
        let run = Run { group: KeyGroup(self.runs.u16()?), table: TableId(self.runs.u32()?) };
        let count = self.runs.varint_up_to(MAX_BLOCK_ROWS)?;
        if count == 0 || self.run.is_some_and(|before| before >= run) {
            return Err(self.runs.corrupt("run is empty or out of order"));
        }
        self.run = Some(run);
        self.left_in_run = count - 1;
        Ok(run)
    }

    fn next_value(&mut self) -> Result<Span> {
        let length = self.value_lengths.varint_up_to(MAX_VALUE_BYTES)?;
        let start = self.values_start.saturating_add(self.values.offset());
        self.values.bytes(length)?;
        Ok(Span { start, length })
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

/// Byte strings, each told as what it adds to a prefix of the one before.
struct PrefixColumn<'a> {
    /// `None` if the column is left out: all its strings are empty.
    reader: Option<Reader<'a>>,
    last: Span,
}

impl<'a> PrefixColumn<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { reader: (!bytes.is_empty()).then(|| Reader::new(bytes)), last: Span::default() }
    }

    fn next(&mut self, parts: &mut Vec<u8>) -> Result<Span> {
        let Some(reader) = &mut self.reader else { return Ok(Span::default()) };
        let shared = reader.varint_up_to(self.last.length)?;
        let added = reader.length_delimited(MAX_PART_BYTES - shared)?;
        if added.is_empty() && shared == self.last.length {
            return Ok(self.last);
        }
        let next = Span { start: parts.len(), length: shared + added.len() };
        if next.start + next.length > MAX_BLOCK_PARTS_BYTES {
            return Err(reader.corrupt("keys of the block exceed their limit").with("limit", MAX_BLOCK_PARTS_BYTES));
        }
        parts.extend_from_within(self.last.start..self.last.start + shared);
        parts.extend_from_slice(added);
        self.last = next;
        Ok(next)
    }
}

/// Numbers that few rows have: a bit per row, then the numbers.
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

    fn next<const N: usize>(&mut self, row: usize) -> Result<Option<[u8; N]>> {
        let present = self.present.get(row / 8).is_some_and(|byte| byte >> (row % 8) & 1 == 1);
        present.then(|| self.values.array()).transpose()
    }
}
