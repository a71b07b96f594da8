//! Finding damage before a restore does: reports it, the checkpoints that it affects, and those that are intact.
//!
//! ```text
//! markers, manifests --reach--> objects and their slices --check--> damage --> restorable checkpoints
//! ```
//!
//! Invariants: damage does not stop the verification; a checkpoint is reported as restorable only if every byte that
//! its restore reads was checked, as closely as the level requires, and found intact.

mod hash;
mod object;
mod reach;

use std::collections::BTreeSet;

use futures_util::{StreamExt, stream};

use super::ReportProgress;
use crate::checkpoint::manifest_log::{FOLLOWED_MAX, ManifestLog};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ObjectId, Seq};
use crate::manifest::{AttemptMarker, ManifestKind};
use crate::place::Store;
use crate::store::{Key, KeyClass};

use object::{Inspector, Stored};
use reach::{Reach, Reached};

/// Objects checked at a time. [`VerifyLevel::Full`] holds each whole in memory.
const CONCURRENT_OBJECTS: usize = 2;

/// Longest attempt marker; real ones take less than 100 bytes.
const MARKER_BYTES_MAX: u64 = 64 << 10;

/// How closely to check. Each level includes the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyLevel {
    /// Markers and manifests; existence and length of data objects.
    Manifest,
    /// Also each segment's index and one of its blocks.
    Sampled {
        /// Chooses the blocks.
        seed: u64,
    },
    /// Every byte, and every rule for rows.
    Full,
}

/// A kind of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DamageKind {
    /// An attempt's marker is unreadable or missing.
    Marker,
    /// A manifest is unreadable, missing or not the one that the newest manifest lists.
    Manifest,
    /// A data object is missing.
    Missing,
    /// A data object has the wrong length.
    Length,
    /// A data object's bytes are damaged outside all live segments.
    Object,
    /// A subtask manifest or an opaque is damaged.
    Slice,
    /// A segment's index, header or trailer is damaged.
    Index,
    /// A block is damaged.
    Block,
    /// Rows break a rule: they are out of order, or in the wrong key group.
    Rows,
}

impl DamageKind {
    /// Returns its stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Marker => "marker",
            Self::Manifest => "manifest",
            Self::Missing => "missing",
            Self::Length => "length",
            Self::Object => "object",
            Self::Slice => "slice",
            Self::Index => "index",
            Self::Block => "block",
            Self::Rows => "rows",
        }
    }
}

/// Stored bytes that differ from those written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Key of the object, below the job's root.
    pub object: String,
    /// Offset of the damaged part from the object's start.
    pub offset: u64,
    /// The kind of damage.
    pub kind: DamageKind,
    /// The checkpoints whose restore reads the damaged part.
    pub checkpoints: BTreeSet<Seq>,
    /// The expected and the found value.
    pub detail: String,
}

/// The result of a verification.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Checked objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The damage found.
    pub damaged: Vec<Damage>,
    /// Live checkpoints and savepoints that no damage affects.
    pub restorable: Vec<Seq>,
}

/// Checks everything that a job's live checkpoints reach.
///
/// A running job may drop a checkpoint meanwhile; its missing objects are then no damage. If all are dropped, the
/// verification starts over with the live ones.
///
/// # Errors
/// `Version` if an intact object is newer than this build; `Denied` or `Unavailable` from the store. Damage is no
/// error.
///
/// # Cost
/// Two listings, or one at [`VerifyLevel::Full`]; a read per marker and manifest; at [`VerifyLevel::Sampled`] two reads per
/// segment, at [`VerifyLevel::Full`] one per object. Memory for a few objects.
pub async fn verify(
    store: &Store,
    chain: &ManifestLog,
    level: VerifyLevel,
    progress: ReportProgress<'_>,
) -> Result<Report> {
    let mut newer = None;
    let mut followed = 0;
    loop {
        let chain = newer.as_ref().unwrap_or(chain);
        let mut report = verify_once(store, chain, level, progress).await?;
        if report.damaged.is_empty() {
            return Ok(report);
        }
        // A damaged newest manifest cannot show that a checkpoint was dropped.
        let Some(now) = chain.newer(store).await?.filter(|now| now.newest().is_ok()) else { return Ok(report) };
        report.forget_dropped(&now);
        let all_dropped = report.damaged.is_empty() && report.restorable.is_empty();
        if !all_dropped || followed == FOLLOWED_MAX {
            return Ok(report);
        }
        followed += 1;
        newer = Some(now);
    }
}

/// Checks everything that the live checkpoints of `chain` reach.
async fn verify_once(
    store: &Store,
    chain: &ManifestLog,
    level: VerifyLevel,
    progress: ReportProgress<'_>,
) -> Result<Report> {
    let mut report = Report::default();
    report.check_markers(store, chain).await?;
    let reach = report.check_manifests(store, chain).await?;
    report.check_objects(store, reach, level, progress).await?;
    let touched = |seq: &Seq| report.damaged.iter().any(|damage| damage.checkpoints.contains(seq));
    let live = chain.restorable().into_iter().map(|manifest| manifest.id.seq);
    report.restorable = live.filter(|seq| !touched(seq)).collect();
    Ok(report)
}

/// Returns the text of an error about stored bytes.
///
/// # Errors
/// Any other error, unchanged.
fn detail(error: Error) -> Result<String> {
    match error.kind() {
        ErrorKind::Corrupt | ErrorKind::NotFound => Ok(error.chain()),
        _ => Err(error),
    }
}

impl Report {
    /// Removes damage and restorability of checkpoints that are no longer live in `now`, and of claims, which the next
    /// manifest drops.
    fn forget_dropped(&mut self, now: &ManifestLog) {
        let is_claim = |damage: &Damage| damage.kind == DamageKind::Manifest && damage.checkpoints.is_empty();
        self.damaged.retain_mut(|damage| {
            let of_none = damage.checkpoints.is_empty();
            damage.checkpoints.retain(|seq| now.lists(*seq));
            !is_claim(damage) && (of_none || !damage.checkpoints.is_empty())
        });
        self.restorable.retain(|seq| now.lists(*seq));
    }

    fn add(&mut self, object: &Key, kind: DamageKind, checkpoints: BTreeSet<Seq>, detail: String) {
        self.damaged.push(Damage { object: object.to_string(), offset: 0, kind, checkpoints, detail });
    }

    /// Checks every attempt's marker. Markers fence attempts; no restore reads them.
    async fn check_markers(&mut self, store: &Store, chain: &ManifestLog) -> Result<()> {
        let newest = chain.newest_readable().map(|newest| Key::Attempt(newest.manifest.attempt));
        let mut keys: BTreeSet<Key> =
            store.folder().list(KeyClass::Attempt).await?.entries.iter().map(|(key, _)| *key).collect();
        keys.extend(newest);
        for key in keys {
            let Key::Attempt(attempt) = key else { continue };
            let checked = match store.folder().read(&key, MARKER_BYTES_MAX).await {
                Ok(Some(object)) => {
                    self.objects = self.objects.saturating_add(1);
                    self.bytes = self.bytes.saturating_add(object.len() as u64);
                    AttemptMarker::decode(&object, attempt).map(|_marker| ())
                }
                Ok(None) => Err(Error::corrupt("marker of an attempt is missing")),
                Err(error) => Err(error),
            };
            if let Err(error) = checked {
                self.add(&key, DamageKind::Marker, BTreeSet::new(), detail(error)?);
            }
        }
        Ok(())
    }

    /// Checks every live manifest. Returns everything that the readable ones refer to.
    async fn check_manifests(&mut self, store: &Store, chain: &ManifestLog) -> Result<Reach> {
        if let Err(error) = chain.newest() {
            self.add(&Key::Manifest(chain.end()), DamageKind::Manifest, [chain.end()].into(), detail(error)?);
        }
        let mut reach = Reach::default();
        for entry in chain.live() {
            let seq = entry.id.seq;
            self.objects = self.objects.saturating_add(1);
            self.bytes = self.bytes.saturating_add(chain.stored().get(&seq).copied().unwrap_or(0));
            let added = match chain.read(store, &entry).await {
                Ok(stored) => reach.add(store, stored.manifest).await,
                Err(error) => Err(error),
            };
            match added {
                Ok(damaged) => self.damaged.extend(damaged),
                Err(error) => {
                    let touched = (entry.kind != ManifestKind::Claim).then_some(seq);
                    let key = Key::Manifest(seq);
                    self.add(&key, DamageKind::Manifest, touched.into_iter().collect(), detail(error)?);
                }
            }
        }
        Ok(reach)
    }

    async fn check_objects(
        &mut self,
        store: &Store,
        reach: Reach,
        level: VerifyLevel,
        progress: ReportProgress<'_>,
    ) -> Result<()> {
        let stored = match level {
            VerifyLevel::Full => Stored::ToBeRead,
            VerifyLevel::Manifest | VerifyLevel::Sampled { .. } => Stored::list(store).await?,
        };
        let inspector = Inspector { store, level, stored };
        let total = reach.objects.values().map(|object| object.length()).fold(0, u64::saturating_add);
        let mut done = 0u64;
        progress(done, total);
        let check = async |(id, object): (ObjectId, Reached)| (object.length(), inspector.check(id, &object).await);
        let mut checks = std::pin::pin!(stream::iter(reach.objects).map(check).buffered(CONCURRENT_OBJECTS));
        while let Some((length, damaged)) = checks.next().await {
            self.damaged.extend(damaged?);
            self.objects = self.objects.saturating_add(1);
            self.bytes = self.bytes.saturating_add(length);
            done = done.saturating_add(length);
            progress(done, total);
        }
        Ok(())
    }
}
