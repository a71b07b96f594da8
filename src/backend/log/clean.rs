//! The cleaner: copies what is live out of old regions and gives their memory back.
//!
//! It goes through each half of a group's log in order, the oldest region first. A region that is nothing but live
//! records moves to the end of the order; of any other the survivors are copied, and the region leaves the log.
//!
//! Invariants:
//! - survivors go to clean regions, which no delta has: they are durable already, or on their way, with the delta that
//!   they were written in. Survivors of the tail stay in the tail;
//! - the rows that the oldest frozen region is the newest for have no other record: so its survivors may stand anywhere in
//!   the order, and its tombstones have nothing left to hide and go;
//! - a half is cleaned while it holds more than twice the bytes of its live records plus `SLACK_BYTES`, and whatever is
//!   written or becomes garbage pays for going through `RATE` times its bytes. So **each half of a group holds at most
//!   4 times the bytes of its records that the index points at, plus 136 KiB**, after every write.

use super::group::Group;
use super::index::Address;
use super::region::{Half, Region, Run};

/// Garbage that a half of a group may hold however little is live.
const SLACK_BYTES: u64 = 4 * 1024;

/// Bytes of regions to go through for each byte that was written or became garbage.
const RATE: u64 = 8;

/// The constant of the bound: one region that is being filled while another is being emptied, and the slack.
#[cfg(test)]
pub(super) const BOUND_BYTES: u64 = 2 * super::region::REGION_BYTES as u64 + 2 * SLACK_BYTES;

/// What it costs to move a region to the end of the order or to drop an empty one, in bytes gone through.
const STEP_BYTES: u64 = 512;

/// Bytes of regions that a write may go through that would otherwise be refused.
const RECLAIM_BYTES: u64 = 1024 * 1024;

impl Run {
    /// Returns the bytes of what cleaning would keep.
    fn live_bytes(&self, half: Half) -> u64 {
        match half {
            Half::Tail => self.tally.bytes(),
            Half::Frozen => self.tally.put_bytes,
        }
    }

    fn needs_cleaning(&self, half: Half) -> bool {
        self.held_bytes > 2 * self.live_bytes(half) + SLACK_BYTES
    }
}

impl Region {
    /// Returns whether it can stay as it is: all its records are live and they fill it well.
    fn is_clean(&self, half: Half) -> bool {
        let droppable = half == Half::Frozen && self.tally.tombstones > 0;
        self.is_all_kept() && !droppable && self.chunk().held_bytes() <= 2 * self.tally.bytes()
    }

    /// Returns the bytes that a step of cleaning goes through.
    fn cost(&self, half: Half) -> u64 {
        if self.tally.records() == 0 || self.is_clean(half) { STEP_BYTES } else { self.chunk().held_bytes() }
    }
}

impl Group {
    /// Cleans as much as `churn` bytes pay for that were written or became garbage.
    pub(super) fn pace(&mut self, churn: usize) {
        if churn == 0 {
            return;
        }
        for half in [Half::Tail, Half::Frozen] {
            let run = self.regions.run_mut(half);
            if !run.needs_cleaning(half) {
                run.credit = 0;
                continue;
            }
            let mut credit = run.credit + RATE * churn as u64;
            while self.regions.run(half).needs_cleaning(half) {
                let Some(rest) = self.oldest(half).and_then(|region| credit.checked_sub(region.cost(half))) else {
                    break;
                };
                credit = rest;
                self.clean_oldest(half);
            }
            self.regions.run_mut(half).credit = credit;
        }
    }

    /// Cleans while an eighth of what it holds is garbage and there is `work` left, in bytes gone through. Regions that
    /// a sealed part pins are left alone: copying their survivors would free nothing.
    pub(super) fn squeeze(&mut self, work: &mut u64) {
        for half in [Half::Tail, Half::Frozen] {
            for _ in 0..self.regions.run(half).order.len() {
                let run = self.regions.run(half);
                if run.live_bytes(half) >= run.held_bytes - run.held_bytes / 8 {
                    break;
                }
                let unpinned = self.oldest(half).filter(|region| !region.is_pinned());
                let Some(rest) = unpinned.and_then(|region| work.checked_sub(region.cost(half))) else { break };
                *work = rest;
                self.clean_oldest(half);
            }
        }
    }

    fn oldest(&self, half: Half) -> Option<&Region> {
        self.regions.region(*self.regions.run(half).order.front()?)
    }

    /// Takes one step: the oldest region moves to the end, or its survivors leave it.
    fn clean_oldest(&mut self, half: Half) {
        if self.oldest(half).is_some_and(|region| region.is_clean(half)) {
            self.regions.run_mut(half).order.rotate_left(1);
            return;
        }
        let Some((id, region)) = self.regions.take_oldest(half) else { return };
        let mut left = region.tally.records();
        for (offset, record) in region.chunk().records().filter(|(_, record)| !record.is_dead()) {
            if left == 0 {
                break;
            }
            let here = Address { region: id, offset };
            let Some((bucket, _)) = self.index.find(self.hash(&record.place), |address| address == here) else {
                continue;
            };
            left -= 1;
            if half == Half::Frozen && record.is_tombstone() {
                self.index.remove(bucket);
            } else {
                let address = self.regions.append(half, &record.copy());
                self.index.point(bucket, address);
            }
        }
        self.regions.release(id);
        self.index.trim();
    }
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
                group.squeeze(&mut work);
            }
        }
    }
}
