//! The topic of slots: who has each slot, and how far it has come.
//!
//! A slot's entries are in the partition with its subtask's number. The last committed one counts. With a topic for each sink, no
//! other slot's transaction is in that partition.

use std::time::Duration;

use alluvium::sink::Slot;
use alluvium::{Error, Result};
use bytes::Bytes;
use krafka::admin::{ConfigResource, CreateTopicsOptions, NewTopic};
use krafka::error::ErrorCode;
use krafka::{Kafka, Record};

use crate::cluster::{self, Topic};
use crate::entry::Entry;
use crate::errors;
use crate::settings::KafkaTargetSettings;

/// Settings of a topic of slots that is created. What is older than a day can be compacted.
const TOPIC_SETTINGS: [(&str, &str); 2] = [("cleanup.policy", "compact"), ("segment.ms", "86400000")];

/// How often to look for a topic that was just created.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Where the entries of a slot are.
#[derive(Debug, Clone)]
pub(crate) struct SlotsTopic {
    pub(crate) name: String,
    pub(crate) partition: i32,
    /// The slot's name.
    pub(crate) key: Bytes,
}

impl SlotsTopic {
    /// Returns where the entries of `slot` are.
    ///
    /// # Errors
    /// `Config`.
    pub(crate) fn of(slot: &Slot, settings: &KafkaTargetSettings) -> Result<Self> {
        let Slot { job, operator, sink, subtask } = slot;
        let name = settings.slots_topic.clone().unwrap_or_else(|| format!("alluvium.{job}.{operator}.{sink}"));
        let partition = i32::try_from(subtask.0);
        let partition = partition.map_err(|_| Error::config("subtask has no partition").with("subtask", subtask))?;
        Ok(Self { name, partition, key: slot.to_string().into() })
    }

    /// Returns the record of an entry.
    pub(crate) fn record(&self, entry: Entry) -> Record {
        Record::new(self.name.as_str(), entry.to_value()).partition(self.partition).key(self.key.clone())
    }

    /// Creates the topic if it is absent, and checks that it has the slot's partition.
    ///
    /// # Errors
    /// `NotFound` if it is absent and is not to be created; `Config` if it has too few partitions.
    pub(crate) async fn ensure(&self, kafka: &Kafka, settings: &KafkaTargetSettings) -> Result<()> {
        let patience = settings.answer_timeout;
        let found = match Topic::find(kafka, &self.name, patience).await? {
            Some(found) => found,
            None => {
                create(kafka, &self.name, settings, false).await?;
                self.await_creation(kafka, patience).await?
            }
        };
        if found.has(self.partition) {
            return Ok(());
        }
        let error = Error::config("topic of slots has too few partitions: add some, one for each subtask");
        let error = error.with("slots_topic", &self.name).with("partitions", found.partitions());
        Err(error.with("subtask", self.partition))
    }

    /// Checks that the topic's entries stay, if that can be known.
    ///
    /// # Errors
    /// `Config`.
    pub(crate) async fn check_policy(&self, kafka: &Kafka, patience: Duration) -> Result<()> {
        check_policy(kafka, &self.name, patience).await
    }

    /// Waits until the slot's partition has a leader.
    async fn await_creation(&self, kafka: &Kafka, patience: Duration) -> Result<Topic> {
        let look = async {
            let mut ticks = tokio::time::interval(LOOK_AGAIN);
            loop {
                ticks.tick().await;
                if let Some(topic) = Topic::find(kafka, &self.name, patience).await?
                    && (topic.is_led(self.partition) || !topic.has(self.partition))
                {
                    return Ok(topic);
                }
            }
        };
        let late =
            |_| Error::unavailable("topic of slots was created, but has no leader yet").with("slots_topic", &self.name);
        tokio::time::timeout(patience, look).await.map_err(late)?
    }
}

/// Checks that a topic of slots exists or can be created, and changes nothing.
///
/// # Errors
/// As [`SlotsTopic::ensure`] and [`SlotsTopic::check_policy`].
pub(crate) async fn check(kafka: &Kafka, name: &str, settings: &KafkaTargetSettings) -> Result<()> {
    match Topic::find(kafka, name, settings.answer_timeout).await? {
        Some(_) => check_policy(kafka, name, settings.answer_timeout).await,
        None => create(kafka, name, settings, true).await,
    }
}

async fn check_policy(kafka: &Kafka, name: &str, patience: Duration) -> Result<()> {
    let policy = cluster::setting(kafka, ConfigResource::topic(name), "cleanup.policy", patience).await;
    match policy.filter(|policy| policy != "compact") {
        Some(policy) => {
            let error = Error::config("topic of slots would lose entries: its cleanup.policy must be compact");
            Err(error.with("slots_topic", name).with("cleanup.policy", policy))
        }
        None => Ok(()),
    }
}

/// Creates a topic of slots; another subtask may have done so in the meantime.
///
/// * `only_check`: whether to ask the brokers only whether they would.
async fn create(kafka: &Kafka, name: &str, settings: &KafkaTargetSettings, only_check: bool) -> Result<()> {
    let named = |error: Error| error.with("slots_topic", name);
    if !settings.create_slots_topic {
        return Err(named(Error::not_found("topic of slots does not exist, and is not to be created")));
    }
    let failed = |error| named(errors::failed("topic of slots cannot be created", &error));
    let partitions = i32::try_from(settings.slots_partitions).unwrap_or(i32::MAX);
    let replication = settings.slots_replication.map_or(-1, |replicas| i16::try_from(replicas).unwrap_or(i16::MAX));
    let mut topic = NewTopic::new(name, partitions, replication).map_err(failed)?;
    for (name, value) in TOPIC_SETTINGS {
        topic = topic.with_config(name, value);
    }
    let options = CreateTopicsOptions::default().timeout(settings.answer_timeout).validate_only(only_check);
    let created = kafka.admin().create_topics([topic], options).await.map_err(failed)?;
    match created.into_values().find_map(Result::err) {
        Some(error) if !errors::has_code(&error, ErrorCode::TopicAlreadyExists) => Err(failed(error)),
        _ => Ok(()),
    }
}
