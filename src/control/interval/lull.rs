//! Waiting for a lull.

use std::time::Duration;

use super::controller::Decision;
use crate::time::Timestamp;

/// Levels of utilisation that are told apart.
const LEVELS: usize = 64;

/// Half-life of what is remembered of a level: a few intervals.
const CYCLES: f64 = 4.0;

/// Share of the time that counts as a lull.
const QUANTILE: f64 = 0.1;

/// The load's ups and downs must span this much utilisation for a lull to be worth waiting for.
const LEAST_SPAN: f64 = 0.1;

/// How the utilisation was spread of late, and whether it is low now.
#[derive(Debug, Clone)]
pub(super) struct Lulls {
    levels: [f64; LEVELS],
    now: f64,
    seen: Option<Timestamp>,
    /// Length of a cycle, s.
    cycle: f64,
}

impl Default for Lulls {
    fn default() -> Self {
        Self { levels: [0.0; LEVELS], now: 0.0, seen: None, cycle: 60.0 }
    }
}

impl Lulls {
    /// Takes the utilisation (0 to 1) of the moment.
    pub(super) fn observe(&mut self, now: Timestamp, utilisation: f64) {
        if !(0.0..=1.0).contains(&utilisation) {
            return;
        }
        let dt = self.seen.map_or(0.0, |seen| now.since(seen).as_secs_f64());
        self.seen = Some(now);
        self.now = utilisation;
        let kept = (-dt / (CYCLES * self.cycle)).exp2();
        self.levels.iter_mut().for_each(|weight| *weight *= kept);
        if let Some(weight) = self.levels.get_mut(level(utilisation)) {
            *weight += dt;
        }
    }

    /// Sets how long a cycle is, s.
    pub(super) fn set_cycle(&mut self, cycle: Duration) {
        self.cycle = cycle.as_secs_f64().max(1.0);
    }

    /// Returns the utilisation below which `share` of the time was spent.
    fn quantile(&self, share: f64) -> f64 {
        let wanted = share * self.levels.iter().sum::<f64>();
        let mut sum = 0.0;
        let found = self.levels.iter().position(|weight| {
            sum += weight;
            sum >= wanted && sum > 0.0
        });
        (found.unwrap_or(LEVELS) as f64 + 1.0) / LEVELS as f64
    }

    /// Returns whether this moment of the interval is quiet enough: the utilisation that is let pass rises from a low
    /// quantile of the last cycles to any, between the decision's bounds.
    ///
    /// # Source
    /// `docs/formulas.md`, B6.
    pub(super) fn is_lull(&self, since: Duration, decision: &Decision) -> bool {
        let low = self.quantile(QUANTILE);
        if self.quantile(1.0 - QUANTILE) - low < LEAST_SPAN {
            // Nothing to wait for.
            return since >= decision.interval;
        }
        let span = decision.latest.saturating_sub(decision.earliest).as_secs_f64();
        let part = if span > 0.0 { since.saturating_sub(decision.earliest).as_secs_f64() / span } else { 1.0 };
        self.now <= low + (1.0 - low) * part.clamp(0.0, 1.0)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and LEVELS")]
fn level(utilisation: f64) -> usize {
    ((utilisation * LEVELS as f64) as usize).min(LEVELS - 1)
}
