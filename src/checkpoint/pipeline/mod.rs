//! The background pipeline of a checkpoint: encode, pack, upload, acknowledge.
//!
//! ```text
//! chains of this process --pending--> encode (n at a time) --> pack --> upload (n at a time) --> acknowledgements
//! ```
//!
//! Invariants: state whose placement fails or is cancelled stays in its chain, encoded or placed as far as it came, and
//! joins the next manifest; segments of all subtasks share packs, in the order of the subtasks; encoding runs at most a
//! few segments ahead of the uploads.

mod encoding;
mod manifests;
mod packer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use tracing::Instrument as _;

use super::acknowledgement::{Acknowledgement, Arrival, Placed};
use super::segment_chain::SegmentChain;
use crate::canary::{self, Canary};
use crate::control::chain::ChainPolicy;
use crate::control::coordinator::Participant;
use crate::error::{Error, Result, broken};
use crate::id::{Attempt, Epoch, ObjectId};
use crate::manifest::{ObjectRef, SubtaskManifest};
use crate::place::Store;
use crate::place::pack::PackBuilder;
use crate::runtime::SharedRuntime;

use encoding::{Encoding, Segment};
use packer::{Item, OpenPack, Packer, Slice, large_opaques, replace_opaques};

/// Bounds on the background's encoding and uploads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PipelineSettings {
    /// Most bytes of a pack, unless a single segment or opaque is longer. Default 64 MiB.
    pub pack_bytes: u64,
    /// Target bytes of a segment; a key group is never divided. Each encoded segment is held in memory until it is
    /// uploaded. Default 64 MiB.
    pub segment_bytes: u64,
    /// Segments encoded at a time, at least 1. Default 2.
    pub encoders: usize,
    /// Packs uploaded at a time, at least 1. Default 4.
    pub uploads: usize,
}

impl Default for PipelineSettings {
    fn default() -> Self {
        Self { pack_bytes: 64 << 20, segment_bytes: 64 << 20, encoders: 2, uploads: 4 }
    }
}

/// A subtask's chain, shared by its task (which appends seals) and the pipeline (which places them).
pub(crate) type SharedChain = Arc<Mutex<SegmentChain>>;

/// Locks a chain. A panic under the lock cannot leave the chain half changed in a way that loses state.
pub(crate) fn lock(chain: &Mutex<SegmentChain>) -> MutexGuard<'_, SegmentChain> {
    chain.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// Every object that holds a segment of a chain, or is being filled with segments.
    pub(crate) catalog: Mutex<BTreeMap<ObjectId, ObjectRef>>,
}

impl Pipeline {
    /// Encodes, packs and uploads everything up to `epoch`, and plans the bases of the next seal. Cancel-safe.
    ///
    /// * `policy`: when groups get new bases; `None` if each checkpoint writes all groups.
    ///
    /// # Errors
    /// `Unavailable`, `Denied` or `Limit` from the store or the encoder: decline the epoch.
    pub(crate) async fn place(
        self: Arc<Self>,
        epoch: Epoch,
        mut arrivals: BTreeMap<Participant, Arrival>,
        policy: Option<ChainPolicy>,
    ) -> Result<Placed> {
        let opaques = stream::iter(large_opaques(&arrivals).into_iter().map(Ok));
        let items = self.encoded(epoch).map_ok(Item::Segment).chain(opaques).boxed();
        let packs = stream::try_unfold(Some(Packer::new(Arc::clone(&self), epoch, items)), Packer::next);
        let pipeline = Arc::clone(&self);
        let uploads = packs.map_ok(move |pack| {
            let span = tracing::info_span!("upload", object = %pack.id, bytes = pack.builder.len());
            Arc::clone(&pipeline).upload(pack).instrument(span)
        });
        let uploads = uploads.try_buffer_unordered(self.settings.uploads.max(1));
        let uploaded: Vec<_> = uploads.try_collect().await?;
        let mut new = Vec::new();
        for (object, slices) in uploaded {
            new.push(object);
            replace_opaques(&mut arrivals, slices);
        }
        let mut acknowledgements = self.acknowledge(epoch, arrivals, policy)?;
        new.extend(self.upload_manifests(&mut acknowledgements).await?);
        let objects = self.referenced(&acknowledgements, new);
        Ok(Placed { acknowledgements, objects })
    }

    /// Returns the bytes of memory held by links that are not placed, including memory shared with backends.
    pub(crate) fn held_bytes(&self) -> u64 {
        let chains = self.chains.values().map(|chain| lock(chain).held());
        chains.map(|(bytes, rows)| bytes + rows.iter().map(|rows| rows.held_bytes()).sum::<u64>()).sum()
    }

    /// Merges and encodes the pending links of epochs up to `until`, none of which can still be committed on its own.
    /// CPU-bound: call it on a blocking thread.
    pub(crate) fn merge_pending(&self, until: Epoch) {
        for chain in self.chains.values() {
            let Some(merging) = lock(chain).begin_merge(until) else { continue };
            let merged = merging.encode();
            // On an error the links stay unmerged. Placing them reports the error.
            let merged =
                merged.inspect_err(|error| tracing::warn!(error = error.chain(), "pending links were not merged"));
            lock(chain).end_merge(merged.ok());
        }
    }

    /// Returns the segments to place for `epoch`, encoded a few at a time, in the order of the subtasks.
    fn encoded(self: &Arc<Self>, epoch: Epoch) -> BoxStream<'static, Result<Segment>> {
        let mut work = Vec::new();
        for (&participant, chain) in &self.chains {
            work.extend(lock(chain).pending(epoch).into_iter().map(|link| (participant, link)));
        }
        let pipeline = Arc::clone(self);
        // Only the first segment of each link is encoded ahead; the others on demand.
        let begin = move |(participant, link)| Encoding::begin(Arc::clone(&pipeline), participant, link);
        let begun = stream::iter(work).map(begin).buffered(self.settings.encoders.max(1));
        begun.map_ok(|encoding| stream::try_unfold(encoding, Encoding::next)).try_flatten().boxed()
    }

    fn chain(&self, participant: Participant) -> MutexGuard<'_, SegmentChain> {
        let chain = self.chains.get(&participant);
        lock(chain.unwrap_or_else(|| broken("a subtask has no chain")))
    }

    fn open_pack(&self) -> OpenPack {
        let random = if canary::on(Canary::ReuseNames) { 0 } else { self.runtime.random() };
        let id = ObjectId { attempt: self.attempt, random: random.to_le_bytes() };
        OpenPack { id, builder: PackBuilder::new(id, self.store.draw_put_id()), slices: Vec::new() }
    }

    /// Uploads one pack and records in the chains where their segments are placed.
    async fn upload(self: Arc<Self>, pack: OpenPack) -> Result<(ObjectRef, Vec<Slice>)> {
        let OpenPack { id, builder, slices } = pack;
        let Some(object) = self.store.data().put(builder.finish()?).await? else {
            return Err(Error::corrupt("a random object name was taken").with("object", id));
        };
        self.catalog().insert(id, object.clone());
        for slice in &slices {
            if let Slice::Segment { participant, link, segment } = slice {
                self.chain(*participant).placed(*link, segment.clone());
            }
        }
        Ok((object, slices))
    }

    fn catalog(&self) -> MutexGuard<'_, BTreeMap<ObjectId, ObjectRef>> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn acknowledge(
        &self,
        epoch: Epoch,
        arrivals: BTreeMap<Participant, Arrival>,
        policy: Option<ChainPolicy>,
    ) -> Result<Vec<Acknowledgement>> {
        let acknowledge = |(participant, arrival): (Participant, Arrival)| {
            let mut chain = self.chain(participant);
            policy.into_iter().for_each(|policy| chain.plan_bases(policy));
            let Some(segments) = chain.segments(epoch) else {
                return Err(Error::usage("not all state of the subtask is placed").with("subtask", participant.1));
            };
            let Arrival { owned: groups, watermark, times, opaques, summary } = arrival;
            let manifest = SubtaskManifest { subtask: participant.1, groups, watermark, segments, opaques, times };
            Ok(Acknowledgement { participant, manifest, slice: None, summary })
        };
        arrivals.into_iter().map(acknowledge).collect()
    }

    /// Returns the objects that `acknowledgements` refer to, from `new` and from the catalog.
    fn referenced(&self, acknowledgements: &[Acknowledgement], new: Vec<ObjectRef>) -> Vec<ObjectRef> {
        let new: BTreeMap<_, _> = new.into_iter().map(|object| (object.id, object)).collect();
        let slices = acknowledgements.iter().filter_map(|acknowledgement| acknowledgement.slice);
        let manifests = acknowledgements.iter().map(|acknowledgement| &acknowledgement.manifest);
        let ids = manifests.flat_map(SubtaskManifest::objects).chain(slices.map(|slice| slice.object));
        let ids: BTreeSet<_> = ids.collect();
        let catalog = self.catalog();
        let object = |id| new.get(&id).or_else(|| catalog.get(&id)).cloned();
        ids.into_iter()
            .map(|id| object(id).unwrap_or_else(|| broken("a placed object is not in the catalog")))
            .collect()
    }

    /// Records in the chains that `epoch` is committed, and forgets objects that hold no segment of any chain.
    pub(crate) fn commit(&self, epoch: Epoch) {
        self.chains.values().for_each(|chain| lock(chain).commit(epoch));
        let objects: BTreeSet<_> = self.chains.values().flat_map(|chain| lock(chain).objects()).collect();
        self.catalog().retain(|id, _| objects.contains(id));
    }
}
