//! From files and topics of a broker for tests to a topic: each row once, whatever is killed.

mod input;
mod million;
mod output;

use std::collections::BTreeSet;
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

/// Partitions of the input.
const PARTITIONS: i32 = 3;

const INPUT: &str = "readings";
const TOPIC: &str = "closed";

/// Windows of a day: nearly every checkpoint closes some.
const DAYS: Spec = Spec { window: Some(Windows { time: "start_time", size_ms: DAY_MS, lateness_ms: 0 }), ..WINDOWED };

/// Names and cells of a row, sorted by name.
type Row = Vec<(String, String)>;

/// Returns the command of a run.
fn run(bench: &Bench, store: &str, input: &str, output: &str, more: &str) -> Command {
    let store = bench.store(store);
    let mut args = words(&format!("run --store {store} --job j --json --input {input} --output {output} {more}"));
    args.extend(DAYS.flags());
    let mut command = tool(args);
    command.env_remove("KAFKA_PASSWORD");
    command
}

/// Returns the sample as a file. Its order is that of time, so that no record is late, whatever partition is read first.
fn file(bench: &Bench) -> String {
    bench.write("sample.csv", sample::sorted()).display().to_string()
}

/// Returns the sample as a topic, with its end. The first record is read: the kinds of the columns are those of its cells.
fn topic(bench: &Bench, broker: &Broker) -> String {
    assert!(broker.create_topic(INPUT, PARTITIONS));
    let input = format!("kafka://{}/{INPUT}?stop-at-end", broker.address());
    let mut records = sample::json(PARTITIONS);
    let rest = records.split_off(1);
    broker.produce(INPUT, records);
    json(&run(bench, "topic", &input, &output(broker), "--emit on-close --limit 1").output().unwrap());
    broker.produce(INPUT, rest);
    input
}

fn output(broker: &Broker) -> String {
    format!("kafka://{}/{TOPIC}", broker.address())
}

/// Returns the rows of an undisturbed run to a file, sorted.
fn rows_in_a_file(bench: &Bench) -> Vec<Row> {
    let output = bench.path("out.csv");
    json(&run(bench, "file", &file(bench), &output.display().to_string(), "").output().unwrap());
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
    fn draw(random: &mut Rng, apis: &[ApiKey], parallelism: u64) -> Self {
        let mut either = || random.below(2) == 0;
        let (is_applied, is_killed) = (either(), either());
        let api = apis[random.index(apis.len())];
        let at = 1 + random.below(parallelism + 6);
        Self { api, at, is_applied, is_killed, broker_crashes: !is_killed || random.below(3) == 0 }
    }

    /// Returns whether every run makes the request: something is fetched; the fence of each subtask publishes, and then at least one
    /// subtask its rows.
    fn is_certain(self, parallelism: u64) -> bool {
        self.at <= if self.api == ApiKey::Fetch { 1 } else { parallelism + 1 }
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

    /// Disturbs a run. One that is not killed must end well. Returns whether the request was made before its end.
    fn act(self, broker: &Broker, mut run: Command) -> bool {
        let arrival = self.await_on(broker);
        let mut child = run.spawn().unwrap();
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

/// * `apis`: requests that are disturbed.
fn each_row_is_there_once(version: i16, apis: &[ApiKey], input: impl Fn(&Bench, &Broker) -> String) {
    let broker = Broker::start(version);
    assert!(broker.create_topic(TOPIC, 3));
    let bench = Bench::new();
    let (input, expected) = (input(&bench, &broker), rows_in_a_file(&bench));
    let mut random = Rng::new(version.unsigned_abs().into());
    let output = output(&broker);
    let records = 2_400;
    let (mut kills, mut certain) = (0, 0);
    for part in 1..=DISTURBED {
        let parallelism = 1 + random.below(4);
        let disturbance = Disturbance::draw(&mut random, apis, parallelism);
        let limit = part * records / (DISTURBED + 1);
        // The rate makes many checkpoints of a part; the outcome does not depend on how many.
        let more = format!("--emit on-close --interval 20ms --rate 400 --limit {limit} --parallelism {parallelism}");
        let is_reached = disturbance.act(&broker, run(&bench, "topic", &input, &output, &more));
        assert!(is_reached || !disturbance.is_certain(parallelism), "never reached: {disturbance:?}");
        kills += u64::from(is_reached && disturbance.is_killed);
        certain += u64::from(disturbance.is_certain(parallelism) && disturbance.is_killed);
    }
    assert!(certain > 0 && kills >= certain, "{kills} of {certain}");
    json(&run(&bench, "topic", &input, &output, "--emit on-close --parallelism 2").output().unwrap());
    let found = rows_in_the_topic(&broker);
    assert!(found == expected, "{} rows in the topic, {} in the file", found.len(), expected.len());
    let reconciled = || {
        let ends = format!("--input {input} --output {output} --json");
        tool(words(&format!("reconcile --store {} --job j {ends}", bench.store("topic")))).output().unwrap()
    };
    let same = reconciled();
    assert!(same.status.success(), "{} {}", String::from_utf8_lossy(&same.stdout), stderr(&same));
    broker.produce(TOPIC, [(0, "{}".to_owned())]);
    assert_eq!(reconciled().status.code(), Some(3), "a record that the job did not write is found");
}
