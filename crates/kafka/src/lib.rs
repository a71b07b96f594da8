//! Exactly-once input and output of [`alluvium`] from and to topics of Apache Kafka.
//!
//! # Reading
//! A [`KafkaSource`] is a topic; its partitions are its splits. The offsets are in the job's checkpoints and nowhere else: there is no
//! group of consumers, and nothing is committed to Kafka.
//!
//! ```no_run
//! use alluvium::source::{Advance, SourceSettings};
//! use alluvium_kafka::{KafkaConnection, KafkaSource, KafkaSourceSettings};
//!
//! # async fn example(seat: alluvium::Seat) -> alluvium::Result<()> {
//! let connection = KafkaConnection::new("kafka1.example:9092,kafka2.example:9092");
//! let source = KafkaSource::new(connection, "clicks", KafkaSourceSettings::default())?;
//! let mut clicks = seat.open_source("clicks", source, SourceSettings::default()).await?;
//! loop {
//!     match clicks.advance()? {
//!         Advance::Record => {
//!             let (_split, reader) = clicks.current().expect("a record");
//!             let click = reader.current().expect("a record"); // a KafkaRecord: key, value, headers, timestamp
//! #           drop(click.clone());
//!         }
//!         Advance::End => break,
//!         _ => clicks.ready().await, // or a barrier
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! - **A reader never moves to another place in silence.** A position has the offset of the next record and the topic's id. If records
//!   at it are gone, by retention or because the partition was cut, the error (`Input`) names the offsets; a topic that was deleted and
//!   created anew is refused too (`Input`), and one that is gone is `NotFound`.
//! - With [`ReadCommitted`](KafkaIsolation::ReadCommitted), the default, records of aborted transactions are never seen. An open
//!   transaction holds back what follows it in its partition.
//! - A partition has caught up only if a broker has said so within the last few seconds. While brokers are away, nothing is known; after
//!   [`patience`](KafkaSourceSettings::patience) it is an error (`Unavailable`).
//! - Each open partition has a task, connections of its own, and a buffer of bounded size
//!   ([`buffer_bytes`](KafkaSourceSettings::buffer_bytes)). A partition that nobody reads, or whose broker is slow, stops no other.
//! - Partitions that are added are found by `SourceReader::discover`, and read from their beginning.
//!
//! A cluster with `unclean.leader.election.enable=true` may lose records that were read and put others at their offsets. A reader that
//! runs notices it when the partition becomes shorter; a restore from a position cannot.
//!
//! # Writing
//! A sink's records are part of each checkpoint. After its commit they are published in one transaction, which also writes a marker:
//! how far the sink has come. A new attempt takes the transactional id over, so that an older one, which may still run somewhere,
//! cannot publish any more; it reads the marker, and publishes what is missing.
//!
//! ```no_run
//! use alluvium::sink::SinkTarget as _;
//! use alluvium_kafka::{KafkaConnection, KafkaRecord, KafkaTarget, KafkaTargetSettings, KafkaTls};
//!
//! # async fn example() -> alluvium::Result<()> {
//! let connection = KafkaConnection::new("kafka1.example:9093,kafka2.example:9093")
//!     .with(|it| it.tls = Some(KafkaTls::default()));
//! let target = KafkaTarget::new(KafkaTargetSettings::new(connection, "counts"))?;
//! target.check().await?;
//! // What the sink emits:
//! let record = KafkaRecord::new("tea", "3").to_bytes();
//! # drop(record);
//! # Ok(())
//! # }
//! ```
//!
//! ## Records
//! The sink emits [`KafkaRecord`]s as [bytes](KafkaRecord::to_bytes): a key, a value, headers, a timestamp and a partition, each of
//! them optional.
//! - A record without a partition goes to that of its key, by the hash that Java's clients use (murmur2). Without a key too, runs of
//!   records go to partitions drawn at random.
//! - A record without a value is a tombstone: in a compacted topic it deletes its key.
//! - Records of one subtask keep their order within a partition.
//!
//! A record that cannot be published ends the sink: bytes that are no record, a partition that the topic has not, no key in a
//! compacted topic (`Input`), or more bytes than the topic or the buffer takes (`Limit`). The error has the record's place in the
//! publication, counted from 0. If only the broker knows that a record is too large, it does not say which: the error has the place
//! of the largest.
//! A topic that takes less than 64 KiB at once, and whose settings cannot be read, needs a smaller
//! [`batch_bytes`](KafkaTargetSettings::batch_bytes).
//!
//! ## Guarantees
//! - **Once**: each record of a committed checkpoint is published once, whatever was lost on the way: the process, a broker, the
//!   answer to the commit. Records of an epoch that was given up come with the next one that is committed.
//! - **Atomic for each slot and publication**: a reader with `isolation.level=read_committed` gets all records of one subtask's
//!   publication, or none. They become readable at the same time within a partition, but not in all partitions. **Other readers also
//!   get records of transactions that failed.** Kafka's default is `read_uncommitted`.
//! - **Fenced**: once an attempt has a slot, no older one publishes through it.
//!
//! They rest on the cluster: it must keep what it has acknowledged. All replicas in sync acknowledge (`acks=all`), so the topics, and
//! those of Kafka itself (`__transaction_state`), need a replication factor of 3, `min.insync.replicas=2`, and
//! `unclean.leader.election.enable=false`. A cluster that lost the marker together with the records makes the next start refuse.
//!
//! ## Time
//! A publication must end within [`transaction_timeout`](KafkaTargetSettings::transaction_timeout): the brokers end the transaction
//! then, and the publication is tried again, from its start. One that took more than half of it is logged as a warning, and so is one
//! that will take longer at the rate of the last large one. A remedy is a longer timeout, which the brokers allow up to their
//! `transaction.max.timeout.ms`, or a shorter interval between checkpoints.
//!
//! Readers with `read_committed` do not see what follows an open transaction in a partition. A publication that failed leaves its
//! transaction open until the slot is fenced again: at once if it is tried again, at the next start if the sink has ended, and at the
//! latest when the timeout ends it.
//!
//! ## The topic of slots
//! Each sink has a topic, `alluvium.<job>.<operator>.<sink>` by default, which is created when it is first needed, with
//! `cleanup.policy=compact`. A slot's entries are in the partition with the number of its subtask:
//!
//! | part | what |
//! |---|---|
//! | key | job, operator, sink and subtask |
//! | value | `1 <attempt> <marker>`: the version of this format, the attempt that has the slot, and how far it has come, or `-` |
//!
//! Whether it can be created is known when the first slot is fenced; with a name [of its own](KafkaTargetSettings::slots_topic), the
//! check at the start tells.
//!
//! Do not delete the topic of a job that runs or will be restored: it will refuse to start, as it cannot know what is published. If it
//! has fewer partitions than the sink has subtasks, add some; entries stay where they are. A topic with another cleanup policy is
//! refused, if its settings can be read: retention would delete markers.
//!
//! # Permissions
//! | resource | operations |
//! |---|---|
//! | topic that is read | `Describe`, `Read` |
//! | topic of records | `Describe`, `Write`; optional `DescribeConfigs`: to name a record that is too large or has no key |
//! | topic of slots (prefix `alluvium.`) | `Describe`, `Read`, `Write`; optional `Create`, `DescribeConfigs` |
//! | transactional ids (prefix `alluvium.`) | `Describe`, `Write` |
//! | cluster | optional `DescribeConfigs`: to compare the transaction timeout with the brokers' maximum |
//!
//! No group of consumers is used. The transactional id of a slot is `alluvium.<job>.<operator>.<sink>.<subtask>`.
//!
//! # Connections
//! Needs Kafka 3.9 or later. Each subtask that publishes, and each partition that is read, has connections of its own, to the brokers
//! that it needs. With [TLS](KafkaConnection::tls) the brokers' certificates and names are always verified.
//! [Passwords](KafkaConnection::sasl) by PLAIN and SCRAM; Kerberos and OAuth are not supported. No password is in an error, a log line
//! or `Debug`.
//!
//! # What was tested
//! The suites of laws that every target and every source of alluvium must keep; faults of all requests of a publication and of a fence;
//! records, partitions and topics that go away while they are read; copies from topic to topic under crashes. All on the broker for
//! tests that the client [krafka](https://docs.rs/krafka) has, under the transactions of version 1 and of version 2 (which clusters of
//! Kafka 4 have). **Not yet on a real cluster of Kafka**, and not with TLS, SCRAM, or several brokers. That broker has no fetch
//! sessions and no limits of bytes, and its fetches name topics, not their ids.
//!
//! # The client
//! krafka is written in Rust, has typed errors, and a broker for tests that can lose requests and answers. rdkafka, the binding of
//! librdkafka, would add a build of C code, and its mock of a broker cannot lose the answer to a request that took effect. What rdkafka
//! alone could do, a marker in the metadata of a consumer group's offset, expires with the group.

mod cluster;
mod committed;
mod connect;
mod entry;
mod errors;
mod failure;
mod pace;
mod plan;
mod record;
mod settings;
mod slot;
mod slots_topic;
mod source;
mod target;

pub use record::KafkaRecord;
pub use settings::{
    KafkaClientCertificate, KafkaCompression, KafkaConnection, KafkaSasl, KafkaSaslMechanism, KafkaTargetSettings,
    KafkaTls,
};
pub use source::{KafkaIsolation, KafkaReader, KafkaSource, KafkaSourceSettings, KafkaStart};
pub use target::KafkaTarget;
