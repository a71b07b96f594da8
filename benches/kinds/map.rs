//! A map of 8 entries per key. A key's entries are written far apart, as in a stream.

use std::cell::LazyCell;
use std::ops::DerefMut;

use alluvium::{Fixed, MapState};
use criterion::Criterion;
use foldhash::fast::FixedState;

use super::{Draw, Lanes, Log, Plain, done, each_key, plain, sizes};

const ENTRIES: u64 = 8;

type Map = Log<MapState<u64, u64, Fixed, Fixed>>;
type PlainMap = Plain<hashbrown::HashMap<u64, u64, FixedState>>;

fn loaded(keys: u64) -> Map {
    let mut log = Log::new(|state| state.map("map", Fixed, Fixed));
    for sub in 0..ENTRIES {
        log.one_by_one(each_key(keys), |map, state, draw| map.put(state, &sub, &draw.number));
    }
    log
}

fn loaded_plain(keys: u64) -> PlainMap {
    let mut map = plain(keys, |_| hashbrown::HashMap::with_hasher(FixedState::with_seed(1)));
    for sub in 0..ENTRIES {
        each_key(keys).for_each(|draw| done(map.get_mut(&draw.key).unwrap().insert(sub, draw.number)));
    }
    map
}

fn sub(draw: &Draw) -> u64 {
    draw.number % ENTRIES
}

fn bump(value: &mut Option<u64>) {
    *value = value.map(|value| value.wrapping_add(1));
}

fn update(log: &mut Map, draws: &[Draw]) {
    log.one_by_one(draws, |map, state, draw| map.update(state, &sub(draw), bump));
}

fn put(log: &mut Map, draws: &[Draw]) {
    log.one_by_one(draws, |map, state, draw| map.put(state, &sub(draw), &draw.number));
}

fn replace(log: &mut Map, draws: &[Draw]) {
    log.one_by_one(draws, |map, state, draw| {
        map.remove(state, &sub(draw)).and_then(|()| map.put(state, &sub(draw), &draw.number))
    });
}

pub(crate) fn map(c: &mut Criterion) {
    sizes(c, "map", ENTRIES, |lanes| {
        let keys = lanes.keys;
        let mut log = LazyCell::new(|| loaded(keys));
        let mut map = LazyCell::new(|| loaded_plain(keys));
        reads(lanes, &mut log, &mut map);
        writes(lanes, &mut log, &mut map);
    });
}

fn reads(lanes: &mut Lanes<'_>, log: &mut impl DerefMut<Target = Map>, map: &mut impl DerefMut<Target = PlainMap>) {
    lanes.time("read/log", log, |log, draws| {
        log.one_by_one(draws, |map, state, draw| map.read(state, &sub(draw)).map(done));
    });
    lanes.time("read/log many", log, |log, draws| {
        let visit = |_, value: Option<u64>| done(value);
        log.many(draws, |key, draw| (key, sub(draw)), |map, state, items| map.get_many(state, items, visit));
    });
    lanes.time("read/hashbrown of hashbrown", map, |map, draws| {
        draws.iter().for_each(|draw| done(map[&draw.key].get(&sub(draw)).copied()));
    });

    lanes.time("iterate/log", log, |log, draws| {
        log.one_by_one(draws, |map, state, _| map.for_each(state, |sub, value| done((sub, value))));
    });
    lanes.time("iterate/hashbrown of hashbrown", map, |map, draws| {
        draws.iter().flat_map(|draw| &map[&draw.key]).for_each(|(sub, value)| done((*sub, *value)));
    });
}

fn writes(lanes: &mut Lanes<'_>, log: &mut impl DerefMut<Target = Map>, map: &mut impl DerefMut<Target = PlainMap>) {
    lanes.time("update/log", log, update);
    lanes.time("update/log many", log, |log, draws| {
        let bump = |_, value: &mut Option<u64>| bump(value);
        log.many(draws, |key, draw| (key, sub(draw)), |map, state, items| map.update_many(state, items, bump));
    });
    lanes.time("update/hashbrown of hashbrown", map, |map, draws| {
        draws.iter().for_each(|draw| *map.get_mut(&draw.key).unwrap().get_mut(&sub(draw)).unwrap() += 1);
    });

    lanes.time("put/log", log, put);
    lanes.time("put/hashbrown of hashbrown", map, |map, draws| {
        draws.iter().for_each(|draw| done(map.get_mut(&draw.key).unwrap().insert(sub(draw), draw.number)));
    });

    lanes.time("remove and put/log", log, replace);
    lanes.time("remove and put/hashbrown of hashbrown", map, |map, draws| {
        draws.iter().for_each(|draw| {
            done(map.get_mut(&draw.key).unwrap().remove(&sub(draw)));
            map.get_mut(&draw.key).unwrap().insert(sub(draw), draw.number);
        });
    });

    // Last, because seals freeze rows: the other lanes need all rows written since the last seal.
    lanes.time_sealed("update/log sealed", log, update);
    lanes.time_sealed("put/log sealed", log, put);
    lanes.time_sealed("remove and put/log sealed", log, replace);
}
