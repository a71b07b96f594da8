//! One key group: a log of records and the index of the newest of each row.
//!
//! Invariants:
//! - the index points at the newest record of every row that has one, tombstones included, and by links at the older
//!   pieces of its value;
//! - a row that was born in the tail and removed there leaves no record: nothing older can shine through;
//! - a write that the budget or an operator refuses has changed nothing.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::id::TableId;
use crate::key_group::{KeyGroup, Partitioner};
use crate::memory::Charge;
use crate::segment::{GroupHeat, MAX_VALUE_BYTES, OwnedPiece, Row, RowBatch, Rules};
use crate::time::Timestamp;

use super::super::heat::Heat;
use super::super::{budget_spent, check_loadable};
use super::arena::Arena;
use super::families::Families;
use super::index::{Address, Bucket, Index, link_hash, row_hash};
use super::record::{Draft, Mark, Place, Record, Shape};
use super::region::{Chunk, Half, Regions};

/// A row's entry in the index and what it points at, valid until the next change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) bucket: Bucket,
    pub(super) address: Address,
    pub(super) shape: Shape,
}

/// The state of one key group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) index: Index,
    pub(super) regions: Regions,
    /// Made with the first row that has a sub-key.
    pub(super) families: Option<Box<Families>>,
    /// Bits of the tables in which it ever had a row without a sub-key: in others nobody need look for one.
    without_sub: u64,
    /// Rows that have a value, expired ones too until they are cleaned.
    pub(super) rows: u64,
    /// Bytes of their keys, namespaces, sub-keys and values.
    pub(super) live_bytes: u64,
    /// Whether the backend's list of dirty groups has it.
    pub(super) listed: bool,
    pub(super) heat: Heat,
    partitioner: Partitioner,
    charge: Charge,
}

impl Group {
    pub(super) fn new(partitioner: Partitioner, arena: &Arena) -> Self {
        Self {
            index: Index::new(arena),
            regions: Regions::new(arena),
            families: None,
            without_sub: 0,
            rows: 0,
            live_bytes: 0,
            listed: false,
            heat: Heat::default(),
            partitioner,
            charge: arena.budget().charge(size_of::<Self>() as u64),
        }
    }

    /// Returns a group of the rows of a folded batch, as a clean log that is not part of the next delta.
    pub(super) fn load(batch: &RowBatch, rules: &Rules, partitioner: Partitioner, arena: &Arena) -> Result<Self> {
        let (budget, mut group) = (arena.budget(), Self::new(partitioner, arena));
        let mut left = 0;
        batch.iter().try_for_each(|row| draft_of(&row).map(|draft| left += draft.len()))?;
        if !budget.has_room(left as u64 + Index::presized_bytes(batch.len())) {
            return Err(budget_spent(budget));
        }
        group.index.presize(batch.len());
        for row in batch.iter() {
            let mut draft = draft_of(&row)?;
            let hash = group.hash(&draft.place);
            let before = if draft.mark.operand { group.find(hash, &draft.place) } else { None };
            draft.mark.ordinal = before.map_or(0, |before| group.mark(&before).ordinal + 1);
            let address = group.regions.load(&draft, &mut left)?;
            let length = draft.capacity as u64;
            if let Some(before) = before {
                group.follow(hash, before, address, draft.mark.ordinal);
                group.live_bytes += length;
            } else {
                group.index.insert(hash, address);
                group.count(hash, &draft.place, None, Some(draft.place.bytes() as u64 + length), rules);
            }
        }
        Ok(group)
    }

    /// Returns the hash of a row whose key's hash is not at hand.
    pub(super) fn hash(&self, place: &Place<'_>) -> u32 {
        row_hash(self.key_hash(place), place)
    }

    /// Returns the hash of a row's key.
    pub(super) fn key_hash(&self, place: &Place<'_>) -> u64 {
        self.partitioner.index_hash(place.key)
    }

    /// Returns the row's entry.
    pub(super) fn find(&self, hash: u32, place: &Place<'_>) -> Option<Found> {
        let mut shape = None;
        let (bucket, address) = self.index.find(hash, |address| {
            let record = self.regions.record(address).filter(|record| record.place.same_row(place));
            shape = record.map(|record| record.shape);
            shape.is_some()
        })?;
        Some(Found { bucket, address, shape: shape? })
    }

    /// Returns the row's newest record and where it lies.
    pub(super) fn find_record(&self, hash: u32, place: &Place<'_>) -> Option<(Address, Record<'_>)> {
        let mut newest = None;
        let (_, address) = self.index.find(hash, |address| {
            newest = self.regions.record(address).filter(|record| record.place.same_row(place));
            newest.is_some()
        })?;
        Some((address, newest?))
    }

    /// Asks for index slots first, and for records once slots are there.
    pub(super) fn prefetch(&self, hashes: impl Iterator<Item = u32> + Clone) {
        hashes.clone().for_each(|hash| self.index.prefetch(hash));
        hashes.filter_map(|hash| self.index.first(hash)).for_each(|address| self.regions.prefetch(address));
    }

    /// Returns the entries of the pieces before `ordinal` of a row, oldest first, as far as they are there.
    pub(super) fn links(&self, hash: u32, place: &Place<'_>, ordinal: u32) -> Vec<Found> {
        (0..ordinal).filter_map(|ordinal| self.find(link_hash(hash, ordinal), place)).collect()
    }

    /// Returns all pieces of the value of a row whose newest record this is, oldest first.
    fn pieces(&self, hash: u32, newest: &Record<'_>) -> Vec<OwnedPiece> {
        let older = self.links(hash, &newest.place, newest.mark.ordinal);
        let records = older.iter().filter_map(|link| self.regions.record(link.address)).chain([*newest]);
        records.filter_map(|record| record.piece()).map(|piece| OwnedPiece::of(&piece)).collect()
    }

    /// Returns the value of a row that was found, in `buffer` if it is not stored as it reads.
    #[inline]
    pub(super) fn value<'a>(
        &'a self,
        hash: u32,
        table: TableId,
        found: &Found,
        rules: &Rules,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Option<&'a [u8]>> {
        if found.shape.is_plain() && rules.plain(table) {
            return Ok(self.regions.value(found.address, &found.shape));
        }
        match self.regions.record(found.address) {
            Some(record) => self.value_of(hash, &record, rules, buffer),
            None => Ok(None),
        }
    }

    /// Returns the value of a row whose newest record this is, in `buffer` if it is not stored as it reads.
    pub(super) fn value_of<'a>(
        &'a self,
        hash: u32,
        record: &Record<'a>,
        rules: &Rules,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Option<&'a [u8]>> {
        let Some(piece) = record.piece() else { return Ok(None) };
        let table = match rules.table(record.place.table) {
            None if record.mark.ordinal == 0 => return Ok(Some(piece.bytes)),
            // The caller knows the table by its id.
            None => return Err(Error::usage("table has no merge operator")),
            Some(table) if record.mark.ordinal == 0 && piece.version == table.version => {
                return Ok((!table.expired(piece.stamp, rules.now(table))).then_some(piece.bytes));
            }
            Some(table) => table,
        };
        buffer.clear();
        let there = table.resolve(self.pieces(hash, record), rules.now(table), buffer)?;
        Ok(there.then_some(buffer))
    }

    /// Returns the stamp of a row that was found.
    pub(super) fn stamp(&self, address: Address) -> Option<Timestamp> {
        self.regions.record(address)?.mark.stamp
    }

    /// Gives the row a whole value, or none; `found` is its present entry.
    pub(super) fn set(
        &mut self,
        hash: u32,
        place: &Place<'_>,
        found: Option<Found>,
        value: Option<&[u8]>,
        rules: &Rules,
    ) -> Result<()> {
        let (version, stamp) = rules.mark(place.table);
        let mark = Mark::whole(version, stamp);
        let Some(found) = found else {
            return value.map_or(Ok(()), |value| self.insert(hash, &Draft::exact(*place, value, mark), rules));
        };
        let shape = found.shape;
        if shape.is_tombstone() && value.is_none() {
            return Ok(());
        }
        let old_mark = self.mark(&found);
        let mut old_bytes = shape.value_len().map(|length| (place.bytes() + length) as u64);
        let in_tail = self.regions.half(found.address) == Half::Tail;
        let fits = in_tail && old_mark.makes_way_for(&mark) && value.is_none_or(|value| value.len() <= shape.capacity);
        let mut older = !in_tail || shape.has_older();
        let links = self.links(hash, place, old_mark.ordinal);
        let dropped: usize = links.iter().map(|link| link.shape.len).sum();
        for link in &links {
            older |= self.regions.half(link.address) != Half::Tail || link.shape.has_older();
            let length = link.shape.value_len().unwrap_or_default() as u64;
            old_bytes = old_bytes.map(|bytes| bytes + length);
        }
        let churn = if value.is_none() && !older {
            self.drop_links(&links);
            self.regions.supersede(found.address, &shape);
            self.index.remove(found.bucket);
            self.index.trim_at(found.bucket);
            shape.len + dropped
        } else if fits {
            self.drop_links(&links);
            self.regions.rewrite(found.address, &shape, value, stamp);
            dropped
        } else {
            // A value that grew since the last seal may grow on: with spare bytes, all its records together stay in
            // proportion to the last.
            let length = value.map_or(0, <[u8]>::len);
            let capacity = if in_tail { length + length / 4 } else { length };
            let draft = match value {
                Some(_) => Draft { place: *place, value, capacity, older, mark },
                None => Draft::gone(*place, older),
            };
            let written = self.replace(&found, &draft)?;
            self.drop_links(&links);
            shape.len + dropped + written
        };
        let bytes = value.map(|value| (place.bytes() + value.len()) as u64);
        self.count(hash, place, old_bytes, bytes, rules);
        self.pace(churn, rules);
        Ok(())
    }

    /// Returns the mark of a record that was found.
    fn mark(&self, found: &Found) -> Mark {
        let record = if found.shape.is_plain() { None } else { self.regions.record(found.address) };
        record.map_or(Mark::PLAIN, |record| record.mark)
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
        let with_value = found.filter(|found| !found.shape.is_tombstone());
        let newest = with_value.and_then(|found| Some((found, self.regions.record(found.address)?)));
        let Some((found, newest)) = newest else { return self.set(hash, place, found, Some(piece), rules) };
        let (version, stamp) = rules.mark(place.table);
        let in_tail = self.regions.half(found.address) == Half::Tail;
        let (shape, old) = (newest.shape, newest.value().unwrap_or_default());
        let length = old.len() + piece.len();
        let same = (newest.mark.version, newest.mark.stamp) == (version, stamp);
        let churn = if !in_tail || !same || length > MAX_VALUE_BYTES {
            let ordinal = newest.mark.ordinal.saturating_add(1);
            let mark = Mark { operand: true, ordinal, ..Mark::whole(version, stamp) };
            let older = !in_tail || shape.has_older();
            let draft = Draft { older, ..Draft::exact(*place, piece, mark) };
            self.regions.go_to_end(Half::Tail);
            self.afford(self.index.growth_bytes(link_hash(hash, ordinal - 1)), draft.len())?;
            let address = self.regions.append(Half::Tail, &draft);
            self.follow(hash, found, address, ordinal);
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

    /// Points a row's entry at its new piece `ordinal`, and a link at the one before.
    fn follow(&mut self, hash: u32, before: Found, address: Address, ordinal: u32) {
        self.index.point(before.bucket, address);
        let link = self.regions.linked(before.address);
        self.index.insert(link_hash(hash, ordinal.saturating_sub(1)), link);
    }

    fn drop_links(&mut self, links: &[Found]) {
        for link in links {
            self.regions.supersede(link.address, &link.shape);
            self.index.remove(link.bucket);
        }
    }

    /// Removes a row without a tombstone: nothing older shines through, or what does has expired or is covered by a clear.
    /// Returns the bytes of its records.
    pub(super) fn forget(&mut self, hash: u32, found: Found, newest: &Record<'_>, rules: &Rules) -> usize {
        let links = self.links(hash, &newest.place, newest.mark.ordinal);
        let values = links.iter().map(|link| &link.shape).chain([&found.shape]).filter_map(Shape::value_len);
        let value_bytes = newest.place.bytes() + values.sum::<usize>();
        let bytes = links.iter().map(|link| link.shape.len).sum::<usize>() + found.shape.len;
        self.drop_links(&links);
        self.regions.supersede(found.address, &found.shape);
        self.index.remove(found.bucket);
        self.count(hash, &newest.place, Some(value_bytes as u64), None, rules);
        bytes
    }

    /// Writes the first record of a row.
    fn insert(&mut self, hash: u32, draft: &Draft<'_>, rules: &Rules) -> Result<()> {
        // A row under a hash that restoring would not give it again could not be found then: better found out at once.
        if hash != self.hash(&draft.place) {
            return Err(Error::usage("key was located by another partitioner than the backend's"));
        }
        self.afford(self.index.growth_bytes(hash), draft.len())?;
        let address = self.regions.append(Half::Tail, draft);
        self.index.insert(hash, address);
        let length = draft.value.map_or(0, <[u8]>::len);
        self.count(hash, &draft.place, None, Some((draft.place.bytes() + length) as u64), rules);
        self.pace(draft.len(), rules);
        Ok(())
    }

    /// Writes a newer record of a row that was found, and returns its length.
    fn replace(&mut self, found: &Found, draft: &Draft<'_>) -> Result<usize> {
        self.afford(0, draft.len())?;
        let address = self.regions.append(Half::Tail, draft);
        self.regions.supersede(found.address, &found.shape);
        self.index.point(found.bucket, address);
        Ok(draft.len())
    }

    /// Refuses what the budget has no room for: `more` bytes and a tail record of `len`.
    pub(super) fn afford(&self, more: u64, len: usize) -> Result<()> {
        let needed = more + self.regions.growth_bytes(Half::Tail, len);
        self.regions.check_not_full()?;
        let budget = self.regions.budget();
        if needed == 0 || budget.has_room(needed) { Ok(()) } else { Err(budget_spent(budget)) }
    }

    /// Notes the bytes that a row has now, `None` if it has no value, and had before.
    fn count(&mut self, hash: u32, place: &Place<'_>, old: Option<u64>, new: Option<u64>, rules: &Rules) {
        self.rows = self.rows + u64::from(new.is_some()) - u64::from(old.is_some());
        self.live_bytes = self.live_bytes + new.unwrap_or(0) - old.unwrap_or(0);
        if old.is_some() == new.is_some() {
            return;
        }
        if place.sub.is_empty() {
            self.without_sub |= table_bit(place.table);
        } else if by_key(rules, place.table) {
            self.note_member(hash, place, new.is_some(), rules);
        }
    }

    /// Returns whether rows of `table` may have no sub-key.
    pub(super) fn may_lack_subs(&self, table: TableId) -> bool {
        self.without_sub & table_bit(table) != 0
    }

    /// Notes that a row with a sub-key was born or died.
    pub(super) fn note_member(&mut self, hash: u32, place: &Place<'_>, born: bool, rules: &Rules) {
        let family = self.hash(&place.with_sub(&[]));
        let budget = self.regions.budget();
        let families = self.families.get_or_insert_with(|| Box::new(Families::new(budget)));
        if born {
            let ordered = rules.table(place.table).is_some_and(|table| table.ordered);
            families.insert(family, place, hash, ordered);
        } else {
            families.remove(family, place, hash);
        }
    }

    /// Freezes the tail and hands its regions to `visit`. Returns how many rows they change.
    pub(super) fn freeze(&mut self, visit: impl FnMut(Arc<Chunk>)) -> u64 {
        let dirty_rows = self.regions.run(Half::Tail).tally.records() + self.regions.run(Half::Clears).tally.records();
        self.regions.freeze(visit);
        self.listed = false;
        dirty_rows
    }

    /// Returns how large and busy it is at the seal number `seals`, which froze so many rows.
    pub(super) fn heat(&mut self, group: KeyGroup, dirty_rows: u64, seals: u32) -> GroupHeat {
        let (reads, writes) = self.heat.at_seal(seals);
        GroupHeat { group, rows: self.rows, live_bytes: self.live_bytes, dirty_rows, reads, writes }
    }

    /// Returns the bytes of memory that it holds, without regions that only sealed parts still need.
    pub(super) fn held_bytes(&self) -> u64 {
        let regions: u64 =
            [Half::Tail, Half::Clears, Half::Frozen].iter().map(|half| self.regions.run(*half).held_bytes).sum();
        let families = self.families.as_ref().map_or(0, |families| families.held_bytes());
        self.charge.bytes() + self.index.held_bytes() + regions + families
    }
}

/// Returns the record of a row of a folded batch, as if it were the first piece of its value.
#[inline]
fn draft_of<'a>(row: &Row<'a>) -> Result<Draft<'a>> {
    let (piece, operand) = check_loadable(row)?;
    let mark = Mark { operand, ..Mark::whole(piece.version, piece.stamp) };
    Ok(Draft::exact(Place::of_stored(row), piece.bytes, mark))
}

/// Returns the bit of a table, which others may share.
fn table_bit(table: TableId) -> u64 {
    1 << (table.0 % u64::BITS)
}

/// Returns whether families have the rows of `table`.
pub(super) fn by_key(rules: &Rules, table: TableId) -> bool {
    rules.table(table).is_none_or(|table| table.by_key)
}
