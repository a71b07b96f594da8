//! Observations that an engine reports to the controller.

use crate::control::estimate::{FailureScope, LoadSample};
use crate::time::Timestamp;

/// An observation. The controller estimates missing ones from the others, or takes the settings.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Observation {
    /// Records and updates since the previous sample; report once a second.
    Load(LoadSample),
    /// Dirty rows and updates since the last barrier.
    Dirty {
        /// Updates; records where updates are not counted.
        updates: f64,
        /// Distinct rows.
        rows: f64,
    },
    /// Size of the whole state; report before each checkpoint completes.
    State {
        /// Bytes that a restore reads.
        bytes: f64,
        /// Rows.
        rows: f64,
    },
    /// A checkpoint was triggered.
    Triggered,
    /// A subtask paused for this many seconds at the barrier of the checkpoint in flight; the longest pause counts.
    Paused(f64),
    /// The checkpoint is durable.
    Completed(CheckpointSample),
    /// The checkpoint was aborted.
    Aborted,
    /// The job or one of its nodes failed. Further failures count as the same one until the job is up again, as shown by
    /// `Restored`, by processed records, or by a triggered checkpoint.
    Failed(FailureScope),
    /// State was restored and processing resumes.
    Restored {
        /// Bytes read.
        bytes: f64,
    },
    /// Processing has reached the newest input again. Not needed if load samples include the backlog.
    CaughtUp,
    /// The job will stop after the next checkpoint; its next start is not a failure.
    Ending,
    /// A node is about to be lost, a preemption for example.
    Notice {
        /// When.
        deadline: Timestamp,
        /// Probability, 0 to 1.
        probability: f64,
    },
    /// Number of nodes of the job.
    Nodes(f64),
}

/// The measured costs of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CheckpointSample {
    /// From trigger to durable, s.
    pub duration: f64,
    /// Longest pause of a subtask, s; 0 if reported by [`Observation::Paused`].
    pub pause: f64,
    /// Processing time lost to pause and slow-down, s; `None` if not measured.
    pub capacity: Option<f64>,
    /// Bytes of changed rows written.
    pub delta_bytes: f64,
    /// Bytes of new bases written.
    pub base_bytes: f64,
    /// Distinct dirty rows.
    pub rows: f64,
    /// Requests to the store.
    pub requests: f64,
}
