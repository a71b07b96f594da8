//! What a target must do to get its output exactly once.

use std::fmt::Debug;

use async_trait::async_trait;

use super::prepared::Records;
use super::slot::{Marker, Slot};
use crate::error::Result;
use crate::id::Attempt;

/// A system that takes output: a topic, a table, a bucket. The `conformance` suite of the module with the same name checks an
/// implementation.
#[async_trait]
pub trait SinkTarget: Debug + Send + Sync + 'static {
    /// Checks that output can be published, as far as that can be known without publishing: that the topic or table exists, has
    /// the right shape, and that this process may write to it. Called once per start, before any slot is fenced.
    ///
    /// # Errors
    /// `NotFound`, `Config` or `Denied`, naming what is wrong; `Unavailable` if the target does not answer.
    async fn check(&self) -> Result<()>;

    /// Returns the publisher of a slot. Changes nothing in the target.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    async fn open(&self, slot: &Slot) -> Result<Box<dyn SinkSlot>>;
}

/// A publisher of one slot, for one attempt. The crate calls [`fence`](Self::fence) first, and again after each failed call.
#[async_trait]
pub trait SinkSlot: Debug + Send {
    /// Takes the slot over for `attempt`, and returns its marker; `None` if nothing was ever published through the slot.
    ///
    /// Once this has returned, no call of an attempt before `attempt` takes effect, and neither does an earlier call of this one:
    /// the marker is that of the last publication there will be without another call. Repeating it is harmless.
    ///
    /// # Errors
    /// `Fenced` if a later attempt has the slot; `Corrupt` if its marker is damaged; `Unavailable` if the target does not answer;
    /// others as [`SinkTarget::check`].
    async fn fence(&mut self, attempt: Attempt) -> Result<Option<Marker>>;

    /// Publishes `records` in this order and sets the marker, both or neither. Without records, only sets the marker.
    ///
    /// # Errors
    /// If [`Error::applied`](crate::Error::applied) is `No`, nothing was published and nothing will be.
    /// * `Fenced`: a later attempt has the slot.
    /// * `Unavailable`: the target does not answer, or answered that trying again may help. The crate fences and tries again.
    /// * Any other kind refuses the records for good, and ends the sink: `Input` names a record that the target cannot hold,
    ///   `Limit` a bound of the target, `Config` or `NotFound` a table or topic that has changed, `Denied` a missing permission.
    async fn publish(&mut self, marker: Marker, records: &Records) -> Result<()>;
}
