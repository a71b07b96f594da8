//! Encoding: sorts and folds the rows of a sealed part, group by group, into segments.

use std::task::Poll;

use super::Encoded;
use super::run::spill;
use super::writer::{EncodeOptions, SegmentWriter};
use crate::error::{Result, broken};
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
    encoder.next_segment().map(|segment| segment.unwrap_or_else(|| broken("a part has a segment")))
}

/// Encodes a sealed part as several segments. Each ends with the group that fills it.
#[derive(Debug)]
pub struct Encoder {
    part: SealedPart,
    options: EncodeOptions,
    segment_bytes: u64,
    /// The groups of segments not returned yet; `None` once all are.
    left: Option<KeyGroupSet>,
    /// A segment that was begun, and the first group that it lacks.
    begun: Option<(SegmentWriter, KeyGroup)>,
    batch: RowBatch,
}

impl Encoder {
    /// Returns an encoder of `part` into segments of about `segment_bytes`, with at least one group each.
    #[must_use]
    pub fn new(part: SealedPart, options: EncodeOptions, segment_bytes: u64) -> Self {
        let left = Some(part.groups.clone());
        Self { part, options, segment_bytes, left, begun: None, batch: RowBatch::new() }
    }

    /// Returns the next segment; `None` after the last. Each covers groups above those of the previous one, and all
    /// together cover the groups of the part.
    ///
    /// # Errors
    /// As [`encode`]. Discard the encoder then.
    ///
    /// # Cost
    /// As [`encode`].
    pub fn next_segment(&mut self) -> Result<Option<Encoded>> {
        match self.poll_segment(|| false)? {
            Poll::Ready(segment) => Ok(segment),
            Poll::Pending => broken("an encoder pauses only when it is told to"),
        }
    }

    /// As [`Encoder::next_segment`], but pauses after the first group after which `is_time` returns true: then the result is
    /// `Pending`, and the next call continues.
    ///
    /// # Errors
    /// As [`encode`]. Discard the encoder then.
    pub fn poll_segment(&mut self, mut is_time: impl FnMut() -> bool) -> Result<Poll<Option<Encoded>>> {
        let Some(groups) = self.left.take() else { return Ok(Poll::Ready(None)) };
        let (mut writer, first) = match self.begun.take() {
            Some(begun) => begun,
            None => (SegmentWriter::new(self.part.kind, groups.clone(), self.options)?, KeyGroup(0)),
        };
        let left = KeyGroupRange::new(first.0, u16::MAX);
        let having = groups.intersection(self.part.rows.groups()).intersection(&left.into());
        let mut has_worked = false;
        for group in having.iter() {
            if writer.end_group()? >= self.segment_bytes.max(1) {
                let done = groups.intersection(&KeyGroupRange::new(0, group.0).into());
                self.left = Some(groups.difference(&done));
                return writer.finish_for(done).map(|segment| Poll::Ready(Some(segment)));
            }
            if has_worked && is_time() {
                (self.left, self.begun) = (Some(groups), Some((writer, group)));
                return Ok(Poll::Pending);
            }
            self.write(group, &mut writer)?;
            has_worked = true;
        }
        writer.finish().map(|segment| Poll::Ready(Some(segment)))
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
            self.batch.iter().try_for_each(|row| writer.push(group, &row))?;
        }
        Ok(())
    }
}
