//! Drivers: they join decisions to I/O.
//!
//! Invariants: `commit` is the only creator of manifests; `sweep` is the only deleter; what the newest manifest
//! does not list is void, whatever a listing shows.

pub mod chain;
pub mod claim;
pub mod commit;
pub mod found;
pub mod links;
pub mod load;
pub mod pipeline;
pub mod restore;
pub mod sweep;
mod waiting;
