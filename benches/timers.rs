//! A million timers registered and fired on the log backend, each under its own key; compared with their rows alone,
//! and with ordered collections of the standard library that hold the same timers without rows.
//!
//! 16-byte keys in random order, no namespaces; times are ascending, scattered, or shared by a thousand timers each.
//! One seal halfway through registering and one halfway through firing, both timed: half of the fired rows are frozen,
//! so removing them writes tombstones.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use alluvium::backend::{Change, RowRef, StateBackend, TableRules};
use alluvium::{KeyGroupSet, KeyedState, LogBackend, Schema, TableId, Tables, TimeDomain, Timers, Timestamp};
use criterion::{
    BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};

use alluvium_testkit::bench::{self, GROUPS, PARTITIONER, key, mixed};

const TIMERS: usize = 1_000_000;

/// Maps a timer's number to its time.
type Time = fn(u64) -> i64;

/// A timer in the plain collections.
type Plain = (i64, u16, Box<[u8]>);

/// Returns the timers in order of registration.
fn drawn(time: Time) -> Vec<(i64, [u8; 16])> {
    (0..TIMERS as u64).map(|number| (time(number), key(number))).collect()
}

fn backend() -> LogBackend {
    let mut backend = bench::backend();
    backend.define(TableId(0), TableRules { by_key: false, ..TableRules::default() });
    backend
}

fn seal(backend: &mut impl StateBackend, epoch: u64) {
    drop(bench::seal(backend, epoch));
}

struct Job {
    state: KeyedState<LogBackend>,
    timers: Timers,
}

impl Job {
    fn new() -> Self {
        let mut state = KeyedState::new(backend(), PARTITIONER, GROUPS, Tables::new(Schema::new("bytes")));
        let timers = state.timers("timers", TimeDomain::Event, Schema::unit()).unwrap();
        Self { state, timers }
    }

    fn register(&mut self, drawn: &[(i64, [u8; 16])]) {
        for (number, (at, key)) in drawn.iter().enumerate() {
            self.state.set_key(key).unwrap();
            assert!(self.timers.register(&mut self.state, &[], Timestamp::from_millis(*at)).unwrap());
            if number == TIMERS / 2 {
                seal(self.state.backend_mut(), 1);
            }
        }
        assert_eq!(self.timers.len(), TIMERS);
    }

    fn fire(&mut self) {
        let mut fired = 0;
        let mut last = Timestamp::MIN;
        while let Some(timer) = self.timers.pop_due(&mut self.state, Timestamp::MAX).unwrap() {
            assert!(last <= timer.timestamp());
            last = timer.timestamp();
            fired += 1;
            if fired == TIMERS / 2 {
                seal(self.state.backend_mut(), 2);
            }
        }
        assert_eq!((fired, self.state.backend().stats().rows), (TIMERS, 0));
    }
}

/// Writes or removes only the rows, in the order of `drawn`.
fn rows(backend: &mut LogBackend, drawn: &[(i64, [u8; 16])], change: Change) {
    for (number, (at, key)) in drawn.iter().enumerate() {
        let key = PARTITIONER.locate(key, 0, GROUPS);
        let sub = at.wrapping_sub(i64::MIN).to_be_bytes();
        let row = RowRef { table: TableId(0), key: &key, namespace: &[], sub: &sub };
        let found = backend.update(row, |stored, _| (change, stored.is_some())).unwrap();
        assert_eq!(found, change == Change::Delete);
        if number == TIMERS / 2 {
            seal(backend, if found { 2 } else { 1 });
        }
    }
}

/// Times `register` from nothing, and `fire` on its result.
fn both<T>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, register: impl Fn() -> T, fire: impl Fn(T) -> T) {
    group.bench_function(format!("register/{name}"), |b| {
        b.iter_batched(|| (), |()| register(), BatchSize::PerIteration)
    });
    group.bench_function(format!("fire/{name}"), |b| b.iter_batched(&register, &fire, BatchSize::PerIteration));
}

fn timers(c: &mut Criterion) {
    let shapes: [(&str, Time); 3] = [
        ("rising", |n| n.cast_signed()),
        ("scattered", |n| (mixed(n) >> 30).cast_signed()),
        ("shared", |n| (mixed(n) % 1000).cast_signed()),
    ];
    for (shape, time) in shapes {
        let drawn = drawn(time);
        let mut due = drawn.clone();
        due.sort_unstable();
        let mut group = c.benchmark_group(shape);
        group.sample_size(10).throughput(Throughput::Elements(TIMERS as u64));
        let register = || {
            let mut job = Job::new();
            job.register(&drawn);
            job
        };
        let fire = |mut job: Job| {
            job.fire();
            job
        };
        both(&mut group, "timers on log", register, fire);
        let write = || {
            let mut backend = backend();
            rows(&mut backend, &drawn, Change::Put);
            backend
        };
        let remove = |mut backend: LogBackend| {
            rows(&mut backend, &due, Change::Delete);
            backend
        };
        both(&mut group, "rows alone on log", write, remove);
        let plain = || {
            let group = |key: &[u8]| PARTITIONER.locate(key, 0, GROUPS).group.0;
            drawn.iter().map(move |(at, key)| -> Plain { (*at, group(key), key.as_slice().into()) })
        };
        let empty_set = |mut set: BTreeSet<Plain>| {
            while set.pop_first().is_some() {}
            set
        };
        let fill_set = || {
            let mut set = BTreeSet::new();
            plain().for_each(|timer| assert!(set.insert(timer)));
            set
        };
        both(&mut group, "plain BTreeSet", fill_set, empty_set);
        let empty_heap = |mut heap: BinaryHeap<Reverse<Plain>>| {
            while heap.pop().is_some() {}
            heap
        };
        let fill_heap = || {
            let mut heap = BinaryHeap::new();
            plain().for_each(|timer| heap.push(Reverse(timer)));
            heap
        };
        both(&mut group, "plain BinaryHeap", fill_heap, empty_heap);
        group.finish();
    }
}

fn rebuild(c: &mut Criterion) {
    let mut job = Job::new();
    job.register(&drawn(|n| (mixed(n) >> 30).cast_signed()));
    let mut group = c.benchmark_group("rebuild");
    group.sample_size(10).throughput(Throughput::Elements(TIMERS as u64));
    let all = KeyGroupSet::all(GROUPS);
    group.bench_function("scattered", |b| b.iter(|| job.timers.rebuild(&mut job.state, &all).unwrap()));
    group.finish();
}

criterion_group!(benches, timers, rebuild);
criterion_main!(benches);
