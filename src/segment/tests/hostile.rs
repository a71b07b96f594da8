//! Blocks and indexes with valid checksums and hashes and invalid content.

use std::sync::LazyLock;

use super::super::block_reader::Block;
use super::super::format::{BlockHeader, MAX_BLOCK_RAW_BYTES, MAX_BLOCK_ROWS, column};
use super::super::index::Sections;
use super::*;
use crate::codec::bytes::tests::{any_damage, damaged};
use crate::codec::bytes::{put_length, put_length_delimited, put_u16, put_u32, put_varint};
use crate::row::shape;
use crate::time::Timestamp;

const GROUPS: u16 = 4;

/// Returns the stored block with this payload, and its index entry.
fn wrapped(codec: u8, stored: &[u8], raw_bytes: usize, rows: u32, last: u16) -> (Bytes, BlockEntry) {
    let raw_bytes = u32::try_from(raw_bytes).unwrap();
    let stored_bytes = u32::try_from(stored.len()).unwrap();
    let mut block = Vec::new();
    BlockHeader { codec, stored_bytes, raw_bytes, rows }.put(stored, &mut block);
    let (first, last) = (KeyGroup(0), KeyGroup(last));
    let length = u32::try_from(block.len()).unwrap();
    let entry = BlockEntry { offset: 16, length, raw_bytes, rows, first, last, hash: Hash::of(&block) };
    (block.into(), entry)
}

fn decode(kind: SegmentKind, block: &Bytes, entry: &BlockEntry) -> Result<Vec<Owned>> {
    let groups = KeyGroupSet::all(GROUPS);
    let mut decoded = Block::default();
    decoded.decode(block, entry, kind, &groups)?;
    let mut rows = Vec::new();
    for group in groups.iter() {
        let mut batch = RowBatch::new();
        batch.append(&decoded.rows_of(group))?;
        rows.extend(batch.iter().map(|row| Owned::new(group, &row)));
    }
    Ok(rows)
}

type ColumnList = Vec<(u8, u8, Vec<u8>)>;

fn payload(columns: &ColumnList) -> Vec<u8> {
    let mut out = Vec::new();
    put_length(&mut out, columns.len());
    for (id, flags, bytes) in columns {
        out.extend_from_slice(&[*id, *flags]);
        put_length(&mut out, bytes.len());
    }
    columns.iter().for_each(|(_, _, bytes)| out.extend_from_slice(bytes));
    out
}

fn run(group: u16, count: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_u16(&mut out, group);
    put_u32(&mut out, 1);
    put_varint(&mut out, count);
    out
}

const DATA: u8 = shape::HAS_KEY | shape::HAS_NAMESPACE | shape::HAS_SUB;

/// The columns of rows `a=1` and `b=2` of group 0.
fn two_rows() -> ColumnList {
    vec![
        (column::RUNS, 1, run(0, 2)),
        (column::OPS, 1, vec![DATA; 2]),
        (column::KEYS, 1, b"\x00\x01a\x00\x01b".to_vec()),
        (column::VALUE_LENGTHS, 1, vec![1, 1]),
        (column::VALUES, 1, b"12".to_vec()),
    ]
}

fn set(columns: &mut ColumnList, id: u8, bytes: impl Into<Vec<u8>>) {
    columns.iter_mut().find(|column| column.0 == id).unwrap().2 = bytes.into();
}

/// Returns the result of reading the two rows after an edit.
fn edited(kind: SegmentKind, last: u16, edit: impl FnOnce(&mut ColumnList)) -> Result<Vec<Owned>, ErrorKind> {
    let mut columns = two_rows();
    edit(&mut columns);
    let raw = payload(&columns);
    let (block, entry) = wrapped(0, &raw, raw.len(), 2, last);
    decode(kind, &block, &entry).map_err(|error| error.kind())
}

#[test]
fn rows_that_break_the_model_are_refused() {
    let delta = |edit: fn(&mut ColumnList)| edited(SegmentKind::Delta, 0, edit);
    assert_eq!(delta(|_| ()).unwrap(), [put(0, "a", "1"), put(0, "b", "2")]);
    let corrupt: [fn(&mut ColumnList); 22] = [
        |c| set(c, column::KEYS, b"\x00\x01b\x00\x01a"),
        |c| set(c, column::KEYS, b"\x00\x01a\x01\x00"),
        |c| set(c, column::KEYS, b"\x00\x01a\x02\x01b"),
        |c| set(c, column::KEYS, b"\x00\x01a\x00\x02b"),
        |c| set(c, column::KEYS, b"\x00\x01a\x00\x01b\x00\x01c"),
        |c| set(c, column::OPS, [DATA, DATA | shape::DELETE]),
        |c| set(c, column::OPS, [DATA, shape::HAS_KEY]),
        |c| set(c, column::OPS, [DATA, shape::CLEAR | shape::HAS_SUB]),
        |c| set(c, column::OPS, [DATA]),
        |c| set(c, column::OPS, [DATA; 3]),
        |c| set(c, column::RUNS, run(0, 1)),
        |c| set(c, column::RUNS, run(0, 3)),
        |c| set(c, column::RUNS, [run(0, 0), run(0, 2)].concat()),
        |c| set(c, column::RUNS, [run(0, 1), run(0, 1)].concat()),
        |c| set(c, column::RUNS, run(1, 2)),
        |c| set(c, column::VALUE_LENGTHS, [1, 2]),
        |c| set(c, column::VALUES, b"123"),
        |c| c.swap(0, 1),
        |c| c.push((column::STAMP, 1, vec![0b100; 9])),
        |c| c.push((column::STAMP, 1, vec![0; 8])),
        |c| c.push((column::STAMP, 1, vec![0b101, 0, 0, 0, 0, 0, 0, 0, 0])),
        |c| c.push((column::STAMP, 1, vec![])),
    ];
    for (at, edit) in corrupt.into_iter().enumerate() {
        assert_eq!(delta(edit), Err(ErrorKind::Corrupt), "edit {at}");
    }
    let foreign = |c: &mut ColumnList| set(c, column::RUNS, [run(0, 1), run(GROUPS, 1)].concat());
    assert_eq!(edited(SegmentKind::Delta, GROUPS, foreign), Err(ErrorKind::Corrupt));
    let delete = |c: &mut ColumnList| {
        set(c, column::OPS, [DATA, DATA | shape::DELETE]);
        set(c, column::VALUE_LENGTHS, [2]);
    };
    assert!(edited(SegmentKind::Delta, 0, delete).is_ok());
    assert_eq!(edited(SegmentKind::Base, 0, delete), Err(ErrorKind::Corrupt));
}

#[test]
fn headers_must_agree() {
    let raw = payload(&two_rows());
    let (block, entry) = wrapped(0, &raw, raw.len(), 2, 0);
    let error_of =
        |block: &Bytes, entry: &BlockEntry| decode(SegmentKind::Delta, block, entry).unwrap_err().to_string();
    for lie in [BlockEntry { rows: 1, ..entry }, BlockEntry { raw_bytes: 1, ..entry }] {
        assert_eq!(error_of(&block, &lie), "block header differs from the index");
    }
    for (codec, stored) in [(0, raw.clone()), (1, zstd::bulk::compress(&raw, 1).unwrap())] {
        let (block, entry) = wrapped(codec, &stored, raw.len() + 1, 2, 0);
        assert!(error_of(&block, &entry).starts_with("block has another length"), "codec {codec}");
    }
    let mut reserved = block[..block.len() - 4].to_vec();
    reserved[2] = 1;
    reserved.extend_from_slice(&crc32fast::hash(&reserved).to_le_bytes());
    assert!(error_of(&reserved.into(), &entry).starts_with("reserved bytes"));
}

#[test]
fn checksums_are_compared_where_they_are_asked_for() {
    let raw = payload(&two_rows());
    let block = wrapped(0, &raw, raw.len(), 2, 0).0;
    assert!(BlockHeader::decode(&block).is_ok() && BlockHeader::check(&block).is_ok());
    for at in 0..block.len() {
        let mut damaged = block.to_vec();
        damaged[at] ^= 1;
        assert_eq!(BlockHeader::check(&damaged).unwrap_err().kind(), ErrorKind::Corrupt, "byte {at}");
    }
}

#[test]
fn indexes_that_break_a_rule_are_refused() {
    let entry = wrapped(0, b"x", 1, 1, 0).1;
    let decode = |blocks: &[BlockEntry]| {
        let mut bytes = Vec::new();
        SegmentIndex::new(SegmentKind::Delta, KeyGroupSet::all(2), blocks.to_vec(), Sections::default())
            .encode(&mut bytes);
        SegmentIndex::decode(&bytes, &Hash::of(&bytes)).map_err(|error| error.message().to_owned())
    };
    assert!(decode(&[entry, entry]).is_ok());
    let of = |first, last| BlockEntry { first: KeyGroup(first), last: KeyGroup(last), ..entry };
    for (blocks, reason) in [
        (vec![of(1, 0)], "groups of the blocks are out of order"),
        (vec![of(0, 1), of(0, 1)], "groups of the blocks are out of order"),
        (vec![of(1, 2)], "block has a group that the segment does not cover"),
        (vec![of(2, 2)], "block has a group that the segment does not cover"),
        (vec![BlockEntry { length: 19, ..entry }], "block is shorter than its header"),
    ] {
        assert!(decode(&blocks).unwrap_err().starts_with(reason), "{blocks:?}");
    }
}

#[test]
fn nothing_lies_between_the_blocks_and_the_index() {
    let encoded = encoded(SegmentKind::Delta, &KeyGroupSet::all(1), &[put(0, "a", "1")]);
    let (blocks, rest) = encoded.bytes.split_at(usize::try_from(encoded.index_offset).unwrap());
    let mut segment = [blocks, b"x", &rest[..encoded.index_length as usize]].concat();
    crate::codec::trailer::put_trailer(&mut segment, blocks.len() + 1, encoded.index_offset + 1).unwrap();
    let error = SegmentIndex::find(&segment, None).unwrap_err();
    assert!(error.message().starts_with("index does not start where"), "{error}");
}

#[test]
fn newer_sections_are_skipped_or_refused_by_their_flags() {
    let index = |flags| {
        let mut bytes = INDEX[..INDEX.len() - 1].to_vec();
        bytes.extend_from_slice(&[1, 9, flags, 2, 0, 0]);
        SegmentIndex::decode(&bytes, &Hash::of(&bytes)).map_err(|error| error.kind())
    };
    assert_eq!(index(0).unwrap(), SegmentIndex::decode(&INDEX, &Hash::of(&INDEX)).unwrap());
    assert_eq!(index(1), Err(ErrorKind::Version));
}

#[test]
fn blocks_of_a_group_follow_each_other() {
    let raw = payload(&two_rows());
    let (block, entry) = wrapped(0, &raw, raw.len(), 2, 0);
    let second = BlockEntry { offset: entry.offset + u64::from(entry.length), ..entry };
    let index = SegmentIndex::new(SegmentKind::Delta, KeyGroupSet::all(1), vec![entry, second], Sections::default());
    let stored = [&block[..], &block].concat().into();
    let rows = SegmentRows::new(&index, &KeyGroupSet::all(1), vec![(entry.offset, stored)]).unwrap();
    let error = rows.append_group(KeyGroup(0), &mut RowBatch::new()).unwrap_err();
    assert!(error.message().starts_with("blocks are out of order"), "{error}");
}

#[test]
fn newer_columns_are_skipped_or_refused_by_their_flags() {
    let delta = |edit: fn(&mut ColumnList)| edited(SegmentKind::Delta, 0, edit);
    assert_eq!(delta(|c| c.push((99, 0, vec![1, 2]))).unwrap().len(), 2);
    assert_eq!(delta(|c| c.push((99, 1, vec![1, 2]))), Err(ErrorKind::Version));
    assert_eq!(delta(|c| c.push((99, 2, vec![1, 2]))), Err(ErrorKind::Version));
    assert_eq!(delta(|c| set(c, column::OPS, [DATA, DATA | 0x20])), Err(ErrorKind::Version));
    let raw = payload(&two_rows());
    let (block, entry) = wrapped(2, &raw, raw.len(), 2, 0);
    assert_eq!(decode(SegmentKind::Delta, &block, &entry).unwrap_err().kind(), ErrorKind::Version);
    let mut ciphered = block[..block.len() - 4].to_vec();
    (ciphered[0], ciphered[1]) = (0, 1);
    ciphered.extend_from_slice(&crc32fast::hash(&ciphered).to_le_bytes());
    assert_eq!(decode(SegmentKind::Delta, &ciphered.into(), &entry).unwrap_err().kind(), ErrorKind::Version);
}

#[test]
fn g03_bombs_do_not_go_off() {
    // Payloads that decompress beyond their stated length, or state a length beyond the limit.
    let zeros = zstd::bulk::compress(&vec![0; 10 << 20], 1).unwrap();
    let (block, entry) = wrapped(1, &zeros, 100, 1, 0);
    assert_eq!(decode(SegmentKind::Delta, &block, &entry).unwrap_err().kind(), ErrorKind::Corrupt);
    let index = |raw_bytes, rows| {
        let (_, entry) = wrapped(1, &zeros, raw_bytes, rows, 0);
        let mut bytes = Vec::new();
        SegmentIndex::new(SegmentKind::Delta, KeyGroupSet::all(1), vec![entry], Sections::default()).encode(&mut bytes);
        SegmentIndex::decode(&bytes, &Hash::of(&bytes)).map_err(|error| error.kind())
    };
    let most = u32::try_from(MAX_BLOCK_ROWS).unwrap();
    assert!(index(MAX_BLOCK_RAW_BYTES, most).is_ok());
    assert_eq!(index(MAX_BLOCK_RAW_BYTES + 1, most), Err(ErrorKind::Corrupt));
    assert_eq!(index(MAX_BLOCK_RAW_BYTES, most + 1), Err(ErrorKind::Corrupt));

    // Keys that grow to gigabytes once their prefixes are restored.
    let rows = MAX_BLOCK_ROWS - 1;
    let mut keys = vec![0];
    put_length_delimited(&mut keys, &[b'k'; MAX_PART_BYTES]);
    for _ in 1..rows {
        put_length(&mut keys, MAX_PART_BYTES - 1);
        keys.extend_from_slice(b"\x01l");
    }
    let columns = vec![
        (column::RUNS, 1, run(0, rows as u64)),
        (column::OPS, 1, vec![DATA | shape::MERGE; rows]),
        (column::KEYS, 1, keys),
        (column::VALUE_LENGTHS, 1, vec![0; rows]),
    ];
    let raw = payload(&columns);
    let (block, entry) = wrapped(0, &raw, raw.len(), u32::try_from(rows).unwrap(), 0);
    let error = decode(SegmentKind::Delta, &block, &entry).unwrap_err();
    assert!(error.message().starts_with("keys of the block exceed"), "{error}");
}

/// An index of a few blocks, with the first places of some.
fn index() -> SegmentIndex {
    let rows: Vec<_> = large(40, 6000).into_iter().filter(|row| row.group.0 < 3 || row.group.0 % 9 == 0).collect();
    let wide = |row: &Owned| Owned { op: OwnedOp::Put(vec![b'v'; 1500]), ..row.clone() };
    let rows: Vec<_> = rows.iter().map(wide).collect();
    let encoded = encoded(SegmentKind::Delta, &KeyGroupSet::all(40), &rows);
    SegmentIndex::find(&encoded.bytes, None).unwrap()
}

fn index_with(sections: Sections) -> Vec<u8> {
    let (found, mut bytes) = (index(), Vec::new());
    SegmentIndex::new(found.kind(), found.groups().clone(), found.blocks().to_vec(), sections).encode(&mut bytes);
    bytes
}

/// An index without sections.
static INDEX: LazyLock<Vec<u8>> = LazyLock::new(|| index_with(Sections::default()));

/// The same with every section.
static INDEX_WITH_SECTIONS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let at = |group| i64::from(group) * 1000 - 7;
    let timer = |table, group| {
        let (table, group) = (TableId(table), KeyGroup(group));
        EarliestTimer { table, group, at: Timestamp::from_millis(at(group.0)) }
    };
    let earliest = (0..40).step_by(3).map(|group| timer(1, group)).chain([timer(9, 5)]).collect();
    let places = index().sections().places.clone();
    assert!(places.as_ref().is_some_and(|places| places.content().len() > 10));
    index_with(Sections { earliest: Some(earliest), places })
});

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A writer accepts every row that a reader accepts.
    #[test]
    fn damaged_payloads_give_an_error_or_valid_rows(
        rows in prop::collection::vec(any_row(), 1..12),
        damage in any_damage(),
    ) {
        let rows: Vec<_> = rows.into_iter().filter(|row| row.group.0 < GROUPS).collect();
        let groups = KeyGroupSet::all(GROUPS);
        let options = EncodeOptions { codec: Compression::None };
        let encoded = encode(&part(SegmentKind::Delta, &groups, &rows), options).unwrap();
        let index = SegmentIndex::find(&encoded.bytes, None).unwrap();
        let Some(entry) = index.blocks().first() else { return Ok(()) };
        let raw = damaged(&encoded.bytes[32..entry.length as usize + 12], &damage);
        let (block, damaged_entry) = wrapped(0, &raw, raw.len(), entry.rows, entry.last.0);
        let damaged_entry = BlockEntry { first: entry.first, ..damaged_entry };
        if let Ok(rows) = decode(SegmentKind::Delta, &block, &damaged_entry) {
            let mut writer = SegmentWriter::new(SegmentKind::Delta, groups, options).unwrap();
            for row in &rows {
                writer.push(row.group, &row.row()).unwrap();
            }
            prop_assert_eq!(rows.len(), entry.rows as usize);
        }
    }

    #[test]
    fn damaged_indexes_give_an_error_or_a_valid_index(damage in any_damage(), sections: bool) {
        let index = damaged(if sections { &INDEX_WITH_SECTIONS } else { &INDEX }, &damage);
        if let Ok(index) = SegmentIndex::decode(&index, &Hash::of(&index)) {
            let ranges = index.blocks_for(&KeyGroupSet::all(40));
            let found = index.blocks_of_key(KeyGroup(1), TableId(1), b"key-00000200").unwrap();
            prop_assert!(found.iter().all(|block| block.first.0 <= 1 && block.last.0 >= 1));
            prop_assert!(ranges.iter().all(|range| range.start < range.end && range.end <= index.offset()));
            let mut again = Vec::new();
            index.encode(&mut again);
            prop_assert_eq!(SegmentIndex::decode(&again, &Hash::of(&again)).unwrap(), index);
        }
    }
}
