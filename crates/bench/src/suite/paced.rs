//! The paced phase: updates at full speed that dirty a fixed share of the keys per second.
//!
//! ```text
//! load -> full checkpoint -> checkpoints back to back -> touch every key -> the same without checkpoints
//! ```
//!
//! The phase runs in its own process, because other steps would distort its memory figures. The run without checkpoints
//! switches to other keys at the same times, but has no barriers and every key is already dirty, so all updates are in
//! place.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use alluvium::backend::StateBackend;
use alluvium::{Attempt, Barrier, Epoch, Job, Result};

use super::cell::{Cell, on_threads, panicked, together};
use super::lane::Lane;
use super::machine::resident_bytes;
use super::memory::Memory;
use super::pace::{Pace, Timing, percentiles};
use super::report::{Paced, micros, rounded};
use super::walk::Walk;
use super::workload::BATCH;
use crate::clock;

/// Signals to the lanes while they write.
#[derive(Debug, Default)]
struct Signals {
    attempt: Attempt,
    /// The epoch of the newest barrier; 0 before the first.
    epoch: AtomicU64,
    over: AtomicBool,
}

/// A lane's next action, chosen before each batch.
#[derive(Debug)]
enum Turn {
    Write,
    Barrier(Barrier),
    /// Mark all keys clean, as a barrier does.
    MarkClean,
    Stop,
}

/// A lane that writes at a fixed dirty rate.
#[derive(Debug)]
struct Writer<B> {
    lane: Lane<B>,
    walk: Walk,
    positions: Vec<u32>,
}

/// One lane's measurements.
#[derive(Debug, Default)]
struct Run {
    pace: Pace,
    elapsed: Duration,
    /// Times since the start at which the lane marked its keys clean.
    turn_times: Vec<Duration>,
    pauses: Vec<Duration>,
    /// Keys touched for the first time after a barrier, in total; `dirty_max` is the maximum between two barriers.
    first_touches: usize,
    dirty_max: usize,
    pinned_bytes: u64,
}

/// Measurements of the checkpoints.
#[derive(Debug)]
struct Checkpoints {
    durations: Vec<Duration>,
    /// Resident and pinned memory, half-way through the last checkpoint.
    resident: Option<u64>,
    pinned: u64,
}

impl<B: StateBackend> Writer<B> {
    fn new(lane: Lane<B>, seed: u64) -> Self {
        let walk = Walk::new(lane.workload.added.len(), seed);
        Self { lane, walk, positions: Vec::with_capacity(BATCH) }
    }

    /// Touches every key, which makes all dirty.
    fn touch_all(&mut self) -> Result<()> {
        let mut batches = self.walk.order().chunks(BATCH);
        batches.try_for_each(|batch| self.lane.touch(batch, Timing::Batch, &mut Pace::default()))
    }

    /// Writes until `next`, called with the elapsed time, returns `Stop`.
    fn write(&mut self, mut next: impl FnMut(Duration) -> Turn) -> Result<Run> {
        let (mut run, started) = (Run::default(), clock::now());
        self.walk.start();
        for number in 0.. {
            run.elapsed = clock::now().duration_since(started);
            let turn = next(run.elapsed);
            if !matches!(turn, Turn::Write) {
                run.dirty_max = run.dirty_max.max(self.walk.dirty());
                run.turn_times.push(run.elapsed);
                self.walk.barrier();
            }
            match turn {
                Turn::Barrier(barrier) => {
                    let first = self.walk.step();
                    run.pauses.push(self.lane.barrier_and_touch(barrier, first.as_slice())?);
                }
                Turn::Write | Turn::MarkClean => {}
                Turn::Stop => break,
            }
            self.walk.draw(run.elapsed, &mut self.positions);
            self.lane.touch(&self.positions, Timing::of_batch(number), &mut run.pace)?;
            run.pinned_bytes = run.pinned_bytes.max(self.lane.pinned_bytes(number));
        }
        run.first_touches = self.walk.walked();
        Ok(run)
    }

    /// Writes and takes each signalled barrier.
    fn with_checkpoints(&mut self, signals: &Signals) -> Result<Run> {
        let mut taken = 0;
        self.write(|_| {
            let signalled = signals.epoch.load(Ordering::Relaxed);
            if signals.over.load(Ordering::Relaxed) {
                Turn::Stop
            } else if std::mem::replace(&mut taken, signalled) != signalled {
                Turn::Barrier(Barrier { attempt: signals.attempt, epoch: Epoch(signalled) })
            } else {
                Turn::Write
            }
        })
    }

    /// Repeats `run` without barriers.
    fn without_checkpoints(&mut self, run: &Run) -> Result<Run> {
        let mut turn_times = run.turn_times.iter().peekable();
        self.write(|elapsed| match turn_times.next_if(|turn| **turn <= elapsed) {
            _ if elapsed >= run.elapsed => Turn::Stop,
            Some(_) => Turn::MarkClean,
            None => Turn::Write,
        })
    }
}

impl<B: StateBackend> Cell<'_, B> {
    /// Measures the paced phase in a new job.
    pub(super) fn measure_paced(self) -> Result<Paced> {
        let (job, memory, lanes) = self.start()?;
        let lanes = lanes.into_iter().zip(0u64..);
        let mut writers: Vec<_> = lanes.map(|(lane, at)| Writer::new(lane, self.spec.seed ^ !at)).collect();
        let empty = resident_bytes();
        on_threads(&mut writers, |writer| writer.lane.load())?;
        let barrier = self.trigger(&job)?;
        writers.iter_mut().try_for_each(|writer| writer.lane.barrier(barrier))?;
        self.wait(&job, barrier)?;

        let (runs, checkpoints) = self.write_with_checkpoints(&job, &mut writers, &memory)?;
        on_threads(&mut writers, Writer::touch_all)?;
        let mut pairs: Vec<_> = writers.iter_mut().zip(&runs).collect();
        let without = on_threads(&mut pairs, |(writer, run)| writer.without_checkpoints(run))?;
        self.paced(&runs, &without, &checkpoints, empty)
    }

    /// Runs the lanes with checkpoints back to back.
    fn write_with_checkpoints(
        &self,
        job: &Job,
        writers: &mut [Writer<B>],
        memory: &Memory,
    ) -> Result<(Vec<Run>, Checkpoints)> {
        let signals = Signals { attempt: job.attempt(), ..Signals::default() };
        thread::scope(|scope| {
            let signals = &signals;
            let threads: Vec<_> =
                writers.iter_mut().map(|writer| scope.spawn(move || writer.with_checkpoints(signals))).collect();
            let checkpoints = self.checkpoints(job, signals, memory);
            signals.over.store(true, Ordering::Relaxed);
            let runs: Result<_> = threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect();
            Ok((runs?, checkpoints?))
        })
    }

    /// Triggers each checkpoint when its predecessor commits, and a final one at the end of the time.
    fn checkpoints(&self, job: &Job, signals: &Signals, memory: &Memory) -> Result<Checkpoints> {
        let (started, mut durations) = (clock::now(), Vec::new());
        loop {
            let triggered = clock::now();
            let elapsed = triggered.duration_since(started);
            let barrier = self.trigger(job)?;
            signals.epoch.store(barrier.epoch.0, Ordering::Relaxed);
            let last = elapsed >= self.spec.paced;
            if last {
                clock::sleep(
                    durations.iter().sum::<Duration>() / u32::try_from(durations.len().max(1)).unwrap_or(1) / 2,
                );
            }
            let (resident, pinned) = (resident_bytes(), memory.pinned_bytes());
            self.wait(job, barrier)?;
            durations.push(clock::now().duration_since(triggered));
            if last {
                return Ok(Checkpoints { durations, resident, pinned });
            }
        }
    }

    fn paced(&self, runs: &[Run], without: &[Run], seen: &Checkpoints, empty: Option<u64>) -> Result<Paced> {
        let rate = |runs: &[Run]| together(&runs.iter().map(|run| run.pace).collect::<Vec<_>>());
        let longest = |runs: &[Run]| micros(runs.iter().map(|run| run.pace.longest).max().unwrap_or_default());
        let seconds = runs.iter().map(|run| run.elapsed).max().unwrap_or_default().as_secs_f64();
        let first_touches: usize = runs.iter().map(|run| run.first_touches).sum();
        let record_bytes = usize::from(self.spec.key_bytes) + self.spec.value_bytes as usize;
        let resident = seen.resident.zip(empty).map(|(resident, empty)| resident.saturating_sub(empty));
        let per_key = |bytes: u64| rounded(bytes as f64 / f64::from(self.spec.keys));
        Ok(Paced {
            dirty_per_s: rounded(first_touches as f64 / f64::from(self.spec.keys) / seconds.max(1e-9)),
            seconds: rounded(seconds),
            checkpoints: seen.durations.len(),
            rmw_ops_s: rate(runs),
            rmw_ops_s_without: rate(without),
            max_op_us: longest(runs),
            max_op_us_without: longest(without),
            pause_us: percentiles(runs.iter().flat_map(|run| run.pauses.iter().copied()), Duration::from_micros(1))?,
            checkpoint_ms: percentiles(seen.durations.iter().copied(), Duration::from_millis(1))?,
            dirty_bytes_per_key: per_key((runs.iter().map(|run| run.dirty_max).sum::<usize>() * record_bytes) as u64),
            pinned_bytes_per_key: per_key(runs.iter().map(|run| run.pinned_bytes).max().unwrap_or_default()),
            rss_bytes_per_key: resident.map(per_key),
            rss_less_pinned_bytes_per_key: resident.map(|resident| per_key(resident.saturating_sub(seen.pinned))),
        })
    }
}
