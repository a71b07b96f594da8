//! Values in pieces: operands that are kept as they came, each in a record of its own, until they are folded.
//!
//! A row's newest piece is the one that the index points at; the older ones stand in its chain, oldest first. Pieces whose
//! lives and versions are the same are folded into one where they are copied anyway.

use super::chains::{Chain, Chains, Link};
use super::chunk::less;
use super::clean::copied;
use super::group::{Found, Group};
use super::index::{Address, Bucket};
use super::record::{Draft, Mark, Place, Record, Shape};
use super::region::Half;
use crate::error::{Result, broken};
use crate::row::{MAX_VALUE_BYTES, OwnedPiece, Piece, Rules};

/// Pieces of a value that follow each other and are one from now on.
#[derive(Debug)]
pub(super) struct Folded {
    /// What they were.
    pub(super) from: Vec<(Link, Shape)>,
    /// A record of the row, without its value.
    row: Vec<u8>,
    piece: OwnedPiece,
    pub(super) operand: bool,
    older: bool,
}

impl Folded {
    /// Returns the record that takes their place.
    ///
    /// * `has_older`: whether the row has pieces before it.
    pub(super) fn draft(&self, operand: bool, has_older: bool) -> Draft<'_> {
        let Record { place, .. } = copied(&self.row);
        let ordinal = if has_older { self.last().ordinal } else { 0 };
        let mark = Mark { operand, ordinal, ..Mark::whole(self.piece.version, self.piece.stamp) };
        Draft { older: self.older, ..Draft::exact(place, &self.piece.bytes, mark) }
    }

    /// Returns the newest of them.
    pub(super) fn last(&self) -> Link {
        self.from.last().map_or_else(|| broken("pieces are folded of one at least"), |(last, _)| *last)
    }
}

impl Group {
    fn chain(&self, hash: u32, place: &Place<'_>) -> Option<&Chain> {
        self.chains.as_deref()?.of_row(hash, |link| self.regions.record(link).place.same_row(place))
    }

    /// Returns the older pieces of the row whose newest record this is, oldest first.
    pub(super) fn links(&self, hash: u32, newest: &Record<'_>) -> &[Link] {
        let chain = if newest.mark.is_chained() { self.chain(hash, &newest.place) } else { None };
        chain.map_or(&[], Chain::links)
    }

    /// Returns the older pieces of a row, oldest first.
    pub(super) fn link_shapes(&self, hash: u32, place: &Place<'_>) -> Vec<(Link, Shape)> {
        let links = self.chain(hash, place).map_or(&[][..], Chain::links);
        links.iter().map(|link| (*link, self.regions.record(link.address).shape)).collect()
    }

    /// Returns all pieces of the row whose newest record this is, oldest first, that one too.
    pub(super) fn all_links<'a>(
        &'a self,
        hash: u32,
        at: Address,
        newest: &Record<'_>,
    ) -> impl Iterator<Item = Link> + 'a {
        let last = Link { ordinal: newest.mark.ordinal, address: at };
        self.links(hash, newest).iter().copied().chain([last])
    }

    /// Returns all pieces of the value of a row whose newest record this is, oldest first.
    pub(super) fn pieces<'a>(&'a self, hash: u32, newest: &Record<'a>) -> impl Iterator<Item = Piece<'a>> {
        let older = self.links(hash, newest).iter().map(|link| self.regions.record(link.address));
        older.chain([*newest]).map(|record| piece_of(&record))
    }

    /// Puts a piece behind the row's value, without touching what lies in frozen regions; `found` is its present entry.
    pub(super) fn add_piece(
        &mut self,
        hash: u32,
        place: &Place<'_>,
        found: Option<Found>,
        piece: &[u8],
        rules: &Rules,
    ) -> Result<()> {
        let Some(found) = found.filter(|found| !found.shape.is_tombstone()) else {
            return self.set(hash, place, found, Some(piece), rules);
        };
        let newest = self.regions.record(found.address);
        self.check_row_length(hash, &newest, piece, rules)?;
        let (version, stamp) = rules.mark(place.table);
        let in_tail = self.regions.half(found.address) == Half::Tail;
        let (shape, old) = (newest.shape, piece_of(&newest).bytes);
        let length = old.len() + piece.len();
        let same = (newest.mark.version, newest.mark.stamp) == (version, stamp);
        let churn = if !in_tail || !same || length > MAX_VALUE_BYTES {
            let ordinal =
                newest.mark.ordinal.checked_add(1).unwrap_or_else(|| broken("a row has fewer than 2^32 pieces"));
            let mark = Mark { operand: true, ordinal, ..Mark::whole(version, stamp) };
            let older = !in_tail || shape.has_older();
            let draft = Draft { older, ..Draft::exact(*place, piece, mark) };
            self.regions.go_to_end(Half::Tail);
            self.afford(0, draft.len())?;
            let address = self.regions.append(Half::Tail, &draft);
            self.follow(hash, place, found, address);
            draft.len()
        } else if length <= shape.capacity {
            self.regions.extend(found.address, &shape, piece);
            0
        } else {
            let value = [old, piece].concat();
            let capacity = (length + length / 2).min(MAX_VALUE_BYTES);
            let (mark, older) = (newest.mark, shape.has_older());
            self.regions.go_to_end(Half::Tail);
            shape.len + self.replace(&found, &Draft { place: *place, value: Some(&value), capacity, older, mark })?
        };
        self.live_bytes += piece.len() as u64;
        self.pace(churn, rules);
        Ok(())
    }

    /// Refuses a piece with which the row's value would be too long. What has expired does not count.
    ///
    /// A step, as chains know how long they are; one per piece where only what has expired is too much.
    fn check_row_length(&self, hash: u32, newest: &Record<'_>, piece: &[u8], rules: &Rules) -> Result<()> {
        // No row has more than all rows together.
        if self.live_bytes + piece.len() as u64 <= MAX_VALUE_BYTES as u64 {
            return Ok(());
        }
        let chain = if newest.mark.is_chained() { self.chain(hash, &newest.place) } else { None };
        let own = piece_of(newest).bytes.len() + piece.len();
        if chain.map_or(0, Chain::bytes) + own as u64 <= MAX_VALUE_BYTES as u64 {
            return Ok(());
        }
        let table = newest.place.table;
        let (version, stamp) = rules.mark(table);
        let Some(of_table) = rules.table(table) else { broken("a table that merges has rules") };
        let added = Piece { bytes: piece, version, stamp };
        of_table.check_length(self.pieces(hash, newest).chain([added]), rules.now(of_table))
    }

    /// Points a row's entry at its new piece, and lets the one before follow those in its chain.
    pub(super) fn follow(&mut self, hash: u32, place: &Place<'_>, before: Found, address: Address) {
        self.index.point(before.bucket, address);
        self.regions.note_link(before.address);
        let Some(length) = before.shape.value_len() else { broken("a piece follows a value") };
        let link = Link { ordinal: self.mark(&before).ordinal, address: before.address };
        let (regions, budget) = (&self.regions, self.regions.budget());
        let chains = self.chains.get_or_insert_with(|| Box::new(Chains::new(budget)));
        chains.push(hash, link, length as u64, |link| regions.record(link).place.same_row(place));
    }

    /// Takes all older pieces of a row out of the log.
    pub(super) fn drop_links(&mut self, hash: u32, links: &[(Link, Shape)]) {
        let Some((first, _)) = links.first() else { return };
        links.iter().for_each(|(link, shape)| self.regions.supersede(link.address, shape));
        self.chains_mut().replace(hash, *first, (links.len(), sum(links)), None);
    }

    /// Takes one older piece of a row out of the log.
    pub(super) fn drop_link(&mut self, hash: u32, link: Link, shape: Shape) {
        self.live_bytes = less(self.live_bytes, sum(&[(link, shape)]));
        self.drop_links(hash, &[(link, shape)]);
    }

    pub(super) fn chains_mut(&mut self) -> &mut Chains {
        self.chains.as_deref_mut().unwrap_or_else(|| broken("a row in pieces has a chain"))
    }

    /// Folds pieces of a row that follow each other, oldest first, as far as their table merges them. An operator that
    /// fails leaves them as they are: reading the row returns the error.
    pub(super) fn fold(&self, pieces: &[Link], rules: &Rules) -> Vec<Folded> {
        let mut folded: Vec<Folded> = Vec::new();
        for &link in pieces {
            let record = self.regions.record(link.address);
            let piece = piece_of(&record);
            if let (Some(table), Some(before)) = (rules.table(record.place.table), folded.last_mut())
                && table.append(&mut before.piece, &piece).unwrap_or(false)
            {
                before.from.push((link, record.shape));
                continue;
            }
            let row = Draft::exact(record.place, &[], Mark::PLAIN).detached();
            let (from, piece) = (vec![(link, record.shape)], OwnedPiece::of(&piece));
            folded.push(Folded { from, row, piece, operand: record.mark.operand, older: record.shape.has_older() });
        }
        folded
    }

    /// Notes that pieces are one now, which lies at `to`.
    ///
    /// * `newest`: the row's entry, if the newest piece is among them.
    pub(super) fn settle(&mut self, hash: u32, folded: &Folded, newest: Option<Bucket>, to: Address) {
        let (old, new) = (sum(&folded.from), folded.piece.bytes.len() as u64);
        self.live_bytes = less(self.live_bytes + new, old);
        let Some((last, older)) = folded.from.split_last() else { broken("pieces are folded of one at least") };
        match newest {
            Some(bucket) => {
                self.index.point(bucket, to);
                if let Some((first, _)) = older.first() {
                    self.chains_mut().replace(hash, *first, (older.len(), sum(older)), None);
                }
            }
            None => {
                self.regions.note_link(to);
                let (first, link) = (older.first().unwrap_or(last).0, Link { address: to, ..last.0 });
                self.chains_mut().replace(hash, first, (folded.from.len(), old), Some((link, new)));
            }
        }
    }
}

/// Returns the piece that a record of a value is.
fn piece_of<'a>(record: &Record<'a>) -> Piece<'a> {
    record.piece().unwrap_or_else(|| broken("a piece of a value has bytes"))
}

/// Returns the bytes of the values of pieces.
pub(super) fn sum(pieces: &[(Link, Shape)]) -> u64 {
    pieces.iter().filter_map(|(_, shape)| shape.value_len()).map(|length| length as u64).sum()
}
