//! Taking over a slot of staged output, and publishing through it.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Claim, StagedPart, StagedSlot, StagedTarget};
use crate::error::Result;
use crate::id::Epoch;
use crate::sink::Divergence;
use crate::sink::prepared::{PreparedEpoch, Records};
use crate::sink::publisher::EpochWriter;
use crate::sink::slot::Slot;
use crate::sink::takeover::{Known, Takeover};

/// An attempt's right to publish through a slot.
#[derive(Debug)]
pub(crate) struct StagedWriter(pub(crate) Arc<dyn StagedSlot>);

#[async_trait]
impl EpochWriter for StagedWriter {
    /// A folder that readers empty is no folder that lost its output, so a checkpoint expects nothing to be there.
    fn marked(&self) -> Option<Epoch> {
        None
    }

    async fn publish(&mut self, _epoch: Epoch, parts: &Records) -> Result<()> {
        for part in parts.iter() {
            self.0.publish(&StagedPart::new(part)).await?;
        }
        Ok(())
    }
}

impl Takeover {
    /// Removes what older attempts staged beside the parts of the restored checkpoint, and publishes those.
    ///
    /// * `prepared`: what the checkpoint lists for the slot.
    ///
    /// # Errors
    /// `Config` if target and checkpoint diverge; others from the target.
    pub(crate) async fn of_staged(
        &self,
        target: &dyn StagedTarget,
        slot: &Slot,
        prepared: Vec<PreparedEpoch>,
    ) -> Result<StagedWriter> {
        self.take_staged(target, slot, Known::new(prepared)).await.map_err(|error| error.with("slot", slot))
    }

    async fn take_staged(&self, target: &dyn StagedTarget, slot: &Slot, known: Known) -> Result<StagedWriter> {
        let opened = target.open(slot, self.attempt).await?;
        // First of all, so that a start that is refused changes nothing.
        let disregards_published = match self.covered(&known, opened.published().await?) {
            Ok(_) => false,
            Err(error) if self.divergence == Divergence::Refuse => return Err(error),
            Err(error) => {
                tracing::warn!(error = error.chain(), %slot, "output after the restored checkpoint is published again");
                true
            }
        };
        let listed: Vec<_> = known.parts().map(StagedPart::new).collect();
        opened.fence(Claim { lineage: self.lineages.own, disregards_published }, &listed).await?;
        // An older attempt may have published between the first look and the fence.
        let _covered: Option<Epoch> = self.covered(&known, opened.published().await?)?;
        for part in &listed {
            opened.publish(part).await?;
        }
        tracing::info!(%slot, attempt = self.attempt.0, parts = listed.len(), "slot of a sink is taken over");
        Ok(StagedWriter(opened.into()))
    }
}
