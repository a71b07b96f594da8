//! The aggregate shared by tests and benches of accumulators.

use alluvium::Aggregate;

/// Count and sum; the mean is rounded down.
#[derive(Debug)]
pub struct Mean;

impl Aggregate for Mean {
    type Input = u64;
    type Accumulator = (u64, u64);
    type Output = u64;

    fn name(&self) -> &'static str {
        "mean"
    }

    fn create(&self) -> (u64, u64) {
        (0, 0)
    }

    fn add(&self, (count, sum): &mut (u64, u64), input: &u64) {
        (*count, *sum) = (*count + 1, sum.wrapping_add(*input));
    }

    fn merge(&self, older: (u64, u64), newer: (u64, u64)) -> (u64, u64) {
        (older.0 + newer.0, older.1.wrapping_add(newer.1))
    }

    fn result(&self, (count, sum): &(u64, u64)) -> u64 {
        sum.checked_div(*count).unwrap_or(0)
    }
}
