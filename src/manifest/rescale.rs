//! Restore plans: computes each subtask's share of a manifest at a parallelism, without I/O.

use bytes::Bytes;

use super::{Manifest, Opaque, OpaqueContent, OpaqueRole, Redistribution, SubtaskManifest, TableSchema};
use crate::error::{Error, Result};
use crate::id::{OperatorId, Subtask};
use crate::key_group::{KeyGroupSet, check_parallelism, subtask_range};
use crate::row::{GroupTimes, later_times, times_of};
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
        check_parallelism(parallelism, max)?;
        let found = manifest.operators.iter().find(|candidate| candidate.id == operator);
        let old = found.map(|operator| operator.inline_subtasks()).transpose()?.unwrap_or_default();
        let mut shares: Vec<_> = (0..parallelism)
            .map(|index| Share::of(Subtask(index), subtask_range(max, parallelism, index).into(), &old))
            .collect();
        let same = old.len() == shares.len();
        let mut lists = Vec::new();
        for subtask in &old {
            for opaque in &subtask.opaques {
                match opaque.redistribution {
                    Redistribution::Split if !same => lists.push(opaque),
                    _ => distribute(subtask.subtask, opaque, &mut shares),
                }
            }
        }
        distribute_items(lists, &mut shares)?;
        let tables = found.map(|operator| operator.tables.clone()).unwrap_or_default();
        Ok(Self { id: operator, tables, shares })
    }

    /// Returns the plan of an operator without state.
    ///
    /// # Errors
    /// `Config` if the parallelism is out of range.
    pub fn empty(operator: OperatorId, max_parallelism: u16, parallelism: u32) -> Result<Self> {
        check_parallelism(parallelism, max_parallelism)?;
        let range = |index| subtask_range(max_parallelism, parallelism, index);
        let shares = (0..parallelism).map(|index| Share::of(Subtask(index), range(index).into(), &[])).collect();
        Ok(Self { id: operator, tables: Vec::new(), shares })
    }
}

impl Share {
    fn of(subtask: Subtask, groups: KeyGroupSet, old: &[&SubtaskManifest]) -> Self {
        // A group has one old owner, so its segments stay in order.
        let narrowed = |segment: &SegmentRef| {
            let groups = segment.groups.intersection(&groups);
            (!groups.is_empty()).then(|| SegmentRef { groups, ..segment.clone() })
        };
        let from: Vec<_> = old.iter().filter(|other| !other.groups.intersection(&groups).is_empty()).collect();
        let segments = from.iter().flat_map(|other| other.segments.iter().filter_map(narrowed)).collect();
        let watermark = from.iter().map(|other| other.watermark).min().unwrap_or(Timestamp::MIN);
        let mut times: Vec<_> = from.iter().flat_map(|other| times_of(&other.group_times(), &groups)).collect();
        times.sort_by_key(|times| times.groups);
        let times = later_times(&[], &times);
        Self { subtask, groups, watermark, times, segments, opaques: Vec::new() }
    }
}

/// Distributes one whole opaque of the old subtask `from` to the new subtasks.
fn distribute(from: Subtask, opaque: &Opaque, shares: &mut [Share]) {
    let count = shares.len();
    let mut give = |index: usize| {
        if let Some(share) = shares.get_mut(index) {
            share.opaques.push(opaque.clone());
        }
    };
    match opaque.redistribution {
        // Lists are split only if the number of subtasks changes.
        Redistribution::None | Redistribution::Split => {
            let same = from.0 as usize;
            give(if same < count { same } else { 0 });
        }
        Redistribution::ByChannel => give(opaque.channel.unwrap_or(0) as usize % count.max(1)),
        Redistribution::Broadcast if from.0 > 0 => {}
        Redistribution::Broadcast | Redistribution::Union => (0..count).for_each(give),
    }
}

/// Distributes the items of lists in turn across all lists, so that no subtask collects the remainders of many lists.
///
/// * `lists`: in the order of the old subtasks.
fn distribute_items(mut lists: Vec<&Opaque>, shares: &mut [Share]) -> Result<()> {
    // Stable: parts of one list stay in the order of the old subtasks.
    lists.sort_by(|a, b| (a.role, &a.name).cmp(&(b.role, &b.name)));
    let count = shares.len().max(1);
    let mut next = 0;
    for list in lists {
        for item in list.items()? {
            let single = Opaque { item_offsets: vec![0], content: OpaqueContent::Inline(item), ..list.clone() };
            if let Some(share) = shares.get_mut(next) {
                share.opaques.push(single);
            }
            next = (next + 1) % count;
        }
    }
    Ok(())
}

impl Opaque {
    /// Returns an opaque that stays with the subtask of the same index.
    #[must_use]
    pub fn new(role: OpaqueRole, name: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        Self {
            role,
            name: name.into(),
            redistribution: Redistribution::None,
            channel: None,
            item_offsets: Vec::new(),
            content: OpaqueContent::Inline(bytes.into()),
        }
    }

    /// Returns the items of a list: the bytes between offsets, or all bytes as one item without offsets.
    ///
    /// # Errors
    /// `Usage` if the content is not inline; `Corrupt` if the offsets do not fit it.
    pub fn items(&self) -> Result<Vec<Bytes>> {
        let OpaqueContent::Inline(bytes) = &self.content else {
            return Err(Error::usage("opaque is stored elsewhere").with("name", &self.name));
        };
        if self.item_offsets.is_empty() {
            return Ok(vec![bytes.clone()]);
        }
        let misfit = || Error::corrupt("item offsets do not fit the opaque").with("name", &self.name);
        let end = bytes.len() as u64;
        let ends = self.item_offsets.iter().skip(1).copied().chain([end]);
        let slice = |(&start, stop): (&u64, u64)| {
            let range = usize::try_from(start).ok()?..usize::try_from(stop).ok()?;
            (range.start <= range.end && stop <= end).then(|| bytes.slice(range))
        };
        self.item_offsets.iter().zip(ends).map(|bounds| slice(bounds).ok_or_else(misfit)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(index: u32) -> Share {
        let groups = KeyGroupSet::empty();
        let (times, segments, opaques) = (vec![], vec![], vec![]);
        Share { subtask: Subtask(index), groups, watermark: Timestamp::MIN, times, segments, opaques }
    }

    fn opaque(redistribution: Redistribution, content: &'static [u8], item_offsets: Vec<u64>) -> Opaque {
        let content = OpaqueContent::Inline(Bytes::from_static(content));
        Opaque { role: OpaqueRole::Operator, name: "x".into(), redistribution, channel: Some(4), item_offsets, content }
    }

    /// Prints the opaques of each share.
    fn print(shares: &[Share]) -> Vec<String> {
        let print = |opaque: &Opaque| String::from_utf8(opaque.items().unwrap().concat()).unwrap();
        shares.iter().map(|share| share.opaques.iter().map(print).collect::<Vec<_>>().join("|")).collect()
    }

    /// Distributes an opaque of subtask 2 to three subtasks.
    fn distributed(redistribution: Redistribution) -> Vec<String> {
        let mut shares = vec![share(0), share(1), share(2)];
        distribute(Subtask(2), &opaque(redistribution, b"a", vec![]), &mut shares);
        print(&shares)
    }

    #[test]
    fn opaques_are_distributed_by_their_redistribution() {
        assert_eq!(distributed(Redistribution::None), ["", "", "a"]);
        assert_eq!(distributed(Redistribution::Split), ["", "", "a"], "not split: the parallelism is the same");
        assert_eq!(distributed(Redistribution::Union), ["a", "a", "a"]);
        assert_eq!(distributed(Redistribution::Broadcast), ["", "", ""]);
        assert_eq!(distributed(Redistribution::ByChannel), ["", "a", ""]);
    }

    #[test]
    fn items_are_distributed_in_turn_list_by_list() {
        let list = |name: &str, content, offsets| Opaque {
            name: name.into(),
            ..opaque(Redistribution::Split, content, offsets)
        };
        let mut shares = vec![share(0), share(1), share(2)];
        let parts = [list("x", b"abcd", vec![0, 1, 3, 3]), list("w", b"e", vec![]), list("x", b"f", vec![])];
        distribute_items(parts.iter().collect(), &mut shares).unwrap();
        assert_eq!(print(&shares), ["e|", "a|d", "bc|f"]);
    }

    #[test]
    fn offsets_that_do_not_fit_are_corrupt() {
        for offsets in [vec![0, 9], vec![2, 1], vec![0, u64::MAX]] {
            assert!(opaque(Redistribution::Split, b"abc", offsets).items().is_err());
        }
    }
}
