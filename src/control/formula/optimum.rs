//! The interval with the least lost time when a checkpoint's cost does not depend on the interval.

use super::sane;

/// The cost of replaying one second of input, in seconds of capacity lost to checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ReplayWeight {
    /// One second: a batch job is always busy. Young's case.
    Batch,
    /// `rho`: the share of the capacity that the replay takes.
    Capacity,
    /// `rho / (1 - rho)`: the catch-up time, which grows without bound as the load approaches the capacity.
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

    /// Returns the weight for a varying load: utilisation `now`, when the records to be replayed arrive, and `ahead`, at the end
    /// of the catch-up. The load at the end decides by how much one more record of backlog delays that end.
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

/// Returns the share of time lost at an interval, to checkpoints and to replay after failures.
///
/// * `interval` > 0: start to start; `cost`: capacity lost to one checkpoint; `mtbf` > 0; `weight`: see
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

/// Returns `sqrt(2 c M / w)`: Young's interval, start to start, generalised to a replay `weight` (w) > 0.
///
/// * `cost` (c) >= 0: capacity lost to one checkpoint; `mtbf` (M) >= 0: mean time between failures of the job. A weight of 1 is
///   Young's case.
///
/// # Source
/// Young, CACM 17(9), 1974; `docs/formulas.md`, A1 and A5. Check: (0.5, 3600, 1) is 60, (0.5, 3600, 4) is 30.
#[must_use]
#[cfg(any(test, feature = "internals"))]
pub fn weighted(cost: f64, mtbf: f64, weight: f64) -> f64 {
    if !sane(&[cost, mtbf, weight]) {
        return f64::NAN;
    }
    (2.0 * cost * mtbf / weight).sqrt()
}

#[cfg(test)]
mod tests {
    use super::super::prints;
    use super::*;

    #[test]
    fn a1_young() {
        for (c, m, t) in [
            // The nominal half hour with a checkpoint of one second: one failure in 18.75 days.
            (1.0, 1_620_000.0, "1800.000000"),
            (0.05, 3600.0, "18.973666"),
            (0.5, 3600.0, "60.000000"),
            (5.0, 86400.0, "929.516003"),
            (30.0, 3600.0, "464.758002"),
            (120.0, 10800.0, "1609.968944"),
            (60.0, 600.0, "268.328157"),
            (100.0, 100.0, "141.421356"),
            (300.0, 100.0, "244.948974"),
        ] {
            prints(weighted(c, m, 1.0), t);
        }
    }

    #[test]
    fn a5_weights() {
        let at = |weight: ReplayWeight, rho: f64| weighted(0.5, 3600.0, weight.at(rho));
        prints(at(ReplayWeight::Batch, 0.3), "60");
        for (rho, t) in [(0.25, "120"), (0.5, "84.852814"), (0.8, "67.082039"), (0.9, "63.245553")] {
            prints(at(ReplayWeight::Capacity, rho), t);
        }
        for (rho, t) in [(0.25, "103.923048"), (0.5, "60"), (0.8, "30"), (0.9, "20")] {
            prints(at(ReplayWeight::CatchUp, rho), t);
        }
        prints(overhead(60.0, 0.5, 3600.0, 1.0), "0.016667");
    }

    #[test]
    fn arguments_out_of_range_give_nan_and_never_panic() {
        for bad in [f64::NAN, f64::INFINITY, -1.0] {
            let all = [weighted(bad, 1.0, 1.0), weighted(1.0, bad, 1.0), overhead(bad, 1.0, 1.0, 1.0)];
            assert!(all.iter().all(|value| value.is_nan()), "{bad}: {all:?}");
            assert!(ReplayWeight::CatchUp.at(bad).is_nan());
        }
        assert!(ReplayWeight::CatchUp.at(1.0).is_nan());
        assert_eq!(weighted(0.0, 3600.0, 1.0), 0.0);
    }
}
