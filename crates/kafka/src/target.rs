//! The target: a topic, and the topic of its slots.

use std::sync::Arc;
use std::time::Duration;

use alluvium::sink::{SinkSlot, SinkTarget, Slot};
use alluvium::{Error, Result};
use async_trait::async_trait;
use krafka::{Compression, Kafka};

use crate::cluster::{self, Topic};
use crate::connect;
use crate::settings::{KafkaCompression, KafkaTargetSettings};
use crate::slot::KafkaSlot;
use crate::slots_topic::{self, SlotsTopic};

/// The client waits this long for a batch to fill.
pub(crate) const LINGER: Duration = Duration::from_millis(5);

/// A topic of Kafka that takes output exactly once. See the [crate's page](crate).
#[derive(Debug, Clone)]
pub struct KafkaTarget {
    settings: Arc<KafkaTargetSettings>,
}

impl KafkaTarget {
    /// Returns the target of `settings`. Does not connect. The target's calls need a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// `Config`.
    pub fn new(settings: KafkaTargetSettings) -> Result<Self> {
        connect::check(&settings.connection)?;
        check_times(&settings)?;
        if settings.slots_topic.as_ref() == Some(&settings.topic) {
            return Err(Error::config("topic of slots is the topic of records").with("topic", &settings.topic));
        }
        let KafkaTargetSettings { batch_bytes, buffer_bytes, slots_partitions, .. } = settings;
        if batch_bytes == 0 || batch_bytes > buffer_bytes {
            let error = Error::config("batch_bytes is not between 1 and buffer_bytes").with("batch_bytes", batch_bytes);
            return Err(error.with("buffer_bytes", buffer_bytes));
        }
        if slots_partitions == 0 || settings.slots_replication == Some(0) {
            return Err(Error::config("topic of slots needs partitions and replicas"));
        }
        Ok(Self { settings: Arc::new(settings) })
    }
}

fn check_times(settings: &KafkaTargetSettings) -> Result<()> {
    let KafkaTargetSettings { transaction_timeout, answer_timeout, delivery_timeout, connection, .. } = settings;
    for (name, value) in [
        ("transaction_timeout", transaction_timeout),
        ("answer_timeout", answer_timeout),
        ("delivery_timeout", delivery_timeout),
    ] {
        // Kafka counts in milliseconds.
        if !i32::try_from(value.as_millis()).is_ok_and(|ms| ms > 0) {
            let error = Error::config("timeout is not between 1 ms and 24 days").with("name", name);
            return Err(error.with("value", format_args!("{value:?}")));
        }
    }
    let shortest = connection.request_timeout + LINGER;
    if *delivery_timeout < shortest {
        let error = Error::config("delivery timeout is shorter than the request timeout and 5 ms");
        let error = error.with("delivery_timeout", format_args!("{delivery_timeout:?}"));
        return Err(error.with("at_least", format_args!("{shortest:?}")));
    }
    Ok(())
}

#[async_trait]
impl SinkTarget for KafkaTarget {
    async fn check(&self) -> Result<()> {
        let KafkaTargetSettings { connection, topic, transaction_timeout, answer_timeout, slots_topic, .. } =
            &*self.settings;
        let kafka = connect::connect(connection).await?;
        let found = topic_of(&kafka, &self.settings).await?;
        if found.is_writable() == Some(false) {
            return Err(Error::denied("topic may not be written to").with("topic", topic));
        }
        let Some(leader) = found.leader() else {
            return Err(Error::unavailable("no partition of the topic has a leader").with("topic", topic));
        };
        let longest = cluster::longest_transaction(&kafka, leader, *answer_timeout).await;
        if longest.is_some_and(|longest| longest < *transaction_timeout) {
            return Err(cluster::timeout_too_long(*transaction_timeout, longest));
        }
        if let Some(name) = slots_topic {
            slots_topic::check(&kafka, name, &self.settings).await?;
        }
        Ok(())
    }

    async fn open(&self, slot: &Slot) -> Result<Box<dyn SinkSlot>> {
        let entries = SlotsTopic::of(slot, &self.settings)?;
        Ok(Box::new(KafkaSlot::new(Arc::clone(&self.settings), slot, entries)))
    }
}

/// Returns the topic that takes the records.
///
/// # Errors
/// `NotFound`; others as [`Topic::find`].
pub(crate) async fn topic_of(kafka: &Kafka, settings: &KafkaTargetSettings) -> Result<Topic> {
    let found = Topic::find(kafka, &settings.topic, settings.answer_timeout).await?;
    found.ok_or_else(|| Error::not_found("topic does not exist").with("topic", &settings.topic))
}

/// Returns the client's name of a compression.
pub(crate) fn compression(compression: KafkaCompression) -> Compression {
    match compression {
        KafkaCompression::None => Compression::None,
        KafkaCompression::Gzip => Compression::Gzip,
        KafkaCompression::Snappy => Compression::Snappy,
        KafkaCompression::Lz4 => Compression::Lz4,
        KafkaCompression::Zstd => Compression::Zstd,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::KafkaConnection;
    use alluvium::ErrorKind;

    #[test]
    fn settings_that_cannot_hold_are_refused() {
        let made = |change: fn(&mut KafkaTargetSettings)| {
            KafkaTarget::new(KafkaTargetSettings::new(KafkaConnection::new("h:9092"), "t").with(change)).map(drop)
        };
        made(|_| ()).unwrap();
        let bad: [fn(&mut KafkaTargetSettings); 10] = [
            |it| it.connection.bootstrap_servers.clear(),
            |it| it.transaction_timeout = Duration::from_micros(999),
            |it| it.transaction_timeout = Duration::MAX,
            |it| it.answer_timeout = Duration::ZERO,
            |it| it.delivery_timeout = it.connection.request_timeout,
            |it| it.slots_topic = Some("t".to_owned()),
            |it| it.batch_bytes = 0,
            |it| it.buffer_bytes = it.batch_bytes - 1,
            |it| it.slots_partitions = 0,
            |it| it.slots_replication = Some(0),
        ];
        for change in bad {
            assert_eq!(made(change).unwrap_err().kind(), ErrorKind::Config);
        }
    }
}
