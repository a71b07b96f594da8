//! The `heat` extension: the load of key groups in a checkpoint's epoch. Readers may ignore it.

use bytes::Bytes;
use prost::Message as _;

use super::weight::HEAT;
use super::{Extension, Manifest, proto};
use crate::error::{Error, Result};
use crate::id::OperatorId;
use crate::key_group::KeyGroup;
use crate::row::GroupHeat;

const TAG: &str = "heat";

/// Maximum number of groups per operator: the most written ones are kept.
const MAX_GROUPS: usize = 256;

impl Extension {
    /// Returns the extension with the most written groups of each operator.
    #[must_use]
    pub fn heat(operators: Vec<(OperatorId, Vec<GroupHeat>)>) -> Self {
        let operators = operators.into_iter().map(|(id, mut groups)| {
            // Reads of other groups count in their warmth.
            groups.retain(|heat| heat.dirty_rows > 0);
            groups.sort_unstable_by_key(|heat| std::cmp::Reverse((heat.writes, heat.dirty_rows, heat.group)));
            groups.truncate(MAX_GROUPS);
            groups.sort_unstable_by_key(|heat| heat.group);
            proto::OperatorHeat { id: id.0, groups: groups.iter().map(Into::into).collect() }
        });
        let heat = proto::Heat { operators: operators.collect() };
        Self { tag: TAG.to_owned(), required: false, bytes: Bytes::from(heat.encode_to_vec()) }
    }
}

impl Manifest {
    /// Returns the load of the groups of `operator` listed in this checkpoint, ascending; empty without any.
    ///
    /// # Errors
    /// `Corrupt` if the extension is malformed.
    pub fn heat(&self, operator: OperatorId) -> Result<Vec<GroupHeat>> {
        let heat: proto::Heat = self.extension(TAG, HEAT)?;
        let of_operator = heat.operators.into_iter().filter(|heat| heat.id == operator.0);
        of_operator.flat_map(|heat| heat.groups).map(TryInto::try_into).collect()
    }
}

impl From<&GroupHeat> for proto::GroupHeat {
    fn from(heat: &GroupHeat) -> Self {
        let GroupHeat { group, rows, live_bytes, dirty_rows, reads, writes } = *heat;
        Self { group: u32::from(group.0), rows, live_bytes, dirty_rows, reads, writes }
    }
}

impl TryFrom<proto::GroupHeat> for GroupHeat {
    type Error = Error;

    fn try_from(heat: proto::GroupHeat) -> Result<Self> {
        let proto::GroupHeat { group, rows, live_bytes, dirty_rows, reads, writes } = heat;
        let group = u16::try_from(group).map_err(|_| Error::corrupt("no such key group").with("group", group))?;
        Ok(Self { group: KeyGroup(group), rows, live_bytes, dirty_rows, reads, writes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::manifest::tests::manifest;

    fn heat(group: u16, writes: u64) -> GroupHeat {
        GroupHeat { group: KeyGroup(group), rows: 7, live_bytes: 70, dirty_rows: 3, reads: 9, writes }
    }

    #[test]
    fn the_most_written_groups_are_listed() {
        let mut manifest = manifest();
        let groups: Vec<_> = (0..1000).map(|group| heat(group, u64::from(group) % 500)).collect();
        manifest.extensions = vec![Extension::heat(vec![(OperatorId(1), vec![heat(5, 6)]), (OperatorId(2), groups)])];
        assert_eq!(manifest.heat(OperatorId(1)).unwrap(), [heat(5, 6)]);
        assert_eq!(manifest.heat(OperatorId(3)).unwrap(), []);
        let listed = manifest.heat(OperatorId(2)).unwrap();
        assert!(listed.len() == MAX_GROUPS && listed.is_sorted_by_key(|heat| heat.group));
        assert!(listed.iter().all(|heat| heat.writes >= 372));
        manifest.extensions[0].bytes = Bytes::from_static(b"\xff\xff");
        assert_eq!(manifest.heat(OperatorId(1)).unwrap_err().kind(), ErrorKind::Corrupt);
        manifest.extensions.clear();
        assert_eq!(manifest.heat(OperatorId(1)).unwrap(), []);
    }
}
