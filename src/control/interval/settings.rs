//! The settings of the controller.

use std::time::Duration;

use crate::control::chain::ChainPolicy;
use crate::control::estimate::FailurePrior;
use crate::control::formula::ReplayWeight;
use crate::error::{Error, Result};

/// Guard rails, and assumptions that hold until measurements replace them.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct IntervalSettings {
    /// Shortest interval. Default 1 s.
    pub shortest: Duration,
    /// Longest interval. Default 1 h.
    pub longest: Duration,
    /// Interval before the first measurements. Default 10 s.
    pub first: Duration,
    /// Largest share of the time with a checkpoint in flight, above 0 and up to 1. Default 0.5.
    pub busy_share: f64,
    /// Shortest time from the end of a checkpoint to the start of the next; less than `longest`. Default 0.
    pub min_pause: Duration,
    /// A checkpoint is aborted after this time. Default 10 min.
    pub timeout: Duration,
    /// Cost of replaying a second of input. Default: the time to catch up. [`ReplayWeight::Batch`] is for input that waits to be
    /// read, such as a file: no backlog builds up while the job is down.
    pub weight: ReplayWeight,
    /// The interval stays while a better one would save less than this share of the overhead. Default 0.01.
    pub dead_band: f64,
    /// Share of the overhead that may be spent on moving a checkpoint into a lull. Default 0.01; 0 disables this.
    pub lull: f64,
    /// Assumptions about failures.
    pub failures: FailurePrior,
    /// Highest rate at which the job processes records, records/s. Default: learned.
    pub capacity: Option<f64>,
    /// Time from a failure to the start of the restore: detection and restart. Default 10 s.
    pub restart: Duration,
    /// Speed of a restore, bytes of state per second. Default 100 MB/s.
    pub restore_bytes_per_s: f64,
    /// Share of a checkpoint's duration that the job loses, where the loss is not measured. Default 0.05.
    pub slow_down: f64,
    /// Most bytes of changed rows in a checkpoint; bounds memory. Default: unlimited.
    pub delta_bytes: f64,
    /// Bounds of the segment chains.
    pub chain: ChainPolicy,
    /// Number of key groups. Default 128.
    pub groups: u16,
}

impl Default for IntervalSettings {
    fn default() -> Self {
        Self {
            shortest: Duration::from_secs(1),
            longest: Duration::from_secs(3600),
            first: Duration::from_secs(10),
            busy_share: 0.5,
            min_pause: Duration::ZERO,
            timeout: Duration::from_secs(600),
            weight: ReplayWeight::default(),
            dead_band: 0.01,
            lull: 0.01,
            failures: FailurePrior::default(),
            capacity: None,
            restart: Duration::from_secs(10),
            restore_bytes_per_s: 1e8,
            slow_down: 0.05,
            delta_bytes: f64::INFINITY,
            chain: ChainPolicy::default(),
            groups: 128,
        }
    }
}

impl IntervalSettings {
    /// Checks that every setting is in range.
    ///
    /// # Errors
    /// `Config`, naming the setting.
    pub fn check(&self) -> Result<()> {
        let positive = |value: f64| value > 0.0;
        let share = |value: f64| value > 0.0 && value <= 1.0;
        let checks = [
            ("shortest", self.shortest < Duration::from_millis(1)),
            ("longest", self.longest < self.shortest || self.longest > Duration::from_secs(366 * 86_400)),
            ("first", self.first.is_zero()),
            ("timeout", self.timeout.is_zero()),
            ("min_pause", self.min_pause >= self.longest),
            ("busy_share", !share(self.busy_share)),
            ("dead_band", !(0.0..=1.0).contains(&self.dead_band)),
            ("lull", !(0.0..=1.0).contains(&self.lull)),
            ("failures.job_mtbf", !positive(self.failures.job_mtbf)),
            ("failures.node_mtbf", !positive(self.failures.node_mtbf)),
            ("failures.strength", !(positive(self.failures.strength) && self.failures.strength.is_finite())),
            ("failures.memory", !positive(self.failures.memory)),
            ("capacity", self.capacity.is_some_and(|capacity| !(positive(capacity) && capacity.is_finite()))),
            ("restore_bytes_per_s", !positive(self.restore_bytes_per_s)),
            ("slow_down", !share(self.slow_down)),
            ("delta_bytes", !positive(self.delta_bytes)),
            ("groups", self.groups == 0),
        ];
        match checks.into_iter().find(|(_, wrong)| *wrong) {
            Some((setting, _)) => {
                Err(Error::config("setting of the adaptive interval is out of range").with("setting", setting))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_accepted_and_nonsense_is_refused() {
        let valid = IntervalSettings::default();
        valid.check().unwrap();
        let wrong = [
            IntervalSettings { shortest: Duration::ZERO, ..valid },
            IntervalSettings { longest: Duration::from_millis(1), ..valid },
            IntervalSettings { longest: Duration::MAX, ..valid },
            IntervalSettings { min_pause: valid.longest, ..valid },
            IntervalSettings { busy_share: 0.0, ..valid },
            IntervalSettings { busy_share: f64::NAN, ..valid },
            IntervalSettings { dead_band: -1.0, ..valid },
            IntervalSettings { capacity: Some(0.0), ..valid },
            IntervalSettings { restore_bytes_per_s: f64::NAN, ..valid },
            IntervalSettings { failures: FailurePrior { job_mtbf: 0.0, ..FailurePrior::default() }, ..valid },
            IntervalSettings { failures: FailurePrior { strength: f64::NAN, ..FailurePrior::default() }, ..valid },
            IntervalSettings { groups: 0, ..valid },
        ];
        for settings in wrong {
            assert!(settings.check().is_err(), "{settings:?}");
        }
    }
}
