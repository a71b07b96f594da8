//! Every store call of a small job fails in turn, in every way: the restored state is the one before or the one
//! after, never anything else.

mod common;
#[path = "sim/harness/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the simulation of the protocol uses the rest")]
mod harness;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use alluvium::Result;
use alluvium::checkpoint::chain::RestoreFrom;
use alluvium::job::JobSettings;
use alluvium::store::StoreSettings;
use common::{Counting, store_on};
use harness::{Answer, Fate, Faults, Node, Sim, SimStore, StoreWorld, Tracing};
use object_store::ObjectStore;

const HOUR_MS: u64 = 3_600_000;
const CHECKPOINTS: u32 = 4;

type State = BTreeMap<Vec<u8>, u64>;

/// What a life came to: the state at each barrier, and how many of them were acknowledged.
#[derive(Debug, Default)]
struct Life {
    barriers: Vec<State>,
    acknowledged: usize,
}

/// One life of a job: it counts, and takes some checkpoints.
async fn live(
    objects: Arc<dyn ObjectStore>,
    runtime: alluvium::runtime::SharedRuntime,
    life: Arc<Mutex<Life>>,
) -> Result<()> {
    let settings = JobSettings { max_parallelism: 16, ..JobSettings::default() };
    let mut job =
        Counting::open_on(store_on(&objects, runtime, StoreSettings::default()), 2, settings, RestoreFrom::Newest)
            .await?;
    for round in 0..CHECKPOINTS {
        job.add(round * 10..round * 20 + 30)?;
        let epoch = job.barrier()?;
        life.lock().unwrap().barriers.push(job.expected.clone());
        if job.job.wait(epoch).await?.is_some() {
            let mut life = life.lock().unwrap();
            life.acknowledged = life.barriers.len();
        }
    }
    Ok(())
}

/// Lives with `faults`, dies, comes back elsewhere at another parallelism without faults, and returns how many
/// calls the first life made.
fn run(name: &str, faults: Faults) -> u64 {
    let sim = Sim::new(7, Tracing::Off);
    let world = StoreWorld::new(&sim, faults);
    let objects = |node: Node| -> Arc<dyn ObjectStore> { Arc::new(SimStore::new(&sim, node, &world)) };
    let life = Arc::new(Mutex::new(Life::default()));
    let outcome = sim.block_on(0, 2 * HOUR_MS, live(objects(0), sim.runtime(0), Arc::clone(&life)));
    let calls = world.lock().unwrap().calls();
    sim.crash(0);
    world.lock().unwrap().set_faults(Faults::none());
    let Life { barriers, acknowledged } = std::mem::take(&mut *life.lock().unwrap());

    let settings = JobSettings { max_parallelism: 16, ..JobSettings::default() };
    let store = store_on(&objects(1), sim.runtime(1), StoreSettings::default());
    let successor = async move {
        let mut job = Counting::open_on(store, 3, settings, RestoreFrom::Newest).await?;
        let restored = job.expected.clone();
        job.add(0..50)?;
        let committed = job.checkpoint().await?;
        Ok::<_, alluvium::Error>((restored, committed.is_some()))
    };
    let (restored, committed) = sim.block_on(1, HOUR_MS, successor).expect(name).expect(name);
    assert!(committed, "{name}: the successor commits");
    let possible = std::iter::once(State::new()).chain(barriers).collect::<Vec<_>>();
    let found = possible.iter().rposition(|state| *state == restored);
    let found = found.unwrap_or_else(|| panic!("{name}: a state that never was ({outcome:?})"));
    assert!(found >= acknowledged, "{name}: checkpoint {acknowledged} was acknowledged, {found} restored");
    calls
}

/// A fault's name, and the fate of a call that meets it.
type Fault = (&'static str, fn() -> Fate);

#[test]
fn every_call_fails_in_turn_in_every_way() {
    let calls = run("no fault", Faults::none());
    assert!(calls > 20, "{calls} calls");
    let fates: [Fault; 8] = [
        ("fails before", || Fate::not_applied(5, Answer::ServerError)),
        ("throttled", || Fate::not_applied(5, Answer::Throttled)),
        ("denied", || Fate::not_applied(5, Answer::Denied)),
        ("conflict, nothing landed", || Fate::not_applied(5, Answer::Conflict)),
        ("applied, told as failed", || Fate::applied_but(5, Answer::ServerError)),
        ("never answered", || Fate::silent(None)),
        ("applied, never answered", || Fate::silent(Some(5))),
        ("lands after ten minutes, never answered", || Fate::silent(Some(600_000))),
    ];
    for (name, fate) in fates {
        for first in 0..calls {
            for count in [1, 3, u64::MAX] {
                run(&format!("{name}: calls {first} and {count} on"), Faults::nth(first, count, fate));
            }
        }
    }
}
