//! Every access loads an absent group first, except a clear.

use std::sync::Arc;

use super::{GroupLoader, LazyBackend, Loaded, clears};
use crate::backend::checks::{check_owned, check_owned_group, check_scope, check_unowned};
use crate::backend::{BackendStats, Change, Entry, Outcome, RowRef, Scope, StateBackend, Stored, SubRange, Write};
use crate::canary::{self, Canary};
use crate::error::Result;
use crate::id::{Epoch, TableId};
use crate::key_group::{CurrentKey, KeyGroupSet};
use crate::row::{Cut, GroupTimes, RowSource, Sealed, TableRules, later_times, times_of};
use crate::time::Timestamp;

#[deny(clippy::missing_trait_methods)]
impl<B: StateBackend> StateBackend for LazyBackend<B> {
    fn groups(&self) -> &KeyGroupSet {
        &self.owned
    }

    fn define(&mut self, table: TableId, rules: TableRules) {
        self.rules.define(table, rules.clone());
        self.resident.define(table, rules);
    }

    fn advance(&mut self, event_time: Timestamp, processing_time: Timestamp) {
        self.rules.advance(event_time, processing_time);
        self.resident.advance(event_time, processing_time);
    }

    fn resume(&mut self, times: &[GroupTimes]) {
        self.rules.resume(times);
        if let Some(absent) = &mut self.absent {
            absent.times = later_times(&absent.times, &times_of(times, &absent.groups));
        }
        self.resident.resume(times);
    }

    fn times(&self) -> Vec<GroupTimes> {
        let resident = self.resident.times();
        match &self.absent {
            None => resident,
            Some(absent) => later_times(&resident, &absent.times),
        }
    }

    #[inline]
    fn read<R>(&mut self, row: RowRef<'_>, f: impl FnOnce(Option<&[u8]>) -> R) -> Result<R> {
        self.touch(row.key.group)?;
        self.resident.read(row, f)
    }

    #[inline]
    fn update<R>(&mut self, row: RowRef<'_>, f: impl FnOnce(Option<&[u8]>, &mut Vec<u8>) -> (Change, R)) -> Result<R> {
        self.touch(row.key.group)?;
        self.resident.update(row, f)
    }

    #[inline]
    fn update_in_place<R>(
        &mut self,
        row: RowRef<'_>,
        f: impl FnOnce(Stored<'_>, &mut Vec<u8>) -> (Option<Change>, R),
    ) -> Result<R> {
        self.touch(row.key.group)?;
        self.resident.update_in_place(row, f)
    }

    #[inline]
    fn edit<R>(&mut self, row: RowRef<'_>, f: impl FnOnce(&mut [u8]) -> R) -> Result<Option<R>> {
        self.touch(row.key.group)?;
        self.resident.edit(row, f)
    }

    #[inline]
    fn write(&mut self, row: RowRef<'_>, write: Write<'_>) -> Result<()> {
        self.touch(row.key.group)?;
        self.resident.write(row, write)
    }

    fn clear(&mut self, table: TableId, scope: Scope<'_>) -> Result<()> {
        let group = scope.group();
        if let Some(absent) = self.absent.as_mut().filter(|absent| absent.contains(group)) {
            check_owned_group(&self.owned, group)?;
            check_scope(&scope)?;
            if absent.clears.log(table, &scope) {
                return Ok(());
            }
        }
        self.touch(group)?;
        self.resident.clear(table, scope)
    }

    fn scan_key(
        &mut self,
        table: TableId,
        key: &CurrentKey<'_>,
        namespace: &[u8],
        range: SubRange<'_>,
        visit: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<()> {
        self.touch(key.group)?;
        self.resident.scan_key(table, key, namespace, range, visit)
    }

    /// Also has absent groups of these rows loaded soon.
    #[inline]
    fn prefetch(&mut self, rows: &[RowRef<'_>]) {
        if let Some(absent) = &self.absent
            && rows.iter().any(|row| absent.contains(row.key.group))
        {
            self.request(&rows.iter().map(|row| row.key.group).collect());
        }
        self.resident.prefetch(rows);
    }

    fn prefetch_keys(&self, keys: &[CurrentKey<'_>]) {
        self.resident.prefetch_keys(keys);
    }

    #[inline]
    fn read_many(
        &mut self,
        table: TableId,
        namespace: &[u8],
        keys: &[CurrentKey<'_>],
        f: impl FnMut(usize, Option<&[u8]>) -> Result<()>,
    ) -> Result<()> {
        self.touch_all(keys.iter())?;
        self.resident.read_many(table, namespace, keys, f)
    }

    #[inline]
    fn update_many(
        &mut self,
        table: TableId,
        namespace: &[u8],
        keys: &[CurrentKey<'_>],
        f: impl FnMut(usize, Stored<'_>, &mut Vec<u8>) -> (Option<Change>, Result<()>),
    ) -> Result<()> {
        self.touch_all(keys.iter())?;
        self.resident.update_many(table, namespace, keys, f)
    }

    /// Loads absent groups several at a time, and visits each once it is loaded.
    fn scan(
        &mut self,
        table: TableId,
        groups: &KeyGroupSet,
        prefix: &[u8],
        mut visit: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<()> {
        check_owned(&self.owned, groups)?;
        if self.absent.is_none() {
            return self.resident.scan(table, groups, prefix, visit);
        }
        self.request(groups);
        let mut goes_on = true;
        for group in groups.iter() {
            self.touch(group)?;
            let alone = std::iter::once(group).collect();
            self.resident.scan(table, &alone, prefix, |entry| {
                goes_on = visit(entry);
                goes_on
            })?;
            if !goes_on {
                break;
            }
        }
        Ok(())
    }

    /// A base of an absent group is skipped: its segments stay as they are.
    fn seal(&mut self, cut: Cut, bases: &KeyGroupSet) -> Result<Sealed> {
        check_owned(&self.owned, bases)?;
        let clears = self.absent.as_ref().map(|absent| absent.clears.unsealed()).transpose()?;
        let mut sealed = self.resident.seal(cut, &bases.intersection(self.resident.groups()))?;
        self.rules.advance(cut.event_time, cut.processing_time);
        if let (Some(absent), Some(clears)) = (&mut self.absent, clears) {
            absent.clears.seal(clears, &mut sealed, &self.rules);
        }
        if canary::on(Canary::ForgetAbsent) {
            sealed.parts.extend(clears::empty_base(bases.difference(self.resident.groups()), &self.rules));
        }
        Ok(sealed)
    }

    fn settle(&mut self, epoch: Epoch, outcome: Outcome) -> Result<()> {
        self.resident.settle(epoch, outcome)
    }

    fn load(&mut self, rows: &dyn RowSource, groups: &KeyGroupSet) -> Result<()> {
        check_unowned(&self.owned, groups)?;
        self.resident.load(rows, groups)?;
        self.owned = self.owned.union(groups);
        Ok(())
    }

    fn load_more(&mut self, rows: &dyn RowSource, groups: &KeyGroupSet) -> Result<()> {
        self.resident.load_more(rows, groups)
    }

    fn group_loader(&mut self, tables: &[TableId]) -> Option<Arc<dyn GroupLoader>> {
        self.resident.group_loader(tables)
    }

    fn adopt(&mut self, loaded: Loaded, groups: &KeyGroupSet) -> Result<()> {
        check_unowned(&self.owned, groups)?;
        self.resident.adopt(loaded, groups)?;
        self.owned = self.owned.union(groups);
        Ok(())
    }

    fn make_room(&mut self) -> bool {
        self.resident.make_room()
    }

    fn dirty_groups(&self) -> KeyGroupSet {
        self.resident.dirty_groups()
    }

    fn drop_groups(&mut self, groups: &KeyGroupSet) -> Result<()> {
        check_owned(&self.owned, groups)?;
        let absent = groups.intersection(&self.absent());
        self.resident.drop_groups(&groups.difference(&absent))?;
        if !absent.is_empty() {
            self.source.iter().for_each(|source| source.forget(&absent));
            self.end_absence(&absent);
        }
        self.rules.forget(groups);
        self.owned = self.owned.difference(groups);
        Ok(())
    }

    /// Counts resident groups only.
    fn stats(&self) -> BackendStats {
        self.resident.stats()
    }
}
