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
//! | `alluvium_sealed_bytes` | gauge | bytes of memory that sealed state keeps alive, shared with the backend or not; set when a checkpoint begins to be encoded and when it is placed |
//! | `numRecordsIn` | counter, by the tool | records |
//! | `alluvium_pause_seconds` | histogram, by the tool | s a subtask stands still at a barrier |
//! | `alluvium_dirty_rows` | histogram | distinct rows that a subtask touched in an epoch |
//! | `alluvium_group_dirty_rows` | histogram | the same per key group that has any: its spread is the skew |
//! | `alluvium_group_reads`, `alluvium_group_writes` | histogram | uses of such a group of late: a count of which each seal takes an eighth |
//! | `alluvium_group_live_bytes` | histogram | bytes of live rows of such a group |
//! | `alluvium_rocksdb_*` | gauge, label `database` | what RocksDB says of a subtask's database after each checkpoint: bytes of block cache, memtables and files, compaction debt, hits and misses, stalls (`docs/rocksdb.md`) |
//! | `alluvium_checkpoint_interval_seconds` | gauge | s, the interval that was chosen, if it is adaptive |
//! | `alluvium_checkpoint_interval_bound` | gauge, label `bound` | 1 for what the interval was chosen by, else 0 |
//! | `alluvium_checkpoint_goal_infeasible` | gauge | 1 while goals cannot be met as things are |
//! | `alluvium_dirty_rows_per_second` | gauge | distinct rows dirtied per second of that interval |
//! | `alluvium_expected_overhead_ratio` | gauge | share of time that checkpoints and replay are expected to cost |
//! | `alluvium_predicted_recovery_seconds` | gauge | s until the job would have caught up if it failed now |
//! | `alluvium_uncollected_objects` | gauge | objects that nothing reaches and that the store would not delete |
//! | `alluvium_store_requests_total` | counter, label `operation` | requests |

use std::time::Duration;

use metrics::{counter, gauge, histogram};

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

/// Notes how much memory sealed state keeps alive until it is placed.
#[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 bytes")]
pub(crate) fn sealed_bytes(bytes: u64) {
    gauge!("alluvium_sealed_bytes").set(bytes as f64);
}

/// Notes how many objects should be gone and are not.
#[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 objects")]
pub(crate) fn uncollected(objects: u64) {
    gauge!("alluvium_uncollected_objects").set(objects as f64);
}

/// Notes how many distinct rows a subtask touched in an epoch.
#[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 rows")]
pub(crate) fn dirty_rows(rows: u64) {
    histogram!("alluvium_dirty_rows").record(rows as f64);
}

/// Notes how busy a key group was.
#[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 rows, bytes and uses")]
pub(crate) fn group_heat(dirty_rows: u64, reads: u64, writes: u64, live_bytes: u64) {
    histogram!("alluvium_group_dirty_rows").record(dirty_rows as f64);
    histogram!("alluvium_group_reads").record(reads as f64);
    histogram!("alluvium_group_writes").record(writes as f64);
    histogram!("alluvium_group_live_bytes").record(live_bytes as f64);
}

/// Notes what a database says of itself.
#[cfg(feature = "rocksdb")]
#[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 bytes and counts")]
pub(crate) fn of_database(metric: &'static str, database: &str, value: u64) {
    gauge!(metric, "database" => database.to_owned()).set(value as f64);
}

/// Notes a decision on the interval: its length in seconds, what of `bounds` it was chosen by, whether goals can be met.
pub(crate) fn interval(seconds: f64, bound: &'static str, bounds: &[&'static str], infeasible: bool) {
    gauge!("alluvium_checkpoint_interval_seconds").set(seconds);
    for name in bounds {
        gauge!("alluvium_checkpoint_interval_bound", "bound" => *name).set(f64::from(u8::from(*name == bound)));
    }
    gauge!("alluvium_checkpoint_goal_infeasible").set(f64::from(u8::from(infeasible)));
}

/// Notes what is expected of the interval: rows dirtied per second, and the share of time that it costs.
pub(crate) fn interval_expects(dirty_rows_per_s: f64, overhead: f64) {
    gauge!("alluvium_dirty_rows_per_second").set(dirty_rows_per_s);
    gauge!("alluvium_expected_overhead_ratio").set(overhead);
}

/// Notes how long a recovery would take if the job failed now.
pub(crate) fn predicted_recovery(seconds: f64) {
    gauge!("alluvium_predicted_recovery_seconds").set(seconds);
}
