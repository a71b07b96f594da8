//! Parses goals of the adaptive interval.

use std::str::FromStr;
use std::time::Duration;

use alluvium::interval::Goals;

/// Goals as `--goal` takes them: `recovery=60s,overhead=2%`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct GoalArg(pub Goals);

/// Help text of `--goal`.
pub const HELP: &str = "What checkpoints are to achieve, in any combination: recovery=DURATION, recovery-point=DURATION, \
     overhead=PERCENT%, bytes-per-hour=SIZE, requests-per-hour=N [default: lose as little time as possible]";

impl FromStr for GoalArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut goals = Goals::default();
        for part in text.split(',') {
            let (name, value) =
                part.split_once('=').ok_or_else(|| format!("`{part}` is not of the form goal=value"))?;
            let (name, value) = (name.trim(), value.trim());
            let twice = match name {
                "recovery" => goals.recovery.replace(duration(value)?).is_some(),
                "recovery-point" => goals.recovery_point.replace(duration(value)?).is_some(),
                "overhead" => goals.overhead.replace(percent(value)?).is_some(),
                "bytes-per-hour" => {
                    let size: bytesize::ByteSize = value.parse().map_err(|why| format!("`{value}`: {why}"))?;
                    goals.bytes_per_hour.replace(size.as_u64() as f64).is_some()
                }
                "requests-per-hour" => goals.requests_per_hour.replace(number(value)?).is_some(),
                _ => return Err(format!("no such goal `{name}`")),
            };
            if twice {
                return Err(format!("goal `{name}` is given twice"));
            }
        }
        goals.check().map_err(|error| error.chain())?;
        Ok(Self(goals))
    }
}

fn duration(value: &str) -> Result<Duration, String> {
    humantime::parse_duration(value).map_err(|why| format!("`{value}`: {why}"))
}

fn number(value: &str) -> Result<f64, String> {
    value.parse().map_err(|_| format!("`{value}` is not a number"))
}

fn percent(value: &str) -> Result<f64, String> {
    let digits = value.strip_suffix('%').ok_or_else(|| format!("`{value}` is not a percentage"))?;
    Ok(number(digits.trim())? / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_in_any_combination() {
        let GoalArg(goals) = "recovery=60s,overhead=2%".parse().unwrap();
        assert_eq!((goals.recovery, goals.overhead), (Some(Duration::from_secs(60)), Some(0.02)));
        let GoalArg(goals) = "bytes-per-hour=1GiB, requests-per-hour=9000,recovery-point=1m".parse().unwrap();
        assert_eq!((goals.bytes_per_hour, goals.requests_per_hour), (Some(1_073_741_824.0), Some(9000.0)));
        assert_eq!(goals.recovery_point, Some(Duration::from_secs(60)));
    }

    #[test]
    fn malformed_goals_are_refused() {
        for text in [
            "",
            "recovery",
            "recovery=",
            "recovery=60",
            "recovery=0s",
            "recovery=-1s",
            "overhead=2",
            "overhead=0%",
            "overhead=-1%",
            "overhead=100%",
            "overhead=NaN%",
            "overhead=inf%",
            "speed=9",
            "recovery=1s,recovery=2s",
            "bytes-per-hour=0",
            "bytes-per-hour=x",
            "requests-per-hour=NaN",
            "requests-per-hour=0",
            "recovery-point=1s,requests-per-hour=10",
        ] {
            assert!(text.parse::<GoalArg>().is_err(), "{text}");
        }
    }
}
