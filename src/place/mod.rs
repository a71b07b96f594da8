//! Where a job's bytes lie. Every data object is put and read through [`DataObjects`]; who refers to an object never
//! learns where, or in how many pieces, its bytes are.

mod objects;
pub mod pack;
mod store;

pub use objects::DataObjects;
pub(crate) use objects::check_layout;
pub use store::Store;
