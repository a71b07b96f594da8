//! The live rows of a checkpoint, group by group.
//!
//! Invariants: groups ascend, each in one or more batches of ascending rows; memory holds the stored blocks of a few
//! groups and one batch.

use std::sync::Arc;

use crate::checkpoint::restore::SegmentReader;
use crate::error::Result;
use crate::key_group::{KeyGroup, KeyGroupRange, KeyGroupSet};
use crate::manifest::{OperatorManifest, StateKind};
use crate::place::Store;
use crate::row::{Append, Fold, FoldedGroup, GroupTimes, MergeOperator, RowBatch, RowSource, Rules, TableRules};
use crate::segment::SegmentRef;

/// Bytes of stored blocks read at a time, or one group if that is larger.
pub(super) const PART_BYTES: u64 = 64 << 20;

/// Key groups of one subtask with the segments that hold their rows, oldest first.
#[derive(Debug, Clone)]
pub(super) struct RangeSegments {
    pub(super) range: KeyGroupRange,
    pub(super) segments: Vec<SegmentRef>,
}

/// Returns the ranges of `operator` with their segments, ascending.
///
/// # Errors
/// `Usage` if a subtask manifest is not inline.
pub(super) fn range_segments(operator: &OperatorManifest) -> Result<Vec<RangeSegments>> {
    let mut ranges = Vec::new();
    for subtask in operator.inline_subtasks()? {
        let with_segments =
            |&range: &KeyGroupRange| RangeSegments { range, segments: narrowed(&subtask.segments, &range.into()) };
        ranges.extend(subtask.groups.ranges().iter().map(with_segments));
    }
    ranges.sort_by_key(|owned: &RangeSegments| owned.range);
    Ok(ranges)
}

/// Returns the segments that hold `groups`, each narrowed to its part of them.
pub(super) fn narrowed(segments: &[SegmentRef], groups: &KeyGroupSet) -> Vec<SegmentRef> {
    let narrow = |segment: &SegmentRef| {
        let groups = segment.groups.intersection(groups);
        (!groups.is_empty()).then(|| SegmentRef { groups, ..segment.clone() })
    };
    segments.iter().filter_map(narrow).collect()
}

/// The rules for folding an operator's rows without its code: how lists grow and when rows expire.
#[derive(Debug, Default)]
pub(super) struct Folding {
    rules: Rules,
    /// Rules that join a list's live elements into one row, whatever their expiry.
    joining: Rules,
}

impl Folding {
    /// Returns the rules from the operator's tables. With `times`, expired rows are skipped.
    pub(super) fn new(operator: &OperatorManifest, times: Option<&[GroupTimes]>) -> Self {
        let (mut rules, mut joining) = (Rules::none(), Rules::none());
        for table in &operator.tables {
            let append = || -> Arc<dyn MergeOperator> { Arc::new(Append) };
            let merge = (table.kind == StateKind::List).then(append);
            let joined = TableRules { version: table.value.version, merge, ..TableRules::default() };
            rules.define(table.id, TableRules { ttl: table.ttl.filter(|_| times.is_some()), ..joined.clone() });
            joining.define(table.id, joined);
        }
        times.into_iter().for_each(|times| rules.resume(times));
        Self { rules, joining }
    }

    /// Returns the rules as of the checkpoint, with the times that a restore starts from.
    pub(super) fn at(operator: &OperatorManifest) -> Result<Self> {
        let mut times: Vec<_> = operator.inline_subtasks()?.iter().flat_map(|subtask| subtask.group_times()).collect();
        times.sort_by_key(|times| times.groups);
        Ok(Self::new(operator, Some(&times)))
    }

    /// Returns the live rows of `group`.
    pub(super) fn rows<'a>(&'a self, rows: &'a dyn RowSource, group: KeyGroup) -> LiveRows<'a> {
        LiveRows { folded: FoldedGroup::new(rows, group, Fold::Base, &self.rules), joining: &self.joining }
    }
}

/// The live rows of a group, ordered by place.
#[derive(Debug)]
pub(super) struct LiveRows<'a> {
    folded: FoldedGroup<'a>,
    joining: &'a Rules,
}

impl LiveRows<'_> {
    /// Fills `batch` with the next rows. Returns false, with an empty batch, if there are no more.
    ///
    /// # Errors
    /// `Corrupt` or `Version` from the stored rows.
    pub(super) fn next_batch(&mut self, batch: &mut RowBatch) -> Result<bool> {
        let more = self.folded.next_batch(batch)?;
        batch.fold(Fold::Base, self.joining)?;
        Ok(more)
    }
}

/// Calls `visit` with each group of `operator` within `groups` and a batch of its live rows; several times for a group
/// with many rows.
///
/// # Errors
/// `Corrupt`, `Version` or `Unavailable` from the store; any error of `visit`.
pub(super) async fn visit(
    store: &Store,
    operator: &OperatorManifest,
    groups: &KeyGroupSet,
    mut visit: impl FnMut(KeyGroup, &RowBatch) -> Result<()>,
) -> Result<()> {
    let folding = Folding::at(operator)?;
    let mut batch = RowBatch::new();
    for owned in range_segments(operator)? {
        let wanted = KeyGroupSet::from(owned.range).intersection(groups);
        let reader = SegmentReader::open(store, &narrowed(&owned.segments, &wanted)).await?;
        for part in reader.parts(&wanted, PART_BYTES) {
            let rows = reader.fetch(&part).await?;
            for group in part.iter() {
                let mut live = folding.rows(&*rows, group);
                while live.next_batch(&mut batch)? {
                    visit(group, &batch)?;
                }
            }
        }
    }
    Ok(())
}
