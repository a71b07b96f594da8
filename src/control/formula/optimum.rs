//! The interval that loses the least time, when a checkpoint costs the same whatever the interval.

use super::sane;

/// How often Newton's method is applied at most; from its starting point five steps reach the last digit.
const NEWTON_STEPS: usize = 60;

/// What one second of input that must be replayed counts, in seconds of capacity lost to checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ReplayWeight {
    /// One second: a batch job, which is always busy. Young's case.
    Batch,
    /// `rho`: the share of the machine that the replay takes.
    Capacity,
    /// `rho / (1 - rho)`: the time until the job has caught up, which grows without bound as the load nears the capacity.
    #[default]
    CatchUp,
}

impl ReplayWeight {
    /// Returns the weight at `utilisation` (input rate over maximum rate, 0 to below 1).
    ///
    /// # Source
    /// `docs/formulas.md`, A5. Check: `CatchUp` at 0.8 is 4, `Capacity` 0.8, `Batch` 1.
    #[must_use]
    pub fn at(self, utilisation: f64) -> f64 {
        self.when(utilisation, utilisation)
    }

    /// As [`ReplayWeight::at`], where the utilisation is `now` while records come that may have to be replayed, and `ahead`
    /// when such a catch-up would end: what one more record of backlog costs is decided there, not at its beginning.
    #[must_use]
    pub fn when(self, now: f64, ahead: f64) -> f64 {
        if ![now, ahead].iter().all(|utilisation| (0.0..1.0).contains(utilisation)) {
            return f64::NAN;
        }
        match self {
            Self::Batch => 1.0,
            Self::Capacity => now,
            Self::CatchUp => now / (1.0 - ahead),
        }
    }
}

/// Returns the share of time lost with an interval: checkpoints, and replay after failures.
///
/// * `interval`: from one start to the next, > 0; `cost`: capacity lost to one checkpoint; `mtbf` > 0; `weight`: see
///   [`ReplayWeight`].
///
/// # Source
/// `docs/formulas.md`, A1 and A5: `c / T + w T / (2 M)`. Check: (60, 0.5, 3600, 1) is 1/60.
#[must_use]
pub fn overhead(interval: f64, cost: f64, mtbf: f64, weight: f64) -> f64 {
    if !sane(&[interval, cost, mtbf, weight]) || interval == 0.0 || mtbf == 0.0 {
        return f64::NAN;
    }
    cost / interval + weight * interval / (2.0 * mtbf)
}

/// Returns Young's interval, `sqrt(2 c M)`: first order, start to start.
///
/// * `cost` (c): capacity lost to one checkpoint, >= 0; `mtbf` (M): mean time between failures of the job, >= 0.
///
/// # Source
/// Young, CACM 17(9), 1974; `docs/formulas.md`, A1. Check: (0.5, 3600) is 60.
#[must_use]
pub fn young(cost: f64, mtbf: f64) -> f64 {
    weighted(cost, mtbf, 1.0)
}

/// Returns `sqrt(2 c M / w)`: Young's interval where a second to be replayed counts `weight` (w) > 0.
///
/// # Source
/// `docs/formulas.md`, A5. Check: (0.5, 3600, 4) is 30.
#[must_use]
pub fn weighted(cost: f64, mtbf: f64, weight: f64) -> f64 {
    if !sane(&[cost, mtbf, weight]) {
        return f64::NAN;
    }
    (2.0 * cost * mtbf / weight).sqrt()
}

/// Returns Daly's first-order estimate of the useful time between checkpoints, which leaves out the checkpoint itself.
///
/// * `restart`: detection, restart and restore. Negative where the estimate does not hold (`cost` far above `mtbf`).
///
/// # Source
/// Daly, ICCS 2003; `docs/formulas.md`, A2. Check: (30, 3600, 0) is 434.758002.
#[must_use]
pub fn daly_first_order(cost: f64, mtbf: f64, restart: f64) -> f64 {
    if !sane(&[cost, mtbf, restart]) {
        return f64::NAN;
    }
    (2.0 * cost * (mtbf + restart)).sqrt() - cost
}

/// Returns Daly's higher-order estimate of the useful time between checkpoints; exactly `mtbf` if `cost >= 2 * mtbf`.
///
/// # Source
/// Daly, FGCS 22(3), 2006, doi:10.1016/j.future.2004.11.016, equation 37; `docs/formulas.md`, A2.
/// Check: (30, 3600) is 444.973167.
#[must_use]
pub fn daly(cost: f64, mtbf: f64) -> f64 {
    if !sane(&[cost, mtbf]) {
        return f64::NAN;
    }
    if cost >= 2.0 * mtbf {
        return mtbf;
    }
    let part = cost / (2.0 * mtbf);
    (2.0 * cost * mtbf).sqrt() * (1.0 + part.sqrt() / 3.0 + part / 9.0) - cost
}

/// Returns the interval, start to start, that maximises the useful share of time under exponential failures.
///
/// Finds `x = 1 - exp(-x - q)` by Newton's method; the same in terms of Lambert's W loses all digits when `q`, the cost
/// in units of `mtbf`, is small.
///
/// # Source
/// Jayasekara, Harwood, Karunasekera, FGCS 110, 2020, arXiv 1911.11915; `docs/formulas.md`, A3 and A4.
/// Check: (30, 3600) is 474.976900.
#[must_use]
pub fn exact(cost: f64, mtbf: f64) -> f64 {
    if !sane(&[cost, mtbf]) || mtbf == 0.0 {
        return f64::NAN;
    }
    let q = cost / mtbf;
    if q == 0.0 {
        return 0.0;
    }
    let mut x = if q < 1.0 { (2.0 * q).sqrt() } else { 1.0 - (-q - 1.0).exp() };
    for _ in 0..NEWTON_STEPS {
        let next = x - (x + (-x - q).exp_m1()) / -(-x - q).exp_m1();
        let done = (next - x).abs() <= f64::EPSILON * next.abs();
        x = next;
        if done {
            break;
        }
    }
    cost + x * mtbf
}

/// Returns the period for a checkpoint of duration `duration` during which the job keeps `kept` (0 to 1) of its speed.
///
/// * `down`: detection and restart; `restore`: reading the state back.
///
/// # Source
/// Aupy, Benoit, Herault, Robert, Dongarra, 2013; `docs/formulas.md`, A5. Check: (30, 0.9, 3600, 5, 20) is 145.904078.
#[must_use]
pub fn overlapped(duration: f64, kept: f64, mtbf: f64, down: f64, restore: f64) -> f64 {
    if !sane(&[duration, kept, mtbf, down, restore]) || kept > 1.0 {
        return f64::NAN;
    }
    (2.0 * (1.0 - kept) * duration * (mtbf - (down + restore + kept * duration))).sqrt()
}

#[cfg(test)]
mod tests {
    use super::super::prints;
    use super::*;

    /// c, M, Young, Daly first order, Daly higher order, exact useful time, exact interval.
    const A1_TO_A3: [(f64, f64, [&str; 5]); 9] = [
        (1.0, 1_620_000.0, ["1800.000000", "1799.000000", "1799.333395", "1799.333395", "1800.333395"]),
        (0.05, 3600.0, ["18.973666", "18.923666", "18.940347", "18.940347", "18.990347"]),
        (0.5, 3600.0, ["60.000000", "59.500000", "59.667130", "59.667131", "60.167131"]),
        (5.0, 86400.0, ["929.516003", "924.516003", "926.185658", "926.185662", "931.185662"]),
        (30.0, 3600.0, ["464.758002", "434.758002", "444.973167", "444.976900", "474.976900"]),
        (120.0, 10800.0, ["1609.968944", "1489.968944", "1530.962752", "1530.982681", "1650.982681"]),
        (60.0, 600.0, ["268.328157", "208.328157", "229.818869", "229.909901", "289.909901"]),
        (100.0, 100.0, ["141.421356", "41.421356", "82.611432", "84.140566", "184.140566"]),
        (300.0, 100.0, ["244.948974", "-55.051026", "100.000000", "98.133937", "398.133937"]),
    ];

    #[test]
    fn a1_a2_a3_young_daly_exact() {
        for (c, m, [y, d1, d2, tau, t]) in A1_TO_A3 {
            prints(young(c, m), y);
            prints(daly_first_order(c, m, 0.0), d1);
            prints(daly(c, m), d2);
            prints(exact(c, m) - c, tau);
            prints(exact(c, m), t);
        }
        // Daly's published figures, in minutes.
        for (m, minutes) in [(24.0 * 60.0, "117"), (6.0 * 60.0, "57"), (15.0, "9.1")] {
            prints(daly(5.0, m), minutes);
        }
        // The nominal half hour with a checkpoint of one second: one failure in 18.75 days.
        prints(young(1.0, 18.75 * 86400.0), "1800.000000");
    }

    #[test]
    fn a5_weights_and_overlap() {
        let at = |weight: ReplayWeight, rho: f64| weighted(0.5, 3600.0, weight.at(rho));
        prints(at(ReplayWeight::Batch, 0.3), "60");
        for (rho, t) in [(0.25, "120"), (0.5, "84.852814"), (0.8, "67.082039"), (0.9, "63.245553")] {
            prints(at(ReplayWeight::Capacity, rho), t);
        }
        for (rho, t) in [(0.25, "103.923048"), (0.5, "60"), (0.8, "30"), (0.9, "20")] {
            prints(at(ReplayWeight::CatchUp, rho), t);
        }
        for (kept, t) in [(0.5, "326.802693"), (0.9, "145.904078"), (0.99, "46.121362")] {
            prints(overlapped(30.0, kept, 3600.0, 5.0, 20.0), t);
        }
        prints(overlapped(30.0, 0.0, 3600.0, 0.0, 0.0), "464.758002");
        prints(overhead(60.0, 0.5, 3600.0, 1.0), "0.016667");
    }

    #[test]
    fn out_of_range_is_nan_and_never_a_panic() {
        for bad in [f64::NAN, f64::INFINITY, -1.0] {
            let all = [young(bad, 1.0), daly(1.0, bad), exact(bad, 1.0), exact(1.0, bad), overhead(bad, 1.0, 1.0, 1.0)];
            assert!(all.iter().all(|value| value.is_nan()), "{bad}: {all:?}");
            assert!(ReplayWeight::CatchUp.at(bad).is_nan() && overlapped(1.0, bad, 1.0, 1.0, 1.0).is_nan());
        }
        assert!(exact(1.0, 0.0).is_nan() && ReplayWeight::CatchUp.at(1.0).is_nan());
        assert_eq!((exact(0.0, 3600.0), young(0.0, 3600.0)), (0.0, 0.0));
        // A cost of a nanosecond against a month: where the form with Lambert's W has no digit left.
        let (c, m) = (1e-9, 2.6e6);
        assert!((exact(c, m) / young(c, m) - 1.0).abs() < 1e-6);
    }
}
