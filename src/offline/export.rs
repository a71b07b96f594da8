//! Exporting a table's live rows, decoded, ordered by key group and place.

use super::fold;
use super::table::{RowTypes, TableRow, find_table};
use crate::checkpoint::reading::under;
use crate::error::Result;
use crate::key_group::KeyGroupSet;
use crate::manifest::Manifest;
use crate::place::Store;

/// Calls `each` with every live row of `table` in `groups`. Returns the number of rows.
///
/// * `manifest`: a checkpoint, resolved, as [`open`](super::open) returns it.
///
/// # Errors
/// As [`find_table`]; `NotFound` if the checkpoint was dropped meanwhile; `Corrupt`, `Version` or `Unavailable` from
/// the store; any error of `each`.
///
/// # Cost
/// Reads the blocks of `groups`, of all tables of the operator. Memory for 64 MiB of stored blocks, or one group if
/// that is larger.
pub async fn export(
    store: &Store,
    manifest: &Manifest,
    table: &str,
    groups: &KeyGroupSet,
    mut each: impl FnMut(TableRow<'_>) -> Result<()>,
) -> Result<u64> {
    let (operator, table) = find_table(manifest, table)?;
    let types = RowTypes::of(table);
    let mut rows = 0u64;
    let visit = fold::visit(store, operator, groups, |group, batch| {
        for row in batch.iter().filter(|row| row.key.table == table.id) {
            let entry = types.entry(group, &row).map_err(|error| error.with("table", &table.name))?;
            each(entry)?;
            rows = rows.saturating_add(1);
        }
        Ok(())
    });
    under(store, manifest.seq, visit).await?;
    Ok(rows)
}
