//! What being wrong costs, and how often an alarm is false.

/// Returns the interval's bounds, as multiples of the best one, within which the overhead is at most `loss` above the least.
///
/// The overhead at `r` times the best interval is `(r + 1 / r) / 2` times the least, so that a change within the bounds
/// is not worth making. (1, 1) if `loss` is not a positive number.
///
/// # Source
/// `docs/formulas.md`, B5. Check: 0.05 gives 0.729844 and 1.370156.
#[must_use]
pub fn band(loss: f64) -> (f64, f64) {
    if !(loss.is_finite() && loss > 0.0) {
        return (1.0, 1.0);
    }
    let middle = 1.0 + loss;
    let half = (middle * middle - 1.0).sqrt();
    (middle - half, middle + half)
}

/// Returns the overhead, in multiples of the least, of planning with a failure rate wrong by `factor` > 0.
///
/// # Source
/// `docs/formulas.md`, B4: `(sqrt(x) + 1 / sqrt(x)) / 2`. Check: 4 gives 1.25.
#[must_use]
pub fn rate_penalty(factor: f64) -> f64 {
    if factor.is_nan() || factor <= 0.0 {
        return f64::NAN;
    }
    let root = factor.sqrt();
    0.5 * (root + 1.0 / root)
}

/// Returns the mean number of samples until a CUSUM of slack `slack` and threshold `threshold`, both in standard
/// deviations, raises its alarm when the mean has moved by `shift`.
///
/// # Source
/// Siegmund's approximation; `docs/formulas.md`, B5. Check: (0, 0.5, 5) is 938.222, (1, 0.5, 5) is 10.3362.
#[must_use]
pub fn average_run_length(shift: f64, slack: f64, threshold: f64) -> f64 {
    let drift = shift - slack;
    let height = threshold + 1.166;
    if drift.abs() < 1e-12 {
        return height * height;
    }
    ((-2.0 * drift * height).exp_m1() + 2.0 * drift * height) / (2.0 * drift * drift)
}

#[cfg(test)]
mod tests {
    use super::super::prints;
    use super::*;

    #[test]
    fn b4_penalty_of_a_wrong_failure_rate() {
        for (factor, penalty) in [(1.5, "1.0206"), (2.0, "1.0607"), (4.0, "1.25"), (10.0, "1.739"), (100.0, "5.05")] {
            prints(rate_penalty(factor), penalty);
        }
        assert!(rate_penalty(0.0).is_nan() && rate_penalty(f64::NAN).is_nan());
    }

    #[test]
    fn b5_dead_band() {
        for (loss, low, high) in [
            (0.01, "0.868226", "1.151774"),
            (0.02, "0.819002", "1.220998"),
            (0.05, "0.729844", "1.370156"),
            (0.10, "0.641742", "1.558258"),
        ] {
            prints(band(loss).0, low);
            prints(band(loss).1, high);
        }
        assert_eq!((band(0.0), band(f64::NAN), band(-1.0)), ((1.0, 1.0), (1.0, 1.0), (1.0, 1.0)));
    }

    #[test]
    fn b5_run_lengths() {
        for (threshold, quiet, shifted) in
            [(4.0, "338.093", "8.3434"), (5.0, "938.222", "10.3362"), (8.0, "19112.234", "16.3322")]
        {
            prints(average_run_length(0.0, 0.5, threshold), quiet);
            prints(average_run_length(1.0, 0.5, threshold), shifted);
        }
        prints(average_run_length(0.5, 0.5, 4.0), "26.687556");
    }
}
