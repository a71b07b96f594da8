//! A list of numbers per key: 8 at first, growing to 16.

use std::cell::LazyCell;

use alluvium::{Fixed, ListState};
use criterion::Criterion;

use super::{Draw, Lanes, Log, Plain, done, each_key, plain, sizes};

const ELEMENTS: u64 = 8;

type List = Log<ListState<u64, Fixed>>;

/// Returns lists built by appending in rounds, with a seal after every `run` rounds.
fn loaded(keys: u64, run: u64) -> List {
    let mut log = Log::new(|state| state.list("list", Fixed));
    for turn in 0..ELEMENTS {
        log.one_by_one(each_key(keys), |list, state, draw| list.add(state, &draw.number));
        if (turn + 1).is_multiple_of(run) {
            log.seal();
        }
    }
    log
}

fn loaded_plain(keys: u64) -> Plain<Vec<u64>> {
    let mut map = plain(keys, |_| Vec::new());
    for _ in 0..ELEMENTS {
        each_key(keys).for_each(|draw| map.get_mut(&draw.key).unwrap().push(draw.number));
    }
    map
}

fn read(log: &mut List, draws: &[Draw]) {
    log.one_by_one(draws, |list, state, _| list.read(state).map(done));
}

fn add(log: &mut List, draws: &[Draw]) {
    log.one_by_one(draws, |list, state, draw| list.add(state, &draw.number));
}

pub(crate) fn list(c: &mut Criterion) {
    sizes(c, "list", 1, |lanes| {
        reads(lanes);
        appends(lanes);
    });
}

fn reads(lanes: &mut Lanes<'_>) {
    let keys = lanes.keys;
    let mut log = LazyCell::new(|| loaded(keys, ELEMENTS));
    let mut pieces = LazyCell::new(|| loaded(keys, 2));
    let mut map = LazyCell::new(|| loaded_plain(keys));

    lanes.time("read/log", &mut log, read);
    lanes.time("read/log many", &mut log, |log, draws| {
        let visit = |_, elements: Vec<u64>| done(elements);
        log.many(draws, |key, _| key, |list, state, keys| list.get_many(state, keys, visit));
    });
    lanes.time("read/log sealed", &mut pieces, read);
    lanes.time("read/hashbrown of Vec", &mut map, |map, draws| {
        draws.iter().for_each(|draw| done(map[&draw.key].clone()));
    });

    lanes.time("visit/log", &mut log, |log, draws| {
        log.one_by_one(draws, |list, state, _| list.for_each(state, done));
    });
    lanes.time("visit/hashbrown of Vec", &mut map, |map, draws| {
        draws.iter().flat_map(|draw| &map[&draw.key]).for_each(|element| done(*element));
    });
}

fn appends(lanes: &mut Lanes<'_>) {
    let keys = lanes.keys;
    // Doubled lists are reloaded; otherwise a fast lane would work on longer lists.
    let doubled = |drawn: u64| drawn > 0 && drawn.is_multiple_of(keys * ELEMENTS);
    let fresh = |log: &mut List, drawn| {
        if doubled(drawn) {
            *log = loaded(keys, u64::MAX)
        }
    };
    let fresh_plain = |map: &mut Plain<_>, drawn| {
        if doubled(drawn) {
            *map = loaded_plain(keys)
        }
    };
    let new = || loaded(keys, u64::MAX);

    lanes.time_between("add/log", &mut LazyCell::new(new), fresh, add);
    lanes.time_between("add/log many", &mut LazyCell::new(new), fresh, |log, draws| {
        log.many(draws, |key, draw| (key, draw.number), |list, state, items| list.add_many(state, items));
    });
    lanes.time_between("add/hashbrown of Vec", &mut LazyCell::new(|| loaded_plain(keys)), fresh_plain, |map, draws| {
        draws.iter().for_each(|draw| map.get_mut(&draw.key).unwrap().push(draw.number));
    });
    let tenth = (keys / 10).max(1);
    let fresh_or_sealed = |log: &mut List, drawn: u64| {
        fresh(log, drawn);
        if drawn.is_multiple_of(tenth) {
            log.seal();
        }
    };
    lanes.time_between("add/log sealed", &mut LazyCell::new(new), fresh_or_sealed, add);
}
