//! SIGKILL of the server, which starts again on the same files: what it acknowledged is there, and the tool ends as
//! without the kill.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Output};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use alluvium::internals::store::{Key, KeyClass, Put};
use alluvium::{Seq, Store, StoreSettings};
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::kills::{proxy_with_fuse, rows};
use super::network::ended;
use super::place::{Kind, Place};
use super::proxy::Act;
use super::seaweedfs::SeaweedFs;
use super::setting;
use alluvium_testkit::contract::{object, store};
use alluvium_testkit::oracle::{WINDOWED, expected, sample};
use alluvium_testkit::sim::Rng;
use alluvium_testkit::tool::{Bench, json, words};

/// The writers of each of the series of races that run side by side. Two have no rivals: a race takes SeaweedFS about
/// a second, a create without rivals a few milliseconds.
const SERIES: [u8; 4] = [1, 2, 3, 1];

/// Returns the number of kills, and a generator for their times.
fn kills() -> (u64, Rng) {
    let seed = setting("ALLUVIUM_KILL_SEED", 1);
    let kills = setting("ALLUVIUM_STORE_KILLS", 20).div_ceil(5);
    println!("{kills} kills of the server, seed {seed}");
    (kills, Rng::new(seed))
}

/// Lets writers race for one name after another until nobody listens. Returns the winner's object for each name.
///
/// * `first`: the number of the first name; those of other series lie between this one's.
async fn series(store: Store, first: usize, writers: u8, won: UnboundedSender<()>) -> Vec<(Key, Bytes)> {
    let mut winners = Vec::new();
    while won.send(()).is_ok() {
        let key = Key::Manifest(Seq((first + winners.len() * SERIES.len()) as u64));
        let puts = (1..=writers).map(|writer| {
            let (put_id, bytes) = object(writer);
            let (store, key) = (&store, &key);
            async move { (store.folder().put_new(key, put_id, bytes.clone()).await.unwrap(), bytes) }
        });
        let created = join_all(puts).await.into_iter().filter(|(put, _)| *put == Put::Created);
        let [(_, bytes)] = &created.collect::<Vec<_>>()[..] else { panic!("{key} has no winner, or several") };
        winners.push((key, bytes.clone()));
    }
    winners
}

#[tokio::test(flavor = "multi_thread")]
async fn a31_racing_creates_have_one_winner_which_stays_though_the_server_is_killed() {
    let Some(mut server) = SeaweedFs::start() else { return };
    let place = Place::create_on(Kind::SeaweedFs, server.address, "creates").await;
    // Calls outlast the restart.
    let settings = StoreSettings::default().with(|it| {
        it.tries_max = usize::MAX;
        it.backoff_first = Duration::from_millis(10);
        it.backoff_max = Duration::from_millis(100);
    });
    let store = store(place.open(), &"".into(), settings);
    let (kills, mut random) = kills();
    let (sender, mut won) = unbounded_channel();
    let run = |(first, writers)| tokio::spawn(series(store.clone(), first, writers, sender.clone()));
    let all: Vec<_> = SERIES.into_iter().enumerate().map(run).collect();
    drop(sender);
    for _ in 0..kills {
        for _ in 0..random.within(20, 400) {
            won.recv().await.expect("the races go on");
        }
        server.kill();
        server.restart();
    }
    drop(won);
    let mut winners = Vec::new();
    for series in all {
        winners.extend(series.await.unwrap());
    }
    winners.sort_unstable_by_key(|(key, _)| *key);
    for (key, bytes) in &winners {
        assert_eq!(store.folder().read(key, 1_000).await.unwrap().as_ref(), Some(bytes), "{key}");
    }
    let listing = store.folder().list(KeyClass::Manifest).await.unwrap();
    let listed: Vec<Key> = listing.entries.iter().map(|(key, _)| *key).collect();
    assert_eq!(listed, winners.iter().map(|(key, _)| *key).collect::<Vec<_>>());
    println!("{} creates, {:?}", listed.len(), store.requests());
}

/// Waits for the proxy's report. Returns whether it came before the run ended.
fn burns(burnt: &Receiver<()>, run: &mut Child) -> bool {
    loop {
        match burnt.recv_timeout(Duration::from_millis(100)) {
            Ok(()) => return true,
            Err(RecvTimeoutError::Timeout) if run.try_wait().unwrap().is_none() => {}
            Err(_) => return false,
        }
    }
}

/// Returns the checkpoints that a run has logged as committed.
fn acknowledged(log: &Path) -> BTreeSet<u64> {
    let log = fs::read_to_string(log).unwrap();
    let ids = log.lines().filter(|line| line.contains("checkpoint committed")).map(|line| {
        let (_, id) = line.split_once(" id=").unwrap();
        id.split(' ').next().unwrap().parse().unwrap()
    });
    ids.collect()
}

/// Asserts that the checkpoints, of which each run has some, are there, and that the job is whole.
fn assert_kept(place: &Place, job: &str, acknowledged: &BTreeSet<u64>) {
    assert!(!acknowledged.is_empty(), "{job} has logged no checkpoint");
    let ask = |verb: &str| place.tool(words(&format!("{verb} --store {} --job {job} --json", place.url()))).output();
    let listed = json(&ask("list").unwrap());
    let listed = listed["jobs"][0]["checkpoints"].as_array().unwrap();
    let listed: BTreeSet<u64> = listed.iter().map(|checkpoint| checkpoint["id"].as_u64().unwrap()).collect();
    let lost: Vec<_> = acknowledged.difference(&listed).collect();
    assert!(lost.is_empty(), "{job}: of {acknowledged:?}, {lost:?} are lost");
    json(&ask("verify --level full").unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a31_a_run_ends_as_without_the_kill_though_the_server_is_killed() {
    let Some(mut server) = SeaweedFs::start() else { return };
    let place = Place::create_on(Kind::SeaweedFs, server.address, "runs").await;
    let (proxy, fuse, burnt) = proxy_with_fuse(&place);
    let through = place.via(proxy.address);
    let bench = Bench::new();
    let input = bench.write("sample.csv", sample::sample());
    let records = expected(sample::sample().as_bytes(), &WINDOWED).records;
    let (kills, mut random) = kills();
    for number in 0..kills {
        let (job, log, url) = (format!("j{number}"), bench.path(&format!("{number}.log")), place.url());
        let run = |rate: &str| {
            let mut args =
                words(&format!("run --store {url} --job {job} --json --interval 30ms --emit on-close {rate}"));
            args.extend(words(&format!("--input {} --output {url}/results-{job}", input.display())));
            args.extend(words("--parallelism 2 --retain 10000"));
            args.extend(WINDOWED.flags());
            let log = File::options().create(true).append(true).open(&log).unwrap();
            through.tool(args).env("RUST_LOG", "info").stderr(log).spawn().unwrap()
        };
        let requests = random.within(5, 70);
        *fuse.lock().unwrap() = Some((requests, Act::Pass));
        // At this rate the input outlasts the requests before the kill.
        let mut child = run("--rate 400");
        assert!(burns(&burnt, &mut child), "it ended before the kill: {}", fs::read_to_string(&log).unwrap());
        let before = acknowledged(&log).len();
        server.kill();
        server.restart();
        let mut output = ended(child);
        let mut end = "it went on".to_owned();
        if !output.status.success() {
            end = unavailable(&output, &log);
            output = ended(run(""));
        }
        let report = json(&output);
        assert_eq!(report["records"], records);
        assert_eq!(place.rows(&format!("some/prefix/results-{job}")).await, rows(), "{job}");
        assert_kept(&place, &job, &acknowledged(&log));
        println!("killed after {requests} requests, {before} checkpoints: {end}");
    }
}

/// Asserts that the run ended because the store was away, and returns its error.
fn unavailable(output: &Output, log: &Path) -> String {
    let log = fs::read_to_string(log).unwrap();
    assert_eq!(output.status.code(), Some(1), "{log}");
    let error = log.lines().last().unwrap_or_default().to_owned();
    assert!(error.starts_with("error[unavailable]: "), "{log}");
    error
}
