//! The cost of a suboptimal interval.

/// Returns the bounds, as multiples of the best interval, within which the overhead exceeds the minimum by at most `loss`.
///
/// At `r` times the best interval the overhead is `(r + 1 / r) / 2` times the minimum, so a change within the bounds is
/// not worth making. Returns (1, 1) unless `loss` is finite and positive.
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

#[cfg(test)]
mod tests {
    use super::super::prints;
    use super::*;

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
}
