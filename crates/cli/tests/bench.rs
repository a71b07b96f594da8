//! `alluvium bench` at a small size: the shape of its output, not its speed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use alluvium_testkit::tool::{Bench, fails, run, stderr, words};
use serde_json::{Value, json};

/// Asserts that `value` has exactly these fields, in any order.
fn has_exactly(value: &Value, fields: &str) {
    let mut found: Vec<_> = value.as_object().unwrap_or_else(|| panic!("{value}")).keys().cloned().collect();
    let mut expected = words(fields);
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

/// Runs the bench and returns its report and its printed text.
fn report(flags: &str) -> (Value, String) {
    let bench = Bench::new();
    let file = bench.path("report.json");
    let output = run(words(&format!("bench {flags} --json {}", file.display())));
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
    let report = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    (report, String::from_utf8(output.stdout).unwrap())
}

fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer}: {value:#}"))
}

#[test]
fn the_quick_suite_reports_every_figure() {
    let (report, text) = report("--keys 2000 --checkpoints 2 --paced 100ms");
    has_exactly(&report, "machine version seed limits cells peers turns");
    assert_eq!(report["peers"], json!([]));
    assert_eq!(report["turns"], json!([{"limits": report["limits"], "cells": report["cells"], "peers": []}]));
    has_exactly(
        &report["limits"],
        "keys memcpy_gb_s zstd1_mb_s value_zstd1_ratio store_write_mb_s hashmap_rmw_ops_s hashmap_u64_rmw_ops_s
         idle_gap_us",
    );
    for map in ["hashmap_rmw_ops_s", "hashmap_u64_rmw_ops_s"] {
        has_exactly(&report["limits"][map], "uniform zipf:0.99");
        assert!(number(&report["limits"][map], "/uniform") > 0.0);
    }
    let cells = report["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 4);
    for cell in cells {
        has_exactly(
            cell,
            "backend strategy keys key_bytes value_bytes distribution dirty parallelism max_parallelism checkpoints
             load_ops_s rmw_ops_s rmw_batch_ops_s rmw_ops_s_beside_zstd rmw_ops_s_during_checkpoint
             first_10k_ops_s_after_seal first_touch_ops_s max_op_us
             pause_us checkpoint_ms dirty_bytes dirty_zstd1_bytes checkpoint_bytes checkpoint_bytes_max full_bytes
             objects_put requests rss_bytes_per_key pinned_bytes_per_key restore rescale paced",
        );
        paced_has_all_figures(&cell["paced"]);
        has_exactly(
            &cell["restore"],
            "ms load_ms read_back_ms claim_ms threads first_read_ms records bytes_read lazy_first_read_ms lazy_ms",
        );
        has_exactly(&cell["rescale"], "from to ms load_ms bytes_read ideal_bytes");
        assert!(number(cell, "/rescale/load_ms") < number(cell, "/rescale/ms"));
        let apart = number(cell, "/restore/load_ms") + number(cell, "/restore/read_back_ms");
        assert!((apart - number(cell, "/restore/ms")).abs() < 0.01, "{cell:#}");
        for percentiles in ["/pause_us", "/checkpoint_ms"] {
            has_exactly(cell.pointer(percentiles).unwrap(), "p50 p99 max");
            assert!(number(cell, &format!("{percentiles}/p50")) <= number(cell, &format!("{percentiles}/max")));
        }
        for field in words("load_ops_s rmw_ops_s rmw_batch_ops_s rmw_ops_s_beside_zstd max_op_us") {
            assert!(number(cell, &format!("/{field}")) > 0.0, "{field}");
        }
        assert!(number(cell, "/restore/ms") > 0.0 && number(cell, "/restore/bytes_read") > 0.0);
        assert!(number(cell, "/pinned_bytes_per_key") >= 0.0);
        assert_eq!(number(cell, "/restore/records"), 2000.0);
        assert_eq!((number(cell, "/rescale/from"), number(cell, "/rescale/to")), (1.0, 2.0));
        // A pack and a manifest, and no listing.
        assert_eq!([number(cell, "/requests/put"), number(cell, "/requests/list")], [2.0, 0.0]);
        assert!(text.contains(cell["strategy"].as_str().unwrap()), "{text}");
    }
}

#[test]
fn figures_of_several_turns_are_medians_and_drawn() {
    let bench = Bench::new();
    let chart = bench.path("chart.svg");
    let flags = "--keys 2000 --checkpoints 1 --dirty 0.1 --strategy incremental --turns 3";
    let (report, text) = report(&format!("{flags} --svg {}", chart.display()));
    let turns = report["turns"].as_array().unwrap();
    assert_eq!(turns.len(), 3);
    for figure in ["/limits/hashmap_u64_rmw_ops_s/uniform", "/cells/0/rmw_ops_s", "/cells/0/restore/load_ms"] {
        let mut each: Vec<_> = turns.iter().map(|turn| number(turn, figure)).collect();
        each.sort_by(f64::total_cmp);
        assert_eq!(number(&report, figure), each[1], "{figure}");
    }
    assert!(text.contains("alluvium log incremental dirty 0.1"), "{text}");
    let chart = std::fs::read_to_string(chart).unwrap();
    assert!(chart.starts_with("<svg ") && chart.contains(">map of u64 counters</text>"), "{chart}");
}

/// Runs the bench with one peer and returns its figures, or `None` if it is not in this build.
fn peer(name: &str, built: bool) -> Option<Value> {
    let flags = format!("--keys 2000 --checkpoints 2 --dirty 0.1 --strategy incremental --peer {name}");
    if !built {
        let output = run(words(&format!("bench {flags}")));
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(&format!("--features peer-{name}")), "{}", stderr(&output));
        return None;
    }
    let (report, text) = report(&flags);
    assert!(text.lines().any(|line| line.starts_with(&format!("{name} dirty 0.1"))), "{text}");
    Some(report["peers"][0].clone())
}

#[test]
fn a_peer_reports_every_figure_or_names_its_feature() {
    for (name, built) in [("cobble", cfg!(feature = "peer-cobble")), ("rocksdb", cfg!(feature = "peer-rocksdb"))] {
        let Some(peer) = peer(name, built) else { continue };
        has_exactly(
            &peer,
            "peer keys key_bytes value_bytes distribution dirty checkpoints load_ops_s rmw_ops_s pause_us checkpoint_ms
             restore",
        );
        assert_eq!((peer["peer"].as_str(), peer["distribution"].as_str()), (Some(name), Some("uniform")));
        has_exactly(&peer["restore"], "ms load_ms read_back_ms first_read_ms records");
        assert_eq!(number(&peer, "/restore/records"), 2000.0);
        for field in ["/load_ops_s", "/rmw_ops_s", "/pause_us/p50", "/checkpoint_ms/max", "/restore/load_ms"] {
            assert!(number(&peer, field) > 0.0, "{field}: {peer:#}");
        }
    }
}

/// Asserts that all figures of a paced phase are present.
fn paced_has_all_figures(paced: &Value) {
    has_exactly(
        paced,
        "dirty_per_s seconds checkpoints rmw_ops_s rmw_ops_s_without max_op_us max_op_us_without pause_us checkpoint_ms
         dirty_bytes_per_key pinned_bytes_per_key rss_bytes_per_key rss_less_pinned_bytes_per_key",
    );
    for percentiles in ["pause_us", "checkpoint_ms"] {
        has_exactly(&paced[percentiles], "p50 p99 max");
    }
    assert!(number(paced, "/seconds") >= 0.1 && number(paced, "/checkpoints") >= 2.0, "{paced}");
    for field in words("dirty_per_s rmw_ops_s rmw_ops_s_without max_op_us dirty_bytes_per_key") {
        assert!(number(paced, &format!("/{field}")) > 0.0, "{field}: {paced}");
    }
}

#[test]
fn uploads_are_proportional_to_dirty_state() {
    let flags = "--keys 3000 --checkpoints 2 --dirty 0.01,1 --parallelism 3 --store memory:///";
    for distribution in ["uniform", "zipf:0.99", "hotspot:0.1:0.9"] {
        let (report, _) = report(&format!("{flags} --strategy incremental --distribution {distribution}"));
        let [little, all] = [0, 1].map(|at| &report["cells"][at]);
        // 1 % of each of three shares of about 1000 records of 116 bytes, rounded.
        assert!(little["paced"].is_null(), "the quick suite has none");
        assert!((25.0 * 116.0..=35.0 * 116.0).contains(&number(little, "/dirty_bytes")), "{little:#}");
        assert_eq!(number(all, "/dirty_bytes"), 3000.0 * 116.0);
        assert!(number(all, "/checkpoint_bytes") > 10.0 * number(little, "/checkpoint_bytes"));
        assert!(number(little, "/full_bytes") > 10.0 * number(little, "/checkpoint_bytes"));
    }
}

#[test]
fn both_backends_are_measured() {
    let flags = "--keys 500 --checkpoints 1 --dirty 0.1 --strategy full --backend log,overlay --parallelism 2";
    let (report, _) = report(&format!("{flags} --paced 50ms"));
    let backends: Vec<_> = report["cells"].as_array().unwrap().iter().map(|cell| cell["backend"].clone()).collect();
    assert_eq!(backends, ["log", "overlay"]);
    for cell in report["cells"].as_array().unwrap() {
        assert!(number(cell, "/paced/rmw_ops_s") > 0.0 && number(cell, "/paced/rmw_ops_s_without") > 0.0, "{cell:#}");
    }
}

#[test]
fn usage_config_and_output_errors_are_distinct() {
    for flags in ["--strategy changelog", "--backend heap", "--html x", "--parallelism 128", "--cell"] {
        assert_eq!(run(words(&format!("bench {flags}"))).status.code(), Some(2), "{flags}");
    }
    fails(&run(words("bench --store nowhere:///x")), "config");
    fails(&run(words("bench --keys 10 --checkpoints 1 --store memory:/// --json /nowhere/report.json")), "denied");
}
