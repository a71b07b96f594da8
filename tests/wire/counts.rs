//! What a checkpoint of several workers costs, in requests and in bytes of messages.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use alluvium::internals::wire::{Envelope, ToOwner, decode};
use alluvium::{JobSettings, Result};
use alluvium_testkit::Gate;
use alluvium_testkit::pump::{Seen, Way};

use crate::members::Cluster;

/// Returns what kind of message it is.
fn kind(way: Way, message: &[u8]) -> &'static str {
    if way == Way::ToWorker {
        return "to a worker";
    }
    match decode::<ToOwner>(message).unwrap().body {
        ToOwner::Acknowledge(_) => "acknowledgement",
        ToOwner::Arrived(..) => "arrival",
        // Measurements are sent by the clock: how many there are depends on the speed of the machine.
        _ => "other",
    }
}

/// Requests by verb, and bytes of acknowledgements. No other message says anything about state.
struct Cost {
    calls: BTreeMap<String, usize>,
    acknowledged_bytes: u64,
}

/// Takes checkpoints of a job of 3 workers with 4 subtasks each, and returns the cost of the last: 300 keys of `keys`
/// have changed.
async fn cost(keys: u32) -> Result<Cost> {
    let gate = Gate::new();
    let bytes = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&bytes);
    let seen: Seen = Arc::new(move |way, message| {
        if way == Way::ToOwner && matches!(decode(message), Ok(Envelope { body: ToOwner::Acknowledge(_), .. })) {
            counter.fetch_add(message.len() as u64, Ordering::Relaxed);
        }
    });
    let mut cluster = Cluster::seen_by(&gate, (3, 12), JobSettings::default(), seen).await;
    cluster.open().await?;
    cluster.add(0..keys)?;
    assert!(cluster.checkpoint().await?.is_some());
    for round in 0..2 {
        cluster.add(round..round + 300)?;
        assert!(cluster.checkpoint().await?.is_some());
    }
    cluster.add(2..302)?;
    gate.take_calls();
    let before = bytes.load(Ordering::Relaxed);
    assert!(cluster.checkpoint().await?.is_some());
    let mut cost = Cost { calls: BTreeMap::new(), acknowledged_bytes: bytes.load(Ordering::Relaxed) - before };
    for call in gate.take_calls() {
        let (verb, key) = call.split_once(' ').unwrap_or((&call, ""));
        let kind = key.split('/').nth(1).unwrap_or_default();
        *cost.calls.entry(format!("{verb} {kind}").trim().to_owned()).or_default() += 1;
    }
    Ok(cost)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_one_upload_per_worker_and_its_messages_do_not_grow_with_the_state() -> Result<()> {
    // By hand: ALLUVIUM_WIRE_KEYS=100000, with its tenfold.
    let keys = std::env::vars().find(|(name, _)| name == "ALLUVIUM_WIRE_KEYS");
    let keys = keys.map_or(10_000, |(_, keys)| keys.parse().unwrap());
    let [small, large] = [cost(keys).await?, cost(10 * keys).await?];
    for cost in [&small, &large] {
        let calls = |kind: &str| cost.calls.get(kind).copied().unwrap_or(0);
        assert!(calls("put data") <= 3, "{:?}", cost.calls);
        assert_eq!(calls("put manifest"), 1, "{:?}", cost.calls);
        let gets: usize = cost.calls.iter().filter(|(call, _)| call.starts_with("get")).map(|(_, count)| count).sum();
        assert!(gets <= 1, "{:?}", cost.calls);
        assert!(!cost.calls.keys().any(|call| call.starts_with("list")), "{:?}", cost.calls);
    }
    let [small, large] = [small, large].map(|cost| cost.acknowledged_bytes);
    assert!(small.abs_diff(large) * 10 <= small.max(large), "{small} and {large} bytes");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_each_way_carries_is_a_few_messages() -> Result<()> {
    let gate = Gate::new();
    let count = Arc::new(Mutex::new(BTreeMap::new()));
    let counter = Arc::clone(&count);
    let is_open = Arc::new(AtomicBool::new(false));
    let opened = Arc::clone(&is_open);
    let seen: Seen = Arc::new(move |way, message| {
        if opened.load(Ordering::Acquire) {
            *counter.lock().unwrap().entry(kind(way, message)).or_insert(0) += 1;
        }
    });
    let mut cluster = Cluster::seen_by(&gate, (3, 12), JobSettings::default(), seen).await;
    cluster.open().await?;
    is_open.store(true, Ordering::Release);
    for _ in 0..4 {
        cluster.add(0..100)?;
        assert!(cluster.checkpoint().await?.is_some());
    }
    let counts = count.lock().unwrap().clone();
    assert_eq!(counts["acknowledgement"], 4 * 3, "{counts:?}");
    // At most one arrival for each task; the outcome may still be on its way.
    assert!(counts["arrival"] <= 4 * 12 && counts["to a worker"] <= 4 * 3, "{counts:?}");
    Ok(())
}
