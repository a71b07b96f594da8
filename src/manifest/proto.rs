//! The protobuf messages of manifests. `docs/format.md` has the schema; field numbers are never used twice.

use bytes::Bytes;
use prost::{Message, Oneof};

#[derive(Clone, PartialEq, Message)]
pub(super) struct Manifest {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) job: Bytes,
    #[prost(uint64, tag = "2")]
    pub(super) seq: u64,
    #[prost(uint32, tag = "3")]
    pub(super) kind: u32,
    #[prost(uint64, tag = "4")]
    pub(super) attempt: u64,
    #[prost(uint64, tag = "5")]
    pub(super) epoch: u64,
    #[prost(message, optional, tag = "6")]
    pub(super) parent: Option<ManifestId>,
    #[prost(message, repeated, tag = "7")]
    pub(super) retained: Vec<Retained>,
    #[prost(sint64, tag = "8")]
    pub(super) created_at_ms: i64,
    #[prost(string, tag = "9")]
    pub(super) writer: String,
    #[prost(message, optional, tag = "10")]
    pub(super) program: Option<Program>,
    #[prost(message, optional, tag = "11")]
    pub(super) partitioner: Option<Partitioner>,
    #[prost(uint32, tag = "12")]
    pub(super) max_parallelism: u32,
    #[prost(message, repeated, tag = "13")]
    pub(super) objects: Vec<Object>,
    #[prost(uint32, tag = "14")]
    pub(super) level: u32,
    #[prost(message, repeated, tag = "15")]
    pub(super) operators: Vec<Operator>,
    #[prost(message, repeated, tag = "16")]
    pub(super) extensions: Vec<Extension>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ManifestId {
    #[prost(uint64, tag = "1")]
    pub(super) seq: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) put_id: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Retained {
    #[prost(message, optional, tag = "1")]
    pub(super) id: Option<ManifestId>,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) hash: Bytes,
    #[prost(uint32, tag = "3")]
    pub(super) kind: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Program {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) bytes: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) hash: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Partitioner {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(uint32, tag = "2")]
    pub(super) version: u32,
    #[prost(fixed64, tag = "3")]
    pub(super) seed: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ObjectId {
    #[prost(uint64, tag = "1")]
    pub(super) attempt: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) random: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Object {
    #[prost(message, optional, tag = "1")]
    pub(super) id: Option<ObjectId>,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) put_id: Bytes,
    #[prost(uint64, tag = "3")]
    pub(super) bytes: u64,
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) hash: Bytes,
    #[prost(oneof = "Layout", tags = "5, 6")]
    pub(super) layout: Option<Layout>,
    #[prost(uint32, tag = "7")]
    pub(super) cipher: u32,
    #[prost(string, tag = "8")]
    pub(super) key_id: String,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Layout {
    #[prost(message, tag = "5")]
    Whole(Whole),
    #[prost(message, tag = "6")]
    Shards(Shards),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Whole {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Shards {
    #[prost(uint32, tag = "1")]
    pub(super) k: u32,
    #[prost(uint32, tag = "2")]
    pub(super) m: u32,
    #[prost(uint64, tag = "3")]
    pub(super) shard_bytes: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Operator {
    #[prost(uint32, tag = "1")]
    pub(super) id: u32,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(uint32, tag = "3")]
    pub(super) parallelism: u32,
    #[prost(message, repeated, tag = "4")]
    pub(super) tables: Vec<Table>,
    #[prost(message, repeated, tag = "5")]
    pub(super) subtasks: Vec<SubtaskEntry>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Table {
    #[prost(uint32, tag = "1")]
    pub(super) id: u32,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(uint32, tag = "3")]
    pub(super) kind: u32,
    #[prost(message, optional, tag = "4")]
    pub(super) key: Option<Schema>,
    #[prost(message, optional, tag = "5")]
    pub(super) namespace: Option<Schema>,
    #[prost(message, optional, tag = "6")]
    pub(super) sub: Option<Schema>,
    #[prost(message, optional, tag = "7")]
    pub(super) value: Option<Schema>,
    #[prost(message, optional, tag = "8")]
    pub(super) ttl: Option<Ttl>,
    #[prost(string, optional, tag = "9")]
    pub(super) merge_operator: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Schema {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(uint32, tag = "2")]
    pub(super) version: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Heat {
    #[prost(message, repeated, tag = "1")]
    pub(super) operators: Vec<OperatorHeat>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OperatorHeat {
    #[prost(uint32, tag = "1")]
    pub(super) id: u32,
    #[prost(message, repeated, tag = "2")]
    pub(super) groups: Vec<GroupHeat>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GroupHeat {
    #[prost(uint32, tag = "1")]
    pub(super) group: u32,
    #[prost(uint64, tag = "2")]
    pub(super) rows: u64,
    #[prost(uint64, tag = "3")]
    pub(super) live_bytes: u64,
    #[prost(uint64, tag = "4")]
    pub(super) dirty_rows: u64,
    #[prost(uint64, tag = "5")]
    pub(super) reads: u64,
    #[prost(uint64, tag = "6")]
    pub(super) writes: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Statistics {
    #[prost(message, repeated, tag = "1")]
    pub(super) operators: Vec<OperatorStatistics>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OperatorStatistics {
    #[prost(uint32, tag = "1")]
    pub(super) id: u32,
    #[prost(message, repeated, tag = "2")]
    pub(super) statistics: Vec<Statistic>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Statistic {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(uint64, tag = "2")]
    pub(super) value: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Ttl {
    #[prost(uint64, tag = "1")]
    pub(super) life_ms: u64,
    #[prost(bool, tag = "2")]
    pub(super) on_read: bool,
    #[prost(bool, tag = "3")]
    pub(super) event_time: bool,
    #[prost(sint64, optional, tag = "4")]
    pub(super) since_ms: Option<i64>,
    #[prost(sint64, optional, tag = "5")]
    pub(super) dead_until_ms: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SubtaskEntry {
    #[prost(oneof = "Subtask", tags = "1, 2")]
    pub(super) subtask: Option<Subtask>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Subtask {
    #[prost(message, tag = "1")]
    Inline(SubtaskManifest),
    #[prost(message, tag = "2")]
    Slice(ObjectSlice),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ObjectSlice {
    #[prost(message, optional, tag = "1")]
    pub(super) object: Option<ObjectId>,
    #[prost(uint64, tag = "2")]
    pub(super) offset: u64,
    #[prost(uint64, tag = "3")]
    pub(super) length: u64,
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) hash: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SubtaskManifest {
    #[prost(uint32, tag = "1")]
    pub(super) subtask: u32,
    #[prost(message, repeated, tag = "2")]
    pub(super) groups: Vec<KeyGroupRange>,
    #[prost(sint64, tag = "3")]
    pub(super) watermark_ms: i64,
    #[prost(message, repeated, tag = "4")]
    pub(super) segments: Vec<SegmentRef>,
    #[prost(message, repeated, tag = "5")]
    pub(super) opaques: Vec<Opaque>,
    #[prost(message, repeated, tag = "6")]
    pub(super) times: Vec<GroupTimes>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GroupTimes {
    #[prost(uint32, tag = "1")]
    pub(super) start: u32,
    #[prost(uint32, tag = "2")]
    pub(super) end: u32,
    #[prost(sint64, optional, tag = "3")]
    pub(super) event_time_ms: Option<i64>,
    #[prost(sint64, optional, tag = "4")]
    pub(super) processing_time_ms: Option<i64>,
    #[prost(message, repeated, tag = "5")]
    pub(super) lives: Vec<Life>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Life {
    #[prost(uint32, tag = "1")]
    pub(super) table: u32,
    #[prost(uint64, optional, tag = "2")]
    pub(super) life_ms: Option<u64>,
    #[prost(sint64, optional, tag = "3")]
    pub(super) since_ms: Option<i64>,
    #[prost(sint64, optional, tag = "4")]
    pub(super) dead_until_ms: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct KeyGroupRange {
    #[prost(uint32, tag = "1")]
    pub(super) start: u32,
    #[prost(uint32, tag = "2")]
    pub(super) end: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SegmentId {
    #[prost(uint64, tag = "1")]
    pub(super) attempt: u64,
    #[prost(uint32, tag = "2")]
    pub(super) operator: u32,
    #[prost(uint32, tag = "3")]
    pub(super) subtask: u32,
    #[prost(uint64, tag = "4")]
    pub(super) epoch: u64,
    #[prost(uint32, tag = "5")]
    pub(super) part: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SegmentRef {
    #[prost(message, optional, tag = "1")]
    pub(super) id: Option<SegmentId>,
    #[prost(uint32, tag = "2")]
    pub(super) kind: u32,
    #[prost(uint64, tag = "3")]
    pub(super) first_epoch: u64,
    #[prost(message, repeated, tag = "4")]
    pub(super) groups: Vec<KeyGroupRange>,
    #[prost(message, optional, tag = "5")]
    pub(super) object: Option<ObjectId>,
    #[prost(uint64, tag = "6")]
    pub(super) offset: u64,
    #[prost(uint64, tag = "7")]
    pub(super) length: u64,
    #[prost(uint64, tag = "8")]
    pub(super) index_offset: u64,
    #[prost(uint32, tag = "9")]
    pub(super) index_length: u32,
    #[prost(bytes = "bytes", tag = "10")]
    pub(super) index_hash: Bytes,
    #[prost(uint64, tag = "11")]
    pub(super) records: u64,
    #[prost(uint64, tag = "12")]
    pub(super) raw_bytes: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Opaque {
    #[prost(uint32, tag = "1")]
    pub(super) role: u32,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(uint32, tag = "3")]
    pub(super) redistribution: u32,
    #[prost(uint32, optional, tag = "4")]
    pub(super) channel: Option<u32>,
    #[prost(uint64, repeated, tag = "5")]
    pub(super) item_offsets: Vec<u64>,
    #[prost(oneof = "OpaqueContent", tags = "6, 7")]
    pub(super) content: Option<OpaqueContent>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum OpaqueContent {
    #[prost(bytes = "bytes", tag = "6")]
    Inline(Bytes),
    #[prost(message, tag = "7")]
    Stored(SegmentRef),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Extension {
    #[prost(string, tag = "1")]
    pub(super) tag: String,
    #[prost(bool, tag = "2")]
    pub(super) required: bool,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) bytes: Bytes,
}
