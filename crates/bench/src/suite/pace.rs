//! Timing of operations.

use std::time::{Duration, Instant};

use alluvium::{Error, Result};
use hdrhistogram::Histogram;

use super::report::{Percentiles, rounded};
use crate::clock;

/// What one clock reading covers. A reading costs a tenth of an operation, so rates and the longest operation are
/// measured on different batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timing {
    /// A whole batch, for rates.
    Batch,
    /// Each operation, for the longest.
    Each,
}

impl Timing {
    /// Returns the timing of batch `number`, alternating.
    pub(super) fn of_batch(number: usize) -> Self {
        if number.is_multiple_of(2) { Self::Batch } else { Self::Each }
    }
}

/// Count, total time and longest of some operations.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    operations: u64,
    elapsed: Duration,
    pub(super) longest: Duration,
}

impl Pace {
    /// Runs `operation` on each of `items`.
    pub(super) fn time<T>(
        &mut self,
        timing: Timing,
        items: impl Iterator<Item = T>,
        mut operation: impl FnMut(T) -> Result<()>,
    ) -> Result<()> {
        let start = clock::now();
        let mut last = start;
        let mut operations = 0;
        for item in items {
            operation(item)?;
            operations += 1;
            if timing == Timing::Each {
                let now = clock::now();
                self.longest = self.longest.max(now.duration_since(last));
                last = now;
            }
        }
        if timing == Timing::Batch {
            self.operations += operations;
            self.elapsed += clock::now().duration_since(start);
        }
        Ok(())
    }

    /// Times `work`, which performs `operations` operations, as one batch.
    pub(super) fn time_all(&mut self, operations: usize, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let start = clock::now();
        work()?;
        self.operations += operations as u64;
        self.elapsed += clock::now().duration_since(start);
        Ok(())
    }

    /// Adds the counts of `other`.
    pub(super) fn merge(&mut self, other: &Self) {
        self.operations += other.operations;
        self.elapsed += other.elapsed;
        self.longest = self.longest.max(other.longest);
    }

    /// Returns operations per second; `None` without operations.
    pub(super) fn per_second(&self) -> Option<f64> {
        (self.operations > 0).then(|| rounded(self.operations as f64 / self.elapsed.as_secs_f64().max(1e-9)))
    }

    /// Returns the total time of the operations.
    pub(super) fn elapsed(&self) -> Duration {
        self.elapsed
    }
}

/// Returns the rate of `work` in `unit` bytes per second, repeating `work` for `at_least`; `work` returns bytes.
pub(super) fn rate(at_least: Duration, unit: f64, mut work: impl FnMut() -> Result<usize>) -> Result<f64> {
    let (mut bytes, start) = (0, clock::now());
    loop {
        bytes += work()?;
        let elapsed = clock::now().duration_since(start);
        if elapsed >= at_least {
            return Ok(rounded(bytes as f64 / unit / elapsed.as_secs_f64()));
        }
    }
}

/// Returns the largest gap between two clock readings of an otherwise idle thread during `time`.
pub(super) fn idle_gap(time: Duration) -> Duration {
    let start = clock::now();
    let (mut last, mut largest) = (start, Duration::ZERO);
    while last.duration_since(start) < time {
        let now: Instant = clock::now();
        largest = largest.max(now.duration_since(last));
        last = now;
    }
    largest
}

/// Returns percentiles of `times` in units of `unit`.
pub(super) fn percentiles(times: impl IntoIterator<Item = Duration>, unit: Duration) -> Result<Percentiles> {
    let failed = |source: &dyn std::fmt::Display| Error::limit(format!("cannot count a duration: {source}"));
    let mut histogram = Histogram::<u64>::new(3).map_err(|source| failed(&source))?;
    for time in times {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        histogram.record(nanos).map_err(|source| failed(&source))?;
    }
    let at = |quantile| rounded(histogram.value_at_quantile(quantile) as f64 / unit.as_nanos() as f64);
    Ok(Percentiles { p50: at(0.5), p99: at(0.99), max: at(1.0) })
}
