//! Segments: framing, index, blocks, compression.

use alluvium::internals::codec::bytes::{put_checksum, put_length, put_u16, put_u32, put_u64};

use super::super::seeds;
use super::{Edit, Named, edited, named, varint};
use alluvium_testkit::fuzz::seal;

pub(super) fn all() -> Named {
    [segments(), indexes(), sections(), directories(), blocks(), compressed()].concat()
}

/// Segments: framing, and the trailer.
fn segments() -> Named {
    let good = seeds::golden("delta.segment");
    let plain: [(&str, Edit); 14] = [
        ("empty", Vec::clear),
        ("one-byte", |o| o.truncate(1)),
        ("magic-only", |o| o.truncate(4)),
        ("header-only", |o| o.truncate(16)),
        ("trailer-only", |o| drop(o.drain(..o.len() - 16))),
        ("header-and-trailer", |o| drop(o.drain(16..o.len() - 16))),
        ("last-byte-missing", |o| o.truncate(o.len() - 1)),
        ("garbage-behind", |o| o.push(0)),
        ("twice", |o| o.extend_from_within(..)),
        ("checksum-zero", |o| o.iter_mut().rev().take(4).for_each(|byte| *byte = 0)),
        ("header-checksum-zero", |o| o[12..16].fill(0)),
        ("magic-wrong", |o| o[3] = b'g'),
        ("magic-of-an-object", |o| drop(o.splice(..4, *b"ALLUVIUM"))),
        ("block-flipped", |o| o[40] ^= 1),
    ];
    let sealed: [(&str, Edit); 5] = [
        ("version-0", |o| o[4] = 0),
        ("version-max", |o| o[4..6].fill(0xff)),
        ("flag-unknown", |o| o[6] = 1),
        ("reserved", |o| o[8] = 1),
        ("a-byte-between-block-and-index", |o| {
            let at = o.len() - 16 - 61;
            o.insert(at, 0);
        }),
    ];
    let trailer = |offset: u64, length: u32| {
        let mut segment = good[..good.len() - 16].to_vec();
        put_u64(&mut segment, offset);
        put_u32(&mut segment, length);
        put_checksum(&mut segment, 0);
        segment
    };
    let mut all = edited("segment", &good, plain);
    all.extend(edited("segment", &good, sealed).into_iter().map(|(t, name, bytes)| (t, name, seal::segment(&bytes))));
    all.extend(named(
        "segment",
        [
            ("trailer-before-the-start", trailer(0, 0)),
            ("trailer-beyond-the-end", trailer(1 << 20, 10)),
            ("trailer-at-itself", trailer(good.len() as u64 - 16, 0)),
            ("trailer-max", trailer(u64::MAX, u32::MAX)),
            ("trailer-overflows", trailer(u64::MAX - 9, 10)),
            ("trailer-of-everything", trailer(0, u32::try_from(good.len() - 16).unwrap())),
        ],
    ));
    all
}

/// A block of an index: length, raw length, rows, first and last group.
type Block = (u32, u32, u32, u16, u16);

/// Returns an index with these bytes behind its blocks.
fn index(kind: u8, ranges: &[(u16, u16)], blocks: &[Block], behind: &[u8]) -> Vec<u8> {
    let mut out = vec![1, 0, 0, 0, kind];
    put_length(&mut out, ranges.len());
    ranges.iter().for_each(|(start, end)| [*start, *end].into_iter().for_each(|number| put_u16(&mut out, number)));
    put_length(&mut out, blocks.len());
    for (length, raw, rows, first, last) in blocks {
        [*length, *raw, *rows].into_iter().for_each(|number| put_u32(&mut out, number));
        [*first, *last].into_iter().for_each(|number| put_u16(&mut out, number));
        out.extend_from_slice(&[0; 16]);
    }
    out.extend_from_slice(behind);
    out
}

/// Indexes of segments, each with a correct hash.
fn indexes() -> Named {
    let all = [(0, 8)];
    let with = |block: Block| index(1, &all, &[block], &[0]);
    let raw = |bytes: &[u8]| [&[1, 0, 0, 0, 1][..], bytes].concat();
    let largest = 65 << 20;
    named(
        "segment_index",
        [
            ("empty", vec![]),
            ("version-0", vec![0, 0, 0, 0, 1, 0, 0, 0]),
            ("version-9", vec![9, 0, 0, 0, 1, 0, 0, 0]),
            ("flag-unknown", vec![1, 0, 1, 0, 1, 0, 0, 0]),
            ("kind-0", index(0, &all, &[], &[0])),
            ("kind-foreign", index(3, &all, &[], &[0])),
            ("kind-unknown", index(9, &all, &[], &[0])),
            ("ranges-40-bits", raw(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x20, 0, 0])),
            ("ranges-max", raw(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1])),
            ("ranges-overlong", raw(&[0x80, 0, 0, 0])),
            ("ranges-of-11-bytes", raw(&[0x80; 11])),
            ("ranges-cut", raw(&[0x80])),
            ("ranges-inverted", index(1, &[(8, 0)], &[], &[0])),
            ("ranges-overlap", index(1, &[(0, 5), (4, 8)], &[], &[0])),
            ("ranges-touch", index(1, &[(0, 4), (4, 8)], &[], &[0])),
            ("ranges-descend", index(1, &[(4, 8), (0, 2)], &[], &[0])),
            ("ranges-beyond-all-groups", index(1, &[(0, 32_769)], &[], &[0])),
            ("range-empty", index(1, &[(3, 3)], &[], &[0])),
            ("blocks-40-bits", raw(&[0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20])),
            ("block-of-0-bytes", with((0, 1, 1, 0, 0))),
            ("block-shorter-than-its-header", with((19, 1, 1, 0, 0))),
            ("block-of-0-rows", with((100, 1, 0, 0, 0))),
            ("block-of-too-many-rows", with((100, 1, 4097, 0, 0))),
            ("block-too-large", with((100, largest + 1, 1, 0, 0))),
            ("block-of-max-bytes", with((u32::MAX, u32::MAX, 1, 0, 0))),
            ("block-groups-inverted", with((100, 1, 1, 3, 2))),
            ("block-of-a-foreign-group", with((100, 1, 1, 0, 8))),
            ("blocks-descend", index(1, &all, &[(100, 1, 1, 3, 3), (100, 1, 1, 2, 2)], &[0])),
            ("bytes-behind", index(1, &all, &[], &[0, 0])),
        ],
    )
}

/// Indexes of segments whose sections are wrong.
fn sections() -> Named {
    let all = [(0, 8)];
    let timers = |content: &[u8]| {
        let length = u8::try_from(content.len()).unwrap();
        index(1, &all, &[], &[&[1, 1, 0, length][..], content].concat())
    };
    let block = (100, 1, 1, 3, 3);
    let two = [block, block];
    let places = |content: &[u8]| {
        let length = u8::try_from(content.len()).unwrap();
        index(1, &all, &two, &[&[1, 2, 0, length][..], content].concat())
    };
    named(
        "segment_index",
        [
            ("sections-40-bits", index(1, &all, &[], &[0x80, 0x80, 0x80, 0x80, 0x80, 0x20])),
            ("section-too-long", index(1, &all, &[], &[1, 7, 0, 9])),
            ("section-required", index(1, &all, &[], &[1, 7, 1, 0])),
            ("sections-descend", index(1, &all, &[], &[2, 9, 0, 0, 8, 0, 0])),
            ("section-twice", index(1, &all, &[], &[2, 1, 0, 1, 0, 1, 0, 1, 0])),
            ("places-of-no-block", index(1, &all, &[], &[1, 2, 0, 3, 0, 0, 0])),
            ("places-empty", index(1, &all, &two, &[1, 2, 0, 0])),
            ("places-flag-unknown", places(&[2, 0, 1, 7])),
            ("places-missing", places(&[0])),
            ("places-of-no-bytes", places(&[0, 0, 0])),
            ("places-share-too-much", places(&[0, 1, 1, 7])),
            ("places-40-bits", places(&[0, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20])),
            ("places-cut", places(&[0, 0, 2, 7])),
            ("places-and-a-byte", places(&[0, 0, 1, 7, 0])),
            ("places-descend", index(1, &all, &[block, block, block], &[1, 2, 0, 7, 0, 0, 1, 7, 0, 1, 6])),
            ("timers-40-bits", timers(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x20])),
            ("timers-of-no-group", timers(&[1, 5, 0, 0, 0, 0])),
            ("timers-tables-descend", timers(&[2, 5, 0, 0, 0, 1, 0, 0, 4, 0, 0, 0, 1, 0, 0])),
            ("timers-of-a-foreign-group", timers(&[1, 5, 0, 0, 0, 1, 8, 0])),
            ("timers-beyond-all-groups", timers(&[1, 5, 0, 0, 0, 2, 7, 0, 0xff, 0xff, 3, 0])),
            ("timers-cut", timers(&[1, 5, 0, 0, 0, 2, 0, 0, 0])),
            ("timers-overlong", timers(&[1, 5, 0, 0, 0, 1, 0, 0x80, 0])),
            ("timers-and-a-byte", timers(&[0, 0])),
        ],
    )
}

const RUNS: u8 = 1;
const OPS: u8 = 2;
const KEYS: u8 = 3;
const VALUE_LENGTHS: u8 = 6;
const VALUES: u8 = 7;
const STAMP: u8 = 16;

/// Returns an input of the target `block`: flags, row count, groups, payload.
fn case(flags: u8, rows: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![flags];
    [rows, 0, 0].into_iter().for_each(|number| put_u16(&mut out, number));
    out.extend_from_slice(payload);
    out
}

type Columns = Vec<(u8, u8, Vec<u8>)>;

fn payload(columns: &Columns) -> Vec<u8> {
    let mut out = Vec::new();
    put_length(&mut out, columns.len());
    for (id, flags, bytes) in columns {
        out.extend_from_slice(&[*id, *flags]);
        put_length(&mut out, bytes.len());
    }
    columns.iter().for_each(|(.., bytes)| out.extend_from_slice(bytes));
    out
}

fn run(group: u16, rows: u64) -> Vec<u8> {
    [&group.to_le_bytes(), 1u32.to_le_bytes().as_slice(), &varint(rows)].concat()
}

/// Columns of the rows `a=1` and `b=2` of group 0.
fn two_rows() -> Columns {
    vec![
        (RUNS, 1, run(0, 2)),
        (OPS, 1, vec![28; 2]),
        (KEYS, 1, b"\x00\x01a\x00\x01b".to_vec()),
        (VALUE_LENGTHS, 1, vec![1, 1]),
        (VALUES, 1, b"12".to_vec()),
    ]
}

/// Returns the two rows with column `id` replaced by `bytes`.
fn set(id: u8, bytes: &[u8]) -> Vec<u8> {
    let mut columns = two_rows();
    match columns.iter_mut().find(|column| column.0 == id) {
        Some(column) => column.2 = bytes.to_vec(),
        None => columns.push((id, 1, bytes.to_vec())),
    }
    case(2, 2, &payload(&columns))
}

/// Returns a keyless first row of this shape, followed by `b`.
fn first_row(shape: u8, values: &[u8]) -> Vec<u8> {
    let mut columns = two_rows();
    columns[1].2[0] = shape;
    columns[2].2 = b"\x00\x01b".to_vec();
    columns[3].2 = vec![1; values.len()];
    columns[4].2 = values.to_vec();
    case(2, 2, &payload(&columns))
}

/// Returns two deletes, in a base.
fn deletes() -> Vec<u8> {
    let mut columns = two_rows();
    columns[1].2 = vec![29; 2];
    columns.truncate(3);
    case(0, 2, &payload(&columns))
}

/// Payloads of blocks: the directory of columns.
fn directories() -> Named {
    let pushed = |column: (u8, u8, Vec<u8>)| case(2, 2, &payload(&[two_rows(), vec![column]].concat()));
    named(
        "block",
        [
            ("empty", case(2, 2, b"")),
            ("columns-40-bits", case(2, 2, &[0x80, 0x80, 0x80, 0x80, 0x80, 0x20])),
            ("columns-cut", case(2, 2, &[3, 1, 1])),
            ("columns-descend", case(2, 2, &payload(&two_rows().into_iter().rev().collect()))),
            ("column-twice", pushed((VALUES, 1, b"12".to_vec()))),
            ("column-empty", pushed((STAMP, 1, vec![]))),
            ("column-unknown-and-required", pushed((99, 1, vec![1]))),
            ("column-of-unknown-flags", pushed((99, 2, vec![1]))),
            ("column-too-long", case(2, 2, &[1, 1, 1, 100, 0])),
            ("rows-more-than-told", case(2, 1, &payload(&two_rows()))),
            ("rows-fewer-than-told", case(2, 3, &payload(&two_rows()))),
        ],
    )
}

/// Payloads of blocks: the content of columns.
fn blocks() -> Named {
    let long = |length: u64| [&[0], varint(length).as_slice(), &[b'k'; 300]].concat();
    let lengths = |first: u64| set(VALUE_LENGTHS, &[varint(first), vec![1]].concat());
    named(
        "block",
        [
            ("run-empty", set(RUNS, &[run(0, 0), run(0, 2)].concat())),
            ("run-too-long", set(RUNS, &run(0, 3))),
            ("run-max", set(RUNS, &run(0, u64::MAX))),
            ("runs-descend", set(RUNS, &[run(0, 1), run(0, 1)].concat())),
            ("run-of-another-group", set(RUNS, &run(1, 2))),
            ("op-unknown", set(OPS, &[28 | 32, 28])),
            ("put-without-a-key", first_row(24, b"12")),
            ("clear-of-a-sub-key", first_row(19, b"2")),
            ("delete-with-a-value", set(OPS, &[28, 29])),
            ("delete-in-a-base", deletes()),
            ("keys-descend", set(KEYS, b"\x00\x01b\x00\x01a")),
            ("keys-equal", set(KEYS, b"\x00\x01a\x01\x00")),
            ("prefix-longer-than-the-key-before", set(KEYS, b"\x00\x01a\x02\x01b")),
            ("prefix-of-the-first", set(KEYS, b"\x01\x01a\x00\x01b")),
            ("key-cut", set(KEYS, b"\x00\x01a\x00\x02b")),
            ("key-too-long", set(KEYS, &long(65_536))),
            ("key-length-max", set(KEYS, &long(u64::MAX))),
            ("bytes-behind-the-keys", set(KEYS, b"\x00\x01a\x00\x01b\x00")),
            ("value-too-long", lengths((64 << 20) + 1)),
            ("value-length-max", lengths(u64::MAX)),
            ("value-length-overlong", set(VALUE_LENGTHS, &[0x81, 0, 1])),
            ("value-cut", set(VALUE_LENGTHS, &[1, 2])),
            ("bytes-behind-the-values", set(VALUES, b"123")),
            ("stamp-of-a-row-beyond-the-last", set(STAMP, &[4, 0, 0, 0, 0, 0, 0, 0, 0])),
            ("stamp-cut", set(STAMP, &[1, 0, 0, 0, 0, 0, 0, 0])),
        ],
    )
}

/// Blocks in zstd frames, valid or not.
fn compressed() -> Named {
    let good = payload(&two_rows());
    let frame = zstd::bulk::compress(&good, 1).unwrap();
    // The target takes the claimed length only as the stored one times a power of two.
    let zstd = |shift: u8, frame: &[u8]| case(1 | 2 | shift << 3, 2, frame);
    let header = |descriptor: u8, fields: &[u8]| [&[0x28, 0xb5, 0x2f, 0xfd, descriptor][..], fields].concat();
    let block = |last: u32, kind: u32, size: u32| (last | kind << 1 | size << 3).to_le_bytes()[..3].to_vec();
    let rle: Vec<u8> = (0..63).flat_map(|at| [block(u32::from(at == 62), 1, 128 << 10), vec![0]].concat()).collect();
    let skippable: Vec<u8> = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0].repeat(500);
    named(
        "block",
        [
            ("zstd-empty", zstd(0, b"")),
            ("zstd-not-a-frame", zstd(2, b"not a frame at all")),
            ("zstd-cut", zstd(0, &frame[..frame.len() - 1])),
            ("zstd-another-length", zstd(3, &frame)),
            (
                "zstd-content-size-60-bits",
                zstd(10, &header(0xe0, &[&(1u64 << 60).to_le_bytes()[..], &block(1, 1, 1), &[0]].concat())),
            ),
            (
                "zstd-content-size-one-more",
                zstd(0, &{
                    let mut frame = frame.clone();
                    frame[5] += 1;
                    frame
                }),
            ),
            ("zstd-window-log-31", zstd(10, &header(0, &[&[21 << 3][..], &block(1, 1, 1000), &[0]].concat()))),
            (
                "zstd-dictionary-unknown",
                zstd(2, &header(0x23, &[&7u32.to_le_bytes()[..], &[4], &block(1, 1, 4), &[0]].concat())),
            ),
            ("zstd-reserved-block", zstd(2, &header(0x20, &[&[4][..], &block(1, 3, 4), &[0]].concat()))),
            ("zstd-block-too-large", zstd(10, &header(0x20, &[&[4][..], &block(1, 1, (1 << 21) - 1), &[0]].concat()))),
            ("zstd-500-skippable-frames", zstd(0, &skippable)),
            ("zstd-500-empty-frames", zstd(0, &header(0x20, &[&[0][..], &block(1, 0, 0)].concat()).repeat(500))),
            ("zstd-claims-what-cannot-be", zstd(20, &frame)),
            (
                "zstd-more-than-it-says",
                zstd(14, &header(0x80 | 0x20, &[&(63u32 * (128 << 10)).to_le_bytes()[..], &rle].concat())),
            ),
        ],
    )
}
