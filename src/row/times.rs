//! Group times: event and processing time by key group, from which expiry continues after a restore.
//!
//! Times belong to groups, not to subtasks: at any parallelism, the next owner of a group continues from the group's own
//! record. Lists of records are sorted by group and do not overlap.

use super::rules::Ttl;
use crate::id::TableId;
use crate::key_group::{KeyGroupRange, KeyGroupSet};
use crate::time::Timestamp;

/// Event and processing time of some key groups: the latest times by which their rows were expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupTimes {
    /// The groups.
    pub groups: KeyGroupRange,
    /// Event time; [`Timestamp::MIN`] before it begins.
    pub event_time: Timestamp,
    /// Processing time; [`Timestamp::MIN`] before it begins.
    pub processing_time: Timestamp,
    /// Bounds that differ from the tables' schemas, sorted by table.
    pub lives: Vec<Life>,
}

/// Bounds on the lives of a table's rows in some key groups, where they differ from the table's schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// The table.
    pub table: TableId,
    /// The life last applied to the rows, in milliseconds, if the groups' owner did not declare the table; the schema may
    /// have changed since.
    pub millis: Option<u64>,
    /// As [`Ttl::since`].
    pub since: Option<Timestamp>,
    /// As [`Ttl::dead_until`].
    pub dead_until: Option<Timestamp>,
}

impl Life {
    /// No bounds, for an unset table.
    pub(crate) const NONE: Self = Self { table: TableId(0), millis: None, since: None, dead_until: None };

    /// Returns the bounds of `ttl` for `table`.
    pub(crate) const fn of(table: TableId, ttl: Ttl) -> Self {
        Self { table, millis: None, since: ttl.since, dead_until: ttl.dead_until }
    }

    /// Returns the rule by which rows were last expired, given the schema's `ttl`.
    pub(crate) fn before(&self, ttl: Ttl) -> Ttl {
        Ttl { millis: self.millis.unwrap_or(ttl.millis), ..self.bound(ttl) }
    }

    /// Returns the schema's `ttl` within these bounds.
    #[must_use]
    pub fn bound(&self, ttl: Ttl) -> Ttl {
        Ttl { since: self.since.or(ttl.since), dead_until: self.dead_until.max(ttl.dead_until), ..ttl }
    }
}

impl GroupTimes {
    /// Returns the record of groups at these times, without bounds of their own.
    #[must_use]
    pub fn new(groups: KeyGroupRange, event_time: Timestamp, processing_time: Timestamp) -> Self {
        Self { groups, event_time, processing_time, lives: Vec::new() }
    }

    /// Returns the bounds of a table's rows, if they differ from its schema.
    #[must_use]
    pub fn life(&self, table: TableId) -> Option<&Life> {
        let at = self.lives.binary_search_by_key(&table, |life| life.table).ok()?;
        self.lives.get(at)
    }

    /// Sets the bounds of a table's rows; `None` if they equal its schema's.
    pub(crate) fn set_life(&mut self, table: TableId, life: Option<Life>) {
        let at = self.lives.partition_point(|life| life.table < table);
        let known = self.lives.get(at).is_some_and(|life| life.table == table);
        self.lives.splice(at..at + usize::from(known), life);
    }

    /// Returns the record for other groups.
    pub(crate) fn over(&self, groups: KeyGroupRange) -> Self {
        Self { groups, ..self.clone() }
    }

    /// Returns the later of both times, with the bounds of `newer`.
    fn joined(&self, newer: &Self, groups: KeyGroupRange) -> Self {
        Self {
            groups,
            event_time: self.event_time.max(newer.event_time),
            processing_time: self.processing_time.max(newer.processing_time),
            lives: newer.lives.clone(),
        }
    }
}

/// Returns the records of all groups in either list: the later times, and the bounds of `newer` where it has a record.
pub(crate) fn later_times(older: &[GroupTimes], newer: &[GroupTimes]) -> Vec<GroupTimes> {
    let mut bounds: Vec<u16> = older.iter().chain(newer).flat_map(|it| [it.groups.start, it.groups.end]).collect();
    bounds.sort_unstable();
    bounds.dedup();
    let (mut older, mut newer) = (older.iter().peekable(), newer.iter().peekable());
    let mut merged = Vec::new();
    for (&start, &end) in bounds.iter().zip(bounds.iter().skip(1)) {
        let groups = KeyGroupRange::new(start, end);
        while older.next_if(|it| it.groups.end <= start).is_some() {}
        while newer.next_if(|it| it.groups.end <= start).is_some() {}
        let here = |it: &&&GroupTimes| it.groups.start <= start;
        match (older.peek().filter(here), newer.peek().filter(here)) {
            (Some(older), Some(newer)) => merged.push(older.joined(newer, groups)),
            (Some(only), None) | (None, Some(only)) => merged.push(only.over(groups)),
            (None, None) => {}
        }
    }
    coalesced(merged)
}

/// Returns the time on which all agree; [`Timestamp::MIN`] if they differ or there are none.
pub(crate) fn agreed(times: impl IntoIterator<Item = Timestamp>) -> Timestamp {
    let mut times = times.into_iter();
    let first = times.next().unwrap_or(Timestamp::MIN);
    if times.all(|time| time == first) { first } else { Timestamp::MIN }
}

/// Returns the records of `groups`.
pub(crate) fn times_of(times: &[GroupTimes], groups: &KeyGroupSet) -> Vec<GroupTimes> {
    let of_range = |range: &KeyGroupRange| {
        let from = times.partition_point(|it| it.groups.end <= range.start);
        let range = *range;
        let meeting = times.iter().skip(from).take_while(move |it| it.groups.start < range.end);
        meeting.map(move |it| it.over(it.groups.intersection(range)))
    };
    coalesced(groups.ranges().iter().flat_map(of_range).collect())
}

/// Joins equal records of neighbouring groups.
fn coalesced(times: Vec<GroupTimes>) -> Vec<GroupTimes> {
    let mut coalesced: Vec<GroupTimes> = Vec::with_capacity(times.len());
    for record in times {
        match coalesced.last_mut() {
            Some(last) if last.groups.end == record.groups.start && last.over(record.groups) == record => {
                last.groups.end = record.groups.end;
            }
            _ => coalesced.push(record),
        }
    }
    coalesced
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(start: u16, end: u16, event: i64, processing: i64) -> GroupTimes {
        let at = Timestamp::from_millis;
        GroupTimes::new(KeyGroupRange::new(start, end), at(event), at(processing))
    }

    fn life(table: u32, dead_until: i64) -> Life {
        let dead_until = Some(Timestamp::from_millis(dead_until));
        Life { table: TableId(table), millis: None, since: None, dead_until }
    }

    #[test]
    fn the_later_time_applies_group_by_group() {
        let older = [record(0, 4, 1, 9), record(6, 8, 5, 5)];
        let newer = [record(2, 7, 3, 3)];
        let found = later_times(&older, &newer);
        let expected =
            [record(0, 2, 1, 9), record(2, 4, 3, 9), record(4, 6, 3, 3), record(6, 7, 5, 5), record(7, 8, 5, 5)];
        assert_eq!(found, coalesced(expected.to_vec()));
        assert_eq!(found.len(), 4, "equal neighbours are joined");
        assert_eq!(later_times(&[], &newer), newer);
        assert_eq!(later_times(&newer, &[]), newer);
    }

    #[test]
    fn the_bounds_of_the_newer_record_apply() {
        let (mut older, mut newer) = (record(0, 4, 1, 1), record(2, 4, 0, 0));
        older.set_life(TableId(7), Some(life(7, 1)));
        newer.set_life(TableId(7), Some(life(7, 2)));
        let found = later_times(std::slice::from_ref(&older), &[newer]);
        assert_eq!(found[0], record(0, 2, 1, 1).joined(&older, KeyGroupRange::new(0, 2)));
        assert_eq!(found[1].lives, [life(7, 2)]);
    }

    #[test]
    fn records_are_narrowed_to_groups() {
        let times = [record(0, 4, 1, 1), record(4, 8, 2, 2)];
        let groups = KeyGroupSet::from_ranges([KeyGroupRange::new(1, 2), KeyGroupRange::new(3, 5)]);
        assert_eq!(times_of(&times, &groups), [record(1, 2, 1, 1), record(3, 4, 1, 1), record(4, 5, 2, 2)]);
        assert_eq!(times_of(&times, &KeyGroupSet::all(8)), times);
    }

    #[test]
    fn lives_are_kept_in_order() {
        let mut record = record(0, 1, 0, 0);
        for table in [3, 1, 2] {
            record.set_life(TableId(table), Some(life(table, 5)));
        }
        record.set_life(TableId(2), None);
        record.set_life(TableId(9), None);
        assert_eq!(record.lives, [life(1, 5), life(3, 5)]);
        assert_eq!(record.life(TableId(3)), Some(&life(3, 5)));
        let ttl = Ttl { dead_until: Some(Timestamp::from_millis(9)), ..Ttl::default() };
        assert_eq!(life(1, 5).bound(ttl), ttl, "the later `dead_until` applies");
    }
}
