//! The laws of targets.

use alluvium::sink::conformance::{self, Harness};
use async_trait::async_trait;
use bytes::Bytes;

use crate::*;

struct Topic {
    broker: Broker,
    target: Arc<KafkaTarget>,
}

#[async_trait]
impl Harness for Topic {
    fn target(&self) -> Arc<dyn SinkTarget> {
        Arc::clone(&self.target) as _
    }

    fn record(&self, number: u64) -> Bytes {
        KafkaRecord::new("key", number.to_string()).to_bytes()
    }

    async fn read(&self) -> Result<Vec<u64>> {
        Ok(self.broker.values(TOPIC).iter().map(|value| value.parse().unwrap()).collect())
    }

    fn random(&self) -> u128 {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).unwrap();
        u128::from_le_bytes(bytes)
    }
}

#[tokio::test]
async fn a_topic_keeps_the_laws_of_targets() {
    each_version(async |version| {
        let broker = broker(version);
        let target = target(settings(&broker));
        conformance::run(&Topic { broker, target }).await;
    })
    .await;
}
