//! Bounds a computation's peak allocation.

use std::sync::{Mutex, MutexGuard, PoisonError};

use peak_alloc::PeakAlloc;

/// The counters of [`PeakAlloc`], which the measuring program installs as its global allocator.
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// The limit for any input.
pub const CAP: usize = 256 << 20;

/// Guards the counters, which are process-wide.
static COUNTS: Mutex<()> = Mutex::new(());

/// Exclusive right to measure. A test takes and holds it first, because other threads' allocations would count too.
pub struct Alone(#[expect(dead_code, reason = "held, not looked at")] MutexGuard<'static, ()>);

/// Waits for exclusive access to the counters.
pub fn alone() -> Alone {
    Alone(COUNTS.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Alone {
    /// Runs `work` and returns its result.
    ///
    /// # Panics
    /// If `work` held more than `cap` bytes at once, beyond those held before.
    pub fn bounded<R>(&self, cap: usize, work: impl FnOnce() -> R) -> R {
        let before = ALLOCATOR.current_usage();
        assert!(before > 0, "the global allocator does not count");
        ALLOCATOR.reset_peak_usage();
        let result = work();
        let held = ALLOCATOR.peak_usage().saturating_sub(before);
        assert!(held <= cap, "{held} bytes held at once, limit {cap}");
        result
    }
}
