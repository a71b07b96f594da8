//! Segments: immutable runs of state, one type per stage of their life.
//!
//! ```text
//! StateBackend --seal--> Sealed --encode--> Encoded --place--> SegmentRef
//! ```
//!
//! Invariants: equal entries give equal bytes; identity and put-ids never stand inside segment bytes; readers
//! treat every byte as hostile.

mod block_reader;
mod block_writer;
mod encode;
mod format;
mod index;
mod reader;
mod run;
mod writer;

use bytes::Bytes;

use crate::id::{Epoch, Hash, ObjectId, SegmentId};
use crate::key_group::KeyGroupSet;
use crate::row::SegmentKind;

pub use encode::{Encoder, encode};
pub use format::Codec;
pub(crate) use index::touching;
pub use index::{BlockEntry, SegmentIndex};
pub use reader::SegmentRows;
pub(crate) use reader::verified_blocks;
pub(crate) use run::SegmentRun;
pub use writer::{EncodeOptions, SegmentWriter};

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
