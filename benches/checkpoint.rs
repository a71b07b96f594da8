//! Encodes a backend's sealed rows and loads them again: bytes of keys and values per second.
//!
//! ```sh
//! cargo bench --bench checkpoint
//! ```
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark fails by panicking")]

use std::hint::black_box;

use alluvium::backend::{Cut, Part, RowRef, Sealed, StateBackend, Write};
use alluvium::internals::segment::{EncodeOptions, SegmentRows, encode};
use alluvium::{Epoch, KeyGroupSet, LogBackend, MemoryBudget, Partitioner, TableId, Timestamp};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const GROUPS: u16 = 128;
const ROWS: u64 = 100_000;
const KEY_BYTES: u64 = 16;
const VALUE_BYTES: u64 = 100;
const PARTITIONER: Partitioner = Partitioner::Range { seed: 1 };

fn backend(groups: KeyGroupSet) -> LogBackend {
    LogBackend::new(groups, PARTITIONER, MemoryBudget::new(u64::MAX))
}

/// Returns a backend's first seal: all rows, with half of each value random and half a pattern.
fn sealed() -> Sealed {
    let mut backend = backend(KeyGroupSet::all(GROUPS));
    for number in 0..ROWS {
        let hash = blake3::hash(&number.to_le_bytes());
        let random = hash.as_bytes();
        let value = [&random[..], &random[..18], &[b'x'; 50]].concat();
        let key = PARTITIONER.locate(&random[16..], 0, GROUPS);
        let row = RowRef { table: TableId(0), key: &key, namespace: &[], sub: &[] };
        backend.write(row, Write::Put(&value)).unwrap();
    }
    let (event_time, processing_time) = (Timestamp::MIN, Timestamp::MIN);
    let cut = Cut { epoch: Epoch(1), part: Part(0), event_time, processing_time };
    backend.seal(cut, &KeyGroupSet::empty()).unwrap()
}

fn checkpoint(criterion: &mut Criterion) {
    let sealed = sealed();
    let part = &sealed.parts[0];
    let mut group = criterion.benchmark_group("checkpoint of 100,000 rows");
    group.throughput(Throughput::Bytes(ROWS * (KEY_BYTES + VALUE_BYTES))).sample_size(20);
    group.bench_function("encode", |bencher| {
        bencher.iter(|| black_box(encode(part, EncodeOptions::default()).unwrap()));
    });
    let encoded = encode(part, EncodeOptions::default()).unwrap();
    group.bench_function("load", |bencher| {
        bencher.iter(|| {
            let rows = SegmentRows::open(encoded.bytes.clone(), &encoded.index_hash).unwrap();
            let mut backend = backend(KeyGroupSet::empty());
            backend.load(&rows, &part.groups).unwrap();
            assert_eq!(backend.stats().rows, ROWS);
        });
    });
    group.finish();
}

criterion_group!(benches, checkpoint);
criterion_main!(benches);
