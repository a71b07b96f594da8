//! The short way to plain rows.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::super::index::{plain_hash, scoped_hash, tag};
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
            // The next edits find sealed records.
            drop(world.seal(&KeyGroupSet::empty()));
        }
        world.put(second, 5);
        world.write(first, Write::Delete).unwrap();
        assert_eq!((value(&mut world, first), value(&mut world, second)), (None, Some(vec![1; 5])));
        world.check();
    }
}

/// Returns pairs of rows of one key that differ in namespace or sub-key and have the same tag.
fn scoped_pairs_of_one_tag(slot: TableId, key_hash: u64) -> Vec<[[Vec<u8>; 2]; 2]> {
    let (mut rows, mut pairs) = (BTreeMap::new(), Vec::new());
    for number in 0..90_000u64 {
        let scope = match number % 3 {
            0 => [Vec::new(), number.to_le_bytes().to_vec()],
            1 => [number.to_le_bytes().to_vec(), Vec::new()],
            _ => [b"window-7".to_vec(), number.to_le_bytes()[..3].to_vec()],
        };
        let hash = scoped_hash(key_hash, slot.0, &scope[0], &scope[1]);
        pairs.extend(rows.insert(tag(hash), scope.clone()).map(|other| [other, scope]));
    }
    pairs
}

#[test]
fn scoped_rows_whose_tags_collide_are_told_apart() {
    let mut world = World::new(1, u64::MAX);
    let key = P.locate(b"key", 0, 1);
    let pairs = scoped_pairs_of_one_tag(world.backend.table_slots.slot_of(T), key.hash);
    assert!(pairs.len() >= 5, "{} pairs", pairs.len());
    for pair in &pairs {
        let rows = pair.each_ref().map(|[namespace, sub]| RowRef { table: T, key: &key, namespace, sub });
        let mut backend = &mut world.backend;
        let read = |backend: &mut LogBackend, at: usize| backend.read(rows[at], |value| value.map(<[u8]>::to_vec));
        backend.write(rows[0], Write::Put(b"first")).unwrap();
        assert_eq!(read(backend, 1).unwrap(), None);
        backend.write(rows[1], Write::Put(b"second")).unwrap();
        for round in 0..3u8 {
            for at in [1, 0] {
                assert_eq!(backend.edit(rows[at], |value| value[0] = round).unwrap(), Some(()));
                let add = |value: Option<&[u8]>, new: &mut Vec<u8>| {
                    new.extend_from_slice(value.unwrap());
                    new[1] = 10 * u8::try_from(at).unwrap() + round;
                    (Change::Put, ())
                };
                backend.update(rows[at], add).unwrap();
            }
            assert_eq!(read(backend, 0).unwrap().unwrap(), [round, round, b'r', b's', b't']);
            assert_eq!(read(backend, 1).unwrap().unwrap(), [round, 10 + round, b'c', b'o', b'n', b'd']);
            drop(world.seal(&KeyGroupSet::empty()));
            backend = &mut world.backend;
            backend.write(rows[0], Write::Put(b"FIRST")).unwrap();
            backend.write(rows[0], Write::Put(b"first")).unwrap();
        }
        backend.write(rows[1], Write::Delete).unwrap();
        assert_eq!((read(backend, 0).unwrap().as_deref(), read(backend, 1).unwrap()), (Some(&b"first"[..]), None));
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

#[test]
fn editing_a_sealed_row_copies_it_once_and_leaves_the_sealed_bytes() {
    // Lengths of one byte and of two; a region of its own; a record in the tail; none.
    for length in [0, 1, 7, 8, 100, 1000, 40_000] {
        let mut world = World::new(1, u64::MAX);
        (0..5).for_each(|key| world.put(key, length));
        let sealed = world.seal(&KeyGroupSet::empty());
        for key in 0..4 {
            let edit = |value: &mut [u8]| value.fill(7);
            assert_eq!(world.with_row(T, key, b"", |backend, row| backend.edit(row, edit)).unwrap(), Some(()));
            assert_eq!(value(&mut world, key), Some(vec![7; length]));
        }
        world.check();
        let none = world.with_row(T, 9, b"", |backend, row| backend.edit(row, |_| ())).unwrap();
        assert_eq!(none, None, "a row without a value is not edited");
        let mut batch = RowBatch::new();
        sealed.parts[0].rows.append_group(KeyGroup(0), &mut batch).unwrap();
        assert!(batch.iter().all(|row| row.op.payload() == vec![1; length]));
        assert_eq!(delta_rows(&mut world).len(), 4, "a changed row is in the next delta, once");
        world.write(0, Write::Delete).unwrap();
        assert_eq!((value(&mut world, 0), delta_rows(&mut world).len()), (None, 1), "the sealed row needs a tombstone");
        world.check();
    }
}

#[test]
fn editing_sealed_rows_again_and_again_stays_within_the_bound() {
    let mut world = World::new(2, u64::MAX);
    (0..4000).for_each(|key| world.put(key, 100));
    for round in 0..20u32 {
        drop(world.seal(&KeyGroupSet::empty()));
        for key in (0..4000).filter(|key| key % 5 == round % 5) {
            let edited = world.with_row(T, key, b"", |backend, row| backend.edit(row, |value| value[0] = 9)).unwrap();
            assert_eq!(edited, Some(()));
        }
        world.check();
    }
    assert!((0..4000).all(|key| value(&mut world, key) == Some([&[9][..], &[1; 99]].concat())));
}

#[test]
fn the_last_short_record_of_a_region_is_edited_too() {
    for [key_bytes, value_bytes] in [[1, 1], [1, 0], [2, 0], [1, 2]] {
        let mut world = World::new(1, u64::MAX);
        let keys: Vec<_> = (0..200u8).map(|key| vec![key; key_bytes]).collect();
        for edit in [false, true] {
            for bytes in &keys {
                let key = P.locate(bytes, 0, 1);
                let row = RowRef { table: T, key: &key, namespace: &[], sub: &[] };
                if edit {
                    assert_eq!(world.backend.edit(row, |value| value.fill(7)).unwrap(), Some(()));
                } else {
                    world.backend.write(row, Write::Put(&vec![1; value_bytes])).unwrap();
                }
            }
            world.check();
            // The next tail begins with a region for as many bytes as this one has.
            drop(world.seal(&KeyGroupSet::empty()));
        }
        for bytes in &keys {
            let key = P.locate(bytes, 0, 1);
            let row = RowRef { table: T, key: &key, namespace: &[], sub: &[] };
            let read = world.backend.read(row, |value| value.map(<[u8]>::to_vec)).unwrap();
            assert_eq!(read, Some(vec![7; value_bytes]));
        }
    }
}

#[test]
fn a_sealed_row_is_edited_by_a_key_that_is_routed_otherwise() {
    let mut world = World::new(1, u64::MAX);
    let plain = P.locate(b"key", 0, 1);
    for routing in [None, Some(5), None] {
        let key = CurrentKey { routing, ..plain };
        let row = RowRef { table: T, key: &key, namespace: &[], sub: &[] };
        let old = CurrentKey { routing: if routing.is_none() { Some(5) } else { None }, ..plain };
        world.backend.write(RowRef { key: &old, ..row }, Write::Put(b"value")).unwrap();
        drop(world.seal(&KeyGroupSet::empty()));
        assert_eq!(world.backend.edit(row, |value| value[0] = b'V').unwrap(), Some(()));
        assert!(world.backend.read(row, |value| value == Some(b"Value")).unwrap());
        world.backend.write(row, Write::Delete).unwrap();
        world.check();
    }
}
