//! The adaptive interval of a job: its controller, told by the driver and by the engine, shown as metrics.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::control::chain::ChainPolicy;
use crate::control::coordinator::CheckpointPolicy;
use crate::control::interval::{Bound, Controller, Decision, Goals, IntervalSettings, Observation};
use crate::error::Result;
use crate::metrics;
use crate::time::Timestamp;

/// A job's interval is chosen by goals instead of being fixed.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct AdaptiveInterval {
    /// What is wanted.
    pub goals: Goals,
    /// Guard rails, and what is assumed until it is measured. The job's own policy gives minimum pause, bounds of chains and
    /// number of groups.
    pub settings: IntervalSettings,
}

/// The controller of a running job.
#[derive(Debug)]
pub(super) struct Adaptive(Mutex<Controller>);

impl Adaptive {
    /// Returns the controller of a job whose first interval begins at `now`.
    ///
    /// # Errors
    /// `Config` if goals or settings cannot be.
    pub(super) fn new(
        wanted: &AdaptiveInterval,
        checkpoints: &CheckpointPolicy,
        chain: ChainPolicy,
        groups: u16,
        now: Timestamp,
    ) -> Result<Self> {
        let settings = IntervalSettings { min_pause: checkpoints.min_pause, chain, groups, ..wanted.settings };
        let adaptive = Self(Mutex::new(Controller::new(settings, wanted.goals, now)?));
        show(adaptive.lock().decision());
        Ok(adaptive)
    }

    fn lock(&self) -> MutexGuard<'_, Controller> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn observe(&self, now: Timestamp, observation: Observation) {
        let mut controller = self.lock();
        let before = controller.decision().at;
        controller.observe(now, observation);
        if controller.decision().at != before {
            show(controller.decision());
        }
        if matches!(observation, Observation::Load(_)) {
            metrics::predicted_recovery(controller.predicted_recovery(now));
        }
    }

    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.lock().is_due(now)
    }

    pub(super) fn decision(&self) -> Decision {
        self.lock().decision().clone()
    }

    pub(super) fn set_goals(&self, now: Timestamp, goals: Goals) -> Result<()> {
        let mut controller = self.lock();
        controller.set_goals(now, goals)?;
        show(controller.decision());
        Ok(())
    }
}

fn show(decision: &Decision) {
    let reason = &decision.reason;
    let infeasible = reason.infeasible.is_some();
    metrics::interval(decision.interval.as_secs_f64(), reason.binds.name(), &Bound::NAMES, infeasible);
    metrics::interval_expects(reason.dirty_rows_per_s, reason.overhead);
}
