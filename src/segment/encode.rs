//! Encoding: sorts and folds the rows of a sealed part, group by group, into segments.

use super::Encoded;
use super::run::spill;
use super::writer::{EncodeOptions, SegmentWriter};
use crate::error::Result;
use crate::key_group::{KeyGroup, KeyGroupRange, KeyGroupSet};
use crate::row::{Fold, FoldedGroup, RowBatch, SealedPart};

/// Returns a sealed part as one segment. Equal rows give equal bytes, regardless of write order.
///
/// # Errors
/// `Usage` for a `Foreign` part; `Limit` if a row is too large; the errors of the part's source and rules.
///
/// # Cost
/// Memory for the rows of one group beside the segment; at most a few hundred MiB of the rows are uncompressed.
#[cfg(any(test, feature = "internals"))]
pub fn encode(part: &SealedPart, options: EncodeOptions) -> Result<Encoded> {
    let mut encoder = Encoder::new(part.clone(), options, u64::MAX);
    encoder.next_segment(|| {}).map(|segment| segment.unwrap_or_else(|| crate::error::broken("a part has a segment")))
}

/// Encodes a sealed part as several segments. Each ends with the group that fills it.
#[derive(Debug)]
pub struct Encoder {
    part: SealedPart,
    options: EncodeOptions,
    segment_bytes: u64,
    /// The groups of segments not returned yet; `None` once all are.
    left: Option<KeyGroupSet>,
    batch: RowBatch,
}

impl Encoder {
    /// Returns an encoder of `part` into segments of about `segment_bytes`, with at least one group each.
    #[must_use]
    pub fn new(part: SealedPart, options: EncodeOptions, segment_bytes: u64) -> Self {
        let left = Some(part.groups.clone());
        Self { part, options, segment_bytes, left, batch: RowBatch::new() }
    }

    /// Returns the next segment; `None` after the last. Each covers groups above those of the previous one, and all
    /// together cover the groups of the part.
    ///
    /// * `between_groups`: called before each group of the segment but the first.
    ///
    /// # Errors
    /// As [`encode`]. Discard the encoder then.
    ///
    /// # Cost
    /// As [`encode`].
    pub fn next_segment(&mut self, mut between_groups: impl FnMut()) -> Result<Option<Encoded>> {
        let Some(groups) = self.left.take() else { return Ok(None) };
        let mut writer = SegmentWriter::new(self.part.kind, groups.clone(), self.options)?;
        let timers = self.part.rules.timer_tables();
        if !timers.is_empty() {
            writer = writer.with_timers(timers);
        }
        let having = groups.intersection(self.part.rows.groups());
        for (at, group) in having.iter().enumerate() {
            if writer.end_group()? >= self.segment_bytes.max(1) {
                let done = groups.intersection(&KeyGroupRange::new(0, group.0).into());
                self.left = Some(groups.difference(&done));
                return writer.finish_for(done).map(Some);
            }
            if at > 0 {
                between_groups();
            }
            self.write(group, &mut writer)?;
        }
        writer.finish().map(Some)
    }

    /// Returns whether the last segment was returned.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.left.is_none()
    }

    fn write(&mut self, group: KeyGroup, writer: &mut SegmentWriter) -> Result<()> {
        let SealedPart { kind, rows, rules, .. } = &self.part;
        let mut folded = FoldedGroup::new(&**rows, group, Fold::of(*kind), rules).spilling(spill);
        while folded.next_batch(&mut self.batch)? {
            writer.push_all(group, &self.batch)?;
        }
        Ok(())
    }
}
