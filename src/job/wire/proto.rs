//! The protobuf messages between an owner and its workers. `docs/wire.md` has the schema; field numbers are never used
//! twice. Parts of manifests are the manifest's own messages.

use bytes::Bytes;
use prost::{Message, Oneof};

use crate::manifest::proto as manifest;

#[derive(Clone, PartialEq, Message)]
pub(in crate::job) struct Envelope {
    #[prost(bytes = "bytes", tag = "1")]
    pub(in crate::job) job: Bytes,
    #[prost(uint64, tag = "2")]
    pub(in crate::job) attempt: u64,
    #[prost(bytes = "bytes", tag = "3")]
    pub(in crate::job) session: Bytes,
    #[prost(oneof = "Body", tags = "10, 11, 12, 13, 14, 15, 16, 17, 30, 31, 32")]
    pub(in crate::job) body: Option<Body>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(in crate::job) enum Body {
    #[prost(message, tag = "10")]
    Hello(Hello),
    #[prost(message, tag = "11")]
    Restored(Participant),
    #[prost(message, tag = "12")]
    Arrived(Arrived),
    #[prost(message, tag = "13")]
    Acknowledge(Acknowledge),
    #[prost(message, tag = "14")]
    Decline(Decline),
    #[prost(message, tag = "15")]
    Dropped(Dropped),
    #[prost(message, tag = "16")]
    Observed(Observed),
    #[prost(message, tag = "17")]
    Refused(Failure),
    #[prost(message, tag = "30")]
    Assign(Assign),
    #[prost(message, tag = "31")]
    Settle(Settle),
    #[prost(message, tag = "32")]
    Stop(Failure),
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::job) struct Hello {
    #[prost(string, tag = "1")]
    pub(in crate::job) host: String,
    #[prost(string, tag = "2")]
    pub(in crate::job) domain: String,
    #[prost(string, tag = "3")]
    pub(in crate::job) writer: String,
    #[prost(bytes = "bytes", tag = "4")]
    pub(in crate::job) program: Bytes,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(in crate::job) struct Participant {
    #[prost(uint32, tag = "1")]
    pub(in crate::job) operator: u32,
    #[prost(uint32, tag = "2")]
    pub(in crate::job) subtask: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::job) struct Arrived {
    #[prost(uint64, tag = "1")]
    pub(in crate::job) epoch: u64,
    #[prost(message, repeated, tag = "2")]
    pub(in crate::job) subtasks: Vec<Participant>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::job) struct Acknowledge {
    #[prost(uint64, tag = "1")]
    pub(in crate::job) epoch: u64,
    #[prost(message, repeated, tag = "2")]
    pub(in crate::job) subtasks: Vec<Acknowledgement>,
    #[prost(message, repeated, tag = "3")]
    pub(in crate::job) objects: Vec<manifest::Object>,
    #[prost(message, repeated, tag = "4")]
    pub(in crate::job) kept: Vec<manifest::ObjectId>,
    #[prost(uint64, tag = "5")]
    pub(in crate::job) bytes: u64,
    #[prost(uint64, tag = "6")]
    pub(in crate::job) new_base_bytes: u64,
    #[prost(uint64, tag = "7")]
    pub(in crate::job) uploads: u64,
    #[prost(uint64, tag = "8")]
    pub(in crate::job) requests: u64,
    /// One for each of `kept`.
    #[prost(uint64, repeated, tag = "9")]
    pub(in crate::job) kept_live_bytes: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::job) struct Acknowledgement {
    #[prost(message, optional, tag = "1")]
    pub(in crate::job) participant: Option<Participant>,
    #[prost(message, optional, tag = "2")]
    pub(in crate::job) entry: Option<manifest::SubtaskEntry>,
    /// Absent if they are those of the subtask before.
    #[prost(message, optional, tag = "3")]
    pub(in crate::job) tables: Option<Tables>,
    #[prost(message, repeated, tag = "4")]
    pub(in crate::job) heat: Vec<manifest::GroupHeat>,
    #[prost(message, repeated, tag = "5")]
    pub(in crate::job) statistics: Vec<manifest::Statistic>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::job) struct Tables {
    #[prost(message, repeated, tag = "1")]
    pub(in crate::job) tables: Vec<Table>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::job) struct Table {
    #[prost(message, optional, tag = "1")]
    pub(in crate::job) schema: Option<manifest::Table>,
    #[prost(bool, tag = "2")]
    pub(in crate::job) declared: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::job) struct Decline {
    #[prost(uint64, tag = "1")]
    pub(in crate::job) epoch: u64,
    #[prost(message, optional, tag = "2")]
    pub(in crate::job) reason: Option<Failure>,
}

/// An error: its kind by name, and its text.
#[derive(Clone, PartialEq, Message)]
pub(in crate::job) struct Failure {
    #[prost(string, tag = "1")]
    pub(in crate::job) kind: String,
    #[prost(string, tag = "2")]
    pub(in crate::job) message: String,
    #[prost(string, tag = "3")]
    pub(in crate::job) source: String,
    #[prost(bool, tag = "4")]
    pub(in crate::job) applied_unknown: bool,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(in crate::job) struct Dropped {
    #[prost(message, optional, tag = "1")]
    pub(in crate::job) participant: Option<Participant>,
    #[prost(uint64, optional, tag = "2")]
    pub(in crate::job) last: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(in crate::job) struct Observed {
    #[prost(oneof = "Observation", tags = "1, 2, 3")]
    pub(in crate::job) observation: Option<Observation>,
}

#[derive(Clone, Copy, PartialEq, Oneof)]
pub(in crate::job) enum Observation {
    #[prost(message, tag = "1")]
    Load(Load),
    #[prost(double, tag = "2")]
    Paused(f64),
    #[prost(message, tag = "3")]
    CaughtUp(CaughtUp),
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(in crate::job) struct CaughtUp {}

#[derive(Clone, Copy, PartialEq, Message)]
pub(in crate::job) struct Load {
    #[prost(double, tag = "1")]
    pub(in crate::job) received: f64,
    #[prost(double, tag = "2")]
    pub(in crate::job) processed: f64,
    #[prost(double, optional, tag = "3")]
    pub(in crate::job) updates: Option<f64>,
    #[prost(double, optional, tag = "4")]
    pub(in crate::job) busy: Option<f64>,
    #[prost(double, optional, tag = "5")]
    pub(in crate::job) backlog: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::job) struct Assign {
    #[prost(uint64, tag = "1")]
    pub(in crate::job) first_epoch: u64,
    #[prost(message, optional, tag = "2")]
    pub(in crate::job) restored: Option<manifest::ManifestId>,
    #[prost(message, optional, tag = "3")]
    pub(in crate::job) partitioner: Option<manifest::Partitioner>,
    #[prost(uint32, tag = "4")]
    pub(in crate::job) max_parallelism: u32,
    #[prost(bool, tag = "5")]
    pub(in crate::job) full: bool,
    #[prost(message, optional, tag = "6")]
    pub(in crate::job) chain: Option<Chain>,
    #[prost(message, optional, tag = "7")]
    pub(in crate::job) pipeline: Option<Pipeline>,
    #[prost(uint64, tag = "8")]
    pub(in crate::job) inline_bytes: u64,
    #[prost(message, repeated, tag = "9")]
    pub(in crate::job) operators: Vec<Operator>,
    #[prost(bytes = "bytes", tag = "10")]
    pub(in crate::job) payload: Bytes,
    #[prost(bytes = "bytes", tag = "11")]
    pub(in crate::job) lineage: Bytes,
    #[prost(bytes = "bytes", tag = "12")]
    pub(in crate::job) restored_lineage: Bytes,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(in crate::job) struct Chain {
    #[prost(uint64, tag = "1")]
    pub(in crate::job) max_segments: u64,
    #[prost(uint64, tag = "2")]
    pub(in crate::job) spread: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(in crate::job) struct Pipeline {
    #[prost(uint64, tag = "1")]
    pub(in crate::job) pack_bytes: u64,
    #[prost(uint64, tag = "2")]
    pub(in crate::job) segment_bytes: u64,
    #[prost(uint64, tag = "3")]
    pub(in crate::job) encoders: u64,
    #[prost(uint64, tag = "4")]
    pub(in crate::job) uploads: u64,
    #[prost(sint32, tag = "5")]
    pub(in crate::job) zstd_level: i32,
    #[prost(uint32, tag = "6")]
    pub(in crate::job) encoder_share: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::job) struct Operator {
    #[prost(uint32, tag = "1")]
    pub(in crate::job) id: u32,
    #[prost(message, optional, tag = "2")]
    pub(in crate::job) key: Option<manifest::Schema>,
    #[prost(uint32, tag = "3")]
    pub(in crate::job) parallelism: u32,
    #[prost(uint32, repeated, tag = "4")]
    pub(in crate::job) seats: Vec<u32>,
    #[prost(uint32, tag = "5")]
    pub(in crate::job) stored_parallelism: u32,
    #[prost(message, repeated, tag = "6")]
    pub(in crate::job) tables: Vec<manifest::Table>,
    #[prost(sint64, optional, tag = "7")]
    pub(in crate::job) event_time_ms: Option<i64>,
    #[prost(sint64, optional, tag = "8")]
    pub(in crate::job) processing_time_ms: Option<i64>,
    #[prost(message, repeated, tag = "9")]
    pub(in crate::job) sources: Vec<Source>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::job) struct Source {
    #[prost(uint32, tag = "1")]
    pub(in crate::job) subtask: u32,
    #[prost(message, optional, tag = "2")]
    pub(in crate::job) entry: Option<manifest::SubtaskEntry>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::job) struct Settle {
    #[prost(uint64, tag = "1")]
    pub(in crate::job) epoch: u64,
    #[prost(bool, tag = "2")]
    pub(in crate::job) committed: bool,
    #[prost(message, optional, tag = "3")]
    pub(in crate::job) chain: Option<Chain>,
    #[prost(message, repeated, tag = "4")]
    pub(in crate::job) rewrite: Vec<manifest::ObjectId>,
}
