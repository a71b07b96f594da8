//! Drafting the manifest of an epoch whose state is placed.

use std::collections::{BTreeMap, BTreeSet};

use super::OwnedAttempt;
use crate::checkpoint::acknowledgement::{Acknowledgement, StateSummary};
use crate::checkpoint::commit::Draft;
use crate::control::coordinator::Participant;
use crate::control::interval::{CheckpointSample, Observation};
use crate::control::rewrite::{ObjectUse, rewrites_due};
use crate::error::{Error, Result, broken};
use crate::id::{Epoch, ObjectId, OperatorId, SessionId};
use crate::job::interval::Adaptive;
use crate::job::wire::{Acknowledge, Kept};
use crate::job::{OperatorSpec, schemas};
use crate::manifest::{DurabilityLevel, Extension, ManifestKind, ObjectRef, SubtaskEntry, TableSchema};
use crate::metrics;
use crate::row::GroupHeat;
use crate::segment::sum;

/// The acknowledgements of a checkpoint, merged by operator.
#[derive(Default)]
struct Merged {
    entries: BTreeMap<Participant, SubtaskEntry>,
    heat: BTreeMap<OperatorId, Vec<GroupHeat>>,
    statistics: BTreeMap<OperatorId, BTreeMap<String, u64>>,
    objects: BTreeMap<ObjectId, ObjectRef>,
    /// Bytes that the workers need of objects of earlier checkpoints.
    live: BTreeMap<ObjectId, u64>,
    bytes: u64,
    new_base_bytes: u64,
    requests: u64,
}

impl OwnedAttempt {
    /// Returns the draft of the manifest of `epoch`.
    ///
    /// # Errors
    /// `Corrupt` if a key group has no owner, or two; or if an object is in no committed checkpoint.
    pub(super) fn draft(&mut self, epoch: Epoch, placed: BTreeMap<SessionId, Acknowledge>) -> Result<Draft> {
        let mut operators: Vec<_> = self.operators.iter().map(OperatorSpec::manifest).collect();
        let Ok(mut tables) = tables_of(&placed) else { broken("tables that had agreed differ") };
        let merged = self.merge(placed)?;
        let Merged { mut entries, heat, statistics, mut objects, live, bytes, new_base_bytes, requests } = merged;
        for operator in &mut operators {
            operator.tables = tables.remove(&operator.id).unwrap_or_default();
        }
        let carried = self.carried.iter().flat_map(|carried| &carried.objects);
        objects.extend(carried.map(|object| (object.id, object.clone())));
        self.rewrite = self.rewrites_due(&objects, &live);
        self.workers_requests = requests;
        self.measure(&heat, &objects, (bytes, new_base_bytes));
        for operator in &mut operators {
            let rest = entries.split_off(&(OperatorId(operator.id.0.saturating_add(1)), Default::default()));
            operator.subtasks = std::mem::replace(&mut entries, rest).into_values().collect();
            operator.check_owners(self.max_parallelism)?;
        }
        operators.extend(self.carried.iter().map(|carried| carried.manifest.clone()));
        let extensions = [Extension::heat(heat.into_iter().collect())].into_iter();
        let extensions = extensions.chain(Extension::statistics(statistics));
        let extensions = extensions.chain(self.shared.adaptive.as_ref().map(Adaptive::extension));
        Ok(Draft {
            kind: ManifestKind::Checkpoint,
            epoch,
            objects: objects.into_values().collect(),
            level: DurabilityLevel::ObjectStore,
            operators,
            extensions: extensions.collect(),
        })
    }

    /// Joins what the workers acknowledged.
    fn merge(&mut self, placed: BTreeMap<SessionId, Acknowledge>) -> Result<Merged> {
        let mut merged = Merged::default();
        for Acknowledge { placed, requests, .. } in placed.into_values() {
            merged.requests = merged.requests.saturating_add(requests);
            merged.bytes = merged.bytes.saturating_add(placed.bytes);
            merged.new_base_bytes = merged.new_base_bytes.saturating_add(placed.new_base_bytes);
            merged.objects.extend(placed.objects.into_iter().map(|object| (object.id, object)));
            for Kept { id, live_bytes } in placed.kept {
                let live = merged.live.entry(id).or_default();
                *live = live.saturating_add(live_bytes);
                let listed = self.intake.listed(id).cloned();
                let missing = || Error::corrupt("object is in no committed checkpoint").with("object", id);
                merged.objects.insert(id, listed.ok_or_else(missing)?);
            }
            placed.acknowledgements.into_iter().for_each(|acknowledgement| merged.add(acknowledgement));
        }
        Ok(merged)
    }

    /// Returns the objects to free. What is new, and what carried operators list, counts as live.
    fn rewrites_due(&self, objects: &BTreeMap<ObjectId, ObjectRef>, live: &BTreeMap<ObjectId, u64>) -> Vec<ObjectId> {
        let carried: BTreeSet<_> = self.carried.iter().flat_map(|it| &it.objects).map(|object| object.id).collect();
        let used = |object: &ObjectRef| {
            let live = live.get(&object.id).filter(|_| !carried.contains(&object.id)).copied();
            ObjectUse {
                id: object.id,
                bytes: object.bytes,
                live_bytes: live.map_or(object.bytes, |live| live.min(object.bytes)),
            }
        };
        rewrites_due(&objects.values().map(used).collect::<Vec<_>>())
    }

    /// Records the bytes that this checkpoint adds to the store, and the bytes that it lists in total.
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 bytes and rows")]
    fn measure(
        &mut self,
        heat: &BTreeMap<OperatorId, Vec<GroupHeat>>,
        objects: &BTreeMap<ObjectId, ObjectRef>,
        (full, bases): (u64, u64),
    ) {
        let mut dirty_rows = 0u64;
        for (operator, groups) in heat {
            for group in groups {
                if group.dirty_rows > 0 {
                    metrics::group_heat(group.dirty_rows, group.reads, group.writes, group.live_bytes);
                }
                dirty_rows = dirty_rows.saturating_add(group.dirty_rows);
                self.rows.insert((*operator, group.group), group.rows);
            }
        }
        let new = sum(objects.values().filter(|object| self.intake.listed(object.id).is_none()).map(|it| it.bytes));
        metrics::checkpoint_sizes(new, full);
        self.sample = CheckpointSample {
            delta_bytes: new.saturating_sub(bases) as f64,
            base_bytes: bases as f64,
            rows: dirty_rows as f64,
            ..CheckpointSample::default()
        };
        let rows = sum(self.rows.values().copied()) as f64;
        self.shared.observe(self.runtime.monotonic(), Observation::State { bytes: full as f64, rows });
    }
}

impl Merged {
    fn add(&mut self, Acknowledgement { participant, entry, summary }: Acknowledgement) {
        let StateSummary { heat, statistics, .. } = summary;
        self.heat.entry(participant.0).or_default().extend(heat);
        for statistic in statistics.iter() {
            let sum = self.statistics.entry(participant.0).or_default().entry(statistic.name.clone()).or_default();
            *sum = sum.saturating_add(statistic.value);
        }
        self.entries.insert(participant, entry);
    }
}

/// Returns the tables of each operator.
fn tables_of(placed: &BTreeMap<SessionId, Acknowledge>) -> Result<BTreeMap<OperatorId, Vec<TableSchema>>> {
    let acknowledgements = placed.values().flat_map(|acknowledge| &acknowledge.placed.acknowledgements);
    schemas::merged(acknowledgements.map(|it| (it.participant, &*it.summary.tables)))
}

/// Checks that all subtasks agree on their tables.
///
/// # Errors
/// `Config` if two subtasks declared a table differently.
pub(super) fn check_tables(placed: &BTreeMap<SessionId, Acknowledge>) -> Result<()> {
    tables_of(placed).map(drop)
}
