//! The reads of a restore at another parallelism.

use std::collections::BTreeMap;
use std::ops::Range;

use super::inspect::length;
use super::list::slices;
use crate::checkpoint::reading::under;
use crate::checkpoint::restore;
use crate::error::Result;
use crate::id::{ObjectId, OperatorId, Subtask};
use crate::key_group::KeyGroupSet;
use crate::manifest::rescale::OperatorPlan;
use crate::manifest::{Manifest, OperatorManifest};
use crate::place::Store;
use crate::row::SegmentKind;
use crate::segment::sum;

/// What a restore at a given parallelism reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadPlan {
    /// One entry per operator and subtask.
    pub subtasks: Vec<SubtaskReads>,
    /// Bytes that all subtasks read.
    pub bytes: u64,
    /// Bytes of all listed segments, each counted once: the cost of reading everything once.
    pub ideal_bytes: u64,
}

/// What one subtask reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubtaskReads {
    /// The operator.
    pub operator: OperatorId,
    /// The subtask.
    pub subtask: Subtask,
    /// The groups that it would own.
    pub groups: KeyGroupSet,
    /// Byte ranges by object.
    pub objects: BTreeMap<ObjectId, Vec<Range<u64>>>,
    /// Bytes of all ranges.
    pub bytes: u64,
}

/// Returns the new parallelism of `operator`, which changes only if it has keyed state.
pub(super) fn scaled(operator: &OperatorManifest, parallelism: u32) -> u32 {
    if operator.tables.is_empty() { operator.parallelism } else { parallelism }
}

/// Returns what each subtask would read if every operator with keyed state had `parallelism` subtasks.
///
/// * `manifest`: a checkpoint, resolved.
///
/// # Errors
/// `Config` if the parallelism is out of range; `NotFound` if the checkpoint was dropped meanwhile; `Corrupt`,
/// `Version` or `Unavailable` from the store.
///
/// # Cost
/// Reads the index of each segment once per subtask that needs part of the segment.
pub async fn read_plan(store: &Store, manifest: &Manifest, parallelism: u32) -> Result<ReadPlan> {
    under(store, manifest.seq, plan_reads(store, manifest, parallelism)).await
}

async fn plan_reads(store: &Store, manifest: &Manifest, parallelism: u32) -> Result<ReadPlan> {
    let mut subtasks = Vec::new();
    for operator in &manifest.operators {
        for share in OperatorPlan::new(manifest, operator.id, scaled(operator, parallelism))?.shares {
            let mut objects: BTreeMap<ObjectId, Vec<Range<u64>>> = BTreeMap::new();
            for segment in &share.segments {
                objects.entry(segment.object).or_default().extend(restore::ranges(store, segment).await?);
            }
            objects.values_mut().for_each(|ranges| ranges.sort_by_key(|range| range.start));
            let bytes = sum(objects.values().flatten().map(length));
            subtasks.push(SubtaskReads {
                operator: operator.id,
                subtask: share.subtask,
                groups: share.groups,
                objects,
                bytes,
            });
        }
    }
    let segments = slices(manifest).filter(|segment| segment.kind != SegmentKind::Foreign);
    let ideal_bytes = sum(segments.map(|segment| segment.length));
    Ok(ReadPlan { bytes: sum(subtasks.iter().map(|subtask| subtask.bytes)), subtasks, ideal_bytes })
}
