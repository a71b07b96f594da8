//! Staging at barriers, in the background.

use std::fmt;
use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{StagedPart, StagedSlot};
use crate::error::{Error, Result};
use crate::id::Epoch;
use crate::manifest::Opaque;
use crate::runtime::SharedRuntime;
use crate::sink::prepared::Records;
use crate::sink::publisher::Backoff;
use crate::sink::queue::Queue;

/// Hands a part in at the epoch that waits for it, or declines that epoch.
type HandIn = Box<dyn FnOnce(Result<Vec<Opaque>>) + Send>;

/// The output of an epoch on its way to the target.
pub(crate) struct Staging {
    pub(in crate::sink) epoch: Epoch,
    pub(in crate::sink) records: Records,
    hand_in: HandIn,
}

impl Staging {
    pub(crate) fn new(
        (epoch, records): (Epoch, Records),
        hand_in: impl FnOnce(Result<Vec<Opaque>>) + Send + 'static,
    ) -> Self {
        Self { epoch, records, hand_in: Box::new(hand_in) }
    }
}

impl fmt::Debug for Staging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Staging")
            .field("epoch", &self.epoch)
            .field("records", &self.records.len())
            .finish_non_exhaustive()
    }
}

/// Where a task sends its output. Staging ends once it is dropped.
pub(crate) type Draining = UnboundedSender<Staging>;

/// Stages the output of one sink and subtask, in the order of epochs.
#[derive(Debug)]
pub(crate) struct Stager {
    slot: Arc<dyn StagedSlot>,
    queue: Arc<Queue>,
    waiting: UnboundedReceiver<Staging>,
    runtime: SharedRuntime,
}

impl Stager {
    pub(crate) fn new(slot: Arc<dyn StagedSlot>, queue: Arc<Queue>, runtime: SharedRuntime) -> (Self, Draining) {
        let (sender, waiting) = unbounded_channel();
        (Self { slot, queue, waiting, runtime }, sender)
    }

    /// Stages until the task ends, or until the target refuses. Epochs that wait are declined then.
    pub(crate) async fn run(mut self) {
        while let Some(Staging { epoch, records, hand_in }) = self.waiting.recv().await {
            match self.stage(epoch, &records).await {
                Ok(part) => {
                    hand_in(Ok(self.queue.staged(epoch, &records, part)));
                    // Only now: an epoch that does not wait must find the part handed in.
                    self.queue.handed_in();
                }
                Err(error) => {
                    tracing::error!(error = error.chain(), %epoch, "output cannot be staged");
                    self.queue.fail(error.clone());
                    hand_in(Err(error));
                    self.decline_rest();
                    return;
                }
            }
        }
    }

    fn decline_rest(mut self) {
        self.waiting.close();
        while let Ok(Staging { hand_in, .. }) = self.waiting.try_recv() {
            hand_in(Err(Error::unavailable("an earlier output of the sink was refused")));
        }
    }

    /// Stages one epoch, however often the target is away.
    async fn stage(&self, epoch: Epoch, records: &Records) -> Result<Option<StagedPart>> {
        if records.is_empty() {
            return Ok(None);
        }
        let mut backoff = Backoff::new(&self.queue, &self.runtime);
        loop {
            match self.slot.stage(epoch, records).await {
                Ok(part) => return Ok(Some(part)),
                Err(error) => backoff.after(error, epoch, self.waiting.is_closed()).await?,
            }
        }
    }
}
