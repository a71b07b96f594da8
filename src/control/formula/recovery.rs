//! How long a recovery takes: the outage, and the catch-up that follows.

use super::sane;

/// How often the catch-up is extended by the input that came during it; each round is shorter than the one before.
const ROUNDS: usize = 10_000;

/// Returns the outage: detection, restart, and reading `state_bytes` at `bytes_per_s` > 0.
///
/// # Source
/// `docs/formulas.md`, A7. Check: (2, 3, 10e9, 1e9) is 15.
#[must_use]
pub fn outage(detection: f64, restart: f64, state_bytes: f64, bytes_per_s: f64) -> f64 {
    if !sane(&[detection, restart, state_bytes, bytes_per_s]) || bytes_per_s == 0.0 {
        return f64::NAN;
    }
    detection + restart + state_bytes / bytes_per_s
}

/// Returns the time to work off `behind` seconds of input at `rate` with `capacity`; infinite if the rate is no lower.
///
/// # Source
/// `docs/formulas.md`, A7: `lam W / (mu - lam)`. Check: (25.5, 50e3, 100e3) is 25.5.
#[must_use]
pub fn catch_up(behind: f64, rate: f64, capacity: f64) -> f64 {
    if !sane(&[behind, rate, capacity]) {
        return f64::NAN;
    }
    if rate >= capacity { f64::INFINITY } else { rate * behind / (capacity - rate) }
}

/// Returns the time from a failure until the job has caught up, if the last checkpoint is `age` old.
///
/// At worst the age is an interval and a checkpoint's duration. Infinite where the input is no slower than the capacity.
///
/// # Source
/// `docs/formulas.md`, A7: `D + lam (a + D) / (mu - lam)`. Check: (15, 10.5, 50e3, 100e3) is 40.5.
#[must_use]
pub fn recovery(outage: f64, age: f64, rate: f64, capacity: f64) -> f64 {
    outage + catch_up(age + outage, rate, capacity)
}

/// Returns the longest interval at which a recovery takes at most `objective`; negative if none does.
///
/// An interval no longer than `duration` cannot be run: there a shorter outage or more capacity is needed.
///
/// # Source
/// `docs/formulas.md`, A7: `(RTO - D) (mu - lam) / lam - D - d_c`. Check: (60, 15, 0.5, 50e3, 100e3) is 29.5.
#[must_use]
pub fn longest_interval(objective: f64, outage: f64, duration: f64, rate: f64, capacity: f64) -> f64 {
    if !sane(&[objective, outage, duration, rate, capacity]) {
        return f64::NAN;
    }
    if rate == 0.0 {
        return if objective >= outage { f64::INFINITY } else { f64::NEG_INFINITY };
    }
    (objective - outage) * (capacity - rate) / rate - outage - duration
}

/// As [`recovery`], where the rate varies: `input(from, to)` is what came, or is forecast to come, between two times
/// relative to the failure. Infinite if it never ends.
///
/// # Source
/// Phoebe, arXiv 2206.09679; `docs/formulas.md`, A7. Check: a constant 50e3 with (15, 10.5, 100e3) is 40.5.
pub fn catch_up_varying(outage: f64, age: f64, capacity: f64, mut input: impl FnMut(f64, f64) -> f64) -> f64 {
    if !sane(&[outage, age, capacity]) || capacity == 0.0 {
        return f64::NAN;
    }
    let (mut from, mut to) = (-age, outage);
    for _ in 0..ROUNDS {
        let work = input(from, to) / capacity;
        if work.is_nan() || work < 0.0 {
            return f64::NAN;
        }
        if work > 1e15 {
            return f64::INFINITY;
        }
        (from, to) = (to, to + work);
        if work < 1e-9 {
            return to;
        }
    }
    f64::INFINITY
}

#[cfg(test)]
mod tests {
    use super::super::prints;
    use super::*;

    #[test]
    fn a7_recovery_time_objective() {
        for (lam, mu, t, d_c, detect, restart, s, b, [d, rec, for60, for120]) in [
            (50e3, 100e3, 10.0, 0.5, 2.0, 3.0, 10e9, 1e9, ["15.000", "40.500", "29.500", "89.500"]),
            (50e3, 60e3, 10.0, 0.5, 2.0, 3.0, 10e9, 1e9, ["15.000", "142.500", "-6.500", "5.500"]),
            (80e3, 100e3, 30.0, 1.0, 2.0, 3.0, 100e9, 5e9, ["25.000", "249.000", "-17.250", "-2.250"]),
            (80e3, 100e3, 1.0, 0.05, 0.5, 0.2, 1e9, 5e9, ["0.900", "8.700", "13.825", "28.825"]),
            (90e3, 100e3, 10.0, 0.5, 2.0, 3.0, 10e9, 1e9, ["15.000", "244.500", "-10.500", "-3.833"]),
        ] {
            let down = outage(detect, restart, s, b);
            prints(down, d);
            prints(recovery(down, t + d_c, lam, mu), rec);
            prints(longest_interval(60.0, down, d_c, lam, mu), for60);
            prints(longest_interval(120.0, down, d_c, lam, mu), for120);
        }
        let varying = catch_up_varying(15.0, 10.5, 100e3, |from, to| 50e3 * (to - from));
        prints(varying, "40.500000");
    }

    #[test]
    fn a7_longest_intervals_of_the_measured_job() {
        // With the two parameters fitted to the measured recoveries; failures came 3 s before the next checkpoint.
        for (rate, t) in [(5e3, "703"), (10e3, "263"), (15e3, "116"), (20e3, "43")] {
            prints(longest_interval(180.0, 65.3, 0.0, rate, 38_380.0) + 3.0, t);
        }
        assert!(longest_interval(180.0, 65.3, 0.0, 25e3, 38_380.0) < 0.0);
    }

    #[test]
    fn a_surge_is_waited_out_and_overload_never_ends() {
        // Nothing comes after 100 s: what was left is worked off then.
        let input = |from: f64, to: f64| 150e3 * (to.min(100.0) - from.min(100.0));
        prints(catch_up_varying(10.0, 10.0, 100e3, input), "175.0");
        assert_eq!(catch_up_varying(10.0, 10.0, 1e3, |from, to| 2e3 * (to - from)), f64::INFINITY);
        assert_eq!(recovery(1.0, 1.0, 5.0, 5.0), f64::INFINITY);
        assert!(catch_up_varying(f64::NAN, 1.0, 1.0, |_, _| 0.0).is_nan());
        assert!(catch_up_varying(1.0, 1.0, 1.0, |_, _| f64::NAN).is_nan());
        assert_eq!(longest_interval(60.0, 15.0, 1.0, 0.0, 1.0), f64::INFINITY);
        assert_eq!(longest_interval(10.0, 15.0, 1.0, 0.0, 1.0), f64::NEG_INFINITY);
        assert!(outage(1.0, 1.0, 1.0, 0.0).is_nan() && longest_interval(-1.0, 0.0, 0.0, 1.0, 2.0).is_nan());
    }
}
