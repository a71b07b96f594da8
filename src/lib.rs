//! Keyed state and checkpoints for stream processors.
//!
//! Two nouns and one arrow: a *segment* is an immutable run of state, a *manifest* is an immutable list of
//! segments (it *is* a checkpoint), and everything else is a function between the two.

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
/// The RocksDB that this build has, for [`backend::RocksDb::tuned`].
#[cfg(feature = "rocksdb")]
pub use rocksdb;

/// Keeps the README's example compiling and running.
#[cfg(all(doctest, feature = "tokio-runtime"))]
#[doc = include_str!("../README.md")]
pub struct Readme;

/// Keeps the guide's code compiling and running.
#[cfg(all(doctest, feature = "tokio-runtime"))]
#[doc = include_str!("../docs/embedding.md")]
pub struct Embedding;

/// Keeps the code of the security notes compiling and running.
#[cfg(all(doctest, feature = "tokio-runtime"))]
#[doc = include_str!("../docs/security.md")]
pub struct Security;

/// Keeps the code of the notes on the adaptive interval compiling and running.
#[cfg(all(doctest, feature = "tokio-runtime"))]
#[doc = include_str!("../docs/adaptive.md")]
pub struct AdaptiveInterval;
