//! Keyed state and checkpoints for stream processors.
//!
//! An engine keeps the state of each subtask in a [`KeyedState`] and ends an epoch with a barrier. The barrier freezes
//! the epoch's changes in microseconds; encoding and upload run in the background. A committed checkpoint can be
//! restored at any parallelism.
//!
#![cfg_attr(feature = "tokio-runtime", doc = "```")]
#![cfg_attr(not(feature = "tokio-runtime"), doc = "```ignore")]
//! use alluvium::{Fixed, JobBuilder, LogBackend, OperatorId, OperatorSpec, Store, Timestamp, TokioRuntime};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let store = Store::open("memory:///", &"clicks".parse()?, TokioRuntime::current())?;
//! let operator = OperatorSpec::new(OperatorId(1), "count", 1);
//! let mut job = JobBuilder::new(store).operator(operator).open().await?; // fences earlier attempts
//! let seat = job.take_seats().remove(0); // one per subtask
//! let mut task = seat.restore(LogBackend::new).await?; // from the newest checkpoint, if there is one
//! let counts = task.state().value("count", Fixed)?;
//!
//! task.state().set_key(b"ada")?;
//! counts.update(task.state(), |count| *count = Some(count.unwrap_or(0) + 1))?;
//!
//! let barrier = job.trigger()?.expect("no other epoch is in flight");
//! task.barrier(barrier, Timestamp::MIN, vec![])?;
//! assert!(job.wait(barrier).await?.is_some()); // committed
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! Two nouns and one arrow: a *segment* is an immutable run of state; a *manifest* is an immutable list of segments, and
//! *is* a checkpoint. Everything else is a function between the two.
//!
//! # Where to find things
//! What an embedder uses is at the crate root, and the most used of it in [`prelude`]. To implement a [`StateBackend`], see
//! [`backend`]; to read stored values without their types, [`schema`]; to tune adaptive checkpoints, [`interval`]; for a
//! checkpoint's content, [`manifest`]; for input that can be read again, [`source`]; for output that is
//! published exactly once, [`sink`]; for tools that work on stored checkpoints, [`offline`].
//!
//! [`StateBackend`]: backend::StateBackend
//!
//! # Features
//! | feature | default | what |
//! |---|---|---|
//! | `tokio-runtime` | yes | `TokioRuntime`, for engines on tokio |
//! | `aws`, `azure`, `gcp` | no | object stores other than local files and memory |
//! | `rocksdb` | no | `RocksDbBackend`, for state far larger than memory |
//! | `conformance` | no | `conformance` in `backend`, `sink` and `source`: the test suites of a [`StateBackend`], a target, a source |
//! | `internals` | no | `internals`, the crate's own modules, for tests and tools; no promise of stability |
//! | `canary` | no | planted bugs that a test suite must find; never for production |
#![cfg_attr(
    not(feature = "internals"),
    expect(unreachable_pub, reason = "items of private modules are reachable with the feature `internals`")
)]

pub mod backend;
mod canary;
mod checkpoint;
mod codec;
mod control;
mod envelope;
mod error;
mod id;
#[cfg(feature = "internals")]
pub mod internals;
mod job;
mod key_group;
pub mod manifest;
mod memory;
mod metrics;
pub mod offline;
mod place;
pub mod prelude;
mod row;
mod runtime;
mod segment;
mod settings;
pub mod sink;
pub mod source;
mod store;
mod time;
#[cfg(feature = "tokio-runtime")]
mod tokio_runtime;

pub use backend::{
    Aggregate, AggregatingState, AnyBackend, Fired, InNamespace, Keyed, KeyedState, ListState, LogBackend, MapState,
    OrderedMapState, Outcome, OverlayBackend, ReducingState, TableOptions, Tables, TimeDomain, TimerTable, Timers,
    TtlConfig, TtlTime, TtlUpdate, ValueState,
};
#[cfg(feature = "rocksdb")]
pub use backend::{RocksDb, RocksDbBackend, RocksDbSettings};
pub use checkpoint::claim::Peeked;
pub use checkpoint::collect::Uncollected;
pub use checkpoint::lazy::{Ready, ReadyGuard};
pub use checkpoint::manifest_log::{ManifestLog, RestoreFrom, StoredManifest};
pub use checkpoint::pipeline::PipelineSettings;
pub use checkpoint::restore_progress::RestoreProgress;
pub use codec::schema::Schema;
pub use codec::typed::{At, Codec, Fixed, ListOf, Migrating, Optional, Ordered, OrderedCodec, Raw, Serde, Unit, Utf8};
pub use control::chain::ChainPolicy;
pub use control::coordinator::{CheckpointPolicy, Participant};
pub use control::retention::RetentionPolicy;
pub use envelope::{MacKey, MacKeys};
pub use error::{Applied, Error, ErrorKind, Result};
pub use id::{
    Attempt, Awaited, Barrier, Epoch, JobId, JobName, Lineage, ManifestId, OperatorId, Seq, SessionId, Subtask, TableId,
};
pub use job::{
    Aborted, AdaptiveInterval, Assignment, BroadcastState, InFlightData, Inbox, Job, JobBuilder, JobSettings,
    MAX_MESSAGE_BYTES, OperatorList, OperatorSpec, OperatorState, Outbox, Owner, Progress, Refused, RestoreError,
    RestoreMode, Seat, Seating, Strategy, Task, Worker, WorkerInfo, WorkerSettings,
};
pub use key_group::{
    CurrentKey, DEFAULT_MAX_PARALLELISM, KeyGroup, KeyGroupRange, KeyGroupSet, MAX_KEY_GROUPS, Partitioner, java_hash,
    owner, subtask_range,
};
pub use manifest::{Opaque, OpaqueContent, OpaqueRole, Redistribution};
pub use memory::{Charge, DiskTier, DiskTierStats, MemoryBudget, TierFile};
pub use place::{CacheCounts, LocalCache, Store};
/// The RocksDB that this build has, for [`RocksDb::tuned`].
#[cfg(feature = "rocksdb")]
pub use rocksdb;
pub use runtime::{Runtime, SharedRuntime};
pub use store::{Access, RequestCounts, StoreSettings, list_jobs, open_url, open_url_with};
pub use time::Timestamp;
#[cfg(feature = "tokio-runtime")]
pub use tokio_runtime::TokioRuntime;

/// The adaptive checkpoint interval: goals, observations and decisions.
pub mod interval {
    pub use crate::control::estimate::{FailurePrior, FailureScope, LoadSample};
    pub use crate::control::formula::ReplayWeight;
    pub use crate::control::interval::{
        Bound, CheckpointKind, CheckpointSample, Controller, Damping, Decision, Goals, Infeasible, IntervalSettings,
        Learned, Observation, Reason,
    };
}

/// Types of stored values, and reading them without the code that wrote them.
pub mod schema {
    pub use crate::codec::schema::{Number, Order, Part, Schema, Shape, Type, Value, decode_any, encode_any};
}

/// Keeps the README's example compiling and running.
#[cfg(all(doctest, feature = "tokio-runtime"))]
#[doc = include_str!("../README.md")]
pub struct Readme;

/// Keeps the guide's code compiling and running.
#[cfg(all(doctest, feature = "tokio-runtime"))]
#[doc = include_str!("../docs/embedding.md")]
pub struct Embedding;

/// Keeps the code of the notes on exactly-once output compiling and running.
#[cfg(all(doctest, feature = "tokio-runtime"))]
#[doc = include_str!("../docs/exactly-once.md")]
pub struct ExactlyOnce;

/// Keeps the code of the security notes compiling and running.
#[cfg(all(doctest, feature = "tokio-runtime"))]
#[doc = include_str!("../docs/security.md")]
pub struct Security;

/// Keeps the code of the notes on the adaptive interval compiling and running.
#[cfg(all(doctest, feature = "tokio-runtime"))]
#[doc = include_str!("../docs/adaptive.md")]
pub struct AdaptiveIntervalNotes;
