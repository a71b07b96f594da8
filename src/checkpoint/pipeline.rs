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
use futures_util::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use tracing::Instrument as _;

use super::links::{Content, SegmentChain, Unplaced};
use crate::backend::TableEntry;
use crate::canary::{self, Canary};
use crate::control::chain::ChainPolicy;
use crate::control::coordinator::Participant;
use crate::error::{Error, Result};
use crate::id::{Attempt, Epoch, ObjectId, Part, SegmentId};
use crate::key_group::KeyGroupSet;
use crate::manifest::{INLINE_OPAQUE_BYTES, Layout, ObjectRef, Opaque, OpaqueContent, SubtaskManifest};
use crate::place::pack::{PackBuilder, Packed};
use crate::runtime::{SharedRuntime, run_blocking};
use crate::segment::{self, EncodeOptions, Encoded, GroupHeat, GroupTimes, SegmentKind, SegmentRef, Statistic};
use crate::store::{Key, Put, Store};
use crate::time::Timestamp;

/// Bounds of the background work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PipelineSettings {
    /// A pack is closed when it has this many bytes. Default 64 MiB.
    pub pack_bytes: u64,
    /// A base is divided into segments of about this many bytes, of a key group at least: what is encoded is in memory until
    /// it is uploaded. Default 64 MiB.
    pub segment_bytes: u64,
    /// Segments encoded at a time. Default 2.
    pub encoders: usize,
    /// Packs uploaded at a time. Default 4.
    pub uploads: usize,
}

impl Default for PipelineSettings {
    fn default() -> Self {
        Self { pack_bytes: 64 << 20, segment_bytes: 64 << 20, encoders: 2, uploads: 4 }
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
    pub(crate) times: Vec<GroupTimes>,
    pub(crate) opaques: Vec<Opaque>,
    pub(crate) tables: Arc<[TableEntry]>,
    pub(crate) heat: Vec<GroupHeat>,
    pub(crate) statistics: Arc<[Statistic]>,
}

/// A subtask's acknowledgement of a barrier: its state is placed.
#[derive(Debug)]
pub(crate) struct Acknowledgement {
    pub(crate) participant: Participant,
    pub(crate) manifest: SubtaskManifest,
    pub(crate) tables: Arc<[TableEntry]>,
    pub(crate) heat: Vec<GroupHeat>,
    pub(crate) statistics: Arc<[Statistic]>,
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
    id: ObjectId,
    builder: PackBuilder,
    slices: Vec<Slice>,
}

impl Pipeline {
    /// Encodes, packs and uploads everything up to `epoch`. May be dropped at any await. By `policy` groups get new bases
    /// at the next seal; `None` if all do, always.
    ///
    /// # Errors
    /// `Unavailable`, `Denied` or `Limit` from the store or the encoder: the epoch is to be declined.
    pub(crate) async fn place(
        self: Arc<Self>,
        epoch: Epoch,
        mut arrivals: BTreeMap<Participant, Arrival>,
        policy: Option<ChainPolicy>,
    ) -> Result<Vec<Acknowledgement>> {
        let segments = self.encoded(epoch)?;
        let packer = Packer { pipeline: Arc::clone(&self), epoch, segments, opaques: large_opaques(&arrivals) };
        let packs = stream::try_unfold(Some(packer), Packer::next);
        let pipeline = Arc::clone(&self);
        let uploads = packs.map_ok(move |load| {
            let span = tracing::info_span!("upload", object = %load.id, bytes = load.builder.len());
            Arc::clone(&pipeline).upload(load).instrument(span)
        });
        let uploads = uploads.try_buffer_unordered(self.settings.uploads.max(1));
        let uploaded: Vec<_> = uploads.try_collect().await?;
        for (object, slices) in uploaded {
            // One that holds opaques alone stands in no chain: a commit meanwhile has forgotten it.
            self.catalog().insert(object.id, object);
            move_opaques(&mut arrivals, slices);
        }
        self.acknowledge(epoch, arrivals, policy)
    }

    /// Returns the bytes of memory that the chains keep alive until they are placed, shared with backends or not.
    pub(crate) fn sealed_bytes(&self) -> u64 {
        let chains = self.chains.values().map(|chain| lock(chain).waiting());
        chains.map(|(bytes, rows)| bytes + rows.iter().map(|rows| rows.held_bytes()).sum::<u64>()).sum()
    }

    /// Returns what is to be placed for `epoch`, encoded a few at a time, in the order of the subtasks.
    fn encoded(self: &Arc<Self>, epoch: Epoch) -> Result<BoxStream<'static, Result<Segment>>> {
        let mut work = Vec::new();
        for (&participant, chain) in &self.chains {
            work.extend(lock(chain).unplaced(epoch)?.into_iter().map(|unplaced| (participant, unplaced)));
        }
        let pipeline = Arc::clone(self);
        let encode = move |(participant, unplaced)| Arc::clone(&pipeline).encode(participant, unplaced);
        Ok(stream::iter(work).map(encode).buffered(self.settings.encoders.max(1)).boxed())
    }

    async fn encode(self: Arc<Self>, participant: Participant, mut unplaced: Unplaced) -> Result<Segment> {
        let part = match &unplaced.content {
            Content::Bytes(encoded) => {
                let encoded = Some(encoded.clone());
                return Ok(Segment { participant, unplaced, encoded });
            }
            Content::Rows(part) => part.clone(),
        };
        let kind = part.kind;
        let encoded = run_blocking(&*self.runtime, move || segment::encode(&part, EncodeOptions::default())).await?;
        let Some(chain) = self.chains.get(&participant) else {
            return Err(Error::usage("subtask has no chain").with("subtask", participant.1));
        };
        if encoded.records == 0 && kind == SegmentKind::Delta {
            lock(chain).vanished(&unplaced, kind);
            return Ok(Segment { participant, unplaced, encoded: None });
        }
        lock(chain).encoded(&unplaced, encoded.clone());
        // The rows' memory goes back now, not when the upload has ended.
        unplaced.content = Content::Bytes(encoded.clone());
        Ok(Segment { participant, unplaced, encoded: Some(encoded) })
    }

    fn new_load(&self) -> Load {
        let random = if canary::on(Canary::ReuseNames) { 0 } else { self.runtime.random() };
        let id = ObjectId { attempt: self.attempt, random: random.to_le_bytes() };
        Load { id, builder: PackBuilder::new(id, self.store.draw_put_id()), slices: Vec::new() }
    }

    /// Uploads one pack and notes in the chains what is now placed.
    async fn upload(self: Arc<Self>, load: Load) -> Result<(ObjectRef, Vec<Slice>)> {
        let Packed { id, put_id, bytes, hash } = load.builder.finish()?;
        let length = bytes.len() as u64;
        match self.store.put_new(&Key::Data(id), put_id, bytes).await? {
            Put::Created => {}
            Put::Taken => return Err(Error::corrupt("a random object name was taken").with("object", id)),
        }
        let object =
            ObjectRef { id, put_id, bytes: length, hash, layout: Layout::Whole, cipher: 0, key_id: String::new() };
        self.catalog().insert(id, object.clone());
        for slice in &load.slices {
            if let Slice::Segment(participant, unplaced, segment) = slice
                && let Some(chain) = self.chains.get(participant)
            {
                lock(chain).placed(unplaced, segment.clone());
            }
        }
        Ok((object, load.slices))
    }

    /// Returns the catalog, locked.
    pub(crate) fn catalog(&self) -> MutexGuard<'_, BTreeMap<ObjectId, ObjectRef>> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn acknowledge(
        &self,
        epoch: Epoch,
        arrivals: BTreeMap<Participant, Arrival>,
        policy: Option<ChainPolicy>,
    ) -> Result<Vec<Acknowledgement>> {
        let manifest = |(participant, arrival): (Participant, Arrival)| {
            let segments = self.chains.get(&participant).and_then(|chain| {
                let mut chain = lock(chain);
                policy.into_iter().for_each(|policy| chain.plan_bases(policy));
                chain.segments(epoch)
            });
            let Some(segments) = segments else {
                return Err(Error::usage("not all state of the subtask is placed").with("subtask", participant.1));
            };
            let Arrival { owned: groups, watermark, times, opaques, tables, heat, statistics } = arrival;
            let manifest = SubtaskManifest { subtask: participant.1, groups, watermark, segments, opaques, times };
            Ok(Acknowledgement { participant, manifest, tables, heat, statistics })
        };
        arrivals.into_iter().map(manifest).collect()
    }
}

/// Fills packs, one after the other.
struct Packer {
    pipeline: Arc<Pipeline>,
    epoch: Epoch,
    segments: BoxStream<'static, Result<Segment>>,
    opaques: Vec<(Participant, usize, Bytes)>,
}

/// A segment on its way into a pack; without bytes if it turned out to have no rows.
struct Segment {
    participant: Participant,
    unplaced: Unplaced,
    encoded: Option<Encoded>,
}

impl Packer {
    /// Returns the next pack and what is left to fill.
    async fn next(packer: Option<Self>) -> Result<Option<(Load, Option<Self>)>> {
        let Some(mut packer) = packer else { return Ok(None) };
        let mut load = packer.pipeline.new_load();
        // One segment at least, however small a pack may be.
        while load.slices.is_empty() || load.builder.len() < packer.pipeline.settings.pack_bytes {
            let Some(segment) = packer.segments.try_next().await? else {
                packer.add_opaques(&mut load);
                return Ok((!load.slices.is_empty()).then_some((load, None)));
            };
            packer.add(&mut load, segment);
        }
        Ok(Some((load, Some(packer))))
    }

    fn add(&self, load: &mut Load, Segment { participant, unplaced, encoded }: Segment) {
        if let Some(encoded) = encoded {
            let id = self.segment_id(participant, unplaced.epoch, unplaced.part);
            let reference = encoded.at(id, unplaced.first_epoch, load.id, load.builder.add_segment(id, &encoded));
            load.slices.push(Slice::Segment(participant, unplaced, reference));
        }
    }

    fn add_opaques(&mut self, load: &mut Load) {
        for (participant, at, bytes) in std::mem::take(&mut self.opaques) {
            let id = self.segment_id(participant, self.epoch, Part(0));
            let offset = load.builder.add_opaque(&bytes);
            let reference = Encoded::foreign(KeyGroupSet::empty(), bytes).at(id, self.epoch, load.id, offset);
            load.slices.push(Slice::Opaque(participant, at, reference));
        }
    }

    fn segment_id(&self, (operator, subtask): Participant, epoch: Epoch, part: Part) -> SegmentId {
        SegmentId { attempt: self.pipeline.attempt, operator, subtask, epoch, part }
    }
}

/// Returns the opaques that are too large to stand in a manifest.
fn large_opaques(arrivals: &BTreeMap<Participant, Arrival>) -> Vec<(Participant, usize, Bytes)> {
    let of = |(&participant, arrival): (&Participant, &Arrival)| {
        let inline = arrival.opaques.iter().enumerate().filter_map(|(at, opaque)| match &opaque.content {
            OpaqueContent::Inline(bytes) => Some((at, bytes)),
            OpaqueContent::Stored(_) => None,
        });
        let large = inline.filter(|(_, bytes)| bytes.len() > INLINE_OPAQUE_BYTES);
        large.map(|(at, bytes)| (participant, at, bytes.clone())).collect::<Vec<_>>()
    };
    arrivals.iter().flat_map(of).collect()
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
