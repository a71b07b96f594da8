//! The order of cuts that one backend has seen.

use crate::error::{Error, Result};
use crate::id::{Epoch, Part};
use crate::row::Cut;

use super::Outcome;

/// Which epochs were sealed and which are covered by a commit.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    last: Option<(Epoch, Part)>,
    /// Sealed epochs that no commit covers yet, ascending.
    uncovered: Vec<Epoch>,
    committed: Option<Epoch>,
}

impl Cuts {
    /// Refuses a cut that does not follow the last one.
    pub(super) fn check(&self, cut: &Cut) -> Result<()> {
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

    /// Notes a cut that was checked.
    pub(super) fn note(&mut self, cut: &Cut) {
        self.last = Some((cut.epoch, cut.part));
        if self.uncovered.last() != Some(&cut.epoch) {
            self.uncovered.push(cut.epoch);
        }
    }

    /// Notes what became of an epoch. An epoch below a committed one may still be told of, late.
    pub(super) fn settle(&mut self, epoch: Epoch, outcome: Outcome) -> Result<()> {
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
        let mut cuts = Cuts::default();
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
