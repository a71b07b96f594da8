//! The expected rows: a row exists until its life is over in the time of its group.
//!
//! The oracle models groups, times and lives, but no clocks, watermarks, segments or schemas. It removes expired rows at
//! once.

use std::collections::BTreeMap;

use alluvium::{KeyGroup, KeyGroupSet};

/// The tables of the test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    EventValue,
    ProcessingValue,
    EventSum,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::EventValue, Self::ProcessingValue, Self::EventSum];
}

/// Event and processing time; `i64::MIN` before the first advance.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) event: i64,
    pub(crate) processing: i64,
}

impl Times {
    fn of_kind(self, kind: Kind) -> i64 {
        if kind == Kind::ProcessingValue { self.processing } else { self.event }
    }
}

type Key = (KeyGroup, u64);

/// A table: its life, and its rows with their stamps, if any.
#[derive(Debug, Clone, Default)]
struct Table {
    life: Option<u64>,
    /// Whether the table ever had a life: only then are writes stamped.
    stamped: bool,
    rows: BTreeMap<Key, (u64, Option<i64>)>,
}

/// All tables, and the times of each group.
#[derive(Debug, Clone)]
pub(crate) struct Oracle {
    times: BTreeMap<KeyGroup, Times>,
    tables: BTreeMap<Kind, Table>,
}

impl Oracle {
    pub(crate) fn new(groups: u16) -> Self {
        let none = Times { event: i64::MIN, processing: i64::MIN };
        Self {
            times: (0..groups).map(|group| (KeyGroup(group), none)).collect(),
            tables: Kind::ALL.map(|kind| (kind, Table::default())).into(),
        }
    }

    /// Begins an attempt with new lives.
    pub(crate) fn restart(&mut self, lives: [Option<u64>; 3]) {
        for ((kind, table), life) in self.tables.iter_mut().zip(lives) {
            table.life = life;
            table.stamped |= life.is_some();
            if !table.stamped {
                continue;
            }
            // A row without a stamp was written before the table had a life or before time began: its life begins now.
            for ((group, _), (_, stamp)) in &mut table.rows {
                let now = self.times[group].of_kind(*kind);
                *stamp = stamp.or((now > i64::MIN).then_some(now));
            }
        }
        self.expire();
    }

    /// Advances time in the groups of a subtask.
    pub(crate) fn advance(&mut self, groups: &KeyGroupSet, to: Times) {
        for group in groups.iter() {
            let times = self.times.get_mut(&group).unwrap();
            times.event = times.event.max(to.event);
            times.processing = times.processing.max(to.processing);
        }
        self.expire();
    }

    fn expire(&mut self) {
        for (kind, table) in &mut self.tables {
            let Some(life) = table.life.map(|life| i64::try_from(life).unwrap()) else { continue };
            let times = &self.times;
            let is_live = |group: KeyGroup, stamp: Option<i64>| {
                stamp.is_none_or(|stamp| stamp.saturating_add(life) > times[&group].of_kind(*kind))
            };
            table.rows.retain(|(group, _), (_, stamp)| is_live(*group, *stamp));
        }
    }

    pub(crate) fn put(&mut self, kind: Kind, key: Key, number: u64) {
        let now = self.times[&key.0].of_kind(kind);
        let table = self.tables.get_mut(&kind).unwrap();
        let stamp = (table.stamped && now > i64::MIN).then_some(now);
        table.rows.insert(key, (number, stamp));
    }

    pub(crate) fn remove(&mut self, kind: Kind, key: Key) {
        self.tables.get_mut(&kind).unwrap().rows.remove(&key);
    }

    pub(crate) fn add(&mut self, key: Key, number: u64) {
        let before = self.read(Kind::EventSum, key).unwrap_or(0);
        self.put(Kind::EventSum, key, before.wrapping_add(number));
    }

    pub(crate) fn read(&self, kind: Kind, key: Key) -> Option<u64> {
        self.tables[&kind].rows.get(&key).map(|(number, _)| *number)
    }
}
