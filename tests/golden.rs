//! Golden files that pin the formats: a small job's objects as written by version 1.
//!
//! The current writer must reproduce each file byte for byte, and each file must decode to the values here. If a file
//! differs, the test writes the new bytes beside it as `.proposed` and leaves the file alone.

#![expect(clippy::unwrap_used, reason = "test helpers may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use alluvium::backend::{
    Columns, Op, Part, Row, RowBatch, RowKey, RowSource, Rules, SealedPart, SegmentKind, TableRules, Ttl,
};
use alluvium::internals::place::pack::{Pack, PackBuilder, Packed};
use alluvium::internals::segment::{Compression, EncodeOptions, Encoded, SegmentIndex, SegmentRows, encode};
use alluvium::manifest::{
    AttemptMarker, DurabilityLevel, Extension, Hash, Layout, Manifest, ManifestKind, ObjectId, ObjectRef, ObjectSlice,
    OperatorManifest, Program, PutId, Retained, SegmentId, StateKind, SubtaskEntry, SubtaskManifest, SubtaskSlice,
    TableSchema, Warmth,
};
use alluvium::{
    Attempt, Epoch, JobId, KeyGroup, KeyGroupRange, KeyGroupSet, MacKey, MacKeys, ManifestId, Opaque, OpaqueContent,
    OpaqueRole, OperatorId, Partitioner, Redistribution, Result, Schema, Seq, Subtask, TableId, Timestamp,
};
use bytes::Bytes;

const MAX_PARALLELISM: u16 = 8;
const PUT_ID: PutId = PutId([0x22; 16]);
const PACK: ObjectId = ObjectId { attempt: Attempt(2), random: [0x11; 16] };
const JOB: JobId = JobId([0x33; 16]);

/// Rows of a few groups.
#[derive(Debug, Default)]
struct Rows {
    groups: KeyGroupSet,
    batches: BTreeMap<KeyGroup, RowBatch>,
}

impl RowSource for Rows {
    fn groups(&self) -> &KeyGroupSet {
        &self.groups
    }

    fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        self.batches.get(&group).into_iter().flat_map(RowBatch::iter).try_for_each(|row| batch.push(&row))
    }

    fn held_bytes(&self) -> u64 {
        0
    }
}

/// Returns the rows of a source as text, one line per row.
fn printed(rows: &dyn RowSource) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for group in rows.groups().iter() {
        let mut batch = RowBatch::new();
        rows.append_group(group, &mut batch)?;
        lines.extend(batch.iter().map(|row| format!("{group}: {row:?}")));
    }
    Ok(lines)
}

fn part(kind: SegmentKind, groups: KeyGroupRange, rows: &[(u16, Row<'_>)]) -> SealedPart {
    let mut source = Rows { groups: groups.into(), ..Rows::default() };
    for (group, row) in rows {
        source.batches.entry(KeyGroup(*group)).or_default().push(row).unwrap();
    }
    SealedPart { kind, groups: groups.into(), rows: Arc::new(source), rules: Rules::none() }
}

fn row<'a>(table: u32, key: &'a str, namespace: &'a str, sub: &'a str, op: Op<'a>) -> Row<'a> {
    let key = RowKey::data(TableId(table), key.as_bytes(), namespace.as_bytes(), sub.as_bytes());
    Row { key, op, columns: Columns::default() }
}

fn clear<'a>(key: Option<&'a str>, namespace: Option<&'a str>) -> Row<'a> {
    let (key, namespace) = (key.map(str::as_bytes), namespace.map(str::as_bytes));
    Row { key: RowKey { table: TableId(1), key, namespace, sub: None }, op: Op::Clear, columns: Columns::default() }
}

/// Returns a delta with every op, every clear and every optional column, to be stored uncompressed.
fn delta() -> SealedPart {
    let columns = |stamp, schema, routing| Columns { stamp, schema, routing };
    let expiring = Row { columns: columns(Some(-1), None, None), ..row(1, "a", "w2", "", Op::Put(b"1")) };
    let routed = Row { columns: columns(None, Some(7), Some(u64::MAX)), ..row(2, "k", "", "s2", Op::Put(b"")) };
    let rows = [
        (0, clear(None, Some("w1"))),
        (0, clear(Some("a"), None)),
        (0, expiring),
        (0, clear(Some("b"), Some("w1"))),
        (0, row(1, "c", "w1", "", Op::Delete)),
        (0, row(1, "d", "w1", "", Op::Merge(b"1"))),
        (0, row(1, "d", "w1", "", Op::Merge(b"2"))),
        (0, row(1, "e", "w1", "", Op::Put(b"3"))),
        (0, row(1, "e", "w1", "", Op::Merge(b"4"))),
        (0, row(2, "k", "", "s1", Op::Put(b"x"))),
        (0, routed),
        (2, row(1, "user-1", "", "", Op::Put(b"17"))),
        (2, row(1, "user-12", "", "", Op::Delete)),
    ];
    part(SegmentKind::Delta, KeyGroupRange::new(0, 4), &rows)
}

/// Returns a base of similar rows, which compress well.
fn base() -> SealedPart {
    let keys: Vec<String> = (0..40).map(|n| format!("user-{n:04}")).collect();
    let row = |(n, key): (u16, &'static str)| (4 + n / 20, row(1, key, "", "", Op::Put(b"the same for all")));
    let keys: Vec<&'static str> = keys.into_iter().map(|key| &*key.leak()).collect();
    let rows: Vec<_> = (0u16..).zip(keys).map(row).collect();
    part(SegmentKind::Base, KeyGroupRange::new(4, 8), &rows)
}

/// Returns a base whose group 5 fills several blocks, which compress well.
fn long() -> SealedPart {
    let value: &'static str = "the same for all ".repeat(18).leak();
    let row = |n: u32| (5, row(1, format!("user-{n:06}").leak(), "", "", Op::Put(value.as_bytes())));
    let rows: Vec<_> = (0..500).map(|n| row(n * n)).collect();
    part(SegmentKind::Base, KeyGroupRange::new(4, 8), &rows)
}

/// Returns a delta with timers in two tables, to be stored uncompressed.
fn timers() -> SealedPart {
    let sub = |at: i64| at.wrapping_sub(i64::MIN).to_be_bytes();
    let (first, second, early) = (sub(1_700_000_000_000), sub(1_700_000_060_000), sub(-1));
    let timer = |table, key: &'static str, sub| {
        let key = RowKey::data(TableId(table), key.as_bytes(), b"", sub);
        Row { key, op: Op::Put(b""), columns: Columns::default() }
    };
    let rows = [
        (1, timer(3, "a", &second)),
        (1, timer(3, "b", &first)),
        (1, timer(4, "a", &early)),
        (6, timer(3, "c", &second)),
    ];
    let mut rules = Rules::none();
    for table in [3, 4] {
        rules.define(TableId(table), TableRules { timers: true, ..TableRules::default() });
    }
    SealedPart { rules, ..part(SegmentKind::Delta, KeyGroupRange::new(0, 8), &rows) }
}

fn segment_id(subtask: u32) -> SegmentId {
    let (operator, subtask) = (OperatorId(1), Subtask(subtask));
    SegmentId { attempt: Attempt(2), operator, subtask, epoch: Epoch(9), part: Part(1) }
}

fn opaque(role: OpaqueRole, content: OpaqueContent) -> Opaque {
    let (redistribution, name) = (Redistribution::Split, "input.csv".to_owned());
    Opaque { role, name, redistribution, channel: Some(3), item_offsets: vec![0, 2], content }
}

fn table() -> TableSchema {
    TableSchema {
        id: TableId(1),
        name: "counts".into(),
        kind: StateKind::Value,
        key: Schema::new("str"),
        namespace: Schema::unit(),
        sub: Schema::unit(),
        value: Schema { name: "u64".into(), version: 2 },
        ttl: Some(Ttl { millis: 60_000, on_read: true, event_time: true, ..Ttl::default() }),
        merge_operator: Some("sum".into()),
    }
}

/// The objects of a job.
struct Golden {
    delta: Encoded,
    base: Encoded,
    subtask: SubtaskManifest,
    pack: Packed,
    checkpoint: Manifest,
    claim: Manifest,
    marker: AttemptMarker,
}

fn golden() -> Golden {
    let delta = encode(&delta(), EncodeOptions { codec: Compression::None }).unwrap();
    let base = encode(&base(), EncodeOptions::default()).unwrap();
    let foreign = Encoded::foreign(KeyGroupSet::empty(), Bytes::from_static(b"records in flight"));
    let mut builder = PackBuilder::new(PACK, PUT_ID);
    let mut place = |segment: &Encoded, subtask, first_epoch| {
        let id = segment_id(subtask);
        segment.at(id, Epoch(first_epoch), PACK, builder.add_segment(id, segment))
    };
    let (delta_ref, base_ref, foreign_ref) = (place(&delta, 0, 8), place(&base, 1, 9), place(&foreign, 0, 9));

    let subtask = |index: u32, segment, opaques| SubtaskManifest {
        subtask: Subtask(index),
        groups: alluvium::subtask_range(MAX_PARALLELISM, 2, index).into(),
        watermark: Timestamp::from_millis(1_685_303_933_260),
        segments: vec![segment],
        opaques,
        times: vec![],
        heat: if index == 0 { vec![] } else { [1, 0, 255, 96].map(Warmth).to_vec() },
    };
    let inline = OpaqueContent::Inline(Bytes::from_static(b"offset"));
    let opaques =
        vec![opaque(OpaqueRole::Source, inline), opaque(OpaqueRole::InFlight, OpaqueContent::Stored(foreign_ref))];
    let (first, second) = (subtask(0, delta_ref, opaques), subtask(1, base_ref, vec![]));
    let bytes = second.encode(MAX_PARALLELISM).unwrap();
    let offset = builder.add_opaque(&bytes);
    let slice = ObjectSlice { object: PACK, offset, length: bytes.len() as u64, hash: Hash::of(&bytes) };
    let pack = builder.finish().unwrap();
    let slice = SubtaskEntry::Slice(SubtaskSlice { slice, summary: second.summary() });
    let checkpoint = checkpoint(&pack, vec![SubtaskEntry::Inline(first), slice]);
    let claim = Manifest {
        seq: Seq(8),
        kind: ManifestKind::Claim,
        attempt: Attempt(3),
        parent: Some(ManifestId { seq: Seq(7), put_id: PUT_ID }),
        objects: vec![],
        operators: vec![],
        extensions: vec![],
        ..checkpoint.clone()
    };
    let marker = AttemptMarker { attempt: Attempt(3), job: JOB, created_at: Timestamp::from_millis(1_700_000_000_000) };
    Golden { delta, base, subtask: second, pack, checkpoint, claim, marker }
}

fn checkpoint(pack: &Packed, subtasks: Vec<SubtaskEntry>) -> Manifest {
    let retained = |seq, kind| {
        let put_id = PutId([u8::try_from(seq).unwrap(); 16]);
        Retained { id: ManifestId { seq: Seq(seq), put_id }, hash: Hash([0x44; 16]), kind }
    };
    let whole = ObjectRef {
        id: PACK,
        put_id: pack.put_id,
        bytes: pack.object.length,
        hash: pack.object.hash,
        layout: Layout::Whole,
        cipher: 0,
        key_id: String::new(),
    };
    let sharded = ObjectRef {
        id: ObjectId { attempt: Attempt(1), random: [0x55; 16] },
        layout: Layout::Shards { k: 4, m: 2, shard_bytes: 1 << 20 },
        cipher: 1,
        key_id: "key-1".into(),
        ..whole.clone()
    };
    Manifest {
        job: JOB,
        seq: Seq(7),
        kind: ManifestKind::Checkpoint,
        attempt: Attempt(2),
        epoch: Epoch(9),
        parent: Some(ManifestId { seq: Seq(6), put_id: PutId([6; 16]) }),
        retained: vec![retained(4, ManifestKind::Savepoint), retained(6, ManifestKind::Checkpoint)],
        created_at: Timestamp::from_millis(1_700_000_000_000),
        writer: "alluvium 0.1.0".into(),
        program: Program::new("count per user"),
        partitioner: Partitioner::Range { seed: 0x0123_4567_89ab_cdef },
        max_parallelism: MAX_PARALLELISM,
        objects: vec![whole, sharded],
        level: DurabilityLevel::ObjectStore,
        operators: vec![OperatorManifest {
            id: OperatorId(1),
            name: "count".into(),
            parallelism: 2,
            tables: vec![table()],
            subtasks,
        }],
        extensions: vec![Extension { tag: "note".into(), required: false, bytes: Bytes::from_static(b"ignorable") }],
    }
}

/// Decodes an object, and panics if the result differs from the written values.
type Reader = Box<dyn Fn(&Bytes) -> Result<()>>;

/// An object from the current writer, and its reader.
struct Case {
    name: &'static str,
    written: Bytes,
    read: Reader,
}

/// * `timers`: the earliest, by table and group.
fn segment_case(name: &'static str, encoded: &Encoded, part: &SealedPart, timers: &'static [(u32, u16, i64)]) -> Case {
    let expected = printed(part.rows.as_ref()).unwrap();
    let read = move |bytes: &Bytes| {
        let index = SegmentIndex::find(bytes, None)?;
        let found = index.earliest().iter().map(|timer| (timer.table.0, timer.group.0, timer.at.as_millis()));
        assert_eq!(found.collect::<Vec<_>>(), timers);
        let rows = SegmentRows::new(&index, index.groups(), vec![(0, bytes.clone())])?;
        assert_eq!(printed(&rows)?, expected);
        Ok(())
    };
    Case { name, written: encoded.bytes.clone(), read: Box::new(read) }
}

fn manifest_case(name: &'static str, manifest: Manifest, keys: MacKeys) -> Case {
    let written = manifest.encode_signed(PUT_ID, &keys).unwrap();
    let read = move |bytes: &Bytes| {
        assert_eq!(Manifest::decode_signed(bytes, manifest.seq, &keys)?, (manifest.clone(), PUT_ID));
        Ok(())
    };
    Case { name, written, read: Box::new(read) }
}

fn cases() -> Vec<Case> {
    let Golden { delta: delta_bytes, base: base_bytes, subtask, pack, checkpoint, claim, marker } = golden();
    let slices = Pack::decode(PACK, &pack.bytes()).unwrap().slices;
    let subtask_bytes = subtask.encode(MAX_PARALLELISM).unwrap();
    let timer_bytes = encode(&timers(), EncodeOptions { codec: Compression::None }).unwrap();
    let told = &[(3, 1, 1_700_000_000_000), (3, 6, 1_700_000_060_000), (4, 1, -1)];
    let read_subtask = move |bytes: &Bytes| {
        assert_eq!(SubtaskManifest::decode(bytes, MAX_PARALLELISM)?, subtask);
        Ok(())
    };
    let read_pack = move |bytes: &Bytes| {
        let pack = Pack::decode(PACK, bytes)?;
        assert_eq!((pack.put_id, &pack.slices), (PUT_ID, &slices));
        Ok(())
    };
    let read_marker = move |bytes: &Bytes| {
        assert_eq!(AttemptMarker::decode(bytes, marker.attempt)?, (marker, PUT_ID));
        Ok(())
    };
    vec![
        segment_case("delta.segment", &delta_bytes, &delta(), &[]),
        segment_case("base.segment", &base_bytes, &base(), &[]),
        segment_case("places.segment", &encode(&long(), EncodeOptions::default()).unwrap(), &long(), &[]),
        segment_case("timers.segment", &timer_bytes, &timers(), told),
        Case { name: "subtask.manifest", written: subtask_bytes, read: Box::new(read_subtask) },
        Case { name: "data.pack", written: pack.bytes(), read: Box::new(read_pack) },
        manifest_case("checkpoint.manifest", checkpoint, MacKeys::default()),
        manifest_case("claim.manifest", claim.clone(), MacKeys::default()),
        manifest_case("signed.manifest", claim, MacKeys::signing(MacKey::new([7; 32]))),
        Case { name: "attempt.marker", written: marker.encode(PUT_ID), read: Box::new(read_marker) },
    ]
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1").join(name)
}

#[test]
fn golden_files_are_reproduced_and_decoded() {
    let mut differing = Vec::new();
    for Case { name, written, read } in cases() {
        let stored = Bytes::from(fs::read(path(name)).unwrap_or_default());
        if stored == written {
            read(&stored).unwrap();
        } else {
            fs::write(path(&format!("{name}.proposed")), &written).unwrap();
            differing.push(name);
        }
    }
    assert!(
        differing.is_empty(),
        "the writer differs from {differing:?}: compare with the .proposed files beside them"
    );
}

/// Files that earlier builds of version 1 wrote, before a field or section was added.
#[test]
fn files_of_earlier_writers_are_read() {
    let read = |name| fs::read(path(name)).unwrap();
    let Golden { subtask, .. } = golden();
    let without_heat = SubtaskManifest::decode(&read("subtask-early.manifest"), MAX_PARALLELISM).unwrap();
    assert_eq!(without_heat, SubtaskManifest { heat: vec![], ..subtask });
}

#[test]
fn every_flip_and_every_cut_is_detected() {
    for Case { name, written, read } in cases() {
        for at in 0..written.len() {
            for bit in 0..8 {
                let mut flipped = written.to_vec();
                flipped[at] ^= 1 << bit;
                assert!(read(&flipped.into()).is_err(), "{name}: byte {at}, bit {bit}");
            }
            assert!(read(&written.slice(..at)).is_err(), "{name}: cut at {at}");
        }
        assert!(read(&[&written[..], &[0]].concat().into()).is_err(), "{name}: an extra byte");
    }
}

#[test]
fn f09_a_checkpoint_leads_to_its_rows() {
    let Golden { delta, base, pack, checkpoint, .. } = golden();
    let read = |offset: u64, length: u64| {
        let start = usize::try_from(offset).unwrap();
        pack.bytes().slice(start..start + usize::try_from(length).unwrap())
    };
    let whole = checkpoint.inlined(|slice| Ok(read(slice.offset, slice.length))).unwrap();
    let subtasks = whole.operators[0].subtasks.iter().filter_map(SubtaskEntry::inline);
    for (segment, encoded) in subtasks.flat_map(|subtask| &subtask.segments).zip([delta, base]) {
        let index = read(segment.offset + segment.index_offset, u64::from(segment.index_length));
        SegmentIndex::decode(&index, &segment.index_hash).unwrap().check_ref(segment).unwrap();
        let rows = SegmentRows::open(read(segment.offset, segment.length), &segment.index_hash).unwrap();
        assert_eq!((encoded.kind, printed(&rows).unwrap().len() as u64), (segment.kind, segment.records));
    }
}

/// Returns the example segment of `docs/format.md`.
fn documented_segment() -> Bytes {
    let rows = [(0, row(1, "a", "", "", Op::Put(b"7"))), (0, row(1, "ab", "", "", Op::Delete))];
    let part = part(SegmentKind::Delta, KeyGroupRange::new(0, 2), &rows);
    encode(&part, EncodeOptions { codec: Compression::None }).unwrap().bytes
}

/// Returns the example manifest of `docs/format.md`.
fn documented_manifest() -> Bytes {
    let claim = Manifest {
        job: JOB,
        seq: Seq(1),
        kind: ManifestKind::Claim,
        attempt: Attempt(1),
        epoch: Epoch(0),
        parent: None,
        retained: vec![],
        created_at: Timestamp::from_millis(1_700_000_000_000),
        writer: "alluvium 0.1.0".into(),
        program: Program::new(""),
        partitioner: Partitioner::Range { seed: 1 },
        max_parallelism: 128,
        objects: vec![],
        level: DurabilityLevel::ObjectStore,
        operators: vec![],
        extensions: vec![],
    };
    claim.encode(PUT_ID).unwrap()
}

/// Returns the bytes of the code block `title`: the hex before `|` in each line.
fn documented(document: &str, title: &str) -> Vec<u8> {
    let block = document.split_once(&format!("```hex {title}\n")).unwrap().1.split_once("```").unwrap().0;
    let digits = block.lines().filter_map(|line| line.split('|').next()).flat_map(str::split_whitespace);
    digits.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

#[test]
fn the_documents_examples_are_what_the_code_writes() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/format.md")).unwrap();
    for (title, written) in [("segment", documented_segment()), ("manifest", documented_manifest())] {
        let hex: Vec<String> = written.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(documented(&document, title) == written, "the current {title} is: {}", hex.join(" "));
    }
    for source in ["src/row/shape.rs", "src/segment/format.rs", "src/manifest/proto.rs"] {
        let hash = Hash::of(&fs::read(root.join(source)).unwrap());
        let line = format!("`{source}` {hash}");
        assert!(document.contains(&line), "check docs/format.md against {source}, then write there: {line}");
    }
}
