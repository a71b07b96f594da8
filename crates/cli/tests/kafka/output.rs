//! A topic as output.

use std::path::Path;

use super::*;

#[test]
fn each_row_is_there_once_whatever_is_killed_with_transactions_of_version_1() {
    each_row_is_there_once(1, &[ApiKey::Produce, ApiKey::EndTxn], |bench, _| file(bench));
}

#[test]
fn each_row_is_there_once_whatever_is_killed_with_transactions_of_version_2() {
    each_row_is_there_once(2, &[ApiKey::Produce, ApiKey::EndTxn], |bench, _| file(bench));
}

#[test]
fn a_topic_that_does_not_fit_is_refused_before_the_claim() {
    let broker = Broker::start(2);
    let bench = Bench::new();
    let to = |output: &str| run(&bench, "s", &file(&bench), output, "--emit on-close").output().unwrap();
    let absent = fails(&to(&format!("kafka://{}/absent", broker.address())), "not_found");
    assert!(absent.contains("topic=`absent`"), "{absent}");
    fails(&to("kafka://127.0.0.1:1/t"), "unavailable");
    for (bad, part) in [
        ("kafka://h:9092/t?ssl", "takes ?tls"),
        ("kafka://h:9092", "kafka://[user@]host:port"),
        ("kafka://h:9092/t/u", "kafka://[user@]host:port"),
        ("kafka://me@h:9092/t", "needs ?plain"),
        ("kafka://h:9092/t?plain", "needs a user"),
        ("kafka://me@h:9092/t?plain", "set KAFKA_PASSWORD"),
        ("kafka://me:hunter2@h:9092/t?plain", "set KAFKA_PASSWORD"),
    ] {
        let error = fails(&to(bad), "config");
        assert!(error.contains(part) && !error.contains("hunter2"), "{bad}: {error}");
    }
    let at_the_end = run(&bench, "s", &file(&bench), &format!("kafka://{}/t", broker.address()), "").output().unwrap();
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
    let with = |password: &str| {
        let mut command = run(&bench, "s", &file(&bench), &output, "--emit on-close");
        command.env("KAFKA_PASSWORD", password).env("RUST_LOG", "trace").output().unwrap()
    };
    let wrong = format!("{PASSWORD}-no");
    let refused = with(&wrong);
    fails(&refused, "denied");
    let done = with(PASSWORD);
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
