//! Values in pieces: operands stored unmerged, each in a record of its own, until they are folded.
//!
//! The index points at a row's newest piece; the row's chain has the older ones, oldest first. Pieces with the same
//! stamp and version are folded into one whenever they are copied anyway.

use super::chains::{Chain, Chains, PieceRef};
use super::chunk::subtract;
use super::clean::parse_copy;
use super::fetch::Fetched;
use super::group::{Found, Group};
use super::index::{Address, Bucket};
use super::record::{Draft, Place, Record, Shape, ValueMeta};
use super::region::Section;
use crate::error::{Result, broken};
use crate::row::{MAX_VALUE_BYTES, OwnedPiece, Piece, Rules};

/// Consecutive pieces of a value, folded into one.
#[derive(Debug)]
pub(super) struct Folded {
    /// The pieces that were folded.
    pub(super) from: Vec<(PieceRef, Shape)>,
    /// A record of the row, without its value.
    row: Vec<u8>,
    piece: OwnedPiece,
    pub(super) operand: bool,
    older: bool,
}

impl Folded {
    /// Returns the record that replaces them.
    ///
    /// * `has_older`: whether the row has older pieces.
    pub(super) fn draft(&self, operand: bool, has_older: bool) -> Draft<'_> {
        let Record { place, .. } = parse_copy(&self.row);
        let ordinal = if has_older { self.last().ordinal } else { 0 };
        let meta = ValueMeta { operand, ordinal, ..ValueMeta::whole(self.piece.version, self.piece.stamp) };
        Draft { older: self.older, ..Draft::exact(place, &self.piece.bytes, meta) }
    }

    /// Returns the newest of the folded pieces.
    pub(super) fn last(&self) -> PieceRef {
        self.from.last().map_or_else(|| broken("a fold has at least one piece"), |(last, _)| *last)
    }
}

impl Group {
    fn chain(&self, hash: u32, place: &Place<'_>, fetched: &Fetched) -> Option<&Chain> {
        let is_row = |piece_ref| self.regions.record(piece_ref, fetched).place.same_row(place);
        self.chains.as_deref()?.chain_of_row(hash, is_row)
    }

    /// Returns the older pieces of the row with this newest record, oldest first.
    pub(super) fn older_refs(&self, hash: u32, newest: &Record<'_>, fetched: &Fetched) -> &[PieceRef] {
        let chain = if newest.meta.is_chained() { self.chain(hash, &newest.place, fetched) } else { None };
        chain.map_or(&[], Chain::pieces)
    }

    /// Returns the older pieces of a row with their shapes, oldest first.
    pub(super) fn older_shapes(&self, hash: u32, place: &Place<'_>, fetched: &Fetched) -> Vec<(PieceRef, Shape)> {
        let older_refs = self.chain(hash, place, fetched).map_or(&[][..], Chain::pieces);
        let shape = |piece_ref: &PieceRef| self.regions.record(piece_ref.address, fetched).shape;
        older_refs.iter().map(|piece_ref| (*piece_ref, shape(piece_ref))).collect()
    }

    /// Returns all pieces of the row with this newest record, oldest first, the newest included.
    pub(super) fn piece_refs<'a>(
        &'a self,
        hash: u32,
        at: Address,
        newest: &Record<'_>,
        fetched: &Fetched,
    ) -> impl Iterator<Item = PieceRef> + use<'a> {
        let last = PieceRef { ordinal: newest.meta.ordinal, address: at };
        self.older_refs(hash, newest, fetched).iter().copied().chain([last])
    }

    /// Returns the values of all pieces of the row with this newest record, oldest first.
    pub(super) fn pieces<'a>(
        &'a self,
        hash: u32,
        newest: &Record<'a>,
        fetched: &'a Fetched,
    ) -> impl Iterator<Item = Piece<'a>> {
        let older_refs = self.older_refs(hash, newest, fetched).iter();
        let older = older_refs.map(|piece_ref| self.regions.record(piece_ref.address, fetched));
        older.chain([*newest]).map(|record| piece_of(&record))
    }

    /// Appends a piece to the row's value without touching frozen regions. `found` is the row's present entry.
    pub(super) fn add_piece(
        &mut self,
        hash: u32,
        place: &Place<'_>,
        (found, fetched): (Option<Found>, &Fetched),
        piece: &[u8],
        rules: &Rules,
    ) -> Result<()> {
        let Some(found) = found.filter(|found| !found.shape.is_tombstone()) else {
            return self.set(hash, place, (found, fetched), Some(piece), rules);
        };
        let newest = self.regions.record(found.address, fetched);
        self.check_row_length(hash, &newest, piece, (rules, fetched))?;
        let (version, stamp) = rules.mark(place.table);
        let in_tail = self.regions.section(found.address) == Section::Tail;
        let (shape, old) = (newest.shape, piece_of(&newest).bytes);
        let length = old.len() + piece.len();
        let same = (newest.meta.version, newest.meta.stamp) == (version, stamp);
        let churn = if !in_tail || !same || length > MAX_VALUE_BYTES {
            let ordinal =
                newest.meta.ordinal.checked_add(1).unwrap_or_else(|| broken("a row has fewer than 2^32 pieces"));
            let meta = ValueMeta { operand: true, ordinal, ..ValueMeta::whole(version, stamp) };
            let older = !in_tail || shape.has_older();
            let draft = Draft { older, ..Draft::exact(*place, piece, meta) };
            self.regions.open_at_end(Section::Tail);
            self.check_budget(0, draft.len())?;
            let address = self.regions.append(Section::Tail, &draft);
            self.link_piece(hash, place, found, address, fetched);
            draft.len()
        } else if length <= shape.capacity {
            self.regions.extend(found.address, &shape, piece);
            0
        } else {
            let value = [old, piece].concat();
            let capacity = (length + length / 2).min(MAX_VALUE_BYTES);
            let (meta, older) = (newest.meta, shape.has_older());
            self.regions.open_at_end(Section::Tail);
            shape.len + self.replace(&found, &Draft { place: *place, value: Some(&value), capacity, older, meta })?
        };
        self.live_bytes += piece.len() as u64;
        self.maintain(churn, rules);
        Ok(())
    }

    /// Refuses a piece that would make the row's value too long, expired pieces not counted.
    ///
    /// One step, as a chain knows its length; one step per piece only if the value is too long with its expired pieces.
    fn check_row_length(
        &self,
        hash: u32,
        newest: &Record<'_>,
        piece: &[u8],
        (rules, fetched): (&Rules, &Fetched),
    ) -> Result<()> {
        // No value is longer than all rows of the group together.
        if self.live_bytes + piece.len() as u64 <= MAX_VALUE_BYTES as u64 {
            return Ok(());
        }
        let chain = if newest.meta.is_chained() { self.chain(hash, &newest.place, fetched) } else { None };
        let own = piece_of(newest).bytes.len() + piece.len();
        if chain.map_or(0, Chain::bytes) + own as u64 <= MAX_VALUE_BYTES as u64 {
            return Ok(());
        }
        let table = newest.place.table;
        let (version, stamp) = rules.mark(table);
        let Some(of_table) = rules.table(table) else { broken("a table that merges has rules") };
        let added = Piece { bytes: piece, version, stamp };
        of_table.check_length(self.pieces(hash, newest, fetched).chain([added]), rules.now(of_table))
    }

    /// Points a row's entry at its new piece, and appends the previous one to the row's chain.
    pub(super) fn link_piece(
        &mut self,
        hash: u32,
        place: &Place<'_>,
        before: Found,
        address: Address,
        fetched: &Fetched,
    ) {
        self.index.point(before.bucket, address);
        self.regions.note_older_piece(before.address);
        let Some(length) = before.shape.value_len() else { broken("a piece follows a value") };
        let piece_ref = PieceRef { ordinal: self.meta(&before, fetched).ordinal, address: before.address };
        let (regions, budget) = (&self.regions, self.regions.budget());
        let chains = self.chains.get_or_insert_with(|| Box::new(Chains::new(budget)));
        let is_row = |piece_ref| regions.record(piece_ref, fetched).place.same_row(place);
        chains.push(hash, piece_ref, length as u64, is_row);
    }

    /// Removes all given older pieces of a row from the log.
    pub(super) fn drop_older(&mut self, hash: u32, older_refs: &[(PieceRef, Shape)]) {
        let Some((first, _)) = older_refs.first() else { return };
        older_refs.iter().for_each(|(piece_ref, shape)| self.regions.supersede(piece_ref.address, shape));
        self.chains_mut().replace(hash, *first, (older_refs.len(), value_bytes(older_refs)), None);
    }

    /// Removes one older piece of a row from the log.
    pub(super) fn drop_older_piece(&mut self, hash: u32, piece_ref: PieceRef, shape: Shape) {
        self.live_bytes = subtract(self.live_bytes, value_bytes(&[(piece_ref, shape)]));
        self.drop_older(hash, &[(piece_ref, shape)]);
    }

    pub(super) fn chains_mut(&mut self) -> &mut Chains {
        self.chains.as_deref_mut().unwrap_or_else(|| broken("a row in pieces has a chain"))
    }

    /// Folds consecutive pieces of a row, oldest first, where their table merges them. Pieces on which the operator
    /// fails stay as they are: reading the row returns the error.
    pub(super) fn fold(&self, pieces: &[PieceRef], rules: &Rules, fetched: &Fetched) -> Vec<Folded> {
        let mut folded: Vec<Folded> = Vec::new();
        for &piece_ref in pieces {
            let record = self.regions.record(piece_ref.address, fetched);
            let piece = piece_of(&record);
            if let (Some(table), Some(before)) = (rules.table(record.place.table), folded.last_mut())
                && table.append(&mut before.piece, &piece).unwrap_or(false)
            {
                before.from.push((piece_ref, record.shape));
                continue;
            }
            let row = Draft::exact(record.place, &[], ValueMeta::PLAIN).encode();
            let (from, piece) = (vec![(piece_ref, record.shape)], OwnedPiece::of(&piece));
            folded.push(Folded { from, row, piece, operand: record.meta.operand, older: record.shape.has_older() });
        }
        folded
    }

    /// Replaces folded pieces by their copy, which lies at `to`.
    ///
    /// * `newest`: the row's entry, if the newest piece was folded.
    pub(super) fn replace_folded(&mut self, hash: u32, folded: &Folded, newest: Option<Bucket>, to: Address) {
        let (old, new) = (value_bytes(&folded.from), folded.piece.bytes.len() as u64);
        self.live_bytes = subtract(self.live_bytes + new, old);
        let Some((last, older)) = folded.from.split_last() else { broken("a fold has at least one piece") };
        match newest {
            Some(bucket) => {
                self.index.point(bucket, to);
                if let Some((first, _)) = older.first() {
                    self.chains_mut().replace(hash, *first, (older.len(), value_bytes(older)), None);
                }
            }
            None => {
                self.regions.note_older_piece(to);
                let (first, piece_ref) = (older.first().unwrap_or(last).0, PieceRef { address: to, ..last.0 });
                self.chains_mut().replace(hash, first, (folded.from.len(), old), Some((piece_ref, new)));
            }
        }
    }
}

/// Returns the piece in a record that has a value.
fn piece_of<'a>(record: &Record<'a>) -> Piece<'a> {
    record.piece().unwrap_or_else(|| broken("a piece of a value has bytes"))
}

/// Returns the bytes of the pieces' values.
pub(super) fn value_bytes(pieces: &[(PieceRef, Shape)]) -> u64 {
    pieces.iter().filter_map(|(_, shape)| shape.value_len()).map(|length| length as u64).sum()
}
