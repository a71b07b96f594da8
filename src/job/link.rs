//! One end of the connection between an owner and a worker, for an engine that carries the messages.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::error::Result;
use crate::id::SessionId;

/// Sends a message to the other side. Returns false once the link is broken.
pub(super) type Outlet<M> = Arc<dyn Fn(M) -> bool + Send + Sync>;

/// The side of a link that takes bytes from the transport.
pub(super) trait Receiver: Send + Sync {
    /// Takes a message from the other side.
    fn receive(&self, message: &[u8]) -> Result<()>;
    /// Returns the session of the link, once it is known.
    fn session(&self) -> Option<SessionId>;
    /// The link is broken. May be called twice.
    fn broken(&self);
}

/// Where an engine hands in the messages that arrive from the other side of a link. Dropping it breaks the link.
pub struct Inbox {
    receiver: Arc<dyn Receiver>,
}

/// Where an engine takes the messages for the other side of a link. Dropping it breaks the link.
pub struct Outbox {
    receiver: Arc<dyn Receiver>,
    /// Bounded by the protocol: a few messages for each epoch in flight.
    messages: UnboundedReceiver<Bytes>,
}

/// Returns both halves of a link.
pub(super) fn link(receiver: Arc<dyn Receiver>, messages: UnboundedReceiver<Bytes>) -> (Inbox, Outbox) {
    (Inbox { receiver: Arc::clone(&receiver) }, Outbox { receiver, messages })
}

impl Inbox {
    /// Takes one message, whole and in the order in which the other side sent it.
    ///
    /// A message of an ended attempt or session is dropped without an error. Returns at once.
    ///
    /// # Errors
    /// Break the link after each: drop this half, carry what the outbox still has, such as the reason for a refused worker,
    /// and drop it too.
    /// * `Corrupt`: the bytes are cut or damaged, or name another session; `Limit`: the message is too long.
    /// * `Version`: a newer version sent it.
    /// * `Usage`: a worker's first message is not its greeting, or it greets twice.
    /// * `Config`: the worker runs another program than the owner.
    pub fn receive(&mut self, message: &[u8]) -> Result<()> {
        self.receiver.receive(message)
    }

    /// Returns the session that the link belongs to. At an owner it is unknown until the worker's greeting, its first
    /// message; from then on it is the [`WorkerInfo::session`](crate::WorkerInfo::session) by which the engine finds the
    /// link to a worker.
    #[must_use]
    pub fn session(&self) -> Option<SessionId> {
        self.receiver.session()
    }
}

impl Outbox {
    /// Returns the next message for the other side; `None` once the link is broken. Cancel-safe.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.messages.recv().await
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.receiver.broken();
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.receiver.broken();
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").finish_non_exhaustive()
    }
}
