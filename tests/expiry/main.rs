//! Expired rows stay expired and live rows are kept, whatever clocks and watermarks do: over restarts at any
//! parallelism, under both strategies, and with changing lives.

mod oracle;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use alluvium::backend::StateBackend;
use alluvium::{
    ChainPolicy, Fixed, Job, JobBuilder, JobSettings, KeyGroupSet, LogBackend, MemoryBudget, OperatorSpec,
    OverlayBackend, Partitioner, ReducingState, Result, Runtime, Seat, StoreSettings, Strategy, TableOptions, Tables,
    Task, Timestamp, TokioRuntime, TtlConfig, ValueState,
};
use alluvium_testkit::sim::Rng;
use alluvium_testkit::{COUNT, store_on};
use futures_util::future::BoxFuture;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use oracle::{Kind, Oracle, Times};

const GROUPS: u16 = 16;
const KEYS: u64 = 24;
const START: i64 = 1_000_000;

/// A wall clock set by the test.
#[derive(Debug, Clone)]
struct Clock(TokioRuntime, Arc<AtomicI64>);

impl Clock {
    fn new() -> Self {
        Self(TokioRuntime::current(), Arc::new(AtomicI64::new(START)))
    }

    fn set(&self, millis: i64) {
        self.1.store(millis, Ordering::SeqCst);
    }

    fn millis(&self) -> i64 {
        self.1.load(Ordering::SeqCst)
    }
}

impl Runtime for Clock {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        self.0.spawn(future);
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        self.0.spawn_blocking(work);
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.0.sleep(duration)
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.millis())
    }

    fn random(&self) -> u128 {
        self.0.random()
    }
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn settings(strategy: Strategy, chain: ChainPolicy) -> JobSettings {
    JobSettings::default().with(|it| {
        it.strategy = strategy;
        it.chain = chain;
        it.max_parallelism = GROUPS;
        it.partitioner = Some(Partitioner::Range { seed: 7 });
    })
}

/// The store and clock of a job, which can be opened repeatedly.
struct World {
    objects: Arc<dyn ObjectStore>,
    clock: Clock,
}

impl World {
    fn new() -> Self {
        Self { objects: Arc::new(InMemory::new()), clock: Clock::new() }
    }

    async fn open(&self, parallelism: u32, settings: JobSettings) -> Result<(Job, Vec<Seat>)> {
        let store = store_on(&self.objects, Arc::new(self.clock.clone()), StoreSettings::default());
        let operator = OperatorSpec::new(COUNT, "op", parallelism);
        let mut job = JobBuilder::new(store).settings(settings).operator(operator).open().await?;
        let seats = job.take_seats();
        Ok((job, seats))
    }
}

/// Takes a checkpoint with one watermark per task.
async fn checkpoint<B: StateBackend>(job: &Job, tasks: &mut [Task<B>], watermarks: &[i64]) -> Result<()> {
    let epoch = job.trigger_when_possible().await?;
    for (task, watermark) in tasks.iter_mut().zip(watermarks.iter().cycle()) {
        task.barrier(epoch, at(*watermark), vec![])?;
    }
    assert!(job.wait(epoch).await?.is_some());
    Ok(())
}

type Value = ValueState<u64, Fixed>;

/// Opens a job of one task with an expiring value.
async fn open_one(world: &World, ttl: TtlConfig) -> Result<(Job, Vec<Task<LogBackend>>, Value)> {
    let (job, mut seats) = world.open(1, settings(Strategy::Incremental, ChainPolicy::default())).await?;
    let mut seat = seats.remove(0);
    let value = seat.tables().value(TableOptions::new("v").ttl(ttl), Fixed)?;
    Ok((job, vec![seat.restore(LogBackend::new).await?], value))
}

fn read(tasks: &mut [Task<LogBackend>], value: &Value) -> Result<Option<u64>> {
    tasks[0].state().set_key(b"k")?;
    value.read(tasks[0].state())
}

const LIFE: TtlConfig = TtlConfig::new(Duration::from_secs(10));

#[tokio::test]
async fn a_clock_that_steps_back_before_the_checkpoint_revives_nothing() -> Result<()> {
    let world = World::new();
    let (job, mut tasks, value) = open_one(&world, LIFE).await?;
    tasks[0].state().set_key(b"k")?;
    value.put(tasks[0].state(), &7)?;
    checkpoint(&job, &mut tasks, &[0]).await?;
    tasks[0].state().advance(Timestamp::MIN, at(START + 11_000));
    assert_eq!(read(&mut tasks, &value)?, None);
    world.clock.set(START + 5000);
    checkpoint(&job, &mut tasks, &[0]).await?;
    drop((job, tasks));
    let (_job, mut tasks, value) = open_one(&world, LIFE).await?;
    assert_eq!(read(&mut tasks, &value)?, None);
    Ok(())
}

#[tokio::test]
async fn expiry_by_a_far_clock_at_one_barrier_survives_a_restart() -> Result<()> {
    let world = World::new();
    let (job, mut tasks, value) = open_one(&world, LIFE).await?;
    tasks[0].state().set_key(b"k")?;
    value.put(tasks[0].state(), &7)?;
    world.clock.set(START + 365 * 86_400_000);
    checkpoint(&job, &mut tasks, &[0]).await?;
    world.clock.set(START + 1000);
    let before = read(&mut tasks, &value)?;
    checkpoint(&job, &mut tasks, &[0]).await?;
    drop((job, tasks));
    let (_job, mut tasks, value) = open_one(&world, LIFE).await?;
    assert_eq!((before, read(&mut tasks, &value)?), (None, None));
    Ok(())
}

#[tokio::test]
async fn expiry_by_advance_alone_survives_a_restart() -> Result<()> {
    let (world, life) = (World::new(), LIFE.in_event_time());
    let (job, mut tasks, value) = open_one(&world, life).await?;
    tasks[0].state().advance(at(1000), Timestamp::MIN);
    tasks[0].state().set_key(b"k")?;
    value.put(tasks[0].state(), &7)?;
    checkpoint(&job, &mut tasks, &[i64::MIN]).await?;
    tasks[0].state().advance(at(20_000), Timestamp::MIN);
    checkpoint(&job, &mut tasks, &[i64::MIN]).await?;
    drop((job, tasks));
    let (_job, mut tasks, value) = open_one(&world, life).await?;
    assert_eq!(read(&mut tasks, &value)?, None);
    Ok(())
}

/// The handles of a task.
struct Handles {
    values: [Value; 2],
    sum: ReducingState<u64, Fixed>,
}

/// The lives of the tables, which may change at each restart: the event-time value, the processing-time value, the
/// event-time sum.
type Lives = [Option<u64>; 3];

fn options(name: &str, life: Option<u64>, event_time: bool) -> TableOptions {
    let Some(millis) = life else { return TableOptions::new(name) };
    let ttl = TtlConfig::new(Duration::from_millis(millis));
    TableOptions::new(name).ttl(if event_time { ttl.in_event_time() } else { ttl })
}

fn declare(tables: &mut Tables, lives: Lives) -> Result<Handles> {
    let values =
        [tables.value(options("e", lives[0], true), Fixed)?, tables.value(options("p", lives[1], false), Fixed)?];
    let sum = tables.reducing(options("s", lives[2], true), Fixed, "sum", |a: u64, b| a.wrapping_add(b))?;
    Ok(Handles { values, sum })
}

/// Random numbers from one seed.
struct Random(Rng);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0.within(0, end - 1)
    }

    /// Draws a watermark or a clock's time: mostly a little ahead, at times back or far ahead.
    fn time(&mut self, before: i64) -> i64 {
        match self.below(12) {
            0 => i64::MIN,
            1 => before.saturating_sub(40),
            2 => before.saturating_add(200),
            _ => before.saturating_add(i64::try_from(self.below(9)).unwrap()),
        }
    }

    fn lives(&mut self, before: Lives) -> Lives {
        before.map(|life| match self.below(6) {
            0 => None,
            1 => Some(15 + self.below(60)),
            _ => life,
        })
    }
}

/// A run of a job, compared with the oracle.
struct Run<B: StateBackend> {
    seed: u64,
    random: Random,
    world: World,
    lives: Lives,
    job: Job,
    tasks: Vec<Task<B>>,
    handles: Vec<Handles>,
    /// Event time of each task.
    events: Vec<i64>,
    now: Oracle,
    stored: Oracle,
}

type Make<B> = fn(KeyGroupSet, Partitioner, MemoryBudget) -> B;

impl<B: StateBackend> Run<B> {
    async fn start(seed: u64, make: Make<B>) -> Result<Self> {
        let (world, mut random) = (World::new(), Random(Rng::new(seed)));
        let lives = random.lives([Some(20), Some(20), Some(20)]);
        let (job, _) = world.open(1, settings(Strategy::Full, ChainPolicy::default())).await?;
        let (tasks, handles, events) = (vec![], vec![], vec![]);
        let now = Oracle::new(GROUPS);
        let mut run = Self { seed, random, world, lives, job, tasks, handles, events, stored: now.clone(), now };
        run.restart(make).await?;
        Ok(run)
    }

    /// Reopens the job from its last checkpoint, at another parallelism and with other lives.
    async fn restart(&mut self, make: Make<B>) -> Result<()> {
        self.tasks.clear();
        let settings = match self.random.below(3) {
            0 => settings(Strategy::Full, ChainPolicy::default()),
            // Short chains cause bases, which drop expired rows, and merges of old deltas.
            1 => settings(
                Strategy::Incremental,
                ChainPolicy::default().with(|it| {
                    it.max_segments = 3;
                    it.spread = 2;
                }),
            ),
            _ => settings(Strategy::Incremental, ChainPolicy::default()),
        };
        let parallelism = 1 + u32::try_from(self.random.below(5)).unwrap();
        let clock = self.world.clock.millis();
        self.world.clock.set(self.random.time(clock).max(START - 500));
        let lives = self.random.lives(self.lives);
        let (job, seats) = self.world.open(parallelism, settings).await?;
        (self.job, self.lives, self.now) = (job, lives, self.stored.clone());
        (self.handles, self.events) = (vec![], vec![]);
        self.now.restart(lives);
        for mut seat in seats {
            let watermark = seat.watermark();
            let handles = declare(seat.tables(), lives)?;
            let task = seat.restore(make).await?;
            self.now
                .advance(task.groups(), Times { event: watermark.as_millis(), processing: self.world.clock.millis() });
            self.tasks.push(task);
            self.handles.push(handles);
            self.events.push(watermark.as_millis().max(0));
        }
        Ok(())
    }

    async fn step(&mut self, make: Make<B>) -> Result<()> {
        let task = usize::try_from(self.random.below(self.tasks.len() as u64)).unwrap();
        match self.random.below(20) {
            0 => self.restart(make).await?,
            1 | 2 => self.checkpoint().await?,
            3..=6 => {
                let clock = self.world.clock.millis();
                let event = self.random.time(self.events[task]);
                let processing = self.random.time(clock);
                self.events[task] = self.events[task].max(event);
                self.world.clock.set(processing.max(START - 500));
                self.tasks[task].state().advance(at(event), at(processing));
                self.now.advance(self.tasks[task].groups(), Times { event, processing });
            }
            _ => self.write()?,
        }
        self.compare()
    }

    async fn checkpoint(&mut self) -> Result<()> {
        let mut watermarks = Vec::new();
        for event in &mut self.events {
            let watermark = self.random.time(*event);
            *event = watermark.max(*event);
            watermarks.push(watermark);
        }
        checkpoint(&self.job, &mut self.tasks, &watermarks).await?;
        for (task, event) in self.tasks.iter().zip(watermarks) {
            self.now.advance(task.groups(), Times { event, processing: self.world.clock.millis() });
        }
        self.stored = self.now.clone();
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        let (key, number) = (self.random.below(KEYS), self.random.below(1000));
        let bytes = key.to_be_bytes();
        let task = self.job.subtask_of(&bytes, u32::try_from(self.tasks.len()).unwrap());
        let state = self.tasks[task].state();
        state.set_key(&bytes)?;
        let group = state.locate(&bytes)?.group;
        let handles = &self.handles[task];
        match usize::try_from(self.random.below(4)).unwrap() {
            table @ (0 | 1) => {
                handles.values[table].put(state, &number)?;
                self.now.put(Kind::ALL[table], (group, key), number);
            }
            2 => {
                handles.values[0].clear(state)?;
                self.now.remove(Kind::ALL[0], (group, key));
            }
            _ => {
                handles.sum.add(state, &number)?;
                self.now.add((group, key), number);
            }
        }
        Ok(())
    }

    /// Compares every readable row with the oracle.
    fn compare(&mut self) -> Result<()> {
        for key in 0..KEYS {
            let bytes = key.to_be_bytes();
            let task = self.job.subtask_of(&bytes, u32::try_from(self.tasks.len()).unwrap());
            let (state, handles) = (self.tasks[task].state(), &self.handles[task]);
            state.set_key(&bytes)?;
            let group = state.locate(&bytes)?.group;
            let found = [handles.values[0].read(state)?, handles.values[1].read(state)?, handles.sum.read(state)?];
            let expected = Kind::ALL.map(|kind| self.now.read(kind, (group, key)));
            assert_eq!(found, expected, "seed {}, key {key} of group {group}, lives {:?}", self.seed, self.lives);
        }
        Ok(())
    }
}

async fn run<B: StateBackend>(seeds: std::ops::Range<u64>, make: Make<B>) -> Result<()> {
    for seed in seeds {
        let mut run = Run::start(seed, make).await?;
        for _ in 0..120 {
            run.step(make).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn f12_expired_rows_stay_so_and_others_live_on() -> Result<()> {
    run(0..150, LogBackend::new).await?;
    run(1000..1150, |groups, _, budget| OverlayBackend::new(groups, budget)).await
}

#[cfg(feature = "rocksdb")]
#[tokio::test(flavor = "multi_thread")]
async fn rocksdb_expires_by_the_times_of_groups() -> Result<()> {
    use std::sync::LazyLock;
    use std::sync::atomic::AtomicU64;

    use alluvium::{RocksDb, RocksDbBackend, RocksDbSettings};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());
    static ENGINE: LazyLock<RocksDb> = LazyLock::new(|| RocksDb::new(RocksDbSettings::new(FOLDER.path())).unwrap());
    fn make(groups: KeyGroupSet, _: Partitioner, budget: MemoryBudget) -> RocksDbBackend {
        ENGINE.backend(&NEXT.fetch_add(1, Ordering::SeqCst).to_string(), groups, budget).unwrap()
    }
    run(200..215, make).await
}
