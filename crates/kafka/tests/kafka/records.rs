//! What a reader gets.

use bytes::Bytes;

use crate::*;

#[tokio::test]
async fn all_parts_of_a_record_arrive() {
    let broker = broker(2);
    let mut slot = fenced(settings(&broker)).await;
    let full = KafkaRecord {
        headers: vec![("a".to_owned(), Some(Bytes::from_static(b"1"))), ("a".to_owned(), None)],
        timestamp: Some(1_700_000_000_123),
        partition: Some(0),
        ..KafkaRecord::new("key", "value")
    };
    let tombstone = KafkaRecord { value: None, ..KafkaRecord::new("key", "") };
    let nothing = KafkaRecord::default();
    let empty = KafkaRecord::new("", "");
    let published = [&full, &tombstone, &nothing, &empty].map(KafkaRecord::to_bytes).iter().collect();
    slot.publish(marker(FIRST, 1), &published).await.unwrap();
    let committed = broker.committed(TOPIC);
    let read = committed.iter().map(|record| KafkaRecord {
        key: record.key.clone(),
        value: record.value.clone(),
        headers: record.headers.iter().map(|(name, value)| (name.to_string(), value.clone())).collect(),
        ..KafkaRecord::default()
    });
    let without_place = KafkaRecord { timestamp: None, partition: None, ..full };
    assert_eq!(read.collect::<Vec<_>>(), [without_place, tombstone, nothing, empty]);
    assert_eq!(committed[0].timestamp, 1_700_000_000_123);
}

/// The hashes are those of Kafka's own tests.
#[tokio::test]
async fn keys_choose_partitions_as_in_java() {
    let broker = Broker::start(2);
    broker.create_topic(TOPIC, 1000);
    let mut slot = fenced(settings(&broker)).await;
    let hashes = [("21", -973_932_308), ("foobar", -790_332_482), ("abc", 479_470_107_i32)];
    let published = hashes.map(|(key, _)| KafkaRecord::new(key, key).to_bytes()).iter().collect();
    slot.publish(marker(FIRST, 1), &published).await.unwrap();
    let mut expected = hashes.map(|(key, hash)| ((hash & 0x7fff_ffff) % 1000, key.to_owned()));
    expected.sort_unstable();
    let found: Vec<_> =
        broker.committed(TOPIC).iter().map(|it| (it.partition, it.value_str().unwrap().to_owned())).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn more_than_the_buffer_holds_is_published_in_order() {
    let broker = broker(2);
    let settings = settings(&broker).with(|it| it.buffer_bytes = 1 << 20);
    let mut slot = fenced(settings).await;
    let value = |number: u32| format!("{number:010}").repeat(1000);
    let published = (0..1600).map(|number| KafkaRecord::new("key", value(number)).to_bytes()).collect::<Records>();
    assert!(published.bytes() > 15 << 20);
    slot.publish(marker(FIRST, 1), &published).await.unwrap();
    let found = broker.values(TOPIC);
    assert!(found.iter().map(|value| &value[..10]).eq((0..1600).map(|number| format!("{number:010}"))));
}

#[tokio::test]
async fn compressed_records_arrive() {
    use alluvium_kafka::KafkaCompression::{Gzip, Lz4, Snappy, Zstd};
    let broker = broker(2);
    for (epoch, compression) in (1..).zip([Gzip, Snappy, Lz4, Zstd]) {
        let mut slot = open(settings(&broker).with(|it| it.compression = compression)).await;
        slot.fence(FIRST).await.unwrap();
        slot.publish(marker(FIRST, epoch), &records(["value"])).await.unwrap();
    }
    assert_eq!(broker.values(TOPIC), ["value"; 4]);
}

#[tokio::test]
async fn a_record_that_cannot_be_sent_is_named_and_nothing_is_published() {
    let broker = broker(2);
    let good = KafkaRecord::new("key", "value").to_bytes();
    let elsewhere = KafkaRecord { partition: Some(1), ..KafkaRecord::default() }.to_bytes();
    for (bad, parts) in [(Bytes::from_static(b"junk"), &[][..]), (elsewhere, &["partition=`1` partitions=`1`"])] {
        let mut slot = open(settings(&broker)).await;
        slot.fence(FIRST).await.unwrap();
        let error =
            refused(slot.publish(marker(FIRST, 1), &[&good, &bad].into_iter().collect()).await, ErrorKind::Input);
        says(&error, &["topic=`counts` record=`1`"]);
        says(&error, parts);
        assert_eq!(error.applied(), Applied::No);
        assert!(!broker.transaction_is_open(&transactional_id()), "readers would wait for it");
        refused(slot.publish(marker(FIRST, 1), &records(["a"])).await, ErrorKind::Usage);
    }
    assert!(broker.all_records(TOPIC).unwrap().is_empty());
}

#[tokio::test]
async fn a_partition_that_was_just_added_can_be_named() {
    let broker = broker(2);
    let mut slot = fenced(settings(&broker)).await;
    slot.publish(marker(FIRST, 1), &records(["a"])).await.unwrap();
    broker.add_partitions(TOPIC, 3);
    let record = KafkaRecord { partition: Some(2), ..KafkaRecord::new("key", "b") };
    slot.publish(marker(FIRST, 2), &[record.to_bytes()].iter().collect()).await.unwrap();
    assert_eq!(broker.committed(TOPIC)[1].partition, 2);
}
