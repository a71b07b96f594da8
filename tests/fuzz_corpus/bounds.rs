//! Memory bounds of readers: hostile objects of the largest size, and a real checkpoint.

use alluvium::backend::{Columns, MAX_VALUE_BYTES, Op, Row, RowBatch, RowKey, RowSource as _, SegmentKind};
use alluvium::internals::codec::bytes::{put_length, put_varint};
use alluvium::internals::envelope;
use alluvium::internals::envelope::ObjectKind;
use alluvium::internals::segment::{EncodeOptions, SegmentRows, SegmentWriter};
use alluvium::internals::store::Key;
use alluvium::manifest::{Extension, MAX_MANIFEST_BYTES, Manifest, PutId, SubtaskManifest};
use alluvium::{
    Attempt, Error, ErrorKind, JobSettings, KeyGroup, KeyGroupSet, OperatorId, RestoreFrom, Result, Seq, TableId,
};
use alluvium_testkit::Counting;
use alluvium_testkit::fuzz::memory::{self, CAP};
use alluvium_testkit::fuzz::object::golden;
use alluvium_testkit::fuzz::seal;
use alluvium_testkit::fuzz::segment::{one_block, segment};
use alluvium_testkit::fuzz::world::{self, Objects};
use bytes::Bytes;

/// Returns a body of `length` bytes that repeats one field of a message nested at `path`.
fn repeated(path: &[u64], field: &[u8], length: usize) -> Vec<u8> {
    let mut body = field.repeat(length / field.len());
    for tag in path.iter().rev() {
        let mut outer = Vec::new();
        put_varint(&mut outer, tag << 3 | 2);
        put_length(&mut outer, body.len());
        outer.extend_from_slice(&body);
        body = outer;
    }
    body
}

/// The lists of a manifest: the path of fields, and the shortest element.
const LISTS: [(&[u64], &[u8]); 10] = [
    (&[], &[7 << 3 | 2, 0]),
    (&[], &[13 << 3 | 2, 0]),
    (&[], &[15 << 3 | 2, 0]),
    (&[], &[0x82, 1, 0]),
    (&[15], &[4 << 3 | 2, 0]),
    (&[15], &[5 << 3 | 2, 0]),
    (&[15, 5, 1], &[2 << 3 | 2, 0]),
    (&[15, 5, 1], &[4 << 3 | 2, 0]),
    (&[15, 5, 1], &[5 << 3 | 2, 0]),
    (&[15, 5, 1, 5, 5], &[0]),
];

#[test]
fn hostile_manifests_of_any_size_are_bounded() {
    let alone = memory::alone();
    for (path, field) in LISTS {
        for length in [1 << 16, 1 << 19, MAX_MANIFEST_BYTES - 100, MAX_MANIFEST_BYTES + 100] {
            let object = envelope::encode(ObjectKind::Manifest, PutId::default(), &repeated(path, field, length));
            let error = alone.bounded(CAP, || Manifest::decode(&object, Seq(8)).unwrap_err());
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }
}

#[test]
fn a_hostile_subtask_manifest_or_heat_is_bounded() {
    let alone = memory::alone();
    for field in [[2 << 3 | 2, 0], [4 << 3 | 2, 0], [5 << 3 | 2, 0]] {
        let body = repeated(&[], &field, MAX_MANIFEST_BYTES - 100);
        let framed = seal::subtask(&[b"ALSM\x01\0\0\0\0\0\0\0", body.as_slice(), &[0; 4]].concat());
        let error = alone.bounded(CAP, || SubtaskManifest::decode(&framed, 8).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
    for (path, field) in [(&[][..], [1 << 3 | 2, 0]), (&[1], [2 << 3 | 2, 0])] {
        let bytes = Bytes::from(repeated(path, &field, 30 << 20));
        let (mut manifest, _) = golden();
        for tag in ["heat", "statistics"] {
            manifest.extensions = vec![Extension { tag: tag.into(), required: false, bytes: bytes.clone() }];
            let decode =
                || manifest.heat(OperatorId(0)).map(drop).and_then(|()| manifest.statistics(OperatorId(0)).map(drop));
            let error = alone.bounded(CAP, || decode().unwrap_err());
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }
}

#[test]
fn the_largest_manifest_can_be_written_and_read() -> Result<()> {
    let _alone = memory::alone();
    let (mut manifest, put_id) = golden();
    let mut with = |bytes: usize| {
        let bytes = Bytes::from(vec![7; bytes]);
        manifest.extensions = vec![Extension { tag: "filler".into(), required: false, bytes }];
        manifest.encode(put_id)
    };
    let overhead = with(1 << 22)?.len() - (1 << 22);
    let largest = with(MAX_MANIFEST_BYTES - overhead)?;
    assert_eq!(largest.len(), MAX_MANIFEST_BYTES);
    assert_eq!(with(MAX_MANIFEST_BYTES - overhead + 1).unwrap_err().kind(), ErrorKind::Limit);
    world::run(async {
        let (_, store) = world::store(&Objects::new(), 1).await;
        let (read, _) = Manifest::decode(&largest, Seq(8)).or_else(|_| Manifest::decode(&largest, Seq(7)))?;
        store.folder().put_new(&Key::Manifest(read.seq), put_id, largest.clone()).await?;
        let found = store.folder().read(&Key::Manifest(read.seq), MAX_MANIFEST_BYTES as u64).await?;
        assert_eq!(found.as_ref(), Some(&largest));
        Ok(())
    })
}

#[test]
fn the_largest_bombs_are_bounded() {
    let alone = memory::alone();
    // The longest block, of zeros, behind a directory that claims the maximum number of columns.
    for first in [vec![0u8], vec![0xff, 0xff, 0xff, 0x09], vec![1, 7, 1, 0xff, 0xff, 0xff, 0x1f]] {
        let mut raw = vec![0; 65 << 20];
        raw[..first.len()].copy_from_slice(&first);
        let frame = zstd::bulk::compress(&raw, 1).unwrap();
        let raw_bytes = u32::try_from(raw.len()).unwrap();
        drop(raw);
        for rows in [1, 4096] {
            let bomb = one_block(1, 2, rows, [0, 0], raw_bytes, &frame);
            let error = alone.bounded(CAP, || segment(&bomb).unwrap_err());
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }
}

#[test]
fn an_impossible_length_reserves_no_memory() {
    let alone = memory::alone();
    let claim = one_block(1, 2, 1, [0, 0], 65 << 20, &[0; 64]);
    let error = alone.bounded(1 << 20, || segment(&claim).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn the_largest_value_is_bounded() -> Result<()> {
    let alone = memory::alone();
    let value = vec![7; MAX_VALUE_BYTES];
    let row = Row { key: RowKey::data(TableId(1), b"k", b"", b""), op: Op::Put(&value), columns: Columns::default() };
    let groups = KeyGroupSet::all(1);
    let mut writer = SegmentWriter::new(SegmentKind::Base, groups, EncodeOptions::default())?;
    writer.push(KeyGroup(0), &row)?;
    let encoded = writer.finish()?;
    drop(value);
    let rows = alone.bounded(CAP, || {
        let rows = SegmentRows::open(encoded.bytes.clone(), &encoded.index_hash)?;
        let mut batch = RowBatch::new();
        rows.append_group(KeyGroup(0), &mut batch)?;
        Ok::<_, Error>(batch.len())
    });
    assert_eq!(rows?, 1);
    Ok(())
}

/// Keys of the real checkpoint, about 20 MiB of rows.
const KEYS: u32 = 400_000;

#[test]
fn a_real_checkpoint_restores_within_the_bound() -> Result<()> {
    let alone = memory::alone();
    let settings = || JobSettings::default().with(|it| it.max_parallelism = 128);
    let objects = world::run(async {
        let (memory, store) = world::store(&Objects::new(), 1).await;
        let mut job = Counting::open_on(store, 2, settings(), RestoreFrom::Newest).await?;
        for round in 0..3 {
            job.add(round * (KEYS / 4)..KEYS / 2 + round * (KEYS / 4))?;
            assert!(job.checkpoint().await?.is_some());
        }
        Ok::<_, Error>(world::dump(&memory).await)
    })?;
    let keys = alone.bounded(CAP, || {
        world::run(async {
            let (_, store) = world::store(&objects, 2).await;
            let job = Counting::open_on(store, 3, settings(), RestoreFrom::Newest).await?;
            assert!(job.job.attempt() > Attempt(1));
            Ok::<_, Error>(job.expected.len())
        })
    })?;
    assert_eq!(keys, KEYS as usize);
    Ok(())
}
