//! What the brokers refuse.

use alluvium_kafka::{KafkaClientCertificate, KafkaSasl, KafkaSaslMechanism, KafkaTls};

use crate::*;

#[tokio::test]
async fn a_transactional_id_that_may_not_be_used() {
    let broker = broker(2);
    broker.on(ApiKey::InitProducerId, |_| Control::Error(ErrorCode::TransactionalIdAuthorizationFailed));
    let error = refused(open(settings(&broker)).await.fence(FIRST).await, ErrorKind::Denied);
    says(&error, &[&format!("transactional_id=`{}`", transactional_id())]);
}

#[tokio::test]
async fn a_topic_that_may_not_be_written_to() {
    for (version, api) in [(1, ApiKey::AddPartitionsToTxn), (1, ApiKey::Produce), (2, ApiKey::Produce)] {
        let broker = broker(version);
        let mut slot = fenced(settings(&broker)).await;
        broker.on(api, |_| Control::Error(ErrorCode::TopicAuthorizationFailed));
        let error = refused(slot.publish(marker(FIRST, 1), &records(["a"])).await, ErrorKind::Denied);
        says(&error, &["topic=`counts`", "counts-0"]);
        assert_eq!(error.applied(), Applied::No);
        broker.clear_hooks();
        refused(slot.publish(marker(FIRST, 1), &records(["a"])).await, ErrorKind::Usage);
        assert_eq!(slot.fence(FIRST).await.unwrap(), None);
        slot.publish(marker(FIRST, 1), &records(["b"])).await.unwrap();
        assert_eq!(broker.values(TOPIC), ["b"]);
    }
}

#[tokio::test]
async fn a_topic_of_slots_that_may_not_be_created() {
    let broker = broker(2);
    broker.on(ApiKey::CreateTopics, |_| Control::Error(ErrorCode::TopicAuthorizationFailed));
    let error = refused(open(settings(&broker)).await.fence(FIRST).await, ErrorKind::Denied);
    says(&error, &[&format!("slots_topic=`{}`", slots_topic())]);
}

/// The client does not tell why a read of records gets nothing.
#[tokio::test]
async fn a_topic_of_slots_that_may_not_be_read() {
    for (api, kind, part) in [
        (ApiKey::ListOffsets, ErrorKind::Denied, "TopicAuthorizationFailed"),
        (ApiKey::Fetch, ErrorKind::Unavailable, "permission READ"),
    ] {
        let broker = broker(2);
        let mut slot = fenced(hasty(&broker)).await;
        broker.on(api, |_| Control::Error(ErrorCode::TopicAuthorizationFailed));
        says(&refused(slot.fence(FIRST).await, kind), &[&format!("slots_topic=`{}`", slots_topic()), part]);
    }
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_not_shown() {
    let broker = broker(2);
    broker.require_sasl_plain("job", "hunter1");
    let checked = async |password: Option<&str>| {
        let sasl = password.map(|password| KafkaSasl {
            mechanism: KafkaSaslMechanism::Plain,
            user: "job".to_owned(),
            password: password.to_owned(),
        });
        target(hasty(&broker).with(|it| it.connection.sasl = sasl)).check().await
    };
    checked(Some("hunter1")).await.unwrap();
    let error = refused(checked(Some("hunter2")).await, ErrorKind::Denied);
    assert!(!format!("{error:?}").contains("hunter"), "{error:?}");
    refused(checked(None).await, ErrorKind::Unavailable);
}

#[tokio::test]
async fn files_of_certificates_that_are_absent() {
    let broker = broker(2);
    let own = KafkaClientCertificate { certificate: "/absent/own.pem".into(), key: "/absent/key.pem".into() };
    let tls: [(KafkaTls, &str); 2] = [
        (KafkaTls::default().with(|it| it.root_certificates = Some("/absent/roots.pem".into())), "/absent/roots.pem"),
        (KafkaTls::default().with(|it| it.client_certificate = Some(own)), "/absent/own.pem"),
    ];
    for (tls, path) in tls {
        let target = target(settings(&broker).with(|it| it.connection.tls = Some(tls)));
        says(&refused(target.check().await, ErrorKind::Config), &[path]);
    }
}

#[tokio::test]
async fn a_broker_without_tls() {
    let broker = broker(2);
    let target = target(hasty(&broker).with(|it| it.connection.tls = Some(KafkaTls::default())));
    let error = target.check().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Denied | ErrorKind::Unavailable), "{}", error.chain());
}

#[tokio::test]
async fn a_transaction_timeout_above_the_brokers_maximum() {
    let broker = broker(2);
    broker.with_state(|state| state.transaction_max_timeout_ms = 10_000);
    let error = refused(open(settings(&broker)).await.fence(FIRST).await, ErrorKind::Config);
    // The broker for tests does not tell its settings.
    says(&error, &["transaction_timeout_ms=`300000`", "transaction.max.timeout.ms=`not readable`"]);
    let settings = settings(&broker).with(|it| it.transaction_timeout = Duration::from_secs(10));
    fenced(settings).await;
}

#[tokio::test]
async fn a_record_that_is_too_large_for_the_broker() {
    let broker = broker(2);
    let mut slot = fenced(settings(&broker)).await;
    broker.on(ApiKey::Produce, |_| Control::Error(ErrorCode::MessageTooLarge));
    let error = refused(slot.publish(marker(FIRST, 1), &records(["a", "larger", "b"])).await, ErrorKind::Limit);
    says(&error, &["topic=`counts`", "largest_record=`1` its_bytes=`9`"]);
    assert_eq!(error.applied(), Applied::No);
}

#[tokio::test]
async fn a_record_that_is_too_large_for_the_buffer() {
    let broker = broker(2);
    let mut slot = fenced(settings(&broker).with(|it| it.buffer_bytes = it.batch_bytes)).await;
    let large = KafkaRecord::new("key", vec![b'x'; 1 << 20]).to_bytes();
    let error = refused(slot.publish(marker(FIRST, 1), &[large].iter().collect()).await, ErrorKind::Limit);
    says(&error, &["record=`0`", "buffer_bytes=`65536`"]);
    assert!(broker.all_records(TOPIC).unwrap().is_empty());
}

#[tokio::test]
async fn a_refused_commit_is_in_doubt() {
    let broker = broker(2);
    let mut slot = fenced(hasty(&broker)).await;
    broker.on(ApiKey::EndTxn, |_| Control::ApplyThen(Box::new(Control::Error(ErrorCode::CoordinatorNotAvailable))));
    let error = refused(slot.publish(marker(FIRST, 1), &records(["a"])).await, ErrorKind::Unavailable);
    assert_eq!(error.applied(), Applied::Unknown);
    broker.clear_hooks();
    assert_eq!(slot.fence(FIRST).await.unwrap(), Some(marker(FIRST, 1)));
}
