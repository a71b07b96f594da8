//! Taking over a slot of staged output, and publishing through it.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Claim, StagedPart, StagedSlot, StagedTarget};
use crate::error::{Error, Result};
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
    /// Readers may move parts away, so a missing part does not mean lost output.
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
    /// Opens a slot and looks whether the restored checkpoint fits what is published. Changes nothing.
    ///
    /// * `prepared`: what the checkpoint lists for the slot.
    ///
    /// # Errors
    /// `Config` if target and checkpoint diverge; others from the target.
    pub(crate) async fn look(
        &self,
        target: &dyn StagedTarget,
        slot: Slot,
        prepared: Vec<PreparedEpoch>,
    ) -> Result<StagedTakeover> {
        let named = |error: Error| error.with("slot", &slot);
        let known = Known::new(prepared);
        let opened = target.open(&slot, self.attempt).await.map_err(named)?;
        let marker = opened.published().await.map_err(named)?;
        let (covered, diverges) = match self.covered(&known, marker) {
            Ok(covered) => (covered, false),
            Err(error) if self.divergence == Divergence::Refuse => return Err(named(error)),
            Err(error) => {
                tracing::warn!(error = error.chain(), %slot, "output after the restored checkpoint is published again");
                (self.surely_covered(&known, marker), true)
            }
        };
        Ok(StagedTakeover { slot, opened, known, covered, diverges })
    }

    /// Takes the slot over, and publishes what the restored checkpoint lists and readers have not seen.
    ///
    /// # Errors
    /// As [`look`](Self::look).
    pub(crate) async fn take(&self, takeover: StagedTakeover) -> Result<StagedWriter> {
        let StagedTakeover { slot, opened, known, covered, diverges } = takeover;
        let named = |error: Error| error.with("slot", &slot);
        let listed: Vec<_> = known.parts().map(|(epoch, part)| (epoch, StagedPart::new(part))).collect();
        let parts: Vec<_> = listed.iter().map(|(_, part)| part.clone()).collect();
        let claim = Claim { lineage: self.lineages.own, disregards_after: diverges.then_some(self.epoch) };
        opened.fence(claim, &parts).await.map_err(named)?;
        // An older attempt may have published between the look and the fence.
        let now = self.covered(&known, opened.published().await.map_err(named)?).map_err(named)?;
        // What the claim disregards counts as published up to the restored epoch, which is not to say that it is.
        let covered = if diverges { covered } else { now };
        // Readers may have moved away what is published.
        let missing = listed.iter().filter(|(epoch, _)| covered.is_none_or(|covered| *epoch > covered));
        let mut published = 0;
        for (_, part) in missing {
            opened.publish(part).await.map_err(named)?;
            published += 1;
        }
        tracing::info!(%slot, attempt = self.attempt.0, published, "slot of a sink is taken over");
        Ok(StagedWriter(opened.into()))
    }
}

/// A slot of staged output before its takeover.
#[derive(Debug)]
pub(crate) struct StagedTakeover {
    slot: Slot,
    opened: Box<dyn StagedSlot>,
    known: Known,
    /// All output up to this epoch is published.
    covered: Option<Epoch>,
    /// Whether the target has other output than the checkpoint knows, which the user accepts.
    diverges: bool,
}
