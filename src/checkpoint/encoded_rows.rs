//! Rows of links that are not placed yet, as sources of a merge.

use std::sync::{Arc, OnceLock};

use crate::error::Result;
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::memory::{Charge, MemoryBudget};
use crate::row::{Narrowed, RowBatch, RowSource, Run, SortedRows, Stack};
use crate::segment::{Encoded, SegmentRows};

/// A segment that is not placed yet, charged to a budget. It is opened on the first read: opening hashes every byte.
#[derive(Debug)]
pub(super) struct EncodedRows {
    encoded: Encoded,
    rows: OnceLock<SegmentRows>,
    #[expect(dead_code, reason = "held for its drop")]
    charge: Charge,
}

impl EncodedRows {
    pub(super) fn new(encoded: Encoded, budget: &MemoryBudget) -> Self {
        let charge = budget.charge(encoded.bytes.len() as u64);
        Self { encoded, rows: OnceLock::new(), charge }
    }

    pub(super) fn encoded(&self) -> &Encoded {
        &self.encoded
    }

    fn rows(&self) -> Result<&SegmentRows> {
        if let Some(rows) = self.rows.get() {
            return Ok(rows);
        }
        let opened = SegmentRows::open(self.encoded.bytes.clone(), &self.encoded.index_hash)?;
        Ok(self.rows.get_or_init(|| opened))
    }
}

impl RowSource for EncodedRows {
    fn groups(&self) -> &KeyGroupSet {
        &self.encoded.groups
    }

    fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        self.rows()?.append_group(group, batch)
    }

    fn held_bytes(&self) -> u64 {
        self.encoded.bytes.len() as u64
    }

    fn group_bytes(&self, _group: KeyGroup) -> u64 {
        self.encoded.raw_bytes / (self.encoded.groups.len().max(1) as u64)
    }

    fn sorted_bytes(&self, group: KeyGroup) -> Option<u64> {
        self.rows().ok()?.sorted_bytes(group)
    }

    fn runs(&self, group: KeyGroup) -> Result<Vec<Run>> {
        self.rows()?.runs(group)
    }

    fn sorted_rows(&self, group: KeyGroup) -> Result<Option<Vec<SortedRows<'_>>>> {
        self.rows()?.sorted_rows(group)
    }
}

/// Returns `sources` as one, each narrowed to its groups and to `groups`.
pub(super) fn restricted(sources: &[(KeyGroupSet, Arc<dyn RowSource>)], groups: &KeyGroupSet) -> Arc<dyn RowSource> {
    let narrow = |(of, rows): &(KeyGroupSet, Arc<dyn RowSource>)| -> Arc<dyn RowSource> {
        Arc::new(Narrowed { groups: of.intersection(groups), rows: Arc::clone(rows) })
    };
    Arc::new(Stack::new(sources.iter().map(narrow).collect()))
}
