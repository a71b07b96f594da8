//! A run of the job, event by event: checkpoints, failures, restores, catch-ups.
//!
//! A fluid model: input arrives at the trace's rate; a backlog is processed at full capacity. A checkpoint takes its
//! capacity cost from processing at its start, and is durable after its duration. A failure undoes all processing after
//! the barrier of the last durable checkpoint. Equal seeds give equal runs.

use alluvium::Timestamp;
use alluvium::internals::control::estimate::FailureScope;
use alluvium::internals::control::interval::Controller;
use alluvium::interval::{CheckpointSample, Decision, LoadSample, Observation};

use super::world::World;
use crate::random::Random;

/// The job has caught up once the backlog takes less than this to process, s.
const CAUGHT_UP_S: f64 = 0.5;

/// Relative standard deviation of the measured share of busy time.
const BUSY_NOISE: f64 = 0.02;

/// Decides when checkpoints start.
#[derive(Debug)]
pub(super) enum Policy<'a> {
    Fixed(f64),
    /// The controller, which observes costs scaled by the factor.
    Adaptive(Box<Controller>, f64),
    /// For each second as an interval's start, the interval's end.
    Schedule(&'a [f64]),
}

/// Totals of a run.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome {
    /// Capacity lost to checkpoints, s.
    pub(super) checkpoint_s: f64,
    /// Time by which replay delayed catch-up, s.
    pub(super) replay_s: f64,
    pub(super) checkpoints: u64,
    pub(super) bytes: f64,
    pub(super) requests: f64,
    /// Index and duration, s, of each recovery not interrupted by another failure.
    pub(super) recoveries: Vec<(usize, f64)>,
    /// Records processed and never undone.
    pub(super) processed: f64,
    /// Shortest time between two checkpoint starts, s.
    pub(super) shortest_s: f64,
    /// Interval changes: time and decision.
    pub(super) changes: Vec<(f64, Decision)>,
    /// Checkpoint cost, s, paid while the utilisation was above its mean.
    pub(super) busy_cost_s: f64,
}

impl Outcome {
    pub(super) fn lost_s(&self) -> f64 {
        self.checkpoint_s + self.replay_s
    }
}

struct InFlight {
    end: f64,
    offset: f64,
    sample: CheckpointSample,
}

struct CatchUp {
    failed: f64,
    index: usize,
    disturbed: bool,
}

/// The state of a run.
struct Run<'a, 'p> {
    world: &'a World,
    policy: &'a mut Policy<'p>,
    random: Random,
    failures: &'a [f64],
    next_failure: usize,
    sample_s: f64,
    t: f64,
    offset: f64,
    durable: f64,
    barrier_updates: f64,
    last_start: f64,
    stall: f64,
    flight: Option<InFlight>,
    catching_up: Option<CatchUp>,
    /// Counters at the last load sample, of time, records, updates and busy seconds.
    sampled: (f64, f64, f64, f64),
    mean_rate: f64,
    out: Outcome,
}

/// Runs the job under `policy` with these failures. `sample_s` is the time between load samples.
pub(super) fn simulate(world: &World, policy: &mut Policy<'_>, failures: &[f64], seed: u64, sample_s: f64) -> Outcome {
    let mut run = Run {
        world,
        policy,
        random: Random::new(seed ^ 0x5eed),
        failures,
        next_failure: 0,
        sample_s,
        t: 0.0,
        offset: 0.0,
        durable: 0.0,
        barrier_updates: 0.0,
        last_start: 0.0,
        stall: 0.0,
        flight: None,
        catching_up: None,
        sampled: (0.0, 0.0, 0.0, 0.0),
        mean_rate: world.records_at(world.end()) / world.end(),
        out: Outcome { shortest_s: f64::INFINITY, ..Outcome::default() },
    };
    run.observe(Observation::State { bytes: world.job.state_bytes(), rows: world.job.keys });
    while run.t < world.end() {
        run.step();
    }
    run.out.processed = run.offset;
    run.out
}

impl Run<'_, '_> {
    fn step(&mut self) {
        let failure = self.failures.get(self.next_failure).copied().unwrap_or(f64::INFINITY);
        let completion = self.flight.as_ref().map_or(f64::INFINITY, |flight| flight.end);
        let second = self.t.floor() + 1.0;
        let next = [second, failure, completion, self.next_start(), self.world.end()]
            .into_iter()
            .fold(f64::INFINITY, f64::min);
        self.process((next.max(self.t) - self.t).max(0.0));
        self.t = next.max(self.t);
        if self.t >= failure {
            return self.fail();
        }
        if self.t >= completion {
            self.complete();
        }
        if self.t >= second && self.t >= self.sampled.0 + self.sample_s {
            self.sample();
        }
        self.check_caught_up();
        if self.flight.is_none() && self.is_due() {
            self.start();
        }
    }

    /// Returns when the next checkpoint starts, or infinity if none is planned.
    fn next_start(&self) -> f64 {
        if self.flight.is_some() {
            return f64::INFINITY;
        }
        let at = match &*self.policy {
            Policy::Fixed(interval) => self.last_start + interval,
            Policy::Adaptive(controller, _) => {
                controller.deadline().map_or(f64::INFINITY, |deadline| deadline.as_millis() as f64 / 1000.0)
            }
            Policy::Schedule(ends) => self.scheduled(ends),
        };
        if at > self.t { at } else { f64::INFINITY }
    }

    fn scheduled(&self, ends: &[f64]) -> f64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a second of the trace")]
        let at = (self.last_start * ends.len() as f64 / self.world.end()).round() as usize;
        ends.get(at).copied().unwrap_or(f64::INFINITY)
    }

    fn is_due(&mut self) -> bool {
        let now = self.now();
        match &mut *self.policy {
            Policy::Fixed(interval) => self.t >= self.last_start + *interval,
            Policy::Adaptive(controller, _) => controller.is_due(now),
            Policy::Schedule(ends) => {
                let ends = *ends;
                self.t >= self.scheduled(ends)
            }
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "milliseconds of a trace")]
    fn now(&self) -> Timestamp {
        Timestamp::from_millis((self.t * 1000.0).round() as i64)
    }

    fn observe(&mut self, observation: Observation) {
        let now = self.now();
        if let Policy::Adaptive(controller, _) = &mut *self.policy {
            let before = controller.decision().interval;
            controller.observe(now, observation);
            if controller.decision().interval != before || self.out.changes.is_empty() {
                self.out.changes.push((self.t, controller.decision().clone()));
            }
        }
    }

    /// Draws a factor around 1.
    fn noise(&mut self, deviation: f64) -> f64 {
        // The sum of three uniform draws approximates a bell curve with bounded tails.
        let sum: f64 = (0..3).map(|_| self.random.draw_unit()).sum::<f64>() - 1.5;
        (1.0 + 2.0 * deviation * sum).max(0.05)
    }

    /// Advances by `dt` seconds, within one second of the trace.
    fn process(&mut self, dt: f64) {
        let waiting = self.world.records_at(self.t + dt) - self.offset;
        let stalled = self.stall.min(dt);
        self.stall -= stalled;
        let records = waiting.min(self.world.job.capacity * (dt - stalled)).max(0.0);
        self.offset += records;
        self.sampled.1 += records;
        self.sampled.2 += records / self.world.job.capacity;
        self.sampled.3 += dt - stalled;
    }

    fn backlog(&self) -> f64 {
        (self.world.records_at(self.t) - self.offset).max(0.0)
    }

    fn dirty_rows(&self) -> (f64, f64) {
        let updates = self.world.updates_at(self.offset) - self.barrier_updates;
        (updates, self.world.distinct(updates))
    }

    fn sample(&mut self) {
        let (since, processed, busy, awake) = std::mem::replace(&mut self.sampled, (self.t, 0.0, 0.0, 0.0));
        if !matches!(self.policy, Policy::Adaptive(..)) {
            return;
        }
        let received = self.world.records_at(self.t) - self.world.records_at(since);
        let per_record = self.world.updates_per_record_at(self.t);
        let busy = (awake > 0.0).then(|| (busy / awake * self.noise(BUSY_NOISE)).min(1.0));
        let updates = Some(per_record * processed);
        self.observe(Observation::Load(LoadSample {
            received,
            processed,
            updates,
            busy,
            backlog: Some(self.backlog()),
        }));
        let (updates, rows) = self.dirty_rows();
        self.observe(Observation::Dirty { updates, rows });
    }

    fn check_caught_up(&mut self) {
        if self.catching_up.is_some()
            && self.backlog() <= CAUGHT_UP_S * self.world.job.capacity
            && let Some(CatchUp { failed, index, disturbed }) = self.catching_up.take()
        {
            self.observe(Observation::CaughtUp);
            if !disturbed {
                self.out.recoveries.push((index, self.t - failed));
            }
        }
    }

    fn start(&mut self) {
        let (_, rows) = self.dirty_rows();
        let bytes = rows * self.world.job.row_bytes;
        let (cost, duration) = (self.world.job.cost, self.world.job.duration);
        let cost = (cost.0 + cost.1 * bytes) * self.noise(self.world.job.noise);
        let duration = (duration.0 + duration.1 * bytes) * self.noise(self.world.job.noise);
        let told = if let Policy::Adaptive(_, off) = &*self.policy { cost * off } else { cost };
        self.out.checkpoint_s += cost;
        if self.world.rate_at(self.t) > self.mean_rate {
            self.out.busy_cost_s += cost;
        }
        self.out.checkpoints += 1;
        self.out.bytes += bytes;
        self.out.requests += 3.0;
        self.out.shortest_s = self.out.shortest_s.min(self.t - self.last_start);
        self.stall += cost;
        let sample = CheckpointSample {
            duration,
            pause: 0.01,
            capacity: Some(told),
            delta_bytes: bytes,
            base_bytes: 0.0,
            rows,
            requests: 3.0,
        };
        self.flight = Some(InFlight { end: self.t + duration, offset: self.offset, sample });
        self.last_start = self.t;
        self.set_barrier(self.offset);
        self.observe(Observation::Triggered);
    }

    fn set_barrier(&mut self, offset: f64) {
        self.barrier_updates = self.world.updates_at(offset);
    }

    fn complete(&mut self) {
        if let Some(flight) = self.flight.take() {
            self.durable = flight.offset;
            self.observe(Observation::Completed(flight.sample));
        }
    }

    fn fail(&mut self) {
        let (failed, index) = (self.t, self.next_failure);
        self.observe(Observation::Failed(FailureScope::Job));
        self.next_failure += 1;
        let mut up = self.t + self.outage();
        let mut disturbed = self.catching_up.is_some();
        // A failure during a restart starts the restart again.
        while let Some(again) = self.failures.get(self.next_failure).copied().filter(|again| *again < up) {
            self.next_failure += 1;
            disturbed = true;
            up = again + self.outage();
        }
        let waiting = self.world.records_at(up.min(self.world.end()));
        let with = self.world.drained(up, waiting - self.durable);
        let without = self.world.drained(up, waiting - self.offset);
        self.out.replay_s += with - without;
        self.catching_up = Some(CatchUp { failed, index, disturbed });
        self.offset = self.durable;
        self.set_barrier(self.durable);
        (self.stall, self.flight) = (0.0, None);
        self.t = up;
        self.last_start = up;
        self.sampled = (up, 0.0, 0.0, 0.0);
        self.observe(Observation::Restored { bytes: self.world.job.state_bytes() });
    }

    fn outage(&mut self) -> f64 {
        self.world.job.mean_outage() * self.noise(self.world.job.noise)
    }
}
