//! The hash index of one group: from a row's hash to the address of its newest record.
//!
//! ```text
//! directory: top bits of the hash -> part          runs of entries; doubles when they are too few to cut a part by
//! part:      slots of hash | address, found by the low bits of the hash, with linear probing
//! ```
//!
//! A slot is one word, so finding a row takes one read of the index and one of the record. A full part grows up to the size
//! of a region, then is cut: no insertion moves more than two parts.
//!
//! Invariants:
//! - every row with a record in the group has exactly one slot under its hash, tombstones and clears included;
//! - a slot keeps enough of the hash to grow without reading records, and to skip nearly every other row's record;
//! - a part has at least one empty slot, or no slots.

mod cut;
mod part;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::broken;
use crate::memory::Charge;

use self::cut::{Density, Growth};
use self::part::{Part, Search, Slot, empty_slots, repoint, taken_slots};
use super::arena::{Arena, Directory};
use super::record::Place;

/// Bits of a slot's address: an offset in a region, and the region's number plus one.
const ADDRESS_BITS: u32 = OFFSET_BITS + REGION_BITS;
const OFFSET_BITS: u32 = 16;
const REGION_BITS: u32 = 20;

/// Bits of a slot's tag: what it keeps of the hash.
const TAG_BITS: u32 = u64::BITS - ADDRESS_BITS;

/// The most regions that a group can have.
pub(super) const REGIONS_MAX: usize = (1 << REGION_BITS) - 1;

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
    density: &'static Density,
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
        let (density, charge) = (Density::of(arena), arena.budget().charge(0));
        let (directory, parts) = (Directory::of(empty_slots(0, arena)), vec![Part::new(0, density)]);
        let mut index = Self { directory, depth: 0, parts, slots: 0, density, arena: arena.clone(), charge };
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
            Some(counts) => (counts, self.directory.words_mut(part)),
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
        let number = self.part_of(tag(hash));
        let part = self.part(number);
        if !part.is_full() {
            return 0;
        }
        match self.growth_of(number) {
            Growth::Cut(cut) => self.cut_bytes(&cut),
            Growth::Resize(slots) if slots == part.slots => 0,
            Growth::Resize(slots) => {
                let [more, now] = [slots, part.slots].map(|slots| slots * size_of::<Slot>());
                self.arena.growth_bytes(more).saturating_sub(now as u64)
            }
        }
    }

    /// Returns how many bytes of memory an index for `rows` rows takes.
    pub(super) fn presized_bytes(&self, rows: usize) -> u64 {
        let (parts, slots, depth) = self.layout_for(rows);
        let of_parts = parts * (slots * size_of::<Slot>() + size_of::<Part>());
        (of_parts + Directory::growth_bytes(1 << depth, parts)) as u64
    }

    /// Makes room for `rows` rows, unless the index has or had some.
    pub(super) fn presize(&mut self, rows: usize) {
        if self.parts.iter().any(|part| part.taken > 0) || self.parts.len() > 1 {
            return;
        }
        let (parts, slots, depth) = self.layout_for(rows);
        self.deepen(depth);
        let start = |part: usize| part * self.directory.len() / parts;
        self.replace(&[0], (0..parts).map(|part| (start(part + 1) - start(part), slots)).collect());
    }

    /// Makes the directory as deep as this, at least.
    fn deepen(&mut self, depth: u32) {
        while self.depth < depth {
            self.depth += 1;
            self.directory.double();
        }
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
            match self.growth_of(number) {
                Growth::Cut(cut) => self.cut(&cut),
                Growth::Resize(slots) => self.resize(number, slots),
            }
        }
    }

    /// Gives a part another number of slots.
    fn resize(&mut self, number: u32, slots: usize) {
        self.replace(&[number], vec![(self.directory.run(number).len(), slots)]);
    }

    /// Points an entry at another record.
    pub(super) fn point(&mut self, bucket: Bucket, address: Address) {
        repoint(self.directory.words_mut(bucket.part), bucket.at, address);
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

#[cfg(test)]
mod tests;
