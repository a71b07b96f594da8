//! Drivers: they join decisions to I/O.
//!
//! Invariants: `commit` is the only creator of manifests; `sweep` is the only deleter; what the newest manifest
//! does not list is void, whatever a listing shows.

pub(crate) mod acknowledgement;
pub mod claim;
pub mod collect;
pub mod commit;
mod encoded_rows;
pub mod found;
pub mod load;
pub mod manifest_log;
pub mod operators;
pub mod pipeline;
pub(crate) mod prepared;
pub mod reading;
pub mod restore;
pub mod savepoints;
pub mod segment_chain;
pub mod sweep;
