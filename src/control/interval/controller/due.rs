//! When the next checkpoint is due.

use std::time::Duration;

use super::Controller;
use crate::control::interval::infeasible::Infeasible;
use crate::time::Timestamp;

/// Intervals for which a catch-up suppresses scheduled checkpoints.
const SUPPRESSED: u32 = 2;

/// A checkpoint before a node loss starts this many expected durations ahead.
const AHEAD: f64 = 1.5;

impl Controller {
    /// Returns whether a checkpoint should be started now.
    ///
    /// Never true while a checkpoint is in flight or the job is down: from a failure until the job is restored, processes records
    /// or triggers a checkpoint, or until the predicted recovery has passed if none of these is reported.
    pub fn is_due(&mut self, now: Timestamp) -> bool {
        let now = self.clock.advance(now);
        self.due_by().is_some_and(|by| now >= by) || self.is_due_early(now)
    }

    /// Returns the time from which [`Controller::is_due`] returns true without further observations; `None` while a checkpoint is
    /// in flight. A lull or a surge can make a checkpoint due earlier, so call `is_due` after each observation.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        self.due_by().map(|by| self.clock.caller_at(by))
    }

    fn due_by(&self) -> Option<Timestamp> {
        let from = self.allowed_from()?;
        let (start, latest) = (self.checkpoints.interval_start, self.decided.decision.latest);
        let scheduled = start.after(latest);
        let suppressed = self.catching_up_until().unwrap_or(scheduled);
        let by = from.max(scheduled.max(suppressed).min(start.after(SUPPRESSED * latest)));
        let node_loss = self.announced.node_loss.filter(|deadline| from <= *deadline);
        Some(node_loss.map_or(by, |deadline| by.min(from.max(deadline.before(self.time_ahead())))))
    }

    /// Returns the time from which the guard rails allow a checkpoint; `None` while one is in flight.
    fn allowed_from(&self) -> Option<Timestamp> {
        let checkpoints = &self.checkpoints;
        if checkpoints.in_flight {
            return None;
        }
        let paused = checkpoints.last_end.map_or(checkpoints.last_trigger, |end| end.after(self.settings.min_pause));
        let from = checkpoints.last_trigger.after(self.min_gap()).max(paused);
        Some(self.down_until().map_or(from, |up| from.max(up)))
    }

    /// Returns the shortest time between two starts. The gap doubles with each abort in a row, up to the interval: a retry
    /// soon keeps the last durable checkpoint young, but must not overload a failing store.
    fn min_gap(&self) -> Duration {
        let backed_off = self.decided.rail.saturating_mul(1 << self.checkpoints.aborts_in_a_row.min(20));
        backed_off.min(self.decided.decision.interval).max(self.decided.rail)
    }

    /// Returns the time until which a failed job counts as down if nothing shows it to be up.
    pub(super) fn down_until(&self) -> Option<Timestamp> {
        self.recovery.is_down().then(|| self.recovery.expected_end(self.settings.longest)).flatten()
    }

    /// Returns the time until which the job is catching up, if it is; without backlog reports, the predicted time.
    fn catching_up_until(&self) -> Option<Timestamp> {
        if !self.recovery.is_catching_up() {
            return None;
        }
        let backlog_reported = self.model.load.backlog().is_some();
        if backlog_reported { Some(Timestamp::MAX) } else { self.recovery.expected_end(self.settings.longest) }
    }

    fn is_due_early(&self, now: Timestamp) -> bool {
        if self.allowed_from().is_none_or(|from| now < from) {
            return false;
        }
        if self.catching_up_until().is_some_and(|until| now < until) {
            return now >= self.checkpoints.last_trigger.after(self.decided.lower) && self.too_much_to_redo();
        }
        let since = now.since(self.checkpoints.interval_start);
        let decision = &self.decided.decision;
        (since >= decision.earliest && self.lulls.is_lull(since, decision)) || self.recovery_is_at_stake(now)
    }

    /// Returns whether a second failure during the catch-up would undo too much. Checkpoints delay the catch-up, so few are
    /// made; but the job also works faster then, and each second is worth more.
    fn too_much_to_redo(&self) -> bool {
        let load = &self.model.load;
        let rho = load.utilisation().max(0.05);
        // The work of the best interval at full speed, where `w` is `1 / (1 - rho)`. 0 without a load sample.
        let best = self.decided.decision.interval.as_secs_f64() * load.rate() / rho.sqrt();
        best > 0.0 && self.recovery.since_durable() >= best
    }

    /// Returns the expected duration of a checkpoint at the decided interval.
    fn expected_duration(&self) -> Duration {
        let interval = self.decided.decision.interval.as_secs_f64();
        let seconds = self.with_situation(|situation| situation.duration(interval));
        Duration::from_secs_f64(seconds.clamp(0.0, 1e9))
    }

    /// Returns how long before a node loss a checkpoint has to start.
    fn time_ahead(&self) -> Duration {
        self.expected_duration().mul_f64(AHEAD).max(self.settings.shortest)
    }

    /// Returns whether waiting longer would break the recovery goal: a surge brought more records than planned for.
    fn recovery_is_at_stake(&self, now: Timestamp) -> bool {
        let Some(goal) = self.goals.recovery else { return false };
        // No surge yet: the interval was chosen with this recovery in mind.
        if now.since(self.checkpoints.interval_start) < self.decided.decision.interval / 2 {
            return false;
        }
        let feasible = !matches!(self.decided.decision.reason.infeasible, Some(Infeasible::Recovery { .. }));
        // A checkpoint that starts now helps only once it is durable.
        let then = self.recovery_from(now) + self.added_recovery(self.expected_duration());
        feasible && then * self.margin() >= goal.as_secs_f64()
    }

    /// Returns the recovery, s, if the job failed at `now`: the outage, and the catch-up with the records processed since the
    /// last checkpoint, the backlog, and the input of the outage.
    #[must_use]
    pub fn predicted_recovery(&self, now: Timestamp) -> f64 {
        self.recovery_from(self.clock.read(now))
    }

    pub(super) fn recovery_from(&self, now: Timestamp) -> f64 {
        let behind = self.recovery.since_durable() + self.model.load.backlog().unwrap_or(0.0);
        let since = now.since(self.checkpoints.interval_start).as_secs_f64();
        self.with_situation(|situation| {
            let missed = situation.missed();
            situation.outage + situation.catch_up(behind + situation.planned_rate * missed, since + missed, 1.0)
        })
    }

    /// Returns how much longer recovery takes, s, if the failure comes `time` later.
    fn added_recovery(&self, time: Duration) -> f64 {
        let time = time.as_secs_f64();
        self.with_situation(|situation| situation.catch_up(time * situation.planned_rate, time, 1.0))
    }
}
