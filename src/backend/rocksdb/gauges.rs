//! What RocksDB says of itself, as metrics: after each layer, never on the way of a record.

use rocksdb::properties;
use rocksdb::statistics::Ticker;

use super::db::Db;
use crate::metrics;

/// Publishes sizes and counts of a database, labelled by the name of its folder.
pub(super) fn publish(db: &Db) {
    let name = db.folder().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let numbers = [
        ("alluvium_rocksdb_block_cache_bytes", properties::BLOCK_CACHE_USAGE),
        ("alluvium_rocksdb_block_cache_pinned_bytes", properties::BLOCK_CACHE_PINNED_USAGE),
        ("alluvium_rocksdb_memtable_bytes", properties::CUR_SIZE_ALL_MEM_TABLES),
        ("alluvium_rocksdb_live_sst_bytes", properties::LIVE_SST_FILES_SIZE),
        ("alluvium_rocksdb_pending_compaction_bytes", properties::ESTIMATE_PENDING_COMPACTION_BYTES),
        ("alluvium_rocksdb_estimated_rows", properties::ESTIMATE_NUM_KEYS),
        ("alluvium_rocksdb_running_compactions", properties::NUM_RUNNING_COMPACTIONS),
        ("alluvium_rocksdb_background_errors", properties::BACKGROUND_ERRORS),
        ("alluvium_rocksdb_write_stopped", properties::IS_WRITE_STOPPED),
    ];
    for (metric, property) in numbers {
        if let Ok(Some(value)) = db.inner().property_int_value(property) {
            metrics::of_database(metric, &name, value);
        }
    }
    let counts = [
        ("alluvium_rocksdb_block_cache_hits", Ticker::BlockCacheHit),
        ("alluvium_rocksdb_block_cache_misses", Ticker::BlockCacheMiss),
        ("alluvium_rocksdb_compaction_read_bytes", Ticker::CompactReadBytes),
        ("alluvium_rocksdb_compaction_written_bytes", Ticker::CompactWriteBytes),
        ("alluvium_rocksdb_flushed_bytes", Ticker::FlushWriteBytes),
        ("alluvium_rocksdb_stall_us", Ticker::StallMicros),
    ];
    for (metric, ticker) in counts {
        metrics::of_database(metric, &name, db.options.get_ticker_count(ticker));
    }
}
