//! Search modes, for the core and for the whole stack.

use alluvium::internals::canary::{Canary, plant};

use crate::budget::{Budget, CANARY_SEEDS, CORE_CRASHED, CORE_SEEDS, TWICE_EVERY};
use crate::points;
use crate::scenario::run;
use crate::search::{Mode, Report, Sum, search, setting, show_line};
use alluvium_testkit::sim::{Node, Tracing};

/// A simulation to search for violations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    /// Path of the test that replays one seed.
    pub(crate) replay: &'static str,
    /// Environment variable with the seed to replay.
    pub(crate) variable: &'static str,
    pub(crate) run: fn(u64, Mode) -> Report,
    pub(crate) random: Mode,
    pub(crate) calm: Mode,
    /// Seeds that failed in the past.
    pub(crate) known: &'static str,
    /// Fault points that random seeds must reach.
    pub(crate) points: &'static [&'static str],
}

const CORE: Suite = Suite {
    name: "core",
    replay: "modes::replay",
    variable: "ALLUVIUM_SIM_SEED",
    run,
    random: Mode::RANDOM,
    calm: Mode::CALM,
    known: include_str!("seeds.txt"),
    points: points::CORE,
};

impl Suite {
    /// Runs past failures, then many seeds, some of them twice. Returns the totals.
    pub(crate) fn random_seeds(self, seeds: Budget) -> Sum {
        for seed in self.known_seeds() {
            let report = (self.run)(seed, self.random);
            assert!(report.violations.is_empty(), "seed {seed} fails again: {:#?}", report.violations);
        }
        let (sum, violation) = search(seeds.get(), |seed| {
            if seed % TWICE_EVERY != 0 {
                return (self.run)(seed, self.random);
            }
            let hashed = Mode { tracing: Tracing::Hash, ..self.random };
            let mut report = (self.run)(seed, hashed);
            if (self.run)(seed, hashed) != report {
                report.violations.push("I10: two runs of one seed differ".into());
            }
            report
        });
        if let Some((seed, violations)) = violation {
            panic!("{} seed {seed}: {violations:#?}\n{}", self.name, self.hint(seed, ""));
        }
        sum.show(self.name);
        if seeds.is_default() {
            let missed: Vec<_> = self.points.iter().filter(|point| !sum.points.contains_key(*point)).collect();
            assert!(missed.is_empty(), "{}: fault points that never fired: {missed:#?}", self.name);
        }
        sum
    }

    /// Repeats `scenarios` calm runs, once for each await of each node, with a crash at that await.
    pub(crate) fn crash_at_every_await(self, scenarios: Budget) -> Sum {
        let mut points: Vec<(u64, Node, u64)> = Vec::new();
        for seed in 0..scenarios.get() {
            for (node, awaits) in (self.run)(seed, self.calm).awaits {
                points.extend((1..=awaits).map(|k| (seed, node, k)));
            }
        }
        let (sum, violation) = search(points.len() as u64, |at| {
            let (seed, node, k) = points[usize::try_from(at).unwrap()];
            (self.run)(seed, Mode { crash: Some((node, k)), ..self.calm })
        });
        if let Some((at, violations)) = violation {
            let (seed, node, k) = points[usize::try_from(at).unwrap()];
            let hint = self.hint(seed, &format!("ALLUVIUM_SIM_NODE={node} ALLUVIUM_SIM_AWAIT={k} "));
            panic!("{} seed {seed}, node {node} crashed at await {k}: {violations:#?}\n{hint}", self.name);
        }
        sum.show(&format!("{}, crashed at every await of {} scenarios", self.name, scenarios.get()));
        sum
    }

    /// Repeats the run that the environment names, and prints its trace.
    pub(crate) fn replay(self) {
        let Some(seed) = setting(self.variable) else { return };
        let crash = setting("ALLUVIUM_SIM_NODE").map(|node| {
            (usize::try_from(node).unwrap(), setting("ALLUVIUM_SIM_AWAIT").expect("ALLUVIUM_SIM_AWAIT names the await"))
        });
        let mode = if crash.is_some() { self.calm } else { self.random };
        let report = (self.run)(seed, Mode { tracing: Tracing::Print, crash, ..mode });
        assert!(report.violations.is_empty(), "{:#?}", report.violations);
    }

    fn hint(self, seed: u64, more: &str) -> String {
        let Self { replay, variable, .. } = self;
        format!("to replay: {variable}={seed} {more}cargo test --test sim {replay} -- --exact --nocapture")
    }

    fn known_seeds(self) -> Vec<u64> {
        let lines = self.known.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
        let seed = |line: &str| line.split_whitespace().next()?.parse().ok();
        lines.map(|line| seed(line).expect("each line begins with a seed")).collect()
    }
}

#[test]
fn random_seeds() {
    let sum = CORE.random_seeds(CORE_SEEDS);
    assert!(sum.commits > sum.runs && sum.restores > sum.runs, "the runs do too little: {sum:?}");
    if CORE_SEEDS.is_default() {
        assert!(sum.faults() >= 1_000_000, "{} faults", sum.faults());
        assert!(sum.restores >= 100_000, "{} restores", sum.restores);
    }
}

#[test]
fn crash_at_every_await() {
    let sum = CORE.crash_at_every_await(CORE_CRASHED);
    assert!(!CORE_CRASHED.is_default() || sum.runs >= 16_000, "{} runs", sum.runs);
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
        let (sum, violation) = search(CANARY_SEEDS.get(), |seed| {
            plant(Some(canary));
            let report = run(seed, Mode::RANDOM);
            plant(None);
            report
        });
        let (seed, violations) =
            violation.unwrap_or_else(|| panic!("{canary:?} was not found in {} seeds", CANARY_SEEDS.get()));
        show_line(&format!("{canary:?} found by seed {seed} after {} runs: {}", sum.runs, violations[0]));
    }
}

#[test]
fn replay() {
    CORE.replay();
}
