//! Channels from other threads into operators.

use std::sync::mpsc::{Receiver, Sender, channel};

use timely::scheduling::activate::SyncActivator;

/// Sends to an operator, and wakes its worker.
#[derive(Debug)]
pub(crate) struct Port<M> {
    sender: Sender<M>,
    activator: SyncActivator,
}

impl<M> Clone for Port<M> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), activator: self.activator.clone() }
    }
}

impl<M> Port<M> {
    pub(crate) fn new(activator: SyncActivator) -> (Self, Receiver<M>) {
        let (sender, receiver) = channel();
        (Self { sender, activator }, receiver)
    }

    /// Sends a message. One to an operator that has ended is dropped: its worker has ended the job, and says why.
    pub(crate) fn send(&self, message: M) {
        if self.sender.send(message).is_ok() {
            let _ended = self.activator.activate();
        }
    }
}
