//! How RocksDB itself merges and drops rows, while it compacts or reads.

use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};
use rocksdb::{CompactionDecision, MergeOperands};

use super::cell::{Cell, joined, put_all};
use super::db::Meaning;
use crate::backend::place::read_place;
use crate::error::Result;
use crate::row::{Below, OwnedPiece, Rules, TableRules};

/// Returns the cell that `older` and operands make; what the table's operator cannot merge stays side by side.
///
/// RocksDB drops a database to read-only if a merge fails: so none does, unless a cell is damaged.
pub(super) fn merge(
    meaning: &Meaning,
    place: &[u8],
    older: Option<&[u8]>,
    newer: &MergeOperands,
    below: Below,
) -> Option<Vec<u8>> {
    let cells = joined(older.into_iter().chain(newer)).ok()?;
    let rules = meaning.at_horizon();
    // An operator of the user's that panics must not unwind into RocksDB.
    let merged = catch_unwind(AssertUnwindSafe(|| combined(&rules, place, &cells, below)));
    Some(merged.ok().and_then(Result::ok).flatten().unwrap_or(cells))
}

/// Returns the rules of the group of `place`, and of its table.
fn rules_of<'a>(rules: &'a Rules, place: &[u8]) -> Option<(&'a Rules, &'a TableRules)> {
    // What has no place means nothing; reading it reports the damage.
    let (group, row) = read_place(place).ok()?;
    let rules = rules.of(group);
    Some((rules, rules.table(row.table)?))
}

/// Returns the cell with what is left of its pieces, `None` if that is all of them.
fn combined(rules: &Rules, place: &[u8], cell: &[u8], below: Below) -> Result<Option<Vec<u8>>> {
    let Some((rules, table)) = rules_of(rules, place) else { return Ok(None) };
    let read = Cell::read(cell)?;
    let mut pieces: Vec<OwnedPiece> = Vec::new();
    read.push_to(&mut pieces)?;
    let before = pieces.len();
    let pieces = table.combine(pieces, below, rules.now(table), false)?;
    // Expired operands say of what lies below that it has expired too: without them it would be seen again.
    let speak_for_below = pieces.is_empty() && below == Below::Unknown && table.renews_whole();
    if pieces.len() == before || speak_for_below {
        return Ok(None);
    }
    let mut out = Vec::new();
    put_all(&mut out, read.routing, &pieces)?;
    Ok(Some(out))
}

/// Makes filters that drop what has expired.
pub(super) struct Expiry(pub(super) Arc<Meaning>);

impl CompactionFilterFactory for Expiry {
    type Filter = Expired;

    fn create(&mut self, _context: CompactionFilterContext) -> Expired {
        Expired(self.0.at_horizon())
    }

    fn name(&self) -> &CStr {
        c"alluvium.expiry"
    }
}

/// Drops what has expired, as of the start of a compaction.
pub(super) struct Expired(Rules);

impl CompactionFilter for Expired {
    fn filter(&mut self, _level: u32, place: &[u8], cell: &[u8]) -> CompactionDecision {
        let Some((rules, table)) = rules_of(&self.0, place).filter(|(_, table)| table.ttl.is_some()) else {
            return CompactionDecision::Keep;
        };
        // An operand that is not part of this compaction may have renewed the value in time.
        if table.renews_whole() {
            return CompactionDecision::Keep;
        }
        let now = rules.now(table);
        let (mut living, mut dead) = (0usize, 0usize);
        let read = Cell::read(cell).and_then(|cell| {
            cell.pieces(|piece| {
                if table.expired(piece.stamp, now) {
                    dead += 1
                } else {
                    living += 1
                }
                Ok(())
            })
        });
        match (read, living, dead) {
            (Ok(()), 0, 1..) => CompactionDecision::Remove,
            _ => CompactionDecision::Keep,
        }
    }

    fn name(&self) -> &CStr {
        c"alluvium.expired"
    }
}
