//! The types and traits that most embedders import.

pub use crate::backend::{
    Aggregate, AggregatingState, KeyedState, ListState, LogBackend, MapState, OrderedMapState, Outcome, ReducingState,
    StateBackend, TableOptions, TimeDomain, Timers, TtlConfig, ValueState,
};
pub use crate::checkpoint::manifest_log::RestoreFrom;
pub use crate::codec::schema::Schema;
pub use crate::codec::typed::{
    At, Codec, Fixed, ListOf, Migrating, Optional, Ordered, OrderedCodec, Raw, Serde, Unit, Utf8,
};
pub use crate::id::{Barrier, Epoch, ManifestId, OperatorId, Seq, Subtask};
pub use crate::job::{BroadcastState, OperatorList, OperatorState};
pub use crate::job::{Job, JobBuilder, JobSettings, OperatorSpec, Progress, Seat, Strategy, Task};
pub use crate::key_group::{KeyGroup, KeyGroupSet, Partitioner};
pub use crate::manifest::{Opaque, OpaqueRole, Redistribution};
pub use crate::place::Store;
pub use crate::time::Timestamp;
#[cfg(feature = "tokio-runtime")]
pub use crate::tokio_runtime::TokioRuntime;
