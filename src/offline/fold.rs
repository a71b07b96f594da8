//! The live rows of a checkpoint, group by group.
//!
//! Invariants: groups come in ascending order, each once; at a time the stored blocks of one subtask and the rows
//! of one group are in memory.

use crate::checkpoint::restore;
use crate::error::Result;
use crate::key_group::{KeyGroup, KeyGroupRange, KeyGroupSet};
use crate::manifest::OperatorManifest;
use crate::segment::{Fold, RowBatch, RowSource, Rules, SegmentRef};
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

/// Fills `batch` with the live rows of `group`, in the order of their places.
///
/// # Errors
/// `Corrupt` or `Version` from the stored rows.
pub(super) fn fold_group(rows: &dyn RowSource, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
    batch.clear();
    rows.append_group(group, batch)?;
    batch.fold(Fold::Base, &Rules::none())
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
    let mut batch = RowBatch::new();
    for piece in pieces(operator)? {
        let wanted = KeyGroupSet::from(piece.range).intersection(groups);
        let rows = restore::fetch(store, &narrowed(&piece.segments, &wanted)).await?;
        for group in wanted.iter() {
            fold_group(&*rows, group, &mut batch)?;
            visit(group, &batch)?;
        }
    }
    Ok(())
}
