//! Claim: a new attempt takes over a job.
//!
//! Creates `attempt/<newest + 1>`, or a higher one if that is taken; finds the end of the chain; appends a manifest of
//! kind `Claim` whose parent is the restored checkpoint. Once the marker exists, no older attempt can commit; once the
//! claim exists, no older commit is in doubt.
//!
//! Invariant: every check comes before the marker, so that a mistaken command stops no running job.

use std::collections::BTreeSet;

use crate::canary::{self, Canary};
use crate::control::retention::{Ledger, RetentionPolicy, retain};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Attempt, Epoch, JobId, Lineage, ManifestId, Seq};
use crate::key_group::{MAX_KEY_GROUPS, Partitioner};
use crate::manifest::{AttemptMarker, DurabilityLevel, Manifest, ManifestKind, Program};
use crate::place::Store;
use crate::store::{Key, Put};

use super::collect::warn_held;
use super::commit::{Committer, Identity, MARKER_BYTES_MAX, Proposal, fence};
use super::manifest_log::{ManifestLog, RestoreFrom, StoredManifest, following, succeeding};
use super::operators::OperatorClaims;

/// A new attempt's request for a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRequest {
    /// The checkpoint to restore.
    pub from: RestoreFrom,
    /// How keys map to key groups. Must be of the stored state's kind, if there is state; the stored seed is used.
    pub partitioner: Partitioner,
    /// Number of key groups. Must equal the stored state's, if there is state.
    pub max_parallelism: u16,
    /// Which checkpoints to retain.
    pub retention: RetentionPolicy,
    /// Name and version of the writing software.
    pub writer: String,
    /// The job's program. Compare it with the stored one, which [`peek`] returns, before claiming.
    pub program: Program,
    /// The operators that take over stored state; `None` for tools, which run no operators and drop no state.
    pub operators: Option<OperatorClaims>,
}

/// A claimed job.
#[derive(Debug)]
pub struct Claimed {
    /// The job.
    pub job: JobId,
    /// Our fencing number.
    pub attempt: Attempt,
    /// The checkpoint to restore; `None` to start empty.
    pub restore: Option<StoredManifest>,
    /// How keys map to key groups.
    pub partitioner: Partitioner,
    /// Number of key groups.
    pub max_parallelism: u16,
    /// The lineage of its checkpoints: that of the restored one if the job continues where it ended.
    pub lineage: Lineage,
    /// The right to append to the chain.
    pub committer: Committer,
}

/// A job's chain, read without claiming the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peeked {
    /// The newest manifest.
    pub newest: StoredManifest,
    /// The checkpoint that a claim would restore.
    pub restore: Option<StoredManifest>,
}

/// Reads the newest manifest and the checkpoint that `from` selects; `None` if the job has no manifest. Writes nothing.
///
/// # Errors
/// `NotFound` if the chosen checkpoint is not live; `Corrupt` if the checkpoint or the newest manifest is damaged; both
/// name the restorable checkpoints. `Version`, `Denied` or `Unavailable` from the store.
pub async fn peek(store: &Store, from: RestoreFrom) -> Result<Option<Peeked>> {
    let mut chain = ManifestLog::load(store).await?;
    let restore = chain.resolve(store, from).await?;
    Ok(chain.newest_readable().map(|newest| Peeked { newest: newest.clone(), restore }))
}

/// Takes over the job, or founds it.
///
/// # Errors
/// Before any older attempt is fenced: `NotFound` or `Corrupt` if the checkpoint is not live or is damaged, naming the
/// restorable ones; `Config` if the settings contradict the stored state. Afterwards: `Fenced` if a newer attempt took
/// over meanwhile; `Denied` or `Unavailable` from the store, and then claiming again is safe.
pub async fn claim(store: &Store, request: &ClaimRequest) -> Result<Claimed> {
    claim_without(store, request, &BTreeSet::new()).await
}

/// As [`claim`], dropping the live manifests `unwanted`, which need not be readable.
///
/// # Errors
/// As [`claim`]; `Usage` if `unwanted` has the checkpoint to restore.
pub(crate) async fn claim_without(store: &Store, request: &ClaimRequest, unwanted: &BTreeSet<Seq>) -> Result<Claimed> {
    request.check_settings()?;
    let mut chain = ManifestLog::load(store).await?;
    let restore = chain.resolve(store, request.from).await?;
    request.check_state(store, restore.as_ref()).await?;
    check_unwanted(unwanted, restore.as_ref().map(|restore| restore.id))?;

    let founded = JobId(store.draw_put_id().0);
    let (attempt, appended) = loop {
        let job = chain.newest_readable().map_or(founded, |newest| newest.manifest.job);
        let attempt = take_attempt(store, &chain, job).await?;
        if let Some(appended) = append(store, request, unwanted, attempt, job).await? {
            break (attempt, appended);
        }
        // Another attempt founded the job meanwhile. A marker names its job, so this one takes another.
        chain = ManifestLog::load(store).await?;
    };
    let Appended { chain, identity, proposal, restore } = appended;
    // A delayed claim may have landed under a number that a newer attempt had used and deleted.
    if !canary::on(Canary::SkipClaimFence) {
        check_owner(store, attempt).await?;
    }
    let ledger = open_ledger(store, &chain, &proposal, restore.as_ref()).await;
    tracing::info!(attempt = attempt.0, seq = proposal.entry().id.seq.0, "job claimed");
    Ok(Claimed {
        job: identity.job,
        attempt,
        partitioner: identity.partitioner,
        max_parallelism: identity.max_parallelism,
        lineage: identity.lineage,
        committer: Committer::new(store, identity, &proposal, restore.as_ref().map(|restore| restore.id), ledger),
        restore,
    })
}

/// Checks that `attempt` still owns the job. Call it before an effect outside the chain that only the owner may have.
///
/// # Errors
/// `Fenced` if a newer attempt has begun; `Denied` or `Unavailable` from the store.
pub async fn check_owner(store: &Store, attempt: Attempt) -> Result<()> {
    match fence(store, attempt).await? {
        Some(by) => Err(fenced(attempt, by)),
        None => Ok(()),
    }
}

/// Checks that `store` is the one in which `attempt` claimed `job`.
///
/// # Errors
/// `Config` if it is another; `Corrupt`, `Version`, `Denied` or `Unavailable` from the store.
pub(crate) async fn check_marker(store: &Store, job: JobId, attempt: Attempt) -> Result<()> {
    let other = || Error::config("the worker's store is not the owner's").with("job", job).with("attempt", attempt);
    let Some(marker) = store.folder().read(&Key::Attempt(attempt), MARKER_BYTES_MAX).await? else {
        return Err(other());
    };
    let (marker, _) = AttemptMarker::decode(&marker, attempt)?;
    if marker.job == job { Ok(()) } else { Err(other().with("found", marker.job)) }
}

/// Returns why `attempt` could not read its restored checkpoint, given the read's error: damage, or a newer attempt
/// that has dropped the checkpoint meanwhile.
pub(crate) async fn why_unreadable(store: &Store, attempt: Attempt, error: Error) -> Error {
    if !matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) {
        return error;
    }
    match check_owner(store, attempt).await {
        Err(fenced) if fenced.kind() == ErrorKind::Fenced => fenced.with_source(error.chain()),
        _ => error,
    }
}

impl ClaimRequest {
    fn check_settings(&self) -> Result<()> {
        if self.max_parallelism == 0 || self.max_parallelism > MAX_KEY_GROUPS {
            let error = Error::config("max parallelism out of range 1..=32768");
            return Err(error.with("max_parallelism", self.max_parallelism));
        }
        Ok(())
    }

    /// Refuses settings and operators that contradict the stored state.
    async fn check_state(&self, store: &Store, restore: Option<&StoredManifest>) -> Result<()> {
        let Some(checkpoint) = restore else { return Ok(()) };
        let StoredManifest { id, manifest, .. } = checkpoint;
        if manifest.max_parallelism != self.max_parallelism {
            return Err(Error::config("max parallelism differs from the stored state's")
                .with("checkpoint", id.seq)
                .with("stored", manifest.max_parallelism)
                .with("requested", self.max_parallelism));
        }
        let kinds = [manifest.partitioner, self.partitioner].map(|p| (p.name(), p.version_and_seed().0));
        let [(stored, stored_version), (requested, requested_version)] = kinds;
        if kinds.first() != kinds.last() {
            return Err(Error::config("partitioner differs from the stored state's")
                .with("checkpoint", id.seq)
                .with("stored", format_args!("{stored} {stored_version}"))
                .with("requested", format_args!("{requested} {requested_version}")));
        }
        match &self.operators {
            Some(operators) => operators.check(store, checkpoint).await,
            None => Ok(()),
        }
    }

    /// Returns the fields that all manifests of the attempt share. A stored partitioner, with its seed, wins.
    fn identity(
        &self,
        (job, attempt, lineage): (JobId, Attempt, Lineage),
        restore: Option<&StoredManifest>,
    ) -> Identity {
        Identity {
            job,
            attempt,
            writer: self.writer.clone(),
            program: self.program.clone(),
            partitioner: restore.map_or(self.partitioner, |restore| restore.manifest.partitioner),
            max_parallelism: self.max_parallelism,
            retention: self.retention,
            lineage,
        }
    }
}

/// Creates the marker of the lowest attempt that has not begun. Attempts are dense: a fenced attempt looks only at the
/// next number. A crashed predecessor's marker counts as another attempt's.
async fn take_attempt(store: &Store, chain: &ManifestLog, job: JobId) -> Result<Attempt> {
    let mut attempt = chain.newest_readable().map_or(Attempt(0), |newest| newest.manifest.attempt);
    loop {
        attempt = succeeding(attempt)?;
        let put_id = store.draw_put_id();
        let marker = AttemptMarker { attempt, job, created_at: store.runtime().now() };
        match store.folder().put_new(&Key::Attempt(attempt), put_id, marker.encode(put_id)).await? {
            Put::Created => return Ok(attempt),
            Put::Taken if canary::on(Canary::GhostFences) => return Err(fenced(attempt, attempt)),
            Put::Taken => tracing::debug!(attempt = attempt.0, "attempt is taken, going higher"),
        }
    }
}

/// A claim in the chain.
struct Appended {
    /// The chain up to the claim.
    chain: ManifestLog,
    identity: Identity,
    proposal: Proposal,
    restore: Option<StoredManifest>,
}

/// Appends the claim at the end of the chain. The chain is loaded again: older attempts may have committed since the
/// load before the marker. From now on each can append at most one more manifest. `None` if the chain is of another job
/// than `job`, which the marker names.
async fn append(
    store: &Store,
    request: &ClaimRequest,
    unwanted: &BTreeSet<Seq>,
    attempt: Attempt,
    job: JobId,
) -> Result<Option<Appended>> {
    loop {
        let mut chain = ManifestLog::load(store).await?;
        let restore = chain.resolve(store, request.from).await;
        let newest = chain.newest_readable();
        if let Some(by) = newest.map(|newest| newest.manifest.attempt).filter(|by| *by >= attempt) {
            return Err(fenced(attempt, by));
        }
        let restore = restore?;
        request.check_state(store, restore.as_ref()).await?;
        if newest.is_some_and(|newest| newest.manifest.job != job) {
            return Ok(None);
        }
        check_job(job, restore.as_ref())?;
        let lineage = lineage(store, job, newest, restore.as_ref())?;
        let identity = request.identity((job, attempt, lineage), restore.as_ref());
        let parent = restore.as_ref().map(|restore| restore.id);
        check_unwanted(unwanted, parent)?;
        let retention = retain(request.retention, ManifestKind::Claim, parent, &chain.live());
        let retention = retention.without(unwanted, parent);
        let manifest = claim_manifest(store, &identity, following(chain.end())?, restore.as_ref());
        let proposal = Proposal::new(store, manifest, retention)?;
        match proposal.create(store).await? {
            Put::Created => return Ok(Some(Appended { chain, identity, proposal, restore })),
            // An older attempt's commit or a newer attempt's claim landed first: load the chain again.
            Put::Taken => tracing::debug!(seq = chain.end().0, "chain grew under a claim"),
        }
    }
}

/// Returns the lineage of an attempt that restores `restore`: the newest manifest's if the job continues where that ended, else
/// one drawn anew.
fn lineage(
    store: &Store,
    job: JobId,
    newest: Option<&StoredManifest>,
    restore: Option<&StoredManifest>,
) -> Result<Lineage> {
    let Some(StoredManifest { id, manifest, .. }) = newest else { return Ok(Lineage(job.0)) };
    let end = if manifest.kind == ManifestKind::Claim { manifest.parent } else { Some(*id) };
    let continues = end == restore.map(|restore| restore.id) && !manifest.is_copy()?;
    if continues { manifest.lineage() } else { Ok(Lineage(store.draw_put_id().0)) }
}

fn claim_manifest(store: &Store, identity: &Identity, seq: Seq, restore: Option<&StoredManifest>) -> Manifest {
    let Identity { job, attempt, writer, program, partitioner, max_parallelism, .. } = identity.clone();
    let mut extensions = Vec::new();
    identity.add_lineage(&mut extensions);
    Manifest {
        job,
        seq,
        kind: ManifestKind::Claim,
        attempt,
        epoch: restore.map_or(Epoch(0), |restore| restore.manifest.epoch),
        parent: restore.map(|restore| restore.id),
        retained: Vec::new(),
        created_at: store.runtime().now(),
        writer,
        program,
        partitioner,
        max_parallelism,
        objects: Vec::new(),
        level: restore.map_or(DurabilityLevel::ObjectStore, |restore| restore.manifest.level),
        operators: Vec::new(),
        extensions,
    }
}

/// Refuses another job's state.
fn check_job(job: JobId, restore: Option<&StoredManifest>) -> Result<()> {
    match restore {
        Some(restore) if restore.manifest.job != job => {
            let error =
                Error::corrupt("checkpoint belongs to another job").with("object", Key::Manifest(restore.id.seq));
            Err(error.with("expected", job).with("found", restore.manifest.job))
        }
        _ => Ok(()),
    }
}

/// Refuses to drop the checkpoint that the job continues.
pub(crate) fn check_unwanted(unwanted: &BTreeSet<Seq>, continued: Option<ManifestId>) -> Result<()> {
    match continued.filter(|continued| unwanted.contains(&continued.seq)) {
        Some(continued) => {
            let error =
                Error::usage("the job would resume from this checkpoint: it can be dropped once there is a newer one");
            Err(error.with("checkpoint", continued.seq))
        }
        None => Ok(()),
    }
}

/// Reads the other live manifests, so that later commits can find what they make unreachable.
async fn open_ledger(store: &Store, chain: &ManifestLog, claim: &Proposal, restore: Option<&StoredManifest>) -> Ledger {
    let mut ledger = Ledger::default();
    let kept = &claim.retention().kept;
    for entry in kept {
        let objects = match restore.filter(|restore| restore.id == entry.id) {
            Some(restore) => Some(restore.objects()),
            None => match chain.read(store, entry).await {
                Ok(stored) => Some(stored.objects()),
                Err(_) if canary::on(Canary::CollectOverUnreadable) => Some(BTreeSet::new()),
                Err(error) => {
                    warn_held(&entry.id.seq.to_string(), Some(&error));
                    None
                }
            },
        };
        ledger.add_live(entry.id.seq, objects);
    }
    ledger.add_live(claim.entry().id.seq, Some(BTreeSet::new()));
    let live: BTreeSet<Seq> = kept.iter().map(|entry| entry.id.seq).collect();
    chain.stored().keys().filter(|seq| !live.contains(seq)).for_each(|seq| ledger.add_void(*seq));
    ledger
}

fn fenced(attempt: Attempt, by: Attempt) -> Error {
    Error::fenced("a newer attempt owns the job").with("attempt", attempt).with("by", by)
}
