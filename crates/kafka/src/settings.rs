//! Settings: where the cluster is and how to log in, which topic takes the records, how long to wait.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A cluster of Kafka, and how to log in. Made by [`new`](Self::new), changed by [`with`](Self::with).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct KafkaConnection {
    /// Some of the brokers: `host:port`, separated by commas.
    pub bootstrap_servers: String,
    /// The name of this client in the brokers' logs and quotas. Default: `alluvium`.
    pub client_id: String,
    /// Encrypted connections. Default: none.
    pub tls: Option<KafkaTls>,
    /// Log in with a password. Without TLS, PLAIN sends it readable. Default: none.
    pub sasl: Option<KafkaSasl>,
    /// How long to wait for a connection. Default: 10 s.
    pub connect_timeout: Duration,
    /// How long to wait for the answer to one request; at least `connect_timeout`. Default: 30 s.
    pub request_timeout: Duration,
}

impl KafkaConnection {
    /// Returns the default settings.
    ///
    /// * `bootstrap_servers`: some of the brokers; see [`bootstrap_servers`](Self::bootstrap_servers).
    pub fn new(bootstrap_servers: impl Into<String>) -> Self {
        Self {
            bootstrap_servers: bootstrap_servers.into(),
            client_id: "alluvium".to_owned(),
            tls: None,
            sasl: None,
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
        }
    }

    /// Returns these settings after `change`, for use in an expression: the struct may gain fields, so it cannot be written as a
    /// literal outside the crate.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

/// Encrypted connections. The brokers' certificates and names are always verified.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct KafkaTls {
    /// File with the certificates, in PEM, of authorities that may sign the brokers'. Default: those of the system.
    pub root_certificates: Option<PathBuf>,
    /// This client's own certificate. Default: none.
    pub client_certificate: Option<KafkaClientCertificate>,
}

impl KafkaTls {
    /// Returns these settings after `change`.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

/// A certificate that shows who this client is, with its key; files in PEM. The key must not be encrypted.
#[derive(Debug, Clone)]
pub struct KafkaClientCertificate {
    /// File with the certificate, and those between it and the authority.
    pub certificate: PathBuf,
    /// File with its private key.
    pub key: PathBuf,
}

/// A user and its password. `Debug` leaves the password out.
#[derive(Clone)]
pub struct KafkaSasl {
    /// How the password is proved.
    pub mechanism: KafkaSaslMechanism,
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for KafkaSasl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mechanism, user, password: _ } = self;
        f.debug_struct("KafkaSasl").field("mechanism", mechanism).field("user", user).finish_non_exhaustive()
    }
}

/// How a password is proved to a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum KafkaSaslMechanism {
    /// PLAIN: the broker gets the password.
    Plain,
    /// SCRAM-SHA-256.
    ScramSha256,
    /// SCRAM-SHA-512.
    ScramSha512,
}

/// How batches of records are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum KafkaCompression {
    /// Not at all.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// Settings of a [`KafkaTarget`](crate::KafkaTarget). Made by [`new`](Self::new), changed by [`with`](Self::with).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct KafkaTargetSettings {
    /// The cluster.
    pub connection: KafkaConnection,
    /// The topic that takes the records. It must exist.
    pub topic: String,
    /// The topic with the entries of slots. Default: `alluvium.<job>.<operator>.<sink>`, one for each sink. Sinks may share one, but
    /// then they wait for each other's transactions when they start.
    pub slots_topic: Option<String>,
    /// Whether to create the topic of slots if it is absent. Default: yes.
    pub create_slots_topic: bool,
    /// Partitions of a topic of slots that is created: the most subtasks that can publish. Default: 128.
    pub slots_partitions: u32,
    /// Replicas of a topic of slots that is created. Default: what the brokers are set to.
    pub slots_replication: Option<u16>,
    /// How long a publication may take before the brokers end its transaction. At most the brokers' `transaction.max.timeout.ms`,
    /// which is 15 min by default. A process that stops inside a publication holds up readers of the topic for this long, unless
    /// another attempt takes its slots over. Default: 5 min.
    pub transaction_timeout: Duration,
    /// How long to wait for the coordinator of transactions, for the slot's entry, and for room in the buffer of records to be sent.
    /// Default: 60 s.
    pub answer_timeout: Duration,
    /// How long a record may be tried before its publication fails. At least the connection's `request_timeout` and 5 ms. Default:
    /// 2 min.
    pub delivery_timeout: Duration,
    /// How batches are compressed. Default: not at all.
    pub compression: KafkaCompression,
    /// About the most bytes of records in one batch; a larger record goes alone. At most the topic's `max.message.bytes`: if that is
    /// readable and smaller, it counts. Default: 64 KiB.
    pub batch_bytes: usize,
    /// Most bytes of records that wait to be sent. At least `batch_bytes`; a larger record needs that much. Default: 32 MiB.
    pub buffer_bytes: usize,
}

impl KafkaTargetSettings {
    /// Returns the default settings.
    ///
    /// * `topic`: the topic that takes the records.
    pub fn new(connection: KafkaConnection, topic: impl Into<String>) -> Self {
        Self {
            connection,
            topic: topic.into(),
            slots_topic: None,
            create_slots_topic: true,
            slots_partitions: 128,
            slots_replication: None,
            transaction_timeout: Duration::from_secs(300),
            answer_timeout: Duration::from_secs(60),
            delivery_timeout: Duration::from_secs(120),
            compression: KafkaCompression::None,
            batch_bytes: 64 << 10,
            buffer_bytes: 32 << 20,
        }
    }

    /// Returns these settings after `change`, for use in an expression.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        let sasl = KafkaSasl {
            mechanism: KafkaSaslMechanism::ScramSha512,
            user: "job".to_owned(),
            password: "hunter2".to_owned(),
        };
        let connection = KafkaConnection::new("h:9092").with(|it| it.sasl = Some(sasl));
        let text = format!("{:?}", KafkaTargetSettings::new(connection, "t"));
        assert!(text.contains("job") && !text.contains("hunter2"), "{text}");
    }
}
