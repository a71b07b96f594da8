//! The rows of a sealed part, read from the regions that it shares with the backend.

use std::sync::Arc;

use crate::error::Result;
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::row::{Row, RowBatch, RowKey, RowSource};

use super::chunk::Chunk;
use super::table_slots::TableSlots;

/// The shared regions of some groups.
#[derive(Debug)]
pub(super) struct SealedChunks {
    pub(super) groups: KeyGroupSet,
    pub(super) table_slots: TableSlots,
    /// By group, then oldest first.
    pub(super) chunks: Vec<(KeyGroup, Arc<Chunk>)>,
}

impl RowSource for SealedChunks {
    fn groups(&self) -> &KeyGroupSet {
        &self.groups
    }

    fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        let start = self.chunks.partition_point(|(id, _)| *id < group);
        let of_group = self.chunks.iter().skip(start).take_while(|(id, _)| *id == group);
        for (_, record) in of_group.flat_map(|(_, chunk)| chunk.records()) {
            if !record.shape.is_dead() {
                let row = record.row();
                let key = RowKey { table: self.table_slots.table(row.key.table), ..row.key };
                batch.push(&Row { key, ..row })?;
            }
        }
        Ok(())
    }

    fn held_bytes(&self) -> u64 {
        self.chunks.iter().map(|(_, chunk)| chunk.held_bytes()).sum()
    }
}
