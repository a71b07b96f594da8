//! What the user wants of checkpoints.

use std::time::Duration;

use crate::error::{Error, Result};

/// Requests that a checkpoint makes at least: the manifest's create and the look for a newer attempt.
pub(super) const LEAST_REQUESTS: f64 = 2.0;

/// Goals, in any combination; none is: lose as little time as possible.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Goals {
    /// A recovery, from the failure until the job has caught up, takes at most this long.
    pub recovery: Option<Duration>,
    /// The last finished checkpoint is never older than this.
    pub recovery_point: Option<Duration>,
    /// Checkpoints take at most this share of the capacity, above 0 and below 1.
    pub overhead: Option<f64>,
    /// Checkpoints write at most this many bytes per hour.
    pub bytes_per_hour: Option<f64>,
    /// Checkpoints make at most this many requests per hour.
    pub requests_per_hour: Option<f64>,
}

impl Goals {
    /// Checks that each goal means something and that no two contradict each other, whatever the job.
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
            let needed = LEAST_REQUESTS * 3600.0 / point.as_secs_f64();
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
    fn what_means_nothing_or_contradicts_is_refused() {
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
