//! The rows of a sealed part, read from the regions that it shares with the backend, in memory or on disk.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use crate::error::Result;
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::row::{Row, RowBatch, RowKey, RowSource};

use super::arena::Frozen;
use super::chunk::{bytes_from, offset, read_ahead, record_in};
use super::record::ShortPut;
use super::table_slots::TableSlots;

/// The shared regions of some groups.
#[derive(Debug)]
pub(super) struct SealedRegions {
    pub(super) groups: KeyGroupSet,
    pub(super) table_slots: TableSlots,
    /// By group, then oldest first.
    pub(super) regions: Vec<(KeyGroup, Arc<Frozen>)>,
    /// Bytes of each group's records: summing them takes a step per region, so it is done once.
    pub(super) bytes: OnceLock<BTreeMap<KeyGroup, u64>>,
}

impl SealedRegions {
    fn regions_of(&self, group: KeyGroup) -> impl Iterator<Item = &Frozen> {
        let start = self.regions.partition_point(|(id, _)| *id < group);
        self.regions.iter().skip(start).take_while(move |(id, _)| *id == group).map(|(_, region)| &**region)
    }

    /// Appends the rows of a region, oldest first.
    fn append_region(&self, region: &[u8], batch: &mut RowBatch) -> Result<()> {
        let mut next = 0;
        while next < region.len() {
            let start = next;
            let bytes = bytes_from(region, offset(start));
            // Parsed by hand: a copy of a whole record costs more than the rest of this loop.
            if let Some(put) = ShortPut::parse(bytes) {
                next += put.len;
                batch.push_put(self.table_slots.table(put.table), put.bytes, put.key_len)?;
            } else {
                let record = record_in(bytes);
                next += record.shape.len;
                if !record.shape.is_dead() {
                    let row = record.row();
                    let key = RowKey { table: self.table_slots.table(row.key.table), ..row.key };
                    batch.push(&Row { key, ..row })?;
                }
            }
            read_ahead(region, start..next);
        }
        Ok(())
    }
}

impl RowSource for SealedRegions {
    fn groups(&self) -> &KeyGroupSet {
        &self.groups
    }

    fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        self.regions_of(group).try_for_each(|region| self.append_region(&region.bytes()?, batch))
    }

    fn held_bytes(&self) -> u64 {
        self.regions.iter().map(|(_, region)| region.held_bytes()).sum()
    }

    fn group_bytes(&self, group: KeyGroup) -> u64 {
        let sum = || {
            let mut bytes = BTreeMap::new();
            self.regions.iter().for_each(|(id, region)| *bytes.entry(*id).or_default() += region.len() as u64);
            bytes
        };
        self.bytes.get_or_init(sum).get(&group).copied().unwrap_or(0)
    }
}
