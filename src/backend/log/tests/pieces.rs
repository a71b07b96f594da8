//! Values in pieces and small regions, over many seals.

use std::collections::BTreeMap;

use super::*;
use crate::row::SealedPart;

/// Returns the content of every list according to sealed parts.
fn sealed_lists(parts: &[SealedPart]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut batch = RowBatch::new();
    for part in parts {
        part.groups.iter().for_each(|group| part.rows.append_group(group, &mut batch).unwrap());
    }
    batch.fold(Fold::Base, &parts.last().unwrap().rules).unwrap();
    let mut lists: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for row in batch.iter().filter(|row| row.key.table == LIST) {
        lists.entry(row.key.key.unwrap().to_vec()).or_default().extend_from_slice(row.op.payload());
    }
    lists
}

#[test]
fn list_pieces_keep_their_order_through_cleaning() {
    let mut world = World::new(1, u64::MAX);
    let (mut lists, mut parts, mut random) = (BTreeMap::<u32, Vec<u8>>::new(), Vec::new(), 1u64);
    let mut below = |most: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % most
    };
    for epoch in 0..400u64 {
        for _ in 0..below(20) {
            // Pieces of one epoch with different stamps are not folded.
            world.backend.advance(Timestamp::MIN, Timestamp::from_millis(i64::try_from(below(500)).unwrap()));
            // Some pieces are so large that they get a region of their own.
            let (key, length) = (u32::try_from(below(5)).unwrap(), if below(15) == 0 { 2_100 } else { 1 });
            let piece = epoch.to_le_bytes().repeat(length);
            let (list, replaces) = (lists.entry(key).or_default(), below(40) == 0);
            if replaces {
                list.clear();
            }
            list.extend_from_slice(&piece);
            let write = if replaces { Write::Put(&piece) } else { Write::Merge(&piece) };
            world.with_row(LIST, key, b"", |backend, row| backend.write(row, write)).unwrap();
            (0..below(30)).for_each(|_| world.put(u32::try_from(below(60)).unwrap(), 100));
        }
        let bases = if below(9) == 0 { KeyGroupSet::all(1) } else { none() };
        let sealed = world.seal(&bases);
        if !bases.is_empty() {
            parts.clear();
        }
        parts.extend(sealed.parts);
        if !parts.is_empty() {
            let expected: BTreeMap<_, _> =
                lists.iter().map(|(key, list)| (key.to_le_bytes().to_vec(), list.clone())).collect();
            assert!(sealed_lists(&parts) == expected, "epoch {epoch}");
        }
        world.check();
    }
}

/// Returns the group's number of frozen regions, and the number in proportion to its size.
fn regions(world: &World) -> (u64, u64) {
    let group = world.backend.groups[0].as_ref().unwrap();
    let frozen = group.regions.run(Section::Frozen);
    let in_proportion = join::SMALL_REGIONS_MAX + 2 * frozen.held_bytes / region::LARGE_RECORD_BYTES as u64;
    (frozen.order.len() as u64, in_proportion)
}

#[test]
fn g17_seals_do_not_use_up_regions() {
    // Small, medium and large rows, and rows with a region of their own: one row per seal.
    for (length, seals) in [(1, 4_000), (500, 4_000), (5_000, 600), (20_000, 300)] {
        let mut world = World::new(1, u64::MAX);
        let mut most = 0.0f64;
        for key in 0..seals {
            world.put(key, length);
            world.seal(&none());
            let (found, in_proportion) = regions(&world);
            // Credit may accumulate until it suffices to join a run of regions at once.
            most = most.max(found as f64 / (in_proportion + 72) as f64);
            if key % 500 == 0 {
                world.check();
            }
        }
        assert!(most <= 1.0, "{length} bytes: {most}");
        assert_eq!(world.backend.stats().rows, u64::from(seals));
        assert!((0..seals).all(|key| world.read(key) == Some(length)));
        world.check();
    }
}

#[test]
fn a_list_with_a_piece_per_seal_is_folded() {
    let mut world = World::new(1, u64::MAX);
    let mut expected = Vec::new();
    for seal in 0..3_000u32 {
        let piece = seal.to_le_bytes().repeat(10);
        expected.extend_from_slice(&piece);
        world.with_row(LIST, 7, b"", |backend, row| backend.write(row, Write::Merge(&piece))).unwrap();
        world.seal(&none());
    }
    let list = world.with_row(LIST, 7, b"", |backend, row| backend.read(row, |value| value.map(<[u8]>::to_vec)));
    assert!(list.unwrap().unwrap() == expected);
    world.check();
    let pieces = world.backend.groups[0].as_ref().unwrap().chains.as_ref().map_or(0, |chains| chains.len());
    assert!(pieces <= 100, "{pieces} pieces");
    let sealed = world.seal(&KeyGroupSet::all(1));
    assert!(sealed_lists(&sealed.parts).values().eq([&expected]));
}

#[test]
fn joined_regions_keep_every_row() {
    let mut world = World::new(1, u64::MAX);
    let (mut model, mut parts, mut random) = (BTreeMap::<Vec<u8>, Vec<u8>>::new(), Vec::new(), 9u64);
    let mut below = |most: u32| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as u32 % most
    };
    for epoch in 0..3_000u32 {
        for _ in 0..1 + below(3) {
            let sub = below(400).to_be_bytes();
            let write = |world: &mut World, write| {
                world.with_row(MAP, 7, &sub, |backend, row| backend.write(row, write)).unwrap();
            };
            match below(100) {
                0 => {
                    world.clear(MAP, 7);
                    model.clear();
                }
                1..40 => {
                    write(&mut world, Write::Delete);
                    model.remove(&sub[..]);
                }
                _ => {
                    let value = epoch.to_le_bytes().repeat(1 + below(30) as usize);
                    write(&mut world, Write::Put(&value));
                    model.insert(sub.to_vec(), value);
                }
            }
        }
        let base = below(150) == 0;
        let sealed = world.seal(&if base { KeyGroupSet::all(1) } else { none() });
        if base {
            parts.clear();
        }
        parts.extend(sealed.parts);
        if base || epoch % 100 == 0 {
            let mut batch = RowBatch::new();
            parts.iter().for_each(|part| part.rows.append_group(KeyGroup(0), &mut batch).unwrap());
            batch.fold(Fold::Base, &Rules::none()).unwrap();
            let stored = batch.iter().map(|row| (row.key.sub.unwrap().to_vec(), row.op.payload().to_vec()));
            assert!(stored.eq(model.clone()), "epoch {epoch}");
            world.check();
        }
    }
    let (found, in_proportion) = regions(&world);
    assert!(found <= in_proportion + 72, "{found} regions");
}
