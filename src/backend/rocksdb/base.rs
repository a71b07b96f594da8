//! All rows of some groups as of a seal.

use std::sync::Arc;

use super::db::{View, rocksdb_error};
use super::slot::{Layer, push_cell};
use super::span::Span;
use crate::backend::row_key::decode_row_key;
use crate::error::Result;
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::row::{RowBatch, RowSource};

/// A view of RocksDB and the layers over it.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) groups: KeyGroupSet,
    pub(super) view: Arc<View>,
    /// Oldest first.
    pub(super) layers: Vec<Arc<Layer>>,
}

impl RowSource for Base {
    fn groups(&self) -> &KeyGroupSet {
        &self.groups
    }

    fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        if !self.groups.contains(group) {
            return Ok(());
        }
        // A full scan through the block cache would evict the hot blocks.
        let mut rows = self.view.iterate(&Span::starting_with(group.0.to_be_bytes().to_vec()), false);
        while let Some((row_key, cell)) = rows.item() {
            push_cell(cell, decode_row_key(row_key)?.1, true, batch)?;
            rows.next();
        }
        rows.status().map_err(|error| rocksdb_error("cannot read rows", error))?;
        self.layers.iter().try_for_each(|layer| layer.append_group(group, batch))
    }

    fn held_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.charged_bytes()).sum()
    }
}
