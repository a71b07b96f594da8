//! The hash index of one group: from a row's hash to the address of its newest record.
//!
//! ```text
//! directory: top bits of the hash -> part          doubles when a part splits that it names once
//! part:      slots of hash | address, found by the low bits of the hash, then the next and the next
//! ```
//!
//! A slot is one word, so a row is found by one read of the index and one of the record. A full part grows until it has
//! `PART_SLOTS`, then splits in two: no insertion moves more than a part.
//!
//! Invariants:
//! - every row with a record in the group has exactly one slot under its hash, tombstones and clears included;
//! - a slot keeps enough of the hash to grow without reading records, and to pass over nearly every other row's record;
//! - a part has at least one empty slot, or none at all.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::broken;
use crate::memory::Charge;

use super::arena::{Arena, BLOCK_BYTES, Block, prefetch};
use super::record::Place;

/// Bits of a slot that hold its address: an offset in a region, and the region's number plus one.
const ADDRESS_BITS: u32 = OFFSET_BITS + REGION_BITS;
const OFFSET_BITS: u32 = 16;
const REGION_BITS: u32 = 20;

/// Bits of a slot that hold what is left of the hash: its tag.
const TAG_BITS: u32 = u64::BITS - ADDRESS_BITS;

/// The most regions that a group can have.
pub(super) const REGIONS_MAX: usize = (1 << REGION_BITS) - 1;

/// The most slots of a part, unless the directory cannot tell two halves of it apart: 64 KiB.
const PART_SLOTS: usize = BLOCK_BYTES / size_of::<Slot>();

/// The most bits of a tag that the directory goes by. The others find a slot within a part.
const DEPTH_MAX: u32 = 15;

/// Where a record lies: a region of its group and an offset there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address(u64);

impl Address {
    /// * `region`: below [`REGIONS_MAX`]; `offset`: within 64 KiB, which holds for all regions of several records.
    pub(super) fn new(region: u32, offset: u32) -> Self {
        if region as usize >= REGIONS_MAX || offset >> OFFSET_BITS != 0 {
            broken("a record lies where an address can say");
        }
        Self((u64::from(region) + 1) << OFFSET_BITS | u64::from(offset))
    }

    pub(super) fn region(self) -> u32 {
        (((self.0 >> OFFSET_BITS) & ((1 << REGION_BITS) - 1)) as u32).wrapping_sub(1)
    }

    pub(super) fn offset(self) -> u32 {
        (self.0 & ((1 << OFFSET_BITS) - 1)) as u32
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
    // Seeds in which a namespace is no sub-key.
    if !place.namespace.is_empty() {
        hash = low(xxh3_64_with_seed(place.namespace, !u64::from(hash)));
    }
    if !place.sub.is_empty() {
        hash = low(xxh3_64_with_seed(place.sub, u64::from(hash)));
    }
    hash
}

fn low(hash: u64) -> u32 {
    let [a, b, c, d, ..] = hash.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Widens a row's hash: the highest bits depend on all.
pub(super) fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Returns what slots keep of a hash.
pub(super) fn tag(hash: u32) -> u32 {
    (spread(hash) >> ADDRESS_BITS) as u32
}

/// A slot: empty, removed, or a tag and an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot(u64);

impl Slot {
    const EMPTY: Self = Self(0);
    /// A slot whose row is gone, while rows behind it are found by passing it. No address is 1: regions count from 1.
    const REMOVED: Self = Self(1);

    fn new(tag: u32, address: Address) -> Self {
        Self(u64::from(tag) << ADDRESS_BITS | address.0)
    }

    fn is_taken(self) -> bool {
        self != Self::EMPTY && self != Self::REMOVED
    }

    fn tag(self) -> u32 {
        (self.0 >> ADDRESS_BITS) as u32
    }

    fn address(self) -> Address {
        Address(self.0 & ((1 << ADDRESS_BITS) - 1))
    }
}

/// The slots of a part: a power of two, or none.
enum Slots {
    Heap(Box<[u64]>),
    /// As many as a block holds.
    Block(Block),
}

impl Slots {
    /// Returns so many empty slots.
    fn new(slots: usize, arena: &Arena) -> Self {
        match if slots == PART_SLOTS { arena.take() } else { None } {
            Some(mut block) => {
                block.words_mut().fill(Slot::EMPTY.0);
                Self::Block(block)
            }
            None => Self::Heap(vec![Slot::EMPTY.0; slots].into()),
        }
    }

    #[inline]
    fn words(&self) -> &[u64] {
        match self {
            Self::Heap(words) => words,
            Self::Block(block) => block.words(),
        }
    }

    #[inline]
    fn words_mut(&mut self) -> &mut [u64] {
        match self {
            Self::Heap(words) => words,
            Self::Block(block) => block.words_mut(),
        }
    }

    #[inline]
    fn len(&self) -> usize {
        self.words().len()
    }

    #[inline]
    fn get(&self, at: usize) -> Slot {
        match self.words().get(at) {
            Some(word) => Slot(*word),
            None => no_slot(),
        }
    }

    fn set(&mut self, at: usize, slot: Slot) {
        match self.words_mut().get_mut(at) {
            Some(word) => *word = slot.0,
            None => no_slot(),
        }
    }
}

#[cold]
fn no_slot() -> ! {
    broken("a part has the slot that is looked at")
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slots({})", self.len())
    }
}

/// The rows of some values of the top bits of the tag.
#[derive(Debug)]
struct Part {
    slots: Slots,
    taken: usize,
    removed: usize,
    /// How many of a tag's top bits are the same in all its rows.
    depth: u32,
}

impl Part {
    fn new(slots: usize, depth: u32, arena: &Arena) -> Self {
        Self { slots: Slots::new(slots, arena), taken: 0, removed: 0, depth }
    }

    /// Returns whether another row needs more slots. A quarter stays empty, so that searches are short.
    fn is_full(&self) -> bool {
        (self.taken + self.removed + 1) * 4 > self.slots.len() * 3
    }

    /// Returns the positions at which a tag is looked for, in order.
    #[inline]
    fn positions(&self, tag: u32) -> impl Iterator<Item = usize> + use<> {
        let mask = self.slots.len().wrapping_sub(1);
        (0..self.slots.len()).map(move |step| (tag as usize).wrapping_add(step) & mask)
    }

    /// Returns the position of the first slot with this tag whose address `is_it` recognises.
    #[inline]
    fn find(&self, tag: u32, mut is_it: impl FnMut(Address) -> bool) -> Option<usize> {
        for at in self.positions(tag) {
            let slot = self.slots.get(at);
            if slot.tag() == tag && slot.is_taken() && is_it(slot.address()) {
                return Some(at);
            }
            if slot == Slot::EMPTY {
                return None;
            }
        }
        None
    }

    /// Puts a slot where it belongs. There must be room.
    fn put(&mut self, slot: Slot) {
        let mut positions = self.positions(slot.tag()).map(|at| (at, self.slots.get(at)));
        let Some((at, before)) = positions.find(|(_, slot)| !slot.is_taken()) else {
            broken("a part that an entry goes to has an empty slot")
        };
        self.removed -= usize::from(before == Slot::REMOVED);
        self.taken += 1;
        self.slots.set(at, slot);
    }

    fn remove(&mut self, at: usize) {
        if !self.slots.get(at).is_taken() {
            broken("an entry that goes is there");
        }
        let next = at.wrapping_add(1) & self.slots.len().wrapping_sub(1);
        // Nobody passes a slot that is followed by an empty one.
        let ends = self.slots.get(next) == Slot::EMPTY;
        self.slots.set(at, if ends { Slot::EMPTY } else { Slot::REMOVED });
        self.removed += usize::from(!ends);
        self.taken -= 1;
    }

    fn taken(&self) -> impl Iterator<Item = Slot> {
        self.slots.words().iter().copied().map(Slot).filter(|slot| slot.is_taken())
    }

    /// Moves its rows to `slots` slots, which leaves out those that are gone.
    fn resize(&mut self, slots: usize, arena: &Arena) {
        let old = std::mem::replace(self, Self::new(slots, self.depth, arena));
        old.taken().for_each(|slot| self.put(slot));
    }

    /// Returns the slots that it needs for one row more: as many as it has, if enough of them are of rows that are gone.
    fn slots_for_one_more(&self) -> usize {
        if (self.taken + 1) * 2 <= self.slots.len() { self.slots.len() } else { (self.slots.len() * 2).max(4) }
    }

    /// Returns whether more slots are no use: it is to be split.
    fn is_largest(&self) -> bool {
        self.slots_for_one_more() > PART_SLOTS && self.depth < DEPTH_MAX
    }
}

/// The index of one group.
#[derive(Debug)]
pub(super) struct Index {
    /// By the top `depth` bits of a tag, a power of two of them.
    directory: Vec<u32>,
    parts: Vec<Part>,
    depth: u32,
    /// Slots of all parts.
    slots: usize,
    arena: Arena,
    charge: Charge,
}

/// A slot of the index, valid until the next insertion or trim.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    part: u32,
    at: usize,
}

impl Index {
    pub(super) fn new(arena: &Arena) -> Self {
        let (parts, charge) = (vec![Part::new(0, 0, arena)], arena.budget().charge(0));
        let mut index = Self { directory: vec![0], parts, depth: 0, slots: 0, arena: arena.clone(), charge };
        index.recharge();
        index
    }

    #[inline]
    fn part_of(&self, tag: u32) -> u32 {
        let top = tag >> (TAG_BITS - self.depth);
        match self.directory.get(top as usize) {
            Some(part) => *part,
            None => no_part(),
        }
    }

    #[inline]
    fn part(&self, part: u32) -> &Part {
        match self.parts.get(part as usize) {
            Some(part) => part,
            None => no_part(),
        }
    }

    #[inline]
    fn part_mut(&mut self, part: u32) -> &mut Part {
        match self.parts.get_mut(part as usize) {
            Some(part) => part,
            None => no_part(),
        }
    }

    /// Returns the entry of the row with this hash whose record `is_it` recognises.
    #[inline]
    pub(super) fn find(&self, hash: u32, is_it: impl FnMut(Address) -> bool) -> Option<(Bucket, Address)> {
        let tag = tag(hash);
        let part = self.part_of(tag);
        let slots = self.part(part);
        let at = slots.find(tag, is_it)?;
        let address = slots.slots.get(at).address();
        Some((Bucket { part, at }, address))
    }

    /// Asks for the slot at which a search for this hash begins.
    #[inline]
    pub(super) fn prefetch(&self, hash: u32) {
        let tag = tag(hash);
        let part = self.part(self.part_of(tag));
        let first = part.positions(tag).next().and_then(|at| part.slots.words().get(at));
        first.into_iter().for_each(prefetch);
    }

    /// Returns the first address under this hash, and others of the same [`tag`].
    #[inline]
    pub(super) fn first(&self, hash: u32) -> Option<Address> {
        self.find(hash, |_| true).map(|(_, address)| address)
    }

    /// Calls `visit` with every address under this hash, and under others of the same [`tag`].
    pub(super) fn find_all(&self, hash: u32, mut visit: impl FnMut(Address)) {
        let nothing = self.find(hash, |address| {
            visit(address);
            false
        });
        debug_assert!(nothing.is_none(), "nothing is looked for");
    }

    /// Returns how many bytes more it would hold after one more insertion under this hash.
    pub(super) fn growth_bytes(&self, hash: u32) -> u64 {
        let part = self.part(self.part_of(tag(hash)));
        if !part.is_full() {
            return 0;
        }
        if part.is_largest() {
            let directory = if part.depth == self.depth { self.directory.len() } else { 0 };
            let more = size_of::<Part>() + directory * size_of::<u32>();
            return self.arena.growth_bytes(PART_SLOTS * size_of::<Slot>()) + more as u64;
        }
        let [more, now] = [part.slots_for_one_more(), part.slots.len()].map(|slots| slots * size_of::<Slot>());
        if more == now { 0 } else { self.arena.growth_bytes(more).saturating_sub(now as u64) }
    }

    /// Returns how many bytes it holds with room for `rows`.
    pub(super) fn presized_bytes(rows: usize) -> u64 {
        let (depth, slots) = form_for(rows);
        ((slots * size_of::<Slot>() + size_of::<u32>() + size_of::<Part>()) << depth) as u64
    }

    /// Makes room for `rows` rows in an index that has none.
    pub(super) fn presize(&mut self, rows: usize) {
        let (depth, slots) = form_for(rows);
        self.depth = depth;
        self.directory = (0..1 << depth).collect();
        self.parts = self.directory.iter().map(|_| Part::new(slots, depth, &self.arena)).collect();
        self.slots = slots << depth;
        self.recharge();
    }

    /// Adds the slot of a row that has none.
    pub(super) fn insert(&mut self, hash: u32, address: Address) {
        let tag = tag(hash);
        loop {
            let part = self.part_of(tag);
            let Some(part) = self.parts.get_mut(part as usize) else { no_part() };
            if !part.is_full() {
                return part.put(Slot::new(tag, address));
            }
            if part.is_largest() {
                self.split(tag);
            } else {
                let slots = part.slots_for_one_more();
                self.slots += slots - part.slots.len();
                part.resize(slots, &self.arena);
            }
            self.recharge();
        }
    }

    /// Splits the part that a tag belongs to by one more bit.
    fn split(&mut self, tag: u32) {
        let (old, new) = (self.part_of(tag), part_number(self.parts.len()));
        let Some(part) = self.parts.get_mut(old as usize) else { no_part() };
        let depth = part.depth + 1;
        let is_upper = |tag: u32| tag >> (TAG_BITS - depth) & 1 == 1;
        let rows = std::mem::replace(part, Part::new(PART_SLOTS, depth, &self.arena));
        let mut upper = Part::new(PART_SLOTS, depth, &self.arena);
        rows.taken().for_each(|slot| if is_upper(slot.tag()) { upper.put(slot) } else { part.put(slot) });
        self.slots += 2 * PART_SLOTS - rows.slots.len();
        self.parts.push(upper);
        if depth > self.depth {
            self.depth = depth;
            self.directory = self.directory.iter().flat_map(|part| [*part; 2]).collect();
        }
        // The directory names the part for a run of values of the top bits; the upper half of them is the new part's.
        let run = 1 << (self.depth - depth);
        let first = ((tag >> (TAG_BITS - depth)) as usize | 1) * run;
        self.directory.iter_mut().skip(first).take(run).for_each(|part| *part = new);
    }

    /// Points an entry at another record.
    pub(super) fn point(&mut self, bucket: Bucket, address: Address) {
        let part = self.part_mut(bucket.part);
        let slot = part.slots.get(bucket.at);
        if !slot.is_taken() {
            broken("an entry that changes is there");
        }
        part.slots.set(bucket.at, Slot::new(slot.tag(), address));
    }

    pub(super) fn remove(&mut self, bucket: Bucket) {
        self.part_mut(bucket.part).remove(bucket.at);
    }

    /// Gives back memory that a removal left, once most of its part is empty. Amortised, this costs a removal a constant.
    pub(super) fn trim_at(&mut self, bucket: Bucket) {
        self.trim_part(bucket.part);
    }

    /// As [`Index::trim_at`], after many removals: a step per part.
    pub(super) fn trim(&mut self) {
        (0..part_number(self.parts.len())).for_each(|part| self.trim_part(part));
    }

    fn trim_part(&mut self, part: u32) {
        let Some(part) = self.parts.get_mut(part as usize) else { no_part() };
        if part.taken < part.slots.len() / 8 {
            let slots = if part.taken == 0 { 0 } else { (part.taken * 3).next_power_of_two().max(4) };
            self.slots = self.slots + slots - part.slots.len();
            part.resize(slots, &self.arena);
            self.recharge();
        }
    }

    /// Returns the addresses of the newest records of all rows, in no particular order.
    pub(super) fn addresses(&self) -> impl Iterator<Item = Address> {
        self.parts.iter().flat_map(Part::taken).map(Slot::address)
    }

    /// Returns the bytes of memory that it holds.
    pub(super) fn held_bytes(&self) -> u64 {
        self.charge.bytes()
    }

    fn recharge(&mut self) {
        let directory = self.directory.len() * size_of::<u32>() + self.parts.len() * size_of::<Part>();
        self.charge.resize((self.slots * size_of::<Slot>() + directory) as u64);
    }
}

#[cold]
fn no_part() -> ! {
    broken("the directory names the parts that there are")
}

/// Returns the number of a part that comes after so many.
fn part_number(parts: usize) -> u32 {
    u32::try_from(parts).unwrap_or_else(|_| broken("a directory has fewer parts than 4 billion"))
}

/// Returns the depth of a directory for so many rows, and the slots of each part.
fn form_for(rows: usize) -> (u32, usize) {
    // Parts differ in rows by chance: to begin with, the fullest of many is to have room.
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
    #[should_panic(expected = "an entry that goes is there")]
    fn removing_an_entry_twice_stops_the_work() {
        let mut index = Index::new(&Arena::new(&MemoryBudget::new(u64::MAX)));
        index.insert(5, Address::new(0, 0));
        let (bucket, _) = index.find(5, |_| true).unwrap();
        index.remove(bucket);
        index.remove(bucket);
    }

    #[test]
    #[should_panic(expected = "a record lies where an address can say")]
    fn an_address_beyond_its_bits_stops_the_work() {
        Address::new(0, 1 << OFFSET_BITS);
    }

    #[test]
    fn rows_are_found_while_parts_grow_split_and_shrink() {
        let budget = MemoryBudget::new(u64::MAX);
        let address = |row: u32| Address::new(row >> 16, row & 0xffff);
        // Hashes that all differ, that share tags, and of which many rows have the same.
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
            let mut all = 0;
            index.find_all(hash(0), |_| all += 1);
            assert!(all >= (0..rows).filter(|row| taken(*row) && hash(*row) == hash(0)).count());
            (0..rows).filter(|row| taken(*row)).for_each(|row| index.remove(find(&index, row).unwrap().0));
            index.trim();
            assert!(index.addresses().count() == 0 && index.held_bytes() < 4_000, "{}", index.held_bytes());
        }
    }
}
