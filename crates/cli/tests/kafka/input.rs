//! A topic as input.

use super::*;

/// Requests that are disturbed.
const APIS: [ApiKey; 4] = [ApiKey::Fetch, ApiKey::ListOffsets, ApiKey::Produce, ApiKey::EndTxn];

#[test]
fn each_row_is_there_once_whatever_is_killed_from_topic_to_topic() {
    each_row_is_there_once(1, &APIS, topic);
    each_row_is_there_once(2, &APIS, topic);
}

/// Returns the JSON of a reading at a time in seconds.
fn reading(machine: &str, second: i64) -> String {
    format!(r#"{{"machine":"{machine}","at":{},"value":1}}"#, second * 1000)
}

/// Returns the command of a run that counts readings in windows of 10 seconds.
fn count(bench: &Bench, broker: &Broker, more: &str) -> Command {
    let (store, address) = (bench.store("s"), broker.address());
    let flags =
        "--json --key machine --agg count,sum:value --window tumbling:10s --time at --emit on-close --interval 10ms";
    let places = format!("--store {store} --job j --output kafka://{address}/{TOPIC}");
    tool(words(&format!("run {flags} {places} {more}")))
}

/// Returns a broker with input of these partitions.
fn broker(partitions: i32) -> Broker {
    let broker = Broker::start(2);
    assert!(broker.create_topic(INPUT, partitions) && broker.create_topic(TOPIC, 1));
    broker
}

/// Returns machine, start in seconds and count of the closed windows, sorted.
fn windows(broker: &Broker) -> Vec<(String, String, String)> {
    let cell = |row: &Row, name: &str| row.iter().find(|(known, _)| known == name).unwrap().1.clone();
    let of = |row: &Row| (cell(row, "machine"), cell(row, "window_start")[17..19].to_owned(), cell(row, "count"));
    let records = broker.committed(TOPIC);
    let mut rows: Vec<_> = records.iter().map(|record| of(&cells(record.value.as_deref().unwrap()))).collect();
    rows.sort_unstable();
    rows
}

fn window(machine: &str, start: &str, count: &str) -> (String, String, String) {
    (machine.to_owned(), start.to_owned(), count.to_owned())
}

/// Waits until as many windows are closed, or the run ends.
fn await_windows(broker: &Broker, child: &mut Child, count: usize) {
    while broker.committed(TOPIC).len() < count {
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        std::thread::yield_now();
    }
}

#[test]
fn input_without_end_is_read_as_it_comes() {
    let (bench, broker) = (Bench::new(), broker(2));
    let input = format!("--input kafka://{}/{INPUT}", broker.address());
    let mut child = count(&bench, &broker, &format!("{input} --limit 6")).spawn().unwrap();
    broker.produce(INPUT, [(0, reading("a", 1)), (1, reading("b", 2)), (0, reading("a", 11)), (1, reading("b", 12))]);
    await_windows(&broker, &mut child, 2);
    broker.produce(INPUT, [(0, reading("a", 21)), (1, reading("b", 22))]);
    json(&child.wait_with_output().unwrap());
    let first = [window("a", "00", "1"), window("a", "10", "1"), window("b", "00", "1"), window("b", "10", "1")];
    assert_eq!(windows(&broker), first);
    // Input that ends closes the rest.
    json(&count(&bench, &broker, &format!("{input}?stop-at-end")).output().unwrap());
    assert_eq!(windows(&broker).len(), 6);
}

#[test]
fn a_partition_without_records_holds_windows_open_until_it_is_idle() {
    let (bench, broker) = (Bench::new(), broker(2));
    broker.produce(INPUT, [(0, reading("a", 1)), (0, reading("a", 12))]);
    let input = format!("--input kafka://{}/{INPUT}", broker.address());
    json(&count(&bench, &broker, &format!("{input} --limit 2")).output().unwrap());
    assert_eq!(windows(&broker), [], "partition 1 may have earlier ones");
    let mut child = count(&bench, &broker, &format!("{input} --idle-after 50ms")).spawn().unwrap();
    await_windows(&broker, &mut child, 1);
    kill(&mut child);
    assert_eq!(windows(&broker), [window("a", "00", "1")]);
}

#[test]
fn a_later_run_finds_no_record_late_of_a_partition_that_ended_earlier() {
    let (bench, broker) = (Bench::new(), broker(2));
    let (store, address) = (bench.store("s"), broker.address());
    let flags = "run --json --key machine --agg count --window tumbling:10s --time at";
    let run = || {
        json(
            &tool(words(&format!("{flags} --store {store} --job j --input kafka://{address}/{INPUT}?stop-at-end")))
                .output()
                .unwrap(),
        )
    };
    broker.produce(INPUT, [(0, reading("a", 1)), (1, reading("b", 55))]);
    run();
    broker.produce(INPUT, [(0, reading("a", 12))]);
    let report = run();
    assert_eq!((&report["records"], &report["late_records"]), (&3.into(), &0.into()), "{report}");
}

#[test]
fn partitions_that_are_added_are_read_from_their_beginning() {
    let (bench, broker) = (Bench::new(), broker(1));
    let input = format!("--input kafka://{}/{INPUT}?stop-at-end&latest", broker.address());
    broker.produce(INPUT, [(0, reading("old", 1))]);
    json(&count(&bench, &broker, &input).output().unwrap());
    assert_eq!(windows(&broker), [], "it starts at the latest");
    assert_eq!(broker.add_partitions(INPUT, 2), 1);
    broker.produce(INPUT, [(0, reading("a", 1)), (1, reading("b", 2))]);
    json(&count(&bench, &broker, &input).output().unwrap());
    assert_eq!(windows(&broker), [window("a", "00", "1"), window("b", "00", "1")]);
}

#[test]
fn a_record_that_is_malformed_is_named() {
    let (bench, broker) = (Bench::new(), broker(2));
    let input = format!("--input kafka://{}/{INPUT}?stop-at-end", broker.address());
    broker.produce(INPUT, [(1, reading("a", 1)), (1, r#"{"machine":"a","at":"noon"}"#.to_owned())]);
    let error = fails(&count(&bench, &broker, &input).output().unwrap(), "input");
    for part in ["topic=`readings`", "partition=`1`", "offset=`1`", "column=`at`", "cell=`noon`"] {
        assert!(error.contains(part), "{error}");
    }
    let report = json(&count(&bench, &broker, &format!("{input} --on-bad-record skip")).output().unwrap());
    assert_eq!((&report["records"], &report["bad_records"]), (&2.into(), &1.into()), "{report}");
    assert_eq!(windows(&broker), [window("a", "00", "1")]);
}

#[test]
fn a_topic_that_does_not_fit_is_refused_before_the_claim() {
    let (bench, broker) = (Bench::new(), broker(1));
    let address = broker.address();
    let of = |more: &str| count(&bench, &broker, more).output().unwrap();
    let absent = fails(&of(&format!("--input kafka://{address}/absent")), "not_found");
    assert!(absent.contains("topic=`absent`"), "{absent}");
    for (bad, part) in [
        (format!("kafka://{address}/{INPUT} --format csv"), "JSON"),
        (format!("kafka://{address}/{TOPIC}"), "is the topic of --input"),
        ("kafka://h:9092".to_owned(), "kafka://[user@]host:port"),
        ("s3://bucket/file.csv".to_owned(), "takes a path"),
        ("kafka://me@h:9092/t?plain".to_owned(), "set KAFKA_PASSWORD"),
        ("kafka://me:hunter2@h:9092".to_owned(), "kafka://[user@]host:port"),
        ("kafka://me:hunter2@h:9092/t?plain".to_owned(), "set KAFKA_PASSWORD"),
    ] {
        let error = fails(&of(&format!("--input {bad}")), "config");
        assert!(error.contains(part) && !error.contains("hunter2"), "{bad}: {error}");
    }
    assert!(!bench.path("s").join("j").exists(), "nothing was claimed");
}

#[test]
fn a_topic_that_was_created_anew_is_refused() {
    let (bench, broker) = (Bench::new(), broker(1));
    let input = format!("--input kafka://{}/{INPUT}?stop-at-end", broker.address());
    broker.produce(INPUT, [(0, reading("a", 1))]);
    json(&count(&bench, &broker, &input).output().unwrap());
    assert!(broker.delete_topic(INPUT) && broker.create_topic(INPUT, 1));
    broker.produce(INPUT, [(0, reading("a", 1)), (0, reading("a", 2))]);
    let error = fails(&count(&bench, &broker, &input).output().unwrap(), "input");
    assert!(error.contains("deleted and created anew"), "{error}");
    json(&count(&bench, &broker, &format!("{input} --fresh --publish-again")).output().unwrap());
}
