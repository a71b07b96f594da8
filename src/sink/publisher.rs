//! Publishing after commits, in the background.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc::UnboundedReceiver;

use super::prepared::Records;
use super::queue::Queue;
use super::slot::Marker;
use super::target::SinkSlot;
use crate::backend::Outcome;
use crate::canary::{self, Canary};
use crate::error::{Applied, Error, ErrorKind, Result};
use crate::id::{Attempt, Epoch, Lineage};
use crate::runtime::SharedRuntime;
use crate::time::Timestamp;

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Tries again at a target that is away, with growing pauses.
#[derive(Debug)]
pub(super) struct Backoff<'a> {
    queue: &'a Queue,
    runtime: &'a SharedRuntime,
    pause: Duration,
    /// The end of the sink's patience.
    until: Option<Timestamp>,
}

impl<'a> Backoff<'a> {
    pub(super) fn new(queue: &'a Queue, runtime: &'a SharedRuntime) -> Self {
        let until = queue.settings().patience.map(|patience| runtime.monotonic().after(patience));
        Self { queue, runtime, pause: BACKOFF_MIN, until }
    }

    /// Waits until the next try after `error`.
    ///
    /// * `is_abandoned`: whether nobody waits for the outcome any more.
    ///
    /// # Errors
    /// `error`, if there is to be no other try.
    pub(super) async fn after(&mut self, error: Error, epoch: Epoch, is_abandoned: bool) -> Result<()> {
        let is_over = || self.until.is_some_and(|until| self.runtime.monotonic() >= until);
        if error.kind() != ErrorKind::Unavailable || is_abandoned || is_over() {
            return Err(error);
        }
        tracing::warn!(error = error.chain(), %epoch, "output is late: the target is away");
        self.queue.delayed(error);
        self.runtime.sleep(self.pause).await;
        self.pause = (self.pause * 2).min(BACKOFF_MAX);
        Ok(())
    }
}

/// An attempt's right to publish what its checkpoints have of a slot.
#[async_trait]
pub(crate) trait EpochWriter: std::fmt::Debug + Send {
    /// Returns the epoch of the target's marker, as the next checkpoint is to expect it.
    fn marked(&self) -> Option<Epoch>;

    /// Publishes the output of an epoch, unless an earlier call that failed has.
    ///
    /// # Errors
    /// `Unavailable`: call again. Others are final.
    async fn publish(&mut self, epoch: Epoch, output: &Records) -> Result<()>;
}

/// Publishes records in one transaction per epoch.
#[derive(Debug)]
pub(crate) struct SlotWriter {
    slot: Box<dyn SinkSlot>,
    attempt: Attempt,
    lineage: Lineage,
    /// The target's marker, unless a publication is in doubt.
    marker: Option<Marker>,
    /// Whether the outcome of a publication is unknown.
    in_doubt: bool,
}

impl SlotWriter {
    pub(super) fn new(slot: Box<dyn SinkSlot>, attempt: Attempt, lineage: Lineage) -> Self {
        Self { slot, attempt, lineage, marker: None, in_doubt: true }
    }

    /// Fences older attempts and returns the target's marker.
    pub(super) async fn fence(&mut self) -> Result<Option<Marker>> {
        self.marker = self.slot.fence(self.attempt).await?;
        self.in_doubt = false;
        Ok(self.marker)
    }

    /// Finds out whether the publication in doubt took effect: after the fence it either has, or never will.
    async fn settle(&mut self, sought: Marker) -> Result<bool> {
        let before = self.marker;
        let found = self.slot.fence(self.attempt).await?;
        if found != before && found != Some(sought) {
            let text = |marker: Option<Marker>| marker.map_or_else(|| "none".to_owned(), |marker| marker.to_string());
            let error = Error::config("target's marker was changed by another writer");
            return Err(error.with("expected", text(before)).with("found", text(found)));
        }
        self.marker = found;
        self.in_doubt = false;
        Ok(found == Some(sought))
    }
}

#[async_trait]
impl EpochWriter for SlotWriter {
    fn marked(&self) -> Option<Epoch> {
        self.marker.map(|marker| marker.epoch)
    }

    async fn publish(&mut self, epoch: Epoch, records: &Records) -> Result<()> {
        let marker = Marker { lineage: self.lineage, attempt: self.attempt, epoch };
        if self.in_doubt && self.settle(marker).await? {
            return Ok(());
        }
        let error = match self.slot.publish(marker, records).await {
            Ok(()) => {
                self.marker = Some(marker);
                return Ok(());
            }
            Err(error) => error,
        };
        let refused = error.kind() != ErrorKind::Unavailable && error.applied() == Applied::No;
        if refused || canary::on(Canary::TrustPublication) {
            return Err(error);
        }
        self.in_doubt = true;
        match self.settle(marker).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(error),
            Err(unsettled) => Err(unsettled.with_source(error.chain())),
        }
    }
}

/// Publishes the output of one sink and subtask as commits come.
#[derive(Debug)]
pub(crate) struct Publisher {
    writer: Box<dyn EpochWriter>,
    queue: Arc<Queue>,
    settled: UnboundedReceiver<(Epoch, Outcome)>,
    runtime: SharedRuntime,
}

impl Publisher {
    /// * `settled`: the outcomes of the attempt's epochs.
    pub(crate) fn new(
        writer: Box<dyn EpochWriter>,
        queue: Arc<Queue>,
        settled: UnboundedReceiver<(Epoch, Outcome)>,
        runtime: SharedRuntime,
    ) -> Self {
        queue.set_marked(writer.marked());
        Self { writer, queue, settled, runtime }
    }

    /// Publishes until the attempt ends and all that it committed is published, or until the target refuses.
    pub(crate) async fn run(mut self) {
        while let Some((epoch, outcome)) = self.settled.recv().await {
            let due = outcome == Outcome::Commit || canary::on(Canary::PublishAborted);
            if due && let Err(error) = self.publish_to(epoch).await {
                tracing::error!(error = error.chain(), "output cannot be published");
                self.queue.fail(error);
                return;
            }
        }
    }

    /// Publishes all output up to `committed`.
    async fn publish_to(&mut self, committed: Epoch) -> Result<()> {
        while let Some((epoch, output)) = self.queue.next(committed)? {
            if !output.is_empty() {
                self.publish(epoch, &output).await?;
            }
            self.queue.published(epoch, self.writer.marked());
        }
        self.queue.covered(committed);
        Ok(())
    }

    /// Publishes one epoch, however often the target is away.
    async fn publish(&mut self, epoch: Epoch, output: &Records) -> Result<()> {
        let mut backoff = Backoff::new(&self.queue, &self.runtime);
        loop {
            let Err(error) = self.writer.publish(epoch, output).await else { return Ok(()) };
            let is_abandoned = self.settled.is_closed() && Arc::strong_count(&self.queue) == 1;
            backoff.after(error, epoch, is_abandoned).await?;
        }
    }
}
