//! What follows a task's barrier: in-flight data, and output that is staged meanwhile.

use super::shared::{AttemptHandle, Mail, Presence};
use crate::control::coordinator::Participant;
use crate::error::{Error, Result};
use crate::id::Epoch;
use crate::key_group::KeyGroupSet;
use crate::manifest::{Opaque, OpaqueRole, check_handed_in};

/// An epoch of a task that waits for a hand-in. Dropped without one, it declines the epoch.
#[derive(Debug)]
pub(super) struct HandIn {
    attempt: AttemptHandle,
    epoch: Epoch,
    participant: Participant,
    is_done: bool,
}

impl HandIn {
    pub(super) fn new(presence: &Presence, epoch: Epoch) -> Self {
        let Presence { attempt, participant } = presence;
        Self { attempt: attempt.clone(), epoch, participant: *participant, is_done: false }
    }

    /// # Errors
    /// The job's error, if it has failed.
    pub(super) fn complete(mut self, opaques: Vec<Opaque>) -> Result<()> {
        self.is_done = true;
        self.attempt.post(Mail::Late(self.epoch, self.participant, opaques))
    }

    pub(super) fn decline(mut self, reason: Error) {
        self.is_done = true;
        self.post_decline(reason);
    }

    fn post_decline(&self, reason: Error) {
        let (operator, subtask) = self.participant;
        let reason = reason.with("operator", operator).with("subtask", subtask);
        // An attempt that has ended waits for nothing.
        let _ended = self.attempt.post(Mail::Declined(self.epoch, reason));
    }
}

impl Drop for HandIn {
    fn drop(&mut self) {
        if !self.is_done {
            self.post_decline(Error::unavailable("in-flight data or staged output were not handed in"));
        }
    }
}

/// An epoch of a task that waits for its in-flight data. [`Task::barrier_in_flight`](crate::Task::barrier_in_flight) returns one.
///
/// Dropped without [`complete`](Self::complete), it declines the epoch, which the job then aborts.
#[derive(Debug)]
#[must_use = "the epoch waits for the in-flight data"]
pub struct InFlightData {
    hand_in: HandIn,
    owned: KeyGroupSet,
}

impl InFlightData {
    pub(super) fn new(hand_in: HandIn, owned: KeyGroupSet) -> Self {
        Self { hand_in, owned }
    }

    /// Returns the epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.hand_in.epoch
    }

    /// Hands in the in-flight data: the epoch can be committed once all subtasks have handed in theirs. Of no effect if the epoch
    /// was aborted meanwhile.
    ///
    /// * `opaques`: [`Opaque::in_flight`] makes those that follow their key groups; one for each channel, say.
    ///
    /// # Errors
    /// The epoch is declined by each.
    /// * The job's error, if it has failed.
    /// * `Usage` if an opaque is not one of in-flight data, is invalid as at [`Task::barrier`](crate::Task::barrier), or has a record of
    ///   a key group that the task does not own.
    pub fn complete(self, opaques: Vec<Opaque>) -> Result<()> {
        if let Some(other) = opaques.iter().find(|opaque| opaque.role != OpaqueRole::InFlight) {
            let error = Error::usage("opaque is not one of in-flight data");
            return Err(error.with("opaque", &other.name).with("role", format_args!("{:?}", other.role)));
        }
        check_handed_in(&opaques, &self.owned)?;
        self.hand_in.complete(opaques)
    }
}
