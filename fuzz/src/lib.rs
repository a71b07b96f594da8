//! Runs the targets of the testkit and of the tool under an allocator that counts.

use alluvium_testkit::fuzz::{self, Body};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Gives `data` to `target`, within the bound of memory.
///
/// # Panics
/// If a rule broke.
pub fn run(target: Body, data: &[u8]) {
    fuzz::run(target, data);
}
