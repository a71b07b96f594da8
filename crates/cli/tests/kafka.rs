//! Closed windows in a topic of a broker for tests: each row once, whatever is killed.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use alluvium_testkit::kafka::{ApiKey, Broker, Control};
use alluvium_testkit::oracle::{DAY_MS, Spec, WINDOWED, Windows, sample};
use alluvium_testkit::sim::Rng;
use alluvium_testkit::tool::{Bench, fails, json, kill, stderr, tool, words};
use serde_json::Value;

/// Runs that are disturbed. Each reads a further part of the input.
const DISTURBED: u64 = 12;

const TOPIC: &str = "closed";

/// Windows of a day: nearly every checkpoint closes some.
const DAYS: Spec = Spec { window: Some(Windows { time: "start_time", size_ms: DAY_MS, lateness_ms: 0 }), ..WINDOWED };

/// Names and cells of a row, sorted by name.
type Row = Vec<(String, String)>;

/// Returns the command of a run with the sample as its input.
fn run_to(bench: &Bench, store: &str, output: &str, more: &str) -> Command {
    let (store, input) = (bench.store(store), bench.write("sample.csv", sample::sample()));
    let mut args = words(&format!("run --store {store} --job j --json --output {output} {more}"));
    args.extend(words(&format!("--input {}", input.display())));
    args.extend(DAYS.flags());
    let mut command = tool(args);
    command.env_remove("KAFKA_PASSWORD");
    command
}

/// Returns the rows of an undisturbed run to a file, sorted.
fn rows_in_a_file(bench: &Bench) -> Vec<Row> {
    let output = bench.path("out.csv");
    json(&run_to(bench, "file", &output.display().to_string(), "").output().unwrap());
    let mut reader = csv::Reader::from_path(output).unwrap();
    let names = reader.headers().unwrap().clone();
    let row = |record: csv::StringRecord| {
        let mut row: Row = names.iter().zip(&record).map(|(name, cell)| (name.to_owned(), cell.to_owned())).collect();
        row.sort_unstable();
        row
    };
    let mut rows: Vec<_> = reader.records().map(|record| row(record.unwrap())).collect();
    rows.sort_unstable();
    rows
}

/// Returns the cells of a JSON object, with an empty text for null.
fn cells(object: &[u8]) -> Row {
    let object: serde_json::Map<String, Value> = serde_json::from_slice(object).unwrap();
    object.into_iter().map(|(name, cell)| (name, cell.as_str().unwrap_or_default().to_owned())).collect()
}

/// Returns the rows that a reader with `isolation.level=read_committed` gets, sorted, after checking that no key is there twice.
fn rows_in_the_topic(broker: &Broker) -> Vec<Row> {
    let mut keys = BTreeSet::new();
    let mut rows = Vec::new();
    for record in broker.committed(TOPIC) {
        let (key, row) = (cells(record.key.as_deref().unwrap()), cells(record.value.as_deref().unwrap()));
        let names: Vec<_> = key.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["test", "vm_id", "window_start"]);
        assert!(key.iter().all(|cell| row.contains(cell)), "{key:?} is not the key of {row:?}");
        assert!(keys.insert(key), "published twice: {row:?}");
        rows.push(row);
    }
    rows.sort_unstable();
    rows
}

/// What happens to a run at one of its requests.
#[derive(Debug, Clone, Copy)]
struct Disturbance {
    api: ApiKey,
    /// Which request to `api`, counted from 1. It and all later ones stay without an answer, so that the run cannot end first.
    at: u64,
    /// Whether the request takes effect.
    is_applied: bool,
    is_killed: bool,
    broker_crashes: bool,
}

impl Disturbance {
    fn draw(random: &mut Rng, parallelism: u64) -> Self {
        let mut either = || random.below(2) == 0;
        let api = if either() { ApiKey::Produce } else { ApiKey::EndTxn };
        let (is_applied, is_killed) = (either(), either());
        // The fence of each subtask makes one, and publications at least one more.
        let at = 1 + random.below(parallelism + 6);
        Self { api, at, is_applied, is_killed, broker_crashes: !is_killed || random.below(3) == 0 }
    }

    /// Returns what receives a message when the request arrives.
    fn await_on(self, broker: &Broker) -> Receiver<()> {
        let (arrived, arrival) = channel();
        let seen = AtomicU64::new(0);
        broker.on(self.api, move |_| match seen.fetch_add(1, Ordering::Relaxed) + 1 {
            count if count < self.at => Control::Pass,
            count => {
                // The first one alone is awaited.
                let _ended = arrived.send(());
                match count == self.at && self.is_applied {
                    true => Control::ApplyThen(Box::new(Control::Silence)),
                    false => Control::Silence,
                }
            }
        });
        arrival
    }

    /// Disturbs a run. One that is not killed must end well. Returns whether it was reached before its end.
    fn act(self, broker: &Broker, mut child: Child) -> bool {
        let arrival = self.await_on(broker);
        let is_reached = is_reached(&mut child, &arrival);
        if is_reached && self.is_killed {
            kill(&mut child);
        }
        if is_reached && self.broker_crashes {
            broker.crash(0);
        }
        broker.clear_hooks();
        broker.restart(0);
        if !(is_reached && self.is_killed) {
            json(&child.wait_with_output().unwrap());
        }
        is_reached
    }
}

/// Waits until the awaited request arrives, or the run ends.
fn is_reached(child: &mut Child, arrival: &Receiver<()>) -> bool {
    loop {
        match arrival.recv_timeout(Duration::from_millis(10)) {
            Ok(()) => return true,
            Err(RecvTimeoutError::Timeout) if child.try_wait().unwrap().is_none() => {}
            Err(_) => return false,
        }
    }
}

fn each_row_is_there_once(version: i16) {
    let broker = Broker::start(version);
    assert!(broker.create_topic(TOPIC, 3));
    let bench = Bench::new();
    let expected = rows_in_a_file(&bench);
    let mut random = Rng::new(version.unsigned_abs().into());
    let output = format!("kafka://{}/{TOPIC}", broker.address());
    let records = 2_400;
    let (mut kills, mut certain) = (0, 0);
    for part in 1..=DISTURBED {
        let parallelism = 1 + random.below(4);
        let disturbance = Disturbance::draw(&mut random, parallelism);
        let limit = part * records / (DISTURBED + 1);
        // The rate makes many checkpoints of a part; the outcome does not depend on how many.
        let more = format!("--emit on-close --interval 20ms --rate 400 --limit {limit} --parallelism {parallelism}");
        let child = run_to(&bench, "topic", &output, &more).spawn().unwrap();
        let is_reached = disturbance.act(&broker, child);
        assert!(is_reached || disturbance.at > parallelism + 1, "never reached: {disturbance:?}");
        kills += u64::from(is_reached && disturbance.is_killed);
        certain += u64::from(disturbance.at <= parallelism + 1 && disturbance.is_killed);
    }
    assert!(certain > 0 && kills >= certain, "{kills} of {certain}");
    json(&run_to(&bench, "topic", &output, "--emit on-close --parallelism 2").output().unwrap());
    let found = rows_in_the_topic(&broker);
    assert!(found == expected, "{} rows in the topic, {} in the file", found.len(), expected.len());
}

#[test]
fn each_row_is_there_once_whatever_is_killed_with_transactions_of_version_1() {
    each_row_is_there_once(1);
}

#[test]
fn each_row_is_there_once_whatever_is_killed_with_transactions_of_version_2() {
    each_row_is_there_once(2);
}

#[test]
fn a_topic_that_does_not_fit_is_refused_before_the_claim() {
    let broker = Broker::start(2);
    let bench = Bench::new();
    let run = |output: &str| run_to(&bench, "s", output, "--emit on-close").output().unwrap();
    let absent = fails(&run(&format!("kafka://{}/absent", broker.address())), "not_found");
    assert!(absent.contains("topic=`absent`"), "{absent}");
    fails(&run("kafka://127.0.0.1:1/t"), "unavailable");
    for (bad, part) in [
        ("kafka://h:9092/t?ssl", "takes ?tls"),
        ("kafka://h:9092", "kafka://[user@]host:port"),
        ("kafka://h:9092/t/u", "kafka://[user@]host:port"),
        ("kafka://me@h:9092/t", "needs ?plain"),
        ("kafka://h:9092/t?plain", "needs a user"),
        ("kafka://me@h:9092/t?plain", "set KAFKA_PASSWORD"),
        ("kafka://me:hunter2@h:9092/t?plain", "set KAFKA_PASSWORD"),
    ] {
        let error = fails(&run(bad), "config");
        assert!(error.contains(part) && !error.contains("hunter2"), "{bad}: {error}");
    }
    let at_the_end = run_to(&bench, "s", &format!("kafka://{}/t", broker.address()), "").output().unwrap();
    assert!(fails(&at_the_end, "config").contains("--emit on-close"));
    assert!(!bench.path("s").join("j").exists(), "nothing was claimed");
}

#[test]
fn the_password_is_in_no_log_no_error_and_no_checkpoint() {
    const PASSWORD: &str = "hunter2-hunter2";
    let broker = Broker::start(2);
    assert!(broker.create_topic(TOPIC, 3));
    broker.require_sasl_plain("me", PASSWORD);
    let bench = Bench::new();
    let output = format!("kafka://me@{}/{TOPIC}?plain", broker.address());
    let run = |password: &str| {
        let mut command = run_to(&bench, "s", &output, "--emit on-close");
        command.env("KAFKA_PASSWORD", password).env("RUST_LOG", "trace").output().unwrap()
    };
    let wrong = format!("{PASSWORD}-no");
    let refused = run(&wrong);
    fails(&refused, "denied");
    let done = run(PASSWORD);
    json(&done);
    for output in [refused, done] {
        let text = stderr(&output);
        assert!(text.contains("DEBUG krafka"), "the client logs too");
        assert!(!text.contains(PASSWORD) && !String::from_utf8_lossy(&output.stdout).contains(PASSWORD));
    }
    assert!(!contains(bench.folder.path(), PASSWORD.as_bytes()));
}

/// Returns whether a file below a folder contains `text`.
fn contains(folder: &Path, text: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => contains(&path, text),
            false => std::fs::read(path).unwrap().windows(text.len()).any(|part| part == text),
        }
    })
}
