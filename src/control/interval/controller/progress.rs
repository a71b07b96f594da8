//! The controller's state beside its estimates: checkpoints, announcements, the timeout's backoff, the last decision.

use std::time::Duration;

use crate::control::interval::decision::Decision;
use crate::time::Timestamp;

/// Failed checkpoints in a row after which the timeout doubles.
const FAILURES_PER_DOUBLING: u32 = 2;

/// Most doublings of the timeout.
const MAX_DOUBLINGS: u32 = 10;

/// The times up to which the controller has accounted for time and load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Accounted {
    pub(super) time: Timestamp,
    pub(super) load: Timestamp,
}

/// The checkpoints so far.
#[derive(Debug, Clone)]
pub(super) struct Checkpoints {
    /// Start of the running interval: the barrier of the last durable checkpoint, or the last restore.
    pub(super) interval_start: Timestamp,
    pub(super) last_trigger: Timestamp,
    pub(super) last_end: Option<Timestamp>,
    pub(super) in_flight: bool,
    /// Longest pause of the newest checkpoint, s.
    pub(super) pause: f64,
    pub(super) completed: u32,
    pub(super) aborts_in_a_row: u32,
}

impl Checkpoints {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            interval_start: now,
            last_trigger: now,
            last_end: None,
            in_flight: false,
            pause: 0.0,
            completed: 0,
            aborts_in_a_row: 0,
        }
    }

    pub(super) fn triggered(&mut self, now: Timestamp) {
        self.last_trigger = now;
        self.in_flight = true;
        self.pause = 0.0;
    }

    pub(super) fn completed(&mut self, now: Timestamp) {
        self.in_flight = false;
        self.interval_start = self.last_trigger;
        self.last_end = Some(now);
        self.completed = self.completed.saturating_add(1);
        self.aborts_in_a_row = 0;
    }

    pub(super) fn aborted(&mut self, now: Timestamp) {
        self.in_flight = false;
        self.last_end = Some(now);
        self.aborts_in_a_row = self.aborts_in_a_row.saturating_add(1);
    }

    pub(super) fn restored(&mut self, now: Timestamp) {
        self.in_flight = false;
        self.interval_start = now;
        self.last_trigger = now;
    }
}

/// State updates per epoch.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct EpochUpdates {
    /// Updates since the last barrier.
    pub(super) running: f64,
    /// Updates of the epoch that the newest checkpoint ended.
    pub(super) ended: f64,
    /// The engine reports dirty rows between checkpoints too.
    pub(super) dirty_rows_reported: bool,
}

/// Announced events.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Announced {
    /// Time of the next node loss.
    pub(super) node_loss: Option<Timestamp>,
    /// The job is about to stop.
    pub(super) ending: bool,
}

/// Backoff of the checkpoint timeout.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TimeoutBackoff {
    doublings: u32,
}

impl TimeoutBackoff {
    pub(super) fn factor(self) -> u32 {
        1 << self.doublings
    }

    /// Doubles the timeout at every second abort in a row. Returns true if it did.
    pub(super) fn aborted(&mut self, aborts_in_a_row: u32) -> bool {
        let doubles = aborts_in_a_row.is_multiple_of(FAILURES_PER_DOUBLING);
        if doubles {
            self.doublings = (self.doublings + 1).min(MAX_DOUBLINGS);
        }
        doubles
    }

    /// Halves the timeout once a checkpoint takes less than half of the halved timeout, so that a store that is still slow does
    /// not cause another abort.
    pub(super) fn completed(&mut self, duration: f64, timeout: Duration) {
        let timeout = timeout.as_secs_f64() * f64::from(self.factor());
        if duration < timeout / 4.0 {
            self.doublings = self.doublings.saturating_sub(1);
        }
    }
}

/// The decision in force, and its context.
#[derive(Debug, Clone)]
pub(super) struct Decided {
    pub(super) decision: Decision,
    /// Shortest interval within the guard rails.
    pub(super) rail: Duration,
    /// Shortest interval within guard rails and goals.
    pub(super) lower: Duration,
    pub(super) last_change: Change,
}

/// The last change of the interval.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    pub(super) longer: bool,
    /// Number of completed checkpoints at the change.
    pub(super) completed: u32,
}
