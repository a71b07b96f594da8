//! The task that fetches a partition's records.
//!
//! The client does not say why nothing comes: a fetch that is refused, a topic that is gone and a partition without new records look
//! the same to it. A fetch that has nothing to say leaves the partition out of its answer, too. So whenever no fetch has spoken of the
//! partition for a while, the task asks where the partition ends, which all brokers answer or refuse.

use std::sync::Arc;
use std::time::Duration;

use alluvium::{Error, ErrorKind, Result};
use krafka::KrafkaError;
use krafka::admin::TopicPartition;
use krafka::consumer::{Consumer, ConsumerRecord};
use tokio::time::Instant;

use super::partition::{FETCH_WAIT, Partition, SAID_FOR, UNKNOWN_FOR};
use super::queue::{Fetched, Queue};
use super::settings::KafkaIsolation;
use crate::errors;
use crate::record::KafkaRecord;

pub(super) struct Fetcher {
    partition: Arc<Partition>,
    consumer: Arc<Consumer>,
    queue: Filled,
    /// The offset from which records are awaited.
    next: i64,
    /// When the brokers last said something that agrees with what has been read.
    answered: Instant,
    /// Why the brokers could not be asked.
    reason: Option<Error>,
    /// Since when they have not known the partition.
    unknown_since: Option<Instant>,
}

impl Fetcher {
    pub(super) fn new(partition: Arc<Partition>, consumer: Arc<Consumer>, queue: Arc<Queue>, next: i64) -> Self {
        Self {
            partition,
            consumer,
            queue: Filled(queue),
            next,
            answered: Instant::now(),
            reason: None,
            unknown_since: None,
        }
    }

    /// Fetches until something fails.
    pub(super) async fn run(mut self) {
        loop {
            if self.queue.0.wait_for_room().await {
                self.answered = Instant::now();
            }
            let deadline = self.answered + self.partition.settings.patience;
            let error = match tokio::time::timeout_at(deadline, self.step()).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error,
                Err(_) => self.unanswered(),
            };
            return self.queue.0.fail(error);
        }
    }

    async fn step(&mut self) -> Result<()> {
        let Partition { topic, number, .. } = &*self.partition;
        let records = match self.consumer.poll(FETCH_WAIT).await {
            Ok(records) => records,
            Err(KrafkaError::NoOffset { .. }) => return self.ask().await,
            Err(error) => return Err(self.failed(&error)),
        };
        let position = self.consumer.position(topic, *number).await.unwrap_or(self.next);
        let is_cut = position < self.next || records.first().is_some_and(|record| record.offset < self.next);
        if is_cut {
            let error = Error::input("partition was cut: records that were read are gone, or others than they were");
            return Err(self.partition.named(error).with("read_to", self.next).with("cut_to", position));
        }
        // Whatever is fetched under another id is of another topic.
        let known = self.consumer.fetch_metadata(None).await.map(|metadata| metadata.topics);
        let known = known.unwrap_or_default().into_iter().find(|known| known.name == *topic);
        if let Some(known) = &known {
            self.partition.check_id(known.topic_id)?;
        }
        let said = self.said(position).await;
        if known.is_none() || said.is_none() && self.answered.elapsed() >= SAID_FOR {
            self.add(records, position, false);
            return self.ask().await;
        }
        if said.is_some() {
            (self.answered, self.unknown_since) = (Instant::now(), None);
        }
        self.add(records, position, said == Some(true));
        Ok(())
    }

    /// Returns whether `position` is the partition's end, if a fetch has said so lately.
    async fn said(&self, position: i64) -> Option<bool> {
        let Partition { topic, number, settings, .. } = &*self.partition;
        let lag = self.consumer.lag().await.remove(&TopicPartition::new(topic, *number))?;
        // An answer that refuses has no offsets, or wrong ones.
        let end = lag.high_watermark.filter(|end| !lag.stale && *end >= position)?;
        let readable_end = match settings.isolation {
            KafkaIsolation::ReadCommitted => lag.last_stable_offset.unwrap_or(end),
            KafkaIsolation::ReadUncommitted => end,
        };
        Some(position >= readable_end)
    }

    /// Asks whether the partition is still there, and has records from the position on.
    async fn ask(&mut self) -> Result<()> {
        match self.is_at_end().await {
            Ok(true) => {
                self.answered = Instant::now();
                self.queue.0.add([], self.next, true);
            }
            Ok(false) => {
                // After failures the client waits for up to 30 s until it fetches again, unless it is placed anew.
                let Partition { topic, number, .. } = &*self.partition;
                self.consumer.seek(topic, *number, self.next).await.map_err(|error| self.failed(&error))?;
            }
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                self.reason = Some(error);
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return self.unknown(error).await,
            Err(error) => return Err(error),
        }
        (self.reason, self.unknown_since) = (None, None);
        Ok(())
    }

    /// Waits a moment before the brokers are asked again for a partition that they do not know.
    ///
    /// # Errors
    /// `error`, once it has been unknown for long.
    #[expect(clippy::disallowed_methods, reason = "the client runs on tokio, whatever the engine runs on")]
    async fn unknown(&mut self, error: Error) -> Result<()> {
        if self.unknown_since.get_or_insert_with(Instant::now).elapsed() >= UNKNOWN_FOR {
            return Err(error);
        }
        tokio::time::sleep(FETCH_WAIT).await;
        Ok(())
    }

    async fn is_at_end(&self) -> Result<bool> {
        // The client tries until its time is over: with less than all of it, the reason is known before the patience ends.
        let timeout = (self.partition.settings.patience / 4).max(Duration::from_millis(1));
        self.partition.look(timeout).await?;
        if self.partition.readable_end(timeout).await? == self.next {
            return Ok(true);
        }
        let bounds = self.partition.bounds(timeout).await?;
        self.partition.check_bounds(bounds, self.next)?;
        Ok(self.next >= bounds.readable_end)
    }

    fn add(&mut self, records: Vec<ConsumerRecord>, position: i64, is_caught_up: bool) {
        self.next = position;
        self.queue.0.add(records.into_iter().map(fetched), position, is_caught_up);
    }

    fn failed(&self, error: &KrafkaError) -> Error {
        let failed = match error {
            // Fetched again, it would be the same.
            KrafkaError::Protocol { .. } => Error::input("records cannot be decoded").with_source(error.to_string()),
            _ => errors::failed("partition cannot be read", error),
        };
        self.partition.named(failed).with("position", self.next)
    }

    fn unanswered(&self) -> Error {
        let patience = self.partition.settings.patience;
        let error = Error::unavailable("brokers give no records of the partition; reading needs the permission READ");
        let error = self.partition.named(error).with("patience", format_args!("{patience:?}"));
        match &self.reason {
            Some(reason) => error.with_source(reason.clone()),
            None => error,
        }
    }
}

fn fetched(record: ConsumerRecord) -> Fetched {
    let ConsumerRecord { partition, offset, timestamp, key, value, headers, .. } = record;
    // Records of old formats have none, which is -1.
    let timestamp = (timestamp >= 0).then_some(timestamp);
    let record = KafkaRecord { key, value, headers, timestamp, partition: Some(partition) };
    Fetched { record, offset }
}

/// A queue that fails when the task ends, however it ends, or never starts: no reader waits for it for ever.
struct Filled(Arc<Queue>);

impl Drop for Filled {
    fn drop(&mut self) {
        self.0.fail(Error::unavailable("the task that reads a partition was stopped"));
    }
}
