//! Joins small regions, so that their number does not grow with the number of seals.
//!
//! A seal leaves at least one region to each group written since the last, however little was written. A group with too
//! many small regions for its size joins neighbours into one, and folds pieces of values among them.
//!
//! Invariants:
//! - the joined region takes the place of its sources in the order, and keeps their records to which the index or a
//!   chain points, in order: tombstones and clears too, as they may hide older records;
//! - a group has at most `SMALL_REGIONS_MAX` small regions, one more for each `LARGE_RECORD_BYTES` that it holds, and
//!   those opened before enough was paid to join others. Above that limit every write pays at least `PAY_BYTES_MIN`,
//!   more than a region costs that the write may have opened: so **seals alone do not use up regions**, and a seal
//!   itself joins nothing.

use std::collections::BTreeMap;

use super::chains::PieceRef;
use super::chunk::records;
use super::clean::{RATE, Referrer, STEP_BYTES};
use super::fetch::Fetched;
use super::group::Group;
use super::index::Address;
use super::pieces::Folded;
use super::record::Record;
use super::region::{LARGE_RECORD_BYTES, REGION_BYTES, REGION_OVERHEAD_BYTES, Run, Section};
use super::regions::Regions;
use crate::error::{Result, broken};
use crate::row::Rules;

/// Small regions that any group may have. Few in unit tests, so that they join often.
pub(super) const SMALL_REGIONS_MAX: u64 = if cfg!(test) { 4 } else { 64 };

/// The most regions to join into one.
const JOINED_MAX: usize = 64;

/// The least that a write pays, in bytes gone through.
const PAY_BYTES_MIN: u64 = 4 * STEP_BYTES;

/// The cost of inspecting a region that is not joined.
const INSPECT_BYTES: u64 = 64;

/// The state of the pass over the frozen regions.
#[derive(Debug, Default)]
pub(super) struct JoinProgress {
    /// Position in the order to inspect next.
    next: usize,
    /// Bytes that writes have paid for.
    credit: u64,
    /// Credit needed to join the regions at `next`.
    wanted: u64,
}

impl Run {
    /// Returns whether it has too many small regions for its size.
    fn has_too_many(&self) -> bool {
        self.small > SMALL_REGIONS_MAX + self.held_bytes / LARGE_RECORD_BYTES as u64
    }
}

/// Adjacent small regions that fit into one.
struct Neighbours {
    ids: Vec<u32>,
    /// Bytes to go through.
    cost: u64,
}

impl Regions {
    /// Returns the frozen regions from position `at` on that can be joined.
    fn neighbours(&self, at: usize) -> Neighbours {
        let run = self.run(Section::Frozen);
        let (mut found, mut kept_bytes) = (Neighbours { ids: Vec::new(), cost: 0 }, 0);
        for &id in run.order.range(at..).take(JOINED_MAX) {
            let region = self.region(id);
            kept_bytes += region.notes.tally().bytes();
            if !region.is_small() || run.open == Some(id) || kept_bytes > REGION_BYTES as u64 {
                break;
            }
            found.ids.push(id);
            found.cost += STEP_BYTES + region.len() as u64;
        }
        // The joined region needs memory beside its sources while sealed parts pin them.
        if !self.budget().has_room(kept_bytes.min(REGION_BYTES as u64) + REGION_OVERHEAD_BYTES) {
            found.ids.clear();
        }
        found
    }
}

impl Group {
    /// Does as much joining as `churn` pays for: bytes written or turned into garbage.
    #[inline]
    pub(super) fn join_small(&mut self, churn: u64, rules: &Rules) {
        if self.regions.run(Section::Frozen).has_too_many() {
            self.join_within_credit(churn, rules);
        }
    }

    #[cold]
    fn join_within_credit(&mut self, churn: u64, rules: &Rules) {
        self.regions.joining.credit += RATE * churn + PAY_BYTES_MIN;
        while self.regions.run(Section::Frozen).has_too_many() {
            let JoinProgress { next, credit, wanted } = self.regions.joining;
            if credit < wanted.max(INSPECT_BYTES) {
                break;
            }
            let at = next % self.regions.run(Section::Frozen).order.len();
            let Neighbours { ids, cost } = self.regions.neighbours(at);
            let joins = ids.len() > 1;
            let cost = if joins { cost } else { INSPECT_BYTES };
            self.regions.joining = match credit.checked_sub(cost) {
                Some(credit) => JoinProgress { next: at + 1, credit, wanted: 0 },
                None => JoinProgress { next: at, credit, wanted: cost },
            };
            if joins && credit >= cost {
                self.join(at, &ids, rules);
            }
        }
        if !self.regions.run(Section::Frozen).has_too_many() {
            self.regions.joining = JoinProgress { next: self.regions.joining.next, ..JoinProgress::default() };
        }
    }

    /// Joins the regions from position `at` on. Leaves them as they are if the disk does not return what it has of their
    /// rows.
    fn join(&mut self, at: usize, ids: &[u32], rules: &Rules) {
        let Ok(survivors) = self.survivors(ids, rules) else { return };
        let total = survivors.bytes.len();
        let joined = (total > 0).then(|| self.regions.begin_joined(total));
        let mut rest = survivors.bytes.as_slice();
        for Survivor { hash, referrer, here, form } in survivors.kept {
            let Some(id) = joined else { broken("surviving records have bytes") };
            let Some(record) = Record::parse(rest) else { broken("surviving bytes parse as records") };
            let (bytes, after) = rest.split_at(record.shape.len);
            rest = after;
            let to = self.regions.append_joined(id, &record.shape, bytes);
            match (form, referrer) {
                (Form::Folded(folded), Referrer::Index(bucket)) => self.replace_folded(hash, &folded, Some(bucket), to),
                (Form::Folded(folded), Referrer::Chain) => self.replace_folded(hash, &folded, None, to),
                (Form::Copy, Referrer::Index(bucket)) => self.index.point(bucket, to),
                (Form::Copy, Referrer::Chain) => {
                    self.regions.note_older_piece(to);
                    let (from, bytes) = (
                        PieceRef { ordinal: record.meta.ordinal, address: here },
                        record.value().map_or(0, <[u8]>::len) as u64,
                    );
                    self.chains_mut().replace(hash, from, (1, bytes), Some((PieceRef { address: to, ..from }, bytes)));
                }
            }
        }
        self.regions.end_joined(at, ids.len(), joined);
    }

    /// Returns the records in these regions that the index or a chain points at, folded.
    fn survivors(&self, ids: &[u32], rules: &Rules) -> Result<Survivors> {
        let mut survivors = Survivors::default();
        let mut folded: BTreeMap<Address, Option<Folded>> = BTreeMap::new();
        for &id in ids {
            let region = self.regions.region(id);
            for (offset, record) in records(&region.bytes()?).filter(|(_, record)| !record.shape.is_dead()) {
                let (here, hash) = (Address::new(id, offset), self.hash(&record.place));
                let ordinal = region.notes.has_older_pieces.then_some(record.meta.ordinal);
                let Some(referrer) = self.referrer_of(hash, here, ordinal) else { continue };
                let in_pieces = matches!(referrer, Referrer::Chain) || record.meta.is_chained();
                if in_pieces && !folded.contains_key(&here) {
                    let fetched = self.fetch([hash])?;
                    let pieces = self.pieces_within(hash, here, &record, (ids, &fetched));
                    for of_row in self.fold(&pieces, rules, &fetched) {
                        let last = of_row.last();
                        folded.extend(of_row.from.iter().map(|(piece, _)| (piece.address, None)));
                        folded.insert(last.address, Some(of_row));
                    }
                }
                let form = match folded.get_mut(&here) {
                    None => Form::Copy,
                    // Folded into a newer piece.
                    Some(None) => continue,
                    Some(of_row) => match of_row.take() {
                        Some(of_row) if of_row.from.len() > 1 => Form::Folded(of_row),
                        _ => Form::Copy,
                    },
                };
                survivors.push(self, &record, Survivor { hash, referrer, here, form })?;
            }
        }
        Ok(survivors)
    }

    /// Returns the pieces of a row that lie in these regions, from the one at `here` on.
    fn pieces_within(
        &self,
        hash: u32,
        here: Address,
        record: &Record<'_>,
        (ids, fetched): (&[u32], &Fetched),
    ) -> Vec<PieceRef> {
        let Some(newest) = self.find(hash, &record.place, fetched) else {
            broken("a row in pieces has a newest piece")
        };
        let newest_record = self.regions.record(newest.address, fetched);
        let all = self.piece_refs(hash, newest.address, &newest_record, fetched);
        let from_here = all.skip_while(|piece| piece.address != here);
        from_here.take_while(|piece| ids.contains(&piece.address.region())).collect()
    }
}

/// The bytes of surviving records, and what points at them, in order.
#[derive(Default)]
struct Survivors {
    bytes: Vec<u8>,
    kept: Vec<Survivor>,
}

/// A surviving record.
struct Survivor {
    hash: u32,
    referrer: Referrer,
    here: Address,
    form: Form,
}

/// How a record survives.
enum Form {
    Copy,
    /// Folded with older pieces of its row.
    Folded(Folded),
}

impl Survivors {
    fn push(&mut self, group: &Group, record: &Record<'_>, survivor: Survivor) -> Result<()> {
        let draft = match &survivor.form {
            Form::Copy => record.copy(),
            Form::Folded(folded) => {
                let is_newest = matches!(survivor.referrer, Referrer::Index(_));
                let fetched = group.fetch([survivor.hash])?;
                let older_refs = group.older_refs(survivor.hash, record, &fetched);
                let has_older = !is_newest || older_refs.len() >= folded.from.len();
                folded.draft(folded.operand, has_older)
            }
        };
        let start = self.bytes.len();
        self.bytes.resize(start + draft.len(), 0);
        draft.write(self.bytes.get_mut(start..).unwrap_or_else(|| broken("a buffer has its new length")));
        self.kept.push(survivor);
        Ok(())
    }
}
