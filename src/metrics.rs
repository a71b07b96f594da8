//! Names of the metrics, through the `metrics` facade: Flink's where Flink has one.
//!
//! | name | kind | unit |
//! |---|---|---|
//! | `lastCheckpointDuration` | gauge | ms, trigger to commit |
//! | `lastCheckpointSize` | gauge | bytes uploaded for it |
//! | `lastCheckpointFullSize` | gauge | bytes of all segments it lists |
//! | `lastCompletedCheckpointId` | gauge | id |
//! | `numberOfCompletedCheckpoints`, `numberOfFailedCheckpoints` | counter | |
//! | `numberOfInProgressCheckpoints` | gauge | |
//! | `checkpointPauseSeconds` | histogram | s, per subtask |
//! | `numRecordsIn` | counter | records |
//! | `alluvium_store_requests` | counter, label `kind` | requests |
//! | `alluvium_store_bytes_read`, `alluvium_store_bytes_written` | counter | bytes |
//! | `alluvium_held_bytes` | gauge | bytes of memory held for state and waiting uploads |
//! | `alluvium_dirty_rows` | gauge | distinct rows touched in the last epoch, per subtask |

use std::time::Duration;

use metrics::{counter, gauge};

use crate::id::Seq;

/// Notes a committed checkpoint.
#[expect(clippy::cast_precision_loss, reason = "gauges are f64; sizes beyond 2^53 bytes may lose their last digits")]
pub(crate) fn checkpoint_completed(id: Seq, duration: Duration) {
    gauge!("lastCheckpointDuration").set(duration.as_millis() as f64);
    gauge!("lastCompletedCheckpointId").set(id.0 as f64);
    counter!("numberOfCompletedCheckpoints").increment(1);
}

/// Notes the bytes that a checkpoint's own objects have, and those of all segments that it lists.
#[expect(clippy::cast_precision_loss, reason = "gauges are f64; sizes beyond 2^53 bytes may lose their last digits")]
pub(crate) fn checkpoint_sizes(new_bytes: u64, full_bytes: u64) {
    gauge!("lastCheckpointSize").set(new_bytes as f64);
    gauge!("lastCheckpointFullSize").set(full_bytes as f64);
}

/// Notes a checkpoint that was given up.
pub(crate) fn checkpoint_failed() {
    counter!("numberOfFailedCheckpoints").increment(1);
}

/// Notes how many checkpoints are in flight.
#[expect(clippy::cast_precision_loss, reason = "a handful")]
pub(crate) fn in_progress(count: usize) {
    gauge!("numberOfInProgressCheckpoints").set(count as f64);
}
