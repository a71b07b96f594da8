//! Checking the records of a publication before anything is sent.

use alluvium::sink::Records;
use alluvium::{Error, Result};
use bytes::Bytes;
use krafka::{KrafkaError, Record};

use crate::record::KafkaRecord;

/// Bytes of a batch with one record, beside those of the record.
const BATCH_BYTES: usize = 61;

/// What a topic can hold, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// The topic's partitions.
    pub(crate) partitions: usize,
    /// Its largest batch, if that is known and batches are not compressed.
    pub(crate) batch_bytes_max: Option<usize>,
    /// Whether it takes no records without a key.
    pub(crate) needs_key: bool,
    /// What the client can hold.
    pub(crate) buffer_bytes: usize,
}

/// A record by its place in the publication.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) place: usize,
    pub(crate) bytes: usize,
}

/// Returns the largest record.
///
/// # Errors
/// `Input` or `Limit`, naming the first record that the topic cannot hold.
pub(crate) fn check(topic: &str, records: &Records, bounds: Bounds) -> Result<Placed> {
    let mut largest = Placed::default();
    for (place, bytes) in records.iter().enumerate() {
        let named = |error: Error| error.with("topic", topic).with("record", place);
        let record = KafkaRecord::from_bytes(bytes).map_err(named)?;
        if bounds.needs_key && record.key.is_none() {
            return Err(named(Error::input("record has no key, and the topic is compacted")));
        }
        if let Some(timestamp) = record.timestamp.filter(|timestamp| *timestamp < 0) {
            return Err(named(Error::input("record has a time before 1970")).with("timestamp", timestamp));
        }
        let bytes = record.payload();
        if let Some(partition) = record.partition
            && usize::try_from(partition).map_or(true, |partition| partition >= bounds.partitions)
        {
            let error = named(Error::input("record is for a partition that the topic has not"));
            return Err(error.with("partition", partition).with("partitions", bounds.partitions));
        }
        if let Some(max) = bounds.batch_bytes_max.filter(|max| bytes + BATCH_BYTES > *max) {
            let error = named(Error::limit("record is larger than the topic's max.message.bytes"));
            return Err(error.with("bytes", bytes).with("max.message.bytes", max));
        }
        if bytes > largest.bytes {
            largest = Placed { place, bytes };
        }
        let record = of_client(topic, record);
        let invalid = |error: KrafkaError| named(Error::input("record cannot be sent").with_source(error.to_string()));
        record.validate().map_err(invalid)?;
        let held = record.estimated_size();
        if held > bounds.buffer_bytes {
            let error = named(Error::limit("record is larger than buffer_bytes")).with("bytes", held);
            return Err(error.with("buffer_bytes", bounds.buffer_bytes));
        }
    }
    Ok(largest)
}

/// Returns the records for the client, in order; each is parsed when it is taken.
pub(crate) fn records<'a>(topic: &'a str, records: &'a Records) -> impl Iterator<Item = Result<Record>> + Send + 'a {
    let parse = |bytes: Bytes| Ok(of_client(topic, KafkaRecord::from_bytes(bytes)?));
    records.iter().map(parse)
}

fn of_client(topic: &str, record: KafkaRecord) -> Record {
    let KafkaRecord { key, value, headers, timestamp, partition } = record;
    let mut made = match value {
        Some(value) => Record::new(topic, value),
        None => Record::new(topic, Bytes::new()).without_value(),
    };
    if let Some(key) = key {
        made = made.key(key);
    }
    if let Some(timestamp) = timestamp {
        made = made.timestamp(timestamp);
    }
    if let Some(partition) = partition {
        made = made.partition(partition);
    }
    for (name, value) in headers {
        made = match value {
            Some(value) => made.header(name, value),
            None => made.null_header(name),
        };
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;
    use alluvium::ErrorKind;

    const BOUNDS: Bounds = Bounds { partitions: 2, batch_bytes_max: Some(100), needs_key: true, buffer_bytes: 1000 };

    fn refused(bad: Bytes) -> Error {
        let good = KafkaRecord::new("k", "v").to_bytes();
        let records = [good.clone(), good, bad].iter().collect();
        let error = check("t", &records, BOUNDS).unwrap_err();
        assert!(error.message().contains("topic=`t` record=`2`"), "{}", error.chain());
        error
    }

    #[test]
    fn records_that_the_topic_cannot_hold_are_named() {
        assert_eq!(refused(Bytes::from_static(b"junk")).kind(), ErrorKind::Input);
        assert_eq!(refused(KafkaRecord::default().to_bytes()).kind(), ErrorKind::Input);
        for partition in [-1, 2, i32::MAX] {
            let record = KafkaRecord { partition: Some(partition), ..KafkaRecord::new("", "") };
            let error = refused(record.to_bytes());
            assert_eq!(error.kind(), ErrorKind::Input);
            assert!(error.message().ends_with(&format!("partition=`{partition}` partitions=`2`")), "{error}");
        }
        let early = KafkaRecord { timestamp: Some(-1), ..KafkaRecord::new("", "") };
        assert_eq!(refused(early.to_bytes()).kind(), ErrorKind::Input);
        let error = refused(KafkaRecord::new("", "x".repeat(40)).to_bytes());
        assert_eq!(error.kind(), ErrorKind::Limit);
        assert!(error.message().ends_with("bytes=`40` max.message.bytes=`100`"), "{error}");
    }

    #[test]
    fn the_largest_record_is_found() {
        let records = ["a", "abc", "ab"].map(|value| KafkaRecord::new("", value).to_bytes()).iter().collect();
        assert_eq!(check("t", &records, BOUNDS).unwrap(), Placed { place: 1, bytes: 3 });
        assert_eq!(check("t", &Records::default(), BOUNDS).unwrap(), Placed::default());
    }
}
