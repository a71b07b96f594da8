//! A small counting job over any store.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use alluvium::{
    Epoch, Error, Fixed, Job, JobBuilder, JobSettings, LogBackend, ManifestId, Opaque, OperatorId, OperatorSpec,
    RestoreFrom, Result, SharedRuntime, Store, StoreSettings, Task, Timestamp, TokioRuntime, ValueState, owner,
};
use object_store::ObjectStore;
use object_store::path::Path;

/// The operator of the counting job.
pub const COUNT: OperatorId = OperatorId(1);

/// A count per key, with the expected counts.
pub struct Counting {
    pub job: Job,
    pub tasks: Vec<Task<LogBackend>>,
    pub counts: Vec<ValueState<u64, Fixed>>,
    pub expected: BTreeMap<Vec<u8>, u64>,
    max_parallelism: u16,
}

/// Returns the runtime of the test.
pub fn runtime() -> SharedRuntime {
    Arc::new(TokioRuntime::current())
}

/// Returns the place of job `job` in `objects`.
pub fn store(objects: &Arc<dyn ObjectStore>) -> Store {
    let settings = StoreSettings::default().with(|it| {
        it.tries_max = 2;
        it.backoff_first = Duration::from_millis(1);
        it.backoff_max = Duration::from_millis(2);
    });
    store_on(objects, runtime(), settings)
}

/// As [`store`], on another runtime and with other settings.
pub fn store_on(objects: &Arc<dyn ObjectStore>, runtime: SharedRuntime, settings: StoreSettings) -> Store {
    Store::new(Arc::clone(objects), &Path::default(), &"job".parse().unwrap(), runtime, settings)
}

impl Counting {
    /// Opens the job at `parallelism` and asserts that its state is `expected`.
    pub async fn open(
        objects: &Arc<dyn ObjectStore>,
        parallelism: u32,
        settings: JobSettings,
        from: RestoreFrom,
        expected: BTreeMap<Vec<u8>, u64>,
    ) -> Result<Self> {
        let counting = Self::open_on(store(objects), parallelism, settings, from).await?;
        assert!(counting.expected == expected, "restored state differs");
        Ok(counting)
    }

    /// Opens the job in `store`, with any state.
    pub async fn open_on(store: Store, parallelism: u32, settings: JobSettings, from: RestoreFrom) -> Result<Self> {
        let max_parallelism = settings.max_parallelism;
        let operator = OperatorSpec::new(COUNT, "count", parallelism);
        let builder = JobBuilder::new(store).settings(settings).operator(operator);
        let mut job = builder.restore_from(from).open().await?;
        let (mut tasks, mut counts) = (Vec::new(), Vec::new());
        for seat in job.take_seats() {
            let mut task = seat.restore(LogBackend::new).await?;
            counts.push(task.state().value("count", Fixed)?);
            tasks.push(task);
        }
        let mut counting = Self { job, tasks, counts, expected: BTreeMap::new(), max_parallelism };
        counting.expected = counting.content()?;
        Ok(counting)
    }

    /// Opens a job without state.
    pub async fn fresh(objects: &Arc<dyn ObjectStore>, parallelism: u32) -> Self {
        Self::open(objects, parallelism, JobSettings::default(), RestoreFrom::Newest, BTreeMap::new()).await.unwrap()
    }

    /// Reopens the job from the newest checkpoint and asserts that its state equals this one's.
    pub async fn reopen(&self, objects: &Arc<dyn ObjectStore>, parallelism: u32) -> Self {
        let settings = JobSettings::default().with(|it| it.max_parallelism = self.max_parallelism);
        Self::open(objects, parallelism, settings, RestoreFrom::Newest, self.expected.clone()).await.unwrap()
    }

    /// Adds 1 to the count of each of `keys`.
    pub fn add(&mut self, keys: Range<u32>) -> Result<()> {
        for key in keys {
            self.add_key(&key.to_be_bytes())?;
        }
        Ok(())
    }

    /// Adds 1 to the count of `key`.
    pub fn add_key(&mut self, key: &[u8]) -> Result<()> {
        let parallelism = u32::try_from(self.tasks.len()).unwrap();
        let partitioner = self.job.partitioner();
        let group = partitioner.locate(key, 0, self.max_parallelism).group;
        let at = owner(self.max_parallelism, parallelism, group) as usize;
        let state = self.tasks[at].state();
        state.set_key(key)?;
        self.counts[at].update(state, |count| *count = Some(count.unwrap_or(0) + 1))?;
        *self.expected.entry(key.to_vec()).or_default() += 1;
        Ok(())
    }

    /// Triggers an epoch and passes its barrier to every task.
    pub fn barrier(&mut self) -> Result<Epoch> {
        self.barrier_with(|_| Vec::new())
    }

    /// As [`Counting::barrier`], with opaques per subtask.
    pub fn barrier_with(&mut self, opaques: impl Fn(usize) -> Vec<Opaque>) -> Result<Epoch> {
        let barrier = self.job.trigger()?.ok_or_else(|| Error::limit("too many checkpoints in flight"))?;
        for (at, task) in self.tasks.iter_mut().enumerate() {
            task.barrier(barrier, Timestamp::MIN, opaques(at))?;
        }
        Ok(barrier.epoch)
    }

    /// Takes a checkpoint and waits for its outcome; `None` if it was aborted.
    pub async fn checkpoint(&mut self) -> Result<Option<ManifestId>> {
        let epoch = self.barrier()?;
        self.job.wait(epoch).await
    }

    /// Returns all counts.
    pub fn content(&mut self) -> Result<BTreeMap<Vec<u8>, u64>> {
        let mut content = BTreeMap::new();
        read_counts(&mut self.tasks, &self.counts, &mut content)?;
        Ok(content)
    }
}

/// Adds the counts of subtasks to `content`. Panics if two have the same key.
pub fn read_counts(
    tasks: &mut [Task<LogBackend>],
    counts: &[ValueState<u64, Fixed>],
    content: &mut BTreeMap<Vec<u8>, u64>,
) -> Result<()> {
    for (task, counts) in tasks.iter_mut().zip(counts) {
        let groups = task.groups().clone();
        counts.scan(task.state(), &groups, |key, _, count| {
            assert!(content.insert(key.to_vec(), count).is_none(), "a key in two subtasks");
            true
        })?;
    }
    Ok(())
}
