//! A payment service without transactions: what a store of idempotency keys can promise, and what it cannot.
//!
//! ```sh
//! cargo run --example dedup
//! ```
//!
//! The app that records payments repeats a call whose answer was lost, so payments come more than once. The job keeps the ids that it
//! has seen in a map with a life of a day, and hands each payment on once. If the service replaces a payment of the same id, that is
//! exactly once, whatever crashes. If it does not, the crash of the job decides: payments since the last checkpoint are sent twice, or,
//! if they are sent after the commit, not at all. For more, a target must take part: `alluvium::sink`.

#![cfg_attr(not(test), expect(clippy::print_stdout, reason = "an example speaks to its reader"))]

use std::collections::BTreeMap;
use std::time::Duration;

use alluvium::prelude::*;
use alluvium::{MemoryBudget, Result};

const PAYMENTS: u64 = 3000;
const PER_CHECKPOINT: u64 = 500;

/// A call that records a payment.
#[derive(Debug, Clone, Copy)]
struct Payment {
    id: u64,
    customer: u64,
    time: Timestamp,
}

/// Returns the calls of the app: one a second, and every seventh is repeated a while later.
fn calls() -> Vec<Payment> {
    let payment = |id: u64| Payment { id, customer: id % 10, time: Timestamp::from_millis(0) };
    let at =
        |payment: Payment, second: u64| Payment { time: payment.time.after(Duration::from_secs(second)), ..payment };
    let first = (0..PAYMENTS).map(|id| at(payment(id), id));
    let again = (0..PAYMENTS).step_by(7).map(|id| at(payment(id), id + 90));
    let mut calls: Vec<_> = first.chain(again).collect();
    calls.sort_by_key(|call| (call.time, call.id));
    calls
}

/// The service: how often it has each payment.
#[derive(Debug, Default)]
struct Service {
    /// Whether a payment replaces the one of the same id.
    upserts: bool,
    payments: BTreeMap<u64, u32>,
}

impl Service {
    fn pay(&mut self, id: u64) {
        let count = self.payments.entry(id).or_default();
        *count = if self.upserts { 1 } else { *count + 1 };
    }

    fn twice(&self) -> usize {
        self.payments.values().filter(|count| **count > 1).count()
    }

    fn missing(&self) -> usize {
        (0..PAYMENTS).filter(|id| !self.payments.contains_key(id)).count()
    }
}

/// When a payment is handed to the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivery {
    /// As it is processed: at least once.
    AtOnce,
    /// After the commit of its epoch, from memory: at most once.
    AfterCommit,
}

struct Engine {
    job: Job,
    task: Task<LogBackend>,
    /// The ids seen, by customer.
    seen: MapState<u64, (), Fixed, Unit>,
    position: u64,
    budget: MemoryBudget,
}

impl Engine {
    async fn open(store: &Store) -> Result<Self> {
        let operator = OperatorSpec::new(OperatorId(1), "pay", 1).keyed_by(Schema::new("u64le"));
        let budget = MemoryBudget::new(64 << 20);
        let settings = JobSettings::default().with(|it| it.budget = Some(budget.clone()));
        let mut job = JobBuilder::new(store.clone()).settings(settings).operator(operator).open().await?;
        let mut seat = job.take_seats().remove(0);
        let stored = seat.opaques().first().map(|opaque| opaque.items()).transpose()?.unwrap_or_default();
        let position = stored.concat().try_into().map_or(0, u64::from_le_bytes);
        // In event time, so that a replay keeps an id as long as the first run did.
        let day = TtlConfig::new(Duration::from_secs(86_400)).in_event_time();
        let seen = seat.tables().map(TableOptions::new("seen").ttl(day), Fixed, Unit)?;
        let task = seat.restore(LogBackend::new).await?;
        Ok(Self { job, task, seen, position, budget })
    }

    /// Returns whether the payment is new, and notes it.
    fn is_new(&mut self, payment: Payment) -> Result<bool> {
        self.position += 1;
        self.task.state().set_key(&payment.customer.to_le_bytes())?;
        let known = self.seen.contains(self.task.state(), &payment.id)?;
        if !known {
            self.seen.put(self.task.state(), &payment.id, &())?;
        }
        Ok(!known)
    }

    async fn checkpoint(&mut self, watermark: Timestamp) -> Result<()> {
        let barrier = self.job.trigger_when_possible().await?;
        let position = Opaque::new(OpaqueRole::Source, "calls", self.position.to_le_bytes().to_vec());
        self.task.barrier(barrier, watermark, vec![position])?;
        self.job.wait(barrier).await.map(drop)
    }
}

/// Processes calls from the job's position to `end`. The last epoch is committed, but its payments that wait are not sent: a crash.
async fn run(store: &Store, service: &mut Service, delivery: Delivery, end: u64) -> Result<u64> {
    let mut engine = Engine::open(store).await?;
    let mut waiting = Vec::new();
    for payment in calls().into_iter().skip(usize::try_from(engine.position).unwrap_or(usize::MAX)) {
        if engine.position == end {
            break;
        }
        if engine.is_new(payment)? {
            match delivery {
                Delivery::AtOnce => service.pay(payment.id),
                Delivery::AfterCommit => waiting.push(payment.id),
            }
        }
        if engine.position.is_multiple_of(PER_CHECKPOINT) {
            engine.checkpoint(payment.time).await?;
            if engine.position == end {
                break;
            }
            waiting.drain(..).for_each(|id| service.pay(id));
        }
    }
    if end == u64::MAX {
        engine.checkpoint(Timestamp::from_millis(0)).await?;
        waiting.drain(..).for_each(|id| service.pay(id));
    }
    Ok(engine.budget.held_bytes())
}

/// Runs the job with two crashes: in the middle of an epoch, and right after a commit.
async fn with_crashes(service: &mut Service, delivery: Delivery) -> Result<u64> {
    let store = Store::open("memory:///", &"payments".parse()?, TokioRuntime::current())?;
    run(&store, service, delivery, 1250).await?;
    run(&store, service, delivery, 2000).await?;
    run(&store, service, delivery, u64::MAX).await
}

#[cfg(not(test))]
#[tokio::main]
async fn main() -> Result<()> {
    for (upserts, delivery) in [(true, Delivery::AtOnce), (false, Delivery::AtOnce), (false, Delivery::AfterCommit)] {
        let mut service = Service { upserts, ..Service::default() };
        let held = with_crashes(&mut service, delivery).await?;
        let what = if upserts { "a service that upserts" } else { "one that does not" };
        println!(
            "{what}, {delivery:?}: {PAYMENTS} payments, {} twice, {} missing; {} KiB held",
            service.twice(),
            service.missing(),
            held >> 10
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn outcome(upserts: bool, delivery: Delivery) -> (usize, usize) {
        let mut service = Service { upserts, ..Service::default() };
        with_crashes(&mut service, delivery).await.unwrap();
        (service.twice(), service.missing())
    }

    #[tokio::test]
    async fn a_service_that_upserts_has_each_payment_once() {
        assert_eq!(outcome(true, Delivery::AtOnce).await, (0, 0));
    }

    #[tokio::test]
    async fn without_upserts_a_crash_repeats_or_loses_what_is_in_flight() {
        let (twice, missing) = outcome(false, Delivery::AtOnce).await;
        assert!((200..=250).contains(&twice) && missing == 0, "{twice} {missing}");
        let (twice, missing) = outcome(false, Delivery::AfterCommit).await;
        assert!(twice == 0 && (400..=500).contains(&missing), "{twice} {missing}");
    }
}
