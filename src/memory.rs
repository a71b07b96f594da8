//! A memory budget shared by several owners: backends for their rows, the pipeline for its segments.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A shared count of held bytes with a limit. Clones share the count.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    held: Arc<AtomicU64>,
    limit: u64,
}

impl MemoryBudget {
    /// Returns a budget of `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self { held: Arc::default(), limit }
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
