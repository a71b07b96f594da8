//! A subtask's arrival at a barrier, and its acknowledgement once its state is placed.

use std::sync::Arc;

use crate::backend::TableEntry;
use crate::control::coordinator::Participant;
use crate::id::Epoch;
use crate::key_group::KeyGroupSet;
use crate::manifest::{ObjectId, ObjectRef, Opaque, SubtaskEntry};
use crate::memory::Charge;
use crate::row::{GroupHeat, GroupTimes, Statistic};
use crate::time::Timestamp;

use super::uses::GroupUses;

/// A subtask's report on its state, for its operator's entry in the manifest.
#[derive(Debug, Clone)]
pub struct StateSummary {
    /// Its tables.
    pub tables: Arc<[TableEntry]>,
    /// The load of the key groups that changed.
    pub heat: Vec<GroupHeat>,
    /// Numbers reported by an engine below the backend.
    pub statistics: Arc<[Statistic]>,
}

/// A subtask has sealed its state for a barrier. The sealed rows are in its chain.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) owned: KeyGroupSet,
    pub(crate) watermark: Timestamp,
    pub(crate) times: Vec<GroupTimes>,
    /// How much each owned group was used lately.
    pub(crate) uses: GroupUses,
    pub(crate) opaques: Vec<Opaque>,
    /// How many hand-ins it still waits for: in-flight data, staged output.
    pub(crate) awaits: usize,
    /// What the in-flight data that followed take of the memory budget.
    pub(crate) in_flight: Option<Charge>,
    /// The newest commit that the task knew before the barrier: output up to it is published.
    pub(crate) published: Option<Epoch>,
    pub(crate) summary: StateSummary,
}

/// A subtask's acknowledgement of a barrier: its state is placed.
#[derive(Debug, Clone)]
pub struct Acknowledgement {
    /// The subtask.
    pub participant: Participant,
    /// Its subtask manifest, or where that lies.
    pub entry: SubtaskEntry,
    /// For its operator's entry in the manifest.
    pub summary: StateSummary,
}

/// An object of an earlier checkpoint that this one refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// The object.
    pub id: ObjectId,
    /// Those of its bytes that this process needs. Estimated.
    pub live_bytes: u64,
}

/// The acknowledgements of all subtasks of this process, with the objects that they refer to.
#[derive(Debug, Clone, Default)]
pub struct Placed {
    /// One for each subtask of this process.
    pub acknowledgements: Vec<Acknowledgement>,
    /// Objects that this process uploaded and that no committed checkpoint is known to list.
    pub objects: Vec<ObjectRef>,
    /// The other objects referred to: those of the restored checkpoint and of committed ones.
    pub kept: Vec<Kept>,
    /// Length of all listed segments.
    pub bytes: u64,
    /// Length of base segments that lie in `objects`.
    pub new_base_bytes: u64,
    /// Packs uploaded for this epoch.
    pub uploads: u64,
}
