//! A job of the tool in a real folder, several checkpoints into its input, and its invariants after any end of the next
//! run.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;

use crate::committed::Committed;
use crate::shim::{Call, Shim, calls};
use alluvium_testkit::oracle::{Answer, Spec, Windows, expected};
use alluvium_testkit::tool::{self, Bench, json, published, run, words};
use serde_json::Value;

/// One-second windows over a small input.
const SPEC: Spec = Spec {
    key: "k",
    agg: "count,sum:v",
    window: Some(Windows { time: "t", size_ms: 1000, lateness_ms: 0 }),
    skip_bad: false,
};

/// When the job writes its results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Emit {
    /// One file, at the end.
    End,
    /// Parts in a folder, as windows close.
    OnClose,
}

/// A job stopped in the middle of its input.
pub(crate) struct Scene {
    bench: Bench,
    emit: Emit,
    answer: Answer,
    pub(crate) committed: Committed,
}

/// A copy of the scene, to be damaged.
pub(crate) struct Case<'a> {
    scene: &'a Scene,
    bench: Bench,
    /// Whether runs use the scene's folder of local copies.
    local: bool,
}

/// The outcome of a run.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit code; `None` if killed.
    pub(crate) code: Option<i32>,
    pub(crate) stderr: String,
    pub(crate) calls: Vec<Call>,
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

impl Scene {
    pub(crate) fn new(emit: Emit) -> Self {
        let bench = Bench::new();
        let records = (0..24).map(|n| format!("key{},{},{}\n", n % 5, n, n * 250));
        let csv = "k,v,t\n".to_owned() + &records.collect::<String>();
        bench.write("in.csv", &csv);
        fs::create_dir(bench.path("work")).unwrap();
        for limit in [6, 12, 15] {
            let disk = bench.path("disk");
            json(&run(arguments(&bench, &bench, emit, &format!("--limit {limit} --disk {}", disk.display()))));
        }
        if emit == Emit::End {
            fs::remove_file(bench.path("work/out.csv")).unwrap();
        }
        let committed = Committed::in_folder(&bench.store("work/state"));
        assert_eq!(committed.0.len(), 3);
        Self { answer: expected(csv.as_bytes(), &SPEC), bench, emit, committed }
    }

    pub(crate) fn copy(&self) -> Case<'_> {
        let bench = Bench::new();
        copy(&self.bench.path("work"), &bench.path("work"));
        Case { scene: self, bench, local: false }
    }

    /// Returns a copy whose runs use a copy of the folder of local copies.
    pub(crate) fn copy_with_disk(&self) -> Case<'_> {
        let mut case = self.copy();
        copy(&self.bench.path("disk"), &case.disk());
        case.local = true;
        case
    }
}

fn arguments(input: &Bench, bench: &Bench, emit: Emit, extra: &str) -> Vec<String> {
    let (flag, output) = match emit {
        Emit::End => ("", "work/out.csv"),
        Emit::OnClose => ("--emit on-close", "work/parts"),
    };
    let mut args = words(&format!("run --job j --json --retain 100 --parallelism 2 {flag} {extra}"));
    args.extend(["--store".to_owned(), bench.store("work/state")]);
    args.extend(["--input".to_owned(), input.path("in.csv").display().to_string()]);
    args.extend(["--output".to_owned(), bench.path(output).display().to_string()]);
    args.extend(SPEC.flags());
    args
}

impl Case<'_> {
    /// Returns a path in the folder of the store and the output.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.bench.path("work").join(name)
    }

    pub(crate) fn store(&self) -> String {
        self.bench.store("work/state")
    }

    /// Returns the folder of local copies.
    pub(crate) fn disk(&self) -> PathBuf {
        self.bench.path("disk")
    }

    fn arguments(&self, extra: &str) -> Vec<String> {
        let disk = if self.local { format!("--disk {}", self.disk().display()) } else { String::new() };
        arguments(&self.scene.bench, &self.bench, self.scene.emit, &format!("{extra} {disk}"))
    }

    /// Returns a shim over the case's files.
    pub(crate) fn shim(&self) -> Shim {
        Shim::below(&self.bench.path("work"))
    }

    /// Runs the job from its last checkpoint to the end of its input.
    pub(crate) fn run(&self, shim: &Shim) -> Ended {
        self.tool(shim, self.arguments(""))
    }

    /// Runs the tool under `shim`.
    pub(crate) fn tool(&self, shim: &Shim, args: Vec<String>) -> Ended {
        let (mut command, log) = (tool::tool(args), self.bench.path("calls"));
        shim.under(&mut command, &log);
        let (code, stderr) = patiently(&mut command);
        Ended { code, stderr, calls: calls(&log) }
    }

    /// Checks the invariants after any end of a run: committed checkpoints stand, a file with its final name is whole,
    /// and the next run completes with the right result and leaves nothing else behind.
    pub(crate) fn check(&self, ended: &Ended, what: &str) {
        ended.check(what);
        self.scene.committed.check_folder(&self.store(), what);
        self.check_output(ended.code == Some(0), what);
        self.check_result();
        self.scene.committed.check_folder(&self.store(), what);
        self.check_nothing_is_left(what);
    }

    /// Checks that the output folder contains only results and its owner file.
    pub(crate) fn check_nothing_is_left(&self, what: &str) {
        let output = self.scene.emit == Emit::OnClose;
        for entry in fs::read_dir(self.path(if output { "parts" } else { "" })).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let known = name.starts_with("part-")
                || name.starts_with("_slot-")
                // Not listed by the last attempt, and kept until the next does not list it either.
                || (name.starts_with(".staged-") && name.contains("-part-"))
                || ["_owner.json", "state", "out.csv"].contains(&name.as_str());
            assert!(known, "{what}: {name} is left behind");
        }
    }

    /// Starts the job from its last checkpoint and returns it once `shim` stops it; `None` if the job ends before.
    pub(crate) fn start_until_stopped(&self, shim: &Shim) -> Option<Child> {
        let mut command = tool::tool(self.arguments(""));
        shim.under(&mut command, &self.bench.path("calls"));
        let mut child = command.spawn().unwrap();
        let stat = format!("/proc/{}/stat", child.id());
        loop {
            match fs::read_to_string(&stat).unwrap().rsplit(") ").next().and_then(|state| state.chars().next()) {
                Some('T') => return Some(child),
                Some('Z') => {
                    child.wait().unwrap();
                    return None;
                }
                _ => thread::yield_now(),
            }
        }
    }

    /// Runs the job to completion, undisturbed, with extra flags.
    pub(crate) fn run_on(&self, extra: &str) {
        json(&run(self.arguments(extra)));
    }

    /// Runs the job to completion, undisturbed, checks its result, and returns its report.
    pub(crate) fn check_result(&self) -> Value {
        let report = json(&run(self.arguments("")));
        self.check_output(true, "undisturbed");
        report
    }

    pub(crate) fn check_output(&self, complete: bool, what: &str) {
        match self.scene.emit {
            Emit::End => {
                let found = fs::read_to_string(self.path("out.csv")).ok();
                assert!(found.is_some() || !complete, "{what}: no result");
                assert!(found.is_none_or(|found| found == self.scene.answer.output), "{what}: half a result");
            }
            Emit::OnClose => {
                let mut rows: Vec<&str> = self.scene.answer.output.lines().skip(1).collect();
                rows.sort_unstable();
                let found = published(&self.path("parts"));
                assert!(found.iter().all(|row| rows.contains(&row.as_str())), "{what}: {found:?}");
                assert!(!complete || found == rows, "{what}: {found:?}");
            }
        }
    }
}

impl Ended {
    /// Checks that the run succeeded, was killed, or failed with a clear error.
    fn check(&self, what: &str) {
        let Self { code, stderr, .. } = self;
        assert!(!stderr.contains("panicked"), "{what}: {stderr}");
        let last = stderr.lines().last().unwrap_or_default();
        let clear =
            ["unavailable", "denied", "not_found"].iter().any(|kind| last.starts_with(&format!("error[{kind}]: ")));
        assert!(matches!(code, None | Some(0)) || *code == Some(1) && clear, "{what}: {code:?}: {stderr}");
    }
}

/// Log messages of a commit that retries until its outcome is known.
const WAITS: [&str; 2] = ["outcome of a commit is unknown", "cannot tell whether a newer attempt has begun"];

/// Runs a process to its end and returns its exit code and standard error. A process that reports waiting for its store
/// is killed, because it would wait forever.
fn patiently(command: &mut Command) -> (Option<i32>, String) {
    let mut child: Child = command.spawn().unwrap();
    let (lines, mut stdout) = (BufReader::new(child.stderr.take().unwrap()), child.stdout.take().unwrap());
    let drain = thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    let mut stderr = String::new();
    for line in lines.lines().map_while(Result::ok) {
        stderr.push_str(&line);
        stderr.push('\n');
        if WAITS.iter().any(|waits| line.contains(waits)) {
            child.kill().unwrap();
        }
    }
    drain.join().unwrap().unwrap();
    (child.wait().unwrap().code(), stderr)
}
