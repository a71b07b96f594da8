//! Credentials appear in no output, log or error, under any failure and at any log level.

use std::process::Output;

use super::place::{Kind, Place, S3_SECRET, S3_TOKEN};
use super::proxy::{Act, Proxy, Request};
use super::server::AZURE_KEY;
use alluvium_testkit::tool::{Bench, words};

type Plan = fn(&Request) -> Act;

/// Runs a small job on `place`, with everything logged.
fn run(place: &Place) -> Output {
    let bench = Bench::new();
    let input = bench.write("input.csv", "k,v\na,1\nb,2\n");
    let args = format!("run --input {} --key k --agg sum:v --store {} --job j", input.display(), place.url());
    place.tool(words(&args)).env("RUST_LOG", "trace").output().unwrap()
}

/// Asserts that a run's output contains no secret, and that the log was verbose.
fn assert_no_secret(place: &Place, case: &str, output: &Output) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("TRACE") || text.contains("DEBUG"), "{case}: {text}");
    for secret in [S3_SECRET, S3_TOKEN, AZURE_KEY, "PLANTED-AZURE-KEY", "SharedKey planted:", "Signature="] {
        let line = text.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{:?}, {case}: a secret in the output", place.kind);
    }
}

/// Answers every request with an error that echoes the request.
fn echo(request: &Request) -> Act {
    let body = format!("<Error><Message>{}</Message></Error>", request.head());
    Act::Say(format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
}

#[tokio::test(flavor = "multi_thread")]
async fn g10_credentials_are_in_no_log_and_no_error() {
    for place in Place::in_memory("secrets").await {
        let good = run(&place);
        assert!(good.status.success());
        assert_no_secret(&place, "a good run", &good);
        let wrong = place.named("no-such-bucket");
        let plans: [(&str, Plan); 3] =
            [("an echo", echo), ("a refusal", |_| Act::Refuse(403)), ("a redirect", |_| Act::Refuse(301))];
        let proxied = plans.map(|(case, plan)| (case, place.via(Proxy::start(place.address, plan).address)));
        for (case, place) in [("no bucket", wrong)].into_iter().chain(proxied) {
            let bad = run(&place);
            assert_eq!(bad.status.code(), Some(1), "{case}");
            assert_no_secret(&place, case, &bad);
            let text = String::from_utf8_lossy(&bad.stderr);
            if case == "an echo" {
                let header = if place.kind == Kind::Azure { "date: " } else { "x-amz-date: " };
                assert!(text.contains(header) && text.contains("[secret]"), "the echo is heard: {text}");
            }
        }
    }
}
