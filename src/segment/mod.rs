//! Segments: immutable runs of state, one type per stage of their life.
//!
//! ```text
//! StateBackend --seal--> Sealed --encode--> Encoded --place--> SegmentRef
//! ```
//!
//! Invariants: equal entries give equal bytes; identity and put-ids never stand inside segment bytes; readers
//! treat every byte as hostile.

mod batch;
mod block_reader;
mod block_writer;
mod encode;
mod format;
mod index;
mod merge;
mod reader;
mod row;
mod rules;
mod run;
mod span;
mod times;
mod writer;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::codec::stored_enum;
use crate::error::Result;
use crate::id::{Epoch, Hash, ObjectId, Part, SegmentId};
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::time::Timestamp;

pub use batch::{Fold, RowBatch};
pub use encode::{Encoder, encode};
pub use format::{Codec, MAX_PART_BYTES, MAX_VALUE_BYTES};
pub(crate) use index::touching;
pub use index::{BlockEntry, SegmentIndex};
pub use merge::FoldedGroup;
pub(crate) use merge::{Merge, Step};
pub use reader::SegmentRows;
pub(crate) use reader::verified_blocks;
pub use row::{Columns, Op, Row, RowKey};
pub use rules::{Append, FIRST_VERSION, MergeOperator, Piece, Rules, TableRules, Ttl, Upgrade};
pub(crate) use rules::{Below, OwnedPiece, check_value_length};
pub use run::Run;
pub(crate) use run::Spare;
pub use times::{GroupTimes, Life};
pub(crate) use times::{narrowed as times_of, united as later_times};
pub use writer::{EncodeOptions, SegmentWriter};

/// What a segment holds. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum SegmentKind {
    /// All live rows of its key groups: older segments of these groups are not needed.
    Base = 1,
    /// What changed in its key groups since the segments before it.
    Delta = 2,
    /// Opaque content of another engine or of the embedder.
    Foreign = 3,
}

stored_enum!(SegmentKind { Base, Delta, Foreign });

/// The instant of a seal. Expiry at encode uses these times, never a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// The epoch that the seal belongs to.
    pub epoch: Epoch,
    /// The seal within the epoch, from 0.
    pub part: Part,
    /// The watermark.
    pub event_time: Timestamp,
    /// The wall clock's time.
    pub processing_time: Timestamp,
}

/// Rows that can be read again and again, group by group: a sealed part, a decoded segment, a stack of them.
pub trait RowSource: fmt::Debug + Send + Sync {
    /// Returns the groups that it may have rows for.
    fn groups(&self) -> &KeyGroupSet;

    /// Appends the rows of `group`, oldest first. A group without rows appends nothing.
    ///
    /// # Errors
    /// `Corrupt` or `Version` if the rows come from stored bytes that are damaged or too new.
    fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()>;

    /// Returns the bytes of memory that it keeps alive, shared or not.
    fn held_bytes(&self) -> u64;

    /// Returns about how many bytes the rows of `group` take in memory, if they stand in sorted runs. `None`, as by
    /// default: they are to be appended.
    fn sorted_bytes(&self, _group: KeyGroup) -> Option<u64> {
        None
    }

    /// Returns the rows of `group` as sorted runs, oldest first, where [`RowSource::sorted_bytes`] says that it has some.
    ///
    /// # Errors
    /// As [`RowSource::append_group`].
    fn runs(&self, _group: KeyGroup) -> Result<Vec<Run>> {
        Ok(Vec::new())
    }
}

/// Several sources as one: for each group the rows of the first, then of the second, and so on.
#[derive(Debug, Default)]
pub struct Stack {
    sources: Vec<Arc<dyn RowSource>>,
    groups: KeyGroupSet,
}

impl Stack {
    /// Returns the stack of `sources`, oldest first.
    #[must_use]
    pub fn new(sources: Vec<Arc<dyn RowSource>>) -> Self {
        let groups = KeyGroupSet::from_ranges(sources.iter().flat_map(|s| s.groups().ranges().iter().copied()));
        Self { sources, groups }
    }

    fn having(&self, group: KeyGroup) -> impl Iterator<Item = &Arc<dyn RowSource>> {
        self.sources.iter().filter(move |source| source.groups().contains(group))
    }
}

impl RowSource for Stack {
    fn groups(&self) -> &KeyGroupSet {
        &self.groups
    }

    fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        self.having(group).try_for_each(|source| source.append_group(group, batch))
    }

    fn held_bytes(&self) -> u64 {
        self.sources.iter().map(|source| source.held_bytes()).sum()
    }

    fn sorted_bytes(&self, group: KeyGroup) -> Option<u64> {
        self.having(group).try_fold(0u64, |bytes, source| Some(bytes.saturating_add(source.sorted_bytes(group)?)))
    }

    fn runs(&self, group: KeyGroup) -> Result<Vec<Run>> {
        let mut runs = Vec::new();
        for source in self.having(group) {
            runs.extend(source.runs(group)?);
        }
        Ok(runs)
    }
}

/// What one seal froze: a promise of bytes that owns what it needs, so that encoding runs on another thread
/// while the backend moves on. It is handed out once; its holder carries it until a committed manifest lists it.
#[derive(Debug)]
pub struct Sealed {
    /// When it was sealed.
    pub cut: Cut,
    /// At most one `Base` and one `Delta`, with disjoint groups. Empty if nothing changed.
    pub parts: Vec<SealedPart>,
    /// Distinct rows that changed since the seal before; not those that came and went.
    pub dirty_rows: u64,
    /// The groups that have such rows, ascending.
    pub heat: Vec<GroupHeat>,
    /// What the engine below the backend says of itself, as of some time before; sums over subtasks mean something. Empty
    /// if there is none.
    pub statistics: Arc<[Statistic]>,
}

/// A number that an engine knows of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statistic {
    /// Its name, with its unit at the end where it has one.
    pub name: String,
    /// Its value.
    pub value: u64,
}

/// How large and how busy a key group is, at a seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupHeat {
    /// The group.
    pub group: KeyGroup,
    /// Live rows; rows that have expired may count until they are cleaned.
    pub rows: u64,
    /// Bytes of live rows: keys, namespaces, sub-keys, values.
    pub live_bytes: u64,
    /// Distinct rows that changed since the seal before; not those that came and went.
    pub dirty_rows: u64,
    /// Reads of late: a count of which each seal takes an eighth.
    pub reads: u64,
    /// Writes of late, the same way.
    pub writes: u64,
}

/// The rows of a seal for some groups.
#[derive(Debug, Clone)]
pub struct SealedPart {
    /// `Base` or `Delta`.
    pub kind: SegmentKind,
    /// The groups that it speaks for. A `Base` speaks for a group even where the group has no rows.
    pub groups: KeyGroupSet,
    /// Its rows, unsorted and unfolded.
    pub rows: Arc<dyn RowSource>,
    /// What its rows mean, at the instant of the seal; of each group, [`Rules::of`] it.
    pub rules: Rules,
}

/// A segment's bytes, with what a [`SegmentRef`] needs beside their place.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// `Base` or `Delta`.
    pub kind: SegmentKind,
    /// The groups that it speaks for.
    pub groups: KeyGroupSet,
    /// The whole segment.
    pub bytes: Bytes,
    /// Where its index starts, from the segment's start.
    pub index_offset: u64,
    /// Length of its index.
    pub index_length: u32,
    /// Hash of its index, which holds the hash of each block.
    pub index_hash: Hash,
    /// Rows in it.
    pub records: u64,
    /// Bytes of its rows before compression.
    pub raw_bytes: u64,
}

impl Encoded {
    /// Returns the `Foreign` segment with this content.
    #[must_use]
    pub fn foreign(groups: KeyGroupSet, bytes: Bytes) -> Self {
        let length = bytes.len() as u64;
        Self {
            kind: SegmentKind::Foreign,
            groups,
            index_offset: length,
            index_length: 0,
            index_hash: Hash::of(&bytes),
            records: 0,
            raw_bytes: length,
            bytes,
        }
    }

    /// Returns the reference to this segment as it lies at `offset` in `object`, all its groups in use.
    #[must_use]
    pub fn at(&self, id: SegmentId, first_epoch: Epoch, object: ObjectId, offset: u64) -> SegmentRef {
        SegmentRef {
            id,
            kind: self.kind,
            first_epoch,
            groups: self.groups.clone(),
            object,
            offset,
            length: self.bytes.len() as u64,
            index_offset: self.index_offset,
            index_length: self.index_length,
            index_hash: self.index_hash,
            records: self.records,
            raw_bytes: self.raw_bytes,
        }
    }
}

/// A segment's identity, extent and place: what manifests list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentRef {
    /// Who sealed it, and when in the stream.
    pub id: SegmentId,
    /// What it holds.
    pub kind: SegmentKind,
    /// The first epoch it covers; the last is the id's.
    pub first_epoch: Epoch,
    /// The groups for which this manifest still needs it; the segment may hold more.
    pub groups: KeyGroupSet,
    /// The object it lies in.
    pub object: ObjectId,
    /// Where it starts in the object.
    pub offset: u64,
    /// Its length.
    pub length: u64,
    /// Where its index starts, from the segment's start; equal to `length` if it has none.
    pub index_offset: u64,
    /// Length of its index; 0 for a `Foreign` segment.
    pub index_length: u32,
    /// Hash of its index, or of the whole content for a `Foreign` segment.
    pub index_hash: Hash,
    /// Rows in it.
    pub records: u64,
    /// Bytes of its rows before compression.
    pub raw_bytes: u64,
}

/// Adds up sizes and counts, of which damaged metadata may tell any.
pub(crate) fn sum(numbers: impl IntoIterator<Item = u64>) -> u64 {
    numbers.into_iter().fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests;
