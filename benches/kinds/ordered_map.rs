//! An ordered map of 64 entries per key, such as a buffer of events by time. A range covers 16 of them.

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::ops::{DerefMut, Range};

use alluvium::{Fixed, Ordered, OrderedMapState};
use criterion::Criterion;

use super::{Draw, Lanes, Log, Plain, done, each_key, plain, sizes};

const ENTRIES: u64 = 64;
const RANGE: u64 = 16;

type OrderedMap = Log<OrderedMapState<u64, u64, Ordered, Fixed>>;
type PlainMap = Plain<BTreeMap<u64, u64>>;

fn loaded(keys: u64) -> OrderedMap {
    let mut log = Log::new(|state| state.ordered_map("ordered map", Ordered, Fixed));
    for sub in 0..ENTRIES {
        log.one_by_one(each_key(keys), |map, state, draw| map.put(state, &sub, &draw.number));
    }
    log
}

fn loaded_plain(keys: u64) -> PlainMap {
    let mut map = plain(keys, |_| BTreeMap::new());
    for sub in 0..ENTRIES {
        each_key(keys).for_each(|draw| done(map.get_mut(&draw.key).unwrap().insert(sub, draw.number)));
    }
    map
}

fn sub(draw: &Draw) -> u64 {
    draw.number % ENTRIES
}

fn range(draw: &Draw) -> Range<u64> {
    let start = draw.number % (ENTRIES - RANGE);
    start..start + RANGE
}

fn put(log: &mut OrderedMap, draws: &[Draw]) {
    log.one_by_one(draws, |map, state, draw| map.put(state, &sub(draw), &draw.number));
}

fn replace(log: &mut OrderedMap, draws: &[Draw]) {
    log.one_by_one(draws, |map, state, draw| {
        map.remove(state, &sub(draw)).and_then(|()| map.put(state, &sub(draw), &draw.number))
    });
}

pub(crate) fn ordered_map(c: &mut Criterion) {
    sizes(c, "ordered map", ENTRIES, |lanes| {
        let keys = lanes.keys;
        let mut log = LazyCell::new(|| loaded(keys));
        let mut map = LazyCell::new(|| loaded_plain(keys));
        reads(lanes, &mut log, &mut map);
        writes(lanes, &mut log, &mut map);
    });
}

fn reads(
    lanes: &mut Lanes<'_>,
    log: &mut impl DerefMut<Target = OrderedMap>,
    map: &mut impl DerefMut<Target = PlainMap>,
) {
    lanes.time("range/log", log, |log, draws| {
        log.one_by_one(draws, |map, state, draw| {
            map.range(state, range(draw), |sub, value| {
                done((sub, value));
                true
            })
        });
    });
    lanes.time("range/hashbrown of BTreeMap", map, |map, draws| {
        let entries = draws.iter().flat_map(|draw| map[&draw.key].range(range(draw)));
        entries.for_each(|(sub, value)| done((*sub, *value)));
    });

    lanes.time("first/log", log, |log, draws| {
        log.one_by_one(draws, |map, state, _| map.first(state).map(done));
    });
    lanes.time("first/hashbrown of BTreeMap", map, |map, draws| {
        draws.iter().for_each(|draw| done(map[&draw.key].first_key_value()));
    });
}

fn writes(
    lanes: &mut Lanes<'_>,
    log: &mut impl DerefMut<Target = OrderedMap>,
    map: &mut impl DerefMut<Target = PlainMap>,
) {
    lanes.time("put/log", log, put);
    lanes.time("put/hashbrown of BTreeMap", map, |map, draws| {
        draws.iter().for_each(|draw| done(map.get_mut(&draw.key).unwrap().insert(sub(draw), draw.number)));
    });

    lanes.time("remove and put/log", log, replace);
    lanes.time("remove and put/hashbrown of BTreeMap", map, |map, draws| {
        draws.iter().for_each(|draw| {
            done(map.get_mut(&draw.key).unwrap().remove(&sub(draw)));
            map.get_mut(&draw.key).unwrap().insert(sub(draw), draw.number);
        });
    });

    // Last, because seals freeze rows: the other lanes need all rows written since the last seal.
    lanes.time_sealed("put/log sealed", log, put);
    lanes.time_sealed("remove and put/log sealed", log, replace);
}
