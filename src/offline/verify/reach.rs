//! The objects that live manifests refer to, and the slices that checkpoints need.

use std::collections::{BTreeMap, BTreeSet};

use super::hash::check_hash;
use super::{Damage, DamageKind, detail};
use crate::error::{Error, Result};
use crate::id::{Hash, JobId, ObjectId, Seq};
use crate::key_group::Partitioner;
use crate::manifest::{Manifest, ManifestKind, ObjectRef, Opaque, SubtaskEntry, SubtaskManifest, SubtaskSlice};
use crate::place::{DataObjects, Store};
use crate::row::SegmentKind;
use crate::segment::SegmentRef;

/// Everything that live manifests refer to.
#[derive(Debug, Default)]
pub(super) struct Reach {
    job: Option<JobId>,
    pub(super) objects: BTreeMap<ObjectId, Reached>,
}

/// An object with its needed slices.
#[derive(Debug, Default)]
pub(super) struct Reached {
    /// The manifests' descriptions of the object, each with its checkpoints: one, unless manifests disagree.
    pub(super) refs: Vec<(ObjectRef, BTreeSet<Seq>)>,
    /// Slices by offset, with their descriptions: one each, unless manifests disagree.
    pub(super) parts: BTreeMap<u64, Vec<(Part, BTreeSet<Seq>)>>,
}

/// A slice of an object that a checkpoint needs.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Part {
    /// A segment of rows, with the job's partitioner.
    Segment(SegmentRef, Partitioner, u16),
    /// Other bytes, covered by one hash.
    Bytes { length: u64, hash: Hash },
}

impl Part {
    /// Merges `other` into this slice if both are the same slice; returns whether they are. Checkpoints may need a
    /// segment for different groups: the merged slice has all of them and is checked once.
    fn absorb(&mut self, other: &Self) -> bool {
        let (Self::Segment(known, ..), Self::Segment(segment, ..)) = (&mut *self, other) else { return self == other };
        let union = known.groups.union(&segment.groups);
        let same = SegmentRef { groups: known.groups.clone(), ..segment.clone() } == *known;
        if same {
            known.groups = union;
        }
        same
    }
}

impl Reached {
    /// Returns its length.
    pub(super) fn length(&self) -> u64 {
        self.refs.iter().map(|(object, _)| object.bytes).max().unwrap_or(0)
    }

    /// Returns all checkpoints that refer to it.
    pub(super) fn checkpoints(&self) -> BTreeSet<Seq> {
        self.refs.iter().flat_map(|(_, checkpoints)| checkpoints).copied().collect()
    }

    fn add_part(&mut self, offset: u64, part: Part, seq: Seq) {
        let parts = self.parts.entry(offset).or_default();
        for (known, checkpoints) in parts.iter_mut() {
            if known.absorb(&part) {
                checkpoints.insert(seq);
                return;
            }
        }
        parts.push((part, [seq].into()));
    }
}

impl Reach {
    /// Adds the objects and slices of `manifest`. Returns the damage found while reading its subtask manifests.
    ///
    /// # Errors
    /// `Corrupt` if it belongs to another job; `Denied` or `Unavailable` from the store.
    pub(super) async fn add(&mut self, store: &Store, manifest: Manifest) -> Result<Vec<Damage>> {
        if manifest.kind == ManifestKind::Claim {
            return Ok(Vec::new());
        }
        if *self.job.get_or_insert(manifest.job) != manifest.job {
            return Err(Error::corrupt("manifest belongs to another job").with("found", manifest.job));
        }
        let seq = manifest.seq;
        for object in &manifest.objects {
            let refs = &mut self.objects.entry(object.id).or_default().refs;
            match refs.iter_mut().find(|(known, _)| known == object) {
                Some((_, checkpoints)) => drop(checkpoints.insert(seq)),
                None => refs.push((object.clone(), [seq].into())),
            }
        }
        let mut damaged = Vec::new();
        for entry in manifest.operators.iter().flat_map(|operator| &operator.subtasks) {
            let stored = match entry {
                SubtaskEntry::Inline(subtask) => {
                    damaged.extend(self.add_subtask(&manifest, subtask));
                    continue;
                }
                SubtaskEntry::Slice(stored) => stored,
            };
            let slice = &stored.slice;
            match read_subtask(store, stored, manifest.max_parallelism).await {
                Ok(subtask) => {
                    self.add_slice(slice.object, slice.offset, slice.length, slice.hash, seq);
                    damaged.extend(self.add_subtask(&manifest, &subtask));
                }
                Err(error) => damaged.push(Damage {
                    object: DataObjects::name(slice.object),
                    offset: slice.offset,
                    kind: DamageKind::Slice,
                    checkpoints: [seq].into(),
                    detail: detail(error)?,
                }),
            }
        }
        Ok(damaged)
    }

    /// Adds the slices of a subtask. Returns damage for segments that no restore can read.
    fn add_subtask(&mut self, manifest: &Manifest, subtask: &SubtaskManifest) -> Vec<Damage> {
        for opaque in subtask.opaques.iter().filter_map(Opaque::segment) {
            self.add_slice(opaque.object, opaque.offset, opaque.length, opaque.index_hash, manifest.seq);
        }
        let (foreign, segments): (Vec<_>, Vec<_>) =
            subtask.segments.iter().partition(|segment| segment.kind == SegmentKind::Foreign);
        for segment in segments {
            let part = Part::Segment(segment.clone(), manifest.partitioner, manifest.max_parallelism);
            self.objects.entry(segment.object).or_default().add_part(segment.offset, part, manifest.seq);
        }
        let refused = |segment: &&SegmentRef| Damage {
            object: DataObjects::name(segment.object),
            offset: segment.offset,
            kind: DamageKind::Rows,
            checkpoints: [manifest.seq].into(),
            detail: "segment is of another engine".to_owned(),
        };
        foreign.iter().map(refused).collect()
    }

    fn add_slice(&mut self, object: ObjectId, offset: u64, length: u64, hash: Hash, seq: Seq) {
        self.objects.entry(object).or_default().add_part(offset, Part::Bytes { length, hash }, seq);
    }
}

async fn read_subtask(
    store: &Store,
    SubtaskSlice { slice, summary }: &SubtaskSlice,
    max_parallelism: u16,
) -> Result<SubtaskManifest> {
    let end = slice.offset.checked_add(slice.length).ok_or_else(|| Error::corrupt("slice exceeds its object"))?;
    let bytes = store.data().read(slice.object, slice.offset..end).await?;
    check_hash("slice", &bytes, &slice.hash)?;
    let subtask = SubtaskManifest::decode(&bytes, max_parallelism)?;
    subtask.check_summary(summary)?;
    Ok(subtask)
}
