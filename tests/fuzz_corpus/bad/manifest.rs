//! Manifests, and framed subtask manifests.
//!
//! Each is the golden claim with further fields appended; of a non-repeated field, the last occurrence counts.

use alluvium::internals::envelope;
use alluvium::internals::envelope::{ENVELOPE_HEADER_BYTES, ObjectKind};
use alluvium::manifest::PutId;

use super::super::seeds;
use super::{Edit, Named, edited, field, named, number};
use alluvium_testkit::fuzz::seal;

/// A name, and the fields to append to the golden claim.
type Fields = (&'static str, Vec<u8>);

pub(super) fn all() -> Named {
    let good = seeds::golden("claim.manifest");
    let body = &good[ENVELOPE_HEADER_BYTES..good.len() - 4];
    let manifest = |body: &[u8]| envelope::encode(ObjectKind::Manifest, PutId::default(), body).to_vec();
    let mut all = named("manifest", [("body-missing", manifest(b"")), ("a-pack", seeds::golden("data.pack"))]);
    let cases = [single(), lists(), spelling(), segments(), opaques(), slices()].concat();
    all.extend(cases.into_iter().map(|(name, fields)| ("manifest", name.into(), manifest(&[body, &fields].concat()))));
    all.extend(subtasks());
    all
}

fn id(seq: u64) -> Vec<u8> {
    [number(1, seq), field(2, [1; 16])].concat()
}

fn retained(seq: u64) -> Vec<u8> {
    field(7, [field(1, id(seq)), field(2, [1; 16]), number(3, 2)].concat())
}

fn object_id(n: u8) -> Vec<u8> {
    [number(1, 1), field(2, [n; 16])].concat()
}

fn object(n: u8, layout: &[u8]) -> Vec<u8> {
    let fields = [field(1, object_id(n)), field(2, [n; 16]), number(3, 1000), field(4, [n; 16]), layout.to_vec()];
    field(13, fields.concat())
}

fn whole(n: u8) -> Vec<u8> {
    object(n, &field(5, b""))
}

fn operator(subtasks: &[Vec<u8>]) -> Vec<u8> {
    let head = [number(1, 70), field(2, b"operator 70"), number(3, 1)].concat();
    let subtasks: Vec<_> = subtasks.iter().map(|subtask| field(5, field(1, subtask))).collect();
    field(15, [head, subtasks.concat()].concat())
}

fn range(start: u64, end: u64) -> Vec<u8> {
    [number(1, start), number(2, end)].concat()
}

/// Non-repeated fields.
fn single() -> Vec<Fields> {
    vec![
        ("another-seq", number(2, 9)),
        ("seq-0", number(2, 0)),
        ("kind-0", number(3, 0)),
        ("kind-unknown", number(3, 99)),
        ("attempt-0", number(4, 0)),
        ("parent-is-itself", field(6, id(8))),
        ("parent-is-newer", field(6, id(u64::MAX))),
        ("parent-without-id", field(6, field(2, [1; 15]))),
        ("writer-not-utf8", field(9, b"\xff")),
        ("writer-too-long", field(9, [b'x'; 4097])),
        ("program-of-another-hash", field(10, field(2, [9; 16]))),
        ("partitioner-unknown", field(11, field(1, b"modulo"))),
        ("max-parallelism-0", number(12, 0)),
        ("max-parallelism-too-large", number(12, 32_769)),
        ("max-parallelism-32-bits", number(12, u64::from(u32::MAX))),
        ("level-0", number(14, 0)),
        ("level-unknown", number(14, 9)),
        ("job-of-15-bytes", field(1, [1; 15])),
    ]
}

/// Repeated fields.
fn lists() -> Vec<Fields> {
    let shards = |shards: &[u8]| object(1, &field(6, shards));
    vec![
        ("retains-itself", retained(8)),
        ("retains-newer", retained(1 << 40)),
        ("retains-twice", [retained(7), retained(7)].concat()),
        ("retained-empty", field(7, b"")),
        ("object-empty", field(13, b"")),
        ("object-twice", [whole(1), whole(1)].concat()),
        ("object-without-layout", object(1, b"")),
        ("object-of-0-shards", shards(b"")),
        ("shards-overflow", shards(&[number(1, 1 << 31), number(3, u64::MAX)].concat())),
        ("operator-twice", [operator(&[]), operator(&[])].concat()),
        ("operator-of-parallelism-0", field(15, number(1, 70))),
        ("operator-of-parallelism-max", field(15, [number(1, 70), number(3, u64::from(u32::MAX))].concat())),
        ("subtask-of-no-kind", field(15, [number(3, 1), field(5, b"")].concat())),
        ("table-empty", field(15, [number(3, 1), field(4, b"")].concat())),
        ("extension-required", field(16, [field(1, b"new"), number(2, 1)].concat())),
        ("extension-twice", [field(16, b""), field(16, b"")].concat()),
        ("ten-thousand-extensions", field(16, b"").repeat(10_000)),
    ]
}

/// Bytes that are not protobuf.
fn spelling() -> Vec<Fields> {
    vec![
        ("length-beyond-the-end", vec![0x82, 1, 100]),
        ("length-max", [&[0x82, 1], [0xff; 9].as_slice(), &[1]].concat()),
        ("varint-of-11-bytes", [&[2 << 3], [0x80; 10].as_slice(), &[1]].concat()),
        ("varint-cut", vec![2 << 3, 0x80]),
        ("wire-type-unknown", vec![2 << 3 | 7]),
        ("wire-type-of-another", field(2, b"x")),
        ("tag-0", vec![0, 0]),
        ("group-1000-deep", vec![15 << 3 | 3; 1000]),
        ("group-without-end", vec![13 << 3 | 3]),
    ]
}

/// Returns an operator with one subtask of all groups, with `fields` appended to it.
fn operator_with(fields: &[u8]) -> Vec<u8> {
    [whole(1), operator(&[[&field(2, range(0, 8)), fields].concat()])].concat()
}

/// Segments of a subtask.
fn segments() -> Vec<Fields> {
    let good = [
        field(1, number(1, 1)),
        number(2, 2),
        field(4, range(0, 8)),
        field(5, object_id(1)),
        number(7, 100),
        number(8, 50),
        number(9, 50),
        field(10, [1; 16]),
    ]
    .concat();
    let with = |fields: Vec<u8>| operator_with(&field(4, [good.clone(), fields].concat()));
    vec![
        ("segment-beyond-its-object", with(number(6, 901))),
        ("segment-at-max", with(number(6, u64::MAX))),
        ("segment-overflows", with([number(6, u64::MAX - 50), number(7, 100)].concat())),
        ("segment-of-an-object-not-listed", with(field(5, object_id(2)))),
        ("segment-index-outside", with(number(8, 51))),
        ("segment-index-empty", with(number(9, 0))),
        ("segment-index-overflows", with(number(8, u64::MAX))),
        ("segment-of-a-later-epoch", with(field(1, number(4, 1 << 50)))),
        ("segment-begins-after-its-end", with(number(3, 1 << 50))),
        ("segment-of-kind-0", with(number(2, 0))),
        ("segment-foreign-with-an-index", with(number(2, 3))),
        ("segment-of-foreign-groups", with(field(4, range(9, 10)))),
        ("segment-groups-inverted", with(field(4, range(12, 9)))),
        ("segment-groups-overlap", with(field(4, range(7, 8)))),
        ("segment-group-32-bits", with(field(4, range(9, u64::from(u32::MAX))))),
        ("segment-empty", operator_with(&field(4, b""))),
        ("subtask-groups-beyond-the-jobs", operator_with(&field(2, range(100, 101)))),
        ("subtask-out-of-order", operator_with(&number(1, 1))),
        (
            "opaque-in-a-segment-of-rows",
            operator_with(&field(5, [number(1, 1), number(3, 1), field(7, &good)].concat())),
        ),
    ]
}

/// Opaques of a subtask.
fn opaques() -> Vec<Fields> {
    let opaque = |fields: &[u8]| field(5, [&number(1, 1), &number(3, 1), fields].concat());
    let with = |fields: [Vec<u8>; 2]| operator_with(&opaque(&fields.concat()));
    let inline = |bytes: &[u8]| field(6, bytes);
    vec![
        ("opaque-empty", operator_with(&field(5, b""))),
        ("opaque-of-unknown-role", with([number(1, 77), inline(b"")])),
        ("opaque-of-unknown-redistribution", with([number(3, 77), inline(b"")])),
        ("opaque-without-content", with([vec![], vec![]])),
        ("opaque-too-long", with([inline(&[0; 20 * 1024 + 1]), vec![]])),
        ("opaque-items-descend", with([field(5, [1, 0]), inline(b"ab")])),
        ("opaque-items-beyond-it", with([field(5, [3]), inline(b"ab")])),
        ("opaque-name-not-utf8", with([field(2, [0xc0]), inline(b"")])),
        ("opaque-twice", operator_with(&opaque(&inline(b"")).repeat(2))),
    ]
}

/// Subtask manifests in slices, with summaries.
fn slices() -> Vec<Fields> {
    let place = [field(1, object_id(1)), number(2, 72), number(3, 100), field(4, [1; 16])].concat();
    let slice = field(1, &place);
    let entry = |tag: u64, fields: &[Vec<u8>]| {
        let head = [number(1, 70), field(2, b"operator 70"), number(3, 1)].concat();
        [whole(1), field(15, [head, field(5, field(tag, fields.concat()))].concat())].concat()
    };
    let summary_of = |fields: Vec<u8>| field(2, [field(1, range(0, 8)), fields].concat());
    let summary = |fields: Vec<u8>| entry(3, &[slice.clone(), summary_of(fields)]);
    vec![
        ("slice-of-no-version-released", entry(2, std::slice::from_ref(&slice))),
        ("slice-without-a-summary", entry(3, std::slice::from_ref(&slice))),
        ("slice-missing", entry(3, &[field(2, field(1, range(0, 8)))])),
        ("slice-beyond-its-object", entry(3, &[field(1, [place, number(2, 901)].concat()), summary_of(vec![])])),
        ("summary-of-unknown-reach", summary(number(6, 77))),
        ("summary-groups-beyond-the-jobs", summary(field(1, range(100, 101)))),
        ("summary-groups-overlap", summary(field(1, range(7, 8)))),
        ("summary-group-32-bits", summary(field(1, range(9, u64::from(u32::MAX))))),
    ]
}

/// Framed subtask manifests.
fn subtasks() -> Named {
    let good = seeds::golden("subtask.manifest");
    let plain: [(&str, Edit); 5] = [
        ("frame-cut", |o| o.truncate(11)),
        ("frame-only", |o| o.truncate(12)),
        ("frame-last-byte-missing", |o| o.truncate(o.len() - 1)),
        ("frame-length-max", |o| o[8..12].fill(0xff)),
        ("frame-length-one-more", |o| o[8] += 1),
    ];
    let sealed: [(&str, Edit); 4] = [
        ("frame-version-0", |o| o[4] = 0),
        ("frame-version-9", |o| o[4] = 9),
        ("frame-flag-unknown", |o| o[6] = 1),
        ("frame-garbage-in-front-of-the-checksum", |o| drop(o.splice(o.len() - 4..o.len() - 4, [0xff; 3]))),
    ];
    let mut all = edited("manifest", &good, plain);
    all.extend(edited("manifest", &good, sealed).into_iter().map(|(t, name, bytes)| (t, name, seal::subtask(&bytes))));
    all
}
