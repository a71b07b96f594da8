//! Shared code of `alluvium`'s tests, simulation, fuzz targets and benches.
//!
//! Unit tests inside the library's `src/` cannot use this crate's trait implementations, which belong to another build
//! of the library.
#![expect(
    missing_docs,
    missing_debug_implementations,
    clippy::missing_panics_doc,
    clippy::missing_errors_doc,
    clippy::must_use_candidate,
    clippy::new_without_default,
    clippy::should_implement_trait,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests may panic as tests may, and have their readers beside them"
)]

pub mod bench;
mod cold;
pub mod contract;
pub mod copying;
mod counting;
mod errors;
mod fates;
pub mod forged;
pub mod fuzz;
mod gate;
#[cfg(feature = "kafka")]
pub mod kafka;
mod mean;
pub mod messages;
pub mod model;
pub mod oracle;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod pump;
pub mod sim;
pub mod sink;
pub mod source;
pub mod staged;
pub mod tool;

use std::path::{Path, PathBuf};

pub use cold::ColdFile;
pub use counting::{COUNT, Counting, read_counts, runtime, store, store_on};
pub use errors::{refused, says};
pub use fates::{Fate, Fates};
pub use gate::{Door, Gate};
pub use mean::Mean;

/// Returns the folder of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
