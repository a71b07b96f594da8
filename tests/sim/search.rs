//! Many runs on all processors, until one violates an invariant; and their totals.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use alluvium_testkit::sim::{Counts, Fate, Node, Tracing};

/// The parameters of a run beside its seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mode {
    pub(crate) tracing: Tracing,
    /// Whether nodes crash, pause and jump in time, as drawn from the seed.
    pub(crate) chaos: bool,
    /// Virtual time with faults.
    pub(crate) length_ms: u64,
    /// A node to crash, and at which of its awaits.
    pub(crate) crash: Option<(Node, u64)>,
    /// The only store calls that fail, instead of drawn ones.
    pub(crate) calls: Option<FailingCalls>,
}

/// Failing store calls, numbered over all nodes from 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FailingCalls {
    pub(crate) first: u64,
    pub(crate) count: u64,
    /// Makes the fate of each failing call.
    pub(crate) fate: fn() -> Fate,
}

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Report {
    pub(crate) violations: Vec<String>,
    pub(crate) commits: u64,
    /// Restores compared with the model.
    pub(crate) restores: u64,
    pub(crate) calls: u64,
    /// Store calls by outcome.
    pub(crate) injected: Counts,
    /// How often each fault point was reached.
    pub(crate) points: Counts,
    pub(crate) awaits: BTreeMap<Node, u64>,
    pub(crate) trace_hash: u64,
}

/// Totals over many runs.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    pub(crate) runs: u64,
    pub(crate) commits: u64,
    pub(crate) restores: u64,
    pub(crate) calls: u64,
    pub(crate) injected: Counts,
    pub(crate) points: Counts,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.commits += report.commits;
        self.restores += report.restores;
        self.calls += report.calls;
        for (sum, counts) in [(&mut self.injected, &report.injected), (&mut self.points, &report.points)] {
            counts.iter().for_each(|(name, count)| *sum.entry(name).or_default() += count);
        }
    }

    /// Returns the number of faulty calls.
    pub(crate) fn faults(&self) -> u64 {
        self.injected.iter().filter(|(name, _)| **name != "ok").map(|(_, count)| count).sum()
    }

    /// Prints the totals as a table.
    pub(crate) fn show(&self, name: &str) {
        let Self { runs, commits, restores, calls, injected, points } = self;
        let faults = self.faults();
        show_line(&format!(
            "{name}: {runs} runs, {commits} commits, {restores} restores, {calls} store calls, {faults} of them faulty"
        ));
        for (title, counts) in [("calls", injected), ("points", points)] {
            for (name, count) in counts {
                show_line(&format!("  {title:<6} {name:<56} {count:>12}"));
            }
        }
    }
}

/// Executes `count` runs on all processors and stops at the first violation.
pub(crate) fn search(count: u64, one: impl Fn(u64) -> Report + Sync) -> (Sum, Option<(u64, Vec<String>)>) {
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

#[expect(clippy::disallowed_methods, reason = "the environment sets the amount of work")]
pub(crate) fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

#[expect(clippy::print_stderr, reason = "figures for --nocapture")]
pub(crate) fn show_line(line: &str) {
    eprintln!("{line}");
}
