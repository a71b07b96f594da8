//! A shadow: restores a checkpoint from a copy of what is stored, at another parallelism, and disturbs nobody.

use std::sync::Arc;

use alluvium::JobSettings;
use alluvium::Partitioner;
use alluvium::Result;
use alluvium::Seq;
use alluvium::Store;
use alluvium::StoreSettings;
use alluvium::offline::{self, Level, Report};
use alluvium::{ManifestLog, RestoreFrom};
use object_store::ObjectStore;
use object_store::path::Path;

use super::engine::{Engine, Shape};
use super::judge::{Judge, Restored};
use alluvium_testkit::sim::{Faults, Node, Objects, Rng, Sim, SimStore, StoreWorld, Tracing, logged};

/// Virtual time within which any restore is done.
const LIMIT_MS: u64 = 3_600_000;

/// What is fixed for a job's life.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fixed {
    pub(crate) partitioner: Partitioner,
    pub(crate) max_parallelism: u16,
}

impl Fixed {
    /// Returns a shape that restores `from`, and what is left to draw.
    pub(crate) fn shape(self, from: RestoreFrom, rng: &mut Rng) -> Shape {
        let settings = JobSettings::default().with(|it| {
            it.max_parallelism = self.max_parallelism;
            it.partitioner = Some(self.partitioner);
        });
        let parallelism = self.draw_parallelism(rng);
        Shape { parallelism, overlay: rng.permille(300), settings, from, padding: 0 }
    }

    pub(crate) fn draw_parallelism(self, rng: &mut Rng) -> u32 {
        u32::try_from(rng.within(1, u64::from(self.max_parallelism.min(5)))).expect("a small number")
    }
}

/// Returns the place of the job in `objects`.
pub(crate) fn store(sim: &Sim, node: Node, objects: Arc<dyn ObjectStore>, settings: StoreSettings) -> Store {
    Store::new(objects, &Path::default(), &"job".parse().expect("it is a job's name"), sim.runtime(node), settings)
}

/// Restores checkpoint `seq` of `objects`.
pub(crate) fn restore(judge: &Judge, objects: Objects, seq: u64, fixed: Fixed, rng: &mut Rng) -> Result<Restored> {
    let shape = fixed.shape(RestoreFrom::Checkpoint(Seq(seq)), rng);
    judge.sim.trace(format_args!("shadow of {seq}: {} subtasks, overlay: {}", shape.parallelism, shape.overlay));
    let opener = judge.clone();
    on_copy(judge, objects, move |store| async move {
        Engine::open(store, &opener, shape).await.map(|(_, restored)| restored)
    })
}

/// Looks for damage in `objects`, as the tool does.
pub(crate) fn verify(judge: &Judge, objects: Objects) -> Result<Report> {
    on_copy(judge, objects, |store| async move {
        let chain = ManifestLog::load(&store).await?;
        offline::verify(&store, &chain, Level::Full, &|_, _| {}).await
    })
}

/// Does something on a healthy store that holds `objects`, at the time that it is.
fn on_copy<R: Send + 'static, F: Future<Output = Result<R>> + Send + 'static>(
    judge: &Judge,
    objects: Objects,
    work: impl FnOnce(Store) -> F,
) -> Result<R> {
    let sim = Sim::new(judge.sim.draw(Rng::next), Tracing::Off);
    let _ending = sim.ending();
    sim.run_until(judge.sim.now_ms());
    let world = StoreWorld::new(&sim, Faults::none());
    *world.lock().unwrap().objects_mut() = objects;
    let work = work(store(&sim, 0, Arc::new(SimStore::new(&sim, 0, &world)), StoreSettings::default()));
    let oracle = judge.oracle.clone();
    let done = logged(
        &sim,
        move |_, line| oracle.said(line),
        || {
            let done = sim.block_on(0, LIMIT_MS, work);
            sim.crash(0);
            done
        },
    );
    done.expect("what is done on a healthy store comes to an end")
}
