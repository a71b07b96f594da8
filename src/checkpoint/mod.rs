//! Checkpoints in the object store: claim, commit, restore, sweep. Decisions are made in `control`; the I/O is here.
//!
//! Invariants: only `commit` creates manifests; only `sweep` deletes; a manifest that the newest one does not list is
//! void, whatever a listing shows.

pub(crate) mod acknowledgement;
pub mod claim;
pub mod collect;
pub mod commit;
mod encoded_rows;
pub mod found;
pub mod lazy;
pub mod load;
pub(crate) mod load_order;
pub mod manifest_log;
pub mod operators;
pub mod pipeline;
pub(crate) mod point;
pub(crate) mod prepared_output;
pub mod reading;
pub mod restore;
pub mod restore_progress;
pub(crate) mod restore_tracker;
pub mod savepoints;
pub mod segment_chain;
mod slices;
pub mod sweep;
pub(crate) mod uses;
