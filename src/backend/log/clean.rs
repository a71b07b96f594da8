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

use super::arena::RegionBytes;
use super::chains::PieceRef;
use super::chunk::{bytes_from, bytes_of, offset, read_ahead, record_in, records};
use super::fetch::Fetched;
use super::group::{Found, Group};
use super::index::{Address, Bucket};
use super::record::{Record, Shape};
use super::region::{REGION_OVERHEAD_BYTES, Region, Section};
use super::regions::Regions;
use crate::error::{Result, broken};
use crate::key_group::KeyGroup;
use crate::row::Rules;

/// Garbage that a section may hold, as a share of its live bytes: with less, survivors would be copied too often.
const GARBAGE_DIVISOR: u64 = 4;

/// Garbage that a section may hold beyond that share.
const SLACK_BYTES: u64 = 4 * 1024;

/// Bytes of regions to go through for each byte that was written or became garbage.
pub(super) const RATE: u64 = 8;

/// Garbage that the disk section may hold beyond as many bytes as are live.
const DISK_SLACK_BYTES: u64 = 64 * 1024;

/// Regions that the disk section of a group may have beyond those that half fill its space.
const DISK_REGIONS_MAX: u64 = 16;

/// The constant of the bound: one region being filled while another is being emptied, and the slack.
#[cfg(test)]
pub(super) const BOUND_BYTES: u64 = 2 * super::region::REGION_BYTES as u64 + 2 * SLACK_BYTES;

/// Records whose index slots are prefetched at once.
const PREFETCHED_RECORDS: usize = 32;

/// The cost of moving a region to the end of the order or dropping an empty one, in bytes gone through.
pub(super) const STEP_BYTES: u64 = 512;

/// Bytes of regions to go through for a write that the budget refused.
const RECLAIM_BYTES: u64 = 1024 * 1024;

impl Regions {
    /// Returns whether nothing older than a section's records lies below them, so that its tombstones hide nothing.
    fn is_lowest(&self, section: Section) -> bool {
        section == Section::Disk || section == Section::Frozen && !self.use_disk()
    }

    /// Returns the bytes that cleaning a section would keep.
    fn live_bytes(&self, section: Section) -> u64 {
        let tally = &self.run(section).tally;
        if self.is_lowest(section) { tally.put_bytes } else { tally.bytes() }
    }

    /// Returns whether a section holds too much garbage. Spare bytes of the open region do not count: further records
    /// fill them.
    fn needs_cleaning(&self, section: Section) -> bool {
        let (run, live) = (self.run(section), self.live_bytes(section));
        if section == Section::Disk {
            let regions_max = DISK_REGIONS_MAX + 2 * run.disk_bytes / self.region_bytes() as u64;
            return run.disk_bytes > 2 * live + DISK_SLACK_BYTES || run.order.len() as u64 > regions_max;
        }
        let spare = run.open.map_or(0, |id| self.region(id).spare_bytes());
        run.held_bytes - spare > live + live / GARBAGE_DIVISOR + SLACK_BYTES
    }

    /// Returns whether a region can stay as it is: all its records are live, and they fill at least half of it.
    fn is_clean(&self, region: &Region) -> bool {
        let droppable = self.is_lowest(region.section()) && region.notes.tally().tombstones > 0;
        region.is_all_referenced()
            && !droppable
            && !region.notes.has_older_pieces
            && (!region.is_on_disk() || region.len() >= self.region_bytes() / 4)
            && region.held_bytes() <= 2 * region.notes.tally().bytes()
    }

    /// Returns the bytes that one step of cleaning goes through.
    fn cost(&self, region: &Region) -> u64 {
        if region.notes.tally().records() == 0 || self.is_clean(region) { STEP_BYTES } else { region.held_bytes() }
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

/// A record in the region that is being cleaned.
struct Survivor<'a> {
    address: Address,
    hash: u32,
    shape: Shape,
    region: &'a [u8],
}

impl Survivor<'_> {
    fn bytes(&self) -> &[u8] {
        bytes_of(self.region, self.address.offset(), &self.shape)
    }

    fn record(&self) -> Record<'_> {
        record_in(self.bytes())
    }
}

#[cold]
fn no_region_to_clean() -> ! {
    broken("a section has a region to clean")
}

#[cold]
fn no_newest_piece() -> ! {
    broken("a row in pieces has a newest piece")
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
        for section in [Section::Tail, Section::Frozen, Section::Disk] {
            if !self.regions.needs_cleaning(section) {
                self.regions.run_mut(section).credit = 0;
                continue;
            }
            let mut credit = self.regions.run(section).credit + RATE * churn as u64;
            while self.regions.needs_cleaning(section) {
                let movable = self.oldest(section).filter(|region| self.can_move(region));
                let Some(rest) = movable.and_then(|region| credit.checked_sub(self.regions.cost(region))) else {
                    break;
                };
                // A region that cannot be read stays where it is: the operation that needs it returns the error.
                let Ok(moved) = self.clean_oldest(section, section, rules) else { break };
                credit = rest.saturating_sub(moved);
            }
            self.regions.run_mut(section).credit = credit;
        }
        self.regions.write_outgoing();
    }

    /// Goes through as many bytes of sealed regions as `churn`, round-robin, and removes expired records from the index
    /// and the chains. Their bytes are then garbage like any other.
    fn evict_expired(&mut self, churn: u64, rules: &Rules) {
        let sealed_bytes = self.regions.run(Section::Frozen).held_bytes + self.regions.run(Section::Disk).disk_bytes;
        let frozen = self.regions.run_mut(Section::Frozen);
        frozen.expiry_credit = (frozen.expiry_credit + churn).min(sealed_bytes);
        for _ in 0..self.regions.issued() {
            let next = self.regions.next_to_expire();
            let Some(region) = self.regions.sealed_at(next) else { continue };
            let frozen = self.regions.run(Section::Frozen);
            let Some(rest) = frozen.expiry_credit.checked_sub(region.held_bytes()) else {
                self.regions.retry_expiry(next);
                break;
            };
            // What the disk does not return is looked at again later.
            let stale = region.bytes().map(|bytes| {
                let stale = records(&bytes).filter(|(_, record)| has_expired(record, rules));
                stale.map(|(offset, record)| (Address::new(next, offset), record.encode())).collect::<Vec<_>>()
            });
            self.regions.run_mut(Section::Frozen).expiry_credit = rest;
            for (here, bytes) in stale.unwrap_or_default() {
                let record = parse_copy(&bytes);
                let hash = self.hash(&record.place);
                let Ok(fetched) = self.fetch([hash]) else { continue };
                if let Some(referrer) = self.referrer_of(hash, here, Some(record.meta.ordinal)) {
                    self.expire(hash, referrer, here, &record, (rules, &fetched));
                }
            }
        }
    }

    /// Removes an expired record from the log: its row, or one piece of a value whose newer pieces live on.
    fn expire(
        &mut self,
        hash: u32,
        referrer: Referrer,
        here: Address,
        record: &Record<'_>,
        (rules, fetched): (&Rules, &Fetched),
    ) {
        match referrer {
            Referrer::Chain => {
                self.drop_older_piece(hash, PieceRef { ordinal: record.meta.ordinal, address: here }, record.shape)
            }
            Referrer::Index(bucket) => {
                let found = Found { bucket, address: here, shape: record.shape };
                self.remove_row(hash, (found, fetched), record, rules);
            }
        }
    }

    /// Cleans while an eighth of a section is garbage and `work` is left, in bytes gone through. Stops at a region that
    /// a sealed part pins: copying its survivors would free nothing.
    pub(super) fn squeeze(&mut self, work: &mut u64, rules: &Rules) {
        for section in [Section::Tail, Section::Frozen] {
            for _ in 0..self.regions.run(section).order.len() {
                let held = self.regions.run(section).held_bytes;
                if self.regions.live_bytes(section) >= held - held / 8 {
                    break;
                }
                let unpinned = self.oldest(section).filter(|region| !region.is_pinned());
                let Some(rest) = unpinned.and_then(|region| work.checked_sub(self.regions.cost(region))) else { break };
                let Ok(moved) = self.clean_oldest(section, section, rules) else { break };
                *work = rest.saturating_sub(moved);
            }
        }
    }

    /// Returns whether the region's survivors can be copied: if a sealed part pins the region, or it lies on disk, the budget
    /// needs room for both.
    fn can_move(&self, region: &Region) -> bool {
        !region.is_pinned() && !region.is_on_disk()
            || self.regions.budget().has_room(region.notes.tally().bytes() + REGION_OVERHEAD_BYTES)
    }

    pub(super) fn oldest(&self, section: Section) -> Option<&Region> {
        self.regions.run(section).order.front().map(|id| self.regions.region(*id))
    }

    /// Takes one step: moves the oldest region of a section to the end, or its survivors to the end of section `to`.
    /// Returns the bytes of values moved; most may lie in other regions.
    ///
    /// # Errors
    /// Those of reading the disk: then nothing was changed but the order.
    pub(super) fn clean_oldest(&mut self, section: Section, to: Section, rules: &Rules) -> Result<u64> {
        let Some(oldest) = self.oldest(section) else { no_region_to_clean() };
        if section == to && self.regions.is_clean(oldest) {
            self.regions.run_mut(section).order.rotate_left(1);
            return Ok(0);
        }
        if section != to {
            // Older records of the same rows may lie in any region there.
            self.regions.open_at_end(to);
        }
        // Reading is what can fail, so it comes before any change. The next attempt is at another region.
        let (moved, read) =
            match self.move_values(section, to, rules).and_then(|moved| Ok((moved, self.read_oldest(section)?))) {
                Ok(moved_and_read) => moved_and_read,
                Err(error) => {
                    self.regions.run_mut(section).order.rotate_left(1);
                    return Err(error);
                }
            };
        let Some((id, region)) = self.regions.take_oldest(section) else { no_region_to_clean() };
        let mut left = region.notes.tally().records();
        let bytes = match &read {
            Some(bytes) => RegionBytes::Owned(bytes),
            None if left == 0 => RegionBytes::Owned(&[]),
            None => region.bytes()?,
        };
        let (mut window, mut next) = (Vec::with_capacity(PREFETCHED_RECORDS), 0);
        while left > 0 {
            next = self.look_ahead(&bytes, next, &mut window);
            if window.is_empty() {
                broken("a region has the records that its tally counts");
            }
            for (offset, hash, shape) in window.drain(..) {
                let here = Survivor { address: Address::new(id, offset), hash, shape, region: &bytes };
                left -= u64::from(self.keep_or_drop((section, to), &here, region.notes.has_older_pieces, rules));
            }
        }
        drop(bytes);
        self.regions.release(id);
        self.index.trim();
        Ok(moved)
    }

    /// Returns the records of the oldest region, if it has live ones and they lie on disk.
    fn read_oldest(&self, section: Section) -> Result<Option<Vec<u8>>> {
        match self.oldest(section).filter(|region| region.notes.tally().records() > 0) {
            Some(region) => region.read(),
            None => Ok(None),
        }
    }

    /// Adds the next records of a region to a window, from byte `next` on, and prefetches their index slots. Skips dead
    /// ones. Returns where the records behind them begin.
    fn look_ahead(&self, region: &[u8], mut next: usize, window: &mut Vec<(u32, u32, Shape)>) -> usize {
        while window.len() < PREFETCHED_RECORDS && next < region.len() {
            let offset = offset(next);
            let Record { shape, place, .. } = record_in(bytes_from(region, offset));
            read_ahead(region, next..next + shape.len);
            next += shape.len;
            if !shape.is_dead() {
                let hash = self.hash(&place);
                self.index.search(hash).prefetch();
                window.push((offset, hash, shape));
            }
        }
        next
    }

    /// Copies a record of the oldest region of a section to the end of section `to`, or drops it if it is no longer needed.
    /// Returns whether the index pointed at it. Parses no record again, where its shape will do.
    fn keep_or_drop(
        &mut self,
        (section, to): (Section, Section),
        here: &Survivor<'_>,
        has_older_pieces: bool,
        rules: &Rules,
    ) -> bool {
        let Survivor { address, hash, ref shape, .. } = *here;
        let bucket = match self.referrer_of(hash, address, has_older_pieces.then(|| here.record().meta.ordinal)) {
            Some(Referrer::Index(bucket)) => bucket,
            Some(Referrer::Chain) => broken("older pieces leave a region before it is removed"),
            None => return false,
        };
        let is_sealed = matches!(section, Section::Frozen | Section::Disk);
        if self.regions.is_lowest(section) && shape.is_tombstone() {
            self.index.remove(bucket);
        } else if is_sealed
            && rules.expire()
            && has_expired(&here.record(), rules)
            && let Ok(fetched) = self.fetch([hash])
        {
            // Older segments may have the row, but with an older stamp: it has expired there too.
            self.expire(hash, Referrer::Index(bucket), address, &here.record(), (rules, &fetched));
        } else {
            let copy = match shape.is_compact() {
                true => self.regions.append_copy(to, shape, here.bytes()),
                false => self.regions.append(to, &here.record().copy()),
            };
            self.index.point(bucket, copy);
        }
        true
    }

    /// Moves values that have an older piece in the oldest region to the end of section `to`; returns their bytes.
    fn move_values(&mut self, section: Section, to: Section, rules: &Rules) -> Result<u64> {
        let Some(&id) = self.regions.run(section).order.front() else { return Ok(0) };
        let region = self.regions.region(id);
        if !region.notes.has_older_pieces {
            return Ok(0);
        }
        let is_older_piece = |offset, record: &Record<'_>| {
            let ordinal = Some(record.meta.ordinal);
            let referrer = self.referrer_of(self.hash(&record.place), Address::new(id, offset), ordinal);
            matches!(referrer, Some(Referrer::Chain))
        };
        let bytes = region.bytes()?;
        let pieces =
            records(&bytes).filter(|(offset, record)| !record.shape.is_dead() && is_older_piece(*offset, record));
        let pieces: Vec<_> = pieces.map(|(_, record)| record.encode()).collect();
        drop(bytes);
        // Close the region first, or the pieces might be appended to it again.
        self.regions.close(section, id);
        let mut moved = 0;
        for bytes in pieces {
            moved += self.move_value((section, to), id, &parse_copy(&bytes), rules)?;
        }
        Ok(moved)
    }

    /// Copies all pieces of a row's value in `section`, folded and in order, to the end of section `to`. Does nothing if an
    /// earlier call has already moved the value out of `region`. Returns the bytes copied.
    fn move_value(
        &mut self,
        (section, to): (Section, Section),
        region: u32,
        piece: &Record<'_>,
        rules: &Rules,
    ) -> Result<u64> {
        let hash = self.hash(&piece.place);
        let fetched = self.fetch([hash])?;
        let Some(newest) = self.find(hash, &piece.place, &fetched) else { no_newest_piece() };
        let newest_record = self.regions.record(newest.address, &fetched);
        let was_chained = newest_record.meta.is_chained();
        let all: Vec<_> = self.piece_refs(hash, newest.address, &newest_record, &fetched).collect();
        let (first, of_section) =
            (all.first().copied(), |piece: &PieceRef| self.regions.section(piece.address) == section);
        let pieces: Vec<_> = all.into_iter().filter(of_section).collect();
        if pieces.iter().all(|piece| piece.address.region() != region) {
            return Ok(0);
        }
        // Older segments may have older pieces than a tail's. Below the lowest section there are none: what sealed parts
        // still share has left with the regions before.
        let follows_others = section == Section::Tail || pieces.first() != first.as_ref();
        let mut moved = 0;
        for (at, folded) in self.fold(&pieces, rules, &fetched).iter().enumerate() {
            let is_newest = folded.last().address == newest.address;
            let has_older = follows_others || at > 0;
            let draft = folded.draft(folded.operand && has_older, !is_newest || (was_chained && has_older));
            self.regions.open_at_end(to);
            let copy = self.regions.append(to, &draft);
            folded.from.iter().for_each(|(piece, shape)| self.regions.supersede(piece.address, shape));
            self.replace_folded(hash, folded, is_newest.then_some(newest.bucket), copy);
            moved += draft.len() as u64;
        }
        Ok(moved)
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
