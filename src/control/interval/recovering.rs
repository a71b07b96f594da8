//! Where the job stands between a failure and having caught up, and what a failure would undo.

use std::time::Duration;

use crate::control::estimate::Recovery;
use crate::time::Timestamp;

/// Follows failures, restores and catch-ups, and counts what was processed since the checkpoints.
#[derive(Debug, Clone, Default)]
pub(super) struct Recovering {
    phase: Phase,
    /// Records processed since the barrier of the last durable checkpoint, and since that of the one in flight.
    since_durable: f64,
    since_trigger: Option<f64>,
}

#[derive(Debug, Clone, Copy, Default)]
enum Phase {
    #[default]
    Running,
    Down(Begun),
    CatchingUp(Begun, f64),
}

/// A recovery that is under way.
#[derive(Debug, Clone, Copy)]
struct Begun {
    at: Timestamp,
    age: f64,
    rate: f64,
    predicted: f64,
    /// Another failure came before it was over, or nobody saw the failure: it says nothing.
    disturbed: bool,
}

impl Recovering {
    /// Notes that `records` were processed since `from`.
    pub(super) fn processed(&mut self, from: Timestamp, records: f64) {
        if records.is_finite() && records > 0.0 {
            self.since_durable += records;
            self.since_trigger = self.since_trigger.map(|since| since + records);
            // What was processed in part before the failure shows nothing.
            if matches!(self.phase, Phase::Down(begun) if begun.at <= from) {
                self.phase = Phase::Running;
            }
        }
    }

    /// Notes that a barrier was made: a job that is down makes none.
    pub(super) fn triggered(&mut self) {
        self.since_trigger = Some(0.0);
        if self.is_down() {
            self.phase = Phase::Running;
        }
    }

    /// Notes that the checkpoint in flight is durable.
    pub(super) fn completed(&mut self) {
        if let Some(since) = self.since_trigger.take() {
            self.since_durable = since;
        }
    }

    /// Notes that the checkpoint in flight was given up.
    pub(super) fn aborted(&mut self) {
        self.since_trigger = None;
    }

    /// Notes a failure.
    pub(super) fn failed(&mut self, at: Timestamp, age: f64, rate: f64, predicted: f64) {
        let disturbed = !matches!(self.phase, Phase::Running);
        self.phase = Phase::Down(Begun { at, age, rate, predicted, disturbed });
    }

    /// Notes a failure that nobody saw: when it happened is not known well enough to learn from the catch-up.
    pub(super) fn failed_unseen(&mut self, at: Timestamp, predicted: f64) {
        self.phase = Phase::Down(Begun { at, age: 0.0, rate: 0.0, predicted, disturbed: true });
    }

    /// Notes that records are processed again; returns the outage, s, if there was one.
    pub(super) fn restored(&mut self, now: Timestamp) -> Option<f64> {
        (self.since_durable, self.since_trigger) = (0.0, None);
        let Phase::Down(begun) = self.phase else { return None };
        let outage = now.since(begun.at).as_secs_f64();
        self.phase = Phase::CatchingUp(begun, outage);
        Some(outage)
    }

    /// Notes that the newest input is reached; returns the recovery and what had been predicted of it.
    pub(super) fn caught_up(&mut self, now: Timestamp) -> Option<(Recovery, f64)> {
        let Phase::CatchingUp(begun, outage) = self.phase else { return None };
        self.phase = Phase::Running;
        let total = now.since(begun.at).as_secs_f64();
        let recovery = Recovery { age: begun.age, rate: begun.rate, outage: Some(outage), total };
        (!begun.disturbed).then_some((recovery, begun.predicted))
    }

    pub(super) fn is_down(&self) -> bool {
        matches!(self.phase, Phase::Down(_))
    }

    pub(super) fn is_catching_up(&self) -> bool {
        matches!(self.phase, Phase::CatchingUp(..))
    }

    /// Returns when the recovery that is under way was predicted to be over, `most` after the failure at the latest.
    pub(super) fn expected_end(&self, most: Duration) -> Option<Timestamp> {
        let (Phase::Down(begun) | Phase::CatchingUp(begun, _)) = self.phase else { return None };
        let predicted = Duration::try_from_secs_f64(begun.predicted).unwrap_or(most);
        Some(begun.at.after(predicted.min(most)))
    }

    /// Returns the records that a failure now would make the job process again.
    pub(super) fn since_durable(&self) -> f64 {
        self.since_durable
    }
}
