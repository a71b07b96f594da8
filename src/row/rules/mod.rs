//! Rules: how operands merge, when rows expire, how values of older versions are upgraded.
//!
//! Invariants:
//! - rules use stamps and the given times, never a clock;
//! - an expired row stays expired: times do not go back, and a longer life revives no row;
//! - only pieces of one version merge; older pieces are upgraded first.

mod expiry;
mod merging;
mod table;

use std::sync::Arc;

use super::piece::FIRST_VERSION;
use super::times::{GroupTimes, later_times, times_of};
use crate::error::broken;
use crate::id::TableId;
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::time::Timestamp;

pub use expiry::Ttl;
pub(crate) use merging::Below;
pub use merging::{Append, MergeOperator};
pub use table::{TableRules, Upgrade};

/// The rules of all tables at an instant.
///
/// Restored groups may have times ahead of the clock and bounds of their own: [`Rules::of`] returns a group's rules.
#[derive(Debug, Clone)]
pub struct Rules {
    tables: Arc<Vec<(TableId, TableRules)>>,
    /// Whether rows of any table expire.
    expire: bool,
    event_time: Timestamp,
    processing_time: Timestamp,
    /// Rules of groups that differ, ascending. Usually `None`: then the lookup of a group's rules is one comparison.
    overrides: Option<Arc<Vec<Override>>>,
}

/// The rules of some groups: the tables' rules under the groups' record and the clock.
#[derive(Debug, Clone)]
struct Override {
    record: GroupTimes,
    /// Without overrides.
    rules: Rules,
}

impl Default for Rules {
    fn default() -> Self {
        Self::none()
    }
}

impl Rules {
    /// Returns no rules: values are their stored bytes.
    #[must_use]
    pub fn none() -> Self {
        let (event_time, processing_time) = (Timestamp::MIN, Timestamp::MIN);
        Self { tables: Arc::default(), expire: false, event_time, processing_time, overrides: None }
    }

    /// Sets the rules of a table.
    pub fn define(&mut self, table: TableId, rules: TableRules) {
        let tables = Arc::make_mut(&mut self.tables);
        match tables.binary_search_by_key(&table, |(id, _)| *id) {
            Ok(at) => match tables.get_mut(at) {
                Some(slot) => slot.1 = rules,
                None => broken("a table that was found has its rules"),
            },
            Err(at) => tables.insert(at, (table, rules)),
        }
        self.expire = tables.iter().any(|(_, rules)| rules.ttl.is_some());
        let records = self.override_records();
        self.set_overrides(records);
    }

    /// Advances both times. Times do not go back: an earlier time has no effect.
    pub fn advance(&mut self, event_time: Timestamp, processing_time: Timestamp) {
        let before = (self.event_time, self.processing_time);
        self.event_time = self.event_time.max(event_time);
        self.processing_time = self.processing_time.max(processing_time);
        let now = (self.event_time, self.processing_time);
        if let Some(overrides) = self.overrides.as_mut().filter(|_| now != before) {
            let overrides = Arc::make_mut(overrides);
            overrides.retain_mut(|of_groups| of_groups.advance(now));
            if overrides.is_empty() {
                self.overrides = None;
            }
        }
    }

    /// Continues groups from the records of the checkpoint they are loaded from: the later of record and clock applies in
    /// each, within the record's bounds.
    pub fn resume(&mut self, times: &[GroupTimes]) {
        let records = later_times(&self.override_records(), times);
        self.set_overrides(records);
    }

    /// Removes the overrides of these groups.
    pub(crate) fn forget(&mut self, groups: &KeyGroupSet) {
        let records = self.override_records();
        let all = KeyGroupSet::from_ranges(records.iter().map(|record| record.groups));
        self.set_overrides(times_of(&records, &all.difference(groups)));
    }

    /// Returns the times of `groups`: the latest by which their rows were expired.
    #[must_use]
    pub fn times(&self, groups: &KeyGroupSet) -> Vec<GroupTimes> {
        let by_clock = |range| GroupTimes::new(range, self.event_time, self.processing_time);
        let by_clock: Vec<_> = groups.ranges().iter().copied().map(by_clock).collect();
        later_times(&by_clock, &times_of(&self.override_records(), groups))
    }

    fn override_records(&self) -> Vec<GroupTimes> {
        self.overrides.iter().flat_map(|all| all.iter().map(|of_groups| of_groups.record.clone())).collect()
    }

    /// Sets the overrides of groups with these records, where they differ from the common rules.
    fn set_overrides(&mut self, records: Vec<GroupTimes>) {
        let clock = (self.event_time, self.processing_time);
        let overrides: Vec<_> = records.into_iter().filter_map(|record| Override::new(record, self, clock)).collect();
        self.overrides = (!overrides.is_empty()).then(|| Arc::new(overrides));
    }

    /// Returns these rules under other table ids.
    pub(crate) fn renumbered(&self, number: impl Fn(TableId) -> TableId + Copy) -> Self {
        if self.tables.is_empty() && self.overrides.is_none() {
            return self.clone();
        }
        let mut tables: Vec<_> = self.tables.iter().map(|(id, rules)| (number(*id), rules.clone())).collect();
        tables.sort_by_key(|(id, _)| *id);
        let overrides = self.overrides.as_ref().map(|overrides| {
            // A sealed part needs the rules alone, so the bounds stay behind.
            let renumbered = |of_groups: &Override| Override {
                record: GroupTimes { lives: Vec::new(), ..of_groups.record.clone() },
                rules: of_groups.rules.renumbered(number),
            };
            Arc::new(overrides.iter().map(renumbered).collect())
        });
        Self { tables: Arc::new(tables), overrides, ..self.clone() }
    }

    /// Returns the rules of a group.
    #[inline]
    #[must_use]
    pub fn of(&self, group: KeyGroup) -> &Self {
        match &self.overrides {
            None => self,
            Some(overrides) => override_of(overrides, group).unwrap_or(self),
        }
    }

    /// Returns these rules at the earliest times of `others`; without others, before all time, when nothing has expired.
    /// Ignores records ahead of the clock: rows expired by such a record alone are kept, but stay invisible.
    #[cfg(feature = "rocksdb")]
    pub(crate) fn at_earliest<'a>(&self, others: impl Iterator<Item = &'a Self> + Clone) -> Self {
        let earliest = |time: fn(&Self) -> Timestamp| others.clone().map(time).min().unwrap_or(Timestamp::MIN);
        let mut rules = Self {
            event_time: earliest(|rules| rules.event_time),
            processing_time: earliest(|rules| rules.processing_time),
            overrides: None,
            ..self.clone()
        };
        let bounded = self.override_records().into_iter().filter(|record| !record.lives.is_empty());
        let unbegun = |record| GroupTimes { event_time: Timestamp::MIN, processing_time: Timestamp::MIN, ..record };
        rules.set_overrides(bounded.map(unbegun).collect());
        rules
    }

    /// Returns the rules set for a table.
    #[inline]
    #[must_use]
    pub fn table(&self, table: TableId) -> Option<&TableRules> {
        let at = self.tables.binary_search_by_key(&table, |(id, _)| *id).ok()?;
        self.tables.get(at).map(|(_, rules)| rules)
    }

    /// Returns the tables that have rules.
    pub(crate) fn tables(&self) -> impl Iterator<Item = TableId> + '_ {
        self.tables.iter().map(|(table, _)| *table)
    }

    /// Returns whether no table was defined since `other` was cloned from these rules.
    pub(crate) fn has_tables_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.tables, &other.tables)
    }

    /// Returns the tables of timers, ascending.
    pub(crate) fn timer_tables(&self) -> Vec<TableId> {
        self.tables.iter().filter(|(_, rules)| rules.timers).map(|(id, _)| *id).collect()
    }

    /// Returns whether a table's new values carry neither version nor stamp, and such values read as their stored bytes.
    #[inline]
    pub(crate) fn plain(&self, table: TableId) -> bool {
        self.table(table).is_none_or(|rules| rules.ttl.is_none() && rules.version == FIRST_VERSION)
    }

    /// Returns whether rows of any table expire.
    #[must_use]
    pub fn expire(&self) -> bool {
        self.expire
    }

    /// Returns the current time in the time domain of a table's expiry.
    #[must_use]
    pub fn now(&self, rules: &TableRules) -> Timestamp {
        if rules.ttl.is_some_and(|ttl| ttl.event_time) { self.event_time } else { self.processing_time }
    }

    /// Returns the version and stamp of a value written to `table` now. Before time begins there is no stamp.
    #[must_use]
    pub fn mark(&self, table: TableId) -> (u32, Option<Timestamp>) {
        match self.table(table) {
            Some(rules) => {
                let now = self.now(rules);
                (rules.version, rules.ttl.filter(|_| now > Timestamp::MIN).map(|_| now))
            }
            None => (FIRST_VERSION, None),
        }
    }
}

impl Override {
    /// Returns the rules of groups with this record; `None` if they equal the common rules.
    fn new(record: GroupTimes, all: &Rules, clock: (Timestamp, Timestamp)) -> Option<Self> {
        let mut rules = Rules { overrides: None, ..all.clone() };
        if !record.lives.is_empty() {
            let tables = Arc::make_mut(&mut rules.tables);
            for (id, table) in tables.iter_mut() {
                table.ttl = table.ttl.map(|ttl| record.life(*id).map_or(ttl, |life| life.before(ttl)));
            }
        }
        let mut of_groups = Self { record, rules };
        of_groups.advance(clock).then_some(of_groups)
    }

    /// Advances to the clock. Returns false once the common rules apply to these groups.
    fn advance(&mut self, (event_time, processing_time): (Timestamp, Timestamp)) -> bool {
        self.rules.event_time = self.record.event_time.max(event_time);
        self.rules.processing_time = self.record.processing_time.max(processing_time);
        let ahead = self.record.event_time > event_time || self.record.processing_time > processing_time;
        ahead || !self.record.lives.is_empty()
    }
}

#[inline(never)]
fn override_of(overrides: &[Override], group: KeyGroup) -> Option<&Rules> {
    let at = overrides.partition_point(|of_groups| of_groups.record.groups.end <= group.0);
    overrides.get(at).filter(|of_groups| of_groups.record.groups.contains(group)).map(|of_groups| &of_groups.rules)
}

#[cfg(test)]
mod tests;
