//! A run: everything about it is drawn from its seed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alluvium::Store;
use alluvium::StoreSettings;
use object_store::path::Path;

use crate::nodes::{Process, World};
use crate::oracle::{Content, Oracle};
use crate::points;
use crate::search::{Mode, Report};
use alluvium_testkit::sim::{Faults, Node, Profile, Rng, Sim, SimStore, StoreWorld, Tracing, logged};

/// The nodes of a run; each has one task.
const COORDINATORS: [Node; 3] = [0, 1, 2];
const SWEEPER: Node = 3;
const READER: Node = 4;
const LAST: Node = 5;

/// Of how many runs in 1000 the histories of manifests are looked at: it takes a third of the time.
const HISTORIES: u64 = 200;

/// Longest time that one late effect takes, and then some.
const LATE_MS: u64 = 400_000;

impl Mode {
    pub(crate) const RANDOM: Self =
        Self { tracing: Tracing::Off, chaos: true, length_ms: 20_000, crash: None, calls: None };
    pub(crate) const CALM: Self = Self { chaos: false, length_ms: 20_000, ..Self::RANDOM };
}

/// Everything that nodes are started with.
#[derive(Clone)]
struct Setup {
    sim: Sim,
    store: Arc<Mutex<StoreWorld>>,
    world: World,
    settings: StoreSettings,
    nodes: Vec<Node>,
    /// Set when no node is to start any more.
    over: Arc<AtomicBool>,
}

/// Makes the run of `seed`.
pub(crate) fn run(seed: u64, mode: Mode) -> Report {
    let mut rng = Rng::new(seed);
    let sim = Sim::new(rng.next(), mode.tracing);
    let _ending = sim.ending();
    let oracle = Oracle::new(&sim, Content::Records);
    logged(&sim, points::listener(&sim, &oracle), || run_on(&sim, &oracle, rng, mode))
}

fn run_on(sim: &Sim, oracle: &Oracle, mut rng: Rng, mode: Mode) -> Report {
    let profile = if rng.permille(50) { Profile::healthy() } else { Profile::draw(&mut rng) };
    sim.trace(format_args!("{profile:?}"));
    let store = StoreWorld::new(sim, Faults::Drawn(profile));
    store.lock().unwrap().watch(oracle.clone());
    if rng.permille(HISTORIES) {
        store.lock().unwrap().remember("/manifest/");
    }
    let setup = Setup::draw(&mut rng, sim, &store, oracle);
    for node in setup.nodes.clone() {
        setup.start(node, 0);
    }
    let again = setup.clone();
    sim.on_crash(move |sim, node| again.start(node, sim.draw(|rng| rng.within(0, 10_000))));
    if let Some((node, k)) = mode.crash {
        sim.crash_at_await(node, k);
    }
    if mode.chaos {
        setup.plan_chaos(&mut rng, mode.length_ms);
    }
    sim.run_until(mode.length_ms);
    let awaits = setup.nodes.iter().map(|node| (*node, sim.awaits(*node))).collect();
    setup.heal_and_finish();
    let store = store.lock().unwrap();
    for key in store.disordered() {
        oracle.violation(format!("I11: calls on {key} have no order"));
    }
    Report {
        violations: oracle.violations(),
        commits: oracle.committed(),
        restores: oracle.restores(),
        calls: store.calls(),
        injected: store.injected().clone(),
        points: sim.points(),
        awaits,
        trace_hash: sim.trace_hash(),
    }
}

impl Setup {
    fn draw(rng: &mut Rng, sim: &Sim, store: &Arc<Mutex<StoreWorld>>, oracle: &Oracle) -> Self {
        let mut settings = StoreSettings::default().with(|it| {
            it.call_timeout = Duration::from_millis(rng.within(500, 20_000));
            it.retry_deadline = Duration::from_millis(rng.within(1_000, 30_000));
            it.tries_max = usize::try_from(rng.within(2, 6)).expect("a small number");
            it.backoff_first = Duration::from_millis(50);
            it.backoff_max = Duration::from_millis(rng.within(100, 3_000)); // One more than the most that a listing misses: as sharp as the promise allows.
            it.list_lag = 4;
        });
        // By a number that is drawn anyway: past seeds stay what they were.
        settings.collect_lag = settings.tries_max as u64 % 3;
        settings.settle_patience = Duration::from_secs([20, 3_600][settings.tries_max % 2]);
        let think_max_ms = [100, 1_000, 4_000][rng.index(3)];
        let world = World { sim: sim.clone(), oracle: oracle.clone(), think_max_ms };
        let coordinators = 1 + rng.index(COORDINATORS.len());
        let mut nodes = COORDINATORS[..coordinators].to_vec();
        nodes.extend(rng.permille(600).then_some(SWEEPER));
        nodes.extend(rng.permille(600).then_some(READER));
        Self { sim: sim.clone(), store: Arc::clone(store), world, settings, nodes, over: Arc::default() }
    }

    fn process(&self, node: Node) -> Process {
        let objects = Arc::new(SimStore::new(&self.sim, node, &self.store));
        let job = "job".parse().expect("it is a job's name");
        let store = Store::new(objects, &Path::default(), &job, self.sim.runtime(node), self.settings.clone());
        Process { world: self.world.clone(), node, store, rng: self.sim.draw(Rng::fork) }
    }

    /// Starts a node after `delay_ms`.
    fn start(&self, node: Node, delay_ms: u64) {
        let setup = self.clone();
        self.sim.after(delay_ms, move |sim| {
            if setup.over.load(Ordering::Relaxed) {
                return;
            }
            let process = setup.process(node);
            sim.spawn(
                node,
                match node {
                    SWEEPER => Box::pin(process.sweep_for_ever()),
                    READER => Box::pin(process.read_for_ever()),
                    _ => Box::pin(process.coordinate()),
                },
            );
        });
    }

    fn plan_chaos(&self, rng: &mut Rng, length_ms: u64) {
        for _ in 0..rng.within(0, 12) {
            let node = self.nodes[rng.index(self.nodes.len())];
            let at = rng.within(0, length_ms);
            let long = rng.within(100, length_ms);
            match rng.within(0, 9) {
                0..=4 => self.sim.after(at, move |sim| sim.crash(node)),
                5..=8 => self.sim.after(at, move |sim| {
                    sim.pause(node);
                    sim.after(long, move |sim| {
                        sim.hit("node resumed");
                        sim.resume(node);
                    });
                }),
                _ => {
                    let by = [-3_600_000, 31_536_000_000][rng.index(2)];
                    self.sim.after(at, move |sim| sim.skew_clock(node, by));
                }
            }
        }
    }

    /// Ends all faults. What runs must get on by itself; then all that was sent lands, and a last coordinator goes on,
    /// and leaves nothing that nobody needs.
    fn heal_and_finish(&self) {
        let (sim, oracle) = (&self.sim, &self.world.oracle);
        if !oracle.violations().is_empty() {
            return;
        }
        sim.trace(format_args!("HEAL"));
        self.store.lock().unwrap().set_faults(Faults::none());
        self.nodes.iter().for_each(|node| sim.resume(*node));
        let before = oracle.committed();
        let healed_at = sim.now_ms();
        while oracle.committed() == before && sim.now_ms() < healed_at + LATE_MS {
            sim.run_until(sim.now_ms() + 5_000);
        }
        if oracle.committed() == before {
            oracle.violation("I9: nothing was committed after the faults had ended".into());
        }
        self.over.store(true, Ordering::Relaxed);
        self.nodes.iter().for_each(|node| sim.crash(*node));
        sim.run_until(sim.now_ms() + LATE_MS);
        match sim.block_on(LAST, LATE_MS, self.process(LAST).finish()) {
            Some(Ok(())) => {}
            Some(Err(error)) => oracle.violation(format!("I9: the last coordinator failed: {}", error.chain())),
            None => oracle.violation("I9: the last coordinator did not come to an end".into()),
        }
        let orphans = oracle.i08_orphans(self.store.lock().unwrap().objects());
        if !orphans.is_empty() {
            let some = &orphans[..orphans.len().min(3)];
            oracle.violation(format!("I8: left behind: {} objects, {some:?}", orphans.len()));
        }
    }
}
