//! Any bytes as a segment: an error, or rows that a writer would take.
#![no_main]

use alluvium::segment::{EncodeOptions, RowBatch, RowSource, SegmentIndex, SegmentRows, SegmentWriter};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(index) = SegmentIndex::find(data, None) else { return };
    let segment = Bytes::copy_from_slice(data);
    let Ok(rows) = SegmentRows::new(&index, index.groups(), vec![(0, segment)]) else { return };
    let mut writer = SegmentWriter::new(index.kind(), index.groups().clone(), EncodeOptions::default()).unwrap();
    for group in index.groups().iter() {
        let mut batch = RowBatch::new();
        if rows.append_group(group, &mut batch).is_err() {
            return;
        }
        for row in batch.iter() {
            writer.push(group, &row).unwrap();
        }
    }
    writer.finish().unwrap();
});
