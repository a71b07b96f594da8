//! The hash index of one group: from a row's hash to the address of its newest record.
//!
//! Invariants:
//! - every row with a record in the group has exactly one entry under its hash, tombstones and clears included;
//! - the older pieces of a row's value have entries too, links, each under a hash of its own;
//! - the hash is kept beside the address, so that growing reads no records.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::memory::{Charge, MemoryBudget};

use super::record::Place;

/// Where a record lies: a region of its group and an offset there. It also tells whether a newer piece of the row's
/// value stands elsewhere: a *link*.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) region: u32,
    /// Regions of several records are short: the highest bit is free.
    offset_and_link: u32,
}

const LINK: u32 = 1 << 31;

impl Address {
    pub(super) fn new(region: u32, offset: u32) -> Self {
        Self { region, offset_and_link: offset & !LINK }
    }

    pub(super) fn offset(self) -> u32 {
        self.offset_and_link & !LINK
    }

    pub(super) fn is_link(self) -> bool {
        self.offset_and_link & LINK != 0
    }

    /// Returns the address of the same record as an older piece of its row.
    pub(super) fn as_link(self) -> Self {
        Self { offset_and_link: self.offset_and_link | LINK, ..self }
    }

    pub(super) fn same_record(self, other: Self) -> bool {
        (self.region, self.offset()) == (other.region, other.offset())
    }
}

/// Returns the hash of a row, made of its key's hash.
pub(super) fn row_hash(key_hash: u64, place: &Place<'_>) -> u32 {
    // All keys of a group share the high bits; the low ones are as good as random. The tables of a key differ by a
    // multiple of an odd number, hence in their low bits too.
    let mut hash = low(key_hash) ^ place.table.0.wrapping_mul(0x9e37_79b1);
    if place.is_clear() {
        hash = !hash;
    }
    if !place.namespace.is_empty() || !place.sub.is_empty() {
        hash = low(xxh3_64_with_seed(place.namespace, u64::from(hash)));
        hash = low(xxh3_64_with_seed(place.sub, u64::from(hash)));
    }
    hash
}

/// Returns the hash under which the index has piece `ordinal` of a row, while a newer piece has the row's own.
pub(super) fn link_hash(hash: u32, ordinal: u32) -> u32 {
    // An odd number times anything but 0 is not 0: never the row's own.
    hash ^ ordinal.wrapping_add(1).wrapping_mul(0x85eb_ca6b)
}

fn low(hash: u64) -> u32 {
    let [a, b, c, d, ..] = hash.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Widens a row's hash: the table takes buckets from the low bits and its tags from the highest.
pub(super) fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[derive(Debug)]
struct Slot {
    hash: u32,
    address: Address,
}

/// The index of one group.
#[derive(Debug)]
pub(super) struct Index {
    table: HashTable<Slot>,
    charge: Charge,
}

/// An entry of the index, valid until the next insertion or removal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket(usize);

impl Index {
    pub(super) fn new(budget: &MemoryBudget) -> Self {
        Self { table: HashTable::new(), charge: budget.charge(0) }
    }

    /// Returns the entry of the row with this hash whose record `is_it` recognises.
    pub(super) fn find(&self, hash: u32, mut is_it: impl FnMut(Address) -> bool) -> Option<(Bucket, Address)> {
        let same = |slot: &Slot| slot.hash == hash && is_it(slot.address);
        let bucket = self.table.find_bucket_index(spread(hash), same)?;
        Some((Bucket(bucket), self.table.get_bucket(bucket)?.address))
    }

    /// Calls `visit` with every address under this hash.
    pub(super) fn find_all(&self, hash: u32, mut visit: impl FnMut(Address)) {
        let nothing = self.table.find(spread(hash), |slot| {
            if slot.hash == hash {
                visit(slot.address);
            }
            false
        });
        debug_assert!(nothing.is_none(), "nothing is looked for");
    }

    /// Returns how many bytes more it would hold after `rows` more insertions.
    pub(super) fn growth_bytes(&self, rows: usize) -> u64 {
        let wanted = self.table.len() + rows;
        if wanted <= self.table.capacity() {
            return 0;
        }
        // Buckets are a power of two, at most 7/8 full (small tables all but one); each has a slot and a tag byte.
        let buckets = if wanted < 8 { wanted + 1 } else { wanted.saturating_mul(8).div_ceil(7) };
        let grown = buckets.next_power_of_two().max(4) * (size_of::<Slot>() + 1) + 16;
        (grown as u64).saturating_sub(self.charge.bytes())
    }

    /// Makes room for `rows` more insertions.
    pub(super) fn reserve(&mut self, rows: usize) {
        self.table.reserve(rows, |slot| spread(slot.hash));
        self.recharge();
    }

    /// Adds the entry of a row that has none.
    pub(super) fn insert(&mut self, hash: u32, address: Address) {
        let full = self.table.len() == self.table.capacity();
        self.table.insert_unique(spread(hash), Slot { hash, address }, |slot| spread(slot.hash));
        if full {
            self.recharge();
        }
    }

    /// Points an entry at another record.
    pub(super) fn point(&mut self, bucket: Bucket, address: Address) {
        if let Some(slot) = self.table.get_bucket_mut(bucket.0) {
            slot.address = address;
        }
    }

    pub(super) fn remove(&mut self, bucket: Bucket) {
        if let Ok(entry) = self.table.get_bucket_entry(bucket.0) {
            entry.remove();
        }
    }

    /// Gives back memory once most of it is empty. Amortised, this costs a removal a constant.
    pub(super) fn trim(&mut self) {
        if self.table.len() < self.table.capacity() / 8 {
            self.table.shrink_to(self.table.len() * 2, |slot| spread(slot.hash));
            self.recharge();
        }
    }

    /// Returns all addresses, in no particular order: those of the newest records, and links.
    pub(super) fn addresses(&self) -> impl Iterator<Item = Address> {
        self.table.iter().map(|slot| slot.address)
    }

    /// Returns the bytes of memory that it holds.
    pub(super) fn held_bytes(&self) -> u64 {
        self.charge.bytes()
    }

    fn recharge(&mut self) {
        self.charge.resize(self.table.allocation_size() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TableId;
    use crate::segment::{Columns, Op, Row, RowKey};

    #[test]
    fn rows_of_one_key_and_tables_of_one_group_spread() {
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

    #[test]
    fn growth_is_foretold_and_given_back() {
        let budget = MemoryBudget::new(u64::MAX);
        let mut index = Index::new(&budget);
        for row in 0..10_000u32 {
            let foretold = index.held_bytes() + index.growth_bytes(1);
            index.insert(row, Address::new(0, row));
            let spared = foretold - index.held_bytes();
            assert!(spared <= 16, "row {row}: {spared} bytes");
        }
        for row in 0..9_900 {
            let (bucket, address) = index.find(row, |_| true).unwrap();
            assert_eq!(address.offset(), row);
            index.remove(bucket);
        }
        index.trim();
        assert!(index.held_bytes() < 8_000 && index.addresses().count() == 100);
        drop(index);
        assert_eq!(budget.held_bytes(), 0);
    }
}
