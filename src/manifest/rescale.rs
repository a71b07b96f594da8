//! Restore plans: computes each subtask's share of a manifest at a parallelism, without I/O.

use std::collections::{BTreeMap, BTreeSet};

use super::{Manifest, Opaque, OpaqueContent, OpaqueReach, Redistribution, SubtaskEntry, SubtaskManifest, TableSchema};
use crate::error::Result;
use crate::id::{OperatorId, Subtask};
use crate::key_group::{KeyGroupRange, KeyGroupSet, check_parallelism, subtask_range};
use crate::row::{GroupTimes, Warmth, later_times};
use crate::segment::SegmentRef;
use crate::time::Timestamp;

/// The shares of all subtasks of an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorPlan {
    /// The operator.
    pub id: OperatorId,
    /// The stored tables.
    pub tables: Vec<TableSchema>,
    /// One share per subtask of the new parallelism, in order.
    pub shares: Vec<Share>,
}

/// The state that one subtask restores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The subtask.
    pub subtask: Subtask,
    /// The groups to own.
    pub groups: KeyGroupSet,
    /// The smallest watermark of the old owners: timers up to it have fired in all groups.
    pub watermark: Timestamp,
    /// Times of the groups, by their old owners; rows expire by these times until the clock passes them.
    pub times: Vec<GroupTimes>,
    /// The segments to read, oldest first within each group, each narrowed to the groups needed.
    pub segments: Vec<SegmentRef>,
    /// Its share of the opaques.
    pub opaques: Vec<Opaque>,
    /// How much each of its groups was used lately, ascending by group; none where that is unknown.
    pub heat: Vec<Warmth>,
}

/// Subtask manifests of a stored operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredOperator {
    /// Number of subtasks that stored it.
    pub(crate) parallelism: u32,
    /// Its tables.
    pub(crate) tables: Vec<TableSchema>,
    /// Those of its subtask manifests that are needed, ascending by subtask.
    pub(crate) subtasks: Vec<SubtaskManifest>,
}

impl OperatorPlan {
    /// Returns the plan for `operator` of `manifest` at `parallelism`; a plan without rows if the manifest lacks the
    /// operator.
    ///
    /// All subtask manifests and opaques must be inline (see `checkpoint::restore::resolve`).
    ///
    /// # Errors
    /// `Config` if the parallelism is out of range; `Usage` if a subtask manifest or an opaque is not inline.
    pub fn new(manifest: &Manifest, operator: OperatorId, parallelism: u32) -> Result<Self> {
        let max = manifest.max_parallelism;
        let Some(found) = manifest.operators.iter().find(|candidate| candidate.id == operator) else {
            return Self::empty(operator, max, parallelism);
        };
        let stored = StoredOperator {
            parallelism: found.parallelism,
            tables: found.tables.clone(),
            subtasks: found.inline_subtasks()?.into_iter().cloned().collect(),
        };
        let seats: Vec<_> = (0..parallelism).map(Subtask).collect();
        Self::of_seats(operator, (max, parallelism), &stored, &seats)
    }

    /// Returns the plan of an operator without state.
    ///
    /// # Errors
    /// `Config` if the parallelism is out of range.
    pub fn empty(operator: OperatorId, max_parallelism: u16, parallelism: u32) -> Result<Self> {
        let stored = StoredOperator { parallelism, tables: Vec::new(), subtasks: Vec::new() };
        let seats: Vec<_> = (0..parallelism).map(Subtask).collect();
        Self::of_seats(operator, (max_parallelism, parallelism), &stored, &seats)
    }

    /// Returns the shares of `seats` alone.
    ///
    /// * `stored`: at least the subtask manifests that [`Sources::of_seats`] names, with opaques inline.
    /// * `seats`: ascending.
    ///
    /// # Errors
    /// `Config` if the parallelism is out of range; `Usage` if an opaque is not inline.
    ///
    /// # Cost
    /// A step per group and per group range of each stored segment, and one per segment of each share.
    pub(crate) fn of_seats(
        operator: OperatorId,
        (max_parallelism, parallelism): (u16, u32),
        stored: &StoredOperator,
        seats: &[Subtask],
    ) -> Result<Self> {
        check_parallelism(parallelism, max_parallelism)?;
        let mut seats = Seats::new(max_parallelism, parallelism, seats);
        let mut lists = Vec::new();
        for subtask in &stored.subtasks {
            seats.add_state(subtask);
            for opaque in &subtask.opaques {
                match opaque.redistribution {
                    Redistribution::Split if stored.parallelism != parallelism => lists.push(opaque),
                    Redistribution::ByKeyGroup => seats.distribute_groups(&subtask.groups, opaque)?,
                    _ => seats.distribute(subtask.subtask, opaque),
                }
            }
        }
        seats.distribute_items(lists)?;
        Ok(Self { id: operator, tables: stored.tables.clone(), shares: seats.into_shares() })
    }
}

/// Which stored subtask manifests the subtasks of an operator restore from. Found once for all workers: a lookup takes a
/// step per entry returned, not one per stored subtask.
#[derive(Debug)]
pub(crate) struct Sources {
    max_parallelism: u16,
    parallelism: u32,
    /// Number of stored subtasks.
    stored: usize,
    /// Those that every subtask needs.
    everywhere: Vec<usize>,
    /// Those whose opaques go to the subtask of the same index, or to subtask 0 without one; ascending.
    same_index: Vec<usize>,
    /// The owner of each range of groups, ascending. Ranges of different owners do not overlap.
    owners: Vec<(KeyGroupRange, usize)>,
}

impl Sources {
    /// * `entries`: the stored subtasks; each group has one owner.
    pub(crate) fn new(entries: &[SubtaskEntry], max_parallelism: u16, parallelism: u32) -> Self {
        let same = entries.len() == parallelism as usize;
        let (mut everywhere, mut same_index) = (Vec::new(), Vec::new());
        for (at, entry) in entries.iter().enumerate() {
            match entry.opaque_reach() {
                OpaqueReach::None => {}
                OpaqueReach::SameIndex => same_index.push(at),
                OpaqueReach::Lists if same => same_index.push(at),
                OpaqueReach::Lists | OpaqueReach::OtherSubtasks => everywhere.push(at),
            }
        }
        let ranges = |(at, entry): (usize, &SubtaskEntry)| {
            let ranges = entry.groups().ranges().to_vec();
            ranges.into_iter().map(move |range| (range, at))
        };
        let mut owners: Vec<_> = entries.iter().enumerate().flat_map(ranges).collect();
        owners.sort_unstable();
        Self { max_parallelism, parallelism, stored: entries.len(), everywhere, same_index, owners }
    }

    /// Returns the entries that `seats` need: the old owners of their groups, and those whose opaques they may get. At
    /// another parallelism these are all with lists, since items are counted across all lists.
    pub(crate) fn of_seats(&self, seats: &[Subtask]) -> BTreeSet<usize> {
        let mut needed: BTreeSet<_> = self.everywhere.iter().copied().collect();
        for seat in seats {
            let at = seat.0 as usize;
            if self.stored == self.parallelism as usize || self.same_index.binary_search(&at).is_ok() {
                needed.insert(at);
            }
            if at == 0 {
                let beyond = self.same_index.partition_point(|index| *index < self.parallelism as usize);
                needed.extend(self.same_index.iter().skip(beyond));
            }
            let range = subtask_range(self.max_parallelism, self.parallelism, seat.0);
            let from = self.owners.partition_point(|(owned, _)| owned.end <= range.start);
            let overlap = self.owners.iter().skip(from).take_while(|(owned, _)| owned.start < range.end);
            needed.extend(overlap.map(|(_, at)| *at));
        }
        needed
    }
}

/// The shares being computed. What a stored subtask has is divided among them by ranges of groups, so that no step
/// pairs all stored subtasks with all new ones.
struct Seats {
    /// Number of subtasks, including those without a share here.
    parallelism: u32,
    /// Ascending by subtask.
    shares: Vec<Share>,
    /// The groups of each share, ascending.
    ranges: Vec<KeyGroupRange>,
    /// The smallest watermark so far of each share's old owners.
    watermarks: Vec<Option<Timestamp>>,
}

impl Seats {
    fn new(max_parallelism: u16, parallelism: u32, seats: &[Subtask]) -> Self {
        let ranges: Vec<_> = seats.iter().map(|seat| subtask_range(max_parallelism, parallelism, seat.0)).collect();
        let share = |(&subtask, &groups): (&Subtask, &KeyGroupRange)| Share {
            subtask,
            groups: groups.into(),
            watermark: Timestamp::MIN,
            times: Vec::new(),
            segments: Vec::new(),
            opaques: Vec::new(),
            heat: vec![Warmth::default(); groups.len()],
        };
        let shares = seats.iter().zip(&ranges).map(share).collect();
        Self { parallelism, shares, watermarks: vec![None; ranges.len()], ranges }
    }

    /// Adds the keyed state of an old subtask. Segments stay in order, since a group has one old owner.
    fn add_state(&mut self, old: &SubtaskManifest) {
        for range in old.groups.ranges() {
            for (at, _) in divided(&self.ranges, *range) {
                if let Some(least) = self.watermarks.get_mut(at) {
                    *least = Some(least.map_or(old.watermark, |least| least.min(old.watermark)));
                }
            }
        }
        for record in old.group_times() {
            for (at, part) in divided(&self.ranges, record.groups) {
                self.shares.get_mut(at).into_iter().for_each(|share| share.times.push(record.over(part)));
            }
        }
        old.segments.iter().for_each(|segment| self.add_segment(segment));
        self.add_heat(old);
    }

    fn add_heat(&mut self, old: &SubtaskManifest) {
        for (group, warmth) in old.groups.iter().zip(&old.heat) {
            let at = self.ranges.partition_point(|range| range.end <= group.0);
            let within = |range: &KeyGroupRange| Some(usize::from(group.0.checked_sub(range.start)?));
            let within = self.ranges.get(at).and_then(within);
            if let (Some(share), Some(within)) = (self.shares.get_mut(at), within)
                && let Some(slot) = share.heat.get_mut(within)
            {
                *slot = *warmth;
            }
        }
    }

    fn add_segment(&mut self, segment: &SegmentRef) {
        let mut parts = segment.groups.ranges().iter().flat_map(|range| divided(&self.ranges, *range)).peekable();
        // Cloned without its groups for each share: the parts together are as many as its ranges, or as the shares.
        let narrowed = SegmentRef { groups: KeyGroupSet::empty(), ..segment.clone() };
        while let Some((at, part)) = parts.next() {
            let mut groups = vec![part];
            while let Some((_, part)) = parts.next_if(|(next, _)| *next == at) {
                groups.push(part);
            }
            if let Some(share) = self.shares.get_mut(at) {
                share.segments.push(SegmentRef { groups: KeyGroupSet::from_ranges(groups), ..narrowed.clone() });
            }
        }
    }

    /// Distributes one whole opaque of the old subtask `from`.
    fn distribute(&mut self, from: Subtask, opaque: &Opaque) {
        match opaque.redistribution {
            // Lists are split only if the number of subtasks changes.
            Redistribution::None | Redistribution::Split => {
                self.give(if from.0 < self.parallelism { from.0 } else { 0 }, opaque);
            }
            Redistribution::ByChannel => self.give(opaque.channel.unwrap_or(0) % self.parallelism.max(1), opaque),
            Redistribution::ByKeyGroup => {}
            Redistribution::Broadcast if from.0 > 0 => {}
            Redistribution::Broadcast | Redistribution::Union => {
                self.shares.iter_mut().for_each(|share| share.opaques.push(opaque.clone()));
            }
        }
    }

    /// Gives each item of an opaque to the share that has its key group. A share gets one opaque of a name, whatever its old owners
    /// were; items of one group stay in order, since a group has one old owner.
    ///
    /// * `groups`: those of the old subtask.
    fn distribute_groups(&mut self, groups: &KeyGroupSet, opaque: &Opaque) -> Result<()> {
        let mut parts: BTreeMap<usize, Vec<_>> = BTreeMap::new();
        for (group, item) in opaque.items_of(groups)? {
            let at = self.ranges.partition_point(|range| range.end <= group.0);
            if self.ranges.get(at).is_some_and(|range| range.start <= group.0) {
                parts.entry(at).or_default().push((group, item));
            }
        }
        for (at, items) in parts {
            let part = opaque.with_items(items.into_iter())?;
            if let Some(share) = self.shares.get_mut(at) {
                share.add_in_flight(part);
            }
        }
        Ok(())
    }

    fn give(&mut self, subtask: u32, opaque: &Opaque) {
        if let Some(share) = self.share(subtask) {
            share.opaques.push(opaque.clone());
        }
    }

    fn share(&mut self, subtask: u32) -> Option<&mut Share> {
        let at = self.shares.binary_search_by_key(&subtask, |share| share.subtask.0).ok()?;
        self.shares.get_mut(at)
    }

    /// Distributes the items of lists in turn across all lists, so that no subtask collects the remainders of many
    /// lists.
    ///
    /// * `lists`: in the order of the old subtasks.
    fn distribute_items(&mut self, mut lists: Vec<&Opaque>) -> Result<()> {
        // Stable: parts of one list stay in the order of the old subtasks.
        lists.sort_by(|a, b| (a.role, &a.name).cmp(&(b.role, &b.name)));
        let mut next = 0;
        for list in lists {
            for item in list.items()? {
                if let Some(share) = self.share(next) {
                    let content = OpaqueContent::Inline(item);
                    share.opaques.push(Opaque { item_offsets: vec![0], content, ..list.clone() });
                }
                next = (next + 1) % self.parallelism.max(1);
            }
        }
        Ok(())
    }

    fn into_shares(self) -> Vec<Share> {
        let finished = |(mut share, watermark): (Share, Option<Timestamp>)| {
            share.watermark = watermark.unwrap_or(Timestamp::MIN);
            share.times.sort_by_key(|times| times.groups);
            let times = later_times(&[], &share.times);
            Share { times, ..share }
        };
        self.shares.into_iter().zip(self.watermarks).map(finished).collect()
    }
}

/// Divides `range` at the bounds of `ranges`, which ascend: returns the position of each range that it overlaps, with the
/// overlap.
fn divided(ranges: &[KeyGroupRange], range: KeyGroupRange) -> impl Iterator<Item = (usize, KeyGroupRange)> + '_ {
    let from = ranges.partition_point(|other| other.end <= range.start);
    let overlaps = ranges.iter().enumerate().skip(from).map(move |(at, other)| (at, other.intersection(range)));
    overlaps.take_while(|(_, overlap)| !overlap.is_empty())
}

#[cfg(test)]
mod tests;
