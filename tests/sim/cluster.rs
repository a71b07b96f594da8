//! The frame of a run, shared by the core and the whole stack: nodes that restart after crashes, planned faults, and the
//! end of all faults, after which the job must recover. Everything about a run is drawn from its seed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alluvium::{LocalCache, Result, Store, StoreSettings};
use futures_util::future::BoxFuture;
use object_store::ObjectStore;
use object_store::path::Path;

use crate::oracle::{Content, Oracle};
use crate::points;
use crate::search::{FailingCalls, Mode, Report};
use alluvium_testkit::sim::{Copies, Faults, Node, Profile, Rng, Sim, SimStore, StoreWorld, logged};

/// The nodes that compete for the job; each node of a run has one process.
pub(crate) const LEADERS: [Node; 3] = [0, 1, 2];
pub(crate) const SWEEPER: Node = 3;
pub(crate) const READER: Node = 4;
const LAST: Node = 5;
/// The workers of a job that runs in several processes.
pub(crate) const WORKERS: [Node; 4] = [6, 7, 8, 9];

/// Longest delay of a late effect, with a margin.
const LATE_MS: u64 = 400_000;

/// The parts of a run that differ between the core and the whole stack; a value is the state that its nodes share.
pub(crate) trait Scenario: Clone + Send + Sync + 'static {
    const CONTENT: Content;

    /// Step of virtual time while waiting for the first commit after the faults.
    const STEP_MS: u64;

    /// Draws the nodes, the settings and the shared state.
    fn draw(rng: &mut Rng, sim: &Sim, oracle: &Oracle, objects: &Arc<Mutex<StoreWorld>>, mode: Mode) -> Cluster<Self>;

    /// Returns the process of `node`, which runs until the node crashes.
    fn process(&self, node: Node, store: Store, rng: Rng) -> BoxFuture<'static, ()>;

    /// Runs the nodes until `time_ms`.
    fn run_until(cluster: &Cluster<Self>, rng: &mut Rng, time_ms: u64);

    /// Proves, without faults and other nodes, that the job still works and garbage is deleted.
    fn finish(cluster: &Cluster<Self>, rng: &mut Rng);
}

/// The nodes of a run, their store, and the state that they share.
#[derive(Clone)]
pub(crate) struct Cluster<S> {
    pub(crate) sim: Sim,
    pub(crate) oracle: Oracle,
    pub(crate) objects: Arc<Mutex<StoreWorld>>,
    pub(crate) settings: StoreSettings,
    pub(crate) nodes: Vec<Node>,
    pub(crate) world: S,
    /// Bit set of disabled chaos: 1 crashes, 2 pauses, 4 and 8 clock jumps.
    pub(crate) disabled_chaos: u64,
    /// Whether nodes must no longer start.
    pub(crate) over: Arc<AtomicBool>,
    /// The disks of local copies by node, if the job has any.
    pub(crate) copies: Option<Arc<Disks>>,
}

/// The disks of local copies; each outlives the processes of its node.
pub(crate) struct Disks {
    seed: u64,
    by_node: Mutex<BTreeMap<Node, Arc<Copies>>>,
}

impl Disks {
    fn of(&self, node: Node) -> Arc<Copies> {
        let mut disks = self.by_node.lock().unwrap();
        Arc::clone(disks.entry(node).or_insert_with(|| Arc::new(Copies::new(self.seed ^ ((node as u64) << 56)))))
    }
}

/// Executes the run of `seed`.
pub(crate) fn run<S: Scenario>(seed: u64, mode: Mode) -> Report {
    let mut rng = Rng::new(seed);
    let sim = Sim::new(rng.next(), mode.tracing);
    let _ending = sim.ending();
    let oracle = Oracle::new(&sim, S::CONTENT);
    // Not drawn from the run's own numbers: other seeds stay what they are.
    let copies = seed.is_multiple_of(3).then(|| Arc::new(Disks { seed, by_node: Mutex::default() }));
    logged(&sim, points::listener(&sim, &oracle), || run_logged::<S>(&sim, &oracle, rng, mode, copies))
}

fn run_logged<S: Scenario>(sim: &Sim, oracle: &Oracle, mut rng: Rng, mode: Mode, copies: Option<Arc<Disks>>) -> Report {
    let profile = if rng.permille(50) { Profile::healthy() } else { Profile::draw(&mut rng) };
    sim.trace(format_args!("{profile:?}"));
    let faults = mode
        .calls
        .map_or(Faults::Drawn(profile), |FailingCalls { first, count, fate }| Faults::nth(first, count, fate));
    let objects = StoreWorld::new(sim, faults);
    objects.lock().unwrap().watch(oracle.clone());
    let mut cluster = S::draw(&mut rng, sim, oracle, &objects, mode);
    cluster.copies = copies;
    for node in cluster.nodes.clone() {
        cluster.start(node, 0);
    }
    let restarted = cluster.clone();
    sim.on_crash(move |sim, node| restarted.start(node, sim.draw(|rng| rng.within(0, 10_000))));
    if let Some((node, k)) = mode.crash {
        sim.crash_at_await(node, k);
    }
    if mode.chaos {
        cluster.plan_chaos(&mut rng, mode.length_ms);
    }
    S::run_until(&cluster, &mut rng, mode.length_ms);
    let awaits = cluster.nodes.iter().map(|node| (*node, sim.awaits(*node))).collect();
    cluster.heal_and_finish(&mut rng);
    let objects = objects.lock().unwrap();
    for key in objects.disordered() {
        oracle.violation(format!("I11: calls on {key} have no order"));
    }
    Report {
        violations: oracle.violations(),
        commits: oracle.committed(),
        restores: oracle.restores(),
        calls: objects.calls(),
        injected: objects.injected().clone(),
        points: sim.points(),
        awaits,
        trace_hash: sim.trace_hash(),
    }
}

impl<S: Scenario> Cluster<S> {
    pub(crate) fn store(&self, node: Node) -> Store {
        let objects = Arc::new(SimStore::new(&self.sim, node, &self.objects));
        let store = job_store(&self.sim, node, objects, self.settings.clone());
        let Some(copies) = &self.copies else { return store };
        let disk = copies.of(node);
        let budget = disk.wear();
        match LocalCache::on(disk, budget, self.sim.runtime(node)) {
            Ok(cache) => store.with_cache(cache),
            // The disk fails at times.
            Err(_) => store,
        }
    }

    /// Starts a node after `delay_ms`.
    fn start(&self, node: Node, delay_ms: u64) {
        let cluster = self.clone();
        self.sim.after(delay_ms, move |sim| {
            if cluster.over.load(Ordering::Relaxed) {
                return;
            }
            let (store, rng) = (cluster.store(node), sim.draw(Rng::fork));
            sim.spawn(node, cluster.world.process(node, store, rng));
        });
    }

    /// Plans crashes, pauses and clock jumps.
    fn plan_chaos(&self, rng: &mut Rng, length_ms: u64) {
        let disabled = self.disabled_chaos;
        for _ in 0..rng.within(0, 12) {
            let node = self.nodes[rng.index(self.nodes.len())];
            let (at, pause_ms) = (rng.within(0, length_ms), rng.within(100, length_ms));
            match rng.within(0, 9) {
                0..=4 if disabled & 1 == 0 => self.sim.after(at, move |sim| sim.crash(node)),
                5..=8 if disabled & 2 == 0 => self.sim.after(at, move |sim| {
                    sim.pause(node);
                    sim.after(pause_ms, move |sim| {
                        sim.hit("node resumed");
                        sim.resume(node);
                    });
                }),
                9 if disabled & 12 == 0 => {
                    let by_ms = [-3_600_000, 31_536_000_000][rng.index(2)];
                    self.sim.after(at, move |sim| sim.skew_clock(node, by_ms));
                }
                _ => {}
            }
        }
    }

    /// Ends all faults. First the running nodes must commit; then they crash, all late effects land, and a last node must
    /// finish the job and leave no orphans.
    fn heal_and_finish(&self, rng: &mut Rng) {
        let (sim, oracle) = (&self.sim, &self.oracle);
        if !oracle.violations().is_empty() {
            return;
        }
        sim.trace(format_args!("HEAL"));
        self.objects.lock().unwrap().set_faults(Faults::none());
        self.nodes.iter().for_each(|node| sim.resume(*node));
        let before = oracle.committed();
        let healed_at = sim.now_ms();
        while oracle.committed() == before && sim.now_ms() < healed_at + LATE_MS && oracle.violations().is_empty() {
            S::run_until(self, rng, sim.now_ms() + S::STEP_MS);
        }
        if !oracle.violations().is_empty() {
            return;
        }
        if oracle.committed() == before {
            oracle.violation("I9: no commit after the end of all faults".into());
        }
        self.over.store(true, Ordering::Relaxed);
        self.nodes.iter().for_each(|node| sim.crash(*node));
        sim.run_until(sim.now_ms() + LATE_MS);
        S::finish(self, rng);
        let orphans = oracle.i08_orphans(self.objects.lock().unwrap().objects());
        if !orphans.is_empty() {
            let some = &orphans[..orphans.len().min(3)];
            oracle.violation(format!("I8: {} orphans are left, among them {some:?}", orphans.len()));
        }
    }

    /// Runs the last process, on a node of its own; returns its result unless it failed.
    pub(crate) fn run_last<T, F>(&self, process: impl FnOnce(Node, Store, Rng) -> F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let process = process(LAST, self.store(LAST), self.sim.draw(Rng::fork));
        match self.sim.block_on(LAST, LATE_MS, process) {
            Some(Ok(result)) => return Some(result),
            Some(Err(error)) => self.oracle.violation(format!("I9: the last process failed: {}", error.chain())),
            None => self.oracle.violation("I9: the last process did not end".into()),
        }
        None
    }

    /// Crashes the node of the last process, which so releases its memory.
    pub(crate) fn crash_last(&self) {
        self.sim.crash(LAST);
    }
}

/// Returns the job's store on `objects`.
pub(crate) fn job_store(sim: &Sim, node: Node, objects: Arc<dyn ObjectStore>, settings: StoreSettings) -> Store {
    Store::new(objects, &Path::default(), &"job".parse().expect("the name is valid"), sim.runtime(node), settings)
}

pub(crate) fn draw_store_settings(rng: &mut Rng) -> StoreSettings {
    let mut settings = StoreSettings::default().with(|it| {
        it.call_timeout = Duration::from_millis(rng.within(500, 20_000));
        it.retry_deadline = Duration::from_millis(rng.within(1_000, 30_000));
        it.tries_max = usize::try_from(rng.within(2, 6)).expect("a small number");
        it.backoff_first = Duration::from_millis(50);
        it.backoff_max = Duration::from_millis(rng.within(100, 3_000));
        // Just above the most that a simulated listing misses: the least that the contract allows.
        it.list_lag = 4;
    });
    // Derived instead of drawn, so that past seeds keep their runs.
    settings.collect_lag = settings.tries_max as u64 % 3;
    settings.settle_patience = Duration::from_secs([20, 3_600][settings.tries_max % 2]);
    settings
}

/// Draws one to three leaders, a sweeper in `sweepers` of 1000 runs, and a reader in 600.
pub(crate) fn draw_nodes(rng: &mut Rng, sweepers: u64) -> Vec<Node> {
    let leaders = 1 + rng.index(LEADERS.len());
    let mut nodes = LEADERS[..leaders].to_vec();
    nodes.extend(rng.permille(sweepers).then_some(SWEEPER));
    nodes.extend(rng.permille(600).then_some(READER));
    nodes
}
