//! A job on files, on a disk that loses power and whose syncs fail: no acknowledged checkpoint is lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alluvium::{JobSettings, RestoreFrom, Result, StoreSettings};
use alluvium_testkit::{Counting, store_on};
use object_store::ObjectStore;

use crate::budget::DISK_SEEDS;
use crate::search::{Report, search};
use alluvium_testkit::sim::{Disk, DiskFaults, DiskStore, Rng, Sim, Tracing};

const HOUR_MS: u64 = 3_600_000;

/// Incarnations of the job in one run; the last one meets no faults.
const LIVES: u64 = 6;

/// Fault points that the runs must reach.
const POINTS: &[&str] = &[
    "file torn",
    "name in doubt synced before it was read",
    "name lost that was not synced",
    "name survived that was not synced",
    "node crashed",
    "power lost",
    "sync of a file failed",
    "sync of a folder failed",
];

type Counts = BTreeMap<Vec<u8>, u64>;

/// The state at each barrier of the lineage, and the newest barrier that must survive.
#[derive(Debug, Default)]
struct Lineage {
    states: Vec<Counts>,
    acknowledged: usize,
    restores: u64,
    violations: Vec<String>,
}

/// Opens the job, checks the restored state, and takes some checkpoints.
async fn one_life(
    objects: Arc<dyn ObjectStore>,
    sim: Sim,
    parallelism: u32,
    lineage: Arc<Mutex<Lineage>>,
) -> Result<()> {
    let settings = JobSettings::default().with(|it| it.max_parallelism = 8);
    let patience = StoreSettings::default().with(|it| {
        it.call_timeout = Duration::from_millis(sim.draw(|rng| rng.within(50, 2_000)));
        it.tries_max = 3;
        it.backoff_first = Duration::from_millis(5);
        it.backoff_max = Duration::from_millis(20);
    });
    let store = store_on(&objects, sim.runtime(0), patience);
    let mut job = Counting::open_on(store, parallelism, settings, RestoreFrom::Newest).await?;
    lineage.lock().unwrap().restored(&job.expected);
    for round in 0..5 {
        job.add(round * 3..round * 5 + 9)?;
        let epoch = job.barrier()?;
        lineage.lock().unwrap().states.push(job.expected.clone());
        if job.job.wait(epoch).await?.is_some() {
            let mut lineage = lineage.lock().unwrap();
            lineage.acknowledged = lineage.states.len() - 1;
        }
    }
    Ok(())
}

impl Lineage {
    fn restored(&mut self, found: &Counts) {
        self.restores += 1;
        match self.states.iter().rposition(|state| state == found) {
            Some(at) if at >= self.acknowledged => {
                self.states.truncate(at + 1);
                self.acknowledged = at;
            }
            at => self.violations.push(format!("{} was acknowledged, {at:?} restored", self.acknowledged)),
        }
    }
}

/// Executes the run of `seed`. If `guarded`, the store syncs names as a `file://` store does; else it behaves as plain
/// `object_store` does.
fn run(seed: u64, guarded: bool) -> Report {
    let mut rng = Rng::new(seed);
    let sim = Sim::new(rng.next(), Tracing::Off);
    let _ending = sim.ending();
    let disk = Disk::new(&sim);
    let lineage = Arc::new(Mutex::new(Lineage { states: vec![Counts::new()], ..Lineage::default() }));
    let mut up_to = |max: u64| if rng.permille(500) { 0 } else { rng.within(0, max) };
    let faults = DiskFaults { file_sync: up_to(60), name_sync: up_to(60) };
    for life in 1..=LIVES {
        let last = life == LIVES;
        disk.set_faults(if last { DiskFaults::default() } else { faults });
        let objects: Arc<dyn ObjectStore> = Arc::new(DiskStore::new(&sim, 0, &disk, guarded));
        let parallelism = u32::try_from(rng.within(1, 4)).expect("a small number");
        let limit = if last { HOUR_MS } else { rng.within(100, 4_000) };
        let outcome = sim.block_on(0, limit, one_life(objects, sim.clone(), parallelism, Arc::clone(&lineage)));
        match outcome {
            Some(Err(error)) if !last && ["unavailable", "denied", "stopped"].contains(&error.kind().name()) => {}
            Some(Ok(())) => {}
            None if !last => {}
            unexpected => lineage.lock().unwrap().violations.push(format!("life {life} ended in {unexpected:?}")),
        }
        sim.crash(0);
        // A power loss also restarts the machine, which ends a disk's failed state before the last life.
        if life + 1 == LIVES || rng.permille(600) {
            disk.lose_power();
        }
    }
    let lineage = lineage.lock().unwrap();
    Report {
        violations: lineage.violations.clone(),
        restores: lineage.restores,
        commits: lineage.states.len() as u64,
        points: sim.points(),
        ..Report::default()
    }
}

#[test]
fn no_acknowledged_checkpoint_is_lost_with_power() {
    let (sum, violation) = search(DISK_SEEDS.get(), |seed| run(seed, true));
    assert_eq!(violation, None, "(seed, violations)");
    sum.show("disk");
    if DISK_SEEDS.is_default() {
        let missed: Vec<_> = POINTS.iter().filter(|point| !sum.points.contains_key(*point)).collect();
        assert!(missed.is_empty(), "fault points that never fired: {missed:?}");
        assert!(sum.restores > 2 * sum.runs, "the runs do too little: {sum:?}");
    }
}

/// Proves that the simulated disk is harsh enough for the test above.
#[test]
fn acknowledging_before_the_name_is_synced_loses_a_checkpoint() {
    let (_, violation) = search(DISK_SEEDS.get(), |seed| run(seed, false));
    let (_, violations) = violation.expect("a failed sync of a folder, then a lost name");
    assert!(violations.iter().any(|violation| violation.contains("was acknowledged")), "{violations:?}");
}
