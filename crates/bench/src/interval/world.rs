//! A checkpointed job and its environment: the truth, unknown to the controller.

use alluvium::internals::control::formula;

use crate::random::Random;

/// Number of key classes, by update frequency.
const CLASSES: u32 = 24;

/// Table points per doubling of updates, for the number of distinct keys.
const PER_DOUBLING: f64 = 8.0;

/// Seconds of load averaged after a failure to value an earlier checkpoint.
const AHEAD_S: usize = 120;

/// A job's size and costs.
#[derive(Debug, Clone)]
pub(super) struct Job {
    /// Maximum records processed per second.
    pub(super) capacity: f64,
    pub(super) keys: f64,
    pub(super) row_bytes: f64,
    /// Skew of the keys: exponent of a Zipf law; 0 is uniform.
    pub(super) skew: f64,
    /// Capacity lost to a checkpoint: s, s per byte.
    pub(super) cost: (f64, f64),
    /// Duration of a checkpoint: s, s per byte.
    pub(super) duration: (f64, f64),
    /// Outage: s, s per byte of state.
    pub(super) outage: (f64, f64),
    /// Relative standard deviation of costs, durations and outages.
    pub(super) noise: f64,
}

impl Job {
    pub(super) fn state_bytes(&self) -> f64 {
        self.keys * self.row_bytes
    }

    pub(super) fn mean_outage(&self) -> f64 {
        self.outage.0 + self.outage.1 * self.state_bytes()
    }
}

/// Distribution of the gaps between failures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Failures {
    /// Independent failures.
    Exponential,
    /// Weibull gaps of this shape: below 1, failures cluster.
    Weibull(f64),
}

impl Failures {
    /// Draws a gap with a mean of 1.
    fn gap(self, random: &mut Random) -> f64 {
        let exponential = -(1.0 - random.draw_unit()).ln();
        match self {
            Self::Exponential => exponential,
            Self::Weibull(shape) => exponential.powf(1.0 / shape) / puruspe::gamma(1.0 + 1.0 / shape),
        }
    }
}

/// A load by the second and its effect on the job.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) job: Job,
    /// Records per second.
    pub(super) rate: Vec<f64>,
    /// Updates of state per record.
    pub(super) updates_per_record: Vec<f64>,
    /// Failures per second.
    pub(super) hazard: Vec<f64>,
    records: Vec<f64>,
    updates: Vec<f64>,
    hazards: Vec<f64>,
    distinct: Vec<f64>,
}

impl World {
    /// Returns a world; the three series have equal lengths.
    pub(super) fn new(job: Job, rate: Vec<f64>, updates_per_record: Vec<f64>, hazard: Vec<f64>) -> Self {
        let updates: Vec<f64> = rate.iter().zip(&updates_per_record).map(|(rate, per)| rate * per).collect();
        let distinct = distinct_table(&job);
        Self {
            records: sums(&rate),
            updates: sums(&updates),
            hazards: sums(&hazard),
            job,
            rate,
            updates_per_record,
            hazard,
            distinct,
        }
    }

    /// Returns a world with constant updates per record and a constant failure rate.
    pub(super) fn plain(job: Job, rate: Vec<f64>, mtbf: f64) -> Self {
        let (ones, hazard) = (vec![1.0; rate.len()], vec![1.0 / mtbf; rate.len()]);
        Self::new(job, rate, ones, hazard)
    }

    /// Returns the length, s.
    pub(super) fn end(&self) -> f64 {
        self.rate.len() as f64
    }

    /// Returns the input rate at `t`; beyond the end, the mean rate.
    pub(super) fn rate_at(&self, t: f64) -> f64 {
        self.rate.get(second(t)).copied().unwrap_or_else(|| self.records_at(self.end()) / self.end())
    }

    /// Returns the records that arrive before `t`.
    pub(super) fn records_at(&self, t: f64) -> f64 {
        let at = second(t).min(self.rate.len());
        self.records.get(at).copied().unwrap_or(0.0) + (t - at as f64) * self.rate.get(at).copied().unwrap_or(0.0)
    }

    /// Returns the updates per record at `t`.
    pub(super) fn updates_per_record_at(&self, t: f64) -> f64 {
        self.updates_per_record.get(second(t)).copied().unwrap_or(1.0)
    }

    /// Returns the updates made by the first `offset` records.
    pub(super) fn updates_at(&self, offset: f64) -> f64 {
        let at = self.records.partition_point(|sum| *sum <= offset).saturating_sub(1).min(self.rate.len() - 1);
        let part = offset - self.records.get(at).copied().unwrap_or(0.0);
        self.updates.get(at).copied().unwrap_or(0.0) + part * self.updates_per_record.get(at).copied().unwrap_or(1.0)
    }

    /// Returns the number of distinct keys hit by `updates` updates.
    pub(super) fn distinct(&self, updates: f64) -> f64 {
        if updates <= 1.0 {
            return updates.max(0.0);
        }
        let position = updates.log2() * PER_DOUBLING;
        let at = second(position);
        match (self.distinct.get(at), self.distinct.get(at + 1)) {
            (Some(low), Some(high)) => low + (high - low) * (position - at as f64),
            _ => self.job.keys,
        }
    }

    /// Draws failure times.
    pub(super) fn failures(&self, failures: Failures, random: &mut Random) -> Vec<f64> {
        let mut sum = 0.0;
        let mut times = Vec::new();
        loop {
            sum += failures.gap(random);
            let at = self.hazards.partition_point(|hazard| *hazard < sum);
            let before = at.saturating_sub(1);
            let (Some(_), Some(sum_before), Some(rate)) =
                (self.hazards.get(at), self.hazards.get(before), self.hazard.get(before))
            else {
                break;
            };
            times.push(before as f64 + (sum - sum_before) / rate);
        }
        times
    }

    /// Returns when a backlog at `t` is drained.
    pub(super) fn drained(&self, t: f64, backlog: f64) -> f64 {
        let (mut t, mut left) = (t, backlog);
        while t < self.end() {
            let next = (t.floor() + 1.0).min(self.end());
            let spare = self.job.capacity - self.rate_at(t);
            if spare > 0.0 && left <= spare * (next - t) {
                return t + left / spare;
            }
            left -= spare * (next - t);
            t = next;
        }
        t + left.max(0.0) / (self.job.capacity - self.rate_at(t)).max(0.05 * self.job.capacity)
    }

    /// Returns, for each second, the marginal time cost of one more record of backlog.
    pub(super) fn value_of_backlog(&self) -> Vec<f64> {
        let ahead = |at: usize| {
            let to = (at + AHEAD_S).min(self.rate.len());
            (self.records_at(to as f64) - self.records_at(at as f64)) / (to - at).max(1) as f64
        };
        let value = |at: usize| 1.0 / (self.job.capacity - ahead(at)).max(0.05 * self.job.capacity);
        (0..self.rate.len()).map(value).collect()
    }
}

/// Returns prefix sums, with the total at the end.
fn sums(values: &[f64]) -> Vec<f64> {
    let mut sum = 0.0;
    let before = values.iter().map(|value| {
        let before = sum;
        sum += value;
        before
    });
    let mut sums: Vec<f64> = before.collect();
    sums.push(sum);
    sums
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds of a trace; saturates")]
fn second(t: f64) -> usize {
    t as usize
}

/// Tabulates distinct keys by the logarithm of updates. The Zipf law is split into classes of ranks that double in
/// size: exact to a percent.
fn distinct_table(job: &Job) -> Vec<f64> {
    let edge = |class: u32| (job.keys.powf(f64::from(class) / f64::from(CLASSES))).round();
    let classes: Vec<(f64, f64)> = (0..CLASSES)
        .map(|class| (edge(class), if class + 1 == CLASSES { job.keys + 1.0 } else { edge(class + 1) }))
        .filter(|(from, to)| to > from)
        .map(|(from, to)| (to - from, (to - from) * (0.5 * (from + to)).powf(-job.skew)))
        .collect();
    let weights: f64 = classes.iter().map(|(_, weight)| weight).sum();
    let distinct = |updates: f64| {
        let one = |(keys, weight): &(f64, f64)| formula::distinct_keys_uniform(*keys, updates * weight / weights);
        classes.iter().map(one).sum::<f64>()
    };
    (0..=360).map(|at| distinct((f64::from(at) / PER_DOUBLING).exp2())).collect()
}
