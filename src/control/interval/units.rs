//! Numbers as text for people.

use std::fmt;

/// Prints a time in seconds.
pub(super) struct Seconds(pub(super) f64);

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
pub(super) struct Percent(pub(super) f64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = 100.0 * self.0;
        if percent >= 0.995 { write!(f, "{percent:.1} %") } else { write!(f, "{percent:.2} %") }
    }
}
