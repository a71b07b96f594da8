//! The figures as printed; scripts rely on the names.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::machine::Machine;

/// All figures of one run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) machine: Machine,
    pub(super) version: &'static str,
    pub(super) seed: u64,
    /// Medians of `turns`.
    #[serde(flatten)]
    pub(super) figures: Figures,
    pub(super) turns: Vec<Figures>,
}

/// What is measured, in this order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Figures {
    pub(super) limits: Limits,
    pub(super) cells: Vec<CellReport>,
    pub(super) peers: Vec<PeerReport>,
}

/// The machine's limits without the crate, on one thread, with the same keys and values.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Limits {
    /// Number of keys in the hash map.
    pub(super) keys: u32,
    pub(super) memcpy_gb_s: f64,
    pub(super) zstd1_mb_s: f64,
    /// Ratio of value bytes before zstd level 1 to bytes after.
    pub(super) value_zstd1_ratio: f64,
    pub(super) store_write_mb_s: f64,
    pub(super) hashmap_rmw_ops_s: HashMapRates,
    /// The same map with a counter per key in place of the value.
    pub(super) hashmap_u64_rmw_ops_s: HashMapRates,
    pub(super) idle_gap_us: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct HashMapRates {
    pub(super) uniform: f64,
    #[serde(rename = "zipf:0.99")]
    pub(super) zipf: f64,
}

/// The figures of one cell. `None` if a figure cannot be measured here or is not supported yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct CellReport {
    pub(super) backend: String,
    pub(super) strategy: String,
    pub(super) keys: u32,
    pub(super) key_bytes: u16,
    pub(super) value_bytes: u32,
    pub(super) distribution: String,
    pub(super) dirty: f64,
    pub(super) parallelism: u32,
    /// Number of key groups.
    pub(super) max_parallelism: u16,
    pub(super) checkpoints: u32,

    pub(super) load_ops_s: f64,
    pub(super) rmw_ops_s: f64,
    pub(super) rmw_batch_ops_s: f64,
    /// While an unrelated thread compresses.
    pub(super) rmw_ops_s_beside_zstd: f64,
    pub(super) rmw_ops_s_during_checkpoint: Option<f64>,
    pub(super) first_10k_ops_s_after_seal: Option<f64>,
    /// Only operations that touched their key for the first time after a seal.
    pub(super) first_touch_ops_s: Option<f64>,
    pub(super) max_op_us: f64,

    pub(super) pause_us: Percentiles,
    pub(super) checkpoint_ms: Percentiles,

    pub(super) dirty_bytes: u64,
    pub(super) dirty_zstd1_bytes: u64,
    pub(super) checkpoint_bytes: u64,
    pub(super) checkpoint_bytes_max: u64,
    pub(super) full_bytes: u64,
    pub(super) objects_put: f64,
    pub(super) requests: Requests,

    pub(super) rss_bytes_per_key: Rss,
    pub(super) pinned_bytes_per_key: f64,
    pub(super) restore: Restore,
    pub(super) rescale: Rescale,
    /// `None` if the paced phase was skipped.
    pub(super) paced: Option<Paced>,
}

/// Figures of updates at full speed that dirty a fixed share of the keys per second, with a checkpoint always in
/// flight, and of the same updates without checkpoints.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Paced {
    /// Keys touched for the first time after a barrier, per second, as a share of all keys.
    pub(super) dirty_per_s: f64,
    pub(super) seconds: f64,
    pub(super) checkpoints: usize,
    pub(super) rmw_ops_s: f64,
    pub(super) rmw_ops_s_without: f64,
    pub(super) max_op_us: f64,
    pub(super) max_op_us_without: f64,
    pub(super) pause_us: Percentiles,
    pub(super) checkpoint_ms: Percentiles,
    /// Maximum key and value bytes touched between two barriers.
    pub(super) dirty_bytes_per_key: f64,
    pub(super) pinned_bytes_per_key: f64,
    pub(super) rss_bytes_per_key: Option<f64>,
    /// Resident memory less pinned memory at the same instant.
    pub(super) rss_less_pinned_bytes_per_key: Option<f64>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Percentiles {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

/// Requests per checkpoint, on average.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Requests {
    pub(super) put: f64,
    pub(super) get: f64,
    pub(super) list: f64,
    pub(super) delete: f64,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Rss {
    pub(super) loaded: Option<f64>,
    pub(super) steady: Option<f64>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Restore {
    pub(super) ms: f64,
    /// The part of `ms` before the first key is read back.
    pub(super) load_ms: f64,
    /// The rest of `ms`: every key read and compared.
    pub(super) read_back_ms: f64,
    /// The part of `ms` spent on claiming the job and reading its manifest.
    pub(super) claim_ms: f64,
    pub(super) threads: u32,
    pub(super) first_read_ms: f64,
    pub(super) records: u64,
    pub(super) bytes_read: u64,
    /// As `first_read_ms`, of a lazy restore; null if the backend has none.
    pub(super) lazy_first_read_ms: Option<f64>,
    /// As `ms`, of a lazy restore.
    #[serde(default)]
    pub(super) lazy_ms: Option<f64>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Rescale {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) ms: f64,
    /// The part of `ms` before the first key is read back.
    pub(super) load_ms: f64,
    pub(super) bytes_read: u64,
    pub(super) ideal_bytes: u64,
}

/// The figures of another store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct PeerReport {
    pub(super) peer: String,
    pub(super) keys: u32,
    pub(super) key_bytes: u16,
    pub(super) value_bytes: u32,
    pub(super) distribution: String,
    pub(super) dirty: f64,
    pub(super) checkpoints: u32,

    pub(super) load_ops_s: f64,
    pub(super) rmw_ops_s: f64,
    /// While the writer waits for a snapshot.
    pub(super) pause_us: Percentiles,
    /// Until the snapshot is durable.
    pub(super) checkpoint_ms: Percentiles,
    pub(super) restore: PeerRestore,
}

/// Opening another store from a snapshot, with the meaning of the fields of [`Restore`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct PeerRestore {
    pub(super) ms: f64,
    pub(super) load_ms: f64,
    pub(super) read_back_ms: f64,
    pub(super) first_read_ms: f64,
    pub(super) records: u64,
}

/// Returns `figure` rounded to a meaningful number of digits.
pub(super) fn rounded(figure: f64) -> f64 {
    (figure * 1e3).round() / 1e3
}

pub(super) fn millis(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1e3)
}

pub(super) fn micros(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1e6)
}
