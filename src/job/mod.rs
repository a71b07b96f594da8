//! The façade: a job's life, as an engine drives it.
//!
//! ```text
//! JobBuilder --open--> Job { seats } --Seat::restore--> Task --barrier--> (background) --> Progress
//! ```
//!
//! A [`Job`] is one attempt: opening it claims the job and fences every attempt before. It has one [`Seat`] per
//! subtask; a seat restored into a backend is a [`Task`], which its engine moves to wherever records are processed.

mod driver;
mod interval;
mod operator_state;
mod schemas;
mod task;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};

use crate::backend::{CheckpointTimes, Tables};
use crate::canary::{self, Canary};
use crate::checkpoint::chain::{RestoreFrom, StoredManifest};
use crate::checkpoint::claim::{self, ClaimRequest, Claimed, Peeked};
use crate::checkpoint::links::SegmentChain;
use crate::checkpoint::pipeline::{Arrival, Pipeline, PipelineSettings, SharedChain};
use crate::checkpoint::restore;
use crate::checkpoint::sweep::Collector;
use crate::codec::schema::Schema;
use crate::control::chain::ChainPolicy;
use crate::control::coordinator::{CheckpointPolicy, Coordinator, Participant};
use crate::control::interval::{Decision, Goals, Observation};
use crate::control::retention::RetentionPolicy;
use crate::error::{Error, Result};
use crate::id::{Attempt, Epoch, ManifestId, OperatorId, Subtask};
use crate::key_group::{DEFAULT_MAX_PARALLELISM, Partitioner, check_parallelism, owner};
use crate::manifest::rescale::{OperatorPlan, Share};
use crate::manifest::{OperatorManifest, Program};
use crate::memory::MemoryBudget;
use crate::store::Store;
use crate::time::Timestamp;

use driver::{Driver, State};
use interval::Adaptive;
use schemas::Schemas;

pub use interval::AdaptiveInterval;
pub use operator_state::{BroadcastState, OperatorList, OperatorState};
pub use task::{Seat, Task};

/// Name and version that manifests carry as their writer.
pub const WRITER: &str = concat!("alluvium ", env!("CARGO_PKG_VERSION"));

/// How the state of a barrier becomes segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Strategy {
    /// Everything, at each checkpoint.
    Full,
    /// What changed, with a new base for a few groups when chains get long.
    #[default]
    Incremental,
}

/// A job's settings: plain data.
#[derive(Debug, Clone)]
pub struct JobSettings {
    /// How state becomes segments. Default `Incremental`.
    pub strategy: Strategy,
    /// When checkpoints start and how long they may take.
    pub checkpoints: CheckpointPolicy,
    /// Goals that choose the interval in place of the one in `checkpoints`. Default: none, the interval is fixed.
    pub adaptive: Option<AdaptiveInterval>,
    /// Which checkpoints are retained. Default: the 3 newest.
    pub retention: RetentionPolicy,
    /// Bounds of chains of segments.
    pub chain: ChainPolicy,
    /// Bounds of the background work.
    pub pipeline: PipelineSettings,
    /// Bytes of memory for state and for what waits to be uploaded, over all subtasks of this process; beyond it
    /// writes return `limit`. Default: none.
    pub memory_bytes: u64,
    /// Bytes of segments that a subtask's restore holds at a time, beside the state: those being loaded and those being
    /// read. A key group is never divided. Default 128 MiB.
    pub restore_bytes: u64,
    /// Number of key groups; fixed for the job's life. Default 128.
    pub max_parallelism: u16,
    /// How keys map to groups; fixed for the job's life. Default: `Range` under a random seed.
    pub partitioner: Option<Partitioner>,
}

impl Default for JobSettings {
    fn default() -> Self {
        Self {
            strategy: Strategy::default(),
            checkpoints: CheckpointPolicy::default(),
            adaptive: None,
            retention: RetentionPolicy::default(),
            chain: ChainPolicy::default(),
            pipeline: PipelineSettings::default(),
            memory_bytes: u64::MAX,
            restore_bytes: 128 << 20,
            max_parallelism: DEFAULT_MAX_PARALLELISM,
            partitioner: None,
        }
    }
}

impl JobSettings {
    /// Returns when groups get new bases; `None` if all do, always.
    fn chain_policy(&self) -> Option<ChainPolicy> {
        (self.strategy == Strategy::Incremental).then_some(self.chain)
    }
}

/// An operator of the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorSpec {
    /// Its identity: what its state is found by after a restart.
    pub id: OperatorId,
    /// Its name, for people.
    pub name: String,
    /// Its number of subtasks.
    pub parallelism: u32,
    /// Type of its keys.
    pub key: Schema,
}

impl OperatorSpec {
    /// Returns an operator whose keys are plain bytes.
    #[must_use]
    pub fn new(id: OperatorId, name: impl Into<String>, parallelism: u32) -> Self {
        Self { id, name: name.into(), parallelism, key: Schema::new("bytes") }
    }

    /// Sets the type of its keys.
    #[must_use]
    pub fn keyed_by(mut self, key: Schema) -> Self {
        self.key = key;
        self
    }

    fn manifest(&self) -> OperatorManifest {
        OperatorManifest {
            id: self.id,
            name: self.name.clone(),
            parallelism: self.parallelism,
            tables: Vec::new(),
            subtasks: Vec::new(),
        }
    }
}

/// Opens a job.
#[derive(Debug)]
pub struct JobBuilder {
    store: Store,
    settings: JobSettings,
    operators: Vec<OperatorSpec>,
    program: Program,
    from: RestoreFrom,
}

impl JobBuilder {
    /// Returns a builder for the job whose place is `store`.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self {
            store,
            settings: JobSettings::default(),
            operators: Vec::new(),
            program: Program::default(),
            from: RestoreFrom::Newest,
        }
    }

    /// Sets the settings.
    #[must_use]
    pub fn settings(mut self, settings: JobSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Adds an operator.
    #[must_use]
    pub fn operator(mut self, operator: OperatorSpec) -> Self {
        self.operators.push(operator);
        self
    }

    /// Sets what the job computes, in the embedder's own words; stored in every manifest.
    #[must_use]
    pub fn program(mut self, bytes: impl Into<bytes::Bytes>) -> Self {
        self.program = Program::new(bytes);
        self
    }

    /// Sets what to restore from. Default: the newest checkpoint.
    #[must_use]
    pub fn restore_from(mut self, from: RestoreFrom) -> Self {
        self.from = from;
        self
    }

    /// Returns what stands in the store now, with the checkpoint that opening would restore from, without claiming
    /// anything: for checks that must not stop a running job.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`, `Version`, `Denied` or `Unavailable` from the store.
    pub async fn peek(&self) -> Result<Option<Peeked>> {
        claim::peek(&self.store, self.from).await
    }

    /// Returns the stored checkpoint with everything inline that its objects hold: subtask manifests and opaques.
    ///
    /// # Errors
    /// `Corrupt`, `Denied` or `Unavailable` from the store.
    pub async fn resolve(&self, stored: StoredManifest) -> Result<StoredManifest> {
        let manifest = restore::resolve(&self.store, stored.manifest).await?;
        Ok(StoredManifest { manifest, ..stored })
    }

    /// Claims the job, which fences every attempt before, and reads the checkpoint to restore from.
    ///
    /// # Errors
    /// `Config` if the settings cannot work, or differ from the job's in what is fixed for its life, or the store
    /// cannot be trusted with checkpoints; `NotFound` if the checkpoint is not there; `Fenced` if a newer attempt
    /// claimed meanwhile; `Corrupt`, `Version`, `Denied`, `Unavailable` from the store.
    pub async fn open(self) -> Result<Job> {
        self.check()?;
        self.store.probe().await?;
        let mut claimed = claim::claim(&self.store, &self.claim_request()).await?;
        if let Some(stored) = claimed.restore.take() {
            claimed.restore = match self.resolve(stored).await {
                Ok(resolved) => Some(resolved),
                Err(error) => return Err(claim::why_unreadable(&self.store, claimed.attempt, error).await),
            };
        }
        self.start(claimed)
    }

    /// Checks what can be checked without the store.
    ///
    /// # Errors
    /// `Config` if the settings cannot work.
    pub fn check(&self) -> Result<()> {
        if self.operators.is_empty() {
            return Err(Error::config("a job needs an operator"));
        }
        if let Some(adaptive) = &self.settings.adaptive {
            adaptive.goals.check()?;
            adaptive.settings.check()?;
        }
        self.operators.iter().try_for_each(|o| check_parallelism(o.parallelism, self.settings.max_parallelism))
    }

    fn claim_request(&self) -> ClaimRequest {
        let seed = || u64::try_from(self.store.runtime().random() >> 64).unwrap_or(0);
        ClaimRequest {
            from: self.from,
            partitioner: self.settings.partitioner.unwrap_or_else(|| Partitioner::Range { seed: seed() }),
            max_parallelism: self.settings.max_parallelism,
            retention: self.settings.retention,
            writer: WRITER.to_owned(),
            program: self.program.clone(),
        }
    }

    fn start(self, claimed: Claimed) -> Result<Job> {
        let Self { store, settings, operators, from, .. } = self;
        let Claimed { attempt, restore: restored, partitioner, max_parallelism, committer, .. } = claimed;
        let runtime = Arc::clone(store.runtime());
        let budget = MemoryBudget::new(settings.memory_bytes);
        let first_epoch = restored.as_ref().map_or(Epoch(1), |restored| restored.manifest.epoch.next());
        let participants: Vec<_> = operators
            .iter()
            .flat_map(|operator| (0..operator.parallelism).map(|index| (operator.id, Subtask(index))))
            .collect();
        let (sender, receiver) = mpsc::unbounded_channel();
        let (progress, _) = watch::channel(Progress::default());
        let coordinator =
            Coordinator::new(settings.checkpoints, participants.iter().copied(), first_epoch, runtime.now());
        let goes_on = (from, restored.as_ref(), participants.len());
        let adaptive = Adaptive::of(&settings, max_parallelism, goes_on, runtime.now())?;
        let shared = Shared::new(coordinator, progress, adaptive);
        let shared = Arc::new(shared);
        let link = Link { shared: Arc::clone(&shared), sender };

        let mut seats = Vec::with_capacity(participants.len());
        let mut chains = BTreeMap::new();
        let mut settlements = Vec::with_capacity(participants.len());
        for operator in &operators {
            for (mut plan, tables) in plans(restored.as_ref(), operator, max_parallelism)? {
                let operator_state = plan.opaques.extract_if(.., |opaque| operator_state::is_own(opaque)).collect();
                let chain = chain_of(&plan, &settings, &budget);
                let (settlement, settled) = mpsc::unbounded_channel();
                settlements.push(settlement);
                chains.insert((operator.id, plan.subtask), Arc::clone(&chain));
                seats.push(Seat {
                    operator: operator.id,
                    attempt,
                    share: plan,
                    operator_state,
                    tables,
                    partitioner,
                    max_parallelism,
                    store: store.clone(),
                    runtime: Arc::clone(&runtime),
                    link: link.clone(),
                    chain,
                    settled,
                    strategy: settings.strategy,
                    budget: budget.clone(),
                    restore_bytes: settings.restore_bytes,
                });
            }
        }
        let catalog = restored.iter().flat_map(|r| r.manifest.objects.iter().map(|o| (o.id, o.clone()))).collect();
        let pipeline = Pipeline {
            store: store.clone(),
            runtime: Arc::clone(&runtime),
            settings: settings.pipeline,
            attempt,
            chains,
            catalog: Mutex::new(catalog),
        };
        let driver = Driver {
            shared,
            runtime: Arc::clone(&runtime),
            pipeline: Arc::new(pipeline),
            operators,
            policy: settings.chain_policy(),
            committer: Some(Box::new(committer)),
            collector: Some(Box::new(Collector::new(&store))),
            settlements,
            steps: FuturesUnordered::new(),
            state: State::default(),
        };
        runtime.spawn(driver.run(receiver).boxed());
        Ok(Job { attempt, partitioner, max_parallelism, store, link, seats, restored, budget })
    }
}

/// Returns the chain of a subtask that goes on from its share.
fn chain_of(share: &Share, settings: &JobSettings, budget: &MemoryBudget) -> SharedChain {
    let chain = SegmentChain::new(share.groups.clone(), share.segments.clone(), budget.clone());
    let mut chain = chain.with_segment_bytes(settings.pipeline.segment_bytes);
    settings.chain_policy().into_iter().for_each(|policy| chain.plan_bases(policy));
    Arc::new(Mutex::new(chain))
}

/// Returns each subtask's share of `operator`, with the tables as they were.
fn plans(
    restored: Option<&StoredManifest>,
    operator: &OperatorSpec,
    max_parallelism: u16,
) -> Result<Vec<(Share, Tables)>> {
    let Some(StoredManifest { manifest, .. }) = restored else {
        let plan = OperatorPlan::empty(operator.id, max_parallelism, operator.parallelism)?;
        return Ok(plan.shares.into_iter().map(|share| (share, Tables::new(operator.key.clone()))).collect());
    };
    let plan = OperatorPlan::new(manifest, operator.id, operator.parallelism)?;
    let common = CheckpointTimes::common(plan.shares.iter().flat_map(|share| &share.times));
    let tables = |share: &Share| {
        let times = if canary::on(Canary::TrustClock) { Vec::new() } else { share.times.clone() };
        Tables::restored(operator.key.clone(), plan.tables.clone(), common).in_groups(times)
    };
    let tables: Vec<_> = plan.shares.iter().map(tables).collect();
    Ok(plan.shares.into_iter().zip(tables).collect())
}

/// How far the job has come, as its owner can watch it.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Progress {
    /// The newest committed epoch of this attempt, and its checkpoint.
    pub committed: Option<(Epoch, ManifestId)>,
    /// Checkpoints committed by this attempt.
    pub completed: u64,
    /// Checkpoints given up by this attempt.
    pub aborted: u64,
    /// The last epoch that was given up.
    pub last_aborted: Option<Epoch>,
    /// Why the last one was declined.
    pub last_decline: Option<String>,
    /// Why the job cannot go on.
    pub failed: Option<Arc<Error>>,
}

/// What the job's owner, its tasks and its background share.
#[derive(Debug)]
struct Shared {
    coordinator: Mutex<Coordinator>,
    /// What tasks sealed that the background has not fetched. It looks for it, for to be told would take the time of the
    /// task: waking a thread costs more than a seal.
    arrivals: Mutex<Vec<(Epoch, Participant, Arrival)>>,
    progress: watch::Sender<Progress>,
    adaptive: Option<Adaptive>,
    /// What its tasks have declared.
    schemas: Schemas,
}

/// What the job's owner and its tasks hold of it: the background ends when the last of these is gone.
#[derive(Debug, Clone)]
struct Link {
    shared: Arc<Shared>,
    /// Of epochs that began to end. Bounded by the coordinator: at most `max_in_flight`.
    sender: mpsc::UnboundedSender<Epoch>,
}

impl Link {
    fn trigger(&self, epoch: Epoch) -> Result<()> {
        self.shared.check()?;
        self.sender.send(epoch).map_err(|_| stopped())
    }

    /// Tells that a task has its state.
    fn restored(&self, now: Timestamp) {
        self.shared.adaptive.iter().for_each(|adaptive| adaptive.restored(now));
    }

    /// Leaves what a task sealed for the background.
    fn arrive(&self, epoch: Epoch, participant: Participant, arrival: Arrival) -> Result<()> {
        self.shared.check()?;
        if self.sender.is_closed() {
            return Err(stopped());
        }
        self.shared.arrivals().push((epoch, participant, arrival));
        Ok(())
    }
}

fn stopped() -> Error {
    Error::stopped("the job's background has stopped")
}

impl Shared {
    fn new(coordinator: Coordinator, progress: watch::Sender<Progress>, adaptive: Option<Adaptive>) -> Self {
        let schemas = Schemas::default();
        Self { coordinator: Mutex::new(coordinator), arrivals: Mutex::default(), progress, adaptive, schemas }
    }

    fn coordinator(&self) -> MutexGuard<'_, Coordinator> {
        self.coordinator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrivals(&self) -> MutexGuard<'_, Vec<(Epoch, Participant, Arrival)>> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(change);
    }

    /// Tells the controller of the interval, if there is one.
    fn observe(&self, now: Timestamp, observation: Observation) {
        self.adaptive.iter().for_each(|adaptive| adaptive.observe(now, observation));
    }

    fn check(&self) -> Result<()> {
        match &self.progress.borrow().failed {
            Some(error) => Err(Error::new(error.kind(), error.message())),
            None => Ok(()),
        }
    }
}

/// One attempt of a job.
#[derive(Debug)]
pub struct Job {
    attempt: Attempt,
    partitioner: Partitioner,
    max_parallelism: u16,
    store: Store,
    link: Link,
    seats: Vec<Seat>,
    restored: Option<StoredManifest>,
    budget: MemoryBudget,
}

impl Job {
    /// Returns the attempt that this is.
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// Returns how keys map to groups.
    #[must_use]
    pub fn partitioner(&self) -> Partitioner {
        self.partitioner
    }

    /// Returns the job's number of key groups.
    #[must_use]
    pub fn max_parallelism(&self) -> u16 {
        self.max_parallelism
    }

    /// Returns the checkpoint that this attempt goes on from.
    #[must_use]
    pub fn restored(&self) -> Option<&StoredManifest> {
        self.restored.as_ref()
    }

    /// Returns the job's store, with its counts of requests.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the memory that state and waiting uploads are charged to.
    #[must_use]
    pub fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    /// Hands out the seats, one per subtask, by operator and index. The second call returns none.
    pub fn take_seats(&mut self) -> Vec<Seat> {
        std::mem::take(&mut self.seats)
    }

    /// Returns whether the interval has passed and a checkpoint should be triggered.
    #[must_use]
    pub fn is_due(&self) -> bool {
        let now = self.store.runtime().now();
        match &self.link.shared.adaptive {
            Some(adaptive) => adaptive.is_due(now),
            None => self.link.shared.coordinator().is_due(now),
        }
    }

    /// Tells the controller of an adaptive interval what only the engine sees: above all the load, best once a second, and that
    /// the job is about to end on purpose ([`Observation::Ending`]): one that does not tell has failed, when it is opened again.
    /// What tasks and checkpoints show it is told by the job itself. Does nothing if the interval is fixed.
    pub fn observe(&self, observation: Observation) {
        self.link.shared.observe(self.store.runtime().now(), observation);
    }

    /// Returns the interval that holds and why, if it is adaptive.
    #[must_use]
    pub fn decision(&self) -> Option<Decision> {
        self.link.shared.adaptive.as_ref().map(Adaptive::decision)
    }

    /// Changes the goals of an adaptive interval.
    ///
    /// # Errors
    /// `Config` if a goal is out of range or they contradict each other, and then the old ones stay; `Usage` if the interval
    /// is fixed.
    pub fn set_goals(&self, goals: Goals) -> Result<()> {
        let now = self.store.runtime().now();
        match &self.link.shared.adaptive {
            Some(adaptive) => adaptive.set_goals(now, goals),
            None => Err(Error::usage("the job's interval is fixed")),
        }
    }

    /// Begins to end an epoch: the engine sends a barrier with it to every task. `None` while too many are in flight.
    ///
    /// # Errors
    /// What the job failed with, if it has.
    pub fn trigger(&self) -> Result<Option<Epoch>> {
        self.link.shared.check()?;
        let now = self.store.runtime().now();
        let timeouts = self.link.shared.adaptive.as_ref().map_or(1, Adaptive::timeout_factor);
        let mut coordinator = self.link.shared.coordinator();
        let Some(epoch) = coordinator.trigger_with_patience(now, timeouts) else { return Ok(None) };
        // Under the lock, so that the background hears of epochs in order.
        self.link.trigger(epoch)?;
        self.link.shared.observe(now, Observation::Triggered);
        Ok(Some(epoch))
    }

    /// Returns a watch on how far the job has come.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.link.shared.progress.subscribe()
    }

    /// Returns how far the job has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.link.shared.progress.borrow().clone()
    }

    /// As [`Job::trigger`], waiting until an epoch may start.
    ///
    /// # Errors
    /// What the job failed with.
    pub async fn trigger_when_possible(&self) -> Result<Epoch> {
        let mut watch = self.watch();
        loop {
            watch.mark_unchanged();
            if let Some(epoch) = self.trigger()? {
                return Ok(epoch);
            }
            if watch.changed().await.is_err() {
                return Err(stopped());
            }
        }
    }

    /// Refuses to go on if a newer attempt owns the job. To be asked before an effect that no checkpoint guards.
    ///
    /// # Errors
    /// `Fenced`; `Unavailable` if the store does not answer.
    pub async fn check_owner(&self) -> Result<()> {
        claim::check_owner(&self.store, self.attempt).await
    }

    /// Returns the index of the subtask, of `parallelism`, that owns the group of `key`.
    #[must_use]
    pub fn subtask_of(&self, key: &[u8], parallelism: u32) -> usize {
        let group = self.partitioner.locate(key, 0, self.max_parallelism).group;
        owner(self.max_parallelism, parallelism, group) as usize
    }

    /// Waits until `epoch` has ended and returns the checkpoint that covers it, or `None` if it was given up.
    ///
    /// # Errors
    /// What the job failed with.
    pub async fn wait(&self, epoch: Epoch) -> Result<Option<ManifestId>> {
        let mut watch = self.link.shared.progress.subscribe();
        loop {
            let progress = watch.borrow_and_update().clone();
            match progress.committed {
                Some((committed, id)) if committed >= epoch => return Ok(Some(id)),
                _ => self.link.shared.check()?,
            }
            if progress.last_aborted.is_some_and(|aborted| aborted >= epoch) {
                return Ok(None);
            }
            if watch.changed().await.is_err() {
                return Err(stopped());
            }
        }
    }
}
