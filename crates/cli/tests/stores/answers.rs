//! Lost, late, wrong or truncated answers: a job continues as if undisturbed, and commits nothing twice.

use std::sync::Arc;

use alluvium::{ErrorKind, JobSettings, RestoreFrom, Result, StoreSettings};
use object_store::ObjectStore;

use super::place::{Place, quick};
use super::proxy::{Act, Proxy, Request};
use alluvium_testkit::{Counting, runtime, store_on};

async fn open(objects: &Arc<dyn ObjectStore>, parallelism: u32, settings: StoreSettings) -> Result<Counting> {
    let store = store_on(objects, runtime(), settings);
    Counting::open_on(store, parallelism, JobSettings::default(), RestoreFrom::Newest).await
}

/// Runs a job through a proxy with `plan`, rescales the job there, and reads the result past the proxy. Each checkpoint
/// must commit with the next seq. Returns how often `act` was done.
pub(super) async fn survives(
    place: &Place,
    settings: StoreSettings,
    plan: impl Fn(&Request) -> Act + Send + Sync + 'static,
) -> Proxy {
    let proxy = Proxy::start(place.address, plan);
    let objects = place.via(proxy.address).open();
    let mut job = open(&objects, 2, settings.clone()).await.unwrap();
    let mut seqs = Vec::new();
    for round in 0..3 {
        job.add(round * 20..100 + round * 50).unwrap();
        seqs.push(job.checkpoint().await.unwrap().expect("committed").seq.0);
    }
    let mut next = open(&objects, 5, settings).await.unwrap();
    assert!(next.expected == job.expected, "{:?}: the state after a rescale differs", place.kind);
    next.add(30..60).unwrap();
    seqs.push(next.checkpoint().await.unwrap().expect("committed").seq.0);
    // The second attempt's claim lies between the third and the fourth.
    let first = seqs[0];
    assert_eq!(seqs, [first, first + 1, first + 2, first + 4], "{:?}: a checkpoint twice, or none", place.kind);
    next.reopen(&place.open(), 3).await;
    proxy
}

/// Runs a job with `act` done to the first of each request accepted by `on`.
async fn survives_each_first(name: &str, act: Act, on: fn(&Request) -> bool) {
    for place in Place::in_memory(name).await {
        let done = act.clone();
        let plan = move |request: &Request| if request.times == 1 && on(request) { done.clone() } else { Act::Pass };
        let proxy = survives(&place, quick(), plan).await;
        let name = format!("{act:?}").split('(').next().unwrap().to_owned();
        let times = proxy.done().get(&name).copied().unwrap_or_default();
        assert!(times >= 6, "{:?}: {name} was done {times} times only", place.kind);
    }
}

fn creates(request: &Request) -> bool {
    request.creates("/job/")
}

#[tokio::test(flavor = "multi_thread")]
async fn a02_an_answer_that_is_lost_is_settled_by_reading_back() {
    survives_each_first("a02-lost", Act::Lose, creates).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a02_an_answer_that_does_not_come_is_settled_by_reading_back() {
    for place in Place::in_memory("a02-silent").await {
        // A slow machine makes more calls time out, which only makes the test slower.
        let settings = quick().with(|it| it.call_timeout = std::time::Duration::from_secs(2));
        let plan = |request: &Request| match (request.times, request.nth % 3, creates(request)) {
            (1, 0, true) => Act::Hang,
            (1, 1, true) => Act::Ignore,
            _ => Act::Pass,
        };
        survives(&place, settings, plan).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a03_applied_then_500_then_refused_is_our_own() {
    survives_each_first("a03", Act::Mask(500), creates).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a04_a_conflict_that_leaves_nothing_is_no_fence() {
    survives_each_first("a04", Act::Refuse(409), creates).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a06_a_create_that_lands_later_changes_nothing() {
    survives_each_first("a06", Act::Late, creates).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a08_requests_that_arrive_twice_count_once() {
    survives_each_first("a08", Act::Twice, |_| true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a10_every_request_may_be_throttled() {
    survives_each_first("a10", Act::Refuse(503), |_| true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_a_body_that_is_cut_is_read_again() {
    survives_each_first("a11", Act::Cut, Request::reads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_a_listing_that_is_cut_is_asked_for_again() {
    for place in Place::in_memory("a11-list").await {
        let plan = |request: &Request| if request.times == 1 && request.lists() { Act::Cut } else { Act::Pass };
        let proxy = survives(&place, quick(), plan).await;
        assert!(proxy.done()["Cut"] >= 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a12_another_range_than_was_asked_for_is_not_taken() {
    for (name, act) in [("a12-whole", Act::Whole), ("a12-shift", Act::Shift)] {
        for place in Place::in_memory(name).await {
            let done = act.clone();
            let plan = move |request: &Request| match request.times == 1 && request.reads() {
                true => done.clone(),
                false => Act::Pass,
            };
            survives(&place, quick(), plan).await;
        }
    }
}

/// The proxy claims that the bytes are the requested ones: only checksums reveal the error.
#[tokio::test(flavor = "multi_thread")]
async fn a12_bytes_from_elsewhere_never_become_state() {
    for place in Place::in_memory("a12-misread").await {
        let mut job = Counting::fresh(&place.open(), 2).await;
        job.add(0..500).unwrap();
        job.checkpoint().await.unwrap().expect("committed");
        let plan = |request: &Request| if request.target.contains("/data/") { Act::Misread } else { Act::Pass };
        let proxy = Proxy::start(place.address, plan);
        let error = open(&place.via(proxy.address).open(), 3, quick()).await.err().expect("no state of wrong bytes");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{:?}: {}", place.kind, error.chain());
        assert!(error.chain().contains("object="), "{:?}: {}", place.kind, error.chain());
        job.reopen(&place.open(), 3).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a20_a_checkpoint_that_may_not_be_written_is_given_up_and_the_next_holds_it() {
    for place in Place::in_memory("a20").await {
        let denied = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let asked = Arc::clone(&denied);
        let proxy = Proxy::start(place.address, move |request| {
            let denied = asked.load(std::sync::atomic::Ordering::Relaxed);
            if denied && request.creates("/data/") { Act::Refuse(403) } else { Act::Pass }
        });
        let objects = place.via(proxy.address).open();
        let mut job = open(&objects, 2, quick()).await.unwrap();
        job.add(0..100).unwrap();
        job.checkpoint().await.unwrap().expect("committed");
        denied.store(true, std::sync::atomic::Ordering::Relaxed);
        job.add(50..150).unwrap();
        assert_eq!(job.checkpoint().await.unwrap(), None, "{:?}", place.kind);
        assert!(proxy.done()["Refuse"] <= 4, "{:?}: a refusal is not argued with", place.kind);
        denied.store(false, std::sync::atomic::Ordering::Relaxed);
        job.checkpoint().await.unwrap().expect("committed");
        job.reopen(&place.open(), 3).await;
    }
}
