//! In-flight data that follow a task's barrier.

use super::shared::{AttemptHandle, Mail};
use crate::control::coordinator::Participant;
use crate::error::{Error, Result};
use crate::id::Epoch;
use crate::key_group::KeyGroupSet;
use crate::manifest::{Opaque, OpaqueRole, check_handed_in};

/// An epoch of a task that waits for its in-flight data. [`Task::barrier_in_flight`](crate::Task::barrier_in_flight) returns one.
///
/// Dropped without [`complete`](Self::complete), it declines the epoch, which the job then aborts.
#[derive(Debug)]
#[must_use = "the epoch waits for the in-flight data"]
pub struct InFlightData {
    attempt: AttemptHandle,
    epoch: Epoch,
    participant: Participant,
    owned: KeyGroupSet,
    is_complete: bool,
}

impl InFlightData {
    pub(super) fn new(attempt: AttemptHandle, epoch: Epoch, participant: Participant, owned: KeyGroupSet) -> Self {
        Self { attempt, epoch, participant, owned, is_complete: false }
    }

    /// Returns the epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
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
    pub fn complete(mut self, opaques: Vec<Opaque>) -> Result<()> {
        if let Some(other) = opaques.iter().find(|opaque| opaque.role != OpaqueRole::InFlight) {
            let error = Error::usage("opaque is not one of in-flight data");
            return Err(error.with("opaque", &other.name).with("role", format_args!("{:?}", other.role)));
        }
        check_handed_in(&opaques, &self.owned)?;
        self.is_complete = true;
        self.attempt.post(Mail::InFlight(self.epoch, self.participant, opaques))
    }
}

impl Drop for InFlightData {
    fn drop(&mut self) {
        if !self.is_complete {
            let (operator, subtask) = self.participant;
            let error = Error::unavailable("in-flight data of the epoch were not handed in").with("operator", operator);
            // An attempt that has ended waits for nothing.
            let _ended = self.attempt.post(Mail::Declined(self.epoch, error.with("subtask", subtask)));
        }
    }
}
