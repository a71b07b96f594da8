//! The target and the source on krafka's broker for tests, under both versions of transactions.

mod away;
mod kills;
mod lost;
mod pace;
mod records;
mod refused;
mod sound;
mod source;
mod topics;
mod zombie;

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use alluvium::sink::{Marker, Records, SinkSlot, SinkTarget, Slot};
use alluvium::{Applied, Attempt, Epoch, ErrorKind, JobId, Lineage, OperatorId, Result, Subtask};
use alluvium_kafka::{KafkaConnection, KafkaRecord, KafkaTarget, KafkaTargetSettings};
use alluvium_testkit::kafka::{ApiKey, Broker, Control, ErrorCode};
use alluvium_testkit::{refused, says};

const FIRST: Attempt = Attempt(1);
const SECOND: Attempt = Attempt(2);

const TOPIC: &str = "counts";

/// Versions of transactions.
const VERSIONS: [i16; 2] = [1, 2];

/// Runs a test under both versions, at the same time.
async fn each_version(test: impl AsyncFn(i16)) {
    let [first, second] = VERSIONS;
    tokio::join!(test(first), test(second));
}

fn marker(attempt: Attempt, epoch: u64) -> Marker {
    Marker { lineage: Lineage([7; 16]), attempt, epoch: Epoch(epoch) }
}

fn slot() -> Slot {
    Slot { job: JobId([7; 16]), operator: OperatorId(1), sink: "counts".to_owned(), subtask: Subtask(0) }
}

/// The topic of slots of [`slot`].
fn slots_topic() -> String {
    format!("alluvium.{}.1.counts", JobId([7; 16]))
}

/// The transactional id of [`slot`].
fn transactional_id() -> String {
    format!("alluvium.{}", slot())
}

/// Returns a broker with the topic, of one partition.
fn broker(version: i16) -> Broker {
    let broker = Broker::start(version);
    broker.create_topic(TOPIC, 1);
    broker
}

fn settings(broker: &Broker) -> KafkaTargetSettings {
    settings_at(&broker.address())
}

fn settings_at(address: &str) -> KafkaTargetSettings {
    KafkaTargetSettings::new(KafkaConnection::new(address), TOPIC)
}

/// Returns settings that give up soon.
fn hasty(broker: &Broker) -> KafkaTargetSettings {
    settings(broker).with(|it| {
        it.connection.connect_timeout = Duration::from_millis(300);
        it.connection.request_timeout = Duration::from_millis(300);
        it.answer_timeout = Duration::from_millis(700);
        it.delivery_timeout = Duration::from_millis(700);
    })
}

fn target(settings: KafkaTargetSettings) -> Arc<KafkaTarget> {
    Arc::new(KafkaTarget::new(settings).unwrap())
}

async fn open(settings: KafkaTargetSettings) -> Box<dyn SinkSlot> {
    target(settings).open(&slot()).await.unwrap()
}

/// Returns a slot that is fenced.
async fn fenced(settings: KafkaTargetSettings) -> Box<dyn SinkSlot> {
    let mut opened = open(settings).await;
    assert_eq!(opened.fence(FIRST).await.unwrap(), None);
    opened
}

/// Returns records with these values.
fn records(values: impl IntoIterator<Item = &'static str>) -> Records {
    values.into_iter().map(|value| KafkaRecord::new("key", value).to_bytes()).collect()
}

/// Polls a call once; then lets others run.
async fn poll_once<F: Future + Unpin>(call: &mut F) -> Option<F::Output> {
    let polled = std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut *call).poll(context))).await;
    tokio::task::yield_now().await;
    match polled {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Polls a call, which must not end, until `is_there`.
async fn poll_until<F: Future + Unpin>(call: &mut F, is_there: impl Fn() -> bool)
where
    F::Output: std::fmt::Debug,
{
    while !is_there() {
        let ended = poll_once(call).await;
        assert!(ended.is_none(), "the call has ended: {ended:?}");
    }
}
