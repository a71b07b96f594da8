//! A backend chosen at run time, for tools. Engines name their backend's type.

use std::sync::Arc;

use crate::error::Result;
use crate::id::{Epoch, TableId};
use crate::key_group::{CurrentKey, KeyGroupSet};
use crate::row::{Cut, GroupTimes, RowSource, Sealed, TableRules};
use crate::time::Timestamp;

#[cfg(feature = "rocksdb")]
use super::RocksDbBackend;
use super::{
    BackendStats, Change, Entry, GroupLoader, Loaded, LogBackend, Outcome, OverlayBackend, RowRef, Scope, StateBackend,
    Stored, SubRange, Write,
};

/// One of the crate's backends.
#[derive(Debug)]
#[non_exhaustive]
pub enum AnyBackend {
    /// A log per key group.
    Log(LogBackend),
    /// Ordered maps over ordered maps.
    Overlay(OverlayBackend),
    /// A RocksDB database.
    #[cfg(feature = "rocksdb")]
    RocksDb(Box<RocksDbBackend>),
}

impl From<LogBackend> for AnyBackend {
    fn from(backend: LogBackend) -> Self {
        Self::Log(backend)
    }
}

impl From<OverlayBackend> for AnyBackend {
    fn from(backend: OverlayBackend) -> Self {
        Self::Overlay(backend)
    }
}

#[cfg(feature = "rocksdb")]
impl From<RocksDbBackend> for AnyBackend {
    fn from(backend: RocksDbBackend) -> Self {
        Self::RocksDb(Box::new(backend))
    }
}

/// Delegates a call to the wrapped backend.
macro_rules! delegate {
    ($any:expr, $backend:ident => $call:expr) => {
        match $any {
            AnyBackend::Log($backend) => $call,
            AnyBackend::Overlay($backend) => $call,
            #[cfg(feature = "rocksdb")]
            AnyBackend::RocksDb($backend) => $call,
        }
    };
}

#[deny(clippy::missing_trait_methods)]
impl StateBackend for AnyBackend {
    fn groups(&self) -> &KeyGroupSet {
        delegate!(self, backend => backend.groups())
    }

    fn define(&mut self, table: TableId, rules: TableRules) {
        delegate!(self, backend => backend.define(table, rules));
    }

    fn advance(&mut self, event_time: Timestamp, processing_time: Timestamp) {
        delegate!(self, backend => backend.advance(event_time, processing_time));
    }

    fn resume(&mut self, times: &[GroupTimes]) {
        delegate!(self, backend => backend.resume(times));
    }

    fn times(&self) -> Vec<GroupTimes> {
        delegate!(self, backend => backend.times())
    }

    fn read<R>(&mut self, row: RowRef<'_>, f: impl FnOnce(Option<&[u8]>) -> R) -> Result<R> {
        delegate!(self, backend => backend.read(row, f))
    }

    fn update<R>(&mut self, row: RowRef<'_>, f: impl FnOnce(Option<&[u8]>, &mut Vec<u8>) -> (Change, R)) -> Result<R> {
        delegate!(self, backend => backend.update(row, f))
    }

    fn update_in_place<R>(
        &mut self,
        row: RowRef<'_>,
        f: impl FnOnce(Stored<'_>, &mut Vec<u8>) -> (Option<Change>, R),
    ) -> Result<R> {
        delegate!(self, backend => backend.update_in_place(row, f))
    }

    fn edit<R>(&mut self, row: RowRef<'_>, f: impl FnOnce(&mut [u8]) -> R) -> Result<Option<R>> {
        delegate!(self, backend => backend.edit(row, f))
    }

    fn write(&mut self, row: RowRef<'_>, write: Write<'_>) -> Result<()> {
        delegate!(self, backend => backend.write(row, write))
    }

    fn clear(&mut self, table: TableId, scope: Scope<'_>) -> Result<()> {
        delegate!(self, backend => backend.clear(table, scope))
    }

    fn scan_key(
        &mut self,
        table: TableId,
        key: &CurrentKey<'_>,
        namespace: &[u8],
        range: SubRange<'_>,
        visit: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<()> {
        delegate!(self, backend => backend.scan_key(table, key, namespace, range, visit))
    }

    fn prefetch(&mut self, rows: &[RowRef<'_>]) {
        delegate!(self, backend => backend.prefetch(rows));
    }

    fn prefetch_keys(&self, keys: &[CurrentKey<'_>]) {
        delegate!(self, backend => backend.prefetch_keys(keys));
    }

    fn read_many(
        &mut self,
        table: TableId,
        namespace: &[u8],
        keys: &[CurrentKey<'_>],
        f: impl FnMut(usize, Option<&[u8]>) -> Result<()>,
    ) -> Result<()> {
        delegate!(self, backend => backend.read_many(table, namespace, keys, f))
    }

    fn update_many(
        &mut self,
        table: TableId,
        namespace: &[u8],
        keys: &[CurrentKey<'_>],
        f: impl FnMut(usize, Stored<'_>, &mut Vec<u8>) -> (Option<Change>, Result<()>),
    ) -> Result<()> {
        delegate!(self, backend => backend.update_many(table, namespace, keys, f))
    }

    fn scan(
        &mut self,
        table: TableId,
        groups: &KeyGroupSet,
        prefix: &[u8],
        visit: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<()> {
        delegate!(self, backend => backend.scan(table, groups, prefix, visit))
    }

    fn seal(&mut self, cut: Cut, bases: &KeyGroupSet) -> Result<Sealed> {
        delegate!(self, backend => backend.seal(cut, bases))
    }

    fn settle(&mut self, epoch: Epoch, outcome: Outcome) -> Result<()> {
        delegate!(self, backend => backend.settle(epoch, outcome))
    }

    fn load(&mut self, rows: &dyn RowSource, groups: &KeyGroupSet) -> Result<()> {
        delegate!(self, backend => backend.load(rows, groups))
    }

    fn load_more(&mut self, rows: &dyn RowSource, groups: &KeyGroupSet) -> Result<()> {
        delegate!(self, backend => backend.load_more(rows, groups))
    }

    fn group_loader(&mut self, tables: &[TableId]) -> Option<Arc<dyn GroupLoader>> {
        delegate!(self, backend => backend.group_loader(tables))
    }

    fn adopt(&mut self, loaded: Loaded, groups: &KeyGroupSet) -> Result<()> {
        delegate!(self, backend => backend.adopt(loaded, groups))
    }

    fn make_room(&mut self) -> bool {
        delegate!(self, backend => backend.make_room())
    }

    fn dirty_groups(&self) -> KeyGroupSet {
        delegate!(self, backend => backend.dirty_groups())
    }

    fn drop_groups(&mut self, groups: &KeyGroupSet) -> Result<()> {
        delegate!(self, backend => backend.drop_groups(groups))
    }

    fn stats(&self) -> BackendStats {
        delegate!(self, backend => backend.stats())
    }
}
