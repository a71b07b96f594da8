//! In-flight data: an engine whose barriers overtake records in its channels, and go around a cycle.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use alluvium::{
    Barrier, ErrorKind, Fixed, InFlightData, Job, JobBuilder, KeyGroup, LogBackend, Opaque, OpaqueRole, OperatorId,
    OperatorSpec, Result, Schema, Store, Task, Timestamp, TokioRuntime, ValueState,
};
use alluvium_testkit::sim::Rng;

const SOURCES: usize = 2;
const KEYS: u64 = 50;

/// A visit to a key, which leads to one of another key until no hops are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    key: u64,
    hops: u64,
}

impl Record {
    fn next(self) -> Option<Self> {
        Some(Self { key: (self.key * 7 + 3) % KEYS, hops: self.hops.checked_sub(1)? })
    }

    fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.key.to_be_bytes());
        bytes[8..].copy_from_slice(&self.hops.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
        Self { key: number(0), hops: number(8) }
    }
}

/// Returns the records of the input.
fn input(random: &mut Rng) -> Vec<Record> {
    (0..100).map(|_| Record { key: random.below(KEYS), hops: random.below(6) }).collect()
}

/// Returns the visits of each key.
fn visits(input: &[Record]) -> BTreeMap<u64, u64> {
    let mut visits = BTreeMap::new();
    for record in input {
        let all = std::iter::successors(Some(*record), |record| record.next());
        all.for_each(|record| *visits.entry(record.key).or_default() += 1);
    }
    visits
}

#[derive(Debug)]
enum Item {
    Record(Record),
    Barrier(Barrier),
}

/// What a subtask does for an epoch between its barrier and the last one of its channels.
struct Logging {
    epoch: InFlightData,
    /// Channels on which the barrier has not come yet.
    awaited: BTreeSet<usize>,
    log: Vec<(KeyGroup, [u8; 16])>,
}

struct Subtask {
    task: Task<LogBackend>,
    counts: ValueState<u64, Fixed>,
    /// From each source, then from each subtask: the back edges.
    channels: Vec<VecDeque<Item>>,
    logging: Option<Logging>,
    passed: Option<Barrier>,
}

/// What an engine does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// Forgets what is in flight at a barrier.
    NoLog,
    /// Logs what comes after the barrier on a channel, too.
    LogsOn,
}

struct Engine<'a> {
    job: Job,
    input: &'a [Record],
    /// Records that were read, and as many of them at the last barrier.
    position: usize,
    at_barrier: usize,
    subtasks: Vec<Subtask>,
    flaw: Flaw,
}

impl<'a> Engine<'a> {
    async fn open(store: Store, parallelism: u32, input: &'a [Record], flaw: Flaw) -> Result<Self> {
        let operator = OperatorSpec::new(OperatorId(1), "visits", parallelism).keyed_by(Schema::new("u64"));
        let mut job = JobBuilder::new(store).operator(operator).open().await?;
        let (mut subtasks, mut position) = (Vec::new(), 0);
        for (at, seat) in job.take_seats().into_iter().enumerate() {
            let mut channels: Vec<_> = (0..SOURCES + parallelism as usize).map(|_| VecDeque::new()).collect();
            for opaque in seat.opaques() {
                match opaque.role {
                    OpaqueRole::InFlight => {
                        let records = opaque.group_items()?.into_iter().map(|(_, item)| Record::from_bytes(&item));
                        // Before all that comes on any channel: the subtask's own is as good as another.
                        channels[SOURCES + at].extend(records.map(Item::Record));
                    }
                    _ => position = usize::from_be_bytes(opaque.items()?[0][..].try_into().unwrap()),
                }
            }
            let mut task = seat.restore(LogBackend::new).await?;
            let counts = task.state().value("visits", Fixed)?;
            subtasks.push(Subtask { task, counts, channels, logging: None, passed: None });
        }
        Ok(Self { job, input, position, at_barrier: position, subtasks, flaw })
    }

    fn owner(&self, record: Record) -> usize {
        self.job.subtask_of(&record.key.to_be_bytes(), u32::try_from(self.subtasks.len()).unwrap())
    }

    /// Puts the next record of the input into a channel.
    fn read(&mut self) {
        if let Some(record) = self.input.get(self.position) {
            let owner = self.owner(*record);
            self.subtasks[owner].channels[self.position % SOURCES].push_back(Item::Record(*record));
            self.position += 1;
        }
    }

    /// Begins an epoch at the sources.
    fn trigger(&mut self) -> Result<Barrier> {
        let barrier = self.job.trigger()?.expect("none is in flight");
        self.at_barrier = self.position;
        for subtask in &mut self.subtasks {
            subtask.channels[..SOURCES].iter_mut().for_each(|channel| channel.push_back(Item::Barrier(barrier)));
        }
        Ok(barrier)
    }

    /// Ends the epoch at a subtask, whose barrier has overtaken what is in its channels.
    fn pass(&mut self, at: usize, barrier: Barrier) -> Result<()> {
        let position = Opaque::new(OpaqueRole::Source, "input", self.at_barrier.to_be_bytes().to_vec());
        let opaques = if at == 0 { vec![position] } else { vec![] };
        let subtask = &mut self.subtasks[at];
        let epoch = subtask.task.barrier_in_flight(barrier, Timestamp::MIN, opaques)?;
        let awaited = (0..subtask.channels.len()).collect();
        (subtask.passed, subtask.logging) = (Some(barrier), Some(Logging { epoch, awaited, log: Vec::new() }));
        for other in &mut self.subtasks {
            other.channels[SOURCES + at].push_back(Item::Barrier(barrier));
        }
        Ok(())
    }

    /// Takes the next item from a channel.
    fn take(&mut self, at: usize, channel: usize) -> Result<()> {
        match self.subtasks[at].channels[channel].pop_front() {
            None => Ok(()),
            Some(Item::Record(record)) => self.process(at, channel, record),
            Some(Item::Barrier(barrier)) => {
                if self.subtasks[at].passed != Some(barrier) {
                    self.pass(at, barrier)?;
                }
                let logging = &mut self.subtasks[at].logging;
                let Some(mut open) = logging.take() else { return Ok(()) };
                open.awaited.remove(&channel);
                if !open.awaited.is_empty() {
                    *logging = Some(open);
                    return Ok(());
                }
                open.epoch.complete(vec![Opaque::in_flight("channels", open.log)?])
            }
        }
    }

    fn process(&mut self, at: usize, channel: usize, record: Record) -> Result<()> {
        let Subtask { task, counts, logging, .. } = &mut self.subtasks[at];
        task.state().set_key(&record.key.to_be_bytes())?;
        counts.update(task.state(), |count| *count = Some(count.unwrap_or(0) + 1))?;
        if let Some(logging) = logging {
            let is_in_flight = logging.awaited.contains(&channel) || self.flaw == Flaw::LogsOn;
            if is_in_flight && self.flaw != Flaw::NoLog {
                let group =
                    self.job.partitioner().locate(&record.key.to_be_bytes(), 0, self.job.max_parallelism()).group;
                logging.log.push((group, record.to_bytes()));
            }
        }
        if let Some(next) = record.next() {
            let owner = self.owner(next);
            self.subtasks[owner].channels[SOURCES + at].push_back(Item::Record(next));
        }
        Ok(())
    }

    fn step(&mut self, random: &mut Rng) -> Result<()> {
        if random.below(4) == 0 {
            self.read();
        }
        let at = random.index(self.subtasks.len());
        let channel = random.index(self.subtasks[at].channels.len());
        let barrier = self.subtasks[at].channels[channel].iter().find_map(|item| match item {
            Item::Barrier(barrier) => Some(*barrier),
            Item::Record(_) => None,
        });
        // A barrier overtakes the records before it.
        if let Some(barrier) = barrier.filter(|barrier| self.subtasks[at].passed != Some(*barrier))
            && random.below(2) == 0
        {
            self.pass(at, barrier)?;
        }
        self.take(at, channel)
    }

    fn is_done(&self) -> bool {
        let is_empty = |subtask: &Subtask| subtask.channels.iter().all(VecDeque::is_empty);
        self.position == self.input.len() && self.subtasks.iter().all(is_empty)
    }

    fn visits(&mut self) -> Result<BTreeMap<u64, u64>> {
        let mut visits = BTreeMap::new();
        for Subtask { task, counts, .. } in &mut self.subtasks {
            let groups = task.groups().clone();
            counts.scan(task.state(), &groups, |key, _, count| {
                visits.insert(u64::from_be_bytes(key.try_into().unwrap()), count);
                true
            })?;
        }
        Ok(visits)
    }
}

/// Runs through crashes and rescales; returns the visits, and how many records were in flight in checkpoints.
async fn run(seed: u64, flaw: Flaw) -> Result<(BTreeMap<u64, u64>, usize)> {
    let mut random = Rng::new(seed);
    let input = input(&mut random);
    let store = Store::open("memory:///", &"visits".parse()?, TokioRuntime::current())?;
    let mut engine = Engine::open(store.clone(), 2, &input, flaw).await?;
    let mut in_flight = 0;
    for _ in 0..5 {
        for _ in 0..random.below(60) {
            engine.step(&mut random)?;
        }
        let barrier = engine.trigger()?;
        let crashes = random.below(4) == 0;
        let is_open = |engine: &Engine<'_>| {
            let is_open = |it: &Subtask| it.passed != Some(barrier) || it.logging.is_some();
            engine.subtasks.iter().any(is_open)
        };
        while is_open(&engine) && !(crashes && random.below(20) == 0) {
            engine.step(&mut random)?;
        }
        let has_crashed = is_open(&engine);
        if !has_crashed {
            let committed = engine.job.wait(barrier).await?;
            assert!(committed.is_some(), "{:?}", engine.job.progress());
        }
        if has_crashed || random.below(2) == 0 {
            drop(engine);
            engine = Engine::open(store.clone(), u32::try_from(random.within(1, 4)).unwrap(), &input, flaw).await?;
            in_flight += engine.subtasks.iter().flat_map(|it| &it.channels).map(VecDeque::len).sum::<usize>();
        }
    }
    while !engine.is_done() {
        engine.step(&mut random)?;
    }
    Ok((engine.visits()?, in_flight))
}

#[tokio::test]
async fn each_record_in_a_channel_or_on_a_back_edge_is_processed_once() -> Result<()> {
    let mut in_flight = 0;
    for seed in 0..200 {
        let (found, restored) = run(seed, Flaw::None).await?;
        assert_eq!(found, visits(&input(&mut Rng::new(seed))), "seed {seed}");
        in_flight += restored;
    }
    assert!(in_flight > 1000, "hardly anything was in flight: {in_flight}");
    Ok(())
}

#[tokio::test]
async fn the_test_finds_engines_that_log_too_little_or_too_much() -> Result<()> {
    for flaw in [Flaw::NoLog, Flaw::LogsOn] {
        let mut is_found = false;
        for seed in 0..20 {
            is_found |= run(seed, flaw).await?.0 != visits(&input(&mut Rng::new(seed)));
        }
        assert!(is_found, "{flaw:?}");
    }
    Ok(())
}

/// A job of one subtask that is at an epoch's barrier.
async fn open() -> Result<(Job, Task<LogBackend>, Barrier)> {
    let store = Store::open("memory:///", &"one".parse()?, TokioRuntime::current())?;
    let operator = OperatorSpec::new(OperatorId(1), "one", 1);
    let mut job = JobBuilder::new(store).operator(operator).open().await?;
    let task = job.take_seats().remove(0).restore(LogBackend::new).await?;
    let barrier = job.trigger()?.expect("none is in flight");
    Ok((job, task, barrier))
}

#[tokio::test(start_paused = true)]
async fn in_flight_data_take_memory_of_the_budget() -> Result<()> {
    let (job, mut task, first) = open().await?;
    let slow = task.barrier_in_flight(first, Timestamp::MIN, vec![])?;
    let second = job.trigger()?.expect("one may be in flight");
    let log = Opaque::in_flight("a", [(KeyGroup(7), vec![7; 1 << 20])])?;
    let before = job.budget().held_bytes();
    task.barrier_in_flight(second, Timestamp::MIN, vec![])?.complete(vec![log])?;
    // The second epoch waits for the first. The clock moves once nothing else can.
    assert!(tokio::time::timeout(Duration::from_secs(60), job.wait(second)).await.is_err());
    assert!(job.budget().held_bytes() >= before + (1 << 20));
    slow.complete(vec![])?;
    assert!(job.wait(second).await?.is_some());
    assert!(job.budget().held_bytes() < before + (1 << 20));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_epoch_waits_for_its_in_flight_data() -> Result<()> {
    let (job, mut task, barrier) = open().await?;
    let epoch = task.barrier_in_flight(barrier, Timestamp::MIN, vec![])?;
    // The clock moves once nothing else can.
    assert!(tokio::time::timeout(Duration::from_secs(60), job.wait(barrier)).await.is_err());
    epoch.complete(vec![Opaque::in_flight("a", [(KeyGroup(7), b"x")])?])?;
    assert!(job.wait(barrier).await?.is_some());
    Ok(())
}

#[tokio::test]
async fn an_epoch_without_its_in_flight_data_is_aborted() -> Result<()> {
    let (job, mut task, first) = open().await?;
    drop(task.barrier_in_flight(first, Timestamp::MIN, vec![])?);
    assert_eq!(job.wait(first).await?, None);
    assert!(job.progress().last_decline.unwrap().chain().contains("were not handed in"));
    Ok(())
}

#[tokio::test]
async fn a_later_barrier_may_overtake_the_same_records() -> Result<()> {
    let (job, mut task, first) = open().await?;
    let early = task.barrier_in_flight(first, Timestamp::MIN, vec![])?;
    let second = job.trigger()?.expect("one may be in flight");
    let late = task.barrier_in_flight(second, Timestamp::MIN, vec![])?;
    let log = || Opaque::in_flight("a", [(KeyGroup(0), b"slow")]).map(|log| vec![log]);
    late.complete(log()?)?;
    early.complete(log()?)?;
    assert!(job.wait(first).await?.is_some() && job.wait(second).await?.is_some());
    // One that has ended needs none.
    let third = job.trigger()?.expect("none is in flight");
    let open = task.barrier_in_flight(third, Timestamp::MIN, vec![])?;
    let fourth = job.trigger()?.expect("one may be in flight");
    task.decline(fourth, "as a test")?;
    drop(open);
    assert_eq!((job.wait(third).await?, job.wait(fourth).await?), (None, None));
    Ok(())
}

#[tokio::test]
async fn what_is_not_in_flight_data_is_refused() -> Result<()> {
    let (_job, mut task, barrier) = open().await?;
    let in_flight = |group| Opaque::in_flight("a", [(KeyGroup(group), b"x")]).unwrap();
    let early = task.barrier_in_flight(barrier, Timestamp::MIN, vec![in_flight(0)]).unwrap_err();
    assert_eq!(early.kind(), ErrorKind::Usage);
    let foreign = task.barrier(barrier, Timestamp::MIN, vec![in_flight(128)]).unwrap_err();
    assert!(foreign.kind() == ErrorKind::Usage && foreign.chain().contains("group=`128`"), "{}", foreign.chain());
    let epoch = task.barrier_in_flight(barrier, Timestamp::MIN, vec![])?;
    let position = Opaque::new(OpaqueRole::Source, "input", "7");
    assert_eq!(epoch.complete(vec![position]).unwrap_err().kind(), ErrorKind::Usage);
    Ok(())
}
