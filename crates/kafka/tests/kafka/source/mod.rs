//! Reading a topic.

mod bounded;
mod copy;
mod gone;
mod laws;
mod unanswered;

use std::future::poll_fn;

use alluvium::Error;
use alluvium::source::{Advance, Position, Source, SplitId, SplitReader, StartAt};
use alluvium_kafka::{KafkaReader, KafkaSource, KafkaSourceSettings};
use alluvium_testkit::kafka::{Kafka, Record};

use crate::*;

/// A generous bound: only a test that hangs reaches it.
const HANGS: Duration = Duration::from_secs(60);

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANGS, work).await.expect("the test hangs")
}

fn partitioned(version: i16, partitions: i32) -> Broker {
    let broker = Broker::start(version);
    broker.create_topic(TOPIC, partitions);
    broker
}

/// Writes values to a partition, outside of transactions, each as a batch of its own.
async fn write(broker: &Broker, partition: i32, values: impl IntoIterator<Item = impl Into<String>>) {
    let kafka = Kafka::builder(broker.address()).connect().await.unwrap();
    let producer = kafka.producer().build().await.unwrap();
    for value in values {
        drop(producer.send(record(partition, value)).await.unwrap());
    }
    producer.close().await.unwrap();
}

/// Writes values to a partition as one transaction. It commits, aborts, or stays open.
async fn transact(broker: &Broker, partition: i32, values: &[&str], commits: Option<bool>) {
    let kafka = Kafka::builder(broker.address()).connect().await.unwrap();
    let producer = kafka.producer().build_transactional("writer").await.unwrap();
    producer.begin().unwrap();
    for value in values {
        drop(producer.send(record(partition, *value)).await.unwrap());
    }
    match commits {
        Some(true) => producer.commit().await.unwrap(),
        Some(false) => producer.abort().await.unwrap(),
        None => {}
    }
}

fn record(partition: i32, value: impl Into<String>) -> Record {
    Record::new(TOPIC, value.into()).partition(partition).key("key")
}

fn source(broker: &Broker, change: impl FnOnce(&mut KafkaSourceSettings)) -> KafkaSource {
    let settings = KafkaSourceSettings::default().with(change);
    KafkaSource::new(KafkaConnection::new(broker.address()), TOPIC, settings).unwrap()
}

fn split(partition: u32) -> SplitId {
    SplitId::new(TOPIC, partition).unwrap()
}

/// Opens partition 0.
async fn read(broker: &Broker, from: StartAt<'_>) -> KafkaReader {
    source(broker, |_| ()).open(&split(0), from).await.unwrap()
}

fn value(reader: &KafkaReader) -> String {
    let value = reader.current().unwrap().value.clone().unwrap();
    String::from_utf8(value.into()).unwrap()
}

/// Moves to the next record; none if there is none now, or no more.
async fn next(reader: &mut KafkaReader) -> Result<Option<String>> {
    within(async {
        loop {
            match reader.advance()? {
                Advance::Record => return Ok(Some(value(reader))),
                Advance::Pending => poll_fn(|context| reader.poll_ready(context)).await,
                _ => return Ok(None),
            }
        }
    })
    .await
}

async fn rest(reader: &mut KafkaReader) -> Vec<String> {
    let mut values = Vec::new();
    while let Some(value) = next(reader).await.unwrap() {
        values.push(value);
    }
    values
}

/// Reads until something fails.
async fn failure(reader: &mut KafkaReader) -> Error {
    within(async {
        loop {
            match reader.advance() {
                Ok(Advance::Record) => {}
                Ok(_) => tokio::task::yield_now().await,
                Err(error) => return error,
            }
        }
    })
    .await
}

/// Reads until nothing is known; there must be no record.
async fn pending(reader: &mut KafkaReader) {
    within(async {
        loop {
            match reader.advance().unwrap() {
                Advance::Pending => return,
                found => assert_ne!(found, Advance::Record),
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Returns the offset of a position.
fn offset(position: &Position) -> i64 {
    i64::from_le_bytes(position.bytes()[17..].try_into().unwrap())
}

/// Waits until the broker has been asked `count` times more.
async fn asked(broker: &Broker, api: ApiKey, count: usize) {
    let before = broker.request_count(api);
    assert!(broker.wait_for_requests(api, before + count, HANGS).await);
}

/// Takes the first `count` batches away, as retention does.
fn retain_from(broker: &Broker, offset: i64) {
    broker.with_state(|state| {
        let partition = state.partition_mut(TOPIC, 0).unwrap();
        partition.log_start_offset = offset;
        partition.log.retain(|batch| base_offset(batch) >= offset);
        partition.next_offset = partition.next_offset.max(offset);
    });
}

/// Takes the last batch away.
fn cut(broker: &Broker, partition: u32) {
    broker.with_state(|state| {
        let partition = state.partition_mut(TOPIC, i32::try_from(partition).unwrap()).unwrap();
        partition.next_offset = base_offset(&partition.log.pop().unwrap());
    });
}

fn base_offset(batch: &[u8]) -> i64 {
    i64::from_be_bytes(batch[..8].try_into().unwrap())
}
