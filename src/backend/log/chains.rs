//! Chains: where the older pieces of a row's value lie, if its value is in pieces.
//!
//! Invariants:
//! - a chain has the address of every older piece of its row, oldest first, and at least one. The newest piece is the one
//!   that the index points at;
//! - a row whose newest record does not say so has no chain;
//! - the ordinals of a row's pieces rise, and a piece keeps its own for as long as it has older ones: so a link is found by
//!   halving, however long its chain is;
//! - chains know records by address: moving one, or taking it out of the log, changes its chain.

use std::fmt;

use hashbrown::HashTable;

use super::index::{Address, spread};
use crate::error::broken;
use crate::memory::{Charge, MemoryBudget};

/// An older piece of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    /// Its record's.
    pub(super) ordinal: u32,
    pub(super) address: Address,
}

/// The older pieces of one row's value.
#[derive(Debug)]
pub(super) struct Chain {
    /// The row's.
    hash: u32,
    links: Links,
    /// Bytes of their values together.
    bytes: u64,
}

impl Chain {
    /// Returns the pieces, oldest first.
    pub(super) fn links(&self) -> &[Link] {
        self.links.as_slice()
    }

    /// Returns the bytes of the pieces together.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Replaces `count` links from `first` on, with the bytes of their pieces.
    fn cut(&mut self, first: Link, (count, bytes): (usize, u64), by: Option<(Link, u64)>) {
        let at = self.links.position(first).unwrap_or_else(|| broken("a chain has its link"));
        if at + count > self.links().len() || bytes > self.bytes {
            broken("pieces that go are in their chain");
        }
        self.links.cut(at, count, by.map(|(link, _)| link));
        self.bytes = self.bytes - bytes + by.map_or(0, |(_, bytes)| bytes);
    }

    fn has(&self, link: Link) -> bool {
        self.links.position(link).is_some()
    }
}

/// Links by ordinal, ascending; most chains have one.
enum Links {
    One([Link; 1]),
    /// The first so many have gone.
    Many(Vec<Link>, usize),
}

impl Links {
    fn as_slice(&self) -> &[Link] {
        match self {
            Self::One(link) => link,
            Self::Many(links, gone) => links.get(*gone..).unwrap_or_else(|| broken("no more links go than there are")),
        }
    }

    fn position(&self, link: Link) -> Option<usize> {
        let links = self.as_slice();
        let at = links.binary_search_by_key(&link.ordinal, |link| link.ordinal).ok()?;
        (links.get(at) == Some(&link)).then_some(at)
    }

    fn push(&mut self, link: Link) {
        if self.as_slice().last().is_some_and(|last| last.ordinal >= link.ordinal) {
            broken("a newer piece has a higher ordinal");
        }
        match self {
            Self::One([first]) => *self = Self::Many(vec![*first, link], 0),
            Self::Many(links, _) => links.push(link),
        }
    }

    /// Replaces `count` links from position `at` on.
    fn cut(&mut self, at: usize, count: usize, by: Option<Link>) {
        match (&mut *self, by) {
            (Self::One(link), Some(by)) => *link = [by],
            (Self::One(_), None) => *self = Self::Many(Vec::new(), 0),
            // As pieces expire: amortised, each moves once.
            (Self::Many(links, gone), None) if at == 0 && *gone + count <= links.len() / 2 => *gone += count,
            (Self::Many(links, gone), by) => {
                links.splice(*gone + at..*gone + at + count, by);
                if count != usize::from(by.is_some()) {
                    links.drain(..std::mem::take(gone));
                }
                if links.len() < links.capacity() / 4 {
                    links.shrink_to(links.len() * 2);
                }
            }
        }
    }

    fn heap_bytes(&self) -> u64 {
        match self {
            Self::One(_) => 0,
            Self::Many(links, _) => (links.capacity() * size_of::<Link>()) as u64,
        }
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Links({})", self.as_slice().len())
    }
}

/// The chains of one group.
#[derive(Debug)]
pub(super) struct Chains {
    table: HashTable<Chain>,
    links_bytes: u64,
    charge: Charge,
}

impl Chains {
    pub(super) fn new(budget: &MemoryBudget) -> Self {
        Self { table: HashTable::new(), links_bytes: 0, charge: budget.charge(0) }
    }

    /// Returns the bytes of memory that they hold.
    pub(super) fn held_bytes(&self) -> u64 {
        self.charge.bytes()
    }

    /// Returns how many pieces there are in all chains.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table.iter().map(|chain| chain.links().len()).sum()
    }

    /// Returns the links of all chains.
    #[cfg(test)]
    pub(super) fn links(&self) -> impl Iterator<Item = Link> {
        self.table.iter().flat_map(|chain| chain.links().iter().copied())
    }

    /// Returns the chain under this hash whose row `is_row` recognises by one of its pieces.
    pub(super) fn of_row(&self, hash: u32, is_row: impl Fn(Address) -> bool) -> Option<&Chain> {
        self.table.find(spread(hash), |chain| {
            chain.hash == hash && chain.links().first().is_some_and(|link| is_row(link.address))
        })
    }

    /// Returns the chain under this hash that has this link.
    pub(super) fn of_link(&self, hash: u32, link: Link) -> Option<&Chain> {
        self.table.find(spread(hash), |chain| chain.hash == hash && chain.has(link))
    }

    /// Adds a piece of `bytes` that has become an older one of the row that `is_row` recognises.
    pub(super) fn push(&mut self, hash: u32, link: Link, bytes: u64, is_row: impl Fn(Address) -> bool) {
        let of_row =
            |chain: &Chain| chain.hash == hash && chain.links().first().is_some_and(|link| is_row(link.address));
        match self.table.find_mut(spread(hash), of_row) {
            Some(chain) => {
                let before = chain.links.heap_bytes();
                chain.links.push(link);
                chain.bytes += bytes;
                self.links_bytes += chain.links.heap_bytes() - before;
            }
            None => {
                let chain = Chain { hash, links: Links::One([link]), bytes };
                self.table.insert_unique(spread(hash), chain, |chain| spread(chain.hash));
            }
        }
        self.recharge();
    }

    /// Takes out links that follow each other, the first of which is `first`, with the bytes of their pieces; for what
    /// became of them, if that is a link, and its bytes.
    pub(super) fn replace(&mut self, hash: u32, first: Link, (count, bytes): (usize, u64), by: Option<(Link, u64)>) {
        let found = self.table.find_entry(spread(hash), |chain| chain.hash == hash && chain.has(first));
        let Ok(mut entry) = found else { broken("a piece that goes is in its chain") };
        let chain = entry.get_mut();
        let before = chain.links.heap_bytes();
        chain.cut(first, (count, bytes), by);
        let after = chain.links.heap_bytes();
        if chain.links().is_empty() {
            entry.remove();
            self.links_bytes -= before;
        } else {
            self.links_bytes = self.links_bytes + after - before;
        }
        if self.table.len() < self.table.capacity() / 8 {
            self.table.shrink_to(self.table.len() * 2, |chain| spread(chain.hash));
        }
        self.recharge();
    }

    fn recharge(&mut self) {
        self.charge.resize(self.links_bytes + self.table.allocation_size() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(at: u32) -> Link {
        Link { ordinal: at, address: Address::new(at / 100, at % 100) }
    }

    #[test]
    fn chains_of_one_hash_are_told_apart_and_given_back() {
        let budget = MemoryBudget::new(u64::MAX);
        let mut chains = Chains::new(&budget);
        // Two rows under one hash: even and odd offsets.
        let of = |parity: u32| move |link: Address| link.offset() % 2 == parity;
        for at in 0..200 {
            chains.push(7, link(at), 10, of(at % 2));
        }
        let row =
            |chains: &Chains, parity| chains.of_row(7, of(parity)).map(|chain| (chain.links().len(), chain.bytes()));
        assert_eq!((row(&chains, 0), row(&chains, 1), chains.len()), (Some((100, 1000)), Some((100, 1000)), 200));
        let moved = Link { address: Address::new(9, 4), ..link(4) };
        chains.replace(7, link(4), (1, 10), Some((moved, 10)));
        assert!(chains.of_link(7, link(4)).is_none() && chains.of_link(7, moved).is_some());
        (0..40).for_each(|at| chains.replace(7, link(1 + 2 * at), (1, 10), None));
        assert_eq!((row(&chains, 0), row(&chains, 1)), (Some((100, 1000)), Some((60, 600))));
        assert!(chains.of_link(7, link(79)).is_none() && chains.of_link(7, link(81)).is_some());
        chains.replace(7, link(0), (2, 20), None);
        chains.replace(7, link(81), (59, 590), None);
        assert_eq!((row(&chains, 0), row(&chains, 1)), (Some((98, 980)), Some((1, 10))));
        chains.replace(7, moved, (98, 980), Some((link(198), 5)));
        assert_eq!(row(&chains, 0), Some((1, 5)));
        chains.replace(7, link(198), (1, 5), None);
        chains.replace(7, link(199), (1, 10), None);
        assert!(chains.len() == 0 && chains.held_bytes() < 400, "{}", chains.held_bytes());
    }

    #[test]
    #[should_panic(expected = "a piece that goes is in its chain")]
    fn a_piece_that_no_chain_has_stops_the_work() {
        Chains::new(&MemoryBudget::new(u64::MAX)).replace(7, link(1), (1, 0), None);
    }
}
