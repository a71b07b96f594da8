//! The restore of a run's state: how the subtasks get on together, on standard error and in the report.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use alluvium::{RestoreProgress, Seat};
use serde_json::{Value, json};

/// Time between two lines while the restore is under way.
const LINE: Duration = Duration::from_secs(5);

/// The share of the traffic that the time until most of it is served is about.
const MOST: f64 = 0.9;

/// Follows the restores of all subtasks.
#[derive(Debug)]
pub(super) struct RestoreMeter(Mutex<Restores>);

#[derive(Debug)]
struct Restores {
    /// The last progress of each subtask; `None` before its restore has begun.
    subtasks: Vec<Option<RestoreProgress>>,
    /// How long most of the recorded traffic had to wait.
    most_ready: Option<Duration>,
}

impl RestoreMeter {
    /// Returns a meter of the restores of `seats`.
    pub(super) fn watch(seats: &mut [Seat]) -> Arc<Self> {
        let meter = Arc::new(Self::new(seats.len()));
        for (at, seat) in seats.iter_mut().enumerate() {
            let meter = Arc::clone(&meter);
            seat.on_restore_progress(move |progress| meter.update(at, progress));
        }
        meter
    }

    fn new(subtasks: usize) -> Self {
        Self(Mutex::new(Restores { subtasks: vec![None; subtasks], most_ready: None }))
    }

    fn update(&self, at: usize, progress: RestoreProgress) {
        let mut restores = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        restores.subtasks.get_mut(at).into_iter().for_each(|subtask| *subtask = Some(progress));
        if let (None, Some(all)) = (restores.most_ready, restores.sum())
            && all.ready_share() >= MOST
        {
            restores.most_ready = Some(all.elapsed);
        }
    }

    /// Returns how the restores get on; `None` before all have begun, and if there is nothing to restore.
    pub(super) fn summary(&self) -> Option<RestoreSummary> {
        let restores = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let progress = restores.sum().filter(|all| all.groups > 0)?;
        let has_ended = restores.subtasks.iter().flatten().all(RestoreProgress::has_ended);
        Some(RestoreSummary { progress, most_ready: restores.most_ready, has_ended })
    }
}

impl Restores {
    fn sum(&self) -> Option<RestoreProgress> {
        self.subtasks.iter().copied().sum()
    }
}

/// The restores of all subtasks, together.
#[derive(Debug, Clone, Copy)]
pub(super) struct RestoreSummary {
    progress: RestoreProgress,
    most_ready: Option<Duration>,
    has_ended: bool,
}

impl RestoreSummary {
    pub(super) fn json(&self) -> Value {
        let milliseconds = |duration: Duration| duration.as_secs_f64() * 1000.0;
        json!({
            "groups": self.progress.groups,
            "loaded_groups": self.progress.loaded_groups,
            "damaged_groups": self.progress.damaged_groups,
            "bytes": self.progress.bytes,
            "loaded_bytes": self.progress.loaded_bytes,
            "ms": milliseconds(self.progress.elapsed),
            "ready_share": self.progress.ready_share(),
            "ready_90_ms": self.most_ready.map(milliseconds),
            "failed": self.progress.failed.map(|kind| kind.to_string()),
        })
    }

    /// Returns the line for standard error.
    pub(super) fn line(&self) -> String {
        let RestoreProgress { groups, loaded_groups, damaged_groups, bytes, loaded_bytes, .. } = self.progress;
        let verb = if self.has_ended { "restored" } else { "restoring" };
        let part = if self.progress.is_complete() { String::new() } else { format!("{loaded_groups} of ") };
        let mut line = format!("{verb} {part}{groups} key groups");
        if bytes > 0 {
            let part = if loaded_bytes == bytes { String::new() } else { format!("{} of ", megabytes(loaded_bytes)) };
            line.push_str(&format!(", {part}{} MB", megabytes(bytes)));
        }
        line.push_str(&format!(" in {:.2} s", self.progress.elapsed.as_secs_f64()));
        if let (1.., Some(rate)) = (bytes, self.progress.bytes_per_s()) {
            line.push_str(&format!(" ({:.1} MB/s)", rate / 1e6));
        }
        if self.progress.uses > 0.0 {
            line.push_str(&match self.most_ready {
                Some(after) => format!("; 90 % of the recorded traffic after {:.2} s", after.as_secs_f64()),
                None => format!("; {:.0} % of the recorded traffic so far", self.progress.ready_share() * 100.0),
            });
        }
        if damaged_groups > 0 {
            line.push_str(&format!("; {damaged_groups} damaged"));
        }
        if let Some(kind) = self.progress.failed {
            line.push_str(&format!("; ended early: {kind}"));
        }
        line + "\n"
    }
}

#[expect(clippy::cast_precision_loss, reason = "a displayed figure")]
fn megabytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}

/// Decides when a line about the restore is due.
#[derive(Debug)]
pub(super) struct RestoreDisplay<'a> {
    meter: &'a RestoreMeter,
    /// When the last line was due.
    last: Instant,
    has_ended: bool,
}

impl<'a> RestoreDisplay<'a> {
    pub(super) fn new(meter: &'a RestoreMeter, now: Instant) -> Self {
        Self { meter, last: now, has_ended: false }
    }

    /// Returns the line to show now: one when the restore has ended, and one every few seconds before.
    ///
    /// * `is_last`: whether the run has ended.
    pub(super) fn due(&mut self, now: Instant, is_last: bool) -> Option<String> {
        let summary = self.meter.summary().filter(|_| !self.has_ended)?;
        self.has_ended = summary.has_ended;
        if !summary.has_ended && !is_last && now.duration_since(self.last) < LINE {
            return None;
        }
        self.last = now;
        Some(summary.line())
    }
}

#[cfg(test)]
mod tests {
    use alluvium_bench::clock;

    use super::*;

    fn progress(groups: usize, loaded: usize, millis: u64) -> RestoreProgress {
        let mut progress = RestoreProgress::default();
        (progress.groups, progress.loaded_groups) = (groups, loaded);
        (progress.bytes, progress.loaded_bytes) = (groups as u64 * 1_000_000, loaded as u64 * 1_000_000);
        // Half of the traffic is that of the first group.
        (progress.uses, progress.loaded_uses) =
            (2.0, if loaded == 0 { 0.0 } else { 1.0 + loaded as f64 / groups as f64 });
        progress.elapsed = Duration::from_millis(millis);
        progress
    }

    #[test]
    fn a_line_is_due_at_the_end_and_every_few_seconds_before() {
        let (meter, start) = (RestoreMeter::new(2), clock::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut display = RestoreDisplay::new(&meter, start);
        meter.update(0, progress(10, 0, 0));
        assert_eq!(display.due(at(6), false), None, "the size of the other is unknown");
        meter.update(1, progress(10, 5, 3000));
        assert_eq!(display.due(at(4), false), None);
        assert_eq!(
            display.due(at(6), false).unwrap(),
            "restoring 5 of 20 key groups, 5.0 of 20.0 MB in 3.00 s (1.7 MB/s); 38 % of the recorded traffic so far\n"
        );
        assert_eq!(display.due(at(7), false), None);
        meter.update(0, progress(10, 10, 8000));
        assert_eq!(display.due(at(10), false), None);
        meter.update(1, progress(10, 10, 8500));
        let line = "restored 20 key groups, 20.0 MB in 8.50 s (2.4 MB/s); 90 % of the recorded traffic after 8.50 s\n";
        assert_eq!(display.due(at(11), false).unwrap(), line);
        assert_eq!(display.due(at(99), true), None, "once");
        let report = meter.summary().unwrap().json();
        assert_eq!(
            (&report["ms"], &report["ready_90_ms"], &report["failed"]),
            (&json!(8500.0), &json!(8500.0), &Value::Null)
        );
    }

    #[test]
    fn nothing_is_shown_if_there_is_nothing_to_restore() {
        let meter = RestoreMeter::new(1);
        meter.update(0, RestoreProgress::default());
        assert!(meter.summary().is_none());
        assert_eq!(RestoreDisplay::new(&meter, clock::now()).due(clock::now(), true), None);
    }

    #[test]
    fn a_run_that_ends_first_says_how_far_its_restore_came() {
        let meter = RestoreMeter::new(1);
        let mut stopped = progress(4, 1, 20);
        (stopped.uses, stopped.failed) = (0.0, Some(alluvium::ErrorKind::Stopped));
        meter.update(0, stopped);
        let line = RestoreDisplay::new(&meter, clock::now()).due(clock::now(), true);
        assert_eq!(
            line.unwrap(),
            "restored 1 of 4 key groups, 1.0 of 4.0 MB in 0.02 s (50.0 MB/s); ended early: stopped\n"
        );
    }
}
