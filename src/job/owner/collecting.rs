//! Deleting what commits made unreachable, and what lost workers left.

use futures_util::future::FutureExt as _;
use tracing::Instrument as _;

use super::{OwnedAttempt, Step};
use crate::checkpoint::sweep::Collector;
use crate::id::Attempt;

/// The commits after which an attempt of several workers sweeps again: uploads that lost workers of an earlier attempt had
/// under way may land long after it began. The next attempt's sweep finds what comes even later.
const LATE_SWEEPS: [u64; 2] = [8, 64];

impl OwnedAttempt {
    /// Deletes objects that the last commits made unreachable, one collection at a time.
    pub(super) fn collect(&mut self) {
        if self.garbage.is_empty() {
            return;
        }
        let Some(mut collector) = self.collector.take() else { return };
        std::mem::take(&mut self.garbage).into_iter().for_each(|garbage| collector.add(garbage));
        let collect = async move {
            // Failures are logged; the collector keeps their keys for the next run.
            let _swept = collector.run().await;
            Step::Collected(collector)
        };
        self.steps.push(collect.boxed());
    }

    pub(super) fn collected(&mut self, collector: Box<Collector>) {
        let left = collector.uncollected();
        self.shared.update(|progress| progress.uncollected = left);
        self.collector = Some(collector);
    }

    /// Sweeps again if uploads of lost workers may have landed since the last sweep.
    pub(super) fn sweep_late_uploads(&mut self) {
        let completed = self.shared.progress().completed;
        if LATE_SWEEPS.contains(&completed) && self.intake.worker_count() > 1 {
            self.sweep_orphans();
        }
    }

    /// Deletes objects that earlier attempts uploaded without committing. Runs in place of the collector, since two
    /// deleters would try the same objects.
    pub(super) fn sweep_orphans(&mut self) {
        let attempt = self.attempt;
        if attempt <= Attempt(1) {
            return;
        }
        let Some(collector) = self.collector.take() else { return };
        let span = tracing::info_span!("sweep", %attempt);
        let sweep = async move {
            collector.sweep_orphans(attempt).await;
            Step::Collected(collector)
        };
        self.steps.push(sweep.instrument(span).boxed());
    }
}
