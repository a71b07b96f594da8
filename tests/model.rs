//! The log, RocksDB and the overlay, at any parallelism, against an ordered map: random writes, operands and clears,
//! expiring rows, several seals per epoch with random bases, late settling, crashes, restores and rescales.
//!
//! `PROPTEST_CASES` and `PROPTEST_RNG_SEED` override the fixed default.

use alluvium_testkit::model::{Action, GROUPS, Length, Place, Step, TABLES, World};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// Draws from a small pool, hit again and again, or from a large one, which fills the state.
fn places() -> impl Strategy<Value = Place> {
    let key = prop_oneof![3 => 0u16..12, 2 => 0u16..2000];
    (0u32..TABLES, key, 0u8..3, prop_oneof![4 => 0u8..3, 1 => 3u8..200])
        .prop_map(|(table, key, namespace, sub)| Place { table, key, namespace, sub })
}

/// Draws from few keys, so that clears and operands often meet the same rows.
fn few_places() -> impl Strategy<Value = Place> {
    (0u32..TABLES, 0u16..3, 0u8..2, 0u8..4).prop_map(|(table, key, namespace, sub)| Place {
        table,
        key,
        namespace,
        sub,
    })
}

fn lengths() -> impl Strategy<Value = Length> {
    prop_oneof![20 => 0usize..300, 1 => 9_000usize..11_000, 1 => Just(70_000)].prop_map(Length)
}

fn actions() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => lengths().prop_map(Action::Put),
        3 => lengths().prop_map(Action::Append),
        1 => Just(Action::Keep),
        3 => Just(Action::Edit),
        6 => lengths().prop_map(Action::Merge),
        3 => Just(Action::Delete),
        2 => Just(Action::UpdateDelete),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        40 => (places(), actions()).prop_map(|(place, action)| Step::Write(place, action)),
        6 => (places(), 0u16..300, 0usize..200).prop_map(|(place, count, length)| Step::Fill(place, count, Length(length))),
        3 => (places(), 0u16..400).prop_map(|(place, count)| Step::Clear(place, count)),
        60 => (few_places(), actions()).prop_map(|(place, action)| Step::Write(place, action)),
        8 => (few_places(), 0u8..3).prop_map(|(place, scope)| Step::ClearScope(place, scope)),
        4 => (few_places(), [0u8..5, 0u8..5]).prop_map(|(place, bounds)| Step::ScanKey(place, bounds)),
        1 => (places(), 0u8..3).prop_map(|(place, scope)| Step::ClearScope(place, scope)),
        1 => (places(), any::<[u8; 2]>()).prop_map(|(place, bounds)| Step::ScanKey(place, bounds)),
        4 => (0u16..60).prop_map(Step::Tick),
        14 => (any::<bool>(), bases()).prop_map(|(next_epoch, bases)| Step::Seal { next_epoch, bases }),
        4 => (0u64..4, any::<bool>()).prop_map(|(age, commit)| Step::Settle { age, commit }),
        3 => (1u32..=8, any::<bool>()).prop_map(|(parallelism, lazy)| Step::Crash { parallelism, lazy }),
        3 => any::<u16>().prop_map(Step::Evict),
        1 => (1u32..=8).prop_map(Step::Rescale),
    ]
}

/// Bytes beyond which cold state goes to a disk: at once, or after a while.
fn beyond() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![3 => Just(None), 2 => Just(Some(0)), 2 => (20_000u64..600_000).prop_map(Some)]
}

/// A bit set of groups; mostly empty.
fn bases() -> impl Strategy<Value = u16> {
    prop_oneof![4 => Just(0), 2 => 0u16..1 << GROUPS, 1 => Just(u16::MAX)]
}

fn config(cases: u32) -> ProptestConfig {
    let widened = std::env::vars().any(|(name, _)| name.starts_with("PROPTEST_"));
    let rng_seed = if widened { ProptestConfig::default().rng_seed } else { RngSeed::Fixed(1) };
    let cases = if widened { ProptestConfig::default().cases } else { cases };
    ProptestConfig { cases, rng_seed, failure_persistence: None, max_shrink_iters: 2000, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(128))]

    #[test]
    fn f11_backends_agree_with_a_map(
        on_heap in any::<bool>(),
        parallelism in 1u32..=8,
        beyond in beyond(),
        steps in proptest::collection::vec(steps(), 1..150),
    ) {
        let mut world = World::of_logs(parallelism, on_heap, beyond);
        for step in &steps {
            world.take(step);
        }
        world.take(&Step::Rescale(3));
        world.take(&Step::Crash { parallelism: 1, lazy: false });
    }
}

#[cfg(feature = "rocksdb")]
mod rocksdb {
    use std::cell::Cell;

    use alluvium::{MemoryBudget, RocksDb, RocksDbSettings};

    use super::*;

    proptest! {
        // Fewer cases, since each database takes long to open.
        #![proptest_config(config(24))]

        #[test]
        fn f11_rocksdb_agrees_with_a_map(
            parallelism in 1u32..=3,
            steps in proptest::collection::vec(steps(), 1..150),
        ) {
            let folder = tempfile::tempdir().unwrap();
            // Buffers small enough to cause flushes and compactions.
            let options = [("write_buffer_size", "65536"), ("level0_file_num_compaction_trigger", "2")];
            let options = options.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
            let settings = RocksDbSettings::new(folder.path()).with(|it| { it.memory_bytes = 16 << 20; it.options = options; });
            let rocksdb = RocksDb::new(settings).unwrap();
            let made = Cell::new(0);
            let make = move |groups| {
                made.set(made.get() + 1);
                rocksdb.backend(&made.get().to_string(), groups, MemoryBudget::new(u64::MAX)).unwrap()
            };
            let mut world = World::new(make, false, parallelism);
            for step in &steps {
                world.take(step);
            }
            world.take(&Step::Rescale(2));
            world.take(&Step::Crash { parallelism: 1, lazy: false });
        }
    }
}
