//! Wrong store settings and unresponsive stores: what is reported, and how soon.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use super::place::Place;
use alluvium_testkit::tool::{Bench, fails, json, kill, tool, words};

/// Longer than a process takes on a busy machine that waits for nothing, shorter than calls to a store are tried.
const SLACK: Duration = Duration::from_secs(15);
const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret")];

/// Returns the tool's command in an environment without other store settings.
fn tool_in(environment: &[(&str, &str)], args: &str) -> Command {
    let mut command = tool(words(args));
    let named = |name: &str| ["AWS_", "AZURE_", "GOOGLE_", "RUST_LOG"].iter().any(|start| name.starts_with(start));
    for (name, _) in std::env::vars().filter(|(name, _)| named(name)) {
        command.env_remove(name);
    }
    command.envs(environment.iter().copied());
    command
}

#[test]
fn a29_settings_that_cannot_be_right_are_refused_by_name_at_once() {
    let (s3, http) = (KEYS.to_vec(), ("AWS_ENDPOINT", "http://127.0.0.1:1"));
    let with = |more: &[(&'static str, &'static str)]| [s3.as_slice(), more].concat();
    let account = ("AZURE_STORAGE_ACCOUNT_NAME", "planted");
    let azure = [account, ("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0")];
    let cases = [
        ("s3://b/p", vec![("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")], "AWS_ACCESS_KEY_ID"),
        ("s3://b/p", vec![("AWS_ACCESS_KEY_ID", "id")], "AWS_SECRET_ACCESS_KEY"),
        ("s3://b/p", with(&[http]), "AWS_ALLOW_HTTP"),
        ("s3://b/p", with(&[("AWS_ENDPOINT", "nonsense")]), "AWS_ENDPOINT"),
        ("s3://b/p", with(&[("AWS_ENDPOINT", "localhost:9000")]), "AWS_ENDPOINT"),
        ("s3://b/p", with(&[("AWS_REGION", "nowhere")]), "AWS_REGION"),
        ("az://b/p", vec![], "AZURE_STORAGE_ACCOUNT_NAME"),
        (
            "az://b/p",
            [&azure[..], &[("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:1/planted")]].concat(),
            "AZURE_ALLOW_HTTP",
        ),
        ("az://b/p", [&azure[..], &[("AZURE_STORAGE_ENDPOINT", "nonsense")]].concat(), "AZURE_STORAGE_ENDPOINT"),
    ];
    for (url, environment, named) in cases {
        for verb in ["list", "verify --job j"] {
            let started = Instant::now();
            let output = tool_in(&environment, &format!("{verb} --store {url}")).output().unwrap();
            let line = fails(&output, "config");
            assert!(line.contains(named), "{environment:?}: {line}");
            assert!(started.elapsed() < SLACK, "{environment:?}: {:?}", started.elapsed());
        }
    }
}

/// Runs each verb until it reports that it is waiting, two seconds after its first call.
fn heard_in_time(address: &str, reason: &str) {
    let bench = Bench::new();
    let input = bench.write("in.csv", "k,v\na,1\n");
    let environment = [&KEYS[..], &[("AWS_ALLOW_HTTP", "true"), ("AWS_ENDPOINT", address)]].concat();
    for verb in [
        "list".to_owned(),
        "list --job j".to_owned(),
        "inspect --job j".to_owned(),
        "verify --job j".to_owned(),
        "sweep --job j".to_owned(),
        "diff --job j --from 1 --to 2".to_owned(),
        format!("export --job j --table t --output {}", bench.path("t.csv").display()),
        format!("savepoint --job j --to {}", bench.store("copy")),
        "rescale --job j --parallelism 2 --dry-run".to_owned(),
        format!("run --job j --key k --agg count --input {}", input.display()),
    ] {
        let started = Instant::now();
        let mut child = tool_in(&environment, &format!("{verb} --store s3://bucket/prefix")).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let heard = started.elapsed();
        kill(&mut child);
        assert!(line.contains("waiting for the store (at most ") && line.contains(reason), "{verb}: {line}");
        assert!(heard < Duration::from_secs(2) + SLACK, "{verb}: {heard:?}");
    }
}

#[test]
fn a30_a_store_that_refuses_connections_is_reported_within_two_seconds() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    heard_in_time(&format!("http://{address}"), "store call failed");
}

#[test]
fn a30_a_store_that_says_nothing_is_reported_within_two_seconds() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    heard_in_time(&format!("http://{}", silent.local_addr().unwrap()), "no answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn a28_odd_names_beside_a_job_are_foreign_and_hide_nothing() {
    for place in Place::in_memory("odd-names").await {
        let bench = Bench::new();
        let input = bench.write("in.csv", "k,v\na,1\n");
        let run = || {
            let args =
                format!("run --input {} --key k --agg count --store {} --job j --json", input.display(), place.url());
            json(&place.tool(words(&args)).output().unwrap())
        };
        run();
        for name in ["j/manifest//x", "j/manifest/00000000000000000099/", "j/data/a//b", "/k/x"] {
            place.plant(&format!("some/prefix/{name}")).await;
        }
        assert_eq!(run()["records"], 1, "{:?}", place.kind);
        let ask = |verb: &str| {
            let args = format!("{verb} --store {} --json", place.url());
            json(&place.tool(words(&args)).output().unwrap())
        };
        assert_eq!(ask("list")["jobs"].as_array().unwrap().len(), 1, "{:?}", place.kind);
        for verb in ["verify --job j", "sweep --job j", "sweep --job j --delete"] {
            let found = ask(verb);
            assert_eq!(found["foreign"], 3, "{:?}: {verb}: {found:#}", place.kind);
            assert!(found["foreign_names"].to_string().contains("manifest%2F%2Fx"), "{:?}: {found:#}", place.kind);
        }
    }
}
