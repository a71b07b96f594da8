//! A report for tests, with three turns.

use serde_json::{Value, json};

use super::machine::Machine;
use super::report::{Figures, Report};
use super::turns;

/// Returns a report in which the map makes 10, 12 and 14 million updates a second.
pub(super) fn report() -> Report {
    let turns: Vec<Figures> = [14e6, 10e6, 12e6].map(|map| serde_json::from_value(figures(map)).unwrap()).into();
    let figures = turns::medians(&turns).unwrap();
    Report { machine: Machine::this(), version: "0.0.0", seed: 1, figures, turns }
}

fn figures(map: f64) -> Value {
    json!({
        "limits": {
            "keys": 1000, "memcpy_gb_s": 10.0, "zstd1_mb_s": 200.0, "value_zstd1_ratio": 1.5, "store_write_mb_s": 100.0,
            "hashmap_rmw_ops_s": {"uniform": map, "zipf:0.99": 3e7},
            "hashmap_u64_rmw_ops_s": {"uniform": 2e7, "zipf:0.99": 4e7}, "idle_gap_us": 50.0,
        },
        "cells": [cell("log", "uniform"), cell("overlay", "zipf:0.99")],
        "peers": [{
            "peer": "cobble", "keys": 1000, "key_bytes": 16, "value_bytes": 100, "distribution": "uniform",
            "dirty": 0.1, "checkpoints": 2, "load_ops_s": 1e6, "rmw_ops_s": 3e6,
            "pause_us": percentiles(80.0), "checkpoint_ms": percentiles(30.0),
            "restore": {"ms": 75.0, "load_ms": 5.0, "read_back_ms": 70.0, "first_read_ms": 6.0, "records": 1000},
        }],
    })
}

fn percentiles(p50: f64) -> Value {
    json!({"p50": p50, "p99": 2.0 * p50, "max": 3.0 * p50})
}

fn cell(backend: &str, distribution: &str) -> Value {
    json!({
        "backend": backend, "strategy": "incremental", "keys": 1000, "key_bytes": 16, "value_bytes": 100,
        "distribution": distribution, "dirty": 0.1, "parallelism": 1, "max_parallelism": 128, "checkpoints": 2,
        "load_ops_s": 2e6, "rmw_ops_s": 6e6, "rmw_batch_ops_s": 9e6, "rmw_ops_s_beside_zstd": 5e6,
        "rmw_ops_s_during_checkpoint": null, "first_10k_ops_s_after_seal": null, "first_touch_ops_s": null,
        "max_op_us": 90.0, "pause_us": percentiles(40.0), "checkpoint_ms": percentiles(20.0),
        "dirty_bytes": 11_600, "dirty_zstd1_bytes": 8000, "checkpoint_bytes": 8500, "checkpoint_bytes_max": 8600,
        "full_bytes": 80_000, "objects_put": 2.0,
        "requests": {"put": 2.0, "get": 1.0, "list": 0.0, "delete": 0.0},
        "rss_bytes_per_key": {"loaded": 150.0, "steady": 180.0}, "pinned_bytes_per_key": 20.0,
        "restore": {
            "ms": 371.0, "load_ms": 230.0, "read_back_ms": 141.0, "claim_ms": 4.5, "threads": 1,
            "first_read_ms": 231.0, "records": 1000, "bytes_read": 80_000, "lazy_first_read_ms": null,
        },
        "rescale": {"from": 1, "to": 2, "ms": 402.0, "load_ms": 250.0, "bytes_read": 80_000, "ideal_bytes": 80_000},
        "paced": null,
    })
}
