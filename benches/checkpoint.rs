//! Encodes a backend's sealed rows and loads them again, without a store: time per row.
//!
//! ```sh
//! cargo bench --bench checkpoint -- [ROWS] [ROUNDS]
//! ```
//!
//! Rows have keys of 16 bytes and values of 100, half of them random. Loaded are a base, and a base with 20 deltas of a
//! tenth of the rows each. Printed are the median and the range of all rounds, in nanoseconds per row of the state.
#![expect(clippy::print_stdout, reason = "prints figures")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark fails by panicking")]
#![expect(clippy::cast_precision_loss, reason = "fewer than 2^53 nanoseconds")]
#![expect(clippy::disallowed_methods, reason = "measures time")]

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use alluvium::backend::{Cut, Part, RowRef, SealedPart, StateBackend, Write};
use alluvium::internals::row::{RowSource, Stack};
use alluvium::internals::segment::{EncodeOptions, Encoded, SegmentRows, encode};
use alluvium::{Epoch, KeyGroupRange, KeyGroupSet, LogBackend, MemoryBudget, Partitioner, TableId, Timestamp};

const GROUPS: u16 = 128;
const DELTAS: u64 = 20;
const PARTITIONER: Partitioner = Partitioner::Range { seed: 1 };

fn backend(groups: KeyGroupSet) -> LogBackend {
    LogBackend::new(groups, PARTITIONER, MemoryBudget::new(u64::MAX))
}

fn put(backend: &mut LogBackend, number: u64, version: u64) {
    let id = blake3::hash(&number.to_le_bytes());
    let hash = blake3::hash(&[number.to_le_bytes(), version.to_le_bytes()].concat());
    let random = hash.as_bytes();
    let value = [&random[..], &random[..18], &[b'x'; 50]].concat();
    let key = PARTITIONER.locate(&id.as_bytes()[16..], 0, GROUPS);
    let row = RowRef { table: TableId(0), key: &key, namespace: &[], sub: &[] };
    backend.write(row, Write::Put(&value)).unwrap();
}

fn seal(backend: &mut LogBackend, epoch: u64) -> SealedPart {
    let (event_time, processing_time) = (Timestamp::MIN, Timestamp::MIN);
    let cut = Cut { epoch: Epoch(epoch), part: Part(0), event_time, processing_time };
    backend.seal(cut, &KeyGroupSet::empty()).unwrap().parts.remove(0)
}

/// Encodes the groups of a part on two threads.
fn encode_halves(part: &SealedPart) -> [Encoded; 2] {
    let halves = [KeyGroupRange::new(0, GROUPS / 2), KeyGroupRange::new(GROUPS / 2, GROUPS)];
    let halves = halves.map(|groups| SealedPart { groups: groups.into(), ..part.clone() });
    thread::scope(|scope| {
        let encoders = halves.each_ref().map(|half| scope.spawn(|| encode(half, EncodeOptions::default()).unwrap()));
        encoders.map(|encoder| encoder.join().unwrap())
    })
}

/// Returns segments as a source; each is verified again, as a restore does.
fn open(segments: &[Encoded]) -> Stack {
    let open = |encoded: &Encoded| SegmentRows::open(encoded.bytes.clone(), &encoded.index_hash).unwrap();
    Stack::new(segments.iter().map(|encoded| -> Arc<dyn RowSource> { Arc::new(open(encoded)) }).collect())
}

/// Runs `work` and prints its time per row.
fn measure<T>(name: &str, rows: u64, rounds: usize, mut work: impl FnMut() -> T) {
    let mut times: Vec<_> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            let made = work();
            let time = start.elapsed().as_nanos() as f64 / rows as f64;
            drop(made);
            time
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{name:<36} {:6.0} ns a row  [{:.0} to {:.0}]", times[rounds / 2], times[0], times[rounds - 1]);
}

fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let (rows, rounds) = (numbers.first().map_or(1_000_000, |rows| *rows), numbers.get(1).map_or(5, |rounds| *rounds));
    let rounds = usize::try_from(rounds).unwrap().max(1);
    let mut state = backend(KeyGroupSet::all(GROUPS));
    (0..rows).for_each(|number| put(&mut state, number, 0));
    let base = seal(&mut state, 1);
    measure("encode everything", rows, rounds, || encode(&base, EncodeOptions::default()).unwrap());
    measure("encode everything, threads: 2", rows, rounds, || encode_halves(&base));
    let mut segments = vec![encode(&base, EncodeOptions::default()).unwrap()];
    let bytes = segments[0].bytes.len() as u64;
    println!("{:<36} {:6} bytes a row", "segment", bytes / rows);
    for epoch in 2..2 + DELTAS {
        (0..rows / 10).for_each(|at| put(&mut state, (at * 7_919 + epoch * 104_729) % rows, epoch));
        segments.push(encode(&seal(&mut state, epoch), EncodeOptions::default()).unwrap());
    }
    drop((state, base));
    measure("verify a base", rows, rounds, || open(&segments[..1]));
    for (state, segments) in [("base", &segments[..1]), ("base and 20 deltas", &segments[..])] {
        let source = open(segments);
        for threads in [1, 2] {
            measure(&format!("load {state}, threads: {threads}"), rows, rounds, || {
                let mut backend = backend(KeyGroupSet::empty()).with_load_threads(NonZeroUsize::new(threads).unwrap());
                backend.load(&source, &KeyGroupSet::all(GROUPS)).unwrap();
                assert_eq!(backend.stats().rows, rows);
                backend
            });
        }
    }
}
