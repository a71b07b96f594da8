//! A broker that is away.

use tokio::task::JoinSet;

use crate::*;

#[tokio::test]
async fn a_broker_that_is_away_at_the_start() {
    let broker = broker(2);
    broker.crash(0);
    let target = target(hasty(&broker));
    says(&refused(target.check().await, ErrorKind::Unavailable), &[&broker.address()]);
    let mut slot = target.open(&slot()).await.unwrap();
    refused(slot.fence(FIRST).await, ErrorKind::Unavailable);
    refused(slot.publish(marker(FIRST, 1), &records(["a"])).await, ErrorKind::Usage);
    broker.restart(0);
    target.check().await.unwrap();
    assert_eq!(slot.fence(FIRST).await.unwrap(), None);
}

#[tokio::test]
async fn a_name_that_is_none_makes_the_target_unavailable() {
    let connection = KafkaConnection::new("no-such-host.invalid:9092");
    let target = target(KafkaTargetSettings::new(connection, TOPIC));
    says(&refused(target.check().await, ErrorKind::Unavailable), &["no-such-host.invalid"]);
}

#[tokio::test]
async fn a_broker_that_goes_before_a_publication() {
    each_version(async |version| {
        let broker = broker(version);
        let mut slot = fenced(hasty(&broker)).await;
        // A request that the broker is just reading would still be answered.
        broker.on(ApiKey::Produce, |_| Control::Disconnect);
        broker.crash(0);
        let error = refused(slot.publish(marker(FIRST, 1), &records(["a"])).await, ErrorKind::Unavailable);
        assert_eq!(error.applied(), Applied::No, "the commit was not sent: {}", error.chain());
        refused(slot.fence(FIRST).await, ErrorKind::Unavailable);
        broker.clear_hooks();
        broker.restart(0);
        assert_eq!(slot.fence(FIRST).await.unwrap(), None);
        slot.publish(marker(FIRST, 1), &records(["a"])).await.unwrap();
        assert_eq!(broker.values(TOPIC), ["a"]);
    })
    .await;
}

#[tokio::test]
async fn a_broker_that_restarts_within_a_publication_is_waited_for() {
    each_version(async |version| {
        let broker = broker(version);
        let mut slot = fenced(settings(&broker)).await;
        slot.publish(marker(FIRST, 1), &records(["a"])).await.unwrap();
        let before = broker.request_count(ApiKey::Produce);
        let published = records(["b"]);
        let mut publication = slot.publish(marker(FIRST, 2), &published);
        poll_until(&mut publication, || broker.request_count(ApiKey::Produce) > before).await;
        broker.crash(0);
        broker.restart(0);
        publication.await.unwrap();
        assert_eq!(broker.values(TOPIC), ["a", "b"]);
        assert_eq!(slot.fence(FIRST).await.unwrap(), Some(marker(FIRST, 2)));
    })
    .await;
}

/// Polls of a publication after which the broker goes.
const POLLS: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 8];

#[tokio::test]
async fn each_record_is_there_once_whenever_the_broker_goes() {
    let mut running = JoinSet::new();
    for version in VERSIONS {
        for polls in POLLS {
            running.spawn(the_broker_goes(version, polls));
        }
    }
    running.join_all().await;
}

async fn the_broker_goes(version: i16, polls: u32) {
    let broker = broker(version);
    let mut slot = fenced(hasty(&broker)).await;
    let published = records(["a", "b"]);
    let mut publication = slot.publish(marker(FIRST, 1), &published);
    let mut outcome = None;
    for _ in 0..polls {
        if outcome.is_none() {
            outcome = poll_once(&mut publication).await;
        }
    }
    broker.crash(0);
    let outcome = match outcome {
        Some(outcome) => outcome,
        None => publication.as_mut().await,
    };
    drop(publication);
    if let Err(error) = &outcome {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
    }
    broker.restart(0);
    let found = slot.fence(FIRST).await.unwrap();
    assert!(found.is_some() || outcome.is_err(), "an acknowledged publication is lost after {polls} polls");
    if found.is_none() {
        slot.publish(marker(FIRST, 1), &published).await.unwrap();
    }
    assert_eq!(broker.values(TOPIC), ["a", "b"], "after {polls} polls: {outcome:?}");
}
