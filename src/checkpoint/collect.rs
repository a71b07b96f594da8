//! A running owner's garbage collector: deletes what each commit made unreachable, without listings.
//!
//! Invariants: no key is deleted before `collect_lag` further commits, so that readers can finish; keys that cannot be
//! deleted cost bounded requests and bounded memory, and are reported. Delays count commits, not time.

use std::collections::{BTreeSet, VecDeque};

use crate::control::retention::Garbage;
use crate::error::Error;
use crate::id::{Attempt, Seq};
use crate::metrics;
use crate::place::Store;
use crate::store::Key;

use super::sweep::{Swept, delete_all, execute, plan};

/// Most keys kept after failed deletes. A sweep finds the forgotten ones.
const REMEMBERED_MAX: usize = 16 << 10;

/// Most commits between two retries.
const BACKOFF_MAX: u64 = 64;

/// Garbage that is not deleted.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Uncollected {
    /// Unreachable objects whose delete failed, or is delayed by such failures.
    pub objects: u64,
    /// Live manifests that cannot be read. While there are any, no data object is deleted.
    pub held_by: Vec<Seq>,
    /// The last failed delete's error; `None` once all deletes have succeeded.
    pub last_error: Option<Error>,
}

/// When to retry failed deletes: after 2, 4, 8, ... commits.
#[derive(Debug, Default)]
struct Backoff {
    step: u64,
    next: u64,
}

impl Backoff {
    fn is_due(&self, commits: u64) -> bool {
        commits >= self.next
    }

    fn failed(&mut self, commits: u64) {
        self.step = self.step.saturating_mul(2).clamp(2, BACKOFF_MAX);
        self.next = commits.saturating_add(self.step);
    }
}

/// Deletes objects that a running owner's commits made unreachable.
#[derive(Debug)]
pub struct Collector {
    store: Store,
    /// Commits so far.
    commits: u64,
    /// Garbage of the last commits, oldest first. Readers may still need it.
    delayed: VecDeque<Garbage>,
    /// To be deleted, oldest first.
    due: VecDeque<Key>,
    /// Keys whose delete failed, in the order of the tries.
    failed: VecDeque<Key>,
    /// Failed keys that were forgotten.
    forgotten: u64,
    last_error: Option<Error>,
    /// Whether every delete of the last collection failed. New garbage then waits for the next retry, too.
    refused: bool,
    backoff: Backoff,
    held_by: BTreeSet<Seq>,
    held: Backoff,
}

impl Collector {
    /// Returns a collector with nothing to do.
    #[must_use]
    pub fn new(store: &Store) -> Self {
        Self {
            store: store.clone(),
            commits: 0,
            delayed: VecDeque::new(),
            due: VecDeque::new(),
            failed: VecDeque::new(),
            forgotten: 0,
            last_error: None,
            refused: false,
            backoff: Backoff::default(),
            held_by: BTreeSet::new(),
            held: Backoff::default(),
        }
    }

    /// Adds a commit's garbage. Call it once for each commit: the calls count the delay.
    pub fn add(&mut self, mut garbage: Garbage) {
        self.commits = self.commits.saturating_add(1);
        self.held_by = std::mem::take(&mut garbage.held_by);
        self.warn_if_held();
        self.delayed.push_back(garbage);
        let lag = usize::try_from(self.store.settings().collect_lag).unwrap_or(usize::MAX);
        while self.delayed.len() > lag {
            let Some(Garbage { objects, manifests, .. }) = self.delayed.pop_front() else { break };
            self.due.extend(objects.into_iter().map(Key::Data));
            self.due.extend(manifests.into_iter().map(Key::Manifest));
        }
    }

    /// Warns, at growing intervals, that an unreadable live manifest blocks the collection.
    fn warn_if_held(&mut self) {
        if self.held_by.is_empty() {
            self.held = Backoff::default();
        } else if self.held.is_due(self.commits) {
            self.held.failed(self.commits);
            warn_held(&format!("{:?}", self.held_by.iter().map(|seq| seq.0).collect::<Vec<_>>()), None);
        }
    }

    /// Returns the garbage that is not deleted.
    #[must_use]
    pub fn uncollected(&self) -> Uncollected {
        let failing = if self.last_error.is_some() { self.due.len().saturating_add(self.failed.len()) } else { 0 };
        Uncollected {
            objects: self.forgotten.saturating_add(failing as u64),
            held_by: self.held_by.iter().copied().collect(),
            last_error: self.last_error.clone(),
        }
    }

    /// Deletes unreachable objects of attempts before `owner`. Failures are logged and left to a later attempt or a
    /// manual sweep: the job does not depend on them.
    pub async fn sweep_orphans(&self, owner: Attempt) {
        let swept = async { execute(&self.store, &plan(&self.store, Some(owner)).await?).await };
        match swept.await {
            Ok(Swept { deleted, failed, left }) => {
                let (deleted, failed, left) = (deleted.len(), failed.len(), left.len());
                tracing::info!(deleted, failed, left, "swept what earlier attempts left");
            }
            Err(error) => tracing::warn!(error = error.chain(), "what earlier attempts left could not be swept"),
        }
    }

    /// Deletes due garbage: objects, then manifests. While every delete fails, retries come after 2, 4, 8, ... commits,
    /// at most 64; a run stops after too many consecutive failures.
    pub async fn run(&mut self) -> Swept {
        let again = self.backoff.is_due(self.commits);
        let mut keys = Vec::new();
        if again || !self.refused {
            keys.extend(self.due.iter().copied());
        }
        if again {
            keys.extend(self.failed.iter().copied());
        }
        let swept = delete_all(&self.store, keys).await;
        self.record(&swept);
        swept
    }

    fn record(&mut self, swept: &Swept) {
        let failed = || swept.failed.iter().map(|(key, _)| *key);
        let settled: BTreeSet<Key> = swept.deleted.iter().copied().chain(failed()).collect();
        self.due.retain(|key| !settled.contains(key));
        self.failed.retain(|key| !settled.contains(key));
        self.failed.extend(failed());
        let forgotten = self.due.len().saturating_add(self.failed.len()).saturating_sub(REMEMBERED_MAX);
        if let Some((key, error)) = swept.failed.first() {
            self.refused = swept.deleted.is_empty();
            self.backoff.failed(self.commits);
            self.last_error = Some(error.clone().with("object", key));
            for _ in 0..forgotten {
                let _oldest = self.failed.pop_front().or_else(|| self.due.pop_front());
            }
            self.forgotten = self.forgotten.saturating_add(forgotten as u64);
            let (failed, waiting) = (swept.failed.len(), self.due.len().saturating_add(self.failed.len()));
            let (commits, forgotten) = (self.backoff.step, self.forgotten);
            let error = error.chain();
            tracing::warn!(
                failed, waiting, forgotten, commits, object = %key, error,
                "objects could not be deleted, to be tried again"
            );
        } else if !swept.deleted.is_empty() {
            self.refused = false;
            if self.failed.is_empty() {
                self.backoff = Backoff::default();
                self.last_error = None;
            }
        }
        metrics::uncollected(self.uncollected().objects);
    }
}

/// Warns that the unreadable live manifests `checkpoints` block the collection, and names the remedy.
pub(super) fn warn_held(checkpoints: &str, error: Option<&Error>) {
    tracing::warn!(
        checkpoints,
        error = error.map(Error::chain),
        help = "if it stays unreadable, drop it with `alluvium drop` or Job::drop_savepoint",
        "nothing is collected while a live manifest is unreadable"
    );
}
