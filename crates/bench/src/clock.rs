//! The tool's clock: durations for people and reports. Results never depend on the clock.
#![expect(clippy::disallowed_methods, reason = "the tool measures itself; the library takes time as an argument")]

use std::time::{Duration, Instant};

/// Returns the monotonic clock's current instant.
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// Blocks this thread.
pub fn sleep(duration: Duration) {
    std::thread::sleep(duration);
}
