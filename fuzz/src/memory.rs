//! What a piece of work allocates at most at one time.

use std::sync::{Mutex, PoisonError};

use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What no input may exceed.
pub(crate) const CAP: usize = 256 << 20;

/// The counts are of the whole process.
static ALONE: Mutex<()> = Mutex::new(());

/// Does `work` and returns what it returns.
///
/// # Panics
/// If it held more than `cap` bytes at a time, beside what was held before.
pub(crate) fn bounded<R>(cap: usize, work: impl FnOnce() -> R) -> R {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let result = work();
    let held = ALLOCATOR.peak_usage().saturating_sub(before);
    assert!(held <= cap, "{held} bytes were held at a time: {cap} are allowed");
    result
}
