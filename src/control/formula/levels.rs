//! Checkpoints at several levels of durability, each with its own period.

use super::{sane, young};

/// A level of durability: what a checkpoint to it costs, and how often a failure needs it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    /// Capacity lost to one checkpoint at this level, s.
    pub cost: f64,
    /// Failures per second that need this level and no higher one.
    pub failure_rate: f64,
}

impl Level {
    /// Returns its best period, `sqrt(2 C / lam)`. Check: (0.05, 1/3600) is 18.974.
    #[must_use]
    pub fn period(&self) -> f64 {
        young(self.cost, 1.0 / self.failure_rate)
    }

    /// Returns the share of time that it costs at that period, `sqrt(2 lam C)`. Check: (0.05, 1/3600) is 0.00527046.
    #[must_use]
    pub fn overhead(&self) -> f64 {
        if sane(&[self.cost, self.failure_rate]) { (2.0 * self.cost * self.failure_rate).sqrt() } else { f64::NAN }
    }
}

/// Returns the share of time that all `levels` cost together, each at its best period.
///
/// # Source
/// Benoit, Cavelan, Le Fevre, Robert, Sun, IEEE TC 66(7), 2017; `docs/formulas.md`, A8. Check: 0.01145031 there.
#[must_use]
pub fn levels_overhead(levels: &[Level]) -> f64 {
    levels.iter().map(Level::overhead).sum()
}

#[cfg(test)]
mod tests {
    use super::super::prints;
    use super::*;

    #[test]
    fn a8_levels() {
        let level = |cost: f64, mtbf: f64| Level { cost, failure_rate: 1.0 / mtbf };
        let levels = [level(0.05, 3600.0), level(0.5, 86400.0), level(10.0, 30.0 * 86400.0)];
        for (level, period, share) in [
            (levels[0], "18.974", "0.00527046"),
            (levels[1], "293.939", "0.00340207"),
            (levels[2], "7200.000", "0.00277778"),
        ] {
            prints(level.period(), period);
            prints(level.overhead(), share);
        }
        prints(levels_overhead(&levels), "0.01145031");
        let one = Level { cost: 10.0, failure_rate: levels.iter().map(|level| level.failure_rate).sum() };
        prints(levels_overhead(&[one]), "0.07612328");
        prints(levels_overhead(&[one]) / levels_overhead(&levels), "6.6");
    }

    #[test]
    fn out_of_range_is_nan() {
        assert!(levels_overhead(&[Level { cost: -1.0, failure_rate: 1.0 }]).is_nan());
        assert_eq!(levels_overhead(&[]), 0.0);
    }
}
