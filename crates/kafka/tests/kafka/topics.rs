//! Topics that are absent, too small, damaged or shared.

use alluvium_testkit::kafka::{Kafka, Record};

use crate::*;

#[tokio::test]
async fn a_topic_that_does_not_exist() {
    let broker = Broker::start(2);
    says(&refused(target(hasty(&broker)).check().await, ErrorKind::NotFound), &["topic=`counts`"]);
    let mut slot = fenced(hasty(&broker)).await;
    let error = refused(slot.publish(marker(FIRST, 1), &records(["a"])).await, ErrorKind::NotFound);
    says(&error, &["topic=`counts`"]);
    assert_eq!(error.applied(), Applied::No);
}

#[tokio::test]
async fn a_topic_that_is_deleted() {
    each_version(async |version| {
        let broker = broker(version);
        let mut slot = fenced(hasty(&broker)).await;
        slot.publish(marker(FIRST, 1), &records(["a"])).await.unwrap();
        broker.delete_topic(TOPIC);
        let error = refused(slot.publish(marker(FIRST, 2), &records(["b"])).await, ErrorKind::NotFound);
        says(&error, &["topic=`counts`"]);
        assert_eq!(error.applied(), Applied::No);
        broker.create_topic(TOPIC, 1);
        assert_eq!(slot.fence(FIRST).await.unwrap(), Some(marker(FIRST, 1)));
        slot.publish(marker(FIRST, 2), &records(["b"])).await.unwrap();
        assert_eq!(broker.values(TOPIC), ["b"]);
    })
    .await;
}

#[tokio::test]
async fn a_check_changes_nothing() {
    let broker = broker(2);
    let named = settings(&broker).with(|it| it.slots_topic = Some("slots".to_owned()));
    target(named.clone()).check().await.unwrap();
    assert_eq!(broker.topic_id("slots"), None);
    let not_created = named.clone().with(|it| it.create_slots_topic = false);
    says(&refused(target(not_created.clone()).check().await, ErrorKind::NotFound), &["slots_topic=`slots`"]);
    says(&refused(open(not_created.clone()).await.fence(FIRST).await, ErrorKind::NotFound), &["slots_topic=`slots`"]);
    fenced(named).await;
    target(not_created).check().await.unwrap();
}

#[tokio::test]
async fn a_topic_of_slots_with_too_few_partitions() {
    let broker = broker(2);
    broker.create_topic(&slots_topic(), 3);
    let fourth = Slot { subtask: Subtask(3), ..slot() };
    let mut slot = target(settings(&broker)).open(&fourth).await.unwrap();
    says(&refused(slot.fence(FIRST).await, ErrorKind::Config), &["partitions=`3`", "subtask=`3`", &slots_topic()]);
    broker.add_partitions(&slots_topic(), 4);
    assert_eq!(slot.fence(FIRST).await.unwrap(), None);
}

/// Another subtask creates it between the look and the creation.
#[tokio::test]
async fn a_topic_of_slots_that_another_subtask_creates_at_the_same_time() {
    let broker = broker(2);
    let exists = Control::Error(ErrorCode::TopicAlreadyExists);
    broker.on_once(ApiKey::CreateTopics, move |_| Control::ApplyThen(Box::new(exists.clone())));
    fenced(settings(&broker)).await;
    assert_eq!(broker.request_count(ApiKey::CreateTopics), 1);
}

async fn client(broker: &Broker) -> Kafka {
    Kafka::builder(broker.address()).connect().await.unwrap()
}

fn entry(value: &'static str) -> Record {
    Record::new(slots_topic(), value).partition(0).key(slot().to_string())
}

#[tokio::test]
async fn an_entry_that_is_damaged() {
    let broker = broker(2);
    drop(fenced(settings(&broker)).await);
    let producer = client(&broker).await.producer().build().await.unwrap();
    drop(producer.send(entry("damage")).await.unwrap());
    let error = refused(open(settings(&broker)).await.fence(FIRST).await, ErrorKind::Corrupt);
    says(&error, &[&slots_topic(), "partition=`0`", "damage"]);
    drop(producer.send(entry("2 from the future")).await.unwrap());
    refused(open(settings(&broker)).await.fence(FIRST).await, ErrorKind::Version);
}

#[tokio::test]
async fn an_entry_that_is_deleted_is_none() {
    let broker = broker(2);
    let mut slot = fenced(settings(&broker)).await;
    slot.publish(marker(FIRST, 1), &records(["a"])).await.unwrap();
    let producer = client(&broker).await.producer().build().await.unwrap();
    drop(producer.send(entry("").without_value()).await.unwrap());
    assert_eq!(slot.fence(FIRST).await.unwrap(), None);
}

/// Behind an open transaction of another slot, a slot's last entry is not readable yet: an older one must not be taken for it.
#[tokio::test]
async fn a_transaction_that_another_slot_has_open_is_waited_for() {
    each_version(async |version| {
        let broker = broker(version);
        let mut slot = fenced(hasty(&broker)).await;
        slot.publish(marker(FIRST, 1), &records(["a"])).await.unwrap();
        let other = client(&broker).await.producer().build_transactional("other").await.unwrap();
        other.begin().unwrap();
        drop(other.send(Record::new(slots_topic(), "other").partition(0).key("other")).await.unwrap());
        slot.publish(marker(FIRST, 2), &records(["b"])).await.unwrap();
        says(&refused(slot.fence(FIRST).await, ErrorKind::Unavailable), &[&slots_topic(), "partition=`0`"]);
        other.commit().await.unwrap();
        assert_eq!(slot.fence(FIRST).await.unwrap(), Some(marker(FIRST, 2)));
    })
    .await;
}

#[tokio::test]
async fn an_entry_that_is_far_from_the_end_is_found() {
    let broker = broker(2);
    let shared = settings(&broker).with(|it| it.slots_topic = Some("slots".to_owned()));
    let mut quiet = fenced(shared.clone()).await;
    quiet.publish(marker(FIRST, 1), &records(["a"])).await.unwrap();
    let mut busy = target(shared).open(&Slot { sink: "busy".to_owned(), ..slot() }).await.unwrap();
    busy.fence(SECOND).await.unwrap();
    for epoch in 1..=600 {
        busy.publish(marker(SECOND, epoch), &Records::default()).await.unwrap();
    }
    assert!(broker.next_offset("slots", 0).unwrap() > 1200);
    assert_eq!(quiet.fence(FIRST).await.unwrap(), Some(marker(FIRST, 1)));
    assert_eq!(busy.fence(SECOND).await.unwrap(), Some(marker(SECOND, 600)));
}
