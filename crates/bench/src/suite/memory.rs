//! Memory that checkpoints hold, beside what backends do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alluvium::MemoryBudget;

/// The budget that the backends of all lanes share with the background, and what of it the backends hold.
///
/// The rest is pinned: sealed rows that the backends have let go of, and encoded segments, until they are placed. What a
/// sealed part shares with a backend is the backend's.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    budget: MemoryBudget,
    backends: Arc<AtomicU64>,
}

impl Memory {
    pub(super) fn new(budget: MemoryBudget) -> Self {
        Self { budget, backends: Arc::default() }
    }

    /// Takes note that a backend holds `after` bytes, no longer `before`. Wraps round where it holds less.
    pub(super) fn moved(&self, before: u64, after: u64) {
        self.backends.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }

    /// Returns the bytes that are pinned.
    pub(super) fn pinned_bytes(&self) -> u64 {
        self.budget.held_bytes().saturating_sub(self.backends.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_is_what_backends_do_not_hold() {
        let budget = MemoryBudget::new(u64::MAX);
        let memory = Memory::new(budget.clone());
        let _rows = budget.charge(50);
        memory.moved(0, 30);
        memory.clone().moved(0, 15);
        assert_eq!(memory.pinned_bytes(), 5);
        memory.moved(30, 10);
        assert_eq!(memory.pinned_bytes(), 25);
        memory.moved(15, 90);
        assert_eq!(memory.pinned_bytes(), 0);
    }
}
