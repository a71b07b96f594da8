//! The flags that choose a state backend and a snapshot strategy.

#[cfg(feature = "rocksdb")]
mod rocksdb;

use clap::ValueEnum;

#[cfg(feature = "rocksdb")]
pub use rocksdb::{Databases, RocksDbArgs};

/// State backends compiled in.
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

/// Snapshot strategies compiled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Strategy {
    /// All state in each checkpoint
    Full,
    /// Changes since the previous checkpoint
    Incremental,
}
