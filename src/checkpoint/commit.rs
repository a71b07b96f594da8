//! Commit: the only creator of manifests.
//!
//! A checkpoint is committed by creating `manifest/<last + 1>` and *then* finding no `attempt/<a + 1>`. Before the
//! create nothing is visible; after it nothing changes.
//!
//! Invariants: `commit` settles the outcome before it returns; an unknown outcome deletes nothing; a manifest refers
//! only to objects of live manifests and to new objects of its own attempt.

mod planted;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::canary::{self, Canary};
use crate::control::retention::{Garbage, Ledger, Retention, RetentionPolicy, retain};
use crate::error::{Applied, Error, ErrorKind, Result};
use crate::id::{Attempt, Epoch, Hash, JobId, Lineage, ManifestId, ObjectId, Seq};
use crate::key_group::Partitioner;
use crate::manifest::{
    DurabilityLevel, Extension, Manifest, ManifestKind, ObjectRef, OperatorManifest, Program, Retained,
};
use crate::place::Store;
use crate::store::{Key, Put};
use crate::time::Timestamp;

use super::manifest_log::{following, succeeding};
use super::savepoints::Savepoints;

/// Refusals (no permission, say) after which a commit in doubt is abandoned.
const REFUSALS_MAX: u32 = 5;

/// Longest attempt marker that is read. Only its existence matters.
pub(super) const MARKER_BYTES_MAX: u64 = 64 << 10;

/// The part of a manifest that differs from one checkpoint to the next. The committer adds the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// A checkpoint or a savepoint.
    pub kind: ManifestKind,
    /// The last epoch whose effects the checkpoint holds.
    pub epoch: Epoch,
    /// Every data object that the checkpoint refers to. Each is durable, and either new or an object of a live
    /// manifest.
    pub objects: Vec<ObjectRef>,
    /// The durability that the objects have reached.
    pub level: DurabilityLevel,
    /// The job's operators, with their tables and subtasks.
    pub operators: Vec<OperatorManifest>,
    /// Additions by later versions or by embedders.
    pub extensions: Vec<Extension>,
}

/// The outcome of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitOutcome {
    /// The manifest is in the chain, and no newer attempt had begun when it got there: announce it.
    Committed(Committed),
    /// A newer attempt has begun: announce nothing and stop. The manifest may be in the chain; the newer attempt
    /// finds out.
    Fenced {
        /// The next attempt; there may be newer ones.
        by: Attempt,
    },
}

/// A committed manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Its number, and the id of the put that created it.
    pub id: ManifestId,
    /// Hash of the whole object.
    pub hash: Hash,
    /// Manifests that were live and that this one does not retain.
    pub dropped: Vec<Retained>,
}

/// The fields that all manifests of an attempt share.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) job: JobId,
    pub(super) attempt: Attempt,
    pub(super) writer: String,
    pub(super) program: Program,
    pub(super) partitioner: Partitioner,
    pub(super) max_parallelism: u16,
    pub(super) retention: RetentionPolicy,
    pub(super) lineage: Lineage,
}

impl Identity {
    /// Adds the lineage to a manifest's extensions, unless it is the job's first.
    pub(super) fn add_lineage(&self, extensions: &mut Vec<Extension>) {
        if self.lineage.0 != self.job.0 {
            extensions.push(Extension::lineage(self.lineage));
        }
    }
}

/// A manifest on its way into the store.
#[derive(Debug)]
pub(super) struct Proposal {
    entry: Retained,
    epoch: Epoch,
    objects: BTreeSet<ObjectId>,
    retention: Retention,
    object: Bytes,
    /// Whether an earlier try may have reached the store. If so, a refusal proves nothing.
    in_doubt: bool,
}

impl Proposal {
    /// Encodes `manifest` for `store`, with the retained list of `retention`.
    ///
    /// # Errors
    /// `Usage` if the manifest breaks a rule of the format, `Limit` if it is too large.
    pub(super) fn new(store: &Store, mut manifest: Manifest, retention: Retention) -> Result<Self> {
        manifest.retained.clone_from(&retention.kept);
        let put_id = store.draw_put_id();
        let object = manifest.encode_signed(put_id, store.manifest_keys())?;
        let id = ManifestId { seq: manifest.seq, put_id };
        let entry = Retained { id, hash: Hash::of(&object), kind: manifest.kind };
        let objects = manifest.objects.iter().map(|object| object.id).collect();
        Ok(Self { entry, epoch: manifest.epoch, objects, retention, object, in_doubt: false })
    }

    pub(super) fn entry(&self) -> Retained {
        self.entry
    }

    pub(super) fn retention(&self) -> &Retention {
        &self.retention
    }

    /// Creates the manifest. Nothing else in the crate does.
    pub(super) async fn create(&self, store: &Store) -> Result<Put> {
        store.folder().put_new(&Key::Manifest(self.entry.id.seq), self.entry.id.put_id, self.object.clone()).await
    }
}

/// Bounds on asking the store for the outcome of a commit.
struct Patience {
    deadline: Timestamp,
    refusals: u32,
}

/// Returns the attempt after `attempt`, if it has begun.
pub(super) async fn fence(store: &Store, attempt: Attempt) -> Result<Option<Attempt>> {
    let next = succeeding(attempt)?;
    Ok(store.folder().read(&Key::Attempt(next), MARKER_BYTES_MAX).await?.map(|_marker| next))
}

/// An attempt's right to append to its job's chain.
///
/// If the future of [`Committer::commit`] is dropped, the outcome of that commit is unknown, and the next checkpoint
/// depends on that outcome: call [`Committer::settle`] before the next commit.
pub struct Committer {
    store: Store,
    identity: Identity,
    /// This attempt's last manifest: the end of the chain, unless the attempt is fenced.
    last: Retained,
    epoch: Epoch,
    /// The other live manifests.
    retained: Vec<Retained>,
    /// The checkpoint that the next one continues.
    parent: Option<ManifestId>,
    ledger: Ledger,
    savepoints: Savepoints,
    pending: Option<Proposal>,
    fenced: Option<Attempt>,
    on_doubt: Option<OnDoubt>,
}

/// Called with each error that leaves the outcome of a commit open.
pub type OnDoubt = Arc<dyn Fn(&Error) + Send + Sync>;

impl fmt::Debug for Committer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committer").field("identity", &self.identity).field("last", &self.last).finish_non_exhaustive()
    }
}

impl Committer {
    pub(super) fn new(
        store: &Store,
        identity: Identity,
        claim: &Proposal,
        parent: Option<ManifestId>,
        ledger: Ledger,
    ) -> Self {
        let savepoints = Savepoints::default();
        savepoints.set_live(&claim.retention.kept);
        Self {
            store: store.clone(),
            identity,
            last: claim.entry,
            epoch: claim.epoch,
            retained: claim.retention.kept.clone(),
            parent,
            ledger,
            savepoints,
            pending: None,
            fenced: None,
            on_doubt: None,
        }
    }

    /// Sets a callback for each error that leaves the outcome of a commit open. It runs before the store is asked
    /// again.
    pub fn on_doubt(&mut self, call: OnDoubt) {
        self.on_doubt = Some(call);
    }

    /// Returns a handle on the job's savepoints. Any thread may ask it to drop one.
    #[must_use]
    pub fn savepoints(&self) -> Savepoints {
        self.savepoints.clone()
    }

    /// Commits `draft`: creates the manifest, then reads the next attempt's marker.
    ///
    /// While the outcome is unknown, both are retried, with the same bytes, for [`StoreSettings::settle_patience`].
    ///
    /// # Errors
    /// If [`Error::applied`] is `No`, the manifest is not in the chain and will not be: `Usage` if the draft breaks the
    /// chain's rules or an earlier commit is not settled; `Limit` if the manifest is too large; `Denied` or `Config` if
    /// the store refuses.
    ///
    /// Otherwise the store refused or stayed silent while the outcome was open. This attempt must end; the next one
    /// finds out.
    ///
    /// `Corrupt` if another writer's manifest has the number that only this attempt may use.
    ///
    /// [`StoreSettings::settle_patience`]: crate::store::StoreSettings::settle_patience
    pub async fn commit(&mut self, draft: Draft) -> Result<CommitOutcome> {
        if let Some(by) = self.fenced {
            return Ok(CommitOutcome::Fenced { by });
        }
        if self.pending.is_some() {
            return Err(Error::usage("an earlier commit is not settled: settle it before the next one"));
        }
        self.pending = Some(self.propose(draft)?);
        self.settle().await?.ok_or_else(|| Error::stopped("there is no commit to settle"))
    }

    /// Returns the outcome of a commit whose future was dropped; `None` if no commit is open.
    ///
    /// # Errors
    /// As [`Committer::commit`].
    pub async fn settle(&mut self) -> Result<Option<CommitOutcome>> {
        if let Some(by) = self.fenced {
            return Ok(Some(CommitOutcome::Fenced { by }));
        }
        if self.pending.is_none() {
            return Ok(None);
        }
        let put = self.create_pending().await?;
        // Not before the create: an attempt that begins after this read finds the manifest in the chain.
        let newer = match put {
            Put::Created if canary::on(Canary::SkipFence) => None,
            _ => self.newer_attempt().await?,
        };
        if let Some(by) = newer {
            self.fenced = Some(by);
            return Ok(Some(CommitOutcome::Fenced { by }));
        }
        if put == Put::Taken {
            let error = Error::corrupt("another writer's manifest has a number that only this attempt may use");
            return Err(error.with("attempt", self.identity.attempt).with("after", self.last.id.seq));
        }
        Ok(self.pending.take().map(|proposal| CommitOutcome::Committed(self.accept(proposal))))
    }

    /// Returns what became unreachable from all live manifests since the last call.
    #[must_use]
    pub fn take_garbage(&mut self) -> Garbage {
        self.ledger.take_garbage(self.store.settings().list_lag)
    }

    fn propose(&self, draft: Draft) -> Result<Proposal> {
        if draft.kind == ManifestKind::Claim {
            return Err(Error::usage("a claim cannot be committed as a draft"));
        }
        if draft.epoch < self.epoch {
            let error = Error::usage("epochs must not descend along a lineage");
            return Err(error.with("epoch", draft.epoch).with("before", self.epoch));
        }
        // Any sweep may delete an object that no live manifest reaches, unless the object is of this attempt.
        let lost = |object: &ObjectId| {
            !self.ledger.protects(object) && !self.is_ours(object) && !canary::on(Canary::TrustDraft)
        };
        if let Some(object) = draft.objects.iter().map(|object| object.id).find(lost) {
            let error = Error::usage("draft refers to an object that may be gone: no live manifest reaches it");
            return Err(error.with("object", object));
        }
        let mut candidates = self.retained.clone();
        candidates.push(self.last);
        let retention = retain(self.identity.retention, draft.kind, self.parent, &candidates);
        // The next manifest continues a checkpoint, but never a savepoint: then the parent has to stay.
        let continued = if draft.kind == ManifestKind::Checkpoint { None } else { self.parent };
        let retention = retention.without(&self.savepoints.unwanted(), continued);
        let manifest = self.manifest(following(self.last.id.seq)?, draft);
        Proposal::new(&self.store, manifest, retention)
    }

    /// Returns whether `object` is of this attempt and was not handed out as garbage.
    fn is_ours(&self, object: &ObjectId) -> bool {
        object.attempt == self.identity.attempt && !self.ledger.freed(object)
    }

    fn manifest(&self, seq: Seq, draft: Draft) -> Manifest {
        let Identity { job, attempt, writer, program, partitioner, max_parallelism, retention: _, lineage: _ } =
            self.identity.clone();
        let Draft { kind, epoch, objects, level, operators, mut extensions } = draft;
        self.identity.add_lineage(&mut extensions);
        Manifest {
            job,
            seq,
            kind,
            attempt,
            epoch,
            parent: self.parent,
            retained: Vec::new(),
            created_at: self.store.runtime().now(),
            writer,
            program,
            partitioner,
            max_parallelism,
            objects,
            level,
            operators,
            extensions,
        }
    }

    /// Creates the pending manifest. Retries until the key is known to hold it, or another writer's object.
    async fn create_pending(&mut self) -> Result<Put> {
        let mut patience = self.patience();
        loop {
            let Some(proposal) = &mut self.pending else {
                return Err(Error::stopped("there is no commit to settle"));
            };
            let was_in_doubt = std::mem::replace(&mut proposal.in_doubt, true);
            let error = match proposal.create(&self.store).await {
                Ok(put) => return Ok(put),
                Err(error) => error,
            };
            if error.applied() == Applied::No && !was_in_doubt {
                self.pending = None;
                return Err(error);
            }
            if canary::on(Canary::TrustUnknown) {
                return Ok(Put::Created);
            }
            if canary::on(Canary::DeleteAfterUnknown) {
                return Err(self.delete_pending(error).await);
            }
            self.pause(&mut patience, error, "outcome of a commit is unknown").await?;
        }
    }

    /// Returns the attempt after this one, if it has begun. Retries until the store answers.
    async fn newer_attempt(&self) -> Result<Option<Attempt>> {
        let mut patience = self.patience();
        loop {
            match fence(&self.store, self.identity.attempt).await {
                Ok(next) => return Ok(next),
                Err(error) => self.pause(&mut patience, error, "a newer attempt may have begun").await?,
            }
        }
    }

    fn patience(&self) -> Patience {
        let store = &self.store;
        Patience { deadline: store.runtime().monotonic().after(store.settings().settle_patience), refusals: 0 }
    }

    /// Waits before the store is asked again.
    ///
    /// # Errors
    /// `error`, marked as possibly applied, after the deadline or too many refusals.
    async fn pause(&self, patience: &mut Patience, error: Error, what: &'static str) -> Result<()> {
        let runtime = self.store.runtime();
        tracing::warn!(error = error.chain(), attempt = self.identity.attempt.0, "{what}");
        if let Some(call) = &self.on_doubt {
            call(&error);
        }
        patience.refusals += u32::from(matches!(error.kind(), ErrorKind::Denied | ErrorKind::Config));
        if patience.refusals >= REFUSALS_MAX || runtime.monotonic() >= patience.deadline {
            return Err(Error::new(error.kind(), what).with_source(error).unknown());
        }
        runtime.sleep(self.store.settings().backoff_max).await;
        Ok(())
    }

    /// Makes a committed manifest this attempt's last.
    fn accept(&mut self, proposal: Proposal) -> Committed {
        let Proposal { entry, epoch, objects, retention, .. } = proposal;
        if entry.kind == ManifestKind::Checkpoint {
            self.parent = Some(entry.id);
        }
        self.ledger.advance(entry.id.seq, objects, &retention.dropped);
        self.last = entry;
        self.epoch = epoch;
        self.retained = retention.kept;
        self.savepoints.set_live(self.retained.iter().chain([&self.last]));
        Committed { id: entry.id, hash: entry.hash, dropped: retention.dropped }
    }
}
