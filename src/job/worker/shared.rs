//! State that a worker's part of an attempt shares with its seats and tasks.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::UnboundedSender;

use super::background::Event;
use crate::backend::Outcome;
use crate::canary::{self, Canary};
use crate::checkpoint::acknowledgement::Arrival;
use crate::control::coordinator::Participant;
use crate::error::{Error, Result};
use crate::id::{Attempt, Barrier, Epoch};
use crate::job::schemas::Schemas;
use crate::manifest::Opaque;

/// Asynchronous work in progress, each future with its result.
pub(super) type Steps<S> = FuturesUnordered<BoxFuture<'static, S>>;

/// A message to the worker. It polls while it expects some: waking its thread would cost a task more than a seal.
#[derive(Debug)]
pub(super) enum Mail {
    /// A subtask's state is restored.
    Restored(Participant),
    /// A subtask ended an epoch.
    Arrived(Epoch, Participant, Arrival),
    /// What follows a subtask's arrival at an epoch: in-flight data, staged output.
    Late(Epoch, Participant, Vec<Opaque>),
    /// A subtask refuses an epoch.
    Declined(Epoch, Error),
    /// A seat or task was dropped. It will arrive for no further epoch.
    Dropped(Participant),
}

/// The shared state of one attempt in this process.
#[derive(Debug)]
pub(in crate::job) struct Shared {
    attempt: Attempt,
    /// The epoch before the attempt's first.
    before: Epoch,
    mail: Mutex<Vec<Mail>>,
    /// Whether the worker reads its mail before long.
    polling: AtomicBool,
    /// The newest epoch that the engine announced here; `u64::MAX` if it announces none.
    expected: AtomicU64,
    failed: OnceLock<Error>,
    /// The tables that the tasks have declared.
    pub(super) schemas: Schemas,
    /// One per task.
    settlements: Mutex<Vec<UnboundedSender<(Epoch, Outcome)>>>,
}

impl Shared {
    /// * `announced`: whether the engine announces every barrier.
    pub(super) fn new(attempt: Attempt, first_epoch: Epoch, announced: bool) -> Self {
        let before = Epoch(first_epoch.0.saturating_sub(1));
        Self {
            attempt,
            before,
            mail: Mutex::default(),
            polling: AtomicBool::new(false),
            expected: AtomicU64::new(if announced { before.0 } else { u64::MAX }),
            failed: OnceLock::new(),
            schemas: Schemas::default(),
            settlements: Mutex::default(),
        }
    }

    pub(super) fn attempt(&self) -> Attempt {
        self.attempt
    }

    pub(super) fn add_settlement(&self, settlement: UnboundedSender<(Epoch, Outcome)>) {
        self.settlements().push(settlement);
    }

    fn settlements(&self) -> MutexGuard<'_, Vec<UnboundedSender<(Epoch, Outcome)>>> {
        self.settlements.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mail(&self) -> MutexGuard<'_, Vec<Mail>> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take_mail(&self) -> Vec<Mail> {
        std::mem::take(&mut *self.mail())
    }

    /// Records whether the worker polls. Returns false if it must not stop yet, because there is mail.
    pub(super) fn set_polling(&self, polling: bool) -> bool {
        self.polling.store(polling, Ordering::SeqCst);
        polling || self.mail().is_empty()
    }

    /// Passes the outcome of an epoch to the tasks.
    pub(super) fn settle(&self, epoch: Epoch, outcome: Outcome) {
        for settlement in self.settlements().iter() {
            // A dropped task has no state to settle.
            let _gone = settlement.send((epoch, outcome));
        }
    }

    /// Ends the attempt here, unless it has ended already.
    pub(super) fn fail(&self, error: Error) {
        let _ended_before = self.failed.set(error);
    }

    /// Returns the attempt's error, if it has ended.
    pub(super) fn check(&self) -> Result<()> {
        match self.failed.get() {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// Refuses a barrier of another attempt, and one that cannot have been triggered.
    pub(super) fn check_barrier(&self, barrier: Barrier) -> Result<()> {
        if barrier.attempt != self.attempt {
            let error = Error::usage("barrier belongs to another attempt").with("epoch", barrier.epoch);
            return Err(error.with("attempt", barrier.attempt).with("expected", self.attempt));
        }
        let expected = self.expected.load(Ordering::Acquire);
        if (barrier.epoch > self.before && barrier.epoch.0 <= expected) || canary::on(Canary::AnyEpoch) {
            return Ok(());
        }
        Err(Error::usage("epoch was never triggered").with("epoch", barrier.epoch))
    }
}

/// Keeps what a task needs alive, until the last task is dropped.
pub(in crate::job) type Anchor = Arc<dyn Send + Sync>;

/// A handle on the worker's part of an attempt, held by its seats and tasks.
#[derive(Clone)]
pub(in crate::job) struct AttemptHandle {
    pub(super) shared: Arc<Shared>,
    /// Dropped before `events`: the owner in this process ends first, and does not take the worker's end for a loss.
    #[expect(dead_code, reason = "held for its drop")]
    pub(super) anchor: Option<Anchor>,
    pub(super) events: UnboundedSender<Event>,
}

impl AttemptHandle {
    /// Announces a barrier: the worker reads its mail more often from now on, and tasks refuse later epochs.
    pub(in crate::job) fn expect(&self, epoch: Epoch) -> Result<()> {
        let newest = |newest: u64| Some(if newest == u64::MAX { epoch.0 } else { newest.max(epoch.0) });
        let _always = self.shared.expected.fetch_update(Ordering::AcqRel, Ordering::Acquire, newest);
        self.shared.polling.store(true, Ordering::SeqCst);
        self.wake(Some(epoch))
    }

    /// Posts `mail` to the worker.
    pub(super) fn post(&self, mail: Mail) -> Result<()> {
        self.shared.check()?;
        self.shared.mail().push(mail);
        if self.shared.polling.load(Ordering::SeqCst) { self.check_running() } else { self.wake(None) }
    }

    fn check_running(&self) -> Result<()> {
        if self.events.is_closed() { Err(stopped()) } else { Ok(()) }
    }

    fn wake(&self, expected: Option<Epoch>) -> Result<()> {
        self.events.send(Event::Woken(self.shared.attempt, expected)).map_err(|_| stopped())
    }
}

impl fmt::Debug for AttemptHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttemptHandle").field("attempt", &self.shared.attempt).finish_non_exhaustive()
    }
}

fn stopped() -> Error {
    Error::stopped("the worker's background has stopped")
}

/// A subtask's presence in the job. When it is dropped, epochs that wait for the subtask are declined at once.
#[derive(Debug)]
pub(super) struct Presence {
    pub(super) attempt: AttemptHandle,
    pub(super) participant: Participant,
}

impl Drop for Presence {
    fn drop(&mut self) {
        // An attempt that has ended waits for no subtask.
        let _ended = self.attempt.post(Mail::Dropped(self.participant));
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    /// Records, when dropped, whether the worker had ended by then.
    struct Watching(UnboundedReceiver<Event>, Arc<OnceLock<bool>>);

    impl Drop for Watching {
        fn drop(&mut self) {
            let _first = self.1.set(self.0.is_closed() || self.0.sender_strong_count() == 0);
        }
    }

    /// Ensures that a job that is dropped in one process ends in order. Else its owner would report a lost worker,
    /// depending on which thread was faster.
    #[test]
    fn the_owner_in_this_process_ends_before_its_worker() {
        let (events, receiver) = unbounded_channel();
        let worker_ended = Arc::new(OnceLock::new());
        let anchor: Anchor = Arc::new(Watching(receiver, Arc::clone(&worker_ended)));
        let shared = Arc::new(Shared::new(Attempt(1), Epoch(1), true));
        let first = AttemptHandle { shared, anchor: Some(anchor), events };
        let last = first.clone();
        drop(first);
        assert_eq!(worker_ended.get(), None);
        drop(last);
        assert_eq!(worker_ended.get(), Some(&false));
    }
}
