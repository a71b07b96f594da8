//! Many checkpoints of a job: bytes uploaded, final compaction debt and read rate.

use std::time::Instant;

use alluvium::RocksDbBackend;
use alluvium::prelude::*;

use super::{percentile, rocksdb, value};
use alluvium_testkit::bench::{key, mixed};

/// A job of one operator with its state in RocksDB.
pub(crate) struct Engine {
    pub(crate) job: Job,
    pub(crate) tasks: Vec<Task<RocksDbBackend>>,
    values: Vec<ValueState<Vec<u8>, Raw>>,
}

impl Engine {
    /// Opens the job and reads its state, each subtask on its own thread.
    pub(crate) async fn open(store: &Store, folder: &std::path::Path, parallelism: u32) -> Self {
        let operator = OperatorSpec::new(OperatorId(1), "rows", parallelism);
        let mut job = JobBuilder::new(store.clone()).operator(operator).open().await.unwrap();
        let rocksdb = rocksdb(folder);
        let mut starting = Vec::new();
        for seat in job.take_seats() {
            let name = format!("{}-{}", job.attempt(), seat.subtask());
            let backend = rocksdb.backend(&name, KeyGroupSet::empty(), job.budget().clone()).unwrap();
            let handle = tokio::runtime::Handle::current();
            let restore = move || handle.block_on(seat.restore(|_, _, _| backend)).unwrap();
            starting.push(tokio::task::spawn_blocking(restore));
        }
        let (mut tasks, mut values) = (Vec::new(), Vec::new());
        for task in starting {
            let mut task = task.await.unwrap();
            values.push(task.state().value("row", Raw).unwrap());
            tasks.push(task);
        }
        Self { job, tasks, values }
    }

    fn of(&mut self, number: u64) -> (&mut Task<RocksDbBackend>, &ValueState<Vec<u8>, Raw>) {
        let at = self.job.subtask_of(&key(number), u32::try_from(self.tasks.len()).unwrap());
        (&mut self.tasks[at], &self.values[at])
    }

    pub(crate) fn put(&mut self, number: u64, round: u64) {
        let (task, values) = self.of(number);
        task.state().set_key(&key(number)).unwrap();
        values.put(task.state(), &value(number, round).to_vec()).unwrap();
    }

    pub(crate) fn read(&mut self, number: u64) -> bool {
        let (task, values) = self.of(number);
        task.state().set_key(&key(number)).unwrap();
        values.read(task.state()).unwrap().is_some()
    }

    pub(crate) async fn checkpoint(&mut self) -> ManifestId {
        let barrier = self.job.trigger_when_possible().await.unwrap();
        for task in &mut self.tasks {
            task.barrier(barrier, Timestamp::MIN, vec![]).unwrap();
        }
        self.job.wait(barrier).await.unwrap().unwrap()
    }

    fn debt(&mut self) -> u64 {
        let of = |task: &mut Task<RocksDbBackend>| {
            task.state()
                .backend()
                .resident()
                .property("rocksdb.estimate-pending-compaction-bytes")
                .unwrap()
                .unwrap_or(0)
        };
        self.tasks.iter_mut().map(of).sum()
    }
}

/// Reads per timing.
const READS: u64 = 200_000;

/// Returns the median reads per second of both, alternating so that a busy machine affects both.
fn reads(engines: [&mut Engine; 2], keys: u64) -> [f64; 2] {
    let mut tries = [Vec::new(), Vec::new()];
    let engines = engines.into_iter().zip(&mut tries);
    let mut engines: Vec<_> = engines.collect();
    // The first round fills caches.
    for round in 0..8u64 {
        for (engine, tries) in &mut engines {
            let started = Instant::now();
            (0..READS).for_each(|draw| assert!(engine.read(mixed(round * READS + draw) % keys)));
            if round > 0 {
                tries.push(started.elapsed());
            }
        }
    }
    tries.map(|mut tries| READS as f64 / percentile(&mut tries, 50).as_secs_f64())
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
pub(crate) fn measure(keys: u64, dirty: f64, checkpoints: u64) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let store = Store::open("memory:///", &"growth".parse().unwrap(), TokioRuntime::current()).unwrap();
        let mut engine = Engine::open(&store, folder.path(), 1).await;
        (0..keys).for_each(|number| engine.put(number, 0));
        engine.checkpoint().await;
        let loaded = store.requests().put_bytes;
        let updates = (keys as f64 * dirty) as u64;
        let mut debt_after_20 = 0;
        for round in 1..=checkpoints {
            (0..updates).for_each(|draw| engine.put(mixed(round * updates + draw) % keys, round));
            engine.checkpoint().await;
            if round == 20 {
                debt_after_20 = engine.debt();
            }
        }
        let uploaded = store.requests().put_bytes - loaded;
        let debt = engine.debt();
        let mut fresh = Engine::open(&store, folder.path(), 1).await;
        let [fresh, aged] = reads([&mut fresh, &mut engine], keys);
        println!("\n{keys} keys, {dirty} of them updated per checkpoint, {checkpoints} checkpoints of a job");
        println!(
            "uploaded {:.2} x the bytes updated; compaction debt {debt_after_20} after 20, {debt} at the end; \
             reads/s {aged:.0}, of a backend that was just restored {fresh:.0}: {:.2} x",
            uploaded as f64 / (updates * checkpoints * 116) as f64,
            aged / fresh
        );
    });
}
