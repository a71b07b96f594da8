//! The protobuf messages of manifests. `docs/format.md` has the schema; field numbers are never used twice.

use bytes::Bytes;
use prost::{Message, Oneof};

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Manifest {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) job: Bytes,
    #[prost(uint64, tag = "2")]
    pub(crate) seq: u64,
    #[prost(uint32, tag = "3")]
    pub(crate) kind: u32,
    #[prost(uint64, tag = "4")]
    pub(crate) attempt: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) epoch: u64,
    #[prost(message, optional, tag = "6")]
    pub(crate) parent: Option<ManifestId>,
    #[prost(message, repeated, tag = "7")]
    pub(crate) retained: Vec<Retained>,
    #[prost(sint64, tag = "8")]
    pub(crate) created_at_ms: i64,
    #[prost(string, tag = "9")]
    pub(crate) writer: String,
    #[prost(message, optional, tag = "10")]
    pub(crate) program: Option<Program>,
    #[prost(message, optional, tag = "11")]
    pub(crate) partitioner: Option<Partitioner>,
    #[prost(uint32, tag = "12")]
    pub(crate) max_parallelism: u32,
    #[prost(message, repeated, tag = "13")]
    pub(crate) objects: Vec<Object>,
    #[prost(uint32, tag = "14")]
    pub(crate) level: u32,
    #[prost(message, repeated, tag = "15")]
    pub(crate) operators: Vec<Operator>,
    #[prost(message, repeated, tag = "16")]
    pub(crate) extensions: Vec<Extension>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ManifestId {
    #[prost(uint64, tag = "1")]
    pub(crate) seq: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) put_id: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Retained {
    #[prost(message, optional, tag = "1")]
    pub(crate) id: Option<ManifestId>,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) hash: Bytes,
    #[prost(uint32, tag = "3")]
    pub(crate) kind: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Program {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) bytes: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) hash: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Partitioner {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(uint32, tag = "2")]
    pub(crate) version: u32,
    #[prost(fixed64, tag = "3")]
    pub(crate) seed: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ObjectId {
    #[prost(uint64, tag = "1")]
    pub(crate) attempt: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) random: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Object {
    #[prost(message, optional, tag = "1")]
    pub(crate) id: Option<ObjectId>,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) put_id: Bytes,
    #[prost(uint64, tag = "3")]
    pub(crate) bytes: u64,
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) hash: Bytes,
    #[prost(oneof = "Layout", tags = "5, 6")]
    pub(crate) layout: Option<Layout>,
    #[prost(uint32, tag = "7")]
    pub(crate) cipher: u32,
    #[prost(string, tag = "8")]
    pub(crate) key_id: String,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Layout {
    #[prost(message, tag = "5")]
    Whole(Whole),
    #[prost(message, tag = "6")]
    Shards(Shards),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Whole {}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Shards {
    #[prost(uint32, tag = "1")]
    pub(crate) k: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) m: u32,
    #[prost(uint64, tag = "3")]
    pub(crate) shard_bytes: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Operator {
    #[prost(uint32, tag = "1")]
    pub(crate) id: u32,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(uint32, tag = "3")]
    pub(crate) parallelism: u32,
    #[prost(message, repeated, tag = "4")]
    pub(crate) tables: Vec<Table>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) subtasks: Vec<SubtaskEntry>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Table {
    #[prost(uint32, tag = "1")]
    pub(crate) id: u32,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(uint32, tag = "3")]
    pub(crate) kind: u32,
    #[prost(message, optional, tag = "4")]
    pub(crate) key: Option<Schema>,
    #[prost(message, optional, tag = "5")]
    pub(crate) namespace: Option<Schema>,
    #[prost(message, optional, tag = "6")]
    pub(crate) sub: Option<Schema>,
    #[prost(message, optional, tag = "7")]
    pub(crate) value: Option<Schema>,
    #[prost(message, optional, tag = "8")]
    pub(crate) ttl: Option<Ttl>,
    #[prost(string, optional, tag = "9")]
    pub(crate) merge_operator: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Schema {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(uint32, tag = "2")]
    pub(crate) version: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Heat {
    #[prost(message, repeated, tag = "1")]
    pub(crate) operators: Vec<OperatorHeat>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct OperatorHeat {
    #[prost(uint32, tag = "1")]
    pub(crate) id: u32,
    #[prost(message, repeated, tag = "2")]
    pub(crate) groups: Vec<GroupHeat>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct GroupHeat {
    #[prost(uint32, tag = "1")]
    pub(crate) group: u32,
    #[prost(uint64, tag = "2")]
    pub(crate) rows: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) live_bytes: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) dirty_rows: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) reads: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) writes: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Statistics {
    #[prost(message, repeated, tag = "1")]
    pub(crate) operators: Vec<OperatorStatistics>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct OperatorStatistics {
    #[prost(uint32, tag = "1")]
    pub(crate) id: u32,
    #[prost(message, repeated, tag = "2")]
    pub(crate) statistics: Vec<Statistic>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Statistic {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(uint64, tag = "2")]
    pub(crate) value: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Ttl {
    #[prost(uint64, tag = "1")]
    pub(crate) life_ms: u64,
    #[prost(bool, tag = "2")]
    pub(crate) on_read: bool,
    #[prost(bool, tag = "3")]
    pub(crate) event_time: bool,
    #[prost(sint64, optional, tag = "4")]
    pub(crate) since_ms: Option<i64>,
    #[prost(sint64, optional, tag = "5")]
    pub(crate) dead_until_ms: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SubtaskEntry {
    #[prost(oneof = "Subtask", tags = "1, 3")]
    pub(crate) subtask: Option<Subtask>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Subtask {
    #[prost(message, tag = "1")]
    Inline(SubtaskManifest),
    /// Tag 2 was a slice without a summary, before the first release.
    #[prost(message, tag = "3")]
    Slice(SubtaskSlice),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SubtaskSlice {
    #[prost(message, optional, tag = "1")]
    pub(crate) slice: Option<ObjectSlice>,
    #[prost(message, optional, tag = "2")]
    pub(crate) summary: Option<SubtaskSummary>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SubtaskSummary {
    #[prost(message, repeated, tag = "1")]
    pub(crate) groups: Vec<KeyGroupRange>,
    #[prost(sint64, optional, tag = "2")]
    pub(crate) event_time_ms: Option<i64>,
    #[prost(sint64, optional, tag = "3")]
    pub(crate) processing_time_ms: Option<i64>,
    #[prost(uint64, tag = "4")]
    pub(crate) bytes: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) records: u64,
    #[prost(uint32, tag = "6")]
    pub(crate) opaques: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ObjectSlice {
    #[prost(message, optional, tag = "1")]
    pub(crate) object: Option<ObjectId>,
    #[prost(uint64, tag = "2")]
    pub(crate) offset: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) length: u64,
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) hash: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SubtaskManifest {
    #[prost(uint32, tag = "1")]
    pub(crate) subtask: u32,
    #[prost(message, repeated, tag = "2")]
    pub(crate) groups: Vec<KeyGroupRange>,
    #[prost(sint64, tag = "3")]
    pub(crate) watermark_ms: i64,
    #[prost(message, repeated, tag = "4")]
    pub(crate) segments: Vec<SegmentRef>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) opaques: Vec<Opaque>,
    #[prost(message, repeated, tag = "6")]
    pub(crate) times: Vec<GroupTimes>,
    #[prost(bytes = "bytes", tag = "7")]
    pub(crate) heat: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct GroupTimes {
    #[prost(uint32, tag = "1")]
    pub(crate) start: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) end: u32,
    #[prost(sint64, optional, tag = "3")]
    pub(crate) event_time_ms: Option<i64>,
    #[prost(sint64, optional, tag = "4")]
    pub(crate) processing_time_ms: Option<i64>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) lives: Vec<Life>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Life {
    #[prost(uint32, tag = "1")]
    pub(crate) table: u32,
    #[prost(uint64, optional, tag = "2")]
    pub(crate) life_ms: Option<u64>,
    #[prost(sint64, optional, tag = "3")]
    pub(crate) since_ms: Option<i64>,
    #[prost(sint64, optional, tag = "4")]
    pub(crate) dead_until_ms: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct KeyGroupRange {
    #[prost(uint32, tag = "1")]
    pub(crate) start: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) end: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SegmentId {
    #[prost(uint64, tag = "1")]
    pub(crate) attempt: u64,
    #[prost(uint32, tag = "2")]
    pub(crate) operator: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) subtask: u32,
    #[prost(uint64, tag = "4")]
    pub(crate) epoch: u64,
    #[prost(uint32, tag = "5")]
    pub(crate) part: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SegmentRef {
    #[prost(message, optional, tag = "1")]
    pub(crate) id: Option<SegmentId>,
    #[prost(uint32, tag = "2")]
    pub(crate) kind: u32,
    #[prost(uint64, tag = "3")]
    pub(crate) first_epoch: u64,
    #[prost(message, repeated, tag = "4")]
    pub(crate) groups: Vec<KeyGroupRange>,
    #[prost(message, optional, tag = "5")]
    pub(crate) object: Option<ObjectId>,
    #[prost(uint64, tag = "6")]
    pub(crate) offset: u64,
    #[prost(uint64, tag = "7")]
    pub(crate) length: u64,
    #[prost(uint64, tag = "8")]
    pub(crate) index_offset: u64,
    #[prost(uint32, tag = "9")]
    pub(crate) index_length: u32,
    #[prost(bytes = "bytes", tag = "10")]
    pub(crate) index_hash: Bytes,
    #[prost(uint64, tag = "11")]
    pub(crate) records: u64,
    #[prost(uint64, tag = "12")]
    pub(crate) raw_bytes: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Opaque {
    #[prost(uint32, tag = "1")]
    pub(crate) role: u32,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(uint32, tag = "3")]
    pub(crate) redistribution: u32,
    #[prost(uint32, optional, tag = "4")]
    pub(crate) channel: Option<u32>,
    #[prost(uint64, repeated, tag = "5")]
    pub(crate) item_offsets: Vec<u64>,
    #[prost(oneof = "OpaqueContent", tags = "6, 7")]
    pub(crate) content: Option<OpaqueContent>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum OpaqueContent {
    #[prost(bytes = "bytes", tag = "6")]
    Inline(Bytes),
    #[prost(message, tag = "7")]
    Stored(SegmentRef),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Extension {
    #[prost(string, tag = "1")]
    pub(crate) tag: String,
    #[prost(bool, tag = "2")]
    pub(crate) required: bool,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) bytes: Bytes,
}
