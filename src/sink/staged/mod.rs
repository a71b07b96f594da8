//! Staged output: records are written to the target before the commit, under names that nobody reads, and named after it.
//!
//! ```text
//! Sink::emit --> draft --barrier--> StagedSlot::stage(records) --part--> in the checkpoint --commit--> StagedSlot::publish(part)
//! ```

mod folder;
mod stager;
mod takeover;

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;

use super::prepared::Records;
use super::slot::{Marker, Slot};
use crate::error::Result;
use crate::id::{Attempt, Epoch, Lineage};

pub use folder::FolderTarget;
pub(crate) use stager::{Draining, Stager, Staging};
pub(crate) use takeover::StagedTakeover;

/// A system that takes output in two steps: folders, and whatever else can give finished output its name at once. Suits large output,
/// which then is in no checkpoint. `conformance::run_staged` checks an
/// implementation.
#[async_trait]
pub trait StagedTarget: Debug + Send + Sync + 'static {
    /// Checks that output can be published, as far as that can be known without publishing. Called once per start, before any slot
    /// is fenced.
    ///
    /// # Errors
    /// `NotFound`, `Config` or `Denied`, naming what is wrong; `Unavailable` if the target does not answer.
    async fn check(&self) -> Result<()>;

    /// Returns whether the output is on this machine's disk, and so is lost together with checkpoints that are kept there. Default: no.
    fn is_local(&self) -> bool {
        false
    }

    /// Returns the publisher of a slot, for one attempt. Changes nothing that readers see.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    async fn open(&self, slot: &Slot, attempt: Attempt) -> Result<Box<dyn StagedSlot>>;
}

/// A publisher of one slot, for one attempt. The crate calls [`published`](Self::published) and [`fence`](Self::fence) first; then
/// [`stage`](Self::stage) and [`publish`](Self::publish) may run at the same time. Each call may be repeated after an error.
#[async_trait]
pub trait StagedSlot: Debug + Send + Sync {
    /// Returns how far the slot is published: the marker of the newest part that readers see. `None` if there is none. After a
    /// [`fence`](Self::fence) that disregards what was there: that of the claim, or of a newer part.
    ///
    /// # Errors
    /// `Config` if the target belongs to another job; `Fenced` if a later attempt has the slot; `Corrupt` if the target's own
    /// records are damaged; `Unavailable` if the target does not answer; others as [`StagedTarget::check`].
    async fn published(&self) -> Result<Option<Marker>>;

    /// Takes the slot over. Once this has returned, no attempt before this one publishes a part that is not `listed`, at whatever
    /// point of whatever call it wakes up. What they staged is kept until a second attempt does not list it either: a user who starts
    /// from an older checkpoint may go back.
    ///
    /// # Errors
    /// As [`published`](Self::published); `Fenced` also if another copy of the job has taken the slot over as this attempt.
    async fn fence(&self, claim: Claim, listed: &[StagedPart]) -> Result<()>;

    /// Stages the output of an epoch, durably, where readers do not see it. Returns what [`publish`](Self::publish) needs, in this
    /// process or in another.
    ///
    /// # Errors
    /// `Unavailable`: the crate tries again. Any other kind ends the sink: `Input` names a record that the target cannot hold,
    /// `Limit` a bound of the target, `Denied` a missing permission.
    async fn stage(&self, epoch: Epoch, records: &Records) -> Result<StagedPart>;

    /// Lets readers see a part: all of it or nothing, and once, however often this is called. An attempt publishes the parts of a
    /// slot in the order of epochs.
    ///
    /// # Errors
    /// `Fenced` if a later attempt has the slot; `NotFound` if the part is neither staged nor published; `Corrupt` if it is not as it was staged; `Unavailable`: the crate tries
    /// again; others as for [`stage`](Self::stage).
    async fn publish(&self, part: &StagedPart) -> Result<()>;
}

/// A part of a slot's output, as a checkpoint lists it. What its bytes mean is the target's affair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedPart(Bytes);

impl StagedPart {
    /// Returns the part with these bytes. They are part of a checkpoint: keep them small.
    #[must_use]
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// Returns its bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

/// An attempt's claim to a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The lineage of the attempt's checkpoints.
    pub lineage: Lineage,
    /// The epoch of the restored checkpoint, if what other attempts have published after it counts no more: the user accepts that it is
    /// published again.
    pub disregards_after: Option<Epoch>,
}
