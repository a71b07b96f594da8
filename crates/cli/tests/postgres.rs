//! From files and topics to a table of a real PostgreSQL server: each row once, under SIGKILL and rescales.

use std::process::Stdio;

use alluvium_testkit::oracle::{WINDOWED, expected, sample};
use alluvium_testkit::postgres::Server;
use alluvium_testkit::sim::Rng;
use alluvium_testkit::tool::{Bench, fails, json, kill, stderr, tool, words};

/// Runs of the tool that are killed.
const KILLS: u64 = 5;

/// Returns the columns of the result and its rows, sorted.
///
/// * `input`: text of a CSV file.
fn answer(input: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let answer = expected(input.as_bytes(), &WINDOWED);
    let mut reader = csv::Reader::from_reader(answer.output.as_bytes());
    let cells = |record: &csv::StringRecord| record.iter().map(str::to_owned).collect::<Vec<_>>();
    let columns = cells(reader.headers().unwrap());
    let mut rows: Vec<_> = reader.records().map(|record| cells(&record.unwrap())).collect();
    rows.sort_unstable();
    (columns, rows)
}

/// Creates the table, in which every column is text.
async fn create(server: &Server, table: &str, columns: &[String]) {
    let columns: Vec<_> = columns.iter().map(|name| format!("\"{name}\" text")).collect();
    let key = "primary key (vm_id, test, window_start)";
    server.run(&format!("CREATE TABLE {table} ({}, {key})", columns.join(", "))).await;
}

/// Returns the rows of the table, sorted.
async fn rows(server: &Server, table: &str, columns: &[String]) -> Vec<Vec<String>> {
    let names: Vec<_> = columns.iter().map(|name| format!("\"{name}\"")).collect();
    let found = server.client().await.query(&format!("SELECT {} FROM {table}", names.join(", ")), &[]).await.unwrap();
    let cells = |row: &tokio_postgres::Row| {
        (0..row.len()).map(|at| row.get::<_, Option<String>>(at).unwrap_or_default()).collect::<Vec<_>>()
    };
    let mut rows: Vec<_> = found.iter().map(cells).collect();
    rows.sort_unstable();
    rows
}

fn url(server: &Server, table: &str) -> String {
    let host = server.folder().display().to_string().replace('/', "%2F");
    format!("postgres://postgres@{host}/postgres/{table}")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_closed_window_is_one_row_under_kills() {
    let Some(server) = Server::shared() else { return };
    let bench = Bench::new();
    let input = bench.write("sample.csv", sample::sample());
    let text = sample::sample();
    each_row_is_there_once(server, &bench, "from_a_file", (&input.display().to_string(), &text), || ()).await;
}

#[cfg(feature = "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn each_closed_window_of_a_topic_is_one_row_under_kills() {
    use alluvium_testkit::kafka::Broker;
    let Some(server) = Server::shared() else { return };
    let broker = Broker::start(2);
    assert!(broker.create_topic("readings", 3));
    let mut records = sample::json(3);
    let rest = records.split_off(1);
    broker.produce("readings", records);
    let input = format!("kafka://{}/readings?stop-at-end", broker.address());
    let grow = || broker.produce("readings", rest);
    each_row_is_there_once(server, &Bench::new(), "from_a_topic", (&input, &sample::sorted()), grow).await;
}

/// * `input`: where it is, and its records as CSV.
/// * `grow`: makes the input whole after its first record, which sets the kinds of the columns.
async fn each_row_is_there_once(
    server: &Server,
    bench: &Bench,
    table: &str,
    (input, text): (&str, &str),
    grow: impl FnOnce(),
) {
    let (columns, expected) = answer(text);
    create(server, table, &columns).await;
    let mut random = Rng::new(1);
    let mut run = |rate: &str| {
        let parallelism = 1 + random.below(4);
        let (store, output) = (bench.store("s"), url(server, table));
        let mut args =
            words(&format!("run --store {store} --job {table} --json --interval 20ms --emit on-close {rate}"));
        args.extend(words(&format!("--input {input} --output {output} --parallelism {parallelism}")));
        args.extend(WINDOWED.flags());
        tool(args)
    };
    json(&run("--limit 1").output().unwrap());
    grow();
    let client = server.client().await;
    let published = format!("SELECT count(*) FROM {table}");
    for _ in 0..KILLS {
        let mut child = run("--rate 300").stdout(Stdio::null()).spawn().unwrap();
        let mut before = None;
        loop {
            if child.try_wait().unwrap().is_some() {
                panic!("it ended before it could be killed: {}", stderr(&child.wait_with_output().unwrap()));
            }
            let now: i64 = client.query_one(&published, &[]).await.unwrap().get(0);
            if *before.get_or_insert(now) != now {
                break;
            }
        }
        kill(&mut child);
    }
    let report = json(&run("").output().unwrap());
    assert!(report["attempt"].as_u64().unwrap() > KILLS, "{report}");
    assert!(rows(server, table, &columns).await == expected);
    let reconciled = || {
        let (store, output) = (bench.store("s"), url(server, table));
        let ends = format!("--input {input} --output {output} --json");
        tool(words(&format!("reconcile --store {store} --job {table} {ends}"))).output().unwrap()
    };
    let same = reconciled();
    assert!(same.status.success(), "{} {}", String::from_utf8_lossy(&same.stdout), stderr(&same));
    client
        .execute(&format!("DELETE FROM {table} WHERE ctid IN (SELECT ctid FROM {table} LIMIT 1)"), &[])
        .await
        .unwrap();
    assert_eq!(reconciled().status.code(), Some(3), "a lost row is found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_does_not_fit_is_refused_before_the_claim() {
    let Some(server) = Server::shared() else { return };
    let (columns, _) = answer(&sample::sample());
    let bench = Bench::new();
    let input = bench.write("sample.csv", sample::sample());
    let run = |output: &str| {
        let mut args = words(&format!("run --store {} --job j --json --emit on-close", bench.store("s")));
        args.extend(words(&format!("--input {} --output {output}", input.display())));
        args.extend(WINDOWED.flags());
        tool(args).output().unwrap()
    };
    let absent = fails(&run(&url(server, "absent")), "not_found");
    assert!(absent.contains("absent"), "{absent}");
    server.run("CREATE TABLE keyless (vm_id text, test text, window_start text)").await;
    fails(&run(&url(server, "keyless")), "config");
    let secret = fails(&run("postgres://u:hunter2@h/db/t"), "config");
    assert!(!secret.contains("hunter2") && secret.contains("PGPASSWORD"), "{secret}");
    fails(&run("postgres://u@127.0.0.1:1/db/t"), "unavailable");
    assert!(!bench.path("s").join("j").exists(), "nothing was claimed");
    create(server, "fits", &columns).await;
    json(&run(&url(server, "fits")));
}
