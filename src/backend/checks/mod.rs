//! Argument checks of the in-crate backends, for implementers of [`StateBackend`](super::StateBackend).
//!
//! The suite `backend::conformance` expects the error kinds that these functions return. Each check comes before the
//! operation's first side effect.
//!
//! | method | checks |
//! |---|---|
//! | `read`, `update`, `write` | [`check_owned_group`], [`check_row`], [`check_value`] of each value and operand |
//! | `clear` | [`check_owned_group`], [`check_scope`] |
//! | `scan_key` | [`check_owned_group`], [`check_row`] with an empty sub-key |
//! | `scan`, `drop_groups` | [`check_owned`] |
//! | `seal` | [`CutOrder::check`], [`check_owned`] of the bases |
//! | `settle` | [`CutOrder::settle`] |
//! | `load` | [`check_unowned`], [`check_loadable`] of each row |
//! | `load_more` | [`check_owned`], [`check_loadable`] of each row |

mod cut_order;

use crate::error::{Error, Result};
use crate::id::TableId;
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::memory::MemoryBudget;
use crate::row::{Op, Piece, Row, RowKey, check_value_length};

use super::{RowRef, Scope};

pub use cut_order::CutOrder;

/// Refuses `groups` unless all are in `owned`.
///
/// # Errors
/// `Usage`, naming the groups that are not owned.
pub fn check_owned(owned: &KeyGroupSet, groups: &KeyGroupSet) -> Result<()> {
    let foreign = groups.difference(owned);
    if foreign.is_empty() {
        return Ok(());
    }
    Err(Error::usage("key groups are not owned").with("groups", foreign).with("owned", owned))
}

/// Refuses `group` unless it is in `owned`.
///
/// # Errors
/// `Usage`.
pub fn check_owned_group(owned: &KeyGroupSet, group: KeyGroup) -> Result<()> {
    if owned.contains(group) { Ok(()) } else { Err(not_owned(owned, group)) }
}

/// Returns the error of [`check_owned_group`], for a backend whose lookup already proves ownership.
#[cold]
#[must_use]
pub fn not_owned(owned: &KeyGroupSet, group: KeyGroup) -> Error {
    Error::usage("key group is not owned").with("group", group).with("owned", owned)
}

/// Refuses `groups` if any is in `owned`.
///
/// # Errors
/// `Usage`, naming the groups owned already.
pub fn check_unowned(owned: &KeyGroupSet, groups: &KeyGroupSet) -> Result<()> {
    let known = groups.intersection(owned);
    if known.is_empty() {
        return Ok(());
    }
    Err(Error::usage("key groups are owned already").with("groups", known))
}

/// Refuses a row whose key, namespace or sub-key is longer than 65,535 bytes.
///
/// # Errors
/// `Limit`.
pub fn check_row(row: &RowRef<'_>) -> Result<()> {
    check_parts(&[row.key.bytes, row.namespace, row.sub])
}

/// Refuses a scope whose key or namespace is longer than 65,535 bytes.
///
/// # Errors
/// `Limit`.
pub fn check_scope(scope: &Scope<'_>) -> Result<()> {
    let RowKey { key, namespace, .. } = scope.place(TableId(0));
    check_parts(&[key.unwrap_or_default(), namespace.unwrap_or_default()])
}

#[inline]
fn check_parts(parts: &[&[u8]]) -> Result<()> {
    match parts.iter().map(|part| part.len()).max() {
        Some(length) if length > usize::from(u16::MAX) => {
            Err(Error::limit("key, namespace or sub-key is longer than 65535 bytes").with("length", length))
        }
        _ => Ok(()),
    }
}

/// Refuses a value longer than [`MAX_VALUE_BYTES`](crate::row::MAX_VALUE_BYTES).
///
/// # Errors
/// `Limit`.
pub fn check_value(value: &[u8]) -> Result<()> {
    check_value_length(value.len())
}

/// Returns the piece of a restored row, and whether the piece is an operand.
///
/// * `row`: from a batch folded with [`Fold::Base`](crate::row::Fold::Base).
///
/// # Errors
/// `Corrupt` if a part of the row's key is longer than 65,535 bytes, or if the row is a delete or a clear.
#[inline]
pub fn check_loadable<'a>(row: &Row<'a>) -> Result<(Piece<'a>, bool)> {
    let parts = [row.key.key, row.key.namespace, row.key.sub];
    if parts.into_iter().flatten().any(|part| part.len() > usize::from(u16::MAX)) {
        return Err(Error::corrupt("key, namespace or sub-key is longer than 65535 bytes").with("table", row.key.table));
    }
    match row.op {
        Op::Put(_) => Ok((row.piece(), false)),
        Op::Merge(_) => Ok((row.piece(), true)),
        Op::Delete | Op::Clear => Err(Error::corrupt("rows of a base are not folded").with("table", row.key.table)),
    }
}

/// Returns the `Usage` error of an operand for a table without a merge operator.
#[must_use]
pub fn no_merge_operator(table: TableId) -> Error {
    Error::usage("table has no merge operator").with("table", table)
}

/// Returns the `Limit` error of a write that exceeds `budget`.
#[must_use]
pub fn budget_spent(budget: &MemoryBudget) -> Error {
    Error::limit("memory budget is spent")
        .with("held_bytes", budget.held_bytes())
        .with("limit_bytes", budget.limit_bytes())
}
