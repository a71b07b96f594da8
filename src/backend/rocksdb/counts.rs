//! Row and byte counts and usage of each group, kept without reading from disk.

use std::collections::BTreeMap;

use crate::backend::heat::Heat;
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::row::GroupHeat;

/// Counts by group. Rows and bytes are estimates: a write without a read sometimes counts a new row as an overwrite,
/// with the group's mean as its old length.
#[derive(Debug, Default)]
pub(super) struct Counts {
    groups: BTreeMap<KeyGroup, Count>,
    pub(super) rows: u64,
    pub(super) live_bytes: u64,
    /// Number of seals.
    seals: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    rows: u64,
    /// Keys, namespaces, sub-keys, values and operands.
    live_bytes: u64,
    payload_bytes: u64,
    heat: Heat,
}

impl Counts {
    fn count_mut(&mut self, group: KeyGroup) -> &mut Count {
        self.groups.entry(group).or_default()
    }

    pub(super) fn read(&mut self, group: KeyGroup) {
        self.count_mut(group).heat.read();
    }

    /// Counts a write of a row.
    ///
    /// * `key_bytes`: of its key, namespace and sub-key.
    /// * `old`, `new`: payload bytes before and after the write; `None` if absent.
    pub(super) fn note_write(&mut self, group: KeyGroup, key_bytes: u64, old: Option<u64>, new: Option<u64>) {
        self.count_mut(group).heat.write();
        if let Some(bytes) = old {
            self.remove(group, 1, key_bytes + bytes, bytes);
        }
        if let Some(bytes) = new {
            self.add(group, 1, key_bytes + bytes, bytes);
        }
    }

    pub(super) fn add(&mut self, group: KeyGroup, rows: u64, live_bytes: u64, payload_bytes: u64) {
        let count = self.count_mut(group);
        count.rows += rows;
        count.live_bytes += live_bytes;
        count.payload_bytes += payload_bytes;
        self.rows += rows;
        self.live_bytes += live_bytes;
    }

    /// Subtracts rows and bytes, down to zero at most: the counts are estimates.
    pub(super) fn remove(&mut self, group: KeyGroup, rows: u64, live_bytes: u64, payload_bytes: u64) {
        let count = self.count_mut(group);
        let (before_rows, before_bytes) = (count.rows, count.live_bytes);
        count.rows = count.rows.saturating_sub(rows);
        count.live_bytes = count.live_bytes.saturating_sub(live_bytes);
        count.payload_bytes = count.payload_bytes.saturating_sub(payload_bytes);
        let (removed_rows, removed_bytes) = (before_rows - count.rows, before_bytes - count.live_bytes);
        self.rows -= removed_rows;
        self.live_bytes -= removed_bytes;
    }

    /// Returns the mean payload of a group's rows, in bytes.
    pub(super) fn mean_payload_bytes(&self, group: KeyGroup) -> u64 {
        let count = self.groups.get(&group).copied().unwrap_or_default();
        count.payload_bytes.checked_div(count.rows).unwrap_or(0)
    }

    pub(super) fn drop_groups(&mut self, groups: &KeyGroupSet) {
        for group in groups.iter() {
            let dropped = std::mem::take(self.count_mut(group));
            self.rows -= dropped.rows;
            self.live_bytes -= dropped.live_bytes;
        }
    }

    /// Counts a seal and returns the heat of the changed groups.
    ///
    /// * `dirty`: the changed groups and their numbers of dirty rows.
    pub(super) fn seal(&mut self, dirty: impl Iterator<Item = (KeyGroup, u64)>) -> Vec<GroupHeat> {
        self.seals = self.seals.saturating_add(1);
        let seals = self.seals;
        let heat = |(group, dirty_rows)| {
            let count = self.count_mut(group);
            let (reads, writes) = count.heat.at_seal(seals);
            GroupHeat { group, rows: count.rows, live_bytes: count.live_bytes, dirty_rows, reads, writes }
        };
        dirty.map(heat).collect()
    }
}
