//! The progress of a recovery, and the work that a failure would undo.

use std::time::Duration;

use crate::control::estimate::Recovery;
use crate::time::Timestamp;

/// Follows failures, restores and catch-ups, and counts the records processed since the last checkpoints.
#[derive(Debug, Clone, Default)]
pub(super) struct RecoveryProgress {
    phase: Phase,
    /// Records processed since the barrier of the last durable checkpoint.
    since_durable: f64,
    /// Records processed since the barrier of the checkpoint in flight.
    since_trigger: Option<f64>,
}

#[derive(Debug, Clone, Copy, Default)]
enum Phase {
    #[default]
    Running,
    Down(Failure),
    CatchingUp {
        failure: Failure,
        /// s.
        outage: f64,
    },
}

/// The failure that began a recovery.
#[derive(Debug, Clone, Copy)]
struct Failure {
    at: Timestamp,
    /// Age of the last durable checkpoint, s.
    age: f64,
    /// Input rate, records/s.
    rate: f64,
    /// Predicted recovery, s.
    predicted: f64,
    /// The recovery must not be learned from: another failure interrupted it, or the time of the failure is a guess.
    disturbed: bool,
}

impl RecoveryProgress {
    /// Records that `records` were processed since `from`.
    pub(super) fn processed(&mut self, from: Timestamp, records: f64) {
        if records.is_finite() && records > 0.0 {
            self.since_durable += records;
            self.since_trigger = self.since_trigger.map(|since| since + records);
            // Records processed since before the failure do not show that the job is up again.
            if matches!(self.phase, Phase::Down(failure) if failure.at <= from) {
                self.phase = Phase::Running;
            }
        }
    }

    /// Records a trigger, which shows that the job is up.
    pub(super) fn triggered(&mut self) {
        self.since_trigger = Some(0.0);
        if self.is_down() {
            self.phase = Phase::Running;
        }
    }

    /// Records that the checkpoint in flight is durable.
    pub(super) fn completed(&mut self) {
        if let Some(since) = self.since_trigger.take() {
            self.since_durable = since;
        }
    }

    /// Records that the checkpoint in flight was aborted.
    pub(super) fn aborted(&mut self) {
        self.since_trigger = None;
    }

    /// Records a failure.
    pub(super) fn failed(&mut self, at: Timestamp, age: f64, rate: f64, predicted: f64) {
        let disturbed = !matches!(self.phase, Phase::Running);
        self.phase = Phase::Down(Failure { at, age, rate, predicted, disturbed });
    }

    /// Records a failure at a guessed time, too uncertain to learn from the catch-up.
    pub(super) fn failed_unseen(&mut self, at: Timestamp, predicted: f64) {
        self.phase = Phase::Down(Failure { at, age: 0.0, rate: 0.0, predicted, disturbed: true });
    }

    /// Records that processing resumes. Returns the outage, s, if the job was down.
    pub(super) fn restored(&mut self, now: Timestamp) -> Option<f64> {
        (self.since_durable, self.since_trigger) = (0.0, None);
        let Phase::Down(failure) = self.phase else { return None };
        let outage = now.since(failure.at).as_secs_f64();
        self.phase = Phase::CatchingUp { failure, outage };
        Some(outage)
    }

    /// Records that the job has caught up. Returns the recovery and its predicted duration, if it can be learned from.
    pub(super) fn caught_up(&mut self, now: Timestamp) -> Option<(Recovery, f64)> {
        let Phase::CatchingUp { failure, outage } = self.phase else { return None };
        self.phase = Phase::Running;
        let total = now.since(failure.at).as_secs_f64();
        let recovery = Recovery { age: failure.age, rate: failure.rate, outage: Some(outage), total };
        (!failure.disturbed).then_some((recovery, failure.predicted))
    }

    pub(super) fn is_down(&self) -> bool {
        matches!(self.phase, Phase::Down(_))
    }

    pub(super) fn is_catching_up(&self) -> bool {
        matches!(self.phase, Phase::CatchingUp { .. })
    }

    /// Returns the predicted end of the current recovery, at most `most` after the failure.
    pub(super) fn expected_end(&self, most: Duration) -> Option<Timestamp> {
        let (Phase::Down(failure) | Phase::CatchingUp { failure, .. }) = self.phase else { return None };
        let predicted = Duration::try_from_secs_f64(failure.predicted).unwrap_or(most);
        Some(failure.at.after(predicted.min(most)))
    }

    /// Returns the number of records that a failure now would undo.
    pub(super) fn since_durable(&self) -> f64 {
        self.since_durable
    }
}
