//! The checkpoint interval of a run, fixed or adaptive, and the load that the reader reports.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use alluvium::Job;
use alluvium::interval::{Decision, LoadSample, Observation};
use alluvium_bench::clock;

/// Time between two load samples.
const SAMPLE: Duration = Duration::from_millis(250);

/// Shortest adaptive interval: below the crate's default, because checkpoints of the tool take milliseconds.
pub(crate) const SHORTEST: Duration = Duration::from_millis(100);

/// Maximum number of decisions in a report.
const MAX_DECISIONS: usize = 10_000;

/// Time between the starts of two checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interval {
    Fixed(Duration),
    Adaptive,
}

impl FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "adaptive" { Ok(Self::Adaptive) } else { positive_duration(text).map(Self::Fixed) }
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(duration) => write!(f, "{}", humantime::format_duration(*duration)),
            Self::Adaptive => f.write_str("adaptive"),
        }
    }
}

/// Parses a duration of at least a millisecond.
pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|source| source.to_string())?;
    if duration < Duration::from_millis(1) {
        return Err("must be at least 1ms".to_owned());
    }
    Ok(duration)
}

/// The load since the last sample, and the decisions so far.
#[derive(Debug)]
pub(crate) struct LoadMeter {
    started: Instant,
    sampled: Instant,
    records: u64,
    idle: Duration,
    decisions: Vec<(f64, Decision)>,
}

impl LoadMeter {
    /// Returns a meter for a reader that starts after `records`.
    pub(crate) fn new(records: u64) -> Self {
        let now = clock::now();
        Self { started: now, sampled: now, records, idle: Duration::ZERO, decisions: Vec::new() }
    }

    /// Adds idle time of the reader.
    pub(crate) fn add_idle(&mut self, time: Duration) {
        self.idle += time;
    }

    /// Reports the load to the job, once per `SAMPLE`, and records its decision. All time but idle time counts as busy:
    /// reading, or blocked on a busy subtask.
    pub(crate) fn sample(&mut self, job: &Job, records: u64) {
        let now = clock::now();
        let passed = now.duration_since(self.sampled);
        if passed < SAMPLE {
            return;
        }
        let count = records.saturating_sub(self.records) as f64;
        let busy = (1.0 - self.idle.as_secs_f64() / passed.as_secs_f64()).clamp(0.0, 1.0);
        let sample = LoadSample { received: count, processed: count, busy: Some(busy), ..LoadSample::default() };
        job.observe(Observation::Load(sample));
        (self.sampled, self.records, self.idle) = (now, records, Duration::ZERO);
        self.record_decision(job);
    }

    fn record_decision(&mut self, job: &Job) {
        let Some(decision) = job.decision() else { return };
        let changed = self.decisions.last().is_none_or(|(_, last)| {
            last.interval != decision.interval || last.reason.binds.name() != decision.reason.binds.name()
        });
        if changed && self.decisions.len() < MAX_DECISIONS {
            self.decisions.push((self.started.elapsed().as_secs_f64(), decision));
        }
    }

    /// Returns the decisions, each with the seconds at which it was seen.
    pub(crate) fn into_decisions(self) -> Vec<(f64, Decision)> {
        self.decisions
    }
}
