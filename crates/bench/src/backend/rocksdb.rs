//! The RocksDB backend as `run` and `bench` configure it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use alluvium::{Error, KeyGroupSet, MemoryBudget, Result, RocksDb, RocksDbBackend, RocksDbSettings};
use bytesize::ByteSize;
use clap::Args;
use tempfile::TempDir;

/// Flags for --backend rocksdb.
#[derive(Debug, Clone, Args)]
pub struct RocksDbArgs {
    /// Working folder of --backend rocksdb, removed on exit: only checkpoints are durable [default: a temporary folder]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Memory shared by all databases of --backend rocksdb: blocks, indexes, filters and memtables
    #[arg(long, default_value = "512MiB", value_name = "BYTES")]
    rocksdb_memory: ByteSize,
    /// A RocksDB option that can change at run time, by its RocksDB name; may be repeated
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
pub struct Databases {
    rocksdb: RocksDb,
    opened: AtomicU32,
    /// Declared after `rocksdb`, so that the databases close before their folder is removed.
    _scratch: Option<Scratch>,
}

/// A temporary folder. After a kill, the next process to create one removes it.
#[derive(Debug)]
struct Scratch {
    folder: TempDir,
    /// Locked while the process lives.
    _lock: File,
}

/// Prefix of the folders' names.
const SCRATCH: &str = "alluvium-state.";
/// The lock file.
const LOCK: &str = "lock";

impl Databases {
    /// Opens the databases as the flags specify.
    ///
    /// # Errors
    /// `Config` if memory is too small; `Unavailable` if the temporary folder cannot be created.
    pub fn open(args: &RocksDbArgs) -> Result<Self> {
        let (folder, scratch) = match &args.state_dir {
            Some(folder) => (folder.clone(), None),
            None => {
                let scratch = Scratch::within(&std::env::temp_dir()).map_err(|source| {
                    Error::unavailable("cannot make a temporary folder for state").with_source(source)
                })?;
                (scratch.folder.path().to_owned(), Some(scratch))
            }
        };
        let settings = RocksDbSettings::new(folder).with(|it| {
            it.memory_bytes = usize::try_from(args.rocksdb_memory.as_u64()).unwrap_or(usize::MAX);
            it.options = args.rocksdb_option.clone();
        });
        Ok(Self { rocksdb: RocksDb::new(settings)?, opened: AtomicU32::new(0), _scratch: scratch })
    }

    /// Returns an empty backend.
    ///
    /// # Errors
    /// As [`RocksDb::backend`].
    pub fn backend(&self, budget: MemoryBudget) -> Result<RocksDbBackend> {
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        self.rocksdb.backend(&format!("subtask-{number}"), KeyGroupSet::empty(), budget)
    }
}

impl Scratch {
    fn within(parent: &Path) -> io::Result<Self> {
        remove_abandoned(parent);
        let folder = TempDir::with_prefix_in(SCRATCH, parent)?;
        // Locked before it is renamed into place: another process never sees the file unlocked and removes the folder.
        let unnamed = folder.path().join("new");
        let lock = File::create(&unnamed)?;
        lock.lock()?;
        fs::rename(unnamed, folder.path().join(LOCK))?;
        Ok(Self { folder, _lock: lock })
    }
}

/// Removes folders of killed processes. A folder that cannot be removed stays; it does no harm.
fn remove_abandoned(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(SCRATCH);
        if !ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if let Ok(lock) = File::open(entry.path().join(LOCK))
            && lock.try_lock().is_ok()
        {
            match fs::remove_dir_all(entry.path()) {
                Ok(()) => tracing::info!(folder = %entry.path().display(), "removed what a killed process left"),
                Err(error) => tracing::warn!(folder = %entry.path().display(), %error, "cannot remove a folder"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abandoned_folders_are_removed_and_folders_in_use_stay() {
        let parent = tempfile::tempdir().unwrap();
        let folders = || fs::read_dir(parent.path()).unwrap().count();
        fs::create_dir(parent.path().join("alluvium-state.of-somebody-else")).unwrap();
        let first = Scratch::within(parent.path()).unwrap();
        let second = Scratch::within(parent.path()).unwrap();
        assert_eq!(folders(), 3);
        // A kill releases locks but removes no files.
        let Scratch { folder, _lock } = first;
        let left = folder.keep();
        drop(_lock);
        let third = Scratch::within(parent.path()).unwrap();
        assert!(!left.exists() && second.folder.path().exists() && third.folder.path().exists());
        drop((second, third));
        assert_eq!(folders(), 1);
    }
}
