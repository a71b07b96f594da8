//! Tools on what was written, with no job running and none of the embedder's code: pure data out.
//!
//! ```text
//! Chain --open--> checkpoint --+--> list, inspect, verify, diff, export, read_plan    what is there
//!                              +--> savepoint, restore                                a copy at another place
//! ```
//!
//! Invariants: nothing is written to the place that is read, but by [`sweep::sweep`], which claims the job first; a
//! copy is refused where anything stands; memory is that of a key group, or of a few packs.

mod copy;
mod diff;
mod export;
mod fold;
mod inspect;
mod list;
mod opaques;
mod rescale;
mod restore;
pub mod sweep;
mod table;
mod verify;

use crate::checkpoint::chain::{Chain, RestoreFrom, StoredManifest};
use crate::checkpoint::restore::resolve;
use crate::error::{Error, Result};
use crate::id::Seq;
use crate::store::Store;

pub use copy::savepoint;
pub use diff::{Change, ChangeKind, Diff, TableDiff, diff};
pub use export::export;
pub use inspect::{
    Depth, Extent, Inspection, ObjectInspection, OperatorInspection, RestoreCost, TableInspection, inspect,
};
pub use list::{Listed, Summary, list};
pub use rescale::{ReadPlan, SubtaskReads, read_plan};
pub use restore::{RestoreOptions, restore};
pub use table::{Entry, Place, RowTypes, find_table};
pub use verify::{Damage, DamageKind, Level, Report, verify};

/// Is told how many bytes are done, of how many.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// Reads a checkpoint with its subtask manifests and opaques inline: the one with this id or, without one, that from
/// which the job would go on.
///
/// # Errors
/// `NotFound` if it is not live; `Corrupt` if it, or without an id the newest manifest, is damaged. Both name those
/// that can be chosen instead.
pub async fn open(store: &Store, chain: &mut Chain, id: Option<Seq>) -> Result<StoredManifest> {
    let mut found = find(store, chain, id).await?;
    found.manifest = resolve(store, found.manifest).await?;
    Ok(found)
}

/// Reads a checkpoint's manifest as it is stored.
///
/// # Errors
/// As [`open`].
pub async fn find(store: &Store, chain: &mut Chain, id: Option<Seq>) -> Result<StoredManifest> {
    let from = id.map_or(RestoreFrom::Newest, RestoreFrom::Checkpoint);
    let found = chain.resolve(store, from).await?;
    found.ok_or_else(|| Error::not_found("the job has no checkpoint to go on from: choose one by its id"))
}
