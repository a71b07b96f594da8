//! The order of the cuts of one backend.

use crate::backend::Outcome;
use crate::error::{Error, Result};
use crate::id::{Epoch, Part};
use crate::row::Cut;

/// Sealed and committed epochs of one backend: refuses cuts out of order and outcomes of unknown epochs.
///
/// A seal calls [`CutOrder::check`] first and [`CutOrder::note`] once nothing else can refuse the cut.
#[derive(Debug, Default)]
pub struct CutOrder {
    last: Option<(Epoch, Part)>,
    /// Sealed epochs not yet covered by a commit, ascending.
    uncovered: Vec<Epoch>,
    committed: Option<Epoch>,
}

impl CutOrder {
    /// Refuses a cut that does not follow the last one: epochs rise, and parts rise within an epoch.
    ///
    /// # Errors
    /// `Usage`.
    pub fn check(&self, cut: &Cut) -> Result<()> {
        match self.last {
            Some((epoch, part)) if (cut.epoch, cut.part) <= (epoch, part) => {
                Err(Error::usage("cut does not follow the last one")
                    .with("epoch", cut.epoch)
                    .with("part", cut.part)
                    .with("last_epoch", epoch)
                    .with("last_part", part))
            }
            _ => Ok(()),
        }
    }

    /// Records a checked cut as the last one.
    pub fn note(&mut self, cut: &Cut) {
        self.last = Some((cut.epoch, cut.part));
        if self.uncovered.last() != Some(&cut.epoch) {
            self.uncovered.push(cut.epoch);
        }
    }

    /// Records the outcome of an epoch. A late outcome of an epoch below a committed one is accepted.
    ///
    /// # Errors
    /// `Usage` if the epoch was never sealed.
    pub fn settle(&mut self, epoch: Epoch, outcome: Outcome) -> Result<()> {
        let sealed = self.uncovered.contains(&epoch) || self.committed.is_some_and(|committed| epoch <= committed);
        if !sealed {
            return Err(Error::usage("epoch was never sealed").with("epoch", epoch));
        }
        if outcome == Outcome::Commit {
            self.committed = self.committed.max(Some(epoch));
            self.uncovered.retain(|&other| other > epoch);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    fn cut(epoch: u64, part: u32) -> Cut {
        let at = Timestamp::default();
        Cut { epoch: Epoch(epoch), part: Part(part), event_time: at, processing_time: at }
    }

    #[test]
    fn cuts_rise_and_only_sealed_epochs_settle() {
        let mut cuts = CutOrder::default();
        for (epoch, part) in [(3, 0), (3, 1), (4, 0), (7, 2)] {
            cuts.check(&cut(epoch, part)).unwrap();
            cuts.note(&cut(epoch, part));
        }
        for (epoch, part) in [(7, 2), (7, 1), (6, 9)] {
            assert!(cuts.check(&cut(epoch, part)).is_err());
        }
        assert!(cuts.settle(Epoch(5), Outcome::Commit).is_err());
        cuts.settle(Epoch(3), Outcome::Abort).unwrap();
        cuts.settle(Epoch(4), Outcome::Commit).unwrap();
        cuts.settle(Epoch(3), Outcome::Abort).unwrap();
        assert!(cuts.settle(Epoch(8), Outcome::Abort).is_err());
        assert_eq!(cuts.uncovered, [Epoch(7)]);
    }
}
