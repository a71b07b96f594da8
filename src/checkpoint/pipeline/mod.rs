//! The background pipeline of a checkpoint: encode, pack, upload, acknowledge.
//!
//! ```text
//! chains of this process --pending--> encode (n at a time) --> pack --> upload (n at a time) --> acknowledgements
//! ```
//!
//! Invariants: state whose placement fails or is cancelled stays in its chain, encoded or placed as far as it came, and
//! joins the next manifest; segments of all subtasks share packs, in the order of the subtasks, and the last pack takes
//! their manifests too if these are many; encoding runs at most a few segments ahead of the uploads. Beside it,
//! `rewriting` writes placed state again, which the next epoch uploads.

mod catalog;
mod encoding;
mod manifests;
mod packer;
mod rewriting;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use tracing::Instrument as _;

use super::acknowledgement::{Arrival, Kept, Placed};
use super::segment_chain::SegmentChain;
use crate::canary::{self, Canary};
use crate::control::chain::ChainPolicy;
use crate::control::coordinator::Participant;
use crate::error::{Error, Result, broken};
use crate::id::{Attempt, Epoch, ObjectId};
use crate::manifest::ObjectRef;
use crate::place::Store;
use crate::place::pack::PackBuilder;
use crate::runtime::SharedRuntime;
use crate::segment::{Compression, EncodeOptions, sum};

pub(crate) use catalog::Catalog;
use encoding::{Encoding, Segment};
use manifests::Manifests;
use packer::{Item, OpenPack, Output, Packer, large_opaques};

pub(crate) use rewriting::{Rewritten, TablesOf, timer_rules};

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
    /// Compression level of zstd for the blocks of segments, up to 22: a lower one is faster and compresses less, negative
    /// ones most of all. Blocks that zstd hardly shrinks are stored as they are, and so are the next ones after several of
    /// them. Default 1.
    pub zstd_level: i32,
    /// The share of the time that each encoder works, in percent, from 1 to 100; it pauses for the rest. A lower one leaves
    /// processors and memory bandwidth to the tasks, and makes checkpoints take longer. Merges of the state of aborted epochs,
    /// and rewrites, do not pause. Default 100: no pauses.
    pub encoder_share: u32,
}

impl Default for PipelineSettings {
    fn default() -> Self {
        Self {
            pack_bytes: 64 << 20,
            segment_bytes: 64 << 20,
            encoders: 2,
            uploads: 4,
            zstd_level: 1,
            encoder_share: 100,
        }
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
    /// Its share of what may be inline in the manifest: subtask manifests of a greater total weight become slices.
    pub(crate) inline_bytes: usize,
    pub(crate) catalog: Mutex<Catalog>,
    /// What the next epoch uploads beside its own.
    pub(crate) rewritten: Mutex<Option<Rewritten>>,
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
        arrivals: BTreeMap<Participant, Arrival>,
        policy: Option<ChainPolicy>,
    ) -> Result<Placed> {
        let participants: Vec<_> = arrivals.keys().copied().collect();
        let rewrites = self.place_rewritten(epoch).await;
        let opaques = stream::iter(large_opaques(&arrivals).into_iter().map(Ok));
        let items = self.encoded(epoch).map_ok(Item::Segment).chain(opaques).boxed();
        let packer = Packer::new(Arc::clone(&self), epoch, items, arrivals);
        let pipeline = Arc::clone(&self);
        let finish = move |output| Arc::clone(&pipeline).finish(epoch, output);
        let finished = stream::try_unfold(Some(packer), Packer::next).map_ok(finish);
        let finished: Vec<_> = finished.try_buffer_unordered(self.settings.uploads.max(1)).try_collect().await?;
        if let Some(policy) = policy {
            participants.iter().for_each(|participant| self.chain(*participant).plan_bases(policy));
        }
        let uploads = rewrites + finished.iter().filter(|output| output.is_none()).count() as u64;
        let Some(manifests) = finished.into_iter().flatten().next() else { broken("a packer ended early") };
        Ok(self.placed(epoch, manifests, uploads))
    }

    /// Uploads a pack; passes subtask manifests on.
    async fn finish(self: Arc<Self>, epoch: Epoch, output: Output) -> Result<Option<Manifests>> {
        let pack = match output {
            Output::Pack(pack) => pack,
            Output::Manifests(manifests) => return Ok(Some(manifests)),
        };
        let span = tracing::info_span!("upload", object = %pack.id, bytes = pack.builder.len());
        self.upload(epoch, pack).instrument(span).await?;
        Ok(None)
    }

    fn placed(&self, epoch: Epoch, manifests: Manifests, uploads: u64) -> Placed {
        let Manifests { acknowledgements, objects, bytes, bases, .. } = manifests;
        let (objects, kept) = self.catalog().report(epoch, &objects);
        let kept = self.live_of(kept);
        let new_base_bytes = sum(objects.iter().filter_map(|object| bases.get(&object.id)).copied());
        Placed { acknowledgements, objects, kept, bytes, new_base_bytes, uploads }
    }

    /// Returns the objects with the bytes that the chains need of them.
    fn live_of(&self, kept: Vec<ObjectId>) -> Vec<Kept> {
        let mut live = BTreeMap::new();
        self.chains.values().for_each(|chain| lock(chain).add_live(&mut live));
        kept.into_iter().map(|id| Kept { id, live_bytes: live.get(&id).copied().unwrap_or(0) }).collect()
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
            let merged = merging.encode(self.encode_options());
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
            // Sizes are summed once, which takes a step per region: not under the lock, for which the task may wait.
            let (_, sealed) = lock(chain).held();
            for rows in sealed {
                let _kept_there = rows.groups().first().map(|group| rows.group_bytes(group));
            }
            work.extend(lock(chain).pending(epoch).into_iter().map(|link| (participant, link)));
        }
        let pipeline = Arc::clone(self);
        // Only the first segment of each link is encoded ahead; the others on demand.
        let begin = move |(participant, link)| Encoding::begin(Arc::clone(&pipeline), participant, link);
        let begun = stream::iter(work).map(begin).buffered(self.settings.encoders.max(1));
        begun.map_ok(|encoding| stream::try_unfold(encoding, Encoding::next)).try_flatten().boxed()
    }

    fn encode_options(&self) -> EncodeOptions {
        EncodeOptions { codec: Compression::Zstd { level: self.settings.zstd_level } }
    }

    fn chain(&self, participant: Participant) -> MutexGuard<'_, SegmentChain> {
        let chain = self.chains.get(&participant);
        lock(chain.unwrap_or_else(|| broken("a subtask has no chain")))
    }

    fn open_pack(&self) -> OpenPack {
        let random = if canary::on(Canary::ReuseNames) { 0 } else { self.runtime.random() };
        let id = ObjectId { attempt: self.attempt, random: random.to_le_bytes() };
        OpenPack { id, builder: PackBuilder::new(id, self.store.draw_put_id()), segments: Vec::new() }
    }

    /// Uploads one pack and records in the chains where their segments are placed.
    async fn upload(&self, epoch: Epoch, pack: OpenPack) -> Result<()> {
        let OpenPack { id, builder, segments } = pack;
        let object = self.put(id, builder).await?;
        self.catalog().add(epoch, object);
        for (participant, link, segment) in segments {
            self.chain(participant).placed(link, segment);
        }
        Ok(())
    }

    async fn put(&self, id: ObjectId, pack: PackBuilder) -> Result<ObjectRef> {
        let object = self.store.data().put(pack.finish()?).await?;
        object.ok_or_else(|| Error::corrupt("a random object name was taken").with("object", id))
    }

    fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records in the chains that `epoch` is committed, and forgets the objects that it lists.
    pub(crate) fn commit(&self, epoch: Epoch) {
        self.chains.values().for_each(|chain| lock(chain).commit(epoch));
        let objects: BTreeSet<_> = self.chains.values().flat_map(|chain| lock(chain).objects()).collect();
        self.catalog().commit(epoch, &objects);
    }
}

#[cfg(test)]
mod tests;
