//! What a run says of itself while it works: a live line on a terminal, elsewhere a line every ten seconds, both on
//! standard error.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use alluvium::Result;
use alluvium::Seq;
use alluvium::{Job, Progress};

use crate::print;
use alluvium_bench::clock;

/// How often the run is looked at; a live line is renewed as often.
const LOOK: Duration = Duration::from_millis(250);

/// Time between two lines where there is no terminal.
const LINE: Duration = Duration::from_secs(10);

/// Shows how far `job` is, until `ended` is hung up.
///
/// * `records`: how many of the input have been read, counted from its start.
/// * `before`: how many of them before this run.
pub(super) fn watch(job: &Job, records: &AtomicU64, before: u64, ended: &Receiver<()>) -> Result<()> {
    let read = || records.load(Ordering::Relaxed);
    let bar = print::bar("{spinner} {wide_msg}");
    let mut watch = Watch::new(clock::now(), before);
    while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
        let now = clock::now();
        watch.look(now, &job.progress());
        if !bar.is_hidden() {
            bar.set_message(watch.line(now, read()));
            bar.tick();
        } else if watch.is_due(now) {
            print::note(&(watch.line(now, read()) + "\n"))?;
        }
        if watch.is_due(now) {
            watch.lined(now, read());
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// What was seen of a run.
#[derive(Debug)]
struct Watch {
    /// Records of the input that were read before it.
    before: u64,
    /// When the last line was due, and how many records had been read then.
    last: (Instant, u64),
    /// The last checkpoint, and when it was first seen.
    checkpoint: Option<(Seq, Instant)>,
    given_up: u64,
}

impl Watch {
    fn new(now: Instant, records: u64) -> Self {
        Self { before: records, last: (now, records), checkpoint: None, given_up: 0 }
    }

    fn look(&mut self, now: Instant, progress: &Progress) {
        self.given_up = progress.aborted;
        let newest = progress.committed.map(|(_, id)| id.seq);
        if newest != self.checkpoint.map(|(seq, _)| seq) {
            self.checkpoint = newest.map(|seq| (seq, now));
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        now.duration_since(self.last.0) >= LINE
    }

    /// Notes that a line was written, from which the next rate counts.
    fn lined(&mut self, now: Instant, records: u64) {
        self.last = (now, records);
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
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
    fn a_line_says_how_far_how_fast_and_how_safe() {
        let start = clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = Watch::new(start, 1000);
        assert!(!watch.is_due(at(9)) && watch.is_due(at(10)));
        watch.look(at(10), &Progress::default());
        assert_eq!(
            watch.line(at(10), 3000),
            "read 2000 records, 200/s, up to record 3000; no checkpoint yet; 0 given up"
        );
        watch.lined(at(10), 3000);
        let mut progress = Progress::default();
        progress.committed = Some((Epoch(3), ManifestId { seq: Seq(7), put_id: PutId([0; 16]) }));
        watch.look(at(12), &progress);
        progress.aborted = 2;
        watch.look(at(15), &progress);
        assert!(!watch.is_due(at(19)) && watch.is_due(at(20)));
        let line = "read 12000 records, 1000/s, up to record 13000; checkpoint 7, 8 s ago; 2 given up";
        assert_eq!(watch.line(at(20), 13_000), line);
    }
}
