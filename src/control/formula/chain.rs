//! The number of deltas between two bases.

use super::sane;

/// Returns the number of deltas after which writing a new base costs less than it saves in restores.
///
/// * `full`, `delta`: capacity lost to a full and to an incremental checkpoint; `mtbf`; `interval` > 0; `replay` > 0: restore
///   time added by each delta. Returns 0 if a delta costs no less than a base, infinity if `replay` is 0.
///
/// # Source
/// `docs/formulas.md`, A9: `sqrt(2 (F - I) M / (T r))`. Check: (60, 1, 86400, 10, 0.5) is 1427.9496.
#[must_use]
pub fn chain_length(full: f64, delta: f64, mtbf: f64, interval: f64, replay: f64) -> f64 {
    if !sane(&[full, delta, mtbf, interval, replay]) || interval == 0.0 {
        return f64::NAN;
    }
    if full <= delta {
        return 0.0;
    }
    (2.0 * (full - delta) * mtbf / (interval * replay)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::super::prints;
    use super::*;

    #[test]
    fn a9_chain_length() {
        for (full, delta, mtbf, interval, replay, n) in [
            (60.0, 1.0, 86400.0, 10.0, 0.5, "1427.9496"),
            (60.0, 1.0, 3600.0, 10.0, 0.5, "291.4790"),
            (600.0, 2.0, 86400.0, 60.0, 2.0, "927.9655"),
            (10.0, 0.05, 86400.0, 1.0, 0.02, "9271.8930"),
        ] {
            prints(chain_length(full, delta, mtbf, interval, replay), n);
        }
    }

    #[test]
    fn arguments_out_of_range_are_handled() {
        assert_eq!(chain_length(1.0, 2.0, 1.0, 1.0, 1.0), 0.0);
        assert_eq!(chain_length(2.0, 1.0, 1.0, 1.0, 0.0), f64::INFINITY);
        assert!(chain_length(2.0, 1.0, 1.0, 0.0, 1.0).is_nan() && chain_length(f64::NAN, 1.0, 1.0, 1.0, 1.0).is_nan());
    }
}
