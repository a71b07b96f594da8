//! Filling packs with segments and large opaques, one pack at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{BoxStream, TryStreamExt as _};

use super::Pipeline;
use super::encoding::Segment;
use super::manifests::{EncodedManifest, Manifests, Packed};
use crate::checkpoint::acknowledgement::Arrival;
use crate::checkpoint::segment_chain::LinkId;
use crate::control::coordinator::Participant;
use crate::error::{Result, broken};
use crate::id::{Epoch, ObjectId, Part, SegmentId};
use crate::key_group::KeyGroupSet;
use crate::manifest::{INLINE_OPAQUE_BYTES, OpaqueContent};
use crate::place::pack::PackBuilder;
use crate::segment::{Encoded, SegmentRef};

/// A pack being filled.
#[derive(Debug)]
pub(super) struct OpenPack {
    pub(super) id: ObjectId,
    pub(super) builder: PackBuilder,
    /// Its segments, to be recorded in their chains after the upload.
    pub(super) segments: Vec<(Participant, LinkId, SegmentRef)>,
}

/// An item to pack.
pub(super) enum Item {
    Segment(Segment),
    /// The opaque at `index` of the subtask's arrival.
    Opaque {
        participant: Participant,
        index: usize,
        bytes: Bytes,
    },
    Manifest(EncodedManifest),
}

impl Item {
    fn bytes(&self) -> &Bytes {
        match self {
            Self::Segment(segment) => &segment.encoded.bytes,
            Self::Opaque { bytes, .. } => bytes,
            Self::Manifest(manifest) => &manifest.bytes,
        }
    }
}

/// What a packer produces.
pub(super) enum Output {
    Pack(OpenPack),
    /// The subtask manifests, after all packs.
    Manifests(Manifests),
}

/// Fills packs: with segments, then large opaques, then subtask manifests. These refer to all of the others, uploaded or
/// not: a slice's place is known as soon as it is packed. So a delta takes one upload, whatever its manifests weigh.
pub(super) struct Packer {
    pipeline: Arc<Pipeline>,
    epoch: Epoch,
    items: BoxStream<'static, Result<Item>>,
    /// The item that did not fit into the last pack.
    left_over: Option<Item>,
    stage: Stage,
}

enum Stage {
    /// Segments and opaques are being packed.
    State { arrivals: BTreeMap<Participant, Arrival>, packed: Packed },
    /// Subtask manifests are being packed.
    Manifests(Manifests),
    /// All is packed.
    Done(Manifests),
}

impl Packer {
    /// * `items`: segments and large opaques.
    pub(super) fn new(
        pipeline: Arc<Pipeline>,
        epoch: Epoch,
        items: BoxStream<'static, Result<Item>>,
        arrivals: BTreeMap<Participant, Arrival>,
    ) -> Self {
        let stage = Stage::State { arrivals, packed: Packed::new() };
        Self { pipeline, epoch, items, left_over: None, stage }
    }

    /// Returns the next output, and the packer unless it is done.
    pub(super) async fn next(packer: Option<Self>) -> Result<Option<(Output, Option<Self>)>> {
        let Some(mut packer) = packer else { return Ok(None) };
        packer = match packer.stage {
            Stage::Done(manifests) => return Ok(Some((Output::Manifests(manifests), None))),
            stage => Self { stage, ..packer },
        };
        let most = packer.pipeline.settings.pack_bytes;
        let mut pack = packer.pipeline.open_pack();
        while let Some(item) = packer.next_item().await? {
            // A pack holds at least one item, however small `pack_bytes` is.
            if !pack.builder.is_empty() && pack.builder.len().saturating_add(item.bytes().len() as u64) > most {
                packer.left_over = Some(item);
                return Ok(Some((Output::Pack(pack), Some(packer))));
            }
            packer.add(&mut pack, item);
            if pack.builder.len() >= most {
                return Ok(Some((Output::Pack(pack), Some(packer))));
            }
        }
        match packer.stage {
            Stage::Manifests(manifests) if pack.builder.is_empty() => Ok(Some((Output::Manifests(manifests), None))),
            Stage::Manifests(manifests) => {
                Ok(Some((Output::Pack(pack), Some(Self { stage: Stage::Done(manifests), ..packer }))))
            }
            Stage::State { .. } | Stage::Done(_) => broken("a packer ended before its subtask manifests"),
        }
    }

    /// Returns the next item. After the last segment and opaque, builds the subtask manifests.
    async fn next_item(&mut self) -> Result<Option<Item>> {
        if let Some(item) = self.left_over.take() {
            return Ok(Some(item));
        }
        if let Stage::State { arrivals, packed } = &mut self.stage {
            if let Some(item) = self.items.try_next().await? {
                return Ok(Some(item));
            }
            let (arrivals, packed) = (std::mem::take(arrivals), std::mem::take(packed));
            self.stage = Stage::Manifests(self.pipeline.manifests(self.epoch, arrivals, packed)?);
        }
        let Stage::Manifests(manifests) = &mut self.stage else { return Ok(None) };
        Ok(manifests.next(self.pipeline.max_parallelism)?.map(Item::Manifest))
    }

    fn add(&mut self, pack: &mut OpenPack, item: Item) {
        let attempt = self.pipeline.attempt;
        let id_of = |(operator, subtask), epoch, part| SegmentId { attempt, operator, subtask, epoch, part };
        match (item, &mut self.stage) {
            (Item::Segment(Segment { participant, link, seals, encoded }), Stage::State { packed, .. }) => {
                let id = id_of(participant, seals.epoch, seals.part);
                let offset = pack.builder.add_segment(id, &encoded);
                let segment = encoded.at(id, seals.first_epoch, pack.id, offset);
                packed.entry(participant).or_default().insert(link, segment.clone());
                pack.segments.push((participant, link, segment));
            }
            (Item::Opaque { participant, index, bytes }, Stage::State { arrivals, .. }) => {
                let id = id_of(participant, self.epoch, Part(0));
                let offset = pack.builder.add_opaque(&bytes);
                let segment = Encoded::foreign(KeyGroupSet::empty(), bytes).at(id, self.epoch, pack.id, offset);
                let opaques = arrivals.get_mut(&participant).map(|arrival| &mut arrival.opaques);
                if let Some(opaque) = opaques.and_then(|opaques| opaques.get_mut(index)) {
                    opaque.content = OpaqueContent::Stored(segment);
                }
            }
            (Item::Manifest(manifest), Stage::Manifests(manifests)) => manifests.add(pack, manifest),
            _ => broken("an item is packed out of turn"),
        }
    }
}

/// Returns the opaques that are too large for a manifest.
pub(super) fn large_opaques(arrivals: &BTreeMap<Participant, Arrival>) -> Vec<Item> {
    let mut large = Vec::new();
    for (&participant, arrival) in arrivals {
        for (index, opaque) in arrival.opaques.iter().enumerate() {
            if let OpaqueContent::Inline(bytes) = &opaque.content
                && bytes.len() > INLINE_OPAQUE_BYTES
            {
                large.push(Item::Opaque { participant, index, bytes: bytes.clone() });
            }
        }
    }
    large
}
