//! Plain loops beside the backend: what a read-modify-write costs, and what a map without snapshots would take.
//!
//! ```sh
//! cargo bench --bench pace -- [KEYS] [ROUNDS] [LOOP]
//! ```
//!
//! This program checks `alluvium bench`, so it shares no code with it: keys are drawn before the clock starts, each loop
//! is written out, and the loops run in turns. Printed are the median and the range of all rounds, in million operations
//! per second. Run it on a quiet machine.

#![expect(clippy::print_stdout, reason = "prints figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]
#![expect(clippy::cast_precision_loss, reason = "fewer than 2^53 operations")]
#![expect(clippy::disallowed_methods, reason = "measures time")]

use std::hint::black_box;
use std::time::Instant;

use alluvium::backend::{Change, Cut, Outcome, Part, RowRef, StateBackend as _, Stored};
use alluvium::{
    Epoch, Fixed, KeyGroupSet, KeyedState, LogBackend, MemoryBudget, Partitioner, Schema, TableId, Tables, Timestamp,
    ValueState,
};
use hashbrown::HashMap;

type Key = [u8; 16];

const VALUE_BYTES: usize = 100;
const GROUPS: u16 = 128;
const PARTITIONER: Partitioner = Partitioner::Range { seed: 7 };
const TABLE: TableId = TableId(77);
/// Operations per round and loop.
const OPERATIONS: usize = 1 << 21;
/// Keys per call of batched forms.
const BATCH: usize = 32;

/// A generator of random numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn key(number: u64) -> Key {
    let mut random = Random(number);
    let mut key = Key::default();
    key[..8].copy_from_slice(&random.draw().to_le_bytes());
    key[8..].copy_from_slice(&random.draw().to_le_bytes());
    key
}

/// Adds 1 to the number in the first 8 bytes.
fn add_one(value: &mut [u8]) -> u64 {
    let first = value.first_chunk_mut::<8>().unwrap();
    let sum = u64::from_le_bytes(*first).wrapping_add(1);
    *first = sum.to_le_bytes();
    sum
}

/// The state under measurement, with the keys of a round.
struct World {
    keys: u64,
    drawn: Vec<Key>,
    map: HashMap<Key, Box<[u8]>, foldhash::fast::FixedState>,
    counters: HashMap<Key, u64, foldhash::fast::FixedState>,
    state: KeyedState<LogBackend>,
    typed: KeyedState<LogBackend>,
    count: ValueState<u64, Fixed>,
    epoch: Epoch,
}

impl World {
    fn new(keys: u64) -> Self {
        let hasher = foldhash::fast::FixedState::with_seed(5);
        let backend = || {
            let backend = LogBackend::new(KeyGroupSet::all(GROUPS), PARTITIONER, MemoryBudget::new(u64::MAX));
            KeyedState::new(backend, PARTITIONER, GROUPS, Tables::new(Schema::new("bytes")))
        };
        let (state, mut typed) = (backend(), backend());
        let count = typed.value("count", Fixed).unwrap();
        let mut world = Self {
            keys,
            drawn: Vec::new(),
            map: HashMap::with_capacity_and_hasher(usize::try_from(keys).unwrap(), hasher.clone()),
            counters: HashMap::with_capacity_and_hasher(usize::try_from(keys).unwrap(), hasher),
            state,
            typed,
            count,
            epoch: Epoch(0),
        };
        for number in 0..keys {
            let key = key(number);
            world.map.insert(key, vec![1; VALUE_BYTES].into());
            world.counters.insert(key, 1);
            let located = PARTITIONER.locate(&key, 0, GROUPS);
            let row = RowRef { table: TABLE, key: &located, namespace: &[], sub: &[] };
            let put = |_: Option<&[u8]>, new: &mut Vec<u8>| {
                new.resize(VALUE_BYTES, 1);
                (Change::Put, ())
            };
            world.state.backend_mut().update(row, put).unwrap();
            world.typed.set_key(&key).unwrap();
            world.count.put(&mut world.typed, &1).unwrap();
        }
        world
    }

    fn draw(&mut self, seed: u64) {
        let mut random = Random(seed);
        self.drawn.clear();
        self.drawn.extend((0..OPERATIONS).map(|_| key(random.draw() % self.keys)));
    }

    /// Draws all keys in a random order, again and again.
    fn draw_in_turns(&mut self, seed: u64) {
        const STRIDE: u64 = 0x9e37_79b1;
        self.drawn.clear();
        self.drawn.extend((0..OPERATIONS as u64).map(|at| key((at * STRIDE + seed) % self.keys)));
    }

    fn map(&mut self) -> u64 {
        let mut sum = 0;
        for key in &self.drawn {
            sum ^= add_one(self.map.get_mut(key).unwrap());
        }
        sum
    }

    fn map_of_u64(&mut self) -> u64 {
        let mut sum = 0;
        for key in &self.drawn {
            let count = self.counters.get_mut(key).unwrap();
            *count = count.wrapping_add(1);
            sum ^= *count;
        }
        sum
    }

    /// As users would write it: the entry is created where there is none.
    fn entries_of_u64(&mut self) -> u64 {
        let mut sum = 0;
        for key in &self.drawn {
            let count = self.counters.entry(*key).or_insert(0);
            *count += 1;
            sum ^= *count;
        }
        sum
    }

    fn update(&mut self) -> u64 {
        let (mut sum, backend) = (0, self.state.backend_mut());
        for key in &self.drawn {
            let key = PARTITIONER.locate(key, 0, GROUPS);
            let row = RowRef { table: TABLE, key: &key, namespace: &[], sub: &[] };
            let updated = backend.update(row, |value, new| {
                new.extend_from_slice(value.unwrap());
                (Change::Put, add_one(new))
            });
            sum ^= updated.unwrap();
        }
        sum
    }

    fn edit(&mut self) -> u64 {
        let (mut sum, backend) = (0, self.state.backend_mut());
        for key in &self.drawn {
            let key = PARTITIONER.locate(key, 0, GROUPS);
            let row = RowRef { table: TABLE, key: &key, namespace: &[], sub: &[] };
            sum ^= backend.edit(row, add_one).unwrap().unwrap();
        }
        sum
    }

    fn read(&mut self) -> u64 {
        let (mut sum, backend) = (0, self.state.backend_mut());
        for key in &self.drawn {
            let key = PARTITIONER.locate(key, 0, GROUPS);
            let row = RowRef { table: TABLE, key: &key, namespace: &[], sub: &[] };
            sum ^= backend.read(row, |value| u64::from(value.unwrap()[0])).unwrap();
        }
        sum
    }

    fn edit_batches(&mut self) -> u64 {
        let (mut sum, backend) = (0, self.state.backend_mut());
        let mut located = [PARTITIONER.locate(&[], 0, GROUPS); BATCH];
        for keys in self.drawn.chunks_exact(BATCH) {
            for (to, key) in located.iter_mut().zip(keys) {
                *to = PARTITIONER.locate(key, 0, GROUPS);
            }
            let edited = backend.update_many(TABLE, &[], &located, |_, stored, new| {
                if let Stored::InPlace(value) = stored {
                    sum ^= add_one(value);
                    return (None, Ok(()));
                }
                new.extend_from_slice(stored.bytes().unwrap());
                sum ^= add_one(new);
                (Some(Change::Put), Ok(()))
            });
            edited.unwrap();
        }
        sum
    }

    fn batches(&mut self) -> u64 {
        let (mut sum, backend) = (0, self.state.backend_mut());
        let mut located = [PARTITIONER.locate(&[], 0, GROUPS); BATCH];
        for keys in self.drawn.chunks_exact(BATCH) {
            for (to, key) in located.iter_mut().zip(keys) {
                *to = PARTITIONER.locate(key, 0, GROUPS);
            }
            let updated = backend.update_many(TABLE, &[], &located, |_, stored, new| {
                new.extend_from_slice(stored.bytes().unwrap());
                sum ^= add_one(new);
                (Some(Change::Put), Ok(()))
            });
            updated.unwrap();
        }
        sum
    }

    fn typed_update(&mut self) -> u64 {
        let mut sum = 0;
        for key in &self.drawn {
            self.typed.set_key(key).unwrap();
            let add = |count: &mut Option<u64>| *count.insert(count.unwrap_or(0) + 1);
            sum ^= self.count.update(&mut self.typed, add).unwrap();
        }
        sum
    }

    fn typed_read(&mut self) -> u64 {
        let mut sum = 0;
        for key in &self.drawn {
            self.typed.set_key(key).unwrap();
            sum ^= self.count.read(&mut self.typed).unwrap().unwrap();
        }
        sum
    }

    fn typed_batches(&mut self) -> u64 {
        let mut sum = 0;
        for keys in self.drawn.chunks_exact(BATCH) {
            let located: Vec<_> = keys.iter().map(|key| self.typed.locate(key).unwrap()).collect();
            let add = |_: usize, count: &mut Option<u64>| sum ^= *count.insert(count.unwrap_or(0) + 1);
            self.count.update_many(&mut self.typed, &located, add).unwrap();
        }
        sum
    }

    /// Each key depends on the value before: nothing overlaps.
    fn map_dependent(&mut self) -> u64 {
        let (mut at, mut sum) = (0, 0);
        for _ in 0..OPERATIONS / 4 {
            let value = add_one(self.map.get_mut(&self.drawn[at]).unwrap());
            sum ^= value;
            at = (at + 1 + usize::try_from(value & 1).unwrap()) % OPERATIONS;
        }
        sum
    }

    fn update_dependent(&mut self) -> u64 {
        let (mut at, mut sum, backend) = (0, 0, self.state.backend_mut());
        for _ in 0..OPERATIONS / 4 {
            let key = PARTITIONER.locate(&self.drawn[at], 0, GROUPS);
            let row = RowRef { table: TABLE, key: &key, namespace: &[], sub: &[] };
            let updated = backend.update(row, |value, new| {
                new.extend_from_slice(value.unwrap());
                (Change::Put, add_one(new))
            });
            let value = updated.unwrap();
            sum ^= value;
            at = (at + 1 + usize::try_from(value & 1).unwrap()) % OPERATIONS;
        }
        sum
    }

    fn first_touch(&mut self) -> u64 {
        self.each_first(Self::update)
    }

    fn first_edit(&mut self) -> u64 {
        self.each_first(Self::edit)
    }

    /// Seals after every tenth of the keys, so that each change is the first of its row since a seal.
    fn each_first(&mut self, change: fn(&mut Self) -> u64) -> u64 {
        let drawn = std::mem::take(&mut self.drawn);
        let mut sum = 0;
        for keys in drawn.chunks(usize::try_from(self.keys / 10).unwrap().max(1)) {
            self.seal();
            self.drawn.extend_from_slice(keys);
            sum ^= change(self);
            self.drawn.clear();
        }
        sum
    }

    /// Brings all rows back into the tail.
    fn touch_all(&mut self) {
        for start in (0..self.keys).step_by(OPERATIONS) {
            self.drawn.clear();
            self.drawn.extend((start..self.keys.min(start + OPERATIONS as u64)).map(key));
            self.update();
        }
    }

    fn seal(&mut self) {
        self.epoch = self.epoch.next();
        let (event_time, processing_time) = (Timestamp::MIN, Timestamp::from_millis(0));
        let cut = Cut { epoch: self.epoch, part: Part(0), event_time, processing_time };
        let backend = self.state.backend_mut();
        drop(backend.seal(cut, &KeyGroupSet::empty()).unwrap());
        backend.settle(cut.epoch, Outcome::Commit).unwrap();
    }
}

type Loop = (&'static str, usize, fn(&mut World) -> u64);

const FIRST_TOUCH: &str = "first touch";
const FIRST_EDIT: &str = "first touch, edit";

const LOOPS: [Loop; 15] = [
    ("map", OPERATIONS, World::map),
    ("update", OPERATIONS, World::update),
    ("edit", OPERATIONS, World::edit),
    ("read", OPERATIONS, World::read),
    ("batches of 32", OPERATIONS, World::batches),
    ("edit, batches of 32", OPERATIONS, World::edit_batches),
    ("map of u64", OPERATIONS, World::map_of_u64),
    ("map of u64, by entry", OPERATIONS, World::entries_of_u64),
    ("typed update", OPERATIONS, World::typed_update),
    ("typed read", OPERATIONS, World::typed_read),
    ("typed batches", OPERATIONS, World::typed_batches),
    ("map, dependent", OPERATIONS / 4, World::map_dependent),
    ("update, dependent", OPERATIONS / 4, World::update_dependent),
    (FIRST_TOUCH, OPERATIONS, World::first_touch),
    (FIRST_EDIT, OPERATIONS, World::first_edit),
];

fn main() {
    let args: Vec<_> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let number = |at: usize| args.get(at).and_then(|arg| arg.parse::<u64>().ok());
    let (keys, rounds) = (number(0).unwrap_or(1_000_000), number(1).unwrap_or(5));
    let wanted = |name: &str| args.get(2).is_none_or(|wanted| wanted == name);
    let mut world = World::new(keys);
    let mut rates: Vec<_> = LOOPS.iter().filter(|(name, ..)| wanted(name)).map(|it| (it, Vec::new())).collect();
    for round in 0..rounds {
        for ((name, operations, run), rates) in &mut rates {
            if [FIRST_TOUCH, FIRST_EDIT].contains(name) {
                world.draw_in_turns(round)
            } else {
                world.draw(round)
            }
            let start = Instant::now();
            black_box(run(&mut world));
            rates.push(*operations as f64 / start.elapsed().as_secs_f64() / 1e6);
        }
        world.touch_all();
    }
    for ((name, ..), mut rates) in rates {
        rates.sort_by(f64::total_cmp);
        let (least, most) = (rates.first().unwrap(), rates.last().unwrap());
        println!("{name:22} {:7.2} M/s [{least:.2}, {most:.2}]", rates[rates.len() / 2]);
    }
}
