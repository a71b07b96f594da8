//! Placement of a job's bytes. Every data object is put and read through [`DataObjects`], which hides the location and
//! layout of its bytes.

pub mod cache;
mod objects;
pub mod pack;
mod store;

pub use cache::{CacheCounts, LocalCache};
pub use objects::DataObjects;
pub(crate) use objects::{READ_BYTES_MAX, check_layout};
pub use store::Store;
