//! Every backend of the crate passes the public conformance suite.

#[cfg(feature = "rocksdb")]
use std::cell::Cell;

use alluvium::backend::conformance::{PARTITIONER, run};
use alluvium::{AnyBackend, LogBackend, MemoryBudget, OverlayBackend};
#[cfg(feature = "rocksdb")]
use alluvium::{RocksDb, RocksDbSettings};

const BUDGET_BYTES: u64 = 1 << 30;

#[test]
fn overlay_conforms() {
    run(|groups| OverlayBackend::new(groups, MemoryBudget::new(BUDGET_BYTES)));
}

#[test]
fn log_conforms() {
    run(|groups| LogBackend::new(groups, PARTITIONER, MemoryBudget::new(BUDGET_BYTES)));
}

#[test]
fn log_on_the_heap_conforms() {
    run(|groups| LogBackend::on_heap(groups, PARTITIONER, MemoryBudget::new(BUDGET_BYTES)));
}

#[test]
fn a_backend_chosen_at_run_time_conforms() {
    run(|groups| AnyBackend::from(LogBackend::new(groups, PARTITIONER, MemoryBudget::new(BUDGET_BYTES))));
}

#[cfg(feature = "rocksdb")]
#[test]
fn rocksdb_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let rocksdb = RocksDb::new(RocksDbSettings::new(folder.path()).with(|it| it.memory_bytes = 16 << 20)).unwrap();
    let made = Cell::new(0);
    run(|groups| {
        made.set(made.get() + 1);
        rocksdb.backend(&made.get().to_string(), groups, MemoryBudget::new(BUDGET_BYTES)).unwrap()
    });
}
