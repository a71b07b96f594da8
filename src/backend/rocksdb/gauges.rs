//! RocksDB's metrics, read after each layer and never on the path of a record.

use std::sync::Arc;

use rocksdb::properties;
use rocksdb::statistics::Ticker;

use super::db::Db;
use crate::metrics;
use crate::row::Statistic;

/// Gauges of the cache shared by all databases of the process.
const SHARED: [(&str, &properties::PropName); 2] = [
    ("alluvium_rocksdb_block_cache_bytes", properties::BLOCK_CACHE_USAGE),
    ("alluvium_rocksdb_block_cache_pinned_bytes", properties::BLOCK_CACHE_PINNED_USAGE),
];

/// Gauges of one database.
const SIZES: [(&str, &properties::PropName); 7] = [
    ("alluvium_rocksdb_memtable_bytes", properties::CUR_SIZE_ALL_MEM_TABLES),
    ("alluvium_rocksdb_live_sst_bytes", properties::LIVE_SST_FILES_SIZE),
    ("alluvium_rocksdb_pending_compaction_bytes", properties::ESTIMATE_PENDING_COMPACTION_BYTES),
    ("alluvium_rocksdb_estimated_rows", properties::ESTIMATE_NUM_KEYS),
    ("alluvium_rocksdb_running_compactions", properties::NUM_RUNNING_COMPACTIONS),
    ("alluvium_rocksdb_background_errors", properties::BACKGROUND_ERRORS),
    ("alluvium_rocksdb_write_stopped", properties::IS_WRITE_STOPPED),
];

/// Counters since a database was opened.
const COUNTS: [(&str, Ticker); 6] = [
    ("alluvium_rocksdb_block_cache_hits", Ticker::BlockCacheHit),
    ("alluvium_rocksdb_block_cache_misses", Ticker::BlockCacheMiss),
    ("alluvium_rocksdb_compaction_read_bytes", Ticker::CompactReadBytes),
    ("alluvium_rocksdb_compaction_written_bytes", Ticker::CompactWriteBytes),
    ("alluvium_rocksdb_flushed_bytes", Ticker::FlushWriteBytes),
    ("alluvium_rocksdb_stall_us", Ticker::StallMicros),
];

/// Publishes a database's metrics, labelled by the name of its folder, and returns those not shared with others.
pub(super) fn publish(db: &Db) -> Arc<[Statistic]> {
    let database = db.folder().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let size = |(metric, property)| Some((metric, db.inner().property_int_value(property).ok().flatten()?));
    for (metric, value) in SHARED.into_iter().filter_map(size) {
        metrics::of_database(metric, &database, value);
    }
    let counts = COUNTS.into_iter().map(|(metric, ticker)| (metric, db.options.get_ticker_count(ticker)));
    let own = SIZES.into_iter().filter_map(size).chain(counts).map(|(metric, value)| {
        metrics::of_database(metric, &database, value);
        Statistic { name: metric.trim_start_matches("alluvium_").to_owned(), value }
    });
    own.collect()
}
