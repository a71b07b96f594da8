//! Accumulated numbers per key: the maximum in a reducing state, the mean in an aggregating state.

use std::cell::LazyCell;

use alluvium::{Aggregate, AggregatingState, Fixed, ReducingState};
use criterion::Criterion;

use super::{Draw, Log, done, each_key, plain, sizes};
use alluvium_testkit::Mean;

type Highest = Log<ReducingState<u64, Fixed>>;

fn loaded_highest(keys: u64) -> Highest {
    let mut log = Log::new(|state| state.reducing("highest", Fixed, "max", |a: u64, b| a.max(b)));
    add_highest(&mut log, &each_key(keys).collect::<Vec<_>>());
    log
}

fn add_highest(log: &mut Highest, draws: &[Draw]) {
    log.one_by_one(draws, |highest, state, draw| highest.add(state, &draw.number));
}

pub(crate) fn reducing(c: &mut Criterion) {
    sizes(c, "reducing", 1, |lanes| {
        let keys = lanes.keys;
        let mut log = LazyCell::new(|| loaded_highest(keys));
        let mut map = LazyCell::new(|| plain(keys, |number| number));

        lanes.time("read/log", &mut log, |log, draws| {
            log.one_by_one(draws, |highest, state, _| highest.read(state).map(done));
        });
        lanes.time("read/log many", &mut log, |log, draws| {
            let visit = |_, number: Option<u64>| done(number);
            log.many(draws, |key, _| key, |highest, state, keys| highest.get_many(state, keys, visit));
        });
        lanes.time("read/hashbrown", &mut map, |map, draws| {
            draws.iter().for_each(|draw| done(map.get(&draw.key).copied()));
        });

        lanes.time("add/log", &mut log, add_highest);
        lanes.time("add/log many", &mut log, |log, draws| {
            let item = |key, draw: &Draw| (key, draw.number);
            log.many(draws, item, |highest, state, items| highest.add_many(state, items));
        });
        lanes.time_sealed("add/log sealed", &mut log, add_highest);
        lanes.time("add/hashbrown", &mut map, |map, draws| {
            for draw in draws {
                let highest = map.get_mut(&draw.key).unwrap();
                *highest = draw.number.max(*highest);
            }
        });
    });
}

type Means = Log<AggregatingState<Mean, (Fixed, Fixed)>>;

fn loaded_means(keys: u64) -> Means {
    let mut log = Log::new(|state| state.aggregating("mean", (Fixed, Fixed), Mean));
    add_to_means(&mut log, &each_key(keys).collect::<Vec<_>>());
    log
}

fn add_to_means(log: &mut Means, draws: &[Draw]) {
    log.one_by_one(draws, |mean, state, draw| mean.add(state, &draw.number));
}

pub(crate) fn aggregating(c: &mut Criterion) {
    sizes(c, "aggregating", 1, |lanes| {
        let keys = lanes.keys;
        let mut log = LazyCell::new(|| loaded_means(keys));
        let mut map = LazyCell::new(|| plain(keys, |number| (1, number)));

        lanes.time("read/log", &mut log, |log, draws| {
            log.one_by_one(draws, |mean, state, _| mean.read(state).map(done));
        });
        lanes.time("read/log many", &mut log, |log, draws| {
            let visit = |_, mean: Option<u64>| done(mean);
            log.many(draws, |key, _| key, |mean, state, keys| mean.get_many(state, keys, visit));
        });
        lanes.time("read/hashbrown", &mut map, |map, draws| {
            draws.iter().for_each(|draw| done(map.get(&draw.key).map(|mean| Mean.result(mean))));
        });

        lanes.time("add/log", &mut log, add_to_means);
        lanes.time("add/log many", &mut log, |log, draws| {
            log.many(draws, |key, draw| (key, draw.number), |mean, state, items| mean.add_many(state, items));
        });
        lanes.time_sealed("add/log sealed", &mut log, add_to_means);
        lanes.time("add/hashbrown", &mut map, |map, draws| {
            draws.iter().for_each(|draw| Mean.add(map.get_mut(&draw.key).unwrap(), &draw.number));
        });
    });
}
