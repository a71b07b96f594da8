//! A small engine on the public API of jobs: a source, subtasks with state of every kind, a two-phase sink.

use std::collections::VecDeque;
use std::fmt::Debug;

use alluvium::{
    AnyBackend, Barrier, Epoch, Error, Job, JobBuilder, JobSettings, Opaque, OpaqueContent, OpaqueRole, OperatorId,
    OperatorSpec, OverlayBackend, Redistribution, RestoreFrom, Result, Schema, Seat, Store, Task, Timestamp, owner,
};

use super::judge::{Judge, Restored, intent};
use super::kinds::Subtask;
use super::sink::{Sink, Transaction};
use super::workload::{Op, Reach, Workload};

const SOURCE: OperatorId = OperatorId(1);
const STATE: OperatorId = OperatorId(2);
const SINK: OperatorId = OperatorId(3);

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

/// An incarnation of the job.
pub(crate) struct Engine {
    pub(crate) job: Job,
    judge: Judge,
    shape: Shape,
    source: Task<AnyBackend>,
    subtasks: Vec<Subtask>,
    sink: Task<AnyBackend>,
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
    /// Opens the job and restores its state.
    pub(crate) async fn open(store: Store, judge: &Judge, shape: Shape) -> Result<(Self, Restored)> {
        let builder = JobBuilder::new(store)
            .settings(shape.settings.clone())
            .program("all kinds")
            .operator(OperatorSpec::new(SOURCE, "source", 1))
            .operator(OperatorSpec::new(STATE, "state", shape.parallelism).keyed_by(Schema::new("bytes")))
            .operator(OperatorSpec::new(SINK, "sink", 1))
            .restore_from(shape.from);
        let mut job = builder.open().await?;
        judge.track_budget(job.budget());
        let (mut read, mut in_flight, mut listed) = (0, Vec::new(), Vec::new());
        let (mut source, mut sink, mut subtasks) = (None, None, Vec::new());
        for seat in job.take_seats() {
            for opaque in seat.opaques() {
                match opaque.role {
                    OpaqueRole::Source => read = numbers(opaque)?.first().copied().unwrap_or(0),
                    OpaqueRole::InFlight => in_flight.extend(numbers(opaque)?),
                    OpaqueRole::SinkPrepared => listed.extend(Transaction::decode(&opaque.items()?.concat())),
                    _ => {}
                }
            }
            match seat.operator() {
                SOURCE => source = Some(stateless(seat).await?),
                SINK => sink = Some(stateless(seat).await?),
                _ => subtasks.push(Subtask::restore(seat, shape.overlay).await?),
            }
        }
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
            sink,
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
        let restored = engine.observe()?;
        let parallelism = engine.subtasks.len() as u64;
        for (index, subtask) in (0..).zip(&mut engine.subtasks) {
            subtask.narrow_union(index, parallelism)?;
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

    fn now(&mut self) -> Timestamp {
        let now = self.job.store().runtime().now();
        self.clock_ms = self.clock_ms.max(now.as_millis());
        self.judge.observe_clock(now.as_millis());
        now
    }

    /// Returns the visible state right after a restore.
    fn observe(&mut self) -> Result<Restored> {
        let now = self.now();
        let mut restored = Restored {
            read: self.read,
            in_flight: self.in_flight.iter().copied().collect(),
            now_ms: self.least_ms.max(now.as_millis()),
            ..Restored::default()
        };
        let (mut items, mut unions, mut broadcasts) = (Vec::new(), Vec::new(), Vec::new());
        for subtask in &mut self.subtasks {
            subtask.task.state().advance(Timestamp::MIN, now);
            subtask.observe(self.judge.workload.keys, &mut restored.content)?;
            let mut operator = subtask.operator_states()?;
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
    pub(crate) fn process(&mut self) -> Result<()> {
        let index = self.in_flight.front().copied().unwrap_or(self.read);
        let record = self.judge.workload.record(index);
        let now = self.now();
        let parallelism = self.shape.parallelism;
        let targets = match record.reach() {
            Reach::All => 0..self.subtasks.len(),
            Reach::Owner => {
                let max = self.job.max_parallelism();
                let (key, routing) = (Workload::key(record.key), Workload::routing(record.key));
                let group = self.job.partitioner().locate(&key, routing, max).group;
                let at = owner(max, parallelism, group) as usize;
                at..at + 1
            }
        };
        for subtask in &mut self.subtasks[targets] {
            subtask.advance(record.time, now).map_err(|error| Error::stopped("a timer failed").with_source(error))?;
            subtask.apply(&record).map_err(|error| match record.op {
                Op::MapRetainOdd => Error::stopped("an operation failed half way").with_source(error),
                _ => error,
            })?;
        }
        self.judge.sim.trace(format_args!("a{} {record:?}", self.job.attempt()));
        if record.op == Op::Seen {
            self.judge.record_seen(index, now.as_millis(), self.clock_ms);
        }
        self.time = Some(record.time);
        if self.in_flight.pop_front().is_none() {
            self.read += 1;
        }
        Ok(())
    }

    /// Settles earlier epochs in every backend, which may free memory.
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.subtasks.iter_mut().try_for_each(|subtask| subtask.task.settle())
    }

    /// Reads records without processing them.
    pub(crate) fn read_ahead(&mut self, records: u64) {
        self.in_flight.extend(self.read..self.read + records);
        self.read += records;
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

    /// Passes a barrier to all tasks; `pause` is awaited between them.
    pub(crate) async fn barrier<F: Future<Output = ()>>(
        &mut self,
        barrier: Barrier,
        sink: &Sink,
        mut pause: impl FnMut() -> F,
    ) -> Result<()> {
        let now = self.now();
        let mut rows = Vec::new();
        for subtask in &mut self.subtasks {
            if let Some(time) = self.time {
                subtask.advance(time, now)?;
            }
            rows.append(&mut subtask.output);
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
        self.now();
        let position = Opaque::new(OpaqueRole::Source, "log", self.read.to_le_bytes().to_vec());
        self.source.barrier(barrier, watermark, vec![position])?;
        let count = self.subtasks.len();
        for at in 0..count {
            pause().await;
            self.now();
            let dealt: Vec<u64> =
                self.in_flight.iter().copied().filter(|index| *index % count as u64 == at as u64).collect();
            let opaques = (!dealt.is_empty()).then(|| in_flight(at, &dealt)).into_iter().collect();
            self.subtasks[at].task.barrier(barrier, watermark, opaques)?;
        }
        // Before the first record, only barriers advance processing time.
        let least_ms = self.time.map_or(i64::MIN, |_| now.as_millis());
        self.judge.record_times(intent(self.attempt(), barrier.epoch.0), least_ms, self.clock_ms);
        // A transaction of a committed epoch leaves the list.
        self.sink.settle()?;
        if let Some(committed) = self.sink.committed() {
            self.publish(committed, sink);
        }
        self.sink.barrier(barrier, watermark, prepared)
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
        let aborted = progress.last_aborted.map(|aborted| aborted.epoch);
        if let Some(epoch) = aborted.filter(|epoch| self.aborted < Some(*epoch)) {
            self.aborted = Some(epoch);
            self.judge.given_up(attempt, epoch);
        }
        progress.failed.map_or(Ok(()), Err)
    }
}

/// Prints copies that should be equal; several alternatives fail the comparison.
fn alternatives(all: &[impl Debug]) -> String {
    all.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(" or ")
}

async fn stateless(seat: Seat) -> Result<Task<AnyBackend>> {
    Ok(seat.restore(|groups, _, budget| AnyBackend::Overlay(OverlayBackend::new(groups, budget))).await?)
}

/// Returns the opaque with the records in flight to a subtask.
fn in_flight(channel: usize, records: &[u64]) -> Opaque {
    let bytes: Vec<u8> = records.iter().flat_map(|index| index.to_le_bytes()).collect();
    Opaque {
        role: OpaqueRole::InFlight,
        name: format!("input {channel}"),
        redistribution: Redistribution::ByChannel,
        channel: u32::try_from(channel).ok(),
        item_offsets: Vec::new(),
        content: OpaqueContent::Inline(bytes.into()),
    }
}

/// Decodes an opaque's numbers.
fn numbers(opaque: &Opaque) -> Result<Vec<u64>> {
    let bytes = opaque.items()?.concat();
    Ok(bytes.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("8 bytes"))).collect())
}
