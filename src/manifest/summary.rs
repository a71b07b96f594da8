//! Summaries of subtask manifests: what must be known of one that lies in a slice, without reading it.

use super::subtask::{begun, groups, ranges, time};
use super::{Opaque, Redistribution, SubtaskEntry, SubtaskManifest, proto};
use crate::error::{Error, Result};
use crate::key_group::KeyGroupSet;
use crate::row::agreed;
use crate::segment::sum;
use crate::time::Timestamp;

/// What must be known of a subtask manifest without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubtaskSummary {
    /// The key groups owned.
    pub groups: KeyGroupSet,
    /// The event time of all groups; [`Timestamp::MIN`] if they differ.
    pub event_time: Timestamp,
    /// The processing time of all groups; [`Timestamp::MIN`] if they differ.
    pub processing_time: Timestamp,
    /// Length of its segments.
    pub bytes: u64,
    /// Records in its segments.
    pub records: u64,
    /// Who gets its opaques.
    pub opaques: OpaqueReach,
}

/// Which subtasks get opaques of a subtask when it is restored. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum OpaqueReach {
    /// None.
    None = 0,
    /// The subtask of the same index, or subtask 0 without one.
    SameIndex = 1,
    /// The subtask of the same index; at another parallelism any.
    Lists = 2,
    /// Any.
    OtherSubtasks = 3,
}

impl SubtaskSummary {
    /// Returns the event time and the processing time on which all groups of all subtasks agree, each
    /// [`Timestamp::MIN`] if they differ.
    pub fn common_times<'a>(summaries: impl Iterator<Item = &'a Self> + Clone) -> (Timestamp, Timestamp) {
        // The times of a subtask without groups are no group's.
        let owners = summaries.filter(|summary| !summary.groups.is_empty());
        (agreed(owners.clone().map(|it| it.event_time)), agreed(owners.map(|it| it.processing_time)))
    }
}

impl SubtaskManifest {
    /// Returns its summary.
    #[must_use]
    pub fn summary(&self) -> SubtaskSummary {
        let times = self.group_times();
        SubtaskSummary {
            groups: self.groups.clone(),
            event_time: agreed(times.iter().map(|it| it.event_time)),
            processing_time: agreed(times.iter().map(|it| it.processing_time)),
            bytes: sum(self.segments.iter().map(|segment| segment.length)),
            records: sum(self.segments.iter().map(|segment| segment.records)),
            opaques: self.opaque_reach(),
        }
    }

    /// Refuses a summary of something else: decisions made from it were wrong.
    ///
    /// # Errors
    /// `Corrupt`, with the groups of both.
    pub(crate) fn check_summary(&self, summary: &SubtaskSummary) -> Result<()> {
        if self.summary() == *summary {
            return Ok(());
        }
        let error = Error::corrupt("subtask manifest differs from its summary").with("subtask", self.subtask);
        Err(error.with("groups", &self.groups).with("expected", &summary.groups))
    }

    /// Returns which subtasks get its opaques.
    fn opaque_reach(&self) -> OpaqueReach {
        let reach = |opaque: &Opaque| match opaque.redistribution {
            Redistribution::None => OpaqueReach::SameIndex,
            Redistribution::Split => OpaqueReach::Lists,
            Redistribution::Broadcast if self.subtask.0 > 0 => OpaqueReach::None,
            // Who gets its key groups gets their items, and reads it for their rows anyway.
            Redistribution::ByKeyGroup => OpaqueReach::None,
            Redistribution::Broadcast | Redistribution::Union | Redistribution::ByChannel => OpaqueReach::OtherSubtasks,
        };
        self.opaques.iter().map(reach).max().unwrap_or(OpaqueReach::None)
    }
}

impl SubtaskEntry {
    /// Returns the summary of its subtask manifest.
    #[must_use]
    pub fn summary(&self) -> SubtaskSummary {
        match self {
            Self::Inline(subtask) => subtask.summary(),
            Self::Slice(stored) => stored.summary.clone(),
        }
    }

    /// Returns the key groups that the subtask owns.
    #[must_use]
    pub const fn groups(&self) -> &KeyGroupSet {
        match self {
            Self::Inline(subtask) => &subtask.groups,
            Self::Slice(stored) => &stored.summary.groups,
        }
    }

    /// Returns which subtasks get its opaques.
    #[must_use]
    pub fn opaque_reach(&self) -> OpaqueReach {
        match self {
            Self::Inline(subtask) => subtask.opaque_reach(),
            Self::Slice(stored) => stored.summary.opaques,
        }
    }
}

impl OpaqueReach {
    /// Returns the variant with the stored `number`. Unlike other enums, 0 is one: most subtasks have no opaques.
    fn from_stored(number: u32) -> Result<Self> {
        let known = [Self::None, Self::SameIndex, Self::Lists, Self::OtherSubtasks];
        let found = known.into_iter().find(|reach| *reach as u32 == number);
        found.ok_or_else(|| Error::version("unknown OpaqueReach").with("found", number))
    }
}

impl From<&SubtaskSummary> for proto::SubtaskSummary {
    fn from(summary: &SubtaskSummary) -> Self {
        Self {
            groups: ranges(&summary.groups),
            event_time_ms: begun(summary.event_time),
            processing_time_ms: begun(summary.processing_time),
            bytes: summary.bytes,
            records: summary.records,
            opaques: summary.opaques as u32,
        }
    }
}

impl TryFrom<proto::SubtaskSummary> for SubtaskSummary {
    type Error = Error;

    fn try_from(message: proto::SubtaskSummary) -> Result<Self> {
        Ok(Self {
            groups: groups(&message.groups)?,
            event_time: time(message.event_time_ms),
            processing_time: time(message.processing_time_ms),
            bytes: message.bytes,
            records: message.records,
            opaques: OpaqueReach::from_stored(message.opaques)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::envelope::{self, ObjectKind};
    use crate::error::ErrorKind;
    use crate::id::{Hash, PutId, Subtask};
    use crate::key_group::KeyGroupRange;
    use crate::manifest::tests::manifest;
    use crate::manifest::{Manifest, ObjectSlice, SubtaskSlice};
    use crate::row::GroupTimes;

    /// Returns a manifest whose subtasks all lie in slices.
    fn sliced() -> Manifest {
        let mut manifest = manifest();
        let object = manifest.objects[1].id;
        for entry in &mut manifest.operators[0].subtasks {
            let slice = ObjectSlice { object, offset: 10, length: 20, hash: Hash::default() };
            *entry = SubtaskEntry::Slice(SubtaskSlice { slice, summary: entry.summary() });
        }
        manifest
    }

    fn summary(manifest: &mut Manifest, at: usize) -> &mut SubtaskSummary {
        match &mut manifest.operators[0].subtasks[at] {
            SubtaskEntry::Slice(stored) => &mut stored.summary,
            SubtaskEntry::Inline(_) => panic!("all are slices"),
        }
    }

    fn read(manifest: &Manifest, message: &proto::Manifest) -> Result<Manifest> {
        let object = envelope::encode(ObjectKind::Manifest, PutId::default(), &message.encode_to_vec());
        Manifest::decode(&object, manifest.seq).map(|(manifest, _)| manifest)
    }

    #[test]
    fn a_summary_is_read_as_it_was_written() {
        let mut manifest = sliced();
        summary(&mut manifest, 0).event_time = Timestamp::from_millis(-3);
        for reach in [OpaqueReach::None, OpaqueReach::SameIndex, OpaqueReach::Lists, OpaqueReach::OtherSubtasks] {
            summary(&mut manifest, 1).opaques = reach;
            let object = manifest.encode(PutId::default()).unwrap();
            assert_eq!(Manifest::decode(&object, manifest.seq).unwrap().0, manifest);
        }
    }

    #[test]
    fn owners_of_groups_are_checked_across_slices() {
        let said = |groups: KeyGroupRange, at: usize| {
            let mut manifest = sliced();
            summary(&mut manifest, at).groups = groups.into();
            assert_eq!(manifest.encode(PutId::default()).unwrap_err().kind(), ErrorKind::Usage);
            let error = read(&manifest, &(&manifest).into()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            error.chain()
        };
        assert!(said(KeyGroupRange::new(0, 3), 0).contains("no owner groups=`3..4`"));
        assert!(said(KeyGroupRange::new(3, 8), 1).contains("two owners"));
        assert!(said(KeyGroupRange::new(4, 9), 1).contains("does not have"));
    }

    #[test]
    fn hostile_summaries_are_refused() {
        let kind = |edit: &dyn Fn(&mut proto::SubtaskSlice)| {
            let manifest = sliced();
            let mut message = proto::Manifest::from(&manifest);
            match &mut message.operators[0].subtasks[0].subtask {
                Some(proto::Subtask::Slice(stored)) => edit(stored),
                other => panic!("{other:?}"),
            }
            read(&manifest, &message).map_err(|error| error.kind()).map(drop)
        };
        let range = |start, end| proto::KeyGroupRange { start, end };
        assert_eq!(kind(&|_| ()), Ok(()));
        assert_eq!(kind(&|stored| stored.summary.as_mut().unwrap().opaques = 4), Err(ErrorKind::Version));
        assert_eq!(kind(&|stored| stored.summary = None), Err(ErrorKind::Corrupt));
        assert_eq!(kind(&|stored| stored.slice = None), Err(ErrorKind::Corrupt));
        for ranges in [vec![range(0, 70_000)], vec![range(0, 40_000)], vec![range(0, 2), range(1, 4)]] {
            let edit = |stored: &mut proto::SubtaskSlice| stored.summary.as_mut().unwrap().groups.clone_from(&ranges);
            assert_eq!(kind(&edit), Err(ErrorKind::Corrupt), "{ranges:?}");
        }
    }

    #[test]
    fn a_slice_without_a_summary_is_of_an_unknown_version() {
        let manifest = manifest();
        let mut message = proto::Manifest::from(&manifest);
        message.operators[0].subtasks.clear();
        message.operators[0].tables.clear();
        let mut body = message.operators.remove(0).encode_to_vec();
        // Field 5, a subtask with field 2: an empty slice of the format before the first release.
        body.extend([0x2a, 2, 0x12, 0]);
        let mut message = message.encode_to_vec();
        message.extend([0x7a, u8::try_from(body.len()).unwrap_or(0)]);
        message.extend(body);
        let object = envelope::encode(ObjectKind::Manifest, PutId::default(), &message);
        let error = Manifest::decode(&object, manifest.seq).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Version, "{error:?}");
    }

    #[test]
    fn a_manifest_that_differs_from_its_summary_is_refused() {
        let manifest = manifest();
        let subtask = manifest.operators[0].subtasks[0].inline().unwrap();
        let right = subtask.summary();
        assert!(subtask.check_summary(&right).is_ok());
        for wrong in [
            SubtaskSummary { groups: KeyGroupRange::new(0, 3).into(), ..right.clone() },
            SubtaskSummary { event_time: Timestamp::MAX, ..right.clone() },
            SubtaskSummary { bytes: right.bytes + 1, ..right.clone() },
            SubtaskSummary { opaques: OpaqueReach::None, ..right.clone() },
        ] {
            assert_eq!(subtask.check_summary(&wrong).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn the_totals_are_those_of_the_segments() {
        let summary = manifest().operators[0].subtasks[0].summary();
        assert_eq!((summary.bytes, summary.records), (1000, 34), "opaques do not count");
    }

    #[test]
    fn opaques_reach_as_far_as_they_are_distributed() {
        let reach = |index: u32, redistributions: &[Redistribution]| {
            let mut subtask = manifest().operators[0].subtasks[0].inline().unwrap().clone();
            subtask.subtask = Subtask(index);
            let opaque = subtask.opaques[0].clone();
            let with = |&redistribution: &Redistribution| Opaque { redistribution, ..opaque.clone() };
            subtask.opaques = redistributions.iter().map(with).collect();
            subtask.summary().opaques
        };
        assert_eq!(reach(1, &[]), OpaqueReach::None);
        assert_eq!(reach(1, &[Redistribution::None]), OpaqueReach::SameIndex);
        assert_eq!(reach(1, &[Redistribution::Split, Redistribution::None]), OpaqueReach::Lists);
        assert_eq!(reach(1, &[Redistribution::Broadcast]), OpaqueReach::None);
        assert_eq!(reach(0, &[Redistribution::Broadcast]), OpaqueReach::OtherSubtasks);
        assert_eq!(reach(1, &[Redistribution::Union, Redistribution::None]), OpaqueReach::OtherSubtasks);
        assert_eq!(reach(1, &[Redistribution::ByChannel]), OpaqueReach::OtherSubtasks);
        assert_eq!(reach(1, &[Redistribution::ByKeyGroup]), OpaqueReach::None);
    }

    #[test]
    fn the_times_of_summaries_agree_like_those_of_groups() {
        let range = |at: u16| KeyGroupRange::new(at, at + 1);
        let subtask = |index: u16, groups: &[(u16, i64)]| {
            let mut subtask = manifest().operators[0].subtasks[0].inline().unwrap().clone();
            let time = Timestamp::from_millis;
            subtask.subtask = Subtask(u32::from(index));
            subtask.groups = KeyGroupSet::from_ranges(groups.iter().map(|&(at, _)| range(at)));
            subtask.times = groups.iter().map(|&(at, ms)| GroupTimes::new(range(at), time(ms), time(7))).collect();
            subtask
        };
        for (groups, expected) in [
            ([[(0, 5), (1, 5)].as_slice(), &[(2, 5)], &[]], Timestamp::from_millis(5)),
            ([[(0, 5), (1, 6)].as_slice(), &[(2, 5)], &[]], Timestamp::MIN),
            ([[(0, 5), (1, 5)].as_slice(), &[(2, 6)], &[]], Timestamp::MIN),
        ] {
            let subtasks: Vec<_> = (0..).zip(groups).map(|(index, groups)| subtask(index, groups)).collect();
            let records: Vec<_> = subtasks.iter().flat_map(SubtaskManifest::group_times).collect();
            let event_time = agreed(records.iter().map(|it| it.event_time));
            let processing_time = agreed(records.iter().map(|it| it.processing_time));
            let summaries: Vec<_> = subtasks.iter().map(SubtaskManifest::summary).collect();
            assert_eq!(SubtaskSummary::common_times(summaries.iter()), (event_time, processing_time));
            assert_eq!((event_time, processing_time), (expected, Timestamp::from_millis(7)));
        }
    }
}
