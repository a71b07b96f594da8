//! Saving the estimates, and resuming from them.

use super::Controller;
use crate::control::estimate::FailureScope;
use crate::control::interval::goals::Goals;
use crate::control::interval::learned::{Estimates, Learned};
use crate::control::interval::settings::IntervalSettings;
use crate::error::Result;
use crate::time::Timestamp;

impl Controller {
    /// Returns a controller for a restarted job, which resumes from its predecessor's estimates.
    ///
    /// A predecessor that did not announce its end ([`Observation::Ending`]) counts as failed, at an assumed time
    /// [`IntervalSettings::restart`] before `now`. The job is then down until `Restored`, and the controller does not learn from
    /// the catch-up, because the time of the failure is a guess.
    ///
    /// [`Observation::Ending`]: super::Observation::Ending
    ///
    /// # Errors
    /// As [`Controller::new`].
    pub fn resume(settings: IntervalSettings, goals: Goals, now: Timestamp, learned: &Learned) -> Result<Self> {
        let mut controller = Self::new(settings, goals, now)?;
        let Learned(learned) = learned;
        controller.recall(learned);
        controller.decide_after_recall(now);
        if !learned.ending {
            controller.failed_before(now);
            controller.decide_after_recall(now);
        }
        Ok(controller)
    }

    /// Returns the estimates, to be saved for the next controller.
    #[must_use]
    pub fn learned(&self) -> Learned {
        let model = &self.model;
        let (job, node) = model.failures.learned();
        Learned(Estimates {
            checkpoints: self.checkpoints.completed,
            ending: self.announced.ending,
            state_bytes: model.state.bytes,
            state_rows: model.state.rows,
            load: model.load.learned(),
            curve: model.curve.learned(),
            costs: model.costs.learned(),
            recovery: model.recovery.learned(),
            job,
            node,
        })
    }

    fn recall(&mut self, learned: &Estimates) {
        let model = &mut self.model;
        model.observe_state(learned.state_bytes, learned.state_rows);
        model.load.recall(&learned.load);
        model.curve.recall(&learned.curve);
        model.costs.recall(&learned.costs);
        model.recovery.recall(&learned.recovery);
        model.failures.recall(&learned.job, &learned.node);
        self.checkpoints.completed = learned.checkpoints;
    }

    /// Decides by the recalled estimates. A predecessor without a checkpoint had nothing better than the first interval.
    fn decide_after_recall(&mut self, now: Timestamp) {
        if self.checkpoints.completed > 0 {
            self.reconsider(now, true);
        } else {
            self.decide_first(now);
        }
    }

    /// Records the failure of a predecessor that did not announce its end.
    fn failed_before(&mut self, now: Timestamp) {
        // On average a job fails half an interval after its last checkpoint.
        let age = self.decided.decision.interval.as_secs_f64() / 2.0;
        self.model.failures.advance(age);
        self.model.failures.failed(FailureScope::Job);
        let predicted = self.recovery_from(now);
        self.recovery.failed_unseen(now.before(self.settings.restart), predicted);
    }
}
