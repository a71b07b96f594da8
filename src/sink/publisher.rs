//! Publishing after commits, in the background.

use std::sync::Arc;
use std::time::Duration;

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

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// An attempt's right to publish through a slot.
#[derive(Debug)]
pub(crate) struct SlotWriter {
    slot: Box<dyn SinkSlot>,
    attempt: Attempt,
    lineage: Lineage,
    runtime: SharedRuntime,
    /// The target's marker, unless a publication is in doubt.
    marker: Option<Marker>,
    /// Whether the outcome of a publication is unknown.
    in_doubt: bool,
}

impl SlotWriter {
    pub(super) fn new(slot: Box<dyn SinkSlot>, attempt: Attempt, lineage: Lineage, runtime: SharedRuntime) -> Self {
        Self { slot, attempt, lineage, runtime, marker: None, in_doubt: true }
    }

    /// Returns the epoch of the target's marker.
    pub(crate) fn marked(&self) -> Option<Epoch> {
        self.marker.map(|marker| marker.epoch)
    }

    /// Fences older attempts and returns the target's marker.
    pub(super) async fn fence(&mut self) -> Result<Option<Marker>> {
        self.marker = self.slot.fence(self.attempt).await?;
        self.in_doubt = false;
        Ok(self.marker)
    }

    /// Publishes the records of an epoch, unless an earlier call that failed has.
    ///
    /// # Errors
    /// `Unavailable`: call again. Others are final.
    pub(super) async fn publish(&mut self, epoch: Epoch, records: &Records) -> Result<()> {
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

/// Publishes the output of one sink and subtask as commits come.
#[derive(Debug)]
pub(crate) struct Publisher {
    writer: SlotWriter,
    queue: Arc<Queue>,
    settled: UnboundedReceiver<(Epoch, Outcome)>,
}

impl Publisher {
    /// * `settled`: the outcomes of the attempt's epochs.
    pub(crate) fn new(writer: SlotWriter, queue: Arc<Queue>, settled: UnboundedReceiver<(Epoch, Outcome)>) -> Self {
        queue.set_marked(writer.marked());
        Self { writer, queue, settled }
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
        while let Some((epoch, records)) = self.queue.next(committed)? {
            if !records.is_empty() {
                self.publish(epoch, &records).await?;
            }
            self.queue.published(epoch, self.writer.marked(), &records);
        }
        self.queue.covered(committed);
        Ok(())
    }

    /// Publishes one epoch, however often the target is away.
    async fn publish(&mut self, epoch: Epoch, records: &Records) -> Result<()> {
        let mut pause = BACKOFF_MIN;
        loop {
            let error = match self.writer.publish(epoch, records).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let abandoned = self.settled.is_closed() && Arc::strong_count(&self.queue) == 1;
            if error.kind() != ErrorKind::Unavailable || abandoned {
                return Err(error);
            }
            tracing::warn!(error = error.chain(), %epoch, "output is not published yet");
            self.queue.delayed(error);
            self.writer.runtime.sleep(pause).await;
            pause = (pause * 2).min(BACKOFF_MAX);
        }
    }
}
