//! Why a decision is what it is, in numbers.

use std::fmt;

use super::bounds::Bound;
use super::settings::IntervalSettings;

/// The numbers behind a decision.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Reason {
    /// The interval that was chosen, s.
    pub interval_s: f64,
    /// What the target was chosen by.
    pub binds: Bound,
    /// The interval that is gone to, s: what `binds` asks for, or a little less where that moves all the time.
    pub target_s: f64,
    /// Why the interval is not the target, if it is not.
    pub damping: Option<Damping>,
    /// The interval with the least overhead if there were no goals, s.
    pub optimum_s: f64,
    /// Share of time that checkpoints and replay are expected to cost.
    pub overhead: f64,
    /// Capacity lost to one checkpoint at this interval, s.
    pub cost_s: f64,
    /// Share of all rows that is dirtied in a second at this interval, if the number of rows is known.
    pub dirty_per_s: Option<f64>,
    /// Rows dirtied per second at this interval.
    pub dirty_rows_per_s: f64,
    /// Outage that a failure would cause, s.
    pub restore_s: f64,
    /// Recovery that is expected if a failure comes at the worst moment, s; infinite where the load leaves no room.
    pub recovery_s: f64,
    /// Mean time between failures, s.
    pub mtbf_s: f64,
    /// Utilisation, 0 to below 1.
    pub utilisation: f64,
    /// What cannot be met.
    pub infeasible: Option<Infeasible>,
}

/// What keeps an interval from being what was asked for at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damping {
    /// It would save next to nothing.
    DeadBand,
    /// It changes by at most a factor of two at a time.
    Step,
    /// It has changed in the other direction just before.
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

/// A goal that cannot be met as things are.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Infeasible {
    /// No interval brings a recovery down to the goal.
    Recovery {
        /// The goal, s.
        goal: f64,
        /// What a recovery takes at the interval that makes it quickest, s; infinite if the job would not catch up at any.
        least: f64,
        /// The outage with which it could be met, s; negative if none could.
        outage: f64,
        /// The capacity with which it could be met, records/s; infinite if none could.
        capacity: f64,
    },
    /// Two goals leave no interval between them.
    Conflict {
        /// What asks for a longer interval, and the shortest that it allows, s.
        longer: (Bound, f64),
        /// What asks for a shorter one, and the longest that it allows, s.
        shorter: (Bound, f64),
        /// The value with which the first would agree with the second; NaN if it is no goal.
        relax_longer: f64,
        /// The value with which the second would agree with the first; NaN if it is no goal.
        relax_shorter: f64,
    },
}

/// A target that differs from the interval by less than this share is not worth telling.
const SHOWN: f64 = 0.005;

impl Reason {
    /// Returns why the first interval is what it is.
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

/// Prints a time in seconds for people.
struct Seconds(f64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            s if !s.is_finite() => f.write_str("no end"),
            s if s < 1.0 => write!(f, "{:.0} ms", s * 1000.0),
            s if s < 600.0 => write!(f, "{s:.1} s"),
            s if s < 36_000.0 => write!(f, "{:.1} min", s / 60.0),
            s => write!(f, "{:.1} h", s / 3600.0),
        }
    }
}

/// Prints a share as a percentage.
struct Percent(f64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = 100.0 * self.0;
        if percent >= 0.995 { write!(f, "{percent:.1} %") } else { write!(f, "{percent:.2} %") }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} binds", Seconds(self.interval_s), self.binds)?;
        if let Some(damping) = self.damping.filter(|_| (self.target_s / self.interval_s - 1.0).abs() > SHOWN) {
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

impl fmt::Display for Infeasible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recovery { goal, least, outage, capacity } => {
                write!(f, "recovery goal {} cannot be met: ", Seconds(*goal))?;
                if least.is_finite() {
                    write!(f, "the quickest takes {}; it needs", Seconds(*least))?;
                } else {
                    f.write_str("the load leaves no room to catch up; it needs")?;
                }
                let needs = [
                    (*outage > 0.0).then(|| format!("an outage of {}", Seconds(*outage))),
                    capacity.is_finite().then(|| format!("a capacity of {capacity:.0} records/s")),
                    least.is_finite().then(|| format!("a goal of {}", Seconds(*least))),
                ];
                let needs: Vec<String> = needs.into_iter().flatten().collect();
                write!(
                    f,
                    " {}",
                    if needs.is_empty() { "a shorter outage and more capacity".to_owned() } else { needs.join(" or ") }
                )
            }
            Self::Conflict { longer, shorter, relax_longer, relax_shorter } => {
                write!(f, "{} needs {} or more, {} needs ", longer.0, Seconds(longer.1), shorter.0)?;
                write!(f, "{} or less; it would do with", Seconds(shorter.1.max(0.0)))?;
                let first = longer.0.relaxed(*relax_longer);
                let second = shorter.0.relaxed(*relax_shorter);
                match (first, second) {
                    (Some(first), Some(second)) => write!(f, " {first} or {second}"),
                    (Some(one), None) | (None, Some(one)) => write!(f, " {one}"),
                    (None, None) => f.write_str(" other guard rails"),
                }
            }
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => f.write_str("nothing known yet, first interval"),
            Self::Cost => f.write_str("cost optimum"),
            Self::Recovery(goal) => write!(f, "recovery goal {}", Seconds(*goal)),
            Self::RecoveryPoint(goal) => write!(f, "recovery point goal {}", Seconds(*goal)),
            Self::Overhead(share) => write!(f, "overhead goal {}", Percent(*share)),
            Self::Bytes(bytes) => write!(f, "goal of {bytes:.0} bytes per hour"),
            Self::Requests(requests) => write!(f, "goal of {requests:.0} requests per hour"),
            Self::DeltaBytes(bytes) => write!(f, "guard rail of {bytes:.0} dirty bytes"),
            Self::Duration => f.write_str("guard rail of the checkpoint's duration"),
            Self::MinPause => f.write_str("guard rail of the pause between checkpoints"),
            Self::Shortest => f.write_str("guard rail of the shortest interval"),
            Self::Longest => f.write_str("guard rail of the longest interval"),
        }
    }
}

impl Bound {
    /// Returns the goal with another value, as text; `None` for what is no goal, or cannot be had.
    fn relaxed(&self, value: f64) -> Option<String> {
        if !value.is_finite() {
            return None;
        }
        let with = match self {
            Self::Recovery(_) => Self::Recovery(value),
            Self::RecoveryPoint(_) => Self::RecoveryPoint(value),
            Self::Overhead(_) => Self::Overhead(value),
            Self::Bytes(_) => Self::Bytes(value),
            Self::Requests(_) => Self::Requests(value),
            _ => return None,
        };
        Some(with.to_string())
    }
}
