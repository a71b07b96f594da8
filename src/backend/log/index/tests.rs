use super::*;
use crate::id::TableId;
use crate::memory::{DiskTier, MemoryBudget};
use crate::row::{Columns, Op, Row, RowKey};

#[test]
fn hashes_of_one_key_differ_by_table_and_namespace() {
    let hash = |table, namespace: &[u8]| {
        row_hash(
            0xabcd_ef01_2345_6789,
            &Place::of_stored(&Row {
                key: RowKey::data(TableId(table), b"k", namespace, b""),
                op: Op::Put(b""),
                columns: Columns::default(),
            }),
        )
    };
    let mut hashes = Vec::new();
    for table in 0..8 {
        hashes.extend((0..64u64).map(|window| hash(table, &window.to_le_bytes())));
        hashes.push(hash(table, b""));
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 8 * 65);
}

/// Returns an arena for a few groups that have a disk and little memory.
fn small_arena() -> Arena {
    let disk = DiskTier::on_file(tempfile::tempfile().unwrap(), 0);
    let arena = Arena::new(&MemoryBudget::new(1 << 20).with_disk(disk));
    arena.serve_groups(8);
    arena
}

fn arenas() -> [Arena; 2] {
    [Arena::new(&MemoryBudget::new(u64::MAX)), small_arena()]
}

#[test]
fn predicted_growth_is_exact_and_removals_free_memory() {
    arenas().iter().for_each(grow_and_shrink);
}

fn grow_and_shrink(arena: &Arena) {
    let mut index = Index::new(arena);
    for row in 0..10_000u32 {
        // A kept block would serve, and is charged already.
        arena.release();
        let foretold = index.held_bytes() + index.growth_bytes(row);
        index.insert(row, Address::new(row / 1000, row % 1000));
        assert_eq!(foretold, index.held_bytes(), "row {row}");
    }
    for row in 0..9_900 {
        let its = Address::new(row / 1000, row % 1000);
        let (bucket, address) = index.find(row, |address| address == its).unwrap();
        assert_eq!((address.region(), address.offset()), (row / 1000, row % 1000));
        index.remove(bucket);
        index.trim_at(bucket);
    }
    assert!(index.held_bytes() < 8_000 && index.addresses().count() == 100);
    drop(index);
    arena.release();
    assert_eq!(arena.budget().held_bytes(), 0);
}

#[test]
fn an_index_above_a_disk_is_dense() {
    let arena = small_arena();
    for presized in [0, 5_000] {
        let mut index = Index::new(&arena);
        index.presize(presized);
        let (mut sum, mut least) = (0.0, f64::MAX);
        for row in 1..=100_000u32 {
            index.insert(row.wrapping_mul(0x9e37_79b1), Address::new(row >> 16, row & 0xffff));
            let density = f64::from(row) * 8.0 / index.held_bytes() as f64;
            sum += density;
            least = if row < 5_000 { f64::MAX } else { least.min(density) };
        }
        assert!(least > 0.5, "at most 16 bytes a row: {least}");
        assert!(sum > 64_000.0, "about 12 bytes a row on average: {sum}");
    }
}

#[test]
#[should_panic(expected = "a removed entry exists")]
fn removing_an_entry_twice_panics() {
    let mut index = Index::new(&Arena::new(&MemoryBudget::new(u64::MAX)));
    index.insert(5, Address::new(0, 0));
    let (bucket, _) = index.find(5, |_| true).unwrap();
    index.remove(bucket);
    index.remove(bucket);
}

#[test]
#[should_panic(expected = "an address has enough bits for its record")]
fn an_address_out_of_range_panics() {
    Address::new(0, 1 << OFFSET_BITS);
}

#[test]
fn parts_are_cut_however_rows_lie_over_the_tags() {
    let in_first = |bits: u32| (0..).filter(move |hash| tag(*hash) >> (TAG_BITS - bits) == 0).take(7_500);
    let cases: [Vec<u32>; 4] = [
        in_first(3).collect(),
        in_first(9).collect(),
        vec![5; 7_500],
        [vec![5; 4_000], vec![77; 4_000], in_first(3).collect()].concat(),
    ];
    for arena in &arenas() {
        for hashes in &cases {
            let mut index = Index::new(arena);
            let rows: Vec<(u32, Address)> = hashes.iter().copied().zip((0..).map(|row| Address::new(0, row))).collect();
            rows.iter().for_each(|(hash, address)| index.insert(*hash, *address));
            assert_eq!(index.addresses().count(), rows.len());
            for (hash, address) in rows.iter().step_by(97) {
                assert!(index.find(*hash, |found| found == *address).is_some());
            }
        }
    }
}

#[test]
fn rows_are_found_while_parts_grow_split_and_shrink() {
    arenas().iter().for_each(find_rows);
}

fn find_rows(arena: &Arena) {
    let address = |row: u32| Address::new(row >> 16, row & 0xffff);
    // All hashes different; tags shared; many rows per hash.
    for (rows, hash_of) in [(60_000, None), (60_000, Some(40_000)), (3_000, Some(30))] {
        let hash = |row: u32| hash_of.map_or_else(|| row.wrapping_mul(0x9e37_79b1), |most| row % most);
        let mut index = Index::new(arena);
        index.presize(if rows == 3_000 { 0 } else { 20_000 });
        let find = |index: &Index, row| index.find(hash(row), |found| found == address(row));
        for row in 0..rows {
            index.insert(hash(row), address(row));
            if row % 3 == 2 {
                let (bucket, _) = find(&index, row - 1).unwrap();
                index.remove(bucket);
                index.trim_at(bucket);
            }
            if row % 5 == 4 {
                let (bucket, _) = find(&index, row - row % 3).unwrap();
                index.point(bucket, address(row - row % 3));
            }
        }
        let taken = |row: u32| row % 3 != 1 || row == rows - 1;
        for row in 0..rows {
            assert_eq!(find(&index, row).is_some(), taken(row), "row {row} of {rows}");
        }
        assert_eq!(index.addresses().count(), (0..rows).filter(|row| taken(*row)).count());
        let all = index.hits(hash(0)).count();
        assert!(index.search(hash(0)).first_hit().is_some());
        assert!(all >= (0..rows).filter(|row| taken(*row) && hash(*row) == hash(0)).count());
        (0..rows).filter(|row| taken(*row)).for_each(|row| index.remove(find(&index, row).unwrap().0));
        index.trim();
        assert!(index.addresses().count() == 0 && index.held_bytes() < 12_000, "{}", index.held_bytes());
    }
}
