//! Reading the last committed entry of a slot.

use std::time::Duration;

use alluvium::{Error, Result};
use bytes::Bytes;
use krafka::admin::{ListOffsetsOptions, ListedOffset, OffsetSpec, TopicPartition};
use krafka::consumer::{AutoOffsetReset, IsolationLevel};
use krafka::{Kafka, KrafkaError};

use crate::entry::Entry;
use crate::errors;
use crate::slots_topic::SlotsTopic;

/// How many of the last offsets to read first. An entry there is the last one; without one, all are read.
const NEAR_THE_END: i64 = 1000;

/// How long a broker may hold a request for records back, and how long to poll for them.
const FETCH_WAIT: Duration = Duration::from_millis(100);

/// How far to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// The first open transaction, whose end is not known.
    Stable,
    /// All that is written: waits until every transaction in the partition has ended.
    Settled,
}

/// Returns the last committed entry of a slot.
///
/// # Errors
/// `Corrupt` if it is damaged; `Unavailable` if it cannot be read in time.
pub(crate) async fn entry(kafka: &Kafka, of: &SlotsTopic, until: Until, patience: Duration) -> Result<Option<Entry>> {
    let named = |error: Error| error.with("slots_topic", &of.name).with("partition", of.partition);
    let late = |_| {
        let what = match until {
            Until::Stable => "entry of a slot cannot be read in time; reading needs the permission READ",
            Until::Settled => {
                "entry of a slot cannot be read in time; a transaction in its partition may still be open"
            }
        };
        named(Error::unavailable(what))
    };
    let failed = |error| named(errors::failed("entry of a slot cannot be read", &error));
    let read = tokio::time::timeout(patience, last_value(kafka, of, until));
    let value = read.await.map_err(late)?.map_err(failed)?;
    value.map(|value| Entry::parse(&value)).transpose().map_err(named)
}

async fn last_value(kafka: &Kafka, of: &SlotsTopic, until: Until) -> krafka::Result<Option<Bytes>> {
    let start = offset(kafka, of, OffsetSpec::Earliest, Until::Settled).await?;
    let end = offset(kafka, of, OffsetSpec::Latest, until).await?;
    let from = end.saturating_sub(NEAR_THE_END).max(start);
    if let Some(value) = last_in(kafka, of, from, end).await? {
        return Ok(value);
    }
    Ok(last_in(kafka, of, start, from).await?.flatten())
}

async fn offset(kafka: &Kafka, of: &SlotsTopic, spec: OffsetSpec, until: Until) -> krafka::Result<i64> {
    let at = TopicPartition::new(&of.name, of.partition);
    let options = ListOffsetsOptions::default().read_committed(until == Until::Stable);
    let mut listed = kafka.admin().list_offsets([(at.clone(), spec)], options).await?;
    let listed: ListedOffset = listed.remove(&at).unwrap_or_else(|| Err(KrafkaError::unknown_topic(&of.name)))?;
    Ok(listed.offset)
}

/// Returns the value of the slot's last committed record from `start` to `end`, if there is one. Its value is `None` if somebody
/// deleted the slot's entry.
async fn last_in(kafka: &Kafka, of: &SlotsTopic, start: i64, end: i64) -> krafka::Result<Option<Option<Bytes>>> {
    if start >= end {
        return Ok(None);
    }
    let SlotsTopic { name, partition, key } = of;
    let consumer = kafka
        .consumer_without_group()
        .isolation_level(IsolationLevel::ReadCommitted)
        .auto_offset_reset(AutoOffsetReset::None)
        .fetch_max_wait(FETCH_WAIT)
        .metrics_push(false)
        .build()
        .await?;
    consumer.assign(name, vec![*partition]).await?;
    consumer.seek(name, *partition, start).await?;
    let mut last = None;
    // The position also moves over records of aborted transactions and over what compaction left out.
    while consumer.position(name, *partition).await.is_none_or(|position| position < end) {
        for record in consumer.poll(FETCH_WAIT).await? {
            if record.offset < end && record.key.as_ref() == Some(key) {
                last = Some(record.value);
            }
        }
    }
    consumer.close().await?;
    Ok(last)
}
