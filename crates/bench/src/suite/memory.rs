//! Memory held by checkpoints, as opposed to backends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alluvium::MemoryBudget;

/// The memory budget shared by all lanes' backends and background work, and the part held by backends.
///
/// The rest is pinned: sealed rows that backends have released, and encoded segments, until placed. Rows shared by a
/// sealed part and a backend count as the backend's.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    budget: MemoryBudget,
    backends: Arc<AtomicU64>,
}

impl Memory {
    pub(super) fn new(budget: MemoryBudget) -> Self {
        Self { budget, backends: Arc::default() }
    }

    /// Records that a backend now holds `after` bytes instead of `before`. The sum wraps, so a decrease is also exact.
    pub(super) fn replace(&self, before: u64, after: u64) {
        self.backends.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }

    /// Returns the pinned bytes.
    pub(super) fn pinned_bytes(&self) -> u64 {
        self.budget.held_bytes().saturating_sub(self.backends.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_outside_backends_are_pinned() {
        let budget = MemoryBudget::new(u64::MAX);
        let memory = Memory::new(budget.clone());
        let _rows = budget.charge(50);
        memory.replace(0, 30);
        memory.clone().replace(0, 15);
        assert_eq!(memory.pinned_bytes(), 5);
        memory.replace(30, 10);
        assert_eq!(memory.pinned_bytes(), 25);
        memory.replace(15, 90);
        assert_eq!(memory.pinned_bytes(), 0);
    }
}
