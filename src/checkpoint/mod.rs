//! Drivers: they join decisions to I/O.

pub mod chain;
pub mod claim;
pub mod commit;
pub mod links;
pub mod pipeline;
pub mod restore;
pub mod sweep;
