//! The first places of blocks: which blocks a reader of one key reads.

use super::super::SectionCheck;
use super::super::index::Sections;
use super::super::places::FirstPlaces;
use super::*;
use crate::codec::bytes::{put_length, put_length_delimited};
use crate::row::SortedBlocks as _;

/// Rows so long that a block has a few.
fn long_row() -> impl Strategy<Value = Owned> {
    (any_row(), 0..3u16, 7_000..25_000usize).prop_map(|(row, group, length)| {
        let op = match row.op {
            OwnedOp::Put(_) => OwnedOp::Put(vec![7; length]),
            OwnedOp::Merge(_) => OwnedOp::Merge(vec![8; length]),
            other => other,
        };
        Owned { group: KeyGroup(group), op, ..row }
    })
}

fn index_of(encoded: &Encoded) -> SegmentIndex {
    SegmentIndex::find(&encoded.bytes, Some(&encoded.index_hash)).unwrap()
}

/// Returns whether the reader of a key needs the row.
fn needed(row: &Owned, group: u16, table: u32, key: &[u8]) -> bool {
    row.group.0 == group && row.table.0 == table && row.key.as_deref().is_none_or(|found| found == key)
}

/// Returns the needed rows of the blocks that are read for a key, and the number of blocks.
fn read_key(encoded: &Encoded, index: &SegmentIndex, (group, table, key): (u16, u32, &[u8])) -> (Vec<Owned>, usize) {
    let blocks = index.blocks_of_key(KeyGroup(group), TableId(table), key).unwrap();
    let count = blocks.len();
    let bytes = |block: &&BlockEntry| {
        let start = usize::try_from(block.offset).unwrap();
        (block.offset, encoded.bytes.slice(start..start + block.length as usize))
    };
    let (ranges, groups) = (blocks.iter().map(bytes).collect(), std::iter::once(KeyGroup(group)).collect());
    let rows = read(&SegmentRows::of_blocks(index, &groups, blocks, ranges).unwrap()).unwrap();
    (rows.into_iter().filter(|row| needed(row, group, table, key)).collect(), count)
}

/// Compares the sections with all rows.
fn check(index: &SegmentIndex, bytes: &Bytes) -> Result<()> {
    let rows = SegmentRows::new(index, index.groups(), vec![(0, bytes.clone())])?;
    let mut check = SectionCheck::new(index);
    for group in index.groups().iter() {
        rows.visit(group, &mut |spans| {
            let mut batch = RowBatch::new();
            batch.append(&spans)?;
            check.check(group, &batch).map(|()| true)
        })?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_reader_of_a_key_reads_the_blocks_that_have_its_rows(
        rows in prop::collection::vec(long_row(), 0..80),
        base: bool,
        absent in bytes_of(0..5),
    ) {
        let kind = if base { SegmentKind::Base } else { SegmentKind::Delta };
        let encoded = encoded(kind, &KeyGroupSet::all(MAX), &rows);
        let index = index_of(&encoded);
        check(&index, &encoded.bytes).unwrap();
        let stored = folded(kind, &rows);
        let keyless = stored.iter().any(|row| row.key.is_none());
        let keys: std::collections::BTreeSet<_> = rows.iter().filter_map(|row| row.key.clone()).chain([absent]).collect();
        for (group, table) in (0..3).flat_map(|group| (0..3).map(move |table| (group, table))) {
            for key in &keys {
                let (found, read) = read_key(&encoded, &index, (group, table, key));
                let expected: Vec<_> = stored.iter().filter(|row| needed(row, group, table, key)).cloned().collect();
                prop_assert_eq!(&found, &expected);
                let has_rows = |block: &&BlockEntry| {
                    let start = usize::try_from(block.offset).unwrap();
                    let bytes = encoded.bytes.slice(start..start + block.length as usize);
                    let groups = std::iter::once(KeyGroup(group)).collect();
                    if block.first.0 > group || block.last.0 < group {
                        return false;
                    }
                    let rows = SegmentRows::of_blocks(&index, &groups, [*block], vec![(block.offset, bytes)]).unwrap();
                    self::read(&rows).unwrap().iter().any(|row| needed(row, group, table, key))
                };
                let having = index.blocks().iter().filter(has_rows).count();
                // Without clears of whole namespaces, no other block is read, but for one if the key has no rows.
                let most = if keyless { having + 2 } else { having.max(1) };
                prop_assert!(read <= most, "{} blocks read, {} have rows", read, having);
            }
        }
    }
}

/// Many long runs of rows of one place: merges.
#[test]
fn a_place_may_fill_several_blocks() {
    let merge = |key: &str| Owned { op: OwnedOp::Merge(vec![1; 30_000]), ..put(0, key, "") };
    let rows: Vec<_> = ["a", "b", "b", "b", "b", "b", "b", "b", "b", "c"].into_iter().map(merge).collect();
    let encoded = encoded(SegmentKind::Delta, &KeyGroupSet::all(1), &rows);
    let index = index_of(&encoded);
    check(&index, &encoded.bytes).unwrap();
    let read = |key: &str| {
        let (rows, blocks) = read_key(&encoded, &index, (0, 1, key.as_bytes()));
        (rows.len(), blocks)
    };
    assert_eq!(index.blocks().len(), 4);
    assert_eq!([read("a"), read("b"), read("bb"), read("c"), read("")], [(1, 1), (8, 3), (0, 1), (1, 1), (0, 1)]);
}

#[test]
fn a_segment_without_first_places_is_read_by_groups() {
    let encoded = encoded(SegmentKind::Base, &KeyGroupSet::all(2), &large(2, 20_000));
    let index = index_of(&encoded);
    let (kind, groups, blocks) = (index.kind(), index.groups().clone(), index.blocks().to_vec());
    let plain = SegmentIndex::new(kind, groups, blocks, Sections::default());
    let key = (1, 1, &b"key-00016000"[..]);
    let ((found, read), (plainly, all)) = (read_key(&encoded, &index, key), read_key(&encoded, &plain, key));
    assert_eq!((found.len(), &found), (1, &plainly));
    let of_group = index.blocks().iter().filter(|block| block.first.0 == 1).count();
    assert_eq!((read, all), (1, of_group));
    assert!(of_group > 3);
}

/// What a block costs in the index, of keys as the benchmarks have them.
#[test]
fn a_first_place_takes_a_few_bytes() {
    // 16 bytes, of which all but the last few of neighbours differ, as hashed keys have them.
    let key = |n: u32| xxhash_rust::xxh3::xxh3_128(&n.to_le_bytes()).to_be_bytes();
    let group = |n: u32| u16::try_from(n % 4).unwrap();
    let mut rows: Vec<_> = (0..80_000).map(|n| put(group(n), key(n), [b'v'; 100])).collect();
    rows.sort_by(|a, b| (a.group, &a.key).cmp(&(b.group, &b.key)));
    let encoded = encoded(SegmentKind::Base, &KeyGroupSet::all(4), &rows);
    let index = index_of(&encoded);
    let bytes = index.sections().places.as_ref().unwrap().content().len();
    let per_block = bytes as f64 / index.blocks().len() as f64;
    assert!((3.0..6.0).contains(&per_block), "{per_block} bytes a block, {} blocks", index.blocks().len());
}

#[test]
fn places_that_break_a_rule_are_refused() {
    let block = |first, last| BlockEntry {
        offset: 16,
        length: 100,
        raw_bytes: 1,
        rows: 1,
        first: KeyGroup(first),
        last: KeyGroup(last),
        hash: Hash::default(),
    };
    let blocks = [block(0, 0), block(0, 1), block(1, 1), block(2, 2), block(2, 2), block(2, 2)];
    let places = |flags: u8, places: &[(usize, &[u8])]| {
        let mut content = vec![flags];
        for (kept, added) in places {
            put_length(&mut content, *kept);
            put_length_delimited(&mut content, added);
        }
        FirstPlaces::decode(&content, &blocks).map_err(|error| error.kind())
    };
    let good: [(usize, &[u8]); 4] = [(0, b"bcd"), (0, b"abc"), (1, b"x"), (2, b"")];
    assert!(places(0, &good).is_ok() && places(1, &good).is_ok());
    assert_eq!(places(2, &good), Err(ErrorKind::Version));
    let corrupt: [&[(usize, &[u8])]; 7] = [
        &[],
        &good[..3],
        &[good[0], good[1], good[2], good[3], (0, b"z")],
        &[good[0], good[1], good[2], (1, b"w")],
        &[good[0], good[1], good[2], (3, b"")],
        &[good[0], (0, b""), good[2], good[3]],
        &[good[0], good[1], good[2], (1, b"")],
    ];
    for (at, case) in corrupt.into_iter().enumerate() {
        assert_eq!(places(0, case), Err(ErrorKind::Corrupt), "case {at}");
    }
}

#[test]
fn a_check_finds_sections_of_other_rows() {
    let rows = large(2, 3000);
    let encoded = encoded(SegmentKind::Delta, &KeyGroupSet::all(2), &rows);
    let index = index_of(&encoded);
    let with = |content: &[u8]| {
        let places = FirstPlaces::decode(content, index.blocks()).unwrap();
        let sections = Sections { places: Some(places), ..Sections::default() };
        SegmentIndex::new(index.kind(), index.groups().clone(), index.blocks().to_vec(), sections)
    };
    let content = index.sections().places.as_ref().unwrap().content();
    check(&with(content), &encoded.bytes).unwrap();
    // The last byte of the last place: one less and one more.
    for change in [-1i8, 1] {
        let mut wrong = content.to_vec();
        let last = wrong.last_mut().unwrap();
        *last = last.wrapping_add_signed(change);
        let error = check(&with(&wrong), &encoded.bytes).unwrap_err();
        assert!(error.message().starts_with("first place of a block"), "{error}");
    }
    let clear = Owned { key: None, namespace: Some(vec![]), sub: None, op: OwnedOp::Clear, ..put(0, "", "") };
    let rows: Vec<_> = [clear].into_iter().chain(rows).collect();
    let encoded = super::encoded(SegmentKind::Delta, &KeyGroupSet::all(2), &rows);
    let index = index_of(&encoded);
    let mut silent = index.sections().places.as_ref().unwrap().content().to_vec();
    assert_eq!(std::mem::replace(&mut silent[0], 0), 1);
    let sections =
        Sections { places: Some(FirstPlaces::decode(&silent, index.blocks()).unwrap()), ..Sections::default() };
    let silent = SegmentIndex::new(index.kind(), index.groups().clone(), index.blocks().to_vec(), sections);
    let error = check(&silent, &encoded.bytes).unwrap_err();
    assert!(error.message().starts_with("clear without a key"), "{error}");
}
