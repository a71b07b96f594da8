//! Sealed parts folded in memory, for tests of backends: the rows that a segment would hold.

use std::collections::BTreeMap;

use super::batch::RowBatch;
use super::fold::Fold;
use super::merge::FoldedGroup;
use super::sealed::SealedPart;
use super::source::RowSource;
use crate::error::Result;
use crate::key_group::{KeyGroup, KeyGroupSet};

impl SealedPart {
    /// Folds the part's rows.
    ///
    /// # Errors
    /// The errors of the source and of the rules.
    pub(crate) fn folded(&self) -> Result<FoldedRows> {
        let (mut rows, mut batch) = (BTreeMap::<_, RowBatch>::new(), RowBatch::new());
        for group in self.groups.intersection(self.rows.groups()).iter() {
            let mut folded = FoldedGroup::new(&*self.rows, group, Fold::of(self.kind), &self.rules);
            while folded.next_batch(&mut batch)? {
                let of_group = rows.entry(group).or_default();
                batch.iter().try_for_each(|row| of_group.push(&row))?;
            }
        }
        Ok(FoldedRows { groups: self.groups.clone(), rows })
    }
}

/// The folded rows of a sealed part.
#[derive(Debug)]
pub(crate) struct FoldedRows {
    groups: KeyGroupSet,
    rows: BTreeMap<KeyGroup, RowBatch>,
}

impl RowSource for FoldedRows {
    fn groups(&self) -> &KeyGroupSet {
        &self.groups
    }

    fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        self.rows.get(&group).into_iter().flat_map(RowBatch::iter).try_for_each(|row| batch.push(&row))
    }

    fn held_bytes(&self) -> u64 {
        self.rows.values().map(RowBatch::held_bytes).sum()
    }
}
