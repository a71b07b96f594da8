//! What an engine tells the controller.

use crate::control::estimate::{LoadSample, Scope};
use crate::time::Timestamp;

/// Something that was seen. Whatever is not told is estimated from the rest, or assumed by the settings.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Observation {
    /// Records and updates since the load before; best once a second.
    Load(LoadSample),
    /// Rows that are dirty since the last barrier, and the updates (or records) since then.
    Dirty {
        /// Updates, or records where updates are not counted.
        updates: f64,
        /// Distinct rows.
        rows: f64,
    },
    /// Size of the whole state; best before each checkpoint completes.
    State {
        /// Bytes, as a restore reads them.
        bytes: f64,
        /// Rows.
        rows: f64,
    },
    /// A checkpoint was started: the interval begins.
    Triggered,
    /// A subtask stood still for so many seconds at the barrier of the checkpoint in flight; the longest counts.
    Paused(f64),
    /// The checkpoint is durable.
    Completed(CheckpointSample),
    /// The checkpoint was given up.
    Aborted,
    /// The job failed, or a node of it. Until the job is up again, as `Restored`, records that are processed or a checkpoint
    /// that is triggered show, further failures are part of this one.
    Failed(Scope),
    /// State was read back and records are processed again.
    Restored {
        /// Bytes that were read.
        bytes: f64,
    },
    /// Processing has reached the newest input again. Not needed where samples of the load tell of the backlog.
    CaughtUp,
    /// The job ends on purpose after the next checkpoint: when it is started again, that is no failure.
    Ending,
    /// A node will be taken away.
    Notice {
        /// When.
        deadline: Timestamp,
        /// How probably, 0 to 1.
        probability: f64,
    },
    /// The job now runs on this many nodes.
    Nodes(f64),
}

/// What a checkpoint took.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CheckpointSample {
    /// From its trigger until it was durable, s.
    pub duration: f64,
    /// Longest time that a subtask stood still, s, if [`Observation::Paused`] did not tell.
    pub pause: f64,
    /// Processing time lost to it, pause and slow-down, s; `None` where nobody measures it.
    pub capacity: Option<f64>,
    /// Bytes of changed rows that were written.
    pub delta_bytes: f64,
    /// Bytes of new bases that were written.
    pub base_bytes: f64,
    /// Distinct rows that were dirty.
    pub rows: f64,
    /// Requests to the store.
    pub requests: f64,
}
