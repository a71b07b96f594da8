//! Distinct dirty keys, and the interval where a checkpoint costs what they weigh.

use super::sane;

/// Steps of the scan for the best interval per doubling.
const SCAN_PER_DOUBLING: f64 = 16.0;

/// Halvings that narrow a minimum down.
const HALVINGS: usize = 80;

/// What a checkpoint costs at an interval, and how that changes with it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// `C(T)`: capacity lost to one checkpoint, s.
    pub cost: f64,
    /// `dC / dT`.
    pub slope: f64,
}

/// Returns the expected number of distinct keys among `updates` uniform ones over `keys` keys.
///
/// # Source
/// `docs/formulas.md`, B1: `N (1 - (1 - 1 / N)^n)`. Check: (1e6, 1e5) is 95162.63.
#[must_use]
pub fn distinct_keys_uniform(keys: f64, updates: f64) -> f64 {
    if !sane(&[keys, updates]) || keys < 1.0 {
        return f64::NAN;
    }
    if keys == 1.0 {
        return updates.min(1.0);
    }
    -keys * (updates * (-1.0 / keys).ln_1p()).exp_m1()
}

/// Returns the expected number of distinct keys among `updates` that go to each key with its probability.
///
/// # Source
/// `docs/formulas.md`, B1: `sum 1 - (1 - p)^n`. Check: Zipf 0.99 over 1e6 keys and 1e5 updates is 38967.30.
pub fn distinct_keys(probabilities: impl IntoIterator<Item = f64>, updates: f64) -> f64 {
    let one = |p: f64| if p < 1.0 { -(updates * (-p).ln_1p()).exp_m1() } else { updates.min(1.0) };
    probabilities.into_iter().map(one).sum()
}

/// Returns the elasticity `d ln D / d ln T` from the counts at half an interval and at the whole, between 0 and 1.
///
/// # Source
/// `docs/formulas.md`, B1: `log2(D(T) / D(T / 2))`. Check: (1, 1.5) is 0.584963.
#[must_use]
pub fn elasticity(half: f64, whole: f64) -> f64 {
    if !sane(&[half, whole]) || half == 0.0 {
        return f64::NAN;
    }
    (whole / half).log2().clamp(0.0, 1.0)
}

/// Returns the bytes that tracking by blocks of `block` keys writes for each dirty byte, `updates` uniform over `keys`.
///
/// # Source
/// `docs/formulas.md`, B2: `b D_b / D_k`. Check: (1e6, 64, 1e5) is 10.49.
#[must_use]
pub fn block_amplification(keys: u32, block: u32, updates: f64) -> f64 {
    if block == 0 {
        return f64::NAN;
    }
    let blocks = f64::from(keys / block);
    f64::from(block) * distinct_keys_uniform(blocks, updates) / distinct_keys_uniform(f64::from(keys), updates)
}

/// Returns the interval between `shortest` and `longest` with the least overhead `C(T) / T + w T / (2 M)`, and that
/// overhead.
///
/// There may be several minima: the range is scanned and the best one narrowed down, by `T^2 = (2 M / w) (C - T C')`.
/// The measured cost must not be put into Young's formula instead: repeated, that settles where the cost of what grows
/// with the interval is counted as if it were fixed, too long by 77 % in the check value of A10.
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
        // The first comparison that succeeds also replaces a NaN.
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
    // Where measured costs have a kink the condition may mislead: the scan decides.
    if overhead(narrowed) <= best.1 { (narrowed, overhead(narrowed)) } else { best }
}

#[cfg(test)]
mod tests {
    use super::super::{overhead, prints};
    use super::*;

    const WIDE: (f64, f64) = (1e-3, 1e7);

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
        for (exponent, counts) in [
            (0.8, ["933.59", "8368.47", "66684.40", "391074.20", "961992.39"]),
            (0.99, ["710.28", "5519.18", "38967.30", "225831.37", "780158.30"]),
            (1.2, ["379.93", "2400.57", "14452.44", "79456.88", "355421.41"]),
        ] {
            let keys = zipf(1_000_000, exponent);
            for (n, want) in [1e3, 1e4, 1e5, 1e6, 1e7].into_iter().zip(counts) {
                prints(distinct_keys(keys.iter().copied(), n), want);
            }
        }
    }

    #[test]
    fn b1_elasticity_and_logs_of_updates() {
        let keys = zipf(1_000_000, 0.99);
        let distinct = |n: f64| distinct_keys(keys.iter().copied(), n);
        for (n, beta, ratio) in [
            (1e3, "0.904728", "1.41"),
            (1e4, "0.873722", "1.81"),
            (1e5, "0.817470", "2.57"),
            (1e6, "0.688595", "4.43"),
            (1e7, "0.329437", "12.82"),
        ] {
            // The derivative at n, which two counts close together give.
            let (below, above) = (n * 0.5f64.powf(1e-3), n * 2f64.powf(1e-3));
            let slope = (distinct(above) / distinct(below)).ln() / (above / below).ln();
            assert!((slope - beta.parse::<f64>().unwrap()).abs() < 2e-4, "{n}: {slope}");
            prints(n / distinct(n), ratio);
        }
        // A log that is folded per epoch lies between.
        assert!((100.0 * distinct(1e5) - 3_896_730.0).abs() < 1.0);
        prints(elasticity(1.0, 1.5), "0.584963");
        assert!(elasticity(0.0, 1.0).is_nan() && elasticity(1.0, f64::NAN).is_nan());
        assert_eq!((elasticity(2.0, 1.0), elasticity(1.0, 3.0)), (0.0, 1.0));
    }

    #[test]
    fn b2_blocks() {
        for (block, n, ratio) in
            [(64, 1e3, "62.03"), (64, 1e4, "47.51"), (64, 1e5, "10.49"), (16, 1e4, "14.86"), (4, 1e4, "3.94")]
        {
            prints(block_amplification(1_000_000, block, n), ratio);
        }
    }

    /// Cost of a checkpoint with uniform keys.
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
                fixed_point = super::super::young(cost(fixed_point).cost, m);
            }
            prints(fixed_point, naive);
            prints(overhead(fixed_point, cost(fixed_point).cost, m, 1.0), naive_h);
            let of_full = super::super::young(c0 + keys * s / b, m);
            prints(of_full, full);
            prints(overhead(of_full, cost(of_full).cost, m, 1.0), full_h);
        }
    }

    #[test]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index of the table")]
    fn section_a10_zipf_keys() {
        // Keys of about the same rank count as one class, to add up fewer of them.
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
        // Enough of the curve to be exact between: a count at every sixteenth of a doubling.
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
            fixed_point = super::super::young(cost(fixed_point).cost, 3600.0);
        }
        assert!((fixed_point - 73.320).abs() < 0.01, "{fixed_point}");
        assert!((overhead(fixed_point, cost(fixed_point).cost, 3600.0, 1.0) - 0.020_367).abs() < 2e-6);
    }

    #[test]
    fn section_a10_what_plugging_the_measured_cost_in_does() {
        let cost = |t: f64| Cost { cost: 0.5 + 0.01 * t, slope: 0.01 };
        let (best, least) = dirty_aware_optimum(cost, 3600.0, 1.0, WIDE);
        prints(best, "60.000000");
        prints(least, "0.026667");
        let mut fixed_point: f64 = 10.0;
        for _ in 0..500 {
            fixed_point = super::super::young(cost(fixed_point).cost, 3600.0);
        }
        prints(fixed_point, "105.9714");
        prints(overhead(fixed_point, cost(fixed_point).cost, 3600.0, 1.0), "0.029437");
        prints(100.0 * (0.029_437 / least - 1.0), "10.4");
    }

    #[test]
    fn bounds_hold_and_nonsense_is_nan() {
        let cost = |_: f64| Cost { cost: 0.5, slope: 0.0 };
        assert_eq!(dirty_aware_optimum(cost, 3600.0, 1.0, (100.0, 200.0)).0, 100.0);
        assert_eq!(dirty_aware_optimum(cost, 3600.0, 1.0, (10.0, 20.0)).0, 20.0);
        assert_eq!(dirty_aware_optimum(cost, 3600.0, 0.0, (10.0, 20.0)).0, 20.0);
        for range in [(0.0, 1.0), (2.0, 1.0), (f64::NAN, 1.0), (1.0, f64::INFINITY)] {
            assert!(dirty_aware_optimum(cost, 3600.0, 1.0, range).0.is_nan(), "{range:?}");
        }
        assert!(distinct_keys_uniform(f64::NAN, 1.0).is_nan() && distinct_keys_uniform(0.5, 1.0).is_nan());
        assert_eq!((distinct_keys_uniform(1.0, 5.0), distinct_keys([1.0], 5.0)), (1.0, 1.0));
        assert!(block_amplification(10, 0, 1.0).is_nan());
    }
}
