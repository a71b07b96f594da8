//! How many rows and bytes each group has, as far as that is known without reading, and how busy it is.

use std::collections::BTreeMap;

use crate::backend::heat::Heat;
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::row::GroupHeat;

/// Counts by group. Those of rows and bytes are estimates: a row that was written without having been read is now and
/// then taken for one that was there, and its old length for the mean.
#[derive(Debug, Default)]
pub(super) struct Counts {
    groups: BTreeMap<KeyGroup, Count>,
    pub(super) rows: u64,
    pub(super) live_bytes: u64,
    /// Seals so far.
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
    fn of(&mut self, group: KeyGroup) -> &mut Count {
        self.groups.entry(group).or_default()
    }

    pub(super) fn read(&mut self, group: KeyGroup) {
        self.of(group).heat.read();
    }

    /// Counts a write of a row: the bytes of its place, of its value before, and after; `None` where there is no row.
    pub(super) fn note(&mut self, group: KeyGroup, place_bytes: u64, old: Option<u64>, new: Option<u64>) {
        self.of(group).heat.write();
        if let Some(bytes) = old {
            self.remove(group, 1, place_bytes + bytes, bytes);
        }
        if let Some(bytes) = new {
            self.add(group, 1, place_bytes + bytes, bytes);
        }
    }

    pub(super) fn add(&mut self, group: KeyGroup, rows: u64, live_bytes: u64, payload_bytes: u64) {
        let count = self.of(group);
        count.rows += rows;
        count.live_bytes += live_bytes;
        count.payload_bytes += payload_bytes;
        self.rows += rows;
        self.live_bytes += live_bytes;
    }

    pub(super) fn remove(&mut self, group: KeyGroup, rows: u64, live_bytes: u64, payload_bytes: u64) {
        let count = self.of(group);
        let (before_rows, before_bytes) = (count.rows, count.live_bytes);
        count.rows = count.rows.saturating_sub(rows);
        count.live_bytes = count.live_bytes.saturating_sub(live_bytes);
        count.payload_bytes = count.payload_bytes.saturating_sub(payload_bytes);
        let gone = (before_rows - count.rows, before_bytes - count.live_bytes);
        self.rows -= gone.0;
        self.live_bytes -= gone.1;
    }

    /// Returns how long values of a group are on average.
    pub(super) fn mean_payload_bytes(&self, group: KeyGroup) -> u64 {
        let count = self.groups.get(&group).copied().unwrap_or_default();
        count.payload_bytes.checked_div(count.rows).unwrap_or(0)
    }

    pub(super) fn drop_groups(&mut self, groups: &KeyGroupSet) {
        for group in groups.iter() {
            let dropped = std::mem::take(self.of(group));
            self.rows -= dropped.rows;
            self.live_bytes -= dropped.live_bytes;
        }
    }

    /// Counts a seal and returns the heat of the groups that changed.
    pub(super) fn seal(&mut self, dirty: impl Iterator<Item = (KeyGroup, u64)>) -> Vec<GroupHeat> {
        self.seals = self.seals.saturating_add(1);
        let seals = self.seals;
        let heat = |(group, dirty_rows)| {
            let count = self.of(group);
            let (reads, writes) = count.heat.at_seal(seals);
            GroupHeat { group, rows: count.rows, live_bytes: count.live_bytes, dirty_rows, reads, writes }
        };
        dirty.map(heat).collect()
    }
}
