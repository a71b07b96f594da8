//! A job at one, two and three subtasks: time to the first read, and bytes listed by its checkpoints.

use std::time::Instant;

use alluvium::ManifestLog;
use alluvium::offline::list;
use alluvium::prelude::*;

use super::growth::Engine;
use alluvium_testkit::bench::mixed;

/// Returns the bytes of all segments in the job's newest checkpoint.
async fn listed_bytes(store: &Store) -> u64 {
    let chain = ManifestLog::load(store).await.unwrap();
    let listed = list(store, &chain).await.unwrap();
    listed.checkpoints.last().map_or(0, |checkpoint| checkpoint.total_bytes)
}

pub(crate) fn measure(keys: u64) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let store = Store::open("memory:///", &"rescale".parse().unwrap(), TokioRuntime::current()).unwrap();
        let mut engine = Engine::open(&store, folder.path(), 1).await;
        (0..keys).for_each(|number| engine.put(number, 0));
        engine.checkpoint().await;
        let state = listed_bytes(&store).await;
        println!("\n{keys} keys, {:.0} MB at parallelism 1", state as f64 / 1e6);
        println!("| parallelism | first record after | second checkpoint lists |\n|---|---|---|");
        for parallelism in [2, 3] {
            drop(engine);
            let started = Instant::now();
            engine = Engine::open(&store, folder.path(), parallelism).await;
            assert!(engine.read(mixed(parallelism.into()) % keys));
            let first = started.elapsed();
            for round in 0..2 {
                (0..keys / 100).for_each(|draw| engine.put(mixed(draw) % keys, round));
                engine.checkpoint().await;
            }
            let lists = listed_bytes(&store).await as f64 / state as f64;
            println!("| {parallelism} | {:.2} s | {lists:.2} x the state |", first.as_secs_f64());
        }
    });
}
