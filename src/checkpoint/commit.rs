//! Commit: the only creator of manifests.
//!
//! A checkpoint is committed by creating `manifest/<last + 1>` and *then* finding no `attempt/<a + 1>`. Before the
//! create nothing is visible; after it nothing changes.
//!
//! Invariants: the outcome of a commit is determined before it is returned; an unknown outcome deletes nothing; a
//! manifest refers to nothing but objects of live manifests and new ones of its own attempt.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::canary::{self, Canary};
use crate::control::retention::{Garbage, Ledger, Retention, RetentionPolicy, retain};
use crate::error::{Applied, Error, ErrorKind, Result};
use crate::id::{Attempt, Epoch, Hash, JobId, ManifestId, ObjectId, Seq};
use crate::key_group::Partitioner;
use crate::manifest::{
    DurabilityLevel, Extension, Manifest, ManifestKind, ObjectRef, OperatorManifest, Program, Retained,
};
use crate::place::Store;
use crate::store::{Key, Put};
use crate::time::Timestamp;

use super::manifest_log::{following, succeeding};
use super::savepoints::Savepoints;
use super::sweep;

/// How often a refusal (no permission, say) is answered by another try while a commit is in doubt.
const REFUSALS_MAX: u32 = 5;

/// Longest attempt marker that is read: that it exists is what matters.
const MARKER_BYTES_MAX: u64 = 64 << 10;

/// What an engine knows of a checkpoint that it wants committed; the rest is the attempt's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// A checkpoint or a savepoint.
    pub kind: ManifestKind,
    /// It holds all effects of epochs up to this one.
    pub epoch: Epoch,
    /// Every data object that it refers to: durable, and either new or an object of a live manifest.
    pub objects: Vec<ObjectRef>,
    /// How far its bytes have gone.
    pub level: DurabilityLevel,
    /// The job's operators with their tables and subtasks.
    pub operators: Vec<OperatorManifest>,
    /// What later versions or embedders add.
    pub extensions: Vec<Extension>,
}

/// What became of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitOutcome {
    /// It is in the chain, and no newer attempt had begun when it was: announce it.
    Committed(Committed),
    /// A newer attempt has begun: announce nothing and stop. Whether the manifest is in the chain is for the
    /// successor to find.
    Fenced {
        /// The attempt that comes after ours; there may be newer ones.
        by: Attempt,
    },
}

/// A committed manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Its number and write.
    pub id: ManifestId,
    /// Hash of the whole object.
    pub hash: Hash,
    /// The manifests that it made void.
    pub dropped: Vec<Retained>,
}

/// What is the same in every manifest of an attempt.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) job: JobId,
    pub(super) attempt: Attempt,
    pub(super) writer: String,
    pub(super) program: Program,
    pub(super) partitioner: Partitioner,
    pub(super) max_parallelism: u16,
    pub(super) retention: RetentionPolicy,
}

/// A manifest on its way into the store.
#[derive(Debug)]
pub(super) struct Proposal {
    entry: Retained,
    epoch: Epoch,
    objects: BTreeSet<ObjectId>,
    retention: Retention,
    object: Bytes,
    /// Whether it may have been sent, so that a refusal proves nothing.
    in_doubt: bool,
}

impl Proposal {
    /// Encodes `manifest`, to be written to `store`, with the retained list of `retention`.
    ///
    /// # Errors
    /// `Usage` if it breaks a rule of the format, `Limit` if it is too large.
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

    /// Creates the manifest: the one place where that happens.
    pub(super) async fn create(&self, store: &Store) -> Result<Put> {
        store.folder().put_new(&Key::Manifest(self.entry.id.seq), self.entry.id.put_id, self.object.clone()).await
    }
}

/// How long, and how often, the store is asked for the outcome of a commit.
struct Patience {
    end: Timestamp,
    refusals: u32,
}

/// Looks whether an attempt after `attempt` has begun, and returns it.
pub(super) async fn fence(store: &Store, attempt: Attempt) -> Result<Option<Attempt>> {
    let next = succeeding(attempt)?;
    Ok(store.folder().read(&Key::Attempt(next), MARKER_BYTES_MAX).await?.map(|_marker| next))
}

/// An attempt's right to append to its job's chain.
///
/// If the future of [`Committer::commit`] is dropped, the outcome of that commit is unknown, and the next checkpoint
/// depends on it: [`Committer::settle`] has to find it out before the next is drafted.
pub struct Committer {
    store: Store,
    identity: Identity,
    /// Our last manifest: the end of the chain, unless we are fenced.
    last: Retained,
    epoch: Epoch,
    /// The others that live.
    retained: Vec<Retained>,
    /// What the next checkpoint continues.
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

    /// Sets what is called with each error that leaves the outcome of a commit open, before the store is asked again.
    pub fn on_doubt(&mut self, call: OnDoubt) {
        self.on_doubt = Some(call);
    }

    /// Returns the attempt that it commits for.
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        self.identity.attempt
    }

    /// Returns the last manifest that it put into the chain: the claim, or a committed checkpoint.
    #[must_use]
    pub fn last(&self) -> ManifestId {
        self.last.id
    }

    /// Returns the job's savepoints: the place to ask for one to be dropped, from any thread.
    #[must_use]
    pub fn savepoints(&self) -> Savepoints {
        self.savepoints.clone()
    }

    /// Commits `draft`: a create of the manifest, then a read of the next attempt's marker.
    ///
    /// While the outcome is unknown it tries again, with the same bytes, for [`StoreSettings::settle_patience`].
    ///
    /// # Errors
    /// `Usage` if the draft breaks the chain's rules or an earlier commit is to be settled first, `Limit` if it is too
    /// large, `Denied` or `Config` if the store refuses: in all these the manifest is not in the chain and will not be,
    /// unless the error may have been applied. Such an error means that the store refused, or did not answer, while the
    /// outcome was open: this attempt must end, and the next one finds out. `Corrupt` if another wrote where only this
    /// attempt may.
    ///
    /// [`StoreSettings::settle_patience`]: crate::store::StoreSettings::settle_patience
    pub async fn commit(&mut self, draft: Draft) -> Result<CommitOutcome> {
        if let Some(by) = self.fenced {
            return Ok(CommitOutcome::Fenced { by });
        }
        if self.pending.is_some() {
            return Err(Error::usage("an earlier commit was broken off: settle it before the next is drafted"));
        }
        self.pending = Some(self.propose(draft)?);
        self.settle().await?.ok_or_else(|| Error::stopped("there is no commit to settle"))
    }

    /// Finds out what became of a commit whose future was dropped; `None` if there is nothing to find out.
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
        // Only now, after the create: an attempt that begins later finds the manifest in the chain.
        let unguarded = put == Put::Created && canary::on(Canary::SkipFence);
        let next = if unguarded { None } else { self.look_for_next_attempt().await? };
        if let Some(by) = next {
            self.fenced = Some(by);
            return Ok(Some(CommitOutcome::Fenced { by }));
        }
        if put == Put::Taken {
            let error = Error::corrupt("another's manifest stands where only this attempt may write");
            return Err(error.with("attempt", self.identity.attempt).with("after", self.last.id.seq));
        }
        Ok(self.pending.take().map(|proposal| CommitOutcome::Committed(self.accept(proposal))))
    }

    /// Returns what nothing live reaches any more since this was last asked.
    #[must_use]
    pub fn take_garbage(&mut self) -> Garbage {
        self.ledger.take_garbage(self.store.settings().list_lag)
    }

    fn propose(&self, draft: Draft) -> Result<Proposal> {
        if draft.kind == ManifestKind::Claim {
            return Err(Error::usage("a claim is not committed, it is made"));
        }
        if draft.epoch < self.epoch {
            let error = Error::usage("epochs never fall along a lineage");
            return Err(error.with("epoch", draft.epoch).with("before", self.epoch));
        }
        // What no live manifest reaches any sweep may take, unless it is ours: then only we do.
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
        // A checkpoint is itself what the next continues; beside a savepoint the parent has to stay.
        let continued = if draft.kind == ManifestKind::Checkpoint { None } else { self.parent };
        let retention = retention.without(&self.savepoints.unwanted(), continued);
        let manifest = self.manifest(following(self.last.id.seq)?, draft);
        Proposal::new(&self.store, manifest, retention)
    }

    /// Whether `object` is of this attempt, and not handed out as garbage.
    fn is_ours(&self, object: &ObjectId) -> bool {
        object.attempt == self.identity.attempt && !self.ledger.freed(object)
    }

    fn manifest(&self, seq: Seq, draft: Draft) -> Manifest {
        let Identity { job, attempt, writer, program, partitioner, max_parallelism, retention: _ } =
            self.identity.clone();
        let Draft { kind, epoch, objects, level, operators, extensions } = draft;
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

    /// Creates the pending manifest, until it is known that it stands, or that another's does.
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
                let own = |object: &ObjectId| !self.ledger.protects(object);
                let keys = proposal.objects.iter().copied().filter(own).map(Key::Data).collect();
                sweep::delete_all(&self.store, keys).await;
                self.pending = None;
                return Err(error);
            }
            self.pause(&mut patience, error, "outcome of a commit is unknown").await?;
        }
    }

    /// Reads the next attempt's marker, until there is an answer.
    async fn look_for_next_attempt(&self) -> Result<Option<Attempt>> {
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
        Patience { end: store.runtime().monotonic().after(store.settings().settle_patience), refusals: 0 }
    }

    /// Waits until the store is asked again.
    ///
    /// # Errors
    /// The error, as possibly applied, once patience is at an end.
    async fn pause(&self, patience: &mut Patience, error: Error, what: &'static str) -> Result<()> {
        let runtime = self.store.runtime();
        tracing::warn!(error = error.chain(), attempt = self.identity.attempt.0, "{what}");
        if let Some(call) = &self.on_doubt {
            call(&error);
        }
        patience.refusals += u32::from(matches!(error.kind(), ErrorKind::Denied | ErrorKind::Config));
        if patience.refusals >= REFUSALS_MAX || runtime.monotonic() >= patience.end {
            return Err(Error::new(error.kind(), what).with_source(error).unknown());
        }
        runtime.sleep(self.store.settings().backoff_max).await;
        Ok(())
    }

    /// Makes a manifest that is known to stand, unfenced, our last.
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
