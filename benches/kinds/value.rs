//! A number per key, as a counter.

use std::cell::LazyCell;

use alluvium::{Fixed, ValueState};
use criterion::Criterion;

use super::{Draw, Log, done, each_key, plain, sizes};

type Value = Log<ValueState<u64, Fixed>>;

fn loaded(keys: u64) -> Value {
    let mut log = Log::new(|state| state.value("value", Fixed));
    log.one_by_one(each_key(keys), |value, state, draw| value.put(state, &draw.number));
    log
}

fn bump(value: &mut Option<u64>) {
    *value = value.map(|value| value.wrapping_add(1));
}

fn update(log: &mut Value, draws: &[Draw]) {
    log.one_by_one(draws, |value, state, _| value.update(state, bump));
}

fn put(log: &mut Value, draws: &[Draw]) {
    log.one_by_one(draws, |value, state, draw| value.put(state, &draw.number));
}

fn replace(log: &mut Value, draws: &[Draw]) {
    log.one_by_one(draws, |value, state, draw| value.clear(state).and_then(|()| value.put(state, &draw.number)));
}

pub(crate) fn value(c: &mut Criterion) {
    sizes(c, "value", 1, |lanes| {
        let keys = lanes.keys;
        let mut log = LazyCell::new(|| loaded(keys));
        let mut map = LazyCell::new(|| plain(keys, |number| number));

        lanes.time("read/log", &mut log, |log, draws| {
            log.one_by_one(draws, |value, state, _| value.read(state).map(done));
        });
        lanes.time("read/log many", &mut log, |log, draws| {
            let visit = |_, value: Option<u64>| done(value);
            log.many(draws, |key, _| key, |value, state, keys| value.get_many(state, keys, visit));
        });
        lanes.time("read/hashbrown", &mut map, |map, draws| {
            draws.iter().for_each(|draw| done(map.get(&draw.key).copied()));
        });

        lanes.time("update/log", &mut log, update);
        lanes.time("update/log many", &mut log, |log, draws| {
            let bump = |_, value: &mut Option<u64>| bump(value);
            log.many(draws, |key, _| key, |value, state, keys| value.update_many(state, keys, bump));
        });
        lanes.time("update/hashbrown", &mut map, |map, draws| {
            draws.iter().for_each(|draw| *map.get_mut(&draw.key).unwrap() += 1);
        });

        lanes.time("put/log", &mut log, put);
        lanes.time("put/hashbrown", &mut map, |map, draws| {
            draws.iter().for_each(|draw| done(map.insert(draw.key, draw.number)));
        });

        lanes.time("clear and put/log", &mut log, replace);
        lanes.time("clear and put/hashbrown", &mut map, |map, draws| {
            draws.iter().for_each(|draw| {
                done(map.remove(&draw.key));
                map.insert(draw.key, draw.number);
            });
        });

        // Last, because seals freeze rows: the other lanes need all rows written since the last seal.
        lanes.time_sealed("update/log sealed", &mut log, update);
        lanes.time_sealed("put/log sealed", &mut log, put);
        lanes.time_sealed("clear and put/log sealed", &mut log, replace);
    });
}
