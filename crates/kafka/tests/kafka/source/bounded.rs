//! What is bounded: memory, input with an end, the life of a reader.

use alluvium_kafka::KafkaStart;

use super::*;

#[tokio::test]
async fn a_partition_that_nobody_reads_takes_bounded_memory_and_stops_no_other() {
    let broker = partitioned(2, 2);
    let buffer_bytes = 64 << 10;
    let kafka = Kafka::builder(broker.address()).connect().await.unwrap();
    let producer = kafka.producer().build().await.unwrap();
    let count = 10_000;
    for number in 0..count {
        drop(producer.enqueue(record(0, number.to_string())).await.unwrap());
    }
    producer.close().await.unwrap();
    let bounded = source(&broker, |it| it.buffer_bytes = buffer_bytes);
    let mut unread = bounded.open(&split(0), StartAt::Configured).await.unwrap();
    within(async {
        while unread.buffered_bytes() <= buffer_bytes / 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let full = unread.buffered_bytes();
    assert!(full <= buffer_bytes * 3 / 2, "{full} bytes");
    let fetches = broker.request_count(ApiKey::Fetch);

    // Whatever another partition does meanwhile.
    let mut other = bounded.open(&split(1), StartAt::Configured).await.unwrap();
    for value in ["a", "b", "c"] {
        write(&broker, 1, [value]).await;
        while next(&mut other).await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    }
    drop(other);
    assert_eq!(unread.buffered_bytes(), full);
    assert!(broker.request_count(ApiKey::Fetch) > fetches);

    let mut most = 0;
    for number in 0..count {
        assert_eq!(next(&mut unread).await.unwrap(), Some(number.to_string()));
        most = most.max(unread.buffered_bytes());
    }
    assert!(most <= buffer_bytes * 3 / 2, "{most} bytes");
    assert_eq!(next(&mut unread).await.unwrap(), None);
    assert_eq!(unread.buffered_bytes(), 0);
}

#[tokio::test]
async fn a_reader_that_is_dropped_fetches_no_more() {
    let broker = partitioned(2, 1);
    let before = broker.open_connections();
    let reader = read(&broker, StartAt::Configured).await;
    assert!(broker.wait_for_requests(ApiKey::Fetch, 1, HANGS).await);
    assert!(broker.open_connections() > before);
    drop(reader);
    within(async {
        while broker.open_connections() > before {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_waits_is_woken_by_a_record() {
    let broker = partitioned(2, 1);
    let mut reader = read(&broker, StartAt::Configured).await;
    assert_eq!(next(&mut reader).await.unwrap(), None);
    let mut ready = Box::pin(poll_fn(|context| reader.poll_ready(context)));
    assert!(poll_once(&mut ready).await.is_none(), "it has caught up, and knows it");
    write(&broker, 0, ["a"]).await;
    within(ready).await;
    assert_eq!(next(&mut reader).await.unwrap().as_deref(), Some("a"));
}

#[tokio::test]
async fn input_with_an_end_ends_where_it_was_when_opened() {
    let broker = partitioned(2, 2);
    write(&broker, 0, ["a", "b"]).await;
    transact(&broker, 0, &["x"], Some(false)).await;
    let bounded = source(&broker, |it| it.stop_at_end = true);
    assert!(bounded.is_bounded() && !source(&broker, |_| ()).is_bounded());
    let mut reader = bounded.open(&split(0), StartAt::Configured).await.unwrap();
    write(&broker, 0, ["c"]).await;
    assert_eq!(rest(&mut reader).await, ["a", "b"]);
    for _ in 0..2 {
        assert_eq!(reader.advance().unwrap(), Advance::End);
    }
    let position = reader.position().unwrap();
    let mut resumed = bounded.open(&split(0), StartAt::Position(&position)).await.unwrap();
    assert_eq!(rest(&mut resumed).await, ["c"]);
    transact(&broker, 1, &["open"], None).await;
    let mut unreadable = bounded.open(&split(1), StartAt::Configured).await.unwrap();
    assert_eq!(unreadable.advance().unwrap(), Advance::End, "an open transaction is not waited for");
}

#[tokio::test]
async fn a_job_may_start_at_the_latest_record() {
    let broker = partitioned(2, 1);
    write(&broker, 0, ["a"]).await;
    let latest = source(&broker, |it| it.start = KafkaStart::Latest);
    let mut reader = latest.open(&split(0), StartAt::Configured).await.unwrap();
    let position = reader.position().unwrap();
    write(&broker, 0, ["b"]).await;
    while next(&mut reader).await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(value(&reader), "b");
    for (from, expected) in [(StartAt::Position(&position), &["b"][..]), (StartAt::Beginning, &["a", "b"])] {
        let mut reader = latest.open(&split(0), from).await.unwrap();
        assert_eq!(rest(&mut reader).await, expected);
    }
}
