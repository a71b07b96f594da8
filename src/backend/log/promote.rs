//! Bringing records back from the disk that are read again and again. Those that are written come back with the write.

use super::LogBackend;
use super::fetch::Fetched;
use super::group::{Found, Group};
use super::region::Section;
use super::row_access::Located;

/// Rows whose last read from the disk is remembered.
const REMEMBERED: usize = 1 << 14;

/// The rows that were read from the disk not long ago. One that is read again soon is hot; a scan of many is not.
#[derive(Debug, Default)]
pub(super) struct RecentReads {
    /// By the lower bits of a row's hash, the hash. Empty until the first read.
    hashes: Vec<u32>,
}

impl RecentReads {
    /// Notes a read; returns whether the row was read not long ago.
    fn note(&mut self, group: u16, hash: u32) -> bool {
        self.hashes.resize(REMEMBERED, 0);
        let row = (hash ^ u32::from(group).wrapping_mul(0x9e37_79b1)).max(1);
        match self.hashes.get_mut(row as usize % REMEMBERED) {
            Some(last) => std::mem::replace(last, row) == row,
            None => false,
        }
    }
}

impl LogBackend {
    /// Copies a row that was just read from the disk back to memory, if that is the second time in a short while.
    pub(super) fn promote_hot(&mut self, located: &Located<'_>) {
        let Some(found) = located.found else { return };
        if located.fetched.is_empty() || !self.recent_reads.note(located.id.0, located.hash) {
            return;
        }
        if let Some(Some(group)) = self.groups.get_mut(usize::from(located.id.0)) {
            group.promote(&found, &located.fetched);
            self.relieve();
        }
    }
}

impl Group {
    /// Copies a row's newest record, which was fetched, to a clean region, if it is its whole value and memory has room.
    fn promote(&mut self, found: &Found, fetched: &Fetched) {
        let Found { bucket, address, shape } = *found;
        let Some(bytes) = fetched.get(address).and_then(|bytes| bytes.get(..shape.len)) else { return };
        let more = self.regions.growth_bytes(Section::Frozen, shape.len);
        if !shape.is_plain() || !shape.is_compact() || shape.is_tombstone() || !self.regions.budget().has_room(more) {
            return;
        }
        // It is the newest record of its row, so it may stand anywhere behind the others.
        let copy = self.regions.append_copy(Section::Frozen, &shape, bytes);
        self.regions.supersede(address, &shape);
        self.index.point(bucket, copy);
    }
}
