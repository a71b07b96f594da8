//! The flags that choose a state backend and a snapshot strategy.

#[cfg(feature = "rocksdb")]
mod rocksdb;

use clap::ValueEnum;

#[cfg(feature = "rocksdb")]
pub use rocksdb::{Databases, RocksDbArgs};

/// The state backends of this build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BackendKind {
    /// A log per key group, in memory
    Log,
    /// Ordered maps in memory: small and slow, for comparison
    Overlay,
    /// RocksDB: state far larger than memory
    #[cfg(feature = "rocksdb")]
    #[value(name = "rocksdb")]
    RocksDb,
}

/// The snapshot strategies of this build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Strategy {
    /// All state each time
    Full,
    /// What changed since the checkpoint before
    Incremental,
}
