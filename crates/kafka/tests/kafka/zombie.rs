//! Attempts that keep publishing after a later one has come, and what stops a producer by mistake.

use alluvium_testkit::kafka::Kafka;

use crate::*;

#[tokio::test]
async fn a_zombie_that_resumes_is_fenced_and_harms_nobody() {
    each_version(async |version| {
        let broker = broker(version);
        let mut older = fenced(settings(&broker)).await;
        older.publish(marker(FIRST, 1), &records(["a"])).await.unwrap();
        let before = broker.request_count(ApiKey::Produce);
        let published = records(["b"]);
        let mut publication = older.publish(marker(FIRST, 2), &published);
        poll_until(&mut publication, || broker.request_count(ApiKey::Produce) > before).await;
        let mut newer = open(settings(&broker)).await;
        assert_eq!(newer.fence(SECOND).await.unwrap(), Some(marker(FIRST, 1)));
        let error = refused(publication.await, ErrorKind::Fenced);
        says(&error, &["attempt=`1` by_attempt=`2`"]);
        newer.publish(marker(SECOND, 2), &records(["c"])).await.unwrap();
        assert_eq!(broker.values(TOPIC), ["a", "c"]);
    })
    .await;
}

#[tokio::test]
async fn an_older_attempt_that_fences_late_does_not_take_the_transactional_id() {
    each_version(async |version| {
        let broker = broker(version);
        let mut newer = open(settings(&broker)).await;
        newer.fence(SECOND).await.unwrap();
        let producer = broker.transactional_producer(&transactional_id());
        let mut older = open(settings(&broker)).await;
        says(&refused(older.fence(FIRST).await, ErrorKind::Fenced), &["attempt=`1` by_attempt=`2`"]);
        assert_eq!(broker.transactional_producer(&transactional_id()), producer);
        newer.publish(marker(SECOND, 1), &records(["a"])).await.unwrap();
        assert_eq!(broker.values(TOPIC), ["a"]);
    })
    .await;
}

/// The older one has seen no later entry, and takes the transactional id when the later one has it already.
#[tokio::test]
async fn an_older_attempt_that_fences_at_the_same_time_stops_the_later_one_only_once() {
    each_version(async |version| {
        let broker = broker(version);
        broker.on_once(ApiKey::InitProducerId, |_| Control::Error(ErrorCode::ConcurrentTransactions));
        let (mut older, mut newer) = (open(settings(&broker)).await, open(settings(&broker)).await);
        let mut fencing = older.fence(FIRST);
        // Stopped before it asks again.
        poll_until(&mut fencing, || broker.request_count(ApiKey::InitProducerId) == 1).await;
        assert_eq!(newer.fence(SECOND).await.unwrap(), None);
        newer.publish(marker(SECOND, 1), &records(["a"])).await.unwrap();
        refused(fencing.await, ErrorKind::Fenced);
        let error = refused(newer.publish(marker(SECOND, 2), &records(["b"])).await, ErrorKind::Unavailable);
        says(&error, &["another producer", &slot().to_string()]);
        assert_eq!(error.applied(), Applied::No);
        assert_eq!(newer.fence(SECOND).await.unwrap(), Some(marker(SECOND, 1)));
        newer.publish(marker(SECOND, 2), &records(["b"])).await.unwrap();
        assert_eq!(broker.values(TOPIC), ["a", "b"]);
    })
    .await;
}

/// The reverse: the older one has the transactional id, and the later one takes it before the older one writes its entry.
#[tokio::test]
async fn an_older_attempt_that_is_overtaken_in_its_fence_writes_no_entry() {
    each_version(async |version| {
        let broker = broker(version);
        let (mut older, mut newer) = (open(settings(&broker)).await, open(settings(&broker)).await);
        let mut fencing = older.fence(FIRST);
        poll_until(&mut fencing, || broker.transactional_producer(&transactional_id()).is_some()).await;
        assert_eq!(newer.fence(SECOND).await.unwrap(), None);
        refused(fencing.await, ErrorKind::Fenced);
        newer.publish(marker(SECOND, 1), &records(["a"])).await.unwrap();
        assert_eq!(newer.fence(SECOND).await.unwrap(), Some(marker(SECOND, 1)));
    })
    .await;
}

/// An older one that keeps publishing fences again at once when it is stopped.
#[tokio::test]
async fn a_fence_that_an_older_attempt_interrupts_goes_on() {
    each_version(async |version| {
        let broker = broker(version);
        let (mut older, mut newer) = (fenced(settings(&broker)).await, open(settings(&broker)).await);
        let producer = broker.transactional_producer(&transactional_id());
        let mut fencing = newer.fence(SECOND);
        poll_until(&mut fencing, || broker.transactional_producer(&transactional_id()) != producer).await;
        assert_eq!(older.fence(FIRST).await.unwrap(), None);
        older.publish(marker(FIRST, 1), &records(["a"])).await.unwrap();
        assert_eq!(fencing.await.unwrap(), Some(marker(FIRST, 1)));
        refused(older.publish(marker(FIRST, 2), &records(["b"])).await, ErrorKind::Fenced);
        newer.publish(marker(SECOND, 2), &records(["c"])).await.unwrap();
        assert_eq!(broker.values(TOPIC), ["a", "c"]);
    })
    .await;
}

#[tokio::test]
async fn a_producer_of_others_with_the_same_transactional_id_stops_a_publication() {
    each_version(async |version| {
        let broker = broker(version);
        let mut slot = fenced(settings(&broker)).await;
        let other = Kafka::builder(broker.address()).connect().await.unwrap();
        other.producer().build_transactional(transactional_id()).await.unwrap();
        refused(slot.publish(marker(FIRST, 1), &records(["a"])).await, ErrorKind::Unavailable);
        assert_eq!(slot.fence(FIRST).await.unwrap(), None);
        slot.publish(marker(FIRST, 1), &records(["a"])).await.unwrap();
        assert_eq!(broker.values(TOPIC), ["a"]);
    })
    .await;
}

#[tokio::test]
async fn a_transaction_that_runs_out_says_how_long_it_took() {
    each_version(async |version| {
        for (timeout, parts) in [
            (Duration::from_millis(1), &["longer than its transaction", "took=`", "transaction_timeout=`1ms`"][..]),
            (Duration::from_secs(60), &["another producer"]),
        ] {
            let broker = broker(version);
            let mut slot = fenced(settings(&broker).with(|it| it.transaction_timeout = timeout)).await;
            let before = broker.request_count(ApiKey::Produce);
            let published = records(["a"]);
            let mut publication = slot.publish(marker(FIRST, 1), &published);
            poll_until(&mut publication, || broker.request_count(ApiKey::Produce) > before).await;
            let mut tick = tokio::time::interval(Duration::from_millis(2));
            tick.tick().await;
            tick.tick().await;
            // What the coordinator does at the end of the time.
            assert!(broker.abort_transaction(&transactional_id()));
            says(&refused(publication.await, ErrorKind::Unavailable), parts);
            assert_eq!(slot.fence(FIRST).await.unwrap(), None);
            assert!(broker.values(TOPIC).is_empty());
        }
    })
    .await;
}

/// The commit is decided, and its markers are not written yet: what it published is not readable.
#[tokio::test]
async fn a_fence_does_not_read_past_a_commit_that_is_not_complete() {
    each_version(async |version| {
        let broker = broker(version);
        let mut older = fenced(settings(&broker)).await;
        broker.hold_transaction_markers(true);
        older.publish(marker(FIRST, 1), &records(["a"])).await.unwrap();
        let mut newer = open(hasty(&broker)).await;
        refused(newer.fence(SECOND).await, ErrorKind::Unavailable);
        broker.hold_transaction_markers(false);
        assert_eq!(newer.fence(SECOND).await.unwrap(), Some(marker(FIRST, 1)));
        assert_eq!(broker.values(TOPIC), ["a"]);
    })
    .await;
}
