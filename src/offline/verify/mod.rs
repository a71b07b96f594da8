//! Finds damage before a restore does: names it, the checkpoints that it touches, and those that are whole.
//!
//! ```text
//! markers, manifests --reach--> objects and what lies in them --check--> damage --> restorable checkpoints
//! ```
//!
//! Invariants: damage ends nothing, everything else is still looked at; a checkpoint is called restorable only if
//! every byte that a restore of it reads was looked at, as closely as the level says, and found whole.

mod hash;
mod object;
mod reach;

use std::collections::BTreeSet;

use futures_util::{StreamExt, stream};

use super::Progress;
use crate::checkpoint::manifest_log::{FOLLOWED_MAX, ManifestLog};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ObjectId, Seq};
use crate::manifest::{AttemptMarker, ManifestKind};
use crate::place::Store;
use crate::store::{Key, KeyClass};

use object::{Inspector, Stored};
use reach::{Reach, Reached};

/// Objects under inspection at a time. Each is held whole at [`Level::Full`].
const CONCURRENT_OBJECTS: usize = 2;

/// Longest attempt marker; real ones take less than 100 bytes.
const MARKER_BYTES_MAX: u64 = 64 << 10;

/// How closely to look. Each level does all that the one before does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Markers and manifests whole; of data objects that they are there and their length.
    Manifest,
    /// Each segment's index, and a block of it, chosen by this seed.
    Sampled {
        /// Another seed chooses other blocks.
        seed: u64,
    },
    /// Every byte, and every rule that rows obey.
    Full,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DamageKind {
    /// An attempt's marker is unreadable or missing.
    Marker,
    /// A manifest is unreadable, missing or another than the newest lists.
    Manifest,
    /// A data object is missing.
    Missing,
    /// A data object has another length.
    Length,
    /// A data object's bytes are not those that were written, where no live segment lies.
    Object,
    /// A subtask manifest or an opaque is not what was written.
    Slice,
    /// A segment's index, header or trailer is not what was written.
    Index,
    /// A block is not what was written.
    Block,
    /// Rows break a rule: out of order, or of another key group than their key.
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

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Key of the object, below the job's root.
    pub object: String,
    /// Where the damaged part starts, from the object's start.
    pub offset: u64,
    /// What is wrong.
    pub kind: DamageKind,
    /// The checkpoints whose restore reads it. None where no restore does.
    pub checkpoints: BTreeSet<Seq>,
    /// What was expected and found.
    pub detail: String,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Objects that were looked at.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is damaged.
    pub damaged: Vec<Damage>,
    /// Live checkpoints and savepoints that no damage touches.
    pub restorable: Vec<Seq>,
}

/// Looks at everything that the live checkpoints of a job reach.
///
/// A running job may drop a checkpoint meanwhile; what is missing of it then is not damage. If it drops all of them, those
/// that live then are looked at.
///
/// # Errors
/// `Version` if something whole is newer than this build; `Denied` or
/// `Unavailable` from the store. Damage is no error.
///
/// # Cost
/// One listing, two unless at [`Level::Full`]; then a read per marker, manifest and, at [`Level::Full`], object, or
/// two per segment at [`Level::Sampled`]. Memory for a few objects.
pub async fn verify(store: &Store, chain: &ManifestLog, level: Level, progress: Progress<'_>) -> Result<Report> {
    let mut newer = None;
    let mut followed = 0;
    loop {
        let chain = newer.as_ref().unwrap_or(chain);
        let mut report = look(store, chain, level, progress).await?;
        if report.damaged.is_empty() {
            return Ok(report);
        }
        // A newest manifest that is damaged says of no checkpoint that it was dropped.
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

/// Looks at everything that the checkpoints reach which live in `chain`.
async fn look(store: &Store, chain: &ManifestLog, level: Level, progress: Progress<'_>) -> Result<Report> {
    let mut report = Report::default();
    report.check_markers(store, chain).await?;
    let reach = report.check_manifests(store, chain).await?;
    report.check_objects(store, reach, level, progress).await?;
    let touched = |seq: &Seq| report.damaged.iter().any(|damage| damage.checkpoints.contains(seq));
    let live = chain.restorable().into_iter().map(|manifest| manifest.id.seq);
    report.restorable = live.filter(|seq| !touched(seq)).collect();
    Ok(report)
}

/// Returns what an error says, if it is about stored bytes.
///
/// # Errors
/// Every other error.
fn detail(error: Error) -> Result<String> {
    match error.kind() {
        ErrorKind::Corrupt | ErrorKind::NotFound => Ok(error.chain()),
        _ => Err(error),
    }
}

impl Report {
    /// Takes back what was said of checkpoints that do not live in `now`, and of claims, which live until the next manifest.
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

    /// Reads every attempt's marker. They fence; no restore reads them.
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

    /// Reads every live manifest and returns what those that can be read refer to.
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

    async fn check_objects(&mut self, store: &Store, reach: Reach, level: Level, progress: Progress<'_>) -> Result<()> {
        let stored = match level {
            Level::Full => Stored::ToBeRead,
            Level::Manifest | Level::Sampled { .. } => Stored::list(store).await?,
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
