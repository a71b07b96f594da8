//! Goals that cannot be met, and what would make them feasible.

use std::fmt;

use super::bound::Bound;
use super::units::Seconds;

/// A goal that cannot be met under the current conditions.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Infeasible {
    /// No interval brings a recovery down to the goal.
    Recovery {
        /// The goal, s.
        goal: f64,
        /// The shortest recovery at any interval, s; infinite if the job would never catch up.
        least: f64,
        /// The outage that would meet the goal, s; negative if none would.
        outage: f64,
        /// The capacity that would meet the goal, records/s; infinite if none would.
        capacity: f64,
    },
    /// Two bounds leave no interval between them.
    Conflict {
        /// The bound from below, and the shortest interval that it allows, s.
        longer: (Bound, f64),
        /// The bound from above, and the longest interval that it allows, s.
        shorter: (Bound, f64),
        /// The value at which the first bound would agree with the second; NaN if it is not a goal.
        relax_longer: f64,
        /// The value at which the second bound would agree with the first; NaN if it is not a goal.
        relax_shorter: f64,
    },
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
