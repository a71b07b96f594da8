//! Deciding on the interval, and putting a decision together.

use std::time::Duration;

use super::{Controller, Decision, Kind};
use crate::control::formula;
use crate::control::interval::bounds::{Bound, Choice, Situation};
use crate::control::interval::reason::{Damping, Reason};
use crate::control::interval::settings::IntervalSettings;
use crate::time::Timestamp;

/// An interval changes by at most this factor at a time.
const MOST_STEP: f64 = 2.0;

/// Checkpoints between a change and one in the other direction.
const TURN_AFTER: u32 = 3;

/// Checkpoints after which the interval may become as long as their costs ask for at once: a single one may have been odd.
const TRUSTED_AFTER: u32 = 2;

/// A recovery is planned to take at most the goal but for this many standard errors: one in a hundred takes longer.
const STANDARD_ERRORS: f64 = 2.33;

/// That room for error is at most this: beyond, to make checkpoints more often would not help.
const MOST_MARGIN: f64 = 1.25;

/// Part of the outage that reading a chain of deltas may take.
const CHAIN_SHARE: f64 = 0.25;

/// Where this share of the rows is dirty, a checkpoint writes all: it costs little more, and a restore reads one segment.
const ALL: f64 = 0.9;

/// A timeout is doubled so often at most.
const MOST_DOUBLINGS: u32 = 10;

/// Failed checkpoints in a row after which the timeout is doubled.
const FAILED_IN_A_ROW: u32 = 2;

/// An interval that was decided on, and what it is on its way to.
struct Step {
    interval: f64,
    target: f64,
    damping: Option<Damping>,
}

impl Controller {
    /// Decides on the first interval, of which goals and guard rails may leave nothing.
    pub(super) fn decide_first(&mut self, now: Timestamp) {
        let choice = self.situation(|situation| situation.choose());
        let first = self.settings.first.clamp(self.settings.shortest, self.settings.longest).as_secs_f64();
        let interval = first.min(choice.upper).max(choice.lower);
        let binds = if interval == first { Bound::First } else { choice.binds };
        let step = Step { interval, target: interval, damping: None };
        self.decide(now, &step, &Choice { binds, ..choice });
    }

    /// Decides anew. A change that goals or guard rails ask for is made at once, others by and by unless `at_once`.
    pub(super) fn reconsider(&mut self, now: Timestamp, at_once: bool) {
        let mut choice = self.situation(|situation| situation.choose());
        let current = self.decision.interval.as_secs_f64();
        if self.completed < TRUSTED_AFTER {
            choice.rail = choice.rail.min(MOST_STEP * current);
            choice.lower = choice.lower.min(MOST_STEP * current);
        }
        let target = self.target(&choice);
        let (wanted, damping) =
            if at_once || current > choice.upper { (target, None) } else { self.damped(current, target) };
        let interval = wanted.min(choice.upper).max(choice.lower);
        if interval != current {
            self.turned = (interval > current, self.completed);
        }
        let damping = damping.filter(|_| interval != target);
        self.decide(now, &Step { interval, target, damping }, &choice);
    }

    /// Returns the interval to go to. Where a bound binds from above, a little less than it allows: it moves with every
    /// estimate, the interval should not. The longest interval does not move.
    fn target(&self, choice: &Choice) -> f64 {
        let moves = matches!(choice.binds, Bound::Recovery(_) | Bound::RecoveryPoint(_) | Bound::DeltaBytes(_));
        let (low, _) = formula::band(self.settings.dead_band);
        if moves { (choice.upper * low).max(choice.lower) } else { choice.interval }
    }

    /// Returns how far to go from the `current` interval towards the target, and what keeps it from going all the way.
    fn damped(&self, current: f64, target: f64) -> (f64, Option<Damping>) {
        let (low, high) = formula::band(self.settings.dead_band);
        let ratio = target / current;
        let turns = (ratio > 1.0) != self.turned.0 && self.completed.saturating_sub(self.turned.1) < TURN_AFTER;
        if (low..=high).contains(&ratio) {
            (current, Some(Damping::DeadBand))
        } else if turns {
            (current, Some(Damping::Turn))
        } else if !(1.0 / MOST_STEP..=MOST_STEP).contains(&ratio) {
            (current * ratio.clamp(1.0 / MOST_STEP, MOST_STEP), Some(Damping::Step))
        } else {
            (target, None)
        }
    }

    /// Puts a decision together.
    fn decide(&mut self, now: Timestamp, step: &Step, choice: &Choice) {
        let interval = step.interval;
        let (low, high) = formula::band(self.settings.lull);
        let latest = (interval * high).min(choice.upper).max(interval);
        let earliest = (interval * low).max(choice.lower).min(interval);
        let (kind, reason) =
            self.situation(|situation| (self.kind(situation, interval), self.reason(situation, step, choice)));
        self.lulls.set_cycle(whole(interval));
        (self.rail, self.lower) = (whole(choice.rail), whole(choice.lower));
        self.decision = Decision {
            at: self.clock.tell(now),
            interval: whole(interval),
            earliest: whole(earliest),
            latest: whole(latest),
            kind,
            timeout_factor: self.timeout_factor(),
            reason,
        };
    }

    fn reason(&self, situation: &Situation<'_>, step: &Step, choice: &Choice) -> Reason {
        let cost = situation.cost(step.interval).cost;
        let rows_per_s = self.curve.at(self.load.updates() * step.interval).0 / step.interval;
        Reason {
            interval_s: step.interval,
            binds: choice.binds,
            target_s: step.target,
            damping: step.damping,
            optimum_s: choice.optimum,
            overhead: formula::overhead(step.interval, cost, situation.mtbf, situation.weight),
            cost_s: cost,
            dirty_per_s: (self.state.1 > 0.0).then(|| rows_per_s / self.state.1),
            dirty_rows_per_s: rows_per_s,
            restore_s: situation.outage,
            recovery_s: situation.recovery(step.interval),
            mtbf_s: situation.mtbf,
            utilisation: self.load.utilisation(),
            infeasible: choice.infeasible.clone(),
        }
    }

    fn timeout_factor(&self) -> u32 {
        1 << self.doublings
    }

    /// Doubles the timeout if checkpoints fail again and again.
    pub(super) fn gain_patience(&mut self) {
        if self.aborted_in_a_row.is_multiple_of(FAILED_IN_A_ROW) {
            self.doublings = (self.doublings + 1).min(MOST_DOUBLINGS);
            self.decision.timeout_factor = self.timeout_factor();
        }
    }

    /// Halves the timeout again once a checkpoint took less than half of what would be left: at what a slow store takes now it
    /// must not fail again.
    pub(super) fn lose_patience(&mut self, duration: f64) {
        let timeout = self.settings.timeout.as_secs_f64() * f64::from(self.timeout_factor());
        if duration < timeout / 4.0 {
            self.doublings = self.doublings.saturating_sub(1);
        }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the number of groups")]
    fn kind(&self, situation: &Situation<'_>, interval: f64) -> Kind {
        let (dirty_rows, _) = self.curve.at(self.load.updates() * interval);
        if self.state.1 > 0.0 && dirty_rows >= ALL * self.state.1 {
            return Kind::Full;
        }
        let delta = (situation.delta)(interval).0;
        let (full, part) = (self.costs.capacity.at(self.state.0), self.costs.capacity.at(delta));
        let replay = delta / self.settings.restore_bytes_per_s;
        let by_cost = formula::chain_length(full, part, situation.mtbf, interval, replay);
        let by_restore = CHAIN_SHARE * situation.outage / replay;
        let chain =
            [by_cost, by_restore, self.settings.chain.max_segments as f64].into_iter().fold(f64::INFINITY, f64::min);
        let groups = f64::from(self.settings.groups);
        let most = (groups / self.settings.chain.spread.max(1) as f64).ceil();
        Kind::Incremental { bases: (groups / chain.max(1.0)).ceil().clamp(0.0, most) as u16 }
    }

    /// Hands what is known now to `ask`.
    pub(super) fn situation<R>(&self, ask: impl FnOnce(&Situation<'_>) -> R) -> R {
        let updates = self.load.updates();
        let delta = |interval: f64| self.costs.delta(self.curve.at(updates * interval));
        ask(&Situation {
            settings: &self.settings,
            goals: &self.goals,
            delta: &delta,
            base_bytes: self.costs.base_bytes(),
            capacity_cost: (self.costs.capacity.fixed(), self.costs.capacity.per_byte()),
            duration: (self.costs.duration.fixed(), self.costs.duration.per_byte()),
            requests: self.costs.requests(),
            mtbf: self.failures.mtbf(),
            weight: self.settings.weight.when(self.load.utilisation(), self.load.utilisation_ahead()),
            outage: self.recovery.outage(self.state.0),
            planned_rate: self.load.peak(),
            capacity: self.load.capacity().or_else(|| self.recovery.capacity()),
            margin: self.margin(),
        })
    }

    pub(super) fn margin(&self) -> f64 {
        (STANDARD_ERRORS * self.recovery.error()).exp().min(MOST_MARGIN)
    }
}

fn whole(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(1e-3, 1e9))
}

impl Decision {
    /// Returns what holds while nothing is known.
    pub(super) fn first(settings: &IntervalSettings, now: Timestamp) -> Self {
        let first = settings.first;
        Self {
            at: now,
            interval: first,
            earliest: first,
            latest: first,
            kind: Kind::Incremental { bases: 0 },
            timeout_factor: 1,
            reason: Reason::first(settings),
        }
    }
}
