//! Sets of row hashes. Most maps have few entries, so few hashes take no memory of their own.

use hashbrown::HashTable;

use super::index::spread;
use crate::error::broken;

/// The most hashes of a set without a table. A set that shrinks to half as many gives its table up.
const FEW: usize = 8;

/// Hashes of rows. Several rows may share a hash: each counts.
#[derive(Debug)]
pub(super) enum RowHashes {
    /// The first so many.
    Few(usize, [u32; FEW]),
    Table(HashTable<u32>),
}

impl Default for RowHashes {
    fn default() -> Self {
        Self::Few(0, [0; FEW])
    }
}

impl RowHashes {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Few(len, _) => *len == 0,
            Self::Table(table) => table.is_empty(),
        }
    }

    /// Returns the bytes of memory held.
    pub(super) fn held_bytes(&self) -> usize {
        match self {
            Self::Few(..) => 0,
            Self::Table(table) => table.allocation_size(),
        }
    }

    pub(super) fn insert(&mut self, hash: u32) {
        match self {
            Self::Few(len, few) => match few.get_mut(*len) {
                Some(free) => {
                    *free = hash;
                    *len += 1;
                }
                None => {
                    let mut table = HashTable::with_capacity(FEW + 1);
                    few.iter().chain([&hash]).for_each(|hash| insert(&mut table, *hash));
                    *self = Self::Table(table);
                }
            },
            Self::Table(table) => insert(table, hash),
        }
    }

    /// Removes a hash, which must be there, once.
    pub(super) fn remove(&mut self, hash: u32) {
        match self {
            Self::Few(len, few) => {
                let all = few.get_mut(..*len).unwrap_or_default();
                let Some(at) = all.iter().position(|other| *other == hash) else { missing() };
                *len -= 1;
                all.swap(at, *len);
            }
            Self::Table(table) => {
                match table.find_entry(spread(hash), |other| *other == hash) {
                    Ok(entry) => drop(entry.remove()),
                    Err(_) => missing(),
                }
                if table.len() == FEW / 2 {
                    let mut few = [0; FEW];
                    few.iter_mut().zip(table.iter()).for_each(|(to, hash)| *to = *hash);
                    *self = Self::Few(FEW / 2, few);
                } else if table.len() < table.capacity() / 8 {
                    table.shrink_to(table.len() * 2, |hash| spread(*hash));
                }
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        let (few, table) = match self {
            Self::Few(len, few) => (few.get(..*len), None),
            Self::Table(table) => (None, Some(table)),
        };
        few.into_iter().flatten().chain(table.into_iter().flatten()).copied()
    }
}

fn insert(table: &mut HashTable<u32>, hash: u32) {
    table.insert_unique(spread(hash), hash, |hash| spread(*hash));
}

#[cold]
fn missing() -> ! {
    broken("a removed row is a member of its family")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_a_multiset_however_many_there_are() {
        let (mut hashes, mut model) = (RowHashes::default(), Vec::new());
        let mut random = 1u32;
        for step in 0..4000 {
            random = random.wrapping_mul(0x9e37_79b9).wrapping_add(0x1234_5677);
            // Grows at first, then shrinks, again and again.
            if random >> 24 < if step / 40 % 2 == 0 { 180 } else { 70 } {
                hashes.insert(random >> 29);
                model.push(random >> 29);
            } else if !model.is_empty() {
                hashes.remove(model.swap_remove(random as usize % model.len()));
            }
            let sorted = |mut all: Vec<u32>| {
                all.sort_unstable();
                all
            };
            assert_eq!(sorted(hashes.iter().collect()), sorted(model.clone()));
            assert_eq!(hashes.is_empty(), model.is_empty());
            match hashes.held_bytes() {
                0 => assert!(model.len() <= FEW),
                held => assert!(model.len() > FEW / 2 && held < 100 * model.len(), "{held} bytes"),
            }
        }
    }

    #[test]
    #[should_panic(expected = "is a member of its family")]
    fn removing_a_hash_that_is_not_there_panics() {
        let mut hashes = RowHashes::default();
        hashes.insert(1);
        hashes.remove(0);
    }
}
