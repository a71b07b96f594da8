//! The workers that are connected to an owner.
//!
//! Invariants: a message reaches an attempt only if it names that attempt and the session of the link that it came
//! over; whatever is refused or stale is counted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::{UnboundedSender, WeakUnboundedSender, unbounded_channel};
use tokio::sync::watch;

use super::shared::Event;
use crate::canary::{self, Canary};
use crate::error::{Error, Result};
use crate::id::{Attempt, Hash, JobId, SessionId};
use crate::job::link::{Inbox, Outbox, Outlet, Receiver, link};
use crate::job::wire::{Envelope, Hello, ToOwner, ToWorker, decode, encode};
use crate::metrics;

/// A connected worker.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerInfo {
    /// Its connection. A worker that reconnects has another.
    pub session: SessionId,
    /// The host, as the worker calls itself.
    pub host: String,
    /// What fails together with it: a rack or a zone.
    pub domain: String,
}

/// Messages from workers that an owner did not accept.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Refused {
    /// How many.
    pub messages: u64,
    /// Why the last one was refused.
    pub last: Option<Error>,
}

/// Whether a planted bug lets messages of other attempts and sessions pass.
pub(super) fn accepts_stale() -> bool {
    canary::on(Canary::StaleMessages)
}

/// The connected workers, and the attempt that they work for.
pub(in crate::job) struct Sessions {
    state: Mutex<State>,
    workers: watch::Sender<Vec<WorkerInfo>>,
    /// Hash of the owner's program.
    program: Hash,
}

#[derive(Default)]
struct State {
    connected: BTreeMap<SessionId, Connected>,
    current: Option<Current>,
    refused: Refused,
}

struct Connected {
    info: WorkerInfo,
    outlet: Outlet<Envelope<ToWorker>>,
}

/// The attempt under way. Its loop ends when its handles are dropped, so this is not one of them.
struct Current {
    job: JobId,
    attempt: Attempt,
    events: WeakUnboundedSender<Event>,
}

impl Sessions {
    pub(in crate::job) fn new(program: Hash) -> Arc<Self> {
        let (workers, _) = watch::channel(Vec::new());
        Arc::new(Self { state: Mutex::default(), workers, program })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a link for a worker that is about to say who it is.
    pub(in crate::job) fn connect(self: &Arc<Self>) -> (Inbox, Outbox) {
        let (sender, messages) = unbounded_channel();
        let outlet: Outlet<Envelope<ToWorker>> = Arc::new(move |message| sender.send(encode(&message)).is_ok());
        let end = OwnersEnd { sessions: Arc::clone(self), greeted: Mutex::default(), outlet: Mutex::new(Some(outlet)) };
        link(Arc::new(end), messages)
    }

    pub(in crate::job) fn watch(&self) -> watch::Receiver<Vec<WorkerInfo>> {
        self.workers.subscribe()
    }

    pub(in crate::job) fn refused(&self) -> Refused {
        self.state().refused.clone()
    }

    /// Counts a message that was not accepted.
    pub(in crate::job) fn refuse(&self, error: Error) {
        metrics::message_refused();
        tracing::debug!(error = error.chain(), "message from a worker refused");
        let refused = &mut self.state().refused;
        refused.messages = refused.messages.saturating_add(1);
        refused.last = Some(error);
    }

    /// Adds a worker.
    ///
    /// # Errors
    /// `Config` if it runs another program; `Usage` if the session is taken.
    pub(in crate::job) fn greet(
        &self,
        session: SessionId,
        hello: Hello,
        outlet: Outlet<Envelope<ToWorker>>,
    ) -> Result<()> {
        let Hello { host, domain, writer, program } = hello;
        if program != self.program {
            let error = Error::config("worker runs another program than the owner").with("host", host.escape_debug());
            let error = error.with("expected", self.program).with("found", program).with("writer", writer);
            let stop = ToWorker::Stop(error.clone());
            outlet(Envelope { job: JobId::default(), attempt: Attempt(0), session, body: stop });
            return Err(error);
        }
        let mut state = self.state();
        if state.connected.contains_key(&session) {
            return Err(Error::usage("session is connected already").with("session", session));
        }
        let info = WorkerInfo { session, host, domain };
        state.connected.insert(session, Connected { info: info.clone(), outlet });
        // Under the lock, so that the list changes in the order of the greetings.
        self.workers.send_modify(|workers| {
            workers.insert(workers.partition_point(|other| other.session < session), info);
        });
        Ok(())
    }

    /// Adds the worker of a job in one process.
    pub(in crate::job) fn join(&self, session: SessionId, outlet: Outlet<Envelope<ToWorker>>) {
        let info = WorkerInfo { session, host: String::new(), domain: String::new() };
        self.state().connected.insert(session, Connected { info, outlet });
    }

    /// Passes a worker's message to the attempt that it names. Drops and counts one of another attempt.
    pub(in crate::job) fn deliver(&self, message: Envelope<ToOwner>) {
        let Envelope { job, attempt, session, body } = message;
        let state = self.state();
        let of_current = |current: &&Current| (current.job, current.attempt) == (job, attempt);
        let accepts = |current: &&Current| of_current(current) || accepts_stale();
        let Some(current) = state.current.as_ref().filter(accepts) else {
            let error = Error::usage("message of another attempt").with("attempt", attempt).with("session", session);
            let error = match &state.current {
                Some(current) => error.with("expected", current.attempt),
                None => error,
            };
            drop(state);
            return self.refuse(error);
        };
        // An attempt that has ended hears nothing.
        let _ended = current.events.upgrade().map(|events| events.send(Event::Message(session, body)));
    }

    /// Forgets a worker whose link is broken, or is to end: its outbox ends after the messages sent so far. Tells the
    /// attempt.
    pub(in crate::job) fn lost(&self, session: SessionId) {
        let mut state = self.state();
        if state.connected.remove(&session).is_none() {
            return;
        }
        self.workers.send_modify(|workers| workers.retain(|worker| worker.session != session));
        if let Some(events) = state.current.as_ref().and_then(|current| current.events.upgrade()) {
            let _ended = events.send(Event::Lost(session));
        }
    }

    /// Makes `attempt` the one that messages are passed to.
    pub(in crate::job) fn begin(&self, job: JobId, attempt: Attempt, events: &UnboundedSender<Event>) {
        self.state().current = Some(Current { job, attempt, events: events.downgrade() });
    }

    /// Sends a message of the attempt to one worker. Returns false if the worker is gone.
    pub(in crate::job) fn send(&self, (job, attempt): (JobId, Attempt), session: SessionId, body: ToWorker) -> bool {
        let outlet = self.state().connected.get(&session).map(|connected| Arc::clone(&connected.outlet));
        outlet.is_some_and(|outlet| outlet(Envelope { job, attempt, session, body }))
    }

    /// Ends the work of connected workers that `attempt` gives no seat.
    pub(in crate::job) fn stop_others(
        &self,
        (job, attempt): (JobId, Attempt),
        has_seats: impl Fn(SessionId) -> bool,
        error: &Error,
    ) {
        let connected: Vec<_> = self.state().connected.keys().copied().collect();
        for session in connected.into_iter().filter(|session| !has_seats(*session)) {
            let _gone = self.send((job, attempt), session, ToWorker::Stop(error.clone()));
        }
    }

    /// Returns a worker's name for itself.
    pub(in crate::job) fn host(&self, session: SessionId) -> Option<String> {
        self.state().connected.get(&session).map(|connected| connected.info.host.clone())
    }
}

/// The owner's end of a link.
struct OwnersEnd {
    sessions: Arc<Sessions>,
    /// The worker's session, once it has said who it is.
    greeted: Mutex<Option<SessionId>>,
    /// Until the greeting.
    outlet: Mutex<Option<Outlet<Envelope<ToWorker>>>>,
}

impl OwnersEnd {
    fn take(&self, bytes: &[u8]) -> Result<()> {
        let message: Envelope<ToOwner> = decode(bytes)?;
        let mut greeted = self.greeted.lock().unwrap_or_else(PoisonError::into_inner);
        match (*greeted, message.body) {
            (None, ToOwner::Hello(hello)) => {
                let outlet = self.outlet.lock().unwrap_or_else(PoisonError::into_inner).take();
                let Some(outlet) = outlet else { return Err(Error::usage("worker greeted twice")) };
                self.sessions.greet(message.session, hello, outlet)?;
                *greeted = Some(message.session);
                Ok(())
            }
            (None, _) => Err(Error::usage("worker's first message is not its greeting")),
            (Some(_), ToOwner::Hello(_)) => Err(Error::usage("worker greeted twice")),
            (Some(session), _) if session != message.session && !accepts_stale() => {
                let error = Error::corrupt("message names another session than its link");
                Err(error.with("expected", session).with("found", message.session))
            }
            (Some(_), body) => {
                self.sessions.deliver(Envelope { body, ..message });
                Ok(())
            }
        }
    }
}

impl Receiver for OwnersEnd {
    fn receive(&self, message: &[u8]) -> Result<()> {
        self.take(message).inspect_err(|error| self.sessions.refuse(error.clone()))
    }

    fn session(&self) -> Option<SessionId> {
        *self.greeted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broken(&self) {
        self.outlet.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.session().into_iter().for_each(|session| self.sessions.lost(session));
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("workers", &*self.workers.borrow()).finish_non_exhaustive()
    }
}
