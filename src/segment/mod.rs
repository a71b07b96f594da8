//! Segments: immutable runs of rows as bytes, with one type per stage.
//!
//! ```text
//! StateBackend --seal--> Sealed --encode--> Encoded --place--> SegmentRef
//! ```
//!
//! Invariants: equal rows give equal bytes; segment bytes never contain identities or put-ids; readers treat every byte
//! as hostile.

mod block_reader;
mod block_writer;
mod check;
mod earliest;
mod encode;
mod format;
mod index;
mod places;
mod reader;
mod run;
mod writer;

use bytes::Bytes;

use crate::id::{Epoch, Hash, ObjectId, SegmentId};
use crate::key_group::KeyGroupSet;
use crate::row::SegmentKind;

pub(crate) use check::SectionCheck;
#[cfg(any(test, feature = "internals"))]
pub use earliest::EarliestTimer;
pub use encode::Encoder;
#[cfg(any(test, feature = "internals"))]
pub use encode::encode;
pub use format::Compression;
pub(crate) use index::touching;
pub use index::{BlockEntry, SegmentIndex};
pub use reader::SegmentRows;
pub(crate) use reader::verified_blocks;
pub(crate) use run::SegmentRun;
pub use writer::EncodeOptions;
#[cfg(any(test, feature = "internals"))]
pub use writer::SegmentWriter;

/// A segment's bytes with the fields of a [`SegmentRef`], except its position in an object.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// `Base` or `Delta`.
    pub kind: SegmentKind,
    /// The groups covered.
    pub groups: KeyGroupSet,
    /// The whole segment.
    pub bytes: Bytes,
    /// Start of the index, from the segment's start.
    pub index_offset: u64,
    /// Length of the index.
    pub index_length: u32,
    /// Hash of the index, which has the hash of each block.
    pub index_hash: Hash,
    /// Number of rows.
    pub records: u64,
    /// Bytes of the rows before compression.
    pub raw_bytes: u64,
}

impl Encoded {
    /// Returns a `Foreign` segment with this content.
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

    /// Returns the reference to this segment at `offset` in `object`, with all its groups.
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

/// A segment's identity, extent and position, as listed in manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentRef {
    /// Identity: the seal that made it.
    pub id: SegmentId,
    /// Kind of the content.
    pub kind: SegmentKind,
    /// The first epoch covered; the last is in the id.
    pub first_epoch: Epoch,
    /// The groups that this manifest still needs; the segment may have more.
    pub groups: KeyGroupSet,
    /// The object with its bytes.
    pub object: ObjectId,
    /// Start in the object.
    pub offset: u64,
    /// Length.
    pub length: u64,
    /// Start of the index, from the segment's start; equal to `length` without one.
    pub index_offset: u64,
    /// Length of the index; 0 for a `Foreign` segment.
    pub index_length: u32,
    /// Hash of the index, or of the whole content for a `Foreign` segment.
    pub index_hash: Hash,
    /// Number of rows.
    pub records: u64,
    /// Bytes of the rows before compression.
    pub raw_bytes: u64,
}

/// Adds up sizes and counts. Saturates: damaged metadata may have any numbers.
pub(crate) fn sum(numbers: impl IntoIterator<Item = u64>) -> u64 {
    numbers.into_iter().fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests;
