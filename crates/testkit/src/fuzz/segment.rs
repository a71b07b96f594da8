//! Segments: whole, index only, single block.

use alluvium::backend::{Fold, RowBatch, RowSource as _, Rules};
use alluvium::internals::codec::bytes::{Reader, put_checksum, put_length, put_u8, put_u16, put_u32};
use alluvium::internals::codec::trailer::put_trailer;
use alluvium::internals::segment::{EarliestTimer, EncodeOptions, SegmentIndex, SegmentRows, SegmentWriter};
use alluvium::manifest::Hash;
use alluvium::{KeyGroup, KeyGroupRange, KeyGroupSet, Result, TableId};
use bytes::Bytes;

use super::seal;

/// Any bytes as a segment, raw and with checksums corrected.
pub fn segment(data: &[u8]) -> Result<()> {
    let _refused = scan(&seal::segment(data));
    scan(data)
}

/// Any bytes as an index.
pub fn segment_index(data: &[u8]) -> Result<()> {
    let index = SegmentIndex::decode(data, &Hash::of(data))?;
    let all = index.blocks_for(index.groups());
    match (index.blocks().first(), all.as_slice()) {
        (None, []) => {}
        (Some(first), [whole]) => assert_eq!(*whole, first.offset..index.offset(), "blocks are contiguous"),
        (_, other) => panic!("blocks in {} ranges", other.len()),
    }
    let some = KeyGroupSet::from(KeyGroupRange::new(0, u16::from(*data.last().unwrap_or(&0)) << 7));
    for range in index.blocks_for(&some.intersection(index.groups())) {
        assert!(all.iter().any(|whole| whole.start <= range.start && range.end <= whole.end));
    }
    let groups = [index.blocks().first().map(|block| block.last), index.blocks().last().map(|block| block.first)];
    for group in groups.into_iter().flatten() {
        for key in [&data[data.len() / 2..], b"", b"user-000100"] {
            let found = index.blocks_of_key(group, TableId(1), key).expect("the section was checked");
            assert!(found.iter().all(|block| block.first <= group && group <= block.last));
            assert!(found.is_sorted_by(|a, b| a.offset < b.offset));
        }
    }
    let place = |timer: &EarliestTimer| (timer.table, timer.group);
    assert!(index.earliest().is_sorted_by(|a, b| place(a) < place(b)));
    for timer in index.earliest() {
        assert!(index.groups().contains(timer.group));
        assert_eq!(index.earliest_of(timer.table, timer.group), Some(timer.at));
    }
    assert!(index.records() >= index.blocks().len() as u64 && index.raw_bytes() <= u64::MAX / 2);
    Ok(())
}

/// Any bytes as the payload of a segment's only block; the first seven set fields of its header and index.
pub fn block(data: &[u8]) -> Result<()> {
    let mut reader = Reader::new(data);
    let (flags, rows, groups) = (reader.u8()?, reader.u16()?, [reader.u16()?, reader.u16()?]);
    let payload = reader.rest();
    let raw_bytes = if flags & 1 == 0 { payload.len() } else { payload.len() << (flags >> 3) };
    let Ok(raw_bytes) = u32::try_from(raw_bytes) else { return Ok(()) };
    scan(&one_block(flags & 1, 1 + (flags >> 1 & 1), rows.into(), groups, raw_bytes, payload))
}

/// Returns the sealed segment of kind `kind` with one block.
pub fn one_block(codec: u8, kind: u8, rows: u32, groups: [u16; 2], raw_bytes: u32, payload: &[u8]) -> Vec<u8> {
    let length = |bytes: usize| u32::try_from(bytes).expect("a test's block is small");
    let mut out = b"ALSG\x01\0\0\0\0\0\0\0".to_vec();
    put_checksum(&mut out, 0);
    let start = out.len();
    out.extend_from_slice(&[codec, 0, 0, 0]);
    put_u32(&mut out, length(payload.len()));
    put_u32(&mut out, raw_bytes);
    put_u32(&mut out, rows);
    out.extend_from_slice(payload);
    put_checksum(&mut out, start);
    let (block, hash, index) = (length(out.len() - start), Hash::of(&out[start..]), out.len());
    put_u16(&mut out, 1);
    put_u16(&mut out, 0);
    put_u8(&mut out, kind);
    put_length(&mut out, 1);
    put_u16(&mut out, 0);
    put_u16(&mut out, 256);
    put_length(&mut out, 1);
    [block, raw_bytes, rows].into_iter().for_each(|number| put_u32(&mut out, number));
    groups.into_iter().for_each(|group| put_u16(&mut out, group));
    out.extend_from_slice(&hash.0);
    put_length(&mut out, 0);
    put_trailer(&mut out, index, index as u64).expect("a test's index is small");
    out
}

/// Reads every row, then writes and folds the rows.
fn scan(bytes: &[u8]) -> Result<()> {
    let index = SegmentIndex::find(bytes, None)?;
    let rows = SegmentRows::new(&index, index.groups(), vec![(0, Bytes::copy_from_slice(bytes))])?;
    let mut writer = SegmentWriter::new(index.kind(), index.groups().clone(), EncodeOptions::default())?;
    let mut batch = RowBatch::new();
    for group in index.groups().iter().filter(|group| may_have_rows(&index, *group)) {
        batch.clear();
        rows.append_group(group, &mut batch)?;
        for row in batch.iter() {
            writer.push(group, &row).expect("writers accept rows from readers");
        }
        batch.fold(Fold::Base, &Rules::none()).expect("without rules nothing can fail");
    }
    let again = writer.finish()?;
    assert_eq!(again.records, index.records());
    let found = SegmentIndex::find(&again.bytes, Some(&again.index_hash))?;
    assert_eq!((found.kind(), found.groups()), (index.kind(), index.groups()));
    Ok(())
}

fn may_have_rows(index: &SegmentIndex, group: KeyGroup) -> bool {
    index.blocks().iter().any(|block| block.first <= group && group <= block.last)
}
