//! What checkpoints and failures do to the delay of records.

use super::sane;

/// Returns the delay, summed over all records, that one failure causes, in record seconds.
///
/// * `rate` (lam) < `capacity` (mu), records per second; `age` of the last checkpoint; `outage`.
///
/// # Source
/// `docs/formulas.md`, A6: `mu lam (a + D)^2 / (2 (mu - lam))`. Check: (50e3, 100e3, 30, 5) is 61,250,000.
#[must_use]
pub fn delay_of_failure(rate: f64, capacity: f64, age: f64, outage: f64) -> f64 {
    if !sane(&[rate, capacity, age, outage]) || rate >= capacity {
        return f64::NAN;
    }
    capacity * rate * (age + outage).powi(2) / (2.0 * (capacity - rate))
}

/// Returns the interval that makes the mean delay of records smallest: a cube-root law.
///
/// * `pause`: delay that a checkpoint adds to records; `outage`; `mtbf`; `utilisation` between failures, `during` the
///   catch-up after one, both below 1.
///
/// # Source
/// `docs/formulas.md`, A6: `T^2 (2 T / 3 + D) = d^2 M (1 - rho_d) / (1 - rho)`. Check: (1.37, 2.76, 69, 0.5, 0.5) is 4.690320.
#[must_use]
pub fn latency_optimum(pause: f64, outage: f64, mtbf: f64, utilisation: f64, during: f64) -> f64 {
    if !sane(&[pause, outage, mtbf, utilisation, during]) || utilisation >= 1.0 || during >= 1.0 {
        return f64::NAN;
    }
    let wanted = pause * pause * mtbf * (1.0 - during) / (1.0 - utilisation);
    // The left side grows with T: the root of the cubic lies below both of these.
    let (mut low, mut high) = (0.0, (1.5 * wanted).cbrt());
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if middle * middle * (2.0 * middle / 3.0 + outage) < wanted { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::super::prints;
    use super::*;

    #[test]
    fn a6_latency() {
        for (pause, outage, mtbf, rho, t) in [
            (1.37, 2.76, 69.0, 0.5, "4.690320"),
            (1.91, 4.65, 142.0, 0.5, "7.361976"),
            (4.16, 10.39, 67.0, 0.3, "8.498072"),
            (1.907, 4.28, 55.0, 0.5, "5.102705"),
            (1.907, 4.28, 86400.0, 0.5, "75.739723"),
            (0.2, 5.0, 3600.0, 0.5, "4.281756"),
            (0.02, 2.0, 86400.0, 0.7, "2.951372"),
        ] {
            prints(latency_optimum(pause, outage, mtbf, rho, rho), t);
        }
        prints(delay_of_failure(50e3, 100e3, 30.0, 5.0), "61250000");
        // Without an outage it is a pure cube root.
        prints(latency_optimum(2.0, 0.0, 3600.0, 0.5, 0.5) / (1.5_f64 * 4.0 * 3600.0).cbrt(), "1.000000000");
    }

    #[test]
    fn out_of_range_is_nan() {
        assert!(latency_optimum(1.0, 1.0, 1.0, 1.0, 0.5).is_nan() && delay_of_failure(2.0, 1.0, 1.0, 1.0).is_nan());
        assert!(latency_optimum(f64::NAN, 1.0, 1.0, 0.5, 0.5).is_nan());
        assert_eq!(latency_optimum(0.0, 1.0, 1.0, 0.5, 0.5), 0.0);
    }
}
