//! A subtask's arrival at a barrier, and its acknowledgement once its state is placed.

use std::sync::Arc;

use crate::backend::TableEntry;
use crate::control::coordinator::Participant;
use crate::key_group::KeyGroupSet;
use crate::manifest::{ObjectRef, ObjectSlice, Opaque, SubtaskManifest};
use crate::row::{GroupHeat, GroupTimes, Statistic};
use crate::time::Timestamp;

/// A subtask's report on its state, for its operator's entry in the manifest.
#[derive(Debug, Clone)]
pub(crate) struct StateSummary {
    pub(crate) tables: Arc<[TableEntry]>,
    pub(crate) heat: Vec<GroupHeat>,
    pub(crate) statistics: Arc<[Statistic]>,
}

/// A subtask has sealed its state for a barrier. The sealed rows are in its chain.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) owned: KeyGroupSet,
    pub(crate) watermark: Timestamp,
    pub(crate) times: Vec<GroupTimes>,
    pub(crate) opaques: Vec<Opaque>,
    pub(crate) summary: StateSummary,
}

/// A subtask's acknowledgement of a barrier: its state is placed.
#[derive(Debug)]
pub(crate) struct Acknowledgement {
    pub(crate) participant: Participant,
    pub(crate) manifest: SubtaskManifest,
    /// The slice with the encoded manifest, unless that is inline in the job's manifest.
    pub(crate) slice: Option<ObjectSlice>,
    pub(crate) summary: StateSummary,
}

/// The acknowledgements of all subtasks of this process, with the objects that they refer to.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) acknowledgements: Vec<Acknowledgement>,
    pub(crate) objects: Vec<ObjectRef>,
}
