//! Progress of a run, on standard error: a live line on a terminal, otherwise a line every ten seconds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use alluvium::{Job, Progress, Result, Seq};

use super::restore::{RestoreDisplay, RestoreMeter};
use crate::print;
use alluvium_bench::clock;

/// Time between two polls of the job; the live line is redrawn as often.
const POLL: Duration = Duration::from_millis(250);

/// Time between two lines without a terminal.
const LINE: Duration = Duration::from_secs(10);

/// Shows the progress of `job` until the sender of `ended` is dropped.
///
/// * `records`: records read, counted from the start of the input.
/// * `before`: records read before this run.
pub(super) fn watch(
    job: &Job,
    restores: &RestoreMeter,
    records: &AtomicU64,
    before: u64,
    ended: &Receiver<()>,
) -> Result<()> {
    let read = || records.load(Ordering::Relaxed);
    let bar = print::bar("{spinner} {wide_msg}");
    let mut display = Display::new(clock::now(), before);
    let mut restore = RestoreDisplay::new(restores, clock::now());
    while ended.recv_timeout(POLL) == Err(RecvTimeoutError::Timeout) {
        let now = clock::now();
        display.update(now, &job.progress());
        restore.due(now, false).map_or(Ok(()), |line| print::note(&line))?;
        if !bar.is_hidden() {
            bar.set_message(display.line(now, read()));
            bar.tick();
        } else if display.is_due(now) {
            print::note(&(display.line(now, read()) + "\n"))?;
        }
        if display.is_due(now) {
            display.restart_rate(now, read());
        }
    }
    bar.finish_and_clear();
    restore.due(clock::now(), true).map_or(Ok(()), |line| print::note(&line))
}

/// The displayed state of a run.
#[derive(Debug)]
struct Display {
    /// Records read before this run.
    before: u64,
    /// The time at which the last line was due, and the records read by then.
    last: (Instant, u64),
    /// The newest checkpoint, and when it was first seen.
    checkpoint: Option<(Seq, Instant)>,
    given_up: u64,
}

impl Display {
    fn new(now: Instant, records: u64) -> Self {
        Self { before: records, last: (now, records), checkpoint: None, given_up: 0 }
    }

    fn update(&mut self, now: Instant, progress: &Progress) {
        self.given_up = progress.aborted;
        let newest = progress.committed.map(|(_, id)| id.seq);
        if newest != self.checkpoint.map(|(seq, _)| seq) {
            self.checkpoint = newest.map(|seq| (seq, now));
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        now.duration_since(self.last.0) >= LINE
    }

    /// Starts the next rate at `now`.
    fn restart_rate(&mut self, now: Instant, records: u64) {
        self.last = (now, records);
    }

    #[expect(clippy::cast_precision_loss, reason = "a displayed rate")]
    fn line(&self, now: Instant, records: u64) -> String {
        let elapsed = now.duration_since(self.last.0).as_secs_f64().max(0.001);
        let rate = records.saturating_sub(self.last.1) as f64 / elapsed;
        let checkpoint = match self.checkpoint {
            Some((id, seen)) => format!("checkpoint {id}, {} s ago", now.duration_since(seen).as_secs()),
            None => "no checkpoint yet".to_owned(),
        };
        let this_run = records.saturating_sub(self.before);
        format!(
            "read {this_run} records, {rate:.0}/s, up to record {records}; {checkpoint}; {} given up",
            self.given_up
        )
    }
}

#[cfg(test)]
mod tests {
    use alluvium::manifest::PutId;
    use alluvium::{Epoch, ManifestId};

    use super::*;

    #[test]
    fn a_line_shows_records_rate_and_checkpoint() {
        let start = clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut display = Display::new(start, 1000);
        assert!(!display.is_due(at(9)) && display.is_due(at(10)));
        display.update(at(10), &Progress::default());
        assert_eq!(
            display.line(at(10), 3000),
            "read 2000 records, 200/s, up to record 3000; no checkpoint yet; 0 given up"
        );
        display.restart_rate(at(10), 3000);
        let mut progress = Progress::default();
        progress.committed = Some((Epoch(3), ManifestId { seq: Seq(7), put_id: PutId([0; 16]) }));
        display.update(at(12), &progress);
        progress.aborted = 2;
        display.update(at(15), &progress);
        assert!(!display.is_due(at(19)) && display.is_due(at(20)));
        let line = "read 12000 records, 1000/s, up to record 13000; checkpoint 7, 8 s ago; 2 given up";
        assert_eq!(display.line(at(20), 13_000), line);
    }
}
