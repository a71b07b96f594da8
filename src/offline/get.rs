//! Looking one key up in a checkpoint: a few blocks are read, however large the state.

use super::fold::{Folding, narrowed};
use super::table::{RowTypes, TableRow, find_table};
use crate::checkpoint::point::KeyReader;
use crate::checkpoint::reading::under;
use crate::checkpoint::restore::{check_listed, read_subtasks};
use crate::error::Result;
use crate::key_group::{KeyGroupSet, Partitioner};
use crate::manifest::{Manifest, OperatorManifest, SubtaskManifest, TableSchema};
use crate::place::Store;
use crate::row::RowBatch;

/// Calls `each` with every live row of `key` in `table`: its namespaces and sub-keys, in their order. Returns the number of
/// rows.
///
/// * `manifest`: a checkpoint as it is stored, as [`find`](super::find) returns it, or resolved.
/// * `key`: the encoded key.
///
/// # Errors
/// As [`find_table`]; `NotFound` if the checkpoint was dropped meanwhile; `Corrupt`, `Version` or `Unavailable` from
/// the store; any error of `each`.
///
/// # Cost
/// Of each segment of the key's group: its index, and the block or two that may have the key; all blocks of the group if the
/// segment has no first places. Only [`Partitioner::Range`] tells the key's group from the key; under another partitioner all
/// groups are searched.
pub async fn get(
    store: &Store,
    manifest: &Manifest,
    table: &str,
    key: &[u8],
    mut each: impl FnMut(TableRow<'_>) -> Result<()>,
) -> Result<u64> {
    let (operator, table) = find_table(manifest, table)?;
    let groups = groups_of(manifest, key);
    let read = async {
        let owners = operator.subtasks.iter().filter(|entry| !entry.groups().intersection(&groups).is_empty());
        let subtasks = read_subtasks(store, owners.cloned().collect(), manifest.max_parallelism).await?;
        check_listed(&manifest.objects, &subtasks)?;
        let mut rows = 0u64;
        for subtask in &subtasks {
            rows += get_of(store, (operator, subtask), (table, key), &groups, &mut each).await?;
        }
        Ok(rows)
    };
    under(store, manifest.seq, read).await
}

/// Returns the groups that may have rows of `key`.
fn groups_of(manifest: &Manifest, key: &[u8]) -> KeyGroupSet {
    match manifest.partitioner {
        partitioner @ Partitioner::Range { .. } => {
            std::iter::once(partitioner.locate(key, 0, manifest.max_parallelism).group).collect()
        }
        _ => KeyGroupSet::all(manifest.max_parallelism),
    }
}

async fn get_of(
    store: &Store,
    (operator, subtask): (&OperatorManifest, &SubtaskManifest),
    (table, key): (&TableSchema, &[u8]),
    groups: &KeyGroupSet,
    each: &mut impl FnMut(TableRow<'_>) -> Result<()>,
) -> Result<u64> {
    let groups = subtask.groups.intersection(groups);
    let types = RowTypes::of(table);
    let folding = Folding::new(operator, Some(&subtask.group_times()));
    let reader = KeyReader::open(store, &narrowed(&subtask.segments, &groups)).await?;
    let (mut batch, mut found) = (RowBatch::new(), 0u64);
    for group in groups.iter() {
        let rows = reader.fetch(group, table.id, key).await?;
        let mut live = folding.rows(&*rows, group);
        while live.next_batch(&mut batch)? {
            for row in batch.iter().filter(|row| row.key.table == table.id && row.key.key == Some(key)) {
                each(types.entry(group, &row).map_err(|error| error.with("table", &table.name))?)?;
                found += 1;
            }
        }
    }
    Ok(found)
}
