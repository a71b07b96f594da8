//! Settings and resources shared by the databases of a process.

use std::path::PathBuf;
use std::sync::Arc;

use rocksdb::statistics::StatsLevel;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DBCompressionType, DataBlockIndexType, LogLevel, Options,
    WriteBufferManager,
};

use super::RocksDbBackend;
use super::callbacks::{ExpiryFilterFactory, merge};
use super::db::{Db, SharedRules, rocksdb_error};
use crate::error::{Error, Result};
use crate::key_group::KeyGroupSet;
use crate::memory::MemoryBudget;
use crate::row::Below;

/// Upper bound of a database's memtable.
const MEMTABLE_BYTES: usize = 64 << 20;

/// Least `memory_bytes` that works.
const MIN_MEMORY_BYTES: usize = 8 << 20;

/// RocksDB settings of the process: plain data.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RocksDbSettings {
    /// The parent of each backend's own folder. Its files are not checkpoints: a backend starts empty and deletes files
    /// left by its predecessor.
    pub directory: PathBuf,
    /// Bytes of memory for all databases of the process together: cached blocks, indexes and filters, and memtables (at
    /// most half of it). Rows not yet placed by a checkpoint are charged to the job's memory budget instead. Default
    /// 512 MiB, at least 8 MiB.
    pub memory_bytes: usize,
    /// Concurrent flushes and compactions of each database. Default 2.
    pub background_jobs: u16,
    /// Whether file I/O bypasses the page cache: for state far larger than memory on fast disks. Default no.
    pub direct_io: bool,
    /// RocksDB options by name, applied after the defaults. Only options that can change at run time.
    pub options: Vec<(String, String)>,
}

impl RocksDbSettings {
    /// Returns the defaults for this parent folder.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            memory_bytes: 512 << 20,
            background_jobs: 2,
            direct_io: false,
            options: Vec::new(),
        }
    }
}

/// Creates backends that share one memory limit. Clones share it too.
#[derive(Clone)]
pub struct RocksDb {
    settings: Arc<RocksDbSettings>,
    cache: Cache,
    memtables: WriteBufferManager,
    tune: Option<Arc<Tune>>,
}

type Tune = dyn Fn(&mut Options) + Send + Sync;

impl std::fmt::Debug for RocksDb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RocksDb").field(&self.settings).finish()
    }
}

impl RocksDb {
    /// Allocates the shared cache.
    ///
    /// # Errors
    /// `Config` if `memory_bytes` is too small.
    pub fn new(settings: RocksDbSettings) -> Result<Self> {
        if settings.memory_bytes < MIN_MEMORY_BYTES {
            return Err(Error::config("too little memory for RocksDB")
                .with("memory_bytes", settings.memory_bytes)
                .with("least_bytes", MIN_MEMORY_BYTES));
        }
        let cache = Cache::new_lru_cache(settings.memory_bytes);
        let memtables =
            WriteBufferManager::new_write_buffer_manager_with_cache(settings.memory_bytes / 2, false, cache.clone());
        Ok(Self { settings: Arc::new(settings), cache, memtables, tune: None })
    }

    /// Lets `tune` change any option of each database before it is opened, except the merge operator and the compaction
    /// filter factory.
    #[must_use]
    pub fn tuned(mut self, tune: impl Fn(&mut Options) + Send + Sync + 'static) -> Self {
        self.tune = Some(Arc::new(tune));
        self
    }

    /// Returns a backend without rows that owns `groups`, keeps its files in the folder `name`, and charges `budget`
    /// for rows not yet placed by a checkpoint.
    ///
    /// # Errors
    /// `Config` if another process uses the folder or an option does not parse; `Denied`, `Limit` or `Unavailable`
    /// from the disk.
    pub fn backend(&self, name: &str, groups: KeyGroupSet, budget: MemoryBudget) -> Result<RocksDbBackend> {
        let shared_rules = Arc::new(SharedRules::default());
        let folder = self.settings.directory.join(name);
        let db = Db::create(&folder, self.options(&shared_rules), shared_rules)?;
        let pairs: Vec<_> = self.settings.options.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        if !pairs.is_empty() {
            let set = db.inner().set_options(&pairs);
            set.map_err(|error| rocksdb_error("RocksDB refuses an option", error))?;
        }
        RocksDbBackend::new(Arc::new(db), groups, budget)
    }

    /// Returns the default options for keyed state (reasons in `docs/rocksdb.md`).
    fn options(&self, shared_rules: &Arc<SharedRules>) -> Options {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_write_buffer_manager(&self.memtables);
        options.set_write_buffer_size(MEMTABLE_BYTES.min(self.settings.memory_bytes / 4));
        options.set_max_write_buffer_number(4);
        options.set_memtable_whole_key_filtering(true);
        options.set_memtable_prefix_bloom_ratio(0.02);
        options.set_max_background_jobs(i32::from(self.settings.background_jobs));
        options.set_compression_per_level(&[
            DBCompressionType::None,
            DBCompressionType::None,
            DBCompressionType::Lz4,
            DBCompressionType::Lz4,
            DBCompressionType::Lz4,
            DBCompressionType::Lz4,
            DBCompressionType::Lz4,
        ]);
        options.set_use_direct_reads(self.settings.direct_io);
        options.set_use_direct_io_for_flush_and_compaction(self.settings.direct_io);
        options.set_avoid_unnecessary_blocking_io(true);
        options.set_block_based_table_factory(&self.blocks());
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(1);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options.enable_statistics();
        options.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
        let (full, partial) = (Arc::clone(shared_rules), Arc::clone(shared_rules));
        options.set_merge_operator(
            c"alluvium.pieces",
            move |row_key, older, newer| merge(&full, row_key, older, newer, Below::Nothing),
            move |row_key, older, newer| merge(&partial, row_key, older, newer, Below::Unknown),
        );
        options.set_compaction_filter_factory(ExpiryFilterFactory(Arc::clone(shared_rules)));
        self.tune.iter().for_each(|tune| tune(&mut options));
        options
    }

    fn blocks(&self) -> BlockBasedOptions {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&self.cache);
        blocks.set_bloom_filter(10.0, false);
        blocks.set_optimize_filters_for_memory(true);
        // Partitioned: a whole filter exceeds a shard of a small cache, and each get would read it again.
        blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
        blocks.set_partition_filters(true);
        blocks.set_pin_top_level_index_and_filter(true);
        blocks.set_cache_index_and_filter_blocks(true);
        blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
        blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
        blocks.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
        blocks
    }
}
