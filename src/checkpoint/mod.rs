//! Drivers: they join decisions to I/O.
//!
//! Invariants: `commit` is the only creator of manifests; `sweep` is the only deleter; what the newest manifest
//! does not list is void, whatever a listing shows.

pub mod chain;
pub mod claim;
pub mod collect;
pub mod commit;
pub mod found;
pub mod links;
pub mod load;
pub mod operators;
pub mod pipeline;
pub(crate) mod prepared;
pub mod reading;
pub mod restore;
pub mod savepoints;
mod slices;
pub mod sweep;
mod waiting;
