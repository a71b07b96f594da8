//! Tools for stored checkpoints, without a running job and without the embedder's code. They return plain data.
//!
//! ```text
//! ManifestLog --open--> checkpoint --+--> list, inspect, verify, diff, export, get, read_plan    what is there
//!                              +--> savepoint, restore                                a copy at another place
//! ```
//!
//! Invariants: only [`sweep::sweep`] and [`drop_savepoints`] write to the place that they read, and both claim the job
//! first; a copy's target must be empty; memory is bounded by a key group, or a few packs.
//!
//! Readers pin nothing: the owner of a running job may drop a checkpoint while it is read. A function that reads a
//! given checkpoint then fails with `NotFound`, naming the checkpoint and those to choose from; `Corrupt` means that an
//! object of a live checkpoint is lost. If the newest checkpoint was requested, a [`Reader`], [`savepoint_of`] and
//! [`restore_of`] move on to a newer one instead.

mod copy;
mod diff;
mod drop;
mod export;
mod fold;
mod foreign;
mod get;
mod inspect;
mod list;
mod load_order;
mod opaques;
mod rescale;
mod restore;
mod sums;
mod sweep;
mod table;
mod verify;

use crate::checkpoint::manifest_log::{ManifestLog, RestoreFrom, StoredManifest};
use crate::error::Result;
use crate::id::Seq;
use crate::place::Store;

pub use crate::checkpoint::reading::Reader;
pub use crate::checkpoint::sweep::{DroppedManifest, SweepPlan, Swept, Tally};
pub use crate::store::Key;
pub use copy::{savepoint, savepoint_of};
pub use diff::{ChangeKind, Diff, RowChange, TableDiff, diff};
pub use drop::{Dropped, drop_savepoints, preview_drop};
pub use export::export;
pub use foreign::{Foreign, foreign};
pub use get::get;
pub use inspect::{
    Depth, Extent, Inspection, ObjectInspection, OperatorInspection, RestoreCost, TableInspection, inspect,
};
pub use list::{Listed, Summary, list};
pub use load_order::LoadStep;
pub use rescale::{ReadPlan, SubtaskReads, read_plan};
pub use restore::{RestoreOptions, restore, restore_of};
pub use sums::{EndSums, SlotSum, SplitSum, end_sums};
pub use sweep::{policy, preview, sweep};
pub use table::{RowPlace, RowTypes, TableRow, find_table};
pub use verify::{Damage, DamageKind, Report, VerifyLevel, verify};

/// Callback with the bytes done and the total bytes.
pub type ReportProgress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// Reads a checkpoint with its subtask manifests and opaques inline.
///
/// * `id`: the checkpoint's id; `None` for the checkpoint that the job would restore.
///
/// # Errors
/// `NotFound` if the checkpoint is not live, or was dropped meanwhile; `Corrupt` if it is damaged or, without an id, if
/// the newest manifest is. Both name the checkpoints to choose from.
pub async fn open(store: &Store, chain: &mut ManifestLog, id: Option<Seq>) -> Result<StoredManifest> {
    reader(store, chain, id).resolved().await
}

/// Reads a checkpoint's manifest as stored.
///
/// # Errors
/// As [`open`].
pub async fn find(store: &Store, chain: &mut ManifestLog, id: Option<Seq>) -> Result<StoredManifest> {
    reader(store, chain, id).checkpoint().await
}

/// Returns a reader of the checkpoint `id`; `None` for the checkpoint that the job would restore.
pub fn reader<'a>(store: &'a Store, chain: &'a mut ManifestLog, id: Option<Seq>) -> Reader<'a> {
    Reader::new(store, chain, id.map_or(RestoreFrom::Newest, RestoreFrom::Checkpoint))
}
