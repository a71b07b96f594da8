//! SIGKILL of the processes of a job: the example `cluster` publishes each row exactly once, whichever process is killed, at any time.
//!
//! `ALLUVIUM_CLUSTER_KILLS` sets the number of kills (5), `ALLUVIUM_CLUSTER_SEED` who is killed and how far the job has come
//! by then. The input grows with the kills, so it does not matter how fast the machine is.
#![expect(clippy::unwrap_used, reason = "test helpers may panic")]
#![expect(
    clippy::disallowed_methods,
    reason = "other processes are waited for, and the environment says how many kills"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use alluvium_testkit::sim::Rng;
use tempfile::TempDir;

/// Each wait ends far earlier, on any machine.
const PATIENCE: Duration = Duration::from_secs(300);
const WORDS: u64 = 60;
/// Words of the input for each kill.
const CHUNK: u64 = 20_000;
/// As in the example.
const EVERY: u64 = 10;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Returns the example, which `cargo test` builds into a folder beside that of the tests.
fn example() -> Command {
    let test = std::env::current_exe().unwrap();
    let example = test.parent().and_then(Path::parent).unwrap().join("examples/cluster");
    assert!(example.exists(), "build {} first: cargo build --example cluster", example.display());
    let mut command = Command::new(example);
    command.stdin(Stdio::null());
    command
}

/// A process of the job, killed when dropped.
struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Returns whether it has taken part in an attempt.
    fn has_taken_part(&self) -> bool {
        fs::read_to_string(&self.log).unwrap().lines().any(|line| line.starts_with("attempt "))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails if the process has ended.
        let _ended = self.child.kill();
        self.child.wait().unwrap();
    }
}

/// A job, its folder and its processes.
struct Cluster {
    owner: Option<Process>,
    workers: Vec<Process>,
    started: usize,
    address: String,
    folder: TempDir,
    random: Rng,
    counts: BTreeMap<String, u64>,
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("output")).unwrap();
        File::create(folder.path().join("words.txt")).unwrap();
        let (random, counts) = (Rng::new(seed), BTreeMap::new());
        Self { owner: None, workers: Vec::new(), started: 0, address: free_address(), folder, random, counts }
    }

    fn start(&mut self, role: &str, args: &[&str]) -> Process {
        self.started += 1;
        let log = self.folder.path().join(format!("log-{:03}-{role}", self.started));
        let output = File::create(&log).unwrap();
        let store = format!("file://{}", self.folder.path().join("state").display());
        let mut command = example();
        command.args([role, &self.address, &store]).args(args).current_dir(self.folder.path());
        let child = command.stderr(output.try_clone().unwrap()).stdout(output).spawn().unwrap();
        Process { child, log }
    }

    /// Starts what is missing, and kills workers beyond `wanted`.
    fn complete_to(&mut self, wanted: usize) {
        if self.owner.is_none() {
            self.owner = Some(self.start("owner", &[&wanted.to_string(), "words.txt", "output"]));
        }
        while self.workers.len() < wanted {
            let worker = self.start("worker", &[]);
            self.workers.push(worker);
        }
        while self.workers.len() > wanted {
            let index = self.random.index(self.workers.len());
            drop(self.workers.remove(index));
        }
    }

    /// Appends words to the input, cutting the last write at any byte.
    fn grow(&mut self) {
        let mut text = String::new();
        for _ in 0..CHUNK {
            let word = format!("word-{}", self.random.below(WORDS));
            text += &word;
            text += if self.random.below(8) == 0 { "\n" } else { " " };
            *self.counts.entry(word).or_default() += 1;
        }
        text += "\n";
        let (first, rest) = text.split_at(self.random.index(text.len()));
        self.append(first);
        self.append(rest);
    }

    fn append(&self, text: &str) {
        let mut input = OpenOptions::new().append(true).open(self.folder.path().join("words.txt")).unwrap();
        input.write_all(text.as_bytes()).unwrap();
    }

    /// Returns the number of the newest manifest, and of published parts.
    fn progress(&self) -> (usize, usize) {
        let names = |folder: &str| -> Vec<String> {
            let entries = fs::read_dir(self.folder.path().join(folder)).into_iter().flatten();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        let manifests = names("state/words/manifest");
        // Others are files being written.
        let newest = manifests.iter().filter_map(|name| name.parse().ok()).max().unwrap_or(0);
        (newest, names("output").iter().filter(|name| name.starts_with("part-")).count())
    }

    fn wait(&mut self, what: &str, mut happened: impl FnMut(&mut Self) -> bool) {
        let started = Instant::now();
        while !happened(self) {
            assert!(started.elapsed() < PATIENCE, "{what} did not happen:\n{}", self.logs());
            let failed = self.codes().into_iter().flatten().find(|code| !code.success());
            assert!(failed.is_none(), "{failed:?}:\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Returns the exit code of each process that has ended by itself.
    fn codes(&mut self) -> Vec<Option<ExitStatus>> {
        let processes = self.owner.iter_mut().chain(&mut self.workers);
        processes.map(|process| process.child.try_wait().unwrap()).collect()
    }

    fn logs(&self) -> String {
        let mut names: Vec<_> = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.retain(|path| path.file_name().unwrap().to_string_lossy().starts_with("log-"));
        names.sort();
        let mut all = String::new();
        for path in names {
            let text = fs::read_to_string(&path).unwrap();
            let lines: Vec<_> = text.lines().collect();
            writeln!(all, "{}:\n  {}", path.file_name().unwrap().display(), lines.join("\n  ")).unwrap();
        }
        all
    }

    /// Kills the owner or a worker, some progress after `since`.
    fn kill_one(&mut self, since: (usize, usize), owner: bool) {
        let (manifests, parts) = (since.0 + self.random.index(8), since.1 + self.random.index(5));
        self.wait("progress", |it| {
            let (newest, published) = it.progress();
            newest >= manifests && published >= parts
        });
        if owner {
            self.owner = None;
        } else {
            let index = self.random.index(self.workers.len());
            drop(self.workers.remove(index));
        }
    }

    /// Ends the input, and waits until all processes have ended well.
    fn finish(&mut self) {
        // A worker that the owner never saw would not be told of the end.
        let mut text = String::new();
        self.wait("an attempt of all", |it| it.workers.iter().all(Process::has_taken_part));
        // The last row of each word shows its whole count.
        for (word, count) in &mut self.counts {
            let missing = count.next_multiple_of(EVERY) - *count;
            *count += missing;
            text += &format!("{word} ").repeat(usize::try_from(missing).unwrap());
        }
        self.append(&(text + "\n.\n"));
        self.wait("the end", |it| it.codes().iter().all(Option::is_some));
    }

    fn published(&self) -> Vec<String> {
        let mut rows = Vec::new();
        for entry in fs::read_dir(self.folder.path().join("output")).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_string_lossy().starts_with("part-") {
                rows.extend(fs::read_to_string(path).unwrap().lines().map(str::to_owned));
            }
        }
        rows.sort();
        rows
    }

    fn expected(&self) -> Vec<String> {
        let of = |(word, count): (&String, &u64)| {
            (1..=count / EVERY).map(|times| format!("{word} {}", times * EVERY)).collect::<Vec<_>>()
        };
        let mut rows: Vec<_> = self.counts.iter().flat_map(of).collect();
        rows.sort();
        rows
    }
}

/// Returns an address that no other process listens at. The port is below those that connections get by themselves: a
/// worker that looks for a dead owner must not meet itself.
fn free_address() -> String {
    let first = 20_000 + std::process::id() % 10_000;
    let mut ports = (first..).map(|port| format!("127.0.0.1:{port}"));
    ports.find(|address| TcpListener::bind(address).is_ok()).unwrap()
}

#[test]
fn kills_of_owner_and_workers_do_not_show_in_the_output() {
    let kills = setting("ALLUVIUM_CLUSTER_KILLS", 5);
    let mut cluster = Cluster::new(setting("ALLUVIUM_CLUSTER_SEED", 1));
    for kill in 0..kills {
        let since = cluster.progress();
        cluster.grow();
        cluster.complete_to(2 + usize::try_from(kill % 3).unwrap());
        // Every third is the owner.
        cluster.kill_one(since, kill % 3 == 1);
    }
    cluster.complete_to(3);
    cluster.grow();
    cluster.finish();
    let (published, expected) = (cluster.published(), cluster.expected());
    assert!(published == expected, "{} rows, not {}\n{}", published.len(), expected.len(), cluster.logs());
}

#[test]
fn wrong_arguments_are_explained() {
    let run = |args: &[&str]| -> (Option<i32>, String) {
        let Output { status, stderr, .. } = example().args(args).output().unwrap();
        (status.code(), String::from_utf8(stderr).unwrap())
    };
    for (args, reason) in [
        (&[][..], "usage: the arguments are"),
        (&["worker", "127.0.0.1:1"], "usage: the arguments are"),
        (&["owner", "127.0.0.1:1", "memory:///", "many", "in", "out"], "usage: not a number argument=`many`"),
    ] {
        let (code, text) = run(args);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.starts_with(reason) && text.contains("cluster worker ADDRESS STORE"), "{text}");
    }
}
