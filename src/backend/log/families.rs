//! Families: the rows of each key and namespace, so that a scan or clear of a map touches no other keys.
//!
//! Invariants:
//! - the members of a family are exactly the rows with its table, key and namespace that have a sub-key and a value;
//!   tables whose rules opt out have no families;
//! - families know rows by hash or by sub-key, never by address: they change only when a row gains or loses its value.

use hashbrown::HashTable;

use super::index::spread;
use super::record::Place;
use super::row_hashes::RowHashes;
use super::small_bytes::SmallBytes;
use super::sub_keys::SubKeySet;
use crate::error::broken;
use crate::id::TableId;
use crate::memory::{Charge, MemoryBudget};

#[derive(Debug)]
struct Family {
    hash: u32,
    /// Table, length of the key, key, namespace.
    identity: SmallBytes,
    members: Members,
}

impl Family {
    /// Returns whether it is the family of `place`, ignoring its sub-key.
    fn is_of(&self, hash: u32, place: &Place<'_>) -> bool {
        let rest = || self.identity.bytes().strip_prefix(&identity_head(place))?.strip_prefix(place.key);
        self.hash == hash && rest() == Some(place.namespace)
    }

    /// Returns the bytes of memory held beside the table's.
    fn held_bytes(&self) -> usize {
        self.identity.heap_bytes() + self.members.held_bytes()
    }
}

/// The rows of a family.
#[derive(Debug)]
pub(super) enum Members {
    Hashed(RowHashes),
    /// Sub-keys of the rows.
    Sorted(SubKeySet),
}

impl Members {
    fn new(ordered: bool) -> Self {
        if ordered { Self::Sorted(SubKeySet::default()) } else { Self::Hashed(RowHashes::default()) }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Hashed(hashes) => hashes.is_empty(),
            Self::Sorted(subs) => subs.is_empty(),
        }
    }

    fn held_bytes(&self) -> usize {
        match self {
            Self::Hashed(hashes) => hashes.held_bytes(),
            Self::Sorted(subs) => subs.held_bytes(),
        }
    }

    fn insert(&mut self, row_hash: u32, sub: &[u8]) {
        match self {
            Self::Hashed(hashes) => hashes.insert(row_hash),
            Self::Sorted(subs) => subs.insert(sub),
        }
    }

    fn remove(&mut self, row_hash: u32, sub: &[u8]) {
        match self {
            Self::Hashed(hashes) => hashes.remove(row_hash),
            Self::Sorted(subs) => subs.remove(sub),
        }
    }
}

/// The families of one group.
#[derive(Debug)]
pub(super) struct Families {
    table: HashTable<Family>,
    members_bytes: usize,
    charge: Charge,
}

impl Families {
    pub(super) fn new(budget: &MemoryBudget) -> Self {
        Self { table: HashTable::new(), members_bytes: 0, charge: budget.charge(0) }
    }

    /// Returns the bytes of memory held.
    pub(super) fn held_bytes(&self) -> u64 {
        self.charge.bytes()
    }

    /// Returns the members of the family of `place`, ignoring its sub-key.
    pub(super) fn members(&self, hash: u32, place: &Place<'_>) -> Option<&Members> {
        self.table.find(spread(hash), |family| family.is_of(hash, place)).map(|family| &family.members)
    }

    /// Adds a row that gained a value.
    ///
    /// * `hash`: of the row's place without its sub-key; `row_hash`: of its place.
    pub(super) fn insert(&mut self, hash: u32, place: &Place<'_>, row_hash: u32, ordered: bool) {
        self.change(hash, place, Some(ordered), |members| members.insert(row_hash, place.sub));
    }

    /// Removes a row that lost its value.
    pub(super) fn remove(&mut self, hash: u32, place: &Place<'_>, row_hash: u32) {
        self.change(hash, place, None, |members| members.remove(row_hash, place.sub));
    }

    /// Converts a family to sorted members, given their sub-keys.
    pub(super) fn order(&mut self, hash: u32, place: &Place<'_>, subs: &[Box<[u8]>]) {
        self.change(hash, place, None, |members| {
            let mut sorted = SubKeySet::default();
            subs.iter().for_each(|sub| sorted.insert(sub));
            *members = Members::Sorted(sorted);
        });
    }

    /// Returns table, key and namespace of each hashed family.
    pub(super) fn unordered(&self) -> Vec<Box<[u8]>> {
        let unordered = |family: &&Family| matches!(family.members, Members::Hashed(_));
        self.table.iter().filter(unordered).map(|family| family.identity.bytes().into()).collect()
    }

    /// Changes a family, and removes it once it is empty. A missing family is created if `make` gives its kind (true:
    /// sorted).
    fn change(&mut self, hash: u32, place: &Place<'_>, make: Option<bool>, change: impl FnOnce(&mut Members)) {
        let is_match = |family: &Family| family.is_of(hash, place);
        let bucket = self.table.find_bucket_index(spread(hash), is_match);
        let bucket = match (bucket, make) {
            (Some(bucket), _) => bucket,
            (None, None) => no_family(),
            (None, Some(ordered)) => {
                let family = Family { hash, identity: identity(place), members: Members::new(ordered) };
                self.members_bytes += family.identity.heap_bytes();
                let _new = self.table.insert_unique(spread(hash), family, |family| spread(family.hash));
                self.table.find_bucket_index(spread(hash), is_match).unwrap_or_else(|| no_family())
            }
        };
        let Some(family) = self.table.get_bucket_mut(bucket) else { no_family() };
        let before = family.members.held_bytes();
        change(&mut family.members);
        self.members_bytes = self.members_bytes + family.members.held_bytes() - before;
        if family.members.is_empty() {
            self.members_bytes -= family.held_bytes();
            match self.table.get_bucket_entry(bucket) {
                Ok(entry) => drop(entry.remove()),
                Err(_) => no_family(),
            }
            if self.table.len() < self.table.capacity() / 8 {
                self.table.shrink_to(self.table.len() * 2, |family| spread(family.hash));
            }
        }
        self.recharge();
    }

    /// Removes all families of a table.
    pub(super) fn drop_table(&mut self, table: TableId) {
        let mut removed_bytes = 0;
        self.table.retain(|family| {
            let removed = place_of(family.identity.bytes()).table == table;
            removed_bytes += if removed { family.held_bytes() } else { 0 };
            !removed
        });
        self.table.shrink_to(self.table.len(), |family| spread(family.hash));
        self.members_bytes -= removed_bytes;
        self.recharge();
    }

    fn recharge(&mut self) {
        let held = (self.members_bytes + self.table.allocation_size()) as u64;
        // Other threads share what a charge counts: a write to it waits for all writes before.
        if held != self.charge.bytes() {
            self.charge.resize(held);
        }
    }
}

#[cold]
fn no_family() -> ! {
    broken("a row with a sub-key is a member of a family")
}

/// Encodes a family's place for [`place_of`].
fn identity(place: &Place<'_>) -> SmallBytes {
    SmallBytes::new(&[&identity_head(place)[..], place.key, place.namespace].concat())
}

/// Returns the table and the length of the key.
fn identity_head(place: &Place<'_>) -> [u8; 6] {
    let Ok(length) = u16::try_from(place.key.len()) else { broken("keys are checked to be shorter than 64 KiB") };
    let ([a, b, c, d], [e, f]) = (place.table.0.to_le_bytes(), length.to_le_bytes());
    [a, b, c, d, e, f]
}

/// Returns a family's place, without a sub-key.
pub(super) fn place_of(identity: &[u8]) -> Place<'_> {
    let parts = || {
        let (table, rest) = identity.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (key, namespace) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        Some(Place::without_sub(u32::from_le_bytes(*table), key, namespace))
    };
    parts().unwrap_or_else(|| broken("a family knows its key and namespace"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "is a member of a family")]
    fn removing_a_row_of_no_family_panics() {
        let place = Place::without_sub(3, b"key", b"").with_sub(b"sub");
        Families::new(&MemoryBudget::new(u64::MAX)).remove(7, &place, 8);
    }
}
