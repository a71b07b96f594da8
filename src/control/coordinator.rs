//! The state machine of epochs: events in, commands out.
//!
//! Invariants: epochs are committed in order; every triggered epoch ends in exactly one `Commit` or `Abort`;
//! an abort undoes nothing (the sealed state joins the next manifest).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::id::{Epoch, OperatorId, Subtask};
use crate::time::Timestamp;

/// One parallel instance of an operator.
pub type Participant = (OperatorId, Subtask);

/// When checkpoints may start, how long they may take and how many may overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointPolicy {
    /// Time from one trigger to the next. Default 10 s.
    pub interval: Duration,
    /// Minimum time from the end of one checkpoint to the trigger of the next. Default 0.
    pub min_pause: Duration,
    /// Time after its trigger at which an incomplete checkpoint is aborted. Default 10 min.
    pub timeout: Duration,
    /// Maximum number of epochs in flight, at least 1; further triggers are skipped. Default 2.
    pub max_in_flight: usize,
}

impl Default for CheckpointPolicy {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            min_pause: Duration::ZERO,
            timeout: Duration::from_secs(600),
            max_in_flight: 2,
        }
    }
}

/// An event. Events for unknown or ended epochs change nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A participant's state for this epoch is placed.
    Acknowledged(Epoch, Participant),
    /// This epoch cannot be completed, or is no longer wanted.
    Declined(Epoch),
    /// The manifest of this epoch exists.
    Committed(Epoch),
    /// The manifest of this epoch does not exist and will not.
    NotCommitted(Epoch),
}

/// A command to the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Create the manifest of this epoch, then report [`Event::Committed`] or [`Event::NotCommitted`].
    Commit(Epoch),
    /// Give up this epoch.
    Abort(Epoch),
}

/// Decides how the epochs of one attempt end. Times passed to it must come from a monotonic clock.
#[derive(Debug)]
pub struct Coordinator {
    policy: CheckpointPolicy,
    participants: BTreeSet<Participant>,
    first_epoch: Epoch,
    next_epoch: Epoch,
    in_flight: BTreeMap<Epoch, InFlight>,
    commands: VecDeque<Command>,
    last_trigger: Timestamp,
    last_end: Option<Timestamp>,
}

#[derive(Debug)]
struct InFlight {
    deadline: Timestamp,
    missing: BTreeSet<Participant>,
    committing: bool,
}

impl Coordinator {
    /// Returns a coordinator whose first epoch is `first_epoch` and whose first interval starts at `now`.
    #[must_use]
    pub fn new(
        policy: CheckpointPolicy,
        participants: impl IntoIterator<Item = Participant>,
        first_epoch: Epoch,
        now: Timestamp,
    ) -> Self {
        Self {
            policy,
            participants: participants.into_iter().collect(),
            first_epoch,
            next_epoch: first_epoch,
            in_flight: BTreeMap::new(),
            commands: VecDeque::new(),
            last_trigger: now,
            last_end: None,
        }
    }

    /// Returns whether `epoch` was ever triggered.
    #[must_use]
    pub fn has_triggered(&self, epoch: Epoch) -> bool {
        (self.first_epoch..self.next_epoch).contains(&epoch)
    }

    /// Returns whether `epoch` was triggered and has not ended.
    #[must_use]
    pub fn is_in_flight(&self, epoch: Epoch) -> bool {
        self.in_flight.contains_key(&epoch)
    }

    /// Returns whether the manifest of `epoch` is being created.
    #[must_use]
    pub fn is_committing(&self, epoch: Epoch) -> bool {
        self.in_flight.get(&epoch).is_some_and(|flight| flight.committing)
    }

    /// Returns how many epochs are in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Returns whether the interval and the minimum pause have passed.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        let paused = self.last_end.is_none_or(|end| now.since(end) >= self.policy.min_pause);
        paused && now.since(self.last_trigger) >= self.policy.interval
    }

    /// Starts an epoch, due or not, and returns it; `None` while too many are in flight.
    #[cfg(any(test, feature = "internals"))]
    pub fn trigger(&mut self, now: Timestamp) -> Option<Epoch> {
        self.trigger_with_timeouts(now, 1)
    }

    /// As [`Coordinator::trigger`], with `timeouts` times the policy's timeout.
    pub fn trigger_with_timeouts(&mut self, now: Timestamp, timeouts: u32) -> Option<Epoch> {
        if self.in_flight.len() >= self.policy.max_in_flight {
            return None;
        }
        let epoch = self.next_epoch;
        self.next_epoch = epoch.next();
        self.last_trigger = now;
        let deadline = now.after(self.policy.timeout.saturating_mul(timeouts));
        self.in_flight.insert(epoch, InFlight { deadline, missing: self.participants.clone(), committing: false });
        Some(epoch)
    }

    /// Handles an event.
    pub fn handle(&mut self, now: Timestamp, event: Event) {
        match event {
            Event::Acknowledged(epoch, participant) => {
                if let Some(flight) = self.in_flight.get_mut(&epoch) {
                    flight.missing.remove(&participant);
                }
            }
            Event::Declined(epoch) => self.abort(now, epoch),
            Event::Committed(epoch) => {
                // A commit covers all earlier epochs.
                self.in_flight.retain(|&flying, _| flying > epoch);
                self.last_end = Some(now);
            }
            Event::NotCommitted(epoch) => {
                if let Some(flight) = self.in_flight.get_mut(&epoch) {
                    flight.committing = false;
                }
                self.abort(now, epoch);
            }
        }
        self.commit_oldest();
    }

    /// Aborts the epochs that have passed their deadlines.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        let late: Vec<_> = self.in_flight.iter().filter(|(_, f)| f.deadline <= now).map(|(&epoch, _)| epoch).collect();
        late.into_iter().for_each(|epoch| self.abort(now, epoch));
        self.commit_oldest();
    }

    /// Returns the time at which to call [`Coordinator::handle_timeout`].
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        self.in_flight.values().filter(|flight| !flight.committing).map(|flight| flight.deadline).min()
    }

    /// Returns the next command. After every [`Coordinator::handle`] and [`Coordinator::handle_timeout`], call it until it returns `None`.
    pub fn poll(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Aborts an epoch, unless its manifest is being created: only the store knows the outcome then.
    fn abort(&mut self, now: Timestamp, epoch: Epoch) {
        if self.in_flight.get(&epoch).is_some_and(|flight| !flight.committing) {
            self.in_flight.remove(&epoch);
            self.last_end = Some(now);
            self.commands.push_back(Command::Abort(epoch));
        }
    }

    fn commit_oldest(&mut self) {
        if let Some((&epoch, flight)) = self.in_flight.iter_mut().next()
            && flight.missing.is_empty()
            && !flight.committing
        {
            flight.committing = true;
            self.commands.push_back(Command::Commit(epoch));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Participant = (OperatorId(1), Subtask(0));
    const B: Participant = (OperatorId(1), Subtask(1));

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn coordinator() -> Coordinator {
        Coordinator::new(CheckpointPolicy::default(), [A, B], Epoch(1), at(0))
    }

    fn drain(coordinator: &mut Coordinator) -> Vec<Command> {
        std::iter::from_fn(|| coordinator.poll()).collect()
    }

    #[test]
    fn epochs_commit_in_order_once_all_participants_acknowledged() {
        let mut c = coordinator();
        assert_eq!((c.trigger(at(1)), c.trigger(at(2)), c.trigger(at(3))), (Some(Epoch(1)), Some(Epoch(2)), None));
        for event in [(2, A), (2, B), (1, A), (1, A)] {
            c.handle(at(4), Event::Acknowledged(Epoch(event.0), event.1));
        }
        assert_eq!(drain(&mut c), []);
        c.handle(at(5), Event::Acknowledged(Epoch(1), B));
        assert_eq!(drain(&mut c), [Command::Commit(Epoch(1))]);
        c.handle(at(6), Event::Committed(Epoch(1)));
        assert_eq!(drain(&mut c), [Command::Commit(Epoch(2))]);
        c.handle(at(6), Event::Committed(Epoch(2)));
        assert_eq!((c.in_flight(), c.trigger(at(7))), (0, Some(Epoch(3))));
    }

    #[test]
    fn timeouts_and_declines_abort_any_epoch_that_is_not_being_committed() {
        let mut c = coordinator();
        c.trigger(at(0));
        c.trigger(at(10));
        for participant in [A, B] {
            c.handle(at(11), Event::Acknowledged(Epoch(1), participant));
        }
        assert_eq!(drain(&mut c), [Command::Commit(Epoch(1))]);
        assert_eq!(c.deadline(), Some(at(610)));
        c.handle_timeout(at(610));
        assert_eq!(drain(&mut c), [Command::Abort(Epoch(2))]);
        c.handle(at(611), Event::NotCommitted(Epoch(1)));
        assert_eq!(drain(&mut c), [Command::Abort(Epoch(1))]);
        c.trigger(at(612));
        c.handle(at(613), Event::Declined(Epoch(3)));
        c.handle(at(613), Event::Declined(Epoch(3)));
        assert_eq!(drain(&mut c), [Command::Abort(Epoch(3))]);
    }

    #[test]
    fn an_epoch_may_have_several_timeouts() {
        let mut c = coordinator();
        c.trigger(at(0));
        c.trigger_with_timeouts(at(1), 4);
        assert_eq!(c.deadline(), Some(at(600)));
        c.handle_timeout(at(600));
        assert_eq!((drain(&mut c), c.deadline()), (vec![Command::Abort(Epoch(1))], Some(at(2401))));
    }

    #[test]
    fn a_checkpoint_is_due_after_interval_and_pause() {
        let policy = CheckpointPolicy { min_pause: Duration::from_secs(30), ..CheckpointPolicy::default() };
        let mut c = Coordinator::new(policy, [A], Epoch(5), at(0));
        assert!(!c.is_due(at(9)) && c.is_due(at(10)));
        c.trigger(at(10));
        c.handle(at(11), Event::Acknowledged(Epoch(5), A));
        c.handle(at(12), Event::Committed(Epoch(5)));
        assert!(!c.is_due(at(41)) && c.is_due(at(42)));
    }
}
