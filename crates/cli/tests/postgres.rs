//! Closed windows in a table of a real PostgreSQL server: each row once, under SIGKILL and rescales.

use std::process::Stdio;

use alluvium_testkit::oracle::{WINDOWED, expected, sample};
use alluvium_testkit::postgres::Server;
use alluvium_testkit::sim::Rng;
use alluvium_testkit::tool::{Bench, fails, json, kill, stderr, tool, words};

/// Runs of the tool that are killed.
const KILLS: u64 = 5;

/// Returns the columns of the result and its rows, sorted.
fn answer() -> (Vec<String>, Vec<Vec<String>>) {
    let answer = expected(sample::sample().as_bytes(), &WINDOWED);
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
    let (columns, expected) = answer();
    create(server, "killed", &columns).await;
    let bench = Bench::new();
    let input = bench.write("sample.csv", sample::sample());
    let mut random = Rng::new(1);
    let mut run = |rate: &str| {
        let parallelism = 1 + random.below(4);
        let (store, output) = (bench.store("s"), url(server, "killed"));
        let mut args = words(&format!("run --store {store} --job j --json --interval 20ms --emit on-close {rate}"));
        args.extend(words(&format!("--input {} --output {output} --parallelism {parallelism}", input.display())));
        args.extend(WINDOWED.flags());
        tool(args)
    };
    let published = "SELECT coalesce(sum(epoch), 0)::text FROM alluvium_slots";
    for _ in 0..KILLS {
        let mut child = run("--rate 300").stdout(Stdio::null()).spawn().unwrap();
        // The table of slots comes with the first run.
        let client = server.client().await;
        let mut before = None;
        loop {
            if child.try_wait().unwrap().is_some() {
                panic!("it ended before it could be killed: {}", stderr(&child.wait_with_output().unwrap()));
            }
            let Ok(now) = client.query_one(published, &[]).await else { continue };
            let now = now.get::<_, String>(0);
            if *before.get_or_insert_with(|| now.clone()) != now {
                break;
            }
        }
        kill(&mut child);
    }
    let report = json(&run("").output().unwrap());
    assert!(report["attempt"].as_u64().unwrap() > KILLS, "{report}");
    assert!(rows(server, "killed", &columns).await == expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_does_not_fit_is_refused_before_the_claim() {
    let Some(server) = Server::shared() else { return };
    let (columns, _) = answer();
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
