//! One key group: a log of records and the index of the newest of each row.
//!
//! Invariants:
//! - the index points at the newest record of every row that has one, tombstones included; the older pieces of its value
//!   stand in its chain;
//! - a row that was born in the tail and removed there leaves no record: nothing older can shine through;
//! - a write that the budget or an operator refuses has changed nothing.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::id::TableId;
use crate::key_group::{KeyGroup, Partitioner};
use crate::memory::Charge;
use crate::row::{GroupHeat, Row, RowBatch, Rules};
use crate::time::Timestamp;

use super::super::heat::Heat;
use super::super::{budget_spent, check_loadable};
use super::arena::Arena;
use super::chains::Chains;
use super::chunk::{Chunk, less};
use super::families::Families;
use super::index::{Address, Bucket, Index, row_hash};
use super::pieces::sum;
use super::record::{Draft, Mark, Place, Record, Shape};
use super::region::{Half, Regions};

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
    /// Made with the first value in pieces.
    pub(super) chains: Option<Box<Chains>>,
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
            chains: None,
            without_sub: 0,
            rows: 0,
            live_bytes: 0,
            listed: false,
            heat: Heat::default(),
            partitioner,
            charge: arena.budget().charge(size_of::<Self>() as u64),
        }
    }

    /// Adds the rows of a folded batch, of places that it has none of, to a clean log; they are not part of the next delta.
    pub(super) fn load(&mut self, batch: &RowBatch, rules: &Rules, arena: &Arena) -> Result<()> {
        let budget = arena.budget();
        let mut left = 0;
        batch.iter().try_for_each(|row| draft_of(&row).map(|draft| left += draft.len()))?;
        let first = self.rows == 0;
        let index_bytes = if first { Index::presized_bytes(batch.len()) } else { 0 };
        if !budget.has_room(left as u64 + index_bytes) {
            return Err(budget_spent(budget));
        }
        if first {
            self.index.presize(batch.len());
        }
        for row in batch.iter() {
            let mut draft = draft_of(&row)?;
            let hash = self.hash(&draft.place);
            let before = if draft.mark.operand { self.find(hash, &draft.place) } else { None };
            draft.mark.ordinal = before.map_or(0, |before| self.mark(&before).ordinal + 1);
            let address = self.regions.load(&draft, &mut left)?;
            let length = draft.capacity as u64;
            if let Some(before) = before {
                self.follow(hash, &draft.place, before, address);
                self.live_bytes += length;
            } else {
                self.index.insert(hash, address);
                self.count(hash, &draft.place, None, Some(draft.place.bytes() as u64 + length), rules);
            }
        }
        Ok(())
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
    #[inline]
    pub(super) fn find(&self, hash: u32, place: &Place<'_>) -> Option<Found> {
        let mut shape = None;
        let (bucket, address) = self.index.find(hash, |address| {
            let record = self.regions.record(address);
            shape = record.place.same_row(place).then_some(record.shape);
            shape.is_some()
        })?;
        Some(Found { bucket, address, shape: shape? })
    }

    /// Returns the row's newest record and where it lies.
    #[inline]
    pub(super) fn find_record(&self, hash: u32, place: &Place<'_>) -> Option<(Address, Record<'_>)> {
        let mut newest = None;
        let (_, address) = self.index.find(hash, |address| {
            newest = Some(self.regions.record(address)).filter(|record| record.place.same_row(place));
            newest.is_some()
        })?;
        Some((address, newest?))
    }

    /// Asks for index slots first, and for records once slots are there.
    pub(super) fn prefetch(&self, hashes: impl Iterator<Item = u32> + Clone) {
        hashes.clone().for_each(|hash| self.index.prefetch(hash));
        hashes.filter_map(|hash| self.index.first(hash)).for_each(|address| self.regions.prefetch(address));
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
        self.value_of(hash, &self.regions.record(found.address), rules, buffer)
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
            None if !record.mark.is_chained() => return Ok(Some(piece.bytes)),
            // The caller knows the table by its id.
            None => return Err(Error::usage("table has no merge operator")),
            Some(table) if !record.mark.is_chained() && piece.version == table.version => {
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
        self.regions.record(address).mark.stamp
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
        let links = if old_mark.is_chained() { self.link_shapes(hash, place) } else { Vec::new() };
        let dropped: usize = links.iter().map(|(_, shape)| shape.len).sum();
        older |= links.iter().any(|(link, shape)| self.regions.half(link.address) != Half::Tail || shape.has_older());
        old_bytes = old_bytes.map(|bytes| bytes + sum(&links));
        let churn = if value.is_none() && !older {
            self.drop_links(hash, &links);
            self.regions.supersede(found.address, &shape);
            self.index.remove(found.bucket);
            self.index.trim_at(found.bucket);
            shape.len + dropped
        } else if fits {
            self.drop_links(hash, &links);
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
            self.drop_links(hash, &links);
            shape.len + dropped + written
        };
        let bytes = value.map(|value| (place.bytes() + value.len()) as u64);
        self.count(hash, place, old_bytes, bytes, rules);
        self.pace(churn, rules);
        Ok(())
    }

    /// Returns the mark of a record that was found.
    #[inline]
    pub(super) fn mark(&self, found: &Found) -> Mark {
        if found.shape.is_plain() { Mark::PLAIN } else { self.regions.record(found.address).mark }
    }

    /// Removes a row without a tombstone: nothing older shines through, or what does has expired or is covered by a clear.
    /// Returns the bytes of its records.
    pub(super) fn forget(&mut self, hash: u32, found: Found, newest: &Record<'_>, rules: &Rules) -> usize {
        let links = if newest.mark.is_chained() { self.link_shapes(hash, &newest.place) } else { Vec::new() };
        let own_bytes = newest.place.bytes() + newest.value().map_or(0, <[u8]>::len);
        let bytes = links.iter().map(|(_, shape)| shape.len).sum::<usize>() + found.shape.len;
        self.drop_links(hash, &links);
        self.regions.supersede(found.address, &found.shape);
        self.index.remove(found.bucket);
        self.count(hash, &newest.place, Some(own_bytes as u64 + sum(&links)), None, rules);
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
    pub(super) fn replace(&mut self, found: &Found, draft: &Draft<'_>) -> Result<usize> {
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
        self.rows = less(self.rows + u64::from(new.is_some()), u64::from(old.is_some()));
        self.live_bytes = less(self.live_bytes + new.unwrap_or(0), old.unwrap_or(0));
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
        let chains = self.chains.as_ref().map_or(0, |chains| chains.held_bytes());
        self.charge.bytes() + self.index.held_bytes() + regions + families + chains
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
