//! Distinct dirty keys, and the best interval when a checkpoint's cost grows with them.

use super::sane;

/// Scan steps per doubling of the interval.
const SCAN_PER_DOUBLING: f64 = 16.0;

/// Bisection steps within the best scan step.
const HALVINGS: usize = 80;

/// A checkpoint's cost at an interval, and its derivative.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// `C(T)`: capacity lost to one checkpoint, s.
    pub cost: f64,
    /// `dC / dT`.
    pub slope: f64,
}

/// Returns the expected number of distinct keys hit by `updates` uniform updates over `keys` keys.
///
/// # Source
/// `docs/formulas.md`, B1: `N (1 - (1 - 1 / N)^n)`. Check: (1e6, 1e5) is 95162.63.
#[must_use]
#[cfg(any(test, feature = "internals"))]
pub fn distinct_keys_uniform(keys: f64, updates: f64) -> f64 {
    if !sane(&[keys, updates]) || keys < 1.0 {
        return f64::NAN;
    }
    if keys == 1.0 {
        return updates.min(1.0);
    }
    -keys * (updates * (-1.0 / keys).ln_1p()).exp_m1()
}

/// Returns the interval in `shortest..=longest` with the least overhead `C(T) / T + w T / (2 M)`, and that overhead.
///
/// There may be several minima, so the function scans the range and then bisects around the best point, by
/// `T^2 = (2 M / w) (C - T C')`. Iterating Young's formula on the measured cost instead would count the growing part of the
/// cost as if it were fixed, and settle at an interval 77 % too long in the check value of A10.
///
/// * `shortest` > 0, `longest` >= `shortest`; `mtbf` > 0; `weight` >= 0: see [`super::ReplayWeight`].
///
/// # Source
/// `docs/formulas.md`, A10. Check: 1e6 keys of 100 bytes at 1e9 B/s and 1e4/s, fixed 0.05 s, M 3600: 19.2816, 0.006181.
pub fn dirty_aware_optimum(
    cost: impl Fn(f64) -> Cost,
    mtbf: f64,
    weight: f64,
    (shortest, longest): (f64, f64),
) -> (f64, f64) {
    if !sane(&[shortest, longest, mtbf, weight]) || shortest == 0.0 || longest < shortest || mtbf == 0.0 {
        return (f64::NAN, f64::NAN);
    }
    let overhead = |t: f64| cost(t).cost / t + weight * t / (2.0 * mtbf);
    let falling = |t: f64| {
        let Cost { cost, slope } = cost(t);
        2.0 * mtbf * (cost - t * slope) > weight * t * t
    };
    let step = (1.0 / SCAN_PER_DOUBLING).exp2();
    let mut best = (shortest, overhead(shortest));
    let mut at = shortest;
    while at < longest {
        at = (at * step).min(longest);
        let here = overhead(at);
        // A NaN at `shortest` gives way to the first number.
        if here < best.1 || best.1.is_nan() {
            best = (at, here);
        }
    }
    let (mut low, mut high) = ((best.0 / step).max(shortest), (best.0 * step).min(longest));
    for _ in 0..HALVINGS {
        let middle = 0.5 * (low + high);
        if falling(middle) {
            low = middle
        } else {
            high = middle
        }
        if high - low <= f64::EPSILON * high {
            break;
        }
    }
    let narrowed = 0.5 * (low + high);
    // A kink in the measured cost can mislead the bisection; the scan is the safe result.
    if overhead(narrowed) <= best.1 { (narrowed, overhead(narrowed)) } else { best }
}

#[cfg(test)]
mod tests {
    use super::super::{overhead, prints, weighted};
    use super::*;

    const WIDE: (f64, f64) = (1e-3, 1e7);

    /// Returns the expected number of distinct keys hit by `updates`, each key with its own probability.
    fn distinct_keys(probabilities: impl IntoIterator<Item = f64>, updates: f64) -> f64 {
        probabilities.into_iter().map(|p| -(updates * (-p).ln_1p()).exp_m1()).sum()
    }

    fn zipf(keys: u32, exponent: f64) -> Vec<f64> {
        let weights: Vec<f64> = (1..=keys).map(|rank| f64::from(rank).powf(-exponent)).collect();
        let sum: f64 = weights.iter().sum();
        weights.iter().map(|weight| weight / sum).collect()
    }

    #[test]
    fn b1_distinct_keys() {
        for (n, d) in [(1e3, "999.50"), (1e4, "9950.17"), (1e5, "95162.63"), (1e6, "632120.74"), (1e7, "999954.60")] {
            prints(distinct_keys_uniform(1e6, n), d);
        }
    }

    /// Returns the cost function of a job that updates keys uniformly.
    fn uniform(fixed: f64, per_key: f64, keys: f64, rate: f64) -> impl Fn(f64) -> Cost {
        move |t| {
            let x = rate * t / keys;
            Cost { cost: fixed - per_key * keys * (-x).exp_m1(), slope: per_key * rate * (-x).exp() }
        }
    }

    #[test]
    fn section_a10_uniform_keys() {
        for (c0, s, b, keys, rate, m, [t, h, naive, naive_h, full, full_h]) in [
            (0.05, 100.0, 1e9, 1e6, 1e4, 3600.0, ["19.2816", "0.006181", "22.4699", "0.006242", "32.8634", "0.006938"]),
            (0.05, 100.0, 1e9, 1e7, 1e5, 3600.0, ["22.8353", "0.014302", "60.1061", "0.016696", "86.9483", "0.019331"]),
            (
                0.05,
                100.0,
                1e8,
                1e7,
                1e5,
                3600.0,
                ["213.8564", "0.071187", "258.7359", "0.071871", "268.9981", "0.072198"],
            ),
            (
                0.2,
                100.0,
                1e8,
                1e7,
                1e6,
                86400.0,
                ["1327.6144", "0.015366", "1327.6144", "0.015366", "1327.6144", "0.015366"],
            ),
            (
                0.01,
                100.0,
                1e9,
                1e6,
                1e3,
                86400.0,
                ["41.7450", "0.000579", "50.8383", "0.000588", "137.8695", "0.000964"],
            ),
        ] {
            let cost = uniform(c0, s / b, keys, rate);
            let (best, least) = dirty_aware_optimum(&cost, m, 1.0, WIDE);
            prints(best, t);
            prints(least, h);
            let mut fixed_point: f64 = 60.0;
            for _ in 0..500 {
                fixed_point = weighted(cost(fixed_point).cost, m, 1.0);
            }
            prints(fixed_point, naive);
            prints(overhead(fixed_point, cost(fixed_point).cost, m, 1.0), naive_h);
            let full_interval = weighted(c0 + keys * s / b, m, 1.0);
            prints(full_interval, full);
            prints(overhead(full_interval, cost(full_interval).cost, m, 1.0), full_h);
        }
    }

    #[test]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index of the table")]
    fn section_a10_zipf_keys() {
        // Group keys of similar rank into classes: summing over every key is slow.
        let keys = zipf(1_000_000, 0.99);
        let mut classes: Vec<(f64, f64)> = Vec::new();
        let mut from = 0;
        while from < keys.len() {
            let to = (from + 1 + from / 200).min(keys.len());
            let sum: f64 = keys[from..to].iter().sum();
            classes.push(((to - from) as f64, sum / (to - from) as f64));
            from = to;
        }
        let distinct = |n: f64| classes.iter().map(|(keys, p)| keys * distinct_keys([*p], n)).sum::<f64>();
        // A count at every sixteenth of a doubling: dense enough to interpolate.
        let at = |k: f64| 1e5 * k.exp2();
        let table: Vec<f64> = (0..=208).map(|k| distinct(at(f64::from(k) / 16.0))).collect();
        let cost = |t: f64| {
            let position = ((t).log2() * 16.0).clamp(0.0, 207.0);
            let k = position.floor();
            let (low, high) = (table[k as usize], table[k as usize + 1]);
            let beta = (high / low).log2() * 16.0;
            let distinct = low * (high / low).powf(position - k);
            Cost { cost: 0.05 + distinct * 1e-6, slope: beta * distinct * 1e-6 / t }
        };
        let (best, least) = dirty_aware_optimum(cost, 3600.0, 1.0, (1.0, 4000.0));
        assert!((best - 51.261).abs() < 0.6, "{best}");
        prints(least, "0.019721");
        let mut fixed_point: f64 = 60.0;
        for _ in 0..200 {
            fixed_point = weighted(cost(fixed_point).cost, 3600.0, 1.0);
        }
        assert!((fixed_point - 73.320).abs() < 0.01, "{fixed_point}");
        assert!((overhead(fixed_point, cost(fixed_point).cost, 3600.0, 1.0) - 0.020_367).abs() < 2e-6);
    }

    #[test]
    fn section_a10_iterating_young_on_the_measured_cost_is_too_long() {
        let cost = |t: f64| Cost { cost: 0.5 + 0.01 * t, slope: 0.01 };
        let (best, least) = dirty_aware_optimum(cost, 3600.0, 1.0, WIDE);
        prints(best, "60.000000");
        prints(least, "0.026667");
        let mut fixed_point: f64 = 10.0;
        for _ in 0..500 {
            fixed_point = weighted(cost(fixed_point).cost, 3600.0, 1.0);
        }
        prints(fixed_point, "105.9714");
        prints(overhead(fixed_point, cost(fixed_point).cost, 3600.0, 1.0), "0.029437");
        prints(100.0 * (0.029_437 / least - 1.0), "10.4");
    }

    #[test]
    fn the_range_is_respected_and_nonsense_is_nan() {
        let cost = |_: f64| Cost { cost: 0.5, slope: 0.0 };
        assert_eq!(dirty_aware_optimum(cost, 3600.0, 1.0, (100.0, 200.0)).0, 100.0);
        assert_eq!(dirty_aware_optimum(cost, 3600.0, 1.0, (10.0, 20.0)).0, 20.0);
        assert_eq!(dirty_aware_optimum(cost, 3600.0, 0.0, (10.0, 20.0)).0, 20.0);
        for range in [(0.0, 1.0), (2.0, 1.0), (f64::NAN, 1.0), (1.0, f64::INFINITY)] {
            assert!(dirty_aware_optimum(cost, 3600.0, 1.0, range).0.is_nan(), "{range:?}");
        }
        assert!(distinct_keys_uniform(f64::NAN, 1.0).is_nan() && distinct_keys_uniform(0.5, 1.0).is_nan());
        assert_eq!(distinct_keys_uniform(1.0, 5.0), 1.0);
    }
}
