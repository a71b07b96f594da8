//! The rows of a sealed part, read from the regions that it shares with the backend.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use crate::error::Result;
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::row::{Row, RowBatch, RowKey, RowSource};

use super::arena::Chunk;
use super::chunk::offset;
use super::record::ShortPut;
use super::table_slots::TableSlots;

/// The shared regions of some groups.
#[derive(Debug)]
pub(super) struct SealedChunks {
    pub(super) groups: KeyGroupSet,
    pub(super) table_slots: TableSlots,
    /// By group, then oldest first.
    pub(super) chunks: Vec<(KeyGroup, Arc<Chunk>)>,
    /// Bytes of each group's records: summing them takes a step per region, so it is done once.
    pub(super) bytes: OnceLock<BTreeMap<KeyGroup, u64>>,
}

impl SealedChunks {
    fn chunks_of(&self, group: KeyGroup) -> impl Iterator<Item = &Chunk> {
        let start = self.chunks.partition_point(|(id, _)| *id < group);
        self.chunks.iter().skip(start).take_while(move |(id, _)| *id == group).map(|(_, chunk)| &**chunk)
    }

    /// Appends the rows of a region, oldest first.
    fn append_chunk(&self, chunk: &Chunk, batch: &mut RowBatch) -> Result<()> {
        let (mut next, end) = (0, chunk.len());
        while next < end {
            let start = next;
            // Parsed by hand: a copy of a whole record costs more than the rest of this loop.
            if let Some(put) = ShortPut::parse(chunk.bytes_at(offset(start))) {
                next += put.len;
                batch.push_put(self.table_slots.table(put.table), put.bytes, put.key_len)?;
            } else {
                let record = chunk.record(offset(start));
                next += record.shape.len;
                if !record.shape.is_dead() {
                    let row = record.row();
                    let key = RowKey { table: self.table_slots.table(row.key.table), ..row.key };
                    batch.push(&Row { key, ..row })?;
                }
            }
            chunk.read_ahead(start..next);
        }
        Ok(())
    }
}

impl RowSource for SealedChunks {
    fn groups(&self) -> &KeyGroupSet {
        &self.groups
    }

    fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        self.chunks_of(group).try_for_each(|chunk| self.append_chunk(chunk, batch))
    }

    fn held_bytes(&self) -> u64 {
        self.chunks.iter().map(|(_, chunk)| chunk.held_bytes()).sum()
    }

    fn group_bytes(&self, group: KeyGroup) -> u64 {
        let sum = || {
            let mut bytes = BTreeMap::new();
            self.chunks.iter().for_each(|(id, chunk)| *bytes.entry(*id).or_default() += chunk.len() as u64);
            bytes
        };
        self.bytes.get_or_init(sum).get(&group).copied().unwrap_or(0)
    }
}
