//! Event and processing time of a checkpoint.

use crate::row::GroupTimes;
use crate::time::Timestamp;

/// Event and processing time of a checkpoint, where all key groups of an operator agree. Equal for all subtasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointTimes {
    /// Event time in milliseconds; [`Timestamp::MIN`] before the first watermark, or if groups differ.
    pub event_time: Timestamp,
    /// Processing time in milliseconds; [`Timestamp::MIN`] if it was never set, or if groups differ.
    pub processing_time: Timestamp,
}

impl CheckpointTimes {
    /// Returns the times that all `records` agree on. The records cover all groups of an operator.
    pub(crate) fn common<'a>(records: impl Iterator<Item = &'a GroupTimes> + Clone) -> Self {
        let common = |time: fn(&GroupTimes) -> Timestamp| {
            let mut times = records.clone().map(time);
            let first = times.next().unwrap_or(Timestamp::MIN);
            if times.all(|time| time == first) { first } else { Timestamp::MIN }
        };
        Self { event_time: common(|it| it.event_time), processing_time: common(|it| it.processing_time) }
    }
}
