//! What checkpoints cost, and how large they are.

use super::learned::LearnedCosts;
use super::observation::CheckpointSample;
use super::settings::IntervalSettings;
use crate::control::estimate::{ClippedMean, LinearCost};

/// Checkpoints over which the size of bases and the number of requests are averaged (half-life).
const CHECKPOINTS: f64 = 4.0;

/// More bytes, or requests, than this are no measurement.
const MOST: f64 = 1e18;

/// Estimates of a checkpoint's costs by its size, and of its size.
#[derive(Debug, Clone)]
pub(super) struct Costs {
    /// Share of the duration that is lost where nobody measures it.
    slow_down: f64,
    /// Capacity lost by bytes, s.
    pub(super) capacity: LinearCost,
    /// Duration by bytes, s.
    pub(super) duration: LinearCost,
    /// Bytes by rows: what is written whatever is dirty must not count as the rows' size.
    pub(super) delta_bytes: LinearCost,
    base_bytes: ClippedMean,
    requests: ClippedMean,
}

impl Costs {
    pub(super) fn new(settings: &IntervalSettings) -> Self {
        let per_byte = 1.0 / settings.restore_bytes_per_s;
        Self {
            slow_down: settings.slow_down,
            capacity: LinearCost::new(0.0, settings.slow_down * per_byte),
            duration: LinearCost::new(0.0, per_byte),
            delta_bytes: LinearCost::proportional(),
            base_bytes: ClippedMean::new(CHECKPOINTS),
            requests: ClippedMean::new(CHECKPOINTS),
        }
    }

    pub(super) fn learned(&self) -> LearnedCosts {
        LearnedCosts {
            capacity: self.capacity.learned(),
            duration: self.duration.learned(),
            delta_bytes: self.delta_bytes.learned(),
            base_bytes: self.base_bytes.value(),
            requests: self.requests.value(),
        }
    }

    pub(super) fn recall(&mut self, learned: &LearnedCosts) {
        self.capacity.recall(learned.capacity.as_ref());
        self.duration.recall(learned.duration.as_ref());
        self.delta_bytes.recall(learned.delta_bytes.as_ref());
        for (mean, learned) in [(&mut self.base_bytes, learned.base_bytes), (&mut self.requests, learned.requests)] {
            learned.filter(|value| *value <= MOST).into_iter().for_each(|value| mean.update(1.0, value));
        }
    }

    /// Takes what a checkpoint took. `state_bytes`: of all state, if it is known; new bases are no larger.
    pub(super) fn observe(&mut self, sample: &CheckpointSample, state_bytes: f64) {
        let &CheckpointSample { duration, pause, capacity, delta_bytes, base_bytes, rows, requests } = sample;
        let base_bytes = if state_bytes > 0.0 && base_bytes > state_bytes { state_bytes } else { base_bytes };
        // A size that is not believed must not stand for the costs of sizes that are.
        let bytes = self.delta_bytes.clipped(rows, delta_bytes) + self.base_bytes.clipped(base_bytes);
        // Engines that do not count rows tell of none.
        if rows > 0.0 {
            self.delta_bytes.observe(rows, delta_bytes);
        }
        self.base_bytes.update(1.0, base_bytes);
        if requests > 0.0 {
            self.requests.update(1.0, requests);
        }
        self.duration.observe(bytes, duration);
        self.capacity.observe(bytes, capacity.unwrap_or(pause + self.slow_down * duration));
    }

    /// Returns the bytes of bases that a checkpoint writes.
    pub(super) fn base_bytes(&self) -> f64 {
        self.base_bytes.value().unwrap_or(0.0)
    }

    /// Returns the requests that a checkpoint makes, if one was seen.
    pub(super) fn requests(&self) -> Option<f64> {
        self.requests.value()
    }

    /// Returns the bytes of changed rows at an elasticity of rows, and their own elasticity.
    pub(super) fn delta(&self, (rows, elasticity): (f64, f64)) -> (f64, f64) {
        let bytes = self.delta_bytes.at(rows);
        let growing = self.delta_bytes.per_byte() * rows;
        (bytes, if bytes > 0.0 { elasticity * growing / bytes } else { elasticity })
    }
}
