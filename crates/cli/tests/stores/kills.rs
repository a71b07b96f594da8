//! SIGKILL between any two requests to a store, and restarts at random parallelism: each closed window is published
//! once, with the rows of an undisturbed run.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::place::Place;
use super::proxy::{Act, Proxy};
use super::setting;
use alluvium_testkit::oracle::{WINDOWED, expected, sample};
use alluvium_testkit::sim::Rng;
use alluvium_testkit::tool::{Bench, json, kill, published, stderr, words};

/// The requests left before the kill, and the act for the last of them.
pub(crate) type Fuse = Arc<Mutex<Option<(u64, Act)>>>;

/// Starts a proxy that reports when the fuse reaches zero.
pub(crate) fn proxy_with_fuse(place: &Place) -> (Proxy, Fuse, Receiver<()>) {
    let (sender, burnt) = channel();
    let fuse = Fuse::default();
    let burning = Arc::clone(&fuse);
    let proxy = Proxy::start(place.address, move |_| {
        let mut fuse = burning.lock().unwrap();
        match fuse.take() {
            Some((0, act)) => {
                sender.send(()).unwrap();
                act
            }
            Some((left, act)) => {
                *fuse = Some((left - 1, act));
                Act::Pass
            }
            None => Act::Pass,
        }
    });
    (proxy, fuse, burnt)
}

/// Kills the process at the proxy's report.
fn kill_on_signal(mut command: Command, burnt: &Receiver<()>) {
    let mut child: Child = command.stdout(Stdio::null()).spawn().unwrap();
    while burnt.recv_timeout(Duration::from_millis(100)) == Err(RecvTimeoutError::Timeout) {
        if child.try_wait().unwrap().is_some() {
            panic!("it ended before it could be killed: {}", stderr(&child.wait_with_output().unwrap()));
        }
    }
    kill(&mut child);
}

/// Kills the tool at random requests to the store, restarts it at random parallelism, and lets it end.
///
/// * `place`: reached through the proxy of the fuse.
async fn run_under_kills(place: &Place, kills: u64, output: &str, (fuse, burnt): (&Fuse, &Receiver<()>)) {
    let csv = sample::sample();
    let answer = expected(csv.as_bytes(), &WINDOWED);
    let bench = Bench::new();
    let input = bench.write("sample.csv", &csv);
    let store = place.url();
    let mut random = Rng::from_state(setting("ALLUVIUM_KILL_SEED", 1));
    let mut run = |rate: &str| {
        let parallelism = 1 + random.below(8);
        let mut args = words(&format!("run --store {store} --job j --json --interval 30ms --emit on-close {rate}"));
        args.extend(words(&format!("--input {} --output {output}", input.display())));
        args.extend(words(&format!("--parallelism {parallelism}")));
        args.extend(WINDOWED.flags());
        (place.tool(args), random.below(60), if random.below(2) == 0 { Act::Hang } else { Act::Ignore })
    };
    // At this rate the input outlasts the kills.
    let rate = format!("--rate {}", (1_000 / kills).max(1));
    for _ in 0..kills {
        let (command, requests, act) = run(&rate);
        *fuse.lock().unwrap() = Some((requests, act));
        kill_on_signal(command, burnt);
    }
    let report = json(&run("").0.output().unwrap());
    assert_eq!(report["records"], answer.records);
    assert!(report["attempt"].as_u64().unwrap() > 1, "at least one killed run had claimed the job");
    let verify = place.tool(words(&format!("verify --store {store} --job j --level full"))).output().unwrap();
    assert_eq!(verify.status.code(), Some(0), "{:?}: {}", place.kind, stderr(&verify));
    println!("{:?}: {kills} kills, attempt {}", place.kind, report["attempt"]);
}

/// Returns the rows of an undisturbed run, sorted.
pub(crate) fn rows() -> Vec<String> {
    let answer = expected(sample::sample().as_bytes(), &WINDOWED);
    let mut rows: Vec<_> = answer.output.lines().skip(1).map(str::to_owned).collect();
    rows.sort_unstable();
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_windows_are_published_exactly_once_under_kills() {
    for place in Place::all("kills").await {
        let bench = Bench::new();
        let output = bench.path("parts");
        let (proxy, fuse, burnt) = proxy_with_fuse(&place);
        let kills = setting("ALLUVIUM_STORE_KILLS", 20);
        let through = place.via(proxy.address);
        run_under_kills(&through, kills, &output.display().to_string(), (&fuse, &burnt)).await;
        assert_eq!(published(&output), rows(), "{:?}", place.kind);
        let staged = fs::read_dir(&output).unwrap();
        let staged = staged.filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'));
        assert_eq!(staged.count(), 0, "nothing staged is left behind");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_windows_are_published_to_the_store_exactly_once_under_kills() {
    for place in Place::all("kills-out").await {
        let (proxy, fuse, burnt) = proxy_with_fuse(&place);
        let kills = setting("ALLUVIUM_STORE_KILLS", 20).div_ceil(2);
        let output = format!("{}/results", place.url());
        run_under_kills(&place.via(proxy.address), kills, &output, (&fuse, &burnt)).await;
        let published = place.rows("some/prefix/results").await;
        assert_eq!(published, rows(), "{:?}", place.kind);
    }
}
