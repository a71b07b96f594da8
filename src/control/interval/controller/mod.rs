//! The controller: updates the model, decides on the interval ([`decide`]), schedules checkpoints ([`due`]), and resumes from
//! saved estimates ([`resume`]).

mod decide;
mod due;
mod progress;
mod resume;

use progress::{Accounted, Announced, Change, Checkpoints, Decided, EpochUpdates, TimeoutBackoff};

use super::clock::Clock;
use super::decision::Decision;
use super::goals::Goals;
use super::lull::Lulls;
use super::model::Model;
use super::observation::{CheckpointSample, Observation};
use super::recovery::RecoveryProgress;
use super::settings::IntervalSettings;
use crate::control::estimate::{FailureScope, LoadSample};
use crate::error::Result;
use crate::time::Timestamp;

/// The job counts as caught up once the backlog takes less than this to process, s.
const CAUGHT_UP_S: f64 = 1.0;

/// Chooses the checkpoint interval from observations, for an engine with a scheduler of its own.
///
/// Report [`Observation`]s, and start a checkpoint when [`Controller::is_due`] returns true; [`Controller::deadline`] returns the
/// time to wait for.
///
/// ```
/// use std::time::Duration;
/// use alluvium::interval::{CheckpointSample, Controller, Goals, IntervalSettings, LoadSample, Observation};
/// use alluvium::Timestamp;
///
/// # fn main() -> alluvium::Result<()> {
/// let goals = Goals::default().with(|it| {
///     it.recovery = Some(Duration::from_secs(60));
///     it.overhead = Some(0.02);
/// });
/// let mut controller = Controller::new(IntervalSettings::default(), goals, Timestamp::from_millis(0))?;
/// let mut checkpoints = 0;
/// for second in 1..=3600 {
///     let now = Timestamp::from_millis(second * 1000);
///     let load = LoadSample { received: 5e4, processed: 5e4, busy: Some(0.5), ..LoadSample::default() };
///     controller.observe(now, Observation::Load(load));
///     if controller.is_due(now) {
///         checkpoints += 1;
///         controller.observe(now, Observation::Triggered);
///         let sample = CheckpointSample { duration: 0.5, capacity: Some(0.1), requests: 3.0, ..CheckpointSample::default() };
///         controller.observe(now, Observation::Completed(sample));
///     }
/// }
/// println!("{}", controller.decision().reason);
/// assert!(controller.decision().interval < Duration::from_secs(60) && checkpoints > 60);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Controller {
    settings: IntervalSettings,
    goals: Goals,
    clock: Clock,
    accounted: Accounted,
    model: Model,
    lulls: Lulls,
    recovery: RecoveryProgress,
    checkpoints: Checkpoints,
    updates: EpochUpdates,
    announced: Announced,
    timeout: TimeoutBackoff,
    decided: Decided,
}

impl Controller {
    /// Returns a controller whose first interval begins at `now`.
    ///
    /// # Errors
    /// `Config` if a setting or a goal is out of range, or goals contradict each other.
    pub fn new(settings: IntervalSettings, goals: Goals, now: Timestamp) -> Result<Self> {
        settings.check()?;
        goals.check()?;
        let decided = Decided {
            decision: Decision::first(&settings, now),
            rail: settings.shortest,
            lower: settings.shortest,
            last_change: Change { longer: true, completed: 0 },
        };
        let mut controller = Self {
            settings,
            goals,
            clock: Clock::new(now),
            accounted: Accounted { time: now, load: now },
            model: Model::new(&settings),
            lulls: Lulls::default(),
            recovery: RecoveryProgress::default(),
            checkpoints: Checkpoints::new(now),
            updates: EpochUpdates::default(),
            announced: Announced::default(),
            timeout: TimeoutBackoff::default(),
            decided,
        };
        controller.decide_first(now);
        Ok(controller)
    }

    /// Replaces the goals of a running job, from the next checkpoint on.
    ///
    /// # Errors
    /// `Config` if a goal is out of range, or goals contradict each other; the old goals then stay.
    pub fn set_goals(&mut self, now: Timestamp, goals: Goals) -> Result<()> {
        goals.check()?;
        self.goals = goals;
        let now = self.clock.advance(now);
        self.reconsider(now, true);
        Ok(())
    }

    /// Returns the goals.
    #[must_use]
    pub fn goals(&self) -> &Goals {
        &self.goals
    }

    /// Records an observation. Observations may arrive up to a second out of order. A larger step of the clock back, or one ahead
    /// by more than a year, takes no time.
    pub fn observe(&mut self, now: Timestamp, observation: Observation) {
        let now = self.clock.advance(now);
        self.model.failures.advance(now.since(self.accounted.time).as_secs_f64());
        self.accounted.time = now;
        match observation {
            Observation::Load(sample) => self.observe_load(now, sample),
            Observation::Dirty { updates, rows } => {
                self.updates.dirty_rows_reported |= self.model.curve.observe(updates, rows);
            }
            Observation::State { bytes, rows } => self.model.observe_state(bytes, rows),
            Observation::Triggered => self.triggered(now),
            Observation::Paused(seconds) => self.checkpoints.pause = self.checkpoints.pause.max(seconds),
            Observation::Completed(sample) => {
                self.completed(now, &CheckpointSample { pause: sample.pause.max(self.checkpoints.pause), ..sample })
            }
            Observation::Aborted => self.aborted(now),
            Observation::Failed(scope) => self.failed(now, scope),
            Observation::Restored { bytes } => self.restored(now, bytes),
            Observation::CaughtUp => self.caught_up(now),
            Observation::Notice { deadline, probability } => self.noticed(now, deadline, probability),
            Observation::Ending => self.announced.ending = true,
            Observation::Nodes(nodes) => self.model.failures.set_nodes(nodes),
        }
    }

    fn observe_load(&mut self, now: Timestamp, sample: LoadSample) {
        let since = std::mem::replace(&mut self.accounted.load, now);
        let load = &mut self.model.load;
        let jumped = load.observe(now.since(since).as_secs_f64(), sample);
        self.lulls.observe(now, load.utilisation_just_seen());
        self.recovery.processed(since, sample.processed);
        let updates = sample.updates.unwrap_or(sample.processed);
        self.updates.running += if updates.is_finite() { updates.max(0.0) } else { 0.0 };
        if self.recovery.is_catching_up() && load.residence().is_some_and(|residence| residence < CAUGHT_UP_S) {
            self.caught_up(now);
        }
        if jumped && self.checkpoints.completed > 0 {
            self.reconsider(now, true);
        }
    }

    fn triggered(&mut self, now: Timestamp) {
        self.checkpoints.triggered(now);
        self.model.curve.end_epoch();
        self.updates.ended = std::mem::take(&mut self.updates.running);
        self.recovery.triggered();
        let too_late = now.after(self.settings.shortest);
        self.announced.node_loss = self.announced.node_loss.filter(|deadline| *deadline > too_late);
    }

    fn completed(&mut self, now: Timestamp, sample: &CheckpointSample) {
        self.checkpoints.completed(now);
        self.timeout.completed(sample.duration, self.settings.timeout);
        self.recovery.completed();
        if !self.updates.dirty_rows_reported {
            // One count per checkpoint: intervals of different lengths reveal the curve.
            self.model.curve.observe(self.updates.ended, sample.rows);
            self.model.curve.end_epoch();
        }
        self.model.costs.observe(sample, self.model.state.bytes);
        self.reconsider(now, false);
    }

    fn aborted(&mut self, now: Timestamp) {
        self.checkpoints.aborted(now);
        self.recovery.aborted();
        if self.timeout.aborted(self.checkpoints.aborts_in_a_row) {
            self.decided.decision.timeout_factor = self.timeout.factor();
        }
    }

    fn failed(&mut self, now: Timestamp, scope: FailureScope) {
        if self.down_until().is_some_and(|until| now < until) {
            // A second report of the same failure, or a failure during the restart: part of the same recovery.
            return;
        }
        let changed = self.model.failures.failed(scope);
        let age = now.since(self.checkpoints.interval_start).as_secs_f64();
        let predicted = self.recovery_from(now);
        self.recovery.failed(now, age, self.model.load.rate(), predicted);
        self.checkpoints.in_flight = false;
        self.announced.node_loss = None;
        if changed {
            self.reconsider(now, true);
        }
    }

    fn restored(&mut self, now: Timestamp, bytes: f64) {
        let bytes = if bytes.is_finite() && bytes > 0.0 { bytes } else { self.model.state.bytes };
        if let Some(outage) = self.recovery.restored(now) {
            self.model.recovery.observe_outage(bytes, outage);
        }
        self.checkpoints.restored(now);
        // There were no samples during the outage: the next one covers the time from here.
        self.accounted.load = now;
        self.model.curve.end_epoch();
        self.updates.running = 0.0;
    }

    fn caught_up(&mut self, now: Timestamp) {
        if let Some((recovery, predicted)) = self.recovery.caught_up(now) {
            self.model.recovery.check(predicted, recovery.total);
            self.model.recovery.observe(recovery);
            self.reconsider(now, false);
        }
    }

    fn noticed(&mut self, now: Timestamp, deadline: Timestamp, probability: f64) {
        self.model.failures.announced(probability);
        let deadline = self.clock.monotonic_at(deadline);
        let pending = [self.announced.node_loss, Some(deadline)].into_iter().flatten();
        self.announced.node_loss = pending.filter(|deadline| *deadline > now).min();
    }

    /// Returns the decision in force.
    #[must_use]
    pub fn decision(&self) -> &Decision {
        &self.decided.decision
    }

    /// Returns the estimated mean time between failures, s.
    #[must_use]
    pub fn mtbf(&self) -> f64 {
        self.model.failures.mtbf()
    }
}
