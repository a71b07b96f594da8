//! A million records, and twenty failures. Run by hand, with `--ignored`: each takes half a minute.

use std::collections::BTreeMap;

use super::*;

const RECORDS: u64 = 1_000_000;
const KEYS: u64 = 5_000;
const FAILURES: u64 = 20;

/// Key and start of a window in milliseconds, with its count and sum: nearly as many as there are records.
type Counted = BTreeMap<(u64, u64), (u64, u64)>;

/// Fills the input, a record each millisecond, and returns its windows of a second.
fn fill(broker: &Broker) -> Counted {
    assert!(broker.create_topic(INPUT, PARTITIONS));
    let mut random = Rng::new(3);
    let mut windows = Counted::new();
    let records: Vec<_> = (0..RECORDS)
        .map(|at| {
            let (key, value) = (random.below(KEYS), random.below(100));
            let window = windows.entry((key, at / 1000 * 1000)).or_default();
            *window = (window.0 + 1, window.1 + value);
            let partition = i32::try_from(key).unwrap() % PARTITIONS;
            (partition, format!(r#"{{"key":{key},"at":{at},"value":{value}}}"#))
        })
        .collect();
    broker.produce(INPUT, records);
    windows
}

/// Runs to the end through the failures, at changing parallelism.
///
/// * `disturb`: disturbs a run; returns whether it came to it.
#[expect(clippy::print_stdout, reason = "run by hand, for its figures")]
fn run_through_failures(
    (bench, broker, output): (&Bench, &Broker, &str),
    mut disturb: impl FnMut(&mut Rng, u64, Command) -> bool,
) {
    let mut random = Rng::new(5);
    let (mut failures, mut runs) = (0, 0);
    while failures < FAILURES {
        runs += 1;
        let parallelism = 1 + random.below(4);
        let limit = runs * RECORDS / (2 * FAILURES);
        let flags = format!("--parallelism {parallelism} --limit {limit}");
        failures += u64::from(disturb(&mut random, parallelism, count(bench, broker, output, &flags)));
    }
    let report = json(&count(bench, broker, output, "--parallelism 3").output().unwrap());
    println!("{failures} failures of {runs} runs; the last one: {report}");
}

fn count(bench: &Bench, broker: &Broker, output: &str, more: &str) -> Command {
    let (store, address) = (bench.store("s"), broker.address());
    let flags =
        "--json --key key --agg count,sum:value --window tumbling:1s --time at --emit on-close --interval 100ms";
    let places = format!("--store {store} --job j --input kafka://{address}/{INPUT}?stop-at-end --output {output}");
    tool(words(&format!("run {flags} {places} {more}")))
}

/// Returns the milliseconds of a window's start in 1970.
fn millis(start: &str) -> u64 {
    let (minutes, seconds) =
        start.strip_prefix("1970-01-01T00:").unwrap().trim_end_matches('Z').split_once(':').unwrap();
    (minutes.parse::<u64>().unwrap() * 60 + seconds.parse::<u64>().unwrap()) * 1000
}

/// Adds a row, which must be the first of its key and window.
fn add(rows: &mut Counted, [key, start, count, sum]: [&str; 4]) {
    let number = |cell: &str| cell.parse::<u64>().unwrap();
    let before = rows.insert((number(key), millis(start)), (number(count), number(sum)));
    assert_eq!(before, None, "published twice: {key} {start}");
}

#[test]
#[ignore = "takes half a minute"]
fn from_topic_to_topic() {
    let (bench, broker) = (Bench::new(), Broker::start(2));
    assert!(broker.create_topic(TOPIC, PARTITIONS));
    let expected = fill(&broker);
    run_through_failures((&bench, &broker, &output(&broker)), |random, parallelism, run| {
        let apis = [ApiKey::Fetch, ApiKey::Produce, ApiKey::EndTxn];
        Disturbance::draw(random, &apis, parallelism).act(&broker, run)
    });
    let mut found = Counted::new();
    let mut newest = BTreeMap::new();
    for record in broker.committed(TOPIC) {
        let row: BTreeMap<_, _> = cells(record.value.as_deref().unwrap()).into_iter().collect();
        add(&mut found, ["key", "window_start", "count", "sum_value"].map(|name| row[name].as_str()));
        let before = newest.insert((record.partition, row["key"].clone()), millis(&row["window_start"]));
        assert!(before < Some(millis(&row["window_start"])), "out of order: {row:?}");
    }
    assert_eq!(found.len(), expected.len());
    assert!(found == expected);
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half a minute"]
async fn from_a_topic_to_a_table() {
    let server = alluvium_testkit::postgres::Server::shared().expect("PostgreSQL is installed");
    let (bench, broker) = (Bench::new(), Broker::start(2));
    let expected = fill(&broker);
    let columns = "key text, window_start text, count text, sum_value text, primary key (key, window_start)";
    server.run(&format!("CREATE TABLE million ({columns})")).await;
    let host = server.folder().display().to_string().replace('/', "%2F");
    let client = server.client().await;
    let (runtime, rows) = (tokio::runtime::Handle::current(), "SELECT count(*) FROM million");
    let rows =
        || -> i64 { tokio::task::block_in_place(|| runtime.block_on(client.query_one(rows, &[]))).unwrap().get(0) };
    let output = format!("postgres://postgres@{host}/postgres/million");
    run_through_failures((&bench, &broker, &output), |random, parallelism, mut run| {
        if random.below(3) == 0 {
            return Disturbance::draw(random, &[ApiKey::Fetch], parallelism).act(&broker, run);
        }
        let most = rows() + i64::try_from(random.below(20_000)).unwrap();
        let mut child = run.spawn().unwrap();
        while rows() <= most {
            if child.try_wait().unwrap().is_some() {
                json(&child.wait_with_output().unwrap());
                return false;
            }
        }
        kill(&mut child);
        true
    });
    let mut found = Counted::new();
    for row in client.query("SELECT key, window_start, count, sum_value FROM million", &[]).await.unwrap() {
        add(&mut found, [0, 1, 2, 3].map(|at| row.get::<_, &str>(at)));
    }
    assert_eq!(found.len(), expected.len());
    assert!(found == expected);
}
