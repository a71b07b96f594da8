//! Runs a job on the processes and threads of a timely cluster.
//!
//! A cluster is fail-stop: an error or a lost process ends the job in all processes, and it is started again, with any number of
//! processes and threads. What was not committed is read again.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use alluvium::{
    Error, JobBuilder, JobSettings, ManifestId, Progress, RestoreFrom, Result, SharedRuntime, Store, Timestamp,
    WorkerSettings,
};
use futures_util::FutureExt as _;
use timely::communication::allocator::ProcessBuilder;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::{AllocatorBuilder, Hooks};
use timely::worker::Worker;
use timely::{CommunicationConfig, Config};

use crate::connect::{Greeting, Wait, connect};
use crate::control::{Control, Up};
use crate::failure::Failure;
use crate::job::Job;
use crate::link::{Link, Seats};
use crate::owner::{Ownership, Shape};
use crate::signals::Phase;

/// Longest that a worker is parked: then it looks whether the job has failed.
const PARK: Duration = Duration::from_millis(20);

/// A job, as each process of its cluster is started with it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct JobConfig {
    /// Where its checkpoints lie: the same place for all processes.
    pub store: Store,
    /// Its settings. All processes are given the same, except for what concerns the memory of one.
    pub settings: JobSettings,
    /// What the job computes: its version, say, and its arguments. Processes with another program are refused. Default: empty.
    pub program: Vec<u8>,
    /// The checkpoint to continue. Default: the newest.
    pub restore_from: RestoreFrom,
    /// How long all processes have to connect, and then again the store to answer. Default: 8 s.
    pub start_within: Duration,
}

impl JobConfig {
    /// Returns a job with the default settings.
    #[must_use]
    pub fn new(store: Store) -> Self {
        let (settings, program, restore_from) = (JobSettings::default(), Vec::new(), RestoreFrom::Newest);
        Self { store, settings, program, restore_from, start_within: Duration::from_secs(8) }
    }
}

/// What a job has done, when it is complete.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Summary {
    /// Its attempt.
    pub attempt: alluvium::Attempt,
    /// The checkpoint that it continued; `None` if it started from nothing.
    pub restored: Option<ManifestId>,
    /// Its checkpoints.
    pub progress: Progress,
}

impl Summary {
    pub(crate) fn of(job: &alluvium::Job) -> Self {
        Self { attempt: job.attempt(), restored: job.restored().map(|stored| stored.id), progress: job.progress() }
    }
}

/// Runs a job to the end of its input, in this process of a cluster. Returns a summary at the first process, which owns the job.
///
/// * `config`: the processes and threads, as timely's own flags have them.
/// * `build`: builds the dataflow, at each worker.
///
/// # Errors
/// The job is as after a crash then: start it again, in all processes, with any number of processes and threads. The connections to
/// other processes are closed, so that they end as well.
/// * `Config`: a process was started with another program, store or number of processes; an operator was renamed.
/// * `Unavailable`: not all processes are there in time, or the store does not answer.
/// * `Stopped`: another process has ended, or a worker has panicked.
/// * `Fenced`: the job was started again elsewhere.
/// * Others: from the sources, the operators, the sinks and the store.
pub fn execute(
    config: Config,
    job: JobConfig,
    build: impl Fn(&mut Worker, &Job) -> Result<()> + Send + Sync + 'static,
) -> Result<Option<Summary>> {
    let network = Network::connect(config.communication, &job)?;
    let Network { shape, process, builders, guard, sockets } = network;
    let (results, ended) = channel();
    let host = Arc::new(Process::new(job, shape, process));
    let of_workers = Arc::clone(&host);
    let guards = timely::execute::execute_from(builders, guard, config.worker, move |worker| {
        let worked = catch_unwind(AssertUnwindSafe(|| of_workers.work(worker, &build)));
        let worked = worked.unwrap_or_else(|panic| Err(panicked(&*panic)));
        if let Err(error) = &worked {
            of_workers.failure.set(error.clone());
        }
        // The receiver has given up once another worker has failed.
        let _ended = results.send(worked.is_ok());
        worker.installed_dataflows().into_iter().for_each(|dataflow| worker.drop_dataflow(dataflow));
    });
    let guards = guards.map_err(|error| Error::unavailable("cannot start the workers").with("reason", error))?;
    if ended.iter().take(shape.threads as usize).all(|is_ok| is_ok) {
        // Joins the threads of the connections, which end with those of the other processes.
        let _panicked_after_the_end = catch_unwind(AssertUnwindSafe(|| drop(guards)));
        return Ok(host.summary.get().cloned());
    }
    sockets.iter().for_each(|socket| drop(socket.shutdown(Shutdown::Both)));
    // Joining would wait for the other workers, which may be in a loop of the user's.
    std::mem::forget(guards);
    Err(host.failure.get().unwrap_or_else(|| Error::stopped("a worker has ended")))
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    match text.unwrap_or("a value that is no text") {
        // What timely says once a connection is broken.
        "MergeQueue poisoned." => Error::stopped("another process of the cluster has ended"),
        text => Error::stopped("a worker has panicked").with("panic", text),
    }
}

/// The connections of a process, and what timely makes of them.
struct Network {
    shape: Shape,
    process: u32,
    builders: Vec<AllocatorBuilder>,
    guard: Box<dyn Any + Send>,
    sockets: Vec<TcpStream>,
}

impl Network {
    fn connect(config: CommunicationConfig, job: &JobConfig) -> Result<Self> {
        let alone = |threads: usize| Shape { processes: 1, threads: number(threads) };
        let (threads, process, addresses, zerocopy) = match config {
            CommunicationConfig::Cluster { threads, process, addresses, zerocopy, .. } => {
                (threads, process, addresses, zerocopy)
            }
            CommunicationConfig::Thread => return Self::local(alone(1), config),
            CommunicationConfig::Process(threads) | CommunicationConfig::ProcessBinary(threads) => {
                return Self::local(alone(threads), config);
            }
        };
        let shape = Shape { processes: number(addresses.len()), threads: number(threads) };
        let program = blake3::hash(&job.program);
        let ours = Greeting {
            process: number(process),
            processes: shape.processes,
            threads: shape.threads,
            program: program.into(),
        };
        let runtime = job.store.runtime();
        let wait = Wait { runtime, deadline: runtime.monotonic().after(job.start_within) };
        let streams = connect(&addresses, ours, &wait)?;
        let failed = |source| Error::unavailable("cannot use the connections of the cluster").with_source(source);
        let sockets =
            streams.iter().flatten().map(TcpStream::try_clone).collect::<std::io::Result<_>>().map_err(failed)?;
        let hooks = Hooks::default();
        let local = if zerocopy { ProcessBuilder::new_bytes_vector } else { ProcessBuilder::new_typed_vector };
        let local = local(threads, hooks.refill.clone(), None);
        let (builders, guard) =
            initialize_networking_from_sockets(local, streams, process, threads, hooks).map_err(failed)?;
        let builders = builders.into_iter().map(AllocatorBuilder::Tcp).collect();
        Ok(Self { shape, process: ours.process, builders, guard: Box::new(guard), sockets })
    }

    fn local(shape: Shape, config: CommunicationConfig) -> Result<Self> {
        let built = config.try_build();
        let (builders, guard) =
            built.map_err(|error| Error::config("timely's settings are invalid").with("reason", error))?;
        Ok(Self { shape, process: 0, builders, guard, sockets: Vec::new() })
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// What the workers of a process share.
struct Process {
    job: JobConfig,
    shape: Shape,
    index: u32,
    failure: Failure,
    summary: Arc<OnceLock<Summary>>,
    /// Where the workers' seats come from: each takes its own.
    seats: Mutex<BTreeMap<u32, Receiver<Seats>>>,
    /// Where they go: the first worker takes all.
    givers: Mutex<BTreeMap<u32, Sender<Seats>>>,
}

impl Process {
    fn new(job: JobConfig, shape: Shape, index: u32) -> Self {
        let first = index.saturating_mul(shape.threads);
        let (givers, seats) = (first..first.saturating_add(shape.threads))
            .map(|worker| {
                let (giver, seats) = channel();
                ((worker, giver), (worker, seats))
            })
            .unzip();
        let (failure, summary) = (Failure::default(), Arc::default());
        Self { job, shape, index, failure, summary, seats: Mutex::new(seats), givers: Mutex::new(givers) }
    }

    fn runtime(&self) -> &SharedRuntime {
        self.job.store.runtime()
    }

    /// Runs a worker to the end of the job.
    fn work(&self, worker: &mut Worker, build: &impl Fn(&mut Worker, &Job) -> Result<()>) -> Result<()> {
        let index = number(worker.index());
        let control = Control::build(worker, &self.failure);
        let own = worker.installed_dataflows();
        let Control { up, to_owner, down, to_link, signals } = control;
        let job =
            Job::new(self.shape.workers(), self.runtime().clone(), self.failure.clone(), (signals.clone(), up.clone()));
        build(worker, &job)?;
        if index == 0 {
            let owner = self.own(&job, to_owner, down)?;
            self.spawn(owner);
        }
        if index == self.index * self.shape.threads {
            self.spawn(self.link(to_link, up.clone()));
        }
        let seats = take(&self.seats).remove(&index);
        let started = self.runtime().monotonic();
        let mut is_finished = false;
        loop {
            match signals.phase() {
                Phase::Starting => self.start(&job, seats.as_ref(), started)?,
                Phase::Running => {}
                Phase::Complete(_) if !is_finished && worker.installed_dataflows() == own => {
                    is_finished = true;
                    up.send(Up::Finished);
                }
                Phase::Complete(_) => {}
                Phase::Ended if !worker.has_dataflows() => return Ok(()),
                Phase::Ended => {}
            }
            if let Some(error) = self.failure.get() {
                return Err(error);
            }
            worker.step_or_park(Some(PARK));
        }
    }

    fn start(&self, job: &Job, seats: Option<&Receiver<Seats>>, since: Timestamp) -> Result<()> {
        if let Some(Ok(seats)) = seats.map(Receiver::try_recv) {
            return job.start(seats);
        }
        // The owner has the same deadline, and a reason.
        let limit = self.job.start_within.saturating_add(PARK * 10);
        if self.runtime().monotonic().since(since) > limit {
            return Err(Error::unavailable("the job did not start in time").with("limit", format!("{limit:?}")));
        }
        Ok(())
    }

    /// Runs on the store's runtime what ends the job in this process if it fails.
    fn spawn(&self, part: impl Future<Output = Result<()>> + Send + 'static) {
        let failure = self.failure.clone();
        self.runtime().spawn(async move { part.await.unwrap_or_else(|error| failure.set(error)) }.boxed());
    }

    fn own(
        &self,
        job: &Job,
        heard: tokio::sync::mpsc::UnboundedReceiver<Up>,
        down: crate::port::Port<Vec<(u64, crate::control::Down)>>,
    ) -> Result<impl Future<Output = Result<()>> + Send + use<>> {
        let specs = job.specs();
        let operators = specs.iter().map(|spec| spec.id).collect();
        let builder = JobBuilder::new(self.job.store.clone())
            .settings(self.job.settings.clone())
            .program(self.job.program.clone())
            .restore_from(self.job.restore_from);
        let owner = specs.into_iter().fold(builder, JobBuilder::operator).owner()?;
        let sources = job.sources() * u64::from(self.shape.workers());
        let (runtime, shape, start_within) = (self.runtime().clone(), self.shape, self.job.start_within);
        let summary = Arc::clone(&self.summary);
        let ownership = Ownership { owner, runtime, shape, operators, sources, heard, down, start_within, summary };
        Ok(ownership.run())
    }

    fn link(
        &self,
        from_owner: tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>,
        up: crate::port::Port<Up>,
    ) -> impl Future<Output = Result<()>> + Send + use<> {
        let JobSettings { memory_bytes, budget, restore_bytes, restore, .. } = self.job.settings.clone();
        let settings = WorkerSettings::default().with(|it| {
            it.host = format!("process {}", self.index);
            it.program = self.job.program.clone().into();
            (it.memory_bytes, it.budget, it.restore_bytes, it.restore) = (memory_bytes, budget, restore_bytes, restore);
        });
        let worker = alluvium::Worker::new(self.job.store.clone(), settings);
        let threads = std::mem::take(&mut *take(&self.givers));
        Link { process: u64::from(self.index), worker, from_owner, up, threads }.run()
    }
}

/// Nothing is done while it is locked that could panic.
fn take<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
