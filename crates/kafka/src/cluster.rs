//! What the brokers say of topics and of their own settings.

use std::time::Duration;

use alluvium::{Error, Result};
use krafka::Kafka;
use krafka::admin::{ConfigResource, DescribeConfigsOptions, DescribeTopicsOptions, TopicDescription};
use krafka::error::ErrorCode;

use crate::errors;

/// The bits of operations among those that a broker says are allowed.
const READ: i32 = 1 << 3;
const WRITE: i32 = 1 << 4;

/// A topic that exists.
#[derive(Debug)]
pub(crate) struct Topic(TopicDescription);

impl Topic {
    /// Returns the topic `name`, if it exists.
    ///
    /// # Errors
    /// `Denied` or `Unavailable`; `Config` if the name cannot be one.
    pub(crate) async fn find(kafka: &Kafka, name: &str, patience: Duration) -> Result<Option<Self>> {
        let failed = |error| errors::failed("cannot look up a topic", &error).with("topic", name);
        let options = DescribeTopicsOptions::default().timeout(patience);
        let mut found = kafka.admin().describe_topics([name], options).await.map_err(failed)?;
        match found.remove(name) {
            Some(Ok(description)) => Ok(Some(Self(description))),
            Some(Err(error)) if !errors::has_code(&error, ErrorCode::UnknownTopicOrPartition) => Err(failed(error)),
            Some(Err(_)) | None => Ok(None),
        }
    }

    /// Returns its id, which no other topic has; zeros if the brokers do not say.
    pub(crate) fn id(&self) -> [u8; 16] {
        self.0.topic_id
    }

    /// Returns the number of its partitions.
    pub(crate) fn partitions(&self) -> usize {
        self.0.partitions.len()
    }

    /// Returns the numbers of its partitions.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = i32> {
        self.0.partitions.iter().map(|it| it.partition)
    }

    /// Returns whether it has a partition.
    pub(crate) fn has(&self, partition: i32) -> bool {
        self.0.partitions.iter().any(|it| it.partition == partition)
    }

    /// Returns whether a partition has a leader.
    pub(crate) fn is_led(&self, partition: i32) -> bool {
        self.0.partitions.iter().any(|it| it.partition == partition && it.leader.is_some())
    }

    /// Returns a broker that leads one of its partitions.
    pub(crate) fn leader(&self) -> Option<i32> {
        self.0.partitions.iter().find_map(|partition| partition.leader)
    }

    /// Returns whether this client may write to it, if the brokers say.
    pub(crate) fn is_writable(&self) -> Option<bool> {
        self.allows(WRITE)
    }

    /// Returns whether this client may read it, if the brokers say.
    pub(crate) fn is_readable(&self) -> Option<bool> {
        self.allows(READ)
    }

    fn allows(&self, operation: i32) -> Option<bool> {
        self.0.authorized_operations.map(|operations| operations & operation != 0)
    }
}

/// Returns a setting of a topic or broker; `None` if it cannot be read: that takes a permission of its own.
pub(crate) async fn setting(kafka: &Kafka, of: ConfigResource, name: &str, patience: Duration) -> Option<String> {
    let options = DescribeConfigsOptions::default().config_names(vec![name.to_owned()]).timeout(patience);
    let mut found = kafka.admin().describe_configs([of.clone()], options).await.ok()?;
    let entries = found.remove(&of)?.ok()?;
    let entry = entries.into_iter().find(|entry| entry.name == name)?;
    entry.config_value().as_str().map(str::to_owned)
}

/// Returns the longest timeout of a transaction that a broker takes, if that can be read.
pub(crate) async fn longest_transaction(kafka: &Kafka, broker: i32, patience: Duration) -> Option<Duration> {
    let value = setting(kafka, ConfigResource::broker(broker), "transaction.max.timeout.ms", patience).await?;
    value.parse().ok().map(Duration::from_millis)
}

/// Returns the error for a transaction timeout that the brokers refuse.
///
/// * `longest`: the longest one that they take, if it is known.
pub(crate) fn timeout_too_long(timeout: Duration, longest: Option<Duration>) -> Error {
    let error = Error::config("transaction timeout is longer than the brokers' transaction.max.timeout.ms");
    let error = error.with("transaction_timeout_ms", timeout.as_millis());
    match longest {
        Some(longest) => error.with("transaction.max.timeout.ms", longest.as_millis()),
        None => error.with("transaction.max.timeout.ms", "not readable"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_that_is_too_long_shows_both_numbers() {
        let error = timeout_too_long(Duration::from_secs(1200), Some(Duration::from_secs(900)));
        assert_eq!(error.kind(), alluvium::ErrorKind::Config);
        assert!(
            error.message().ends_with("transaction_timeout_ms=`1200000` transaction.max.timeout.ms=`900000`"),
            "{error}"
        );
    }
}
