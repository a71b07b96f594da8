//! Manifests there and back, and every rule broken once.

use proptest::prelude::*;

use super::*;
use crate::codec::bytes::tests::{any_damage, damaged};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Part, SegmentId};
use crate::key_group::{KeyGroupRange, subtask_range};
use crate::row::{Life, SegmentKind};

const PUT: PutId = PutId([5; 16]);
const MAX: u16 = 8;

fn object_id(n: u8) -> ObjectId {
    ObjectId { attempt: Attempt(2), random: [n; 16] }
}

fn object(n: u8, layout: Layout) -> ObjectRef {
    let (hash, put_id) = (Hash([n; 16]), PutId([n; 16]));
    ObjectRef { id: object_id(n), put_id, bytes: 1000, hash, layout, cipher: 3, key_id: "key-1".into() }
}

fn segment(subtask: u32, kind: SegmentKind) -> SegmentRef {
    let id = SegmentId {
        attempt: Attempt(2),
        operator: OperatorId(1),
        subtask: Subtask(subtask),
        epoch: Epoch(9),
        part: Part(1),
    };
    let foreign = kind == SegmentKind::Foreign;
    SegmentRef {
        id,
        kind,
        first_epoch: Epoch(8),
        groups: if foreign { KeyGroupSet::empty() } else { subtask_range(MAX, 2, subtask).into() },
        object: object_id(1),
        offset: 72,
        length: 500,
        index_offset: if foreign { 500 } else { 400 },
        index_length: if foreign { 0 } else { 84 },
        index_hash: Hash([3; 16]),
        records: 17,
        raw_bytes: 900,
    }
}

fn subtask(index: u32) -> SubtaskManifest {
    let opaque = |role, name: &str, content| Opaque {
        role,
        name: name.into(),
        redistribution: Redistribution::Split,
        channel: Some(0),
        item_offsets: vec![0, 3, 3],
        content,
    };
    SubtaskManifest {
        subtask: Subtask(index),
        groups: subtask_range(MAX, 2, index).into(),
        watermark: Timestamp::MIN,
        segments: vec![segment(index, SegmentKind::Base), segment(index, SegmentKind::Delta)],
        opaques: vec![
            opaque(OpaqueRole::Source, "csv", OpaqueContent::Inline(Bytes::from_static(b"abc"))),
            opaque(OpaqueRole::InFlight, "csv", OpaqueContent::Stored(segment(index, SegmentKind::Foreign))),
        ],
        times: times(index),
        heat: [1, 0, 255, 42].map(Warmth).to_vec(),
    }
}

/// Times of the two halves of a subtask's four groups.
fn times(index: u32) -> Vec<GroupTimes> {
    let start = subtask_range(MAX, 2, index).start;
    let life = |table| Life {
        table: TableId(table),
        millis: Some(u64::MAX),
        since: Some(Timestamp::MIN),
        dead_until: Some(Timestamp::from_millis(-1)),
    };
    let first = GroupTimes {
        groups: KeyGroupRange::new(start, start + 2),
        event_time: Timestamp::MIN,
        processing_time: Timestamp::from_millis(-5),
        lives: vec![life(1), Life { millis: None, since: None, ..life(2) }],
    };
    let second = GroupTimes::new(KeyGroupRange::new(start + 2, start + 4), Timestamp::default(), Timestamp::MAX);
    vec![first, second]
}

fn table(id: u32, name: &str) -> TableSchema {
    TableSchema {
        id: TableId(id),
        name: name.into(),
        kind: StateKind::Map,
        key: Schema::new("str"),
        namespace: Schema::unit(),
        sub: Schema::new("u64"),
        value: Schema { name: "my.Value".into(), version: 3 },
        ttl: Some(Ttl {
            millis: 1000,
            on_read: true,
            event_time: false,
            since: Some(Timestamp::from_millis(-7)),
            dead_until: Some(Timestamp::MIN),
        }),
        merge_operator: Some("sum".into()),
    }
}

pub(super) fn manifest() -> Manifest {
    let id = |seq| ManifestId { seq: Seq(seq), put_id: PutId([u8::try_from(seq).unwrap(); 16]) };
    let retained = |seq, kind| Retained { id: id(seq), hash: Hash([9; 16]), kind };
    Manifest {
        job: JobId([1; 16]),
        seq: Seq(7),
        kind: ManifestKind::Checkpoint,
        attempt: Attempt(2),
        epoch: Epoch(9),
        parent: Some(id(6)),
        retained: vec![retained(3, ManifestKind::Savepoint), retained(6, ManifestKind::Checkpoint)],
        created_at: Timestamp::from_millis(-1),
        writer: "alluvium 0.1.0".into(),
        program: Program::new("count per word"),
        partitioner: Partitioner::Range { seed: u64::MAX },
        max_parallelism: MAX,
        objects: vec![object(1, Layout::Whole), object(2, Layout::Shards { k: 4, m: 2, shard_bytes: 250 })],
        level: DurabilityLevel::ObjectStore,
        operators: vec![OperatorManifest {
            id: OperatorId(1),
            name: "count".into(),
            parallelism: 2,
            tables: vec![table(1, "counts"), table(2, "timers")],
            subtasks: vec![SubtaskEntry::Inline(subtask(0)), SubtaskEntry::Inline(subtask(1))],
        }],
        extensions: vec![Extension { tag: "note".into(), required: false, bytes: Bytes::from_static(b"x") }],
    }
}

fn decode(object: &Bytes) -> Result<Manifest> {
    Manifest::decode(object, Seq(7)).map(|(manifest, _)| manifest)
}

#[test]
fn a_decoded_manifest_has_every_field() {
    let manifest = manifest();
    let object = manifest.encode(PUT).unwrap();
    assert_eq!(Manifest::decode(&object, Seq(7)).unwrap(), (manifest.clone(), PUT));
    let savepoint = Manifest { kind: ManifestKind::Savepoint, parent: None, ..manifest.clone() };
    assert_eq!(decode(&savepoint.encode(PUT).unwrap()).unwrap(), savepoint);
    let (objects, operators) = (vec![], vec![]);
    let claim = Manifest { kind: ManifestKind::Claim, objects, operators, ..manifest };
    assert_eq!(decode(&claim.encode(PUT).unwrap()).unwrap(), claim);
}

#[test]
fn another_manifest_under_this_key_is_misplaced() {
    let error = Manifest::decode(&manifest().encode(PUT).unwrap(), Seq(8)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().starts_with("misplaced object"), "{error}");
}

#[test]
fn subtask_manifests_travel_alone_or_lie_in_slices() {
    let alone = subtask(1);
    let bytes = alone.encode(MAX).unwrap();
    assert_eq!(SubtaskManifest::decode(&bytes, MAX).unwrap(), alone);
    assert_eq!(SubtaskManifest::decode(&bytes, 7).unwrap_err().kind(), ErrorKind::Corrupt);

    let slice = ObjectSlice { object: object_id(2), offset: 10, length: bytes.len() as u64, hash: Hash::of(&bytes) };
    let mut sliced = manifest();
    let summary = alone.summary();
    sliced.operators[0].subtasks[1] = SubtaskEntry::Slice(SubtaskSlice { slice, summary: summary.clone() });
    let read = decode(&sliced.encode(PUT).unwrap()).unwrap();
    assert_eq!((&read, read.slices().collect::<Vec<_>>()), (&sliced, vec![&slice]));
    assert_eq!(read.clone().inlined(|_| Ok(bytes.clone())).unwrap(), manifest());
    let another = subtask(0).encode(MAX).unwrap();
    let error = read.inlined(|_| Ok(another.clone())).unwrap_err();
    assert!(error.message().starts_with("subtask manifest has another hash"), "{error}");
    let mut lying = sliced;
    lying.operators[0].subtasks[1] =
        SubtaskEntry::Slice(SubtaskSlice { slice: ObjectSlice { hash: Hash::of(&another), ..slice }, summary });
    assert_eq!(lying.inlined(|_| Ok(another.clone())).unwrap_err().kind(), ErrorKind::Corrupt, "subtask 0 twice");
}

#[test]
fn a_decoded_marker_equals_the_encoded_one() {
    let marker = AttemptMarker { attempt: Attempt(4), job: JobId([1; 16]), created_at: Timestamp::from_millis(5) };
    let object = marker.encode(PUT);
    assert_eq!(AttemptMarker::decode(&object, Attempt(4)).unwrap(), (marker, PUT));
    assert_eq!(AttemptMarker::decode(&object, Attempt(5)).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(decode(&object).unwrap_err().kind(), ErrorKind::Corrupt, "a marker is not a manifest");
}

/// Breaks a rule and returns the writer's error; the reader must return `Corrupt` for the same manifest.
fn broken(edit: impl FnOnce(&mut Manifest)) -> String {
    let mut manifest = manifest();
    edit(&mut manifest);
    let error: Error = manifest.encode(PUT).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    let body = prost::Message::encode_to_vec(&proto::Manifest::from(&manifest));
    let object = crate::envelope::encode(crate::envelope::ObjectKind::Manifest, PUT, &body);
    let read = Manifest::decode(&object, manifest.seq).unwrap_err();
    assert_eq!(read.kind(), ErrorKind::Corrupt, "{read:?}");
    error.chain()
}

fn inline(manifest: &mut Manifest, at: usize) -> &mut SubtaskManifest {
    match &mut manifest.operators[0].subtasks[at] {
        SubtaskEntry::Inline(subtask) => subtask,
        SubtaskEntry::Slice(_) => panic!("all are inline"),
    }
}

/// An invalid foreign segment: one with an index.
fn indexed() -> SegmentRef {
    SegmentRef { kind: SegmentKind::Foreign, ..segment(0, SegmentKind::Base) }
}

/// Asserts that each edit is refused with the message beside it.
macro_rules! refused {
    ($($edit:expr => $reason:literal),+ $(,)?) => {
        $({
            let said = broken($edit);
            assert!(said.contains($reason), "{said}");
        })+
    };
}

#[test]
fn f10_rules_of_the_chain() {
    refused! {
        |m| m.seq = Seq(0) => "count from 1",
        |m| m.attempt = Attempt(0) => "count from 1",
        |m| m.parent.as_mut().unwrap().seq = Seq(7) => "parent is not older",
        |m| m.retained.swap(0, 1) => "not in order",
        |m| m.retained[1].id.seq = Seq(3) => "not in order",
        |m| m.retained[1].id.seq = Seq(7) => "not in order",
        |m| m.program.hash = Hash::default() => "another hash",
        |m| m.max_parallelism = 0 => "max parallelism out of range",
        |m| m.max_parallelism = 32_769 => "max parallelism out of range",
        |m| m.writer = "w".repeat(4097) => "name is too long",
        |m| m.extensions.push(m.extensions[0].clone()) => "must be unique of=`extension`",
    }
}

#[test]
fn rules_of_operators_and_objects() {
    refused! {
        |m| m.operators.push(OperatorManifest { name: "other".into(), ..m.operators[0].clone() }) => "of=`operator id`",
        |m| m.operators.push(OperatorManifest { id: OperatorId(2), ..m.operators[0].clone() }) => "of=`operator name`",
        |m| m.operators[0].tables[1].id = TableId(1) => "of=`table id`",
        |m| m.operators[0].tables[1].name = "counts".into() => "of=`table name`",
        |m| m.operators[0].tables[1].name = "t".repeat(4097) => "of=`table`",
        |m| m.operators[0].parallelism = 0 => "parallelism out of range",
        |m| m.operators[0].parallelism = 9 => "parallelism out of range",
        |m| m.operators[0].parallelism = 3 => "as many subtasks",
        |m| m.operators[0].subtasks.swap(0, 1) => "another subtask's",
        |m| m.objects.push(object(1, Layout::Whole)) => "of=`object`",
        |m| drop(m.objects.remove(0)) => "object is not listed",
        |m| m.objects[0].bytes = 571 => "beyond the end of their object",
        |m| m.objects[1].layout = Layout::Shards { k: 4, m: 2, shard_bytes: 249 } => "shards do not hold",
        |m| m.objects[1].layout = Layout::Shards { k: 0, m: 2, shard_bytes: 250 } => "shards do not hold",
        |m| m.objects[1].layout = Layout::Shards { k: 4, m: 2, shard_bytes: u64::MAX } => "shards do not hold",
        |m| m.epoch = Epoch(8) => "later epoch",
    }
}

#[test]
fn rules_of_subtasks() {
    refused! {
        |m| (inline(m, 0).groups, inline(m, 0).heat) = (KeyGroupRange::new(0, 5).into(), vec![]) => "two owners",
        |m| (inline(m, 1).groups, inline(m, 1).segments, inline(m, 1).times, inline(m, 1).heat) = (KeyGroupRange::new(4, 7).into(), vec![], vec![], vec![]) => "no owner groups=`7..8`",
        |m| inline(m, 1).groups = KeyGroupRange::new(4, 9).into() => "does not have",
        |m| inline(m, 0).times[1].groups.end = 5 => "not those of the subtask's groups",
        |m| inline(m, 0).times[1].groups.start = 1 => "not those of the subtask's groups",
        |m| inline(m, 0).times[1].groups.end = 2 => "not those of the subtask's groups",
        |m| inline(m, 0).times.reverse() => "not those of the subtask's groups",
        |m| inline(m, 0).heat.truncate(3) => "heat is not that of the subtask's groups groups=`4` found=`3`",
        |m| inline(m, 0).heat.push(Warmth(1)) => "heat is not that of the subtask's groups",
        |m| inline(m, 0).times[0].lives.reverse() => "not sorted by table",
        |m| inline(m, 0).segments[0].groups = KeyGroupRange::new(3, 5).into() => "does not own",
        |m| inline(m, 0).segments[0].first_epoch = Epoch(10) => "later epoch",
        |m| inline(m, 0).segments[0].offset = u64::MAX => "beyond the end",
        |m| inline(m, 0).segments[0].index_offset = u64::MAX => "does not lie in its segment",
        |m| inline(m, 0).segments[0].index_length = 101 => "does not lie in its segment",
        |m| inline(m, 0).segments[0].index_length = 0 => "does not lie in its segment",
        |m| inline(m, 0).opaques[1].content = OpaqueContent::Stored(segment(0, SegmentKind::Base)) => "segment of rows",
        |m| inline(m, 0).opaques[1].content = OpaqueContent::Stored(indexed()) => "does not lie in its segment",
        |m| inline(m, 0).opaques[1].role = OpaqueRole::Source => "of=`opaque`",
        |m| inline(m, 0).opaques[0].item_offsets = vec![0, 4] => "out of order",
        |m| inline(m, 0).opaques[0].item_offsets = vec![2, 1] => "out of order",
        |m| inline(m, 0).opaques[0].content = OpaqueContent::Inline(vec![0; INLINE_OPAQUE_BYTES + 1].into()) => "too long",
    }
}

#[test]
fn values_of_newer_versions_are_not_reported_as_damage() {
    let edited = |edit: fn(&mut proto::Manifest)| {
        let mut message = proto::Manifest::from(&manifest());
        edit(&mut message);
        let body = prost::Message::encode_to_vec(&message);
        decode(&crate::envelope::encode(crate::envelope::ObjectKind::Manifest, PUT, &body))
            .map_err(|error| error.kind())
    };
    assert!(edited(|_| ()).is_ok());
    for edit in [
        |m: &mut proto::Manifest| m.kind = 4,
        |m: &mut proto::Manifest| m.level = 5,
        |m: &mut proto::Manifest| m.partitioner.as_mut().unwrap().version = 2,
        |m: &mut proto::Manifest| m.partitioner.as_mut().unwrap().name = "other".into(),
        |m: &mut proto::Manifest| m.extensions[0].required = true,
        |m: &mut proto::Manifest| m.objects[0].layout = None,
        |m: &mut proto::Manifest| m.operators[0].tables[0].kind = 7,
        |m: &mut proto::Manifest| m.operators[0].subtasks[0].subtask = None,
    ] {
        assert_eq!(edited(edit), Err(ErrorKind::Version));
    }
    for edit in [
        |m: &mut proto::Manifest| m.kind = 0,
        |m: &mut proto::Manifest| m.job = Bytes::from_static(b"short"),
        |m: &mut proto::Manifest| m.program = None,
        |m: &mut proto::Manifest| m.partitioner = None,
        |m: &mut proto::Manifest| m.objects[0].id = None,
        |m: &mut proto::Manifest| m.max_parallelism = 65_536 + 8,
    ] {
        assert_eq!(edited(edit), Err(ErrorKind::Corrupt));
    }
}

#[test]
fn unknown_fields_are_skipped() {
    let mut body = prost::Message::encode_to_vec(&proto::Manifest::from(&manifest()));
    // Field 1000 as a varint: a later version's field, which protobuf readers skip.
    body.extend_from_slice(&[0xc0, 0x3e, 0x01]);
    let object = crate::envelope::encode(crate::envelope::ObjectKind::Manifest, PUT, &body);
    assert_eq!(decode(&object).unwrap(), manifest());
}

#[test]
fn every_bit_flip_and_truncation_is_detected() {
    let manifest = manifest().encode(PUT).unwrap();
    let subtask = subtask(1).encode(MAX).unwrap();
    let marker = AttemptMarker { attempt: Attempt(4), job: JobId([1; 16]), created_at: Timestamp::MAX }.encode(PUT);
    let read_manifest = |bytes: &Bytes| decode(bytes).err();
    let read_subtask = |bytes: &Bytes| SubtaskManifest::decode(bytes, MAX).err();
    let read_marker = |bytes: &Bytes| AttemptMarker::decode(bytes, Attempt(4)).err();
    damage(&manifest, read_manifest);
    damage(&subtask, read_subtask);
    damage(&marker, read_marker);
}

fn damage(object: &Bytes, error: impl Fn(&Bytes) -> Option<Error>) {
    for at in 0..object.len() {
        let mut flipped = object.to_vec();
        flipped[at] ^= 1 << (at % 8);
        assert_eq!(error(&flipped.into()).unwrap().kind(), ErrorKind::Corrupt, "flip at {at}");
        assert_eq!(error(&object.slice(..at)).unwrap().kind(), ErrorKind::Corrupt, "cut at {at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A writer accepts every manifest that a reader accepts.
    #[test]
    fn damaged_bodies_give_an_error_or_a_valid_manifest(damage in any_damage()) {
        let body = damaged(&prost::Message::encode_to_vec(&proto::Manifest::from(&manifest())), &damage);
        if let Ok(manifest) = decode(&crate::envelope::encode(crate::envelope::ObjectKind::Manifest, PUT, &body)) {
            prop_assert_eq!(decode(&manifest.encode(PUT).unwrap()).unwrap(), manifest);
        }
    }
}
