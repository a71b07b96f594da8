//! A topic of a million records, whose output is nearly as large, to each kind of output in turns: how much exactly-once output costs,
//! compared with output to this process's memory by the same protocol.
//!
//! ```sh
//! cargo bench -p alluvium-cli --features kafka,postgres --bench outputs [-- RECORDS TURNS]
//! ```
//!
//! The broker is krafka's broker for tests, in this process. Without PostgreSQL its row is missing.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench stops at what it does not expect")]

use std::process::Command;

use alluvium_bench::clock;
use alluvium_testkit::kafka::Broker;
use alluvium_testkit::postgres::Server;
use alluvium_testkit::sim::Rng;
use alluvium_testkit::tool::{Bench, json, tool, words};

const KEYS: u64 = 5_000;
const PARTITIONS: i32 = 3;

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<u64>().ok());
    let (records, turns) = (numbers.next().unwrap_or(1_000_000), numbers.next().unwrap_or(5));
    let broker = Broker::start(2);
    fill(&broker, records);
    let server = Server::shared();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut rates = vec![Vec::new(); 4];
    for turn in 0..turns {
        let bench = Bench::new();
        let outputs = [
            Some("memory:///rows".to_owned()),
            Some(bench.path("rows").display().to_string()),
            Some(format!("kafka://{}/rows-{turn}", broker.address())),
            server.map(|server| {
                let host = server.folder().display().to_string().replace('/', "%2F");
                format!("postgres://postgres@{host}/postgres/rows_{turn}")
            }),
        ];
        assert!(broker.create_topic(&format!("rows-{turn}"), PARTITIONS));
        if let Some(server) = server {
            let columns = "key text, window_start text, count text, sum_value text, primary key (key, window_start)";
            runtime.block_on(server.run(&format!("CREATE TABLE rows_{turn} ({columns})")));
        }
        for (at, (output, rates)) in outputs.iter().zip(&mut rates).enumerate() {
            let Some(output) = output else { continue };
            let started = clock::now();
            let report = json(&count(&bench, &broker, at, output).output().unwrap());
            assert_eq!(report["records"], records);
            rates.push(records as f64 / started.elapsed().as_secs_f64());
        }
    }
    report(rates);
}

fn report(mut rates: Vec<Vec<f64>>) {
    rates.iter_mut().for_each(|rates| rates.sort_by(f64::total_cmp));
    let median = |rates: &[f64]| rates[rates.len() / 2];
    let memory = median(&rates[0]);
    println!("| output | records/s, median (range) | of memory |\n|---|---|---|");
    for (name, rates) in ["memory", "files, staged", "Kafka", "PostgreSQL"].iter().zip(&rates) {
        if let [least, .., most] = &rates[..] {
            let median = median(rates);
            println!("| {name} | {median:.0} ({least:.0} to {most:.0}) | {:.2} |", median / memory);
        }
    }
}

/// Fills the input, a record each millisecond.
fn fill(broker: &Broker, records: u64) {
    assert!(broker.create_topic("readings", PARTITIONS));
    let mut random = Rng::new(3);
    let record = |at| {
        let (key, value) = (random.below(KEYS), random.below(100));
        (i32::try_from(key).unwrap() % PARTITIONS, format!(r#"{{"key":{key},"at":{at},"value":{value}}}"#))
    };
    broker.produce("readings", (0..records).map(record).collect::<Vec<_>>());
}

/// Returns the command of a run whose windows of a second hold hardly more than one record each.
fn count(bench: &Bench, broker: &Broker, job: usize, output: &str) -> Command {
    let address = broker.address();
    let flags = "--json --key key --agg count,sum:value --window tumbling:1s --time at --emit on-close --interval 1s";
    let places = format!("--store {} --job {job} --input kafka://{address}/readings?stop-at-end", bench.store("s"));
    tool(words(&format!("run {flags} {places} --output {output} --parallelism 2")))
}
