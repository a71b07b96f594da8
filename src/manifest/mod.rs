//! Manifests: immutable lists of segments. A manifest *is* a checkpoint.
//!
//! The types here are the parsed form: a value of one has passed every check.

pub(crate) mod convert;
mod format;
mod heat;
mod lineage;
mod opaque;
pub(crate) mod proto;
mod record_sum;
pub(crate) mod rescale;
mod rules;
mod statistics;
mod subtask;
mod summary;
pub(crate) mod weight;

use bytes::Bytes;

use crate::codec::typed::{Codec, Ordered};
use crate::error::{Error, Result};
use crate::id::{Attempt, Epoch, JobId, ManifestId, OperatorId, Seq, Subtask, TableId};
use crate::key_group::{KeyGroupRange, KeyGroupSet, Partitioner};
use crate::row::{GroupTimes, Ttl, later_times};
use crate::time::Timestamp;

pub use crate::codec::schema::Schema;
pub use crate::id::{Hash, ObjectId, PutId, SegmentId};
pub use crate::row::Warmth;
pub use crate::segment::SegmentRef;
pub use format::MAX_MANIFEST_BYTES;
pub use record_sum::RecordSum;
pub use rules::MAX_NAME_BYTES;
pub(crate) use rules::{check_groups, check_handed_in, check_objects};
pub use summary::{OpaqueReach, SubtaskSummary};

/// Opaques up to this size are stored inline, in the subtask manifest.
pub const INLINE_OPAQUE_BYTES: usize = 20 * 1024;

/// Subtask manifests up to this total weight are stored inline, in the manifest.
pub const INLINE_SUBTASKS_BYTES: usize = 1 << 20;

/// Kind of a manifest. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ManifestKind {
    /// Takes over the job for an attempt; its parent is the checkpoint that the attempt restores.
    Claim = 1,
    /// Owned by the system, which retains and collects it.
    Checkpoint = 2,
    /// Owned by the user: self-contained, kept until the user drops it.
    Savepoint = 3,
}

/// Where a checkpoint's bytes were stored at the commit. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DurabilityLevel {
    /// Sealed in the owner's memory.
    Captured = 1,
    /// On a local disk.
    Local = 2,
    /// In the memory of peers.
    Peers = 3,
    /// In the object store.
    ObjectStore = 4,
}

/// A checkpoint, a savepoint or a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The job.
    pub job: JobId,
    /// Number in the chain of manifests.
    pub seq: Seq,
    /// Kind of this manifest.
    pub kind: ManifestKind,
    /// The attempt that wrote it.
    pub attempt: Attempt,
    /// The last epoch included.
    pub epoch: Epoch,
    /// The checkpoint continued: the previous one, or a claim's restore point. Never a claim.
    pub parent: Option<ManifestId>,
    /// All other live manifests. A manifest not listed in the newest one is void.
    pub retained: Vec<Retained>,
    /// Time of writing by the writer's clock, for display only.
    pub created_at: Timestamp,
    /// Name and version of the writing software.
    pub writer: String,
    /// The job's program, as described by the embedder.
    pub program: Program,
    /// How keys map to groups.
    pub partitioner: Partitioner,
    /// Number of key groups.
    pub max_parallelism: u16,
    /// Every data object referred to by the subtasks' segments.
    pub objects: Vec<ObjectRef>,
    /// Where its bytes were stored at the commit.
    pub level: DurabilityLevel,
    /// The operators with their tables and subtasks.
    pub operators: Vec<OperatorManifest>,
    /// Additions of later versions or of embedders.
    pub extensions: Vec<Extension>,
}

/// A live manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retained {
    /// Its identity.
    pub id: ManifestId,
    /// Hash of the whole object.
    pub hash: Hash,
    /// Its kind. No policy drops a savepoint: only the user does.
    pub kind: ManifestKind,
}

/// A description of the job's computation: opaque to the crate, compared by the embedder on restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The embedder's description.
    pub bytes: Bytes,
    /// Its hash.
    pub hash: Hash,
}

impl Default for Program {
    fn default() -> Self {
        Self::new(Bytes::new())
    }
}

impl Program {
    /// Returns the program described by `bytes`.
    #[must_use]
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { hash: Hash::of(&bytes), bytes }
    }
}

/// A data object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRef {
    /// Its identity; the object key is derived from this.
    pub id: ObjectId,
    /// The write that created it.
    pub put_id: PutId,
    /// Its length.
    pub bytes: u64,
    /// Hash of the whole object.
    pub hash: Hash,
    /// Whole, or divided into shards.
    pub layout: Layout,
    /// Id of the cipher of its blocks; 0 for none.
    pub cipher: u32,
    /// Id of the cipher's key; empty without a cipher.
    pub key_id: String,
}

/// How an object is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Layout {
    /// In one piece.
    Whole,
    /// As `k + m` equal shards; any `k` of them suffice.
    Shards {
        /// Data shards.
        k: u32,
        /// Parity shards.
        m: u32,
        /// Length of a shard.
        shard_bytes: u64,
    },
}

/// An operator in a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorManifest {
    /// Its identity.
    pub id: OperatorId,
    /// Its name.
    pub name: String,
    /// Number of subtasks.
    pub parallelism: u32,
    /// Its tables.
    pub tables: Vec<TableSchema>,
    /// One entry per subtask, in order.
    pub subtasks: Vec<SubtaskEntry>,
}

impl OperatorManifest {
    /// Returns the subtask manifests.
    ///
    /// # Errors
    /// `Usage` if one is not inline and must be fetched first.
    pub fn inline_subtasks(&self) -> Result<Vec<&SubtaskManifest>> {
        let mut inline = Vec::with_capacity(self.subtasks.len());
        for entry in &self.subtasks {
            match entry {
                SubtaskEntry::Inline(subtask) => inline.push(subtask),
                SubtaskEntry::Slice(_) => {
                    return Err(Error::usage("subtask manifest is stored elsewhere").with("operator", self.id));
                }
            }
        }
        Ok(inline)
    }
}

/// A subtask's part of a manifest: inline, or elsewhere, to avoid rewriting a large manifest with every commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubtaskEntry {
    /// The subtask manifest itself.
    Inline(SubtaskManifest),
    /// The slice with its encoding.
    Slice(SubtaskSlice),
}

/// A subtask manifest in a slice of an object, with what must be known without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubtaskSlice {
    /// The slice with its encoding.
    pub slice: ObjectSlice,
    /// Its summary.
    pub summary: SubtaskSummary,
}

impl SubtaskEntry {
    /// Returns the subtask manifest, if inline.
    #[must_use]
    pub const fn inline(&self) -> Option<&SubtaskManifest> {
        match self {
            Self::Inline(subtask) => Some(subtask),
            Self::Slice(_) => None,
        }
    }

    /// Returns the slice with the subtask manifest, if not inline.
    #[must_use]
    pub const fn slice(&self) -> Option<&ObjectSlice> {
        match self {
            Self::Inline(_) => None,
            Self::Slice(stored) => Some(&stored.slice),
        }
    }
}

/// A range of an object's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectSlice {
    /// The object.
    pub object: ObjectId,
    /// Start.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
    /// Hash of the bytes.
    pub hash: Hash,
}

/// A subtask's state in a checkpoint: its acknowledgement of a barrier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubtaskManifest {
    /// The subtask.
    pub subtask: Subtask,
    /// The key groups owned.
    pub groups: KeyGroupSet,
    /// The watermark at the barrier.
    pub watermark: Timestamp,
    /// The segments, oldest first within each group.
    pub segments: Vec<SegmentRef>,
    /// The opaques: everything beside keyed state.
    pub opaques: Vec<Opaque>,
    /// Times of its groups, sorted by group; empty in manifests older than this field.
    pub times: Vec<GroupTimes>,
    /// How much each of its groups was used lately, ascending by group; empty if unknown, as in manifests older than this
    /// field.
    pub heat: Vec<Warmth>,
}

impl SubtaskManifest {
    /// Returns the times of each of its groups.
    ///
    /// A manifest without times yields the watermark as event time, since rows had expired by at least that, and no
    /// processing time: the next owner's clock alone applies. The manifest's time of writing is no substitute: it may come
    /// from a different clock, and could expire live rows.
    #[must_use]
    pub fn group_times(&self) -> Vec<GroupTimes> {
        let least = |range: &KeyGroupRange| GroupTimes::new(*range, self.watermark, Timestamp::MIN);
        let least: Vec<_> = self.groups.ranges().iter().map(least).collect();
        later_times(&least, &self.times)
    }

    /// Returns the objects referred to by its segments and opaques.
    pub fn objects(&self) -> impl Iterator<Item = ObjectId> + '_ {
        let stored = self.opaques.iter().filter_map(Opaque::segment);
        self.segments.iter().chain(stored).map(|segment| segment.object)
    }
}

/// The embedder's bytes in a checkpoint: source positions, operator state, in-flight data, prepared sinks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opaque {
    /// Its role.
    pub role: OpaqueRole,
    /// The embedder's name: one opaque per role, name and barrier of a subtask. Output prepared in abandoned epochs is listed
    /// beside newer output, so a restored subtask may have several opaques of one name, oldest first.
    pub name: String,
    /// How it is distributed at another parallelism.
    pub redistribution: Redistribution,
    /// The channel of in-flight data.
    pub channel: Option<u32>,
    /// Starts of the items of a list, for `Split` and `Union`.
    pub item_offsets: Vec<u64>,
    /// The bytes.
    pub content: OpaqueContent,
}

impl Opaque {
    /// Returns the `Foreign` segment with its bytes, if they are not inline.
    #[must_use]
    pub const fn segment(&self) -> Option<&SegmentRef> {
        match &self.content {
            OpaqueContent::Inline(_) => None,
            OpaqueContent::Stored(segment) => Some(segment),
        }
    }
}

/// Role of an opaque. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum OpaqueRole {
    /// A source's position.
    Source = 1,
    /// An operator's own state.
    Operator = 2,
    /// Records between operators.
    InFlight = 3,
    /// Prepared output of a two-phase sink.
    SinkPrepared = 4,
    /// Count and hash of what the slots of a sink have emitted.
    SinkSums = 5,
}

/// How an opaque is distributed at another parallelism. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Redistribution {
    /// To the subtask of the same index, or to subtask 0 without one.
    None = 1,
    /// Items in turn to all subtasks; at the same parallelism each stays with its subtask.
    Split = 2,
    /// All items to every subtask.
    Union = 3,
    /// Subtask 0's copy to every subtask.
    Broadcast = 4,
    /// To the owner of its channel.
    ByChannel = 5,
    /// Each item to the owner of its key group: see [`Opaque::in_flight`].
    ByKeyGroup = 6,
}

/// The bytes of an opaque.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpaqueContent {
    /// Inline; at most [`INLINE_OPAQUE_BYTES`].
    Inline(Bytes),
    /// In a `Foreign` segment.
    Stored(SegmentRef),
}

/// A table's identity and types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSchema {
    /// Its identity.
    pub id: TableId,
    /// Its name, unique per operator.
    pub name: String,
    /// Kind of state.
    pub kind: StateKind,
    /// Type of the keys.
    pub key: Schema,
    /// Type of the namespaces; `unit` without any.
    pub namespace: Schema,
    /// Type of the sub-keys; `unit` without any.
    pub sub: Schema,
    /// Type of the values.
    pub value: Schema,
    /// When rows expire.
    pub ttl: Option<Ttl>,
    /// Name of the merge operator.
    pub merge_operator: Option<String>,
}

impl TableSchema {
    /// Returns whether the rows are timers, laid out as this crate's: the sub-key is the time.
    #[must_use]
    pub fn holds_timers(&self) -> bool {
        self.kind == StateKind::Timers && self.sub == Codec::<i64>::schema(&Ordered)
    }
}

/// Kind of state of a table. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StateKind {
    /// One value per key and namespace.
    Value = 1,
    /// A list per key and namespace.
    List = 2,
    /// A map per key and namespace.
    Map = 3,
    /// A value reduced from elements.
    Reducing = 4,
    /// An accumulator of elements.
    Aggregating = 5,
    /// Timers.
    Timers = 6,
}

/// A tagged addition to a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// Its name.
    pub tag: String,
    /// Whether a reader without support for it must refuse the manifest.
    pub required: bool,
    /// Content.
    pub bytes: Bytes,
}

/// The fence: the object that reserves a number for exactly one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptMarker {
    /// The attempt.
    pub attempt: Attempt,
    /// The job.
    pub job: JobId,
    /// Time of writing by the writer's clock, for display only.
    pub created_at: Timestamp,
}

#[cfg(test)]
mod tests;
