//! Metrics, through the `metrics` facade. Names are Flink's where Flink has the metric.
//!
//! | name | kind | unit |
//! |---|---|---|
//! | `lastCheckpointDuration` | gauge | ms, trigger to commit |
//! | `lastCheckpointSize` | gauge | bytes uploaded for the checkpoint |
//! | `lastCheckpointFullSize` | gauge | bytes of all segments listed in the checkpoint |
//! | `lastCompletedCheckpointId` | gauge | id |
//! | `numberOfCompletedCheckpoints`, `numberOfFailedCheckpoints` | counter | |
//! | `numberOfInProgressCheckpoints` | gauge | |
//! | `alluvium_sealed_bytes` | gauge | bytes of memory kept alive by sealed state, shared with the backend or not; set when encoding of a checkpoint begins and when it is placed |
//! | `numRecordsIn` | counter, by the tool | records |
//! | `alluvium_pause_seconds` | histogram, by the tool | s that a subtask pauses at a barrier |
//! | `alluvium_dirty_rows` | histogram | distinct rows changed by a subtask in an epoch |
//! | `alluvium_group_dirty_rows` | histogram | the same per key group with dirty rows; the spread shows skew |
//! | `alluvium_group_reads`, `alluvium_group_writes` | histogram | recent uses of such a group: a count that decays by an eighth at each seal |
//! | `alluvium_group_live_bytes` | histogram | bytes of live rows of such a group |
//! | `alluvium_rocksdb_*` | gauge, label `database` | RocksDB's numbers of a subtask's database after each checkpoint: bytes of block cache, memtables and files, compaction debt, hits and misses, stalls (`docs/rocksdb.md`) |
//! | `alluvium_restore_groups`, `alluvium_restore_loaded_groups` | gauge, labels `operator`, `subtask` | key groups that a subtask's restore loads, and those loaded so far |
//! | `alluvium_restore_bytes`, `alluvium_restore_loaded_bytes` | gauge, the same labels | their stored bytes |
//! | `alluvium_restore_ready_ratio` | gauge, the same labels | share of the recorded traffic that no longer waits for a group, 0 to 1 |
//! | `alluvium_restore_seconds` | gauge, the same labels | s since the restore began, until it ended |
//! | `alluvium_checkpoint_interval_seconds` | gauge | s, the chosen interval, if adaptive |
//! | `alluvium_checkpoint_interval_bound` | gauge, label `bound` | 1 for the bound that decided the interval, else 0 |
//! | `alluvium_checkpoint_goal_infeasible` | gauge | 1 while the goals cannot be met |
//! | `alluvium_dirty_rows_per_second` | gauge | distinct rows dirtied per second of that interval |
//! | `alluvium_expected_overhead_ratio` | gauge | expected share of time lost to checkpoints and replay |
//! | `alluvium_predicted_recovery_seconds` | gauge | s until the job would catch up after a failure now |
//! | `alluvium_uncollected_objects` | gauge | unreachable objects that the store failed to delete |
//! | `alluvium_refused_messages_total` | counter | messages between owner and workers that were damaged, stale or not the sender's to send |
//! | `alluvium_store_requests_total` | counter, label `operation` | requests |
//! | `alluvium_cache_bytes` | gauge | room that local copies of packs take |
//! | `alluvium_cache_read_bytes_total` | counter | bytes read from local copies instead of the store |
//! | `alluvium_cache_events_total` | counter, label `event` | copies `written`, `skipped` for lack of room, found `damaged`; calls of the disk that `failed` |
//! | `alluvium_disk_tier_bytes` | gauge | bytes of cold state on the local disk; it and the following are set when `alluvium_sealed_bytes` is, if a job's budget has a disk |
//! | `alluvium_disk_tier_reads_total`, `alluvium_disk_tier_writes_total` | counter | reads of it, each of a record or a region, and writes, each of a region |
//! | `alluvium_disk_tier_record_reads_total` | counter | reads of one record each: what an operation did not find in memory |
//! | `alluvium_disk_tier_slow_reads_total` | counter | reads that took a millisecond or more |
//! | `alluvium_disk_tier_read_bytes_total`, `alluvium_disk_tier_written_bytes_total` | counter | bytes read and written |
//! | `alluvium_disk_tier_read_seconds`, `alluvium_disk_tier_write_seconds` | gauge | s that all reads and all writes took together |
//! | `alluvium_disk_tier_failures_total` | counter | reads and writes that the system refused |
//! | `alluvium_disk_tier_damaged_total` | counter | reads of other bytes than were written |
//! | `alluvium_sink_unpublished_bytes` | gauge, labels `sink`, `subtask` | bytes of output that waits for its publication |
//! | `alluvium_sink_records_total` | counter, the same labels | records published |

use std::time::Duration;

use metrics::{counter, gauge, histogram};

use crate::id::{OperatorId, Seq, Subtask};
use crate::memory::DiskTierStats;

/// Records a committed checkpoint.
#[expect(clippy::cast_precision_loss, reason = "gauges are f64; sizes beyond 2^53 bytes may lose their last digits")]
pub(crate) fn checkpoint_completed(id: Seq, duration: Duration) {
    gauge!("lastCheckpointDuration").set(duration.as_millis() as f64);
    gauge!("lastCompletedCheckpointId").set(id.0 as f64);
    counter!("numberOfCompletedCheckpoints").increment(1);
}

/// Records the bytes of a checkpoint's new objects and of all segments listed in it.
#[expect(clippy::cast_precision_loss, reason = "gauges are f64; sizes beyond 2^53 bytes may lose their last digits")]
pub(crate) fn checkpoint_sizes(new_bytes: u64, full_bytes: u64) {
    gauge!("lastCheckpointSize").set(new_bytes as f64);
    gauge!("lastCheckpointFullSize").set(full_bytes as f64);
}

/// Records an abandoned checkpoint.
pub(crate) fn checkpoint_failed() {
    counter!("numberOfFailedCheckpoints").increment(1);
}

/// Records the number of checkpoints in flight.
#[expect(clippy::cast_precision_loss, reason = "a handful")]
pub(crate) fn in_progress(count: usize) {
    gauge!("numberOfInProgressCheckpoints").set(count as f64);
}

/// Records the memory kept alive by sealed state until it is placed.
#[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 bytes")]
pub(crate) fn sealed_bytes(bytes: u64) {
    gauge!("alluvium_sealed_bytes").set(bytes as f64);
}

/// Records output of a sink's subtask that waits for its publication.
#[expect(clippy::cast_precision_loss, reason = "gauges are f64; sizes beyond 2^53 bytes may lose their last digits")]
pub(crate) fn sink_unpublished(sink: &str, subtask: Subtask, bytes: u64) {
    let (sink, subtask) = (sink.to_owned(), subtask.to_string());
    gauge!("alluvium_sink_unpublished_bytes", "sink" => sink, "subtask" => subtask).set(bytes as f64);
}

/// Records a publication, and the output that still waits.
pub(crate) fn sink_published(sink: &str, subtask: Subtask, records: u64, waiting_bytes: u64) {
    let labels = [("sink", sink.to_owned()), ("subtask", subtask.to_string())];
    counter!("alluvium_sink_records_total", &labels).increment(records);
    sink_unpublished(sink, subtask, waiting_bytes);
}

/// Records what the disk tier holds, and what it has done since it was opened.
#[expect(clippy::cast_precision_loss, reason = "gauges are f64; sizes beyond 2^53 bytes may lose their last digits")]
pub(crate) fn disk_tier(stats: &DiskTierStats) {
    gauge!("alluvium_disk_tier_bytes").set(stats.held_bytes as f64);
    counter!("alluvium_disk_tier_reads_total").absolute(stats.reads);
    counter!("alluvium_disk_tier_record_reads_total").absolute(stats.record_reads);
    counter!("alluvium_disk_tier_slow_reads_total").absolute(stats.slow_reads);
    counter!("alluvium_disk_tier_read_bytes_total").absolute(stats.read_bytes);
    gauge!("alluvium_disk_tier_read_seconds").set(Duration::from_nanos(stats.read_nanos).as_secs_f64());
    counter!("alluvium_disk_tier_writes_total").absolute(stats.writes);
    counter!("alluvium_disk_tier_written_bytes_total").absolute(stats.written_bytes);
    gauge!("alluvium_disk_tier_write_seconds").set(Duration::from_nanos(stats.write_nanos).as_secs_f64());
    counter!("alluvium_disk_tier_failures_total").absolute(stats.failed);
    counter!("alluvium_disk_tier_damaged_total").absolute(stats.damaged);
}

/// Counts a message between an owner and a worker that was not accepted.
pub(crate) fn message_refused() {
    counter!("alluvium_refused_messages_total").increment(1);
}

/// Records the room that local copies take.
#[expect(clippy::cast_precision_loss, reason = "gauges are f64; sizes beyond 2^53 bytes may lose their last digits")]
pub(crate) fn cache_bytes(bytes: u64) {
    gauge!("alluvium_cache_bytes").set(bytes as f64);
}

/// Counts bytes read from local copies.
pub(crate) fn cache_read(bytes: u64) {
    counter!("alluvium_cache_read_bytes_total").increment(bytes);
}

/// Counts what happened to a local copy.
pub(crate) fn cache_event(event: &'static str) {
    counter!("alluvium_cache_events_total", "event" => event).increment(1);
}

/// Records the number of unreachable objects not deleted.
#[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 objects")]
pub(crate) fn uncollected(objects: u64) {
    gauge!("alluvium_uncollected_objects").set(objects as f64);
}

/// Records the distinct rows changed by a subtask in an epoch.
#[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 rows")]
pub(crate) fn dirty_rows(rows: u64) {
    histogram!("alluvium_dirty_rows").record(rows as f64);
}

/// Records the load of a key group.
#[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 rows, bytes and uses")]
pub(crate) fn group_heat(dirty_rows: u64, reads: u64, writes: u64, live_bytes: u64) {
    histogram!("alluvium_group_dirty_rows").record(dirty_rows as f64);
    histogram!("alluvium_group_reads").record(reads as f64);
    histogram!("alluvium_group_writes").record(writes as f64);
    histogram!("alluvium_group_live_bytes").record(live_bytes as f64);
}

/// How far a subtask's restore has come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RestoreFigures {
    pub(crate) groups: usize,
    pub(crate) loaded_groups: usize,
    pub(crate) bytes: u64,
    pub(crate) loaded_bytes: u64,
    pub(crate) ready_share: f64,
    pub(crate) elapsed: Duration,
}

/// Records how far a subtask's restore has come.
#[expect(clippy::cast_precision_loss, reason = "gauges are f64; sizes beyond 2^53 bytes may lose their last digits")]
pub(crate) fn restore(operator: OperatorId, subtask: Subtask, figures: RestoreFigures) {
    let set = |name: &'static str, value: f64| {
        gauge!(name, "operator" => operator.to_string(), "subtask" => subtask.to_string()).set(value);
    };
    set("alluvium_restore_groups", figures.groups as f64);
    set("alluvium_restore_loaded_groups", figures.loaded_groups as f64);
    set("alluvium_restore_bytes", figures.bytes as f64);
    set("alluvium_restore_loaded_bytes", figures.loaded_bytes as f64);
    set("alluvium_restore_ready_ratio", figures.ready_share);
    set("alluvium_restore_seconds", figures.elapsed.as_secs_f64());
}

/// Records a statistic of a database.
#[cfg(feature = "rocksdb")]
#[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 bytes and counts")]
pub(crate) fn of_database(metric: &'static str, database: &str, value: u64) {
    gauge!(metric, "database" => database.to_owned()).set(value as f64);
}

/// Records a decision on the interval: its length in seconds, the deciding one of `bounds`, and whether goals can be met.
pub(crate) fn interval(seconds: f64, bound: &'static str, bounds: &[&'static str], infeasible: bool) {
    gauge!("alluvium_checkpoint_interval_seconds").set(seconds);
    for name in bounds {
        gauge!("alluvium_checkpoint_interval_bound", "bound" => *name).set(f64::from(u8::from(*name == bound)));
    }
    gauge!("alluvium_checkpoint_goal_infeasible").set(f64::from(u8::from(infeasible)));
}

/// Records the expectations for the interval: rows dirtied per second, and the share of time lost.
pub(crate) fn interval_expects(dirty_rows_per_s: f64, overhead: f64) {
    gauge!("alluvium_dirty_rows_per_second").set(dirty_rows_per_s);
    gauge!("alluvium_expected_overhead_ratio").set(overhead);
}

/// Records the predicted duration of a recovery after a failure now.
pub(crate) fn predicted_recovery(seconds: f64) {
    gauge!("alluvium_predicted_recovery_seconds").set(seconds);
}
