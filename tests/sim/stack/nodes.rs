//! The processes on the nodes: engines that take the job over from each other, a sweeper, and a user of the offline
//! tools.

use std::sync::Arc;
use std::time::Duration;

use alluvium::internals::checkpoint::sweep;
use alluvium::offline::{self, RestoreOptions, VerifyLevel};
use alluvium::{
    ChainPolicy, CheckpointPolicy, Error, ErrorKind, KeyGroupSet, ManifestLog, PipelineSettings, RestoreFrom,
    RestoreMode, Result, RetentionPolicy, Seq, Store, StoreSettings, Strategy,
};
use object_store::memory::InMemory;

use super::engine::{Engine, Shape};
use super::judge::{Judge, Restored};
use super::links::Network;
use super::shadow::Fixed;
use super::sink::Sink;
use crate::cluster::job_store;
use alluvium_testkit::sim::{Node, Rng, Sim};

/// The state that all nodes of a run share.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) sim: Sim,
    pub(crate) judge: Judge,
    pub(crate) sink: Sink,
    /// The nodes of workers; empty if each engine has its tasks in its own process.
    pub(crate) workers: Vec<Node>,
    pub(crate) network: Network,
    pub(crate) fixed: Fixed,
    /// Longest time between two steps of an engine.
    pub(crate) think_max_ms: u64,
    /// Whether engines have tight memory budgets.
    pub(crate) scarce: bool,
}

/// One incarnation of a node.
pub(crate) struct Process {
    pub(crate) world: World,
    pub(crate) node: Node,
    pub(crate) store: Store,
    pub(crate) rng: Rng,
}

fn small(number: u64) -> usize {
    usize::try_from(number).expect("a small number")
}

impl Process {
    pub(super) async fn pause(&mut self, low_ms: u64, high_ms: u64) {
        let ms = self.rng.within(low_ms, high_ms);
        self.store.runtime().sleep(Duration::from_millis(ms)).await;
    }

    pub(super) fn failed(&self, what: &str, error: &Error, allowed: &[&str]) {
        self.world.judge.oracle.failed(what, error, allowed);
    }

    fn draw_shape(&mut self, scarce: bool) -> Shape {
        let Self { world, rng, .. } = self;
        let millis = |rng: &mut Rng, low, high| Duration::from_millis(rng.within(low, high));
        let mut shape = world.fixed.shape(RestoreFrom::Newest, rng);
        shape.padding = [0, 0, 100, 25_000][rng.index(4)];
        shape.settings = shape.settings.with(|it| {
            it.strategy = if rng.permille(250) { Strategy::Full } else { Strategy::Incremental };
            it.checkpoints = CheckpointPolicy::default().with(|it| {
                it.interval = millis(rng, 100, 3_000);
                it.min_pause = millis(rng, 0, 200);
                it.timeout = [millis(rng, 50, 2_000), Duration::from_secs(600)][rng.index(2)];
                it.max_in_flight = small(rng.within(1, 4));
            });
            it.retention = RetentionPolicy::default()
                .with(|it| it.checkpoints = u32::try_from(rng.within(1, 4)).expect("a small number"));
            it.chain = ChainPolicy::default().with(|it| {
                it.max_segments = small(rng.within(2, 32));
                it.spread = small(rng.within(1, 8));
            });
            it.pipeline = PipelineSettings::default().with(|it| {
                it.pack_bytes = [1, 3_000, 64 << 20][rng.index(3)];
                it.segment_bytes = if rng.permille(100) { 3_000 } else { 64 << 20 };
                it.encoders = small(rng.within(1, 3));
                it.uploads = small(rng.within(1, 4));
            });
            it.memory_bytes = if scarce { rng.within(20_000, 300_000) } else { u64::MAX };
            it.restore_bytes = if rng.permille(100) { 40_000 } else { 128 << 20 };
            it.restore = if rng.permille(600) { RestoreMode::Lazy } else { RestoreMode::Eager };
        });
        shape
    }

    /// Runs incarnations of the job, one after another.
    pub(crate) async fn engine(mut self) {
        let mut scarce = self.world.scarce;
        let mut before: Option<Shape> = None;
        loop {
            self.pause(0, 2_000).await;
            let shape = self.draw_shape(scarce);
            self.world.sim.trace(format_args!("n{} {shape:?}", self.node));
            if let Some(before) = before.replace(shape.clone()) {
                let (other, backend) = (before.parallelism != shape.parallelism, before.overlay != shape.overlay);
                other.then(|| self.world.sim.hit("restored at another parallelism"));
                backend.then(|| self.world.sim.hit("restored on another backend"));
            }
            let distributed = !self.world.workers.is_empty();
            let outcome = if distributed { self.own(shape).await } else { self.incarnation(shape).await };
            if let Err(error) = outcome {
                let kind = error.kind();
                match kind {
                    ErrorKind::Fenced => self.world.sim.hit("zombie refused"),
                    ErrorKind::Limit => self.world.sim.hit("job given up for want of memory"),
                    _ => {}
                }
                if kind == ErrorKind::Limit {
                    self.world.network.end_shortage();
                }
                // After a lack of memory, the next incarnation has enough, so that the run makes progress.
                scarce &= kind != ErrorKind::Limit && kind != ErrorKind::Stopped;
                self.failed("engine", &error, &["fenced", "limit", "stopped"]);
            }
            self.pause(1_000, 15_000).await;
        }
    }

    async fn incarnation(&mut self, shape: Shape) -> Result<()> {
        let (mut engine, restored) = Engine::open(self.store.clone(), &self.world.judge, shape).await?;
        self.run(&mut engine, restored).await
    }

    /// Processes records and takes checkpoints for a while.
    pub(super) async fn run(&mut self, engine: &mut Engine, restored: Option<Restored>) -> Result<()> {
        let what = format!("attempt {} on node {}", engine.attempt(), self.node);
        if let Some(restored) = restored {
            self.world.judge.i01_state_is_the_models(&what, restored);
        }
        self.pause(0, 20).await;
        engine.recover(&self.world.sink);
        for _ in 0..self.rng.within(5, 80) {
            self.pause(1, self.world.think_max_ms).await;
            engine.follow(&self.world.sink)?;
            self.process(engine).await?;
            if engine.job.is_due() || self.rng.permille(200) {
                self.checkpoint(engine).await?;
            }
            if !self.world.workers.is_empty() {
                self.give_up_silent();
            }
        }
        engine.follow(&self.world.sink)
    }

    /// Processes some records. Short of memory, retries the same record while checkpoints in flight complete, then gives up;
    /// state time has already advanced to that record, so no other may come before it.
    async fn process(&mut self, engine: &mut Engine) -> Result<()> {
        for _ in 0..self.rng.within(0, 12) {
            let mut patience = 5;
            while let Err(error) = engine.process().await {
                if error.kind() != ErrorKind::Limit || patience == 0 {
                    return Err(error);
                }
                patience -= 1;
                self.pause(50, 500).await;
                engine.settle()?;
                engine.follow(&self.world.sink)?;
            }
            if patience < 5 {
                self.world.sim.hit("limit of memory hit, then gone on");
            }
        }
        Ok(())
    }

    async fn checkpoint(&mut self, engine: &mut Engine) -> Result<()> {
        if self.rng.permille(300) {
            engine.read_ahead(self.rng.within(1, 6));
        }
        let Some(barrier) = engine.trigger()? else { return Ok(()) };
        engine.announce(barrier)?;
        let runtime = self.store.runtime().clone();
        let mut rng = self.rng.fork();
        let lag = [0, 0, 5, 100][rng.index(4)];
        let pause = || {
            let sleep = (lag > 0).then(|| runtime.sleep(Duration::from_millis(rng.within(0, lag))));
            async move {
                if let Some(sleep) = sleep {
                    sleep.await;
                }
            }
        };
        engine.barrier(barrier, &self.world.sink, pause).await?;
        if self.rng.permille(300) {
            engine.job.wait(barrier).await?;
        }
        Ok(())
    }

    /// Sweeps for ever, without owning the job.
    pub(crate) async fn sweeper(mut self) {
        loop {
            self.pause(100, 15_000).await;
            match sweep::plan(&self.store, None).await {
                Ok(plan) => {
                    // A plan must be safe however late it is executed.
                    self.pause(0, 5_000).await;
                    if let Err(error) = sweep::execute(&self.store, &plan).await {
                        self.failed("sweep", &error, &[]);
                    }
                }
                Err(error) => self.failed("plan of a sweep", &error, &[]),
            }
        }
    }

    /// Uses the offline tools for ever.
    pub(crate) async fn reader(mut self) {
        loop {
            self.pause(100, 8_000).await;
            if let Err(error) = self.read().await {
                self.failed("offline tool", &error, &["not_found"]);
            }
        }
    }

    async fn read(&mut self) -> Result<()> {
        let world = self.world.clone();
        let mut chain = ManifestLog::load(&self.store).await?;
        let Some(id) = chain.restorable().last().map(|newest| newest.id) else { return Ok(()) };
        if self.rng.permille(250) {
            let level = [VerifyLevel::Manifest, VerifyLevel::Sampled { seed: self.rng.next() }, VerifyLevel::Full]
                [self.rng.index(3)];
            let report = offline::verify(&self.store, &chain, level, &|_, _| {}).await?;
            if !report.damaged.is_empty() {
                world.judge.oracle.violation(format!("verify reports damage on a healthy store: {:?}", report.damaged));
            }
            world.sim.hit("offline: verified");
            return Ok(());
        }
        let (oracle, copy) = (&world.judge.oracle, self.copy());
        match self.use_checkpoint(&mut chain, id.seq, &copy).await {
            Ok(point) => world.sim.hit(point),
            // The checkpoint was dropped while being read.
            Err(error) if error.kind() == ErrorKind::Corrupt && !oracle.is_live((id.seq.0, id.put_id.0)) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        if ManifestLog::load(&copy).await?.newest()?.is_none() {
            return Ok(());
        }
        let shape = world.fixed.shape(RestoreFrom::Newest, &mut self.rng);
        let (_, restored) = Engine::open(copy, &world.judge, shape).await?;
        let restored = restored.expect("copies are restored eagerly");
        world.judge.i01_state_is_the_models(&format!("copy of checkpoint {}", id.seq), restored);
        Ok(())
    }

    /// Returns a new, empty store.
    fn copy(&self) -> Store {
        job_store(&self.world.sim, self.node, Arc::new(InMemory::new()), StoreSettings::default())
    }

    /// Exports a table of a checkpoint, or copies the checkpoint; returns the fault point of that action.
    async fn use_checkpoint(&mut self, chain: &mut ManifestLog, seq: Seq, copy: &Store) -> Result<&'static str> {
        let chosen = self.rng.within(0, 2);
        if chosen == 0 {
            let stored = offline::find(&self.store, chain, Some(seq)).await?;
            offline::savepoint(&self.store, &stored, copy, &|_, _| {}).await?;
            return Ok("offline: copied");
        }
        let manifest = offline::open(&self.store, chain, Some(seq)).await?.manifest;
        if chosen == 1 {
            let fixed = self.world.fixed;
            let parallelism = self.rng.permille(700).then(|| fixed.draw_parallelism(&mut self.rng));
            let options = RestoreOptions::default().with(|it| {
                it.parallelism = parallelism;
                it.groups = None;
            });
            offline::restore(&self.store, &manifest, copy, &options, &|_, _| {}).await?;
            return Ok("offline: restored elsewhere");
        }
        let groups = KeyGroupSet::all(manifest.max_parallelism);
        offline::export(&self.store, &manifest, "value", &groups, |_| Ok(())).await?;
        Ok("offline: exported")
    }

    /// Proves that the job still works on a healthy store: claim, restore, commit, publish, sweep. Returns the position.
    pub(crate) async fn finish(mut self) -> Result<u64> {
        let mut shape = self.draw_shape(false);
        shape.settings.checkpoints.timeout = Duration::from_secs(600);
        shape.settings.restore = RestoreMode::Eager;
        let (mut engine, restored) = Engine::open(self.store.clone(), &self.world.judge, shape).await?;
        let restored = restored.expect("the last engine restores eagerly");
        self.world.judge.i01_state_is_the_models("the last engine", restored);
        engine.recover(&self.world.sink);
        for _ in 0..20 {
            engine.process().await?;
        }
        loop {
            let barrier = engine.job.trigger_when_possible().await?;
            self.world.judge.started(engine.attempt(), barrier.epoch);
            engine.barrier(barrier, &self.world.sink, || async {}).await?;
            let committed = engine.job.wait(barrier).await?;
            engine.follow(&self.world.sink)?;
            if committed.is_some() {
                break;
            }
        }
        let (attempt, position) = (engine.job.attempt(), engine.position());
        // The job's own collector may still be deleting.
        self.pause(60_000, 60_000).await;
        drop(engine);
        let plan = sweep::plan(&self.store, Some(attempt)).await?;
        let swept = sweep::execute(&self.store, &plan).await?;
        match swept.failed.first() {
            Some((key, _)) => Err(Error::stopped("delete failed").with("object", key)),
            None => Ok(position),
        }
    }
}
