//! Placement of a job's bytes. Every data object is put and read through [`DataObjects`], which hides where, and in how
//! many pieces, its bytes lie.

mod objects;
pub mod pack;
mod store;

pub use objects::DataObjects;
pub(crate) use objects::check_layout;
pub use store::Store;
