//! Reading and writing one row: locate it, read it, write it in place or through its group, retry once the budget is
//! spent.

use crate::error::{Error, ErrorKind, Result, broken};
use crate::id::TableId;
use crate::key_group::KeyGroup;
use crate::row::{MergeOperator, Rules};

use super::super::checks::{check_row, check_value, no_merge_operator, not_owned};
use super::super::heat::Heat;
use super::super::{Change, RowRef, Write, edit_copy};
use super::LogBackend;
use super::fetch::Fetched;
use super::group::{Found, Group};
use super::index::row_hash;
use super::record::Place;

/// A row of an owned group: its hash, its place, its index entry if it has one, and what lies of it on disk.
pub(super) struct Located<'a> {
    pub(super) id: KeyGroup,
    pub(super) hash: u32,
    pub(super) place: Place<'a>,
    pub(super) found: Option<Found>,
    pub(super) fetched: Fetched,
}

impl Located<'_> {
    /// Calls `f` with the row's entry: that which was found, or one that is looked for again, as cleaning moves records.
    fn with_entry(
        &self,
        group: &mut Group,
        again: bool,
        f: impl FnOnce(&mut Group, (Option<Found>, &Fetched)) -> Result<()>,
    ) -> Result<()> {
        if !again {
            return f(group, (self.found, &self.fetched));
        }
        let fetched = group.fetch([self.hash])?;
        let found = group.find(self.hash, &self.place, &fetched);
        f(group, (found, &fetched))
    }
}

impl LogBackend {
    /// Locates a row.
    pub(super) fn locate<'a>(&mut self, row: &RowRef<'a>) -> Result<Located<'a>> {
        let (place, id) = (Place::of_row(&self.table_slots.with_slot(row)), row.key.group);
        check_row(row)?;
        let hash = row_hash(row.key.hash, &place);
        let (found, fetched) = match self.group(id) {
            Some(group) => {
                let fetched = group.fetch([hash])?;
                (group.find(hash, &place, &fetched), fetched)
            }
            None if self.owned.contains(id) => (None, Fetched::default()),
            None => return Err(not_owned(&self.owned, id)),
        };
        Ok(Located { id, hash, place, found, fetched })
    }

    /// Reads a row of any kind.
    pub(super) fn read_row<R>(&mut self, row: &RowRef<'_>, f: impl FnOnce(Option<&[u8]>) -> R) -> Result<R> {
        let mut located = self.locate(row)?;
        if self.rules.expire() && self.renew(&located)? {
            located = self.locate(row)?;
        }
        let result = self.with_value(&located, |value, _| f(value))?;
        self.promote_hot(&located);
        Ok(result)
    }

    /// Updates a row of any kind.
    pub(super) fn update_row<R>(
        &mut self,
        row: &RowRef<'_>,
        f: impl FnOnce(Option<&[u8]>, &mut Vec<u8>) -> (Change, R),
    ) -> Result<R> {
        let located = self.locate(row)?;
        self.update_at(&located, |value, _, scratch| f(value, scratch))
    }

    /// Edits the value of a row of any kind.
    pub(super) fn edit_row<R>(&mut self, row: &RowRef<'_>, f: impl FnOnce(&mut [u8]) -> R) -> Result<Option<R>> {
        self.update_row(row, |value, new| edit_copy(value, new, f))
    }

    /// Writes a row of any kind.
    pub(super) fn write_row(&mut self, row: &RowRef<'_>, write: Write<'_>) -> Result<()> {
        let located = self.locate(row)?;
        match write {
            Write::Put(value) => match self.in_place(&located) {
                Some((heat, old, _)) if old.len() == value.len() => {
                    old.copy_from_slice(value);
                    heat.write();
                    Ok(())
                }
                _ => self.set(&located, Some(value)),
            },
            Write::Delete => self.set(&located, None),
            Write::Merge(operand) => self.merge(&located, operand),
        }
    }

    /// Returns the row's value if another of the same length can overwrite it without further changes: the row was
    /// written since the last seal, and its stored bytes are its value.
    #[inline]
    pub(super) fn in_place(&mut self, located: &Located<'_>) -> Option<(&mut Heat, &mut [u8], &Rules)> {
        let found = located.found.filter(|_| self.rules.plain(located.place.table))?;
        let group = self.groups.get_mut(usize::from(located.id.0))?.as_deref_mut()?;
        let value = group.regions.plain_tail_value(found.address, &found.shape)?;
        Some((&mut group.heat, value, self.rules.of(located.id)))
    }

    /// Calls `f` with the row's value and its group's rules.
    pub(super) fn with_value<R>(
        &mut self,
        located: &Located<'_>,
        f: impl FnOnce(Option<&[u8]>, &Rules) -> R,
    ) -> Result<R> {
        if let Some(Some(group)) = self.groups.get_mut(usize::from(located.id.0)) {
            group.heat.read();
        }
        let (mut buffer, rules) = (std::mem::take(&mut self.value), self.rules.of(located.id));
        let value = match (self.group(located.id), located.found) {
            (Some(group), Some(found)) => {
                group.value(located.hash, located.place.table, &found, rules, (&mut buffer, &located.fetched))
            }
            (_, None) => Ok(None),
            (None, Some(_)) => broken("a found row is in a group"),
        };
        let result = value.map(|value| f(value, rules));
        let result = result.map_err(|error| error.with("table", self.table_slots.table(located.place.table)));
        self.value = buffer;
        result
    }

    /// Renews the row's stamp if reads do that in its table and it has a value. Returns whether its record may have
    /// moved.
    pub(super) fn renew(&mut self, located: &Located<'_>) -> Result<bool> {
        let table = located.place.table;
        let on_read = self.rules.table(table).and_then(|rules| rules.ttl).is_some_and(|ttl| ttl.on_read);
        let Some(found) = located.found.filter(|_| on_read) else { return Ok(false) };
        let stamp = self.group(located.id).and_then(|group| group.stamp(found.address, &located.fetched));
        if stamp == self.rules.of(located.id).mark(table).1 {
            return Ok(false);
        }
        self.update_at(located, |value, _, same| {
            // A value that is too long to be written again is read without renewal.
            let Some(value) = value.filter(|value| check_value(value).is_ok()) else { return (Change::Keep, false) };
            same.extend_from_slice(value);
            (Change::Put, true)
        })
    }

    /// As [`StateBackend::update`](super::super::StateBackend::update); `f` also gets the rules.
    #[inline]
    pub(super) fn update_at<R>(
        &mut self,
        located: &Located<'_>,
        f: impl FnOnce(Option<&[u8]>, &Rules, &mut Vec<u8>) -> (Change, R),
    ) -> Result<R> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let (change, result) = match self.in_place(located) {
            Some((heat, value, rules)) => {
                heat.read();
                let (change, result) = f(Some(value), rules, &mut scratch);
                if matches!(change, Change::Put) && scratch.len() == value.len() {
                    value.copy_from_slice(&scratch);
                    heat.write();
                    self.scratch = scratch;
                    return Ok(result);
                }
                (change, result)
            }
            None => self.with_value(located, |value, rules| f(value, rules, &mut scratch))?,
        };
        self.scratch = scratch;
        self.apply(located, change).map(|()| result)
    }

    /// Applies a change to a row; a put takes the value from the scratch buffer.
    pub(super) fn apply(&mut self, located: &Located<'_>, change: Change) -> Result<()> {
        let scratch = std::mem::take(&mut self.scratch);
        let applied = match change {
            Change::Keep => Ok(()),
            Change::Put => self.set(located, Some(&scratch)),
            Change::Delete => self.set(located, None),
        };
        self.scratch = scratch;
        applied
    }

    /// Merges an operand into the row's value. An operator that grows its value appends the operand without a read.
    pub(super) fn merge(&mut self, located: &Located<'_>, operand: &[u8]) -> Result<()> {
        check_value(operand)?;
        let place = located.place;
        let no_operator = || no_merge_operator(self.table_slots.table(place.table));
        if operator(&self.rules, place.table).ok_or_else(no_operator)?.grows() {
            return self.change(located.id, |group, rules, is_retry| {
                located.with_entry(group, is_retry, |group, entry| {
                    group.add_piece(located.hash, &place, entry, operand, rules)
                })
            });
        }
        self.update_at(located, |value, rules, merged| {
            let Some(value) = value else {
                merged.extend_from_slice(operand);
                return (Change::Put, Ok(()));
            };
            let merge = operator(rules, place.table).ok_or_else(|| Error::usage("table has no merge operator"));
            let result = merge.and_then(|it| it.merge(value, operand, merged));
            (if result.is_ok() { Change::Put } else { Change::Keep }, result)
        })?
    }

    /// Sets the row's value; `None` deletes the row.
    pub(super) fn set(&mut self, located: &Located<'_>, value: Option<&[u8]>) -> Result<()> {
        value.map_or(Ok(()), check_value)?;
        if value.is_none() && located.found.is_none() {
            return Ok(());
        }
        self.change(located.id, |group, rules, is_retry| {
            located.with_entry(group, is_retry, |group, entry| {
                group.set(located.hash, &located.place, entry, value, rules)
            })
        })
    }

    /// Applies `change` to an owned group, and again after cleaning if the budget was spent. The last argument of `change` is
    /// true on a retry: addresses found before are stale, as cleaning moves records. In the end, cold records
    /// go to the disk if more memory is held than should be.
    pub(super) fn change(
        &mut self,
        id: KeyGroup,
        change: impl FnMut(&mut Group, &Rules, bool) -> Result<()>,
    ) -> Result<()> {
        self.change_in_memory(id, change)?;
        self.relieve();
        Ok(())
    }

    /// As [`LogBackend::change`], but what was changed stays in memory.
    pub(super) fn change_in_memory(
        &mut self,
        id: KeyGroup,
        mut change: impl FnMut(&mut Group, &Rules, bool) -> Result<()>,
    ) -> Result<()> {
        let mut is_retry = false;
        loop {
            let (group, rules) = self.group_mut(id);
            match change(group, rules, is_retry) {
                Err(refused) if refused.kind() == ErrorKind::Limit && (self.make_room_now() || !is_retry) => {
                    self.reclaim();
                    self.arena.release();
                    is_retry = true;
                }
                changed => break changed?,
            }
        }
        let (group, _) = self.group_mut(id);
        group.heat.write();
        if !std::mem::replace(&mut group.in_dirty_list, true) {
            self.dirty.push(id);
        }
        Ok(())
    }
}

/// Returns the table's merge operator, if it has one.
fn operator(rules: &Rules, slot: TableId) -> Option<&dyn MergeOperator> {
    rules.table(slot)?.merge.as_deref()
}
