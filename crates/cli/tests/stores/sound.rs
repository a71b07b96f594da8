//! Undisturbed servers: the contract of a store, and a job over them.

use alluvium::ErrorKind;
use object_store::path::Path;

use super::place::Place;
use alluvium_testkit::Counting;
use alluvium_testkit::contract::{check, list_many, race, settings, store};

#[tokio::test]
async fn real_stores_keep_the_contract() {
    for place in Place::all("contract").await {
        check(store(place.open(), &Path::from("a/prefix"), settings())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a05_racing_creates_have_one_winner() {
    for place in Place::all("race").await {
        race(&store(place.open(), &Path::default(), settings())).await;
    }
}

/// S3 ends a page after 1,000 objects, Azure after 5,000.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_of_several_pages_is_complete() {
    for place in Place::all("pages").await {
        list_many(&store(place.open(), &Path::default(), settings()), 1_050).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a05_a_job_comes_back_at_another_parallelism_and_fences_the_first() {
    for place in Place::all("job").await {
        let objects = place.open();
        let mut old = Counting::fresh(&objects, 2).await;
        for keys in [0..300, 100..200, 0..50] {
            old.add(keys).unwrap();
            old.checkpoint().await.unwrap().expect("committed");
        }
        let mut new = old.reopen(&objects, 5).await;
        old.add(0..100).unwrap();
        let fenced = match old.barrier() {
            Ok(epoch) => old.job.wait(epoch).await.expect_err("the older attempt must not commit"),
            Err(error) => error,
        };
        assert_eq!(fenced.kind(), ErrorKind::Fenced, "{:?}: {fenced}", place.kind);
        new.add(200..400).unwrap();
        new.checkpoint().await.unwrap().expect("committed");
        new.reopen(&objects, 1).await;
    }
}
