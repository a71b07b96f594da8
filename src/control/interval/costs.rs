//! The costs and sizes of checkpoints.

use super::learned::LearnedCosts;
use super::observation::CheckpointSample;
use super::settings::IntervalSettings;
use crate::control::estimate::{ClippedMean, LinearCost};

/// Half-life of the means of base bytes and requests, in checkpoints.
const HALF_LIFE: f64 = 4.0;

/// Saved bytes or requests beyond this are implausible.
const MAX_SAVED: f64 = 1e18;

/// Estimates of a checkpoint's costs by its size, and of its size.
#[derive(Debug, Clone)]
pub(super) struct Costs {
    /// Share of the duration that counts as lost where the loss is not measured.
    slow_down: f64,
    /// Capacity lost by bytes, s.
    pub(super) capacity: LinearCost,
    /// Duration by bytes, s.
    pub(super) duration: LinearCost,
    /// Bytes by rows. A line, so that the bytes of an idle checkpoint do not count as the size of its rows.
    delta_bytes: LinearCost,
    base_bytes: ClippedMean,
    requests: ClippedMean,
}

/// The changed rows that a checkpoint writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delta {
    pub(super) bytes: f64,
    /// Elasticity of the bytes by the interval.
    pub(super) elasticity: f64,
}

/// A cost that is linear in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    /// s.
    pub(super) fixed: f64,
    /// s/B.
    pub(super) per_byte: f64,
}

impl Line {
    pub(super) fn of(cost: &LinearCost) -> Self {
        Self { fixed: cost.fixed(), per_byte: cost.per_byte() }
    }

    /// Returns the cost of `bytes`, s.
    pub(super) fn at(self, bytes: f64) -> f64 {
        self.fixed + self.per_byte * bytes
    }
}

impl Costs {
    pub(super) fn new(settings: &IntervalSettings) -> Self {
        let per_byte = 1.0 / settings.restore_bytes_per_s;
        Self {
            slow_down: settings.slow_down,
            capacity: LinearCost::new(0.0, settings.slow_down * per_byte),
            duration: LinearCost::new(0.0, per_byte),
            delta_bytes: LinearCost::proportional(),
            base_bytes: ClippedMean::new(HALF_LIFE),
            requests: ClippedMean::new(HALF_LIFE),
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
            learned.filter(|value| *value <= MAX_SAVED).into_iter().for_each(|value| mean.update(1.0, value));
        }
    }

    /// Adds a checkpoint. `state_bytes`, the size of all state or 0 if unknown, bounds the size of new bases.
    pub(super) fn observe(&mut self, sample: &CheckpointSample, state_bytes: f64) {
        let &CheckpointSample { duration, pause, capacity, delta_bytes, base_bytes, rows, requests } = sample;
        let base_bytes = if state_bytes > 0.0 && base_bytes > state_bytes { state_bytes } else { base_bytes };
        // Clip the size too: an absurd one would distort the cost per byte.
        let bytes = self.delta_bytes.clipped(rows, delta_bytes) + self.base_bytes.clipped(base_bytes);
        // Zero rows: the engine does not count rows.
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

    /// Returns the bytes of bases per checkpoint.
    pub(super) fn base_bytes(&self) -> f64 {
        self.base_bytes.value().unwrap_or(0.0)
    }

    /// Returns the requests per checkpoint, if any were reported.
    pub(super) fn requests(&self) -> Option<f64> {
        self.requests.value()
    }

    /// Returns the delta of `rows` changed rows, given the elasticity of the rows.
    pub(super) fn delta(&self, rows: f64, elasticity: f64) -> Delta {
        let bytes = self.delta_bytes.at(rows);
        let growing = self.delta_bytes.per_byte() * rows;
        Delta { bytes, elasticity: if bytes > 0.0 { elasticity * growing / bytes } else { elasticity } }
    }
}
