//! Many runs on all processors, until one shows a violation; and what they came to.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use alluvium_testkit::sim::{Counts, Node, Tracing};

/// How a run is to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mode {
    pub(crate) tracing: Tracing,
    /// Whether nodes crash, pause and jump in time, and the store fails, as the seed says.
    pub(crate) chaos: bool,
    /// How long nodes and faults are at it.
    pub(crate) length_ms: u64,
    /// Crash this node at this await.
    pub(crate) crash: Option<(Node, u64)>,
    /// Let some calls to the store fail, and no others.
    pub(crate) calls: Option<FailingCalls>,
}

/// Calls to the store that fail, by their number over all nodes, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FailingCalls {
    pub(crate) first: u64,
    pub(crate) count: u64,
    /// In which way: an index into the ways that there are.
    pub(crate) way: usize,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Report {
    pub(crate) violations: Vec<String>,
    pub(crate) commits: u64,
    /// Restores that were compared with the model.
    pub(crate) restores: u64,
    pub(crate) calls: u64,
    /// What became of the calls, by kind of fault.
    pub(crate) injected: Counts,
    /// How often each fault point was reached.
    pub(crate) points: Counts,
    pub(crate) awaits: BTreeMap<Node, u64>,
    pub(crate) trace_hash: u64,
}

/// What many runs came to.
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

    /// Returns how many calls did not go well.
    pub(crate) fn faults(&self) -> u64 {
        self.injected.iter().filter(|(name, _)| **name != "ok").map(|(_, count)| count).sum()
    }

    /// Prints what it came to, as a table.
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

/// Makes `count` runs on all processors and stops at the first violation.
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

#[expect(clippy::disallowed_methods, reason = "how long to look is for the caller of the test to say")]
pub(crate) fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

#[expect(clippy::print_stderr, reason = "figures for whoever runs it with --nocapture")]
pub(crate) fn show_line(line: &str) {
    eprintln!("{line}");
}
