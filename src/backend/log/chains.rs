//! Chains: where the older pieces of a row's value lie, if the value is in pieces.
//!
//! Invariants:
//! - a chain is never empty. It has the address of every older piece of its row, oldest first; the index points at the
//!   newest piece;
//! - only a row whose newest record has an ordinal above 0 has a chain;
//! - the ordinals of a row's pieces ascend, and a piece keeps its ordinal as long as it has older ones: so binary
//!   search finds a piece, however long its chain is;
//! - chains know records by address: moving a record, or removing it from the log, updates its chain.

use std::fmt;

use hashbrown::HashTable;

use super::index::{Address, spread};
use crate::error::broken;
use crate::memory::{Charge, MemoryBudget};

/// A reference to a piece of a value: its record's ordinal and address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PieceRef {
    pub(super) ordinal: u32,
    pub(super) address: Address,
}

/// The older pieces of one row's value.
#[derive(Debug)]
pub(super) struct Chain {
    /// The row's hash.
    hash: u32,
    pieces: PieceRefs,
    /// Bytes of the pieces' values.
    bytes: u64,
}

impl Chain {
    /// Returns the pieces, oldest first.
    pub(super) fn pieces(&self) -> &[PieceRef] {
        self.pieces.as_slice()
    }

    /// Returns the bytes of the pieces' values.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Replaces `count` pieces from `first` on, whose values have `bytes`, with at most one.
    fn cut(&mut self, first: PieceRef, (count, bytes): (usize, u64), by: Option<(PieceRef, u64)>) {
        let at = self.pieces.position(first).unwrap_or_else(|| broken("a chain has its piece"));
        if at + count > self.pieces().len() || bytes > self.bytes {
            broken("removed pieces are in their chain");
        }
        self.pieces.cut(at, count, by.map(|(piece, _)| piece));
        self.bytes = self.bytes - bytes + by.map_or(0, |(_, bytes)| bytes);
    }

    fn has(&self, piece: PieceRef) -> bool {
        self.pieces.position(piece).is_some()
    }
}

/// Pieces by ordinal, ascending; most chains have one.
enum PieceRefs {
    One([PieceRef; 1]),
    /// The second field counts pieces removed from the front.
    Many(Vec<PieceRef>, usize),
}

impl PieceRefs {
    fn as_slice(&self) -> &[PieceRef] {
        match self {
            Self::One(piece) => piece,
            Self::Many(pieces, gone) => {
                pieces.get(*gone..).unwrap_or_else(|| broken("a chain removes no more pieces than it has"))
            }
        }
    }

    fn position(&self, piece: PieceRef) -> Option<usize> {
        let pieces = self.as_slice();
        let at = pieces.binary_search_by_key(&piece.ordinal, |piece| piece.ordinal).ok()?;
        (pieces.get(at) == Some(&piece)).then_some(at)
    }

    fn push(&mut self, piece: PieceRef) {
        if self.as_slice().last().is_some_and(|last| last.ordinal >= piece.ordinal) {
            broken("a newer piece has a higher ordinal");
        }
        match self {
            Self::One([first]) => *self = Self::Many(vec![*first, piece], 0),
            Self::Many(pieces, _) => pieces.push(piece),
        }
    }

    /// Replaces `count` pieces from position `at` on with at most one.
    fn cut(&mut self, at: usize, count: usize, by: Option<PieceRef>) {
        match (&mut *self, by) {
            (Self::One(piece), Some(by)) => *piece = [by],
            (Self::One(_), None) => *self = Self::Many(Vec::new(), 0),
            // Expired pieces leave at the front: amortised, each remaining one moves once.
            (Self::Many(pieces, gone), None) if at == 0 && *gone + count <= pieces.len() / 2 => *gone += count,
            (Self::Many(pieces, gone), by) => {
                pieces.splice(*gone + at..*gone + at + count, by);
                if count != usize::from(by.is_some()) {
                    pieces.drain(..std::mem::take(gone));
                }
                if pieces.len() < pieces.capacity() / 4 {
                    pieces.shrink_to(pieces.len() * 2);
                }
            }
        }
    }

    fn heap_bytes(&self) -> u64 {
        match self {
            Self::One(_) => 0,
            Self::Many(pieces, _) => (pieces.capacity() * size_of::<PieceRef>()) as u64,
        }
    }
}

impl fmt::Debug for PieceRefs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PieceRefs({})", self.as_slice().len())
    }
}

/// The chains of one group.
#[derive(Debug)]
pub(super) struct Chains {
    table: HashTable<Chain>,
    pieces_bytes: u64,
    charge: Charge,
}

impl Chains {
    pub(super) fn new(budget: &MemoryBudget) -> Self {
        Self { table: HashTable::new(), pieces_bytes: 0, charge: budget.charge(0) }
    }

    /// Returns the bytes of memory held.
    pub(super) fn held_bytes(&self) -> u64 {
        self.charge.bytes()
    }

    /// Returns the number of pieces in all chains.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table.iter().map(|chain| chain.pieces().len()).sum()
    }

    /// Returns the pieces of all chains.
    #[cfg(test)]
    pub(super) fn pieces(&self) -> impl Iterator<Item = PieceRef> {
        self.table.iter().flat_map(|chain| chain.pieces().iter().copied())
    }

    /// Returns the chain with this hash whose row `is_row` recognises by the address of one of its pieces.
    pub(super) fn chain_of_row(&self, hash: u32, is_row: impl Fn(Address) -> bool) -> Option<&Chain> {
        self.table.find(spread(hash), |chain| {
            chain.hash == hash && chain.pieces().first().is_some_and(|piece| is_row(piece.address))
        })
    }

    /// Returns the chains of all rows with this hash.
    pub(super) fn with_hash(&self, hash: u32) -> impl Iterator<Item = &Chain> {
        self.table.iter_hash(spread(hash)).filter(move |chain| chain.hash == hash)
    }

    /// Returns the chain with this hash that contains `piece`.
    pub(super) fn chain_with(&self, hash: u32, piece: PieceRef) -> Option<&Chain> {
        self.table.find(spread(hash), |chain| chain.hash == hash && chain.has(piece))
    }

    /// Appends a piece with a value of `bytes` to the chain of the row that `is_row` recognises.
    pub(super) fn push(&mut self, hash: u32, piece: PieceRef, bytes: u64, is_row: impl Fn(Address) -> bool) {
        let is_match =
            |chain: &Chain| chain.hash == hash && chain.pieces().first().is_some_and(|piece| is_row(piece.address));
        match self.table.find_mut(spread(hash), is_match) {
            Some(chain) => {
                let before = chain.pieces.heap_bytes();
                chain.pieces.push(piece);
                chain.bytes += bytes;
                self.pieces_bytes += chain.pieces.heap_bytes() - before;
            }
            None => {
                let chain = Chain { hash, pieces: PieceRefs::One([piece]), bytes };
                self.table.insert_unique(spread(hash), chain, |chain| spread(chain.hash));
            }
        }
        self.recharge();
    }

    /// Replaces `count` consecutive pieces from `first` on, whose values have `bytes`, by the piece that they became,
    /// with its bytes, or by nothing.
    pub(super) fn replace(
        &mut self,
        hash: u32,
        first: PieceRef,
        (count, bytes): (usize, u64),
        by: Option<(PieceRef, u64)>,
    ) {
        let found = self.table.find_entry(spread(hash), |chain| chain.hash == hash && chain.has(first));
        let Ok(mut entry) = found else { broken("a removed piece is in its chain") };
        let chain = entry.get_mut();
        let before = chain.pieces.heap_bytes();
        chain.cut(first, (count, bytes), by);
        let after = chain.pieces.heap_bytes();
        if chain.pieces().is_empty() {
            entry.remove();
            self.pieces_bytes -= before;
        } else {
            self.pieces_bytes = self.pieces_bytes + after - before;
        }
        if self.table.len() < self.table.capacity() / 8 {
            self.table.shrink_to(self.table.len() * 2, |chain| spread(chain.hash));
        }
        self.recharge();
    }

    fn recharge(&mut self) {
        self.charge.resize(self.pieces_bytes + self.table.allocation_size() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(at: u32) -> PieceRef {
        PieceRef { ordinal: at, address: Address::new(at / 100, at % 100) }
    }

    #[test]
    fn chains_with_one_hash_stay_apart_and_free_their_memory() {
        let budget = MemoryBudget::new(u64::MAX);
        let mut chains = Chains::new(&budget);
        // Two rows with one hash: even and odd offsets.
        let of = |parity: u32| move |piece: Address| piece.offset() % 2 == parity;
        for at in 0..200 {
            chains.push(7, piece(at), 10, of(at % 2));
        }
        let row = |chains: &Chains, parity| {
            chains.chain_of_row(7, of(parity)).map(|chain| (chain.pieces().len(), chain.bytes()))
        };
        assert_eq!((row(&chains, 0), row(&chains, 1), chains.len()), (Some((100, 1000)), Some((100, 1000)), 200));
        let moved = PieceRef { address: Address::new(9, 4), ..piece(4) };
        chains.replace(7, piece(4), (1, 10), Some((moved, 10)));
        assert!(chains.chain_with(7, piece(4)).is_none() && chains.chain_with(7, moved).is_some());
        (0..40).for_each(|at| chains.replace(7, piece(1 + 2 * at), (1, 10), None));
        assert_eq!((row(&chains, 0), row(&chains, 1)), (Some((100, 1000)), Some((60, 600))));
        assert!(chains.chain_with(7, piece(79)).is_none() && chains.chain_with(7, piece(81)).is_some());
        chains.replace(7, piece(0), (2, 20), None);
        chains.replace(7, piece(81), (59, 590), None);
        assert_eq!((row(&chains, 0), row(&chains, 1)), (Some((98, 980)), Some((1, 10))));
        chains.replace(7, moved, (98, 980), Some((piece(198), 5)));
        assert_eq!(row(&chains, 0), Some((1, 5)));
        chains.replace(7, piece(198), (1, 5), None);
        chains.replace(7, piece(199), (1, 10), None);
        assert!(chains.len() == 0 && chains.held_bytes() < 400, "{}", chains.held_bytes());
    }

    #[test]
    #[should_panic(expected = "a removed piece is in its chain")]
    fn removing_an_unknown_piece_panics() {
        Chains::new(&MemoryBudget::new(u64::MAX)).replace(7, piece(1), (1, 0), None);
    }
}
