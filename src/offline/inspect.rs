//! Inspecting a checkpoint: tables, key groups, segments, objects, opaques, and the cost of a restore.

use std::collections::BTreeMap;
use std::ops::Range;

use super::fold;
use super::list::{Summary, slices};
use super::load_order::{LoadStep, load_order};
use super::table::table_name;
use crate::checkpoint::reading::under;
use crate::checkpoint::restore;
use crate::error::Result;
use crate::id::{ObjectId, OperatorId, Subtask, TableId};
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::manifest::{Manifest, Opaque, OperatorManifest, TableSchema};
use crate::place::Store;
use crate::row::{GroupHeat, Statistic};
use crate::segment::{SegmentRef, sum};

/// What to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The manifest alone: no rows and no indexes.
    Manifest,
    /// Every row.
    Rows,
}

/// The contents of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Its figures.
    pub summary: Summary,
    /// Its operators.
    pub operators: Vec<OperatorInspection>,
    /// Its data objects.
    pub objects: Vec<ObjectInspection>,
    /// Its opaques, inline.
    pub opaques: Vec<(OperatorId, Subtask, Opaque)>,
    /// What a restore at the stored parallelism reads.
    pub restore: RestoreCost,
}

/// An operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorInspection {
    /// Its identity.
    pub id: OperatorId,
    /// Its name.
    pub name: String,
    /// Its number of subtasks.
    pub parallelism: u32,
    /// Its tables, including undescribed ones that only its rows name.
    pub tables: Vec<TableInspection>,
    /// Its segments, by subtask, then oldest first.
    pub segments: Vec<SegmentRef>,
    /// Segments per key group: the number that a restore of the group folds.
    pub chains: Vec<usize>,
    /// The key groups in the order in which a lazy restore loads them; each subtask loads its own in this order. Empty at
    /// [`Depth::Manifest`].
    pub load_order: Vec<LoadStep>,
    /// Heat of the key groups that changed in this checkpoint's epoch, if the manifest has it.
    pub heat: Vec<GroupHeat>,
    /// Statistics of the backends' storage engine, summed over the subtasks; empty if there is none.
    pub statistics: Vec<Statistic>,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableInspection {
    /// Its id.
    pub id: TableId,
    /// Its name.
    pub name: String,
    /// Its types; `None` if the manifest does not describe it.
    pub schema: Option<TableSchema>,
    /// Live rows and their bytes, per key group; empty at [`Depth::Manifest`].
    pub groups: Vec<Extent>,
}

impl TableInspection {
    /// Returns the table's rows and bytes over all key groups.
    #[must_use]
    pub fn total(&self) -> Extent {
        Extent {
            records: sum(self.groups.iter().map(|extent| extent.records)),
            bytes: sum(self.groups.iter().map(|extent| extent.bytes)),
        }
    }
}

/// Rows, and bytes of their keys, namespaces, sub-keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extent {
    /// Rows.
    pub records: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A data object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectInspection {
    /// Its identity.
    pub id: ObjectId,
    /// Its length.
    pub bytes: u64,
    /// Bytes used by this checkpoint's segments and stored opaques.
    pub used_bytes: u64,
}

/// What a restore reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RestoreCost {
    /// Bytes, over all subtasks.
    pub bytes: u64,
    /// Ranged reads, over all subtasks.
    pub requests: u64,
    /// Whether the figures are exact. Otherwise they are bounds, computed from the manifest alone.
    pub exact: bool,
}

/// Inspects a checkpoint.
///
/// * `manifest`: the checkpoint, resolved.
/// * `parent`: its parent, if that can be read.
///
/// # Errors
/// `NotFound` if the checkpoint was dropped meanwhile; `Corrupt`, `Version` or `Unavailable` from the store.
///
/// # Cost
/// [`Depth::Rows`] reads all live segments, with memory for 64 MiB of stored blocks, or one group if that is larger.
pub async fn inspect(
    store: &Store,
    manifest: &Manifest,
    parent: Option<&Manifest>,
    depth: Depth,
) -> Result<Inspection> {
    under(store, manifest.seq, read(store, manifest, parent, depth)).await
}

async fn read(store: &Store, manifest: &Manifest, parent: Option<&Manifest>, depth: Depth) -> Result<Inspection> {
    let mut operators = Vec::new();
    for operator in &manifest.operators {
        operators.push(inspect_operator(store, manifest, operator, depth).await?);
    }
    let opaques = manifest.operators.iter().flat_map(|operator| {
        let subtasks = operator.subtasks.iter().filter_map(|entry| entry.inline());
        subtasks.flat_map(|s| s.opaques.iter().map(|opaque| (operator.id, s.subtask, opaque.clone())))
    });
    Ok(Inspection {
        summary: Summary::of(manifest, parent),
        opaques: opaques.collect(),
        objects: objects(manifest),
        restore: restore_cost(store, &operators, depth).await?,
        operators,
    })
}

async fn inspect_operator(
    store: &Store,
    manifest: &Manifest,
    operator: &OperatorManifest,
    depth: Depth,
) -> Result<OperatorInspection> {
    let groups = usize::from(manifest.max_parallelism);
    let blank = |id, extents| TableInspection {
        id,
        name: table_name(Some(operator), id),
        schema: operator.tables.iter().find(|table| table.id == id).cloned(),
        groups: extents,
    };
    let mut extents: BTreeMap<TableId, Vec<Extent>> = BTreeMap::new();
    extents.extend(operator.tables.iter().map(|table| (table.id, Vec::new())));
    if depth == Depth::Rows {
        extents.values_mut().for_each(|table| table.resize(groups, Extent::default()));
        fold::visit(store, operator, &KeyGroupSet::all(manifest.max_parallelism), |group, batch| {
            for row in batch.iter() {
                let table = extents.entry(row.key.table).or_insert_with(|| vec![Extent::default(); groups]);
                if let Some(extent) = table.get_mut(usize::from(group.0)) {
                    let parts = [row.key.key, row.key.namespace, row.key.sub, Some(row.op.payload())];
                    extent.records = extent.records.saturating_add(1);
                    extent.bytes = sum([extent.bytes, sum(parts.iter().flatten().map(|part| part.len() as u64))]);
                }
            }
            Ok(())
        })
        .await?;
    }
    let segments: Vec<_> = operator.inline_subtasks()?.iter().flat_map(|s| s.segments.iter().cloned()).collect();
    let chain = |group: KeyGroup| segments.iter().filter(|segment| segment.groups.contains(group)).count();
    Ok(OperatorInspection {
        id: operator.id,
        name: operator.name.clone(),
        parallelism: operator.parallelism,
        tables: extents.into_iter().map(|(id, extents)| blank(id, extents)).collect(),
        chains: KeyGroupSet::all(manifest.max_parallelism).iter().map(chain).collect(),
        load_order: if depth == Depth::Rows { load_order(store, operator).await? } else { Vec::new() },
        heat: manifest.heat(operator.id)?,
        statistics: manifest.statistics(operator.id)?,
        segments,
    })
}

fn objects(manifest: &Manifest) -> Vec<ObjectInspection> {
    let mut used: BTreeMap<ObjectId, u64> = BTreeMap::new();
    for slice in slices(manifest) {
        let bytes = used.entry(slice.object).or_default();
        *bytes = bytes.saturating_add(slice.length);
    }
    let object = |object: &crate::manifest::ObjectRef| ObjectInspection {
        id: object.id,
        bytes: object.bytes,
        used_bytes: used.get(&object.id).copied().unwrap_or(0),
    };
    manifest.objects.iter().map(object).collect()
}

async fn restore_cost(store: &Store, operators: &[OperatorInspection], depth: Depth) -> Result<RestoreCost> {
    let mut cost = RestoreCost { exact: depth == Depth::Rows, ..RestoreCost::default() };
    for segment in operators.iter().flat_map(|operator| &operator.segments) {
        let ranges = match depth {
            Depth::Rows => restore::ranges(store, segment).await?,
            // The index, and all blocks in one read.
            Depth::Manifest => vec![0..segment.index_offset, segment.index_offset..segment.length],
        };
        cost.requests = cost.requests.saturating_add(ranges.len() as u64);
        cost.bytes = sum(ranges.iter().map(length).chain([cost.bytes]));
    }
    Ok(cost)
}

pub(super) fn length(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}
