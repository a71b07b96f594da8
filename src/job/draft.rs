//! What the job's background commits: the manifest of an epoch whose state is placed.

use std::collections::{BTreeMap, BTreeSet};

use super::driver::{Driver, Stage};
use super::interval::Adaptive;
use super::{OperatorSpec, schemas};
use crate::checkpoint::commit::Draft;
use crate::checkpoint::pipeline::{Acknowledgement, lock};
use crate::control::interval::{CheckpointSample, Observation};
use crate::error::{Result, broken};
use crate::id::{Epoch, ObjectId, OperatorId};
use crate::manifest::{
    DurabilityLevel, Extension, ManifestKind, ObjectRef, OperatorManifest, SubtaskEntry, SubtaskManifest, TableSchema,
};
use crate::metrics;
use crate::row::{GroupHeat, SegmentKind};
use crate::segment::{SegmentRef, sum};

impl Driver {
    /// Returns the manifest of `epoch`, to be committed.
    ///
    /// # Errors
    /// `Usage` if a key group has no owner, or two.
    pub(super) fn draft(&mut self, epoch: Epoch, acknowledgements: Vec<Acknowledgement>) -> Result<Draft> {
        let mut operators: Vec<_> = self.operators.iter().map(OperatorSpec::manifest).collect();
        let Ok(mut tables) = tables_of(&acknowledgements) else { broken("tables that had agreed differ") };
        for operator in &mut operators {
            operator.tables = tables.remove(&operator.id).unwrap_or_default();
        }
        let mut heat: BTreeMap<OperatorId, Vec<GroupHeat>> = BTreeMap::new();
        let mut sums: BTreeMap<OperatorId, BTreeMap<String, u64>> = BTreeMap::new();
        let (mut dirty, mut slices) = (0, Vec::new());
        for Acknowledgement { participant, manifest, slice, heat: groups, statistics, .. } in acknowledgements {
            for group in &groups {
                metrics::group_heat(group.dirty_rows, group.reads, group.writes, group.live_bytes);
                dirty += group.dirty_rows;
                self.state.rows.insert((participant.0, group.group), group.rows);
            }
            heat.entry(participant.0).or_default().extend(groups);
            for statistic in statistics.iter() {
                let sum = sums.entry(participant.0).or_default().entry(statistic.name.clone()).or_default();
                *sum = sum.saturating_add(statistic.value);
            }
            let operator = operators.iter_mut().find(|operator| operator.id == participant.0);
            let operator = operator.unwrap_or_else(|| broken("a subtask belongs to no operator of the job"));
            slices.extend(slice.map(|slice| (participant, slice)));
            operator.subtasks.push(SubtaskEntry::Inline(manifest));
        }
        let objects = self.referenced(&operators, slices.iter().map(|(_, slice)| slice.object));
        self.measure(&operators, &objects, dirty);
        // What is inside a slice cannot be checked with the manifest.
        operators.iter().try_for_each(|operator| operator.check_owners(self.pipeline.max_parallelism))?;
        for ((id, subtask), slice) in slices {
            let operator = operators.iter_mut().find(|operator| operator.id == id);
            match operator.and_then(|operator| operator.subtasks.get_mut(subtask.0 as usize)) {
                Some(entry) => *entry = SubtaskEntry::Slice(slice),
                None => broken("a slice is of no subtask"),
            }
        }
        operators.extend(self.carried.iter().map(|carried| carried.manifest.clone()));
        Ok(Draft {
            kind: ManifestKind::Checkpoint,
            epoch,
            objects,
            level: DurabilityLevel::ObjectStore,
            operators,
            extensions: [Extension::heat(heat.into_iter().collect())]
                .into_iter()
                .chain(Extension::statistics(sums))
                .chain(self.shared.adaptive.as_ref().map(Adaptive::extension))
                .collect(),
        })
    }

    /// Notes what this checkpoint added to the store, and what it lists in all.
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 bytes and rows")]
    fn measure(&mut self, operators: &[OperatorManifest], objects: &[ObjectRef], dirty_rows: u64) {
        let listed = &self.state.listed;
        let new = sum(objects.iter().filter(|object| !listed.contains(&object.id)).map(|object| object.bytes));
        let subtasks = operators.iter().flat_map(|operator| operator.inline_subtasks().unwrap_or_default());
        let segments: Vec<_> = subtasks.flat_map(|subtask| &subtask.segments).collect();
        let is_new_base = |s: &&&SegmentRef| s.kind == SegmentKind::Base && !listed.contains(&s.object);
        let full = sum(segments.iter().map(|segment| segment.length));
        let bases = sum(segments.iter().filter(is_new_base).map(|segment| segment.length));
        metrics::checkpoint_sizes(new, full);
        self.state.sample = CheckpointSample {
            delta_bytes: new.saturating_sub(bases) as f64,
            base_bytes: bases as f64,
            rows: dirty_rows as f64,
            ..CheckpointSample::default()
        };
        let rows = self.state.rows.values().sum::<u64>() as f64;
        self.shared.observe(self.runtime.monotonic(), Observation::State { bytes: full as f64, rows });
        self.state.listed = objects.iter().map(|object| object.id).collect();
    }

    fn referenced(&self, operators: &[OperatorManifest], slices: impl Iterator<Item = ObjectId>) -> Vec<ObjectRef> {
        let subtasks = operators.iter().flat_map(|operator| operator.inline_subtasks().unwrap_or_default());
        let carried = self.carried.iter().flat_map(|carried| carried.objects.iter().copied());
        let ids: BTreeSet<_> = subtasks.flat_map(SubtaskManifest::objects).chain(slices).chain(carried).collect();
        let catalog = self.pipeline.catalog();
        let object = |id| catalog.get(&id).unwrap_or_else(|| broken("a placed object is not in the catalog")).clone();
        ids.into_iter().map(object).collect()
    }

    /// Forgets objects in which no chain has a segment any more.
    pub(super) fn prune_catalog(&self) {
        let placed: Vec<_> = self.pipeline.chains.values().flat_map(|chain| lock(chain).objects()).collect();
        let acknowledged = self.state.flights.values().flat_map(|flight| match &flight.stage {
            Stage::Placed(acknowledgements) => acknowledgements.as_slice(),
            _ => &[],
        });
        let of_one = |ack: &Acknowledgement| {
            ack.manifest.objects().chain(ack.slice.map(|slice| slice.object)).collect::<Vec<_>>()
        };
        let waiting = acknowledged.flat_map(of_one);
        let carried = self.carried.iter().flat_map(|carried| carried.objects.iter().copied());
        let needed: BTreeSet<_> = placed.into_iter().chain(waiting).chain(carried).collect();
        self.pipeline.catalog().retain(|id, _| needed.contains(id));
    }
}

/// Returns the tables of each operator.
fn tables_of(acknowledgements: &[Acknowledgement]) -> Result<BTreeMap<OperatorId, Vec<TableSchema>>> {
    schemas::merged(
        acknowledgements.iter().map(|acknowledgement| (acknowledgement.participant, &*acknowledgement.tables)),
    )
}

/// Refuses acknowledgements of subtasks that differ about a table.
pub(super) fn agreed(acknowledgements: Vec<Acknowledgement>) -> Result<Vec<Acknowledgement>> {
    tables_of(&acknowledgements).map(|_| acknowledgements)
}
