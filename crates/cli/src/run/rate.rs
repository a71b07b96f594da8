//! The `--rate` flag: one rate, or a sequence of rates.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Rates in records per second, each with its start time: `1000,10000@60s,1000@120s`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RateArg(Vec<(Duration, u64)>);

impl RateArg {
    /// Returns the number of records allowed within `elapsed`.
    pub(super) fn allowed(&self, elapsed: Duration) -> u128 {
        let ends = self.0.iter().skip(1).map(|(from, _)| *from).chain([Duration::MAX]);
        let part = |((from, per_s), end): (&(Duration, u64), Duration)| {
            elapsed.min(end).saturating_sub(*from).as_millis() * u128::from(*per_s) / 1000
        };
        self.0.iter().zip(ends).map(part).sum()
    }

    /// Returns the rate in force at `elapsed`.
    pub(super) fn at(&self, elapsed: Duration) -> u64 {
        self.0.iter().rev().find(|(from, _)| *from <= elapsed).map_or(1, |(_, per_s)| *per_s)
    }
}

impl FromStr for RateArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut rates: Vec<(Duration, u64)> = Vec::new();
        for part in text.split(',') {
            let (rate, from) = part.split_once('@').unwrap_or((part, "0s"));
            let from = humantime::parse_duration(from).map_err(|why| format!("`{from}`: {why}"))?;
            let rate: u64 = rate.parse().map_err(|_| format!("`{rate}` is not a whole number"))?;
            if rate == 0 {
                return Err("a rate must be at least 1".to_owned());
            }
            let in_order = rates.last().map_or_else(|| from.is_zero(), |(before, _)| *before < from);
            if !in_order {
                return Err("the first rate starts at 0s, each further rate later than the one before".to_owned());
            }
            rates.push((from, rate));
        }
        Ok(Self(rates))
    }
}

impl fmt::Display for RateArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (from, rate)) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma}{rate}@{}", humantime::format_duration(*from))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_apply_in_sequence() {
        let one: RateArg = "500".parse().unwrap();
        assert_eq!((one.allowed(Duration::from_millis(1500)), one.at(Duration::ZERO)), (750, 500));
        let steps: RateArg = "100,1000@60s,100@2m".parse().unwrap();
        let at = |seconds| steps.allowed(Duration::from_secs(seconds));
        assert_eq!((at(60), at(61), at(120), at(130)), (6000, 7000, 66_000, 67_000));
        assert_eq!((steps.at(Duration::from_secs(61)), steps.at(Duration::from_secs(200))), (1000, 100));
        for bad in ["", "0", "-1", "1.5", "5@10s", "5,6", "5,6@20s,7@10s", "5,6@x"] {
            assert!(bad.parse::<RateArg>().is_err(), "{bad}");
        }
    }
}
