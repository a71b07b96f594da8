//! A table's live rows, decoded, in a fixed order: key group, then place.

use super::fold;
use super::table::{Entry, RowTypes, find_table};
use crate::error::Result;
use crate::key_group::KeyGroupSet;
use crate::manifest::Manifest;
use crate::store::Store;

/// Calls `each` with every live row of `table` in `groups` and returns how many there were.
///
/// * `manifest`: a checkpoint, resolved (see [`restore::resolve`](crate::checkpoint::restore::resolve)).
///
/// # Errors
/// As [`find_table`]; `Corrupt`, `Version` or `Unavailable` from the store; what `each` returns.
///
/// # Cost
/// Reads the blocks of `groups`, of all tables of the operator; memory as in a restore of one subtask.
pub async fn export(
    store: &Store,
    manifest: &Manifest,
    table: &str,
    groups: &KeyGroupSet,
    mut each: impl FnMut(Entry<'_>) -> Result<()>,
) -> Result<u64> {
    let (operator, table) = find_table(manifest, table)?;
    let types = RowTypes::of(table);
    let mut rows = 0u64;
    fold::visit(store, operator, groups, |group, batch| {
        for row in batch.iter().filter(|row| row.key.table == table.id) {
            let entry = types.entry(group, &row).map_err(|error| error.with("table", &table.name))?;
            each(entry)?;
            rows = rows.saturating_add(1);
        }
        Ok(())
    })
    .await?;
    Ok(rows)
}
