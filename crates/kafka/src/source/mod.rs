//! A topic as a source: its partitions are its splits.
//!
//! ```text
//! brokers --fetch--> Fetcher (a task for each reader) --> Queue, bounded --> KafkaReader::advance
//! ```
//!
//! Invariants:
//! - a reader starts at its position or not at all, and never moves to another: the client resets no offset;
//! - a position is after the last record that was read, and after what holds none: marks and records of transactions;
//! - a partition has caught up only if a broker has said so within the last seconds.

mod fetch;
mod partition;
mod position;
mod queue;
mod reader;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use alluvium::source::{Source, SplitId, StartAt};
use alluvium::{Error, ErrorKind, Result};
use async_trait::async_trait;
use tokio::time::Instant;

use crate::cluster::Topic;
use crate::connect;
use crate::settings::KafkaConnection;
use partition::{Partition, UNKNOWN_FOR};
use position::Place;
pub use reader::KafkaReader;
pub use settings::{KafkaIsolation, KafkaSourceSettings, KafkaStart};

/// The first and the longest time until brokers that are away are tried again.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(2);

/// A topic of Kafka that is read exactly once: each partition is a split, with the topic's name and the partition's number. See the
/// [crate's page](crate#reading).
#[derive(Debug, Clone)]
pub struct KafkaSource {
    connection: Arc<KafkaConnection>,
    topic: String,
    settings: Arc<KafkaSourceSettings>,
}

impl KafkaSource {
    /// Returns the source. Does not connect. The source's calls need a tokio runtime with I/O and time; each open partition has a
    /// task on it.
    ///
    /// # Errors
    /// `Config`.
    pub fn new(connection: KafkaConnection, topic: impl Into<String>, settings: KafkaSourceSettings) -> Result<Self> {
        connect::check(&connection)?;
        settings.check()?;
        let topic = topic.into();
        if topic.is_empty() {
            return Err(Error::config("no topic is named"));
        }
        Ok(Self { connection: Arc::new(connection), topic, settings: Arc::new(settings) })
    }

    /// Returns the partition of a split.
    fn number(&self, split: &SplitId) -> Result<i32> {
        let number = i32::try_from(split.number()).ok().filter(|_| split.name() == self.topic);
        number.ok_or_else(|| Error::not_found("split is not of the topic").with("topic", &self.topic))
    }
}

#[async_trait]
impl Source for KafkaSource {
    type Reader = KafkaReader;

    async fn splits(&self) -> Result<Vec<SplitId>> {
        let mut tries = Tries::new(self.settings.patience);
        let found = loop {
            match self.find().await {
                Ok(found) => break found,
                Err(error) => tries.again(error).await?,
            }
        };
        let numbers = found.numbers().map(u32::try_from);
        // Kafka has no negative ones.
        numbers.flatten().map(|number| SplitId::new(&self.topic, number)).collect()
    }

    async fn open(&self, split: &SplitId, from: StartAt<'_>) -> Result<KafkaReader> {
        let number = self.number(split)?;
        let place = match from {
            StartAt::Position(position) => Some(Place::parse(position)?),
            _ => None,
        };
        let mut tries = Tries::new(self.settings.patience);
        loop {
            match self.try_open(number, place, from).await {
                Ok(reader) => return Ok(reader),
                Err(error) => tries.again(error).await?,
            }
        }
    }

    fn is_bounded(&self) -> bool {
        self.settings.stop_at_end
    }
}

impl KafkaSource {
    async fn find(&self) -> Result<Topic> {
        let kafka = connect::connect(&self.connection).await?;
        partition::existing(&kafka, &self.topic, self.settings.patience).await
    }

    async fn try_open(&self, number: i32, place: Option<Place>, from: StartAt<'_>) -> Result<KafkaReader> {
        let kafka = connect::connect(&self.connection).await?;
        let partition = Partition::find(kafka, &self.topic, number, Arc::clone(&self.settings)).await?;
        if let Some(place) = place {
            partition.check_id(place.topic_id)?;
        }
        let bounds = partition.bounds(self.settings.patience).await?;
        let next = match (place, from, self.settings.start) {
            (Some(place), ..) => place.next,
            (None, StartAt::Configured, KafkaStart::Latest) => bounds.readable_end,
            (None, ..) => bounds.earliest,
        };
        partition.check_bounds(bounds, next)?;
        KafkaReader::start(partition, bounds, next).await
    }
}

/// The tries of a call while brokers are away, or do not know what is new.
struct Tries {
    started: Instant,
    patience: Duration,
    delay: Duration,
}

impl Tries {
    fn new(patience: Duration) -> Self {
        Self { started: Instant::now(), patience, delay: FIRST_DELAY }
    }

    /// Waits for the next try.
    ///
    /// # Errors
    /// `error`, if another try cannot help, or there is no time for one.
    #[expect(clippy::disallowed_methods, reason = "the client runs on tokio, whatever the engine runs on")]
    async fn again(&mut self, error: Error) -> Result<()> {
        let patience = match error.kind() {
            ErrorKind::Unavailable => self.patience,
            ErrorKind::NotFound => self.patience.min(UNKNOWN_FOR),
            _ => return Err(error),
        };
        let left = patience.saturating_sub(self.started.elapsed());
        if left <= self.delay {
            return Err(error);
        }
        tracing::warn!(error = error.chain(), "waiting for Kafka (at most {} s more)", left.as_secs());
        tokio::time::sleep(self.delay).await;
        self.delay = (self.delay * 2).min(LONGEST_DELAY);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alluvium::ErrorKind;

    #[test]
    fn settings_that_cannot_hold_are_refused() {
        let new = |servers: &str, topic: &str, change: fn(&mut KafkaSourceSettings)| {
            let settings = KafkaSourceSettings::default().with(change);
            KafkaSource::new(KafkaConnection::new(servers), topic, settings).map(drop)
        };
        new("h:9092", "t", |_| ()).unwrap();
        for refused in [new("", "t", |_| ()), new("h:9092", "", |_| ()), new("h:9092", "t", |it| it.buffer_bytes = 0)] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Config);
        }
    }
}
