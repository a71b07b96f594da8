//! The summary of a run.

use std::time::Duration;

use alluvium::interval::Decision;
use alluvium::{Job, Result, Seq};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::restore::RestoreSummary;
use super::source::SourceState;
use crate::print;
use alluvium_bench::decision::decisions_json;

/// The counts of a run.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) source: SourceState,
    pub(crate) restored: Option<(Seq, u64)>,
    /// How the restore of the state went; `None` without state.
    pub(crate) restore: Option<RestoreSummary>,
    /// The time from the start of the process to the first record processed after a restore.
    pub(crate) first_record: Option<Duration>,
    pub(crate) keys: u64,
    pub(crate) stopped: bool,
    pub(crate) pauses: Histogram<u64>,
    pub(crate) elapsed_s: f64,
    /// Decisions of the adaptive interval, each with its time in seconds.
    pub(crate) decisions: Vec<(f64, Decision)>,
    /// Where the state lay.
    pub(crate) tiers: Value,
}

impl Report {
    /// Prints the summary: JSON, or a few lines on standard error.
    ///
    /// # Errors
    /// `Unavailable` if the stream is closed.
    #[expect(clippy::cast_precision_loss, reason = "a displayed rate")]
    pub(crate) fn print(&self, job: &Job, as_json: bool) -> Result<()> {
        let progress = job.progress();
        let counts = job.store().requests();
        let (restored_from, restored_offset) = self.restored.map_or((None, 0), |(id, at)| (Some(id.0), at));
        let records = self.source.records;
        let this_run = records.saturating_sub(restored_offset);
        let rate = if self.elapsed_s > 0.0 { this_run as f64 / self.elapsed_s } else { 0.0 };
        let quantile = |q: f64| self.pauses.value_at_quantile(q);
        if as_json {
            return print::json(&json!({
                "records": records,
                "records_this_run": this_run,
                "bad_records": self.source.bad_records,
                "late_records": self.source.late_records,
                "keys": self.keys,
                "stopped": self.stopped,
                "restored_from": restored_from,
                "restored_offset": restored_offset,
                "restore": self.restore.map(|restore| restore.json()),
                "attempt": job.attempt().0,
                "last_checkpoint": progress.committed.map(|(_, id)| id.seq.0),
                "checkpoints": {
                    "committed": progress.completed,
                    "aborted": progress.aborted,
                    "bytes": counts.put_bytes,
                    "objects_put": counts.put,
                    "pause_us": { "p50": quantile(0.5), "p99": quantile(0.99), "max": self.pauses.max() },
                },
                "interval": { "decisions": decisions_json(&self.decisions) },
                "elapsed_s": self.elapsed_s,
                "records_per_s": rate,
                "first_record_ms": self.first_record.map(|time| time.as_secs_f64() * 1000.0),
                "store_bytes_read": counts.get_bytes,
                "data_bytes_read": counts.data_bytes,
                "tiers": self.tiers,
            }));
        }
        let from = restored_from.map_or_else(String::new, |id| format!(", from checkpoint {id} at {restored_offset}"));
        let end = if self.stopped { "stopped at" } else { "read" };
        let text = format!(
            "{end} {records} records{from}: {this_run} in {:.2} s ({rate:.0}/s), {} bad, {} late, {} keys\n\
             checkpoints: {} committed, {} aborted, {} bytes in {} objects, pause p50 {} us, p99 {} us, max {} us\n",
            self.elapsed_s,
            self.source.bad_records,
            self.source.late_records,
            self.keys,
            progress.completed,
            progress.aborted,
            counts.put_bytes,
            counts.put,
            quantile(0.5),
            quantile(0.99),
            self.pauses.max(),
        );
        let last = self.decisions.last();
        let interval = last.map_or_else(String::new, |(_, decision)| format!("interval {}\n", decision.reason));
        print::note(&(text + &interval))
    }
}
