//! The bounds of the interval.

use std::fmt;

use super::units::{Percent, Seconds};

/// What determines an interval.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Bound {
    /// There are no measurements yet.
    First,
    /// The interval has the least overhead.
    Cost,
    /// Goal: longest recovery, s.
    Recovery(f64),
    /// Goal: greatest age of the last checkpoint, s.
    RecoveryPoint(f64),
    /// Goal: largest share of the capacity spent on checkpoints.
    Overhead(f64),
    /// Goal: bytes per hour.
    Bytes(f64),
    /// Goal: requests per hour.
    Requests(f64),
    /// Guard rail: bytes of changed rows in one checkpoint.
    DeltaBytes(f64),
    /// Guard rail: share of the time with a checkpoint in flight.
    Duration,
    /// Guard rail: time from the end of a checkpoint to the start of the next.
    MinPause,
    /// Guard rail: shortest interval.
    Shortest,
    /// Guard rail: longest interval.
    Longest,
}

impl Bound {
    /// Returns a stable name, for metric labels and JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Cost => "cost",
            Self::Recovery(_) => "recovery",
            Self::RecoveryPoint(_) => "recovery_point",
            Self::Overhead(_) => "overhead",
            Self::Bytes(_) => "bytes",
            Self::Requests(_) => "requests",
            Self::DeltaBytes(_) => "delta_bytes",
            Self::Duration => "duration",
            Self::MinPause => "min_pause",
            Self::Shortest => "shortest",
            Self::Longest => "longest",
        }
    }

    /// Every name that [`Bound::name`] returns.
    pub const NAMES: [&'static str; 12] = [
        "first",
        "cost",
        "recovery",
        "recovery_point",
        "overhead",
        "bytes",
        "requests",
        "delta_bytes",
        "duration",
        "min_pause",
        "shortest",
        "longest",
    ];

    /// Returns the goal with another value, as text; `None` for a guard rail, or a value that is not finite.
    pub(super) fn relaxed(&self, value: f64) -> Option<String> {
        if !value.is_finite() {
            return None;
        }
        let relaxed = match self {
            Self::Recovery(_) => Self::Recovery(value),
            Self::RecoveryPoint(_) => Self::RecoveryPoint(value),
            Self::Overhead(_) => Self::Overhead(value),
            Self::Bytes(_) => Self::Bytes(value),
            Self::Requests(_) => Self::Requests(value),
            _ => return None,
        };
        Some(relaxed.to_string())
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
