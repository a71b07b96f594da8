//! Subtask manifests: built once all state is packed, inline in the job's manifest or in slices of the last pack.

use std::collections::{BTreeMap, BTreeSet};
use std::vec;

use bytes::Bytes;

use super::Pipeline;
use super::packer::OpenPack;
use crate::checkpoint::acknowledgement::{Acknowledgement, Arrival, StateSummary};
use crate::checkpoint::segment_chain::LinkId;
use crate::control::coordinator::Participant;
use crate::error::{Error, Result};
use crate::id::{Epoch, Hash, ObjectId};
use crate::manifest::{ObjectSlice, SubtaskEntry, SubtaskManifest, SubtaskSlice, SubtaskSummary};
use crate::row::SegmentKind;
use crate::segment::SegmentRef;

/// The segments that were packed for a checkpoint, by link. Their chains learn of them once their packs are uploaded.
pub(super) type Packed = BTreeMap<Participant, BTreeMap<LinkId, SegmentRef>>;

/// The acknowledgements of a checkpoint, complete once every subtask manifest that becomes a slice is packed.
pub(super) struct Manifests {
    /// Those to pack.
    queue: vec::IntoIter<(Participant, SubtaskManifest, StateSummary)>,
    pub(super) acknowledgements: Vec<Acknowledgement>,
    /// All objects referred to.
    pub(super) objects: BTreeSet<ObjectId>,
    /// Length of all segments.
    pub(super) bytes: u64,
    /// Length of the base segments of each object.
    pub(super) bases: BTreeMap<ObjectId, u64>,
}

/// An encoded subtask manifest, to be stored in a slice.
pub(super) struct EncodedManifest {
    participant: Participant,
    summary: SubtaskSummary,
    state: StateSummary,
    pub(super) bytes: Bytes,
}

impl Pipeline {
    /// Returns the subtask manifests of `epoch`, all of whose state is packed. They become slices if their total weight
    /// exceeds this process's share of what may be inline.
    ///
    /// # Errors
    /// `Usage` if not all state of a subtask is packed.
    pub(super) fn manifests(
        &self,
        epoch: Epoch,
        arrivals: BTreeMap<Participant, Arrival>,
        mut packed: Packed,
    ) -> Result<Manifests> {
        let manifest = |(participant, arrival): (Participant, Arrival)| {
            let packed = packed.remove(&participant).unwrap_or_default();
            let Some(segments) = self.chain(participant).segments_with(epoch, &packed) else {
                return Err(Error::usage("not all state of the subtask is placed").with("subtask", participant.1));
            };
            let Arrival { owned: groups, watermark, times, uses, opaques, summary, .. } = arrival;
            let (subtask, heat) = (participant.1, uses.warmth(&groups));
            let manifest = SubtaskManifest { subtask, groups, watermark, segments, opaques, times, heat };
            Ok((participant, manifest, summary))
        };
        let manifests: Vec<_> = arrivals.into_iter().map(manifest).collect::<Result<_>>()?;
        let weight = manifests.iter().map(|(_, manifest, _)| manifest.weight()).fold(0, usize::saturating_add);
        Ok(Manifests::new(manifests, weight <= self.inline_bytes))
    }
}

impl Manifests {
    fn new(manifests: Vec<(Participant, SubtaskManifest, StateSummary)>, inline: bool) -> Self {
        let (mut objects, mut bytes, mut bases) = (BTreeSet::new(), 0u64, BTreeMap::<_, u64>::new());
        for (_, manifest, _) in &manifests {
            objects.extend(manifest.objects());
            for segment in &manifest.segments {
                bytes = bytes.saturating_add(segment.length);
                if segment.kind == SegmentKind::Base {
                    let base = bases.entry(segment.object).or_default();
                    *base = base.saturating_add(segment.length);
                }
            }
        }
        let (inline, queue) = if inline { (manifests, Vec::new()) } else { (Vec::new(), manifests) };
        let acknowledge = |(participant, manifest, summary)| {
            let entry = SubtaskEntry::Inline(manifest);
            Acknowledgement { participant, entry, summary }
        };
        let acknowledgements = inline.into_iter().map(acknowledge).collect();
        Self { queue: queue.into_iter(), acknowledgements, objects, bytes, bases }
    }

    /// Returns the next subtask manifest to pack.
    ///
    /// # Errors
    /// `Limit` if it is too long.
    pub(super) fn next(&mut self, max_parallelism: u16) -> Result<Option<EncodedManifest>> {
        let Some((participant, manifest, state)) = self.queue.next() else { return Ok(None) };
        let bytes = manifest.encode(max_parallelism).map_err(|error| error.with("subtask", participant.1))?;
        Ok(Some(EncodedManifest { participant, summary: manifest.summary(), state, bytes }))
    }

    /// Adds a subtask manifest to a pack.
    pub(super) fn add(&mut self, pack: &mut OpenPack, manifest: EncodedManifest) {
        let EncodedManifest { participant, summary, state, bytes } = manifest;
        let (object, offset) = (pack.id, pack.builder.add_opaque(&bytes));
        let slice = ObjectSlice { object, offset, length: bytes.len() as u64, hash: Hash::of(&bytes) };
        let entry = SubtaskEntry::Slice(SubtaskSlice { slice, summary });
        self.objects.insert(object);
        self.acknowledgements.push(Acknowledgement { participant, entry, summary: state });
    }
}
