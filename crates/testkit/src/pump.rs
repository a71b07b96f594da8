//! The smallest transport between an owner and a worker: two tasks that carry messages, one each way.

use std::sync::Arc;

use alluvium::{Inbox, Outbox, SharedRuntime};
use futures_util::future::{AbortHandle, FutureExt as _, abortable};

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    ToOwner,
    ToWorker,
}

/// Called with each message before it is handed over.
pub type Seen = Arc<dyn Fn(Way, &[u8]) + Send + Sync>;

/// Returns an observer that does nothing.
pub fn unseen() -> Seen {
    Arc::new(|_, _| {})
}

/// A link that is being carried. Dropping it breaks the link on both sides.
pub struct Cable([AbortHandle; 2]);

/// Joins both ends of a link until either side breaks it.
pub fn join(runtime: &SharedRuntime, owner: (Inbox, Outbox), worker: (Inbox, Outbox), seen: &Seen) -> Cable {
    let ((owner_in, owner_out), (worker_in, worker_out)) = (owner, worker);
    let spawn = |from, to, way| {
        let (carried, handle) = abortable(carry(from, to, way, Arc::clone(seen)));
        runtime.spawn(carried.map(|_| ()).boxed());
        handle
    };
    Cable([spawn(worker_out, owner_in, Way::ToOwner), spawn(owner_out, worker_in, Way::ToWorker)])
}

/// Carries messages one way. When the receiver refuses one, only its inbox is dropped: the other way then ends once its
/// last messages are carried, among them the reason for a refused worker.
async fn carry(mut from: Outbox, mut to: Inbox, way: Way, seen: Seen) {
    while let Some(message) = from.next().await {
        seen(way, &message);
        if to.receive(&message).is_err() {
            drop(to);
            while from.next().await.is_some() {}
            return;
        }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}
