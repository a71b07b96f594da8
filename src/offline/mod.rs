//! Tools on what was written, with no job running and none of the embedder's code: pure data out.
//!
//! ```text
//! ManifestLog --open--> checkpoint --+--> list, inspect, verify, diff, export, read_plan    what is there
//!                              +--> savepoint, restore                                a copy at another place
//! ```
//!
//! Invariants: nothing is written to the place that is read, but by [`sweep::sweep`] and [`drop_savepoints`], which
//! claim the job first; a copy is refused where anything stands; memory is that of a key group, or of a few packs.
//!
//! Nothing is pinned either: the owner of a running job may drop a checkpoint while it is read. Each function that reads
//! under a certain checkpoint then fails with `NotFound`, which names it and those that can be chosen; only what is lost
//! although its checkpoint lives is `Corrupt`. A [`Reader`], [`savepoint_of`] and [`restore_of`] go on with a newer
//! checkpoint where the newest was asked for.

mod copy;
mod diff;
mod drop;
mod export;
mod fold;
mod foreign;
mod inspect;
mod list;
mod opaques;
mod rescale;
mod restore;
mod sweep;
mod table;
mod verify;

use crate::checkpoint::manifest_log::{ManifestLog, RestoreFrom, StoredManifest};
use crate::error::Result;
use crate::id::Seq;
use crate::place::Store;

pub use crate::checkpoint::reading::Reader;
pub use crate::checkpoint::sweep::{SweepPlan, Tally};
pub use copy::{savepoint, savepoint_of};
pub use diff::{Change, ChangeKind, Diff, TableDiff, diff};
pub use drop::{Dropped, drop_savepoints, preview_drop};
pub use export::export;
pub use foreign::{Foreign, foreign};
pub use inspect::{
    Depth, Extent, Inspection, ObjectInspection, OperatorInspection, RestoreCost, TableInspection, inspect,
};
pub use list::{Listed, Summary, list};
pub use rescale::{ReadPlan, SubtaskReads, read_plan};
pub use restore::{RestoreOptions, restore, restore_of};
pub use sweep::{policy, preview, sweep};
pub use table::{Entry, Place, RowTypes, find_table};
pub use verify::{Damage, DamageKind, Level, Report, verify};

/// Is told how many bytes are done, of how many.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// Reads a checkpoint with its subtask manifests and opaques inline: the one with this id or, without one, that from
/// which the job would go on.
///
/// # Errors
/// `NotFound` if it is not live, or dropped meanwhile; `Corrupt` if it, or without an id the newest manifest, is damaged.
/// Both name those that can be chosen instead.
pub async fn open(store: &Store, chain: &mut ManifestLog, id: Option<Seq>) -> Result<StoredManifest> {
    reader(store, chain, id).resolved().await
}

/// Reads a checkpoint's manifest as it is stored.
///
/// # Errors
/// As [`open`].
pub async fn find(store: &Store, chain: &mut ManifestLog, id: Option<Seq>) -> Result<StoredManifest> {
    reader(store, chain, id).checkpoint().await
}

/// Returns a reader of the checkpoint with this id or, without one, of that from which the job would go on.
pub fn reader<'a>(store: &'a Store, chain: &'a mut ManifestLog, id: Option<Seq>) -> Reader<'a> {
    Reader::new(store, chain, id.map_or(RestoreFrom::Newest, RestoreFrom::Checkpoint))
}
