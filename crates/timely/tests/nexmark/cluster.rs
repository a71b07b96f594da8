//! A cluster of real processes that run the example.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use alluvium_testkit::tool::{Bench, kill, words};

/// How long the other processes may take to end once one has.
const FAIL_STOP: Duration = Duration::from_secs(10);
/// More than any run here takes, on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the job of a cluster lies.
pub(crate) struct Place {
    pub bench: Bench,
    query: u32,
    events: u64,
}

impl Place {
    pub(crate) fn new(query: u32, events: u64) -> Self {
        Self { bench: Bench::new(), query, events }
    }

    pub(crate) fn output(&self) -> PathBuf {
        self.bench.path("out")
    }

    /// Returns the published rows, sorted.
    pub(crate) fn rows(&self) -> Vec<String> {
        let Ok(names) = fs::read_dir(self.output()) else { return Vec::new() };
        let paths = names.map(|entry| entry.unwrap().path());
        let parts = paths.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("part-"));
        let mut rows = Vec::new();
        for part in parts {
            rows.extend(fs::read_to_string(part).unwrap().lines().skip(1).map(str::to_owned));
        }
        rows.sort_unstable();
        rows
    }

    /// Starts a process for each line of flags. They find each other at ports that are free.
    pub(crate) fn start_each(&self, flags: &[String]) -> Cluster {
        let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = listeners.iter().map(|it| it.local_addr().unwrap().to_string()).collect();
        let hosts = self.bench.write("hosts", addresses.join("\n"));
        drop(listeners);
        let command = |(process, flags): (usize, &String)| {
            let (query, events, output) = (self.query, self.events, self.output());
            let mut args =
                words(&format!("--query {query} --events {events} --output {} -p {process}", output.display()));
            args.extend(words(&format!("-h {} --json {flags}", hosts.display())));
            let log = fs::File::create(self.bench.path(&format!("log-{process}"))).unwrap();
            let mut command = Command::new(example());
            command
                .args(args)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(log)
                .env("RUST_BACKTRACE", "0")
                .spawn()
                .unwrap()
        };
        Cluster { processes: flags.iter().enumerate().map(command).collect() }
    }

    /// Starts a cluster of processes with the same flags.
    pub(crate) fn start(&self, processes: u64, threads: u64, more: &str) -> Cluster {
        let (store, each) = (self.bench.store("state"), format!("-n {processes} -w {threads} {more}"));
        self.start_each(&(0..processes).map(|_| format!("--store {store} --job j {each}")).collect::<Vec<_>>())
    }

    /// Returns what a process has written to standard error.
    pub(crate) fn log(&self, process: usize) -> String {
        fs::read_to_string(self.bench.path(&format!("log-{process}"))).unwrap()
    }

    pub(crate) fn assert_success(&self, ended: &[ExitStatus]) {
        for (process, status) in ended.iter().enumerate() {
            assert!(status.success(), "process {process}: {status}\n{}", self.log(process));
        }
    }
}

/// The example, beside the tests' own binaries.
fn example() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    tests.parent().and_then(Path::parent).unwrap().join("examples/nexmark")
}

/// Running processes, killed when dropped.
pub(crate) struct Cluster {
    processes: Vec<Child>,
}

impl Cluster {
    pub(crate) fn kill(&mut self, process: u64) {
        kill(&mut self.processes[usize::try_from(process).unwrap()]);
    }

    /// Waits until all processes have ended.
    pub(crate) fn wait(&mut self) -> Vec<ExitStatus> {
        self.wait_for(PATIENCE)
    }

    /// Waits for the processes that are left after one has ended.
    pub(crate) fn wait_to_stop(&mut self) -> Vec<ExitStatus> {
        self.wait_for(FAIL_STOP)
    }

    fn wait_for(&mut self, limit: Duration) -> Vec<ExitStatus> {
        let started = Instant::now();
        loop {
            let ended: Vec<_> = self.processes.iter_mut().map(|process| process.try_wait().unwrap()).collect();
            if ended.iter().all(Option::is_some) {
                return ended.into_iter().flatten().collect();
            }
            assert!(started.elapsed() < limit, "a process has not ended: {ended:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // Fails if it has ended.
            drop(process.kill());
            drop(process.wait());
        }
    }
}
