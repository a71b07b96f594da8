//! A job's settings and operators: plain data.

use crate::checkpoint::pipeline::PipelineSettings;
use crate::codec::schema::Schema;
use crate::control::chain::ChainPolicy;
use crate::control::coordinator::CheckpointPolicy;
use crate::control::interval::{Goals, IntervalSettings};
use crate::control::retention::RetentionPolicy;
use crate::id::OperatorId;
use crate::key_group::{DEFAULT_MAX_PARALLELISM, Partitioner};
use crate::manifest::OperatorManifest;
use crate::memory::MemoryBudget;

/// What a checkpoint writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Strategy {
    /// All state, at each checkpoint.
    Full,
    /// The rows changed since the last checkpoint, plus all rows of a few key groups whose chains are getting long.
    #[default]
    Incremental,
}

/// When the rows of a checkpoint are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RestoreMode {
    /// [`Lazy`](Self::Lazy) where a task can wait for a key group on its thread, as on tokio's runtime of several threads,
    /// and where groups can be loaded off that thread, as in [`LogBackend`](crate::LogBackend) and in RocksDB. Otherwise
    /// [`Eager`](Self::Eager).
    #[default]
    Auto,
    /// A group's rows are loaded when they are needed, and in the background, the most used first. The task is there once
    /// the indexes of its segments are read.
    Lazy,
    /// All rows are loaded before the task is there. Tables that were declared with a TTL that changes how stored operands
    /// renew each other need this, and get it in any mode.
    Eager,
}

/// Settings of an interval that a controller chooses from goals.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct AdaptiveInterval {
    /// The goals.
    pub goals: Goals,
    /// Guard rails and initial assumptions. The job's own settings override `min_pause`, `timeout`, `chain` and
    /// `groups`.
    pub settings: IntervalSettings,
}

/// A job's settings.
///
/// The defaults suit a small job. A production job sets at least [`checkpoints`](Self::checkpoints) or
/// [`adaptive`](Self::adaptive), [`memory_bytes`](Self::memory_bytes) and
/// [`max_parallelism`](Self::max_parallelism).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct JobSettings {
    /// Whether checkpoints write all state or the changes. Default `Incremental`.
    pub strategy: Strategy,
    /// When checkpoints start, how long they may take and how many overlap. Default: every 10 s, timeout 10 min, 2 in
    /// flight.
    pub checkpoints: CheckpointPolicy,
    /// Goals from which a controller chooses the interval, in place of `checkpoints.interval`. Default `None`: the
    /// interval is fixed.
    pub adaptive: Option<AdaptiveInterval>,
    /// How many checkpoints to retain. Default: the 3 newest.
    pub retention: RetentionPolicy,
    /// Bounds on each key group's chain of segments. Longer chains make restores slower.
    pub chain: ChainPolicy,
    /// Bounds on the background's encoding and uploads.
    pub pipeline: PipelineSettings,
    /// Bytes of memory for state and pending uploads of all subtasks in this process. Beyond it, writes return `Limit`.
    /// Default `u64::MAX`: unlimited. Workers in other processes have their own
    /// ([`WorkerSettings`](crate::WorkerSettings)).
    pub memory_bytes: u64,
    /// A budget that jobs of one process share, in place of `memory_bytes`, and the [disk](MemoryBudget::with_disk) that cold
    /// state goes to. Default `None`: the job has `memory_bytes` of its own. Workers in other processes have their own.
    pub budget: Option<MemoryBudget>,
    /// Bytes of stored segments that each restoring subtask holds beside its state: half being loaded, half being read.
    /// A key group larger than half is merged as it is read. Default 32 MiB. Workers in other processes have their own.
    pub restore_bytes: u64,
    /// When the rows of the restored checkpoint are loaded. Default `Auto`. Workers in other processes have their own.
    pub restore: RestoreMode,
    /// Refuse a store whose checkpoints are lost with this machine ([`Store::lost_with`](crate::Store::lost_with)). Default: no; a job
    /// with a sink warns.
    pub durable_store: bool,
    /// Number of key groups, 1 to 32768; fixed for the job's life. No operator can have more subtasks. Default 128.
    pub max_parallelism: u16,
    /// How keys map to key groups; fixed for the job's life. Default `None`: `Range` with a random seed.
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
            budget: None,
            restore_bytes: 32 << 20,
            restore: RestoreMode::default(),
            durable_store: false,
            max_parallelism: DEFAULT_MAX_PARALLELISM,
            partitioner: None,
        }
    }
}

impl JobSettings {
    pub(super) fn restore_settings(&self) -> RestoreSettings {
        RestoreSettings { mode: self.restore, bytes: self.restore_bytes }
    }

    /// Returns the budget of this process's subtasks.
    pub(super) fn memory_budget(&self) -> MemoryBudget {
        self.budget.clone().unwrap_or_else(|| MemoryBudget::new(self.memory_bytes))
    }

    /// Returns when groups get new bases; `None` if each checkpoint writes all groups.
    pub(super) fn chain_policy(&self) -> Option<ChainPolicy> {
        (self.strategy == Strategy::Incremental).then_some(self.chain)
    }
}

/// How a worker restores its subtasks.
#[derive(Debug, Clone, Copy)]
pub(super) struct RestoreSettings {
    pub(super) mode: RestoreMode,
    /// See [`JobSettings::restore_bytes`].
    pub(super) bytes: u64,
}

/// An operator of a job: its identity, its parallelism and the type of its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorSpec {
    /// Its identity, by which a restart finds its state. Never reuse one for another operator.
    pub id: OperatorId,
    /// Its name. Must match the stored state's name, to catch a reused id.
    pub name: String,
    /// Its number of subtasks, 1 to [`JobSettings::max_parallelism`]. May change at a restart.
    pub parallelism: u32,
    /// The type of its keys.
    pub key: Schema,
    /// A former name that the stored state may have.
    pub renamed_from: Option<String>,
}

impl OperatorSpec {
    /// Returns an operator whose keys are plain bytes.
    #[must_use]
    pub fn new(id: OperatorId, name: impl Into<String>, parallelism: u32) -> Self {
        Self { id, name: name.into(), parallelism, key: Schema::new("bytes"), renamed_from: None }
    }

    /// Sets the type of the keys.
    #[must_use]
    pub fn keyed_by(mut self, key: Schema) -> Self {
        self.key = key;
        self
    }

    /// Accepts stored state with the same id and the name `old`. Without this call another name is refused, since the
    /// state may be another operator's.
    #[must_use]
    pub fn renamed_from(mut self, old: impl Into<String>) -> Self {
        self.renamed_from = Some(old.into());
        self
    }

    pub(super) fn manifest(&self) -> OperatorManifest {
        OperatorManifest {
            id: self.id,
            name: self.name.clone(),
            parallelism: self.parallelism,
            tables: Vec::new(),
            subtasks: Vec::new(),
        }
    }
}
