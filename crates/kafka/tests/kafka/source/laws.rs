//! The laws of sources, transactions, and what a record has.

use alluvium::source::conformance::{self, Harness};
use alluvium::source::{SourceReader, SourceSettings};
use alluvium_kafka::KafkaIsolation;
use async_trait::async_trait;
use bytes::Bytes;

use super::*;

struct Topic(Broker);

#[async_trait]
impl Harness for Topic {
    type Source = KafkaSource;

    async fn source(&self) -> KafkaSource {
        source(&self.0, |_| ())
    }

    fn record(&self, reader: &KafkaReader) -> Vec<u8> {
        value(reader).into_bytes()
    }

    async fn grow(&self) -> Result<bool> {
        assert_eq!(self.0.add_partitions(TOPIC, 4), 1);
        for partition in 0..4 {
            write(&self.0, partition, [format!("grown {partition}")]).await;
        }
        Ok(true)
    }

    async fn shrink(&self, split: &SplitId) -> Result<bool> {
        cut(&self.0, split.number());
        Ok(true)
    }
}

/// A topic with committed and aborted transactions, and records without one, between them and at the ends.
async fn mixed(version: i16) -> Broker {
    let broker = partitioned(version, 3);
    transact(&broker, 0, &["x"], Some(false)).await;
    write(&broker, 0, ["a", "b"]).await;
    transact(&broker, 0, &["c", "d", "e"], Some(true)).await;
    transact(&broker, 0, &["y", "z"], Some(false)).await;
    write(&broker, 1, ["f", "g", "h"]).await;
    transact(&broker, 1, &["i"], Some(true)).await;
    broker
}

#[tokio::test]
async fn a_topic_keeps_the_laws_of_sources() {
    each_version(async |version| within(conformance::run(&Topic(mixed(version).await))).await).await;
}

#[tokio::test]
async fn positions_are_past_what_holds_no_records() {
    each_version(async |version| {
        let broker = mixed(version).await;
        let mut reader = read(&broker, StartAt::Configured).await;
        assert_eq!(offset(&reader.position().unwrap()), 0);
        assert_eq!(next(&mut reader).await.unwrap().as_deref(), Some("a"));
        assert_eq!((offset(&reader.position().unwrap()), reader.offset()), (3, Some(2)), "after `x` and its mark");
        assert_eq!(rest(&mut reader).await, ["b", "c", "d", "e"]);
        let end = broker.next_offset(TOPIC, 0).unwrap();
        assert_eq!(offset(&reader.position().unwrap()), end, "after `y`, `z` and their mark");
    })
    .await;
}

#[tokio::test]
async fn an_open_transaction_holds_readers_of_committed_records() {
    each_version(async |version| {
        for commits in [true, false] {
            let broker = partitioned(version, 1);
            write(&broker, 0, ["a"]).await;
            transact(&broker, 0, &["b"], None).await;
            write(&broker, 0, ["c"]).await;
            let mut reader = read(&broker, StartAt::Configured).await;
            assert_eq!(rest(&mut reader).await, ["a"]);
            assert_eq!(reader.advance().unwrap(), Advance::CaughtUp);
            assert_eq!(offset(&reader.position().unwrap()), 1);
            let all = source(&broker, |it| it.isolation = KafkaIsolation::ReadUncommitted);
            let mut all = all.open(&split(0), StartAt::Configured).await.unwrap();
            assert_eq!(rest(&mut all).await, ["a", "b", "c"]);

            asked(&broker, ApiKey::Fetch, 1).await;
            assert_eq!(rest(&mut reader).await, [""; 0]);
            match commits {
                // Another producer with the same id ends it.
                false => transact(&broker, 0, &["d"], Some(false)).await,
                true => commit_for(&broker),
            }
            let expected: &[_] = if commits { &["b", "c"] } else { &["c"] };
            let mut read = Vec::new();
            while read.len() < expected.len() {
                read.extend(rest(&mut reader).await);
                tokio::task::yield_now().await;
            }
            assert_eq!(read, expected);
        }
    })
    .await;
}

/// Ends the open transaction as a commit does for readers.
fn commit_for(broker: &Broker) {
    broker.with_state(|state| state.partition_mut(TOPIC, 0).unwrap().open_transactions.clear());
}

#[tokio::test]
async fn a_record_has_all_its_parts() {
    let broker = partitioned(2, 1);
    let kafka = Kafka::builder(broker.address()).connect().await.unwrap();
    let producer = kafka.producer().build().await.unwrap();
    let full = record(0, "v").header("h", "1").timestamp(1234);
    drop(producer.send(full).await.unwrap());
    drop(producer.send(Record::tombstone(TOPIC, "key").partition(0)).await.unwrap());
    let mut reader = read(&broker, StartAt::Configured).await;
    assert!(reader.current().is_none());
    assert_eq!(next(&mut reader).await.unwrap().as_deref(), Some("v"));
    let expected = KafkaRecord {
        headers: vec![("h".to_owned(), Some(Bytes::from_static(b"1")))],
        timestamp: Some(1234),
        partition: Some(0),
        ..KafkaRecord::new("key", "v")
    };
    assert_eq!((reader.current(), reader.offset()), (Some(&expected), Some(0)));
    while reader.advance().unwrap() != Advance::Record {
        tokio::task::yield_now().await;
    }
    assert_eq!(reader.current().unwrap().value, None);
}

#[tokio::test]
async fn partitions_that_appear_are_read_from_their_beginning() {
    let broker = partitioned(2, 1);
    write(&broker, 0, ["old"]).await;
    let latest = source(&broker, |it| it.start = alluvium_kafka::KafkaStart::Latest);
    let place = (Subtask(0), 1);
    let mut reader = SourceReader::open("in", latest, SourceSettings::default(), place, &[]).await.unwrap();
    broker.add_partitions(TOPIC, 3);
    write(&broker, 0, ["a"]).await;
    write(&broker, 2, ["b"]).await;
    assert_eq!(reader.discover().await.unwrap(), 2);
    assert_eq!(reader.discover().await.unwrap(), 0);
    let mut values = Vec::new();
    within(async {
        while values.len() < 2 {
            match reader.advance().unwrap() {
                Advance::Record => values.push(value(reader.current().unwrap().1)),
                _ => reader.ready().await,
            }
        }
    })
    .await;
    values.sort_unstable();
    assert_eq!(values, ["a", "b"], "the job starts at the latest record, and misses none of a new partition");
}
