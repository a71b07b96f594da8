//! Event and processing time of a checkpoint.

use crate::time::Timestamp;

/// Event and processing time of a checkpoint, where all key groups of an operator agree. Equal for all subtasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointTimes {
    /// Event time in milliseconds; [`Timestamp::MIN`] before the first watermark, or if groups differ.
    pub event_time: Timestamp,
    /// Processing time in milliseconds; [`Timestamp::MIN`] if it was never set, or if groups differ.
    pub processing_time: Timestamp,
}
