//! An operation on an existing row allocates nothing, in every kind of state.
//!
//! One test, alone in its process, since allocations of other threads would count. Timers are excluded: their queue
//! grows.

use std::time::Duration;

use alluvium::backend::{Cut, Part, StateBackend as _};
use alluvium::{
    AggregatingState, Epoch, Fixed, KeyGroupSet, KeyedState, ListState, LogBackend, MapState, MemoryBudget, Ordered,
    OrderedMapState, Partitioner, ReducingState, Result, Schema, TableOptions, Tables, Timestamp, TtlConfig,
    ValueState,
};
use alluvium_testkit::Mean;
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const GROUPS: u16 = 4;
const KEYS: u64 = 200;
const SUBS: u64 = 40;

/// Number of keys for which an operation may allocate: the first one since a seal, and any later one.
struct Allowed(u64, u64);

/// For operations that write nothing.
const NONE: Allowed = Allowed(0, 0);
/// For writes: the first since a seal copies the row into a region, which may have to grow.
const GROWTH: Allowed = Allowed(KEYS / 4, 0);
/// For writes that lengthen the row, whose room grows by half each time.
const LONGER: Allowed = Allowed(KEYS / 4, KEYS);

type State = KeyedState<LogBackend>;

fn state() -> State {
    let partitioner = Partitioner::Range { seed: 1 };
    let backend = LogBackend::new(KeyGroupSet::all(GROUPS), partitioner, MemoryBudget::new(1 << 30));
    let mut state = KeyedState::new(backend, partitioner, GROUPS, Tables::new(Schema::new("u64le")));
    state.advance(Timestamp::MIN, Timestamp::from_millis(1));
    state
}

/// Does `operation` once per key; returns the number of keys for which it allocated.
fn allocated(state: &mut State, operation: impl Fn(&mut State, u64) -> Result<()>) -> u64 {
    let mut allocated = 0;
    for key in 0..KEYS {
        state.set_key(&key.to_le_bytes()).unwrap();
        let before = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        operation(state, key).unwrap();
        allocated += u64::from(ALLOCATOR.peak_usage() > before);
    }
    allocated
}

/// Checks an operation on rows written by `fill`: before a seal, right after it, and once more.
fn check<H>(
    name: &str,
    Allowed(first, later): Allowed,
    declare: impl FnOnce(&mut State) -> Result<H>,
    fill: impl Fn(&H, &mut State, u64) -> Result<()>,
    operation: impl Fn(&H, &mut State, u64) -> Result<()>,
) {
    let mut state = state();
    let handle = declare(&mut state).unwrap();
    let fill = |state: &mut State, key| fill(&handle, state, key);
    let operation = |state: &mut State, key| operation(&handle, state, key);
    allocated(&mut state, fill);
    // The first operation creates the buffers that later ones reuse.
    allocated(&mut state, operation);
    let unsealed = allocated(&mut state, operation);
    assert!(unsealed <= later, "{name} before a seal allocated for {unsealed} of {KEYS} keys");
    let at = Timestamp::from_millis(2);
    let cut = Cut { epoch: Epoch(1), part: Part(0), event_time: at, processing_time: at };
    drop(state.backend_mut().seal(cut, &KeyGroupSet::empty()).unwrap());
    for (when, allowed) in [("first", first), ("then", later)] {
        let found = allocated(&mut state, operation);
        assert!(found <= allowed, "{name} after a seal, {when}, allocated for {found} of {KEYS} keys");
    }
}

fn bump(value: &mut Option<u64>) {
    *value = Some(value.unwrap_or_default() + 1);
}

fn assert_some<T>(value: Option<T>) {
    assert!(value.is_some());
}

fn expiring() -> TableOptions {
    TableOptions::new("table").ttl(TtlConfig::new(Duration::from_secs(60)).renewed_by_reads())
}

fn values(options: &TableOptions) {
    type Value = ValueState<u64, Fixed>;
    let declare = |state: &mut State| state.value(options.clone(), Fixed);
    let put = |value: &Value, state: &mut State, key| value.put(state, &key);
    check("value put", GROWTH, declare, put, put);
    check("value update", GROWTH, declare, put, |value, state, _| value.update(state, bump));
    // A read that renews the row's life is a write.
    check("value read", GROWTH, declare, put, |value, state, _| value.read(state).map(assert_some));
}

fn lists() {
    let declare = |state: &mut State| state.list("table", Fixed);
    let fill = |list: &ListState<u64, _>, state: &mut State, _| list.add_all(state, &[1; 40]);
    check("list add", LONGER, declare, fill, |list, state, key| list.add(state, &key));
    check("list update", GROWTH, declare, fill, |list, state, key| list.update(state, &[key; 30]));
    check("list visit", NONE, declare, fill, |list, state, _| {
        list.for_each(state, |element| assert_some(Some(element)))
    });
}

fn maps() {
    type Map = MapState<u64, u64, Fixed, Fixed>;
    let declare = |state: &mut State| state.map("table", Fixed, Fixed);
    let fill = |map: &Map, state: &mut State, key| (0..SUBS).try_for_each(|sub| map.put(state, &sub, &key));
    check("map put", GROWTH, declare, fill, |map, state, key| map.put(state, &(key % SUBS), &key));
    check("map update", GROWTH, declare, fill, |map, state, key| map.update(state, &(key % SUBS), bump));
    check("map read", NONE, declare, fill, |map, state, key| map.read(state, &(key % SUBS)).map(assert_some));
    check("map visit", NONE, declare, fill, |map, state, _| map.for_each(state, |_, value| assert_some(Some(value))));
}

fn ordered_maps() {
    type Map = OrderedMapState<u64, u64, Ordered, Fixed>;
    let declare = |state: &mut State| state.ordered_map("table", Ordered, Fixed);
    let fill = |map: &Map, state: &mut State, key| (0..SUBS).try_for_each(|sub| map.put(state, &sub, &key));
    check("ordered put", GROWTH, declare, fill, |map, state, key| map.put(state, &(key % SUBS), &key));
    check("ordered first", NONE, declare, fill, |map, state, _| map.first(state).map(assert_some));
    check("ordered range", NONE, declare, fill, |map, state, _| map.range(state, 1..SUBS, |sub, _| sub < 30));
}

fn accumulators(options: &TableOptions) {
    let declare = |state: &mut State| state.reducing(options.clone(), Fixed, "sum", |a: u64, b| a + b);
    let add = |sum: &ReducingState<_, _>, state: &mut State, key| sum.add(state, &key);
    check("reducing add", GROWTH, declare, add, add);
    check("reducing read", GROWTH, declare, add, |sum, state, _| sum.read(state).map(assert_some));
    let declare = |state: &mut State| state.aggregating(options.clone(), (Fixed, Fixed), Mean);
    let add = |mean: &AggregatingState<_, _>, state: &mut State, key| mean.add(state, &key);
    check("aggregating add", GROWTH, declare, add, add);
    check("aggregating read", GROWTH, declare, add, |mean, state, _| mean.read(state).map(assert_some));
}

#[test]
fn operations_on_existing_rows_allocate_nothing() {
    for options in [TableOptions::new("table"), expiring()] {
        values(&options);
        accumulators(&options);
    }
    lists();
    maps();
    ordered_maps();
}
