//! The background of a checkpoint: encode, pack, upload, acknowledge.
//!
//! ```text
//! chains of this process --unplaced--> encode (n at a time) --> pack --> upload (n at a time) --> acknowledgements
//! ```
//!
//! Invariants: whatever is dropped or fails midway stays in its chain, encoded or placed as far as it came, and
//! belongs to the next manifest; segments of all subtasks share packs, in the order of the subtasks; nothing is encoded
//! far ahead of what is uploaded.

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
use crate::manifest::{INLINE_OPAQUE_BYTES, Layout, ObjectRef, ObjectSlice, Opaque, OpaqueContent, SubtaskManifest};
use crate::place::pack::{PackBuilder, Packed};
use crate::row::{GroupHeat, GroupTimes, SealedPart, SegmentKind, Statistic};
use crate::runtime::{SharedRuntime, run_blocking};
use crate::segment::{EncodeOptions, Encoded, Encoder, SegmentRef};
use crate::store::{Key, Put, Store};
use crate::time::Timestamp;

/// Bounds of the background work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PipelineSettings {
    /// A pack has this many bytes at most, or one segment or opaque. Default 64 MiB.
    pub pack_bytes: u64,
    /// What is sealed is divided into segments of about this many bytes, of a key group at least: what is encoded is in
    /// memory until it is uploaded. Default 64 MiB.
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
    /// Where the manifest's encoding lies, if not inside the job's.
    pub(crate) slice: Option<ObjectSlice>,
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
    pub(crate) max_parallelism: u16,
    pub(crate) chains: BTreeMap<Participant, SharedChain>,
    /// Every object that a chain has a segment in, or may come to have one in.
    pub(crate) catalog: Mutex<BTreeMap<ObjectId, ObjectRef>>,
}

/// What a slice of a pack is of.
pub(super) enum Slice {
    Segment(Participant, Unplaced, SegmentRef),
    Opaque(Participant, usize, SegmentRef),
}

/// A pack with what lies in it.
pub(super) struct Load {
    pub(super) id: ObjectId,
    pub(super) builder: PackBuilder,
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
        let opaques = stream::iter(large_opaques(&arrivals).into_iter().map(Ok));
        let items = self.encoded(epoch).map_ok(Item::Segment).chain(opaques).boxed();
        let packer = Packer { pipeline: Arc::clone(&self), epoch, items, next: None };
        let packs = stream::try_unfold(Some(packer), Packer::next);
        let pipeline = Arc::clone(&self);
        let uploads = packs.map_ok(move |load| {
            let span = tracing::info_span!("upload", object = %load.id, bytes = load.builder.len());
            Arc::clone(&pipeline).upload(load).instrument(span)
        });
        let uploads = uploads.try_buffer_unordered(self.settings.uploads.max(1));
        let uploaded: Vec<_> = uploads.try_collect().await?;
        let mut objects = Vec::new();
        for (object, slices) in uploaded {
            objects.push(object);
            move_opaques(&mut arrivals, slices);
        }
        let mut acknowledgements = self.acknowledge(epoch, arrivals, policy)?;
        objects.extend(self.slice_manifests(&mut acknowledgements).await?);
        // Those without a segment stand in no chain: a commit meanwhile has forgotten them.
        self.catalog().extend(objects.into_iter().map(|object| (object.id, object)));
        Ok(acknowledgements)
    }

    /// Returns the bytes of memory that the chains keep alive until they are placed, shared with backends or not.
    pub(crate) fn sealed_bytes(&self) -> u64 {
        let chains = self.chains.values().map(|chain| lock(chain).waiting());
        chains.map(|(bytes, rows)| bytes + rows.iter().map(|rows| rows.held_bytes()).sum::<u64>()).sum()
    }

    /// Merges and encodes what waits of epochs up to `until`, of which none can be committed any more by itself. It is
    /// CPU-bound: call it on a blocking thread.
    pub(crate) fn merge_waiting(&self, until: Epoch) {
        for chain in self.chains.values() {
            let Some(merging) = lock(chain).begin_merge(until) else { continue };
            let merged = merging.encode();
            // What waits stays as it is, and placing it will fail in the same way.
            let merged = merged.inspect_err(|error| tracing::warn!(error = error.chain(), "what waits was not merged"));
            lock(chain).end_merge(merged.ok());
        }
    }

    /// Returns what is to be placed for `epoch`, encoded a few at a time, in the order of the subtasks.
    fn encoded(self: &Arc<Self>, epoch: Epoch) -> BoxStream<'static, Result<Segment>> {
        let mut work = Vec::new();
        for (&participant, chain) in &self.chains {
            work.extend(lock(chain).unplaced(epoch).into_iter().map(|unplaced| (participant, unplaced)));
        }
        let pipeline = Arc::clone(self);
        // Of each link the first segment is made ahead, and the others when it is their turn.
        let first = move |(participant, unplaced)| Encoding::begin(Arc::clone(&pipeline), participant, unplaced);
        let begun = stream::iter(work).map(first).buffered(self.settings.encoders.max(1));
        begun.map_ok(|encoding| stream::try_unfold(encoding, Encoding::next)).try_flatten().boxed()
    }

    pub(super) fn new_load(&self) -> Load {
        let random = if canary::on(Canary::ReuseNames) { 0 } else { self.runtime.random() };
        let id = ObjectId { attempt: self.attempt, random: random.to_le_bytes() };
        Load { id, builder: PackBuilder::new(id, self.store.draw_put_id()), slices: Vec::new() }
    }

    /// Uploads one pack and notes in the chains what is now placed.
    pub(super) async fn upload(self: Arc<Self>, load: Load) -> Result<(ObjectRef, Vec<Slice>)> {
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
            Ok(Acknowledgement { participant, manifest, slice: None, tables, heat, statistics })
        };
        arrivals.into_iter().map(manifest).collect()
    }
}

/// A link on its way to segments, the first of which is there.
struct Encoding {
    pipeline: Arc<Pipeline>,
    participant: Participant,
    unplaced: Unplaced,
    encoder: Option<Encoder>,
    ready: Option<Segment>,
}

impl Encoding {
    async fn begin(pipeline: Arc<Pipeline>, participant: Participant, unplaced: Unplaced) -> Result<Self> {
        let (encoder, ready) = match &unplaced.content {
            Content::Bytes(encoded) => {
                let (encoded, unplaced) = (encoded.clone(), unplaced.clone());
                (None, Some(Segment { participant, unplaced, encoded }))
            }
            Content::Rows(part) => {
                let bytes = pipeline.settings.segment_bytes;
                (Some(Encoder::new(part.clone(), EncodeOptions::default(), bytes)), None)
            }
        };
        let mut encoding = Self { pipeline, participant, unplaced, encoder, ready };
        // The rows are the encoder's: their memory goes back with it, not when the uploads have ended.
        encoding.unplaced.content = Content::Rows(SealedPart::empty());
        encoding.encode().await?;
        Ok(encoding)
    }

    /// Returns the segment that is ready and what makes the others.
    async fn next(mut self) -> Result<Option<(Segment, Self)>> {
        if self.ready.is_none() {
            self.encode().await?;
        }
        Ok(self.ready.take().map(|segment| (segment, self)))
    }

    /// Makes the next segment that has rows, if there is one.
    async fn encode(&mut self) -> Result<()> {
        while self.ready.is_none() {
            let Some(mut encoder) = self.encoder.take() else { return Ok(()) };
            let work = move || Ok((encoder.next_segment()?, encoder));
            let (encoded, encoder) = run_blocking(&*self.pipeline.runtime, work).await?;
            let Some(encoded) = encoded else { return Ok(()) };
            self.encoder = (!encoder.is_done()).then_some(encoder);
            let Some(chain) = self.pipeline.chains.get(&self.participant) else {
                return Err(Error::usage("subtask has no chain").with("subtask", self.participant.1));
            };
            let unplaced = Unplaced { content: Content::Bytes(encoded.clone()), ..self.unplaced.clone() };
            let mut chain = lock(chain);
            // What is left of the link begins with the group after these.
            self.unplaced.first = if encoded.records == 0 && encoded.kind == SegmentKind::Delta {
                chain.vanished(&unplaced, encoded.kind, &encoded.groups)
            } else {
                let rest = chain.encoded(&unplaced, encoded.clone());
                self.ready = Some(Segment { participant: self.participant, unplaced, encoded });
                rest
            };
        }
        Ok(())
    }
}

/// Fills packs, one after the other.
struct Packer {
    pipeline: Arc<Pipeline>,
    epoch: Epoch,
    items: BoxStream<'static, Result<Item>>,
    /// What did not fit into the last pack.
    next: Option<Item>,
}

/// A segment on its way into a pack.
struct Segment {
    participant: Participant,
    unplaced: Unplaced,
    encoded: Encoded,
}

/// What stands in packs.
enum Item {
    Segment(Segment),
    Opaque(Participant, usize, Bytes),
}

impl Item {
    fn bytes(&self) -> &Bytes {
        match self {
            Self::Segment(segment) => &segment.encoded.bytes,
            Self::Opaque(_, _, bytes) => bytes,
        }
    }
}

impl Packer {
    /// Returns the next pack and what is left to fill.
    async fn next(packer: Option<Self>) -> Result<Option<(Load, Option<Self>)>> {
        let Some(mut packer) = packer else { return Ok(None) };
        let most = packer.pipeline.settings.pack_bytes;
        let mut load = packer.pipeline.new_load();
        loop {
            let Some(item) = packer.next_item().await? else {
                return Ok((!load.slices.is_empty()).then_some((load, None)));
            };
            // One item at least, however small a pack may be.
            if !load.slices.is_empty() && load.builder.len().saturating_add(item.bytes().len() as u64) > most {
                packer.next = Some(item);
                return Ok(Some((load, Some(packer))));
            }
            packer.add(&mut load, item);
            if load.builder.len() >= most {
                return Ok(Some((load, Some(packer))));
            }
        }
    }

    async fn next_item(&mut self) -> Result<Option<Item>> {
        match self.next.take() {
            Some(item) => Ok(Some(item)),
            None => self.items.try_next().await,
        }
    }

    fn add(&self, load: &mut Load, item: Item) {
        let slice = match item {
            Item::Segment(Segment { participant, unplaced, encoded }) => {
                let id = self.segment_id(participant, unplaced.epoch, unplaced.part);
                let reference = encoded.at(id, unplaced.first_epoch, load.id, load.builder.add_segment(id, &encoded));
                Slice::Segment(participant, unplaced, reference)
            }
            Item::Opaque(participant, at, bytes) => {
                let id = self.segment_id(participant, self.epoch, Part(0));
                let offset = load.builder.add_opaque(&bytes);
                let reference = Encoded::foreign(KeyGroupSet::empty(), bytes).at(id, self.epoch, load.id, offset);
                Slice::Opaque(participant, at, reference)
            }
        };
        load.slices.push(slice);
    }

    fn segment_id(&self, (operator, subtask): Participant, epoch: Epoch, part: Part) -> SegmentId {
        SegmentId { attempt: self.pipeline.attempt, operator, subtask, epoch, part }
    }
}

/// Returns the opaques that are too large to stand in a manifest.
fn large_opaques(arrivals: &BTreeMap<Participant, Arrival>) -> Vec<Item> {
    let of = |(&participant, arrival): (&Participant, &Arrival)| {
        let inline = arrival.opaques.iter().enumerate().filter_map(|(at, opaque)| match &opaque.content {
            OpaqueContent::Inline(bytes) => Some((at, bytes)),
            OpaqueContent::Stored(_) => None,
        });
        let large = inline.filter(|(_, bytes)| bytes.len() > INLINE_OPAQUE_BYTES);
        large.map(|(at, bytes)| Item::Opaque(participant, at, bytes.clone())).collect::<Vec<_>>()
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
