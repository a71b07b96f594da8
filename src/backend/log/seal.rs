//! Seals: freezing what was written since the last one, and sharing it.

use std::sync::{Arc, OnceLock};

use super::arena::{Frozen, prefetch};
use super::sealed::SealedRegions;
use super::{LogBackend, group_cell};
use crate::error::broken;
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::memory::DiskTier;
use crate::row::{Cut, GroupHeat, Sealed, SealedPart, SegmentKind, Statistic};

/// Groups prefetched ahead in a pass over all dirty groups.
const GROUPS_AHEAD: usize = 4;

/// Groups without writes whose heat a seal reports.
const IDLE_HEAT: usize = 8;

impl LogBackend {
    /// Freezes the dirty groups, and shares all of `bases`.
    pub(super) fn seal_dirty(&mut self, cut: Cut, bases: &KeyGroupSet) -> Sealed {
        self.dirty.sort_unstable();
        self.seals = self.seals.saturating_add(1);
        let (mut dirty_rows, mut heat) = (0, Vec::with_capacity(self.dirty.len()));
        let mut delta = Vec::new();
        let dirty = std::mem::take(&mut self.dirty);
        for (at, &id) in dirty.iter().enumerate() {
            self.prefetch_for_seal(&dirty, at);
            let Some(group) = group_cell(&mut self.groups, id) else { broken("a dirty group was written") };
            let keep = !bases.contains(id);
            let rows = group.freeze(|region| delta.extend(keep.then_some((id, region))));
            dirty_rows += rows;
            self.uses += group.heat.new_uses();
            heat.push(group.heat(id, rows, self.seals));
        }
        self.dirty = dirty;
        self.dirty.clear();
        self.add_idle_heat(&mut heat);
        let mut base = Vec::new();
        for id in bases.iter() {
            let Some(group) = group_cell(&mut self.groups, id) else { continue };
            group.regions.share(|region| base.push((id, region)));
        }
        let mut parts = Vec::new();
        if !bases.is_empty() {
            parts.push(self.sealed_part(SegmentKind::Base, bases.clone(), base));
        }
        if !delta.is_empty() {
            parts.push(self.sealed_part(SegmentKind::Delta, delta.iter().map(|(id, _)| *id).collect(), delta));
        }
        Sealed { cut, parts, dirty_rows, heat, statistics: self.statistics() }
    }

    /// Returns what each tier holds and how often it was used, once there was anything on the disk.
    fn statistics(&self) -> Arc<[Statistic]> {
        let budget = self.arena.budget();
        let disk = budget.disk().map(DiskTier::stats).filter(|stats| stats.writes > 0);
        let Some(disk) = disk else { return Arc::default() };
        let numbers = [
            ("memory_bytes", budget.own_bytes()),
            ("disk_bytes", disk.held_bytes),
            ("uses", self.uses),
            ("disk_record_reads", disk.record_reads),
            ("disk_reads", disk.reads),
            ("disk_read_us", disk.read_nanos / 1000),
            ("disk_slow_reads", disk.slow_reads),
            ("disk_writes", disk.writes),
            ("disk_write_us", disk.write_nanos / 1000),
        ];
        numbers.into_iter().map(|(name, value)| Statistic { name: name.to_owned(), value }).collect()
    }

    /// Prefetches groups that are soon to be sealed, and the tails of groups that were prefetched before.
    fn prefetch_for_seal(&self, dirty: &[KeyGroup], at: usize) {
        let ahead = |by: usize| self.group(*dirty.get(at + by)?);
        ahead(2 * GROUPS_AHEAD).into_iter().for_each(prefetch);
        ahead(GROUPS_AHEAD).into_iter().for_each(|group| group.regions.prefetch_tail());
    }

    /// Adds the heat of some groups that were not written, in turn: they may have been read.
    fn add_idle_heat(&mut self, heat: &mut Vec<GroupHeat>) {
        let (seals, dirty) = (self.seals, heat.len());
        for _ in 0..IDLE_HEAT.min(self.groups.len()) {
            self.heat_next = if self.heat_next + 1 < self.groups.len() { self.heat_next + 1 } else { 0 };
            let Some(Some(group)) = self.groups.get_mut(self.heat_next) else { continue };
            let Ok(id) = u16::try_from(self.heat_next).map(KeyGroup) else { continue };
            let written = heat.get(..dirty).unwrap_or_default();
            if written.binary_search_by_key(&id, |of_group| of_group.group).is_err() {
                self.uses += group.heat.new_uses();
                heat.push(group.heat(id, 0, seals));
            }
        }
        heat.sort_unstable_by_key(|of_group| of_group.group);
    }

    fn sealed_part(&self, kind: SegmentKind, groups: KeyGroupSet, regions: Vec<(KeyGroup, Arc<Frozen>)>) -> SealedPart {
        let rules = self.rules.renumbered(|slot| self.table_slots.table(slot));
        SealedPart {
            kind,
            groups: groups.clone(),
            rows: Arc::new(SealedRegions {
                groups,
                regions,
                table_slots: self.table_slots.clone(),
                bytes: OnceLock::new(),
            }),
            rules,
        }
    }
}
