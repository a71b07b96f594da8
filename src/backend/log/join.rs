//! Joins small regions, so that a group does not come to have a region for each seal.
//!
//! Each seal that a group was written before leaves it a region at least, however little was written. Where it has more
//! small ones than is in proportion to what it holds, those that stand next to each other become one, and pieces of a
//! value among them are folded.
//!
//! Invariants:
//! - the joined region stands in the place of those that it is made of, with all their records that the index or a chain
//!   points at, in their order: tombstones and clears too, as older records may stand before them;
//! - a group has at most `SMALL_MOST` small regions, one more for each `LARGE_RECORD_BYTES` that it holds, and those that
//!   came since writing paid for joining others. Every write pays `LEAST_PAY` then, more than a region costs that it may
//!   have opened: so **seals alone do not use up regions**, and a seal itself joins nothing.

use std::collections::BTreeMap;

use super::chains::Link;
use super::clean::{Entry, RATE, STEP_BYTES};
use super::group::Group;
use super::index::Address;
use super::pieces::Folded;
use super::record::Record;
use super::region::{Half, LARGE_RECORD_BYTES, REGION_BYTES, REGION_OVERHEAD_BYTES, Regions, Run};
use crate::error::broken;
use crate::row::Rules;

/// Small regions that a group may have however little it holds. In unit tests few, so that they join often.
pub(super) const SMALL_MOST: u64 = if cfg!(test) { 4 } else { 64 };

/// The most regions that become one at once.
const JOINED_MOST: usize = 64;

/// What a write pays for at least, in bytes gone through.
const LEAST_PAY: u64 = 4 * STEP_BYTES;

/// What it costs to look at a region that stays as it is.
const LOOK_BYTES: u64 = 64;

/// How far joining has come.
#[derive(Debug, Default)]
pub(super) struct Joining {
    /// The position in the order that is looked at next.
    next: usize,
    /// Bytes that may be gone through by now.
    credit: u64,
    /// Bytes that have to be paid for before it is worth another look.
    wanted: u64,
}

impl Run {
    /// Returns whether it has more small regions than is in proportion.
    fn has_too_many(&self) -> bool {
        self.small > SMALL_MOST + self.held_bytes / LARGE_RECORD_BYTES as u64
    }
}

/// Small regions that stand next to each other and fit into one.
struct Neighbours {
    ids: Vec<u32>,
    /// Bytes to go through.
    cost: u64,
}

impl Regions {
    /// Returns the frozen regions from this position on that can become one.
    fn neighbours(&self, at: usize) -> Neighbours {
        let run = self.run(Half::Frozen);
        let (mut found, mut kept_bytes) = (Neighbours { ids: Vec::new(), cost: 0 }, 0);
        for &id in run.order.range(at..).take(JOINED_MOST) {
            let region = self.region(id);
            kept_bytes += region.tally.bytes();
            if !region.is_small() || run.open == Some(id) || kept_bytes > REGION_BYTES as u64 {
                break;
            }
            found.ids.push(id);
            found.cost += STEP_BYTES + region.chunk().written_bytes();
        }
        // What is joined stands beside what it is made of, for as long as that is pinned.
        if !self.budget().has_room(kept_bytes.min(REGION_BYTES as u64) + REGION_OVERHEAD_BYTES) {
            found.ids.clear();
        }
        found
    }
}

impl Group {
    /// Joins as much as `churn` bytes pay for that were written or became garbage.
    #[inline]
    pub(super) fn join_small(&mut self, churn: u64, rules: &Rules) {
        if self.regions.run(Half::Frozen).has_too_many() {
            self.join_some(churn, rules);
        }
    }

    #[cold]
    fn join_some(&mut self, churn: u64, rules: &Rules) {
        self.regions.joining.credit += RATE * churn + LEAST_PAY;
        while self.regions.run(Half::Frozen).has_too_many() {
            let Joining { next, credit, wanted } = self.regions.joining;
            if credit < wanted.max(LOOK_BYTES) {
                break;
            }
            let at = next % self.regions.run(Half::Frozen).order.len();
            let Neighbours { ids, cost } = self.regions.neighbours(at);
            let joins = ids.len() > 1;
            let cost = if joins { cost } else { LOOK_BYTES };
            self.regions.joining = match credit.checked_sub(cost) {
                Some(credit) => Joining { next: at + 1, credit, wanted: 0 },
                None => Joining { next: at, credit, wanted: cost },
            };
            if joins && credit >= cost {
                self.join(at, &ids, rules);
            }
        }
        if !self.regions.run(Half::Frozen).has_too_many() {
            self.regions.joining = Joining { next: self.regions.joining.next, ..Joining::default() };
        }
    }

    /// Makes one region of those that stand from `at` on in the order.
    fn join(&mut self, at: usize, ids: &[u32], rules: &Rules) {
        let survivors = self.survivors(ids, rules);
        let total = survivors.bytes.len();
        let joined = (total > 0).then(|| self.regions.begin_joined(total));
        let mut rest = survivors.bytes.as_slice();
        for Survivor { hash, entry, here, what } in survivors.kept {
            let Some(id) = joined else { broken("survivors have bytes") };
            let Some(record) = Record::parse(rest) else { broken("survivors are records") };
            let (bytes, after) = rest.split_at(record.shape.len);
            rest = after;
            let to = self.regions.append_joined(id, &record.shape, bytes);
            match (what, entry) {
                (What::Folded(folded), Entry::Newest(bucket)) => self.settle(hash, &folded, Some(bucket), to),
                (What::Folded(folded), Entry::Link) => self.settle(hash, &folded, None, to),
                (What::Copy, Entry::Newest(bucket)) => self.index.point(bucket, to),
                (What::Copy, Entry::Link) => {
                    self.regions.note_link(to);
                    let (from, bytes) = (
                        Link { ordinal: record.mark.ordinal, address: here },
                        record.value().map_or(0, <[u8]>::len) as u64,
                    );
                    self.chains_mut().replace(hash, from, (1, bytes), Some((Link { address: to, ..from }, bytes)));
                }
            }
        }
        self.regions.end_joined(at, ids.len(), joined);
    }

    /// Returns the records in these regions that are needed.
    fn survivors(&self, ids: &[u32], rules: &Rules) -> Survivors {
        let mut survivors = Survivors::default();
        let mut folded: BTreeMap<Address, Option<Folded>> = BTreeMap::new();
        for &id in ids {
            let region = self.regions.region(id);
            for (offset, record) in region.chunk().records().filter(|(_, record)| !record.shape.is_dead()) {
                let (here, hash) = (Address::new(id, offset), self.hash(&record.place));
                let Some(entry) = self.entry_at(hash, here, &record, region.has_links) else { continue };
                let in_pieces = matches!(entry, Entry::Link) || record.mark.is_chained();
                if in_pieces && !folded.contains_key(&here) {
                    let pieces = self.pieces_within(hash, here, &record, ids);
                    for of_row in self.fold(&pieces, rules) {
                        let last = of_row.last();
                        folded.extend(of_row.from.iter().map(|(piece, _)| (piece.address, None)));
                        folded.insert(last.address, Some(of_row));
                    }
                }
                let what = match folded.get_mut(&here) {
                    None => What::Copy,
                    // It goes into a newer one.
                    Some(None) => continue,
                    Some(of_row) => match of_row.take() {
                        Some(of_row) if of_row.from.len() > 1 => What::Folded(of_row),
                        _ => What::Copy,
                    },
                };
                survivors.push(self, &record, Survivor { hash, entry, here, what });
            }
        }
        survivors
    }

    /// Returns the pieces of a row that lie in these regions, from the one at `here` on.
    fn pieces_within(&self, hash: u32, here: Address, record: &Record<'_>, ids: &[u32]) -> Vec<Link> {
        let Some(newest) = self.find(hash, &record.place) else { broken("a row in pieces has a newest one") };
        let newest_record = self.regions.record(newest.address);
        let all = self.all_links(hash, newest.address, &newest_record);
        let from_here = all.skip_while(|piece| piece.address != here);
        from_here.take_while(|piece| ids.contains(&piece.address.region())).collect()
    }
}

/// Records that are needed, as bytes and in their order.
#[derive(Default)]
struct Survivors {
    bytes: Vec<u8>,
    kept: Vec<Survivor>,
}

/// A record that is needed.
struct Survivor {
    hash: u32,
    entry: Entry,
    here: Address,
    what: What,
}

/// How a record is kept.
enum What {
    Copy,
    /// With older pieces of its row.
    Folded(Folded),
}

impl Survivors {
    fn push(&mut self, of: &Group, record: &Record<'_>, survivor: Survivor) {
        let draft = match &survivor.what {
            What::Copy => record.copy(),
            What::Folded(folded) => {
                let is_newest = matches!(survivor.entry, Entry::Newest(_));
                let has_older = !is_newest || of.links(survivor.hash, record).len() >= folded.from.len();
                folded.draft(folded.operand, has_older)
            }
        };
        let start = self.bytes.len();
        self.bytes.resize(start + draft.len(), 0);
        draft.write(self.bytes.get_mut(start..).unwrap_or_else(|| broken("a buffer has what it was resized to")));
        self.kept.push(survivor);
    }
}
