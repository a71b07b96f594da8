//! The goals of a user.

use std::time::Duration;

use crate::error::{Error, Result};

/// Fewest requests of a checkpoint: creating the manifest and checking for a newer attempt.
pub(super) const MIN_REQUESTS: f64 = 2.0;

/// Goals, in any combination. Without a goal the controller minimises lost time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct Goals {
    /// Longest recovery, from the failure until the job has caught up.
    pub recovery: Option<Duration>,
    /// Greatest age of the last finished checkpoint.
    pub recovery_point: Option<Duration>,
    /// Largest share of the capacity spent on checkpoints, above 0 and below 1.
    pub overhead: Option<f64>,
    /// Most bytes that checkpoints write per hour.
    pub bytes_per_hour: Option<f64>,
    /// Most requests that checkpoints make per hour.
    pub requests_per_hour: Option<f64>,
}

impl Goals {
    /// Checks that every goal is in range and that no two contradict each other for every job.
    ///
    /// # Errors
    /// `Config`, naming the goal.
    pub fn check(&self) -> Result<()> {
        let wrong = |goal: &str, why: &str| Err(Error::config(format!("{goal} goal {why}")));
        for (goal, value) in [("recovery", self.recovery), ("recovery point", self.recovery_point)] {
            if value.is_some_and(|value| value.is_zero()) {
                return wrong(goal, "must be longer than zero");
            }
        }
        if self.overhead.is_some_and(|share| !(share > 0.0 && share < 1.0)) {
            return wrong("overhead", "must be above 0 % and below 100 %");
        }
        for (goal, value) in [("bytes per hour", self.bytes_per_hour), ("requests per hour", self.requests_per_hour)] {
            if value.is_some_and(|value| !(value.is_finite() && value > 0.0)) {
                return wrong(goal, "must be a number above zero");
            }
        }
        if let (Some(point), Some(requests)) = (self.recovery_point, self.requests_per_hour) {
            let needed = MIN_REQUESTS * 3600.0 / point.as_secs_f64();
            if requests < needed {
                let error = Error::config("recovery point goal contradicts requests per hour goal");
                return Err(error.with("requests_needed", needed.ceil()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn goals_out_of_range_or_in_contradiction_are_refused() {
        let second = Some(Duration::from_secs(1));
        let refused = [
            Goals { recovery: Some(Duration::ZERO), ..Goals::default() },
            Goals { recovery_point: Some(Duration::ZERO), ..Goals::default() },
            Goals { overhead: Some(0.0), ..Goals::default() },
            Goals { overhead: Some(-0.1), ..Goals::default() },
            Goals { overhead: Some(1.0), ..Goals::default() },
            Goals { overhead: Some(f64::NAN), ..Goals::default() },
            Goals { bytes_per_hour: Some(0.0), ..Goals::default() },
            Goals { bytes_per_hour: Some(f64::INFINITY), ..Goals::default() },
            Goals { requests_per_hour: Some(-1.0), ..Goals::default() },
            Goals { recovery_point: second, requests_per_hour: Some(7199.0), ..Goals::default() },
        ];
        for goals in refused {
            assert_eq!(goals.check().unwrap_err().kind(), ErrorKind::Config, "{goals:?}");
        }
        let possible = Goals { recovery_point: second, requests_per_hour: Some(7200.0), ..Goals::default() };
        assert!(possible.check().is_ok() && Goals::default().check().is_ok());
    }
}
