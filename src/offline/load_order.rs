//! What a lazy restore of a checkpoint loads first.

use std::collections::BTreeMap;

use crate::checkpoint::load_order::{by_smiths_rule, loads_of};
use crate::checkpoint::restore::SegmentReader;
use crate::checkpoint::uses::GroupUses;
use crate::error::Result;
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::manifest::{OperatorManifest, SubtaskManifest, Warmth};
use crate::place::Store;

/// A key group as a lazy restore loads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadStep {
    /// The group.
    pub group: KeyGroup,
    /// How much it was used.
    pub warmth: Warmth,
    /// Stored bytes of its rows. A block of several groups counts for its first; segments up to 32 KiB count for none.
    pub bytes: u64,
}

/// Returns the key groups of those subtasks of `operator` that have stored state, in the order in which a lazy restore loads them.
///
/// # Errors
/// As a restore.
pub(super) async fn load_order(store: &Store, operator: &OperatorManifest) -> Result<Vec<LoadStep>> {
    let with_state = |subtask: &&SubtaskManifest| !subtask.segments.is_empty();
    let subtasks: Vec<_> = operator.inline_subtasks()?.into_iter().filter(with_state).collect();
    let segments: Vec<_> = subtasks.iter().flat_map(|subtask| subtask.segments.iter().cloned()).collect();
    let reader = SegmentReader::open(store, &segments).await?;
    let warmth = subtasks.iter().flat_map(|subtask| subtask.groups.iter().zip(subtask.heat.iter().copied()));
    let warmth: BTreeMap<KeyGroup, Warmth> = warmth.collect();
    let groups = KeyGroupSet::from_ranges(subtasks.iter().flat_map(|subtask| subtask.groups.ranges().iter().copied()));
    let uses: GroupUses = warmth.iter().map(|(group, warmth)| (*group, warmth.weight())).collect();
    let loads = loads_of(&groups, reader.sizes(), &uses);
    let step = |group: KeyGroup| LoadStep {
        group,
        warmth: warmth.get(&group).copied().unwrap_or_default(),
        bytes: reader.sizes().get(&group).copied().unwrap_or(0),
    };
    Ok(by_smiths_rule(&loads).into_iter().map(step).collect())
}
