//! Row sources: rows that can be read repeatedly, group by group.

use std::fmt;
use std::sync::Arc;

use super::batch::RowBatch;
use super::run::Run;
use super::span::RowSpans;
use crate::error::Result;
use crate::key_group::{KeyGroup, KeyGroupSet};

/// Rows that can be read repeatedly, group by group: a sealed part, a segment, or a stack of sources.
pub trait RowSource: fmt::Debug + Send + Sync {
    /// Returns the groups that may have rows.
    fn groups(&self) -> &KeyGroupSet;

    /// Appends the rows of `group`, oldest first. A group without rows appends nothing.
    ///
    /// # Errors
    /// `Corrupt` or `Version` if the stored bytes of the rows are damaged or too new.
    fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()>;

    /// Returns the bytes of memory kept alive by this source, shared or not.
    fn held_bytes(&self) -> u64;

    /// Returns about how many bytes the rows of `group` take in memory; 0, the default, if that is unknown.
    fn group_bytes(&self, _group: KeyGroup) -> u64 {
        0
    }

    /// Returns about how many bytes the rows of `group` take in memory if [`RowSource::runs`] has them as sorted runs.
    /// `None`, the default, if only [`RowSource::append_group`] has them.
    fn sorted_bytes(&self, _group: KeyGroup) -> Option<u64> {
        None
    }

    /// Returns the rows of `group` as sorted runs, oldest first, where [`RowSource::sorted_bytes`] is not `None`.
    ///
    /// # Errors
    /// As [`RowSource::append_group`].
    fn runs(&self, _group: KeyGroup) -> Result<Vec<Run>> {
        Ok(Vec::new())
    }

    /// Returns the rows of `group` as runs that can be visited, oldest first. `None`, the default, if only
    /// [`RowSource::append_group`] has them.
    ///
    /// # Errors
    /// As [`RowSource::append_group`].
    fn sorted_rows(&self, _group: KeyGroup) -> Result<Option<Vec<SortedRows<'_>>>> {
        Ok(None)
    }
}

/// The rows of a key group in the order of their places, decoded block by block as they are visited.
#[derive(Debug, Clone, Copy)]
pub struct SortedRows<'a> {
    pub(crate) blocks: &'a dyn SortedBlocks,
    pub(crate) group: KeyGroup,
    /// About how many rows there are.
    pub(crate) rows: usize,
    /// About how many bytes they take in memory.
    pub(crate) bytes: usize,
}

impl SortedRows<'_> {
    /// Passes the rows to `visit`, block by block, until it returns false. Returns whether all rows were visited.
    ///
    /// # Errors
    /// `Corrupt` or `Version` for a bad block; the errors of `visit`.
    pub(crate) fn visit(&self, visit: &mut dyn FnMut(RowSpans<'_>) -> Result<bool>) -> Result<bool> {
        self.blocks.visit(self.group, visit)
    }
}

/// A source of sorted rows that are decoded block by block.
pub(crate) trait SortedBlocks: fmt::Debug + Sync {
    /// As [`SortedRows::visit`].
    fn visit(&self, group: KeyGroup, visit: &mut dyn FnMut(RowSpans<'_>) -> Result<bool>) -> Result<bool>;
}

/// Several sources as one: each group's rows from the first source, then from the second, and so on.
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

    fn sources_of(&self, group: KeyGroup) -> impl Iterator<Item = &Arc<dyn RowSource>> {
        self.sources.iter().filter(move |source| source.groups().contains(group))
    }
}

impl RowSource for Stack {
    fn groups(&self) -> &KeyGroupSet {
        &self.groups
    }

    fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        self.sources_of(group).try_for_each(|source| source.append_group(group, batch))
    }

    fn held_bytes(&self) -> u64 {
        self.sources.iter().map(|source| source.held_bytes()).sum()
    }

    fn group_bytes(&self, group: KeyGroup) -> u64 {
        self.sources_of(group).map(|source| source.group_bytes(group)).sum()
    }

    fn sorted_bytes(&self, group: KeyGroup) -> Option<u64> {
        self.sources_of(group).try_fold(0u64, |bytes, source| Some(bytes.saturating_add(source.sorted_bytes(group)?)))
    }

    fn runs(&self, group: KeyGroup) -> Result<Vec<Run>> {
        let mut runs = Vec::new();
        for source in self.sources_of(group) {
            runs.extend(source.runs(group)?);
        }
        Ok(runs)
    }

    fn sorted_rows(&self, group: KeyGroup) -> Result<Option<Vec<SortedRows<'_>>>> {
        let mut sorted = Vec::new();
        for source in self.sources_of(group) {
            let Some(of_source) = source.sorted_rows(group)? else { return Ok(None) };
            sorted.extend(of_source);
        }
        Ok(Some(sorted))
    }
}

/// A source restricted to some of its groups.
#[derive(Debug)]
pub(crate) struct Narrowed {
    pub(crate) groups: KeyGroupSet,
    pub(crate) rows: Arc<dyn RowSource>,
}

impl RowSource for Narrowed {
    fn groups(&self) -> &KeyGroupSet {
        &self.groups
    }

    fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        if self.groups.contains(group) { self.rows.append_group(group, batch) } else { Ok(()) }
    }

    fn held_bytes(&self) -> u64 {
        self.rows.held_bytes()
    }

    fn group_bytes(&self, group: KeyGroup) -> u64 {
        if self.groups.contains(group) { self.rows.group_bytes(group) } else { 0 }
    }

    fn sorted_bytes(&self, group: KeyGroup) -> Option<u64> {
        if self.groups.contains(group) { self.rows.sorted_bytes(group) } else { Some(0) }
    }

    fn runs(&self, group: KeyGroup) -> Result<Vec<Run>> {
        if self.groups.contains(group) { self.rows.runs(group) } else { Ok(Vec::new()) }
    }

    fn sorted_rows(&self, group: KeyGroup) -> Result<Option<Vec<SortedRows<'_>>>> {
        if self.groups.contains(group) { self.rows.sorted_rows(group) } else { Ok(Some(Vec::new())) }
    }
}
