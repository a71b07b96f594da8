//! The short way to plain rows.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::super::index::{plain_hash, tag};
use super::*;
use crate::backend::{KeyedState, Tables};
use crate::codec::schema::Schema;
use crate::codec::typed::Fixed;

/// Returns pairs of keys whose rows have the same tag in a backend of one group.
fn pairs_of_one_tag(slot: TableId) -> Vec<(u32, u32)> {
    let mut keys = BTreeMap::new();
    let mut pairs = Vec::new();
    for key in 0..60_000u32 {
        let hash = P.locate(&key.to_le_bytes(), 0, 1).hash;
        pairs.extend(keys.insert(tag(plain_hash(hash, slot.0)), key).map(|other| (other, key)));
    }
    pairs
}

fn value(world: &mut World, key: u32) -> Option<Vec<u8>> {
    world.with_row(T, key, b"", |backend, row| backend.read(row, |value| value.map(<[u8]>::to_vec))).unwrap()
}

/// Fills the value with a byte, by an edit and by an update.
fn fill(world: &mut World, key: u32, byte: u8) {
    let edited = world.with_row(T, key, b"", |backend, row| backend.edit(row, |value| value.fill(!byte))).unwrap();
    assert_eq!(edited, Some(()));
    let updated = world.with_row(T, key, b"", |backend, row| {
        backend.update(row, |value, new| {
            let old = value.unwrap_or_default();
            new.resize(old.len(), byte);
            (Change::Put, old.iter().all(|old| *old == !byte))
        })
    });
    assert!(updated.unwrap(), "the update sees the edit");
}

#[test]
fn rows_whose_tags_collide_are_told_apart() {
    let mut world = World::new(1, u64::MAX);
    let pairs = pairs_of_one_tag(world.backend.table_slots.slot_of(T));
    assert!(pairs.len() >= 2, "{} pairs", pairs.len());
    for (first, second) in pairs {
        world.put(first, 3);
        assert_eq!(value(&mut world, second), None);
        world.put(second, 5);
        for round in 0..3 {
            fill(&mut world, second, 20 + round);
            fill(&mut world, first, 10 + round);
            assert_eq!(value(&mut world, first), Some(vec![10 + round; 3]));
            assert_eq!(value(&mut world, second), Some(vec![20 + round; 5]));
            drop(world.seal(&KeyGroupSet::empty()));
        }
        world.put(second, 5);
        world.write(first, Write::Delete).unwrap();
        assert_eq!((value(&mut world, first), value(&mut world, second)), (None, Some(vec![1; 5])));
        world.check();
    }
}

#[test]
fn a_panic_in_a_typed_update_changes_nothing() {
    let backend = LogBackend::new(KeyGroupSet::all(4), P, MemoryBudget::new(u64::MAX));
    let mut state = KeyedState::new(backend, P, 4, Tables::new(Schema::new("bytes")));
    let count = state.value("count", Fixed).unwrap();
    state.set_key(b"k").unwrap();
    count.put(&mut state, &7u64).unwrap();
    let panicking = || {
        count.update(&mut state, |n: &mut Option<u64>| {
            *n = Some(8);
            resume_unwind(Box::new("planned"))
        })
    };
    assert!(catch_unwind(AssertUnwindSafe(panicking)).is_err());
    assert_eq!(count.read(&mut state).unwrap(), Some(7));
    count.update(&mut state, |n: &mut Option<u64>| *n = Some(9)).unwrap();
    assert_eq!(count.read(&mut state).unwrap(), Some(9));
    count.update(&mut state, |n: &mut Option<u64>| *n = None).unwrap();
    assert_eq!(count.read(&mut state).unwrap(), None);
}
