//! The worker's loop: links to owners, and one attempt after the other.
//!
//! Invariants: one link at a time, each with a session of its own; at most one attempt at a time; when an attempt ends,
//! its tasks return its error from then on.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::StreamExt as _;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender, WeakUnboundedSender};

use super::prepare::{Bench, Prepared};
use super::process::Assignment;
use super::shared::{Anchor, Shared};
use super::{Step, WorkerAttempt};
use crate::control::interval::Observation;
use crate::error::{Error, Result};
use crate::id::{Attempt, Epoch, JobId, SessionId};
use crate::job::link::{Outlet, Receiver};
use crate::job::wire::{Assign, Envelope, Settle, ToOwner, ToWorker, decode};
use crate::metrics;

/// An event for the worker's loop.
pub(in crate::job) enum Event {
    /// A link to an owner begins.
    Connected(SessionId, Outlet<Envelope<ToOwner>>),
    /// The owner sent a message.
    Message(Envelope<ToWorker>),
    /// The link is broken.
    Broken(SessionId),
    /// There is mail of an attempt's tasks, or a barrier is on its way to them.
    Woken(Attempt, Option<Epoch>),
    /// A measurement for the owner.
    Observed(Observation),
}

/// The process's side of links: passes on what cannot wait for the loop.
#[derive(Clone)]
pub(super) struct Process {
    pub(super) events: UnboundedSender<Event>,
    current: Arc<Mutex<Option<Current>>>,
}

/// The attempt that tasks of this process work for.
pub(super) struct Current {
    session: SessionId,
    job: JobId,
    shared: Arc<Shared>,
}

impl Process {
    pub(super) fn spawn(bench: Bench, anchor: Option<Anchor>) -> (Self, UnboundedReceiver<Result<Assignment>>) {
        let (events, receiver) = mpsc::unbounded_channel();
        let (sender, assignments) = mpsc::unbounded_channel();
        let current = Arc::default();
        let runtime = Arc::clone(bench.store.runtime());
        let background = Background {
            bench,
            anchor,
            events: receiver,
            handle: events.downgrade(),
            current: Arc::clone(&current),
            session: None,
            attempt: None,
            preparing: None,
            newest: None,
            assignments: sender,
        };
        runtime.spawn(background.run().boxed());
        (Self { events, current }, assignments)
    }

    pub(super) fn connect(&self, session: SessionId, outlet: Outlet<Envelope<ToOwner>>) {
        let _ended = self.events.send(Event::Connected(session, outlet));
    }

    /// Takes a message of the owner. Tasks learn of outcomes at once: who hears of a commit from the owner finds it
    /// settled here.
    pub(super) fn deliver(&self, message: Envelope<ToWorker>) {
        if let Some(current) = &*lock(&self.current)
            && (current.session, current.job) == (message.session, message.job)
            && current.shared.attempt() == message.attempt
        {
            match &message.body {
                ToWorker::Settle(Settle { epoch, outcome, .. }) => current.shared.settle(*epoch, *outcome),
                ToWorker::Stop(error) => current.shared.fail(error.clone()),
                ToWorker::Assign(_) => {}
            }
        }
        let _ended = self.events.send(Event::Message(message));
    }

    /// Returns where an owner's messages go. The owner does not keep the worker's loop alive.
    pub(super) fn outlet(&self) -> Outlet<Envelope<ToWorker>> {
        let (events, current) = (self.events.downgrade(), Arc::clone(&self.current));
        Arc::new(move |message| {
            let Some(events) = events.upgrade() else { return false };
            Self { events, current: Arc::clone(&current) }.deliver(message);
            true
        })
    }

    fn broken(&self, session: SessionId) {
        let _ended = self.events.send(Event::Broken(session));
    }
}

fn lock(current: &Mutex<Option<Current>>) -> MutexGuard<'_, Option<Current>> {
    current.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The worker's end of a link.
pub(super) struct WorkersEnd {
    pub(super) process: Process,
    pub(super) session: SessionId,
}

impl Receiver for WorkersEnd {
    fn receive(&self, message: &[u8]) -> Result<()> {
        let take = || {
            let message: Envelope<ToWorker> = decode(message)?;
            if message.session != self.session {
                let error = Error::corrupt("message names another session than its link");
                return Err(error.with("expected", self.session).with("found", message.session));
            }
            self.process.deliver(message);
            Ok(())
        };
        take().inspect_err(|error: &Error| {
            metrics::message_refused();
            tracing::debug!(error = error.chain(), "message from the owner refused");
        })
    }

    fn session(&self) -> Option<SessionId> {
        Some(self.session)
    }

    fn broken(&self) {
        self.process.broken(self.session);
    }
}

/// The worker's loop.
struct Background {
    bench: Bench,
    anchor: Option<Anchor>,
    events: UnboundedReceiver<Event>,
    /// For seats. The loop ends when the last handle is dropped, so this is not one of them.
    handle: WeakUnboundedSender<Event>,
    current: Arc<Mutex<Option<Current>>>,
    session: Option<(SessionId, Outlet<Envelope<ToOwner>>)>,
    attempt: Option<(JobId, WorkerAttempt)>,
    preparing: Option<Preparing>,
    /// The newest attempt of this session.
    newest: Option<(JobId, Attempt)>,
    assignments: UnboundedSender<Result<Assignment>>,
}

/// An assignment being prepared.
struct Preparing {
    job: JobId,
    attempt: Attempt,
    prepared: BoxFuture<'static, Result<Prepared>>,
}

enum Happened {
    Step(Step),
    Prepared(Box<Result<Prepared>>),
    Event(Event),
}

impl Background {
    /// Runs until every handle is dropped.
    async fn run(mut self) {
        while let Some(happened) = self.next().await {
            match happened {
                Happened::Step(step) => {
                    if let Some((_, attempt)) = &mut self.attempt {
                        attempt.handle(step);
                    }
                }
                Happened::Prepared(prepared) => self.prepared(*prepared),
                Happened::Event(event) => self.handle(event),
            }
            self.advance();
        }
    }

    async fn next(&mut self) -> Option<Happened> {
        poll_fn(|context| {
            if let Some((_, attempt)) = &mut self.attempt
                && let Poll::Ready(Some(step)) = attempt.steps.poll_next_unpin(context)
            {
                return Poll::Ready(Some(Happened::Step(step)));
            }
            if let Some(preparing) = &mut self.preparing
                && let Poll::Ready(prepared) = preparing.prepared.poll_unpin(context)
            {
                return Poll::Ready(Some(Happened::Prepared(Box::new(prepared))));
            }
            self.events.poll_recv(context).map(|event| event.map(Happened::Event))
        })
        .await
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Connected(session, outlet) => {
                self.end(Error::stopped("the worker has connected anew"));
                (self.session, self.newest) = (Some((session, outlet)), None);
            }
            Event::Message(message) if self.session.as_ref().is_some_and(|(own, _)| *own == message.session) => {
                self.message(message);
            }
            Event::Broken(session) if self.session.as_ref().is_some_and(|(own, _)| *own == session) => {
                self.end(Error::stopped("the link to the owner is broken"));
                self.session = None;
            }
            // Of an earlier session.
            Event::Message(_) | Event::Broken(_) => {}
            Event::Woken(of, expected) => {
                let own = self.attempt.as_mut().filter(|(_, attempt)| attempt.shared.attempt() == of);
                if let Some((_, attempt)) = own {
                    expected.into_iter().for_each(|epoch| attempt.expect(epoch));
                }
            }
            Event::Observed(observation) => self.send(ToOwner::Observed(observation)),
        }
    }

    fn message(&mut self, message: Envelope<ToWorker>) {
        let Envelope { job, attempt: of, body, .. } = message;
        let current = self.attempt.as_ref().map(|(job, attempt)| (*job, attempt.shared.attempt()));
        let current = current.or_else(|| self.preparing.as_ref().map(|preparing| (preparing.job, preparing.attempt)));
        let newer = self.newest.is_none_or(|(own, newest)| own == job && newest < of);
        match body {
            ToWorker::Assign(assign) if newer && of > Attempt(0) => self.prepare(job, of, *assign),
            ToWorker::Settle(settle) if current == Some((job, of)) => {
                if let Some((_, attempt)) = &mut self.attempt {
                    attempt.settle(settle);
                }
            }
            // The owner refused the worker's greeting.
            ToWorker::Stop(error) if of == Attempt(0) => drop(self.assignments.send(Err(error))),
            // Of this attempt, or of a newer one in which the worker has no seat.
            ToWorker::Stop(error) if current.is_none_or(|(own, attempt)| own == job && attempt <= of) => {
                self.end(error)
            }
            // Of an attempt that has ended.
            ToWorker::Assign(_) | ToWorker::Settle(_) | ToWorker::Stop(_) => metrics::message_refused(),
        }
    }

    fn prepare(&mut self, job: JobId, attempt: Attempt, assign: Assign) {
        self.end(Error::stopped("a new attempt has begun").with("attempt", attempt));
        self.newest = Some((job, attempt));
        // Without any handle nobody waits for the seats.
        let Some(events) = self.handle.upgrade() else { return };
        let prepared = self.bench.clone().prepare((job, attempt), assign, events, self.anchor.take()).boxed();
        self.preparing = Some(Preparing { job, attempt, prepared });
    }

    fn prepared(&mut self, prepared: Result<Prepared>) {
        let Some(Preparing { job, attempt: of, .. }) = self.preparing.take() else { return };
        let Some((session, _)) = &self.session else { return };
        match prepared {
            Ok(Prepared { assignment, attempt }) => {
                *lock(&self.current) = Some(Current { session: *session, job, shared: Arc::clone(&attempt.shared) });
                self.attempt = Some((job, attempt));
                let _gone = self.assignments.send(Ok(assignment));
            }
            Err(error) => {
                self.send_of((job, of), ToOwner::Refused(error.clone()));
                let _gone = self.assignments.send(Err(error));
            }
        }
    }

    /// Ends the attempt, if there is one: its tasks return `error` from now on.
    fn end(&mut self, error: Error) {
        self.preparing = None;
        lock(&self.current).take();
        if let Some((_, attempt)) = self.attempt.take() {
            attempt.shared.fail(error);
        }
    }

    fn advance(&mut self) {
        let messages = self.attempt.as_mut().map(|(_, attempt)| attempt.advance());
        messages.into_iter().flatten().for_each(|message| self.send(message));
    }

    fn send(&self, body: ToOwner) {
        if let Some((job, attempt)) = &self.attempt {
            self.send_of((*job, attempt.shared.attempt()), body);
        }
    }

    fn send_of(&self, (job, attempt): (JobId, Attempt), body: ToOwner) {
        if let Some((session, outlet)) = &self.session {
            // The loss of a link is reported by the link.
            let _broken = outlet(Envelope { job, attempt, session: *session, body });
        }
    }
}

/// Ends the attempt if the loop ends: by a panic, or dropped by its runtime.
impl Drop for Background {
    fn drop(&mut self) {
        self.end(Error::stopped("the worker's background ended: it panicked, or its runtime dropped it"));
    }
}
