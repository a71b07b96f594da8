//! The interval of a run: fixed, or chosen by goals; and what the reader tells of the load.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use alluvium::Job;
use alluvium::interval::LoadSample;
use alluvium::interval::{Decision, Observation};
use alluvium_bench::clock;

/// How often the load is told.
const SAMPLE: Duration = Duration::from_millis(250);

/// Checkpoints of the tool take milliseconds: shorter intervals than the crate's default make sense.
pub(crate) const SHORTEST: Duration = Duration::from_millis(100);

/// Decisions that a report holds at most.
const MOST_DECISIONS: usize = 10_000;

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

/// Reads a duration of a millisecond at least.
pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|source| source.to_string())?;
    if duration < Duration::from_millis(1) {
        return Err("must be at least 1ms".to_owned());
    }
    Ok(duration)
}

/// What the reader saw since it last told the job, and what was decided so far.
#[derive(Debug)]
pub(crate) struct LoadMeter {
    started: Instant,
    told: Instant,
    records: u64,
    waited: Duration,
    decisions: Vec<(f64, Decision)>,
}

impl LoadMeter {
    /// Returns a meter of a reader that has read `records` before.
    pub(crate) fn new(records: u64) -> Self {
        let now = clock::now();
        Self { started: now, told: now, records, waited: Duration::ZERO, decisions: Vec::new() }
    }

    /// Notes that the reader had nothing to do for so long.
    pub(crate) fn waited(&mut self, time: Duration) {
        self.waited += time;
    }

    /// Tells the job of the load, now and then, and notes its decision. The rest of the time it was busy: with reading, or
    /// waiting for subtasks that were.
    pub(crate) fn tell(&mut self, job: &Job, records: u64) {
        let now = clock::now();
        let passed = now.duration_since(self.told);
        if passed < SAMPLE {
            return;
        }
        let count = records.saturating_sub(self.records) as f64;
        let busy = (1.0 - self.waited.as_secs_f64() / passed.as_secs_f64()).clamp(0.0, 1.0);
        let sample = LoadSample { received: count, processed: count, busy: Some(busy), ..LoadSample::default() };
        job.observe(Observation::Load(sample));
        (self.told, self.records, self.waited) = (now, records, Duration::ZERO);
        self.note(job);
    }

    fn note(&mut self, job: &Job) {
        let Some(decision) = job.decision() else { return };
        let changed = self.decisions.last().is_none_or(|(_, last)| {
            last.interval != decision.interval || last.reason.binds.name() != decision.reason.binds.name()
        });
        if changed && self.decisions.len() < MOST_DECISIONS {
            self.decisions.push((self.started.elapsed().as_secs_f64(), decision));
        }
    }

    /// Returns the decisions, with the time in seconds at which each was seen.
    pub(crate) fn into_decisions(self) -> Vec<(f64, Decision)> {
        self.decisions
    }
}
