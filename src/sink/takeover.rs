//! Taking a slot over: what the restored checkpoint knows against what the target says.

use bytes::Bytes;

use super::Divergence;
use super::prepared::{PreparedEpoch, Records};
use super::publisher::{EpochWriter as _, SlotWriter};
use super::slot::{Marker, Slot};
use super::target::SinkTarget;
use crate::error::{Error, Result};
use crate::id::{Attempt, Epoch, Lineage};

/// The history that an attempt continues, and its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lineages {
    /// That of the attempt's checkpoints.
    pub(crate) own: Lineage,
    /// That of the restored checkpoint; the attempt's own without one.
    pub(crate) restored: Lineage,
}

/// A new attempt's takeover of slots.
#[derive(Debug, Clone)]
pub(crate) struct Takeover {
    pub(crate) attempt: Attempt,
    pub(crate) lineages: Lineages,
    /// The restored checkpoint's epoch; 0 without one.
    pub(crate) epoch: Epoch,
    pub(crate) divergence: Divergence,
}

/// What the restored checkpoint knows of a slot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::sink) struct Known {
    /// The epoch of the target's marker.
    marked: Option<Epoch>,
    /// Output that may not be published yet, in the order of epochs.
    waiting: Vec<(Epoch, Records)>,
}

impl Known {
    /// * `prepared`: what the checkpoint lists for the slot.
    pub(in crate::sink) fn new(mut prepared: Vec<PreparedEpoch>) -> Self {
        prepared.sort_by_key(|prepared| prepared.epoch);
        let marked = prepared.iter().filter_map(|prepared| prepared.marked).max();
        let with_records = prepared.into_iter().filter(|prepared| !prepared.records.is_empty());
        Self { marked, waiting: with_records.map(|prepared| (prepared.epoch, prepared.records)).collect() }
    }

    /// Returns the staged parts, if the output is staged, in the order of epochs.
    pub(in crate::sink) fn parts(&self) -> impl Iterator<Item = (Epoch, Bytes)> + '_ {
        self.waiting.iter().flat_map(|(epoch, parts)| parts.iter().map(|part| (*epoch, part)))
    }
}

impl Takeover {
    /// Fences older attempts from a slot and publishes what the restored checkpoint has and the target has not.
    ///
    /// * `prepared`: what the checkpoint lists for the slot.
    ///
    /// # Errors
    /// `Config` if target and checkpoint diverge; others from the target.
    pub(crate) async fn of(
        &self,
        target: &dyn SinkTarget,
        slot: &Slot,
        prepared: Vec<PreparedEpoch>,
    ) -> Result<SlotWriter> {
        let named = |error: Error| error.with("slot", slot);
        let known = Known::new(prepared);
        let opened = target.open(slot).await.map_err(named)?;
        let mut writer = SlotWriter::new(opened, self.attempt, self.lineages.own);
        let marker = writer.fence().await.map_err(named)?;
        let (covered, adopts) = match self.covered(&known, marker) {
            Ok(covered) => (covered, marker.is_some_and(|marker| marker.lineage != self.lineages.own)),
            Err(error) if self.divergence == Divergence::Refuse => return Err(named(error)),
            Err(error) => {
                tracing::warn!(error = error.chain(), %slot, "output after the restored checkpoint is published again");
                (self.surely_covered(&known, marker), true)
            }
        };
        let missing = known.waiting.iter().filter(|(epoch, _)| covered.is_none_or(|covered| *epoch > covered));
        let mut published = 0;
        for (epoch, records) in missing {
            writer.publish(*epoch, records).await.map_err(named)?;
            published += 1;
        }
        if adopts && published == 0 {
            writer.publish(self.epoch, &Records::default()).await.map_err(named)?;
        }
        tracing::info!(%slot, attempt = self.attempt.0, ?covered, published, "slot of a sink is taken over");
        Ok(writer)
    }

    /// Returns the epoch up to which a target that diverges is known to have, or to have had, the checkpoint's output.
    pub(in crate::sink) fn surely_covered(&self, known: &Known, marker: Option<Marker>) -> Option<Epoch> {
        let Lineages { own, restored } = self.lineages;
        match marker.filter(|marker| marker.lineage == own || marker.lineage == restored) {
            Some(marker) => Some(marker.epoch.min(self.epoch)),
            None => known.marked,
        }
    }

    /// Returns the epoch up to which the target has the checkpoint's output; `None` if it has none.
    pub(in crate::sink) fn covered(&self, known: &Known, marker: Option<Marker>) -> Result<Option<Epoch>> {
        let Some(marker) = marker else {
            return match known.marked {
                None => Ok(None),
                Some(marked) => {
                    Err(Error::config("target has lost its marker of published output").with("published", marked))
                }
            };
        };
        let Lineages { own, restored } = self.lineages;
        let differs = |what: &str| {
            let error = Error::config(what).with("published", marker.epoch).with("restored", self.epoch);
            Err(error.with("published_by_attempt", marker.attempt))
        };
        if marker.lineage != own && marker.lineage != restored {
            return differs("target has output of another lineage than the restored checkpoint's");
        }
        if marker.epoch > self.epoch {
            return differs("target has output after the restored checkpoint");
        }
        if known.marked.is_some_and(|marked| marked > marker.epoch) {
            return differs("target has gone back behind what the restored checkpoint knows as published");
        }
        Ok(Some(marker.epoch))
    }
}
