//! The numbers behind a decision.

use std::fmt;

use super::bound::Bound;
use super::infeasible::Infeasible;
use super::settings::IntervalSettings;
use super::units::{Percent, Seconds};

/// The numbers behind a decision.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Reason {
    /// The chosen interval, s.
    pub interval_s: f64,
    /// What determines the target.
    pub binds: Bound,
    /// The interval that the controller moves towards, s: the value of `binds`, or a little less if that value keeps moving.
    pub target_s: f64,
    /// Why the interval is not yet the target, if it is not.
    pub damping: Option<Damping>,
    /// The interval with the least overhead, regardless of goals, s.
    pub optimum_s: f64,
    /// Expected share of time lost to checkpoints and replay.
    pub overhead: f64,
    /// Capacity lost to one checkpoint at this interval, s.
    pub cost_s: f64,
    /// Share of all rows dirtied per second at this interval, if the number of rows is known.
    pub dirty_per_s: Option<f64>,
    /// Rows dirtied per second at this interval.
    pub dirty_rows_per_s: f64,
    /// Expected outage after a failure, s.
    pub restore_s: f64,
    /// Expected recovery after a failure at the worst moment, s; infinite if the load leaves no spare capacity.
    pub recovery_s: f64,
    /// Mean time between failures, s.
    pub mtbf_s: f64,
    /// Utilisation, 0 to below 1.
    pub utilisation: f64,
    /// The goal that cannot be met, if any.
    pub infeasible: Option<Infeasible>,
}

/// What delays a change of the interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damping {
    /// The change would save next to nothing.
    DeadBand,
    /// The interval changes by at most a factor of two at a time.
    Step,
    /// The interval has just changed in the other direction.
    Turn,
}

impl fmt::Display for Damping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DeadBand => "which would save next to nothing",
            Self::Step => "a factor of two at a time",
            Self::Turn => "but not so soon after a change the other way",
        })
    }
}

/// A target is printed if it differs from the interval by more than this share.
const SHOWN_DIFFERENCE: f64 = 0.005;

impl Reason {
    /// Returns the reason for the interval before the first measurements.
    pub(super) fn first(settings: &IntervalSettings) -> Self {
        let first = settings.first.as_secs_f64();
        Self {
            interval_s: first,
            binds: Bound::First,
            target_s: first,
            damping: None,
            optimum_s: first,
            overhead: 0.0,
            cost_s: 0.0,
            dirty_per_s: None,
            dirty_rows_per_s: 0.0,
            restore_s: settings.restart.as_secs_f64(),
            recovery_s: 0.0,
            mtbf_s: settings.failures.job_mtbf,
            utilisation: 0.0,
            infeasible: None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} binds", Seconds(self.interval_s), self.binds)?;
        let shown = (self.target_s / self.interval_s - 1.0).abs() > SHOWN_DIFFERENCE;
        if let Some(damping) = self.damping.filter(|_| shown) {
            write!(f, " and asks for {}, {damping}", Seconds(self.target_s))?;
        }
        if self.binds != Bound::Cost {
            write!(f, "; cost optimum would be {}", Seconds(self.optimum_s))?;
        }
        match self.dirty_per_s {
            Some(share) => write!(f, "; dirty {} per s", Percent(share))?,
            None => write!(f, "; dirty {:.0} rows per s", self.dirty_rows_per_s)?,
        }
        write!(f, "; checkpoint {}; overhead {}", Seconds(self.cost_s), Percent(self.overhead))?;
        write!(f, "; restore {}; recovery {}", Seconds(self.restore_s), Seconds(self.recovery_s))?;
        write!(f, "; a failure in {}; load {}", Seconds(self.mtbf_s), Percent(self.utilisation))?;
        match &self.infeasible {
            Some(infeasible) => write!(f, "; {infeasible}"),
            None => Ok(()),
        }
    }
}
