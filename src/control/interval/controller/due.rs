//! When the next checkpoint is due.

use std::time::Duration;

use super::Controller;
use crate::control::interval::Infeasible;
use crate::time::Timestamp;

/// While the job catches up, nothing but what is at stake asks for a checkpoint for up to this many intervals.
const SUPPRESSED: u32 = 2;

/// A checkpoint before a node goes begins this many times its expected duration ahead.
const AHEAD: f64 = 1.5;

impl Controller {
    /// Returns whether a checkpoint should be started now.
    ///
    /// Never while one is in flight, nor from a failure until the job is restored, processes records or triggers a
    /// checkpoint, or until the recovery that was predicted is over, if none of these is told.
    pub fn is_due(&mut self, now: Timestamp) -> bool {
        let now = self.clock.advance(now);
        self.due_by().is_some_and(|by| now >= by) || self.is_due_early(now)
    }

    /// Returns the time from which [`Controller::is_due`] is true if nothing else is observed; `None` while a checkpoint is in
    /// flight. A lull, or a surge, can make one due earlier: ask again after each observation.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        self.due_by().map(|by| self.clock.tell(by))
    }

    fn due_by(&self) -> Option<Timestamp> {
        let from = self.allowed_from()?;
        let latest = self.began.after(self.decision.latest);
        let suppressed = self.catching_up_until().unwrap_or(latest);
        let by = from.max(latest.max(suppressed).min(self.began.after(SUPPRESSED * self.decision.latest)));
        let notice = self.notice.filter(|deadline| from <= *deadline);
        Some(notice.map_or(by, |deadline| by.min(from.max(deadline.before(self.time_ahead())))))
    }

    /// Returns from when on guard rails allow a checkpoint; `None` while one is in flight.
    fn allowed_from(&self) -> Option<Timestamp> {
        if self.in_flight {
            return None;
        }
        let paused = self.ended.map_or(self.started, |ended| ended.after(self.settings.min_pause));
        let from = self.started.after(self.least_gap()).max(paused);
        Some(self.down_until().map_or(from, |up| from.max(up)))
    }

    /// Returns the shortest time between two starts that the guard rails allow. After each abort it doubles, up to the
    /// interval: the age of the last durable checkpoint asks for another soon, a store that is ill for patience.
    fn least_gap(&self) -> Duration {
        let backed_off = self.rail.saturating_mul(1 << self.aborted_in_a_row.min(20));
        backed_off.min(self.decision.interval).max(self.rail)
    }

    /// Returns until when a job that failed is down, if nobody tells.
    pub(super) fn down_until(&self) -> Option<Timestamp> {
        self.recovering.is_down().then(|| self.recovering.expected_end(self.settings.longest)).flatten()
    }

    /// Returns until when a job is catching up, if it is: where nobody tells of a backlog, for as long as was predicted.
    fn catching_up_until(&self) -> Option<Timestamp> {
        if !self.recovering.is_catching_up() {
            return None;
        }
        let told = self.load.backlog().is_some();
        if told { Some(Timestamp::MAX) } else { self.recovering.expected_end(self.settings.longest) }
    }

    fn is_due_early(&self, now: Timestamp) -> bool {
        if self.allowed_from().is_none_or(|from| now < from) {
            return false;
        }
        if self.catching_up_until().is_some_and(|until| now < until) {
            return now >= self.started.after(self.lower) && self.too_much_to_redo();
        }
        let since = now.since(self.began);
        (since >= self.decision.earliest && self.lulls.is_lull(since, &self.decision)) || self.recovery_is_at_stake(now)
    }

    /// Returns whether a second failure would undo more than it should. While the job catches up, time spent on checkpoints
    /// is time not spent on catching up, so that few are made; but then it works faster too, and each second is worth more.
    fn too_much_to_redo(&self) -> bool {
        let rho = self.load.utilisation().max(0.05);
        // The work of the interval that is best at full speed: there `w` is `1 / (1 - rho)`. None if no load was seen.
        let best = self.decision.interval.as_secs_f64() * self.load.rate() / rho.sqrt();
        best > 0.0 && self.recovering.since_durable() >= best
    }

    /// Returns how long a checkpoint of the decided interval should take.
    fn expected_duration(&self) -> Duration {
        let seconds = self.situation(|situation| situation.duration(self.decision.interval.as_secs_f64()));
        Duration::from_secs_f64(seconds.clamp(0.0, 1e9))
    }

    /// Returns how long before a node goes a checkpoint has to begin.
    fn time_ahead(&self) -> Duration {
        self.expected_duration().mul_f64(AHEAD).max(self.settings.shortest)
    }

    /// Returns whether waiting on would break the recovery goal: more was processed than the interval was planned for.
    fn recovery_is_at_stake(&self, now: Timestamp) -> bool {
        let Some(goal) = self.goals.recovery else { return false };
        // What is so from the start of an interval on is no surprise: the interval was chosen with it.
        if now.since(self.began) < self.decision.interval / 2 {
            return false;
        }
        let possible = !matches!(self.decision.reason.infeasible, Some(Infeasible::Recovery { .. }));
        // A checkpoint that starts now helps from when it is durable.
        let then = self.recovery_from(now) + self.more_recovery(self.expected_duration());
        possible && then * self.margin() >= goal.as_secs_f64()
    }

    /// Returns how long a recovery would take, s, if the job failed at `now`: the outage, and the catch-up of what was
    /// processed since the last checkpoint, of the backlog and of what comes in the outage.
    #[must_use]
    pub fn predicted_recovery(&self, now: Timestamp) -> f64 {
        self.recovery_from(self.clock.read(now))
    }

    pub(super) fn recovery_from(&self, now: Timestamp) -> f64 {
        let waiting = self.recovering.since_durable() + self.load.backlog().unwrap_or(0.0);
        let since = now.since(self.began).as_secs_f64();
        self.situation(|situation| {
            let missed = situation.missed();
            situation.outage + situation.catch_up(waiting + situation.planned_rate * missed, since + missed, 1.0)
        })
    }

    /// Returns by how much longer a recovery takes, s, if the failure comes so much later.
    fn more_recovery(&self, time: Duration) -> f64 {
        let time = time.as_secs_f64();
        self.situation(|situation| situation.catch_up(time * situation.planned_rate, time, 1.0))
    }
}
