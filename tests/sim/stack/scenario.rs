//! The scenario of the whole stack: engines with state of every kind, a sweeper, a user of the offline tools.

use std::sync::{Arc, Mutex};

use alluvium::{Partitioner, Store};
use futures_util::future::BoxFuture;

use super::atlas;
use super::judge::Judge;
use super::links::Network;
use super::nodes::{Process, World};
use super::shadow::{self, Fixed};
use super::sink::Sink;
use super::workload::Workload;
use crate::cluster::{self, Cluster, LEADERS, READER, SWEEPER, Scenario, WORKERS, draw_nodes, draw_store_settings};
use crate::oracle::{Content, Oracle};
use crate::search::{Mode, Report};
use alluvium_testkit::sim::{Answer, Fate, Node, Rng, Sim, StoreWorld};

/// Number of damages to the final store, each to a new copy.
const DAMAGES: u32 = 2;

/// Interval between checks of the stored checkpoints.
const CHECK_MS: u64 = 2_000;

/// A way in which a call can fail.
type Way = (&'static str, fn() -> Fate);

/// All ways in which calls can fail.
pub(crate) const WAYS: [Way; 8] = [
    ("failed, not applied", || Fate::not_applied(5, Answer::ServerError)),
    ("throttled", || Fate::not_applied(5, Answer::Throttled)),
    ("denied", || Fate::not_applied(5, Answer::Denied)),
    ("conflict, not applied", || Fate::not_applied(5, Answer::Conflict)),
    ("failed, but applied", || Fate::applied_but(5, Answer::ServerError)),
    ("not answered, not applied", || Fate::silent(None)),
    ("not answered, but applied", || Fate::silent(Some(5))),
    ("not answered, applied after ten minutes", || Fate::silent(Some(600_000))),
];

pub(crate) const RANDOM: Mode = Mode { length_ms: 25_000, ..Mode::RANDOM };
pub(crate) const CALM: Mode = Mode { length_ms: 5_000, ..Mode::CALM };

/// Executes the run of `seed`.
pub(crate) fn run(seed: u64, mode: Mode) -> Report {
    cluster::run::<World>(seed, mode)
}

impl Scenario for World {
    const CONTENT: Content = Content::Segments;
    const STEP_MS: u64 = CHECK_MS;

    fn draw(rng: &mut Rng, sim: &Sim, oracle: &Oracle, objects: &Arc<Mutex<StoreWorld>>, mode: Mode) -> Cluster<Self> {
        objects.lock().unwrap().remember("/manifest/");
        let settings = draw_store_settings(rng);
        let partitioner = [Partitioner::Range { seed: rng.next() }, Partitioner::Flink, Partitioner::External];
        let fixed = Fixed { partitioner: partitioner[rng.index(3)], max_parallelism: [1, 2, 7, 16, 128][rng.index(5)] };
        let workload = Workload::draw(rng);
        let (workers, slowest_ms) = draw_workers(rng, mode);
        sim.trace(format_args!("{fixed:?} {workload:?} workers: {workers:?}"));
        let world = Self {
            sim: sim.clone(),
            judge: Judge::new(sim, oracle, workload),
            sink: Sink::new(sim, oracle),
            network: Network::new(sim, oracle, slowest_ms),
            workers: workers.clone(),
            fixed,
            think_max_ms: [50, 300, 1_500][rng.index(3)],
            scarce: rng.permille(300),
        };
        let mut nodes = draw_nodes(rng, 500);
        if mode.calls.is_some() {
            nodes = vec![LEADERS[0]];
        }
        nodes.extend(workers);
        if mode.chaos {
            world.plan_breaks(rng.clone(), mode.length_ms);
        }
        // Crashes and pauses are disabled in half of the runs each, clock jumps in three quarters.
        let disabled_chaos = if mode.chaos { rng.next() } else { 0 };
        Cluster {
            sim: sim.clone(),
            oracle: oracle.clone(),
            objects: Arc::clone(objects),
            settings,
            nodes,
            world,
            disabled_chaos,
            over: Arc::default(),
            copies: None,
        }
    }

    fn process(&self, node: Node, store: Store, rng: Rng) -> BoxFuture<'static, ()> {
        let process = Process { world: self.clone(), node, store, rng };
        match node {
            SWEEPER => Box::pin(process.sweeper()),
            READER => Box::pin(process.reader()),
            node if WORKERS.contains(&node) => Box::pin(process.work()),
            _ => Box::pin(process.engine()),
        }
    }

    fn run_until(cluster: &Cluster<Self>, rng: &mut Rng, time_ms: u64) {
        let Cluster { sim, oracle, .. } = cluster;
        while sim.now_ms() < time_ms && oracle.violations().is_empty() {
            sim.run_until(time_ms.min(sim.now_ms() + CHECK_MS));
            check_stored(cluster, rng);
        }
    }

    fn finish(cluster: &Cluster<Self>, rng: &mut Rng) {
        let Self { judge, sink, fixed, .. } = &cluster.world;
        check_stored(cluster, rng);
        let world = cluster.world.clone();
        if let Some(position) = cluster.run_last(|node, store, rng| Process { world, node, store, rng }.finish()) {
            judge.i07_output_is_the_models(sink, position);
        }
        cluster.crash_last();
        check_stored(cluster, rng);
        judge.i08_memory_is_given_back();
        let objects = cluster.objects.lock().unwrap().objects().clone();
        (0..DAMAGES).for_each(|_| atlas::damage(judge, &objects, *fixed, rng));
    }
}

/// Draws the nodes of workers, and the longest delay of a message. In half of the runs, and while single store calls fail,
/// the job runs in one process. Derived from a copy of the generator, so that those runs stay as they were.
fn draw_workers(rng: &Rng, mode: Mode) -> (Vec<Node>, u64) {
    let mut rng = Rng::new(rng.clone().next());
    let slowest_ms = [2, 50, 500][rng.index(3)];
    if rng.permille(500) || mode.calls.is_some() {
        return (Vec::new(), slowest_ms);
    }
    (WORKERS[..=rng.index(WORKERS.len())].to_vec(), slowest_ms)
}

impl World {
    /// Plans breaks of links in half of the runs.
    fn plan_breaks(&self, mut rng: Rng, length_ms: u64) {
        if self.workers.is_empty() || rng.permille(500) {
            return;
        }
        for _ in 0..rng.within(1, 8) {
            let network = self.network.clone();
            self.sim.after(rng.within(0, length_ms), move |_| network.break_one());
        }
    }
}

/// Restores every new manifest from the store as of its creation, and at times one live manifest from the current store.
fn check_stored(cluster: &Cluster<World>, rng: &mut Rng) {
    let World { judge, fixed, .. } = &cluster.world;
    for (manifest, objects) in judge.oracle.take_newborn() {
        let what = format!("manifest {} at its creation", manifest.seq);
        match shadow::restore(judge, objects, manifest.seq, *fixed, rng) {
            Ok(restored) => judge.i01_state_is_the_models(&what, restored),
            Err(error) => judge.oracle.violation(format!("I1: {what} cannot be restored: {}", error.chain())),
        }
    }
    let live: Vec<_> = judge.oracle.live().into_values().filter(|manifest| !manifest.is_claim()).collect();
    if live.is_empty() || !rng.permille(500) {
        return;
    }
    let manifest = &live[rng.index(live.len())];
    let objects = cluster.objects.lock().unwrap().objects().clone();
    let restored = shadow::restore(judge, objects, manifest.seq, *fixed, rng);
    judge.i02_acknowledged_is_restorable(manifest.id(), &format!("live manifest {}", manifest.seq), restored);
}
