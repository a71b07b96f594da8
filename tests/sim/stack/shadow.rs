//! Shadows: restores and checks on a copy of the store, at another parallelism, without effect on the run.

use std::sync::Arc;

use alluvium::offline::{self, Report, VerifyLevel};
use alluvium::{JobSettings, ManifestLog, Partitioner, RestoreFrom, Result, Seq, Store, StoreSettings};

use super::engine::{Engine, Shape};
use super::judge::{Judge, Restored};
use crate::cluster::job_store;
use alluvium_testkit::sim::{Faults, Objects, Rng, Sim, SimStore, StoreWorld, Tracing, logged};

/// Limit of virtual time for a shadow.
const LIMIT_MS: u64 = 3_600_000;

/// The settings fixed for a job's life.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fixed {
    pub(crate) partitioner: Partitioner,
    pub(crate) max_parallelism: u16,
}

impl Fixed {
    /// Draws the shape of an incarnation that restores `from`.
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

/// Restores checkpoint `seq` of `objects`.
pub(crate) fn restore(judge: &Judge, objects: Objects, seq: u64, fixed: Fixed, rng: &mut Rng) -> Result<Restored> {
    let shape = fixed.shape(RestoreFrom::Checkpoint(Seq(seq)), rng);
    judge.sim.trace(format_args!("shadow of {seq}: {} subtasks, overlay: {}", shape.parallelism, shape.overlay));
    let opener = judge.clone();
    on_copy(judge, objects, move |store| async move {
        let (_, restored) = Engine::open(store, &opener, shape).await?;
        Ok(restored.expect("shadows are restored eagerly"))
    })
}

/// Verifies `objects` in full, as the tool does.
pub(crate) fn verify(judge: &Judge, objects: Objects) -> Result<Report> {
    on_copy(judge, objects, |store| async move {
        let chain = ManifestLog::load(&store).await?;
        offline::verify(&store, &chain, VerifyLevel::Full, &|_, _| {}).await
    })
}

/// Does `work` on a healthy store that holds `objects`, starting at the run's current time.
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
    let work = work(job_store(&sim, 0, Arc::new(SimStore::new(&sim, 0, &world)), StoreSettings::default()));
    let oracle = judge.oracle.clone();
    let done = logged(
        &sim,
        move |_, line| oracle.check_for_secrets(line),
        || {
            let done = sim.block_on(0, LIMIT_MS, work);
            sim.crash(0);
            done
        },
    );
    done.expect("work on a healthy store ends within the limit")
}
