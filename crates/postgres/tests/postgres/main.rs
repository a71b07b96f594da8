//! A real PostgreSQL server on a socket of its own, if one is installed; `ALLUVIUM_REQUIRE_STORES=1` makes its absence an error.
#![expect(
    clippy::disallowed_methods,
    reason = "a real server takes real time, and the environment says whether it must be there"
)]
#![expect(clippy::print_stderr, reason = "what is not tested, for who wants to see it")]

mod changed;
mod kills;
mod lost;
mod refused;
mod rows;
mod server;
mod sound;
mod tls;

mod unfit;
mod zombie;

use std::sync::Arc;

use alluvium::sink::{Marker, Records, SinkSlot, SinkTarget, Slot};
use alluvium::{Attempt, Epoch, Error, ErrorKind, JobId, Lineage, OperatorId, Result, Subtask};
use alluvium_postgres::{PostgresSettings, PostgresTarget};
use alluvium_testkit::{refused, says};

use server::Server;

const FIRST: Attempt = Attempt(1);
const SECOND: Attempt = Attempt(2);

fn marker(attempt: Attempt, epoch: u64) -> Marker {
    Marker { lineage: Lineage([7; 16]), attempt, epoch: Epoch(epoch) }
}

fn random() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).unwrap();
    u128::from_le_bytes(bytes)
}

/// Returns a slot that no other test has.
fn slot() -> Slot {
    let job = JobId(random().to_be_bytes());
    Slot { job, operator: OperatorId(1), sink: "rows".to_owned(), subtask: Subtask(0) }
}

fn target(settings: PostgresSettings) -> Arc<PostgresTarget> {
    Arc::new(PostgresTarget::new(settings).unwrap())
}

async fn open(settings: PostgresSettings, slot: &Slot) -> Box<dyn SinkSlot> {
    target(settings).open(slot).await.unwrap()
}

/// Returns a slot that is fenced, with its name.
async fn fenced(settings: PostgresSettings) -> (Box<dyn SinkSlot>, Slot) {
    let slot = slot();
    let mut opened = open(settings, &slot).await;
    assert_eq!(opened.fence(FIRST).await.unwrap(), None);
    (opened, slot)
}

fn records<T: AsRef<[u8]>>(records: impl IntoIterator<Item = T>) -> Records {
    records.into_iter().collect()
}
