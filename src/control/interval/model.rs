//! The estimates behind a decision.

use super::costs::{Costs, Delta};
use super::settings::IntervalSettings;
use crate::control::estimate::{DirtyCurve, FailureRate, Load, RecoveryModel};

/// Estimates of the job's load, costs and failures.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) load: Load,
    pub(super) curve: DirtyCurve,
    pub(super) costs: Costs,
    pub(super) failures: FailureRate,
    pub(super) recovery: RecoveryModel,
    pub(super) state: StateSize,
}

/// Size of the whole state; 0 while unknown.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct StateSize {
    pub(super) bytes: f64,
    pub(super) rows: f64,
}

impl Model {
    pub(super) fn new(settings: &IntervalSettings) -> Self {
        Self {
            load: Load::new(settings.capacity),
            curve: DirtyCurve::new(),
            costs: Costs::new(settings),
            failures: FailureRate::new(settings.failures),
            recovery: RecoveryModel::new(settings.restart.as_secs_f64(), 1.0 / settings.restore_bytes_per_s),
            state: StateSize::default(),
        }
    }

    pub(super) fn observe_state(&mut self, bytes: f64, rows: f64) {
        let keep = |new: f64, old: f64| if new.is_finite() && new >= 0.0 { new } else { old };
        self.state = StateSize { bytes: keep(bytes, self.state.bytes), rows: keep(rows, self.state.rows) };
        self.curve.set_keys(self.state.rows);
    }

    /// Returns the rows dirtied in `seconds`.
    pub(super) fn dirty_rows(&self, seconds: f64) -> f64 {
        self.curve.at(self.load.updates() * seconds).0
    }

    /// Returns the changed rows that a checkpoint writes after `seconds`.
    pub(super) fn delta(&self, seconds: f64) -> Delta {
        let (rows, elasticity) = self.curve.at(self.load.updates() * seconds);
        self.costs.delta(rows, elasticity)
    }

    /// Returns the outage after a failure now, s.
    pub(super) fn outage(&self) -> f64 {
        self.recovery.outage(self.state.bytes)
    }

    /// Returns the rate at which the job can process records, records/s, if known.
    pub(super) fn capacity(&self) -> Option<f64> {
        self.load.capacity().or_else(|| self.recovery.capacity())
    }
}
