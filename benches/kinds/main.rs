//! Operations on each kind of state through its handle on the log backend, compared with plain collections without
//! snapshots. Timers have their own bench.
//!
//! 16-byte keys drawn uniformly, in the same order for all lanes of an operation; 8-byte numbers as values, elements
//! and sub-keys. A bench is named `kind/rows/operation/lane`:
//!
//! | lane | what is timed |
//! |---|---|
//! | `log` | one record at a time: its key is set, then the operation is done; all rows were written since the last seal |
//! | `log many` | 256 records at a time: their keys are located, then the form for many keys is called |
//! | `log sealed` | as `log`; with a seal, not timed, whenever a tenth of the rows were drawn: nearly every write is its row's first since a seal |
//! | `hashbrown` | a presized map of `hashbrown` with `foldhash`, by key |
//! | `hashbrown of ...` | the same, with a collection for each key |
//!
//! ```sh
//! cargo bench --bench kinds -- 'value/.*/read'
//! ```

mod accumulators;
mod list;
mod map;
mod ordered_map;
mod value;

use std::borrow::Borrow;
use std::cell::RefCell;
use std::hint::black_box;
use std::ops::DerefMut;
use std::time::Duration;

use alluvium::{CurrentKey, KeyedState, LogBackend, Result, Schema, Tables};
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use foldhash::fast::FixedState;

use alluvium_testkit::bench::{GROUPS, PARTITIONER, backend, key, mixed, seal};

/// Records timed together.
const BATCH: u64 = 10_000;

/// Records per call of a batched operation.
const TOGETHER: usize = 256;

type State = KeyedState<LogBackend>;

/// The contents of lanes without snapshots.
type Plain<V> = hashbrown::HashMap<[u8; 16], V, FixedState>;

/// A record: its key and a number.
struct Draw {
    key: [u8; 16],
    number: u64,
}

/// Consumes an operation's result, so that the compiler does not remove the computation.
fn done<T>(result: T) {
    black_box(result);
}

/// Returns one record per key, with the key's number.
fn each_key(keys: u64) -> impl Iterator<Item = Draw> {
    (0..keys).map(|number| Draw { key: key(number), number })
}

/// Returns a map from each key to `value` of its number.
fn plain<V>(keys: u64, value: impl Fn(u64) -> V) -> Plain<V> {
    let mut map = Plain::with_capacity_and_hasher(usize::try_from(keys).unwrap(), FixedState::with_seed(1));
    map.extend(each_key(keys).map(|Draw { key, number }| (key, value(number))));
    map
}

/// A backend with one table, and the table's handle.
struct Log<H> {
    state: State,
    handle: H,
    epoch: u64,
}

impl<H> Log<H> {
    fn new(declare: impl FnOnce(&mut State) -> Result<H>) -> Self {
        let mut state = KeyedState::new(backend(), PARTITIONER, GROUPS, Tables::new(Schema::new("bytes")));
        let handle = declare(&mut state).unwrap();
        Self { state, handle, epoch: 0 }
    }

    fn seal(&mut self) {
        self.epoch += 1;
        drop(seal(self.state.backend_mut(), self.epoch));
    }

    /// Calls `f` under the key of each record.
    fn one_by_one<D: Borrow<Draw>>(
        &mut self,
        draws: impl IntoIterator<Item = D>,
        mut f: impl FnMut(&H, &mut State, &Draw) -> Result<()>,
    ) {
        for draw in draws {
            let draw = draw.borrow();
            self.state.set_key(&draw.key).unwrap();
            f(&self.handle, &mut self.state, draw).unwrap();
        }
    }

    /// Locates the keys of a batch, and calls `f` with the items that `item` makes of them.
    fn many<'d, T>(
        &mut self,
        draws: &'d [Draw],
        item: impl Fn(CurrentKey<'d>, &Draw) -> T,
        mut f: impl FnMut(&H, &mut State, &[T]) -> Result<()>,
    ) {
        for draws in draws.chunks(TOGETHER) {
            let items = draws.iter().map(|draw| item(self.state.locate(&draw.key).unwrap(), draw)).collect::<Vec<_>>();
            f(&self.handle, &mut self.state, &items).unwrap();
        }
    }
}

/// The lanes of a kind of state, with a number of rows and keys.
struct Lanes<'c> {
    group: BenchmarkGroup<'c, WallTime>,
    rows: u64,
    keys: u64,
}

impl Lanes<'_> {
    /// Times `run` on batches of records.
    fn time<T>(&mut self, name: &str, on: &mut impl DerefMut<Target = T>, run: impl FnMut(&mut T, &[Draw])) {
        self.time_between(name, on, |_, _| (), run);
    }

    /// As [`Lanes::time`], with a seal at the start and whenever a tenth of the rows were drawn.
    fn time_sealed<H>(
        &mut self,
        name: &str,
        on: &mut impl DerefMut<Target = Log<H>>,
        run: impl FnMut(&mut Log<H>, &[Draw]),
    ) {
        let tenth = (self.rows / 10).max(1);
        let seal = |log: &mut Log<H>, drawn: u64| {
            if drawn.is_multiple_of(tenth) {
                log.seal();
            }
        };
        self.time_between(name, on, seal, run);
    }

    /// As [`Lanes::time`], with an untimed call before each batch of `between` with the records drawn so far in this
    /// lane.
    fn time_between<T>(
        &mut self,
        name: &str,
        on: &mut impl DerefMut<Target = T>,
        mut between: impl FnMut(&mut T, u64),
        mut run: impl FnMut(&mut T, &[Draw]),
    ) {
        let (keys, mut drawn, on) = (self.keys, 0, RefCell::new(on));
        self.group.bench_function(name, |b| {
            let draws = || {
                between(&mut on.borrow_mut(), drawn);
                let draws = drawn..drawn + BATCH;
                drawn += BATCH;
                draws.map(|draw| Draw { key: key(mixed(draw) % keys), number: mixed(!draw) >> 1 }).collect::<Vec<_>>()
            };
            b.iter_batched_ref(draws, |draws| run(&mut on.borrow_mut(), draws), BatchSize::PerIteration);
        });
    }
}

/// Calls `lanes` for each number of rows, with `rows_per_key` rows under each key.
fn sizes(c: &mut Criterion, kind: &str, rows_per_key: u64, mut lanes: impl FnMut(&mut Lanes<'_>)) {
    // A test runs each lane once, so large tables would only cost time.
    let given = |wanted: &str| std::env::args().any(|argument| argument == wanted);
    let rows: &[u64] = if given("--bench") && !given("--test") { &[100_000, 1_000_000] } else { &[1_000] };
    for &rows in rows {
        let mut group = c.benchmark_group(format!("{kind}/{rows}"));
        group.throughput(Throughput::Elements(BATCH));
        lanes(&mut Lanes { group, rows, keys: rows / rows_per_key });
    }
}

fn settings() -> Criterion {
    let (warm_up, measurement) = (Duration::from_millis(200), Duration::from_secs(1));
    Criterion::default().sample_size(10).warm_up_time(warm_up).measurement_time(measurement).without_plots()
}

criterion_group! {
    name = benches;
    config = settings();
    targets = value::value, list::list, map::map, ordered_map::ordered_map, accumulators::reducing, accumulators::aggregating
}
criterion_main!(benches);
