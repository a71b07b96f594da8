//! Budgets of a process: memory, shared by several owners, and the local disk that cold state goes to.

mod disk;
mod file;
mod space;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use self::disk::Extent;
pub use self::disk::{DiskTier, DiskTierStats};
pub use self::file::TierFile;

/// A shared count of held bytes with a limit, and the disk that state goes to before the limit is reached. Clones share
/// both.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    held: Arc<AtomicU64>,
    limit: u64,
    disk: Option<Below>,
}

/// The tier below memory.
#[derive(Debug, Clone)]
struct Below {
    disk: DiskTier,
    /// The most bytes held before cold state goes there.
    beyond: u64,
}

impl MemoryBudget {
    /// Returns a budget of `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self { held: Arc::default(), limit, disk: None }
    }

    /// Has backends that can move cold state to `disk` once more than 15/16 of the limit is held.
    #[must_use]
    pub fn with_disk(self, disk: DiskTier) -> Self {
        let beyond = self.limit - self.limit / 16;
        self.with_disk_beyond(disk, beyond)
    }

    /// As [`MemoryBudget::with_disk`], once more than `beyond` bytes are held.
    #[must_use]
    pub fn with_disk_beyond(self, disk: DiskTier, beyond: u64) -> Self {
        Self { disk: Some(Below { disk, beyond }), ..self }
    }

    /// Returns the disk that cold state goes to.
    #[must_use]
    pub fn disk(&self) -> Option<&DiskTier> {
        self.disk.as_ref().map(|below| &below.disk)
    }

    /// Returns the bytes held now.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Returns the limit in bytes.
    #[must_use]
    pub fn limit_bytes(&self) -> u64 {
        self.limit
    }

    /// Returns whether `bytes` more would stay within the limit.
    #[must_use]
    pub fn has_room(&self, bytes: u64) -> bool {
        self.held_bytes().saturating_add(bytes) <= self.limit
    }

    /// Returns how many bytes may be held before cold state goes to the disk.
    #[must_use]
    pub(crate) fn bytes_before_disk(&self) -> u64 {
        self.disk.as_ref().map_or(u64::MAX, |below| below.beyond)
    }

    /// Returns how many bytes of cold state should go to the disk now: a little more than what is held too much, so that the
    /// work comes in batches.
    #[must_use]
    pub(crate) fn bytes_to_demote(&self) -> u64 {
        match (&self.disk, self.held_bytes()) {
            (Some(below), held) if held > below.beyond => held - (below.beyond - below.beyond / 16),
            _ => 0,
        }
    }

    /// Returns whether a load should leave what it loads on the disk: a quarter of what may be held is held. The rest is for
    /// the index, which cannot go there, and for what is needed first.
    #[must_use]
    pub(crate) fn loads_to_disk(&self) -> bool {
        self.disk.as_ref().is_some_and(|below| self.held_bytes() > below.beyond / 4)
    }

    /// Holds `bytes` until the charge is dropped, even beyond the limit. Callers that can wait check
    /// [`MemoryBudget::has_room`] first.
    #[must_use]
    pub fn charge(&self, bytes: u64) -> Charge {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        Charge { held: Arc::clone(&self.held), bytes }
    }
}

/// Bytes held in a [`MemoryBudget`] until dropped.
#[derive(Debug)]
pub struct Charge {
    held: Arc<AtomicU64>,
    bytes: u64,
}

impl Charge {
    /// Returns the bytes held.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Changes the bytes held to `bytes`.
    pub fn resize(&mut self, bytes: u64) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.held.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_charges_are_released() {
        let budget = MemoryBudget::new(10);
        let mut charge = budget.charge(6);
        assert!(budget.has_room(4) && !budget.has_room(5));
        charge.resize(9);
        assert_eq!((budget.held_bytes(), charge.bytes()), (9, 9));
        drop(charge);
        assert_eq!(budget.held_bytes(), 0);
    }
}
