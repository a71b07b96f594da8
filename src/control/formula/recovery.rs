//! The duration of a recovery: the outage, and the catch-up after it.

use super::sane;

/// Returns the time to work off `behind` seconds of input at `rate` with `capacity`; infinite if `rate >= capacity`.
///
/// # Source
/// `docs/formulas.md`, A7: `lam W / (mu - lam)`. Check: (25.5, 50e3, 100e3) is 25.5.
#[must_use]
pub(super) fn catch_up(behind: f64, rate: f64, capacity: f64) -> f64 {
    if !sane(&[behind, rate, capacity]) {
        return f64::NAN;
    }
    if rate >= capacity { f64::INFINITY } else { rate * behind / (capacity - rate) }
}

/// Returns the time from a failure until the job has caught up, if the last checkpoint is `age` old.
///
/// The age is at worst an interval plus a checkpoint's duration. Infinite if `rate >= capacity`.
///
/// # Source
/// `docs/formulas.md`, A7: `D + lam (a + D) / (mu - lam)`. Check: (15, 10.5, 50e3, 100e3) is 40.5.
#[must_use]
pub fn recovery(outage: f64, age: f64, rate: f64, capacity: f64) -> f64 {
    outage + catch_up(age + outage, rate, capacity)
}

#[cfg(test)]
mod tests {
    use super::super::prints;
    use super::*;

    #[test]
    fn a7_recovery() {
        for (lam, mu, age, outage, total) in [
            (50e3, 100e3, 10.5, 15.0, "40.500"),
            (50e3, 60e3, 10.5, 15.0, "142.500"),
            (80e3, 100e3, 31.0, 25.0, "249.000"),
            (80e3, 100e3, 1.05, 0.9, "8.700"),
            (90e3, 100e3, 10.5, 15.0, "244.500"),
        ] {
            prints(recovery(outage, age, lam, mu), total);
        }
        prints(catch_up(25.5, 50e3, 100e3), "25.5");
    }

    #[test]
    fn overload_never_ends_and_nonsense_is_nan() {
        assert_eq!(recovery(1.0, 1.0, 5.0, 5.0), f64::INFINITY);
        assert!(recovery(1.0, 1.0, 1.0, f64::NAN).is_nan() && catch_up(-1.0, 1.0, 2.0).is_nan());
    }
}
