//! Real stores as targets of output: the laws of a sink, and what the tool says of a target that does not fit.

use std::sync::Arc;

use alluvium::Result;
use alluvium::sink::conformance::{self, Harness};
use alluvium::sink::{ObjectStoreTarget, SinkTarget};
use async_trait::async_trait;
use bytes::Bytes;
use object_store::path::Path;

use super::place::Place;
use alluvium_testkit::oracle::{WINDOWED, sample};
use alluvium_testkit::tool::{Bench, fails, json, words};

#[async_trait]
impl Harness for Place {
    fn target(&self) -> Arc<dyn SinkTarget> {
        Arc::new(ObjectStoreTarget::new(self.open(), Path::from("out")).with_form("window_start\n", ".csv"))
    }

    fn record(&self, number: u64) -> Bytes {
        format!("{number:020}\n").into()
    }

    async fn read(&self) -> Result<Vec<u64>> {
        Ok(self.rows("out").await.iter().map(|row| row.parse().unwrap()).collect())
    }

    fn is_ordered(&self) -> bool {
        false
    }

    fn random(&self) -> u128 {
        1
    }
}

#[tokio::test]
async fn real_stores_keep_the_laws_of_a_target() {
    for place in Place::all("sink").await {
        conformance::run(&place).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn output_after_an_older_checkpoint_is_refused_or_published_again() {
    for place in Place::all("again").await {
        let bench = Bench::new();
        let input = bench.write("sample.csv", sample::sample());
        let url = place.url();
        let run = |flags: &str| {
            let mut args = words(&format!("run --store {url} --job j --json --emit on-close {flags}"));
            args.extend(words(&format!("--input {} --output {url}/results", input.display())));
            args.extend(WINDOWED.flags());
            place.tool(args).output().unwrap()
        };
        json(&run(""));
        let once = place.rows("some/prefix/results").await;
        let reconciled = || {
            let ends = format!("--input {} --output {url}/results", input.display());
            place.tool(words(&format!("reconcile --store {url} --job j --json {ends}"))).output().unwrap()
        };
        let same = reconciled();
        let document: serde_json::Value = serde_json::from_slice(&same.stdout).unwrap();
        let outcomes: Vec<_> = document["ends"].as_array().unwrap().iter().map(|end| &end["outcome"]).collect();
        assert!(same.status.success() && outcomes.len() > 1 && outcomes.iter().all(|it| *it == "same"), "{document}");
        let refused = fails(&run("--fresh"), "config");
        assert!(refused.contains("published=") && refused.contains("restored=`0`"), "{refused}");
        assert_eq!(place.rows("some/prefix/results").await, once);
        json(&run("--fresh --publish-again"));
        let mut twice = [once.clone(), once].concat();
        twice.sort_unstable();
        assert_eq!(place.rows("some/prefix/results").await, twice);
        assert_eq!(reconciled().status.code(), Some(3), "rows that are there twice are found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_missing_stops_no_job() {
    for place in Place::all("missing").await {
        let bench = Bench::new();
        let input = bench.write("sample.csv", sample::sample());
        let mut args = words(&format!("run --store {} --job j --json --emit on-close", bench.store("s")));
        args.extend(words(&format!("--input {} --output {}", input.display(), place.named("absent").url())));
        args.extend(WINDOWED.flags());
        let error = fails(&place.tool(&args).output().unwrap(), "config");
        assert!(error.contains("does not exist"), "{error}");
        args.push("--durable-store".to_owned());
        let error = fails(&place.tool(args).output().unwrap(), "config");
        assert!(error.contains("lost with this machine") && error.contains("disk of its folder"), "{error}");
        assert!(!bench.path("s").join("j").exists(), "nothing was claimed");
    }
}
