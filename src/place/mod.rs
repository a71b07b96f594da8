//! Placement of a job's bytes. Every data object is put and read through [`DataObjects`], which hides the location and
//! layout of its bytes.

mod objects;
pub mod pack;
mod store;

pub use objects::DataObjects;
pub(crate) use objects::check_layout;
pub use store::Store;
