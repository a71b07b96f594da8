//! The controller: keeps the estimates, decides on the interval, and says when a checkpoint is due.

use std::time::Duration;

use super::bounds::{Bound, Choice, Situation};
use super::goals::Goals;
use super::lull::Lulls;
use super::observation::{CheckpointSample, Observation};
use super::reason::Reason;
use super::recovering::Recovering;
use super::settings::IntervalSettings;
use crate::control::estimate::{DirtyCurve, Ewma, FailureRate, LinearCost, Load, LoadSample, RecoveryModel, Scope};
use crate::control::formula;
use crate::error::Result;
use crate::time::Timestamp;

/// An interval changes by at most this factor at a time.
const MOST_STEP: f64 = 2.0;

/// Checkpoints between a change and one in the other direction.
const TURN_AFTER: u32 = 3;

/// A recovery is planned to take at most the goal but for this many standard errors: one in a hundred takes longer.
const STANDARD_ERRORS: f64 = 2.33;

/// That room for error is at most this: beyond, to make checkpoints more often would not help.
const MOST_MARGIN: f64 = 1.25;

/// Checkpoints over which sizes and requests are averaged (half-life).
const SIZES: f64 = 4.0;

/// Part of the outage that reading a chain of deltas may take.
const CHAIN_SHARE: f64 = 0.25;

/// Failed checkpoints in a row after which the timeout is doubled.
const FAILED_IN_A_ROW: u32 = 2;

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
    capacity_cost: LinearCost,
    duration: LinearCost,
    pause: LinearCost,
    failures: FailureRate,
    recovery: RecoveryModel,
    row_bytes: Ewma,
    base_bytes: Ewma,
    requests: Ewma,
    state: (f64, f64),
    lulls: Lulls,
    recovering: Recovering,
    /// Until when time has been accounted for, and until when load.
    seen: Timestamp,
    load_seen: Timestamp,
    last_trigger: Timestamp,
    last_end: Option<Timestamp>,
    in_flight: bool,
    completed: u32,
    aborted_in_a_row: u32,
    /// Direction of the last change, and how many checkpoints were completed then.
    turned: (bool, u32),
    notice: Option<Timestamp>,
    /// Updates since the barrier, those of the checkpoint in flight, and whether an engine counts dirty rows in between.
    updates: f64,
    updates_in_flight: f64,
    counts_dirty: bool,
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
        let per_byte = 1.0 / settings.restore_bytes_per_s;
        let mut controller = Self {
            settings,
            goals,
            load: Load::new(settings.capacity),
            curve: DirtyCurve::new(),
            capacity_cost: LinearCost::new(0.0, settings.slow_down * per_byte),
            duration: LinearCost::new(0.0, per_byte),
            pause: LinearCost::new(0.0, 0.0),
            failures: FailureRate::new(settings.failures),
            recovery: RecoveryModel::new(settings.restart.as_secs_f64(), per_byte),
            row_bytes: Ewma::new(SIZES),
            base_bytes: Ewma::new(SIZES),
            requests: Ewma::new(SIZES),
            state: (0.0, 0.0),
            lulls: Lulls::default(),
            recovering: Recovering::default(),
            seen: now,
            load_seen: now,
            last_trigger: now,
            last_end: None,
            in_flight: false,
            completed: 0,
            aborted_in_a_row: 0,
            turned: (true, 0),
            notice: None,
            updates: 0.0,
            updates_in_flight: 0.0,
            counts_dirty: false,
            decision: Decision {
                at: now,
                interval: settings.first,
                earliest: settings.first,
                latest: settings.first,
                kind: Kind::Incremental { bases: 0 },
                timeout_factor: 1,
                reason: first_reason(&settings),
            },
        };
        let first = settings.first.clamp(settings.shortest, settings.longest);
        let choice = controller.situation(|situation| situation.choose());
        let start = choice.upper.min(first.as_secs_f64()).max(choice.lower);
        let binds = if start < first.as_secs_f64() { choice.binds } else { Bound::First };
        controller.decide(now, start, Choice { binds, ..choice });
        Ok(controller)
    }

    /// Changes the goals while the job runs; they bind from the next checkpoint on.
    ///
    /// # Errors
    /// `Config` if a goal is out of range or they contradict each other; the old ones then stay.
    pub fn set_goals(&mut self, now: Timestamp, goals: Goals) -> Result<()> {
        goals.check()?;
        self.goals = goals;
        self.reconsider(now, true);
        Ok(())
    }

    /// Returns the goals.
    #[must_use]
    pub fn goals(&self) -> &Goals {
        &self.goals
    }

    /// Takes note of an observation. Times before an earlier observation's count as that one's.
    pub fn observe(&mut self, now: Timestamp, observation: Observation) {
        let now = now.max(self.seen);
        self.failures.advance(now.since(self.seen).as_secs_f64());
        self.seen = now;
        match observation {
            Observation::Load(sample) => self.observe_load(now, sample),
            Observation::Dirty { updates, rows } => {
                self.counts_dirty = true;
                self.curve.observe(updates, rows);
            }
            Observation::State { bytes, rows } => {
                let keep = |new: f64, old: f64| if new.is_finite() && new >= 0.0 { new } else { old };
                self.state = (keep(bytes, self.state.0), keep(rows, self.state.1));
                self.curve.set_keys(self.state.1);
            }
            Observation::Triggered => {
                self.last_trigger = now;
                self.in_flight = true;
                self.curve.end_epoch();
                self.updates_in_flight = std::mem::take(&mut self.updates);
                self.recovering.triggered();
                self.notice = self.notice.filter(|deadline| *deadline > now.after(self.settings.shortest));
            }
            Observation::Completed(sample) => self.completed(now, sample),
            Observation::Aborted => {
                self.in_flight = false;
                self.last_end = Some(now);
                self.aborted_in_a_row = self.aborted_in_a_row.saturating_add(1);
                self.recovering.aborted();
                self.decision.timeout_factor = self.timeout_factor();
            }
            Observation::Failed(scope) => self.failed(now, scope),
            Observation::Restored { bytes } => {
                let known = if bytes.is_finite() && bytes > 0.0 { bytes } else { self.state.0 };
                if let Some(outage) = self.recovering.restored(now) {
                    self.recovery.observe_outage(known, outage);
                }
                self.last_trigger = now;
                // Nothing was seen during the outage: the next sample counts from here.
                self.load_seen = now;
                self.in_flight = false;
                self.curve.end_epoch();
                self.updates = 0.0;
            }
            Observation::CaughtUp => self.caught_up(now),
            Observation::Notice { deadline, probability } => {
                self.failures.announced(probability);
                self.notice = Some(self.notice.map_or(deadline, |known| known.min(deadline)));
            }
            Observation::Nodes(nodes) => self.failures.set_nodes(nodes),
        }
    }

    fn observe_load(&mut self, now: Timestamp, sample: LoadSample) {
        let dt = now.since(self.load_seen).as_secs_f64();
        self.load_seen = now;
        let jumped = self.load.observe(dt, sample);
        self.lulls.observe(now, self.load.utilisation_just_seen());
        self.recovering.processed(sample.processed);
        let updates = sample.updates.unwrap_or(sample.processed);
        self.updates += if updates.is_finite() { updates.max(0.0) } else { 0.0 };
        if self.recovering.is_catching_up() && self.load.residence() < 1.0 {
            self.caught_up(now);
        }
        if jumped && self.completed > 0 {
            self.reconsider(now, true);
        }
    }

    fn completed(&mut self, now: Timestamp, sample: CheckpointSample) {
        let CheckpointSample { duration, pause, capacity, delta_bytes, base_bytes, rows, requests } = sample;
        self.in_flight = false;
        self.last_end = Some(now);
        self.completed = self.completed.saturating_add(1);
        self.aborted_in_a_row = 0;
        self.recovering.completed();
        let bytes = delta_bytes + base_bytes;
        if !self.counts_dirty {
            // One count per checkpoint: intervals of different lengths show the curve.
            self.curve.observe(self.updates_in_flight, rows);
            self.curve.end_epoch();
        }
        self.duration.observe(bytes, duration);
        self.pause.observe(bytes, pause);
        self.capacity_cost.observe(bytes, capacity.unwrap_or(pause + self.settings.slow_down * duration));
        if rows > 0.0 && delta_bytes >= 0.0 {
            self.row_bytes.update(1.0, delta_bytes / rows);
        }
        if base_bytes >= 0.0 {
            self.base_bytes.update(1.0, base_bytes);
        }
        if requests > 0.0 {
            self.requests.update(1.0, requests);
        }
        self.reconsider(now, false);
    }

    fn failed(&mut self, now: Timestamp, scope: Scope) {
        let changed = self.failures.failed(scope);
        let age = now.since(self.last_trigger).as_secs_f64();
        let predicted = self.predicted_recovery(now);
        self.recovering.failed(now, age, self.load.rate(), predicted);
        self.in_flight = false;
        self.notice = None;
        if changed {
            self.reconsider(now, true);
        }
    }

    fn caught_up(&mut self, now: Timestamp) {
        if let Some((recovery, predicted)) = self.recovering.caught_up(now) {
            self.recovery.check(predicted, recovery.total);
            self.recovery.observe(recovery);
            self.reconsider(now, false);
        }
    }

    /// Decides anew. A change that goals or guard rails ask for is made at once, others by and by unless `at_once`.
    fn reconsider(&mut self, now: Timestamp, at_once: bool) {
        let choice = self.situation(|situation| situation.choose());
        let current = self.decision.interval.as_secs_f64();
        let bound = |interval: f64| interval.min(choice.upper).max(choice.lower);
        let (low, high) = formula::band(self.settings.dead_band);
        // Where a bound binds, a little more than it asks for: it moves with every estimate, the interval should not.
        let binds = choice.interval >= choice.upper;
        let target = if binds { (choice.upper * low).max(choice.lower) } else { choice.interval };
        let ratio = target / current;
        let up = ratio > 1.0;
        let turns = up != self.turned.0 && self.completed.saturating_sub(self.turned.1) < TURN_AFTER;
        let wanted = if at_once || current > choice.upper {
            target
        } else if (low..=high).contains(&ratio) || turns {
            current
        } else {
            current * ratio.clamp(1.0 / MOST_STEP, MOST_STEP)
        };
        let interval = bound(wanted);
        if interval != current {
            self.turned = (interval > current, self.completed);
        }
        self.decide(now, interval, choice);
    }

    /// Puts a decision together.
    fn decide(&mut self, now: Timestamp, interval: f64, choice: Choice) {
        let (low, high) = formula::band(self.settings.lull);
        let whole = |seconds: f64| Duration::from_secs_f64(seconds.clamp(1e-3, 1e9));
        let latest = (interval * high).min(choice.upper).max(interval);
        let earliest = (interval * low).max(choice.lower).min(interval);
        let (kind, reason) = self.situation(|situation| {
            let cost = situation.cost(interval);
            let recovery = situation.recovery(interval);
            let rows_per_s = self.curve.at(self.load.updates() * interval).0 / interval;
            let reason = Reason {
                interval_s: interval,
                binds: choice.binds,
                optimum_s: choice.optimum,
                overhead: formula::overhead(interval, cost.cost, situation.mtbf, situation.weight),
                cost_s: cost.cost,
                dirty_per_s: (self.state.1 > 0.0).then(|| rows_per_s / self.state.1),
                dirty_rows_per_s: rows_per_s,
                restore_s: situation.outage,
                recovery_s: recovery,
                mtbf_s: situation.mtbf,
                utilisation: self.load.utilisation(),
                infeasible: choice.infeasible.clone(),
            };
            (self.kind(situation, interval), reason)
        });
        self.lulls.set_cycle(whole(interval));
        self.decision = Decision {
            at: now,
            interval: whole(interval),
            earliest: whole(earliest),
            latest: whole(latest),
            kind,
            timeout_factor: self.timeout_factor(),
            reason,
        };
    }

    fn timeout_factor(&self) -> u32 {
        1 << (self.aborted_in_a_row / FAILED_IN_A_ROW).min(10)
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the number of groups")]
    fn kind(&self, situation: &Situation<'_>, interval: f64) -> Kind {
        let delta = (situation.delta)(interval).0;
        if self.state.0 > 0.0 && delta >= self.state.0 {
            return Kind::Full;
        }
        let full = self.capacity_cost.at(self.state.0);
        let replay = delta / self.settings.restore_bytes_per_s;
        let by_cost = formula::chain_length(full, self.capacity_cost.at(delta), situation.mtbf, interval, replay);
        let by_restore = CHAIN_SHARE * situation.outage / replay;
        let chain =
            [by_cost, by_restore, self.settings.chain.max_segments as f64].into_iter().fold(f64::INFINITY, f64::min);
        let groups = f64::from(self.settings.groups);
        let most = (groups / self.settings.chain.spread.max(1) as f64).ceil();
        Kind::Incremental { bases: (groups / chain.max(1.0)).ceil().clamp(0.0, most) as u16 }
    }

    /// Hands what is known now to `ask`.
    fn situation<R>(&self, ask: impl FnOnce(&Situation<'_>) -> R) -> R {
        let updates = self.load.updates();
        let row_bytes = self.row_bytes.value().unwrap_or(0.0);
        let delta = |interval: f64| {
            let (rows, elasticity) = self.curve.at(updates * interval);
            (rows * row_bytes, elasticity)
        };
        ask(&Situation {
            settings: &self.settings,
            goals: &self.goals,
            delta: &delta,
            base_bytes: self.base_bytes.value().unwrap_or(0.0),
            capacity_cost: (self.capacity_cost.fixed(), self.capacity_cost.per_byte()),
            duration: (self.duration.fixed(), self.duration.per_byte()),
            requests: self.requests.value().unwrap_or(0.0),
            mtbf: self.failures.mtbf(),
            weight: self.settings.weight.when(self.load.utilisation(), self.load.utilisation_ahead()),
            outage: self.recovery.outage(self.state.0),
            planned_rate: self.load.peak(),
            capacity: self.capacity(),
            margin: self.margin(),
        })
    }

    fn capacity(&self) -> Option<f64> {
        self.load.capacity().or_else(|| self.recovery.capacity())
    }

    fn margin(&self) -> f64 {
        (STANDARD_ERRORS * self.recovery.error()).exp().min(MOST_MARGIN)
    }

    /// Returns how long a recovery would take if the job failed at `now`: the outage, and the catch-up of what was
    /// processed since the last checkpoint, of the backlog and of what comes in the outage.
    #[must_use]
    pub fn predicted_recovery(&self, now: Timestamp) -> f64 {
        let outage = self.recovery.outage(self.state.0);
        let Some(capacity) = self.capacity() else {
            return 2.0 * outage + now.since(self.last_trigger).as_secs_f64();
        };
        let rate = self.load.peak();
        let work = self.recovering.since_durable() + self.load.residence() * capacity + rate * outage;
        if rate >= capacity { f64::INFINITY } else { outage + work / (capacity - rate) }
    }

    /// Returns by how much longer a recovery takes for each `time` that it comes later.
    fn more_recovery(&self, time: Duration) -> f64 {
        let time = time.as_secs_f64();
        self.capacity().map_or(time, |capacity| formula::catch_up(time, self.load.peak(), capacity))
    }

    /// Returns whether a checkpoint should be started now.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        if self.in_flight || self.recovering.is_down() {
            return false;
        }
        let since = now.since(self.last_trigger);
        let paused = self.last_end.is_none_or(|end| now.since(end) >= self.settings.min_pause);
        if !paused || since < self.rail() {
            return false;
        }
        if self.notice.is_some_and(|deadline| now.after(self.before_notice()) >= deadline && now <= deadline) {
            return true;
        }
        if self.recovering.is_catching_up() {
            return self.too_much_to_redo();
        }
        since >= self.decision.latest
            || (since >= self.decision.earliest && self.lulls.is_lull(since, &self.decision))
            || self.recovery_is_at_stake(now)
    }

    /// Returns whether a second failure would undo more than it should. While the job catches up, time spent on checkpoints
    /// is time not spent on catching up, so that few are made; but then it works faster too, and each second is worth more.
    fn too_much_to_redo(&self) -> bool {
        let rho = self.load.utilisation().max(0.05);
        // The work of the interval that is best at full speed: there `w` is `1 / (1 - rho)`.
        let best = self.decision.interval.as_secs_f64() * self.load.rate() / rho.sqrt();
        self.recovering.since_durable() >= best
    }

    /// Returns the shortest time between two starts that the guard rails allow.
    fn rail(&self) -> Duration {
        let duration = self.duration.at(self.base_bytes.value().unwrap_or(0.0));
        let rail = duration / self.settings.busy_share;
        self.settings.shortest.max(Duration::from_secs_f64(rail.clamp(0.0, self.decision.interval.as_secs_f64())))
    }

    fn before_notice(&self) -> Duration {
        let duration = 1.5 * self.duration.at(self.situation(|s| s.bytes(self.decision.interval.as_secs_f64())));
        Duration::from_secs_f64(duration.clamp(0.0, 1e9)).max(self.settings.shortest)
    }

    /// Returns whether waiting on would break the recovery goal: more was processed than the interval was planned for.
    fn recovery_is_at_stake(&self, now: Timestamp) -> bool {
        let Some(goal) = self.goals.recovery else { return false };
        // What is so from the start of an interval on is no surprise: the interval was chosen with it.
        if now.since(self.last_trigger) < self.decision.interval / 2 {
            return false;
        }
        let possible = !matches!(self.decision.reason.infeasible, Some(super::Infeasible::Recovery { .. }));
        // A checkpoint that starts now helps from when it is durable.
        let meanwhile = Duration::from_secs_f64(self.before_notice().as_secs_f64() / 1.5);
        let then = self.predicted_recovery(now) + self.more_recovery(meanwhile);
        possible && then * self.margin() >= goal.as_secs_f64()
    }

    /// Returns when to ask [`Controller::is_due`] again at the latest.
    #[must_use]
    pub fn deadline(&self) -> Timestamp {
        let hard = if self.recovering.is_catching_up() { 2 * self.decision.latest } else { self.decision.latest };
        let hard = self.last_trigger.after(hard.max(self.rail()));
        self.notice.map_or(hard, |deadline| {
            let before = i64::try_from(self.before_notice().as_millis()).unwrap_or(i64::MAX);
            hard.min(Timestamp::from_millis(deadline.as_millis().saturating_sub(before)))
        })
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

    /// Returns the longest pause that a checkpoint of the usual size makes, s.
    #[must_use]
    pub fn pause(&self) -> f64 {
        self.pause.at(self.situation(|situation| situation.bytes(self.decision.interval.as_secs_f64())))
    }
}

fn first_reason(settings: &IntervalSettings) -> Reason {
    let first = settings.first.as_secs_f64();
    Reason {
        interval_s: first,
        binds: Bound::First,
        optimum_s: first,
        overhead: 0.0,
        cost_s: 0.0,
        dirty_per_s: None,
        dirty_rows_per_s: 0.0,
        restore_s: settings.restart.as_secs_f64(),
        recovery_s: 0.0,
        mtbf_s: settings.failures.job_mtbf,
        utilisation: 0.0,
        infeasible: None,
    }
}
