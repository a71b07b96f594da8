//! Handing out the seats of an attempt: what each worker restores, without reading the state.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::backend::CheckpointTimes;
use crate::checkpoint::manifest_log::StoredManifest;
use crate::control::coordinator::Participant;
use crate::error::Result;
use crate::id::{Epoch, Lineage, SessionId, Subtask};
use crate::job::wire::{Assign, AssignedOperator};
use crate::job::{JobSettings, OperatorSpec};
use crate::key_group::{Partitioner, check_parallelism};
use crate::manifest::rescale::Sources;
use crate::manifest::{INLINE_SUBTASKS_BYTES, OperatorManifest, SubtaskEntry, SubtaskSummary};

/// The part of an assignment that is the same for all workers.
pub(in crate::job) struct Plan<'a> {
    pub(in crate::job) settings: &'a JobSettings,
    pub(in crate::job) operators: &'a [OperatorSpec],
    pub(in crate::job) restored: Option<&'a StoredManifest>,
    pub(in crate::job) first_epoch: Epoch,
    pub(in crate::job) lineage: Lineage,
    pub(in crate::job) partitioner: Partitioner,
    pub(in crate::job) max_parallelism: u16,
    pub(in crate::job) payload: Bytes,
}

impl Plan<'_> {
    /// Returns each worker's assignment.
    ///
    /// # Errors
    /// `Config` if a parallelism is out of range; `Corrupt` if the restored checkpoint's lineage is malformed.
    pub(in crate::job) fn assignments(
        &self,
        seats: &BTreeMap<Participant, SessionId>,
    ) -> Result<BTreeMap<SessionId, Assign>> {
        let mut of_workers: BTreeMap<SessionId, Vec<AssignedOperator>> = BTreeMap::new();
        for operator in self.operators {
            check_parallelism(operator.parallelism, self.max_parallelism)?;
            let mut of_operator: BTreeMap<SessionId, Vec<Subtask>> = BTreeMap::new();
            let all = (operator.id, Subtask(0))..=(operator.id, Subtask(u32::MAX));
            for ((_, subtask), session) in seats.range(all) {
                of_operator.entry(*session).or_default().push(*subtask);
            }
            let stored = self.stored(operator);
            let entries = stored.map_or(&[][..], |stored| &stored.subtasks);
            let sources = Sources::new(entries, self.max_parallelism, operator.parallelism);
            let times = common_times(stored);
            for (session, seats) in of_operator {
                let sources = sources.of_seats(&seats);
                of_workers.entry(session).or_default().push(assigned(operator, stored, times, seats, &sources));
            }
        }
        let inline_bytes = (INLINE_SUBTASKS_BYTES / of_workers.len().max(1)) as u64;
        let restored_lineage = self.restored.map(|restored| restored.manifest.lineage()).transpose()?;
        let assign = |operators| Assign {
            first_epoch: self.first_epoch,
            restored: self.restored.map(|restored| restored.id),
            lineage: self.lineage,
            restored_lineage: restored_lineage.unwrap_or(self.lineage),
            partitioner: self.partitioner,
            max_parallelism: self.max_parallelism,
            strategy: self.settings.strategy,
            chain: self.settings.chain_policy(),
            pipeline: self.settings.pipeline,
            inline_bytes,
            operators,
            payload: self.payload.clone(),
        };
        Ok(of_workers.into_iter().map(|(session, operators)| (session, assign(operators))).collect())
    }

    fn stored(&self, operator: &OperatorSpec) -> Option<&OperatorManifest> {
        self.restored?.manifest.operators.iter().find(|stored| stored.id == operator.id)
    }
}

/// Returns a worker's seats of an operator, with the stored subtasks of these indices.
fn assigned(
    operator: &OperatorSpec,
    stored: Option<&OperatorManifest>,
    times: CheckpointTimes,
    seats: Vec<Subtask>,
    sources: &BTreeSet<usize>,
) -> AssignedOperator {
    let entries = stored.map_or(&[][..], |stored| &stored.subtasks);
    let source = |index: usize| Some((Subtask(u32::try_from(index).ok()?), entries.get(index)?.clone()));
    AssignedOperator {
        id: operator.id,
        key: operator.key.clone(),
        parallelism: operator.parallelism,
        seats,
        stored_parallelism: stored.map_or(0, |stored| stored.parallelism),
        tables: stored.map(|stored| stored.tables.clone()).unwrap_or_default(),
        times,
        sources: sources.iter().copied().filter_map(source).collect(),
    }
}

/// Returns the times that all stored groups of an operator agree on.
fn common_times(stored: Option<&OperatorManifest>) -> CheckpointTimes {
    let summaries: Vec<_> = stored.iter().flat_map(|stored| &stored.subtasks).map(SubtaskEntry::summary).collect();
    let (event_time, processing_time) = SubtaskSummary::common_times(summaries.iter());
    CheckpointTimes { event_time, processing_time }
}
