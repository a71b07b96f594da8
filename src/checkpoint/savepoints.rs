//! The savepoints of a running job, and those that its user wants dropped.
//!
//! A request reaches the committer through memory that both share: the next manifest that can do without a savepoint
//! does not list it any more, and the owner's collector frees what only it reached.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::id::Seq;
use crate::manifest::{ManifestKind, Retained};

/// The savepoints of one attempt. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Savepoints {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    live: BTreeSet<Seq>,
    unwanted: BTreeSet<Seq>,
}

impl Savepoints {
    /// Returns the live savepoints, ascending, those that are about to be dropped included.
    #[must_use]
    pub fn live(&self) -> Vec<Seq> {
        self.state().live.iter().copied().collect()
    }

    /// Asks for a savepoint to be dropped. The next checkpoint's manifest does not list it. Its own manifest is not
    /// read: it may be damaged or gone. Asking again changes nothing.
    ///
    /// # Errors
    /// `NotFound` if it is not a live savepoint; names those that are.
    pub fn drop_savepoint(&self, seq: Seq) -> Result<()> {
        let mut state = self.state();
        if !state.live.contains(&seq) {
            let live: Vec<_> = state.live.iter().map(ToString::to_string).collect();
            let live = if live.is_empty() { "none".to_owned() } else { live.join(",") };
            return Err(Error::not_found("no such savepoint").with("savepoint", seq).with("savepoints", live));
        }
        state.unwanted.insert(seq);
        Ok(())
    }

    /// Takes note of the manifests that live now.
    pub(super) fn set_live<'a>(&self, live: impl IntoIterator<Item = &'a Retained>) {
        let savepoints = live.into_iter().filter(|entry| entry.kind == ManifestKind::Savepoint);
        let mut state = self.state();
        state.live = savepoints.map(|entry| entry.id.seq).collect();
        let State { live, unwanted } = &mut *state;
        unwanted.retain(|seq| live.contains(seq));
    }

    pub(super) fn unwanted(&self) -> BTreeSet<Seq> {
        self.state().unwanted.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::id::{Hash, ManifestId, PutId};

    fn entry(seq: u64, kind: ManifestKind) -> Retained {
        Retained { id: ManifestId { seq: Seq(seq), put_id: PutId([1; 16]) }, hash: Hash::default(), kind }
    }

    #[test]
    fn only_live_savepoints_can_be_dropped_and_are_forgotten_once_gone() {
        let savepoints = Savepoints::default();
        savepoints.set_live(&[entry(1, ManifestKind::Savepoint), entry(2, ManifestKind::Checkpoint)]);
        let error = savepoints.drop_savepoint(Seq(2)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.message().contains("savepoints=`1`"), "{error}");
        let handle = savepoints.clone();
        handle.drop_savepoint(Seq(1)).unwrap();
        handle.drop_savepoint(Seq(1)).unwrap();
        assert_eq!((savepoints.unwanted(), savepoints.live()), ([Seq(1)].into(), vec![Seq(1)]));
        savepoints.set_live(&[entry(2, ManifestKind::Checkpoint)]);
        assert_eq!((savepoints.unwanted(), savepoints.live()), (BTreeSet::new(), Vec::new()));
        assert!(handle.drop_savepoint(Seq(1)).is_err());
    }
}
