//! The controller: keeps the estimates, decides on the interval ([`decide`]), says when a checkpoint is due ([`due`]), goes on
//! where another left off ([`resume`]).

mod decide;
mod due;
mod resume;

use std::time::Duration;

use super::clock::Clock;
use super::costs::Costs;
use super::goals::Goals;
use super::lull::Lulls;
use super::observation::{CheckpointSample, Observation};
use super::reason::Reason;
use super::recovering::Recovering;
use super::settings::IntervalSettings;
use crate::control::chain::ChainPolicy;
use crate::control::estimate::{DirtyCurve, FailureRate, Load, LoadSample, RecoveryModel, Scope};
use crate::error::Result;
use crate::time::Timestamp;

/// The job has caught up when what waits takes less than this to process, s.
const CAUGHT_UP_S: f64 = 1.0;

/// How the next checkpoint should write state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Everything.
    Full,
    /// What changed, and a new base for this many key groups.
    Incremental {
        /// Key groups that get a new base.
        bases: u16,
    },
}

impl Kind {
    /// Returns the bounds of chains by which a checkpoint of `groups` key groups is of this kind; never looser than `policy`.
    #[must_use]
    pub fn chain_policy(self, policy: ChainPolicy, groups: u16) -> ChainPolicy {
        match self {
            Self::Full => ChainPolicy { max_segments: 1, spread: 1 },
            Self::Incremental { bases: 0 } => policy,
            Self::Incremental { bases } => {
                // Turns start `spread` checkpoints before a chain is full.
                let chain = usize::from(groups.div_ceil(bases)).saturating_add(policy.spread);
                ChainPolicy { max_segments: policy.max_segments.min(chain), ..policy }
            }
        }
    }
}

/// When and how to make checkpoints from now on.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Decision {
    /// When it was made.
    pub at: Timestamp,
    /// From the start of one checkpoint to the start of the next.
    pub interval: Duration,
    /// From here on a lull is used, if one comes.
    pub earliest: Duration,
    /// Here the wait for a lull ends.
    pub latest: Duration,
    /// How the next one writes state.
    pub kind: Kind,
    /// How many times the checkpoint timeout should be what it is: doubled after failures in a row, instead of the rate.
    pub timeout_factor: u32,
    /// Why.
    pub reason: Reason,
}

/// Chooses the checkpoint interval from what it observes, for an engine with a scheduler of its own.
///
/// Tell it what happens as [`Observation`]s, ask [`Controller::is_due`] (or wait until [`Controller::deadline`]), and start
/// a checkpoint when it says so.
///
/// ```
/// use std::time::Duration;
/// use alluvium::control::estimate::LoadSample;
/// use alluvium::control::interval::{CheckpointSample, Controller, Goals, IntervalSettings, Observation};
/// use alluvium::time::Timestamp;
///
/// # fn main() -> alluvium::Result<()> {
/// let goals = Goals { recovery: Some(Duration::from_secs(60)), overhead: Some(0.02), ..Goals::default() };
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
    load: Load,
    curve: DirtyCurve,
    costs: Costs,
    failures: FailureRate,
    recovery: RecoveryModel,
    state: (f64, f64),
    lulls: Lulls,
    recovering: Recovering,
    clock: Clock,
    /// Until when time has been accounted for, and until when load.
    seen: Timestamp,
    load_seen: Timestamp,
    /// Where the running interval began: at the barrier of the last durable checkpoint, or when state was restored.
    began: Timestamp,
    /// When the last checkpoint started, and when it ended.
    started: Timestamp,
    ended: Option<Timestamp>,
    in_flight: bool,
    /// Longest of the checkpoint in flight, s.
    pause: f64,
    completed: u32,
    aborted_in_a_row: u32,
    /// How often the checkpoint timeout is doubled.
    doublings: u32,
    /// Direction of the last change, and how many checkpoints were completed then.
    turned: (bool, u32),
    notice: Option<Timestamp>,
    ending: bool,
    /// Updates since the barrier, those of the checkpoint in flight, and whether an engine counts dirty rows in between.
    updates: f64,
    updates_in_flight: f64,
    counts_dirty: bool,
    /// The shortest intervals that the guard rails allow, and that goals allow as well.
    rail: Duration,
    lower: Duration,
    decision: Decision,
}

impl Controller {
    /// Returns a controller whose first interval begins at `now`.
    ///
    /// # Errors
    /// `Config` if a setting or a goal is out of range, or goals contradict each other.
    pub fn new(settings: IntervalSettings, goals: Goals, now: Timestamp) -> Result<Self> {
        settings.check()?;
        goals.check()?;
        let mut controller = Self {
            settings,
            goals,
            load: Load::new(settings.capacity),
            curve: DirtyCurve::new(),
            costs: Costs::new(&settings),
            failures: FailureRate::new(settings.failures),
            recovery: RecoveryModel::new(settings.restart.as_secs_f64(), 1.0 / settings.restore_bytes_per_s),
            state: (0.0, 0.0),
            lulls: Lulls::default(),
            recovering: Recovering::default(),
            clock: Clock::new(now),
            seen: now,
            load_seen: now,
            began: now,
            started: now,
            ended: None,
            in_flight: false,
            pause: 0.0,
            completed: 0,
            aborted_in_a_row: 0,
            doublings: 0,
            turned: (true, 0),
            notice: None,
            ending: false,
            updates: 0.0,
            updates_in_flight: 0.0,
            counts_dirty: false,
            rail: settings.shortest,
            lower: settings.shortest,
            decision: Decision::first(&settings, now),
        };
        controller.decide_first(now);
        Ok(controller)
    }

    /// Changes the goals while the job runs; they bind from the next checkpoint on.
    ///
    /// # Errors
    /// `Config` if a goal is out of range or they contradict each other; the old ones then stay.
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

    /// Takes note of an observation. A time before an earlier observation's counts as that one's; a clock that is set back by
    /// a second or more, or ahead by a year, goes on from where it was.
    pub fn observe(&mut self, now: Timestamp, observation: Observation) {
        let now = self.clock.advance(now);
        self.failures.advance(now.since(self.seen).as_secs_f64());
        self.seen = now;
        match observation {
            Observation::Load(sample) => self.observe_load(now, sample),
            Observation::Dirty { updates, rows } => self.counts_dirty |= self.curve.observe(updates, rows),
            Observation::State { bytes, rows } => self.observe_state(bytes, rows),
            Observation::Triggered => self.triggered(now),
            Observation::Paused(seconds) => self.pause = self.pause.max(seconds),
            Observation::Completed(sample) => {
                self.completed(now, &CheckpointSample { pause: sample.pause.max(self.pause), ..sample })
            }
            Observation::Aborted => self.aborted(now),
            Observation::Failed(scope) => self.failed(now, scope),
            Observation::Restored { bytes } => self.restored(now, bytes),
            Observation::CaughtUp => self.caught_up(now),
            Observation::Notice { deadline, probability } => self.noticed(now, deadline, probability),
            Observation::Ending => self.ending = true,
            Observation::Nodes(nodes) => self.failures.set_nodes(nodes),
        }
    }

    fn observe_load(&mut self, now: Timestamp, sample: LoadSample) {
        let since = std::mem::replace(&mut self.load_seen, now);
        let jumped = self.load.observe(now.since(since).as_secs_f64(), sample);
        self.lulls.observe(now, self.load.utilisation_just_seen());
        self.recovering.processed(since, sample.processed);
        let updates = sample.updates.unwrap_or(sample.processed);
        self.updates += if updates.is_finite() { updates.max(0.0) } else { 0.0 };
        if self.recovering.is_catching_up() && self.load.residence().is_some_and(|residence| residence < CAUGHT_UP_S) {
            self.caught_up(now);
        }
        if jumped && self.completed > 0 {
            self.reconsider(now, true);
        }
    }

    fn observe_state(&mut self, bytes: f64, rows: f64) {
        let keep = |new: f64, old: f64| if new.is_finite() && new >= 0.0 { new } else { old };
        self.state = (keep(bytes, self.state.0), keep(rows, self.state.1));
        self.curve.set_keys(self.state.1);
    }

    fn triggered(&mut self, now: Timestamp) {
        self.started = now;
        self.in_flight = true;
        self.pause = 0.0;
        self.curve.end_epoch();
        self.updates_in_flight = std::mem::take(&mut self.updates);
        self.recovering.triggered();
        self.notice = self.notice.filter(|deadline| *deadline > now.after(self.settings.shortest));
    }

    fn completed(&mut self, now: Timestamp, sample: &CheckpointSample) {
        self.in_flight = false;
        (self.began, self.ended) = (self.started, Some(now));
        self.completed = self.completed.saturating_add(1);
        self.aborted_in_a_row = 0;
        self.lose_patience(sample.duration);
        self.recovering.completed();
        if !self.counts_dirty {
            // One count per checkpoint: intervals of different lengths show the curve.
            self.curve.observe(self.updates_in_flight, sample.rows);
            self.curve.end_epoch();
        }
        self.costs.observe(sample, self.state.0);
        self.reconsider(now, false);
    }

    fn aborted(&mut self, now: Timestamp) {
        self.in_flight = false;
        self.ended = Some(now);
        self.aborted_in_a_row = self.aborted_in_a_row.saturating_add(1);
        self.recovering.aborted();
        self.gain_patience();
    }

    fn failed(&mut self, now: Timestamp, scope: Scope) {
        if self.down_until().is_some_and(|until| now < until) {
            // Told by somebody else, or another on the way up: part of the same.
            return;
        }
        let changed = self.failures.failed(scope);
        let age = now.since(self.began).as_secs_f64();
        let predicted = self.recovery_from(now);
        self.recovering.failed(now, age, self.load.rate(), predicted);
        self.in_flight = false;
        self.notice = None;
        if changed {
            self.reconsider(now, true);
        }
    }

    fn restored(&mut self, now: Timestamp, bytes: f64) {
        let known = if bytes.is_finite() && bytes > 0.0 { bytes } else { self.state.0 };
        if let Some(outage) = self.recovering.restored(now) {
            self.recovery.observe_outage(known, outage);
        }
        (self.began, self.started) = (now, now);
        // Nothing was seen during the outage: the next sample counts from here.
        self.load_seen = now;
        self.in_flight = false;
        self.curve.end_epoch();
        self.updates = 0.0;
    }

    fn caught_up(&mut self, now: Timestamp) {
        if let Some((recovery, predicted)) = self.recovering.caught_up(now) {
            self.recovery.check(predicted, recovery.total);
            self.recovery.observe(recovery);
            self.reconsider(now, false);
        }
    }

    fn noticed(&mut self, now: Timestamp, deadline: Timestamp, probability: f64) {
        self.failures.announced(probability);
        let deadline = self.clock.at(deadline);
        let waiting = [self.notice, Some(deadline)].into_iter().flatten().filter(|deadline| *deadline > now);
        self.notice = waiting.min();
    }

    /// Returns the decision that holds.
    #[must_use]
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// Returns the mean time between failures as far as it is known, s.
    #[must_use]
    pub fn mtbf(&self) -> f64 {
        self.failures.mtbf()
    }
}
