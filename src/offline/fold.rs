//! The live rows of a checkpoint, group by group.
//!
//! Invariants: groups come in ascending order, each once; at a time the stored blocks of one subtask and the rows
//! of one group are in memory.

use std::sync::Arc;

use crate::checkpoint::restore;
use crate::error::Result;
use crate::key_group::{KeyGroup, KeyGroupRange, KeyGroupSet};
use crate::manifest::{OperatorManifest, StateKind};
use crate::segment::{Append, Fold, GroupTimes, MergeOperator, RowBatch, RowSource, Rules, SegmentRef, TableRules};
use crate::store::Store;

/// Key groups of one subtask with the segments that hold their rows, oldest first.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) range: KeyGroupRange,
    pub(super) segments: Vec<SegmentRef>,
}

/// Returns the pieces of `operator`, ascending.
///
/// # Errors
/// `Usage` if a subtask manifest is not inline.
pub(super) fn pieces(operator: &OperatorManifest) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    for subtask in operator.inline_subtasks()? {
        let piece = |&range: &KeyGroupRange| Piece { range, segments: narrowed(&subtask.segments, &range.into()) };
        pieces.extend(subtask.groups.ranges().iter().map(piece));
    }
    pieces.sort_by_key(|piece: &Piece| piece.range);
    Ok(pieces)
}

/// Returns the segments that are needed for `groups`, each for its part of them.
pub(super) fn narrowed(segments: &[SegmentRef], groups: &KeyGroupSet) -> Vec<SegmentRef> {
    let narrow = |segment: &SegmentRef| {
        let groups = segment.groups.intersection(groups);
        (!groups.is_empty()).then(|| SegmentRef { groups, ..segment.clone() })
    };
    segments.iter().filter_map(narrow).collect()
}

/// What is known of an operator's rows without its code: how lists grow and when rows expire.
#[derive(Debug, Default)]
pub(super) struct Folding {
    rules: Rules,
    /// Makes one row of the elements of a list that live on, whatever their lives.
    joining: Rules,
}

impl Folding {
    /// Returns what the operator's tables tell. With `times`, what has expired is no row.
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

    /// As of the checkpoint: the times are those that a restore goes on from.
    pub(super) fn at(operator: &OperatorManifest) -> Result<Self> {
        let mut times: Vec<_> = operator.inline_subtasks()?.iter().flat_map(|subtask| subtask.group_times()).collect();
        times.sort_by_key(|times| times.groups);
        Ok(Self::new(operator, Some(&times)))
    }

    /// Fills `batch` with the live rows of `group`, in the order of their places.
    ///
    /// # Errors
    /// `Corrupt` or `Version` from the stored rows.
    pub(super) fn fold_group(&self, rows: &dyn RowSource, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        batch.clear();
        rows.append_group(group, batch)?;
        batch.fold(Fold::Base, self.rules.of(group))?;
        batch.fold(Fold::Base, &self.joining)
    }
}

/// Calls `visit` with each group of `operator` that is in `groups`, and its live rows.
///
/// # Errors
/// `Corrupt`, `Version` or `Unavailable` from the store, and what `visit` returns.
pub(super) async fn visit(
    store: &Store,
    operator: &OperatorManifest,
    groups: &KeyGroupSet,
    mut visit: impl FnMut(KeyGroup, &RowBatch) -> Result<()>,
) -> Result<()> {
    let folding = Folding::at(operator)?;
    let mut batch = RowBatch::new();
    for piece in pieces(operator)? {
        let wanted = KeyGroupSet::from(piece.range).intersection(groups);
        let rows = restore::fetch(store, &narrowed(&piece.segments, &wanted)).await?;
        for group in wanted.iter() {
            folding.fold_group(&*rows, group, &mut batch)?;
            visit(group, &batch)?;
        }
    }
    Ok(())
}
