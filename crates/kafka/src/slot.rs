//! Publishing through one slot.
//!
//! A producer belongs to one call at a time. A call takes it out of the slot, and puts it back when it has succeeded: whatever else
//! happens to the call, the producer is dropped, and the next fence opens another, which ends the transaction left behind. A failed
//! transaction is never aborted by its own producer: an abort that comes late could meet a successor's transaction.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use alluvium::sink::{Marker, Records, SinkSlot, Slot};
use alluvium::{Attempt, Error, ErrorKind, Result};
use async_trait::async_trait;
use krafka::Kafka;
use krafka::admin::ConfigResource;
use krafka::error::ErrorCode;
use krafka::producer::{TransactionState, TransactionalProducer};
use tokio::time::Instant;

use crate::cluster;
use crate::committed::{self, Until};
use crate::connect;
use crate::entry::Entry;
use crate::errors;
use crate::failure::Failure;
use crate::pace::Pace;
use crate::plan::{self, Bounds, Placed};
use crate::settings::{KafkaCompression, KafkaTargetSettings};
use crate::slots_topic::SlotsTopic;
use crate::target;

/// The publisher of one slot.
#[derive(Debug)]
pub(crate) struct KafkaSlot {
    place: Arc<Place>,
    held: Option<Box<Held>>,
    pace: Pace,
}

/// How often a fence is tried when an older attempt, which is still publishing, takes the transactional id back just before the
/// later one has written its entry.
const FENCE_TRIES: u32 = 5;

/// How one try to fence ended.
enum Fence {
    Taken(Box<Held>, Option<Marker>),
    /// By another producer, whose attempt is not later.
    Stopped(Error),
}

/// What does not change while a slot is open.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) settings: Arc<KafkaTargetSettings>,
    pub(crate) entries: SlotsTopic,
    /// The slot's name.
    pub(crate) slot: String,
}

/// A slot that is fenced: the producer that has its transactional id.
pub(crate) struct Held {
    kafka: Kafka,
    producer: TransactionalProducer,
    attempt: Attempt,
    /// The topic's `max.message.bytes`, if it can be read.
    batch_bytes_max: Option<usize>,
    /// Whether the topic is compacted; not, if that cannot be read.
    is_compacted: bool,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

impl KafkaSlot {
    pub(crate) fn new(settings: Arc<KafkaTargetSettings>, slot: &Slot, entries: SlotsTopic) -> Self {
        let place = Arc::new(Place { settings, entries, slot: slot.to_string() });
        Self { place, held: None, pace: Pace::default() }
    }
}

#[async_trait]
impl SinkSlot for KafkaSlot {
    async fn fence(&mut self, attempt: Attempt) -> Result<Option<Marker>> {
        let kafka = match self.held.take() {
            Some(held) => held.kafka.clone(),
            None => connect::connect(&self.place.settings.connection).await?,
        };
        let (held, marker) = self.place.fence(kafka, attempt).await?;
        self.held = Some(held);
        Ok(marker)
    }

    async fn publish(&mut self, marker: Marker, records: &Records) -> Result<()> {
        let Some(held) = self.held.take() else {
            return Err(Error::usage("a slot is fenced before its first publication, and after a failed one"));
        };
        let timeout = self.place.settings.transaction_timeout;
        if let Some(expected) = self.pace.expected(records.bytes()).filter(|expected| *expected > timeout) {
            let slot = &self.place.slot;
            tracing::warn!(slot, ?expected, ?timeout, "publication may take longer than its transaction");
        }
        let started = Instant::now();
        if let Err(failure) = held.publish(&self.place, marker, records).await {
            return Err(self.place.explain(&held.kafka, held.attempt, failure, started.elapsed()).await);
        }
        let took = started.elapsed();
        if took > timeout / 2 {
            tracing::warn!(
                slot = self.place.slot,
                ?took,
                ?timeout,
                "publication took more than half of its transaction's timeout"
            );
        }
        self.pace.learn(records.bytes(), took);
        self.held = Some(held);
        Ok(())
    }
}

impl Place {
    /// Takes the slot over, and returns its marker.
    async fn fence(&self, kafka: Kafka, attempt: Attempt) -> Result<(Box<Held>, Option<Marker>)> {
        let mut tries = 1;
        loop {
            match self.try_fence(kafka.clone(), attempt).await? {
                Fence::Taken(held, marker) => return Ok((held, marker)),
                Fence::Stopped(_) if tries < FENCE_TRIES => tries += 1,
                Fence::Stopped(error) => return Err(error),
            }
        }
    }

    async fn try_fence(&self, kafka: Kafka, attempt: Attempt) -> Result<Fence> {
        // Before a producer is opened, as that would stop a later attempt that has the slot.
        self.refuse_later(self.first_look(&kafka).await?, attempt)?;
        let held = self.open(kafka, attempt).await?;
        let found = self.entry(&held.kafka, Until::Settled).await?;
        self.refuse_later(found, attempt)?;
        let marker = found.and_then(|entry| entry.marker);
        let started = Instant::now();
        let Err(failure) = held.transact(std::iter::empty(), self.entries.record(Entry { attempt, marker })).await
        else {
            return Ok(Fence::Taken(held, marker));
        };
        let is_stopped = failure.is_fenced();
        let error = self.explain(&held.kafka, attempt, failure, started.elapsed()).await;
        if is_stopped && error.kind() == ErrorKind::Unavailable { Ok(Fence::Stopped(error)) } else { Err(error) }
    }

    /// Opens a producer. Kafka ends the transaction of the one before it, and refuses whatever that one still sends.
    async fn open(&self, kafka: Kafka, attempt: Attempt) -> Result<Box<Held>> {
        let KafkaTargetSettings {
            topic,
            transaction_timeout,
            answer_timeout,
            delivery_timeout,
            batch_bytes,
            buffer_bytes,
            compression,
            ..
        } = &*self.settings;
        let setting = async |name| cluster::setting(&kafka, ConfigResource::topic(topic), name, *answer_timeout).await;
        let batch_bytes_max: Option<usize> = setting("max.message.bytes").await.and_then(|max| max.parse().ok());
        let is_compacted = setting("cleanup.policy").await.is_some_and(|policy| policy.contains("compact"));
        let builder = kafka
            .producer()
            .transaction_timeout(*transaction_timeout)
            .max_block(*answer_timeout)
            .delivery_timeout(*delivery_timeout)
            .linger(target::LINGER)
            // Or closing would wait for a last push.
            .metrics_push(false)
            .compression(target::compression(*compression))
            .batch_size(batch_bytes_max.map_or(*batch_bytes, |max| max.min(*batch_bytes)))
            .buffer_memory(*buffer_bytes);
        let id = format!("alluvium.{}", self.slot);
        match builder.build_transactional(&id).await {
            Ok(producer) => Ok(Box::new(Held { kafka, producer, attempt, batch_bytes_max, is_compacted })),
            Err(error) if errors::has_code(&error, ErrorCode::InvalidTransactionTimeout) => {
                let leader = target::topic_of(&kafka, &self.settings).await?.leader();
                let longest = match leader {
                    Some(leader) => cluster::longest_transaction(&kafka, leader, *answer_timeout).await,
                    None => None,
                };
                Err(cluster::timeout_too_long(*transaction_timeout, longest))
            }
            Err(error) => {
                let error = errors::failed("producer of a slot cannot be opened", &error);
                Err(error.with("transactional_id", id))
            }
        }
    }

    /// Returns the slot's entry. Creates the topic of slots if it is absent.
    async fn first_look(&self, kafka: &Kafka) -> Result<Option<Entry>> {
        match self.entry(kafka, Until::Stable).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.entries.ensure(kafka, &self.settings).await?;
                self.entry(kafka, Until::Stable).await
            }
            Ok(found) => {
                self.entries.check_policy(kafka, self.settings.answer_timeout).await?;
                Ok(found)
            }
            failed => failed,
        }
    }

    async fn entry(&self, kafka: &Kafka, until: Until) -> Result<Option<Entry>> {
        committed::entry(kafka, &self.entries, until, self.settings.answer_timeout).await
    }

    fn refuse_later(&self, found: Option<Entry>, attempt: Attempt) -> Result<()> {
        match found.filter(|entry| entry.attempt > attempt) {
            Some(entry) => Err(self.fenced(attempt, entry.attempt)),
            None => Ok(()),
        }
    }

    fn fenced(&self, attempt: Attempt, by: Attempt) -> Error {
        let error = Error::fenced("a later attempt has the slot").with("slot", &self.slot);
        error.with("attempt", attempt).with("by_attempt", by)
    }

    /// Returns the error for a failed transaction.
    ///
    /// A producer that was stopped does not tell by whom: a later attempt, an older one that was refused just after, or the
    /// coordinator, at the end of the transaction's time. The slot's entry and the clock do.
    async fn explain(&self, kafka: &Kafka, attempt: Attempt, failure: Failure, elapsed: Duration) -> Error {
        if !failure.is_fenced() {
            return failure.into_error(&self.settings.topic);
        }
        let timeout = self.settings.transaction_timeout;
        let found = self.entry(kafka, Until::Stable).await;
        let error = match found {
            Ok(Some(entry)) if entry.attempt > attempt => self.fenced(attempt, entry.attempt),
            Ok(_) if elapsed >= timeout => {
                let error =
                    Error::unavailable("publication took longer than its transaction may; raise transaction_timeout");
                error.with("took", format_args!("{elapsed:?}")).with("transaction_timeout", format_args!("{timeout:?}"))
            }
            Ok(_) => Error::unavailable("another producer took the slot's transactional id").with("slot", &self.slot),
            Err(error) => Error::unavailable("a producer was stopped, and it is not known by whom").with_source(error),
        };
        failure.note(error)
    }
}

impl Held {
    /// Publishes records and sets the marker, in one transaction.
    async fn publish(&self, place: &Place, marker: Marker, records: &Records) -> Result<(), Failure> {
        let settings = &place.settings;
        let largest = self.check(settings, records).await?;
        let entry = Entry { attempt: self.attempt, marker: Some(marker) };
        let sent = self.transact(plan::records(&settings.topic, records), place.entries.record(entry)).await;
        sent.map_err(|failure| failure.with_largest(largest))
    }

    /// Checks records and returns the largest.
    async fn check(&self, settings: &KafkaTargetSettings, records: &Records) -> Result<Placed, Failure> {
        if records.is_empty() {
            return Ok(Placed::default());
        }
        let topic = &settings.topic;
        let partitions = self.producer.partitions_for(topic).await.map_err(Failure::staging)?.len();
        let batch_bytes_max = self.batch_bytes_max.filter(|_| settings.compression == KafkaCompression::None);
        let bounds =
            Bounds { partitions, batch_bytes_max, needs_key: self.is_compacted, buffer_bytes: settings.buffer_bytes };
        let checked = plan::check(topic, records, bounds);
        if checked.is_err() {
            // The topic may have more partitions by now.
            let partitions = target::topic_of(&self.kafka, settings).await?.partitions();
            return Ok(plan::check(topic, records, Bounds { partitions, ..bounds })?);
        }
        Ok(checked?)
    }

    /// Sends records and an entry, and commits them.
    async fn transact(
        &self,
        records: impl Iterator<Item = Result<krafka::Record>> + Send,
        entry: krafka::Record,
    ) -> Result<(), Failure> {
        self.producer.begin().map_err(Failure::staging)?;
        for record in records.chain(std::iter::once(Ok(entry))) {
            // Nobody waits for one record: one that cannot be delivered makes the commit fail.
            drop(self.producer.enqueue(record?).await.map_err(Failure::staging)?);
        }
        let failed = |error| match errors::is_not_asked(&error) {
            true => Failure::staging(error),
            false => Failure::committing(error),
        };
        self.producer.commit().await.map_err(failed)
    }
}

impl Drop for Held {
    /// Closes an idle producer. One with a transaction is left as it is: closing would abort the transaction.
    fn drop(&mut self) {
        if self.producer.state() == TransactionState::Ready {
            // One poll closes it: it has nothing to send and nothing to wait for.
            let _closed = pin!(self.producer.close()).poll(&mut Context::from_waker(Waker::noop()));
        }
    }
}
