//! Row sources: rows that can be read again and again.

use std::fmt;
use std::sync::Arc;

use super::batch::RowBatch;
use super::run::Run;
use crate::error::Result;
use crate::key_group::{KeyGroup, KeyGroupSet};

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
