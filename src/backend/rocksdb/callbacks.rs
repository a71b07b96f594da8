//! RocksDB's callbacks: the merge operator and the compaction filter.

use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};
use rocksdb::{CompactionDecision, MergeOperands};

use super::cell::{Cell, concat_cells, put_all};
use super::db::SharedRules;
use crate::backend::row_key::decode_row_key;
use crate::error::Result;
use crate::row::{Below, OwnedPiece, Rules, TableRules};

/// Returns `older` and its operands as one cell. Pieces that the table's operator cannot merge stay side by side.
///
/// A failed merge makes RocksDB read-only: return `None` only for a damaged cell.
pub(super) fn merge(
    shared_rules: &SharedRules,
    row_key: &[u8],
    older: Option<&[u8]>,
    newer: &MergeOperands,
    below: Below,
) -> Option<Vec<u8>> {
    let cells = concat_cells(older.into_iter().chain(newer)).ok()?;
    let rules = shared_rules.at_horizon();
    // A panic in the user's operator must not unwind into C++.
    let merged = catch_unwind(AssertUnwindSafe(|| combine(&rules, row_key, &cells, below)));
    Some(merged.ok().and_then(Result::ok).flatten().unwrap_or(cells))
}

/// Returns the rules of the row's group and table.
fn rules_of<'a>(rules: &'a Rules, row_key: &[u8]) -> Option<(&'a Rules, &'a TableRules)> {
    // A damaged row key has no rules; reading the row reports the damage.
    let (group, row) = decode_row_key(row_key).ok()?;
    let rules = rules.of(group);
    Some((rules, rules.table(row.table)?))
}

/// Returns the cell with its pieces merged and expired pieces dropped; `None` to keep the cell.
fn combine(rules: &Rules, row_key: &[u8], cell: &[u8], below: Below) -> Result<Option<Vec<u8>>> {
    let Some((rules, table)) = rules_of(rules, row_key) else { return Ok(None) };
    let read = Cell::read(cell)?;
    let mut pieces: Vec<OwnedPiece> = Vec::new();
    read.push_to(&mut pieces)?;
    let before = pieces.len();
    let pieces = table.combine(pieces, below, rules.now(table), false)?;
    // Expired operands prove that the value below has expired too: dropping them would revive that value.
    let hides_below = pieces.is_empty() && below == Below::Unknown && table.renews_whole();
    if pieces.len() == before || hides_below {
        return Ok(None);
    }
    let mut out = Vec::new();
    put_all(&mut out, read.routing, &pieces)?;
    Ok(Some(out))
}

/// Creates a filter of expired rows for each compaction.
pub(super) struct ExpiryFilterFactory(pub(super) Arc<SharedRules>);

impl CompactionFilterFactory for ExpiryFilterFactory {
    type Filter = ExpiryFilter;

    fn create(&mut self, _context: CompactionFilterContext) -> ExpiryFilter {
        ExpiryFilter(self.0.at_horizon())
    }

    fn name(&self) -> &CStr {
        c"alluvium.expiry"
    }
}

/// Drops rows that had expired at the start of the compaction.
pub(super) struct ExpiryFilter(Rules);

impl CompactionFilter for ExpiryFilter {
    fn filter(&mut self, _level: u32, row_key: &[u8], cell: &[u8]) -> CompactionDecision {
        let Some((rules, table)) = rules_of(&self.0, row_key).filter(|(_, table)| table.ttl.is_some()) else {
            return CompactionDecision::Keep;
        };
        // An operand outside this compaction may have renewed the value in time.
        if table.renews_whole() {
            return CompactionDecision::Keep;
        }
        let now = rules.now(table);
        let (mut live, mut expired) = (0usize, 0usize);
        let read = Cell::read(cell).and_then(|cell| {
            cell.visit_pieces(|piece| {
                if table.expired(piece.stamp, now) {
                    expired += 1
                } else {
                    live += 1
                }
                Ok(())
            })
        });
        match (read, live, expired) {
            (Ok(()), 0, 1..) => CompactionDecision::Remove,
            _ => CompactionDecision::Keep,
        }
    }

    fn name(&self) -> &CStr {
        c"alluvium.expired"
    }
}
