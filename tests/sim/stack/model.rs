//! The expected state and output of a job after any prefix of its log: a fold over maps, without code of the crate.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use super::workload::{Op, Record, Workload};

/// Life of expiring rows, in event time.
pub(crate) const LIFE_MS: i64 = 300;

/// A prune removes items more than this below the pruning record.
pub(crate) const PRUNED_BEHIND: u64 = 50;

/// A timer that fires at a multiple of this registers its successor.
pub(crate) const PERIODIC_MS: i64 = 250;

/// A timer that fires at a multiple of this clears its namespace.
pub(crate) const CLEARING_MS: i64 = 150;

/// A place in a table: key and namespace.
type Place = (u16, u8);

/// Visible state as text, by table, key and namespace.
pub(crate) type Content = BTreeMap<(&'static str, u16, u8), String>;

/// A timer: time, key and namespace.
type Timer = (i64, u16, u8);

/// The state after a prefix of the log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    /// Records folded.
    pub(crate) position: u64,
    /// Event time of the last folded record.
    time: i64,
    value: BTreeMap<u16, u64>,
    text: BTreeMap<Place, (usize, u64)>,
    list: BTreeMap<u16, Vec<u32>>,
    map: BTreeMap<u16, BTreeMap<u16, u64>>,
    ordered: BTreeMap<Place, BTreeMap<i64, String>>,
    sum: BTreeMap<u16, u64>,
    mean: BTreeMap<u16, (u64, u64)>,
    fading: BTreeMap<u16, (u64, i64)>,
    fading_list: BTreeMap<u16, Vec<(u32, i64)>>,
    fading_map: BTreeMap<u16, BTreeMap<u16, (u64, i64)>>,
    fading_sum: BTreeMap<u16, (u64, i64)>,
    /// The last `Op::Seen` record of each key. The judge decides by clocks whether the row may have expired.
    pub(crate) seen: BTreeMap<u16, u64>,
    timers: BTreeSet<Timer>,
    items: BTreeSet<u64>,
    union: BTreeSet<u64>,
    broadcast: BTreeMap<u32, u64>,
    /// The emitted rows, in any order.
    pub(crate) output: BTreeSet<String>,
}

fn is_live(stamp: i64, now: i64) -> bool {
    stamp + LIFE_MS > now
}

impl Model {
    /// Folds records up to `position`.
    pub(crate) fn advance(&mut self, workload: &Workload, position: u64) {
        while self.position < position {
            let record = workload.record(self.position);
            self.fire(record.time);
            self.time = record.time;
            self.apply(&record);
            self.position += 1;
        }
    }

    fn fire(&mut self, to: i64) {
        while let Some(&(at, key, namespace)) = self.timers.first().filter(|(at, _, _)| *at <= to) {
            self.timers.remove(&(at, key, namespace));
            let sum = self.sum.get(&key).copied().unwrap_or(0);
            self.output.insert(format!("timer {key} {namespace} {at}: {sum}"));
            let (total, count) = self.mean.get(&key).copied().unwrap_or_default();
            self.mean.insert(key, (total + 1, count + 1));
            self.add_fading(key, 1, at);
            if at % CLEARING_MS == 0 {
                self.ordered.remove(&(key, namespace));
            }
            if at % PERIODIC_MS == 0 {
                self.timers.insert((at + PERIODIC_MS, key, namespace));
            }
        }
    }

    fn add_fading(&mut self, key: u16, number: u64, now: i64) {
        let before = self.fading_sum.get(&key).filter(|(_, stamp)| is_live(*stamp, now)).map_or(0, |(sum, _)| *sum);
        self.fading_sum.insert(key, (before + number, now));
    }

    fn apply(&mut self, record: &Record) {
        let Record { index, time, key, namespace, op } = *record;
        let place = (key, namespace);
        match op {
            Op::ValuePut(number) => drop(self.value.insert(key, number)),
            Op::ValueAdd(number) => *self.value.entry(key).or_default() += number,
            Op::ValueTake | Op::ValueClear => drop(self.value.remove(&key)),
            Op::TextPut(length) => drop(self.text.insert(place, digest(&record.text(length)))),
            Op::TextClear => drop(self.text.remove(&place)),
            Op::ListAdd(number) => self.list.entry(key).or_default().push(number),
            Op::ListReplace(number) => drop(self.list.insert(key, vec![number, number + 1])),
            Op::ListClear => drop(self.list.remove(&key)),
            Op::MapPut(sub, number) => drop(self.map.entry(key).or_default().insert(sub, number)),
            Op::MapRemove(sub) => drop(self.map.entry(key).or_default().remove(&sub)),
            Op::MapRetainOdd => self.map.entry(key).or_default().retain(|_, number| {
                *number += 1;
                *number % 2 == 1
            }),
            Op::MapClear => drop(self.map.remove(&key)),
            Op::OrderedPut(sub) => {
                self.ordered.entry(place).or_default().insert(sub, format!("at {index}"));
            }
            Op::OrderedRemove(sub) => drop(self.ordered.entry(place).or_default().remove(&sub)),
            Op::OrderedClear => drop(self.ordered.remove(&place)),
            Op::OrderedClearKey => self.ordered.retain(|(other, _), _| *other != key),
            Op::OrderedClearNamespace => self.ordered.retain(|(_, other), _| *other != namespace),
            Op::SumAdd(number) => *self.sum.entry(key).or_default() += number,
            Op::SumClear => drop(self.sum.remove(&key)),
            Op::MeanAdd(number) => {
                let (total, count) = self.mean.get(&key).copied().unwrap_or_default();
                self.mean.insert(key, (total + number, count + 1));
            }
            Op::MeanClear => drop(self.mean.remove(&key)),
            Op::FadingPut(number) => drop(self.fading.insert(key, (number, time))),
            Op::FadingListAdd(number) => self.fading_list.entry(key).or_default().push((number, time)),
            Op::FadingMapPut(sub, number) => {
                self.fading_map.entry(key).or_default().insert(sub, (number, time));
            }
            Op::FadingMapRead(sub) => {
                let entry = self.fading_map.entry(key).or_default().get_mut(&sub);
                if let Some((_, stamp)) = entry.filter(|(_, stamp)| is_live(*stamp, time)) {
                    *stamp = time;
                }
            }
            Op::FadingSumAdd(number) => self.add_fading(key, number, time),
            Op::Seen => drop(self.seen.insert(key, index)),
            Op::TimerSet(at) => drop(self.timers.insert((at, key, namespace))),
            Op::TimerDelete(at) => drop(self.timers.remove(&(at, key, namespace))),
            Op::Emit => {
                let value = self.value.get(&key).copied().unwrap_or(0);
                self.output.insert(format!("record {index} {key}: {value}"));
            }
            Op::ItemAdd => drop(self.items.insert(index)),
            Op::ItemsPrune => self.items.retain(|item| item + PRUNED_BEHIND >= index),
            Op::UnionAdd => drop(self.union.insert(index)),
            Op::BroadcastPut(name, number) => drop(self.broadcast.insert(name, number)),
            Op::BroadcastRemove(name) => drop(self.broadcast.remove(&name)),
        }
    }

    /// Returns the visible state.
    pub(crate) fn content(&self) -> Content {
        let mut content = Content::new();
        let now = self.time;
        for (key, value) in &self.value {
            put(&mut content, ("value", *key, 0), value);
        }
        for ((key, namespace), text) in &self.text {
            put(&mut content, ("text", *key, *namespace), text);
        }
        for (key, list) in self.list.iter().filter(|(_, list)| !list.is_empty()) {
            put(&mut content, ("list", *key, 0), list);
        }
        for (key, map) in self.map.iter().filter(|(_, map)| !map.is_empty()) {
            put(&mut content, ("map", *key, 0), &map.iter().collect::<Vec<_>>());
        }
        for ((key, namespace), map) in self.ordered.iter().filter(|(_, map)| !map.is_empty()) {
            put(&mut content, ("ordered", *key, *namespace), &map.iter().collect::<Vec<_>>());
        }
        for (key, sum) in &self.sum {
            put(&mut content, ("sum", *key, 0), sum);
        }
        for (key, (total, count)) in &self.mean {
            put(&mut content, ("mean", *key, 0), &(total, count));
        }
        for (key, (number, _)) in self.fading.iter().filter(|(_, (_, stamp))| is_live(*stamp, now)) {
            put(&mut content, ("fading", *key, 0), number);
        }
        for (key, list) in &self.fading_list {
            let list: Vec<u32> =
                list.iter().filter(|(_, stamp)| is_live(*stamp, now)).map(|(number, _)| *number).collect();
            if !list.is_empty() {
                put(&mut content, ("fading list", *key, 0), &list);
            }
        }
        for (key, map) in &self.fading_map {
            let living = map.iter().filter(|(_, (_, stamp))| is_live(*stamp, now));
            let map: Vec<(&u16, &u64)> = living.map(|(sub, (number, _))| (sub, number)).collect();
            if !map.is_empty() {
                put(&mut content, ("fading map", *key, 0), &map);
            }
        }
        for (key, (sum, _)) in self.fading_sum.iter().filter(|(_, (_, stamp))| is_live(*stamp, now)) {
            put(&mut content, ("fading sum", *key, 0), sum);
        }
        let mut timers: BTreeMap<Place, Vec<i64>> = BTreeMap::new();
        for (at, key, namespace) in &self.timers {
            timers.entry((*key, *namespace)).or_default().push(*at);
        }
        for ((key, namespace), times) in &timers {
            put(&mut content, ("timers", *key, *namespace), times);
        }
        for (name, items) in [("items", &self.items), ("union", &self.union)] {
            put(&mut content, (name, 0, 0), &items.iter().collect::<Vec<_>>());
        }
        put(&mut content, ("broadcast", 0, 0), &self.broadcast.iter().collect::<Vec<_>>());
        content
    }
}

/// Adds a value at a place.
pub(crate) fn put(content: &mut Content, place: (&'static str, u16, u8), value: &impl Debug) {
    content.insert(place, format!("{value:?}"));
}

/// Returns a text's length and hash, so that content stays short.
pub(crate) fn digest(text: &[u8]) -> (usize, u64) {
    let hash = text
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    (text.len(), hash)
}

/// Returns the first differences between two contents.
pub(crate) fn differences(found: &Content, expected: &Content) -> Vec<String> {
    let places: BTreeSet<_> = found.keys().chain(expected.keys()).collect();
    let differ = places.into_iter().filter(|place| found.get(*place) != expected.get(*place));
    let show = |content: &Content, place| content.get(place).cloned().unwrap_or_else(|| "nothing".into());
    differ
        .take(5)
        .map(|place| format!("{place:?}: {} instead of {}", show(found, place), show(expected, place)))
        .collect()
}
