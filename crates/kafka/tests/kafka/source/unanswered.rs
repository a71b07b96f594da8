//! Brokers that do not answer, or refuse.

use super::*;

#[tokio::test]
async fn a_broker_that_is_away_makes_no_partition_caught_up() {
    let broker = partitioned(2, 1);
    write(&broker, 0, ["a", "b"]).await;
    let mut reader = read(&broker, StartAt::Configured).await;
    assert_eq!(rest(&mut reader).await, ["a", "b"]);
    assert_eq!(reader.advance().unwrap(), Advance::CaughtUp);
    broker.crash(0);
    pending(&mut reader).await;
    let position = reader.position().unwrap();
    // More is there before the broker is.
    broker.restart(0);
    write(&broker, 0, ["c"]).await;
    let mut read = Vec::new();
    while read.is_empty() {
        read = rest(&mut reader).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(read, ["c"], "nothing twice");
    assert_eq!(offset(&position) + 1, offset(&reader.position().unwrap()));
}

#[tokio::test]
async fn a_partition_whose_fetches_are_not_answered_is_pending() {
    let broker = partitioned(2, 2);
    write(&broker, 0, ["a"]).await;
    broker.on(ApiKey::Fetch, |_| Control::Silence);
    let mut reader = read(&broker, StartAt::Configured).await;
    asked(&broker, ApiKey::Fetch, 0).await;
    assert!(broker.wait_for_requests(ApiKey::Fetch, 1, HANGS).await);
    assert_eq!(reader.advance().unwrap(), Advance::Pending);
    let mut empty = source(&broker, |_| ()).open(&split(1), StartAt::Configured).await.unwrap();
    assert_eq!(empty.advance().unwrap(), Advance::CaughtUp, "its end was asked for when it was opened");
    pending(&mut empty).await;
}

#[tokio::test]
async fn a_broker_that_stays_away_is_unavailable_after_the_patience() {
    let broker = partitioned(2, 1);
    // Longer than what a fetch has said counts: the broker is asked before.
    let hasty = source(&broker, |it| it.patience = Duration::from_secs(4));
    let mut reader = hasty.open(&split(0), StartAt::Configured).await.unwrap();
    broker.crash(0);
    let error = failure(&mut reader).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
    says(&error, &["patience=`4s`", TOPIC, "cannot look up a topic"]);
    refused(hasty.open(&split(0), StartAt::Configured).await, ErrorKind::Unavailable);
    refused(hasty.splits().await, ErrorKind::Unavailable);
}

#[tokio::test]
async fn brokers_that_come_back_while_a_partition_is_opened_are_waited_for() {
    let broker = partitioned(2, 1);
    write(&broker, 0, ["a"]).await;
    // The client itself tries to connect once.
    broker.on_times(ApiKey::ApiVersions, 3, |_| Control::Disconnect);
    let mut reader = within(read(&broker, StartAt::Configured)).await;
    assert_eq!(rest(&mut reader).await, ["a"]);
}

#[tokio::test]
async fn a_fetch_that_is_refused_is_not_taken_for_an_empty_partition() {
    let broker = partitioned(2, 1);
    write(&broker, 0, ["a"]).await;
    let hasty = source(&broker, |it| it.patience = Duration::from_secs(4));
    let mut reader = hasty.open(&split(0), StartAt::Configured).await.unwrap();
    assert_eq!(rest(&mut reader).await, ["a"]);
    broker.on(ApiKey::Fetch, |_| Control::Error(ErrorCode::TopicAuthorizationFailed));
    asked(&broker, ApiKey::Fetch, 1).await;
    write(&broker, 0, ["b", "c"]).await;
    let error = failure(&mut reader).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
    says(&error, &["permission READ"]);
}

#[tokio::test]
async fn what_the_broker_denies_is_denied() {
    for api in [ApiKey::Metadata, ApiKey::ListOffsets] {
        let broker = partitioned(2, 1);
        write(&broker, 0, ["a"]).await;
        let mut reader = read(&broker, StartAt::Configured).await;
        assert_eq!(rest(&mut reader).await, ["a"]);
        // A client asks for the brokers as it connects, without a topic.
        broker.on(api, |_| Control::Error(ErrorCode::TopicAuthorizationFailed));
        broker.on(ApiKey::Fetch, |_| Control::Error(ErrorCode::TopicAuthorizationFailed));
        let error = failure(&mut reader).await;
        assert_eq!(error.kind(), ErrorKind::Denied, "{api:?}: {}", error.chain());
        if api == ApiKey::ListOffsets {
            refused(source(&broker, |_| ()).open(&split(0), StartAt::Configured).await, ErrorKind::Denied);
        }
    }
}

#[tokio::test]
async fn fetches_that_fail_now_and_then_lose_nothing() {
    let broker = partitioned(2, 1);
    let expected: Vec<_> = (0..30).map(|number| number.to_string()).collect();
    let faults = [
        Control::Disconnect,
        Control::Error(ErrorCode::NotLeaderForPartition),
        Control::ApplyThen(Box::new(Control::Disconnect)),
        Control::Error(ErrorCode::KafkaStorageException),
        Control::Error(ErrorCode::OffsetOutOfRange),
    ];
    let mut reader = read(&broker, StartAt::Configured).await;
    let mut read = Vec::new();
    for (values, fault) in expected.chunks(6).zip(faults) {
        let before = broker.request_count(ApiKey::Fetch);
        broker.on_once(ApiKey::Fetch, move |_| fault.clone());
        write(&broker, 0, values).await;
        while read.last() != values.last() {
            read.extend(next(&mut reader).await.unwrap());
            tokio::task::yield_now().await;
        }
        assert!(broker.request_count(ApiKey::Fetch) > before);
    }
    assert_eq!(read, expected);
}

#[test]
fn a_reader_whose_runtime_has_ended_says_so() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (_broker, mut reader) = runtime.block_on(async {
        let broker = partitioned(2, 1);
        let reader = read(&broker, StartAt::Configured).await;
        (broker, reader)
    });
    drop(runtime);
    refused(reader.advance(), ErrorKind::Unavailable);
}
