//! What the controller starts from.

use std::time::Duration;

use crate::control::chain::ChainPolicy;
use crate::control::estimate::FailurePrior;
use crate::control::formula::ReplayWeight;
use crate::error::{Error, Result};

/// Guard rails, and what is assumed until it is measured: plain data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IntervalSettings {
    /// No interval is shorter. Default 1 s.
    pub shortest: Duration,
    /// No interval is longer. Default 1 h.
    pub longest: Duration,
    /// The interval until something is known. Default 10 s.
    pub first: Duration,
    /// Checkpoints are under way for at most this share of the time, above 0 and up to 1. Default 0.5.
    pub busy_share: f64,
    /// From the end of a checkpoint to the start of the next, less than the longest interval. Default 0.
    pub min_pause: Duration,
    /// After this a checkpoint is given up. Default 10 min.
    pub timeout: Duration,
    /// What a second to be replayed counts. Default: the time to catch up. With [`ReplayWeight::Batch`] input waits to be read,
    /// as that of a file: none piles up while the job is down.
    pub weight: ReplayWeight,
    /// An interval is kept while a better one would save less than this share of the overhead. Default 0.01.
    pub dead_band: f64,
    /// How much of the overhead may be given to wait for, or take early, a lull. Default 0.01; 0 turns it off.
    pub lull: f64,
    /// What is known of failures.
    pub failures: FailurePrior,
    /// Highest rate of records per second, if it is known. Default: to be learned.
    pub capacity: Option<f64>,
    /// From a failure until state begins to be read: detection and restart. Default 10 s.
    pub restart: Duration,
    /// Bytes of state that a restore reads per second. Default 100 MB.
    pub restore_bytes_per_s: f64,
    /// Share of a checkpoint's duration that is lost to the job, where that is not measured. Default 0.05.
    pub slow_down: f64,
    /// A checkpoint's changed rows have at most this many bytes: bounds memory. Default: none.
    pub delta_bytes: f64,
    /// Bounds of chains of segments.
    pub chain: ChainPolicy,
    /// Key groups of the job. Default 128.
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
    /// Checks that they can work.
    ///
    /// # Errors
    /// `Config`, naming the setting.
    pub fn check(&self) -> Result<()> {
        let positive = |value: f64| value > 0.0;
        let share = |value: f64| value > 0.0 && value <= 1.0;
        let wrong = [
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
        match wrong.into_iter().find(|(_, wrong)| *wrong) {
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
    fn defaults_work_and_nonsense_does_not() {
        let fine = IntervalSettings::default();
        fine.check().unwrap();
        let wrong = [
            IntervalSettings { shortest: Duration::ZERO, ..fine },
            IntervalSettings { longest: Duration::from_millis(1), ..fine },
            IntervalSettings { longest: Duration::MAX, ..fine },
            IntervalSettings { min_pause: fine.longest, ..fine },
            IntervalSettings { busy_share: 0.0, ..fine },
            IntervalSettings { busy_share: f64::NAN, ..fine },
            IntervalSettings { dead_band: -1.0, ..fine },
            IntervalSettings { capacity: Some(0.0), ..fine },
            IntervalSettings { restore_bytes_per_s: f64::NAN, ..fine },
            IntervalSettings { failures: FailurePrior { job_mtbf: 0.0, ..FailurePrior::default() }, ..fine },
            IntervalSettings { failures: FailurePrior { strength: f64::NAN, ..FailurePrior::default() }, ..fine },
            IntervalSettings { groups: 0, ..fine },
        ];
        for settings in wrong {
            assert!(settings.check().is_err(), "{settings:?}");
        }
    }
}
