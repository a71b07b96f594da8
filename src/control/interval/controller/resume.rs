//! Going on from what a predecessor had learned.

use super::Controller;
use crate::control::estimate::Scope;
use crate::control::interval::goals::Goals;
use crate::control::interval::learned::{Estimates, Learned};
use crate::control::interval::settings::IntervalSettings;
use crate::error::Result;
use crate::time::Timestamp;

impl Controller {
    /// As [`Controller::new`], going on from what a predecessor had learned: that of a job which is started again.
    ///
    /// One that had not been told of an end ([`Observation::Ending`]) has failed, some time after it handed this on and, by the
    /// settings, [`IntervalSettings::restart`] before `now`. The job is down until it is `Restored`; how long its catch-up takes is
    /// not learned, for nobody saw when it failed.
    ///
    /// [`Observation::Ending`]: super::Observation::Ending
    ///
    /// # Errors
    /// As [`Controller::new`].
    pub fn resume(settings: IntervalSettings, goals: Goals, now: Timestamp, learned: &Learned) -> Result<Self> {
        let mut controller = Self::new(settings, goals, now)?;
        let Learned(learned) = learned;
        controller.recall(learned);
        controller.go_on(now);
        if !learned.ending {
            controller.failed_before(now);
            controller.go_on(now);
        }
        Ok(controller)
    }

    /// Returns what it has learned.
    #[must_use]
    pub fn learned(&self) -> Learned {
        let (job, node) = self.failures.learned();
        Learned(Estimates {
            checkpoints: self.completed,
            ending: self.ending,
            state_bytes: self.state.0,
            state_rows: self.state.1,
            load: self.load.learned(),
            curve: self.curve.learned(),
            costs: self.costs.learned(),
            recovery: self.recovery.learned(),
            job,
            node,
        })
    }

    fn recall(&mut self, learned: &Estimates) {
        self.observe_state(learned.state_bytes, learned.state_rows);
        self.load.recall(&learned.load);
        self.curve.recall(&learned.curve);
        self.costs.recall(&learned.costs);
        self.recovery.recall(&learned.recovery);
        self.failures.recall(&learned.job, &learned.node);
        self.completed = learned.checkpoints;
    }

    /// Decides by what was recalled. A predecessor without a checkpoint knew no better interval than the first.
    fn go_on(&mut self, now: Timestamp) {
        if self.completed > 0 {
            self.reconsider(now, true);
        } else {
            self.decide_first(now);
        }
    }

    /// Notes the failure that nobody could tell of.
    fn failed_before(&mut self, now: Timestamp) {
        // On average a job that fails has worked for half an interval since its last checkpoint.
        let age = self.decision.interval.as_secs_f64() / 2.0;
        self.failures.advance(age);
        self.failures.failed(Scope::Job);
        let predicted = self.recovery_from(now);
        self.recovering.failed_unseen(now.before(self.settings.restart), predicted);
    }
}
