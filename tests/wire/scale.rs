//! Owners of many workers. The size of manifests and messages is tested; CPU time is measured by hand:
//! `cargo test --release --test wire -- --ignored --nocapture scale`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use alluvium::manifest::Manifest;
use alluvium::{JobBuilder, JobSettings, OperatorSpec, Result};
use alluvium_testkit::COUNT;
use alluvium_testkit::forged::Forged;
use alluvium_testkit::fuzz::world::{self, Objects};

/// How many workers a job has, and where their subtask manifests lie.
#[derive(Debug, Clone, Copy)]
struct Size {
    workers: u32,
    seats: u32,
    sliced: bool,
}

/// What one attempt costs the owner: CPU time, which includes what the forged workers take to make their messages, and
/// bytes.
#[derive(Debug, Default)]
struct Cost {
    cpu: BTreeMap<&'static str, Duration>,
    manifest_bytes: usize,
    assignment_bytes: usize,
}

/// Returns the process's CPU time so far, in steps of 10 ms; zero where it cannot be read.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    Duration::from_millis(fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10)
}

impl Cost {
    fn record(&mut self, what: &'static str, since: &mut Duration) {
        let now = cpu();
        self.cpu.insert(what, now.saturating_sub(std::mem::replace(since, now)));
    }
}

/// Opens a job on forged workers, commits three checkpoints, and opens it again at the same and at another parallelism.
async fn attempt(Size { workers, seats, sliced }: Size) -> Result<Cost> {
    let (memory, store) = world::store(&Objects::new(), 1).await;
    let settings = JobSettings::default().with(|it| it.max_parallelism = 32_768);
    let operator = OperatorSpec::new(COUNT, "count", workers * seats);
    let mut owner = JobBuilder::new(store).settings(settings).operator(operator).owner()?;
    let (mut cost, mut since) = (Cost::default(), cpu());
    let mut forged: Vec<_> = (1..=u64::from(workers)).map(|number| Forged::greeted(&owner, number)).collect();
    cost.record("1 greet", &mut since);
    let connected = owner.watch_workers().borrow().clone();
    let job = owner.open(&owner.seat_evenly(&connected), "").await?;
    hear(&mut forged);
    cost.record("2 open empty", &mut since);
    for step in ["3 first commit", "4 second commit", "5 third commit"] {
        let barrier = job.trigger()?.expect("nothing is in flight");
        for worker in &mut forged {
            worker.acknowledge(worker.answer(barrier.epoch, sliced))?;
        }
        assert!(job.wait(barrier).await?.is_some(), "{:?}", job.progress().last_decline);
        cost.record(step, &mut since);
    }
    let dump = world::dump(&memory).await;
    let newest =
        dump.range("job/manifest/".to_owned()..).take_while(|(key, _)| key.starts_with("job/manifest/")).last();
    cost.manifest_bytes = newest.map_or(0, |(_, manifest)| manifest.len());
    hear(&mut forged);
    since = cpu();
    for (step, parallelism) in [("6 open", workers * seats), ("7 open rescaled", workers * seats - 1)] {
        owner.set_parallelism(COUNT, parallelism)?;
        let _job = owner.open(&owner.seat_evenly(&connected), "").await?;
        cost.assignment_bytes = hear(&mut forged);
        cost.record(step, &mut since);
    }
    let _decodes = newest.map(|(_, bytes)| Manifest::decode(bytes, alluvium::Seq(4)).unwrap());
    Ok(cost)
}

/// Takes all messages, and returns their bytes.
fn hear(workers: &mut [Forged]) -> usize {
    workers.iter_mut().map(Forged::hear_all).sum()
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, manifest_bytes, assignment_bytes } = self;
        write!(f, "{cpu:?}, manifest {manifest_bytes} bytes, assignments {assignment_bytes} bytes")
    }
}

#[test]
fn manifests_and_assignments_of_many_workers_stay_small() -> Result<()> {
    for sliced in [false, true] {
        let size = Size { workers: 100, seats: 4, sliced };
        let cost = world::run(attempt(size))?;
        // Each subtask has one segment.
        assert!(cost.manifest_bytes <= 100 * 2 * 400, "{size:?}: {cost}");
        // Beside its seats' sources each worker gets about half a kilobyte, and at a border one source more.
        assert!(cost.assignment_bytes <= 100 * 1024 + 500 * 250, "{size:?}: {cost}");
    }
    Ok(())
}

#[test]
#[expect(clippy::print_stdout, reason = "figures for --nocapture")]
#[ignore = "measures CPU time; see the head of this file"]
fn scale() -> Result<()> {
    for (workers, seats) in [(250, 4), (1000, 4), (2500, 4), (1000, 10)] {
        for sliced in [false, true] {
            let size = Size { workers, seats, sliced };
            let cost = world::run(attempt(size))?;
            println!("{size:?}: {cost}");
        }
    }
    Ok(())
}
