//! Pending links: an aborted epoch's state waits in them for the next manifest. They are merged, so that memory holds
//! one compressed copy of each dirty row.

use super::link::{Link, LinkId, Stage};
use super::{Ids, SegmentChain};
use crate::error::Result;
use crate::id::Epoch;
use crate::memory::MemoryBudget;
use crate::row::SegmentKind;
use crate::segment::{EncodeOptions, Encoder};

/// A merge of a chain's pending links, done off the task's thread.
#[derive(Debug)]
pub struct Merging {
    epoch: Epoch,
    /// The links that the merged ones replace.
    replaced: Vec<LinkId>,
    links: Vec<Link>,
    ids: Ids,
    budget: MemoryBudget,
    segment_bytes: u64,
}

impl SegmentChain {
    /// Starts a merge of the pending links of epochs up to `epoch`, none of which can still be committed on its own.
    /// Quick: `Merging::encode` does the work, without the chain. Returns `None` if there is nothing to merge, a
    /// merge is in progress, or a later epoch is being placed.
    pub fn begin_merge(&mut self, epoch: Epoch) -> Option<Merging> {
        let pending = || self.links.iter().filter(|link| link.is_pending(epoch));
        let gains = pending().any(|link| matches!(link.stage, Stage::Sealed(_)));
        if self.merging || self.handed_out > epoch || !gains {
            return None;
        }
        let replaced = pending().map(|link| link.id).collect();
        let links = self.merged(epoch).unwrap_or_else(|| pending().cloned().collect());
        self.merging = true;
        let (budget, segment_bytes) = (self.budget.clone(), self.segment_bytes);
        Some(Merging { epoch, replaced, links, ids: self.ids.clone(), budget, segment_bytes })
    }

    /// Replaces the pending links with the merged ones, unless they changed meanwhile or are being placed for a later
    /// epoch. `None` ends a failed merge: the pending links stay unmerged.
    pub fn end_merge(&mut self, merged: Option<Merging>) {
        self.merging = false;
        let Some(Merging { epoch, replaced, links, .. }) = merged.filter(|merged| self.handed_out <= merged.epoch)
        else {
            return;
        };
        let pending = self.links.iter().filter(|link| link.is_pending(epoch)).map(|link| link.id);
        if pending.eq(replaced) {
            self.replace_pending(epoch, links);
        }
    }
}

impl Merging {
    /// Encodes those links that are not encoded yet.
    ///
    /// # Errors
    /// As [`Encoder::next_segment`].
    ///
    /// # Cost
    /// Encoding of all pending rows, and memory for the result.
    pub fn encode(mut self, options: EncodeOptions) -> Result<Self> {
        let mut links = Vec::new();
        for link in std::mem::take(&mut self.links) {
            if !matches!(link.stage, Stage::Sealed(_)) {
                links.push(link);
                continue;
            }
            let mut encoder = Encoder::new(link.sealed_part(), options, self.segment_bytes);
            while let Some(encoded) = encoder.next_segment(|| {})? {
                if encoded.records > 0 || link.kind == SegmentKind::Base {
                    links.push(link.encoded_as(self.ids.draw(), encoded, &self.budget));
                }
            }
        }
        Ok(Self { links, ..self })
    }
}
