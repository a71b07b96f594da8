//! All sealed parts so far, as a restore would read them.

use crate::error::Result;
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::row::{RowBatch, RowSource, Sealed, SealedPart, SegmentKind};

/// Sealed parts, oldest first. As a [`RowSource`]: each group's newest base and later deltas.
#[derive(Debug, Clone, Default)]
pub struct History {
    parts: Vec<SealedPart>,
    groups: KeyGroupSet,
}

impl History {
    /// Adds the parts of a seal.
    pub fn add(&mut self, sealed: Sealed) {
        let groups = sealed.parts.iter().flat_map(|part| part.groups.ranges()).copied();
        self.groups = self.groups.union(&KeyGroupSet::from_ranges(groups));
        self.parts.extend(sealed.parts);
    }
}

impl RowSource for History {
    fn groups(&self) -> &KeyGroupSet {
        &self.groups
    }

    fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        let of_group: Vec<_> = self.parts.iter().filter(|part| part.groups.contains(group)).collect();
        let newest_base = of_group.iter().rposition(|part| part.kind == SegmentKind::Base).unwrap_or(0);
        of_group.iter().skip(newest_base).try_for_each(|part| part.rows.append_group(group, batch))
    }

    fn held_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.rows.held_bytes()).sum()
    }
}
