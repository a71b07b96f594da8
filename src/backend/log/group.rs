//! One key group: a log of records and the index of the newest of each row.
//!
//! Invariants:
//! - the index points at the newest record of every row that has one, tombstones included;
//! - a row that was born in the tail and removed there leaves no record: nothing older can shine through;
//! - a write that the budget refuses has changed nothing.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::id::TableId;
use crate::key_group::{KeyGroup, Partitioner};
use crate::memory::{Charge, MemoryBudget};
use crate::segment::RowBatch;

use super::super::{Entry, budget_spent, check_loadable};
use super::index::{Address, Bucket, Index, row_hash};
use super::record::{Draft, Place};
use super::region::{Chunk, Half, Regions};

/// A row's entry in the index and what it points at, valid until the next change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    bucket: Bucket,
    address: Address,
}

/// The state of one key group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) index: Index,
    pub(super) regions: Regions,
    /// Rows that have a value.
    pub(super) rows: u64,
    /// Bytes of their keys, namespaces, sub-keys and values.
    pub(super) live_bytes: u64,
    /// Whether the backend's list of dirty groups has it.
    pub(super) listed: bool,
    partitioner: Partitioner,
    charge: Charge,
}

impl Group {
    pub(super) fn new(partitioner: Partitioner, budget: &MemoryBudget) -> Self {
        Self {
            index: Index::new(budget),
            regions: Regions::new(budget),
            rows: 0,
            live_bytes: 0,
            listed: false,
            partitioner,
            charge: budget.charge(size_of::<Self>() as u64),
        }
    }

    /// Returns a group of the rows of a folded batch, as a clean log that is not part of the next delta.
    pub(super) fn load(batch: &RowBatch, partitioner: Partitioner, budget: &MemoryBudget) -> Result<Self> {
        let mut group = Self::new(partitioner, budget);
        let mut bytes = 0;
        for row in batch.iter() {
            bytes += Draft::exact(Place::of_stored(&row), check_loadable(&row)?.0.bytes).len();
        }
        if !budget.has_room(bytes as u64 + group.index.growth_bytes(batch.len())) {
            return Err(budget_spent(budget));
        }
        group.regions.presize(Half::Frozen, bytes);
        group.index.reserve(batch.len());
        for row in batch.iter() {
            let draft = Draft::exact(Place::of_stored(&row), row.op.payload());
            let address = group.regions.append(Half::Frozen, &draft);
            group.index.insert(group.hash(&draft.place), address);
            group.count(&draft.place, None, draft.value);
        }
        Ok(group)
    }

    /// Returns the hash of a row whose key's hash is not at hand.
    pub(super) fn hash(&self, place: &Place<'_>) -> u32 {
        row_hash(self.partitioner.index_hash(place.key), place)
    }

    /// Returns the row's entry.
    pub(super) fn find(&self, hash: u32, place: &Place<'_>) -> Option<Found> {
        let is_it = |address| self.regions.record(address).is_some_and(|record| record.place.same_row(place));
        let (bucket, address) = self.index.find(hash, is_it)?;
        Some(Found { bucket, address })
    }

    /// Returns the value of a row that was found.
    pub(super) fn value(&self, found: Found) -> Option<&[u8]> {
        self.regions.record(found.address)?.value()
    }

    /// Gives the row a value, or none; `found` is its present entry.
    pub(super) fn set(
        &mut self,
        hash: u32,
        place: &Place<'_>,
        found: Option<Found>,
        value: Option<&[u8]>,
    ) -> Result<()> {
        let Some((found, old)) = found.and_then(|found| Some((found, self.regions.record(found.address)?))) else {
            return value.map_or(Ok(()), |value| self.insert(hash, &Draft::exact(*place, value)));
        };
        let (old_len, old_bytes) = (old.len, old.value().map(|_| old.row_bytes()));
        if old_bytes.is_none() && value.is_none() {
            return Ok(());
        }
        let in_tail = self.regions.half(found.address) == Half::Tail;
        let older = !in_tail || old.has_older();
        let fits = in_tail && value.is_none_or(|value| value.len() <= old.capacity);
        let churn = if value.is_none() && !older {
            self.regions.supersede(found.address);
            self.index.remove(found.bucket);
            self.index.trim();
            old_len
        } else if fits {
            self.regions.rewrite(found.address, value);
            0
        } else {
            // A value that grew since the last seal may grow on: with spare bytes, all its records together stay in
            // proportion to the last.
            let length = value.map_or(0, <[u8]>::len);
            let capacity = if in_tail { length + length / 4 } else { length };
            old_len + self.replace(found, &Draft { place: *place, value, capacity, older })?
        };
        self.count(place, old_bytes, value);
        self.pace(churn);
        Ok(())
    }

    /// Writes the first record of a row.
    fn insert(&mut self, hash: u32, draft: &Draft<'_>) -> Result<()> {
        // A row under a hash that restoring would not give it again could not be found then: better found out at once.
        if hash != self.hash(&draft.place) {
            return Err(Error::usage("key was located by another partitioner than the backend's"));
        }
        self.afford(self.index.growth_bytes(1), draft.len())?;
        let address = self.regions.append(Half::Tail, draft);
        self.index.insert(hash, address);
        self.count(&draft.place, None, draft.value);
        self.pace(draft.len());
        Ok(())
    }

    /// Writes a newer record of a row that was found, and returns its length.
    fn replace(&mut self, found: Found, draft: &Draft<'_>) -> Result<usize> {
        self.afford(0, draft.len())?;
        let address = self.regions.append(Half::Tail, draft);
        self.regions.supersede(found.address);
        self.index.point(found.bucket, address);
        Ok(draft.len())
    }

    /// Refuses what the budget has no room for: `more` bytes and a tail record of `len`.
    fn afford(&self, more: u64, len: usize) -> Result<()> {
        let needed = more + self.regions.growth_bytes(Half::Tail, len);
        let budget = self.regions.budget();
        if needed == 0 || budget.has_room(needed) { Ok(()) } else { Err(budget_spent(budget)) }
    }

    fn count(&mut self, place: &Place<'_>, old_bytes: Option<u64>, value: Option<&[u8]>) {
        if let Some(bytes) = old_bytes {
            self.rows -= 1;
            self.live_bytes -= bytes;
        }
        if let Some(value) = value {
            self.rows += 1;
            self.live_bytes += (place.bytes() + value.len()) as u64;
        }
    }

    /// Visits the live rows of a table until `visit` returns false; returns whether it never did.
    pub(super) fn scan(
        &self,
        group: KeyGroup,
        table: TableId,
        prefix: &[u8],
        visit: &mut impl FnMut(Entry<'_>) -> bool,
    ) -> bool {
        let mut records = self.index.addresses().filter_map(|address| self.regions.record(address));
        records.all(|record| {
            let Place { table: of, key, namespace, sub, routing } = record.place;
            match record.value() {
                Some(value) if of == table && key.starts_with(prefix) => {
                    visit(Entry { group, key, namespace, sub, value, routing })
                }
                _ => true,
            }
        })
    }

    /// Freezes the tail and hands its regions to `visit`. Returns how many rows they change.
    pub(super) fn freeze(&mut self, visit: impl FnMut(Arc<Chunk>)) -> u64 {
        let dirty_rows = self.regions.run(Half::Tail).tally.records();
        self.regions.freeze(visit);
        self.listed = false;
        dirty_rows
    }

    /// Returns the bytes of memory that it holds, without regions that only sealed parts still need.
    pub(super) fn held_bytes(&self) -> u64 {
        let regions = self.regions.run(Half::Tail).held_bytes + self.regions.run(Half::Frozen).held_bytes;
        self.charge.bytes() + self.index.held_bytes() + regions
    }
}
