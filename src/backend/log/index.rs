//! The hash index of one group: from a row's hash to the address of its newest record.
//!
//! ```text
//! directory: top bits of the hash -> part          doubles when a part with a single entry splits
//! part:      slots of hash | address, found by the low bits of the hash, with linear probing
//! ```
//!
//! A slot is one word, so finding a row takes one read of the index and one of the record. A full part grows up to
//! `PART_SLOTS`, then splits in two: no insertion moves more than a part.
//!
//! Invariants:
//! - every row with a record in the group has exactly one slot under its hash, tombstones and clears included;
//! - a slot keeps enough of the hash to grow without reading records, and to skip nearly every other row's record;
//! - a part has at least one empty slot, or no slots.

mod part;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::broken;
use crate::memory::Charge;

use self::part::{Part, Search, Slot, empty_slots, repoint, taken_slots};
use super::arena::{Arena, BLOCK_BYTES, Directory, Storage};
use super::record::Place;

/// Bits of a slot's address: an offset in a region, and the region's number plus one.
const ADDRESS_BITS: u32 = OFFSET_BITS + REGION_BITS;
const OFFSET_BITS: u32 = 16;
const REGION_BITS: u32 = 20;

/// Bits of a slot's tag: what it keeps of the hash.
const TAG_BITS: u32 = u64::BITS - ADDRESS_BITS;

/// The most regions that a group can have.
pub(super) const REGIONS_MAX: usize = (1 << REGION_BITS) - 1;

/// The most slots of a part, 64 KiB, unless the directory has no more bits to split it by.
const PART_SLOTS: usize = BLOCK_BYTES / size_of::<Slot>();

/// The most bits of a tag that the directory uses. The others select a slot within a part.
const DEPTH_MAX: u32 = 15;

/// Where a record lies: a region of its group and an offset there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address(u64);

impl Address {
    /// * `region`: below [`REGIONS_MAX`]; `offset`: within 64 KiB, as in all regions of several records.
    pub(super) fn new(region: u32, offset: u32) -> Self {
        if region as usize >= REGIONS_MAX || offset >> OFFSET_BITS != 0 {
            broken("an address has enough bits for its record");
        }
        Self((u64::from(region) + 1) << OFFSET_BITS | u64::from(offset))
    }

    #[inline]
    pub(super) fn region(self) -> u32 {
        (((self.0 >> OFFSET_BITS) & ((1 << REGION_BITS) - 1)) as u32).wrapping_sub(1)
    }

    #[inline]
    pub(super) fn offset(self) -> u32 {
        (self.0 & ((1 << OFFSET_BITS) - 1)) as u32
    }
}

/// Returns the hash of a row without namespace and sub-key, derived from its key's hash.
#[inline]
pub(super) fn plain_hash(key_hash: u64, slot: u32) -> u32 {
    // All keys of a group share the high bits; the low ones are as good as random. The tables of a key differ by a
    // multiple of an odd number, hence in their low bits too.
    low(key_hash) ^ slot.wrapping_mul(0x9e37_79b1)
}

/// Returns the hash of a row of data, derived from its key's hash.
#[inline]
pub(super) fn scoped_hash(key_hash: u64, slot: u32, namespace: &[u8], sub: &[u8]) -> u32 {
    with_scope(plain_hash(key_hash, slot), namespace, sub)
}

/// Returns the hash of a row or a clear, derived from its key's hash.
pub(super) fn row_hash(key_hash: u64, place: &Place<'_>) -> u32 {
    let hash = plain_hash(key_hash, place.table.0);
    with_scope(if place.is_clear() { !hash } else { hash }, place.namespace, place.sub)
}

#[inline]
fn with_scope(mut hash: u32, namespace: &[u8], sub: &[u8]) -> u32 {
    // Different seeds: a namespace and an equal sub-key must differ in their hashes.
    if !namespace.is_empty() {
        hash = low(xxh3_64_with_seed(namespace, !u64::from(hash)));
    }
    if !sub.is_empty() {
        hash = low(xxh3_64_with_seed(sub, u64::from(hash)));
    }
    hash
}

#[inline]
fn low(hash: u64) -> u32 {
    let [a, b, c, d, ..] = hash.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Widens a row's hash to 64 bits, the highest of which depend on all of it.
#[inline]
pub(super) fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Returns the part of a hash that slots keep. Never 0, the tag of slots without a row.
#[inline]
pub(super) fn tag(hash: u32) -> u32 {
    ((spread(hash) >> ADDRESS_BITS) as u32).max(1)
}

/// The index of one group.
#[derive(Debug)]
pub(super) struct Index {
    /// By the top `depth` bits of a tag: 2^`depth` entries, which lead to the slots of parts.
    directory: Directory,
    depth: u32,
    /// The parts, by the numbers of their slots in the directory.
    parts: Vec<Part>,
    /// Number of slots of all parts.
    slots: usize,
    arena: Arena,
    charge: Charge,
}

/// The position of a slot, valid until the next insertion or trim.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    pub(super) part: u32,
    pub(super) at: usize,
}

impl Index {
    pub(super) fn new(arena: &Arena) -> Self {
        let (parts, charge) = (vec![Part::new(0, 0)], arena.budget().charge(0));
        let directory = Directory::of(vec![empty_slots(0, arena)]);
        let mut index = Self { directory, depth: 0, parts, slots: 0, arena: arena.clone(), charge };
        index.recharge();
        index
    }

    /// Returns the directory entry of a tag.
    #[inline(always)]
    fn entry_of(&self, tag: u32) -> usize {
        (tag >> (TAG_BITS - self.depth)) as usize
    }

    #[inline]
    fn part_of(&self, tag: u32) -> u32 {
        self.directory.table_at(self.entry_of(tag))
    }

    #[inline]
    fn part(&self, part: u32) -> &Part {
        match self.parts.get(part as usize) {
            Some(part) => part,
            None => no_part(),
        }
    }

    /// Returns a part and its words.
    #[inline]
    fn part_mut(&mut self, part: u32) -> (&mut Part, &mut [u64]) {
        match self.parts.get_mut(part as usize) {
            Some(counts) => (counts, self.directory.table_mut(part)),
            None => no_part(),
        }
    }

    /// Returns a search for this hash's [`tag`].
    #[inline(always)]
    pub(super) fn search(&self, hash: u32) -> Search<'_> {
        let tag = tag(hash);
        Search::new(self.directory.words(self.entry_of(tag)), tag)
    }

    /// Returns every entry with this hash's [`tag`]; other hashes may share it.
    #[inline]
    pub(super) fn hits(&self, hash: u32) -> impl Iterator<Item = (Bucket, Address)> {
        let part = self.part_of(tag(hash));
        self.search(hash).hits().map(move |(at, address)| (Bucket { part, at }, address))
    }

    /// Returns the entry with this hash whose record `is_match` accepts.
    #[inline]
    pub(super) fn find(&self, hash: u32, mut is_match: impl FnMut(Address) -> bool) -> Option<(Bucket, Address)> {
        self.hits(hash).find(|(_, address)| is_match(*address))
    }

    /// Returns how many more bytes of memory one more insertion under this hash would take.
    pub(super) fn growth_bytes(&self, hash: u32) -> u64 {
        let part = self.part(self.part_of(tag(hash)));
        if !part.is_full() {
            return 0;
        }
        if part.is_largest() {
            let entries = if part.depth == self.depth { self.directory.len() } else { 0 };
            let more = size_of::<Part>() + Directory::growth_bytes(entries);
            return self.arena.growth_bytes(PART_SLOTS * size_of::<Slot>()) + more as u64;
        }
        let [more, now] = [part.slots_for_one_more(), part.slots].map(|slots| slots * size_of::<Slot>());
        if more == now { 0 } else { self.arena.growth_bytes(more).saturating_sub(now as u64) }
    }

    /// Returns how many bytes of memory an index for `rows` rows takes.
    pub(super) fn presized_bytes(rows: usize) -> u64 {
        let (depth, slots) = layout_for(rows);
        ((slots * size_of::<Slot>() + Directory::growth_bytes(1) + size_of::<Part>()) << depth) as u64
    }

    /// Makes room for `rows` rows in an empty index.
    pub(super) fn presize(&mut self, rows: usize) {
        let (depth, slots) = layout_for(rows);
        self.depth = depth;
        self.directory = Directory::of((0..1 << depth).map(|_| empty_slots(slots, &self.arena)).collect());
        self.parts = vec![Part::new(slots, depth); 1 << depth];
        self.slots = slots << depth;
        self.recharge();
    }

    /// Adds a row that has no slot yet.
    pub(super) fn insert(&mut self, hash: u32, address: Address) {
        let tag = tag(hash);
        loop {
            let number = self.part_of(tag);
            let (part, words) = self.part_mut(number);
            if !part.is_full() {
                return part.put(words, Slot::new(tag, address));
            }
            if part.is_largest() {
                self.split(tag);
            } else {
                let slots = part.slots_for_one_more();
                self.resize(number, slots);
            }
            self.recharge();
        }
    }

    /// Moves a part's rows to new slots, which drops the removed ones; returns the old slots.
    fn rebuild(&mut self, number: u32, new: Part) -> Storage<u64> {
        let words = empty_slots(new.slots, &self.arena);
        let old = self.directory.replace(number, words);
        let Some(part) = self.parts.get_mut(number as usize) else { no_part() };
        self.slots = self.slots + new.slots - part.slots;
        *part = new;
        old
    }

    /// Gives a part another number of slots.
    fn resize(&mut self, number: u32, slots: usize) {
        let old = self.rebuild(number, Part::new(slots, self.part(number).depth));
        let (part, words) = self.part_mut(number);
        taken_slots(&old).for_each(|slot| part.put(words, slot));
    }

    /// Splits the part of this tag by one more bit.
    fn split(&mut self, tag: u32) {
        let lower = self.part_of(tag);
        let depth = self.part(lower).depth + 1;
        let old = self.rebuild(lower, Part::new(PART_SLOTS, depth));
        if depth > self.depth {
            self.depth = depth;
            self.directory.double();
        }
        let upper = self.directory.halve(lower, empty_slots(PART_SLOTS, &self.arena));
        self.parts.push(Part::new(PART_SLOTS, depth));
        self.slots += PART_SLOTS;
        for slot in taken_slots(&old) {
            let is_upper = slot.tag() >> (TAG_BITS - depth) & 1 == 1;
            let (part, words) = self.part_mut(if is_upper { upper } else { lower });
            part.put(words, slot);
        }
    }

    /// Points an entry at another record.
    pub(super) fn point(&mut self, bucket: Bucket, address: Address) {
        repoint(self.directory.table_mut(bucket.part), bucket.at, address);
    }

    pub(super) fn remove(&mut self, bucket: Bucket) {
        let (part, words) = self.part_mut(bucket.part);
        part.remove(words, bucket.at);
    }

    /// Gives back memory after a removal, once most of the part is empty. Amortised, a removal pays a constant for
    /// this.
    pub(super) fn trim_at(&mut self, bucket: Bucket) {
        self.trim_part(bucket.part);
    }

    /// As [`Index::trim_at`], after many removals: one step per part.
    pub(super) fn trim(&mut self) {
        (0..).zip(0..self.parts.len()).for_each(|(part, _)| self.trim_part(part));
    }

    fn trim_part(&mut self, number: u32) {
        let part = self.part(number);
        if part.taken < part.slots / 8 {
            let slots = if part.taken == 0 { 0 } else { (part.taken * 3).next_power_of_two().max(4) };
            self.resize(number, slots);
            self.recharge();
        }
    }

    /// Returns the addresses of the newest records of all rows, in no particular order.
    pub(super) fn addresses(&self) -> impl Iterator<Item = Address> {
        self.directory.tables().flat_map(taken_slots).map(Slot::address)
    }

    /// Returns the bytes of memory held.
    pub(super) fn held_bytes(&self) -> u64 {
        self.charge.bytes()
    }

    fn recharge(&mut self) {
        let parts = self.directory.bytes() + self.parts.len() * size_of::<Part>();
        self.charge.resize((self.slots * size_of::<Slot>() + parts) as u64);
    }
}

#[cold]
fn no_part() -> ! {
    broken("the directory points at existing parts")
}

/// Returns the depth of a directory for `rows` rows, and the slots of each part.
fn layout_for(rows: usize) -> (u32, usize) {
    // Rows spread unevenly over parts: this leaves room in the fullest of many.
    const ROWS: usize = PART_SLOTS * 11 / 16;
    let slots = |rows: usize| (rows * 4 / 3 + 1).next_power_of_two().clamp(4, PART_SLOTS);
    match rows {
        0 => (0, 0),
        1..=ROWS => (0, slots(rows)),
        _ => (rows.div_ceil(ROWS).next_power_of_two().trailing_zeros().min(DEPTH_MAX), PART_SLOTS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TableId;
    use crate::memory::MemoryBudget;
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

    #[test]
    fn predicted_growth_is_exact_and_removals_free_memory() {
        let budget = MemoryBudget::new(u64::MAX);
        let mut index = Index::new(&Arena::new(&budget));
        for row in 0..10_000u32 {
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
        assert_eq!(budget.held_bytes(), 0);
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
    fn rows_are_found_while_parts_grow_split_and_shrink() {
        let budget = MemoryBudget::new(u64::MAX);
        let address = |row: u32| Address::new(row >> 16, row & 0xffff);
        // All hashes different; tags shared; many rows per hash.
        for (rows, hash_of) in [(60_000, None), (60_000, Some(40_000)), (3_000, Some(30))] {
            let hash = |row: u32| hash_of.map_or_else(|| row.wrapping_mul(0x9e37_79b1), |most| row % most);
            let mut index = Index::new(&Arena::new(&budget));
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
            assert!(index.addresses().count() == 0 && index.held_bytes() < 4_000, "{}", index.held_bytes());
        }
    }
}
