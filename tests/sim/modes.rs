//! The ways to look for a violation.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use alluvium::canary::{Canary, plant};

use crate::harness::{Node, Tracing};
use crate::scenario::{Mode, Report, run};

/// Seeds of one CI run.
const SEEDS: u64 = 10_000;

/// Every so many seeds one is run twice.
const TWICE_EVERY: u64 = 97;

/// Scenarios that are crashed at every await.
const CRASHED_SCENARIOS: Range<u64> = 0..20;

/// Seeds within which each planted bug must be found.
const CANARY_SEEDS: u64 = 2_000;

#[expect(clippy::disallowed_methods, reason = "how long to look is for the caller of the test to say")]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// What many runs came to.
#[derive(Debug, Default)]
struct Sum {
    runs: u64,
    commits: u64,
    restores: u64,
    calls: u64,
    injected: BTreeMap<&'static str, u64>,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.commits += report.commits;
        self.restores += report.restores;
        self.calls += report.calls;
        for (name, count) in &report.injected {
            *self.injected.entry(name).or_default() += count;
        }
    }
}

/// Makes `count` runs on all processors and stops at the first violation.
fn search(count: u64, one: impl Fn(u64) -> Report + Sync) -> (Sum, Option<(u64, Vec<String>)>) {
    let (next, found) = (AtomicU64::new(0), AtomicBool::new(false));
    let (sum, violation) = (Mutex::new(Sum::default()), Mutex::new(None));
    let work = || {
        while !found.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                return;
            }
            let report = one(at);
            sum.lock().unwrap().add(&report);
            if !report.violations.is_empty() {
                found.store(true, Ordering::Relaxed);
                violation.lock().unwrap().get_or_insert((at, report.violations));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    (sum.into_inner().unwrap(), violation.into_inner().unwrap())
}

fn known_seeds() -> Vec<u64> {
    let lines = include_str!("seeds.txt").lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines.map(|line| line.split_whitespace().next().unwrap().parse().expect("a line begins with a seed")).collect()
}

#[test]
fn random_seeds() {
    for seed in known_seeds() {
        let report = run(seed, Mode::RANDOM);
        assert!(report.violations.is_empty(), "seed {seed} fails again: {:#?}", report.violations);
    }
    let (sum, violation) = search(setting("ALLUVIUM_SIM_SEEDS").unwrap_or(SEEDS), |seed| {
        if seed % TWICE_EVERY != 0 {
            return run(seed, Mode::RANDOM);
        }
        let hashed = Mode { tracing: Tracing::Hash, ..Mode::RANDOM };
        let mut report = run(seed, hashed);
        if run(seed, hashed) != report {
            report.violations.push("the same seed gave another run".into());
        }
        report
    });
    if let Some((seed, violations)) = violation {
        panic!(
            "seed {seed}: {violations:#?}\nsee it: ALLUVIUM_SIM_SEED={seed} cargo test --test sim replay -- --nocapture"
        );
    }
    show(&sum);
    assert!(sum.commits > sum.runs && sum.restores > sum.runs, "the runs do too little: {sum:?}");
}

#[test]
fn crash_at_every_await() {
    let mut points: Vec<(u64, Node, u64)> = Vec::new();
    for seed in CRASHED_SCENARIOS {
        for (node, awaits) in run(seed, Mode::CALM).awaits {
            points.extend((1..=awaits).map(|k| (seed, node, k)));
        }
    }
    let (sum, violation) = search(points.len() as u64, |at| {
        let (seed, node, k) = points[usize::try_from(at).unwrap()];
        run(seed, Mode { crash: Some((node, k)), ..Mode::CALM })
    });
    if let Some((at, violations)) = violation {
        let (seed, node, k) = points[usize::try_from(at).unwrap()];
        panic!(
            "seed {seed}, node {node} crashed at await {k}: {violations:#?}\nsee it: ALLUVIUM_SIM_SEED={seed} \
             ALLUVIUM_SIM_NODE={node} ALLUVIUM_SIM_AWAIT={k} cargo test --test sim replay -- --nocapture"
        );
    }
    show(&sum);
}

#[test]
fn planted_bugs_are_found() {
    for canary in [
        Canary::TrustAlreadyExists,
        Canary::TrustUnknown,
        Canary::DeleteAfterUnknown,
        Canary::SkipFence,
        Canary::SweepInFlight,
        Canary::CollectShared,
    ] {
        let (sum, violation) = search(CANARY_SEEDS, |seed| {
            plant(Some(canary));
            let report = run(seed, Mode::RANDOM);
            plant(None);
            report
        });
        let (seed, violations) =
            violation.unwrap_or_else(|| panic!("{canary:?} was not found in {CANARY_SEEDS} seeds"));
        show_line(&format!("{canary:?} found by seed {seed} after {} runs: {}", sum.runs, violations[0]));
    }
}

#[test]
fn replay() {
    let Some(seed) = setting("ALLUVIUM_SIM_SEED") else { return };
    let crash = setting("ALLUVIUM_SIM_NODE").map(|node| {
        (usize::try_from(node).unwrap(), setting("ALLUVIUM_SIM_AWAIT").expect("which await the node crashes at"))
    });
    let mode = if crash.is_some() { Mode::CALM } else { Mode::RANDOM };
    let report = run(seed, Mode { tracing: Tracing::Print, crash, ..mode });
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
}

fn show(sum: &Sum) {
    let Sum { runs, commits, restores, calls, injected } = sum;
    show_line(&format!("{runs} runs, {commits} commits, {restores} restores, {calls} store calls: {injected:?}"));
}

#[expect(clippy::print_stderr, reason = "figures for whoever runs it with --nocapture")]
fn show_line(line: &str) {
    eprintln!("{line}");
}
