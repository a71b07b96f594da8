//! Records, partitions and topics that are gone.

use super::*;

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let broker = Broker::start(2);
    let absent = source(&broker, |_| ());
    says(&refused(absent.splits().await, ErrorKind::NotFound), &[TOPIC]);
    refused(absent.open(&split(0), StartAt::Configured).await, ErrorKind::NotFound);
    broker.create_topic(TOPIC, 1);
    assert_eq!(absent.splits().await.unwrap(), [split(0)]);
    says(&refused(absent.open(&split(1), StartAt::Configured).await, ErrorKind::NotFound), &["partition=`1`"]);
}

#[tokio::test]
async fn a_broker_that_does_not_know_a_new_partition_yet_is_asked_again() {
    let broker = partitioned(2, 1);
    write(&broker, 0, ["a"]).await;
    broker.on_times(ApiKey::ListOffsets, 2, |_| Control::Error(ErrorCode::UnknownTopicOrPartition));
    let mut reader = within(read(&broker, StartAt::Configured)).await;
    assert_eq!(rest(&mut reader).await, ["a"]);
    broker.on_times(ApiKey::ListOffsets, 2, |_| Control::Error(ErrorCode::UnknownTopicOrPartition));
    broker.on(ApiKey::Fetch, |_| Control::Error(ErrorCode::UnknownTopicOrPartition));
    asked(&broker, ApiKey::ListOffsets, 3).await;
    broker.clear_hooks();
    write(&broker, 0, ["b"]).await;
    let mut found = Vec::new();
    while found.is_empty() {
        found = rest(&mut reader).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(found, ["b"]);
}

#[tokio::test]
async fn a_topic_that_is_deleted_ends_its_readers() {
    for values in [&["a", "b"][..], &[]] {
        let broker = partitioned(2, 1);
        write(&broker, 0, values.iter().copied()).await;
        let mut reader = read(&broker, StartAt::Configured).await;
        assert_eq!(rest(&mut reader).await, values);
        broker.delete_topic(TOPIC);
        let error = failure(&mut reader).await;
        assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.chain());
        refused(reader.advance(), ErrorKind::NotFound);
    }
}

#[tokio::test]
async fn a_topic_that_was_created_anew_is_another() {
    let broker = partitioned(2, 1);
    write(&broker, 0, ["a", "b"]).await;
    let mut reader = read(&broker, StartAt::Configured).await;
    assert_eq!(rest(&mut reader).await, ["a", "b"]);
    let position = reader.position().unwrap();
    broker.with_state(|state| state.delete_topic(TOPIC) && state.create_topic(TOPIC, 1));
    let error = failure(&mut reader).await;
    assert_eq!(error.kind(), ErrorKind::Input, "{}", error.chain());
    says(&error, &["created anew", TOPIC]);
    write(&broker, 0, ["x", "y", "z"]).await;
    let opened = source(&broker, |_| ()).open(&split(0), StartAt::Position(&position)).await;
    says(&refused(opened, ErrorKind::Input), &["created anew"]);
}

#[tokio::test]
async fn a_position_without_its_records_is_refused_with_the_offsets() {
    let broker = partitioned(2, 1);
    write(&broker, 0, ["a", "b", "c", "d"]).await;
    let mut reader = read(&broker, StartAt::Configured).await;
    next(&mut reader).await.unwrap();
    let early = reader.position().unwrap();
    rest(&mut reader).await;
    let late = reader.position().unwrap();
    drop(reader);

    retain_from(&broker, 2);
    let opened = source(&broker, |_| ()).open(&split(0), StartAt::Position(&early)).await;
    says(&refused(opened, ErrorKind::Input), &["retention", "position=`1` earliest=`2` end=`4`"]);
    let mut reader = read(&broker, StartAt::Beginning).await;
    assert_eq!(rest(&mut reader).await, ["c", "d"]);
    cut(&broker, 0);
    let opened = source(&broker, |_| ()).open(&split(0), StartAt::Position(&late)).await;
    says(&refused(opened, ErrorKind::Input), &["after the partition's end", "position=`4` earliest=`2` end=`3`"]);
}

#[tokio::test]
async fn records_that_go_before_they_are_read_end_the_reader() {
    let broker = partitioned(2, 1);
    write(&broker, 0, ["a"]).await;
    let mut reader = read(&broker, StartAt::Configured).await;
    assert_eq!(rest(&mut reader).await, ["a"]);
    broker.on(ApiKey::Fetch, |_| Control::Error(ErrorCode::OffsetOutOfRange));
    retain_from(&broker, 10);
    let error = failure(&mut reader).await;
    assert_eq!(error.kind(), ErrorKind::Input, "{}", error.chain());
    says(&error, &["position=`1` earliest=`10`"]);
}

#[tokio::test]
async fn a_partition_that_is_cut_ends_the_reader() {
    let broker = partitioned(2, 1);
    write(&broker, 0, ["a", "b"]).await;
    let mut reader = read(&broker, StartAt::Configured).await;
    assert_eq!(rest(&mut reader).await, ["a", "b"]);
    cut(&broker, 0);
    let error = failure(&mut reader).await;
    assert_eq!(error.kind(), ErrorKind::Input, "{}", error.chain());
}

#[tokio::test]
async fn records_that_cannot_be_decoded_end_the_reader_after_those_before() {
    let broker = partitioned(2, 1);
    write(&broker, 0, ["a"]).await;
    let mut reader = read(&broker, StartAt::Configured).await;
    assert_eq!(rest(&mut reader).await, ["a"]);
    asked(&broker, ApiKey::Fetch, 1).await;
    broker.on(ApiKey::Fetch, |_| Control::CorruptRecords);
    write(&broker, 0, ["b"]).await;
    // The fetch that waited when the hook came may still answer with it.
    let mut found = Vec::new();
    let error = loop {
        match next(&mut reader).await {
            Ok(None) => write(&broker, 0, ["c"]).await,
            Ok(Some(value)) => found.push(value),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Input, "{}", error.chain());
    let at = format!("position=`{}`", found.len() + 1);
    says(&error, &["cannot be decoded", &at]);
}
