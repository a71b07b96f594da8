//! Who restores what: a manifest and a parallelism in, each subtask's share out. Pure.

use bytes::Bytes;

use super::{Manifest, Opaque, OpaqueContent, OpaqueRole, Redistribution, SubtaskManifest, TableSchema};
use crate::error::{Error, Result};
use crate::id::{OperatorId, Subtask};
use crate::key_group::{KeyGroupSet, check_parallelism, subtask_range};
use crate::segment::SegmentRef;
use crate::time::Timestamp;

/// What each subtask of an operator restores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorPlan {
    /// The operator.
    pub id: OperatorId,
    /// Its tables as they were.
    pub tables: Vec<TableSchema>,
    /// One share per subtask of the new parallelism, in order.
    pub shares: Vec<Share>,
}

/// What one subtask restores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The subtask.
    pub subtask: Subtask,
    /// The groups that it will own.
    pub groups: KeyGroupSet,
    /// The smallest watermark of those it takes over from.
    pub watermark: Timestamp,
    /// The segments to read, oldest first for each group, each narrowed to the groups needed of it.
    pub segments: Vec<SegmentRef>,
    /// Its part of what travelled beside keyed state.
    pub opaques: Vec<Opaque>,
}

impl OperatorPlan {
    /// Returns the plan for `operator` of `manifest` at `parallelism`; if the manifest lacks it, one without rows.
    ///
    /// All its subtask manifests must be inline, and its opaques too (see `checkpoint::restore::resolve`).
    ///
    /// # Errors
    /// `Config` if the parallelism is out of range; `Usage` if something is not inline.
    pub fn new(manifest: &Manifest, operator: OperatorId, parallelism: u32) -> Result<Self> {
        let max = manifest.max_parallelism;
        check_parallelism(parallelism, max)?;
        let found = manifest.operators.iter().find(|candidate| candidate.id == operator);
        let old = found.map(|operator| operator.inline_subtasks()).transpose()?.unwrap_or_default();
        let mut shares: Vec<_> = (0..parallelism)
            .map(|index| Share::of(Subtask(index), subtask_range(max, parallelism, index).into(), &old))
            .collect();
        for subtask in &old {
            for opaque in &subtask.opaques {
                deal(subtask.subtask, opaque, &mut shares)?;
            }
        }
        let tables = found.map(|operator| operator.tables.clone()).unwrap_or_default();
        Ok(Self { id: operator, tables, shares })
    }
}

impl OperatorPlan {
    /// Returns the plan of an operator that has no state yet.
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
        // A group has one old owner, so its segments keep their order.
        let narrowed = |segment: &SegmentRef| {
            let groups = segment.groups.intersection(&groups);
            (!groups.is_empty()).then(|| SegmentRef { groups, ..segment.clone() })
        };
        let from: Vec<_> = old.iter().filter(|other| !other.groups.intersection(&groups).is_empty()).collect();
        let segments = from.iter().flat_map(|other| other.segments.iter().filter_map(narrowed)).collect();
        let watermark = from.iter().map(|other| other.watermark).min().unwrap_or(Timestamp::MIN);
        Self { subtask, groups, watermark, segments, opaques: Vec::new() }
    }
}

/// Deals one opaque of the old subtask `from` out to the new subtasks.
fn deal(from: Subtask, opaque: &Opaque, shares: &mut [Share]) -> Result<()> {
    let count = shares.len();
    let mut give = |index: usize, opaque: Opaque| {
        if let Some(share) = shares.get_mut(index) {
            share.opaques.push(opaque);
        }
    };
    match opaque.redistribution {
        Redistribution::None => {
            let same = from.0 as usize;
            give(if same < count { same } else { 0 }, opaque.clone());
        }
        Redistribution::ByChannel => give(opaque.channel.unwrap_or(0) as usize % count.max(1), opaque.clone()),
        Redistribution::Broadcast if from.0 > 0 => {}
        Redistribution::Broadcast | Redistribution::Union => (0..count).for_each(|index| give(index, opaque.clone())),
        Redistribution::Split => {
            let items = opaque.items()?;
            // Old subtask `i`'s items start where the others' would end, so that leftovers spread.
            for (at, item) in items.into_iter().enumerate() {
                let single = Opaque { item_offsets: vec![0], content: OpaqueContent::Inline(item), ..opaque.clone() };
                give((from.0 as usize + at) % count.max(1), single);
            }
        }
    }
    Ok(())
}

impl Opaque {
    /// Returns bytes that stay with the subtask of the same index.
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

    /// Returns the items of a list: what lies between its offsets, or all of it as one item.
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
        Share { subtask: Subtask(index), groups, watermark: Timestamp::MIN, segments: vec![], opaques: vec![] }
    }

    fn opaque(redistribution: Redistribution, content: &'static [u8], item_offsets: Vec<u64>) -> Opaque {
        let content = OpaqueContent::Inline(Bytes::from_static(content));
        Opaque { role: OpaqueRole::Operator, name: "x".into(), redistribution, channel: Some(4), item_offsets, content }
    }

    /// Deals `opaque` of subtask 2 out to three subtasks and prints what each got.
    fn dealt(opaque: &Opaque) -> Vec<String> {
        let mut shares = vec![share(0), share(1), share(2)];
        deal(Subtask(2), opaque, &mut shares).unwrap();
        let print = |opaque: &Opaque| String::from_utf8(opaque.items().unwrap().concat()).unwrap();
        shares.iter().map(|share| share.opaques.iter().map(print).collect::<Vec<_>>().join("|")).collect()
    }

    #[test]
    fn opaques_are_dealt_by_their_redistribution() {
        assert_eq!(dealt(&opaque(Redistribution::None, b"a", vec![])), ["", "", "a"]);
        assert_eq!(dealt(&opaque(Redistribution::Union, b"a", vec![])), ["a", "a", "a"]);
        assert_eq!(dealt(&opaque(Redistribution::Broadcast, b"a", vec![])), ["", "", ""]);
        assert_eq!(dealt(&opaque(Redistribution::ByChannel, b"a", vec![])), ["", "a", ""]);
        assert_eq!(dealt(&opaque(Redistribution::Split, b"abcdef", vec![0, 1, 3, 3])), ["bc", "", "a|def"]);
    }

    #[test]
    fn offsets_that_do_not_fit_are_corrupt() {
        for offsets in [vec![0, 9], vec![2, 1], vec![0, u64::MAX]] {
            assert!(opaque(Redistribution::Split, b"abc", offsets).items().is_err());
        }
    }
}
