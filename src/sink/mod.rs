//! Output exactly once: records of an epoch are part of its checkpoint, and are published after its commit.
//!
//! ```text
//! Sink::emit --> draft --barrier--> prepared output in the checkpoint --commit--> SinkSlot::publish(marker, records)
//! ```
//!
//! Each subtask publishes through a [`Slot`] of the target, in the order of epochs, in one transaction per epoch that also sets
//! the slot's [`Marker`]. A new attempt takes over every slot of the restored checkpoint: it fences older attempts, reads the
//! marker, and publishes what is missing.
//!
//! Large output is staged in the target instead, and the checkpoint lists the staged parts: see [`StagedTarget`].
//!
//! Invariants:
//! - records of an epoch are published after a checkpoint that covers it is committed, never before;
//! - a slot's epochs are published in order, each once, whatever was lost on the way;
//! - output of an epoch that was given up is published with the next one that is committed;
//! - a target that has more or less than the restored checkpoint knows is refused, with both epochs.

mod bucket;
#[cfg(feature = "conformance")]
pub mod conformance;
mod prepared;
mod publisher;
mod queue;
mod slot;
mod staged;
mod sums;
mod takeover;
mod target;

use std::time::Duration;

pub use bucket::ObjectStoreTarget;
pub use prepared::Records;
pub(crate) use prepared::{Form, PreparedEpoch, is_of_sink, sink_of};
pub(crate) use publisher::{EpochWriter, Publisher};
pub(crate) use queue::Queue;
pub use queue::{Sink, SinkProgress};
pub(crate) use slot::check_name;
pub use slot::{Marker, Slot};
pub use staged::{Claim, FolderTarget, StagedPart, StagedSlot, StagedTarget};
pub(crate) use staged::{Draining, StagedTakeover, Stager, Staging};
pub(crate) use sums::{slot_sums, stored_sums};
pub(crate) use takeover::{Lineages, Takeover};
pub use target::{SinkSlot, SinkTarget};

/// Settings of a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SinkSettings {
    /// Most bytes of records that wait to be published, or staged. Beyond, [`Sink::emit`] returns `Limit`. Default: 256 MiB.
    pub max_unpublished_bytes: u64,
    /// How long a target may be away until the sink ends with its error, and so does the next barrier. Looked at between calls, at most
    /// 10 s apart. Default: for ever, while the job runs on and output waits.
    pub patience: Option<Duration>,
    /// What to do if the target and the restored checkpoint do not fit together. Default: refuse.
    pub divergence: Divergence,
}

impl Default for SinkSettings {
    fn default() -> Self {
        Self { max_unpublished_bytes: 256 << 20, patience: None, divergence: Divergence::Refuse }
    }
}

/// What to do with a target that has other output than the restored checkpoint knows: after a start from an older checkpoint or
/// from nothing, or where the target lost its marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Divergence {
    /// Refuse to start.
    #[default]
    Refuse,
    /// Continue from the restored checkpoint: output after it is published again, and stays in the target twice.
    Continue,
}
