//! A small engine on the public API of jobs: a source, subtasks with state of every kind, a two-phase sink.

use std::collections::VecDeque;
use std::fmt::Debug;

use alluvium::{
    AnyBackend, Assignment, Barrier, Epoch, Error, Job, JobBuilder, JobSettings, KeyGroup, Opaque, OpaqueRole,
    OperatorId, OperatorSpec, ReadyGuard, Redistribution, RestoreFrom, Result, Schema, SharedRuntime, Store, Task,
    Timestamp, owner,
};

use super::judge::{Judge, Restored, intent};
use super::kinds::Subtask;
use super::seats::{Party, Seated, Slot, Stored};
use super::sink::{Sink, Transaction};
use super::workload::{Op, Reach, Record, Workload};

pub(crate) const SOURCE: OperatorId = OperatorId(1);
pub(crate) const STATE: OperatorId = OperatorId(2);
pub(crate) const SINK: OperatorId = OperatorId(3);

/// What the job computes, for the check that all its processes run the same.
pub(crate) const PROGRAM: &str = "all kinds";

/// The parameters of an incarnation.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) parallelism: u32,
    pub(crate) overlay: bool,
    pub(crate) settings: JobSettings,
    pub(crate) from: RestoreFrom,
    /// Bytes of padding behind lists of transactions.
    pub(crate) padding: usize,
}

impl Shape {
    pub(crate) fn builder(&self, store: Store) -> JobBuilder {
        JobBuilder::new(store)
            .settings(self.settings.clone())
            .program(PROGRAM)
            .operator(OperatorSpec::new(SOURCE, "source", 1))
            .operator(OperatorSpec::new(STATE, "state", self.parallelism).keyed_by(Schema::new("bytes")))
            .operator(OperatorSpec::new(SINK, "sink", 1))
            .restore_from(self.from)
    }
}

/// An incarnation of the job. It feeds all tasks, in whatever process they live.
pub(crate) struct Engine {
    pub(crate) job: Job,
    judge: Judge,
    shape: Shape,
    source: Slot<Task<AnyBackend>>,
    subtasks: Vec<Slot<Subtask>>,
    /// The clock of each subtask's process.
    clocks: Vec<SharedRuntime>,
    sink: Slot<Task<AnyBackend>>,
    /// The workers to which barriers are announced before they arrive.
    announced_to: Vec<Slot<Assignment>>,
    /// Records read from the log.
    read: u64,
    /// Records read but not processed.
    in_flight: VecDeque<u64>,
    /// Event time of the last processed record.
    time: Option<i64>,
    /// Transactions listed in the restored checkpoint.
    listed: Vec<Transaction>,
    /// Transactions prepared and not yet published by this incarnation.
    unpublished: Vec<Transaction>,
    /// Lower bound of processing time over all of the restored state.
    least_ms: i64,
    /// Latest processing time of any part of the state.
    clock_ms: i64,
    committed: Option<Epoch>,
    aborted: Option<Epoch>,
}

impl Engine {
    /// Opens the job in one process and restores its state.
    pub(crate) async fn open(store: Store, judge: &Judge, shape: Shape) -> Result<(Self, Option<Restored>)> {
        let mut party = Party::new(store.runtime().clone());
        let mut job = shape.builder(store).open().await?;
        judge.track_budget(job.budget());
        party.restore(job.take_seats(), shape.overlay).await?;
        Self::begin(job, judge, shape, vec![party])
    }

    /// Begins to feed an opened job, whose subtasks are all restored. Returns the restored state, unless key groups are
    /// absent.
    pub(crate) fn begin(
        job: Job,
        judge: &Judge,
        shape: Shape,
        parties: Vec<Party>,
    ) -> Result<(Self, Option<Restored>)> {
        let (mut stored, mut announced_to) = (Stored::default(), Vec::new());
        let (mut source, mut sink, mut subtasks) = (None, None, Vec::new());
        for party in parties {
            stored.append(party.stored);
            announced_to.extend(party.assignment);
            for seated in party.seated {
                match seated {
                    Seated::Source(task) => source = Some(task),
                    Seated::Sink(task) => sink = Some(task),
                    Seated::State(index, subtask) => subtasks.push((index, subtask, party.clock.clone())),
                }
            }
        }
        subtasks.sort_by_key(|(index, ..)| *index);
        let (subtasks, clocks) = subtasks.into_iter().map(|(_, subtask, clock)| (subtask, clock)).unzip();
        let Stored { read, mut in_flight, listed } = stored;
        in_flight.sort_unstable();
        let missing = || Error::stopped("an operator has no seat");
        let (source, sink) = (source.ok_or_else(missing)?, sink.ok_or_else(missing)?);
        let position = read - in_flight.len() as u64;
        let (least_ms, most_ms) = job.restored().map_or((i64::MIN, i64::MIN), |restored| {
            judge.times(intent(restored.manifest.attempt.0, restored.manifest.epoch.0))
        });
        let time = position.checked_sub(1).map(|last| judge.workload.record(last).time);
        let mut engine = Self {
            job,
            judge: judge.clone(),
            shape,
            source,
            subtasks,
            clocks,
            sink,
            announced_to,
            read,
            in_flight: in_flight.into(),
            time,
            listed,
            unpublished: Vec::new(),
            least_ms,
            clock_ms: most_ms,
            committed: None,
            aborted: None,
        };
        let mut resident = true;
        for subtask in &engine.subtasks {
            resident &= subtask.with(|subtask| Ok(subtask.absent().is_empty()))?;
        }
        let restored = if resident { Some(engine.observe()?) } else { None };
        if !resident {
            judge.sim.hit("key groups absent after a restore");
        }
        let parallelism = engine.subtasks.len() as u64;
        for (index, subtask) in (0..).zip(&engine.subtasks) {
            subtask.with(|subtask| subtask.narrow_union(index, parallelism))?;
        }
        Ok((engine, restored))
    }

    pub(crate) fn attempt(&self) -> u64 {
        self.job.attempt().0
    }

    /// Returns the number of processed records.
    pub(crate) fn position(&self) -> u64 {
        self.read - self.in_flight.len() as u64
    }

    /// Reads the clock of a subtask.
    fn now(&mut self, at: usize) -> Timestamp {
        let now = self.clocks[at].now();
        self.clock_ms = self.clock_ms.max(now.as_millis());
        self.judge.observe_clock(now.as_millis());
        now
    }

    /// Reads the clocks of all subtasks. Returns the earliest time, in milliseconds.
    fn least_now_ms(&mut self) -> i64 {
        (0..self.clocks.len()).map(|at| self.now(at).as_millis()).min().expect("there is a subtask")
    }

    /// Returns the visible state right after a restore.
    fn observe(&mut self) -> Result<Restored> {
        let mut restored = Restored {
            read: self.read,
            in_flight: self.in_flight.iter().copied().collect(),
            now_ms: self.least_ms.max(self.least_now_ms()),
            ..Restored::default()
        };
        let (mut items, mut unions, mut broadcasts) = (Vec::new(), Vec::new(), Vec::new());
        for at in 0..self.subtasks.len() {
            let (now, keys) = (self.now(at), self.judge.workload.keys);
            let mut operator = self.subtasks[at].with(|subtask| {
                subtask.task.state().advance(Timestamp::MIN, now);
                subtask.observe(keys, &mut restored.content)?;
                subtask.operator_states()
            })?;
            operator.union.sort_unstable();
            items.extend(operator.items);
            unions.push(operator.union);
            broadcasts.push(operator.broadcast);
        }
        items.sort_unstable();
        restored.content.insert(("items", 0, 0), format!("{items:?}"));
        // Every subtask restores the whole of these, so all copies must be equal.
        unions.dedup();
        broadcasts.dedup();
        restored.content.insert(("union", 0, 0), alternatives(&unions));
        restored.content.insert(("broadcast", 0, 0), alternatives(&broadcasts));
        Ok(restored)
    }

    /// Publishes the transactions of the restored checkpoint, and drops all older ones.
    pub(crate) fn recover(&mut self, sink: &Sink) {
        let listed = std::mem::take(&mut self.listed);
        listed.iter().for_each(|transaction| sink.publish(*transaction));
        sink.abandon(self.attempt(), &listed);
    }

    /// Processes the next record of the log.
    ///
    /// After a `limit` error the record is still the next, and can be processed again. An operation that cannot be repeated
    /// fails with `stopped` instead.
    pub(crate) async fn process(&mut self) -> Result<()> {
        let index = self.in_flight.front().copied().unwrap_or(self.read);
        let record = self.judge.workload.record(index);
        let parallelism = self.shape.parallelism;
        let targets = match record.reach() {
            Reach::All => 0..self.subtasks.len(),
            Reach::Owner => {
                let at = owner(self.job.max_parallelism(), parallelism, self.group(&record)) as usize;
                at..at + 1
            }
        };
        let mut from_ms = i64::MAX;
        for at in targets {
            let _guard = self.ready(at, Some(&record), record.time).await?;
            let now = self.now(at);
            from_ms = from_ms.min(now.as_millis());
            self.subtasks[at].with(|subtask| {
                subtask
                    .advance(record.time, now)
                    .map_err(|error| Error::stopped("a timer failed").with_source(error))?;
                subtask.apply(&record).map_err(|error| match record.op {
                    Op::MapRetainOdd => Error::stopped("an operation failed half way").with_source(error),
                    _ => error,
                })
            })?;
        }
        self.judge.sim.trace(format_args!("a{} {record:?}", self.job.attempt()));
        if record.op == Op::Seen {
            self.judge.record_seen(index, from_ms, self.clock_ms);
        }
        self.time = Some(record.time);
        if self.in_flight.pop_front().is_none() {
            self.read += 1;
        }
        Ok(())
    }

    /// Waits for the key groups of a record, and of the timers due at `time`.
    async fn ready(&self, at: usize, record: Option<&Record>, time: i64) -> Result<ReadyGuard> {
        let ready = self.subtasks[at].with(|subtask| Ok(subtask.ready(record, time)))?;
        ready.await
    }

    /// Settles earlier epochs in every backend, which may free memory.
    pub(crate) fn settle(&mut self) -> Result<()> {
        let evicted = |subtask: &mut Subtask| {
            let before = subtask.absent();
            subtask.task.settle()?;
            Ok(!subtask.absent().difference(&before).is_empty())
        };
        for subtask in &self.subtasks {
            if subtask.with(evicted)? {
                self.judge.sim.hit("key groups evicted");
            }
        }
        Ok(())
    }

    /// Reads records without processing them.
    pub(crate) fn read_ahead(&mut self, records: u64) {
        self.in_flight.extend(self.read..self.read + records);
        self.read += records;
    }

    /// Returns the records in flight on a channel, of as many as there are subtasks.
    fn in_flight_by_channel(&self, channel: usize) -> Vec<Opaque> {
        let channels = self.subtasks.len() as u64;
        let records = self.in_flight.iter().filter(|index| *index % channels == channel as u64);
        let bytes: Vec<u8> = records.flat_map(|index| index.to_le_bytes()).collect();
        if bytes.is_empty() {
            return Vec::new();
        }
        let mut opaque = Opaque::new(OpaqueRole::InFlight, format!("input {channel}"), bytes);
        (opaque.redistribution, opaque.channel) = (Redistribution::ByChannel, u32::try_from(channel).ok());
        vec![opaque]
    }

    /// Returns the records in flight to a subtask, by the key groups of their keys.
    fn in_flight_by_key_group(&self, at: usize) -> Result<Opaque> {
        let group = |index: u64| self.group(&self.judge.workload.record(index));
        let records = self.in_flight.iter().map(|index| (group(*index), index.to_le_bytes()));
        let of = |group| owner(self.job.max_parallelism(), self.shape.parallelism, group) as usize;
        Opaque::in_flight("input", records.filter(|(group, _)| of(*group) == at))
    }

    /// Returns the key group of a record's key.
    fn group(&self, record: &Record) -> KeyGroup {
        let (key, routing) = (Workload::key(record.key), Workload::routing(record.key));
        self.job.partitioner().locate(&key, routing, self.job.max_parallelism()).group
    }

    /// Triggers a checkpoint; `None` if too many are in flight.
    pub(crate) fn trigger(&self) -> Result<Option<Barrier>> {
        let barrier = self.job.trigger()?;
        match barrier {
            Some(barrier) => self.judge.started(self.attempt(), barrier.epoch),
            None => self.judge.sim.hit("limit of epochs in flight hit"),
        }
        Ok(barrier)
    }

    /// Ends an epoch at the subtasks with state. Every other one is ended before the records in flight are handed in. Returns whether
    /// key groups are absent.
    async fn end_epoch<F: Future<Output = ()>>(
        &mut self,
        barrier: Barrier,
        watermark: Timestamp,
        pause: &mut impl FnMut() -> F,
    ) -> Result<bool> {
        let is_late = barrier.epoch.0 % 2 == 1;
        let (mut late, mut absent) = (Vec::new(), false);
        for at in 0..self.subtasks.len() {
            pause().await;
            self.now(at);
            let opaques = if is_late { Vec::new() } else { self.in_flight_by_channel(at) };
            late.extend(self.subtasks[at].with(|subtask| {
                absent |= !subtask.absent().is_empty();
                match is_late {
                    true => subtask.task.barrier_in_flight(barrier, watermark, opaques).map(Some),
                    false => subtask.task.barrier(barrier, watermark, opaques).map(|()| None),
                }
            })?);
        }
        for (at, epoch) in late.into_iter().enumerate() {
            pause().await;
            epoch.complete(vec![self.in_flight_by_key_group(at)?])?;
        }
        Ok(absent)
    }

    /// Passes a barrier to all tasks; `pause` is awaited between them.
    pub(crate) async fn barrier<F: Future<Output = ()>>(
        &mut self,
        barrier: Barrier,
        sink: &Sink,
        mut pause: impl FnMut() -> F,
    ) -> Result<()> {
        let least_now_ms = self.least_now_ms();
        let mut rows = Vec::new();
        for at in 0..self.subtasks.len() {
            let _guard = self.ready(at, None, self.time.unwrap_or(i64::MIN)).await?;
            let (now, time) = (self.now(at), self.time);
            self.subtasks[at].with(|subtask| {
                time.map_or(Ok(()), |time| subtask.advance(time, now))?;
                rows.append(&mut subtask.output);
                Ok(())
            })?;
        }
        let mut prepared = Vec::new();
        if !rows.is_empty() {
            let transaction = Transaction { attempt: self.attempt(), epoch: barrier.epoch.0 };
            sink.prepare(transaction, rows);
            self.unpublished.push(transaction);
            let bytes = Transaction::encode(&[transaction], self.shape.padding);
            prepared.push(Opaque::new(OpaqueRole::SinkPrepared, "transactions", bytes));
        }
        pause().await;
        let watermark = self.time.map_or(Timestamp::MIN, Timestamp::from_millis);
        let position = Opaque::new(OpaqueRole::Source, "log", self.read.to_le_bytes().to_vec());
        self.source.with(|task| task.barrier(barrier, watermark, vec![position]))?;
        let absent = self.end_epoch(barrier, watermark, &mut pause).await?;
        // Before the first record, only barriers advance processing time.
        let least_ms = self.time.map_or(i64::MIN, |_| least_now_ms);
        // Absent groups keep the times of the restored checkpoint.
        let least_ms = if absent { least_ms.min(self.least_ms) } else { least_ms };
        self.judge.record_times(intent(self.attempt(), barrier.epoch.0), least_ms, self.clock_ms);
        // A transaction of a committed epoch leaves the list.
        let committed = self.sink.with(|task| {
            task.settle()?;
            Ok(task.committed())
        })?;
        committed.into_iter().for_each(|committed| self.publish(committed, sink));
        self.sink.with(|task| task.barrier(barrier, watermark, prepared))
    }

    /// Tells the workers that a barrier is on its way.
    pub(crate) fn announce(&self, barrier: Barrier) -> Result<()> {
        self.announced_to.iter().try_for_each(|assignment| assignment.with(|assignment| assignment.expect(barrier)))
    }

    /// Publishes the prepared transactions of epochs up to `committed`.
    fn publish(&mut self, committed: Epoch, sink: &Sink) {
        let (done, left) = self.unpublished.iter().partition(|transaction| transaction.epoch <= committed.0);
        self.unpublished = left;
        Vec::into_iter(done).for_each(|transaction| sink.publish(transaction));
    }

    /// Follows the job's progress, and publishes committed transactions.
    ///
    /// # Errors
    /// The job's error.
    pub(crate) fn follow(&mut self, sink: &Sink) -> Result<()> {
        let progress = self.job.progress();
        let attempt = self.attempt();
        if let Some((epoch, id)) = progress.committed.filter(|(epoch, _)| self.committed < Some(*epoch)) {
            self.committed = Some(epoch);
            self.judge.acknowledged(attempt, epoch, id);
            self.publish(epoch, sink);
        }
        let aborted = progress.last_aborted.map(|aborted| (aborted.epoch, aborted.reason));
        if let Some((epoch, reason)) = aborted.filter(|(epoch, _)| self.aborted < Some(*epoch)) {
            self.aborted = Some(epoch);
            self.judge.given_up(attempt, epoch);
            if reason.message().starts_with("a worker was lost") {
                self.judge.sim.hit("epoch given up because a worker was lost");
            }
        }
        progress.failed.map_or(Ok(()), Err)
    }
}

/// Prints copies that should be equal; several alternatives fail the comparison.
fn alternatives(all: &[impl Debug]) -> String {
    all.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(" or ")
}
