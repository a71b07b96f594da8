//! Budgets of a process: memory, shared by several owners, and the local disk that cold state goes to.

mod blocks;
mod counts;
mod disk;
mod file;
mod held;
mod space;

use std::sync::Arc;

pub(crate) use self::disk::Extent;
pub use self::disk::{DiskTier, DiskTierStats};
pub use self::file::TierFile;
pub use self::held::Charge;
use self::held::Held;

/// Cold state goes to the disk in batches of this part of what may be held: larger ones would leave more memory unused.
const BATCHES: u64 = 64;

/// What a small budget keeps free for checkpoints.
const SPARE_BYTES: u64 = 2 << 20;

/// A shared count of held bytes with a limit, and the disk that state goes to before the limit is reached. Clones share
/// both.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    /// By all owners, or by the one whose part this is.
    held: Arc<Held>,
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

    /// Lets backends move cold state to `disk` once more than 15/16 of the limit is held. A limit below 32 MiB keeps 2 MiB free
    /// for checkpoints, or a quarter of itself if that is less.
    #[must_use]
    pub fn with_disk(self, disk: DiskTier) -> Self {
        let left = (self.limit / 16).max(SPARE_BYTES.min(self.limit / 4));
        let beyond = self.limit - left;
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

    /// Returns a budget for one owner: what it holds counts here as well, and is known for itself.
    #[must_use]
    pub(crate) fn part(&self) -> Self {
        let disk = self.disk.as_ref().map(|Below { disk, beyond }| Below { disk: disk.part(), beyond: *beyond });
        Self { held: Arc::new(Held::part_of(&self.held)), disk, limit: self.limit }
    }

    /// Returns the bytes that the owner of this part holds now.
    pub(crate) fn own_bytes(&self) -> u64 {
        self.held.bytes()
    }

    /// Returns the bytes held now.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.held.total().bytes()
    }

    /// Returns the most bytes that were ever held.
    #[must_use]
    pub fn most_bytes(&self) -> u64 {
        self.held.total().most_bytes()
    }

    /// Returns the bytes that other parts ever gave back.
    pub(crate) fn released_by_others(&self) -> u64 {
        self.held.released_by_others()
    }

    /// Waits until another part gives memory back, if there is a disk that parts can move state to. Returns false if no other
    /// part holds any, or none was given back for a while.
    ///
    /// * `released`: [`MemoryBudget::released_by_others`] before memory was found to be short.
    pub(crate) fn wait_for_others(&self, released: u64) -> bool {
        self.disk.is_some() && self.own_bytes() < self.held_bytes() && self.held.wait_for_others(released)
    }

    /// Returns whether a part waits for memory of others.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.held.total().has_waiting()
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
    /// work comes in batches. While an owner waits for memory, the others give it a batch.
    #[must_use]
    pub(crate) fn bytes_to_demote(&self) -> u64 {
        let Some(Below { beyond, .. }) = self.disk else { return 0 };
        let (held, batch) = (self.held_bytes(), beyond / BATCHES);
        if held > beyond {
            held - (beyond - batch)
        } else if self.is_waited_for() {
            batch
        } else {
            0
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
        Charge::new(&self.held, bytes)
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
        assert_eq!((budget.held_bytes(), budget.most_bytes()), (0, 9));
    }

    #[test]
    fn a_write_that_the_disk_refuses_gives_nothing_back() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let disk = DiskTier::on_file(std::fs::File::open(file.path()).unwrap(), 1 << 20);
        let budget = MemoryBudget::new(1000).with_disk(disk);
        let (one, other) = (budget.part(), budget.part());
        let before = one.released_by_others();
        for _ in 0..2 {
            assert!(other.disk().unwrap().write(&[1; 600], 100, &other).is_err());
        }
        assert_eq!((one.released_by_others(), budget.held_bytes()), (before, 0), "nobody waits for this");
        assert_eq!(budget.disk().unwrap().stats().held_bytes, 0);
    }

    #[test]
    fn a_part_waits_for_the_others_alone() {
        let budget = MemoryBudget::new(10).with_disk(DiskTier::on_file(tempfile::tempfile().unwrap(), 0));
        let (one, other) = (budget.part(), budget.part());
        let (_of_one, of_other) = (one.charge(4), other.charge(6));
        assert_eq!((budget.held_bytes(), one.held_bytes()), (10, 10));
        let before = one.released_by_others();
        drop(of_other);
        assert!(!one.wait_for_others(before), "it holds all that is held");
        let (of_other, _rest) = (other.charge(6), other.charge(1));
        assert!(one.wait_for_others(before), "memory was given back meanwhile");
        let before = one.released_by_others();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| one.wait_for_others(before));
            drop(of_other);
            assert!(waits.join().unwrap());
        });
    }
}
