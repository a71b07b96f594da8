//! State larger than memory: cold records of the log on a disk that works, fails, fills up or returns other bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind as Io;
use std::time::Duration;

use alluvium::backend::{
    BackendStats, Change, Cut, Fold, Part, RowBatch, RowRef, Scope, Sealed, StateBackend as _, Stored, Write,
};
use alluvium::{
    CurrentKey, DiskTier, Epoch, Error, ErrorKind, KeyGroup, KeyGroupSet, LogBackend, MemoryBudget, Partitioner,
    Result, TableId, Timestamp,
};
use alluvium_testkit::ColdFile;
use alluvium_testkit::sim::Rng;

const T: TableId = TableId(5);
const GROUPS: u16 = 4;
const P: Partitioner = Partitioner::Range { seed: 3 };

/// A backend whose records go to a simulated disk at once, and what it should hold.
struct World {
    backend: LogBackend,
    budget: MemoryBudget,
    tier: DiskTier,
    file: ColdFile,
    expected: BTreeMap<u32, Vec<u8>>,
    epoch: u64,
}

impl World {
    fn new() -> Self {
        Self::with(u64::MAX, u64::MAX, 0)
    }

    fn with(memory: u64, disk: u64, beyond: u64) -> Self {
        let file = ColdFile::default();
        let tier = DiskTier::on_file(file.clone(), disk);
        let budget = MemoryBudget::new(memory).with_disk_beyond(tier.clone(), beyond);
        let backend = LogBackend::new(KeyGroupSet::all(GROUPS), P, budget.clone());
        Self { backend, budget, tier, file, expected: BTreeMap::new(), epoch: 0 }
    }

    fn write(&mut self, key: u32, write: Write<'_>) -> Result<()> {
        let bytes = key.to_le_bytes();
        let located = P.locate(&bytes, 0, GROUPS);
        self.backend.write(RowRef { table: T, key: &located, namespace: &[], sub: &[] }, write)
    }

    fn put(&mut self, key: u32, length: usize) -> Result<()> {
        let value = value_of(key, length);
        self.write(key, Write::Put(&value))?;
        self.expected.insert(key, value);
        Ok(())
    }

    fn read(&mut self, key: u32) -> Result<Option<Vec<u8>>> {
        let bytes = key.to_le_bytes();
        let located = P.locate(&bytes, 0, GROUPS);
        let row = RowRef { table: T, key: &located, namespace: &[], sub: &[] };
        self.backend.read(row, |value| value.map(<[u8]>::to_vec))
    }

    fn scan(&mut self) -> Result<BTreeMap<u32, Vec<u8>>> {
        let mut rows = BTreeMap::new();
        self.backend.scan(T, &KeyGroupSet::all(GROUPS), b"", |entry| {
            let key = u32::from_le_bytes(entry.key.try_into().unwrap());
            assert!(rows.insert(key, entry.value.to_vec()).is_none(), "a row is visited once");
            true
        })?;
        Ok(rows)
    }

    fn seal(&mut self, bases: &KeyGroupSet) -> Sealed {
        self.epoch += 1;
        let at = Timestamp::MIN;
        self.backend
            .seal(Cut { epoch: Epoch(self.epoch), part: Part(0), event_time: at, processing_time: at }, bases)
            .unwrap()
    }

    fn check(&mut self) {
        for (key, value) in self.expected.clone() {
            assert_eq!(self.read(key).unwrap().as_ref(), Some(&value), "key {key}");
        }
        assert_eq!(self.scan().unwrap(), self.expected);
    }

    /// Fills regions, most of which go to the disk.
    fn fill(&mut self) {
        (0..3000).for_each(|key| self.put(key, 100 + key as usize % 90).unwrap());
        self.put(3000, 200_000).unwrap();
        let stats = self.tier.stats();
        assert!(stats.held_bytes > 200_000 && self.backend.stats().rows == 3001, "{stats:?}");
    }
}

fn value_of(key: u32, length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((key as usize * 31 + at * 7) % 251).unwrap()).collect()
}

/// Returns the rows of sealed parts.
fn rows_of(sealed: &Sealed) -> Result<BTreeMap<u32, Vec<u8>>> {
    let (mut rows, mut batch) = (BTreeMap::new(), RowBatch::new());
    for part in &sealed.parts {
        for group in part.groups.iter() {
            part.rows.append_group(group, &mut batch)?;
            batch.fold(Fold::Base, &part.rules)?;
            for row in batch.iter() {
                let key = u32::from_le_bytes(row.key.key.unwrap().try_into().unwrap());
                rows.insert(key, row.op.payload().to_vec());
            }
            batch.clear();
        }
    }
    Ok(rows)
}

#[test]
fn records_come_back_from_the_disk_as_they_were() {
    let mut world = World::new();
    world.fill();
    world.check();
    for key in (0..3000).step_by(3) {
        world.put(key, 40 + key as usize % 200).unwrap();
    }
    for key in (1..3000).step_by(7) {
        world.write(key, Write::Delete).unwrap();
        world.expected.remove(&key);
    }
    world.check();
    let key = 2u32.to_le_bytes();
    let located = P.locate(&key, 0, GROUPS);
    world.backend.clear(T, Scope::KeyNamespace(&located, &[])).unwrap();
    world.expected.remove(&2);
    world.check();
    let (stats, BackendStats { memory_bytes, .. }) = (world.tier.stats(), world.backend.stats());
    assert!(stats.damaged == 0 && stats.failed == 0 && memory_bytes < 300_000, "{stats:?}, {memory_bytes} in memory");
}

#[test]
fn sealed_parts_read_what_went_to_the_disk_after_the_seal() {
    let mut world = World::with(u64::MAX, u64::MAX, u64::MAX);
    for key in 0..2000 {
        world.put(key, 100).unwrap();
    }
    let delta = world.seal(&KeyGroupSet::empty());
    let base = world.seal(&KeyGroupSet::all(GROUPS));
    let expected = world.expected.clone();
    assert_eq!(world.tier.stats().writes, 0, "memory has room");
    // Another budget over the same state is not possible: a disk that is used at once, from here on.
    let mut cold = World::new();
    (0..2000).for_each(|key| cold.put(key, 100).unwrap());
    let (cold_delta, cold_base) = (cold.seal(&KeyGroupSet::empty()), cold.seal(&KeyGroupSet::all(GROUPS)));
    (0..2000).for_each(|key| cold.put(key, 50).unwrap());
    assert!(cold.tier.stats().writes > 10);
    for sealed in [delta, base, cold_delta, cold_base] {
        assert_eq!(rows_of(&sealed).unwrap(), expected);
    }
}

#[test]
fn a_delta_has_nothing_that_was_only_moved_or_read() {
    let mut world = World::new();
    world.fill();
    drop(world.seal(&KeyGroupSet::empty()));
    world.check();
    assert!(rows_of(&world.seal(&KeyGroupSet::empty())).unwrap().is_empty());
    world.put(17, 80).unwrap();
    world.check();
    let delta = world.seal(&KeyGroupSet::empty());
    assert_eq!((rows_of(&delta).unwrap().len(), delta.dirty_rows), (1, 1));
}

/// Keys whose rows lie on the disk, located.
fn cold_keys(keys: std::ops::Range<u32>, f: impl FnOnce(&[CurrentKey<'_>])) {
    let bytes: Vec<[u8; 4]> = keys.map(u32::to_le_bytes).collect();
    f(&bytes.iter().map(|key| P.locate(key, 0, GROUPS)).collect::<Vec<_>>());
}

#[test]
fn reads_of_a_batch_go_out_together_where_the_disk_keeps_readers_waiting() {
    let mut world = World::new();
    world.fill();
    let (file, values) = (world.file.clone(), world.expected.clone());
    let read = |world: &mut World, keys: std::ops::Range<u32>| {
        let expected: Vec<_> = keys.clone().map(|key| values[&key].clone()).collect();
        let _so_far = file.take_reads();
        cold_keys(keys, |keys| {
            let check = |at: usize, value: Option<&[u8]>| {
                assert_eq!(value, Some(&*expected[at]));
                Ok(())
            };
            world.backend.read_many(T, b"", keys, check).unwrap();
        });
        file.take_reads()
    };
    file.delay_reads(Duration::from_micros(50));
    let (announced, waits) = read(&mut world, 0..64);
    assert!(announced + waits >= 64 && waits >= 32, "{announced}, {waits}: it was not known to be slow");
    assert_eq!(read(&mut world, 64..128), (64, 0));
    cold_keys(128..192, |keys| {
        world.backend.prefetch_keys(keys);
        assert_eq!(file.take_reads(), (64, 0), "no read waits");
        let mut add = |_: usize, value: Stored<'_>, new: &mut Vec<u8>| {
            new.extend_from_slice(value.bytes().unwrap());
            new.push(1);
            (Some(Change::Put), Ok(()))
        };
        world.backend.update_many(T, b"", keys, &mut add).unwrap();
        let (announced, waits) = file.take_reads();
        assert!(announced >= 32 && waits < 32, "{announced}, {waits}");
    });
}

#[test]
fn a_seal_reports_what_lies_in_each_tier() {
    let mut world = World::new();
    world.fill();
    (0..100).for_each(|key| drop(world.read(key).unwrap()));
    let sealed = world.seal(&KeyGroupSet::empty());
    let number = |name: &str| sealed.statistics.iter().find(|it| it.name == name).unwrap().value;
    let stats = world.tier.stats();
    assert_eq!((number("disk_bytes"), number("disk_reads")), (stats.held_bytes, stats.reads));
    assert_eq!((number("disk_record_reads"), number("uses")), (stats.record_reads, 3001 + 100));
    assert!((100..110).contains(&stats.record_reads), "a record longer than others may take two");
    assert_eq!((number("disk_writes"), number("disk_read_us")), (stats.writes, stats.read_nanos / 1000));
    assert!(number("memory_bytes") <= world.budget.held_bytes() && number("memory_bytes") > 0);
    let mut alone = LogBackend::new(KeyGroupSet::all(GROUPS), P, MemoryBudget::new(u64::MAX));
    let cut = Cut { epoch: Epoch(1), part: Part(0), event_time: Timestamp::MIN, processing_time: Timestamp::MIN };
    assert!(alone.seal(cut, &KeyGroupSet::empty()).unwrap().statistics.is_empty(), "without a disk there are no tiers");
}

#[test]
fn a_row_that_is_read_again_comes_back_to_memory_and_stays_clean() {
    let mut world = World::with(u64::MAX, u64::MAX, 400_000);
    world.fill();
    drop(world.seal(&KeyGroupSet::empty()));
    (0..3000).for_each(|key| drop(world.read(key).unwrap()));
    let reads = |world: &World| world.tier.stats().reads;
    let before = reads(&world);
    (0..100).for_each(|_| assert_eq!(world.read(8).unwrap().as_ref(), world.expected.get(&8)));
    assert!(reads(&world) <= before + 2, "the second read in a short while brings it back");
    assert_eq!(world.seal(&KeyGroupSet::empty()).dirty_rows, 0);
    world.check();
}

#[test]
fn d14_memory_stays_within_its_budget_while_state_is_a_multiple_of_it() {
    let limit = 1 << 20;
    // Survivors of cleaning are copied without asking.
    let most = limit + limit / 20;
    let mut world = World::with(limit, u64::MAX, limit - limit / 16);
    for key in 0..30_000 {
        world.put(key, 100).unwrap();
        assert!(world.budget.held_bytes() <= most, "key {key}: {}", world.budget.held_bytes());
    }
    for step in 0..30_000u32 {
        world.put(step.wrapping_mul(2_654_435_761) % 30_000, 100).unwrap();
        assert!(world.budget.held_bytes() <= most);
        if step % 5000 == 0 {
            drop(world.seal(&KeyGroupSet::empty()));
        }
    }
    world.check();
    let stats = world.tier.stats();
    assert!(stats.held_bytes < 2 * 30_000 * 121 + (1 << 20), "garbage on the disk is bounded: {stats:?}");
}

#[test]
fn d05_d06_cold_state_that_the_disk_does_not_take_stays_in_memory() {
    for (error, kind) in
        [(Io::StorageFull, ErrorKind::Limit), (Io::QuotaExceeded, ErrorKind::Limit), (Io::Other, ErrorKind::Limit)]
    {
        for after in 0..12 {
            let limit = 1 << 20;
            let mut world = World::with(limit, u64::MAX, limit / 2);
            world.file.limit_calls(5_000);
            world.file.fail_writes(Some(error), after);
            let refused = (0..20_000).find_map(|key| world.put(key, 100).err().map(|error| (key, error)));
            let (key, refused) = refused.expect("memory is too small for all rows");
            assert_eq!(refused.kind(), kind, "{refused}");
            assert!(key > 3000 && world.tier.stats().failed > 0, "memory was used first");
            world.check();
            // The disk takes bytes again.
            world.file.fail_writes(None, 0);
            (key..key + 6_000).for_each(|key| world.put(key, 100).unwrap());
            world.check();
        }
    }
}

#[test]
fn d05_a_disk_tier_that_is_full_is_a_limit() {
    let mut world = World::with(1 << 20, 256 * 1024, 1 << 19);
    let refused = (0..20_000).find_map(|key| world.put(key, 100).err());
    assert_eq!(refused.map(|error| error.kind()), Some(ErrorKind::Limit));
    let stats = world.tier.stats();
    assert!(stats.held_bytes <= stats.limit_bytes && stats.held_bytes > 128 * 1024, "{stats:?}");
    world.check();
}

#[test]
fn d06_a_disk_that_cannot_be_read_is_an_error_and_never_a_missing_row() {
    let mut world = World::new();
    world.fill();
    world.file.fail_reads(Some(Io::Other));
    let kinds: Vec<_> = (0..3000).filter_map(|key| world.read(key).err().map(|error| error.kind())).collect();
    assert!(kinds.len() > 2000 && kinds.iter().all(|kind| *kind == ErrorKind::Unavailable), "{}", kinds.len());
    assert!(world.scan().is_err() && world.write(5, Write::Put(b"new")).is_err());
    assert!(world.write(6, Write::Delete).is_err() && world.write(1, Write::Delete).is_err());
    world.file.fail_reads(None);
    world.check();
}

#[test]
fn d07_cold_records_are_read_and_written_a_byte_at_a_time() {
    let mut world = World::new();
    world.file.limit_calls(1);
    (0..1500).for_each(|key| world.put(key, 100).unwrap());
    world.check();
    assert!(world.tier.stats().reads > 100);
}

/// Damages the file again and again: each row is right or an error.
#[test]
fn d08_cold_records_that_rot_are_errors_and_never_wrong() {
    let mut found = 0;
    for seed in 0..100usize {
        let mut world = World::new();
        (0..400).for_each(|key| world.put(key, 100).unwrap());
        let bits = world.file.length() * 8;
        world.file.flip(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) % bits);
        let expected = world.expected.clone();
        let check = |result: Result<Option<Vec<u8>>>, key: u32| match result {
            Ok(value) => assert_eq!(value.as_ref(), expected.get(&key), "key {key}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"),
        };
        (0..400).for_each(|key| check(world.read(key), key));
        let scanned = world.scan();
        let sealed = rows_of(&world.seal(&KeyGroupSet::all(GROUPS)));
        for rows in [scanned, sealed] {
            match rows {
                Ok(rows) => assert_eq!(rows, expected),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"),
            }
        }
        found += usize::from(world.tier.stats().damaged > 0);
        // Whatever moves next, nothing turns wrong.
        for key in (0..400).step_by(2) {
            drop(world.put(key, 90));
        }
        let expected = world.expected.clone();
        for key in 0..400 {
            match world.read(key) {
                Ok(value) => assert_eq!(value.as_ref(), expected.get(&key), "key {key}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"),
            }
        }
    }
    assert!(found > 50, "most of the file is in use: {found}");
}

/// Damages the file in the middle of traffic, while the cleaner moves what lies there: each row is right or an error.
#[test]
fn d08_cold_records_that_rot_while_they_are_in_use_are_errors_and_never_wrong() {
    let (mut found, mut moved) = (0, 0);
    for seed in 0..100 {
        let mut rng = Rng::from_state(seed);
        let mut world = World::new();
        (0..400).for_each(|key| world.put(key, 100).unwrap());
        let damaged_at = rng.below(1500);
        for step in 0..3000 {
            if step == damaged_at {
                let bits = world.file.length() as u64 * 8;
                world.file.flip(usize::try_from(rng.below(bits)).unwrap());
                moved -= world.tier.stats().writes.cast_signed();
            }
            let key = u32::try_from(rng.below(400)).unwrap();
            let result = match rng.below(3) {
                // A refused write leaves the row as it was.
                0 => world.put(key, 50 + rng.index(100)),
                _ => world.read(key).map(|value| assert_eq!(value.as_ref(), world.expected.get(&key), "key {key}")),
            };
            if let Err(error) = result {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                found += 1;
            }
            if step % 500 == 499 {
                drop(world.seal(&KeyGroupSet::empty()));
            }
        }
        moved += world.tier.stats().writes.cast_signed();
    }
    assert!(found > 100 && moved > 200, "{found} errors, {moved} regions written after the damage");
}

#[test]
fn d09_a_file_of_cold_state_that_is_cut_is_an_error() {
    let mut world = World::new();
    world.fill();
    world.file.cut(world.file.length() / 2);
    let results: Vec<_> = (0..3000).map(|key| world.read(key).map_err(|error: Error| error.kind())).collect();
    assert!(results.contains(&Err(ErrorKind::Unavailable)));
    for (key, result) in (0..).zip(results) {
        assert!(result.is_err() || result.unwrap().as_ref() == world.expected.get(&key));
    }
}

#[test]
fn d10_processes_that_share_a_folder_for_cold_state_do_not_meet() {
    let folder = tempfile::tempdir().unwrap();
    let open = || DiskTier::open(folder.path(), 1 << 20).unwrap();
    let backend = |tier: &DiskTier| {
        let budget = MemoryBudget::new(u64::MAX).with_disk_beyond(tier.clone(), 0);
        LogBackend::new(KeyGroupSet::all(GROUPS), P, budget)
    };
    let tiers = [open(), open()];
    let mut backends = tiers.each_ref().map(backend);
    for key in 0..1000u32 {
        for (at, backend) in (0u8..).zip(&mut backends) {
            let bytes = key.to_le_bytes();
            let located = P.locate(&bytes, 0, GROUPS);
            let row = RowRef { table: T, key: &located, namespace: &[], sub: &[] };
            backend.write(row, Write::Put(&[at; 100])).unwrap();
        }
    }
    for (at, backend) in (0u8..).zip(&mut backends) {
        for key in 0..1000u32 {
            let bytes = key.to_le_bytes();
            let located = P.locate(&bytes, 0, GROUPS);
            let row = RowRef { table: T, key: &located, namespace: &[], sub: &[] };
            assert_eq!(backend.read(row, |value| value.map(<[u8]>::to_vec)).unwrap(), Some(vec![at; 100]));
        }
    }
    assert!(tiers.iter().all(|tier| tier.stats().reads > 100));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "files of cold state have no names");
}

#[test]
fn d11_what_crashed_runs_left_of_cold_state_is_removed_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..2000 {
        fs::write(folder.path().join(format!("alluvium-cold-{number}")), b"left over").unwrap();
    }
    let others = ["cold-1", "alluvium-col", "notes.txt"];
    others.iter().for_each(|name| fs::write(folder.path().join(name), b"kept").unwrap());
    fs::create_dir(folder.path().join("alluvium-cold-folder")).unwrap();
    let _tier = DiskTier::open(folder.path(), 1 << 20).unwrap();
    let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["alluvium-col", "alluvium-cold-folder", "cold-1", "notes.txt"]);
}

#[test]
fn d12_a_folder_that_cannot_take_cold_state_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, b"").unwrap();
    for bad in [file.clone(), file.join("below")] {
        assert_eq!(DiskTier::open(bad, 1 << 20).unwrap_err().kind(), ErrorKind::Config);
    }
}

#[test]
fn d14_a_task_that_finds_memory_full_waits_for_what_another_gives_back() {
    let mut idle = World::with(2 << 20, u64::MAX, (2 << 20) - 4096);
    let budget = idle.budget.clone();
    let mut busy = World { backend: LogBackend::new(KeyGroupSet::all(GROUPS), P, budget), ..World::new() };
    let full = |world: &World| !world.budget.has_room(64 << 10);
    (0..).take_while(|key| idle.put(*key, 200).is_ok() && !(*key > 7000 && full(&idle))).for_each(drop);
    let written = std::thread::scope(|scope| {
        let writing = scope.spawn(|| (0..40).try_for_each(|key| busy.put(key, 100_000)));
        while !writing.is_finished() {
            idle.backend.advance(Timestamp::MIN, Timestamp::MIN);
            std::thread::yield_now();
        }
        writing.join().unwrap()
    });
    written.unwrap();
    busy.check();
    idle.check();
    assert!(idle.budget.most_bytes() <= (2 << 20) * 21 / 20, "{}", idle.budget.most_bytes());
}

#[test]
fn d14_a_task_that_waits_for_memory_gets_blocks_that_another_keeps() {
    let mut idle = World::with(2 << 20, u64::MAX, (2 << 20) - 4096);
    (0..4000).for_each(|key| idle.put(key, 200).unwrap());
    (0..GROUPS).for_each(|group| idle.backend.clear(T, Scope::Namespace(KeyGroup(group), &[])).unwrap());
    idle.seal(&KeyGroupSet::empty());
    let budget = idle.budget.clone();
    let mut busy = World { backend: LogBackend::new(KeyGroupSet::all(GROUPS), P, budget.clone()), ..World::new() };
    busy.put(1, 10).unwrap();
    // A little more than there is room for.
    let length = usize::try_from(budget.limit_bytes() - budget.held_bytes()).unwrap() + (8 << 10);
    let written = std::thread::scope(|scope| {
        let writing = scope.spawn(|| busy.put(2, length));
        while !writing.is_finished() {
            idle.backend.advance(Timestamp::MIN, Timestamp::MIN);
            std::thread::yield_now();
        }
        writing.join().unwrap()
    });
    written.unwrap();
    busy.check();
}
