//! A counting job with several workers, all in this process but joined by messages alone.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use alluvium::{
    Assignment, Barrier, Fixed, Job, JobBuilder, JobSettings, LogBackend, ManifestId, Opaque, OperatorSpec, Owner,
    Result, SharedRuntime, Task, Timestamp, ValueState, Worker, WorkerInfo, WorkerSettings,
};
use alluvium_testkit::pump::{Cable, Seen, join, unseen};
use alluvium_testkit::{COUNT, Gate, read_counts, runtime, store};

/// A worker with its link and its tasks.
pub(crate) struct Member {
    pub(crate) worker: Worker,
    pub(crate) cable: Option<Cable>,
    pub(crate) tasks: Vec<Task<LogBackend>>,
    counts: Vec<ValueState<u64, Fixed>>,
}

impl Member {
    pub(crate) fn new(gate: &Arc<Gate>, name: &str) -> Self {
        let settings = WorkerSettings::default().with(|it| it.host = name.into());
        let worker = Worker::new(store(&gate.objects()), settings);
        Self { worker, cable: None, tasks: Vec::new(), counts: Vec::new() }
    }

    /// Restores the seats of the next assignment.
    pub(crate) async fn take_seats(&mut self) -> Result<()> {
        let assignment = self.worker.assigned().await?;
        self.restore(assignment).await
    }

    async fn restore(&mut self, assignment: Assignment) -> Result<()> {
        self.tasks.clear();
        self.counts.clear();
        for seat in assignment.seats {
            let mut task = seat.restore(LogBackend::new).await?;
            self.counts.push(task.state().value("count", Fixed)?);
            self.tasks.push(task);
        }
        Ok(())
    }

    fn content(&mut self, content: &mut BTreeMap<Vec<u8>, u64>) -> Result<()> {
        read_counts(&mut self.tasks, &self.counts, content)
    }
}

/// An owner and its workers.
pub(crate) struct Cluster {
    pub(crate) owner: Owner,
    pub(crate) members: Vec<Member>,
    pub(crate) job: Option<Job>,
    pub(crate) expected: BTreeMap<Vec<u8>, u64>,
    parallelism: u32,
    runtime: SharedRuntime,
    seen: Seen,
}

pub(crate) fn builder(gate: &Arc<Gate>, parallelism: u32, settings: JobSettings) -> JobBuilder {
    let operator = OperatorSpec::new(COUNT, "count", parallelism);
    JobBuilder::new(store(&gate.objects())).settings(settings).operator(operator)
}

impl Cluster {
    /// Returns an owner with `workers` connected workers.
    pub(crate) async fn new(gate: &Arc<Gate>, (workers, parallelism): (usize, u32), settings: JobSettings) -> Self {
        Self::seen_by(gate, (workers, parallelism), settings, unseen()).await
    }

    /// As [`Self::new`]; every message is shown to `seen`.
    pub(crate) async fn seen_by(
        gate: &Arc<Gate>,
        (workers, parallelism): (usize, u32),
        settings: JobSettings,
        seen: Seen,
    ) -> Self {
        let owner = builder(gate, parallelism, settings).owner().unwrap();
        let (job, expected, runtime) = (None, BTreeMap::new(), runtime());
        let mut cluster = Self { owner, members: Vec::new(), job, expected, parallelism, runtime, seen };
        for at in 0..workers {
            cluster.members.push(Member::new(gate, &format!("worker-{at}")));
            cluster.connect(at);
        }
        cluster.wait_for_workers(workers).await;
        cluster
    }

    /// Starts a session of a worker.
    pub(crate) fn connect(&mut self, at: usize) {
        let member = &mut self.members[at];
        member.cable = Some(join(&self.runtime, self.owner.connect(), member.worker.connect(), &self.seen));
    }

    pub(crate) async fn wait_for_workers(&self, count: usize) -> Vec<WorkerInfo> {
        self.owner.watch_workers().wait_for(|workers| workers.len() == count).await.unwrap().clone()
    }

    /// Opens an attempt on all connected workers, and asserts that its state is the expected one.
    pub(crate) async fn open(&mut self) -> Result<()> {
        let workers = self.owner.watch_workers().borrow().clone();
        let seating = self.owner.seat_evenly(&workers);
        self.job = Some(self.owner.open(&seating, "payload").await?);
        for member in self.members.iter_mut().filter(|member| member.cable.is_some()) {
            member.take_seats().await?;
        }
        let tasks: usize = self.members.iter().map(|member| member.tasks.len()).sum();
        assert_eq!(tasks, self.parallelism as usize);
        let content = self.content()?;
        assert!(content == self.expected, "restored state differs: {} and {}", content.len(), self.expected.len());
        Ok(())
    }

    /// Changes the parallelism of the next attempt.
    pub(crate) fn rescale(&mut self, parallelism: u32) -> Result<()> {
        self.parallelism = parallelism;
        self.owner.set_parallelism(COUNT, parallelism)
    }

    pub(crate) fn job(&self) -> &Job {
        self.job.as_ref().unwrap()
    }

    /// Adds 1 to the count of each of `keys`.
    pub(crate) fn add(&mut self, keys: Range<u32>) -> Result<()> {
        let mut places = BTreeMap::new();
        for (member, of) in self.members.iter().enumerate() {
            places.extend(of.tasks.iter().enumerate().map(|(at, task)| (task.subtask().0 as usize, (member, at))));
        }
        for key in keys.map(u32::to_be_bytes) {
            let (member, at) = places[&self.job().subtask_of(&key, self.parallelism)];
            let member = &mut self.members[member];
            let state = member.tasks[at].state();
            state.set_key(&key)?;
            member.counts[at].update(state, |count| *count = Some(count.unwrap_or(0) + 1))?;
            *self.expected.entry(key.to_vec()).or_default() += 1;
        }
        Ok(())
    }

    /// Triggers a checkpoint and sends its barrier to every task.
    pub(crate) fn barrier_with(&mut self, opaques: impl Fn(u32) -> Vec<Opaque>) -> Result<Barrier> {
        let barrier = self.job().trigger()?.expect("few epochs are in flight");
        self.send(barrier, opaques)
    }

    /// Sends a barrier to every task.
    pub(crate) fn send(&mut self, barrier: Barrier, opaques: impl Fn(u32) -> Vec<Opaque>) -> Result<Barrier> {
        for task in self.members.iter_mut().flat_map(|member| &mut member.tasks) {
            let opaques = opaques(task.subtask().0);
            task.barrier(barrier, Timestamp::MIN, opaques)?;
        }
        Ok(barrier)
    }

    /// Takes a checkpoint; `None` if it was aborted.
    pub(crate) async fn checkpoint(&mut self) -> Result<Option<ManifestId>> {
        let barrier = self.barrier_with(|_| Vec::new())?;
        self.job().wait(barrier).await
    }

    pub(crate) fn content(&mut self) -> Result<BTreeMap<Vec<u8>, u64>> {
        let mut content = BTreeMap::new();
        self.members.iter_mut().try_for_each(|member| member.content(&mut content))?;
        Ok(content)
    }
}
