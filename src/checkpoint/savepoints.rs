//! The savepoints of a running job, and requests to drop them.
//!
//! Requests reach the committer through shared memory: the next manifest that does not need the savepoint no longer
//! lists it, and the owner's collector deletes the objects that only the savepoint reached.

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
    /// Returns the live savepoints, ascending, including those about to be dropped.
    #[cfg(test)]
    fn live(&self) -> Vec<Seq> {
        self.state().live.iter().copied().collect()
    }

    /// Requests that a savepoint be dropped: the next checkpoint's manifest does not list it. The savepoint's own
    /// manifest is not read and may be damaged or gone. Idempotent.
    ///
    /// # Errors
    /// `NotFound` if `seq` is not a live savepoint, naming the live ones.
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

    /// Records the live manifests.
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
