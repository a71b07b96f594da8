//! Point read-modify-writes and seals of the log backend, compared with a plain hash map without snapshots and, to show
//! the gain of blocks in huge pages, with the backend on the allocator's memory alone.
//!
//! 16-byte keys in random order, 100-byte values; one read-modify-write reads the value, adds 1 to its first 8 bytes
//! and writes it back. A seal is timed without the writes before it and the drop after it.

use std::hint::black_box;

use alluvium::backend::{Change, RowRef, StateBackend, Write};
use alluvium::{KeyGroupSet, LogBackend, MemoryBudget, TableId};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use alluvium_testkit::bench::{self, GROUPS, PARTITIONER, key, mixed};

const BATCH: usize = 10_000;

/// Returns batches of uniformly drawn keys, so that drawing is not timed.
fn draws(keys: u64) -> impl Iterator<Item = Vec<[u8; 16]>> {
    let mut next = 0;
    std::iter::repeat_with(move || {
        let batch = (next..next + BATCH as u64).map(|draw| key(mixed(draw) % keys)).collect();
        next += BATCH as u64;
        batch
    })
}

fn bump(value: &mut [u8]) {
    if let Some(counter) = value.first_chunk_mut() {
        *counter = u64::from_le_bytes(*counter).wrapping_add(1).to_le_bytes();
    }
}

fn on_heap() -> LogBackend {
    LogBackend::on_heap(KeyGroupSet::all(GROUPS), PARTITIONER, MemoryBudget::new(u64::MAX))
}

struct Log {
    backend: LogBackend,
    epoch: u64,
}

impl Log {
    fn loaded(backend: LogBackend, keys: u64) -> Self {
        let mut log = Self { backend, epoch: 0 };
        for number in 0..keys {
            let bytes = key(number);
            let key = PARTITIONER.locate(&bytes, 0, GROUPS);
            let row = RowRef { table: TableId(0), key: &key, namespace: &[], sub: &[] };
            log.backend.write(row, Write::Put(&[7; 100])).unwrap();
        }
        drop(log.seal());
        log
    }

    fn rmw(&mut self, bytes: &[u8]) {
        let key = PARTITIONER.locate(bytes, 0, GROUPS);
        let row = RowRef { table: TableId(0), key: &key, namespace: &[], sub: &[] };
        let update = |value: Option<&[u8]>, scratch: &mut Vec<u8>| {
            scratch.extend_from_slice(value.unwrap_or_default());
            bump(scratch);
            (Change::Put, ())
        };
        self.backend.update(row, update).unwrap();
    }

    fn seal(&mut self) -> alluvium::backend::Sealed {
        self.epoch += 1;
        bench::seal(&mut self.backend, self.epoch)
    }
}

fn read_modify_write(c: &mut Criterion) {
    let mut group = c.benchmark_group("rmw");
    group.throughput(Throughput::Elements(BATCH as u64));
    for keys in [100_000, 1_000_000] {
        let mut draw = draws(keys);
        for (name, backend) in [("log", bench::backend()), ("log on heap", on_heap())] {
            let mut log = Log::loaded(backend, keys);
            group.bench_function(BenchmarkId::new(name, keys), |b| {
                let batch = || draw.next().unwrap();
                b.iter_batched(batch, |batch| batch.iter().for_each(|key| log.rmw(key)), BatchSize::LargeInput);
            });
        }
        let mut map = hashbrown::HashMap::with_capacity_and_hasher(
            usize::try_from(keys).unwrap(),
            foldhash::fast::FixedState::with_seed(1),
        );
        map.extend((0..keys).map(|number| (key(number), Box::<[u8]>::from([7; 100]))));
        group.bench_function(BenchmarkId::new("map", keys), |b| {
            let batch = || draw.next().unwrap();
            let mut rmw = |key: &[u8; 16]| bump(black_box(map.get_mut(key).unwrap()));
            b.iter_batched_ref(batch, |batch| batch.iter().for_each(&mut rmw), BatchSize::LargeInput);
        });
    }
    group.finish();
}

/// Read-modify-writes that each touch their row for the first time since a seal, and the seals.
fn first_touch(c: &mut Criterion) {
    let keys = 1_000_000;
    let mut group = c.benchmark_group("first touch");
    group.throughput(Throughput::Elements(keys / 10)).sample_size(20);
    for (name, backend) in [("log", bench::backend()), ("log on heap", on_heap())] {
        let mut log = Log::loaded(backend, keys);
        let mut next = 0;
        group.bench_function(BenchmarkId::new(name, keys), |b| {
            b.iter(|| {
                (next..next + keys / 10).for_each(|number| log.rmw(&key(number * 611_953 % keys)));
                next += keys / 10;
                log.seal()
            });
        });
    }
    group.finish();
}

fn seal(c: &mut Criterion) {
    let keys = 1_000_000;
    let mut log = Log::loaded(bench::backend(), keys);
    let mut group = c.benchmark_group("seal");
    group.sample_size(10);
    for dirty in [keys / 100, keys] {
        group.bench_function(BenchmarkId::new("dirty rows", dirty), |b| {
            let log = std::cell::RefCell::new(&mut log);
            let dirtied = || (0..dirty).for_each(|number| log.borrow_mut().rmw(&key(number)));
            b.iter_batched(dirtied, |()| log.borrow_mut().seal(), BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group!(benches, read_modify_write, first_touch, seal);
criterion_main!(benches);
