//! Keyed state and checkpoints for stream processors.
//!
//! A *segment* is an immutable run of state. A *manifest* is an immutable list of segments: the checkpoint itself.
//! Everything else turns one into the other.
//!
//! Start with [`job::JobBuilder`], which opens a [`job::Job`]; the [`prelude`] has what most embedders import.

pub mod backend;
pub mod canary;
pub mod checkpoint;
pub mod codec;
pub mod control;
pub mod envelope;
pub mod error;
pub mod id;
pub mod job;
pub mod key_group;
pub mod manifest;
pub mod memory;
pub mod metrics;
pub mod offline;
pub mod place;
pub mod prelude;
pub mod row;
pub mod runtime;
pub mod segment;
pub mod store;
pub mod time;
#[cfg(feature = "tokio-runtime")]
pub mod tokio_runtime;

pub use error::{Applied, Error, ErrorKind, Result};
/// The RocksDB crate of this build, for [`backend::RocksDb::tuned`].
#[cfg(feature = "rocksdb")]
pub use rocksdb;

/// Compiles and runs the README's example.
#[cfg(all(doctest, feature = "tokio-runtime"))]
#[doc = include_str!("../README.md")]
pub struct Readme;

/// Compiles and runs the guide's code.
#[cfg(all(doctest, feature = "tokio-runtime"))]
#[doc = include_str!("../docs/embedding.md")]
pub struct Embedding;

/// Compiles and runs the code of the security notes.
#[cfg(all(doctest, feature = "tokio-runtime"))]
#[doc = include_str!("../docs/security.md")]
pub struct Security;

/// Compiles and runs the code of the notes on the adaptive interval.
#[cfg(all(doctest, feature = "tokio-runtime"))]
#[doc = include_str!("../docs/adaptive.md")]
pub struct AdaptiveInterval;
