//! The dataflow that carries the messages of owner and workers, and the owner's signals.
//!
//! ```text
//! each process: worker --Up--> exchange to worker 0 --> owner --Down--> exchange by target --> worker, operators
//! ```

use std::rc::Rc;
use std::sync::mpsc::Receiver;

use alluvium::{Attempt, Barrier, Epoch};
use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilderSession;
use timely::dataflow::operators::generic::operator::{Operator, source};
use timely::worker::Worker;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::failure::Failure;
use crate::port::Port;
use crate::signals::{Phase, Signals};

type Session<'a, M> = OutputBuilderSession<'a, u64, CapacityContainerBuilder<Vec<M>>>;

/// A message to the owner.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Up {
    /// Bytes of the link of a process.
    Link(u64, Vec<u8>),
    /// A source of this worker has no more records.
    Exhausted,
    /// The worker has nothing left to do.
    Finished,
}

/// A message from the owner.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Down {
    /// Bytes of the link of the worker's process.
    Link(Vec<u8>),
    /// A barrier: attempt and epoch.
    Barrier(u64, u64),
    /// Everything is read and committed, with this epoch.
    Complete(u64),
    /// All workers are finished.
    End,
}

/// The ends of the control dataflow at one worker.
#[derive(Debug)]
pub(crate) struct Control {
    /// To the owner.
    pub(crate) up: Port<Up>,
    /// What has come for the owner: at worker 0 alone.
    pub(crate) to_owner: UnboundedReceiver<Up>,
    /// From the owner, which is at worker 0: workers, and a message for each.
    pub(crate) down: Port<Vec<(u64, Down)>>,
    /// What has come for the link of this worker's process: at its first worker alone.
    pub(crate) to_link: UnboundedReceiver<Vec<u8>>,
    pub(crate) signals: Rc<Signals>,
}

impl Control {
    pub(crate) fn build(worker: &mut Worker, failure: &Failure) -> Self {
        let signals = Signals::new();
        let (owner, to_owner) = unbounded_channel();
        let (link, to_link) = unbounded_channel();
        let handle = worker.clone();
        let (up, down) = worker.dataflow_named::<u64, _, _>("alluvium", |scope| {
            let (mut up, mut down) = (None, None);
            let messages = source(scope, "to the owner", |capability, info| {
                let (port, queue) = Port::new(handle.sync_activator_for(info.address.to_vec()));
                up = Some(port);
                signals.wake(handle.activator_for(info.address));
                let mut outgoing = Outgoing::new(capability, queue, &signals);
                move |output: &mut Session<'_, Up>| {
                    outgoing.drain(|capability, message| output.session(capability).give(message));
                }
            });
            let answers = messages.unary_frontier(Exchange::new(|_: &Up| 0), "owner", |capability, info| {
                let (port, queue) = Port::new(handle.sync_activator_for(info.address.to_vec()));
                down = Some(port);
                signals.wake(handle.activator_for(info.address));
                let mut outgoing = Outgoing::new(capability, queue, &signals);
                move |(input, _), output: &mut Session<'_, (u64, Down)>| {
                    input.for_each(|_, messages| messages.drain(..).for_each(|message| send(&owner, message)));
                    outgoing.drain(|capability, messages: Vec<_>| {
                        output.session(capability).give_iterator(messages.into_iter())
                    });
                }
            });
            let (heard, failure) = (Rc::clone(&signals), failure.clone());
            let to_target = Exchange::new(|(target, _): &(u64, Down)| *target);
            answers.sink(to_target, "from the owner", move |(input, _)| {
                input.for_each(|_, messages| {
                    messages.drain(..).for_each(|(_, message)| hear(&heard, &failure, &link, message))
                });
            });
            (up, down)
        });
        #[expect(clippy::expect_used, reason = "the constructors above have run")]
        let (up, down) = (up.expect("a port"), down.expect("a port"));
        Self { up, to_owner, down, to_link, signals }
    }
}

/// One whose receiver has ended is dropped: so has the job, in this process.
fn send<M>(sender: &UnboundedSender<M>, message: M) {
    let _ended = sender.send(message);
}

fn hear(signals: &Signals, failure: &Failure, link: &UnboundedSender<Vec<u8>>, message: Down) {
    match message {
        Down::Link(bytes) => send(link, bytes),
        Down::Barrier(attempt, epoch) => {
            signals.barrier(Barrier { attempt: Attempt(attempt), epoch: Epoch(epoch) });
        }
        Down::Complete(last) => signals.enter(Phase::Complete(Epoch(last))),
        Down::End => {
            failure.complete();
            signals.enter(Phase::Ended);
        }
    }
}

/// Messages that leave an operator as long as the job runs.
struct Outgoing<M> {
    capability: Option<Capability<u64>>,
    queue: Receiver<M>,
    signals: Rc<Signals>,
}

impl<M> Outgoing<M> {
    fn new(capability: Capability<u64>, queue: Receiver<M>, signals: &Rc<Signals>) -> Self {
        Self { capability: Some(capability), queue, signals: Rc::clone(signals) }
    }

    fn drain(&mut self, mut give: impl FnMut(&Capability<u64>, M)) {
        if let Some(capability) = &self.capability {
            self.queue.try_iter().for_each(|message| give(capability, message));
        }
        if self.signals.phase() == Phase::Ended {
            self.capability = None;
        }
    }
}
