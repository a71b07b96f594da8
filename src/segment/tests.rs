//! Segments end to end: rows to bytes and back, and damaged bytes.

mod earliest;
mod hostile;
mod merge;
mod places;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::error::{Error, ErrorKind, Result};
use crate::id::TableId;
use crate::key_group::{KeyGroup, KeyGroupRange};
use crate::row::{
    Columns, Fold, MAX_PART_BYTES, MAX_VALUE_BYTES, Op, Row, RowBatch, RowKey, RowSource, Rules, SealedPart,
};

/// A row with its group and its own bytes.
#[derive(Debug, Clone, PartialEq)]
struct Owned {
    group: KeyGroup,
    table: TableId,
    key: Option<Vec<u8>>,
    namespace: Option<Vec<u8>>,
    sub: Option<Vec<u8>>,
    op: OwnedOp,
    columns: Columns,
}

#[derive(Debug, Clone, PartialEq)]
enum OwnedOp {
    Put(Vec<u8>),
    Delete,
    Merge(Vec<u8>),
    Clear,
}

impl Owned {
    fn new(group: KeyGroup, row: &Row<'_>) -> Self {
        let part = |part: Option<&[u8]>| part.map(<[u8]>::to_vec);
        let op = match row.op {
            Op::Put(value) => OwnedOp::Put(value.to_vec()),
            Op::Delete => OwnedOp::Delete,
            Op::Merge(operand) => OwnedOp::Merge(operand.to_vec()),
            Op::Clear => OwnedOp::Clear,
        };
        let RowKey { table, key, namespace, sub } = row.key;
        Self { group, table, key: part(key), namespace: part(namespace), sub: part(sub), op, columns: row.columns }
    }

    fn row(&self) -> Row<'_> {
        let key = RowKey {
            table: self.table,
            key: self.key.as_deref(),
            namespace: self.namespace.as_deref(),
            sub: self.sub.as_deref(),
        };
        let op = match &self.op {
            OwnedOp::Put(value) => Op::Put(value),
            OwnedOp::Delete => Op::Delete,
            OwnedOp::Merge(operand) => Op::Merge(operand),
            OwnedOp::Clear => Op::Clear,
        };
        Row { key, op, columns: self.columns }
    }
}

fn put(group: u16, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Owned {
    let row = RowKey::data(TableId(1), key.as_ref(), b"", b"");
    let row = Row { key: row, op: Op::Put(value.as_ref()), columns: Columns::default() };
    Owned::new(KeyGroup(group), &row)
}

/// Rows of a seal.
#[derive(Debug)]
struct Source {
    groups: KeyGroupSet,
    rows: BTreeMap<KeyGroup, Vec<Owned>>,
}

impl RowSource for Source {
    fn groups(&self) -> &KeyGroupSet {
        &self.groups
    }

    fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        self.rows.get(&group).into_iter().flatten().try_for_each(|row| batch.push(&row.row()))
    }

    fn held_bytes(&self) -> u64 {
        0
    }
}

fn part(kind: SegmentKind, groups: &KeyGroupSet, rows: &[Owned]) -> SealedPart {
    let mut by_group: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for row in rows {
        by_group.entry(row.group).or_default().push(row.clone());
    }
    SealedPart {
        kind,
        groups: groups.clone(),
        rows: Arc::new(Source { groups: groups.clone(), rows: by_group }),
        rules: Rules::none(),
    }
}

fn encoded(kind: SegmentKind, groups: &KeyGroupSet, rows: &[Owned]) -> Encoded {
    encode(&part(kind, groups, rows), EncodeOptions::default()).unwrap()
}

/// Returns the folded rows, which a segment must return.
fn folded(kind: SegmentKind, rows: &[Owned]) -> Vec<Owned> {
    let fold = if kind == SegmentKind::Base { Fold::Base } else { Fold::Delta };
    let part = part(kind, &KeyGroupSet::all(MAX), rows);
    let group = |group| {
        let mut batch = RowBatch::new();
        part.rows.append_group(group, &mut batch).unwrap();
        batch.fold(fold, &part.rules).unwrap();
        batch.iter().map(|row| Owned::new(group, &row)).collect::<Vec<_>>()
    };
    part.groups.iter().flat_map(group).collect()
}

fn read(rows: &dyn RowSource) -> Result<Vec<Owned>> {
    let mut all = Vec::new();
    for group in rows.groups().iter() {
        let mut batch = RowBatch::new();
        rows.append_group(group, &mut batch)?;
        all.extend(batch.iter().map(|row| Owned::new(group, &row)));
    }
    Ok(all)
}

fn open(encoded: &Encoded) -> Result<Vec<Owned>> {
    read(&SegmentRows::open(encoded.bytes.clone(), &encoded.index_hash)?)
}

/// Reads only the index's ranges for `groups`, as a restore does.
fn read_ranges(encoded: &Encoded, groups: &KeyGroupSet) -> (Vec<Owned>, u64) {
    let start = usize::try_from(encoded.index_offset).unwrap();
    let index = encoded.bytes.slice(start..start + encoded.index_length as usize);
    let index = SegmentIndex::decode(&index, &encoded.index_hash).unwrap();
    let bounds = |at: u64| usize::try_from(at).unwrap();
    let ranges = index.blocks_for(groups);
    let fetched: Vec<_> =
        ranges.iter().map(|r| (r.start, encoded.bytes.slice(bounds(r.start)..bounds(r.end)))).collect();
    let bytes = ranges.iter().map(|r| r.end - r.start).sum();
    (read(&SegmentRows::new(&index, groups, fetched).unwrap()).unwrap(), bytes)
}

const MAX: u16 = 8;

fn bytes_of(length: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    // Few letters, so that places coincide and prefixes are shared.
    prop::collection::vec(prop_oneof![Just(0), Just(b'a'), Just(0xff)], length)
}

fn any_row() -> impl Strategy<Value = Owned> {
    let place = (0..MAX, 0..3u32, bytes_of(0..4), bytes_of(0..3), bytes_of(0..2));
    let columns = (prop::option::weighted(0.1, any::<i64>()), prop::option::weighted(0.1, any::<u32>()));
    let op = (0..8u8, prop::collection::vec(any::<u8>(), 0..40));
    (place, columns, prop::option::weighted(0.1, any::<u64>()), op).prop_map(
        |(place, columns, routing, (op, value))| {
            let (group, table, key, namespace, sub) = place;
            let (key, namespace, sub, op) = match op {
                0 => (Some(key), None, None, OwnedOp::Clear),
                1 => (Some(key), Some(namespace), None, OwnedOp::Clear),
                2 => (None, Some(namespace), None, OwnedOp::Clear),
                3 => (Some(key), Some(namespace), Some(sub), OwnedOp::Delete),
                4 => (Some(key), Some(namespace), Some(sub), OwnedOp::Merge(value)),
                _ => (Some(key), Some(namespace), Some(sub), OwnedOp::Put(value)),
            };
            let columns = Columns { stamp: columns.0, schema: columns.1, routing };
            Owned { group: KeyGroup(group), table: TableId(table), key, namespace, sub, op, columns }
        },
    )
}

fn any_groups() -> impl Strategy<Value = KeyGroupSet> {
    prop::collection::vec(0..MAX, 0..6).prop_map(|groups| groups.into_iter().map(KeyGroup).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn writers_take_rows_that_may_follow_and_no_others(mut rows in prop::collection::vec(any_row(), 0..60), long in 2..9usize) {
        rows.sort_by_key(|row| row.group);
        // Some fill a block: the next row begins another one.
        for row in rows.iter_mut().step_by(long) {
            if let OwnedOp::Put(value) | OwnedOp::Merge(value) = &mut row.op {
                value.resize(70_000, b'v');
            }
        }
        let options = EncodeOptions { codec: Compression::None };
        let mut writer = SegmentWriter::new(SegmentKind::Delta, KeyGroupSet::all(MAX), options).unwrap();
        let mut taken: Vec<Owned> = Vec::new();
        for row in rows {
            let follows = |last: &Owned| last.group < row.group || row.row().may_follow(&last.row().key);
            let expected = taken.last().is_none_or(follows);
            prop_assert_eq!(writer.push(row.group, &row.row()).is_ok(), expected, "{:?} after {:?}", row, taken.last());
            taken.extend(expected.then_some(row));
        }
        prop_assert!(open(&writer.finish().unwrap()).unwrap() == taken);
    }

    #[test]
    fn rows_survive_encoding_and_decoding(rows in prop::collection::vec(any_row(), 0..200), base: bool, wanted in any_groups()) {
        let kind = if base { SegmentKind::Base } else { SegmentKind::Delta };
        let all = KeyGroupSet::all(MAX);
        let encoded = encoded(kind, &all, &rows);
        let expected = folded(kind, &rows);
        prop_assert_eq!(encoded.records, expected.len() as u64);
        prop_assert_eq!(&open(&encoded).unwrap(), &expected);
        let of_wanted: Vec<_> = expected.into_iter().filter(|row| wanted.contains(row.group)).collect();
        prop_assert_eq!(read_ranges(&encoded, &wanted).0, of_wanted);
    }
}

/// Rows of many groups, in more than one block.
fn large(groups: u16, rows: u32) -> Vec<Owned> {
    let value = |n: u32| n.wrapping_mul(0x9e37_79b9).to_le_bytes().repeat(6);
    let group = |n: u32| u16::try_from(n * u32::from(groups) / rows).unwrap();
    (0..rows).map(|n| put(group(n), format!("key-{n:08}"), value(n))).collect()
}

#[test]
fn large_segments_are_read_in_part() {
    let rows = large(MAX, 20_000);
    let encoded = encoded(SegmentKind::Base, &KeyGroupSet::all(MAX), &rows);
    let index = SegmentIndex::find(&encoded.bytes, None).unwrap();
    assert!(index.blocks().len() > 10, "{} blocks", index.blocks().len());
    assert!(index.blocks().iter().all(|block| block.first == block.last), "full blocks end at a group");
    assert_eq!(open(&encoded).unwrap(), rows);
    let two = KeyGroupSet::from_ranges([KeyGroupRange::new(1, 2), KeyGroupRange::new(5, 6)]);
    let (found, fetched) = read_ranges(&encoded, &two);
    assert_eq!(found, rows.iter().filter(|row| two.contains(row.group)).cloned().collect::<Vec<_>>());
    assert_eq!(index.blocks_for(&two).len(), 2);
    assert!(fetched * 10 < encoded.bytes.len() as u64 * 3, "{fetched} of {}", encoded.bytes.len());
    assert!(index.blocks_for(&KeyGroupSet::empty()).is_empty());
}

#[test]
fn long_parts_become_several_segments_with_disjoint_groups() {
    let rows = large(MAX, 20_000);
    // Group 4 has no rows.
    let rows: Vec<_> = rows.into_iter().filter(|row| row.group != KeyGroup(4)).collect();
    let whole = encoded(SegmentKind::Delta, &KeyGroupSet::all(MAX), &rows);
    let group_bytes = whole.bytes.len() as u64 / 7;
    for (segment_bytes, count) in [(0, 7), (1, 7), (group_bytes * 3 / 2, 4), (u64::MAX, 1)] {
        let part = part(SegmentKind::Delta, &KeyGroupSet::all(MAX), &rows);
        let mut encoder = Encoder::new(part, EncodeOptions::default(), segment_bytes);
        let (mut found, mut groups, mut between) = (Vec::new(), Vec::new(), 0);
        while let Some(segment) = encoder.next_segment(|| between += 1).unwrap() {
            assert!(segment.bytes.len() as u64 <= segment_bytes.saturating_add(2 * group_bytes));
            found.extend(open(&segment).unwrap());
            groups.push(segment.groups);
        }
        assert!(encoder.is_done() && encoder.next_segment(|| {}).unwrap().is_none());
        assert_eq!(between, usize::from(MAX) - count, "before each group but the first of a segment");
        assert_eq!(groups.len(), count, "of {segment_bytes}");
        assert!(found == rows, "too long to print");
        assert_eq!(groups.iter().map(KeyGroupSet::len).sum::<usize>(), usize::from(MAX), "each group once");
        assert!(groups.is_sorted_by_key(|groups| groups.first()));
    }
}

#[test]
fn small_groups_share_blocks() {
    let all = KeyGroupSet::all(1000);
    let encoded = encoded(SegmentKind::Delta, &all, &large(1000, 3000));
    let index = SegmentIndex::find(&encoded.bytes, None).unwrap();
    assert!((10..40).contains(&index.blocks().len()), "{} blocks", index.blocks().len());
    let one = KeyGroupSet::from(KeyGroupRange::new(500, 501));
    assert_eq!(read_ranges(&encoded, &one).0.len(), 3);
}

#[test]
fn equal_rows_give_equal_bytes_in_any_order() {
    let mut rows = large(MAX, 500);
    let all = KeyGroupSet::all(MAX);
    let ascending = encoded(SegmentKind::Base, &all, &rows);
    rows.reverse();
    assert_eq!(encoded(SegmentKind::Base, &all, &rows).bytes, ascending.bytes);
}

#[test]
fn empty_segments_cover_their_groups() {
    let groups = KeyGroupSet::from(KeyGroupRange::new(3, 7));
    let encoded = encoded(SegmentKind::Base, &groups, &[]);
    assert_eq!((encoded.records, encoded.raw_bytes), (0, 0));
    let rows = SegmentRows::open(encoded.bytes.clone(), &encoded.index_hash).unwrap();
    assert_eq!((rows.groups(), read(&rows).unwrap()), (&groups, vec![]));
    let mut batch = RowBatch::new();
    assert_eq!(rows.append_group(KeyGroup(7), &mut batch).unwrap_err().kind(), ErrorKind::Usage);
}

#[test]
fn writers_refuse_rows_that_readers_refuse() {
    let writer = |kind| SegmentWriter::new(kind, KeyGroupSet::all(4), EncodeOptions::default()).unwrap();
    let refused = |kind, rows: &[&Owned]| {
        let mut writer = writer(kind);
        let error: Error = rows.iter().find_map(|row| writer.push(row.group, &row.row()).err()).unwrap();
        error.kind()
    };
    let (a, b) = (put(1, "a", "1"), put(1, "b", "1"));
    let (delta, base) = (SegmentKind::Delta, SegmentKind::Base);
    assert_eq!(refused(delta, &[&b, &a]), ErrorKind::Usage);
    assert_eq!(refused(delta, &[&a, &a]), ErrorKind::Usage);
    assert_eq!(refused(delta, &[&b, &put(0, "c", "")]), ErrorKind::Usage);
    assert_eq!(refused(delta, &[&put(4, "a", "")]), ErrorKind::Usage);
    assert_eq!(refused(base, &[&Owned { op: OwnedOp::Delete, ..a.clone() }]), ErrorKind::Usage);
    assert_eq!(refused(delta, &[&Owned { sub: None, ..a.clone() }]), ErrorKind::Usage);
    assert_eq!(refused(delta, &[&put(1, vec![0; MAX_PART_BYTES + 1], "")]), ErrorKind::Limit);
    assert_eq!(refused(delta, &[&put(1, "a", vec![0; MAX_VALUE_BYTES + 1])]), ErrorKind::Limit);
    let new = |kind, groups| SegmentWriter::new(kind, groups, EncodeOptions::default());
    assert!(new(SegmentKind::Foreign, KeyGroupSet::empty()).is_err());
    assert!(new(delta, KeyGroupSet::all(32_768)).is_ok() && new(delta, KeyGroupSet::all(32_769)).is_err());
    let mut rows = writer(delta);
    rows.push(KeyGroup(1), &a.row()).unwrap();
    rows.push(KeyGroup(1), &b.row()).unwrap_or_else(|_| unreachable!("a refusal leaves the writer unchanged"));
    assert_eq!(rows.finish().unwrap().records, 2);
}

#[test]
fn the_largest_row_is_written_and_read() {
    let key = vec![b'k'; MAX_PART_BYTES];
    let rows = [put(0, "a", "1"), put(0, key, vec![9; MAX_VALUE_BYTES]), put(1, "b", "1")];
    let found = open(&encoded(SegmentKind::Base, &KeyGroupSet::all(MAX), &rows)).unwrap();
    assert!(found == rows, "too long to print");
}

#[test]
fn every_bit_flip_and_truncation_is_detected() {
    let rows = large(4, 60);
    let original = encoded(SegmentKind::Delta, &KeyGroupSet::all(4), &rows);
    let kind = |bytes: &[u8], hash: Option<&Hash>| {
        let bytes = Bytes::copy_from_slice(bytes);
        let rows = SegmentIndex::find(&bytes, hash)
            .and_then(|index| SegmentRows::new(&index, index.groups(), vec![(0, bytes.clone())]))
            .and_then(|rows| read(&rows));
        rows.err().map(|error| error.kind())
    };
    for hash in [Some(&original.index_hash), None] {
        for at in 0..original.bytes.len() {
            let mut flipped = original.bytes.to_vec();
            flipped[at] ^= 1 << (at % 8);
            assert_eq!(kind(&flipped, hash), Some(ErrorKind::Corrupt), "flip at {at}");
            assert_eq!(kind(&original.bytes[..at], hash), Some(ErrorKind::Corrupt), "cut at {at}");
        }
    }
    assert_eq!(kind(&original.bytes, Some(&Hash::default())), Some(ErrorKind::Corrupt));
    assert_eq!(kind(&[&original.bytes[..], b"x"].concat(), None), Some(ErrorKind::Corrupt));
}

#[test]
fn an_intact_block_of_another_segment_is_detected() {
    let all = KeyGroupSet::all(4);
    let [one, other] = ["1", "2"].map(|value| encoded(SegmentKind::Delta, &all, &[put(0, "a", value)]));
    let index = SegmentIndex::find(&one.bytes, None).unwrap();
    assert_eq!(index.blocks_for(&all), SegmentIndex::find(&other.bytes, None).unwrap().blocks_for(&all));
    let error = SegmentRows::new(&index, &all, vec![(0, other.bytes.clone())]).unwrap_err();
    assert!(error.message().starts_with("block has another hash"), "{error}");
    let error = SegmentRows::new(&index, &all, vec![(17, one.bytes.slice(17..))]).unwrap_err();
    assert!(error.message().starts_with("block is not among"), "{error}");
    assert!(SegmentRows::open(one.bytes.clone(), &other.index_hash).is_err());
}

#[test]
fn a_reference_must_match_its_segment() {
    let encoded = encoded(SegmentKind::Delta, &KeyGroupSet::all(4), &large(4, 60));
    let index = SegmentIndex::find(&encoded.bytes, None).unwrap();
    let object = ObjectId { attempt: crate::id::Attempt(1), random: [0; 16] };
    let truth = encoded.at(SegmentId::default(), Epoch(0), object, 72);
    index.check_ref(&truth).unwrap();
    let lies = [
        SegmentRef { kind: SegmentKind::Base, ..truth.clone() },
        SegmentRef { groups: KeyGroupSet::all(5), ..truth.clone() },
        SegmentRef { records: 59, ..truth.clone() },
        SegmentRef { raw_bytes: 1, ..truth.clone() },
        SegmentRef { index_offset: 16, ..truth },
    ];
    assert!(lies.iter().all(|lie| index.check_ref(lie).unwrap_err().kind() == ErrorKind::Corrupt));
}
