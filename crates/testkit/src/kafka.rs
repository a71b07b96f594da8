//! krafka's broker for tests, on a runtime of its own: it runs while a synchronous test waits, and other processes can use it.

use std::ops::Deref;

pub use krafka::error::ErrorCode;
pub use krafka::testing::{ApiKey, Control, FakeBroker};
pub use krafka::{ConsumerRecord, Kafka, Record};
use tokio::runtime::{Builder, Runtime};

/// A broker. Its faults and its state are those of [`FakeBroker`].
pub struct Broker {
    broker: FakeBroker,
    runtime: Option<Runtime>,
}

impl Broker {
    /// Starts a broker.
    ///
    /// * `transaction_version`: 1 or 2; clusters of Kafka 4 have 2.
    pub fn start(transaction_version: i16) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        // In a thread of its own, as the caller may be asynchronous.
        let started = std::thread::scope(|scope| scope.spawn(|| runtime.block_on(FakeBroker::start())).join());
        let broker = started.unwrap().unwrap();
        broker.set_transaction_version(transaction_version);
        Self { broker, runtime: Some(runtime) }
    }

    /// Returns the broker's address.
    pub fn address(&self) -> String {
        self.broker.bootstrap_servers()
    }

    /// Writes values to partitions of a topic, in order and outside of transactions.
    pub fn produce(&self, topic: &str, values: impl IntoIterator<Item = (i32, String), IntoIter: Send>) {
        let values = values.into_iter();
        let work = async {
            let kafka = Kafka::builder(self.address()).connect().await.unwrap();
            let producer = kafka.producer().build().await.unwrap();
            for (partition, value) in values {
                drop(producer.enqueue(Record::new(topic, value).partition(partition)).await.unwrap());
            }
            producer.close().await.unwrap();
        };
        let runtime = self.runtime.as_ref().unwrap();
        std::thread::scope(|scope| scope.spawn(|| runtime.block_on(work)).join()).unwrap();
    }

    /// Returns what a reader with `isolation.level=read_committed` sees of a topic: by partition, in order.
    pub fn committed(&self, topic: &str) -> Vec<ConsumerRecord> {
        let mut records = self.broker.committed_records(topic).unwrap();
        records.sort_by_key(|record| (record.partition, record.offset));
        records
    }

    /// Returns the values of these records.
    pub fn values(&self, topic: &str) -> Vec<String> {
        let text = |record: &ConsumerRecord| record.value_str().unwrap().to_owned();
        self.committed(topic).iter().map(text).collect()
    }
}

impl Deref for Broker {
    type Target = FakeBroker;

    fn deref(&self) -> &FakeBroker {
        &self.broker
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Waiting for it is not allowed in an asynchronous test.
        self.runtime.take().unwrap().shutdown_background();
    }
}
