//! One message of each kind between an owner and its workers, with fixed content: for golden files and fuzzing.

use std::sync::Arc;

use alluvium::backend::{CheckpointTimes, GroupHeat, Outcome, SegmentKind, Statistic};
use alluvium::internals::wire::{
    Acknowledge, Acknowledgement, Assign, AssignedOperator, Envelope, Hello, Kept, Placed, Settle, StateSummary,
    TableEntry, ToOwner, ToWorker,
};
use alluvium::interval::{LoadSample, Observation};
use alluvium::manifest::{
    Hash, Layout, ObjectId, ObjectRef, ObjectSlice, PutId, SegmentId, SegmentRef, StateKind, SubtaskEntry,
    SubtaskManifest, SubtaskSlice, TableSchema,
};
use alluvium::{
    Attempt, ChainPolicy, Epoch, Error, JobId, KeyGroup, KeyGroupSet, Lineage, ManifestId, Opaque, OpaqueRole,
    OperatorId, Participant, Partitioner, PipelineSettings, Schema, Seq, SessionId, Strategy, Subtask, TableId,
    Timestamp, subtask_range,
};
use bytes::Bytes;

use crate::COUNT;

pub const JOB: JobId = JobId([0x33; 16]);
pub const ATTEMPT: Attempt = Attempt(3);
pub const SESSION: SessionId = SessionId([0x44; 16]);
pub const MAX_PARALLELISM: u16 = 8;

/// What the worker uploaded.
pub const OWN: ObjectId = ObjectId { attempt: ATTEMPT, random: [0x11; 16] };
/// What an earlier attempt uploaded.
const KEPT: ObjectId = ObjectId { attempt: Attempt(2), random: [0x12; 16] };

/// Returns a message with its identity.
pub fn envelope<M>(body: M) -> Envelope<M> {
    Envelope { job: JOB, attempt: ATTEMPT, session: SESSION, body }
}

/// Returns a message of each kind from a worker, by name.
pub fn to_owner() -> Vec<(&'static str, Envelope<ToOwner>)> {
    let hello = Hello {
        host: "worker-1".into(),
        domain: "zone-a".into(),
        writer: "alluvium 0.1.0".into(),
        program: Hash([0x55; 16]),
    };
    let hello = Envelope { job: JobId::default(), attempt: Attempt(0), ..envelope(ToOwner::Hello(hello)) };
    let load =
        LoadSample { received: 1000.0, processed: 999.5, updates: Some(2000.0), busy: Some(0.25), backlog: Some(12.0) };
    let source = Error::denied("403").with("key", "job/data/x");
    let decline = Error::unavailable("upload failed").with_source(source).unknown();
    let told = [
        ("restored", ToOwner::Restored(seat(1))),
        ("arrived", ToOwner::Arrived(Epoch(9), vec![seat(0), seat(1)])),
        ("acknowledge", ToOwner::Acknowledge(Box::new(acknowledge()))),
        ("decline", ToOwner::Decline(Epoch(9), decline)),
        ("dropped", ToOwner::Dropped(seat(1), Some(Epoch(8)))),
        ("dropped-early", ToOwner::Dropped(seat(1), None)),
        ("observed-load", ToOwner::Observed(Observation::Load(load))),
        ("observed-paused", ToOwner::Observed(Observation::Paused(0.125))),
        ("observed-caught-up", ToOwner::Observed(Observation::CaughtUp)),
        ("refused", ToOwner::Refused(Error::config("store is not the owner's"))),
    ];
    let told = told.into_iter().map(|(name, body)| (name, envelope(body)));
    [("hello", hello)].into_iter().chain(told).collect()
}

/// Returns a message of each kind from an owner, by name.
pub fn to_worker() -> Vec<(&'static str, Envelope<ToWorker>)> {
    let settle = |outcome, chain, rewrite| ToWorker::Settle(Settle { epoch: Epoch(9), outcome, chain, rewrite });
    let first = Assign {
        first_epoch: Epoch(1),
        restored: None,
        strategy: Strategy::Full,
        chain: None,
        operators: Vec::new(),
        payload: Bytes::new(),
        ..assign()
    };
    let told = [
        ("assign", ToWorker::Assign(Box::new(assign()))),
        ("assign-empty", ToWorker::Assign(Box::new(first))),
        ("settle-committed", settle(Outcome::Commit, Some(chain()), vec![KEPT])),
        ("settle-aborted", settle(Outcome::Abort, None, Vec::new())),
        ("stop", ToWorker::Stop(Error::fenced("a newer attempt owns the job").with("attempt", 4))),
    ];
    told.into_iter().map(|(name, body)| (name, envelope(body))).collect()
}

pub fn seat(subtask: u32) -> Participant {
    (COUNT, Subtask(subtask))
}

fn chain() -> ChainPolicy {
    ChainPolicy::default().with(|it| {
        it.max_segments = 16;
        it.spread = 4;
    })
}

pub fn table(name: &str) -> TableSchema {
    TableSchema {
        id: TableId(7),
        name: name.into(),
        kind: StateKind::Value,
        key: Schema::new("bytes"),
        namespace: Schema::unit(),
        sub: Schema::unit(),
        value: Schema::new("u64le"),
        ttl: None,
        merge_operator: None,
    }
}

/// Returns an object of 4 KiB.
pub fn object(id: ObjectId) -> ObjectRef {
    ObjectRef {
        id,
        put_id: PutId([0x22; 16]),
        bytes: 4096,
        hash: Hash([0x66; 16]),
        layout: Layout::Whole,
        cipher: 0,
        key_id: String::new(),
    }
}

/// Returns a delta of the groups of a subtask, at the start of `object`.
pub fn segment(object: ObjectId, groups: KeyGroupSet, subtask: u32, epoch: Epoch) -> SegmentRef {
    let part = alluvium::backend::Part(0);
    SegmentRef {
        id: SegmentId { attempt: object.attempt, operator: COUNT, subtask: Subtask(subtask), epoch, part },
        kind: SegmentKind::Delta,
        first_epoch: epoch,
        groups,
        object,
        offset: 72,
        length: 1024,
        index_offset: 900,
        index_length: 108,
        index_hash: Hash([0x77; 16]),
        records: 40,
        raw_bytes: 1800,
    }
}

/// Returns the manifest of a subtask with one segment.
pub fn manifest(object: ObjectId, groups: KeyGroupSet, subtask: u32, epoch: Epoch) -> SubtaskManifest {
    SubtaskManifest {
        subtask: Subtask(subtask),
        groups: groups.clone(),
        watermark: Timestamp::from_millis(1_685_303_933_260),
        segments: vec![segment(object, groups, subtask, epoch)],
        opaques: Vec::new(),
        times: Vec::new(),
        heat: Vec::new(),
    }
}

/// Returns the entry of a subtask manifest that lies in a slice of `object`.
pub fn slice(object: ObjectId, manifest: &SubtaskManifest) -> SubtaskEntry {
    let slice = ObjectSlice { object, offset: 2000, length: 128, hash: Hash([0x78; 16]) };
    SubtaskEntry::Slice(SubtaskSlice { slice, summary: manifest.summary() })
}

/// Returns what a subtask tells beside its subtask manifest.
pub fn summary(tables: Vec<TableEntry>) -> StateSummary {
    let heat = GroupHeat { group: KeyGroup(1), rows: 40, live_bytes: 900, dirty_rows: 12, reads: 3, writes: 15 };
    let statistic = Statistic { name: "memtable.bytes".into(), value: 65_536 };
    StateSummary { tables: Arc::from(tables), heat: vec![heat], statistics: Arc::from([statistic]) }
}

/// Returns an acknowledgement with an inline subtask manifest and one in a slice.
pub fn acknowledge() -> Acknowledge {
    let groups = |subtask| KeyGroupSet::from(subtask_range(MAX_PARALLELISM, 2, subtask));
    let tables = || vec![TableEntry { schema: table("counts"), declared: true }];
    let mut inline = manifest(OWN, groups(0), 0, Epoch(9));
    inline.opaques = vec![Opaque::new(OpaqueRole::Source, "input.csv", "offset")];
    let entries = [SubtaskEntry::Inline(inline), slice(OWN, &manifest(KEPT, groups(1), 1, Epoch(8)))];
    let acknowledge = |(subtask, entry): (u32, SubtaskEntry)| Acknowledgement {
        participant: seat(subtask),
        entry,
        summary: summary(tables()),
    };
    let placed = Placed {
        acknowledgements: (0..).zip(entries).map(acknowledge).collect(),
        objects: vec![object(OWN)],
        kept: vec![Kept { id: KEPT, live_bytes: 700 }],
        bytes: 2048,
        new_base_bytes: 512,
        uploads: 1,
    };
    Acknowledge { epoch: Epoch(9), placed, requests: 1 }
}

fn assign() -> Assign {
    let groups = |subtask| KeyGroupSet::from(subtask_range(MAX_PARALLELISM, 2, subtask));
    let inline = SubtaskEntry::Inline(manifest(KEPT, groups(0), 0, Epoch(8)));
    let sliced = slice(KEPT, &manifest(KEPT, groups(1), 1, Epoch(8)));
    let operator = AssignedOperator {
        id: COUNT,
        key: Schema::new("bytes"),
        parallelism: 3,
        seats: vec![Subtask(0), Subtask(2)],
        stored_parallelism: 2,
        tables: vec![table("counts")],
        times: CheckpointTimes { event_time: Timestamp::from_millis(-1), processing_time: Timestamp::MIN },
        sources: vec![(Subtask(0), inline), (Subtask(1), sliced)],
    };
    let stateless = AssignedOperator {
        id: OperatorId(2),
        seats: vec![Subtask(1)],
        stored_parallelism: 0,
        tables: Vec::new(),
        times: CheckpointTimes { event_time: Timestamp::MIN, processing_time: Timestamp::MIN },
        sources: Vec::new(),
        ..operator.clone()
    };
    Assign {
        first_epoch: Epoch(9),
        restored: Some(ManifestId { seq: Seq(7), put_id: PutId([0x22; 16]) }),
        lineage: Lineage([0x33; 16]),
        restored_lineage: Lineage([0x44; 16]),
        partitioner: Partitioner::Range { seed: 0x0123_4567_89ab_cdef },
        max_parallelism: MAX_PARALLELISM,
        strategy: Strategy::Incremental,
        chain: Some(chain()),
        pipeline: PipelineSettings::default(),
        inline_bytes: 1 << 18,
        operators: vec![operator, stateless],
        payload: Bytes::from_static(b"worker-1:7000"),
    }
}
