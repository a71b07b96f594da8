//! Whole jobs on virtual time and a simulated store.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use alluvium::{JobSettings, RestoreFrom, Result, RetentionPolicy, Store, StoreSettings};
use object_store::ObjectStore;

use alluvium_testkit::sim::{Call, Fate, Faults, Node, Operation, Sim, SimStore, StoreWorld, Tracing};
use alluvium_testkit::{Counting, store_on};

pub(crate) const HOUR_MS: u64 = 3_600_000;

/// A simulated store and its nodes.
pub(crate) struct Rig {
    pub(crate) sim: Sim,
    pub(crate) world: Arc<Mutex<StoreWorld>>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let sim = Sim::new(3, Tracing::Off);
        let world = StoreWorld::new(&sim, Faults::none());
        Self { sim, world }
    }

    pub(crate) fn store(&self, node: Node) -> Store {
        let objects: Arc<dyn ObjectStore> = Arc::new(SimStore::new(&self.sim, node, &self.world));
        store_on(&objects, self.sim.runtime(node), StoreSettings::default().with(|it| it.list_lag = 4))
    }

    /// Runs `future` on `node` to completion.
    pub(crate) fn on<T: Send + 'static>(&self, node: Node, future: impl Future<Output = T> + Send + 'static) -> T {
        self.sim.block_on(node, 10 * HOUR_MS, future).expect("it comes to an end")
    }

    /// Opens the counting job on `node`, with any state.
    pub(crate) fn open(&self, node: Node, parallelism: u32, settings: JobSettings) -> Result<Counting> {
        let store = self.store(node);
        self.on(node, Counting::open_on(store, parallelism, settings, RestoreFrom::Newest))
    }

    pub(crate) fn faults(&self, faults: Faults) {
        self.world.lock().unwrap().set_faults(faults);
    }

    /// Gives the next call of that kind, on a key that contains `part`, `fate`; all others succeed.
    pub(crate) fn next_call(&self, operation: Operation, part: &'static str, fate: Fate) {
        let mut fate = Some(fate);
        self.faults(Faults::Scripted(Box::new(move |call: &Call<'_>| {
            if call.operation == operation && call.key.contains(part) { fate.take() } else { None }
        })));
    }

    pub(crate) fn keys(&self, part: &str) -> Vec<String> {
        self.world.lock().unwrap().objects().keys().filter(|key| key.contains(part)).cloned().collect()
    }

    /// Advances virtual time.
    pub(crate) fn pass(&self, duration: Duration) {
        self.sim.run_until(self.sim.now_ms() + u64::try_from(duration.as_millis()).unwrap());
    }
}

/// Settings of a small job that retains all of its checkpoints.
pub(crate) fn small() -> JobSettings {
    let retention = RetentionPolicy::default().with(|it| it.checkpoints = 100);
    JobSettings::default().with(|it| {
        it.max_parallelism = 16;
        it.retention = retention;
    })
}
