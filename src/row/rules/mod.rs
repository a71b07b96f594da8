//! What a table's rows mean beyond their bytes: how operands merge, when rows expire, how old values become new ones.
//!
//! Invariants:
//! - rules look at stamps and at the times they are given, never at a clock;
//! - a row that was expired once stays expired: times do not go back, and a longer life revives nothing;
//! - pieces of one version merge; of several versions only after the older became newer ones.

mod expiry;
mod merging;
mod table;

use std::sync::Arc;

use super::piece::FIRST_VERSION;
use super::times::{GroupTimes, narrowed, united};
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
/// Groups that were restored may have times that the clock has not passed yet, and bounds of their own: [`Rules::of`] has
/// what holds for a group.
#[derive(Debug, Clone)]
pub struct Rules {
    tables: Arc<Vec<(TableId, TableRules)>>,
    expire: bool,
    event_time: Timestamp,
    processing_time: Timestamp,
    /// Groups for which something else holds, ascending; `None` if there are none, which is the rule: then looking up a
    /// group's rules is one comparison.
    own: Option<Arc<Vec<Own>>>,
}

/// The rules of some groups, made of their record, the tables' rules and the clock.
#[derive(Debug, Clone)]
struct Own {
    record: GroupTimes,
    /// Without groups of their own.
    rules: Rules,
}

impl Default for Rules {
    fn default() -> Self {
        Self::none()
    }
}

impl Rules {
    /// Returns no rules: rows are what their bytes are.
    #[must_use]
    pub fn none() -> Self {
        let (event_time, processing_time) = (Timestamp::MIN, Timestamp::MIN);
        Self { tables: Arc::default(), expire: false, event_time, processing_time, own: None }
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
        let records = self.own_records();
        self.set_own(records);
    }

    /// Moves both times on. Times do not go back: an earlier one leaves the later.
    pub fn advance(&mut self, event_time: Timestamp, processing_time: Timestamp) {
        let before = (self.event_time, self.processing_time);
        self.event_time = self.event_time.max(event_time);
        self.processing_time = self.processing_time.max(processing_time);
        let now = (self.event_time, self.processing_time);
        if let Some(own) = self.own.as_mut().filter(|_| now != before) {
            let own = Arc::make_mut(own);
            own.retain_mut(|own| own.advance(now));
            if own.is_empty() {
                self.own = None;
            }
        }
    }

    /// Lets groups continue from the records of the checkpoint that they are loaded from: in each the later of its record
    /// and the clock counts, and its record's bounds.
    pub fn resume(&mut self, times: &[GroupTimes]) {
        let records = united(&self.own_records(), times);
        self.set_own(records);
    }

    /// Forgets what held for these groups alone.
    pub(crate) fn forget(&mut self, groups: &KeyGroupSet) {
        let records = self.own_records();
        let all = KeyGroupSet::from_ranges(records.iter().map(|record| record.groups));
        self.set_own(narrowed(&records, &all.difference(groups)));
    }

    /// Returns how far time has come in `groups`: the furthest that their rows have expired by.
    #[must_use]
    pub fn times(&self, groups: &KeyGroupSet) -> Vec<GroupTimes> {
        let by_clock = |range| GroupTimes::new(range, self.event_time, self.processing_time);
        let by_clock: Vec<_> = groups.ranges().iter().copied().map(by_clock).collect();
        united(&by_clock, &narrowed(&self.own_records(), groups))
    }

    fn own_records(&self) -> Vec<GroupTimes> {
        self.own.iter().flat_map(|own| own.iter().map(|own| own.record.clone())).collect()
    }

    /// Makes the rules of groups with these records, where they differ from those of others.
    fn set_own(&mut self, records: Vec<GroupTimes>) {
        let clock = (self.event_time, self.processing_time);
        let own: Vec<_> = records.into_iter().filter_map(|record| Own::new(record, self, clock)).collect();
        self.own = (!own.is_empty()).then(|| Arc::new(own));
    }

    /// Returns these rules for tables that have other numbers.
    pub(crate) fn renumbered(&self, number: impl Fn(TableId) -> TableId + Copy) -> Self {
        if self.tables.is_empty() && self.own.is_none() {
            return self.clone();
        }
        let mut tables: Vec<_> = self.tables.iter().map(|(id, rules)| (number(*id), rules.clone())).collect();
        tables.sort_by_key(|(id, _)| *id);
        let own = self.own.as_ref().map(|own| {
            // Their records stay with their maker: what is sealed needs the rules alone.
            let renumbered = |own: &Own| Own {
                record: GroupTimes { lives: Vec::new(), ..own.record.clone() },
                rules: own.rules.renumbered(number),
            };
            Arc::new(own.iter().map(renumbered).collect())
        });
        Self { tables: Arc::new(tables), own, ..self.clone() }
    }

    /// Returns the rules that hold for a group.
    #[inline]
    #[must_use]
    pub fn of(&self, group: KeyGroup) -> &Self {
        match &self.own {
            None => self,
            Some(own) => own_of(own, group).unwrap_or(self),
        }
    }

    /// Returns these rules at the earliest times of `others`; at no time, when nothing has expired, if there are none.
    /// Records that are ahead of the clock do not count: what has expired by them alone stays, unseen.
    #[cfg(feature = "rocksdb")]
    pub(crate) fn at_earliest<'a>(&self, others: impl Iterator<Item = &'a Self> + Clone) -> Self {
        let earliest = |time: fn(&Self) -> Timestamp| others.clone().map(time).min().unwrap_or(Timestamp::MIN);
        let mut rules = Self {
            event_time: earliest(|rules| rules.event_time),
            processing_time: earliest(|rules| rules.processing_time),
            own: None,
            ..self.clone()
        };
        let bounded = self.own_records().into_iter().filter(|record| !record.lives.is_empty());
        let unbegun = |record| GroupTimes { event_time: Timestamp::MIN, processing_time: Timestamp::MIN, ..record };
        rules.set_own(bounded.map(unbegun).collect());
        rules
    }

    /// Returns the rules of a table that were set.
    #[inline]
    #[must_use]
    pub fn table(&self, table: TableId) -> Option<&TableRules> {
        let at = self.tables.binary_search_by_key(&table, |(id, _)| *id).ok()?;
        self.tables.get(at).map(|(_, rules)| rules)
    }

    /// Returns whether values of a table that carry neither a version nor a stamp read as their bytes, and new ones carry
    /// neither.
    #[inline]
    pub(crate) fn plain(&self, table: TableId) -> bool {
        self.table(table).is_none_or(|rules| rules.ttl.is_none() && rules.version == FIRST_VERSION)
    }

    /// Returns whether rows of any table expire.
    #[must_use]
    pub fn expire(&self) -> bool {
        self.expire
    }

    /// Returns the time that a table expires by.
    #[must_use]
    pub fn now(&self, rules: &TableRules) -> Timestamp {
        if rules.ttl.is_some_and(|ttl| ttl.event_time) { self.event_time } else { self.processing_time }
    }

    /// Returns the version and stamp of what is written to `table` now. Before time begins there is no stamp.
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

impl Own {
    /// Returns the rules of groups with this record; `None` if they are those of all others.
    fn new(record: GroupTimes, all: &Rules, clock: (Timestamp, Timestamp)) -> Option<Self> {
        let mut rules = Rules { own: None, ..all.clone() };
        if !record.lives.is_empty() {
            let tables = Arc::make_mut(&mut rules.tables);
            for (id, table) in tables.iter_mut() {
                table.ttl = table.ttl.map(|ttl| record.life(*id).map_or(ttl, |life| life.before(ttl)));
            }
        }
        let mut own = Self { record, rules };
        own.advance(clock).then_some(own)
    }

    /// Takes note of the clock; false if nothing is left that holds for these groups alone.
    fn advance(&mut self, (event_time, processing_time): (Timestamp, Timestamp)) -> bool {
        self.rules.event_time = self.record.event_time.max(event_time);
        self.rules.processing_time = self.record.processing_time.max(processing_time);
        let ahead = self.record.event_time > event_time || self.record.processing_time > processing_time;
        ahead || !self.record.lives.is_empty()
    }
}

#[inline(never)]
fn own_of(own: &[Own], group: KeyGroup) -> Option<&Rules> {
    let at = own.partition_point(|own| own.record.groups.end <= group.0);
    own.get(at).filter(|own| own.record.groups.contains(group)).map(|own| &own.rules)
}

#[cfg(test)]
mod tests;
