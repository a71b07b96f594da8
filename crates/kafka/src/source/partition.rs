//! What the brokers say of the partition that a reader reads.

use std::sync::Arc;
use std::time::Duration;

use alluvium::{Error, Result};
use krafka::admin::{ListOffsetsOptions, OffsetSpec, TopicPartition};
use krafka::consumer::{AutoOffsetReset, Consumer, IsolationLevel};
use krafka::{Kafka, KrafkaError};

use super::settings::{KafkaIsolation, KafkaSourceSettings};
use crate::cluster::Topic;
use crate::errors;

/// How long a broker may hold a fetch back until there are records.
pub(super) const FETCH_WAIT: Duration = Duration::from_millis(500);

/// How long what a fetch has said of the partition's end counts.
pub(super) const SAID_FOR: Duration = Duration::from_secs(2);

/// How long a partition must be unknown until it counts as gone: a broker may not have heard yet of one that is new.
pub(super) const UNKNOWN_FOR: Duration = Duration::from_secs(3);

/// A partition that exists, and a client with connections of its own. A broker that holds a fetch back does not answer what else
/// comes on the same connection, so that readers that shared a client would wait for each other.
pub(super) struct Partition {
    pub(super) kafka: Kafka,
    pub(super) topic: String,
    pub(super) number: i32,
    /// Zeros if the brokers do not say.
    pub(super) topic_id: [u8; 16],
    pub(super) settings: Arc<KafkaSourceSettings>,
}

/// Between which offsets a partition has records.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) earliest: i64,
    /// After the last record.
    pub(super) end: i64,
    /// After the last record that may be read: under `ReadCommitted`, the first record of an open transaction is not.
    pub(super) readable_end: i64,
}

impl Partition {
    /// Looks a partition up.
    ///
    /// # Errors
    /// `NotFound`, `Denied` or `Unavailable`.
    pub(super) async fn find(
        kafka: Kafka,
        topic: &str,
        number: i32,
        settings: Arc<KafkaSourceSettings>,
    ) -> Result<Self> {
        let found = existing(&kafka, topic, settings.patience).await?;
        let partition = Self { kafka, topic: topic.to_owned(), number, topic_id: found.id(), settings };
        partition.check(&found)?;
        Ok(partition)
    }

    fn check(&self, found: &Topic) -> Result<()> {
        if found.is_readable() == Some(false) {
            return Err(Error::denied("topic may not be read").with("topic", &self.topic));
        }
        self.check_id(found.id())?;
        if !found.has(self.number) {
            return Err(self.named(Error::not_found("topic has no such partition")));
        }
        Ok(())
    }

    /// Checks that the topic that is there now is the partition's.
    ///
    /// # Errors
    /// `Input`.
    pub(super) fn check_id(&self, topic_id: [u8; 16]) -> Result<()> {
        if topic_id == self.topic_id || [topic_id, self.topic_id].contains(&[0; 16]) {
            return Ok(());
        }
        Err(self.named(Error::input("topic was deleted and created anew: the records at the position are gone")))
    }

    /// Looks up whether the partition is still there.
    ///
    /// # Errors
    /// As [`find`](Self::find); `Input` if the topic is another by now.
    pub(super) async fn look(&self, timeout: Duration) -> Result<()> {
        self.check(&existing(&self.kafka, &self.topic, timeout).await?)
    }

    /// Returns which records the partition has.
    ///
    /// # Errors
    /// `NotFound`, `Denied` or `Unavailable`.
    pub(super) async fn bounds(&self, timeout: Duration) -> Result<Bounds> {
        let earliest = self.offset(OffsetSpec::Earliest, false, timeout).await?;
        let end = self.offset(OffsetSpec::Latest, false, timeout).await?;
        Ok(Bounds { earliest, end, readable_end: self.readable_end(timeout).await? })
    }

    /// Returns the offset after the last record that may be read.
    ///
    /// # Errors
    /// As [`bounds`](Self::bounds).
    pub(super) async fn readable_end(&self, timeout: Duration) -> Result<i64> {
        self.offset(OffsetSpec::Latest, self.settings.isolation == KafkaIsolation::ReadCommitted, timeout).await
    }

    async fn offset(&self, spec: OffsetSpec, read_committed: bool, timeout: Duration) -> Result<i64> {
        let failed = |error| self.named(errors::failed("partition's offsets cannot be read", &error));
        let at = TopicPartition::new(&self.topic, self.number);
        let options = ListOffsetsOptions::default().read_committed(read_committed).timeout(timeout);
        let mut listed = self.kafka.admin().list_offsets([(at.clone(), spec)], options).await.map_err(failed)?;
        let listed = listed.remove(&at).unwrap_or_else(|| Err(KrafkaError::unknown_topic(&self.topic)));
        Ok(listed.map_err(failed)?.offset)
    }

    /// Checks that the records from `next` on are still there.
    ///
    /// # Errors
    /// `Input`.
    pub(super) fn check_bounds(&self, bounds: Bounds, next: i64) -> Result<()> {
        let Bounds { earliest, end, .. } = bounds;
        let error = match next {
            _ if next < earliest => Error::input("records at the position are gone, by retention or a deletion"),
            _ if next > end => Error::input("position is after the partition's end: its last records are gone"),
            _ => return Ok(()),
        };
        Err(self.named(error).with("position", next).with("earliest", earliest).with("end", end))
    }

    /// Returns a consumer of the partition alone, at `next`.
    ///
    /// # Errors
    /// `Unavailable` or `Denied`.
    pub(super) async fn consumer(&self, next: i64) -> Result<Consumer> {
        let isolation = match self.settings.isolation {
            KafkaIsolation::ReadCommitted => IsolationLevel::ReadCommitted,
            KafkaIsolation::ReadUncommitted => IsolationLevel::ReadUncommitted,
        };
        let builder = self
            .kafka
            .consumer_without_group()
            .isolation_level(isolation)
            .auto_offset_reset(AutoOffsetReset::None)
            .enable_auto_commit(false)
            .fetch_max_wait(FETCH_WAIT)
            .max_partition_fetch_bytes(self.settings.fetch_bytes())
            .max_poll_records(self.settings.fetch_records())
            // Records wait in the queue, where their bytes are counted.
            .max_buffered_records(1)
            .lag_staleness_threshold(SAID_FOR)
            .metrics_push(false);
        let failed = |error| self.named(errors::failed("partition cannot be read", &error));
        let consumer = builder.build().await.map_err(failed)?;
        let placed = async {
            consumer.assign(&self.topic, vec![self.number]).await?;
            consumer.seek(&self.topic, self.number, next).await
        };
        if let Err(error) = placed.await {
            // Dropped without it, it writes a warning about its group, of which it has none.
            let _closed = consumer.close().await;
            return Err(failed(error));
        }
        Ok(consumer)
    }

    /// Returns `error` with the partition's name.
    pub(super) fn named(&self, error: Error) -> Error {
        error.with("topic", &self.topic).with("partition", self.number)
    }
}

/// Looks up a topic that must exist.
///
/// # Errors
/// `NotFound`; others as [`Topic::find`].
pub(super) async fn existing(kafka: &Kafka, topic: &str, patience: Duration) -> Result<Topic> {
    let found = Topic::find(kafka, topic, patience).await?;
    found.ok_or_else(|| Error::not_found("topic does not exist").with("topic", topic))
}
