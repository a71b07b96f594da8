//! The environment of targets that need stores and jobs: one thread, no clock, and a counter for randomness.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alluvium::{Runtime, SharedRuntime, Store, StoreSettings, Timestamp, TokioRuntime};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};

use crate::counting::store_on;

/// Objects by key.
pub type Objects = BTreeMap<String, Bytes>;

/// Runs `work` to completion; tasks it spawned are dropped.
pub fn run<R>(work: impl Future<Output = R>) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime without threads").block_on(work)
}

#[derive(Debug)]
struct SingleThreaded {
    tokio: TokioRuntime,
    drawn: AtomicU64,
}

impl Runtime for SingleThreaded {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        self.tokio.spawn(future);
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.tokio.sleep(duration)
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(0)
    }

    fn random(&self) -> u128 {
        // Multiplied so that consecutive draws differ in both halves.
        u128::from(self.drawn.fetch_add(1, Ordering::Relaxed)).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
    }
}

/// Returns the runtime, for use inside [`run`]; `seed` fixes its draws.
pub fn runtime(seed: u64) -> SharedRuntime {
    Arc::new(SingleThreaded { tokio: TokioRuntime::current(), drawn: AtomicU64::new(seed << 32 | 1) })
}

/// Returns an in-memory store that holds `objects`, and the job's place in it.
pub async fn store(objects: &Objects, seed: u64) -> (Arc<dyn ObjectStore>, Store) {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    for (key, bytes) in objects {
        memory.put(&Path::from(key.as_str()), bytes.clone().into()).await.expect("memory takes all");
    }
    let wait = Duration::from_millis(1);
    let settings = StoreSettings::default().with(|it| {
        it.tries_max = 2;
        it.backoff_first = wait;
        it.backoff_max = wait;
        it.list_lag = 4;
    });
    let store = store_on(&memory, runtime(seed), settings);
    (memory, store)
}

/// Returns all objects of an in-memory store.
pub async fn dump(memory: &Arc<dyn ObjectStore>) -> Objects {
    use futures_util::TryStreamExt as _;
    let found: Vec<_> = memory.list(None).try_collect().await.expect("memory lists");
    let mut objects = Objects::new();
    for meta in found {
        let bytes = memory.get(&meta.location).await.expect("it is listed").bytes().await.expect("memory");
        objects.insert(meta.location.to_string(), bytes);
    }
    objects
}
