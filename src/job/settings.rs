//! A job's settings and operators: plain data.

use super::AdaptiveInterval;
use crate::checkpoint::pipeline::PipelineSettings;
use crate::codec::schema::Schema;
use crate::control::chain::ChainPolicy;
use crate::control::coordinator::CheckpointPolicy;
use crate::control::retention::RetentionPolicy;
use crate::id::OperatorId;
use crate::key_group::{DEFAULT_MAX_PARALLELISM, Partitioner};
use crate::manifest::OperatorManifest;

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
#[non_exhaustive]
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
    /// Bytes of segments, as they are stored, that a subtask's restore holds at a time, beside the state: those being loaded
    /// and those being read. A key group that takes more than half is merged as it is read. Default 128 MiB.
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
    pub(super) fn chain_policy(&self) -> Option<ChainPolicy> {
        (self.strategy == Strategy::Incremental).then_some(self.chain)
    }
}

/// An operator of the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorSpec {
    /// Its identity: what its state is found by after a restart.
    pub id: OperatorId,
    /// Its name, for people; compared with that of the stored state.
    pub name: String,
    /// Its number of subtasks.
    pub parallelism: u32,
    /// Type of its keys.
    pub key: Schema,
    /// The name that its state was stored under, if it was another.
    pub renamed_from: Option<String>,
}

impl OperatorSpec {
    /// Returns an operator whose keys are plain bytes.
    #[must_use]
    pub fn new(id: OperatorId, name: impl Into<String>, parallelism: u32) -> Self {
        Self { id, name: name.into(), parallelism, key: Schema::new("bytes"), renamed_from: None }
    }

    /// Sets the type of its keys.
    #[must_use]
    pub fn keyed_by(mut self, key: Schema) -> Self {
        self.key = key;
        self
    }

    /// Takes over state that was stored under the same id and the name `old`. Without this, another name is refused: it may
    /// be another operator's state.
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
