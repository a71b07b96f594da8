//! One record of a topic, and the bytes in which a sink carries it.
//!
//! ```text
//! version 1 (u8) | parts (u8) | [timestamp (i64)] | [partition (i32)] | [key] | [value] | [headers (u32) { name | 0 or 1 (u8) | [value] } ...]
//! ```
//! A key, name or value is its length (u32) and its bytes. Numbers are little-endian. `parts` has a bit for each part in brackets.

use alluvium::{Error, Result};
use bytes::{Buf as _, Bytes};

const VERSION: u8 = 1;

const TIMESTAMP: u8 = 1;
const PARTITION: u8 = 1 << 1;
const KEY: u8 = 1 << 2;
const VALUE: u8 = 1 << 3;
const HEADERS: u8 = 1 << 4;
const ALL: u8 = TIMESTAMP | PARTITION | KEY | VALUE | HEADERS;

/// A record of a topic. A sink on a [`KafkaTarget`](crate::KafkaTarget) emits its [bytes](Self::to_bytes).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KafkaRecord {
    /// The key. Records with the same key go to the same partition, unless they name another.
    pub key: Option<Bytes>,
    /// The value. None is a tombstone: in a compacted topic it deletes its key.
    pub value: Option<Bytes>,
    /// Names and values of headers, in order; names may repeat.
    pub headers: Vec<(String, Option<Bytes>)>,
    /// Milliseconds since 1970, not negative. Default: the time of the publication. A topic with
    /// `message.timestamp.type=LogAppendTime` ignores it.
    pub timestamp: Option<i64>,
    /// The partition. Default: by the key; without a key, runs of records go to partitions drawn at random.
    pub partition: Option<i32>,
}

impl KafkaRecord {
    /// Returns a record with a key and a value.
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self { key: Some(key.into()), value: Some(value.into()), ..Self::default() }
    }

    /// Returns the record as a sink carries it.
    ///
    /// # Panics
    /// If a key, a value or a header has 4 GiB or more. Kafka takes less than 2 GiB.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let headers = !self.headers.is_empty();
        let parts = [
            (self.timestamp.is_some(), TIMESTAMP),
            (self.partition.is_some(), PARTITION),
            (self.key.is_some(), KEY),
            (self.value.is_some(), VALUE),
            (headers, HEADERS),
        ];
        let parts = parts.iter().filter(|(is_there, _)| *is_there).fold(0, |bits, (_, bit)| bits | bit);
        let mut bytes = Vec::with_capacity(32 + self.key.as_ref().map_or(0, Bytes::len) + self.payload());
        bytes.extend([VERSION, parts]);
        self.timestamp.iter().for_each(|timestamp| bytes.extend(timestamp.to_le_bytes()));
        self.partition.iter().for_each(|partition| bytes.extend(partition.to_le_bytes()));
        self.key.iter().chain(&self.value).for_each(|part| push(&mut bytes, part));
        if headers {
            bytes.extend(length(self.headers.len()).to_le_bytes());
        }
        for (name, value) in &self.headers {
            push(&mut bytes, name.as_bytes());
            bytes.push(u8::from(value.is_some()));
            value.iter().for_each(|value| push(&mut bytes, value));
        }
        bytes.into()
    }

    /// Parses what [`to_bytes`](Self::to_bytes) returned, sharing memory with it.
    ///
    /// # Errors
    /// `Input` if `bytes` are no record.
    pub fn from_bytes(mut bytes: Bytes) -> Result<Self> {
        parse(&mut bytes).filter(|_| bytes.is_empty()).ok_or_else(|| Error::input("bytes are no record of Kafka"))
    }

    /// Returns the bytes of its keys, values and names.
    pub(crate) fn payload(&self) -> usize {
        let of = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
        let headers = self.headers.iter().map(|(name, value)| name.len() + of(value));
        of(&self.key) + of(&self.value) + headers.sum::<usize>()
    }
}

fn push(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend(length(part.len()).to_le_bytes());
    bytes.extend(part);
}

#[expect(clippy::expect_used, reason = "documented: Kafka takes less than 2 GiB")]
fn length(length: usize) -> u32 {
    u32::try_from(length).expect("a part of a record has less than 4 GiB")
}

fn parse(bytes: &mut Bytes) -> Option<KafkaRecord> {
    let version = bytes.try_get_u8().ok()?;
    let parts = bytes.try_get_u8().ok()?;
    if version != VERSION || parts & !ALL != 0 {
        return None;
    }
    let has = |part: u8| parts & part != 0;
    let timestamp = if has(TIMESTAMP) { Some(bytes.try_get_i64_le().ok()?) } else { None };
    let partition = if has(PARTITION) { Some(bytes.try_get_i32_le().ok()?) } else { None };
    let key = if has(KEY) { Some(take(bytes)?) } else { None };
    let value = if has(VALUE) { Some(take(bytes)?) } else { None };
    let mut headers = Vec::new();
    let count = if has(HEADERS) { bytes.try_get_u32_le().ok()? } else { 0 };
    for _ in 0..count {
        let name = String::from_utf8(take(bytes)?.into()).ok()?;
        let value = match bytes.try_get_u8().ok()? {
            0 => None,
            1 => Some(take(bytes)?),
            _ => return None,
        };
        headers.push((name, value));
    }
    Some(KafkaRecord { key, value, headers, timestamp, partition })
}

fn take(bytes: &mut Bytes) -> Option<Bytes> {
    let length = bytes.try_get_u32_le().ok()? as usize;
    (length <= bytes.len()).then(|| bytes.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alluvium::ErrorKind;
    use proptest::prelude::*;

    fn full() -> KafkaRecord {
        KafkaRecord {
            headers: vec![("a".to_owned(), Some(Bytes::from_static(b"1"))), ("a".to_owned(), None)],
            timestamp: Some(-1),
            partition: Some(7),
            ..KafkaRecord::new("key", "value")
        }
    }

    #[test]
    fn every_cut_and_every_addition_is_refused() {
        let whole = full().to_bytes();
        assert_eq!(KafkaRecord::from_bytes(whole.clone()).unwrap(), full());
        let longer = Bytes::from([&whole[..], &[0]].concat());
        let cuts = (0..whole.len()).map(|end| whole.slice(..end)).chain([longer]);
        for cut in cuts {
            assert_eq!(KafkaRecord::from_bytes(cut.clone()).unwrap_err().kind(), ErrorKind::Input, "{cut:?}");
        }
    }

    #[test]
    fn other_versions_and_parts_are_refused() {
        for bad in [&[2, 0][..], &[1, 32], &[1, 255], &[1, HEADERS, 255, 255, 255, 255], &[1, KEY, 255, 255, 255, 255]]
        {
            assert_eq!(KafkaRecord::from_bytes(Bytes::from(bad)).unwrap_err().kind(), ErrorKind::Input, "{bad:?}");
        }
        let bad_flag = Bytes::from_static(&[1, HEADERS, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(KafkaRecord::from_bytes(bad_flag).unwrap_err().kind(), ErrorKind::Input);
    }

    fn part() -> impl Strategy<Value = Option<Bytes>> {
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from))
    }

    proptest! {
        #[test]
        fn records_come_back(
            key in part(),
            value in part(),
            headers in proptest::collection::vec((".{0,5}", part()), 0..4),
            timestamp: Option<i64>,
            partition: Option<i32>,
        ) {
            let record = KafkaRecord { key, value, headers, timestamp, partition };
            prop_assert_eq!(KafkaRecord::from_bytes(record.to_bytes()).unwrap(), record);
        }

        #[test]
        fn any_bytes_are_a_record_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64), parts in 0..32u8) {
            let _any = KafkaRecord::from_bytes([&[VERSION, parts], &bytes[..]].concat().into());
        }
    }
}
