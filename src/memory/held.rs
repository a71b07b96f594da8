//! Counts of held bytes: of a whole budget, and of its parts.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How long an owner waits for others while none of them gives memory back.
const PATIENCE: Duration = Duration::from_secs(2);

/// Held bytes, those ever given back, and who waits for more of them.
#[derive(Debug, Default)]
pub(super) struct Held {
    bytes: AtomicU64,
    most: AtomicU64,
    released: AtomicU64,
    waiting: AtomicU32,
    lock: Mutex<()>,
    given_back: Condvar,
    /// What this is a part of, which is not a part itself.
    total: Option<Arc<Self>>,
}

impl Held {
    /// Returns a count for one owner.
    pub(super) fn part_of(held: &Arc<Self>) -> Self {
        let total = held.total.as_ref().unwrap_or(held);
        Self { total: Some(Arc::clone(total)), ..Self::default() }
    }

    pub(super) fn total(&self) -> &Self {
        self.total.as_deref().unwrap_or(self)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn most_bytes(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    /// Returns the bytes that other owners ever gave back.
    pub(super) fn released_by_others(&self) -> u64 {
        let [by_all, own] = [self.total(), self].map(|held| held.released.load(Ordering::SeqCst));
        by_all.wrapping_sub(own)
    }

    fn take(&self, bytes: u64) {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        match &self.total {
            Some(total) => total.take(bytes),
            None => _ = self.most.fetch_max(before.saturating_add(bytes), Ordering::Relaxed),
        }
    }

    fn give_back(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        // No wake-up is lost: this adds before it looks for waiters, and a waiter counts itself before it reads this.
        self.released.fetch_add(bytes, Ordering::SeqCst);
        if let Some(total) = &self.total {
            return total.give_back(bytes);
        }
        if self.waiting.load(Ordering::SeqCst) > 0 {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.given_back.notify_all();
        }
    }

    /// Returns whether an owner waits for others.
    pub(super) fn has_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Waits while other owners gave back `released` bytes in all; returns false after a while.
    pub(super) fn wait_for_others(&self, released: u64) -> bool {
        let total = self.total();
        total.waiting.fetch_add(1, Ordering::SeqCst);
        let guard = total.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let unchanged = |(): &mut ()| self.released_by_others() == released;
        let waited = total.given_back.wait_timeout_while(guard, PATIENCE, unchanged);
        total.waiting.fetch_sub(1, Ordering::SeqCst);
        let (_guard, result) = waited.unwrap_or_else(PoisonError::into_inner);
        !result.timed_out()
    }
}

/// Bytes held in a [`MemoryBudget`](super::MemoryBudget) until dropped.
#[derive(Debug)]
pub struct Charge {
    held: Arc<Held>,
    bytes: u64,
}

impl Charge {
    pub(super) fn new(held: &Arc<Held>, bytes: u64) -> Self {
        held.take(bytes);
        Self { held: Arc::clone(held), bytes }
    }

    /// Returns the bytes held.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Changes the bytes held to `bytes`.
    pub fn resize(&mut self, bytes: u64) {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.held.take(more),
            None => self.held.give_back(self.bytes - bytes),
        }
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.held.give_back(self.bytes);
    }
}
