//! What a piece of work allocates at most at one time.

use std::sync::{Mutex, MutexGuard, PoisonError};

use peak_alloc::PeakAlloc;

/// The counts of [`PeakAlloc`], which the program that measures has as its global allocator.
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What no input may exceed.
pub const CAP: usize = 256 << 20;

/// The counts are of the whole process.
static COUNTS: Mutex<()> = Mutex::new(());

/// The right to measure. A test takes it first and keeps it: what any other thread allocates would count, too.
pub struct Alone(#[expect(dead_code, reason = "held, not looked at")] MutexGuard<'static, ()>);

/// Waits until nobody else measures, or makes ready to.
pub fn alone() -> Alone {
    Alone(COUNTS.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Alone {
    /// Does `work` and returns what it returns.
    ///
    /// # Panics
    /// If it held more than `cap` bytes at a time, beside what was held before.
    pub fn bounded<R>(&self, cap: usize, work: impl FnOnce() -> R) -> R {
        let before = ALLOCATOR.current_usage();
        assert!(before > 0, "the program has another global allocator: nothing is counted");
        ALLOCATOR.reset_peak_usage();
        let result = work();
        let held = ALLOCATOR.peak_usage().saturating_sub(before);
        assert!(held <= cap, "{held} bytes were held at a time: {cap} are allowed");
        result
    }
}
