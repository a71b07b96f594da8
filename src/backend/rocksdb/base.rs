//! Everything of some groups, as of a seal.

use std::sync::Arc;

use super::db::{View, of_rocksdb};
use super::slot::{Layer, push_cell};
use super::span::Span;
use crate::backend::place::read_place;
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
        // Read once, from end to end: it would push what is hot out of the cache.
        let mut rows = self.view.iterate(&Span::starting_with(group.0.to_be_bytes().to_vec()), false);
        while let Some((place, cell)) = rows.item() {
            push_cell(cell, read_place(place)?.1, true, batch)?;
            rows.next();
        }
        rows.status().map_err(|error| of_rocksdb("cannot read rows", error))?;
        self.layers.iter().try_for_each(|layer| layer.append_group(group, batch))
    }

    fn held_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.charged_bytes()).sum()
    }
}
