//! Exactly-once output of [`alluvium`] to a topic of Apache Kafka.

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
mod target;

pub use record::KafkaRecord;
pub use settings::{
    KafkaClientCertificate, KafkaCompression, KafkaConnection, KafkaSasl, KafkaSaslMechanism, KafkaTargetSettings,
    KafkaTls,
};
pub use target::KafkaTarget;
