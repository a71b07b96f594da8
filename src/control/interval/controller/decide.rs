//! Decisions on the interval.

use std::time::Duration;

use super::Controller;
use super::progress::Change;
use crate::control::formula;
use crate::control::interval::bound::Bound;
use crate::control::interval::costs::Line;
use crate::control::interval::decision::{CheckpointKind, Decision};
use crate::control::interval::reason::{Damping, Reason};
use crate::control::interval::situation::{Choice, Situation};
use crate::time::Timestamp;

/// Largest factor by which an interval changes at a time.
const MAX_STEP: f64 = 2.0;

/// Checkpoints between a change and one in the other direction.
const TURN_AFTER: u32 = 3;

/// Checkpoints after which budgets and guard rails may lengthen the interval by more than one step: a single measurement may
/// be an outlier.
const TRUSTED_AFTER: u32 = 2;

/// Room for error in a planned recovery, in standard errors: one recovery in a hundred takes longer.
const STANDARD_ERRORS: f64 = 2.33;

/// Largest margin for error: beyond it, more checkpoints would not help.
const MAX_MARGIN: f64 = 1.25;

/// Largest share of the outage spent on reading a chain of deltas.
const CHAIN_SHARE: f64 = 0.25;

/// Share of dirty rows from which a checkpoint is full: it costs little more, and a restore reads one segment.
const FULL_FROM: f64 = 0.9;

/// A step from the current interval towards the target, s.
struct Step {
    interval: f64,
    target: f64,
    damping: Option<Damping>,
}

impl Controller {
    /// Decides on the first interval; goals and guard rails may override the setting.
    pub(super) fn decide_first(&mut self, now: Timestamp) {
        let choice = self.with_situation(|situation| situation.choose());
        let first = self.settings.first.clamp(self.settings.shortest, self.settings.longest).as_secs_f64();
        let interval = first.min(choice.upper).max(choice.lower);
        let binds = if interval == first { Bound::First } else { choice.binds };
        let step = Step { interval, target: interval, damping: None };
        self.decide(now, &step, &Choice { binds, ..choice });
    }

    /// Decides again. Goals and guard rails take effect at once; other changes are damped unless `at_once`.
    pub(super) fn reconsider(&mut self, now: Timestamp, at_once: bool) {
        let mut choice = self.with_situation(|situation| situation.choose());
        let current = self.decided.decision.interval.as_secs_f64();
        let completed = self.checkpoints.completed;
        if completed < TRUSTED_AFTER {
            choice.rail = choice.rail.min(MAX_STEP * current);
            choice.lower = choice.lower.min(MAX_STEP * current);
        }
        let target = self.target(&choice);
        let (wanted, damping) =
            if at_once || current > choice.upper { (target, None) } else { self.damped(current, target) };
        let interval = wanted.min(choice.upper).max(choice.lower);
        if interval != current {
            self.decided.last_change = Change { longer: interval > current, completed };
        }
        let damping = damping.filter(|_| interval != target);
        self.decide(now, &Step { interval, target, damping }, &choice);
    }

    /// Returns the target interval. Below a bound that moves with every estimate the target keeps a distance, so that the
    /// interval does not move as often.
    fn target(&self, choice: &Choice) -> f64 {
        let moves = matches!(choice.binds, Bound::Recovery(_) | Bound::RecoveryPoint(_) | Bound::DeltaBytes(_));
        let (low, _) = formula::band(self.settings.dead_band);
        if moves { (choice.upper * low).max(choice.lower) } else { choice.interval }
    }

    /// Returns the next interval on the way from `current` to `target`, and what limits the step.
    fn damped(&self, current: f64, target: f64) -> (f64, Option<Damping>) {
        let (low, high) = formula::band(self.settings.dead_band);
        let ratio = target / current;
        let last = self.decided.last_change;
        let turns =
            (ratio > 1.0) != last.longer && self.checkpoints.completed.saturating_sub(last.completed) < TURN_AFTER;
        if (low..=high).contains(&ratio) {
            (current, Some(Damping::DeadBand))
        } else if turns {
            (current, Some(Damping::Turn))
        } else if !(1.0 / MAX_STEP..=MAX_STEP).contains(&ratio) {
            (current * ratio.clamp(1.0 / MAX_STEP, MAX_STEP), Some(Damping::Step))
        } else {
            (target, None)
        }
    }

    /// Puts a decision into force.
    fn decide(&mut self, now: Timestamp, step: &Step, choice: &Choice) {
        let interval = step.interval;
        let (low, high) = formula::band(self.settings.lull);
        let latest = (interval * high).min(choice.upper).max(interval);
        let earliest = (interval * low).max(choice.lower).min(interval);
        let (kind, reason) =
            self.with_situation(|situation| (self.kind(situation, interval), self.reason(situation, step, choice)));
        self.lulls.set_cycle(duration(interval));
        self.decided.rail = duration(choice.rail);
        self.decided.lower = duration(choice.lower);
        self.decided.decision = Decision {
            at: self.clock.caller_at(now),
            interval: duration(interval),
            earliest: duration(earliest),
            latest: duration(latest),
            kind,
            timeout_factor: self.timeout.factor(),
            reason,
        };
    }

    fn reason(&self, situation: &Situation<'_>, step: &Step, choice: &Choice) -> Reason {
        let cost = situation.cost(step.interval).cost;
        let rows_per_s = self.model.dirty_rows(step.interval) / step.interval;
        let all_rows = self.model.state.rows;
        Reason {
            interval_s: step.interval,
            binds: choice.binds,
            target_s: step.target,
            damping: step.damping,
            optimum_s: choice.optimum,
            overhead: formula::overhead(step.interval, cost, situation.mtbf, situation.weight),
            cost_s: cost,
            dirty_per_s: (all_rows > 0.0).then(|| rows_per_s / all_rows),
            dirty_rows_per_s: rows_per_s,
            restore_s: situation.outage,
            recovery_s: situation.recovery(step.interval),
            mtbf_s: situation.mtbf,
            utilisation: self.model.load.utilisation(),
            infeasible: choice.infeasible.clone(),
        }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the number of groups")]
    fn kind(&self, situation: &Situation<'_>, interval: f64) -> CheckpointKind {
        let state = self.model.state;
        if state.rows > 0.0 && self.model.dirty_rows(interval) >= FULL_FROM * state.rows {
            return CheckpointKind::Full;
        }
        let delta = (situation.delta)(interval).bytes;
        let cost = &self.model.costs.capacity;
        let replay = delta / self.settings.restore_bytes_per_s;
        let by_cost = formula::chain_length(cost.at(state.bytes), cost.at(delta), situation.mtbf, interval, replay);
        let by_restore = CHAIN_SHARE * situation.outage / replay;
        let by_policy = self.settings.chain.max_segments as f64;
        let chain = [by_cost, by_restore, by_policy].into_iter().fold(f64::INFINITY, f64::min);
        let groups = f64::from(self.settings.groups);
        let most = (groups / self.settings.chain.spread.max(1) as f64).ceil();
        CheckpointKind::Incremental { bases: (groups / chain.max(1.0)).ceil().clamp(0.0, most) as u16 }
    }

    /// Calls `ask` with the current situation.
    pub(super) fn with_situation<R>(&self, ask: impl FnOnce(&Situation<'_>) -> R) -> R {
        let Self { model, settings, goals, .. } = self;
        ask(&Situation {
            settings,
            goals,
            delta: &|interval| model.delta(interval),
            base_bytes: model.costs.base_bytes(),
            capacity_cost: Line::of(&model.costs.capacity),
            duration: Line::of(&model.costs.duration),
            requests: model.costs.requests(),
            mtbf: model.failures.mtbf(),
            weight: settings.weight.when(model.load.utilisation(), model.load.utilisation_ahead()),
            outage: model.outage(),
            planned_rate: model.load.peak(),
            capacity: model.capacity(),
            margin: self.margin(),
        })
    }

    pub(super) fn margin(&self) -> f64 {
        (STANDARD_ERRORS * self.model.recovery.error()).exp().min(MAX_MARGIN)
    }
}

/// Converts an estimate to a duration within sane limits.
fn duration(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(1e-3, 1e9))
}
