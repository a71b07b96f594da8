//! Lulls in the load, into which checkpoints are moved.

use std::time::Duration;

use super::decision::Decision;
use crate::time::Timestamp;

/// Buckets of utilisation.
const LEVELS: usize = 64;

/// Half-life of a bucket's weight, in intervals.
const CYCLES: f64 = 4.0;

/// Share of the time that counts as a lull.
const QUANTILE: f64 = 0.1;

/// Smallest spread of the utilisation at which waiting for a lull pays.
const MIN_SPAN: f64 = 0.1;

/// The recent distribution of the utilisation, and its current value.
#[derive(Debug, Clone)]
pub(super) struct Lulls {
    /// Seconds spent at each level, decayed exponentially.
    weights: [f64; LEVELS],
    current: f64,
    last_sample: Option<Timestamp>,
    /// Length of an interval, s.
    cycle: f64,
}

impl Default for Lulls {
    fn default() -> Self {
        Self { weights: [0.0; LEVELS], current: 0.0, last_sample: None, cycle: 60.0 }
    }
}

impl Lulls {
    /// Adds a sample of the utilisation (0 to 1).
    pub(super) fn observe(&mut self, now: Timestamp, utilisation: f64) {
        if !(0.0..=1.0).contains(&utilisation) {
            return;
        }
        let dt = self.last_sample.map_or(0.0, |last| now.since(last).as_secs_f64());
        self.last_sample = Some(now);
        self.current = utilisation;
        let kept = (-dt / (CYCLES * self.cycle)).exp2();
        self.weights.iter_mut().for_each(|weight| *weight *= kept);
        if let Some(weight) = self.weights.get_mut(level(utilisation)) {
            *weight += dt;
        }
    }

    /// Sets the length of an interval.
    pub(super) fn set_cycle(&mut self, cycle: Duration) {
        self.cycle = cycle.as_secs_f64().max(1.0);
    }

    /// Returns the utilisation below which `share` of the time was spent.
    fn quantile(&self, share: f64) -> f64 {
        let wanted = share * self.weights.iter().sum::<f64>();
        let mut sum = 0.0;
        let found = self.weights.iter().position(|weight| {
            sum += weight;
            sum >= wanted && sum > 0.0
        });
        (found.unwrap_or(LEVELS) as f64 + 1.0) / LEVELS as f64
    }

    /// Returns whether the load is low enough for a checkpoint, `since` after the start of the interval. The accepted utilisation
    /// rises from a low quantile, at the decision's earliest time, to any at its latest.
    ///
    /// # Source
    /// `docs/formulas.md`, B6.
    pub(super) fn is_lull(&self, since: Duration, decision: &Decision) -> bool {
        let low = self.quantile(QUANTILE);
        if self.quantile(1.0 - QUANTILE) - low < MIN_SPAN {
            // The load is even: no lull is coming.
            return since >= decision.interval;
        }
        let span = decision.latest.saturating_sub(decision.earliest).as_secs_f64();
        let part = if span > 0.0 { since.saturating_sub(decision.earliest).as_secs_f64() / span } else { 1.0 };
        self.current <= low + (1.0 - low) * part.clamp(0.0, 1.0)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and LEVELS")]
fn level(utilisation: f64) -> usize {
    ((utilisation * LEVELS as f64) as usize).min(LEVELS - 1)
}
