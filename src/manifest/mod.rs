//! Manifests: immutable lists of segments. A manifest *is* a checkpoint.
//!
//! The types here are the parsed form: whoever holds one need not check it again.

mod convert;
mod format;
mod heat;
mod proto;
pub mod rescale;
mod rules;
mod statistics;
mod subtask;
mod weight;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::id::{Attempt, Epoch, Hash, JobId, ManifestId, ObjectId, OperatorId, PutId, Seq, Subtask, TableId};
use crate::key_group::{KeyGroupRange, KeyGroupSet, Partitioner};
use crate::row::{GroupTimes, Ttl, later_times};
use crate::segment::SegmentRef;
use crate::time::Timestamp;

pub use crate::codec::schema::Schema;
pub use format::MAX_MANIFEST_BYTES;
pub use rules::MAX_NAME_BYTES;
pub(crate) use rules::check_handed_in;

/// Opaques up to this size stand inside the subtask manifest.
pub const INLINE_OPAQUE_BYTES: usize = 20 * 1024;

/// Subtask manifests that weigh up to this together stand inside the manifest.
pub const INLINE_SUBTASKS_BYTES: usize = 8 << 20;

/// What a manifest is. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ManifestKind {
    /// An attempt took over the job here; its parent is the checkpoint it restores from.
    Claim = 1,
    /// Owned by the system: retained and collected.
    Checkpoint = 2,
    /// Owned by the user: self-contained, and kept until the user drops it.
    Savepoint = 3,
}

/// How far a checkpoint's bytes had gone when it was committed. The numbers are part of the format.
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
    /// The job that it belongs to.
    pub job: JobId,
    /// Its number in the chain.
    pub seq: Seq,
    /// What it is.
    pub kind: ManifestKind,
    /// Who wrote it.
    pub attempt: Attempt,
    /// It holds all effects of epochs up to this one.
    pub epoch: Epoch,
    /// The checkpoint that it continues: the one before, or the claim's restore point. Never a claim.
    pub parent: Option<ManifestId>,
    /// All other manifests that live beside this one. What the newest manifest does not list is void.
    pub retained: Vec<Retained>,
    /// When it was written, by its writer's clock; for people only.
    pub created_at: Timestamp,
    /// Name and version of the software that wrote it.
    pub writer: String,
    /// What the job computes, as the embedder describes it.
    pub program: Program,
    /// How keys map to groups.
    pub partitioner: Partitioner,
    /// Number of key groups.
    pub max_parallelism: u16,
    /// Every data object that the subtasks' segments lie in.
    pub objects: Vec<ObjectRef>,
    /// How far its bytes had gone when it was committed.
    pub level: DurabilityLevel,
    /// The job's operators with their tables and subtasks.
    pub operators: Vec<OperatorManifest>,
    /// What later versions or embedders add.
    pub extensions: Vec<Extension>,
}

/// A manifest that lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retained {
    /// Its number and write.
    pub id: ManifestId,
    /// Hash of the whole object.
    pub hash: Hash,
    /// What it is; no policy drops a savepoint, only its user does.
    pub kind: ManifestKind,
}

/// What a job computes: opaque to the crate, compared by the embedder on restart.
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
    /// Its identity, of which its key is made.
    pub id: ObjectId,
    /// The write that created it.
    pub put_id: PutId,
    /// Its length.
    pub bytes: u64,
    /// Hash of the whole object.
    pub hash: Hash,
    /// Whole, or cut into shards.
    pub layout: Layout,
    /// Id of the cipher that its blocks are under; 0 is none.
    pub cipher: u32,
    /// Which key; empty without a cipher.
    pub key_id: String,
}

/// How an object is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Layout {
    /// In one piece.
    Whole,
    /// As `k + m` equal shards, any `k` of which suffice.
    Shards {
        /// Data shards.
        k: u32,
        /// Parity shards.
        m: u32,
        /// Length of each.
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
    /// Its number of subtasks.
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
    /// `Usage` if one is not inline: it has to be fetched first.
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

/// A subtask's part of a manifest: inside it, or elsewhere so that a large manifest is not rewritten each second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubtaskEntry {
    /// The subtask manifest itself.
    Inline(SubtaskManifest),
    /// Where its encoding lies.
    Slice(ObjectSlice),
}

impl SubtaskEntry {
    /// Returns the subtask manifest, if it is inside.
    #[must_use]
    pub const fn inline(&self) -> Option<&SubtaskManifest> {
        match self {
            Self::Inline(subtask) => Some(subtask),
            Self::Slice(_) => None,
        }
    }

    /// Returns where the subtask manifest lies, if it is elsewhere.
    #[must_use]
    pub const fn slice(&self) -> Option<&ObjectSlice> {
        match self {
            Self::Inline(_) => None,
            Self::Slice(slice) => Some(slice),
        }
    }
}

/// Bytes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectSlice {
    /// The object.
    pub object: ObjectId,
    /// Where they start.
    pub offset: u64,
    /// How many.
    pub length: u64,
    /// Their hash.
    pub hash: Hash,
}

/// What a subtask acknowledges a barrier with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubtaskManifest {
    /// The subtask.
    pub subtask: Subtask,
    /// The key groups that it owns.
    pub groups: KeyGroupSet,
    /// Its watermark at the barrier.
    pub watermark: Timestamp,
    /// Its segments, oldest first for each group.
    pub segments: Vec<SegmentRef>,
    /// What travels beside keyed state.
    pub opaques: Vec<Opaque>,
    /// How far time had come for its groups, sorted by them; empty if it was written before that was recorded.
    pub times: Vec<GroupTimes>,
}

impl SubtaskManifest {
    /// Returns how far time had come for each of its groups.
    ///
    /// What was written before that was recorded has the watermark, which rows had expired by at least, and no processing
    /// time: then the clock of the next owner counts alone. The manifest's own time would not do: it may be of another
    /// clock, and a row that lives is not to be lost on a guess.
    #[must_use]
    pub fn group_times(&self) -> Vec<GroupTimes> {
        let least = |range: &KeyGroupRange| GroupTimes::new(*range, self.watermark, Timestamp::MIN);
        let least: Vec<_> = self.groups.ranges().iter().map(least).collect();
        later_times(&least, &self.times)
    }
}

impl SubtaskManifest {
    /// Returns the objects that its segments and opaques lie in.
    pub fn objects(&self) -> impl Iterator<Item = ObjectId> + '_ {
        let stored = self.opaques.iter().filter_map(Opaque::segment);
        self.segments.iter().chain(stored).map(|segment| segment.object)
    }
}

/// The embedder's bytes in a checkpoint: source positions, operator state, in-flight data, prepared sinks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opaque {
    /// What it is for.
    pub role: OpaqueRole,
    /// The embedder's name for it: one opaque per role, name and barrier of a subtask. What a sink prepared in epochs that were
    /// given up is listed beside the new, so a restored subtask may find several of one name, oldest first.
    pub name: String,
    /// How it is dealt out at another parallelism.
    pub redistribution: Redistribution,
    /// The channel it was in flight on.
    pub channel: Option<u32>,
    /// Where the items of a list start, for `Split` and `Union`.
    pub item_offsets: Vec<u64>,
    /// The bytes.
    pub content: OpaqueContent,
}

impl Opaque {
    /// Returns the `Foreign` segment that holds its bytes, if they are not inside.
    #[must_use]
    pub const fn segment(&self) -> Option<&SegmentRef> {
        match &self.content {
            OpaqueContent::Inline(_) => None,
            OpaqueContent::Stored(segment) => Some(segment),
        }
    }
}

/// What an opaque is for. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum OpaqueRole {
    /// A source's position.
    Source = 1,
    /// An operator's own state.
    Operator = 2,
    /// Records between operators.
    InFlight = 3,
    /// What a two-phase sink prepared.
    SinkPrepared = 4,
}

/// How an opaque is dealt out at another parallelism. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Redistribution {
    /// It stays with the subtask of the same index; subtask 0 if that is gone.
    None = 1,
    /// Its items are dealt out in turn; at the same parallelism they stay where they are.
    Split = 2,
    /// Every subtask gets all items.
    Union = 3,
    /// Every subtask gets the copy of subtask 0.
    Broadcast = 4,
    /// It follows its channel.
    ByChannel = 5,
}

/// Where an opaque's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpaqueContent {
    /// Here; at most [`INLINE_OPAQUE_BYTES`].
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
    /// What kind of state.
    pub kind: StateKind,
    /// Type of its keys.
    pub key: Schema,
    /// Type of its namespaces; `unit` without.
    pub namespace: Schema,
    /// Type of its sub-keys; `unit` without.
    pub sub: Schema,
    /// Type of its values.
    pub value: Schema,
    /// When its rows expire.
    pub ttl: Option<Ttl>,
    /// Name of its merge operator.
    pub merge_operator: Option<String>,
}

/// What kind of state a table is. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StateKind {
    /// One value per key and namespace.
    Value = 1,
    /// A list per key and namespace.
    List = 2,
    /// A map per key and namespace.
    Map = 3,
    /// A value that elements are reduced into.
    Reducing = 4,
    /// An accumulator that elements are added to.
    Aggregating = 5,
    /// Timers.
    Timers = 6,
}

/// A tagged addition to a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// Its name.
    pub tag: String,
    /// Whether a reader that does not know it must refuse the manifest.
    pub required: bool,
    /// Its content.
    pub bytes: Bytes,
}

/// What fences: a number that one attempt, and no other, has created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptMarker {
    /// The attempt.
    pub attempt: Attempt,
    /// The job that it belongs to.
    pub job: JobId,
    /// When it was written, by its writer's clock; for people only.
    pub created_at: Timestamp,
}

#[cfg(test)]
mod tests;
