//! The cleaner: copies live records out of old regions and gives their memory back.
//!
//! It goes through each section of a group's log in order, the oldest region first. A region of only live records moves
//! to the end of the order; from any other the survivors are copied, and the region leaves the log. An older piece of a
//! value takes all newer pieces with it, as it would otherwise end up behind them.
//!
//! Invariants:
//! - survivors of the frozen section go to clean regions, which are in no delta: the delta that they were written in
//!   already has them. Survivors of the tail stay in the tail;
//! - a row whose newest record lies in the oldest frozen region has no other record. So the region's survivors may
//!   stand anywhere in the order, and its tombstones hide nothing and are dropped;
//! - the pieces of a value keep their order, and the first one moved in the frozen section becomes a whole value: it
//!   hides copies of the others that sealed parts still share;
//! - a section is cleaned while it holds more than its live bytes, a quarter of them and `SLACK_BYTES`. Every byte that
//!   is written or becomes garbage pays for going through `RATE` bytes. So **each section of a group holds at most 4
//!   times the bytes of the records that the index points at, plus 136 KiB**, after every write.

use super::arena::Chunk;
use super::chains::PieceRef;
use super::chunk::offset;
use super::group::{Found, Group};
use super::index::{Address, Bucket};
use super::record::{Record, Shape};
use super::region::{REGION_OVERHEAD_BYTES, Region, Run, Section};
use super::regions::Regions;
use crate::error::broken;
use crate::key_group::KeyGroup;
use crate::row::Rules;

/// Garbage that a section may hold, as a share of its live bytes: with less, survivors would be copied too often.
const GARBAGE_DIVISOR: u64 = 4;

/// Garbage that a section may hold beyond that share.
const SLACK_BYTES: u64 = 4 * 1024;

/// Bytes of regions to go through for each byte that was written or became garbage.
pub(super) const RATE: u64 = 8;

/// The constant of the bound: one region being filled while another is being emptied, and the slack.
#[cfg(test)]
pub(super) const BOUND_BYTES: u64 = 2 * super::region::REGION_BYTES as u64 + 2 * SLACK_BYTES;

/// Records whose index slots are prefetched at once.
const PREFETCHED_RECORDS: usize = 32;

/// The cost of moving a region to the end of the order or dropping an empty one, in bytes gone through.
pub(super) const STEP_BYTES: u64 = 512;

/// Bytes of regions to go through for a write that the budget refused.
const RECLAIM_BYTES: u64 = 1024 * 1024;

impl Run {
    /// Returns the bytes that cleaning would keep.
    fn live_bytes(&self, section: Section) -> u64 {
        match section {
            Section::Tail | Section::Clears => self.tally.bytes(),
            Section::Frozen => self.tally.put_bytes,
        }
    }
}

impl Regions {
    /// Returns whether a section holds too much garbage. Spare bytes of the open region do not count: further records
    /// fill them.
    fn needs_cleaning(&self, section: Section) -> bool {
        let run = self.run(section);
        let spare = run.open.map_or(0, |id| self.region(id).chunk().spare_bytes());
        let live = run.live_bytes(section);
        run.held_bytes - spare > live + live / GARBAGE_DIVISOR + SLACK_BYTES
    }
}

impl Region {
    /// Returns whether the region can stay as it is: all its records are live, and they fill at least half of it.
    fn is_clean(&self, section: Section) -> bool {
        let droppable = section == Section::Frozen && self.notes.tally.tombstones > 0;
        self.is_all_referenced()
            && !droppable
            && !self.notes.has_older_pieces
            && self.chunk().held_bytes() <= 2 * self.notes.tally.bytes()
    }

    /// Returns the bytes that one step of cleaning goes through.
    fn cost(&self, section: Section) -> u64 {
        if self.notes.tally.records() == 0 || self.is_clean(section) { STEP_BYTES } else { self.chunk().held_bytes() }
    }
}

/// What points at a record.
#[derive(Debug, Clone, Copy)]
pub(super) enum Referrer {
    /// The index points at it: it is its row's newest.
    Index(Bucket),
    /// Its row's chain points at it: it is an older piece.
    Chain,
}

impl Group {
    /// Expires, joins and cleans as much as `churn` pays for: bytes written or turned into garbage.
    pub(super) fn maintain(&mut self, churn: usize, rules: &Rules) {
        if churn == 0 {
            return;
        }
        if rules.expire() {
            self.evict_expired(churn as u64, rules);
        }
        self.join_small(churn as u64, rules);
        for section in [Section::Tail, Section::Frozen] {
            if !self.regions.needs_cleaning(section) {
                self.regions.run_mut(section).credit = 0;
                continue;
            }
            let mut credit = self.regions.run(section).credit + RATE * churn as u64;
            while self.regions.needs_cleaning(section) {
                let movable = self.oldest(section).filter(|region| self.can_move(region));
                let Some(rest) = movable.and_then(|region| credit.checked_sub(region.cost(section))) else { break };
                credit = rest.saturating_sub(self.clean_oldest(section, rules));
            }
            self.regions.run_mut(section).credit = credit;
        }
    }

    /// Goes through as many bytes of frozen regions as `churn`, round-robin, and removes expired records from the index
    /// and the chains. Their bytes are then garbage like any other.
    fn evict_expired(&mut self, churn: u64, rules: &Rules) {
        let frozen = self.regions.run_mut(Section::Frozen);
        frozen.expiry_credit = (frozen.expiry_credit + churn).min(frozen.held_bytes);
        for _ in 0..self.regions.issued() {
            let next = self.regions.next_to_expire();
            let Some(region) = self.regions.frozen_at(next) else { continue };
            let frozen = self.regions.run(Section::Frozen);
            let Some(rest) = frozen.expiry_credit.checked_sub(region.chunk().held_bytes()) else {
                self.regions.retry_expiry(next);
                break;
            };
            let stale = region.chunk().records().filter(|(_, record)| has_expired(record, rules));
            let stale: Vec<_> = stale.map(|(offset, record)| (Address::new(next, offset), record.encode())).collect();
            self.regions.run_mut(Section::Frozen).expiry_credit = rest;
            for (here, bytes) in stale {
                let record = parse_copy(&bytes);
                let hash = self.hash(&record.place);
                if let Some(referrer) = self.referrer_of(hash, here, Some(record.meta.ordinal)) {
                    self.expire(hash, referrer, here, &record, rules);
                }
            }
        }
    }

    /// Removes an expired record from the log: its row, or one piece of a value whose newer pieces live on.
    fn expire(&mut self, hash: u32, referrer: Referrer, here: Address, record: &Record<'_>, rules: &Rules) {
        match referrer {
            Referrer::Chain => {
                self.drop_older_piece(hash, PieceRef { ordinal: record.meta.ordinal, address: here }, record.shape)
            }
            Referrer::Index(bucket) => {
                let found = Found { bucket, address: here, shape: record.shape };
                self.remove_row(hash, found, record, rules);
            }
        }
    }

    /// Cleans while an eighth of a section is garbage and `work` is left, in bytes gone through. Stops at a region that
    /// a sealed part pins: copying its survivors would free nothing.
    pub(super) fn squeeze(&mut self, work: &mut u64, rules: &Rules) {
        for section in [Section::Tail, Section::Frozen] {
            for _ in 0..self.regions.run(section).order.len() {
                let run = self.regions.run(section);
                if run.live_bytes(section) >= run.held_bytes - run.held_bytes / 8 {
                    break;
                }
                let unpinned = self.oldest(section).filter(|region| !region.is_pinned());
                let Some(rest) = unpinned.and_then(|region| work.checked_sub(region.cost(section))) else { break };
                *work = rest.saturating_sub(self.clean_oldest(section, rules));
            }
        }
    }

    /// Returns whether the region's survivors can be copied: if a sealed part pins the region, the budget needs room
    /// for both.
    fn can_move(&self, region: &Region) -> bool {
        !region.is_pinned() || self.regions.budget().has_room(region.notes.tally.bytes() + REGION_OVERHEAD_BYTES)
    }

    fn oldest(&self, section: Section) -> Option<&Region> {
        self.regions.run(section).order.front().map(|id| self.regions.region(*id))
    }

    /// Takes one step: moves the oldest region to the end, or its survivors out of it. Returns the bytes of values
    /// moved; most may lie in other regions.
    fn clean_oldest(&mut self, section: Section, rules: &Rules) -> u64 {
        if self.oldest(section).is_some_and(|region| region.is_clean(section)) {
            self.regions.run_mut(section).order.rotate_left(1);
            return 0;
        }
        let moved = self.move_values(section, rules);
        let Some((id, region)) = self.regions.take_oldest(section) else { broken("a section has a region to clean") };
        let mut left = region.notes.tally.records();
        let (mut window, mut next) = (Vec::with_capacity(PREFETCHED_RECORDS), 0);
        while left > 0 {
            next = self.look_ahead(region.chunk(), next, &mut window);
            if window.is_empty() {
                broken("a region has the records that its tally counts");
            }
            for (offset, hash, shape) in window.drain(..) {
                left -= u64::from(self.keep_or_drop(section, &region, Address::new(id, offset), hash, &shape, rules));
            }
        }
        self.regions.release(id);
        self.index.trim();
        moved
    }

    /// Adds the next records of a chunk to a window, from byte `next` on, and prefetches their index slots. Skips dead
    /// ones. Returns where the records behind them begin.
    fn look_ahead(&self, chunk: &Chunk, mut next: usize, window: &mut Vec<(u32, u32, Shape)>) -> usize {
        while window.len() < PREFETCHED_RECORDS && next < chunk.len() {
            let offset = offset(next);
            let Record { shape, place, .. } = chunk.record(offset);
            chunk.read_ahead(next..next + shape.len);
            next += shape.len;
            if !shape.is_dead() {
                let hash = self.hash(&place);
                self.index.search(hash).prefetch();
                window.push((offset, hash, shape));
            }
        }
        next
    }

    /// Copies the record at `here` in `region` to the end of its section, or drops it if it is no longer needed.
    /// Returns whether the index pointed at it. Parses no record again, where its shape will do.
    fn keep_or_drop(
        &mut self,
        section: Section,
        region: &Region,
        here: Address,
        hash: u32,
        shape: &Shape,
        rules: &Rules,
    ) -> bool {
        let record = || region.chunk().record(here.offset());
        let bucket = match self.referrer_of(hash, here, region.notes.has_older_pieces.then(|| record().meta.ordinal)) {
            Some(Referrer::Index(bucket)) => bucket,
            Some(Referrer::Chain) => broken("older pieces leave a region before it is removed"),
            None => return false,
        };
        if section == Section::Frozen && shape.is_tombstone() {
            self.index.remove(bucket);
        } else if section == Section::Frozen && rules.expire() && has_expired(&record(), rules) {
            // Older segments may have the row, but with an older stamp: it has expired there too.
            self.expire(hash, Referrer::Index(bucket), here, &record(), rules);
        } else {
            let address = match shape.is_compact() {
                true => self.regions.append_copy(section, shape, region.chunk().bytes_of(here.offset(), shape)),
                false => self.regions.append(section, &record().copy()),
            };
            self.index.point(bucket, address);
        }
        true
    }

    /// Moves values that have an older piece in the oldest region to the end of their section; returns their bytes.
    fn move_values(&mut self, section: Section, rules: &Rules) -> u64 {
        let Some(&id) = self.regions.run(section).order.front() else { return 0 };
        let region = self.regions.region(id);
        if !region.notes.has_older_pieces {
            return 0;
        }
        let is_older_piece = |offset, record: &Record<'_>| {
            let ordinal = Some(record.meta.ordinal);
            let referrer = self.referrer_of(self.hash(&record.place), Address::new(id, offset), ordinal);
            matches!(referrer, Some(Referrer::Chain))
        };
        let pieces = region
            .chunk()
            .records()
            .filter(|(offset, record)| !record.shape.is_dead() && is_older_piece(*offset, record));
        let pieces: Vec<_> = pieces.map(|(_, record)| record.encode()).collect();
        // Close the region first, or the pieces might be appended to it again.
        self.regions.close(section, id);
        pieces.iter().map(|bytes| self.move_value(section, id, &parse_copy(bytes), rules)).sum()
    }

    /// Copies all pieces of a row's value in `section`, folded and in order, to its end. Does nothing if an earlier
    /// call has already moved the value out of `region`. Returns the bytes copied.
    fn move_value(&mut self, section: Section, region: u32, piece: &Record<'_>, rules: &Rules) -> u64 {
        let hash = self.hash(&piece.place);
        let Some(newest) = self.find(hash, &piece.place) else { broken("a row in pieces has a newest piece") };
        let newest_record = self.regions.record(newest.address);
        let was_chained = newest_record.meta.is_chained();
        let all = self.piece_refs(hash, newest.address, &newest_record);
        let pieces: Vec<_> = all.filter(|piece| self.regions.section(piece.address) == section).collect();
        if pieces.iter().all(|piece| piece.address.region() != region) {
            return 0;
        }
        let mut moved = 0;
        for (at, folded) in self.fold(&pieces, rules).iter().enumerate() {
            let is_newest = folded.last().address == newest.address;
            // In the frozen section nothing precedes the first piece: older ones have left with the regions before.
            let has_older = section == Section::Tail || at > 0;
            let draft = folded.draft(folded.operand && has_older, !is_newest || (was_chained && has_older));
            self.regions.open_at_end(section);
            let copy = self.regions.append(section, &draft);
            folded.from.iter().for_each(|(piece, shape)| self.regions.supersede(piece.address, shape));
            self.replace_folded(hash, folded, is_newest.then_some(newest.bucket), copy);
            moved += draft.len() as u64;
        }
        moved
    }

    /// Returns what points at the record at `here`, whose row has this hash.
    ///
    /// * `ordinal`: the record's, to search the chains, too.
    pub(super) fn referrer_of(&self, hash: u32, here: Address, ordinal: Option<u32>) -> Option<Referrer> {
        if let Some((bucket, _)) = self.index.find(hash, |address| address == here) {
            return Some(Referrer::Index(bucket));
        }
        let piece_ref = PieceRef { ordinal: ordinal?, address: here };
        self.chains.as_deref()?.chain_with(hash, piece_ref).map(|_| Referrer::Chain)
    }
}

/// Parses a copy of a record's bytes.
pub(super) fn parse_copy(bytes: &[u8]) -> Record<'_> {
    Record::parse(bytes).unwrap_or_else(|| broken("a copy of a record parses"))
}

/// Returns whether a record's value has expired.
fn has_expired(record: &Record<'_>, rules: &Rules) -> bool {
    let table = rules.table(record.place.table);
    table.is_some_and(|table| table.expired(record.meta.stamp, rules.now(table)))
}

impl super::LogBackend {
    /// Cleans a bounded amount for a write that the budget refused, round-robin over the groups.
    pub(super) fn reclaim(&mut self) {
        let mut work = RECLAIM_BYTES;
        for _ in 0..self.groups.len() {
            let Some(rest) = work.checked_sub(STEP_BYTES) else { break };
            work = rest;
            self.reclaim_next = (self.reclaim_next + 1) % self.groups.len();
            if let Some(Some(group)) = self.groups.get_mut(self.reclaim_next) {
                let Ok(id) = u16::try_from(self.reclaim_next).map(KeyGroup) else {
                    broken("group numbers fit 16 bits")
                };
                group.squeeze(&mut work, self.rules.of(id));
            }
        }
    }
}
