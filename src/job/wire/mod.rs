//! Messages between an owner and its workers: values here, bytes in `convert` and `proto`.
//!
//! ```text
//! Worker --Hello, Restored, Arrived, Acknowledge, Decline, Dropped, Observed, Refused--> Owner
//! Owner --Assign, Settle, Stop--> Worker
//! ```
//!
//! Invariants: every message names its job, attempt and session, so that one of another is recognised and dropped; a
//! message grows with subtasks, segments and groups, never with rows; decoding allocates in proportion to the message.

mod convert;
mod frame;
mod proto;

use bytes::Bytes;

pub use crate::backend::state::TableEntry;
use crate::backend::{CheckpointTimes, Outcome};
pub use crate::checkpoint::acknowledgement::{Acknowledgement, Kept, Placed, StateSummary};
use crate::checkpoint::pipeline::PipelineSettings;
use crate::control::chain::ChainPolicy;
use crate::control::coordinator::Participant;
use crate::control::interval::Observation;
use crate::error::Error;
use crate::id::{Attempt, Epoch, Hash, JobId, Lineage, ManifestId, ObjectId, OperatorId, SessionId, Subtask};
use crate::job::Strategy;
use crate::key_group::Partitioner;
use crate::manifest::{Schema, SubtaskEntry, TableSchema};

pub use frame::{Body, Protobuf, decode, encode};

/// Longest message, in bytes. Also bounds the memory of its lists.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// A message with its whole identity.
#[derive(Debug, Clone)]
pub struct Envelope<M> {
    /// The default before the worker knows its job.
    pub job: JobId,
    /// 0 before the worker has an attempt.
    pub attempt: Attempt,
    /// The link's.
    pub session: SessionId,
    /// The message itself.
    pub body: M,
}

/// A message from a worker.
#[derive(Debug, Clone)]
pub enum ToOwner {
    /// The first message of a session.
    Hello(Hello),
    /// A subtask's state is restored.
    Restored(Participant),
    /// These subtasks have passed the barrier of an epoch.
    Arrived(Epoch, Vec<Participant>),
    /// The state of all of the worker's subtasks is placed.
    Acknowledge(Box<Acknowledge>),
    /// An epoch cannot be completed here.
    Decline(Epoch, Error),
    /// A seat or task was dropped. It passes no barrier after the given epoch.
    Dropped(Participant, Option<Epoch>),
    /// A measurement for the adaptive interval.
    Observed(Observation),
    /// The worker cannot take its assignment.
    Refused(Error),
}

/// A message to a worker.
#[derive(Debug, Clone)]
pub enum ToWorker {
    /// The worker's seats in a new attempt.
    Assign(Box<Assign>),
    /// How an epoch ended.
    Settle(Settle),
    /// The attempt has ended.
    Stop(Error),
}

/// Who a worker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The host, as the worker calls itself.
    pub host: String,
    /// What fails together with it.
    pub domain: String,
    /// Name and version of the worker's software.
    pub writer: String,
    /// Hash of its program.
    pub program: Hash,
}

/// All state of a worker's subtasks at an epoch.
#[derive(Debug, Clone)]
pub struct Acknowledge {
    /// The epoch.
    pub epoch: Epoch,
    /// The subtasks' state, and the objects that hold it.
    pub placed: Placed,
    /// Requests to the store that the epoch took here.
    pub requests: u64,
}

/// A worker's seats in an attempt, with everything that their restore needs.
#[derive(Debug, Clone)]
pub struct Assign {
    /// The attempt's first epoch.
    pub first_epoch: Epoch,
    /// The checkpoint to restore; `None` to start empty.
    pub restored: Option<ManifestId>,
    /// The lineage of the attempt's checkpoints.
    pub lineage: Lineage,
    /// That of the checkpoint to restore; the attempt's own without one.
    pub restored_lineage: Lineage,
    /// How keys map to key groups.
    pub partitioner: Partitioner,
    /// Number of key groups.
    pub max_parallelism: u16,
    /// What a checkpoint writes.
    pub strategy: Strategy,
    /// When groups get new bases; `None` if each checkpoint writes all groups.
    pub chain: Option<ChainPolicy>,
    /// Bounds on encoding and uploads.
    pub pipeline: PipelineSettings,
    /// Bytes of subtask manifests that an acknowledgement may carry; longer ones go into the worker's packs.
    pub inline_bytes: u64,
    /// The operators of which the worker has seats.
    pub operators: Vec<AssignedOperator>,
    /// The engine's own bytes.
    pub payload: Bytes,
}

/// A worker's seats of one operator.
#[derive(Debug, Clone)]
pub struct AssignedOperator {
    /// The operator.
    pub id: OperatorId,
    /// The type of its keys.
    pub key: Schema,
    /// Number of its subtasks, on all workers.
    pub parallelism: u32,
    /// The worker's subtasks, ascending.
    pub seats: Vec<Subtask>,
    /// The stored parallelism; 0 if nothing is stored.
    pub stored_parallelism: u32,
    /// The stored tables.
    pub tables: Vec<TableSchema>,
    /// The times that all stored groups agree on.
    pub times: CheckpointTimes,
    /// The stored subtasks that the seats restore from, each with its index, ascending.
    pub sources: Vec<(Subtask, SubtaskEntry)>,
}

/// How an epoch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settle {
    /// The epoch.
    pub epoch: Epoch,
    /// Whether it is committed or aborted.
    pub outcome: Outcome,
    /// When groups get new bases from now on; `None` if each checkpoint writes all groups.
    pub chain: Option<ChainPolicy>,
    /// Objects to free: the groups that need them get new bases.
    pub rewrite: Vec<ObjectId>,
}
