//! A job's progress, and the outcome of each epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::checkpoint::collect::Uncollected;
use crate::control::coordinator::Participant;
use crate::error::Error;
use crate::id::{Epoch, ManifestId};

/// Most epochs whose outcomes are kept.
const OUTCOMES_KEPT: usize = 1024;

/// A job's progress: the newest outcomes, and errors in need of attention.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Progress {
    /// The newest committed epoch of this attempt, and its checkpoint.
    pub committed: Option<(Epoch, ManifestId)>,
    /// Checkpoints committed by this attempt.
    pub completed: u64,
    /// Checkpoints aborted by this attempt.
    pub aborted: u64,
    /// The last aborted epoch.
    pub last_aborted: Option<Aborted>,
    /// The reason for the last declined epoch: a subtask, the engine, an upload or the store refused it.
    pub last_decline: Option<Error>,
    /// The last error of a commit whose outcome is unknown, while the store is asked again. `None` once the outcome is
    /// known.
    pub unsettled: Option<Error>,
    /// Garbage that is not deleted, because the store refuses or a live manifest cannot be read.
    pub uncollected: Uncollected,
    /// The job's error. Set once; the attempt has ended then.
    pub failed: Option<Error>,
}

/// An aborted epoch. Its sealed state joins the next checkpoint.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Aborted {
    /// The epoch.
    pub epoch: Epoch,
    /// Why it was aborted.
    pub reason: Error,
    /// Time from its trigger until it was aborted.
    pub age: Duration,
    /// The subtasks that had not arrived.
    pub missing: Vec<Participant>,
}

/// The outcomes of this attempt's epochs.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    /// Epochs that have not ended.
    open: BTreeSet<Epoch>,
    ended: BTreeMap<Epoch, Option<ManifestId>>,
}

impl Outcomes {
    /// Records that an epoch begins.
    pub(super) fn begin(&mut self, epoch: Epoch) {
        self.open.insert(epoch);
    }

    /// Records the outcome of an epoch; `None` if it was aborted.
    pub(super) fn end(&mut self, epoch: Epoch, outcome: Option<ManifestId>) {
        self.open.remove(&epoch);
        self.ended.insert(epoch, outcome);
        if self.ended.len() > OUTCOMES_KEPT {
            self.ended.pop_first();
        }
    }

    /// Returns the outcome of `epoch` once it has ended. A forgotten epoch counts as committed if a later commit covers
    /// it.
    ///
    /// * `committed`: the newest commit.
    pub(super) fn get(&self, epoch: Epoch, committed: Option<(Epoch, ManifestId)>) -> Option<Option<ManifestId>> {
        if let Some(outcome) = self.ended.get(&epoch) {
            return Some(*outcome);
        }
        let (oldest, _) = self.ended.first_key_value()?;
        let forgotten = epoch < *oldest && !self.open.contains(&epoch);
        forgotten.then(|| committed.filter(|(newest, _)| *newest >= epoch).map(|(_, id)| id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{PutId, Seq};

    #[test]
    fn a_forgotten_epoch_counts_as_committed_if_a_later_commit_covers_it() {
        let id = |seq| ManifestId { seq: Seq(seq), put_id: PutId::default() };
        let mut outcomes = Outcomes::default();
        outcomes.begin(Epoch(1));
        outcomes.end(Epoch(2), None);
        assert_eq!((outcomes.get(Epoch(1), None), outcomes.get(Epoch(2), None)), (None, Some(None)));
        for epoch in 3..3 + OUTCOMES_KEPT as u64 {
            outcomes.end(Epoch(epoch), Some(id(epoch)));
        }
        let committed = Some((Epoch(900), id(900)));
        assert_eq!(outcomes.get(Epoch(2), committed), Some(Some(id(900))), "covered since");
        assert_eq!(outcomes.get(Epoch(3), committed), Some(Some(id(3))));
        assert_eq!(outcomes.get(Epoch(2), None), Some(None));
        assert_eq!(outcomes.get(Epoch(5000), committed), None, "it has not ended");
    }

    #[test]
    fn an_epoch_in_flight_has_no_outcome_however_many_later_ones_have() {
        let mut outcomes = Outcomes::default();
        outcomes.begin(Epoch(1));
        for epoch in 2..10 + OUTCOMES_KEPT as u64 {
            outcomes.end(Epoch(epoch), None);
        }
        assert_eq!(outcomes.get(Epoch(1), None), None);
        outcomes.end(Epoch(1), None);
        assert_eq!(outcomes.get(Epoch(1), None), Some(None));
    }
}
