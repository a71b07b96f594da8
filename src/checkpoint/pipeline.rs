//! The background of a checkpoint: encode, pack, upload, acknowledge.
//!
//! ```text
//! chains of this process --unplaced--> encode (n at a time) --> pack --> upload (n at a time) --> acknowledgements
//! ```
//!
//! Invariants: whatever is dropped or fails midway stays in its chain, encoded or placed as far as it came, and
//! belongs to the next manifest; segments of all subtasks share packs, in the order of the subtasks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::links::{Content, SegmentChain, Unplaced};
use crate::control::coordinator::Participant;
use crate::error::{Error, Result};
use crate::id::{Attempt, Epoch, Hash, ObjectId, Part, PutId, SegmentId};
use crate::key_group::KeyGroupSet;
use crate::manifest::{
    INLINE_OPAQUE_BYTES, Layout, ObjectRef, Opaque, OpaqueContent, SubtaskManifest, TableSchema,
};
use crate::place::pack::{PackBuilder, Packed};
use crate::runtime::{SharedRuntime, run_blocking};
use crate::segment::{self, EncodeOptions, Encoded, SegmentKind, SegmentRef};
use crate::store::{Key, Put, Store};
use crate::time::Timestamp;

/// Bounds of the background work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PipelineSettings {
    /// A pack is closed when it has this many bytes. Default 64 MiB.
    pub pack_bytes: u64,
    /// Segments encoded at a time. Default 2.
    pub encoders: usize,
    /// Packs uploaded at a time. Default 4.
    pub uploads: usize,
}

impl Default for PipelineSettings {
    fn default() -> Self {
        Self { pack_bytes: 64 << 20, encoders: 2, uploads: 4 }
    }
}

/// A subtask's chain, shared by its task (which adds what it seals) and the pipeline (which places it).
pub(crate) type SharedChain = Arc<Mutex<SegmentChain>>;

/// Locks a chain. A panic while it was held cannot leave it half changed in a way that loses state.
pub(crate) fn lock(chain: &Mutex<SegmentChain>) -> MutexGuard<'_, SegmentChain> {
    chain.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a subtask brings to a barrier beside its chain.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) owned: KeyGroupSet,
    pub(crate) watermark: Timestamp,
    pub(crate) opaques: Vec<Opaque>,
    pub(crate) tables: Arc<[TableSchema]>,
}

/// A subtask's acknowledgement of a barrier: its state is placed.
#[derive(Debug)]
pub(crate) struct Acknowledgement {
    pub(crate) participant: Participant,
    pub(crate) manifest: SubtaskManifest,
    pub(crate) tables: Arc<[TableSchema]>,
}

/// Places the state of this process's subtasks.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) store: Store,
    pub(crate) runtime: SharedRuntime,
    pub(crate) settings: PipelineSettings,
    pub(crate) attempt: Attempt,
    pub(crate) chains: BTreeMap<Participant, SharedChain>,
    /// Every object that a chain has a segment in, or may come to have one in.
    pub(crate) catalog: Mutex<BTreeMap<ObjectId, ObjectRef>>,
}

/// What a slice of a pack is of.
enum Slice {
    Segment(Participant, Unplaced, SegmentRef),
    Opaque(Participant, usize, SegmentRef),
}

/// A pack with what lies in it.
struct Load {
    builder: PackBuilder,
    slices: Vec<Slice>,
}

impl Pipeline {
    /// Encodes, packs and uploads everything up to `epoch`. May be dropped at any await.
    ///
    /// # Errors
    /// `Unavailable`, `Denied` or `Limit` from the store or the encoder: the epoch is to be declined.
    pub(crate) async fn place(&self, epoch: Epoch, mut arrivals: BTreeMap<Participant, Arrival>) -> Result<Vec<Acknowledgement>> {
        let mut work = Vec::new();
        for (&participant, chain) in &self.chains {
            work.extend(lock(chain).unplaced(epoch)?.into_iter().map(|unplaced| (participant, unplaced)));
        }
        let encoded = stream::iter(work)
            .map(|(participant, unplaced)| self.encode(participant, unplaced))
            .buffered(self.settings.encoders.max(1));
        let packs = stream::try_unfold(Some(Box::pin(encoded)), |encoded| {
            let arrivals = &arrivals;
            async move {
                let Some(mut encoded) = encoded else { return Ok(None) };
                let mut load = self.new_load();
                while load.builder.len() < self.settings.pack_bytes {
                    let Some((participant, unplaced, segment)) = encoded.try_next().await? else {
                        load.add_opaques(self.attempt, epoch, arrivals)?;
                        return Ok((!load.slices.is_empty()).then_some((load, None)));
                    };
                    if let Some(segment) = segment {
                        load.add_segment(self.attempt, participant, unplaced, &segment)?;
                    }
                }
                Ok(Some((load, Some(encoded))))
            }
        });
        let uploads = packs.map_ok(|load| self.upload(load)).try_buffer_unordered(self.settings.uploads.max(1));
        let slices: Vec<_> = uploads.try_collect().await?;
        slices.into_iter().for_each(|slices| move_opaques(&mut arrivals, slices));
        self.acknowledge(epoch, arrivals)
    }

    async fn encode(
        &self,
        participant: Participant,
        unplaced: Unplaced,
    ) -> Result<(Participant, Unplaced, Option<Encoded>)> {
        let part = match &unplaced.content {
            Content::Bytes(encoded) => {
                let encoded = encoded.clone();
                return Ok((participant, unplaced, Some(encoded)));
            }
            Content::Rows(part) => part.clone(),
        };
        let kind = part.kind;
        let encoded =
            run_blocking(&*self.runtime, move || segment::encode(&part, EncodeOptions::default())).await?;
        if let Some(chain) = self.chains.get(&participant) {
            if encoded.records == 0 && kind == SegmentKind::Delta {
                lock(chain).vanished(&unplaced, kind);
                return Ok((participant, unplaced, None));
            }
            lock(chain).encoded(&unplaced, encoded.clone());
        }
        Ok((participant, unplaced, Some(encoded)))
    }

    fn new_load(&self) -> Load {
        let id = ObjectId { attempt: self.attempt, random: self.runtime.random().to_le_bytes() };
        let put_id = PutId(self.runtime.random().to_le_bytes());
        Load { builder: PackBuilder::new(id, put_id), slices: Vec::new() }
    }

    /// Uploads one pack and notes in the chains what is now placed.
    async fn upload(&self, load: Load) -> Result<Vec<Slice>> {
        let Packed { id, put_id, bytes, hash } = load.builder.finish()?;
        let length = bytes.len() as u64;
        match self.store.put_new(&Key::Data(id), put_id, bytes).await? {
            Put::Created => {}
            Put::Taken => return Err(Error::corrupt("a random object name was taken").with("object", id)),
        }
        let object = ObjectRef {
            id,
            put_id,
            bytes: length,
            hash,
            layout: Layout::Whole,
            cipher: 0,
            key_id: String::new(),
        };
        self.catalog().insert(id, object);
        for slice in &load.slices {
            if let Slice::Segment(participant, unplaced, segment) = slice
                && let Some(chain) = self.chains.get(participant)
            {
                lock(chain).placed(unplaced, segment.clone());
            }
        }
        Ok(load.slices)
    }

    /// Returns the catalog, locked.
    pub(crate) fn catalog(&self) -> MutexGuard<'_, BTreeMap<ObjectId, ObjectRef>> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn acknowledge(
        &self,
        epoch: Epoch,
        arrivals: BTreeMap<Participant, Arrival>,
    ) -> Result<Vec<Acknowledgement>> {
        let manifest = |(participant, arrival): (Participant, Arrival)| {
            let chain = self.chains.get(&participant).map(|chain| lock(chain).segments(epoch));
            let Some(Some(segments)) = chain else {
                return Err(Error::usage("not all state of the subtask is placed").with("subtask", participant.1));
            };
            let Arrival { owned: groups, watermark, opaques, tables } = arrival;
            let manifest = SubtaskManifest { subtask: participant.1, groups, watermark, segments, opaques };
            Ok(Acknowledgement { participant, manifest, tables })
        };
        arrivals.into_iter().map(manifest).collect()
    }
}

impl Load {
    fn add_segment(
        &mut self,
        attempt: Attempt,
        participant: Participant,
        unplaced: Unplaced,
        encoded: &Encoded,
    ) -> Result<()> {
        let (operator, subtask) = participant;
        let id = SegmentId { attempt, operator, subtask, epoch: unplaced.epoch, part: unplaced.part };
        let segment = SegmentRef {
            id,
            kind: encoded.kind,
            first_epoch: unplaced.first_epoch,
            groups: encoded.groups.clone(),
            object: self.builder.id(),
            offset: self.builder.add_segment(id, encoded),
            length: encoded.bytes.len() as u64,
            index_offset: encoded.index_offset,
            index_length: encoded.index_length,
            index_hash: encoded.index_hash,
            records: encoded.records,
            raw_bytes: encoded.raw_bytes,
        };
        self.slices.push(Slice::Segment(participant, unplaced, segment));
        Ok(())
    }

    /// Adds the opaques that are too large to stand in a manifest.
    fn add_opaques(
        &mut self,
        attempt: Attempt,
        epoch: Epoch,
        arrivals: &BTreeMap<Participant, Arrival>,
    ) -> Result<()> {
        for (&participant, arrival) in arrivals {
            for (at, opaque) in arrival.opaques.iter().enumerate() {
                if let OpaqueContent::Inline(bytes) = &opaque.content
                    && bytes.len() > INLINE_OPAQUE_BYTES
                {
                    let reference = self.add_opaque(attempt, epoch, participant, bytes)?;
                    self.slices.push(Slice::Opaque(participant, at, reference));
                }
            }
        }
        Ok(())
    }

    fn add_opaque(
        &mut self,
        attempt: Attempt,
        epoch: Epoch,
        (operator, subtask): Participant,
        bytes: &Bytes,
    ) -> Result<SegmentRef> {
        let offset = self.builder.add_opaque(bytes);
        let length = bytes.len() as u64;
        Ok(SegmentRef {
            id: SegmentId { attempt, operator, subtask, epoch, part: Part(0) },
            kind: SegmentKind::Foreign,
            first_epoch: epoch,
            groups: KeyGroupSet::empty(),
            object: self.builder.id(),
            offset,
            length,
            index_offset: length,
            index_length: 0,
            index_hash: Hash::of(bytes),
            records: 0,
            raw_bytes: length,
        })
    }
}

/// Replaces the bytes of uploaded opaques by their references.
fn move_opaques(arrivals: &mut BTreeMap<Participant, Arrival>, slices: Vec<Slice>) {
    for slice in slices {
        if let Slice::Opaque(participant, at, reference) = slice
            && let Some(opaque) = arrivals.get_mut(&participant).and_then(|arrival| arrival.opaques.get_mut(at))
        {
            opaque.content = OpaqueContent::Stored(reference);
        }
    }
}
