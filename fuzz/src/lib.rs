//! Runs the targets of the testkit and the tool under a counting allocator.

use alluvium_testkit::fuzz::{self, Body};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Runs `target` on `data`, within the memory bound.
///
/// # Panics
/// If an invariant is violated.
pub fn run(target: Body, data: &[u8]) {
    fuzz::run(target, data);
}
