//! Drafting the manifest of an epoch whose state is placed.

use std::collections::BTreeMap;

use super::Owner;
use crate::checkpoint::acknowledgement::{Acknowledgement, Placed, StateSummary};
use crate::checkpoint::commit::Draft;
use crate::control::coordinator::Participant;
use crate::control::interval::{CheckpointSample, Observation};
use crate::error::{Result, broken};
use crate::id::{Epoch, OperatorId};
use crate::job::interval::Adaptive;
use crate::job::{OperatorSpec, schemas};
use crate::manifest::{
    DurabilityLevel, Extension, ManifestKind, ObjectRef, ObjectSlice, OperatorManifest, SubtaskEntry, TableSchema,
};
use crate::metrics;
use crate::row::{GroupHeat, SegmentKind};
use crate::segment::{SegmentRef, sum};

/// The acknowledgements of a checkpoint, merged by operator.
#[derive(Default)]
struct Merged {
    heat: BTreeMap<OperatorId, Vec<GroupHeat>>,
    statistics: BTreeMap<OperatorId, BTreeMap<String, u64>>,
    dirty_rows: u64,
    slices: Vec<(Participant, ObjectSlice)>,
}

impl Owner {
    /// Returns the draft of the manifest of `epoch`.
    ///
    /// # Errors
    /// `Usage` if a key group has no owner, or two.
    pub(super) fn draft(&mut self, epoch: Epoch, placed: Placed) -> Result<Draft> {
        let Placed { acknowledgements, mut objects } = placed;
        let mut operators: Vec<_> = self.operators.iter().map(OperatorSpec::manifest).collect();
        let Ok(mut tables) = tables_of(&acknowledgements) else { broken("tables that had agreed differ") };
        for operator in &mut operators {
            operator.tables = tables.remove(&operator.id).unwrap_or_default();
        }
        let Merged { heat, statistics, dirty_rows, slices } = self.merge(&mut operators, acknowledgements);
        objects.extend(self.carried.iter().flat_map(|carried| carried.objects.iter().cloned()));
        objects.sort_unstable_by_key(|object| object.id);
        objects.dedup_by_key(|object| object.id);
        self.measure(&operators, &objects, dirty_rows);
        // Before subtask manifests become slices: the groups inside a slice cannot be checked.
        operators.iter().try_for_each(|operator| operator.check_owners(self.max_parallelism))?;
        for ((id, subtask), slice) in slices {
            let operator = operators.iter_mut().find(|operator| operator.id == id);
            match operator.and_then(|operator| operator.subtasks.get_mut(subtask.0 as usize)) {
                Some(entry) => *entry = SubtaskEntry::Slice(slice),
                None => broken("slice belongs to no subtask"),
            }
        }
        operators.extend(self.carried.iter().map(|carried| carried.manifest.clone()));
        let extensions = [Extension::heat(heat.into_iter().collect())].into_iter();
        let extensions = extensions.chain(Extension::statistics(statistics));
        let extensions = extensions.chain(self.shared.adaptive.as_ref().map(Adaptive::extension));
        Ok(Draft {
            kind: ManifestKind::Checkpoint,
            epoch,
            objects,
            level: DurabilityLevel::ObjectStore,
            operators,
            extensions: extensions.collect(),
        })
    }

    /// Adds the subtasks to their operators, and returns the rest of the acknowledgements.
    fn merge(&mut self, operators: &mut [OperatorManifest], acknowledgements: Vec<Acknowledgement>) -> Merged {
        let mut merged = Merged::default();
        for Acknowledgement { participant, manifest, slice, summary } in acknowledgements {
            let StateSummary { heat, statistics, .. } = summary;
            for group in &heat {
                metrics::group_heat(group.dirty_rows, group.reads, group.writes, group.live_bytes);
                merged.dirty_rows += group.dirty_rows;
                self.rows.insert((participant.0, group.group), group.rows);
            }
            merged.heat.entry(participant.0).or_default().extend(heat);
            for statistic in statistics.iter() {
                let sums = merged.statistics.entry(participant.0).or_default();
                let sum = sums.entry(statistic.name.clone()).or_default();
                *sum = sum.saturating_add(statistic.value);
            }
            let operator = operators.iter_mut().find(|operator| operator.id == participant.0);
            let operator = operator.unwrap_or_else(|| broken("a subtask belongs to no operator of the job"));
            merged.slices.extend(slice.map(|slice| (participant, slice)));
            operator.subtasks.push(SubtaskEntry::Inline(manifest));
        }
        merged
    }

    /// Records the bytes that this checkpoint adds to the store, and the bytes that it lists in total.
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 bytes and rows")]
    fn measure(&mut self, operators: &[OperatorManifest], objects: &[ObjectRef], dirty_rows: u64) {
        let listed = &self.listed;
        let new = sum(objects.iter().filter(|object| !listed.contains(&object.id)).map(|object| object.bytes));
        let subtasks = operators.iter().flat_map(|operator| operator.inline_subtasks().unwrap_or_default());
        let segments: Vec<_> = subtasks.flat_map(|subtask| &subtask.segments).collect();
        let is_new_base = |s: &&&SegmentRef| s.kind == SegmentKind::Base && !listed.contains(&s.object);
        let full = sum(segments.iter().map(|segment| segment.length));
        let bases = sum(segments.iter().filter(is_new_base).map(|segment| segment.length));
        metrics::checkpoint_sizes(new, full);
        self.sample = CheckpointSample {
            delta_bytes: new.saturating_sub(bases) as f64,
            base_bytes: bases as f64,
            rows: dirty_rows as f64,
            ..CheckpointSample::default()
        };
        let rows = self.rows.values().sum::<u64>() as f64;
        self.shared.observe(self.runtime.monotonic(), Observation::State { bytes: full as f64, rows });
        self.listed = objects.iter().map(|object| object.id).collect();
    }
}

/// Returns the tables of each operator.
fn tables_of(acknowledgements: &[Acknowledgement]) -> Result<BTreeMap<OperatorId, Vec<TableSchema>>> {
    schemas::merged(
        acknowledgements.iter().map(|acknowledgement| (acknowledgement.participant, &*acknowledgement.summary.tables)),
    )
}

/// Checks that all subtasks agree on their tables.
///
/// # Errors
/// `Config` if two subtasks declared a table differently.
pub(super) fn check_tables(acknowledgements: &[Acknowledgement]) -> Result<()> {
    tables_of(acknowledgements).map(drop)
}
