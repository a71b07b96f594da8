//! One key group: a log of records, and the index of each row's newest record.
//!
//! Invariants:
//! - the index points at the newest record of every row that has one, tombstones included; a chain points at the older
//!   pieces of the row's value;
//! - a row that was created in the tail and removed there leaves no record: there is nothing older to hide;
//! - a write that the budget or an operator refuses changes nothing.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::id::TableId;
use crate::key_group::{KeyGroup, Partitioner};
use crate::memory::Charge;
use crate::row::{GroupHeat, Row, RowBatch, Rules};
use crate::time::Timestamp;

use super::super::checks::{budget_spent, check_loadable};
use super::super::heat::Heat;
use super::arena::{Arena, Frozen};
use super::chains::Chains;
use super::chunk::{Tally, subtract};
use super::demote::FrozenEarly;
use super::families::Families;
use super::fetch::Fetched;
use super::index::{Address, Bucket, Index, row_hash};
use super::pieces::value_bytes;
use super::record::{Draft, Place, Record, SHORT_HEADER_BYTES, Shape, ValueMeta};
use super::region::Section;
use super::regions::Regions;

/// A row's index entry and the record it points at, valid until the next change.
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
    /// Created with the first row that has a sub-key.
    pub(super) families: Option<Box<Families>>,
    /// Created with the first value in pieces.
    pub(super) chains: Option<Box<Chains>>,
    /// Bits of the tables that ever had a row without a sub-key: scans of other tables skip that lookup.
    tables_without_subs: u64,
    /// Rows that have a value, including expired ones that were not cleaned yet.
    pub(super) rows: u64,
    /// Bytes of their keys, namespaces, sub-keys and values.
    pub(super) live_bytes: u64,
    /// What was frozen before the seal whose delta has it.
    pub(super) early: Option<Box<FrozenEarly>>,
    /// Whether the group is in the backend's list of dirty groups.
    pub(super) in_dirty_list: bool,
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
            chains: None,
            tables_without_subs: 0,
            rows: 0,
            live_bytes: 0,
            early: None,
            in_dirty_list: false,
            heat: Heat::default(),
            partitioner,
            charge: arena.budget().charge(size_of::<Self>() as u64),
        }
    }

    /// Loads the rows of a folded batch, none of which the group has yet. They do not join the next delta.
    pub(super) fn load(&mut self, batch: &RowBatch, rules: &Rules, arena: &Arena) -> Result<()> {
        let budget = arena.budget();
        let mut left = 0;
        batch.iter().try_for_each(|row| draft_of(&row).map(|draft| left += draft.len()))?;
        let first = self.rows == 0;
        let index_bytes = if first { self.index.presized_bytes(batch.len()) } else { 0 };
        let rows_bytes = if budget.disk().is_some() { 0 } else { left as u64 };
        if !budget.has_room(rows_bytes + index_bytes) {
            return Err(budget_spent(budget));
        }
        if first {
            self.index.presize(batch.len());
        }
        for row in batch.iter() {
            let mut draft = draft_of(&row)?;
            let hash = self.hash(&draft.place);
            let (mut before, mut fetched) = (None, Fetched::default());
            if draft.meta.operand {
                self.regions.demote_loaded()?;
                fetched = self.fetch([hash])?;
                before = self.find(hash, &draft.place, &fetched);
            }
            draft.meta.ordinal = before.map_or(0, |before| self.meta(&before, &fetched).ordinal + 1);
            let address = self.regions.load(&draft, &mut left)?;
            let length = draft.capacity as u64;
            if let Some(before) = before {
                self.link_piece(hash, &draft.place, before, address, &fetched);
                self.live_bytes += length;
            } else {
                self.index.insert(hash, address);
                self.count_row(hash, &draft.place, None, Some(draft.place.bytes() as u64 + length), rules);
            }
        }
        Ok(())
    }

    /// Returns the hash of a row, computing its key's hash.
    pub(super) fn hash(&self, place: &Place<'_>) -> u32 {
        row_hash(self.key_hash(place), place)
    }

    /// Returns the hash of a row's key.
    pub(super) fn key_hash(&self, place: &Place<'_>) -> u64 {
        self.partitioner.index_hash(place.key)
    }

    /// Finds the row's index entry. What lies on disk of rows with this hash was fetched.
    #[inline]
    pub(super) fn find(&self, hash: u32, place: &Place<'_>, fetched: &Fetched) -> Option<Found> {
        self.index.hits(hash).find_map(|(bucket, address)| {
            let shape = Shape::of_row(self.regions.bytes(address, fetched), place)?;
            Some(Found { bucket, address, shape })
        })
    }

    /// As [`Group::find`], for the row's newest record and its address.
    #[inline]
    pub(super) fn find_record<'a>(
        &'a self,
        hash: u32,
        place: &Place<'_>,
        fetched: &'a Fetched,
    ) -> Option<(Address, Record<'a>)> {
        let mut newest = None;
        let (_, address) = self.index.find(hash, |address| {
            newest = Some(self.regions.record(address, fetched)).filter(|record| record.place.same_row(place));
            newest.is_some()
        })?;
        Some((address, newest?))
    }

    /// Prefetches index slots first, then records: an address is known only once its slot is cached.
    pub(super) fn prefetch(&self, hashes: impl Iterator<Item = u32> + Clone) {
        hashes.clone().for_each(|hash| self.index.search(hash).prefetch());
        let (hits, length) = (hashes.filter_map(|hash| self.index.search(hash).first_hit()), self.record_bytes());
        hits.for_each(|address| self.regions.prefetch(address, length));
    }

    /// Returns how long its records are on average, about.
    pub(super) fn record_bytes(&self) -> usize {
        let content = self.live_bytes.checked_div(self.rows).unwrap_or(0);
        usize::try_from(content).unwrap_or(usize::MAX).saturating_add(SHORT_HEADER_BYTES)
    }

    /// Returns the value of a found row; in `buffer` if it differs from the stored bytes.
    #[inline]
    pub(super) fn value<'a>(
        &'a self,
        hash: u32,
        table: TableId,
        found: &Found,
        rules: &Rules,
        (buffer, fetched): (&'a mut Vec<u8>, &'a Fetched),
    ) -> Result<Option<&'a [u8]>> {
        if found.shape.is_plain() && rules.plain(table) {
            return Ok(found.shape.value(self.regions.bytes(found.address, fetched)));
        }
        self.value_of(hash, &self.regions.record(found.address, fetched), rules, (buffer, fetched))
    }

    /// Returns the value of the row with this newest record; in `buffer` if it differs from the stored bytes.
    pub(super) fn value_of<'a>(
        &'a self,
        hash: u32,
        record: &Record<'a>,
        rules: &Rules,
        (buffer, fetched): (&'a mut Vec<u8>, &'a Fetched),
    ) -> Result<Option<&'a [u8]>> {
        let Some(piece) = record.piece() else { return Ok(None) };
        let table = match rules.table(record.place.table) {
            None if !record.meta.is_chained() => return Ok(Some(piece.bytes)),
            // The caller adds the table: only it knows the id behind the slot.
            None => return Err(Error::usage("table has no merge operator")),
            Some(table) if !record.meta.is_chained() && piece.version == table.version => {
                return Ok((!table.expired(piece.stamp, rules.now(table))).then_some(piece.bytes));
            }
            Some(table) => table,
        };
        buffer.clear();
        let there = table.resolve(self.pieces(hash, record, fetched), rules.now(table), buffer)?;
        Ok(there.then_some(buffer))
    }

    /// Returns the stamp of a row's newest record.
    pub(super) fn stamp(&self, address: Address, fetched: &Fetched) -> Option<Timestamp> {
        self.regions.record(address, fetched).meta.stamp
    }

    /// Sets the row's whole value; `None` removes it. `found` is its present entry.
    pub(super) fn set(
        &mut self,
        hash: u32,
        place: &Place<'_>,
        (found, fetched): (Option<Found>, &Fetched),
        value: Option<&[u8]>,
        rules: &Rules,
    ) -> Result<()> {
        let (version, stamp) = rules.mark(place.table);
        let meta = ValueMeta::whole(version, stamp);
        let Some(found) = found else {
            return value.map_or(Ok(()), |value| self.insert(hash, &Draft::exact(*place, value, meta), rules));
        };
        let shape = found.shape;
        if shape.is_tombstone() && value.is_none() {
            return Ok(());
        }
        let old_meta = self.meta(&found, fetched);
        let mut old_bytes = shape.value_len().map(|length| (place.bytes() + length) as u64);
        let in_tail = self.regions.section(found.address) == Section::Tail;
        let fits =
            in_tail && old_meta.can_be_overwritten_by(&meta) && value.is_none_or(|value| value.len() <= shape.capacity);
        let mut older = !in_tail || shape.has_older();
        let older_pieces = if old_meta.is_chained() { self.older_shapes(hash, place, fetched) } else { Vec::new() };
        let dropped: usize = older_pieces.iter().map(|(_, shape)| shape.len).sum();
        older |= older_pieces
            .iter()
            .any(|(piece, shape)| self.regions.section(piece.address) != Section::Tail || shape.has_older());
        old_bytes = old_bytes.map(|bytes| bytes + value_bytes(&older_pieces));
        let churn = if value.is_none() && !older {
            self.drop_older(hash, &older_pieces);
            self.regions.supersede(found.address, &shape);
            self.index.remove(found.bucket);
            self.index.trim_at(found.bucket);
            shape.len + dropped
        } else if fits {
            self.drop_older(hash, &older_pieces);
            self.regions.rewrite(found.address, &shape, value, stamp);
            dropped
        } else {
            // A value that grew since the last seal may grow again. With spare bytes, the bytes of all its records
            // together stay proportional to the last one.
            let length = value.map_or(0, <[u8]>::len);
            let capacity = if in_tail { length + length / 4 } else { length };
            let draft = match value {
                Some(_) => Draft { place: *place, value, capacity, older, meta },
                None => Draft::without_value(*place, older),
            };
            let written = self.replace(&found, &draft)?;
            self.drop_older(hash, &older_pieces);
            shape.len + dropped + written
        };
        let bytes = value.map(|value| (place.bytes() + value.len()) as u64);
        self.count_row(hash, place, old_bytes, bytes, rules);
        self.maintain(churn, rules);
        Ok(())
    }

    /// Returns the metadata of a found record.
    #[inline]
    pub(super) fn meta(&self, found: &Found, fetched: &Fetched) -> ValueMeta {
        if found.shape.is_plain() { ValueMeta::PLAIN } else { self.regions.record(found.address, fetched).meta }
    }

    /// Removes a row without a tombstone: no older record needs hiding, as there is none, or it has expired, or a clear
    /// covers it. Returns the bytes of the row's records.
    pub(super) fn remove_row(
        &mut self,
        hash: u32,
        (found, fetched): (Found, &Fetched),
        newest: &Record<'_>,
        rules: &Rules,
    ) -> usize {
        let is_chained = newest.meta.is_chained();
        let older_pieces = if is_chained { self.older_shapes(hash, &newest.place, fetched) } else { Vec::new() };
        let own_bytes = newest.place.bytes() + newest.value().map_or(0, <[u8]>::len);
        let bytes = older_pieces.iter().map(|(_, shape)| shape.len).sum::<usize>() + found.shape.len;
        self.drop_older(hash, &older_pieces);
        self.regions.supersede(found.address, &found.shape);
        self.index.remove(found.bucket);
        self.count_row(hash, &newest.place, Some(own_bytes as u64 + value_bytes(&older_pieces)), None, rules);
        bytes
    }

    /// Writes the first record of a row.
    fn insert(&mut self, hash: u32, draft: &Draft<'_>, rules: &Rules) -> Result<()> {
        // Restore computes hashes from keys: under any other hash, the row would be lost then. Refuse it now.
        if hash != self.hash(&draft.place) {
            return Err(Error::usage("key was located by another partitioner than the backend's"));
        }
        self.check_budget(self.index.growth_bytes(hash), draft.len())?;
        let address = self.regions.append(Section::Tail, draft);
        self.index.insert(hash, address);
        let length = draft.value.map_or(0, <[u8]>::len);
        self.count_row(hash, &draft.place, None, Some((draft.place.bytes() + length) as u64), rules);
        self.maintain(draft.len(), rules);
        Ok(())
    }

    /// Writes a newer record of a found row; returns its length.
    pub(super) fn replace(&mut self, found: &Found, draft: &Draft<'_>) -> Result<usize> {
        self.check_budget(0, draft.len())?;
        let address = self.regions.append(Section::Tail, draft);
        self.regions.supersede(found.address, &found.shape);
        self.index.point(found.bucket, address);
        Ok(draft.len())
    }

    /// Returns `Limit` if the budget has no room for `more` bytes and a tail record of `len`.
    pub(super) fn check_budget(&self, more: u64, len: usize) -> Result<()> {
        let needed = more + self.regions.growth_bytes(Section::Tail, len);
        self.regions.check_not_full()?;
        let budget = self.regions.budget();
        if needed == 0 || budget.has_room(needed) { Ok(()) } else { Err(budget_spent(budget)) }
    }

    /// Updates counts and families after a row's bytes changed from `old` to `new`; `None` means that it has no value.
    pub(super) fn count_row(
        &mut self,
        hash: u32,
        place: &Place<'_>,
        old: Option<u64>,
        new: Option<u64>,
        rules: &Rules,
    ) {
        self.rows = subtract(self.rows + u64::from(new.is_some()), u64::from(old.is_some()));
        self.live_bytes = subtract(self.live_bytes + new.unwrap_or(0), old.unwrap_or(0));
        if old.is_some() == new.is_some() {
            return;
        }
        if place.sub.is_empty() {
            self.tables_without_subs |= table_bit(place.table);
        } else if has_families(rules, place.table) {
            self.note_member(hash, place, new.is_some(), rules);
        }
    }

    /// Returns whether `table` may have rows without sub-keys.
    pub(super) fn may_have_rows_without_subs(&self, table: TableId) -> bool {
        self.tables_without_subs & table_bit(table) != 0
    }

    /// Updates the families after a row with a sub-key gained or lost its value.
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

    /// Freezes the tail and passes its regions, and those frozen early, to `visit`. Returns the number of changed rows; one
    /// that was frozen early and changed again counts twice.
    pub(super) fn freeze(&mut self, mut visit: impl FnMut(Arc<Frozen>)) -> u64 {
        let mut dirty_rows = self.unsealed().records();
        if let Some(early) = self.early.take() {
            dirty_rows += early.rows;
            early.regions.into_iter().for_each(&mut visit);
        }
        self.regions.freeze(visit);
        self.in_dirty_list = false;
        dirty_rows
    }

    /// Returns the records of the tail and its clears.
    pub(super) fn unsealed(&self) -> Tally {
        let mut tally = self.regions.run(Section::Tail).tally;
        tally.add(&self.regions.run(Section::Clears).tally);
        tally
    }

    /// Returns the group's size and use at seal number `seals`, which froze `dirty_rows`.
    pub(super) fn heat(&mut self, group: KeyGroup, dirty_rows: u64, seals: u32) -> GroupHeat {
        let (reads, writes) = self.heat.at_seal(seals);
        GroupHeat { group, rows: self.rows, live_bytes: self.live_bytes, dirty_rows, reads, writes }
    }

    /// Returns the bytes of memory held, without regions that only sealed parts still share.
    pub(super) fn held_bytes(&self) -> u64 {
        let regions: u64 = [Section::Tail, Section::Clears, Section::Frozen, Section::Disk]
            .iter()
            .map(|section| self.regions.run(*section).held_bytes)
            .sum();
        let families = self.families.as_ref().map_or(0, |families| families.held_bytes());
        let chains = self.chains.as_ref().map_or(0, |chains| chains.held_bytes());
        self.charge.bytes() + self.index.held_bytes() + regions + families + chains
    }
}

/// Returns the draft of a loaded row, as the first piece of its value.
#[inline]
pub(super) fn draft_of<'a>(row: &Row<'a>) -> Result<Draft<'a>> {
    let (piece, operand) = check_loadable(row)?;
    let meta = ValueMeta { operand, ..ValueMeta::whole(piece.version, piece.stamp) };
    Ok(Draft::exact(Place::of_stored(row), piece.bytes, meta))
}

/// Returns a table's bit, which other tables may share.
fn table_bit(table: TableId) -> u64 {
    1 << (table.0 % u64::BITS)
}

/// Returns whether the rows of `table` have families.
pub(super) fn has_families(rules: &Rules, table: TableId) -> bool {
    rules.table(table).is_none_or(|table| table.by_key)
}
