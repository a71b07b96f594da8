//! Filling packs with segments and large opaques, one pack at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{BoxStream, TryStreamExt as _};

use super::Pipeline;
use super::encoding::Segment;
use crate::checkpoint::acknowledgement::Arrival;
use crate::checkpoint::segment_chain::LinkId;
use crate::control::coordinator::Participant;
use crate::error::Result;
use crate::id::{Epoch, ObjectId, Part, SegmentId};
use crate::key_group::KeyGroupSet;
use crate::manifest::{INLINE_OPAQUE_BYTES, OpaqueContent};
use crate::place::pack::PackBuilder;
use crate::segment::{Encoded, SegmentRef};

/// A pack being filled.
pub(super) struct OpenPack {
    pub(super) id: ObjectId,
    pub(super) builder: PackBuilder,
    pub(super) slices: Vec<Slice>,
}

/// A slice of an open pack.
pub(super) enum Slice {
    Segment {
        participant: Participant,
        link: LinkId,
        segment: SegmentRef,
    },
    /// The opaque at `index` of the subtask's arrival.
    Opaque {
        participant: Participant,
        index: usize,
        segment: SegmentRef,
    },
}

/// An item to pack.
pub(super) enum Item {
    Segment(Segment),
    Opaque { participant: Participant, index: usize, bytes: Bytes },
}

impl Item {
    fn bytes(&self) -> &Bytes {
        match self {
            Self::Segment(segment) => &segment.encoded.bytes,
            Self::Opaque { bytes, .. } => bytes,
        }
    }
}

/// Fills packs.
pub(super) struct Packer {
    pipeline: Arc<Pipeline>,
    epoch: Epoch,
    items: BoxStream<'static, Result<Item>>,
    /// The item that did not fit into the last pack.
    left_over: Option<Item>,
}

impl Packer {
    pub(super) fn new(pipeline: Arc<Pipeline>, epoch: Epoch, items: BoxStream<'static, Result<Item>>) -> Self {
        Self { pipeline, epoch, items, left_over: None }
    }

    /// Returns the next pack, and the packer unless it is done.
    pub(super) async fn next(packer: Option<Self>) -> Result<Option<(OpenPack, Option<Self>)>> {
        let Some(mut packer) = packer else { return Ok(None) };
        let most = packer.pipeline.settings.pack_bytes;
        let mut pack = packer.pipeline.open_pack();
        loop {
            let Some(item) = packer.next_item().await? else {
                return Ok((!pack.slices.is_empty()).then_some((pack, None)));
            };
            // A pack holds at least one item, however small `pack_bytes` is.
            if !pack.slices.is_empty() && pack.builder.len().saturating_add(item.bytes().len() as u64) > most {
                packer.left_over = Some(item);
                return Ok(Some((pack, Some(packer))));
            }
            packer.add(&mut pack, item);
            if pack.builder.len() >= most {
                return Ok(Some((pack, Some(packer))));
            }
        }
    }

    async fn next_item(&mut self) -> Result<Option<Item>> {
        match self.left_over.take() {
            Some(item) => Ok(Some(item)),
            None => self.items.try_next().await,
        }
    }

    fn add(&self, pack: &mut OpenPack, item: Item) {
        let slice = match item {
            Item::Segment(Segment { participant, link, seals, encoded }) => {
                let id = self.segment_id(participant, seals.epoch, seals.part);
                let offset = pack.builder.add_segment(id, &encoded);
                Slice::Segment { participant, link, segment: encoded.at(id, seals.first_epoch, pack.id, offset) }
            }
            Item::Opaque { participant, index, bytes } => {
                let id = self.segment_id(participant, self.epoch, Part(0));
                let offset = pack.builder.add_opaque(&bytes);
                let segment = Encoded::foreign(KeyGroupSet::empty(), bytes).at(id, self.epoch, pack.id, offset);
                Slice::Opaque { participant, index, segment }
            }
        };
        pack.slices.push(slice);
    }

    fn segment_id(&self, (operator, subtask): Participant, epoch: Epoch, part: Part) -> SegmentId {
        SegmentId { attempt: self.pipeline.attempt, operator, subtask, epoch, part }
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

/// Replaces the bytes of uploaded opaques with references.
pub(super) fn replace_opaques(arrivals: &mut BTreeMap<Participant, Arrival>, slices: Vec<Slice>) {
    for slice in slices {
        if let Slice::Opaque { participant, index, segment } = slice
            && let Some(opaque) = arrivals.get_mut(&participant).and_then(|arrival| arrival.opaques.get_mut(index))
        {
            opaque.content = OpaqueContent::Stored(segment);
        }
    }
}
