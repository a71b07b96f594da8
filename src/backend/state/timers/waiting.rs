//! Absent groups whose timers the queue does not hold yet.

use std::cmp::Reverse;

use crate::id::TableId;
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::time::Timestamp;

use crate::backend::{LazyBackend, StateBackend};

/// Absent groups that have timers, each with a lower bound of their times.
///
/// A group waits until its bound is due, or a timer of its is registered or deleted. Then its timers join the queue.
#[derive(Debug, Default)]
pub(super) struct Waiting(
    /// The earliest last.
    Vec<(Reverse<Timestamp>, KeyGroup)>,
);

impl Waiting {
    /// Adds those of `groups` that have timers in `table`.
    pub(super) fn add<B: StateBackend>(&mut self, backend: &LazyBackend<B>, table: TableId, groups: &KeyGroupSet) {
        let bound = |group| Some((Reverse(backend.earliest_timer(table, group)?), group));
        self.0.extend(groups.iter().filter_map(bound));
        self.0.sort_unstable();
    }

    pub(super) fn remove(&mut self, groups: &KeyGroupSet) {
        self.0.retain(|(_, group)| !groups.contains(*group));
    }

    /// Returns a lower bound of the times of all waiting timers.
    pub(super) fn earliest(&self) -> Option<Timestamp> {
        self.0.last().map(|(Reverse(bound), _)| *bound)
    }

    /// Returns the groups that may have timers due at `to`.
    pub(super) fn due(&self, to: Timestamp) -> KeyGroupSet {
        self.0.iter().rev().take_while(|(Reverse(bound), _)| *bound <= to).map(|(_, group)| *group).collect()
    }

    pub(super) fn contains(&self, group: KeyGroup) -> bool {
        self.0.iter().any(|(_, other)| *other == group)
    }
}
