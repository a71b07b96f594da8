//! The scenario of the core: coordinators that write records of a log, a sweeper and a reader.

use std::sync::{Arc, Mutex};

use alluvium::Store;
use futures_util::future::BoxFuture;

use crate::cluster::{self, Cluster, READER, SWEEPER, Scenario, draw_nodes, draw_store_settings};
use crate::nodes::{Process, World};
use crate::oracle::{Content, Oracle};
use crate::search::{Mode, Report};
use alluvium_testkit::sim::{Node, Rng, Sim, StoreWorld, Tracing};

/// Of 1000 runs, the number that record and check the histories of manifests, which costs a third of the time.
const HISTORIES: u64 = 200;

impl Mode {
    pub(crate) const RANDOM: Self =
        Self { tracing: Tracing::Off, chaos: true, length_ms: 20_000, crash: None, calls: None };
    pub(crate) const CALM: Self = Self { chaos: false, length_ms: 20_000, ..Self::RANDOM };
}

/// Executes the run of `seed`.
pub(crate) fn run(seed: u64, mode: Mode) -> Report {
    cluster::run::<World>(seed, mode)
}

impl Scenario for World {
    const CONTENT: Content = Content::Records;
    const STEP_MS: u64 = 5_000;

    fn draw(rng: &mut Rng, sim: &Sim, oracle: &Oracle, objects: &Arc<Mutex<StoreWorld>>, _: Mode) -> Cluster<Self> {
        if rng.permille(HISTORIES) {
            objects.lock().unwrap().remember("/manifest/");
        }
        let settings = draw_store_settings(rng);
        let think_max_ms = [100, 1_000, 4_000][rng.index(3)];
        Cluster {
            sim: sim.clone(),
            oracle: oracle.clone(),
            objects: Arc::clone(objects),
            settings,
            nodes: draw_nodes(rng, 600),
            world: Self { sim: sim.clone(), oracle: oracle.clone(), think_max_ms },
            disabled_chaos: 0,
            over: Arc::default(),
            copies: None,
        }
    }

    fn process(&self, node: Node, store: Store, rng: Rng) -> BoxFuture<'static, ()> {
        let process = Process { world: self.clone(), node, store, rng };
        match node {
            SWEEPER => Box::pin(process.sweep_for_ever()),
            READER => Box::pin(process.read_for_ever()),
            _ => Box::pin(process.coordinate()),
        }
    }

    fn run_until(cluster: &Cluster<Self>, _: &mut Rng, time_ms: u64) {
        cluster.sim.run_until(time_ms);
    }

    fn finish(cluster: &Cluster<Self>, _: &mut Rng) {
        let world = cluster.world.clone();
        cluster.run_last(|node, store, rng| Process { world, node, store, rng }.finish());
    }
}
