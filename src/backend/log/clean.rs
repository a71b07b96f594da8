//! The cleaner: copies what is live out of old regions and gives their memory back.
//!
//! It goes through each half of a group's log in order, the oldest region first. A region that is nothing but live
//! records moves to the end of the order; of any other the survivors are copied, and the region leaves the log. An older
//! piece of a value takes all newer pieces with it, or it would come to stand behind them.
//!
//! Invariants:
//! - survivors go to clean regions, which no delta has: they are durable already, or on their way, with the delta that
//!   they were written in. Survivors of the tail stay in the tail;
//! - the rows that the oldest frozen region is the newest for have no record elsewhere: so its survivors may stand anywhere
//!   in the order, and its tombstones have nothing left to hide and go;
//! - the pieces of a value stand in their order, and the first of those that were moved in the frozen half is whole: it
//!   hides copies of the others that sealed parts still share;
//! - a half is cleaned while it holds more than the bytes of its live records, a quarter of them and `SLACK_BYTES`, and
//!   whatever is written or becomes garbage pays for going through `RATE` times its bytes. So **each half of a group holds
//!   at most 4 times the bytes of its records that the index points at, plus 136 KiB**, after every write.

use super::chains::Link;
use super::group::{Found, Group};
use super::index::{Address, Bucket};
use super::record::Record;
use super::region::{Half, REGION_OVERHEAD_BYTES, Region, Regions, Run};
use crate::error::broken;
use crate::key_group::KeyGroup;
use crate::row::Rules;

/// Garbage that a half of a group may hold, as a part of what is live: with less, survivors are copied again and again.
const GARBAGE_PART: u64 = 4;

/// Garbage that it may hold however little is live.
const SLACK_BYTES: u64 = 4 * 1024;

/// Bytes of regions to go through for each byte that was written or became garbage.
pub(super) const RATE: u64 = 8;

/// The constant of the bound: one region that is being filled while another is being emptied, and the slack.
#[cfg(test)]
pub(super) const BOUND_BYTES: u64 = 2 * super::region::REGION_BYTES as u64 + 2 * SLACK_BYTES;

/// Records whose index entries are asked for ahead of time.
const AHEAD: usize = 32;

/// What it costs to move a region to the end of the order or to drop an empty one, in bytes gone through.
pub(super) const STEP_BYTES: u64 = 512;

/// Bytes of regions that a write may go through that would otherwise be refused.
const RECLAIM_BYTES: u64 = 1024 * 1024;

impl Run {
    /// Returns the bytes of what cleaning would keep.
    fn live_bytes(&self, half: Half) -> u64 {
        match half {
            Half::Tail | Half::Clears => self.tally.bytes(),
            Half::Frozen => self.tally.put_bytes,
        }
    }
}

impl Regions {
    /// Returns whether a half holds too much beside what is live. What the open region has to spare is for what comes.
    fn needs_cleaning(&self, half: Half) -> bool {
        let run = self.run(half);
        let spare = run.open.map_or(0, |id| self.region(id).chunk().spare_bytes());
        let live = run.live_bytes(half);
        run.held_bytes - spare > live + live / GARBAGE_PART + SLACK_BYTES
    }
}

impl Region {
    /// Returns whether it can stay as it is: all its records are live and they fill it well.
    fn is_clean(&self, half: Half) -> bool {
        let droppable = half == Half::Frozen && self.tally.tombstones > 0;
        self.is_all_kept() && !droppable && !self.has_links && self.chunk().held_bytes() <= 2 * self.tally.bytes()
    }

    /// Returns the bytes that a step of cleaning goes through.
    fn cost(&self, half: Half) -> u64 {
        if self.tally.records() == 0 || self.is_clean(half) { STEP_BYTES } else { self.chunk().held_bytes() }
    }
}

/// What points at a record.
#[derive(Debug, Clone, Copy)]
pub(super) enum Entry {
    /// The index: it is its row's newest.
    Newest(Bucket),
    /// Its row's chain: it is an older piece.
    Link,
}

impl Group {
    /// Cleans as much as `churn` bytes pay for that were written or became garbage.
    pub(super) fn pace(&mut self, churn: usize, rules: &Rules) {
        if churn == 0 {
            return;
        }
        if rules.expire() {
            self.look_for_expired(churn as u64, rules);
        }
        self.join_small(churn as u64, rules);
        for half in [Half::Tail, Half::Frozen] {
            if !self.regions.needs_cleaning(half) {
                self.regions.run_mut(half).credit = 0;
                continue;
            }
            let mut credit = self.regions.run(half).credit + RATE * churn as u64;
            while self.regions.needs_cleaning(half) {
                let movable = self.oldest(half).filter(|region| self.can_move(region));
                let Some(rest) = movable.and_then(|region| credit.checked_sub(region.cost(half))) else { break };
                credit = rest.saturating_sub(self.clean_oldest(half, rules));
            }
            self.regions.run_mut(half).credit = credit;
        }
    }

    /// Goes through as many bytes of frozen regions as were written, one region after the other, and takes what has
    /// expired there out of the index. Its bytes are garbage then like any other.
    fn look_for_expired(&mut self, churn: u64, rules: &Rules) {
        let frozen = self.regions.run_mut(Half::Frozen);
        frozen.expiry_credit = (frozen.expiry_credit + churn).min(frozen.held_bytes);
        for _ in 0..self.regions.slots() {
            let next = self.regions.next_to_expire();
            let Some(region) = self.regions.frozen_at(next) else { continue };
            let frozen = self.regions.run(Half::Frozen);
            let Some(rest) = frozen.expiry_credit.checked_sub(region.chunk().held_bytes()) else {
                self.regions.retry_expiry(next);
                break;
            };
            let stale = region.chunk().records().filter(|(_, record)| has_expired(record, rules));
            let stale: Vec<_> = stale.map(|(offset, record)| (Address::new(next, offset), record.detached())).collect();
            self.regions.run_mut(Half::Frozen).expiry_credit = rest;
            for (here, bytes) in stale {
                let record = copied(&bytes);
                let hash = self.hash(&record.place);
                if let Some(entry) = self.entry_at(hash, here, &record, true) {
                    self.expire(hash, entry, here, &record, rules);
                }
            }
        }
    }

    /// Takes a record that has expired out of the log: its row, or a piece of a value whose newer pieces live on.
    fn expire(&mut self, hash: u32, entry: Entry, here: Address, record: &Record<'_>, rules: &Rules) {
        match entry {
            Entry::Link => self.drop_link(hash, Link { ordinal: record.mark.ordinal, address: here }, record.shape),
            Entry::Newest(bucket) => {
                let found = Found { bucket, address: here, shape: record.shape };
                self.forget(hash, found, record, rules);
            }
        }
    }

    /// Cleans while an eighth of what it holds is garbage and there is `work` left, in bytes gone through. Regions that
    /// a sealed part pins are left alone: copying their survivors would free nothing.
    pub(super) fn squeeze(&mut self, work: &mut u64, rules: &Rules) {
        for half in [Half::Tail, Half::Frozen] {
            for _ in 0..self.regions.run(half).order.len() {
                let run = self.regions.run(half);
                if run.live_bytes(half) >= run.held_bytes - run.held_bytes / 8 {
                    break;
                }
                let unpinned = self.oldest(half).filter(|region| !region.is_pinned());
                let Some(rest) = unpinned.and_then(|region| work.checked_sub(region.cost(half))) else { break };
                *work = rest.saturating_sub(self.clean_oldest(half, rules));
            }
        }
    }

    /// Returns whether the budget has room for survivors beside a region that a sealed part keeps in memory.
    fn can_move(&self, region: &Region) -> bool {
        !region.is_pinned() || self.regions.budget().has_room(region.tally.bytes() + REGION_OVERHEAD_BYTES)
    }

    fn oldest(&self, half: Half) -> Option<&Region> {
        self.regions.run(half).order.front().map(|id| self.regions.region(*id))
    }

    /// Takes one step: the oldest region moves to the end, or its survivors leave it. Returns the bytes of values that were
    /// moved, of which it may have the least part.
    fn clean_oldest(&mut self, half: Half, rules: &Rules) -> u64 {
        if self.oldest(half).is_some_and(|region| region.is_clean(half)) {
            self.regions.run_mut(half).order.rotate_left(1);
            return 0;
        }
        let moved = self.move_values(half, rules);
        let Some((id, region)) = self.regions.take_oldest(half) else { broken("a half that is cleaned has a region") };
        let mut left = region.tally.records();
        let mut records = region.chunk().records().filter(|(_, record)| !record.shape.is_dead());
        let mut window = Vec::with_capacity(AHEAD);
        while left > 0 {
            let ahead = |(offset, record): (u32, Record<'_>)| {
                let hash = self.hash(&record.place);
                self.index.prefetch(hash);
                (offset, hash)
            };
            window.extend(records.by_ref().take(AHEAD).map(ahead));
            if window.is_empty() {
                broken("a region has the records that its tally counts");
            }
            for (offset, hash) in window.drain(..) {
                left -= u64::from(self.keep_or_drop(half, &region, Address::new(id, offset), hash, rules));
            }
        }
        self.regions.release(id);
        self.index.trim();
        moved
    }

    /// Copies the record at `here` in `region` to the end of its half, or lets it go if nobody needs it any more. Returns
    /// whether the index pointed at it.
    fn keep_or_drop(&mut self, half: Half, region: &Region, here: Address, hash: u32, rules: &Rules) -> bool {
        let record = region.chunk().record(here.offset());
        let bucket = match self.entry_at(hash, here, &record, region.has_links) {
            Some(Entry::Newest(bucket)) => bucket,
            Some(Entry::Link) => broken("older pieces leave a region before it goes"),
            None => return false,
        };
        if half == Half::Frozen && record.shape.is_tombstone() {
            self.index.remove(bucket);
        } else if half == Half::Frozen && has_expired(&record, rules) {
            // What older segments have of it has expired too.
            self.expire(hash, Entry::Newest(bucket), here, &record, rules);
        } else {
            let bytes = region.chunk().bytes_of(here.offset(), &record.shape);
            let address = match record.shape.is_compact() {
                true => self.regions.append_copy(half, &record.shape, bytes),
                false => self.regions.append(half, &record.copy()),
            };
            self.index.point(bucket, address);
        }
        true
    }

    /// Moves values that have an older piece in the oldest region to the end of their half; returns their bytes.
    fn move_values(&mut self, half: Half, rules: &Rules) -> u64 {
        let Some(&id) = self.regions.run(half).order.front() else { return 0 };
        let region = self.regions.region(id);
        if !region.has_links {
            return 0;
        }
        let is_older_piece = |offset, record: &Record<'_>| {
            let entry = self.entry_at(self.hash(&record.place), Address::new(id, offset), record, true);
            matches!(entry, Some(Entry::Link))
        };
        let pieces = region
            .chunk()
            .records()
            .filter(|(offset, record)| !record.shape.is_dead() && is_older_piece(*offset, record));
        let pieces: Vec<_> = pieces.map(|(_, record)| record.detached()).collect();
        // Not into the region that they are to leave.
        self.regions.close(half, id);
        pieces.iter().map(|bytes| self.move_value(half, id, &copied(bytes), rules)).sum()
    }

    /// Copies all pieces of a row's value that lie in `half`, in their order and folded, to its end, unless that was done
    /// for another piece that lay in `region`. Returns their bytes.
    fn move_value(&mut self, half: Half, region: u32, piece: &Record<'_>, rules: &Rules) -> u64 {
        let hash = self.hash(&piece.place);
        let Some(newest) = self.find(hash, &piece.place) else { broken("a row in pieces has a newest one") };
        let newest_record = self.regions.record(newest.address);
        let was_chained = newest_record.mark.is_chained();
        let all = self.all_links(hash, newest.address, &newest_record);
        let pieces: Vec<_> = all.filter(|piece| self.regions.half(piece.address) == half).collect();
        if pieces.iter().all(|piece| piece.address.region() != region) {
            return 0;
        }
        let mut moved = 0;
        for (at, folded) in self.fold(&pieces, rules).iter().enumerate() {
            let is_newest = folded.last().address == newest.address;
            // Older ones are nowhere: what stood before it has gone with the regions before.
            let has_older = half == Half::Tail || at > 0;
            let draft = folded.draft(folded.operand && has_older, !is_newest || (was_chained && has_older));
            self.regions.go_to_end(half);
            let copy = self.regions.append(half, &draft);
            folded.from.iter().for_each(|(piece, shape)| self.regions.supersede(piece.address, shape));
            self.settle(hash, folded, is_newest.then_some(newest.bucket), copy);
            moved += draft.len() as u64;
        }
        moved
    }

    /// Returns what points at this record, at `here` and of a row of this hash, if anything does.
    ///
    /// * `or_link`: whether it may be an older piece.
    pub(super) fn entry_at(&self, hash: u32, here: Address, record: &Record<'_>, or_link: bool) -> Option<Entry> {
        if let Some((bucket, _)) = self.index.find(hash, |address| address == here) {
            return Some(Entry::Newest(bucket));
        }
        let chains = self.chains.as_deref().filter(|_| or_link)?;
        chains.of_link(hash, Link { ordinal: record.mark.ordinal, address: here }).map(|_| Entry::Link)
    }
}

/// Returns a record out of a copy of its bytes.
pub(super) fn copied(bytes: &[u8]) -> Record<'_> {
    Record::parse(bytes).unwrap_or_else(|| broken("a copy of a record is one"))
}

/// Returns whether a record's value has expired.
fn has_expired(record: &Record<'_>, rules: &Rules) -> bool {
    let table = rules.table(record.place.table);
    table.is_some_and(|table| table.expired(record.mark.stamp, rules.now(table)))
}

impl super::LogBackend {
    /// Cleans a bounded amount, group by group from where it last stopped, for a write that the budget refused.
    pub(super) fn reclaim(&mut self) {
        let mut work = RECLAIM_BYTES;
        for _ in 0..self.groups.len() {
            let Some(rest) = work.checked_sub(STEP_BYTES) else { break };
            work = rest;
            self.reclaim_next = (self.reclaim_next + 1) % self.groups.len();
            if let Some(Some(group)) = self.groups.get_mut(self.reclaim_next) {
                let Ok(id) = u16::try_from(self.reclaim_next).map(KeyGroup) else {
                    broken("more groups than there can be")
                };
                group.squeeze(&mut work, self.rules.of(id));
            }
        }
    }
}
