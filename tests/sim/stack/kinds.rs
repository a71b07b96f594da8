//! State of every kind, through the crate's handles: how a record changes it, and its visible content.

use std::time::Duration;

use alluvium::backend::StateBackend;
use alluvium::{
    Aggregate, AggregatingState, AnyBackend, BroadcastState, Codec, Fixed, KeyGroupSet, ListState, MapState,
    OperatorList, Ordered, OrderedMapState, Raw, Ready, ReducingState, Result, Schema, Seat, TableOptions, Tables,
    Task, TimeDomain, Timers, Timestamp, TtlConfig, Utf8, ValueState,
};

use super::model::{CLEARING_MS, Content, LIFE_MS, PERIODIC_MS, PRUNED_BEHIND, digest, put};
use super::workload::{NAMESPACES, Op, Record, Workload};

/// Life of the rows of `seen`, in processing time.
pub(crate) const SEEN_LIFE_MS: i64 = 15_000;

/// Aggregates the total and the count.
#[derive(Debug)]
struct Mean;

impl Aggregate for Mean {
    type Input = u64;
    type Accumulator = (u64, u64);
    type Output = (u64, u64);

    fn name(&self) -> &'static str {
        "mean"
    }

    fn create(&self) -> (u64, u64) {
        (0, 0)
    }

    fn add(&self, (total, count): &mut (u64, u64), input: &u64) {
        (*total, *count) = (*total + input, *count + 1);
    }

    fn merge(&self, older: (u64, u64), newer: (u64, u64)) -> (u64, u64) {
        (older.0 + newer.0, older.1 + newer.1)
    }

    fn result(&self, accumulator: &(u64, u64)) -> (u64, u64) {
        *accumulator
    }
}

/// The handles of a subtask.
struct Kinds {
    value: ValueState<u64, Fixed>,
    text: ValueState<Vec<u8>, Raw>,
    list: ListState<u32, Fixed>,
    map: MapState<u16, u64, Fixed, Fixed>,
    ordered: OrderedMapState<i64, String, Ordered, Utf8>,
    sum: ReducingState<u64, Fixed>,
    mean: AggregatingState<Mean, (Fixed, Fixed)>,
    fading: ValueState<u64, Fixed>,
    fading_list: ListState<u32, Fixed>,
    fading_map: MapState<u16, u64, Fixed, Fixed>,
    fading_sum: ReducingState<u64, Fixed>,
    seen: ValueState<u64, Fixed>,
}

impl Kinds {
    fn declare(tables: &mut Tables) -> Result<Self> {
        let windowed = |name: &str| TableOptions::new(name).namespaced(Schema::new("bytes"));
        let life = TtlConfig::new(Duration::from_millis(LIFE_MS.unsigned_abs())).in_event_time();
        let fading = |name: &str| TableOptions::new(name).ttl(life);
        let seen = TtlConfig::new(Duration::from_millis(SEEN_LIFE_MS.unsigned_abs()));
        Ok(Self {
            value: tables.value("value", Fixed)?,
            text: tables.value(windowed("text"), Raw)?,
            list: tables.list("list", Fixed)?,
            map: tables.map("map", Fixed, Fixed)?,
            ordered: tables.ordered_map(windowed("ordered"), Ordered, Utf8)?,
            sum: tables.reducing("sum", Fixed, "sum", |a: u64, b| a + b)?,
            mean: tables.aggregating("mean", (Fixed, Fixed), Mean)?,
            fading: tables.value(fading("fading"), Fixed)?,
            fading_list: tables.list(fading("fading list"), Fixed)?,
            fading_map: tables.map(TableOptions::new("fading map").ttl(life.renewed_by_reads()), Fixed, Fixed)?,
            fading_sum: tables.reducing(fading("fading sum"), Fixed, "sum", |a: u64, b| a + b)?,
            seen: tables.value(TableOptions::new("seen").ttl(seen), Fixed)?,
        })
    }
}

/// A subtask with all its state.
pub(crate) struct Subtask {
    pub(crate) task: Task<AnyBackend>,
    kinds: Kinds,
    timers: Timers,
    items: OperatorList<u64, Fixed>,
    union: OperatorList<u64, Fixed>,
    broadcast: BroadcastState<u32, u64, Fixed, Fixed>,
    /// Rows emitted since the last barrier.
    pub(crate) output: Vec<String>,
}

impl Subtask {
    pub(crate) async fn restore(mut seat: Seat, overlay: bool) -> Result<Self> {
        let kinds = Kinds::declare(seat.tables())?;
        let mut task = seat
            .restore(|groups, partitioner, budget| {
                if overlay {
                    AnyBackend::Overlay(alluvium::OverlayBackend::new(groups, budget))
                } else {
                    AnyBackend::Log(alluvium::LogBackend::new(groups, partitioner, budget))
                }
            })
            .await?;
        let timers = task.state().timers("timers", TimeDomain::Event, Schema::new("bytes"))?;
        let operator = task.operator_state();
        let (items, union) = (operator.list("items", Fixed)?, operator.union_list("union", Fixed)?);
        let broadcast = operator.broadcast("broadcast", Fixed, Fixed)?;
        Ok(Self { task, kinds, timers, items, union, broadcast, output: Vec::new() })
    }

    /// Returns the absent key groups.
    pub(crate) fn absent(&mut self) -> KeyGroupSet {
        self.task.state().backend().absent()
    }

    /// Returns what to wait for before `record`, if there is one, is applied and the timers due at `time` fire.
    pub(crate) fn ready(&mut self, record: Option<&Record>, time: i64) -> Ready {
        let due = self.timers.due_groups(Timestamp::from_millis(time));
        let state = self.task.state();
        let key =
            |record: &Record| state.locate_routed(&Workload::key(record.key), Workload::routing(record.key)).group;
        let own: KeyGroupSet = record.map(key).into_iter().collect();
        self.task.ready_groups(&due.union(&own))
    }

    /// Keeps this subtask's share of the union list, which every subtask restores in full.
    pub(crate) fn narrow_union(&mut self, index: u64, parallelism: u64) -> Result<()> {
        let state = self.task.operator_state();
        let own: Vec<u64> = self.union.get(state)?.into_iter().filter(|item| item % parallelism == index).collect();
        self.union.update(state, &own)
    }

    /// Advances event time to `time`; due timers fire in order, each at its own time.
    pub(crate) fn advance(&mut self, time: i64, now: Timestamp) -> Result<()> {
        let to = Timestamp::from_millis(time);
        while let Some(first) = self.timers.next().filter(|first| *first <= to) {
            self.task.state().advance(first, now);
            let Some(timer) = self.timers.pop_due(self.task.state(), first)? else { continue };
            let at = timer.timestamp().as_millis();
            let (key, namespace) = (key_number(timer.key()), timer.namespace().to_vec());
            let Self { task, kinds, timers, output, .. } = self;
            let state = task.state();
            let sum = kinds.sum.read(state)?.unwrap_or(0);
            let name = namespace.last().map_or(0, |last| *last);
            output.push(format!("timer {key} {name} {at}: {sum}"));
            kinds.mean.add(state, &1)?;
            kinds.fading_sum.add(state, &1)?;
            if at % CLEARING_MS == 0 {
                kinds.ordered.clear(&mut state.in_namespace(&namespace))?;
            }
            if at % PERIODIC_MS == 0 {
                timers.register(state, &namespace, Timestamp::from_millis(at + PERIODIC_MS))?;
            }
        }
        self.task.state().advance(to, now);
        Ok(())
    }

    /// Applies a record. After a `limit` error the record can be applied again: nothing changed, or only idempotently.
    pub(crate) fn apply(&mut self, record: &Record) -> Result<()> {
        let Record { index, key, namespace, op, .. } = *record;
        let namespace = &Workload::namespace(namespace)[..];
        let Self { task, kinds, timers, output, .. } = self;
        let (state, operator) = task.states();
        state.set_key_routed(&Workload::key(key), Workload::routing(key));
        match op {
            Op::ValuePut(number) => kinds.value.put(state, &number),
            Op::ValueAdd(number) => kinds.value.update(state, |value| *value = Some(value.unwrap_or(0) + number)),
            Op::ValueTake => kinds.value.update(state, |value| *value = None),
            Op::ValueClear => kinds.value.clear(state),
            Op::TextPut(length) => kinds.text.put(&mut state.in_namespace(namespace), &record.text(length)),
            Op::TextClear => kinds.text.clear(&mut state.in_namespace(namespace)),
            Op::ListAdd(number) => kinds.list.add(state, &number),
            Op::ListReplace(number) => kinds.list.update(state, &[number, number + 1]),
            Op::ListClear => kinds.list.clear(state),
            Op::MapPut(sub, number) => kinds.map.put(state, &sub, &number),
            Op::MapRemove(sub) => kinds.map.remove(state, &sub),
            Op::MapRetainOdd => kinds.map.retain(state, |_, number| {
                *number += 1;
                *number % 2 == 1
            }),
            Op::MapClear => kinds.map.clear(state),
            Op::OrderedPut(sub) => kinds.ordered.put(&mut state.in_namespace(namespace), &sub, &format!("at {index}")),
            Op::OrderedRemove(sub) => kinds.ordered.remove(&mut state.in_namespace(namespace), &sub),
            Op::OrderedClear => kinds.ordered.clear(&mut state.in_namespace(namespace)),
            Op::OrderedClearKey => state.clear_key(kinds.ordered.table()),
            Op::OrderedClearNamespace => state.clear_namespace(kinds.ordered.table(), namespace),
            Op::SumAdd(number) => kinds.sum.add(state, &number),
            Op::SumClear => kinds.sum.clear(state),
            Op::MeanAdd(number) => kinds.mean.add(state, &number),
            Op::MeanClear => kinds.mean.clear(state),
            Op::FadingPut(number) => kinds.fading.put(state, &number),
            Op::FadingListAdd(number) => kinds.fading_list.add(state, &number),
            Op::FadingMapPut(sub, number) => kinds.fading_map.put(state, &sub, &number),
            Op::FadingMapRead(sub) => kinds.fading_map.read(state, &sub).map(drop),
            Op::FadingSumAdd(number) => kinds.fading_sum.add(state, &number),
            Op::Seen => kinds.seen.put(state, &index),
            Op::TimerSet(at) => timers.register(state, namespace, Timestamp::from_millis(at)).map(drop),
            Op::TimerDelete(at) => timers.delete(state, namespace, Timestamp::from_millis(at)).map(drop),
            Op::Emit => {
                let value = kinds.value.read(state)?.unwrap_or(0);
                output.push(format!("record {index} {key}: {value}"));
                Ok(())
            }
            Op::ItemAdd => self.items.add(operator, &index),
            Op::ItemsPrune => {
                let kept: Vec<u64> =
                    self.items.get(operator)?.into_iter().filter(|item| item + PRUNED_BEHIND >= index).collect();
                self.items.update(operator, &kept)
            }
            Op::UnionAdd => self.union.add(operator, &index),
            Op::BroadcastPut(name, number) => self.broadcast.put(operator, &name, &number),
            Op::BroadcastRemove(name) => self.broadcast.remove(operator, &name),
        }
    }

    /// Adds the visible keyed state of keys `0..keys` that this subtask owns, and its timers.
    pub(crate) fn observe(&mut self, keys: u16, content: &mut Content) -> Result<()> {
        let Self { task, kinds, .. } = self;
        let groups = task.groups().clone();
        let state = task.state();
        for key in 0..keys {
            let (bytes, routing) = (Workload::key(key), Workload::routing(key));
            if !groups.contains(state.locate_routed(&bytes, routing).group) {
                continue;
            }
            state.set_key_routed(&bytes, routing);
            let mut one = |name, value: Option<String>| value.map(|value| content.insert((name, key, 0), value));
            one("value", kinds.value.read(state)?.map(|value| format!("{value:?}")));
            one("list", Some(kinds.list.read(state)?).filter(|list| !list.is_empty()).map(|list| format!("{list:?}")));
            let mut map = kinds.map.entries(state)?;
            map.sort_unstable();
            one("map", Some(map).filter(|map| !map.is_empty()).map(|map| format!("{map:?}")));
            one("sum", kinds.sum.read(state)?.map(|sum| format!("{sum:?}")));
            one("mean", kinds.mean.read(state)?.map(|mean| format!("{mean:?}")));
            one("fading", kinds.fading.read(state)?.map(|number| format!("{number:?}")));
            let list = kinds.fading_list.read(state)?;
            one("fading list", Some(list).filter(|list| !list.is_empty()).map(|list| format!("{list:?}")));
            let mut map = kinds.fading_map.entries(state)?;
            map.sort_unstable();
            one("fading map", Some(map).filter(|map| !map.is_empty()).map(|map| format!("{map:?}")));
            one("fading sum", kinds.fading_sum.read(state)?.map(|sum| format!("{sum:?}")));
            one("seen", kinds.seen.read(state)?.map(|index| format!("{index:?}")));
            for namespace in 0..NAMESPACES {
                let bytes = Workload::namespace(namespace);
                let state = &mut state.in_namespace(&bytes);
                if let Some(text) = kinds.text.read(state)? {
                    put(content, ("text", key, namespace), &digest(&text));
                }
                let ordered = kinds.ordered.entries(state)?;
                if !ordered.is_empty() {
                    put(content, ("ordered", key, namespace), &ordered);
                }
            }
        }
        self.observe_timers(&groups, content)
    }

    /// Adds the timers from their rows, and a difference to their queue, if any.
    fn observe_timers(&mut self, groups: &KeyGroupSet, content: &mut Content) -> Result<()> {
        let mut rows = Vec::new();
        self.task.state().backend_mut().scan(self.timers.table(), groups, &[], |entry| {
            let namespace = entry.namespace.last().map_or(0, |last| *last);
            rows.push((key_number(entry.key), namespace, entry.sub.to_vec()));
            true
        })?;
        let mut times = Vec::new();
        for (key, namespace, sub) in rows {
            let at: i64 = Ordered.decode(&sub)?;
            times.push((key, namespace, at));
        }
        times.sort_unstable();
        let queued = (self.timers.len(), self.timers.next().map(Timestamp::as_millis));
        let expected = (times.len(), times.iter().map(|(_, _, at)| *at).min());
        if queued != expected {
            put(content, ("queue of timers", 0, 0), &(queued, expected));
        }
        for chunk in times.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let (key, namespace, _) = chunk[0];
            put(content, ("timers", key, namespace), &chunk.iter().map(|(_, _, at)| *at).collect::<Vec<_>>());
        }
        Ok(())
    }

    pub(crate) fn operator_states(&mut self) -> Result<OperatorStates> {
        let state = self.task.operator_state();
        let mut broadcast = self.broadcast.iter(state)?.collect::<Result<Vec<_>>>()?;
        broadcast.sort_unstable();
        Ok(OperatorStates { items: self.items.get(state)?, union: self.union.get(state)?, broadcast })
    }
}

/// The operator states of a subtask.
pub(crate) struct OperatorStates {
    /// The subtask's own list.
    pub(crate) items: Vec<u64>,
    /// The subtask's share; the whole list right after a restore.
    pub(crate) union: Vec<u64>,
    pub(crate) broadcast: Vec<(u32, u64)>,
}

/// Returns the key number encoded in the bytes of a key.
fn key_number(bytes: &[u8]) -> u16 {
    let text = std::str::from_utf8(bytes).expect("keys are text");
    text.rsplit('-').next().filter(|number| !number.is_empty()).map_or(0, |number| number.parse().expect("a number"))
}
