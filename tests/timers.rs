//! Timers on every backend and partitioner: each fires once, in order, across seals, crashes and rescales.

use std::collections::{BTreeMap, BTreeSet};

use alluvium::backend::conformance::History;
use alluvium::backend::{CheckpointTimes, Cut, Part, StateBackend};
use alluvium::internals::segment::{EncodeOptions, SegmentIndex, encode};
use alluvium::manifest::TableSchema;
use alluvium::offline::RowTypes;
use alluvium::{
    Epoch, ErrorKind, Fixed, KeyGroup, KeyGroupSet, KeyedState, LogBackend, MemoryBudget, Outcome, OverlayBackend,
    Partitioner, Schema, Tables, TimeDomain, Timers, Timestamp, owner, subtask_range,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const GROUPS: u16 = 11;
const RANGE: Partitioner = Partitioner::Range { seed: 3 };

/// Returns the operator's tables, restored from `stored`.
fn tables(stored: Vec<TableSchema>) -> Tables {
    let at = Timestamp::MIN;
    Tables::restored(Schema::new("u16le"), stored, CheckpointTimes { event_time: at, processing_time: at })
}

fn log(groups: KeyGroupSet, partitioner: Partitioner) -> LogBackend {
    LogBackend::new(groups, partitioner, MemoryBudget::new(u64::MAX))
}

fn overlay(groups: KeyGroupSet, _: Partitioner) -> OverlayBackend {
    OverlayBackend::new(groups, MemoryBudget::new(u64::MAX))
}

/// The model's timers, in firing order.
type Model = BTreeSet<(i64, KeyGroup, Vec<u8>, Vec<u8>)>;

struct Subtask<B> {
    state: KeyedState<B>,
    timers: Timers,
}

impl<B: StateBackend> Subtask<B> {
    fn new(backend: B, partitioner: Partitioner, restored: Vec<TableSchema>) -> Self {
        let mut state = KeyedState::new(backend, partitioner, GROUPS, tables(restored));
        // Rows of another table, so that timers have neighbours in the backend.
        state.value::<u64, _>("fired", Fixed).unwrap();
        let timers = state.timers("timers", TimeDomain::Event, Schema::new("bytes")).unwrap();
        Self { state, timers }
    }
}

/// The subtasks of one operator, and their sealed parts.
struct World<B> {
    make: fn(KeyGroupSet, Partitioner) -> B,
    partitioner: Partitioner,
    subtasks: Vec<Subtask<B>>,
    history: History,
    tables: Vec<TableSchema>,
    epoch: u64,
    model: Model,
    sealed: Model,
}

#[derive(Debug, Clone)]
enum Step {
    Register(u16, u8, i64),
    Delete(u16, u8, i64),
    /// Advances to this time and fires at most this many timers per subtask.
    Advance(i64, usize),
    Seal {
        bases: u16,
        commit: bool,
    },
    /// Restores the last seal at this parallelism.
    Crash(u32),
    /// Moves groups between the living subtasks and new ones.
    Rescale(u32),
}

fn range(parallelism: u32, subtask: u32) -> KeyGroupSet {
    subtask_range(GROUPS, parallelism, subtask).into()
}

/// Returns the routing hash that an engine would pass for a key.
fn routing(key: u16) -> u64 {
    u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Returns a namespace; lengths differ so that the queue keeps some timers inline and some not.
fn namespace(number: u8) -> Vec<u8> {
    vec![number; usize::from(number) * 20]
}

/// Returns the time at which a fired timer registers itself again, if at all; it may be due already.
fn follow_up(at: i64) -> Option<i64> {
    (at % 3 == 0).then(|| at.saturating_add(4)).filter(|next| *next > at)
}

impl<B: StateBackend> World<B> {
    fn new(make: fn(KeyGroupSet, Partitioner) -> B, partitioner: Partitioner, parallelism: u32) -> Self {
        let subtask = |i| Subtask::new(make(range(parallelism, i), partitioner), partitioner, vec![]);
        let subtasks: Vec<_> = (0..parallelism).map(subtask).collect();
        let tables = subtasks[0].state.tables().schemas().to_vec();
        let (history, model) = (History::default(), Model::new());
        Self { make, partitioner, subtasks, history, tables, epoch: 0, sealed: model.clone(), model }
    }

    /// Sets the current key in the subtask that owns it.
    fn at_key(&mut self, key: u16) -> (&mut Subtask<B>, KeyGroup) {
        let bytes = key.to_le_bytes();
        let group = self.partitioner.locate(&bytes, routing(key), GROUPS).group;
        let parallelism = u32::try_from(self.subtasks.len()).unwrap();
        let subtask = &mut self.subtasks[owner(GROUPS, parallelism, group) as usize];
        subtask.state.set_key_routed(&bytes, routing(key));
        (subtask, group)
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Register(key, number, at) => {
                let ns = namespace(number);
                let (Subtask { state, timers }, group) = self.at_key(key);
                let new = timers.register(state, &ns, Timestamp::from_millis(at)).unwrap();
                assert_eq!(new, self.model.insert((at, group, key.to_le_bytes().to_vec(), ns)));
            }
            Step::Delete(key, number, at) => {
                let ns = namespace(number);
                let (Subtask { state, timers }, group) = self.at_key(key);
                let found = timers.delete(state, &ns, Timestamp::from_millis(at)).unwrap();
                assert_eq!(found, self.model.remove(&(at, group, key.to_le_bytes().to_vec(), ns)));
            }
            Step::Advance(to, limit) => self.advance(to, limit),
            Step::Seal { bases, commit } => self.seal(bases, commit),
            Step::Crash(parallelism) => {
                let tables = self.tables.clone();
                let restored = |i| {
                    let mut backend = (self.make)(KeyGroupSet::empty(), self.partitioner);
                    backend.load(&self.history, &range(parallelism, i)).unwrap();
                    Subtask::new(backend, self.partitioner, tables.clone())
                };
                self.subtasks = (0..parallelism).map(restored).collect();
                self.model.clone_from(&self.sealed);
            }
            Step::Rescale(parallelism) => {
                self.seal(0, false);
                self.rescale(parallelism);
            }
        }
        let waiting: usize = self.subtasks.iter().map(|subtask| subtask.timers.len()).sum();
        assert_eq!(waiting, self.model.len());
        let next = self.subtasks.iter().filter_map(|subtask| subtask.timers.next()).min();
        assert_eq!(next.map(Timestamp::as_millis), self.model.first().map(|timer| timer.0));
    }

    fn advance(&mut self, to: i64, limit: usize) {
        let mut fired = Vec::new();
        for Subtask { state, timers } in &mut self.subtasks {
            let mut last = None;
            for _ in 0..limit {
                let Some(timer) = timers.pop_due(state, Timestamp::from_millis(to)).unwrap() else { break };
                let at = timer.timestamp().as_millis();
                let place = (at, timer.group(), timer.key().to_vec(), timer.namespace().to_vec());
                assert!(last < Some(place.clone()), "{last:?} before {place:?}");
                last = Some(place.clone());
                fired.push(place);
                if let Some(next) = follow_up(at) {
                    timers.register(state, timer.namespace(), Timestamp::from_millis(next)).unwrap();
                }
            }
            if limit == usize::MAX {
                assert!(timers.next().is_none_or(|next| next.as_millis() > to));
            }
        }
        for place in fired {
            assert!(place.0 <= to);
            if let Some(next) = follow_up(place.0) {
                self.model.insert((next, place.1, place.2.clone(), place.3.clone()));
            }
            assert!(self.model.remove(&place), "{place:?} fired but was not registered");
        }
        if limit == usize::MAX {
            assert!(self.model.first().is_none_or(|first| first.0 > to), "{:?} did not fire", self.model.first());
        }
    }

    fn seal(&mut self, bases: u16, commit: bool) {
        self.epoch += 1;
        let (epoch, at) = (Epoch(self.epoch), Timestamp::default());
        let cut = Cut { epoch, part: Part(0), event_time: at, processing_time: at };
        for Subtask { state, .. } in &mut self.subtasks {
            let backend = state.backend_mut();
            let bases = backend.groups().iter().filter(|group| bases >> group.0 & 1 == 1).collect();
            self.history.add(backend.seal(cut, &bases).unwrap());
            backend.settle(epoch, if commit { Outcome::Commit } else { Outcome::Abort }).unwrap();
        }
        self.sealed.clone_from(&self.model);
    }

    /// Each subtask drops its lost groups and loads its gained ones.
    fn rescale(&mut self, parallelism: u32) {
        let (make, partitioner, tables) = (self.make, self.partitioner, self.tables.clone());
        let new = || Subtask::new(make(KeyGroupSet::empty(), partitioner), partitioner, tables.clone());
        self.subtasks.resize_with(parallelism as usize, new);
        for (i, Subtask { state, timers }) in (0..).zip(&mut self.subtasks) {
            let (wanted, owned) = (range(parallelism, i), state.backend().groups().clone());
            let (lost, gained) = (owned.difference(&wanted), wanted.difference(&owned));
            state.backend_mut().drop_groups(&lost).unwrap();
            state.backend_mut().load(&self.history, &gained).unwrap();
            if owned != wanted {
                let stale = timers.pop_due(state, Timestamp::MAX).unwrap_err();
                assert_eq!(stale.kind(), ErrorKind::Usage);
            }
            timers.rebuild(state, &lost.union(&gained)).unwrap();
        }
    }
}

/// Takes the steps on every backend under every partitioner, then fires all remaining timers.
fn run(parallelism: u32, steps: &[Step]) {
    fn each<B: StateBackend>(make: fn(KeyGroupSet, Partitioner) -> B, parallelism: u32, steps: &[Step]) {
        for partitioner in [RANGE, Partitioner::Flink, Partitioner::External] {
            let mut world = World::new(make, partitioner, parallelism);
            let end = [Step::Rescale(3), Step::Crash(2), Step::Advance(i64::MAX, usize::MAX)];
            steps.iter().chain(&end).for_each(|step| world.take(step));
            let rows: u64 = world.subtasks.iter().map(|subtask| subtask.state.backend().stats().rows).sum();
            assert_eq!((rows, world.model.len()), (0, 0));
        }
    }
    each(log, parallelism, steps);
    each(overlay, parallelism, steps);
}

fn times() -> impl Strategy<Value = i64> {
    prop_oneof![20 => -60i64..60, 1 => Just(i64::MIN), 1 => Just(i64::MAX), 2 => any::<i64>()]
}

fn steps() -> impl Strategy<Value = Step> {
    let timer = || (0u16..40, 0u8..3, times());
    prop_oneof![
        40 => timer().prop_map(|(key, ns, at)| Step::Register(key, ns, at)),
        15 => timer().prop_map(|(key, ns, at)| Step::Delete(key, ns, at)),
        4 => (-80i64..80).prop_map(|to| Step::Advance(to, usize::MAX)),
        4 => (-80i64..80, 0usize..5).prop_map(|(to, limit)| Step::Advance(to, limit)),
        4 => (prop_oneof![Just(0), any::<u16>()], any::<bool>()).prop_map(|(bases, commit)| Step::Seal { bases, commit }),
        2 => (1u32..=4).prop_map(Step::Crash),
        2 => (1u32..=4).prop_map(Step::Rescale),
    ]
}

fn config() -> ProptestConfig {
    let widened = std::env::vars().any(|(name, _)| name.starts_with("PROPTEST_"));
    let rng_seed = if widened { ProptestConfig::default().rng_seed } else { RngSeed::Fixed(1) };
    let cases = if widened { ProptestConfig::default().cases } else { 64 };
    ProptestConfig { cases, rng_seed, failure_persistence: None, max_shrink_iters: 2000, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn timers_behave_as_a_set_and_fire_once(
        parallelism in 1u32..=4,
        steps in proptest::collection::vec(steps(), 1..200),
    ) {
        run(parallelism, &steps);
    }
}

#[test]
fn f01_every_rescale_keeps_every_timer() {
    for from in 1..=4 {
        for to in 1..=4 {
            let timers = (0..300).map(|n: u16| Step::Register(n % 60, u8::from(n.is_multiple_of(7)), i64::from(n / 3)));
            let mut steps: Vec<_> = timers.collect();
            let seal = Step::Seal { bases: 0b101, commit: true };
            steps.extend([seal.clone(), Step::Advance(40, usize::MAX), seal, Step::Advance(50, usize::MAX)]);
            steps.extend([Step::Crash(to), Step::Advance(60, 7), Step::Rescale(from), Step::Advance(70, usize::MAX)]);
            run(from, &steps);
        }
    }
}

#[test]
fn extreme_times_keep_their_order() {
    let times = [i64::MAX, 0, i64::MIN, -1, i64::MIN + 1, i64::MAX - 1, 1];
    let mut steps: Vec<_> = times.into_iter().map(|at| Step::Register(1, 0, at)).collect();
    steps.extend([Step::Advance(i64::MIN, usize::MAX), Step::Seal { bases: 0, commit: true }, Step::Crash(1)]);
    run(2, &steps);
}

fn single() -> Subtask<LogBackend> {
    Subtask::new(log(KeyGroupSet::all(GROUPS), RANGE), RANGE, vec![])
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

#[test]
fn firing_sets_the_key_and_due_timers_registered_meanwhile_fire() {
    let Subtask { mut state, mut timers } = single();
    for key in [1u16, 2] {
        state.set_key(&key.to_le_bytes()).unwrap();
        assert!(timers.register(&mut state, b"w", at(10)).unwrap());
        assert!(!timers.register(&mut state, b"w", at(10)).unwrap(), "registered already");
        assert!(timers.register(&mut state, b"v", at(10)).unwrap(), "another namespace");
    }
    assert!(timers.delete(&mut state, b"v", at(10)).unwrap());
    assert!(!timers.delete(&mut state, b"v", at(10)).unwrap());
    assert_eq!(timers.pop_due(&mut state, at(9)).unwrap(), None);
    let mut fired = Vec::new();
    while let Some(timer) = timers.pop_due(&mut state, at(20)).unwrap() {
        let next = timer.timestamp().after(std::time::Duration::from_millis(5));
        assert!(timers.register(&mut state, timer.namespace(), next).unwrap());
        fired.push((timer.timestamp().as_millis(), timer.key()[0], timer.namespace().to_vec()));
    }
    let count = |at: i64| fired.iter().filter(|timer| timer.0 == at).count();
    assert_eq!((count(10), count(15), count(20), fired.len()), (3, 3, 3, 9));
    assert!(fired.is_sorted_by_key(|timer| timer.0));
    assert_eq!((timers.len(), timers.next()), (3, Some(at(25))));
}

#[test]
fn a_seal_between_registrations_neither_loses_nor_repeats_timers() {
    let mut world = World::new(log, RANGE, 1);
    let register = |n: u16| Step::Register(n % 5000, 0, i64::from(n.wrapping_mul(40_503)));
    let all: Vec<_> = (0..20_000).map(register).collect();
    let (first, second) = all.split_at(10_000);
    first.iter().for_each(|step| world.take(step));
    world.take(&Step::Seal { bases: 0, commit: true });
    second.iter().for_each(|step| world.take(step));
    world.take(&Step::Advance(30_000, usize::MAX));
    world.take(&Step::Seal { bases: 0, commit: false });
    world.take(&Step::Advance(50_000, usize::MAX));
    world.take(&Step::Crash(3));
    world.take(&Step::Advance(i64::MAX - 4, usize::MAX));
    assert!(world.model.is_empty());
}

#[test]
fn a_timer_refused_by_the_budget_stays_due() {
    let budget = MemoryBudget::new(1 << 22);
    let backend = LogBackend::new(KeyGroupSet::all(GROUPS), RANGE, budget.clone());
    let Subtask { state, .. } = Subtask::new(backend, RANGE, vec![]);
    let mut state = state.with_budget(budget.clone());
    let mut timers = state.timers("charged", TimeDomain::Event, Schema::unit()).unwrap();
    state.set_key(b"ab").unwrap();
    let held = budget.held_bytes();
    (0..1000).for_each(|n| assert!(timers.register(&mut state, &[], at(n)).unwrap()));
    assert!(budget.held_bytes() >= held + timers.memory_bytes());
    let cut = Cut { epoch: Epoch(1), part: Part(0), event_time: at(0), processing_time: at(0) };
    let sealed = state.backend_mut().seal(cut, &KeyGroupSet::empty()).unwrap();
    let hog = budget.charge(1 << 22);
    // Removing a sealed row takes a tombstone.
    assert_eq!(timers.pop_due(&mut state, at(0)).unwrap_err().kind(), ErrorKind::Limit);
    assert_eq!(timers.delete(&mut state, &[], at(7)).unwrap_err().kind(), ErrorKind::Limit);
    assert_eq!(timers.register(&mut state, &[], at(5000)).unwrap_err().kind(), ErrorKind::Limit);
    assert_eq!((timers.len(), timers.next()), (1000, Some(at(0))));
    drop((hog, sealed));
    let mut fired = 0;
    while let Some(timer) = timers.pop_due(&mut state, Timestamp::MAX).unwrap() {
        assert_eq!(timer.timestamp(), at(fired));
        fired += 1;
    }
    assert_eq!((fired, timers.is_empty()), (1000, true));
    drop((state, timers));
    assert_eq!(budget.held_bytes(), 0);
}

#[test]
fn mistakes_are_refused_and_change_nothing() {
    let Subtask { mut state, mut timers } = single();
    let refused = timers.register(&mut state, &[], at(1)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Usage, "no key");
    let again = state.timers("timers", TimeDomain::Event, Schema::new("bytes")).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Usage, "declared twice");
    let mut plain = state.timers("plain", TimeDomain::Processing, Schema::unit()).unwrap();
    assert_eq!(plain.domain(), TimeDomain::Processing);
    state.set_key(b"ab").unwrap();
    let refused = plain.register(&mut state, b"w", at(1)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Usage, "no namespaces");
    let refused = timers.register(&mut state, &[0; 70_000], at(1)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Limit);
    state.backend_mut().drop_groups(&KeyGroupSet::all(GROUPS)).unwrap();
    let refused = timers.register(&mut state, &[], at(1)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Usage, "not owned");
    assert_eq!((timers.len(), plain.len()), (0, 0));
}

#[test]
fn the_time_domain_is_part_of_the_type() {
    let stored = single().state.tables().schemas().to_vec();
    let mut state = KeyedState::new(log(KeyGroupSet::all(GROUPS), RANGE), RANGE, GROUPS, tables(stored));
    let other = state.timers("timers", TimeDomain::Processing, Schema::new("bytes")).unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Config);
    for part in ["timer:event", "timer:processing"] {
        assert!(other.to_string().contains(part), "{other}");
    }
    let other = state.timers("timers", TimeDomain::Event, Schema::unit()).unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Config);
    let other = state.timers("fired", TimeDomain::Event, Schema::unit()).unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Config);
    assert!(state.timers("timers", TimeDomain::Event, Schema::new("bytes")).is_ok());
}

#[test]
fn cleared_timers_do_not_fire() {
    let Subtask { mut state, mut timers } = single();
    state.set_key(b"ab").unwrap();
    for window in [b"w", b"v"] {
        (0..10).for_each(|n| assert!(timers.register(&mut state, window, at(n)).unwrap()));
    }
    let key = RANGE.locate(b"ab", 0, GROUPS);
    let scope = alluvium::backend::Scope::KeyNamespace(&key, b"w");
    state.backend_mut().clear(timers.table(), scope).unwrap();
    let mut fired = 0;
    while let Some(timer) = timers.pop_due(&mut state, at(100)).unwrap() {
        assert_eq!(timer.namespace(), b"v");
        fired += 1;
    }
    assert_eq!((fired, timers.len()), (10, 0));
}

#[test]
fn tools_decode_the_rows_of_timers() {
    let Subtask { state, .. } = single();
    let types = RowTypes::of(state.tables().schemas().iter().find(|table| table.name == "timers").unwrap());
    let sub = (-5i64).wrapping_sub(i64::MIN).to_be_bytes();
    let row = alluvium::backend::RowKey::data(alluvium::TableId(1), &[1, 0], b"w", &sub);
    let place = types.place(&row).unwrap();
    assert_eq!((place.key.to_string(), place.sub.to_string()), ("1".to_owned(), "-5".to_owned()));
}

/// Asserts that the index of every sealed part tells the earliest timer of each of its groups.
fn earliest_timers_are_told<B: StateBackend>(make: fn(KeyGroupSet, Partitioner) -> B) {
    let all = KeyGroupSet::all(GROUPS);
    let mut stored = Vec::new();
    let mut put = BTreeMap::new();
    let mut seals = 0;
    // The second time the tables are restored, and the program declares none of them.
    for declared in [true, false] {
        let mut state = KeyedState::new(make(all.clone(), RANGE), RANGE, GROUPS, tables(stored.clone()));
        if declared {
            state.value::<u64, _>("other", Fixed).unwrap();
            let mut timers = state.timers("timers", TimeDomain::Event, Schema::unit()).unwrap();
            for (key, at) in [(1u16, 70), (2, -3), (3, 9), (4, 12), (5, i64::MAX), (6, 30), (7, 31)] {
                state.set_key(&key.to_le_bytes()).unwrap();
                timers.register(&mut state, &[], Timestamp::from_millis(at)).unwrap();
                let group = RANGE.locate(&key.to_le_bytes(), 0, GROUPS).group;
                let least = put.entry((timers.table(), group)).or_insert(at);
                *least = at.min(*least);
            }
            stored = state.tables().schemas().to_vec();
        } else {
            for ((table, group), at) in &put {
                let key = (1..8u16).map(u16::to_le_bytes).find(|key| RANGE.locate(key, 0, GROUPS).group == *group);
                let (key, sub) = (key.unwrap(), at.wrapping_sub(i64::MIN).to_be_bytes());
                let key = RANGE.locate(&key, 0, GROUPS);
                let row = alluvium::backend::RowRef { table: *table, key: &key, namespace: &[], sub: &sub };
                state.backend_mut().write(row, alluvium::backend::Write::Put(&[])).unwrap();
            }
        }
        for bases in [KeyGroupSet::empty(), all.clone()] {
            let cut = Cut { epoch: Epoch(1), part: Part(seals), event_time: at(0), processing_time: at(0) };
            let sealed = state.backend_mut().seal(cut, &bases).unwrap();
            seals += 1;
            assert_eq!(sealed.parts.len(), 1);
            let encoded = encode(&sealed.parts[0], EncodeOptions::default()).unwrap();
            let index = SegmentIndex::find(&encoded.bytes, None).unwrap();
            let told = index.earliest().iter().map(|timer| ((timer.table, timer.group), timer.at.as_millis()));
            assert_eq!(told.collect::<BTreeMap<_, _>>(), put, "declared: {declared}, bases: {bases}");
        }
    }
}

#[test]
fn segments_tell_the_earliest_timers_even_of_tables_that_nobody_declares() {
    earliest_timers_are_told(log);
    earliest_timers_are_told(overlay);
}

#[test]
fn malformed_timer_rows_are_corrupt() {
    let Subtask { mut state, timers } = single();
    let key = RANGE.locate(b"ab", 0, GROUPS);
    let table = timers.table();
    let row = alluvium::backend::RowRef { table, key: &key, namespace: &[], sub: &[1, 2, 3] };
    state.backend_mut().write(row, alluvium::backend::Write::Put(&[])).unwrap();
    let mut timers = timers;
    let error = timers.rebuild(&mut state, &KeyGroupSet::all(GROUPS)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}
