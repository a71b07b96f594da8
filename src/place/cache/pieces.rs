//! The pieces of objects that a cache holds: where they lie, which was used last, how much room they take.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::id::ObjectId;

/// Most pieces of a cache.
const PIECES_MAX: usize = 1 << 16;

/// The room of a file is counted in blocks of this size.
const BLOCK_BYTES: u64 = 4096;

const PACK: &str = ".pack";
const PART: &str = ".part";

/// A byte range of an object, in a file of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Piece {
    pub(super) object: ObjectId,
    pub(super) start: u64,
    pub(super) end: u64,
    /// Whether it is known to be the whole object. Its name then needs no length, so that other processes find it.
    pub(super) whole: bool,
}

impl Piece {
    pub(super) const fn whole(object: ObjectId, length: u64) -> Self {
        Self { object, start: 0, end: length, whole: true }
    }

    pub(super) const fn part(object: ObjectId, range: &Range<u64>) -> Self {
        Self { object, start: range.start, end: range.end, whole: false }
    }

    /// Returns the piece whose file has this name and length; `None` if the name is not that of a piece.
    pub(super) fn parse(name: &str, length: u64) -> Option<Self> {
        let piece = if let Some(object) = name.strip_suffix(PACK) {
            Self::whole(object.parse().ok()?, length)
        } else {
            let (object, range) = name.strip_suffix(PART)?.split_once('.')?;
            let (start, end) = range.split_once('-')?;
            Self::part(object.parse().ok()?, &(start.parse().ok()?..end.parse().ok()?))
        };
        // One piece, one name: `+1` and `01` are not `1`.
        (piece.name() == name).then_some(piece)
    }

    /// Returns the name of its file.
    pub(super) fn name(&self) -> String {
        let Self { object, start, end, whole } = self;
        if *whole { format!("{object}{PACK}") } else { format!("{object}.{start}-{end}{PART}") }
    }

    pub(super) const fn length(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Returns the room that its file takes.
    const fn room(&self) -> u64 {
        match self.length().checked_next_multiple_of(BLOCK_BYTES) {
            Some(room) => room,
            None => u64::MAX,
        }
    }
}

/// How a range can be put together: from pieces, with at most one gap.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cover {
    /// Pieces with the ranges to take of the object, ascending.
    pub(super) pieces: Vec<(Piece, Range<u64>)>,
    /// The rest; may be empty.
    pub(super) gap: Range<u64>,
}

/// The pieces of a cache.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// Each with the time of its last use, as a count of uses.
    pieces: BTreeMap<Piece, u64>,
    by_use: BTreeMap<u64, Piece>,
    uses: u64,
    /// Room of these pieces, and of those being written.
    held: u64,
    reserved: u64,
}

impl Pieces {
    /// Returns the room that is taken or reserved.
    pub(super) fn room(&self) -> u64 {
        self.held.saturating_add(self.reserved)
    }

    /// Adds a piece as the last one used.
    pub(super) fn insert(&mut self, piece: Piece) {
        self.remove(&piece);
        self.uses += 1;
        self.held = self.held.saturating_add(piece.room());
        self.pieces.insert(piece, self.uses);
        self.by_use.insert(self.uses, piece);
    }

    /// Adds a piece unless it is known.
    pub(super) fn insert_new(&mut self, piece: Piece) {
        if !self.contains(&piece) {
            self.insert(piece);
        }
    }

    /// Forgets all pieces but these.
    pub(super) fn retain(&mut self, found: &BTreeSet<Piece>) {
        let gone: Vec<_> = self.pieces.keys().filter(|piece| !found.contains(piece)).copied().collect();
        for piece in gone {
            self.remove(&piece);
        }
    }

    /// Forgets a piece and returns whether it was known.
    pub(super) fn remove(&mut self, piece: &Piece) -> bool {
        let Some(last_use) = self.pieces.remove(piece) else { return false };
        self.by_use.remove(&last_use);
        self.held = self.held.saturating_sub(piece.room());
        true
    }

    /// Marks a piece as used.
    pub(super) fn touch(&mut self, piece: &Piece) {
        if self.remove(piece) {
            self.insert(*piece);
        }
    }

    /// Reserves room for `piece` within `budget`. Returns the pieces removed for it, the least recently used; `None` if
    /// there is no room even without them.
    pub(super) fn reserve(&mut self, piece: &Piece, budget: u64) -> Option<Vec<Piece>> {
        let reserved = self.reserved.saturating_add(piece.room());
        if reserved > budget {
            return None;
        }
        self.reserved = reserved;
        Some(self.trim(budget, PIECES_MAX - 1))
    }

    /// Gives back the room reserved for `piece`.
    pub(super) fn release(&mut self, piece: &Piece) {
        self.reserved = self.reserved.saturating_sub(piece.room());
    }

    /// Removes the least recently used pieces beyond `budget` and beyond the greatest number, and returns them.
    pub(super) fn trim_to(&mut self, budget: u64) -> Vec<Piece> {
        self.trim(budget, PIECES_MAX)
    }

    fn trim(&mut self, budget: u64, count: usize) -> Vec<Piece> {
        let mut removed = Vec::new();
        while (self.room() > budget || self.pieces.len() > count)
            && let Some((_, piece)) = self.by_use.first_key_value()
        {
            let piece = *piece;
            self.remove(&piece);
            removed.push(piece);
        }
        removed
    }

    pub(super) fn contains(&self, piece: &Piece) -> bool {
        self.pieces.contains_key(piece)
    }

    /// Returns the pieces of `object`.
    pub(super) fn of(&self, object: ObjectId) -> Vec<Piece> {
        self.up_to(object, u64::MAX).copied().collect()
    }

    /// Returns the pieces of `object` that start at `at` or before, ascending.
    fn up_to(&self, object: ObjectId, at: u64) -> impl DoubleEndedIterator<Item = &Piece> {
        let first = Piece { object, start: 0, end: 0, whole: false };
        let last = Piece { object, start: at, end: u64::MAX, whole: true };
        self.pieces.range(first..=last).map(|(piece, _)| piece)
    }

    fn holding(&self, object: ObjectId, at: u64) -> Option<Piece> {
        self.up_to(object, at).rev().find(|piece| piece.end > at).copied()
    }

    /// Returns how `range` of `object` can be put together: with pieces from both ends.
    pub(super) fn cover(&self, object: ObjectId, range: &Range<u64>) -> Cover {
        let (mut at, mut to) = (range.start, range.end);
        let mut pieces = Vec::new();
        while at < to
            && let Some(piece) = self.holding(object, at)
        {
            let end = piece.end.min(to);
            pieces.push((piece, at..end));
            at = end;
        }
        let gap = pieces.len();
        while at < to
            && let Some(piece) = self.holding(object, to - 1)
        {
            let start = piece.start.max(at);
            pieces.insert(gap, (piece, start..to));
            to = start;
        }
        Cover { pieces, gap: at..to }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Attempt;

    fn object(name: u8) -> ObjectId {
        ObjectId { attempt: Attempt(7), random: [name; 16] }
    }

    fn part(name: u8, range: Range<u64>) -> Piece {
        Piece::part(object(name), &range)
    }

    fn holding(pieces: &[Piece]) -> Pieces {
        let mut held = Pieces::default();
        pieces.iter().for_each(|piece| held.insert(*piece));
        held
    }

    #[test]
    fn a_piece_has_one_name() {
        let id = "01".repeat(16);
        let pieces =
            [(Piece::whole(object(1), 9), format!("7-{id}.pack")), (part(1, 3..12), format!("7-{id}.3-12.part"))];
        for (piece, name) in pieces {
            assert_eq!((piece.name(), Piece::parse(&name, 9)), (name, Some(piece)));
        }
        for foreign in [
            format!("07-{id}.pack"),
            format!("7-{id}.pack.bak"),
            format!("7-{id}"),
            format!("7-{id}.03-12.part"),
            format!("7-{id}.3-+12.part"),
            format!("7-{id}.3.part"),
            "../7.pack".to_owned(),
            ".pack".to_owned(),
        ] {
            assert_eq!(Piece::parse(&foreign, 9), None, "{foreign}");
        }
    }

    #[test]
    fn a_range_is_covered_from_both_ends_with_one_gap() {
        let held = holding(&[part(1, 0..10), part(1, 10..20), part(1, 30..40), part(1, 50..60), part(2, 20..30)]);
        let cover = |range: Range<u64>| {
            let Cover { pieces, gap } = held.cover(object(1), &range);
            (pieces.into_iter().map(|(_, span)| (span.start, span.end)).collect::<Vec<_>>(), gap)
        };
        assert_eq!(cover(5..20), (vec![(5, 10), (10, 20)], 20..20));
        assert_eq!(cover(5..35), (vec![(5, 10), (10, 20), (30, 35)], 20..30));
        assert_eq!(cover(5..60), (vec![(5, 10), (10, 20), (50, 60)], 20..50));
        assert_eq!(cover(20..30), (vec![], 20..30));
        assert_eq!(cover(25..25), (vec![], 25..25));
        assert_eq!(cover(32..38), (vec![(32, 38)], 38..38));
        // One piece within another hides nothing.
        let held = holding(&[part(1, 0..100), part(1, 40..60)]);
        let cover = held.cover(object(1), &(30..90));
        assert_eq!(cover.gap.start, cover.gap.end, "{cover:?}");
        assert_eq!(held.of(object(1)).len(), 2);
    }

    #[test]
    fn the_least_recently_used_pieces_make_room() {
        const BLOCK: u64 = BLOCK_BYTES;
        let (a, b, c) = (part(1, 0..1), part(2, 0..BLOCK), Piece::whole(object(3), BLOCK + 1));
        let mut held = holding(&[a, b]);
        assert_eq!(held.room(), 2 * BLOCK);
        held.touch(&a);
        assert_eq!(held.reserve(&c, 3 * BLOCK), Some(vec![b]));
        assert_eq!(held.room(), 3 * BLOCK);
        // While `c` is being written, only `a` could make room.
        assert_eq!(held.reserve(&part(4, 0..2 * BLOCK), 3 * BLOCK), None);
        assert_eq!(held.reserve(&b, 3 * BLOCK), Some(vec![a]));
        held.release(&b);
        held.release(&c);
        held.insert(c);
        held.insert(c);
        assert_eq!((held.room(), held.of(object(3)).len()), (2 * BLOCK, 1));
        assert!(held.remove(&c) && !held.remove(&c));
        assert_eq!(held.room(), 0);
    }

    #[test]
    fn the_number_of_pieces_is_bounded() {
        let mut held = Pieces::default();
        for at in 0..=PIECES_MAX as u64 {
            held.insert(part(1, at..at + 1));
        }
        assert_eq!(held.trim_to(u64::MAX), [part(1, 0..1)]);
        assert_eq!(held.reserve(&part(2, 0..1), u64::MAX), Some(vec![part(1, 1..2)]));
    }
}
