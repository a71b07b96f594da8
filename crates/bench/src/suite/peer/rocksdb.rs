//! RocksDB used plainly: a get and a put per update, no log of writes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use alluvium::{Error, Result};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{BlockBasedOptions, Cache, DB, DBCompressionType, LogLevel, Options, WriteOptions};

use super::loops::{Peer, Snapshot};
use crate::clock;
use crate::suite::workload::add;

/// The least size of a memtable: RocksDB's default.
const MEMTABLE_BYTES_MIN: u64 = 64 << 20;

/// A database in `folder/db`, with checkpoints beside it.
pub(super) struct RocksDb {
    db: DB,
    write: WriteOptions,
    folder: PathBuf,
    value: Vec<u8>,
    /// Number of the newest checkpoint.
    newest: u64,
}

impl RocksDb {
    fn with(db: Result<DB, rocksdb::Error>, folder: &Path) -> Result<Self> {
        let mut write = WriteOptions::default();
        write.disable_wal(true);
        Ok(Self { db: db.map_err(failed)?, write, folder: folder.to_owned(), value: Vec::new(), newest: 0 })
    }

    fn checkpoint(folder: &Path, number: u64) -> PathBuf {
        folder.join(format!("checkpoint-{number}"))
    }
}

/// A memtable holds the whole state, and the cache all of its blocks, so nothing that is read waits for the disk.
fn options(state_bytes: u64) -> Options {
    let bytes = usize::try_from(state_bytes.max(MEMTABLE_BYTES_MIN)).unwrap_or(usize::MAX);
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(bytes.saturating_mul(2)));
    blocks.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_write_buffer_size(bytes);
    options.set_max_write_buffer_number(4);
    options.set_max_background_jobs(2);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_block_based_table_factory(&blocks);
    options.set_log_level(LogLevel::Warn);
    options
}

fn failed(source: rocksdb::Error) -> Error {
    Error::unavailable("RocksDB failed").with_source(source)
}

impl Peer for RocksDb {
    fn open(folder: &Path, state_bytes: u64) -> Result<Self> {
        Self::with(DB::open(&options(state_bytes), folder.join("db")), folder)
    }

    fn load(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.db.put_opt(key, value, &self.write).map_err(failed)
    }

    fn update(&mut self, key: &[u8]) -> Result<()> {
        let found = self.db.get_pinned(key).map_err(failed)?;
        let found = found.ok_or_else(|| Error::corrupt("a key that was loaded is gone"))?;
        self.value.clear();
        self.value.extend_from_slice(&found);
        add(&mut self.value, 1);
        self.db.put_opt(key, &self.value, &self.write).map_err(failed)
    }

    fn read<R>(&self, key: &[u8], f: impl FnOnce(Option<&[u8]>) -> R) -> Result<R> {
        Ok(f(self.db.get_pinned(key).map_err(failed)?.as_deref()))
    }

    /// Flushes the memtable and links the files: the writer waits for all of it.
    fn snapshot(&mut self) -> Result<Snapshot> {
        let older = Self::checkpoint(&self.folder, self.newest);
        self.newest += 1;
        let start = clock::now();
        let checkpoint = Checkpoint::new(&self.db).map_err(failed)?;
        checkpoint.create_checkpoint(Self::checkpoint(&self.folder, self.newest)).map_err(failed)?;
        let total: Duration = clock::now().duration_since(start);
        if older.exists() {
            let removed = fs::remove_dir_all(older);
            removed.map_err(|source| Error::denied("cannot remove an older checkpoint").with_source(source))?;
        }
        Ok(Snapshot { id: self.newest, pause: total, total })
    }

    fn close(self) -> Result<()> {
        Ok(())
    }

    fn restore(folder: &Path, state_bytes: u64, id: u64) -> Result<Self> {
        Self::with(DB::open(&options(state_bytes), Self::checkpoint(folder, id)), folder)
    }
}
