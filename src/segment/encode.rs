//! Encoding: a sealed part's rows, sorted and folded group by group, as segments.

use super::Encoded;
use super::run::spill;
use super::writer::{EncodeOptions, SegmentWriter};
use crate::error::Result;
use crate::key_group::{KeyGroup, KeyGroupRange, KeyGroupSet};
use crate::row::{Fold, FoldedGroup, RowBatch, SealedPart};

/// Returns the segment of a sealed part. Equal rows give equal bytes, in whatever order they were written.
///
/// # Errors
/// `Usage` for a `Foreign` part; `Limit` if a row is too large; whatever the rows' source and rules return.
///
/// # Cost
/// Memory for the rows of one group, of which a few hundred MiB stand uncompressed, beside the segment.
pub fn encode(part: &SealedPart, options: EncodeOptions) -> Result<Encoded> {
    let groups = part.groups.clone();
    Encoder::new(part.clone(), options, u64::MAX).encode(groups)
}

/// Makes segments of a sealed part, one after the other: each ends with the group that brings it to its length.
#[derive(Debug)]
pub struct Encoder {
    part: SealedPart,
    options: EncodeOptions,
    segment_bytes: u64,
    /// The groups that no segment speaks for yet; `None` once all have one.
    left: Option<KeyGroupSet>,
    batch: RowBatch,
}

impl Encoder {
    /// Returns an encoder of `part` in segments of about `segment_bytes`, of one group at least.
    #[must_use]
    pub fn new(part: SealedPart, options: EncodeOptions, segment_bytes: u64) -> Self {
        let left = Some(part.groups.clone());
        Self { part, options, segment_bytes, left, batch: RowBatch::new() }
    }

    /// Returns the next segment; `None` after the last. Each speaks for groups above those of the one before, and all
    /// of them for the groups of the part.
    ///
    /// # Errors
    /// As [`encode`]. The encoder is of no use then.
    ///
    /// # Cost
    /// As [`encode`].
    pub fn next_segment(&mut self) -> Result<Option<Encoded>> {
        self.left.take().map(|groups| self.encode(groups)).transpose()
    }

    /// Returns whether the last segment was returned.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.left.is_none()
    }

    /// Encodes `groups`, or the first of them, and keeps the others for later.
    fn encode(&mut self, groups: KeyGroupSet) -> Result<Encoded> {
        let mut writer = SegmentWriter::new(self.part.kind, groups.clone(), self.options)?;
        let having = groups.intersection(self.part.rows.groups());
        for group in having.iter() {
            if writer.end_group()? >= self.segment_bytes.max(1) {
                let done = groups.intersection(&KeyGroupRange::new(0, group.0).into());
                self.left = Some(groups.difference(&done));
                return writer.finish_for(done);
            }
            self.write(group, &mut writer)?;
        }
        writer.finish()
    }

    fn write(&mut self, group: KeyGroup, writer: &mut SegmentWriter) -> Result<()> {
        let SealedPart { kind, rows, rules, .. } = &self.part;
        let mut folded = FoldedGroup::new(&**rows, group, Fold::of(*kind), rules).spilling(spill);
        while folded.next_batch(&mut self.batch)? {
            self.batch.iter().try_for_each(|row| writer.push(group, &row))?;
        }
        Ok(())
    }
}
