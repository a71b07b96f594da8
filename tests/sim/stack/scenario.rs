//! A run of the whole stack: everything about it is drawn from its seed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alluvium::Partitioner;
use alluvium::Store;
use alluvium::StoreSettings;

use super::atlas;
use super::judge::Judge;
use super::nodes::{Process, World};
use super::shadow::{self, Fixed};
use super::sink::Sink;
use super::workload::Workload;
use crate::oracle::{Content, Oracle};
use crate::points;
use crate::search::{FailingCalls, Mode, Report};
use alluvium_testkit::sim::{Answer, Fate, Faults, Node, Profile, Rng, Sim, SimStore, StoreWorld, logged};

/// The nodes of a run.
const ENGINES: [Node; 3] = [0, 1, 2];
const SWEEPER: Node = 3;
const READER: Node = 4;
const LAST: Node = 5;

/// Longest time that one late effect takes, and then some.
const LATE_MS: u64 = 400_000;

/// How often what a run leaves is damaged, each time anew.
const DAMAGES: u32 = 2;

/// How often shadows look.
const LOOK_MS: u64 = 2_000;

/// A way in which a call can fail.
type Way = (&'static str, fn() -> Fate);

/// The ways in which calls can fail, one by one.
pub(crate) const WAYS: [Way; 8] = [
    ("fails before", || Fate::not_applied(5, Answer::ServerError)),
    ("throttled", || Fate::not_applied(5, Answer::Throttled)),
    ("denied", || Fate::not_applied(5, Answer::Denied)),
    ("conflict, nothing landed", || Fate::not_applied(5, Answer::Conflict)),
    ("applied, told as failed", || Fate::applied_but(5, Answer::ServerError)),
    ("never answered", || Fate::silent(None)),
    ("applied, never answered", || Fate::silent(Some(5))),
    ("lands after ten minutes, never answered", || Fate::silent(Some(600_000))),
];

pub(crate) const RANDOM: Mode = Mode { length_ms: 25_000, ..Mode::RANDOM };
pub(crate) const CALM: Mode = Mode { length_ms: 5_000, ..Mode::CALM };

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
    let oracle = Oracle::new(&sim, Content::Segments);
    logged(&sim, points::listener(&sim, &oracle), || run_on(&sim, &oracle, rng, mode))
}

fn run_on(sim: &Sim, oracle: &Oracle, mut rng: Rng, mode: Mode) -> Report {
    let profile = if rng.permille(50) { Profile::healthy() } else { Profile::draw(&mut rng) };
    sim.trace(format_args!("{profile:?}"));
    let faults = mode.calls.map_or(Faults::Drawn(profile), failing);
    let store = StoreWorld::new(sim, faults);
    store.lock().unwrap().watch(oracle.clone());
    store.lock().unwrap().remember("/manifest/");
    let setup = Setup::draw(&mut rng, sim, &store, oracle, mode);
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
    setup.run_watched(&mut rng, mode.length_ms);
    let awaits = setup.nodes.iter().map(|node| (*node, sim.awaits(*node))).collect();
    setup.heal_and_finish(&mut rng);
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

fn failing(FailingCalls { first, count, way }: FailingCalls) -> Faults {
    Faults::nth(first, count, WAYS[way].1)
}

impl Setup {
    fn draw(rng: &mut Rng, sim: &Sim, store: &Arc<Mutex<StoreWorld>>, oracle: &Oracle, mode: Mode) -> Self {
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
        let partitioner = [Partitioner::Range { seed: rng.next() }, Partitioner::Flink, Partitioner::External];
        let fixed = Fixed { partitioner: partitioner[rng.index(3)], max_parallelism: [1, 2, 7, 16, 128][rng.index(5)] };
        let workload = Workload::draw(rng);
        sim.trace(format_args!("{fixed:?} {workload:?}"));
        let world = World {
            sim: sim.clone(),
            judge: Judge::new(sim, oracle, workload),
            sink: Sink::new(sim, oracle),
            fixed,
            think_max_ms: [50, 300, 1_500][rng.index(3)],
            scarce: rng.permille(300),
        };
        let engines = 1 + rng.index(ENGINES.len());
        let mut nodes = ENGINES[..engines].to_vec();
        nodes.extend(rng.permille(500).then_some(SWEEPER));
        nodes.extend(rng.permille(600).then_some(READER));
        if mode.calls.is_some() {
            nodes = vec![ENGINES[0]];
        }
        Self { sim: sim.clone(), store: Arc::clone(store), world, settings, nodes, over: Arc::default() }
    }

    fn store(&self, node: Node) -> Store {
        let objects = Arc::new(SimStore::new(&self.sim, node, &self.store));
        shadow::store(&self.sim, node, objects, self.settings.clone())
    }

    fn process(&self, node: Node) -> Process {
        Process { world: self.world.clone(), node, store: self.store(node), rng: self.sim.draw(Rng::fork) }
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
                    SWEEPER => Box::pin(process.sweeper()),
                    READER => Box::pin(process.reader()),
                    _ => Box::pin(process.engine()),
                },
            );
        });
    }

    /// Lets nodes crash, pause and jump in time; each of these is off in half of all runs.
    fn plan_chaos(&self, rng: &mut Rng, length_ms: u64) {
        let off = rng.next();
        for _ in 0..rng.within(0, 12) {
            let node = self.nodes[rng.index(self.nodes.len())];
            let (at, long) = (rng.within(0, length_ms), rng.within(100, length_ms));
            let kind = rng.within(0, 9);
            match kind {
                0..=4 if off & 1 == 0 => self.sim.after(at, move |sim| sim.crash(node)),
                5..=8 if off & 2 == 0 => self.sim.after(at, move |sim| {
                    sim.pause(node);
                    sim.after(long, move |sim| {
                        sim.hit("node resumed");
                        sim.resume(node);
                    });
                }),
                9 if off & 12 == 0 => {
                    let by = [-3_600_000, 31_536_000_000][rng.index(2)];
                    self.sim.after(at, move |sim| sim.skew_clock(node, by));
                }
                _ => {}
            }
        }
    }

    /// Runs until `time_ms`, with a look now and then at what is stored.
    fn run_watched(&self, rng: &mut Rng, time_ms: u64) {
        let oracle = &self.world.judge.oracle;
        while self.sim.now_ms() < time_ms && oracle.violations().is_empty() {
            self.sim.run_until(time_ms.min(self.sim.now_ms() + LOOK_MS));
            self.look(rng);
        }
    }

    /// Restores, from copies: every manifest as things stood when it came into being, and one that is live now.
    fn look(&self, rng: &mut Rng) {
        let Self { world, .. } = self;
        let World { judge, fixed, .. } = world;
        for (manifest, objects) in judge.oracle.take_newborn() {
            let what = format!("manifest {} when it came into being", manifest.seq);
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
        let objects = self.store.lock().unwrap().objects().clone();
        let restored = shadow::restore(judge, objects, manifest.seq, *fixed, rng);
        judge.i02_acknowledged_is_restorable(manifest.id(), &format!("live manifest {}", manifest.seq), restored);
    }

    /// Ends all faults. What runs must get on by itself; then all that was sent lands, and a last engine goes on, and
    /// leaves nothing that nobody needs.
    fn heal_and_finish(&self, rng: &mut Rng) {
        let (sim, judge) = (&self.sim, &self.world.judge);
        let oracle = &judge.oracle;
        if !oracle.violations().is_empty() {
            return;
        }
        sim.trace(format_args!("HEAL"));
        self.store.lock().unwrap().set_faults(Faults::none());
        self.nodes.iter().for_each(|node| sim.resume(*node));
        let before = oracle.committed();
        let healed_at = sim.now_ms();
        while oracle.committed() == before && sim.now_ms() < healed_at + LATE_MS && oracle.violations().is_empty() {
            self.run_watched(rng, sim.now_ms() + LOOK_MS);
        }
        if !oracle.violations().is_empty() {
            return;
        }
        if oracle.committed() == before {
            oracle.violation("I9: nothing was committed after the faults had ended".into());
        }
        self.over.store(true, Ordering::Relaxed);
        self.nodes.iter().for_each(|node| sim.crash(*node));
        sim.run_until(sim.now_ms() + LATE_MS);
        self.look(rng);
        match sim.block_on(LAST, LATE_MS, self.process(LAST).finish()) {
            Some(Ok(position)) => judge.i07_output_is_the_models(&self.world.sink, position),
            Some(Err(error)) => oracle.violation(format!("I9: the last engine failed: {}", error.chain())),
            None => oracle.violation("I9: the last engine did not come to an end".into()),
        }
        sim.crash(LAST);
        self.look(rng);
        judge.i08_memory_is_given_back();
        let objects = self.store.lock().unwrap().objects().clone();
        (0..DAMAGES).for_each(|_| atlas::damage(judge, &objects, self.world.fixed, rng));
        let orphans = oracle.i08_orphans(&objects);
        if !orphans.is_empty() {
            let some = &orphans[..orphans.len().min(3)];
            oracle.violation(format!("I8: left behind: {} objects, {some:?}", orphans.len()));
        }
    }
}
