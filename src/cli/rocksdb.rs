//! RocksDB as `run` and `bench` use it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use alluvium::backend::{RocksDb, RocksDbBackend, RocksDbSettings};
use alluvium::key_group::KeyGroupSet;
use alluvium::memory::MemoryBudget;
use alluvium::{Error, Result};
use bytesize::ByteSize;
use clap::Args;
use tempfile::TempDir;

/// Flags that only --backend rocksdb heeds.
#[derive(Debug, Clone, Args)]
pub(crate) struct RocksDbArgs {
    /// Folder for the state of --backend rocksdb, which is removed at the end: what lasts are checkpoints
    /// [default: a temporary folder]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Memory of all databases of --backend rocksdb together: blocks, indexes, filters and memtables
    #[arg(long, default_value = "512MiB", value_name = "BYTES")]
    rocksdb_memory: ByteSize,
    /// An option of RocksDB's by its own name, of those that it can change while it runs; may be repeated
    #[arg(long, value_parser = pair, value_name = "NAME=VALUE")]
    rocksdb_option: Vec<(String, String)>,
}

impl Default for RocksDbArgs {
    fn default() -> Self {
        Self { state_dir: None, rocksdb_memory: ByteSize::mib(512), rocksdb_option: Vec::new() }
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must be NAME=VALUE".to_owned()),
    }
}

/// The databases of this process.
#[derive(Debug)]
pub(crate) struct Databases {
    rocksdb: RocksDb,
    opened: AtomicU32,
    /// Removed after them.
    _temporary: Option<TempDir>,
}

impl Databases {
    /// # Errors
    /// `Config` if there is too little memory; `Unavailable` if there can be no temporary folder.
    pub(crate) fn open(args: &RocksDbArgs) -> Result<Self> {
        let temporary = match &args.state_dir {
            Some(_) => None,
            None => Some(TempDir::with_prefix("alluvium-state.").map_err(|source| {
                Error::unavailable("cannot make a temporary folder for state").with_source(source)
            })?),
        };
        let folder = args.state_dir.clone().or_else(|| temporary.as_ref().map(|folder| folder.path().to_owned()));
        let settings = RocksDbSettings {
            memory_bytes: usize::try_from(args.rocksdb_memory.as_u64()).unwrap_or(usize::MAX),
            options: args.rocksdb_option.clone(),
            ..RocksDbSettings::new(folder.unwrap_or_default())
        };
        Ok(Self { rocksdb: RocksDb::new(settings)?, opened: AtomicU32::new(0), _temporary: temporary })
    }

    /// Returns an empty backend.
    ///
    /// # Errors
    /// As [`RocksDb::backend`].
    pub(crate) fn backend(&self, budget: MemoryBudget) -> Result<RocksDbBackend> {
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        self.rocksdb.backend(&format!("subtask-{number}"), KeyGroupSet::empty(), budget)
    }
}
