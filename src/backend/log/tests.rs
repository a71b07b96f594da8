//! Properties of the log alone: in-place writes, cleaning, bounds of memory. The conformance and model tests cover the
//! rest.

mod pieces;
mod plain;

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::clean::BOUND_BYTES;
use super::fetch::Fetched;
use super::index::Address;
use super::record::Record;
use super::region::Section;
use super::*;
use crate::ErrorKind;
use crate::id::Part;
use crate::row::{Append, Fold, Op};
use crate::time::Timestamp;

const T: TableId = TableId(1);
const LIST: TableId = TableId(2);
const MAP: TableId = TableId(3);
const P: Partitioner = Partitioner::Range { seed: 11 };
const MIB: u64 = 1 << 20;

/// A backend with its budget, its number of groups and an epoch counter.
struct World {
    backend: LogBackend,
    budget: MemoryBudget,
    groups: u16,
    epoch: u64,
}

impl World {
    fn new(groups: u16, limit_bytes: u64) -> Self {
        Self::with(groups, MemoryBudget::new(limit_bytes))
    }

    fn with(groups: u16, budget: MemoryBudget) -> Self {
        let mut backend = LogBackend::new(KeyGroupSet::all(groups), P, budget.clone());
        let ttl = Some(crate::row::Ttl { millis: 1000, ..Default::default() });
        backend.define(LIST, TableRules { merge: Some(Arc::new(Append)), ttl, ..TableRules::default() });
        backend.define(MAP, TableRules { ordered: true, ..TableRules::default() });
        Self { backend, budget, groups, epoch: 0 }
    }

    fn write(&mut self, key: u32, write: Write<'_>) -> Result<()> {
        let bytes = key.to_le_bytes();
        let key = P.locate(&bytes, 0, self.groups);
        self.backend.write(RowRef { table: T, key: &key, namespace: &[], sub: &[] }, write)
    }

    /// Appends to a list.
    fn add(&mut self, key: u32, length: usize) {
        self.with_row(LIST, key, b"", |backend, row| backend.write(row, Write::Merge(&vec![2; length]))).unwrap();
    }

    fn clear(&mut self, table: TableId, key: u32) {
        self.with_row(table, key, b"", |backend, row| backend.clear(table, Scope::KeyNamespace(row.key, &[]))).unwrap();
    }

    fn with_row<R>(
        &mut self,
        table: TableId,
        key: u32,
        sub: &[u8],
        f: impl FnOnce(&mut LogBackend, RowRef<'_>) -> Result<R>,
    ) -> Result<R> {
        let bytes = key.to_le_bytes();
        let key = P.locate(&bytes, 0, self.groups);
        f(&mut self.backend, RowRef { table, key: &key, namespace: &[], sub })
    }

    fn put(&mut self, key: u32, length: usize) {
        self.write(key, Write::Put(&vec![1; length])).unwrap();
    }

    fn delete(&mut self, key: u32) {
        self.write(key, Write::Delete).unwrap();
    }

    fn read(&mut self, key: u32) -> Option<usize> {
        let bytes = key.to_le_bytes();
        let key = P.locate(&bytes, 0, self.groups);
        let row = RowRef { table: T, key: &key, namespace: &[], sub: &[] };
        self.backend.read(row, |value| value.map(<[u8]>::len)).unwrap()
    }

    fn seal(&mut self, bases: &KeyGroupSet) -> Sealed {
        self.epoch += 1;
        let at = Timestamp::default();
        let cut = Cut { epoch: Epoch(self.epoch), part: Part(0), event_time: at, processing_time: at };
        self.backend.seal(cut, bases).unwrap()
    }

    /// Checks every invariant of the module docs; returns the largest share of its bound that a section holds.
    fn check(&self) -> f64 {
        let mut fullest = 0.0f64;
        for group in self.backend.groups.iter().flatten() {
            let mut held = group.index.held_bytes();
            let mut regions = BTreeSet::new();
            let mut kept = 0;
            for section in [Section::Tail, Section::Clears, Section::Frozen, Section::Disk] {
                check_sums(group, section);
                let run = group.regions.run(section);
                assert!(run.order.iter().all(|id| regions.insert(*id)), "a region is in the order once");
                kept += run.tally.records();
                held += run.held_bytes;
                if matches!(section, Section::Tail | Section::Frozen) {
                    fullest = fullest.max(run.held_bytes as f64 / (4 * run.tally.bytes() + BOUND_BYTES) as f64);
                }
            }
            let (ids, free) = group.regions.ids();
            assert_eq!(ids - free, regions.len(), "no region number is lost");
            let older_pieces: Vec<_> =
                group.chains.iter().flat_map(|chains| chains.pieces()).map(|piece| piece.address).collect();
            let entries = group.index.addresses().chain(older_pieces.iter().copied());
            let entries: BTreeSet<_> = entries.map(|address| (address.region(), address.offset())).collect();
            assert_eq!(kept, entries.len() as u64, "tallies count the records that index and chains point at");
            assert_eq!(
                entries.len(),
                group.index.addresses().count() + older_pieces.len(),
                "no record is pointed at twice"
            );
            let families = group.families.as_ref().map_or(0, |families| families.held_bytes());
            let fetched = fetch_all(group, &older_pieces);
            let record = |address: &Address| group.regions.record(*address, &fetched);
            let newest: Vec<_> = group.index.addresses().map(|address| record(&address)).collect();
            assert!(
                newest
                    .iter()
                    .chain(&older_pieces.iter().map(record).collect::<Vec<_>>())
                    .all(|record| !record.shape.is_dead())
            );
            let older_refs = |newest: &Record<'_>| group.older_refs(group.hash(&newest.place), newest, &fetched).len();
            let chained = newest.iter().map(older_refs).sum::<usize>();
            assert_eq!(chained, older_pieces.len(), "only a row whose newest record has an ordinal has a chain");
            let place = |record: &Record<'_>| {
                let Place { table, key, namespace, sub, .. } = record.place;
                (table, [key, namespace, sub].map(<[u8]>::to_vec), record.place.is_clear())
            };
            let places: BTreeSet<_> = newest.iter().map(place).collect();
            assert_eq!(places.len(), newest.len(), "a row has one entry");
            let rows = newest.iter().filter(|record| !record.shape.is_tombstone());
            assert_eq!(group.rows, rows.clone().count() as u64);
            let older: u64 = older_pieces.iter().map(record).map(|record| record.value().unwrap().len() as u64).sum();
            assert_eq!(
                group.live_bytes,
                older + rows.map(|record| (record.place.bytes() + record.value().unwrap().len()) as u64).sum::<u64>()
            );
            held += families + group.chains.as_ref().map_or(0, |chains| chains.held_bytes());
            assert!(group.held_bytes() - held <= 960, "a group's own size: {}", group.held_bytes() - held);
        }
        assert!(fullest <= 1.0, "{fullest}");
        fullest
    }
}

fn fetch_all(group: &Group, older_pieces: &[Address]) -> Fetched {
    let mut fetched = Fetched::default();
    let all = group.index.addresses().chain(older_pieces.iter().copied());
    all.for_each(|address| group.fetch_at(address, &mut fetched).unwrap());
    fetched
}

/// Checks that a section's counts are the sums of its regions'.
fn check_sums(group: &Group, section: Section) {
    let run = group.regions.run(section);
    let of = |id: &u32| group.regions.region(*id);
    assert!(run.open.is_none_or(|open| run.order.contains(&open)));
    let sum = |f: &dyn Fn(&region::Region) -> u64| run.order.iter().map(|id| f(of(id))).sum::<u64>();
    assert_eq!(run.held_bytes, sum(&|region| region.held().memory));
    assert_eq!(run.disk_bytes, sum(&|region| region.held().disk));
    assert!(run.order.iter().all(|id| of(id).section() == section));
    assert_eq!(run.tally.bytes(), sum(&|region| region.notes.tally().bytes()));
    assert_eq!(run.tally.put_bytes, sum(&|region| region.notes.tally().put_bytes));
    assert_eq!(run.tally.records(), sum(&|region| region.notes.tally().records()));
    assert_eq!(run.small, sum(&|region| u64::from(region.is_small())));
}

fn none() -> KeyGroupSet {
    KeyGroupSet::empty()
}

#[test]
fn the_first_touch_copies_and_later_ones_write_in_place() {
    let mut world = World::new(1, u64::MAX);
    world.put(1, 100);
    let once = world.backend.stats();
    for length in [100, 3, 0, 99] {
        world.put(1, length);
    }
    let often = world.backend.stats();
    assert_eq!((often.dirty_bytes, often.memory_bytes), (once.dirty_bytes, once.memory_bytes));
    let sealed = world.seal(&none());
    world.put(1, 50);
    assert_eq!((sealed.dirty_rows, world.backend.stats().dirty_rows, world.read(1)), (1, 1, Some(50)));
    world.check();
}

/// Returns the rows of the next delta.
fn delta_rows(world: &mut World) -> Vec<(Option<Vec<u8>>, usize)> {
    let sealed = world.seal(&none());
    let mut batch = RowBatch::new();
    for part in &sealed.parts {
        part.groups.iter().for_each(|group| part.rows.append_group(group, &mut batch).unwrap());
        batch.fold(Fold::Delta, &part.rules).unwrap();
    }
    batch.iter().map(|row| (row.key.sub.map(<[u8]>::to_vec), row.op.payload().len())).collect()
}

#[test]
fn appending_to_a_list_costs_only_the_appended_bytes() {
    let mut world = World::new(1, u64::MAX);
    (0..10_000).for_each(|_| world.add(7, 100));
    assert_eq!(delta_rows(&mut world), [(Some(vec![]), 1_000_000)]);
    for _ in 0..3 {
        world.add(7, 40);
        world.add(7, 2);
        assert_eq!(delta_rows(&mut world), [(Some(vec![]), 42)]);
    }
    let length = world.with_row(LIST, 7, b"", |backend, row| backend.read(row, |value| value.map(<[u8]>::len)));
    assert_eq!(length.unwrap(), Some(1_000_126));
    // Ten regions and the copies of a growing value, not one copy per element.
    let held = world.backend.stats().memory_bytes;
    assert!(held < 4_500_000, "{held}");
    world.check();
}

#[test]
#[should_panic(expected = "a record lies where its address says")]
fn reading_an_invalid_address_panics() {
    let mut world = World::new(1, u64::MAX);
    world.put(1, 10);
    world.backend.groups[0].as_ref().unwrap().regions.record(Address::new(0, 4_000), &Fetched::default());
}

#[test]
#[should_panic(expected = "an address is of a region of its group")]
fn reading_a_row_of_a_removed_region_panics() {
    let mut world = World::new(1, u64::MAX);
    world.put(1, 10);
    let group = world.backend.groups[0].as_mut().unwrap();
    let (id, _) = group.regions.take_oldest(Section::Tail).unwrap();
    group.regions.release(id);
    world.read(1);
}

#[test]
fn clearing_a_map_writes_one_row() {
    let mut world = World::new(1, u64::MAX);
    let put = |world: &mut World, sub: u32| {
        world.with_row(MAP, 7, &sub.to_be_bytes(), |backend, row| backend.write(row, Write::Put(b"v"))).unwrap();
    };
    (0..100_000).for_each(|sub| put(&mut world, sub));
    world.clear(MAP, 7);
    assert_eq!(delta_rows(&mut world), [], "created and removed in one part");
    (0..100_000).for_each(|sub| put(&mut world, sub));
    assert_eq!(delta_rows(&mut world).len(), 100_000);
    put(&mut world, 5);
    world.clear(MAP, 7);
    assert_eq!((world.backend.stats().rows, world.backend.stats().live_bytes), (0, 0));
    assert_eq!(delta_rows(&mut world), [(None, 0)]);
    put(&mut world, 8);
    world.clear(MAP, 7);
    put(&mut world, 9);
    assert_eq!(delta_rows(&mut world), [(Some(9u32.to_be_bytes().to_vec()), 1)], "no older row is left to clear");
    world.check();
}

#[test]
fn writes_free_the_memory_of_expired_rows() {
    let mut world = World::new(2, u64::MAX);
    let ttl = Some(crate::row::Ttl { millis: 1000, ..Default::default() });
    world.backend.define(T, TableRules { ttl, ..TableRules::default() });
    world.backend.advance(Timestamp::MIN, Timestamp::from_millis(10_000));
    (0..20_000).for_each(|key| world.put(key, 100));
    world.seal(&none());
    let full = world.backend.stats();
    world.backend.advance(Timestamp::MIN, Timestamp::from_millis(11_000));
    assert_eq!(world.read(5), None);
    // Writing as many bytes again pays for a search through all rows and for giving back their memory.
    for _ in 0..10 {
        (100_000..103_000).for_each(|key| world.put(key, 100));
        world.seal(&none());
    }
    let left = world.backend.stats();
    assert_eq!(left.rows, 3_000);
    assert!(left.memory_bytes < full.memory_bytes / 2, "{left:?} of {full:?}");
    world.check();
}

#[test]
fn a_key_located_by_another_partitioner_is_refused() {
    let mut world = World::new(4, u64::MAX);
    let key = Partitioner::Range { seed: 12 }.locate(b"k", 0, 4);
    let row = RowRef { table: T, key: &key, namespace: &[], sub: &[] };
    assert_eq!(world.backend.write(row, Write::Put(b"v")).unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(world.backend.stats().rows, 0);
}

#[test]
fn an_empty_backend_of_32768_groups_takes_at_most_16_mib() {
    let mut world = World::new(32_768, u64::MAX);
    let empty = world.backend.stats().memory_bytes;
    assert!(empty <= MIB && empty == world.budget.held_bytes(), "{empty} bytes");
    for key in 0..200_000 {
        world.put(key, 8);
    }
    world.seal(&none());
    (0..200_000).for_each(|key| world.delete(key));
    world.seal(&none());
    // Every group was written, and now holds next to nothing.
    let used = world.backend.stats();
    assert_eq!((used.rows, used.memory_bytes), (0, world.budget.held_bytes()));
    assert!(used.memory_bytes <= 32_768 * 4096, "{} bytes", used.memory_bytes);
    let loaded = LogBackend::new(KeyGroupSet::all(32_768), P, world.budget.clone());
    assert!(loaded.stats().memory_bytes <= 16 * MIB);
}

#[test]
fn short_lived_rows_leave_no_memory_behind() {
    let mut world = World::new(2, u64::MAX);
    let mut most = 0;
    for round in 0..300u32 {
        // Windows: the rows of a round live for two rounds.
        (0..50).for_each(|i| world.put(round * 50 + i, 20));
        if round >= 2 {
            (0..50).for_each(|i| world.delete((round - 2) * 50 + i));
        }
        world.seal(&none());
        most = most.max(world.backend.stats().memory_bytes);
    }
    world.check();
    assert_eq!(world.backend.stats().rows, 100);
    assert!(most < 64 * 1024, "{most} bytes for 100 rows");
}

#[test]
fn tombstones_are_dropped_once_they_hide_nothing() {
    let mut world = World::new(1, u64::MAX);
    (0..2000).for_each(|key| world.put(key, 20));
    world.seal(&none());
    (0..2000).for_each(|key| world.delete(key));
    assert_eq!(world.seal(&none()).dirty_rows, 2000);
    for _ in 0..400 {
        world.put(5000, 100);
        world.seal(&none());
    }
    world.check();
    assert_eq!(world.backend.groups[0].as_ref().unwrap().index.addresses().count(), 1);
}

#[test]
fn cleaning_the_tail_keeps_its_tombstones() {
    let mut world = World::new(1, u64::MAX);
    (0..100).for_each(|key| world.put(key, 10));
    world.seal(&none());
    (0..100).for_each(|key| world.delete(key));
    // A value that grows by a byte each time leaves garbage in the tail: a thousand times its live bytes.
    (0..2000).for_each(|length| world.put(5000, length));
    world.check();
    let stats = world.backend.stats();
    assert!(stats.memory_bytes < 32 * 1024, "the tail was cleaned: {stats:?}");
    assert_eq!((stats.dirty_rows, world.seal(&none()).dirty_rows), (101, 101));
}

#[test]
fn survivors_are_in_no_delta_but_in_every_base() {
    let mut world = World::new(1, u64::MAX);
    (0..500).for_each(|key| world.put(key, 100));
    world.seal(&none());
    for _ in 0..40 {
        // Half of the rows keep turning into garbage, so the other half is copied.
        (0..250).for_each(|key| world.put(key * 2, 100));
        let sealed = world.seal(&none());
        let mut batch = RowBatch::new();
        sealed.parts[0].rows.append_group(KeyGroup(0), &mut batch).unwrap();
        assert_eq!((batch.len(), sealed.dirty_rows), (250, 250));
    }
    let held_bytes = world.backend.stats().memory_bytes - world.backend.arena.free_bytes();
    assert!(held_bytes < 3 * 500 * 110, "{held_bytes} bytes held");
    let sealed = world.seal(&KeyGroupSet::all(1));
    let mut batch = RowBatch::new();
    sealed.parts[0].rows.append_group(KeyGroup(0), &mut batch).unwrap();
    batch.fold(Fold::Base, &Rules::none()).unwrap();
    assert_eq!(batch.len(), 500);
    world.check();
}

#[test]
fn spare_bytes_of_a_tail_are_not_garbage() {
    let mut world = World::new(1, u64::MAX);
    // Records for a whole region: the next tail expects as many.
    (0..700).for_each(|key| world.put(key, 100));
    world.seal(&none());
    world.put(0, 100);
    let open = |world: &World| world.backend.groups[0].as_ref().unwrap().regions.run(Section::Tail).open;
    let first = open(&world);
    for key in 1..300 {
        world.put(key, 100);
        assert!(first.is_some() && open(&world) == first, "its records were moved");
    }
}

#[test]
fn an_update_of_equal_length_overwrites_the_value_until_the_seal() {
    let mut world = World::new(1, u64::MAX);
    let update = |world: &mut World, change: Change, new: &[u8]| {
        let seen = world.with_row(T, 7, b"", |backend, row| {
            backend.update(row, |value, to| {
                to.extend_from_slice(new);
                (change, value.map(<[u8]>::to_vec))
            })
        });
        seen.unwrap()
    };
    assert_eq!(update(&mut world, Change::Put, &[1; 9]), None);
    let before = world.backend.stats();
    assert_eq!(update(&mut world, Change::Put, &[2; 9]), Some(vec![1; 9]));
    assert_eq!(update(&mut world, Change::Keep, &[3; 9]), Some(vec![2; 9]));
    assert_eq!(world.backend.stats(), before, "the same record");
    let sealed = world.seal(&none());
    assert_eq!((sealed.heat[0].reads, sealed.heat[0].writes), (2, 2), "the first read found no group");
    assert_eq!(update(&mut world, Change::Put, &[4; 9]), Some(vec![2; 9]));
    assert_eq!(update(&mut world, Change::Put, &[5; 20]), Some(vec![4; 9]), "longer than its record");
    assert_eq!(update(&mut world, Change::Put, &[6; 3]), Some(vec![5; 20]));
    assert_eq!(update(&mut world, Change::Delete, &[]), Some(vec![6; 3]));
    assert_eq!(update(&mut world, Change::Keep, &[]), None);
    let mut batch = RowBatch::new();
    sealed.parts[0].rows.append_group(KeyGroup(0), &mut batch).unwrap();
    assert_eq!(batch.iter().map(|row| row.op).collect::<Vec<_>>(), [Op::Put(&[2; 9])], "sealed rows do not change");
    world.check();
}

#[test]
fn sealed_parts_stay_charged_while_they_live() {
    let mut world = World::new(4, u64::MAX);
    (0..2000).for_each(|key| world.put(key, 100));
    let sealed = world.seal(&none());
    let pinned = sealed.parts[0].rows.held_bytes();
    for _ in 0..5 {
        (0..2000).for_each(|key| world.put(key, 100));
        world.seal(&none());
    }
    let held_bytes = world.backend.stats().memory_bytes;
    assert!(pinned > 200_000 && world.budget.held_bytes() == held_bytes + pinned, "the first part left the log");
    drop(sealed);
    assert!(world.budget.held_bytes() < held_bytes + pinned, "some blocks are kept for the next use");
    assert_eq!(world.budget.held_bytes(), world.backend.stats().memory_bytes);
    world.backend.drop_groups(&KeyGroupSet::all(4)).unwrap();
    assert_eq!(world.budget.held_bytes(), world.backend.stats().memory_bytes);
    drop(world.backend);
    assert_eq!(world.budget.held_bytes(), 0);
}

#[test]
fn a_spent_budget_refuses_writes_and_recovers() {
    let mut world = World::new(4, MIB);
    let written = (0..).take_while(|&key| world.write(key, Write::Put(&[1; 200])).is_ok()).count();
    let written = u32::try_from(written).unwrap();
    assert!(written > 2000 && world.budget.held_bytes() <= MIB);
    let error = world.write(written, Write::Put(&[1; 200])).unwrap_err();
    assert_eq!((error.kind(), world.read(written)), (ErrorKind::Limit, None));
    assert_eq!(world.write(0, Write::Put(&[1; 300_000])).unwrap_err().kind(), ErrorKind::Limit);
    assert_eq!((world.read(0), world.backend.stats().rows), (Some(200), u64::from(written)));
    // Writes in place, seals, reads and settling need no memory, and still succeed.
    world.put(0, 150);
    let sealed = world.seal(&KeyGroupSet::all(4));
    world.backend.settle(Epoch(1), Outcome::Commit).unwrap();
    assert!((0..written).any(|key| world.write(key, Write::Put(&[2; 200])).is_err()), "pinned memory counts");
    let refused = (0..written).filter(|&key| world.write(key, Write::Put(&[2; 300])).is_err()).count();
    assert!(refused > 3000 && world.budget.held_bytes() <= MIB, "cleaning pinned regions would only add memory");
    world.check();
    drop(sealed);
    world.backend.drop_groups(&KeyGroupSet::from_iter([KeyGroup(0)])).unwrap();
    let key = (0..written).find(|key| P.locate(&key.to_le_bytes(), 0, 4).group != KeyGroup(0)).unwrap();
    world.put(key, 300);
    world.check();
}

#[test]
fn garbage_is_cleaned_before_a_write_is_refused() {
    let mut world = World::new(4, 2 * MIB);
    // A quarter of the memory is garbage: too little for the cleaner to run by itself.
    let written = (0..).take_while(|&key| world.write(key, Write::Put(&[1; 200])).is_ok()).count();
    let written = u32::try_from(written).unwrap();
    (0..written / 4).for_each(|key| world.delete(key));
    // New rows and longer values find room.
    let refilled = (0..).take_while(|&i| world.write(written / 2 + 3 * i, Write::Put(&[1; 250])).is_ok()).count();
    assert!(refilled as f64 > f64::from(written / 4) * 0.4, "{refilled} of {}", written / 4);
    world.check();
}

#[test]
fn a_load_beyond_the_budget_is_refused_whole() {
    let mut world = World::new(4, u64::MAX);
    (0..5000).for_each(|key| world.put(key, 100));
    let sealed = world.seal(&KeyGroupSet::all(4));
    let rows = sealed.parts[0].rows.as_ref();
    let budget = MemoryBudget::new(300_000);
    let mut small = LogBackend::new(none(), P, budget.clone());
    assert_eq!(small.load(rows, &KeyGroupSet::all(4)).unwrap_err().kind(), ErrorKind::Limit);
    assert!(small.groups().is_empty() && budget.held_bytes() == small.stats().memory_bytes);
    let roomy = MemoryBudget::new(u64::MAX);
    let mut restored = LogBackend::new(none(), P, roomy.clone());
    restored.load(rows, &KeyGroupSet::all(4)).unwrap();
    let stats = restored.stats();
    assert_eq!((stats.rows, stats.dirty_rows, stats.memory_bytes), (5000, 0, roomy.held_bytes()));
    assert!(stats.memory_bytes < 2 * stats.live_bytes, "{stats:?}");
}

#[derive(Debug, Clone)]
enum Step {
    Put(u32, usize),
    /// Puts a range of keys: first key, count, length.
    Fill(u32, u32, usize),
    /// Deletes a range of keys: first key, count.
    Clear(u32, u32),
    /// Appends to a list: key, count, length.
    Add(u32, u32, usize),
    /// Puts an entry of a map.
    Map(u32, u32, usize),
    /// Clears a list and a map.
    Drop(u32),
    /// Advances the clock by milliseconds; lists live for 1000.
    Tick(i64),
    Seal(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let length = prop_oneof![8 => 0usize..300, 2 => 300usize..5000, 1 => 10_000usize..100_000];
    let step = prop_oneof![
        6 => (0u32..1000, length.clone()).prop_map(|(key, length)| Step::Put(key, length)),
        3 => (0u32..1000, 0u32..300, 0usize..300).prop_map(|(key, count, length)| Step::Fill(key, count, length)),
        2 => (0u32..1000, 0u32..500).prop_map(|(key, count)| Step::Clear(key, count)),
        3 => (0u32..20, 1u32..200, length.clone()).prop_map(|(key, count, length)| {
            Step::Add(key, if length > 1000 { 2 } else { count }, length)
        }),
        4 => (0u32..20, 0u32..400, length).prop_map(|(key, sub, length)| Step::Map(key, sub, length)),
        2 => (0u32..20).prop_map(Step::Drop),
        3 => (0i64..400).prop_map(Step::Tick),
        2 => any::<bool>().prop_map(Step::Seal),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        rng_seed: RngSeed::Fixed(2),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn garbage_stays_within_the_bound(groups in 1u16..4, steps in steps()) {
        let (mut world, mut clock) = (World::new(groups, u64::MAX), 0);
        for step in steps {
            match step {
                Step::Put(key, length) => world.put(key, length),
                Step::Fill(key, count, length) => (key..key + count).for_each(|key| world.put(key, length)),
                Step::Clear(key, count) => (key..key + count).for_each(|key| world.delete(key)),
                Step::Add(key, count, length) => (0..count).for_each(|_| world.add(key, length)),
                Step::Map(key, sub, length) => {
                    let value = vec![3; length];
                    let sub = sub.to_be_bytes();
                    world.with_row(MAP, key, &sub, |backend, row| backend.write(row, Write::Put(&value))).unwrap();
                }
                Step::Drop(key) => [LIST, MAP].into_iter().for_each(|table| world.clear(table, key)),
                Step::Tick(millis) => {
                    clock += millis;
                    world.backend.advance(Timestamp::MIN, Timestamp::from_millis(clock));
                }
                Step::Seal(base) => drop(world.seal(&if base { KeyGroupSet::all(groups) } else { none() })),
            }
            world.check();
            prop_assert_eq!(world.budget.held_bytes(), world.backend.stats().memory_bytes);
        }
    }
}

#[test]
fn rows_without_families_are_visited_and_cleared_alike() {
    let mut world = World::new(2, u64::MAX);
    let plain = TableRules { by_key: false, ..TableRules::default() };
    let keys = [b"a", b"b"].map(|bytes| P.locate(bytes, 0, 2));
    let put = |world: &mut World, key, sub: &[u8]| {
        let row = RowRef { table: T, key, namespace: b"n", sub };
        world.backend.write(row, Write::Put(&[])).unwrap();
    };
    let subs = |world: &mut World, key| {
        let mut subs = Vec::new();
        let range = (std::ops::Bound::Excluded(&b"1"[..]), std::ops::Bound::Unbounded);
        let visit = |entry: Entry<'_>| {
            subs.push(entry.sub.to_vec());
            true
        };
        world.backend.scan_key(T, key, b"n", range, visit).unwrap();
        subs.sort();
        subs
    };
    let families = |world: &World| world.backend.stats().memory_bytes;
    for sub in [b"1", b"2", b"3"] {
        keys.iter().for_each(|key| put(&mut world, key, sub));
    }
    let with = families(&world);
    world.backend.define(T, plain.clone());
    assert!(families(&world) < with, "families free their memory");
    keys.iter().for_each(|key| put(&mut world, key, b"4"));
    let expected = [b"2", b"3", b"4"].map(|sub| sub.to_vec());
    assert_eq!(subs(&mut world, &keys[0]), expected);
    world.backend.define(T, TableRules::default());
    assert_eq!(subs(&mut world, &keys[1]), expected, "families are rebuilt from the rows");
    world.check();
    world.backend.define(T, plain);
    world.backend.clear(T, Scope::KeyNamespace(&keys[0], b"n")).unwrap();
    assert_eq!((subs(&mut world, &keys[0]).len(), subs(&mut world, &keys[1]).len()), (0, 3));
    world.check();
}
