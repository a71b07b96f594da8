//! Unsuitable stores: opening a job fails at once, and leaves nothing behind.

use alluvium::{Error, ErrorKind, JobSettings, RestoreFrom};

use super::place::{Place, quick};
use super::proxy::{Act, Proxy};
use alluvium_testkit::tool::{Bench, fails, words};
use alluvium_testkit::{Counting, runtime, store_on};

async fn refused(place: &Place) -> Error {
    let store = store_on(&place.open(), runtime(), quick());
    let job = Counting::open_on(store, 2, JobSettings::default(), RestoreFrom::Newest).await;
    job.err().expect("a job opens on a store that cannot hold it")
}

/// Opens a job through a proxy that does `act` to every create.
async fn refused_by(name: &str, act: Act, kind: ErrorKind, text: &str) {
    for place in Place::in_memory(name).await {
        let done = act.clone();
        let plan = move |request: &super::proxy::Request| match request.method == "PUT" {
            true => done.clone(),
            false => Act::Pass,
        };
        let proxy = Proxy::start(place.address, plan);
        let error = refused(&place.via(proxy.address)).await;
        assert_eq!(error.kind(), kind, "{:?}: {}", place.kind, error.chain());
        assert!(error.chain().contains(text), "{:?}: {}", place.kind, error.chain());
        assert!(proxy.requests() <= 8, "{:?}: {} requests before the refusal", place.kind, proxy.requests());
        let left = alluvium::list_jobs(&*place.open(), &"".into(), &runtime(), &quick()).await.unwrap();
        assert_eq!(left, [], "{:?}", place.kind);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a21_a_bucket_that_is_missing_is_told_at_the_start() {
    for place in Place::in_memory("a21-there").await {
        let error = refused(&place.named("a21-not-there")).await;
        assert_eq!(error.kind(), ErrorKind::Config, "{:?}: {}", place.kind, error.chain());
        assert!(error.chain().contains("bucket or container of the store does not exist"), "{}", error.chain());
    }
}

/// A read-only tool starts with a listing, whose refusals the library does not distinguish.
#[tokio::test(flavor = "multi_thread")]
async fn a20_a21_a_listing_that_is_refused_is_not_asked_for_again() {
    for place in Place::in_memory("a21-list").await {
        let error = store_on(&place.named("a21-no-list").open(), runtime(), quick());
        let error = error.folder().list(alluvium::internals::store::KeyClass::Manifest).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{:?}: {}", place.kind, error.chain());
        let proxy = Proxy::start(place.address, |_| Act::Refuse(403));
        let place = place.via(proxy.address);
        let error = fails(&place.tool(words(&format!("list --store {}", place.url()))).output().unwrap(), "denied");
        assert!(error.contains("status 403"), "{:?}: {error}", place.kind);
        assert_eq!(proxy.requests(), 1, "{:?}", place.kind);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a21_a_redirect_to_another_region_is_told_at_the_start() {
    refused_by("a21-region", Act::Refuse(301), ErrorKind::Config, "its region or endpoint is not the one that is set")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a22_a_store_without_conditional_creates_is_refused() {
    refused_by("a22", Act::Refuse(501), ErrorKind::Config, "store lacks create-if-absent").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a23_a_store_that_ignores_the_condition_is_refused() {
    refused_by("a23", Act::Strip, ErrorKind::Config, "store ignores create-if-absent").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a22_a23_the_tool_refuses_them_too() {
    for place in Place::in_memory("a22-tool").await {
        for (act, text) in [(Act::Refuse(501), "lacks create-if-absent"), (Act::Strip, "ignores create-if-absent")] {
            let proxy = Proxy::start(place.address, move |request| match request.method == "PUT" {
                true => act.clone(),
                false => Act::Pass,
            });
            let bench = Bench::new();
            let input = bench.write("input.csv", "k,v\na,1\n");
            let place = place.via(proxy.address);
            let args = format!("run --input {} --key k --agg sum:v --store {} --job j", input.display(), place.url());
            let error = fails(&place.tool(words(&args)).output().unwrap(), "config");
            assert!(error.contains(text), "{:?}: {error}", place.kind);
        }
    }
}
