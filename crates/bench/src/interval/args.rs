//! The flags of `alluvium interval`.

use std::path::PathBuf;
use std::time::Duration;

use alluvium::interval::{FailurePrior, Goals, IntervalSettings};
use alluvium::{Error, Result};
use bytesize::ByteSize;
use clap::Args;

use super::compare::Case;
use super::trace::{self, MADE_CAPACITY, TraceSource};
use super::world::{Failures, Job, World};
use crate::goal::{self, GoalArg};

/// Assumed utilisation of a trace's busiest minute, if no capacity is given.
const BUSIEST_UTILISATION: f64 = 0.75;

/// Replays a load under the adaptive checkpoint interval and under fixed intervals.
///
/// Simulates a checkpointed job with failures, restores and catch-ups, and repeats with other failures. Prints each
/// policy's lost time: capacity spent on checkpoints, and replay after failures beyond the unavoidable outages.
#[derive(Debug, Clone, Args)]
pub struct IntervalArgs {
    /// The load: a file with the columns `second` and `value` (records per second; `.gz` and `.zst` are decompressed),
    /// or a generated load: made:steady, made:step, made:ramp, made:diurnal, made:bursts, made:flash-crowd,
    /// made:write-storm, made:failure-rate
    #[arg(long, required_unless_present = "suite", value_name = "FILE.csv|made:NAME")]
    pub(crate) trace: Option<TraceSource>,
    #[arg(long, default_value = None, value_name = "GOAL=VALUE,...", help = goal::HELP)]
    pub(crate) goal: Option<GoalArg>,
    /// Mean time between failures
    #[arg(long, default_value = "1h", value_parser = positive, value_name = "DURATION")]
    pub(crate) mtbf: Duration,
    /// Size of the whole state
    #[arg(long, default_value = "1GiB", value_name = "SIZE")]
    pub(crate) state_bytes: ByteSize,
    /// Size of a row of state
    #[arg(long, default_value = "100B", value_name = "SIZE")]
    pub(crate) row_bytes: ByteSize,
    /// Skew of the keys: exponent of a Zipf law, 0 for uniform keys
    #[arg(long, default_value_t = 0.8, value_parser = number, value_name = "EXPONENT")]
    pub(crate) skew: f64,
    /// Records the job can process per second [default: the busiest minute uses three quarters of it]
    #[arg(long, value_parser = above_zero, value_name = "RECORDS_PER_S")]
    pub(crate) capacity: Option<f64>,
    /// Processing time lost to a checkpoint, whatever its size
    #[arg(long, default_value = "300ms", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub(crate) checkpoint_cost: Duration,
    /// Bytes a checkpoint writes per second of its duration
    #[arg(long, default_value = "100MB", value_name = "SIZE")]
    pub(crate) write_rate: ByteSize,
    /// Bytes a restore reads per second
    #[arg(long, default_value = "200MB", value_name = "SIZE")]
    pub(crate) read_rate: ByteSize,
    /// Time from a failure to the start of the restore's reads
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub(crate) restart: Duration,
    /// Mean time between failures expected by the controller before the first failure [default: as --mtbf]
    #[arg(long, value_parser = positive, value_name = "DURATION")]
    pub(crate) prior_mtbf: Option<Duration>,
    /// Shape of Weibull-distributed times between failures, 0.1 to 10; 1 is exponential, below 1 failures come in clusters
    #[arg(long, default_value_t = 1.0, value_parser = shape, value_name = "SHAPE")]
    pub(crate) weibull: f64,
    /// Number of runs, each with other failures
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000), value_name = "N")]
    pub(crate) seeds: u32,
    /// Print the comparison as one JSON document
    #[arg(long)]
    pub(crate) json: bool,
    /// Draw load, dirty rate, chosen interval and events of the first run
    #[arg(long, conflicts_with = "suite", value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Compare over every generated load, with failures, costs and prior as expected and off; with --trace also over
    /// that load
    #[arg(long)]
    pub(crate) suite: bool,
}

fn number(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "is not a number".to_owned())?;
    if (0.0..=10.0).contains(&value) { Ok(value) } else { Err("must be between 0 and 10".to_owned()) }
}

/// Lower shapes put almost all failures at one moment; higher ones space them like clockwork.
fn shape(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "is not a number".to_owned())?;
    if (0.1..=10.0).contains(&value) { Ok(value) } else { Err("must be between 0.1 and 10".to_owned()) }
}

fn above_zero(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "is not a number".to_owned())?;
    if value > 0.0 && value < 1e15 { Ok(value) } else { Err("must be a number above zero".to_owned()) }
}

fn positive(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|source| source.to_string())?;
    if duration < Duration::from_secs(1) { Err("must be at least 1s".to_owned()) } else { Ok(duration) }
}

impl IntervalArgs {
    /// Returns the case to simulate.
    ///
    /// # Errors
    /// `Input`, `NotFound` or `Limit` for the trace, `Config` for invalid sizes.
    pub(super) fn case(&self) -> Result<Case> {
        let Some(source) = &self.trace else { return Err(Error::config("no trace")) };
        let mtbf = self.mtbf.as_secs_f64();
        let world = match source {
            TraceSource::File(path) => {
                let rate = trace::read(path)?;
                let capacity = self.capacity.unwrap_or_else(|| busiest_minute(&rate) / BUSIEST_UTILISATION);
                World::plain(self.job(capacity)?, rate, mtbf)
            }
            TraceSource::Made(made) => {
                let (rate, updates, likelier) = made.make(1);
                let hazard = likelier.into_iter().map(|factor| factor / mtbf).collect();
                World::new(self.job(self.capacity.unwrap_or(MADE_CAPACITY))?, rate, updates, hazard)
            }
        };
        let prior = self.prior_mtbf.unwrap_or(self.mtbf).as_secs_f64();
        Ok(Case {
            name: source.to_string(),
            world,
            goals: self.goal.map_or_else(Goals::default, |goal| goal.0),
            settings: self.settings(prior),
            failures: if self.weibull == 1.0 { Failures::Exponential } else { Failures::Weibull(self.weibull) },
            cost_factor: 1.0,
            seeds: self.seeds,
            first_seed: 1,
        })
    }

    fn job(&self, capacity: f64) -> Result<Job> {
        let (state, row) = (self.state_bytes.as_u64() as f64, self.row_bytes.as_u64() as f64);
        let (write, read) = (self.write_rate.as_u64() as f64, self.read_rate.as_u64() as f64);
        if row < 1.0 || state < row || write < 1.0 || read < 1.0 {
            return Err(Error::config("sizes and rates must be above zero, and the state hold a row"));
        }
        let cost = self.checkpoint_cost.as_secs_f64();
        Ok(Job {
            capacity,
            keys: (state / row).round(),
            row_bytes: row,
            skew: self.skew,
            // A checkpoint takes half of the capacity while it is written.
            cost: (cost, 0.5 / write),
            duration: (2.0 * cost, 1.0 / write),
            outage: (self.restart.as_secs_f64(), 1.0 / read),
            noise: 0.1,
        })
    }

    /// Returns the controller's initial settings: guesses, except for the failure rate.
    pub(super) fn settings(&self, prior_mtbf: f64) -> IntervalSettings {
        IntervalSettings::default()
            .with(|it| it.failures = FailurePrior { job_mtbf: prior_mtbf, ..FailurePrior::default() })
    }
}

/// Returns the highest mean rate over a minute.
fn busiest_minute(rate: &[f64]) -> f64 {
    let mean = |minute: &[f64]| minute.iter().sum::<f64>() / minute.len() as f64;
    rate.chunks(60).map(mean).fold(0.0, f64::max)
}
