//! Listing checkpoints, one line each.

use std::collections::{BTreeMap, BTreeSet};

use crate::checkpoint::manifest_log::{FOLLOWED_MAX, ManifestLog, StoredManifest};
use crate::checkpoint::restore::resolve;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Attempt, Epoch, ObjectId, Seq};
use crate::manifest::{Manifest, ManifestKind, Opaque, SubtaskManifest};
use crate::place::Store;
use crate::segment::{SegmentRef, sum};
use crate::time::Timestamp;

/// The figures of a checkpoint or savepoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Its id.
    pub id: Seq,
    /// Checkpoint or savepoint.
    pub kind: ManifestKind,
    /// The attempt that wrote it.
    pub attempt: Attempt,
    /// The last epoch whose effects it holds.
    pub epoch: Epoch,
    /// The largest parallelism of its operators.
    pub parallelism: u32,
    /// Number of key groups.
    pub max_parallelism: u16,
    /// Time of writing, by the writer's clock.
    pub created_at: Timestamp,
    /// Bytes of the objects that it was the first to refer to: those that its parent does not list or, if the parent is
    /// gone, those with a segment whose last epoch is this checkpoint's.
    pub new_bytes: u64,
    /// Bytes of the segments and stored opaques that it lists.
    pub total_bytes: u64,
    /// Rows of the segments that it lists: an upper bound of the live rows, since a rewritten row counts once per
    /// segment.
    pub records: u64,
}

impl Summary {
    /// Returns the figures of `manifest`, whose subtask manifests are inline.
    #[must_use]
    pub fn of(manifest: &Manifest, parent: Option<&Manifest>) -> Self {
        let slices: Vec<_> = slices(manifest).collect();
        let new = new_objects(manifest, parent, &slices);
        let objects = manifest.objects.iter().filter(|object| new.contains(&object.id));
        Self {
            id: manifest.seq,
            kind: manifest.kind,
            attempt: manifest.attempt,
            epoch: manifest.epoch,
            parallelism: manifest.operators.iter().map(|operator| operator.parallelism).max().unwrap_or(0),
            max_parallelism: manifest.max_parallelism,
            created_at: manifest.created_at,
            new_bytes: sum(objects.map(|object| object.bytes)),
            total_bytes: sum(slices.iter().map(|segment| segment.length)),
            records: sum(slices.iter().map(|segment| segment.records)),
        }
    }
}

/// A job's live checkpoints and savepoints.
#[derive(Debug, Default)]
pub struct Listed {
    /// Readable ones, ascending.
    pub checkpoints: Vec<Summary>,
    /// Unreadable manifests, each with the error.
    pub damaged: Vec<(Seq, Error)>,
}

/// Returns a job's live checkpoints and savepoints.
///
/// # Errors
/// `Version`, `Denied` or `Unavailable` from the store. Damaged manifests are in the result, except those of
/// checkpoints dropped meanwhile.
///
/// # Cost
/// One read per manifest.
pub async fn list(store: &Store, chain: &ManifestLog) -> Result<Listed> {
    let mut newer = None;
    let mut followed = 0;
    loop {
        let chain = newer.as_ref().unwrap_or(chain);
        let mut listed = list_once(store, chain).await?;
        if listed.damaged.is_empty() {
            return Ok(listed);
        }
        let Some(now) = chain.newer(store).await?.filter(|now| now.newest().is_ok()) else { return Ok(listed) };
        listed.damaged.retain(|(seq, _)| now.lists(*seq));
        let all_dropped = listed.damaged.is_empty() && listed.checkpoints.is_empty();
        if !all_dropped || followed == FOLLOWED_MAX {
            return Ok(listed);
        }
        followed += 1;
        newer = Some(now);
    }
}

async fn list_once(store: &Store, chain: &ManifestLog) -> Result<Listed> {
    let mut listed = Listed::default();
    if let Err(error) = chain.newest() {
        listed.damaged.push((chain.end(), error));
    }
    let mut read: BTreeMap<Seq, Manifest> = BTreeMap::new();
    for entry in chain.restorable() {
        let found = match chain.read(store, &entry).await {
            Ok(StoredManifest { manifest, .. }) if manifest.slices().next().is_none() => Ok(manifest),
            Ok(StoredManifest { manifest, .. }) => resolve(store, manifest).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(manifest) => drop(read.insert(entry.id.seq, manifest)),
            Err(error) if error.kind() == ErrorKind::Corrupt => listed.damaged.push((entry.id.seq, error)),
            Err(error) => return Err(error),
        }
    }
    let parent = |manifest: &Manifest| manifest.parent.and_then(|parent| read.get(&parent.seq));
    listed.checkpoints = read.values().map(|manifest| Summary::of(manifest, parent(manifest))).collect();
    Ok(listed)
}

/// Returns the inline subtask manifests.
pub(super) fn subtasks(manifest: &Manifest) -> impl Iterator<Item = &SubtaskManifest> {
    let entries = manifest.operators.iter().flat_map(|operator| &operator.subtasks);
    entries.filter_map(|entry| entry.inline())
}

/// Returns the segments and stored opaques that the subtasks list, each once. After a rescale two subtasks may list the
/// same segment, each for its own groups.
pub(super) fn slices(manifest: &Manifest) -> impl Iterator<Item = &SegmentRef> {
    let all = subtasks(manifest)
        .flat_map(|subtask| subtask.segments.iter().chain(subtask.opaques.iter().filter_map(Opaque::segment)));
    let distinct: BTreeMap<_, _> = all.map(|segment| ((segment.object, segment.offset), segment)).collect();
    distinct.into_values()
}

fn new_objects(manifest: &Manifest, parent: Option<&Manifest>, slices: &[&SegmentRef]) -> BTreeSet<ObjectId> {
    let listed = manifest.objects.iter().map(|object| object.id);
    match (manifest.parent, parent) {
        (None, _) => listed.collect(),
        (Some(_), Some(parent)) => {
            let old: BTreeSet<_> = parent.objects.iter().map(|object| object.id).collect();
            listed.filter(|id| !old.contains(id)).collect()
        }
        (Some(_), None) => {
            let own = |segment: &&&SegmentRef| {
                segment.id.epoch == manifest.epoch && segment.object.attempt == manifest.attempt
            };
            slices.iter().filter(own).map(|segment| segment.object).collect()
        }
    }
}
