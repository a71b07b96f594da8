//! Sweep: the only deleter.
//!
//! References and ownership decide what can be deleted, never age: an object can go if no live manifest refers to it
//! and its attempt can no longer commit, since the newest *manifest* is of a later attempt. An unreferenced object of
//! the newest manifest's attempt may be in flight; only that attempt knows.
//!
//! Invariants: data objects are listed before the manifests that protect them are read; everything is classified before
//! the first delete; if one live manifest is unreadable, nothing is deleted; attempt markers are never deleted.

use std::collections::BTreeSet;

use futures_util::{StreamExt, stream};

use crate::canary::{self, Canary};
use crate::control::retention::{RetentionPolicy, retain};
use crate::error::{Error, Result};
use crate::id::{Attempt, Epoch, ObjectId, Seq};
use crate::manifest::ManifestKind;
use crate::place::Store;
use crate::store::{Key, KeyClass};

use super::commit::fence;
use super::manifest_log::{ManifestLog, StoredManifest, succeeding};

pub use super::collect::Collector;

/// Concurrent deletes.
const DELETES_IN_FLIGHT: usize = 8;

/// Consecutive failures after which the remaining deletes are skipped: the store refuses them, or is unreachable.
const FAILURES_IN_A_ROW_MAX: u32 = 16;

/// A count of objects, and their total length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Tally {
    fn of<'a>(entries: impl IntoIterator<Item = &'a (Key, u64)>) -> Self {
        entries.into_iter().fold(Self::default(), |tally, (_, bytes)| Self {
            objects: tally.objects.saturating_add(1),
            bytes: tally.bytes.saturating_add(*bytes),
        })
    }
}

/// The outcome of deletes.
#[derive(Debug, Default)]
pub struct Swept {
    /// Deleted keys.
    pub deleted: Vec<Key>,
    /// Keys whose delete failed, each with the error; to be retried.
    pub failed: Vec<(Key, Error)>,
    /// Keys that were skipped after too many consecutive failures; to be retried.
    pub left: Vec<Key>,
}

/// Deletes `keys`, data objects before manifests. Stops after too many consecutive failures.
pub(super) async fn delete_all(store: &Store, keys: Vec<Key>) -> Swept {
    let (manifests, objects): (Vec<Key>, Vec<Key>) = keys.into_iter().partition(|key| matches!(key, Key::Manifest(_)));
    let mut swept = Swept::default();
    let mut in_a_row = 0;
    for keys in [objects, manifests] {
        delete_some(store, keys, &mut swept, &mut in_a_row).await;
    }
    swept
}

/// Deletes `keys`, in any order. Stops after too many consecutive failures.
async fn delete_some(store: &Store, keys: Vec<Key>, swept: &mut Swept, in_a_row: &mut u32) {
    let mut left: BTreeSet<Key> = keys.iter().copied().collect();
    let mut deletes = stream::iter(keys.into_iter().map(|key| async move { (key, store.folder().delete(&key).await) }))
        .buffer_unordered(DELETES_IN_FLIGHT);
    while *in_a_row < FAILURES_IN_A_ROW_MAX
        && let Some((key, outcome)) = deletes.next().await
    {
        left.remove(&key);
        match outcome {
            Ok(()) => {
                *in_a_row = 0;
                if let Key::Data(object) = key {
                    store.data().forget(object);
                }
                swept.deleted.push(key);
            }
            Err(error) => {
                *in_a_row += 1;
                swept.failed.push((key, error));
            }
        }
    }
    swept.left.extend(left);
}

/// A checkpoint or savepoint that can no longer be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DroppedManifest {
    /// Its id.
    pub id: Seq,
    /// The last epoch whose effects it holds.
    pub epoch: Epoch,
}

/// The findings of a sweep, and what it would delete.
#[derive(Debug)]
pub struct SweepPlan {
    /// The newest manifest, which decides what is live; `None` if the job has none.
    pub newest: Option<Seq>,
    /// The live manifests and the objects that they reach.
    pub live: Tally,
    /// Unreferenced objects of an attempt that may still commit.
    pub in_flight: Vec<(Key, u64)>,
    /// Void manifests kept so that readers with lagging listings reach the end of the chain.
    pub signposts: Vec<(Key, u64)>,
    /// Objects that can be deleted.
    pub deletable: Vec<(Key, u64)>,
    /// Live checkpoints and savepoints that the sweep drops, ascending. Their manifests may stay as signposts.
    pub dropped: Vec<DroppedManifest>,
    /// Files that are not the job's, left alone.
    pub foreign: u64,
    /// Whether the plan presumes a claim that was not made.
    hypothetical: bool,
}

impl SweepPlan {
    /// Returns the total of the objects that can be deleted.
    #[must_use]
    pub fn deletable_tally(&self) -> Tally {
        Tally::of(&self.deletable)
    }

    /// Returns the total of the objects that may be in flight.
    #[must_use]
    pub fn in_flight_tally(&self) -> Tally {
        Tally::of(&self.in_flight)
    }
}

/// Plans a sweep.
///
/// * `owner`: the attempt that the caller has claimed, if any.
///
/// # Errors
/// `Fenced` if the newest manifest is not `owner`'s; `Corrupt` if any live manifest is unreadable; `Denied` or
/// `Unavailable` from the store.
pub async fn plan(store: &Store, owner: Option<Attempt>) -> Result<SweepPlan> {
    let survey = Survey::take(store, &BTreeSet::new()).await?;
    let newest = survey.newest().map(|newest| newest.manifest.attempt);
    if let (Some(owner), Some(newest)) = (owner, newest)
        && owner != newest
    {
        return Err(Error::fenced("another attempt owns the job").with("attempt", owner).with("by", newest));
    }
    let live = survey.manifests.iter().map(|manifest| manifest.id.seq).collect();
    let spared = match owner {
        Some(_) if canary::on(Canary::SweepUploads) => Attempt(u64::MAX),
        _ => newest.unwrap_or_default(),
    };
    Ok(survey.classify(&live, spared, false))
}

/// Plans the sweep after a claim that retains by `policy`, without claiming. The plan is for display: a sweep
/// refuses it.
///
/// # Errors
/// `Corrupt` if any live manifest is unreadable; `Denied` or `Unavailable` from the store.
pub async fn preview(store: &Store, policy: RetentionPolicy) -> Result<SweepPlan> {
    preview_without(store, policy, &BTreeSet::new()).await
}

/// As [`preview`], for a claim that also drops the manifests `unwanted`, which need not be readable.
///
/// # Errors
/// As [`plan`].
pub(crate) async fn preview_without(
    store: &Store,
    policy: RetentionPolicy,
    unwanted: &BTreeSet<Seq>,
) -> Result<SweepPlan> {
    let survey = Survey::take(store, unwanted).await?;
    let Some(newest) = survey.newest() else {
        return Ok(survey.classify(&BTreeSet::new(), Attempt(0), true));
    };
    let parent = if newest.manifest.kind == ManifestKind::Claim { newest.manifest.parent } else { Some(newest.id) };
    let retention = retain(policy, ManifestKind::Claim, parent, &survey.chain.live()).without(unwanted, parent);
    let live = retention.kept.iter().map(|entry| entry.id.seq).collect();
    // Attempts that have begun and committed nothing: the claim takes a higher number, and their objects can go.
    let mut before = newest.manifest.attempt;
    while let Some(begun) = fence(store, before).await? {
        before = begun;
    }
    let claimed = succeeding(before)?;
    Ok(survey.classify(&live, claimed, true))
}

/// Executes a plan: deletes data objects, then manifests. A plan never expires: an object once unreachable and without
/// an owner stays so.
///
/// # Errors
/// `Usage` if the plan is a preview. Failed deletes are in the result.
pub async fn execute(store: &Store, plan: &SweepPlan) -> Result<Swept> {
    if plan.hypothetical {
        return Err(Error::usage("a preview cannot be executed: claim the job, then plan"));
    }
    Ok(delete_all(store, plan.deletable.iter().map(|(key, _)| *key).collect()).await)
}

/// Everything that a sweep's decisions depend on.
struct Survey {
    data: Vec<(ObjectId, u64)>,
    foreign: u64,
    chain: ManifestLog,
    manifests: Vec<StoredManifest>,
    list_lag: u64,
}

impl Survey {
    /// Lists the objects and reads all live manifests except `unread`.
    async fn take(store: &Store, unread: &BTreeSet<Seq>) -> Result<Self> {
        // The order matters: objects exist before the manifests that refer to them. So a listed object is either
        // referred to by a manifest read below, or unreferenced for good, or of an attempt that may still commit.
        let listing = store.folder().list(KeyClass::Data).await?;
        let mut chain = ManifestLog::load(store).await?;
        let manifests = chain.read_live_but(store, unread).await?;
        let data = listing.entries.into_iter().filter_map(|(key, bytes)| match key {
            Key::Data(object) => Some((object, bytes)),
            _ => None,
        });
        Ok(Self {
            data: data.collect(),
            foreign: listing.foreign,
            chain,
            manifests,
            list_lag: store.settings().list_lag,
        })
    }

    fn newest(&self) -> Option<&StoredManifest> {
        self.chain.newest_readable()
    }

    /// Classifies every object.
    ///
    /// * `live`: the manifests that protect objects.
    /// * `owner`: the attempt that may have objects in flight.
    fn classify(self, live: &BTreeSet<Seq>, owner: Attempt, hypothetical: bool) -> SweepPlan {
        let protecting = self.manifests.iter().filter(|manifest| live.contains(&manifest.id.seq));
        let reached: BTreeSet<ObjectId> = protecting.flat_map(StoredManifest::objects).collect();
        let restorable = self.manifests.iter().filter(|manifest| manifest.manifest.kind != ManifestKind::Claim);
        let dropped = restorable.filter(|manifest| !live.contains(&manifest.id.seq));
        let dropped = dropped.map(|manifest| DroppedManifest { id: manifest.id.seq, epoch: manifest.manifest.epoch });
        let mut plan = SweepPlan {
            newest: self.newest().map(|newest| newest.id.seq),
            dropped: dropped.collect(),
            live: Tally::default(),
            in_flight: Vec::new(),
            signposts: Vec::new(),
            deletable: Vec::new(),
            foreign: self.foreign,
            hypothetical,
        };
        let mut kept = Vec::new();
        for (object, bytes) in self.data {
            let side = if reached.contains(&object) {
                &mut kept
            } else if object.attempt >= owner && !canary::on(Canary::SweepInFlight) {
                &mut plan.in_flight
            } else {
                &mut plan.deletable
            };
            side.push((Key::Data(object), bytes));
        }
        let end = self.chain.end().0.saturating_add(u64::from(hypothetical));
        for (seq, bytes) in self.chain.stored() {
            let side = if live.contains(seq) {
                &mut kept
            } else if seq.0.saturating_add(self.list_lag.max(1)) > end {
                &mut plan.signposts
            } else {
                &mut plan.deletable
            };
            side.push((Key::Manifest(*seq), *bytes));
        }
        plan.live = Tally::of(&kept);
        plan
    }
}
